/**
 * How well an autoencoder recovers the known directions that synthetic activations were made from.
 */
import { eachActive, type SaeOnDevice } from "./sae-on-device.ts";
import type { SyntheticActivations } from "./synthetic.ts";

/** From this |cosine| on a direction counts as recovered. */
const RECOVERED = 0.9;

/** How well a decoder recovers known directions. */
export interface Recovery {
  /** Mean over the true directions of the best |cosine| with any decoder row (mean max cosine similarity). */
  mmcs: number;
  /** Mean |cosine| over the true directions when each is given a decoder row of its own, chosen so that the mean is largest. */
  oneToOne: number;
  /** Share of the true directions whose own decoder row has a |cosine| of at least 0.9. */
  recovered: number;
  /** The other way round: mean over the latents that fire of the best |cosine| of their decoder row with any true direction. */
  latentMmcs: number;
}

/**
 * @param directions [features, dIn]; @param W_dec [dSae, dIn]. A zero row has cosine 0 with everything.
 * With fewer decoder rows than directions the directions left without one count 0 in `oneToOne`.
 * @param density how often each latent fires [dSae]; absent: all latents count as firing.
 */
export function recovery(
  directions: Float32Array,
  W_dec: Float32Array,
  dIn: number,
  density?: ArrayLike<number>,
): Recovery {
  const similarity = similarities(directions, W_dec, dIn);
  const { features: n, latents: m, cosines } = similarity;
  const perDirection = new Float64Array(n);
  const perLatent = new Float64Array(m);
  for (let i = 0; i < n; i++)
    for (let j = 0; j < m; j++) {
      const cosine = cosines[i * m + j];
      perDirection[i] = Math.max(perDirection[i], cosine);
      perLatent[j] = Math.max(perLatent[j], cosine);
    }
  const own = Float64Array.from(bestMatches(similarity), (j, i) =>
    j < 0 ? 0 : cosines[i * m + j],
  );
  return {
    mmcs: mean(perDirection),
    oneToOne: mean(own),
    recovered: own.filter((cosine) => cosine >= RECOVERED).length / n,
    latentMmcs: mean(perLatent.filter((_, j) => !density || density[j] > 0)),
  };
}

/** What becomes of parents when their children fire, in hierarchical activations. */
export interface Absorption {
  /** Share of the samples with a parent alone, no child beside it, in which the parent's latent does not fire. */
  missedAlone: number;
  /** The same where at least one child is active too. */
  missedWithChild: number;
  /** missedWithChild - missedAlone: by how much a child keeps its parent's latent from firing. */
  absorption: number;
}

/**
 * A parent's latent is the one that the best one-to-one matching of cosines gives it; shares are over
 * all pairs (validation sample, active parent). Absorption: Chanin et al. 2024, measured here by the truth
 * instead of by probes.
 * @param W_dec the decoder of `encoder`, [dSae, dIn].
 * @returns undefined when the activations have no parents, or none alone, or none with a child.
 */
export async function absorption(
  encoder: SaeOnDevice,
  W_dec: Float32Array,
  { validation, directions, parents, validationStrengths }: SyntheticActivations,
): Promise<Absorption | undefined> {
  if (!parents) return undefined;
  const { dIn, dSae } = encoder.spec;
  const matches = bestMatches(similarities(directions, W_dec, dIn));
  const features = parents.length;
  const featureOf = new Int32Array(dSae).fill(-1);
  matches.forEach((latent, feature) => {
    if (latent >= 0) featureOf[latent] = feature;
  });
  const active = { alone: 0, withChild: 0 };
  const missed = { alone: 0, withChild: 0 };
  const rows = validation.length / dIn;
  for (let from = 0; from < rows; from += encoder.maxRows) {
    const count = Math.min(encoder.maxRows, rows - from);
    const x = validation.subarray(from * dIn, (from + count) * dIn);
    const fires = new Uint8Array(count * features);
    eachActive(await encoder.encode(x, count), count, dSae, (row, latent) => {
      if (featureOf[latent] >= 0) fires[row * features + featureOf[latent]] = 1;
    });
    const strengths = validationStrengths.subarray(from * features, (from + count) * features);
    const hasChild = new Uint8Array(count * features);
    strengths.forEach((strength, i) => {
      const feature = i % features;
      if (strength > 0 && parents[feature] >= 0) hasChild[i - feature + parents[feature]] = 1;
    });
    strengths.forEach((strength, i) => {
      if (!(strength > 0) || parents[i % features] >= 0) return;
      const where = hasChild[i] ? "withChild" : "alone";
      active[where]++;
      if (!fires[i]) missed[where]++;
    });
  }
  if (active.alone === 0 || active.withChild === 0) return undefined;
  const missedAlone = missed.alone / active.alone;
  const missedWithChild = missed.withChild / active.withChild;
  return { missedAlone, missedWithChild, absorption: missedWithChild - missedAlone };
}

