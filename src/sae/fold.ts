/**
 * Transforms folded into an SAE's weights, so that it takes raw rows and gives raw outputs. Weights
 * are float32 and a whitening may be ill-conditioned: what rounding does to latents is kept small.
 */
import {
  forwardRow,
  inverseOf,
  inverseRow,
  timesLower,
  type Transform,
  type Transforms,
} from "./transform.ts";
import type { SaeWeights } from "./weights.ts";

type Matrix = Float32Array | Float64Array;

interface Shape {
  dIn: number;
  dOut: number;
  applyBDecToInput: boolean;
}

/**
 * The weights that compute on raw rows what `weights` compute on transformed ones, raw outputs
 * included. With t = M (x - μ) at the input and P, ν at the output:
 *
 *   W_enc' = W_enc M    W_dec'[f] = P⁻¹ W_dec[f]    W_skip' = P⁻¹ W_skip M
 *   b_dec' = P⁻¹ b_dec + ν - W_skip' μ              b_enc' = b_enc - W_enc' μ
 *
 * but b_enc' = b_enc + W_enc (M (b_dec' - μ) - b_dec) where the decoder bias, which has moved by μ, is
 * subtracted from the input: b_enc but for what b_dec' has lost in rounding, which M may blow up. A
 * gated SAE's b_mag, whose argument leaves b_enc out, moves by e^{r_mag} times as much. Biases are made
 * from the rounded matrices, so that what rounding adds is in proportion to a row's distance from the
 * mean, however far away that is. Latents, and with them thresholds, stay what they are.
 */
export function foldTransforms(
  weights: SaeWeights,
  transforms: Transforms,
  shape: Shape,
): SaeWeights {
  return fold(weights, transforms, shape, true);
}

/** The inverse: folded weights' equals for rows that the transforms have been applied to. */
export function unfoldTransforms(
  weights: SaeWeights,
  { input, output }: Transforms,
  shape: Shape,
): SaeWeights {
  return fold(weights, { input: inverseOf(input), output: inverseOf(output) }, shape, false);
}

function fold(
  weights: SaeWeights,
  { input, output }: Transforms,
  { dIn, dOut, applyBDecToInput }: Shape,
  whitens: boolean,
): SaeWeights {
  const { W_enc, b_enc, W_skip, r_mag, b_mag } = weights;
  const folded = {
    ...weights,
    W_dec: eachRow(weights.W_dec, dOut, (row) => pushForward(output, row)),
  };
  const mean = input.kind === "whiten" ? input.mean : new Float32Array(dIn);
  /** Folds M into a matrix whose rows have a bias: `biasOf` what it is to be, times `gainOf`, when -row·μ goes into it. */
  const throughInput = (
    matrix: Matrix,
    bDec: Float32Array | null,
    biasOf: (row: number, shift: number) => { bias: number; gain: number },
  ): Float32Array => {
    if (!whitens || input.kind !== "whiten")
      return eachRow(matrix, dIn, (row) => pullBack(input, row));
    const offset = Float64Array.from(mean, (v, c) => v - (bDec?.[c] ?? 0));
    return whitenedRows(matrix, input, offset, (f, row) => {
      if (bDec) return 0;
      const { bias, gain } = biasOf(f, -dot(row, mean));
      return (Math.fround(bias) - bias) / gain;
    });
  };

  const bDec = inverseRow(output, weights.b_dec);
  if (W_skip) {
    const columns = eachColumn(W_skip, dIn, (column) => pushForward(output, column));
    folded.W_skip = throughInput(columns, null, (c, shift) => ({ bias: bDec[c] + shift, gain: 1 }));
    for (let c = 0; c < dOut; c++) bDec[c] -= dot(rowOf(folded.W_skip, dIn, c), mean);
  }
  folded.b_dec = Float32Array.from(bDec);
  const gainOf = (f: number) => (r_mag ? Math.exp(r_mag[f]) : 1);
  folded.W_enc = throughInput(W_enc, applyBDecToInput ? folded.b_dec : null, (f, shift) => ({
    bias: (b_mag ?? b_enc)[f] + gainOf(f) * shift,
    gain: gainOf(f),
  }));
  const lost = applyBDecToInput
    ? forwardRow(input, folded.b_dec).map((v, c) => v - weights.b_dec[c])
    : null;
  const shift = Float64Array.from(b_enc, (_, f) =>
    lost ? dot(rowOf(W_enc, dIn, f), lost) : -dot(rowOf(folded.W_enc, dIn, f), mean),
  );
  folded.b_enc = b_enc.map((b, f) => b + shift[f]);
  if (b_mag) folded.b_mag = b_mag.map((b, f) => b + gainOf(f) * shift[f]);
  return folded;
}

/** What float32 itself adds to a latent, in parts of its size; no rounding needs to be better. */
const ROUNDING_GOAL = 2 ** -25;

