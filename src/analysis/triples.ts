/**
 * Pairs of latents that predict a third. With p_ab = P(c | a and b), p_a = P(c | a without b), p_b = P(c | b
 * without a) and p_0 = P(c | neither), what a and b would do if each made c fire by itself is (noisy or,
 * Pearl 1988; Bliss independence)
 *
 *     predicted = 1 − (1 − p_a)(1 − p_b) / (1 − p_0)
 *
 *   and     c fires where a and b meet, more than predicted and more than with either:
 *           p_ab above predicted, P(c | a) and P(c | b)
 *   either  c fires with a or b alone and less where they meet: p_ab below p_a, p_b and predicted
 *
 * Triples are chosen on the selection documents, by the end of Wilson's interval of p_ab nearest to what it is
 * compared with, and tested on the others. The p-value is the largest of: each difference over its standard
 * error by the bootstrap over documents; n_abc as a Poisson number, the mean what the nearest of the things
 * compared with lets expect; and 2^−D where a and b meet in D documents, the least that a sign test over
 * documents could say. q by Benjamini & Hochberg over all that were chosen.
 */
import { CoActivation } from "./co-activation.ts";
import { COMPOSITION_RULES, type Halves, type HalvedText } from "./composition.ts";
import { DocumentDraws, intervalOf } from "./document-draws.ts";
import { MIN_UNITS } from "./document-sums.ts";
import { firingCounts, turnedInDocuments, type Firings, type HeldText } from "./firings.ts";
import type { Interval } from "./interval.ts";
import { benjaminiHochberg, gammaTails, normalTail, wilson } from "./significance.ts";

export const TRIPLE_RULES = {
  /** Positions with both, with the first alone and with the second alone that there must be, on either half. */
  minSupport: 20,
  /** By how much p_ab must differ on the selection documents. */
  minGain: 0.1,
  /** Triples of each kind that are tested, at most, and of those with the same third; of the same pair one. */
  chosen: 200,
  perThird: 3,
} as const;

/** Latents that triples are looked for among: the most frequent ones. Their pair counts take 134 MB at most. */
const MOST_LATENTS = 8192;

export const TRIPLE_KINDS = ["and", "either"] as const;
export type TripleKind = (typeof TRIPLE_KINDS)[number];

/** Positions: all, with a, b, c, and so on. */
export interface TripleCounts {
  n: number;
  a: number;
  b: number;
  c: number;
  ab: number;
  ac: number;
  bc: number;
  abc: number;
}

/** The shares of positions with c, and what no interaction of a and b predicts. */
export interface TripleShares {
  both: number;
  /** p_a and p_b: one without the other. */
  alone: [number, number];
  neither: number;
  /** P(c | a) and P(c | b), with or without the other. */
  given: [number, number];
  predicted: number;
}

/** NaN where there is no such position. */
export function tripleShares({ n, a, b, c, ab, ac, bc, abc }: TripleCounts): TripleShares {
  const alone: [number, number] = [(ac - abc) / (a - ab), (bc - abc) / (b - ab)];
  const neither = (c - ac - bc + abc) / (n - a - b + ab);
  const silent = neither < 1 ? ((1 - alone[0]) * (1 - alone[1])) / (1 - neither) : 0;
  return {
    ...{ both: abc / ab, alone, neither, given: [ac / a, bc / b] },
    predicted: Math.min(1, Math.max(0, 1 - silent)),
  };
}

/** By how much p_ab, or an end of its interval, lies on the right side of each thing it is compared with. */
function margins(kind: TripleKind, both: number, shares: TripleShares): number[] {
  const { alone, given, predicted } = shares;
  return kind === "and"
    ? [both - predicted, both - given[0], both - given[1]]
    : [predicted - both, alone[0] - both, alone[1] - both];
}

interface ChosenTriple {
  latents: [a: number, b: number, c: number];
  gain: number;
}

export interface Triple {
  /** The pair a, b and the third c. */
  latents: [a: number, b: number, c: number];
  /** On the test documents, as all that follows. */
  counts: TripleCounts;
  /** Documents in which a and b meet. */
  documents: number;
  shares: TripleShares;
  both: Interval;
  /** p_ab − predicted. */
  interaction: Interval;
  /** p_ab / max(P(c | a), P(c | b)). */
  lift: number;
  p: number;
  q: number;
}

