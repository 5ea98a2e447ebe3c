/**
 * Which latents are near each other: by the directions they write (decoder) or read (encoder), and by
 * where they fire. Over the whole SAE, not over a batch of it.
 *
 * With n positions, n_f firings of f and n_fg positions where both fire:
 *
 *     PMI      log₂(n_fg n / (n_f n_g))            in bits; 0 when independent (Church & Hanks 1990)
 *     Jaccard  n_fg / (n_f + n_g − n_fg)           0 … 1
 *     phi      (n_fg n − n_f n_g) / √(n_f n_g (n − n_f)(n − n_g))    Pearson correlation of "fires"
 */
import type { Device } from "../device/device.ts";
import { Rng } from "../rng.ts";
import { rowProducts } from "./products.ts";

/** How often latents fire, alone and together. */
export interface CoFirings {
  /** Positions counted. */
  positions: number;
  firings: ArrayLike<number>; // [dSae]
  /** The latents that fire with f at least once, and at how many positions. */
  partners(latent: number): { latents: Int32Array; counts: Uint32Array };
}

/** The nearest rows of each of some rows, nearest first; [rows · count], −1 and NaN where there are fewer. */
export interface NearestRows {
  count: number;
  rows: Int32Array;
  cosines: Float32Array;
}

/**
 * Of each row of a matrix [n, width] the `count` other rows with the largest cosine. A zero row is
 * near to nothing and nothing to it; equal cosines are in the order of the rows.
 * @param of only these rows; absent: all.
 */
export async function nearestRows(
  matrix: Float32Array,
  width: number,
  { count, of, device }: { count: number; of?: readonly number[]; device?: Device },
): Promise<NearestRows> {
  const unit = unitRows(matrix, width);
  const n = matrix.length / width;
  const isZero = (row: number) =>
    unit.subarray(row * width, (row + 1) * width).every((v) => v === 0);
  const zero = Array.from({ length: n }, (_, row) => isZero(row));
  const asked = of ?? Array.from({ length: n }, (_, row) => row);
  const left = of ? new Float32Array(of.length * width) : unit;
  of?.forEach((row, i) => left.set(unit.subarray(row * width, (row + 1) * width), i * width));
  const rows = new Int32Array(asked.length * count).fill(-1);
  const cosines = new Float32Array(asked.length * count).fill(NaN);
  for await (const block of rowProducts(left, unit, width, device))
    for (let i = 0; i < block.rows; i++) {
      const self = asked[block.from + i];
      if (zero[self]) continue;
      const start = (block.from + i) * count;
      let found = 0;
      for (let j = 0; j < n; j++) {
        const cosine = block.products[i * n + j];
        if (found === count && !(cosine > cosines[start + count - 1])) continue;
        if (j === self || zero[j]) continue;
        if (found < count) found++;
        let at = start + found - 1;
        for (; at > start && cosines[at - 1] < cosine; at--) {
          cosines[at] = cosines[at - 1];
          rows[at] = rows[at - 1];
        }
        cosines[at] = cosine;
        rows[at] = j;
      }
    }
  return { count, rows, cosines };
}

/** Rows of [*, width] divided by their norms; zero rows stay zero. */
export function unitRows(matrix: Float32Array, width: number): Float32Array {
  const out = new Float32Array(matrix.length);
  for (let start = 0; start < out.length; start += width) {
    let squared = 0;
    for (let c = start; c < start + width; c++) squared += matrix[c] * matrix[c];
    const norm = Math.sqrt(squared);
    if (norm > 0) for (let c = start; c < start + width; c++) out[c] = matrix[c] / norm;
  }
  return out;
}

export function cosine(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [ab, aa, bb] = [0, 0, 0];
  for (let c = 0; c < a.length; c++) {
    ab += a[c] * b[c];
    aa += a[c] * a[c];
    bb += b[c] * b[c];
  }
  return aa > 0 && bb > 0 ? ab / Math.sqrt(aa * bb) : 0;
}

/** Cosines of one row of a matrix [n, width] with all rows, [n]; 0 with a zero row. */
export function cosinesWith(matrix: Float32Array, width: number, row: number): Float32Array {
  const at = (n: number) => matrix.subarray(n * width, (n + 1) * width);
  const own = at(row);
  return Float32Array.from({ length: matrix.length / width }, (_, n) => cosine(own, at(n)));
}

