/**
 * What is done to activations before an SAE sees them, and undone afterwards. Every transform is
 * t = M (x - μ) with an invertible M: of the whole data set (scale, whiten), or of each row by itself
 * (layerNorm). The former fold into the weights, exactly up to rounding.
 */
import { UserError } from "../error.ts";

export type Transform =
  /** Consecutive stretches of `widths` columns, each multiplied by its own factor: one per head, one alone for an autoencoder. */
  | { kind: "scale"; factors: number[]; widths: number[] }
  /** (x - mean of the row) / (standard deviation of the row, with n - 1, + eps). */
  | { kind: "layerNorm"; eps: number }
  /** matrix (x - mean), both [d, d] matrices row by row and lower triangular, inverse · matrix = 1. */
  | { kind: "whiten"; mean: Float32Array; matrix: Float32Array; inverse: Float32Array };

/** What the two sides of a transcoder have each, and an autoencoder twice the same. */
export interface Transforms {
  input: Transform;
  output: Transform;
}

/** A transform as plain JSON, without the numbers of a whitening. */
export type TransformRecord = Exclude<Transform, { kind: "whiten" }> | { kind: "whiten" };

/** The tensors of a whitening. */
export const whiteningTensors = ["mean", "matrix", "inverse"] as const;

export function recordOf(transform: Transform): TransformRecord {
  return transform.kind === "whiten" ? { kind: "whiten" } : transform;
}

export function scaling(factors: number[], widths: number[]): Transform {
  return { kind: "scale", factors, widths };
}

export function identity(width: number): Transform {
  return scaling([1], [width]);
}

/** The factor that all elements are multiplied by, or null when it is not one number. */
export function uniformFactor(transform: Transform): number | null {
  if (transform.kind !== "scale") return null;
  const [first, ...rest] = transform.factors;
  return rest.every((factor) => factor === first) ? first : null;
}

export function isIdentity(transform: Transform): boolean {
  return uniformFactor(transform) === 1;
}

/** Mean of a row and what its deviations are divided by. */
export function rowScale(x: ArrayLike<number>, eps: number): { mean: number; divisor: number } {
  let sum = 0;
  for (let c = 0; c < x.length; c++) sum += x[c];
  const mean = sum / x.length;
  let squares = 0;
  for (let c = 0; c < x.length; c++) squares += (x[c] - mean) ** 2;
  return { mean, divisor: Math.sqrt(squares / Math.max(1, x.length - 1)) + eps };
}

/** t of one row; sums in float64. */
export function forwardRow(transform: Transform, x: ArrayLike<number>): Float64Array {
  switch (transform.kind) {
    case "scale":
      return scaleColumns(Float64Array.from(x), transform, false);
    case "layerNorm": {
      const { mean, divisor } = rowScale(x, transform.eps);
      return Float64Array.from(x, (v) => (v - mean) / divisor);
    }
    case "whiten": {
      const { mean, matrix } = transform;
      return timesLower(
        matrix,
        Float64Array.from(x, (v, c) => v - mean[c]),
      );
    }
    default:
      return transform satisfies never;
  }
}

/**
 * x from t; `x` is the row that t's scale comes from where it is the row's own.
 * @throws UserError when that row is needed and absent.
 */
export function inverseRow(
  transform: Transform,
  t: ArrayLike<number>,
  x?: ArrayLike<number>,
): Float64Array {
  switch (transform.kind) {
    case "scale":
      return scaleColumns(Float64Array.from(t), transform, true);
    case "layerNorm": {
      if (!x)
        throw new UserError(
          "this autoencoder normalises each row by itself; decoding needs the row that was encoded as the second argument",
        );
      const { mean, divisor } = rowScale(x, transform.eps);
      return Float64Array.from(t, (v) => v * divisor + mean);
    }
    case "whiten": {
      const { mean, inverse } = transform;
      return timesLower(inverse, t).map((v, c) => v + mean[c]);
    }
    default:
      return transform satisfies never;
  }
}

function scaleColumns(
  row: Float64Array,
  { factors, widths }: Extract<Transform, { kind: "scale" }>,
  inverse: boolean,
): Float64Array {
  let at = 0;
  for (const [head, width] of widths.entries())
    for (let c = 0; c < width; c++, at++)
      row[at] = inverse ? row[at] / factors[head] : row[at] * factors[head];
  return row;
}

/** A lower triangular matrix [d, d] times a vector. */
export function timesLower(matrix: Float32Array, vector: ArrayLike<number>): Float64Array {
  const d = vector.length;
  const out = new Float64Array(d);
  for (let i = 0; i < d; i++) {
    let sum = 0;
    for (let c = 0, w = i * d; c <= i; c++, w++) sum += matrix[w] * vector[c];
    out[i] = sum;
  }
  return out;
}