export interface TripleKindResult {
  /** Chosen on the selection documents; of these, without enough meetings on the test documents. */
  chosen: number;
  tooFew: number;
  /**
   * With q ≤ `fdr`; and where each latent's documents were turned round, on both halves: what is found there
   * comes of documents that have all three for their topic.
   */
  found: number;
  null: number;
  /** Those found, in the order in which they were chosen. */
  listed: Triple[];
}

export interface TripleSearch {
  /** Latents that took part, and pairs of them with enough support on the selection documents. */
  latents: number;
  pairs: number;
  and: TripleKindResult;
  either: TripleKindResult;
}

export interface TripleOptions {
  minFirings?: number;
  /** Latents that fire at a larger share of the positions take no part: they meet everything. Absent: 0.1. */
  maxDensity?: number;
  fdr?: number;
  /** Only triples with one of these, wherever. */
  latents?: readonly number[] | undefined;
  seed?: number;
  signal?: AbortSignal;
  onProgress?: (done: number, total: number) => void;
}

/** Time grows with positions × (latents that fire at once)³. */
export async function findTriples(
  { selection, test }: Halves,
  text: HalvedText,
  options: TripleOptions = {},
): Promise<TripleSearch> {
  const { fdr = COMPOSITION_RULES.fdr, seed = 0, onProgress } = options;
  const part = (from: number): TripleOptions => ({
    ...options,
    ...(onProgress && { onProgress: (n: number, of: number) => onProgress(from * of + n, 2 * of) }),
  });
  const turned = {
    selection: turnedInDocuments(selection, text.selection, seed),
    test: turnedInDocuments(test, text.test, seed + 1),
  };
  const real = await chooseTriples({ selection, test }, part(0));
  const chance = await chooseTriples(turned, part(1));
  const tested = (kind: TripleKind, found: typeof real, on: Firings) => {
    const measurer = new TripleMeasurer(on, text.test, seed);
    const measured = found[kind].map(({ latents }) => measurer.measure(latents, kind));
    const enough = measured.filter(({ p }) => !Number.isNaN(p));
    const q = benjaminiHochberg(enough.map(({ p }) => p));
    const listed = enough.map((one, i) => ({ ...one, q: q[i] })).filter((one) => one.q <= fdr);
    return { chosen: measured.length, tooFew: measured.length - enough.length, listed };
  };
  const result = (kind: TripleKind): TripleKindResult => {
    const found = tested(kind, real, test);
    return {
      ...found,
      found: found.listed.length,
      null: tested(kind, chance, turned.test).listed.length,
    };
  };
  const { latents, pairs } = real;
  return { latents, pairs, and: result("and"), either: result("either") };
}