interface Similarities {
  features: number;
  latents: number;
  /** |cosine|, [features, latents] */
  cosines: Float64Array;
}

function similarities(directions: Float32Array, W_dec: Float32Array, dIn: number): Similarities {
  const truths = unitRows(directions, dIn);
  const rows = unitRows(W_dec, dIn);
  const features = truths.length / dIn;
  const latents = rows.length / dIn;
  const cosines = new Float64Array(features * latents);
  for (let i = 0; i < features; i++)
    for (let j = 0; j < latents; j++) {
      let dot = 0;
      for (let c = 0; c < dIn; c++) dot += truths[i * dIn + c] * rows[j * dIn + c];
      cosines[i * latents + j] = Math.abs(dot);
    }
  return { features, latents, cosines };
}

/** The latent of each direction in the one-to-one matching with the largest sum of cosines, -1 where there are too few. */
function bestMatches({ cosines, features, latents }: Similarities): Int32Array {
  return assign(cosines, features, latents);
}

/** A row and a column that may be matched, and what it is worth. */
export interface Candidate {
  row: number;
  column: number;
  /** Above 0. */
  score: number;
}

/** Parts of the candidates with more rows or columns than this are matched greedily. */
const EXACT_SIZE = 1500;

/**
 * One-to-one matching that uses candidate pairs only: the one with the largest total score in each
 * connected part of them (`assign`); in a part of more than 1,500 rows or columns, where that would
 * take minutes, the pairs by falling score as long as both are free, which `exact` then says.
 * @returns the column of each of the `rows`, -1 for none.
 */
export function matchCandidates(
  candidates: readonly Candidate[],
  rows: number,
  columns: number,
): { partner: Int32Array; exact: boolean } {
  const partner = new Int32Array(rows).fill(-1);
  const root = Int32Array.from({ length: rows + columns }, (_, node) => node);
  const find = (node: number) => {
    while (root[node] !== node) node = root[node] = root[root[node]];
    return node;
  };
  for (const { row, column } of candidates) root[find(row)] = find(rows + column);
  const parts = new Map<number, Candidate[]>();
  for (const candidate of candidates) {
    const part = parts.get(find(candidate.row));
    if (part) part.push(candidate);
    else parts.set(find(candidate.row), [candidate]);
  }
  let exact = true;
  for (const part of parts.values()) {
    const own = [...new Set(part.map(({ row }) => row))];
    const others = [...new Set(part.map(({ column }) => column))];
    if (Math.max(own.length, others.length) > EXACT_SIZE) {
      exact = false;
      const taken = new Set<number>();
      for (const { row, column } of part.toSorted((a, b) => b.score - a.score)) {
        if (partner[row] >= 0 || taken.has(column)) continue;
        partner[row] = column;
        taken.add(column);
      }
      continue;
    }
    const placeOf = new Map(own.map((row, i) => [row, i]));
    const columnOf = new Map(others.map((column, j) => [column, j]));
    const score = new Float64Array(own.length * others.length);
    for (const { row, column, score: worth } of part)
      score[placeOf.get(row)! * others.length + columnOf.get(column)!] = worth;
    assign(score, own.length, others.length).forEach((j, i) => {
      if (j >= 0 && score[i * others.length + j] > 0) partner[own[i]] = others[j];
    });
  }
  return { partner, exact };
}

/** 0 of nothing. */
function mean(values: Float64Array): number {
  return values.reduce((sum, v) => sum + v, 0) / Math.max(1, values.length);
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
