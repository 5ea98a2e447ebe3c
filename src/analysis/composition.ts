/**
 * Which latents occur together and which exclude each other, within one SAE or between two on the same text.
 * Pairs are found on some documents (selection) by a test over all pairs, and every number that is shown of
 * them is measured on others (test):
 *
 *   together  they meet more often than if each document's firings were turned round (turning.ts)
 *   apart     they meet less often than that, where at least `minExpected` meetings are expected
 *
 * both with q ≤ `fdr` by Benjamini & Hochberg over all pairs that could have been found.
 */
import { DocumentDraws, intervalOf } from "./document-draws.ts";
import { firingCounts, turnedInDocuments, type Firings, type HeldText } from "./firings.ts";
import type { Interval } from "./interval.ts";
import { togetherOf, type Together } from "./neighbors.ts";
import { benjaminiHochberg } from "./significance.ts";
import { turnable, Turning, type TurnTest } from "./turning.ts";

export interface CompositionRules {
  /** Latents that fire less often, on either half of the documents, are not judged. */
  minFirings: number;
  /** Meetings expected from which there being few of them can mean something. */
  minExpected: number;
  /** The share of what is found that may be false, on average. */
  fdr: number;
}

export const COMPOSITION_RULES: CompositionRules = { minFirings: 20, minExpected: 5, fdr: 0.05 };

export const PAIR_KINDS = ["together", "apart"] as const;
export type PairKind = (typeof PAIR_KINDS)[number];

/** A text in two halves, with the firings of one SAE on each. */
export interface Halves {
  selection: Firings;
  test: Firings;
}

/** The texts of the two halves. */
export interface HalvedText {
  selection: HeldText;
  test: HeldText;
}

/** A pair as it was found on the selection documents. */
export interface FoundPair {
  latents: [f: number, g: number];
  /** Pearson's correlation of "fires". */
  phi: number;
  /** Highest share of the expected meetings that is still likely: (the upper end of a 95 % interval of n) / E. */
  most: number;
  q: number;
}

export interface PairSearch {
  /** Latents that were judged, of either SAE. */
  judged: [number, number];
  /** Pairs that were tested for being together, and for being apart. */
  tests: Record<PairKind, number>;
  /** With q ≤ `fdr`: together by falling phi, apart by rising `most`. */
  found: Record<PairKind, FoundPair[]>;
}

export interface SearchOptions {
  rules?: CompositionRules;
  /** Only pairs with one of these latents (of the first SAE); absent: all. */
  latents?: readonly number[] | undefined;
  signal?: AbortSignal;
  onProgress?: (done: number, total: number) => void;
}

/** Whether a latent fires often enough, on all of these, to be judged. */
export function judgedLatents(halves: readonly Firings[], minFirings: number): boolean[] {
  const counts = halves.map(firingCounts);
  return Array.from(counts[0], (_, f) => counts.every((count) => count[f] >= minFirings));
}

/**
 * Tests all pairs of latents of `a` with latents of `b`; the same firings twice: of each two latents once.
 * @param judged by latent of either; others are left out.
 */
