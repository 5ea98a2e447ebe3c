/**
 * Activations made from a known dictionary, so that what an autoencoder finds can be compared with
 * what is there.
 */
import type { SyntheticConfig } from "../config.ts";
import { UserError } from "../error.ts";
import { Rng } from "../rng.ts";

export interface SyntheticActivations {
  /** [samples, dIn] */
  train: Float32Array;
  /** [validationSamples, dIn], from the same directions. */
  validation: Float32Array;
  /** The ground truth, not normalised; [features, dIn]. */
  directions: Float32Array;
}

/**
 * Each sample is Σ_j s_j D_j + noise·ε: ⌊features·sparsity⌋ distinct random directions D_j ~ N(0,1)^dIn
 * with strengths s_j = |N(0,1)|, and ε ~ N(0,1)^dIn. Training and validation share the directions.
 * @throws UserError when features·sparsity is below 1.
 */
export function syntheticActivations(config: SyntheticConfig, seed: number): SyntheticActivations {
  const { samples, validationSamples, dIn, features, sparsity, noise } = config;
  // The small slack keeps 100 × 0.29 at 29, which floating point makes 28.999….
  const active = Math.floor(features * sparsity + 1e-9);
  if (active < 1)
    throw new UserError(
      `features × sparsity must be at least 1, or no sample has a feature; got ${features} × ${sparsity}`,
    );
  const rng = new Rng(seed, "synthetic", "directions");
  const directions = Float32Array.from({ length: features * dIn }, () => rng.normal());
  const make = (rows: number, split: string): Float32Array =>
    sampleRows(rows, directions, { dIn, active, noise }, new Rng(seed, "synthetic", split));
  return {
    train: make(samples, "train"),
    validation: make(validationSamples, "validation"),
    directions,
  };
}

function sampleRows(
  rows: number,
  directions: Float32Array,
  { dIn, active, noise }: { dIn: number; active: number; noise: number },
  rng: Rng,
): Float32Array {
  const features = directions.length / dIn;
  const out = new Float32Array(rows * dIn);
  const order = Array.from({ length: features }, (_, j) => j);
  const row = new Float64Array(dIn);
  for (let n = 0; n < rows; n++) {
    row.fill(0);
    // The first `active` places of a Fisher–Yates shuffle: distinct and uniform.
    for (let i = 0; i < active; i++) {
      const j = i + rng.int(features - i);
      [order[i], order[j]] = [order[j], order[i]];
      const strength = Math.abs(rng.normal());
      const direction = order[i] * dIn;
      for (let c = 0; c < dIn; c++) row[c] += strength * directions[direction + c];
    }
    for (let c = 0; c < dIn; c++) out[n * dIn + c] = row[c] + noise * rng.normal();
  }
  return out;
}

/** How well a decoder recovers known directions. */
export interface Recovery {
  /** Mean over the true directions of the best |cosine| with any decoder row (mean max cosine similarity). */
  mmcs: number;
  /** Mean |cosine| over the true directions when each is given a decoder row of its own, chosen so that the mean is largest. */
  oneToOne: number;
}

/**
 * @param directions [features, dIn]; @param W_dec [dSae, dIn]. A zero row has cosine 0 with everything.
 * With fewer decoder rows than directions the directions left without one count 0 in `oneToOne`.
 */
export function recovery(directions: Float32Array, W_dec: Float32Array, dIn: number): Recovery {
  const truths = unitRows(directions, dIn);
  const rows = unitRows(W_dec, dIn);
  const n = truths.length / dIn;
  const m = rows.length / dIn;
  const similarity = new Float64Array(n * m);
  let best = 0;
  for (let i = 0; i < n; i++) {
    let largest = 0;
    for (let j = 0; j < m; j++) {
      let dot = 0;
      for (let c = 0; c < dIn; c++) dot += truths[i * dIn + c] * rows[j * dIn + c];
      similarity[i * m + j] = Math.abs(dot);
      largest = Math.max(largest, Math.abs(dot));
    }
    best += largest;
  }
  const matches = assign(similarity, n, m);
  const matched = matches.reduce((sum, j, i) => sum + (j < 0 ? 0 : similarity[i * m + j]), 0);
  return { mmcs: best / n, oneToOne: matched / n };
}

/** Rows of [*, dIn] divided by their norms, in float64; zero rows stay zero. */
function unitRows(matrix: Float32Array, dIn: number): Float64Array {
  const out = Float64Array.from(matrix);
  for (let start = 0; start < out.length; start += dIn) {
    let squared = 0;
    for (let c = 0; c < dIn; c++) squared += out[start + c] ** 2;
    const norm = Math.sqrt(squared);
    if (norm > 0) for (let c = 0; c < dIn; c++) out[start + c] /= norm;
  }
  return out;
}

/**
 * The assignment of rows to distinct columns with the largest total score [n, m]; the column of
 * each row, -1 for a row that gets none (n > m). Shortest augmenting paths with potentials (Kuhn
 * 1955; Jonker & Volgenant 1987), O(n² m) for n ≤ m.
 */
export function assign(score: Float64Array, n: number, m: number): Int32Array {
  if (n > m) {
    const flipped = new Float64Array(n * m);
    for (let i = 0; i < n; i++) for (let j = 0; j < m; j++) flipped[j * n + i] = score[i * m + j];
    const out = new Int32Array(n).fill(-1);
    assign(flipped, m, n).forEach((row, column) => (out[row] = column));
    return out;
  }
  // Rows and columns count from 1; column 0 stands for the row being placed.
  const rowPotential = new Float64Array(n + 1);
  const columnPotential = new Float64Array(m + 1);
  const rowOf = new Int32Array(m + 1);
  const cameFrom = new Int32Array(m + 1);
  for (let i = 1; i <= n; i++) {
    const distance = new Float64Array(m + 1).fill(Infinity);
    const settled = new Uint8Array(m + 1);
    rowOf[0] = i;
    let column = 0;
    do {
      settled[column] = 1;
      const row = rowOf[column];
      let nearest = Infinity;
      let next = 0;
      for (let j = 1; j <= m; j++) {
        if (settled[j]) continue;
        const cost = -score[(row - 1) * m + j - 1] - rowPotential[row] - columnPotential[j];
        if (cost < distance[j]) {
          distance[j] = cost;
          cameFrom[j] = column;
        }
        if (distance[j] < nearest) {
          nearest = distance[j];
          next = j;
        }
      }
      for (let j = 0; j <= m; j++)
        if (settled[j]) {
          rowPotential[rowOf[j]] += nearest;
          columnPotential[j] -= nearest;
        } else distance[j] -= nearest;
      column = next;
    } while (rowOf[column] !== 0);
    while (column !== 0) {
      rowOf[column] = rowOf[cameFrom[column]];
      column = cameFrom[column];
    }
  }
  const out = new Int32Array(n);
  for (let j = 1; j <= m; j++) if (rowOf[j] !== 0) out[rowOf[j] - 1] = j - 1;
  return out;
}