/** What cosines of rows are when there is no relation. */
export interface CosineNull {
  /** Pairs of different rows drawn at random: the median, and what one in a thousand exceeds. */
  median: number;
  oneInThousand: number;
  /** Mean, over random directions, of the cosine with the row that is nearest to each. */
  nearestToRandom: number;
}

const RANDOM_PAIRS = 20_000;
const RANDOM_DIRECTIONS = 64;

/** @param matrix [n, width] with at least two rows. */
export async function cosineNull(
  matrix: Float32Array,
  width: number,
  seed = 0,
): Promise<CosineNull> {
  const n = matrix.length / width;
  const row = (i: number) => matrix.subarray(i * width, (i + 1) * width);
  const rng = new Rng(seed, "pairs");
  const cosines = Float64Array.from({ length: RANDOM_PAIRS }, () => {
    const [i, j] = randomPair(rng, n);
    return cosine(row(i), row(j));
  }).sort();
  const directions = Float32Array.from({ length: RANDOM_DIRECTIONS * width }, () => rng.normal());
  let nearest = 0;
  const unit = unitRows(matrix, width);
  for await (const { rows, products } of rowProducts(unitRows(directions, width), unit, width))
    for (let i = 0; i < rows; i++) {
      let best = -1;
      for (let j = 0; j < n; j++) best = Math.max(best, products[i * n + j]);
      nearest += best / RANDOM_DIRECTIONS;
    }
  return {
    median: cosines[RANDOM_PAIRS / 2],
    oneInThousand: cosines[Math.floor(RANDOM_PAIRS * 0.999)],
    nearestToRandom: nearest,
  };
}

/** Two different numbers below n. */
export function randomPair(rng: Rng, n: number): [number, number] {
  const i = rng.int(n);
  const j = rng.int(n - 1);
  return [i, j < i ? j : j + 1];
}

/** How two latents fire together. */
export interface Together {
  /** n_fg */
  together: number;
  /** n_f n_g / n: what it would be if they were independent. */
  expected: number;
  /** −∞ when they never fire together. */
  pmi: number;
  jaccard: number;
  phi: number;
}

/** The statistics above, from counts; all NaN for a latent that never fires. */
export function togetherOf(n: number, nf: number, ng: number, nfg: number): Together {
  const expected = (nf * ng) / n;
  const silent = nf === 0 || ng === 0;
  return {
    together: nfg,
    expected,
    pmi: silent ? NaN : Math.log2(nfg / expected),
    jaccard: silent ? NaN : nfg / (nf + ng - nfg),
    phi: silent ? NaN : (nfg * n - nf * ng) / Math.sqrt(nf * ng * (n - nf) * (n - ng)),
  };
}

/** How latent f fires together with g. */
export function pairOf(co: CoFirings, f: number, g: number): Together {
  const { latents, counts } = co.partners(f);
  const at = latents.indexOf(g);
  return togetherOf(co.positions, co.firings[f], co.firings[g], at < 0 ? 0 : counts[at]);
}

export const CO_MEASURES = ["pmi", "jaccard", "phi"] as const;
export type CoMeasure = (typeof CO_MEASURES)[number];

export interface CoNeighbor extends Together {
  latent: number;
}

/** Pairs that fire together less often than this are not ranked: PMI would rank accidents first. */
export const MIN_TOGETHER = 10;

/** The latents that fire with `latent` at 10 positions or more, the `count` with the largest `by` first. */
export function coNeighbors(
  co: CoFirings,
  latent: number,
  { by, count }: { by: CoMeasure; count: number },
): CoNeighbor[] {
  const { latents, counts } = co.partners(latent);
  const found: CoNeighbor[] = [];
  for (const [i, g] of latents.entries())
    if (g !== latent && counts[i] >= MIN_TOGETHER)
      found.push({
        latent: g,
        ...togetherOf(co.positions, co.firings[latent], co.firings[g], counts[i]),
      });
  return found.sort((a, b) => b[by] - a[by] || a.latent - b.latent).slice(0, count);
}
