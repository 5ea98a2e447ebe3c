/**
 * What concepts are compared with besides latents: directions of the activations that the SAE reads.
 * Each kind gives many directions u, whose scores u · x may count with either sign: the dimensions
 * themselves (raw), random ones as many as there are latents, and principal components.
 */
import { Rng } from "../rng.ts";
import type { LabelledText } from "./labelled-text.ts";

export type DirectionKind = "raw" | "random" | "pca";

/** Directions [count, dIn], each of length 1. */
export interface Directions {
  kind: DirectionKind;
  count: number;
  rows: Float64Array;
  /** Standard deviation of u · x over the selection documents. */
  deviations: Float64Array;
}

/** Mean [dIn] and covariance [dIn, dIn] (divided by n) of the rows. */
export interface Spread {
  mean: Float64Array;
  covariance: Float64Array;
}

/** At most so many positions, evenly spaced, enter the covariance. */
const SPREAD_ROWS = 20_000;
/** An eigendecomposition takes dIn³; past this width principal components are left out. */
const PCA_WIDTH = 1024;

/** Of the activations of a text. */
export function spreadOf(text: LabelledText, dIn: number): Spread {
  const every = Math.max(1, Math.ceil(text.positions / SPREAD_ROWS));
  const rows: Float32Array[] = [];
  for (const { base, x } of text.activations)
    for (let p = (every - (base % every)) % every; p * dIn < x.length; p += every)
      rows.push(x.subarray(p * dIn, (p + 1) * dIn));
  return spread(rows, dIn);
}

export function spread(rows: readonly ArrayLike<number>[], dIn: number): Spread {
  const mean = new Float64Array(dIn);
  for (const row of rows) for (let c = 0; c < dIn; c++) mean[c] += row[c] / rows.length;
  const covariance = new Float64Array(dIn * dIn);
  const centred = new Float64Array(dIn);
  for (const row of rows) {
    for (let c = 0; c < dIn; c++) centred[c] = row[c] - mean[c];
    for (let r = 0; r < dIn; r++) {
      const value = centred[r] / rows.length;
      for (let c = 0, at = r * dIn; c <= r; c++) covariance[at + c] += value * centred[c];
    }
  }
  for (let r = 0; r < dIn; r++)
    for (let c = 0; c < r; c++) covariance[c * dIn + r] = covariance[r * dIn + c];
  return { mean, covariance };
}

/** Eigenvectors [dIn, dIn] of the covariance as rows, that of the largest variance first. */
export async function principalComponents({ mean, covariance }: Spread): Promise<Float64Array> {
  const { EigenvalueDecomposition, Matrix } = await import("ml-matrix");
  const dIn = mean.length;
  const matrix = Matrix.from1DArray(dIn, dIn, covariance);
  const { eigenvectorMatrix } = new EigenvalueDecomposition(matrix, { assumeSymmetric: true });
  const rows = new Float64Array(dIn * dIn);
  // Eigenvalues rise.
  for (let r = 0; r < dIn; r++)
    for (let c = 0; c < dIn; c++) rows[r * dIn + c] = eigenvectorMatrix.get(c, dIn - 1 - r);
  return rows;
}

/**
 * Orthogonal axes [dIn, dIn] (rows) along which activations of this spread hardly correlate once each
 * dimension has a standard deviation of 1; undefined past the width of principal components.
 */
export async function uncorrelatedAxes({
  mean,
  covariance,
}: Spread): Promise<Float64Array | undefined> {
  const dIn = mean.length;
  if (dIn > PCA_WIDTH) return undefined;
  const deviation = (c: number) => Math.sqrt(covariance[c * dIn + c]) || 1;
  const correlation = covariance.map((value, i) => value / deviation(Math.floor(i / dIn)) / deviation(i % dIn)); // prettier-ignore
  return principalComponents({ mean, covariance: correlation });
}

/** The three kinds for activations of this spread; principal components only up to a width of 1,024. */
export async function directionsOf(
  of: Spread,
  randomCount: number,
  seed: number,
): Promise<Directions[]> {
  const dIn = of.mean.length;
  const identity = new Float64Array(dIn * dIn);
  for (let c = 0; c < dIn; c++) identity[c * dIn + c] = 1;
  const rng = new Rng(seed, "random directions");
  const random = new Float64Array(randomCount * dIn);
  for (let r = 0; r < randomCount; r++) {
    let square = 0;
    for (let c = 0; c < dIn; c++) square += (random[r * dIn + c] = rng.normal()) ** 2;
    for (let c = 0; c < dIn; c++) random[r * dIn + c] /= Math.sqrt(square);
  }
  const kinds = [withDeviations("raw", identity, of), withDeviations("random", random, of)];
  if (dIn <= PCA_WIDTH) kinds.push(withDeviations("pca", await principalComponents(of), of));
  return kinds;
}

function withDeviations(kind: DirectionKind, rows: Float64Array, of: Spread): Directions {
  const dIn = of.mean.length;
  const count = rows.length / dIn;
  const deviations = new Float64Array(count);
  for (let r = 0; r < count; r++) {
    let variance = 0;
    for (let i = 0; i < dIn; i++) {
      const u = rows[r * dIn + i];
      if (u === 0) continue;
      let sum = 0;
      for (let j = 0; j < dIn; j++) sum += of.covariance[i * dIn + j] * rows[r * dIn + j];
      variance += u * sum;
    }
    deviations[r] = Math.sqrt(Math.max(variance, 0));
  }
  return { kind, count, rows, deviations };
}

/** Σ of the activations over the positions with a label, or over all of them: [dIn]. */
export function activationSum(text: LabelledText, dIn: number, labels?: Uint8Array): Float64Array {
  const total = new Float64Array(dIn);
  for (const { base, x } of text.activations)
    for (let p = 0, at = 0; at < x.length; p++, at += dIn)
      if (labels === undefined || labels[base + p] === 1)
        for (let c = 0; c < dIn; c++) total[c] += x[at + c];
  return total;
}

/** u · v of every direction. */
export function projections({ rows, count }: Directions, v: Float64Array): Float64Array {
  const out = new Float64Array(count);
  for (let r = 0, at = 0; r < count; r++)
    for (let c = 0; c < v.length; c++) out[r] += rows[at++] * v[c];
  return out;
}
