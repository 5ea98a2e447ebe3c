/**
 * What is done to activations before an SAE sees them, and undone afterwards. Every transform is
 * t = M (x - μ) with an invertible M: of the whole data set (scale, whiten), or of each row by itself
 * (layerNorm). The former fold into the weights, exactly up to rounding.
 */
import { UserError } from "../error.ts";
import type { SaeWeights } from "./weights.ts";

export type Transform =
  /** Consecutive stretches of `widths` columns, each multiplied by its own factor: one per head, one alone for an autoencoder. */
  | { kind: "scale"; factors: number[]; widths: number[] }
  /** (x - mean of the row) / (standard deviation of the row, with n - 1, + eps). */
  | { kind: "layerNorm"; eps: number }
  /** matrix (x - mean), both [d, d] matrices row by row, inverse · matrix = 1. */
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
      return times(
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
      return times(inverse, t).map((v, c) => v + mean[c]);
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

/** matrix [d, d] times a vector. */
function times(matrix: Float32Array, vector: ArrayLike<number>): Float64Array {
  const d = vector.length;
  const out = new Float64Array(d);
  for (let i = 0, w = 0; i < d; i++) {
    let sum = 0;
    for (let c = 0; c < d; c++, w++) sum += matrix[w] * vector[c];
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
      const moved = times(matrix, mean).map((v) => -v);
      return { kind: "whiten", mean: Float32Array.from(moved), matrix: inverse, inverse: matrix };
    }
    case "layerNorm":
      throw new Error("the normalisation of single rows has no inverse of its own");
    default:
      return transform satisfies never;
  }
}

/**
 * The weights that compute on raw rows what `weights` compute on transformed ones, raw outputs
 * included. With t = M (x - μ) at the input and P, ν at the output:
 *
 *   W_enc' = W_enc M    W_dec'[f] = P⁻¹ W_dec[f]    W_skip' = P⁻¹ W_skip M
 *   b_dec' = P⁻¹ (b_dec - W_skip M μ) + ν           b_enc' = b_enc - W_enc M μ
 *
 * but b_enc' = b_enc where the decoder bias, which has moved by μ, is subtracted from the input.
 * Latents, and with them thresholds and gates, stay what they are.
 */
export function foldTransforms(
  weights: SaeWeights,
  { input, output }: Transforms,
  shape: { dIn: number; dOut: number; applyBDecToInput: boolean },
): SaeWeights {
  const { dIn, dOut, applyBDecToInput } = shape;
  const folded: SaeWeights = {
    ...weights,
    W_enc: eachRow(weights.W_enc, dIn, (row) => pullBack(input, row)),
    W_dec: eachRow(weights.W_dec, dOut, (row) => pushForward(output, row)),
  };
  const shift = input.kind === "whiten" ? times(input.matrix, input.mean) : null;
  const bDec = Float64Array.from(weights.b_dec);
  if (weights.W_skip) {
    const { W_skip } = weights;
    if (shift)
      for (let c = 0; c < dOut; c++) bDec[c] -= dot(W_skip.subarray(c * dIn, (c + 1) * dIn), shift);
    const columns = eachRow(W_skip, dIn, (row) => pullBack(input, row));
    folded.W_skip = eachColumn(columns, dIn, (column) => pushForward(output, column));
  }
  folded.b_dec = Float32Array.from(inverseRow(output, bDec));
  if (shift && !applyBDecToInput)
    folded.b_enc = weights.b_enc.map(
      (b, f) => b - dot(weights.W_enc.subarray(f * dIn, (f + 1) * dIn), shift),
    );
  return folded;
}

/** rowᵀ M, as a row. */
function pullBack(transform: Transform, row: Float32Array): Float64Array {
  if (transform.kind === "scale") return scaleColumns(Float64Array.from(row), transform, false);
  if (transform.kind === "layerNorm") return Float64Array.from(row);
  const d = row.length;
  const out = new Float64Array(d);
  const { matrix } = transform;
  for (let i = 0, w = 0; i < d; i++) {
    const factor = row[i];
    for (let c = 0; c < d; c++, w++) out[c] += factor * matrix[w];
  }
  return out;
}

/** M⁻¹ row. */
function pushForward(transform: Transform, row: Float32Array): Float64Array {
  if (transform.kind === "scale") return scaleColumns(Float64Array.from(row), transform, true);
  if (transform.kind === "layerNorm") return Float64Array.from(row);
  return times(transform.inverse, row);
}

function eachRow(
  matrix: Float32Array,
  width: number,
  change: (row: Float32Array) => Float64Array,
): Float32Array {
  const out = new Float32Array(matrix.length);
  for (let at = 0; at < matrix.length; at += width)
    out.set(change(matrix.subarray(at, at + width)), at);
  return out;
}

function eachColumn(
  matrix: Float32Array,
  width: number,
  change: (column: Float32Array) => Float64Array,
): Float32Array {
  const out = new Float32Array(matrix.length);
  const column = new Float32Array(matrix.length / width);
  for (let c = 0; c < width; c++) {
    for (let r = 0; r < column.length; r++) column[r] = matrix[r * width + c];
    for (const [r, v] of change(column).entries()) out[r * width + c] = v;
  }
  return out;
}

function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/**
 * Whitening for rows of this mean and covariance [d, d] (row by row): M = L⁻¹ with L Lᵀ the
 * covariance (Cholesky), so that M (x - μ) has covariance 1. Any other whitening differs from this
 * by a rotation, which a dictionary learns anyway; this one needs no eigenvectors.
 * Variance `shrinkage` times the mean variance is added in every direction, so that those without
 * any are not blown up.
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
  const factor = new Float64Array(d * d);
  for (let i = 0; i < d; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = covariance[i * d + j] + (i === j ? (shrinkage * trace) / d : 0);
      for (let k = 0; k < j; k++) sum -= factor[i * d + k] * factor[j * d + k];
      factor[i * d + j] = i === j ? Math.sqrt(sum) : sum / factor[j * d + j];
    }
  }
  // Column by column by forward substitution; kept transposed, so that both loops run along rows.
  const columns = new Float64Array(d * d);
  for (let c = 0; c < d; c++) {
    for (let i = c; i < d; i++) {
      let sum = i === c ? 1 : 0;
      for (let k = c; k < i; k++) sum -= factor[i * d + k] * columns[c * d + k];
      columns[c * d + i] = sum / factor[i * d + i];
    }
  }
  const matrix = new Float32Array(d * d);
  for (let i = 0; i < d; i++) for (let c = 0; c <= i; c++) matrix[i * d + c] = columns[c * d + i];
  return {
    kind: "whiten",
    mean: Float32Array.from(mean),
    matrix,
    inverse: Float32Array.from(factor),
  };
}

/** Of the mean variance: below the noise of what is worth learning, far above that of float32. */
export const WHITENING_SHRINKAGE = 1e-4;
