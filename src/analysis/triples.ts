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
import { firingCounts, turnedInDocuments, type Firings } from "./firings.ts";
import { benjaminiHochberg, wilson } from "./significance.ts";
import {
  margins,
  TRIPLE_KINDS,
  TRIPLE_RULES,
  TripleMeasurer,
  tripleShares,
  type Triple,
  type TripleKind,
} from "./triple-measure.ts";

/** Latents that triples are looked for among: the most frequent ones. Their pair counts take 134 MB at most. */
const MOST_LATENTS = 8192;

interface ChosenTriple {
  latents: [a: number, b: number, c: number];
  gain: number;
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
      // At most withThird / ab can be gained.
      for (const c of thirds) if (withThird[c] >= minGain * ab) consider("and", c);
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
