/** Linear probes: what tells a label from several columns of numbers at once. */

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
  /** Ends when ‖∇‖∞ is this share of its size without weights (default 1e-8). */
  tolerance?: number;
  /** Where the search begins: a probe of the first of these columns. It ends at the same minimum, sooner. */
  start?: Pick<Probe, "weights" | "bias">;
}

/** P(label | x) = σ(weights · x + bias). */
export interface Probe {
  weights: Float64Array; // [columns]
  bias: number;
  /** Newton steps taken. */
  iterations: number;
  /** Whether the gradient vanished: ‖∇‖∞ ≤ tolerance of its size without weights. */
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
  const { C = 1, standardise = false, tolerance = 1e-8, start } = options;
  const rows = labels.length;
  const columns = rows > 0 ? x.length / rows : 0;
  let positives = 0;
  for (const label of labels) positives += label;
  if (positives === 0 || positives === rows) {
    const bias = positives > 0 ? Infinity : -Infinity;
    return { weights: new Float64Array(columns), bias, iterations: 0, converged: true };
  }
  const { t, mean, scale } = standardise
    ? standardised(x, rows)
    : {
        t: new Float64Array(x),
        mean: new Float64Array(columns),
        scale: new Float64Array(columns).fill(1),
      };
  let from: Float64Array | undefined;
  if (start) {
    from = new Float64Array(columns + 1);
    from[columns] = start.bias;
    for (const [c, w] of start.weights.entries()) {
      from[c] = w * scale[c];
      from[columns] += w * mean[c];
    }
  }
  const { theta, iterations, converged } = minimise(
    new Logistic(t, labels, columns, C),
    positives,
    tolerance,
    from,
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

/** Columns of mean 0 and standard deviation 1, with what they had before. */
export function standardised(
  x: Matrix,
  rows: number,
): { t: Float64Array; mean: Float64Array; scale: Float64Array } {
  const columns = x.length / rows;
  const { mean, scale } = moments(x, rows, columns);
  const t = new Float64Array(x.length);
  for (let n = 0, i = 0; n < rows; n++)
    for (let c = 0; c < columns; c++, i++) t[i] = (x[i] - mean[c]) / scale[c];
  return { t, mean, scale };
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
  readonly rows: number;
  readonly #t: Float64Array;
  readonly #labels: Uint8Array;
  readonly #columns: number;
  readonly #C: number;
  /** σ(z) of each row at the margins of the last `value`. */
  readonly #p: Float64Array;
  /** C σ(z)(1 - σ(z)) of each row at those of the last `gradient`. */
  readonly #curvature: Float64Array;

  constructor(t: Float64Array, labels: Uint8Array, columns: number, C: number) {
    this.size = columns + 1;
    this.rows = labels.length;
    this.#t = t;
    this.#labels = labels;
    this.#columns = columns;
    this.#C = C;
    this.#p = new Float64Array(labels.length);
    this.#curvature = new Float64Array(labels.length);
  }

  /** w · t + b of each row. */
  #margins(theta: Float64Array): Float64Array {
    return probeScores(
      {
        weights: theta.subarray(0, this.#columns),
        bias: theta[this.#columns],
        ...{ iterations: 0, converged: true },
      },
      this.#t,
    );
  }

  value(theta: Float64Array): number {
    const margins = this.#margins(theta);
    let loss = 0;
    for (let n = 0; n < margins.length; n++) {
      const z = margins[n];
      const e = Math.exp(-Math.abs(z));
      const larger = 1 / (1 + e);
      this.#p[n] = z > 0 ? larger : e * larger;
      loss += Math.log(1 + e) + Math.max(this.#labels[n] ? -z : z, 0);
    }
    let penalty = 0;
    for (let c = 0; c < this.#columns; c++) penalty += theta[c] ** 2;
    return penalty / 2 + this.#C * loss;
  }

  /** At the θ that `value` was asked about last. */
  gradient(theta: Float64Array): Float64Array {
    const columns = this.#columns;
    const t = this.#t;
    const gradient = theta.slice();
    gradient[columns] = 0;
    for (let n = 0, i = 0; n < this.rows; n++) {
      const p = this.#p[n];
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
    const curvature = this.#curvature;
    const bias = v[columns];
    let n = 0;
    // Four rows at a time: their sums do not wait for each other, and `out` is read and written once.
    for (; n + 4 <= curvature.length; n += 4) {
      const a = n * columns;
      const [b, c, d] = [a + columns, a + 2 * columns, a + 3 * columns];
      let [p, q, r, s] = [bias, bias, bias, bias];
      for (let i = 0; i < columns; i++) {
        const w = v[i];
        p += w * t[a + i];
        q += w * t[b + i];
        r += w * t[c + i];
        s += w * t[d + i];
      }
      p *= curvature[n];
      q *= curvature[n + 1];
      r *= curvature[n + 2];
      s *= curvature[n + 3];
      for (let i = 0; i < columns; i++)
        out[i] += p * t[a + i] + q * t[b + i] + r * t[c + i] + s * t[d + i];
      out[columns] += p + q + r + s;
    }
    for (; n < curvature.length; n++) {
      const at = n * columns;
      let z = bias;
      for (let i = 0; i < columns; i++) z += v[i] * t[at + i];
      z *= curvature[n];
      for (let i = 0; i < columns; i++) out[i] += z * t[at + i];
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

function minimise(
  objective: Logistic,
  positives: number,
  tolerance: number,
  from: Float64Array | undefined,
) {
  const steepestOf = (gradient: Float64Array) =>
    gradient.reduce((max, g) => Math.max(max, Math.abs(g)), 0);
  const theta = new Float64Array(objective.size);
  // The best constant is a start at which no step overshoots when labels are rare.
  theta[objective.size - 1] = Math.log(positives / (objective.rows - positives));
  let value = objective.value(theta);
  const start = steepestOf(objective.gradient(theta));
  if (from) {
    theta.set(from);
    value = objective.value(theta);
  }
  for (let iterations = 0; ; iterations++) {
    const gradient = objective.gradient(theta);
    const steepest = steepestOf(gradient);
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
      const nextValue = objective.value(next);
      if (nextValue <= value - 1e-4 * size * slope) {
        theta.set(next);
        value = nextValue;
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