/** Whether weights can take a transform in. */
export function isFoldable({ kind }: Transform): boolean {
  return kind !== "layerNorm";
}

/** The transform that undoes a foldable one. */
export function inverseOf(transform: Transform): Transform {
  switch (transform.kind) {
    case "scale":
      return scaling(
        transform.factors.map((factor) => 1 / factor),
        transform.widths,
      );
    case "whiten": {
      const { mean, matrix, inverse } = transform;
      const moved = timesLower(matrix, mean).map((v) => -v);
      return { kind: "whiten", mean: Float32Array.from(moved), matrix: inverse, inverse: matrix };
    }
    case "layerNorm":
      throw new Error("the normalisation of single rows has no inverse of its own");
    default:
      return transform satisfies never;
  }
}

/**
 * Whitening for rows of this mean and covariance [d, d] (row by row): M = L⁻¹ with L Lᵀ the
 * covariance (Cholesky), so that M (x - μ) has covariance 1. Any other whitening differs from this
 * by a rotation, which a dictionary learns anyway; this one needs no eigenvectors.
 *
 * Variance `shrinkage` times the mean variance is added in every direction, so that those without
 * any are not blown up, and more where the weights could not take M in otherwise: rounding W_enc M to
 * float32 changes a latent by about 2⁻²⁴ √(V/3) of its size, with V the mean over the elements of
 * the variance inflation factor Σ_cc (Σ⁻¹)_cc, and V is kept below 64.
 * @throws UserError when there is no variance at all.
 */
export function whitening(
  mean: Float64Array,
  covariance: Float64Array,
  shrinkage = WHITENING_SHRINKAGE,
): Transform {
  const d = mean.length;
  let trace = 0;
  for (let c = 0; c < d; c++) trace += covariance[c * d + c];
  if (!(trace > 0))
    throw new UserError(
      `the activations' variance is ${trace}, so they cannot be whitened; check them, or set sae.normalizeActivations to none.`,
    );
  for (let added = shrinkage; ;) {
    const factor = choleskyFactor(covariance, d, (added * trace) / d);
    const inverse = factor && lowerInverse(factor, d);
    const inflation = inverse ? varianceInflation(factor, inverse, d) : Infinity;
    if (inverse && inflation <= MAX_INFLATION)
      return {
        kind: "whiten",
        mean: Float32Array.from(mean),
        matrix: Float32Array.from(inverse),
        inverse: Float32Array.from(factor),
      };
    // V falls at most as fast as what is added grows, so this passes the goal by a factor of 2 at most.
    added *= 2 * Math.min(inflation / MAX_INFLATION, 32);
  }
}

/** L with L Lᵀ = covariance + added·1, or null when rounding has left no such L. */
function choleskyFactor(covariance: Float64Array, d: number, added: number): Float64Array | null {
  const factor = new Float64Array(d * d);
  for (let i = 0; i < d; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = covariance[i * d + j] + (i === j ? added : 0);
      for (let k = 0; k < j; k++) sum -= factor[i * d + k] * factor[j * d + k];
      if (i === j && !(sum > 0)) return null;
      factor[i * d + j] = i === j ? Math.sqrt(sum) : sum / factor[j * d + j];
    }
  }
  return factor;
}

/** The inverse of a lower triangular matrix. */
function lowerInverse(factor: Float64Array, d: number): Float64Array {
  // Column by column by forward substitution; kept transposed, so that both loops run along rows.
  const columns = new Float64Array(d * d);
  for (let c = 0; c < d; c++) {
    for (let i = c; i < d; i++) {
      let sum = i === c ? 1 : 0;
      for (let k = c; k < i; k++) sum -= factor[i * d + k] * columns[c * d + k];
      columns[c * d + i] = sum / factor[i * d + i];
    }
  }
  const inverse = new Float64Array(d * d);
  for (let i = 0; i < d; i++) for (let c = 0; c <= i; c++) inverse[i * d + c] = columns[c * d + i];
  return inverse;
}

/** Mean of (L Lᵀ)_cc (L⁻ᵀ L⁻¹)_cc. */
function varianceInflation(factor: Float64Array, inverse: Float64Array, d: number): number {
  const [variance, precision] = [new Float64Array(d), new Float64Array(d)];
  for (let i = 0; i < d; i++)
    for (let c = 0; c <= i; c++) {
      variance[i] += factor[i * d + c] ** 2;
      precision[c] += inverse[i * d + c] ** 2;
    }
  return variance.reduce((sum, v, c) => sum + v * precision[c], 0) / d;
}

/** Of the mean variance: below the noise of what is worth learning, far above that of float32. */
export const WHITENING_SHRINKAGE = 1e-4;

/** Of the mean variance inflation factor: 2⁻²⁴ √(64/3) is 2.8e-7, before roundings are chosen to cancel (fold.ts). */
const MAX_INFLATION = 64;