export async function searchPairs(
  a: Firings,
  b: Firings,
  text: HeldText,
  judged: readonly [readonly boolean[], readonly boolean[]],
  { rules = COMPOSITION_RULES, latents, signal, onProgress }: SearchOptions = {},
): Promise<PairSearch> {
  const isOne = a === b;
  const ofA = turnable(a, text);
  const ofB = isOne ? ofA : turnable(b, text);
  const turning = new Turning(ofA, ofB);
  const [countsA, countsB] = [firingCounts(a), firingCounts(b)];
  const isAsked = new Set(latents);
  const asked = (latents ?? Array.from(judged[0], (_, f) => f)).filter((f) => judged[0][f]);
  // Pairs (f, g) with f < g, or with an asked f and any g that is not asked for itself and before f.
  const isSeen = (f: number, g: number) =>
    isOne && (g === f || (g < f && (latents === undefined || isAsked.has(g))));
  const inDocument = latentsByDocument(ofB);
  const expected = new Float64Array(b.dSae);
  const meetings = new Int32Array(b.dSae);
  const others = Array.from(judged[1], (_, g) => g).filter((g) => judged[1][g]);
  const tests = { together: 0, apart: 0 };
  const made: Record<PairKind, { found: FoundPair[]; p: number[] }> = {
    together: { found: [], p: [] },
    apart: { found: [], p: [] },
  };
  let breath = performance.now();
  for (const [done, f] of asked.entries()) {
    expected.fill(0);
    meetings.fill(0);
    for (let k = ofA.offsets[f]; k < ofA.offsets[f + 1]; k++) {
      const d = ofA.document[k];
      const share = (ofA.from[k + 1] - ofA.from[k]) / ofA.lengths[d];
      const { latents: there, counts } = inDocument[d];
      for (let i = 0; i < there.length; i++) expected[there[i]] += share * counts[i];
    }
    const { offsets, latents: inRow } = b.rows;
    for (let i = a.offsets[f]; i < a.offsets[f + 1]; i++)
      for (let j = offsets[a.at[i]]; j < offsets[a.at[i] + 1]; j++) meetings[inRow[j]]++;
    const add = (kind: PairKind, g: number, p: number, { together, turned }: TurnTest) => {
      const { phi } = togetherOf(text.positions, countsA[f], countsB[g], meetings[g]);
      const most = poissonHigh(together) / turned;
      made[kind].found.push({ latents: [f, g], phi, most, q: NaN });
      made[kind].p.push(p);
    };
    for (const g of others) {
      if (isSeen(f, g)) continue;
      tests.together++;
      const [n, e] = [meetings[g], expected[g]];
      const canBeApart = e >= rules.minExpected;
      if (canBeApart) tests.apart++;
      // What is near expectation has a p of 0.15 or so at least, which is as good as 1.
      const near = Math.sqrt(e) + 0.3;
      const isMore = n > e + near;
      if (!isMore && !(canBeApart && n < e - near)) continue;
      const test = turning.test(f, g);
      const p = isMore ? test.more : test.fewer;
      if (p <= rules.fdr) add(isMore ? "together" : "apart", g, p, test);
    }
    if (performance.now() - breath < 50) continue;
    signal?.throwIfAborted();
    onProgress?.(done + 1, asked.length);
    await new Promise((resolve) => setImmediate(resolve));
    breath = performance.now();
  }
  const found = (kind: PairKind, order: (x: FoundPair, y: FoundPair) => number) => {
    const q = benjaminiHochberg(made[kind].p, tests[kind]);
    return made[kind].found
      .map((pair, i) => ({ ...pair, q: q[i] }))
      .filter((pair) => pair.q <= rules.fdr)
      .sort((x, y) => order(x, y) || x.latents[0] - y.latents[0] || x.latents[1] - y.latents[1]);
  };
  return {
    judged: [judged[0].filter(Boolean).length, others.length],
    tests,
    found: {
      together: found("together", (x, y) => y.phi - x.phi),
      apart: found("apart", (x, y) => x.most - y.most),
    },
  };
}

/** Of each document its latents, and how often each fires there. */
function latentsByDocument({
  firings,
  offsets,
  document,
  from,
  lengths,
}: ReturnType<typeof turnable>) {
  const lists = Array.from(lengths, () => ({ latents: [] as number[], counts: [] as number[] }));
  for (let f = 0; f < firings.dSae; f++)
    for (let k = offsets[f]; k < offsets[f + 1]; k++) {
      lists[document[k]].latents.push(f);
      lists[document[k]].counts.push(from[k + 1] - from[k]);
    }
  return lists;
}

/** Two latents, measured on the test documents. */
export interface Pair extends Omit<Together, "pmi" | "phi"> {
  latents: [f: number, g: number];
  /** On the selection documents. */
  q: number;
  /** Positions at which each fires. */
  firings: [f: number, g: number];
  /** Meetings expected where every document's firings are turned round. */
  turned: number;
  z: number;
  /** Of the test again, on these documents. */
  p: number;
  /** log₂(together / expected), in bits; −∞ where they never meet, `high` then log₂ of 3.69 / expected. */
  pmi: Interval;
  phi: Interval;
  /** P(g | f) and P(f | g). */
  conditional: [Interval, Interval];
}

/** The upper end of a 95 % interval of a Poisson mean when `count` were seen (Wilson & Hilferty 1931); at 0 it is −ln 0.025. */
function poissonHigh(count: number): number {
  if (count === 0) return -Math.log(0.025);
  const k = count + 1;
  return k * (1 - 1 / (9 * k) + 1.959964 / (3 * Math.sqrt(k))) ** 3;
}

/** Measures pairs on the test documents; intervals by the bootstrap over documents, all from the same draws. */
export class PairMeasurer {
  readonly #a: Firings;
  readonly #b: Firings;
  readonly #text: HeldText;
  readonly #turning: Turning;
  readonly #draws: DocumentDraws;
  readonly #positions: Float64Array;