async function chooseTriples(
  { selection, test }: Halves,
  {
    minFirings = COMPOSITION_RULES.minFirings,
    maxDensity = 0.1,
    latents,
    signal,
    onProgress,
  }: TripleOptions,
): Promise<Record<TripleKind, ChosenTriple[]> & { latents: number; pairs: number }> {
  const { dSae, positions, rows } = selection;
  const { minSupport, minGain, chosen, perThird } = TRIPLE_RULES;
  const counts = firingCounts(selection);
  const onTest = firingCounts(test);
  const taking = Array.from(counts, (_, f) => f)
    .filter(
      (f) =>
        counts[f] >= minFirings && onTest[f] >= minFirings && counts[f] <= maxDensity * positions,
    ) // prettier-ignore
    .sort((f, g) => counts[g] - counts[f] || f - g)
    .slice(0, MOST_LATENTS)
    .sort((f, g) => f - g);
  const place = new Int32Array(dSae).fill(-1);
  taking.forEach((f, i) => (place[f] = i));
  const co = coActivationOf(selection, taking);
  const asked = latents && new Set(latents);
  const best: Record<TripleKind, Map<number, ChosenTriple[]>> = {
    and: new Map(),
    either: new Map(),
  };
  const keep = (kind: TripleKind, triple: ChosenTriple | undefined) => {
    if (!triple) return;
    const list = best[kind].get(triple.latents[2]) ?? [];
    best[kind].set(triple.latents[2], list);
    list.push(triple);
    list.sort((x, y) => y.gain - x.gain);
    if (list.length > perThird) list.pop();
  };
  const withThird = new Int32Array(taking.length);
  let pairs = 0;
  let breath = performance.now();
  for (const [i, a] of taking.entries()) {
    const meetings = meetingsOf(selection, a, place);
    const partners = [...co.partners(i).latents].filter(
      (c) => co.count(i, c) >= 2 * minGain * counts[a],
    );
    for (const [j, at] of meetings) {
      const b = taking[j];
      const ab = at.length;
      if (ab < minSupport || Math.min(counts[a], counts[b]) - ab < minSupport) continue;
      pairs++;
      const thirds: number[] = [];
      for (const p of at)
        for (let k = rows.offsets[p]; k < rows.offsets[p + 1]; k++) {
          const c = place[rows.latents[k]];
          if (c >= 0 && withThird[c]++ === 0) thirds.push(c);
        }
      const ofPair: Partial<Record<TripleKind, ChosenTriple>> = {};
      const consider = (kind: TripleKind, c: number) => {
        const third = taking[c];
        if (c === i || c === j) return;
        if (asked && !asked.has(a) && !asked.has(b) && !asked.has(third)) return;
        const abc = withThird[c];
        const [ac, bc] = [co.count(i, c), co.count(j, c)];
        // What cannot be gained is most of it.
        const least = Math.max(ac / counts[a], bc / counts[b]);
        if (
          kind === "and" ? abc / ab < least + minGain : bc < minGain * counts[b] || abc / ab > least
        )
          return;
        const shares = tripleShares({
          ...{ n: positions, a: counts[a], b: counts[b], c: counts[third] },
          ...{ ab, ac, bc, abc },
        });
        const bound = wilson(abc, ab)[kind === "and" ? 0 : 1];
        const gain = Math.min(...margins(kind, bound, shares));
        if (gain >= minGain && gain > (ofPair[kind]?.gain ?? 0))
          ofPair[kind] = { latents: [a, b, third], gain };
      };
      for (const c of thirds) consider("and", c);
      for (const c of partners) consider("either", c);
      for (const kind of TRIPLE_KINDS) keep(kind, ofPair[kind]);
      for (const c of thirds) withThird[c] = 0;
    }
    if (performance.now() - breath < 50) continue;
    signal?.throwIfAborted();
    onProgress?.(i + 1, taking.length);
    await new Promise((resolve) => setImmediate(resolve));
    breath = performance.now();
  }
  const ordered = (kind: TripleKind) =>
    [...best[kind].values()]
      .flat()
      .sort((x, y) => y.gain - x.gain)
      .slice(0, chosen);
  return { and: ordered("and"), either: ordered("either"), latents: taking.length, pairs };
}

/** Counts of all pairs of some latents, by their places. */
function coActivationOf({ offsets, at, values, positions }: Firings, latents: readonly number[]) {
  const ends = Int32Array.of(0, ...latents.map(() => 0));
  latents.forEach((f, i) => (ends[i + 1] = ends[i] + offsets[f + 1] - offsets[f]));
  const codes = {
    offsets: ends,
    positions: new Int32Array(ends[latents.length]),
    values: new Float32Array(ends[latents.length]),
  };
  for (const [i, f] of latents.entries()) {
    codes.positions.set(at.subarray(offsets[f], offsets[f + 1]), ends[i]);
    codes.values.set(values.subarray(offsets[f], offsets[f + 1]), ends[i]);
  }
  const co = new CoActivation(latents.length);
  co.add(codes, positions);
  return co;
}

/** By the place of each later latent, the positions where it fires with `a`. */
function meetingsOf({ offsets, at, rows }: Firings, a: number, place: Int32Array) {
  const found = new Map<number, number[]>();
  for (let i = offsets[a]; i < offsets[a + 1]; i++) {
    const p = at[i];
    for (let k = rows.offsets[p]; k < rows.offsets[p + 1]; k++) {
      const b = rows.latents[k];
      if (b <= a || place[b] < 0) continue;
      const list = found.get(place[b]);
      if (list) list.push(p);
      else found.set(place[b], [p]);
    }
  }
  return found;
}

const COUNTS = ["n", "a", "b", "c", "ab", "ac", "bc", "abc"] as const;

