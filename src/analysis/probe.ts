/**
 * Linear probes, and how well scores tell labels: what every comparison of latents, dimensions and
 * directions with labels is measured by.
 */
import { fallingOrder } from "./order.ts";

/** Columns of numbers, row by row: x [rows, columns]. */
export type Matrix = Float32Array | Float64Array;

export interface ProbeOptions {
  /** Inverse strength of the penalty, scikit-learn's C. */
  C?: number;
  /**
   * Fit to columns of mean 0 and standard deviation 1 (over the rows given, divided by n), so that the
   * penalty does not depend on a column's unit; the probe returned is in the units of x all the same.
   */
  standardise?: boolean;
  /** Ends when ‖∇‖∞ is this share of its size at the start (default 1e-8). */
  tolerance?: number;
}

/** P(label | x) = σ(weights · x + bias). */
export interface Probe {
  weights: Float64Array; // [columns]
  bias: number;
  /** Newton steps taken. */
  iterations: number;
  /** Whether the gradient vanished: ‖∇‖∞ ≤ tolerance of its size at the start. */
  converged: boolean;
}

const MAX_ITERATIONS = 100;
/** Up to so many columns the Hessian is formed and factored; past that its products are enough. */
const DIRECT_COLUMNS = 32;

/**
 * Logistic regression with an L2 penalty: the minimiser over w, b of
 *
 *   ½‖w‖² + C Σ_n log(1 + exp(-s_n (w · x_n + b))),   s_n = +1 with the label, -1 without
 *
 * (scikit-learn's LogisticRegression: the intercept is not penalised), by Newton's method with
 * backtracking; for many columns its steps are solved by conjugate gradients (truncated Newton, Lin,
 * Weng and Keerthi 2008). The minimum is unique, also where a plane separates the classes. With one
 * class only it lies at infinity: the probe returned is that limit, weights 0 and bias ±∞.
 * @param x [labels.length rows, at least one column]; NaN and infinities are not allowed.
 */
export function fitProbe(x: Matrix, labels: Uint8Array, options: ProbeOptions = {}): Probe {
  const { C = 1, standardise = false, tolerance = 1e-8 } = options;
  const rows = labels.length;
  const columns = rows > 0 ? x.length / rows : 0;
  let positives = 0;
  for (const label of labels) positives += label;
  if (positives === 0 || positives === rows) {
    const bias = positives > 0 ? Infinity : -Infinity;
    return { weights: new Float64Array(columns), bias, iterations: 0, converged: true };
  }
  const { mean, scale } = standardise
    ? moments(x, rows, columns)
    : { mean: new Float64Array(columns), scale: new Float64Array(columns).fill(1) };
  const t = new Float64Array(x.length);
  for (let n = 0, i = 0; n < rows; n++)
    for (let c = 0; c < columns; c++, i++) t[i] = (x[i] - mean[c]) / scale[c];

  const { theta, iterations, converged } = minimise(
    new Logistic(t, labels, columns, C),
    positives,
    tolerance,
  );
  const weights = theta.slice(0, columns).map((w, c) => w / scale[c]);
  let bias = theta[columns];
  for (let c = 0; c < columns; c++) bias -= weights[c] * mean[c];
  return { weights, bias, iterations, converged };
}

/** weights · x + bias of each row: the log odds of the label. */
export function probeScores({ weights, bias }: Probe, x: Matrix): Float64Array {
  const columns = weights.length;
  const scores = new Float64Array(x.length / columns);
  for (let n = 0, i = 0; n < scores.length; n++) {
    let sum = bias;
    for (let c = 0; c < columns; c++, i++) sum += weights[c] * x[i];
    scores[n] = sum;
  }
  return scores;
}

