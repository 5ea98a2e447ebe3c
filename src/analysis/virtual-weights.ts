/**
 * Links from the latents of one SAE to those of another by weights: what a latent writes, as another reads it,
 *
 *     cosine(f, g) = ⟨d_f, e_g⟩ / (‖d_f‖ ‖e_g‖),    d_f a row of W_dec of the one, e_g of W_enc of the other
 *
 * both in raw units (`fold`). One unit of f adds ⟨d_f, e_g⟩ to g's pre-activation along the residual stream
 * alone ("virtual weights", Elhage et al. 2021): what attention and MLPs between the two hook points make of
 * it is left out. How much of what fires together that accounts for is measured, beside encoders given to
 * other latents at random.
 */
import type { Device } from "../device/device.ts";
import { Rng } from "../rng.ts";
import type { Sae } from "../sae/sae.ts";
import { pearson } from "./correlation.ts";
import { firingCounts, Meetings, type Firings } from "./firings.ts";
import { cosine, unitRows } from "./neighbors.ts";
import { fallingOrder, highest } from "./order.ts";
import { rowProducts } from "./products.ts";

/** The weights of a link. */
export interface VirtualWeight {
  cosine: number;
  /** ⟨d_f, e_g⟩. */
  weight: number;
}

/** Latent f of `from` as latent g of `to` reads it; both must be folded. */
export function virtualWeight(from: Sae, f: number, to: Sae, g: number): VirtualWeight {
  const { dIn } = to.spec;
  const d = from.decoderRow(f);
  const e = to.W_enc.subarray(g * dIn, (g + 1) * dIn);
  let weight = 0;
  for (let c = 0; c < dIn; c++) weight += d[c] * e[c];
  return { cosine: cosine(d, e), weight };
}

/** The pairs of judged latents with the highest cosines, falling. Both SAEs must be folded. */
export async function strongestWeights(
  from: Sae,
  to: Sae,
  judged: readonly [readonly boolean[], readonly boolean[]],
  { count, device }: { count: number; device?: Device },
): Promise<[f: number, g: number][]> {
  const width = to.spec.dIn;
  const [sources, targets] = judged.map((is) => [...is.keys()].filter((f) => is[f]));
  let best: { pair: [number, number]; cosine: number }[] = [];
  const decoders = rowsOf(from.W_dec, sources, width);
  const encoders = rowsOf(to.W_enc, targets, width);
  if (sources.length === 0 || targets.length === 0) return [];
  for await (const block of rowProducts(decoders, encoders, width, device)) {
    const products = block.products.subarray(0, block.rows * targets.length);
    const made = highest(products, count).map((i) => ({
      pair: [
        sources[block.from + Math.floor(i / targets.length)],
        targets[i % targets.length],
      ] satisfies [number, number],
      cosine: products[i],
    }));
    best = [...best, ...made].sort((x, y) => y.cosine - x.cosine).slice(0, count);
  }
  return best.map(({ pair }) => pair);
}

export interface Agreement {
  /** Pairs of judged latents that are expected to meet `minExpected` times or more. */
  pairs: number;
  /** Spearman's rank correlation of cosine and lift, P(g | f) / P(g); and over encoders dealt out anew. */
  rank: number;
  null: { mean: number; low: number; high: number; draws: number };
  /** Median lift of the pairs with the highest cosines, of all pairs, and of the highest of encoders dealt out anew. */
  strongest: { pairs: number; lift: number; all: number; null: number };
}

export interface AgreementOptions {
  /** By latent of either. */
  judged: readonly [readonly boolean[], readonly boolean[]];
  minExpected: number;
  device?: Device;
  seed?: number;
}

const DRAWS = 20;
const STRONGEST = 100;
/** Pairs that ranks are made of; of more every so many-th. */
const MOST_PAIRS = 200_000;

/**
 * How far virtual weights and firing agree about pairs. The null gives every encoder row to another latent of
 * those that occur, 20 times.
 * @param a firings of `from`; @param b of `to`, on the same text.
 * @returns undefined with fewer than 1,000 pairs: too few to say.
 */