/** Measures triples on the test documents; intervals by the bootstrap over documents, all from the same draws. */
export class TripleMeasurer {
  readonly #firings: Firings;
  readonly #text: HeldText;
  readonly #draws: DocumentDraws;
  /** Bit k is set where latent k of the triple fires; all 0 in between. */
  readonly #marks: Uint8Array;
  readonly #lengths: Float64Array;

  constructor(firings: Firings, text: HeldText, seed = 0) {
    this.#firings = firings;
    this.#text = text;
    this.#draws = new DocumentDraws(text.documents, seed);
    this.#marks = new Uint8Array(text.positions);
    this.#lengths = new Float64Array(text.documents);
    for (const d of text.document) this.#lengths[d]++;
  }

  /** `p` is NaN where there are too few positions, or a and b meet in too few documents. */
  measure(latents: Triple["latents"], kind: TripleKind): Omit<Triple, "q"> {
    const columns = this.#columns(latents);
    const total = Object.fromEntries(
      COUNTS.map((name) => [name, columns[name].reduce((sum, v) => sum + v, 0)]),
    ) as unknown as TripleCounts;
    const documents = columns.ab.filter((v) => v > 0).length;
    const shares = tripleShares(total);
    const drawn = COUNTS.map((name) => this.#draws.sums(columns[name]));
    const draws = Array.from(drawn[0], (_, i) =>
      tripleShares(
        Object.fromEntries(COUNTS.map((name, k) => [name, drawn[k][i]])) as unknown as TripleCounts,
      ),
    );
    const interval = (of: (shares: TripleShares) => number) =>
      intervalOf({ value: of(shares), draws: Float64Array.from(draws, of) });
    const { a, b, ab, abc } = total;
    const both = interval(({ both }) => both);
    // All or nothing is so on every draw; the documents are as many independent cases at least.
    if (abc === 0) both.high = wilson(0, documents)[1];
    if (abc === ab) both.low = wilson(documents, documents)[0];
    const isEnough = Math.min(ab, a - ab, b - ab) >= TRIPLE_RULES.minSupport && documents >= MIN_UNITS; // prettier-ignore
    const values = margins(kind, shares.both, shares);
    const each = draws.map((one) => margins(kind, one.both, one));
    const tails = values.map((value, k) =>
      normalTail(value / deviation(each.map((one) => one[k]))),
    );
    // Of n_abc, if p_ab were the nearest of what it is compared with.
    const nearest = shares.both - Math.min(...values) * (kind === "and" ? 1 : -1);
    const count =
      kind === "and"
        ? abc > 0
          ? gammaTails(abc, nearest * ab).lower
          : 1
        : gammaTails(abc + 1, nearest * ab).upper;
    return {
      ...{ latents, counts: total, documents, shares, both },
      interaction: interval(({ both, predicted }) => both - predicted),
      lift: shares.both / Math.max(...shares.given),
      p: isEnough ? Math.max(...tails, count, 2 ** -documents) : NaN,
    };
  }

  #columns(latents: readonly number[]): Record<keyof TripleCounts, Float64Array> {
    const { documents, document } = this.#text;
    const { offsets, at } = this.#firings;
    const columns = Object.fromEntries(
      COUNTS.map((name) => [name, new Float64Array(documents)]),
    ) as Record<keyof TripleCounts, Float64Array>;
    columns.n = this.#lengths;
    const each = (visit: (p: number, bit: number) => void) =>
      latents.forEach((f, k) => {
        for (let i = offsets[f]; i < offsets[f + 1]; i++) visit(at[i], 1 << k);
      });
    each((p, bit) => (this.#marks[p] |= bit));
    each((p) => {
      const bits = this.#marks[p];
      const d = document[p];
      if (bits & 1) columns.a[d]++;
      if (bits & 2) columns.b[d]++;
      if (bits & 4) columns.c[d]++;
      if ((bits & 3) === 3) columns.ab[d]++;
      if ((bits & 5) === 5) columns.ac[d]++;
      if ((bits & 6) === 6) columns.bc[d]++;
      if (bits === 7) columns.abc[d]++;
      this.#marks[p] = 0;
    });
    return columns;
  }
}

/** Standard deviation of those that are numbers. */
function deviation(values: readonly number[]): number {
  const numbers = values.filter((v) => !Number.isNaN(v));
  const mean = numbers.reduce((sum, v) => sum + v, 0) / numbers.length;
  return Math.sqrt(numbers.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (numbers.length - 1));
}