/** Mean and standard deviation of the columns; of a constant column the latter counts as 1. */
function moments(x: Matrix, rows: number, columns: number) {
  const mean = new Float64Array(columns);
  const scale = new Float64Array(columns);
  for (let n = 0, i = 0; n < rows; n++) for (let c = 0; c < columns; c++) mean[c] += x[i++];
  for (let c = 0; c < columns; c++) mean[c] /= rows;
  for (let n = 0, i = 0; n < rows; n++)
    for (let c = 0; c < columns; c++) scale[c] += (x[i++] - mean[c]) ** 2;
  // Rounding leaves a constant column a little variance.
  for (let c = 0; c < columns; c++) {
    const deviation = Math.sqrt(scale[c] / rows);
    scale[c] = deviation > 1e-12 * Math.abs(mean[c]) ? deviation : 1;
  }
  return { mean, scale };
}

/** The objective and its derivatives; θ = (w, b) [columns + 1]. */
class Logistic {
  readonly size: number;
  readonly #t: Float64Array;
  readonly #labels: Uint8Array;
  readonly #columns: number;
  readonly #C: number;
  /** C σ(z)(1 - σ(z)) of each row at the θ of the last `gradient`. */
  readonly #curvature: Float64Array;

  constructor(t: Float64Array, labels: Uint8Array, columns: number, C: number) {
    this.size = columns + 1;
    this.#t = t;
    this.#labels = labels;
    this.#columns = columns;
    this.#C = C;
    this.#curvature = new Float64Array(labels.length);
  }