export async function linkAgreement(
  from: Sae,
  to: Sae,
  a: Firings,
  b: Firings,
  { judged, minExpected, device, seed = 0 }: AgreementOptions,
): Promise<Agreement | undefined> {
  const pairs = everySoMany(liftsOf(a, b, judged, minExpected), MOST_PAIRS);
  if (pairs.length < 10 * STRONGEST) return undefined;
  const width = to.spec.dIn;
  const sources = [...new Set(pairs.map(({ f }) => f))];
  const targets = [...new Set(pairs.map(({ g }) => g))];
  const column = new Map(targets.map((g, i) => [g, i]));
  const rng = new Rng(seed, "virtual weights");
  const dealt = Array.from({ length: DRAWS }, () =>
    rng.shuffle(Int32Array.from(targets, (_, i) => i)),
  );
  const decoders = rowsOf(from.W_dec, sources, width);
  const encoders = rowsOf(to.W_enc, targets, width);
  const cosines = new Float32Array(pairs.length);
  const chance = dealt.map(() => new Float32Array(pairs.length));
  // Pairs are in the order of their f, as rows are.
  let i = 0;
  for await (const { from: first, rows, products } of rowProducts(
    decoders,
    encoders,
    width,
    device,
  ))
    for (let row = 0; row < rows; row++)
      for (; i < pairs.length && pairs[i].f === sources[first + row]; i++) {
        const at = column.get(pairs[i].g)!;
        cosines[i] = products[row * targets.length + at];
        for (const [k, order] of dealt.entries())
          chance[k][i] = products[row * targets.length + order[at]];
      }
  const lifts = Float32Array.from(pairs, ({ lift }) => lift);
  const ofLifts = ranks(lifts);
  const agree = (values: Float32Array) => pearson(ranks(values), ofLifts) ?? NaN;
  const draws = chance.map(agree);
  const mean = (values: readonly number[]) => values.reduce((sum, v) => sum + v, 0) / values.length;
  const liftOf = (values: Float32Array) =>
    median(fallingOrder(values).subarray(0, STRONGEST), lifts);
  return {
    pairs: pairs.length,
    rank: agree(cosines),
    null: { mean: mean(draws), low: Math.min(...draws), high: Math.max(...draws), draws: DRAWS },
    strongest: {
      pairs: STRONGEST,
      lift: liftOf(cosines),
      all: median(lifts.keys(), lifts),
      null: mean(chance.map(liftOf)),
    },
  };
}

/** P(g | f) / P(g) of the pairs that are expected to meet often enough, by f. */
function liftsOf(
  a: Firings,
  b: Firings,
  judged: AgreementOptions["judged"],
  minExpected: number,
): { f: number; g: number; lift: number }[] {
  const [ofA, ofB] = [firingCounts(a), firingCounts(b)];
  const meetings = new Meetings(b.dSae);
  const found: { f: number; g: number; lift: number }[] = [];
  for (let f = 0; f < a.dSae; f++) {
    if (!judged[0][f]) continue;
    meetings.look(a, f, b);
    for (let g = 0; g < b.dSae; g++) {
      const expected = (ofA[f] * ofB[g]) / a.positions;
      if (judged[1][g] && expected >= minExpected)
        found.push({ f, g, lift: meetings.counts[g] / expected });
    }
  }
  return found;
}

function everySoMany<T>(items: readonly T[], most: number): readonly T[] {
  const step = Math.ceil(items.length / most);
  return step <= 1 ? items : items.filter((_, i) => i % step === 0);
}

/** Rows of a matrix [*, width], each divided by its norm. */
function rowsOf(matrix: Float32Array, rows: readonly number[], width: number): Float32Array {
  const picked = new Float32Array(rows.length * width);
  rows.forEach((r, i) => picked.set(matrix.subarray(r * width, (r + 1) * width), i * width));
  return unitRows(picked, width);
}

function median(places: Iterable<number>, values: Float32Array): number {
  const sorted = Float64Array.from(places, (i) => values[i]).sort();
  return sorted[Math.floor(sorted.length / 2)];
}

/** Ranks from 1, the highest first; equal values share the mean of theirs. */
export function ranks(values: Float32Array): Float64Array {
  const order = fallingOrder(values);
  const found = new Float64Array(values.length);
  for (let from = 0, to = 0; from < order.length; from = to) {
    while (to < order.length && values[order[to]] === values[order[from]]) to++;
    for (let i = from; i < to; i++) found[order[i]] = (from + 1 + to) / 2;
  }
  return found;
}