  constructor(a: Firings, b: Firings, text: HeldText, seed = 0) {
    [this.#a, this.#b, this.#text] = [a, b, text];
    const ofA = turnable(a, text);
    this.#turning = new Turning(ofA, a === b ? ofA : turnable(b, text));
    this.#draws = new DocumentDraws(text.documents, seed);
    this.#positions = this.#draws.sums(Float64Array.from(ofA.lengths));
  }

  measure({ latents: [f, g], q }: Pick<FoundPair, "latents" | "q">, kind: PairKind): Pair {
    const { documents, document, positions: n } = this.#text;
    const columns = Array.from({ length: 3 }, () => new Float64Array(documents));
    const [ofF, ofG, ofBoth] = columns;
    const [a, b] = [this.#a, this.#b];
    let j = b.offsets[g];
    for (let i = a.offsets[f]; i < a.offsets[f + 1]; i++) {
      ofF[document[a.at[i]]]++;
      while (j < b.offsets[g + 1] && b.at[j] < a.at[i]) j++;
      if (j < b.offsets[g + 1] && b.at[j] === a.at[i]) ofBoth[document[a.at[i]]]++;
    }
    for (let i = b.offsets[g]; i < b.offsets[g + 1]; i++) ofG[document[b.at[i]]]++;
    const [nf, ng, nfg] = columns.map((column) => column.reduce((sum, v) => sum + v, 0));
    const drawn = columns.map((column) => this.#draws.sums(column));
    const on = (
      statistic: (n: number, nf: number, ng: number, nfg: number) => number,
    ): Interval => {
      const value = statistic(n, nf, ng, nfg);
      if (documents < 2) return { value, low: NaN, high: NaN };
      const draws = this.#positions.map((m, i) => statistic(m, drawn[0][i], drawn[1][i], drawn[2][i])); // prettier-ignore
      return intervalOf({ value, draws });
    };
    const { together, expected, jaccard } = togetherOf(n, nf, ng, nfg);
    const { turned, z, more, fewer } = this.#turning.test(f, g);
    const pmi = on((...counts) => togetherOf(...counts).pmi);
    if (nfg === 0) pmi.high = Math.log2(poissonHigh(0) / expected);
    return {
      ...{ latents: [f, g], q, firings: [nf, ng], together, expected, turned, z },
      ...{ p: kind === "together" ? more : fewer, jaccard, pmi },
      phi: on((...counts) => togetherOf(...counts).phi),
      conditional: [on((_, f, __, fg) => fg / f), on((_, __, g, fg) => fg / g)],
    };
  }
}

/** Pairs of one kind: how many, how many by chance, and those that stand out. */
export interface PairKindResult {
  /** Pairs tested, and found with q ≤ `fdr`, on the selection documents. */
  tests: number;
  found: number;
  /** Found where each latent's documents were turned round: all of them false. */
  null: number;
  /** Of those listed, how many have p ≤ 0.05 on the test documents too; by chance 5 %. */
  confirmed: number;
  listed: Pair[];
}

export interface Composition {
  rules: CompositionRules;
  selectionPositions: number;
  positions: number;
  /** Test documents, the units of the bootstrap. */
  documents: number;
  judged: [number, number];
  together: PairKindResult;
  apart: PairKindResult;
}

export interface CompositionOptions extends SearchOptions {
  /** Pairs of each kind that are measured and listed. */
  list?: number;
  seed?: number;
}

/**
 * What occurs together and what excludes each other: latents of `a` with those of `b`, or, the same halves
 * given twice, with each other.
 * @returns counts of zero where no latent fires often enough.
 */
export async function composition(
  a: Halves,
  b: Halves,
  text: HalvedText,
  options: CompositionOptions = {},
): Promise<Composition> {
  const { rules = COMPOSITION_RULES, list = 200, seed = 0, onProgress } = options;
  const isOne = a === b;
  const judged = [a, b].map(({ selection, test }) =>
    judgedLatents([selection, test], rules.minFirings),
  ) as [boolean[], boolean[]];
  const part = (from: number) => ({
    ...options,
    ...(onProgress && { onProgress: (n: number, of: number) => onProgress(from * of + n, 2 * of) }),
  });
  const search = await searchPairs(a.selection, b.selection, text.selection, judged, part(0));
  const turned = turnedInDocuments(b.selection, text.selection, seed);
  const chance = await searchPairs(isOne ? turned : a.selection, turned, text.selection, judged, part(1)); // prettier-ignore
  const measurer = new PairMeasurer(a.test, isOne ? a.test : b.test, text.test, seed);
  const result = (kind: PairKind): PairKindResult => {
    const listed = search.found[kind].slice(0, list).map((pair) => measurer.measure(pair, kind));
    return {
      ...{ tests: search.tests[kind], found: search.found[kind].length },
      null: chance.found[kind].length,
      confirmed: listed.filter(({ p }) => p <= 0.05).length,
      listed,
    };
  };
  return {
    rules,
    selectionPositions: text.selection.positions,
    positions: text.test.positions,
    documents: text.test.documents,
    judged: search.judged,
    together: result("together"),
    apart: result("apart"),
  };
}