  /** w · t + b of each row. */
  margins(theta: Float64Array): Float64Array {
    return probeScores(
      {
        weights: theta.subarray(0, this.#columns),
        bias: theta[this.#columns],
        ...{ iterations: 0, converged: true },
      },
      this.#t,
    );
  }

  value(theta: Float64Array, margins: Float64Array): number {
    let loss = 0;
    for (let n = 0; n < margins.length; n++) {
      const z = this.#labels[n] ? margins[n] : -margins[n];
      loss += Math.log1p(Math.exp(-Math.abs(z))) + Math.max(-z, 0);
    }
    let penalty = 0;
    for (let c = 0; c < this.#columns; c++) penalty += theta[c] ** 2;
    return penalty / 2 + this.#C * loss;
  }

  gradient(theta: Float64Array, margins: Float64Array): Float64Array {
    const columns = this.#columns;
    const t = this.#t;
    const gradient = theta.slice();
    gradient[columns] = 0;
    for (let n = 0, i = 0; n < margins.length; n++) {
      const p = 1 / (1 + Math.exp(-margins[n]));
      this.#curvature[n] = this.#C * p * (1 - p);
      const residual = this.#C * (p - this.#labels[n]);
      for (let c = 0; c < columns; c++) gradient[c] += residual * t[i++];
      gradient[columns] += residual;
    }
    return gradient;
  }

  /** H v; H = diag(1, …, 1, 0) + Σ curvature · (t, 1)(t, 1)ᵀ. */
  product(v: Float64Array): Float64Array {
    const columns = this.#columns;
    const t = this.#t;
    const out = v.slice();
    out[columns] = 0;
    for (let n = 0; n < this.#curvature.length; n++) {
      const at = n * columns;
      let z = v[columns];
      for (let c = 0; c < columns; c++) z += v[c] * t[at + c];
      z *= this.#curvature[n];
      for (let c = 0; c < columns; c++) out[c] += z * t[at + c];
      out[columns] += z;
    }
    return out;
  }

  /** The lower triangle of H, [size, size]. */
  hessian(): Float64Array {
    const { size } = this;
    const columns = this.#columns;
    const t = this.#t;
    const H = new Float64Array(size * size);
    for (let n = 0; n < this.#curvature.length; n++) {
      const weight = this.#curvature[n];
      const at = n * columns;
      for (let r = 0; r < columns; r++) {
        const scaled = weight * t[at + r];
        for (let c = 0; c <= r; c++) H[r * size + c] += scaled * t[at + c];
        H[columns * size + r] += scaled;
      }
      H[columns * size + columns] += weight;
    }
    for (let c = 0; c < columns; c++) H[c * size + c] += 1;
    return H;
  }

  /** H's diagonal, which evens out the columns' units for conjugate gradients. */
  diagonal(): Float64Array {
    const columns = this.#columns;
    const diagonal = new Float64Array(this.size).fill(1);
    diagonal[columns] = 0;
    for (let n = 0, i = 0; n < this.#curvature.length; n++) {
      const weight = this.#curvature[n];
      for (let c = 0; c < columns; c++, i++) diagonal[c] += weight * this.#t[i] ** 2;
      diagonal[columns] += weight;
    }
    return diagonal;
  }
}

function minimise(objective: Logistic, positives: number, tolerance: number) {
  const theta = new Float64Array(objective.size);
  let margins = objective.margins(theta);
  // The best constant is a start at which no step overshoots when labels are rare.
  theta[objective.size - 1] = Math.log(positives / (margins.length - positives));
  margins = objective.margins(theta);
  let value = objective.value(theta, margins);
  let start = 0;
  for (let iterations = 0; ; iterations++) {
    const gradient = objective.gradient(theta, margins);
    const steepest = gradient.reduce((max, g) => Math.max(max, Math.abs(g)), 0);
    start ||= steepest;
    const done = steepest <= tolerance * Math.max(start, 1e-300);
    if (done || iterations === MAX_ITERATIONS) return { theta, iterations, converged: done };
    const step =
      objective.size - 1 <= DIRECT_COLUMNS
        ? choleskySolve(objective.hessian(), gradient)
        : conjugateGradients(objective, gradient, Math.min(0.1, Math.sqrt(steepest / start)));
    const slope = dot(step, gradient);
    let size = 1;
    for (; ; size /= 2) {
      const next = theta.map((old, c) => old - size * step[c]);
      const nextMargins = objective.margins(next);
      const nextValue = objective.value(next, nextMargins);
      if (nextValue <= value - 1e-4 * size * slope) {
        theta.set(next);
        [margins, value] = [nextMargins, nextValue];
        break;
      }
      // Past this the value's rounding hides any descent: the gradient is as small as it gets.
      if (size < 1e-8) return { theta, iterations, converged: steepest <= 1e-6 * start };
    }
  }
}

/** H⁻¹ g of a symmetric positive definite H, whose lower triangle is given and overwritten. */
function choleskySolve(H: Float64Array, g: Float64Array): Float64Array {
  const size = g.length;
  const y = g.slice();
  for (let r = 0; r < size; r++) {
    for (let c = 0; c <= r; c++) {
      let sum = H[r * size + c];
      for (let i = 0; i < c; i++) sum -= H[r * size + i] * H[c * size + i];
      // Only the intercept's pivot, which nothing penalises, can vanish: when all rows are certain.
      H[r * size + c] = r === c ? Math.sqrt(Math.max(sum, 1e-300)) : sum / H[c * size + c];
    }
    for (let i = 0; i < r; i++) y[r] -= H[r * size + i] * y[i];
    y[r] /= H[r * size + r];
  }
  for (let r = size - 1; r >= 0; r--) {
    for (let i = r + 1; i < size; i++) y[r] -= H[i * size + r] * y[i];
    y[r] /= H[r * size + r];
  }
  return y;
}

/** H⁻¹ g until the residual is `accuracy` of g, preconditioned by H's diagonal. */
function conjugateGradients(objective: Logistic, g: Float64Array, accuracy: number): Float64Array {
  const inverse = objective.diagonal().map((d) => 1 / Math.max(d, 1e-300));
  const solution = new Float64Array(g.length);
  const residual = g.slice();
  const direction = residual.map((r, c) => r * inverse[c]);
  let energy = dot(residual, direction);
  const enough = accuracy ** 2 * energy;
  for (let i = 0; i < 2 * g.length && energy > enough; i++) {
    const product = objective.product(direction);
    const length = energy / dot(direction, product);
    for (let c = 0; c < g.length; c++) {
      solution[c] += length * direction[c];
      residual[c] -= length * product[c];
    }
    let next = 0;
    for (let c = 0; c < g.length; c++) next += residual[c] ** 2 * inverse[c];
    for (let c = 0; c < g.length; c++)
      direction[c] = residual[c] * inverse[c] + (next / energy) * direction[c];
    energy = next;
  }
  return solution;
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/**
 * AUC from ranks (1 = lowest of all, ties sharing their mean): Mann–Whitney U / (P·N), the probability
 * that a positive has a higher score than a negative, ties counting half.
 * @returns NaN without positives or without negatives.
 */
export function aucOfRanks(rankSum: number, positives: number, negatives: number): number {
  return (rankSum - (positives * (positives + 1)) / 2) / (positives * negatives);
}

/** AUC of scores for labels (0 or 1); NaN scores are not allowed. */
export function auc(scores: ArrayLike<number>, labels: Uint8Array): number {
  const sides: number[][] = [[], []];
  for (let n = 0; n < labels.length; n++) sides[labels[n]].push(scores[n]);
  return aucBetween(sides[1], sides[0]);
}

/** AUC of two groups of scores: P(a positive > a negative) + ½ P(equal); NaN where one is empty. */
export function aucBetween(positives: ArrayLike<number>, negatives: ArrayLike<number>): number {
  const sorted = Float64Array.from(negatives).sort();
  let wins = 0;
  for (let i = 0; i < positives.length; i++) wins += countBelow(sorted, positives[i]);
  return wins / (positives.length * negatives.length);
}

/** How many of `sorted` are below `value`, equal ones counting half. */
export function countBelow(sorted: Float64Array, value: number): number {
  const first = (isBefore: (v: number) => boolean) => {
    let [low, high] = [0, sorted.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (isBefore(sorted[middle])) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  return (first((v) => v < value) + first((v) => v <= value)) / 2;
}

/** How predictions and labels agree. */
export interface Agreement {
  truePositives: number;
  falsePositives: number;
  trueNegatives: number;
  falseNegatives: number;
  accuracy: number;
  /** (recall + specificity) / 2; NaN when there is one class only. */
  balancedAccuracy: number;
  /** Of what is predicted, the share that carries the label; 0 when nothing is. */
  precision: number;
  /** Of what carries the label, the share that is predicted; NaN when nothing does. */
  recall: number;
  /** 2 TP / (2 TP + FP + FN): the harmonic mean of precision and recall; NaN when nothing carries the label or is predicted to. */
  f1: number;
}

/** Of "score ≥ threshold" for labels (0 or 1). */
export function agreement(scores: ArrayLike<number>, labels: Uint8Array, threshold = 0): Agreement {
  let [both, predicted, positives] = [0, 0, 0];
  for (let n = 0; n < labels.length; n++) {
    positives += labels[n];
    if (scores[n] < threshold) continue;
    predicted++;
    both += labels[n];
  }
  return agreementOf(both, predicted, positives, labels.length);
}

/** From counts: of `total` items, `positives` carry the label, `predicted` are said to, and `both`. */
export function agreementOf(
  both: number,
  predicted: number,
  positives: number,
  total: number,
): Agreement {
  const trueNegatives = total - positives - predicted + both;
  const recall = both / positives;
  return {
    truePositives: both,
    falsePositives: predicted - both,
    trueNegatives,
    falseNegatives: positives - both,
    accuracy: (both + trueNegatives) / total,
    balancedAccuracy: (recall + trueNegatives / (total - positives)) / 2,
    precision: predicted > 0 ? both / predicted : 0,
    recall,
    f1: (2 * both) / (positives + predicted),
  };
}

/** The threshold of "score ≥ threshold" with the best F1 (of several the highest), and that F1; without labels Infinity and 0. */
export function bestThreshold(
  scores: Float32Array,
  labels: Uint8Array,
): { threshold: number; f1: number } {
  const order = fallingOrder(scores);
  let [positives, hits] = [0, 0];
  for (const label of labels) positives += label;
  let best = { threshold: Infinity, f1: 0 };
  for (let i = 0; i < order.length; i++) {
    hits += labels[order[i]];
    // A threshold takes all tied scores or none.
    if (i + 1 < order.length && scores[order[i + 1]] === scores[order[i]]) continue;
    const f1 = (2 * hits) / (positives + i + 1);
    if (f1 > best.f1) best = { threshold: scores[order[i]], f1 };
  }
  return best;
}