/**
 * The rows w of matrix · M in float32, rounded otherwise than to the nearest numbers where those are
 * not the best ones. They read from x = μ + L t, with L = M⁻¹ and t of mean 0 and covariance 1.
 * Rounding w by δ changes w·(x - p), with p what is subtracted from x, by a mean square of
 * ‖Lᵀδ‖² + (δ·(μ - p) + e)², e the change of the row's bias. An ill-conditioned L makes that large
 * though every |δ_c| is small; some elements take their other neighbour among float32 numbers
 * instead, so that the errors cancel where x varies most. Elements with much to move come first,
 * those with little finish.
 * @param offset μ - p [d]. @param biasError e of each row.
 */
function whitenedRows(
  matrix: Matrix,
  input: Extract<Transform, { kind: "whiten" }>,
  offset: Float64Array,
  biasError: (row: number, exact: Float64Array) => number,
): Float32Array {
  const d = offset.length;
  // The offset as one more column on the left of L, whose row c ends with its element c.
  const width = d + 1;
  const spread = new Float64Array(d * width);
  const endOf = (c: number) => c * width + c + 2;
  const norms = new Float64Array(d);
  for (let c = 0; c < d; c++) {
    const row = rowOf(spread, width, c);
    row[0] = offset[c];
    row.set(rowOf(input.inverse, d, c), 1);
    norms[c] = Math.sqrt(dot(row, row));
  }
  const order = Array.from(norms.keys());
  const weight = new Float64Array(d);
  const next = new Float32Array(1);
  const bits = new Uint32Array(next.buffer);
  const out = new Float32Array(matrix.length);
  for (let f = 0; f < matrix.length / d; f++) {
    const from = rowOf(matrix, d, f);
    const exact = pullBack(input, from);
    const row = rowOf(out, d, f);
    row.set(exact);
    const goal = ROUNDING_GOAL ** 2 * dot(from, from);
    const change = new Float64Array(width);
    change[0] = biasError(f, exact);
    for (let c = 0; c < d; c++) addRange(change, row[c] - exact[c], spread, c * width, endOf(c));
    let error = dot(change, change);
    if (error <= goal) continue;
    for (let c = 0; c < d; c++) weight[c] = Math.abs(exact[c]) * norms[c];
    order.sort((a, b) => weight[b] - weight[a]);
    for (const c of order) {
      if (error <= goal) break;
      if (row[c] === 0) continue;
      next[0] = row[c];
      bits[0] += exact[c] > row[c] === row[c] > 0 ? 1 : -1;
      const delta = next[0] - row[c];
      const along = dotRange(change, spread, c * width, endOf(c));
      const more = 2 * delta * along + (delta * norms[c]) ** 2;
      if (more >= 0) continue;
      error += more;
      row[c] = next[0];
      addRange(change, delta, spread, c * width, endOf(c));
    }
  }
  return out;
}

/** rowᵀ M, as a row. */
function pullBack(transform: Transform, row: ArrayLike<number>): Float64Array {
  if (transform.kind !== "whiten") return forwardRow(transform, row);
  const d = row.length;
  const out = new Float64Array(d);
  const { matrix } = transform;
  for (let i = 0; i < d; i++) {
    const factor = row[i];
    for (let c = 0, w = i * d; c <= i; c++, w++) out[c] += factor * matrix[w];
  }
  return out;
}

/** M⁻¹ row. */
function pushForward(transform: Transform, row: ArrayLike<number>): Float64Array {
  if (transform.kind !== "whiten") return inverseRow(transform, row);
  return timesLower(transform.inverse, row);
}

function eachRow(
  matrix: Matrix,
  width: number,
  change: (row: Matrix) => Float64Array,
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
): Float64Array {
  const out = new Float64Array(matrix.length);
  const column = new Float32Array(matrix.length / width);
  for (let c = 0; c < width; c++) {
    for (let r = 0; r < column.length; r++) column[r] = matrix[r * width + c];
    for (const [r, v] of change(column).entries()) out[r * width + c] = v;
  }
  return out;
}

/** into += factor · the numbers from … to-1 of `values`. */
function addRange(
  into: Float64Array,
  factor: number,
  values: Float64Array,
  from: number,
  to: number,
): void {
  for (let j = 0, i = from; i < to; i++, j++) into[j] += factor * values[i];
}

function dotRange(a: Float64Array, values: Float64Array, from: number, to: number): number {
  let [even, odd] = [0, 0];
  let i = from;
  let j = 0;
  // Two sums, since each addition waits for the one before.
  for (; i + 1 < to; i += 2, j += 2) {
    even += a[j] * values[i];
    odd += a[j + 1] * values[i + 1];
  }
  return i < to ? even + odd + a[j] * values[i] : even + odd;
}

function rowOf<M extends Matrix>(matrix: M, width: number, row: number): M {
  return matrix.subarray(row * width, (row + 1) * width) as M;
}

function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}
