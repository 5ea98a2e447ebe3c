/**
 * Which latents of one SAE are which of another, by what they do on the same text: two hook points, two
 * checkpoints, two trainings. Partners are chosen on some documents (selection) and every number is
 * measured on others (test), so that choosing the best of thousands flatters nobody.
 *
 * r        Pearson's correlation of two latents' activations over all positions, silent ones included
 * shared   each is the other's best partner, and r ≥ `shared`
 * split    not shared; the sum of 2 to 4 latents of B has r ≥ `shared` with it, and by `margin` more than
 *          the best single one. In the sum an activation counts by what it writes: times ‖W_dec row‖
 * merged   neither; one of those whose sum a latent of B is, in the same sense
 * lost     none of these, and no latent of B has r ≥ `lost` with it. From B's side: new
 * related  what is left. rare: fires on fewer than `minFirings` positions of either half
 */
import { matchCandidates, type Candidate } from "../sae/recovery.ts";
import {
  CorrelationDraws,
  correlationOf,
  documentSums,
  firingCounts,
  Meetings,
  momentsOf,
  pearsonOfSums,
  rotated,
  seriesOf,
  type DocumentSums,
  type Firings,
  type HeldText,
} from "./firings.ts";
import type { Interval } from "./interval.ts";

export interface MatchThresholds {
  shared: number;
  lost: number;
  /** By how much a sum must correlate better than its best part. */
  margin: number;
  /** Latents that fire less often, in either half, are not judged. */
  minFirings: number;
}

export const MATCH_THRESHOLDS: MatchThresholds = {
  ...{ shared: 0.7, lost: 0.3, margin: 0.05, minFirings: 20 },
};

/** Partners that are looked at for each latent: those with the highest r on the selection documents. */
export const CANDIDATES = 10;
/** Latents in a sum, at most. */
const PARTS = 4;
/** A further part must add this much to r on the selection documents. */
const PART_GAIN = 0.01;

/** A latent's class: of B's latents `new` stands for `lost`, and split and merged change places. */
export const MATCH_KINDS = ["shared", "split", "merged", "related", "lost", "new", "rare"] as const;
export type MatchKind = (typeof MATCH_KINDS)[number];

export interface LatentMatch {
  latent: number;
  kind: MatchKind;
  /** The latent of the other SAE with the highest r on the selection documents; -1 for none. */
  partner: number;
  /** With the partner; of what is lost, new or rare without an interval. */
  correlation: Interval;
  /** Those whose sum correlates best with it, where that is more than the partner does. */
  parts: number[];
  sumCorrelation?: Interval;
}

/** How many latents are of a class, and how many would be if the two SAEs had read different text. */
export interface KindCount {
  count: number;
  null: number;
}

export interface Matching {
  thresholds: MatchThresholds;
  selectionPositions: number;
  positions: number;
  /** Test documents, the units of the bootstrap. */
  documents: number;
  a: LatentMatch[];
  b: LatentMatch[];
  counts: { a: Record<string, KindCount>; b: Record<string, KindCount> };
  oneToOne: OneToOne;
}

/** Each latent given one of its own, so that the sum of the scores is largest. */
export interface OneToOne {
  /** Pairs. */
  pairs: number;
  /** Mean of the score over the pairs; r on the test documents, or the cosine. */
  mean: number;
  /** Pairs with a score of at least the threshold of `shared`. */
  atLeastShared: number;
  null: { pairs: number; mean: number; atLeastShared: number };
  /** False when there were too many candidates for the best matching, and a greedy one was made. */
  exact: boolean;
  /** B's latent for each of A, -1 for none; [dSae of A]. */
  partner: number[];
}

/** One SAE as `matchFeatures` needs it: on the selection documents, on the test documents. */
export interface MatchSide {
  selection: Firings;
  test: Firings;
  /** ‖W_dec row‖, [dSae]. */
  norms: Float64Array;
}

/** @throws nothing; with fewer than two test documents all intervals are NaN. */
export function matchFeatures(
  a: MatchSide,
  b: MatchSide,
  test: HeldText,
  thresholds: MatchThresholds = MATCH_THRESHOLDS,
  seed = 0,
): Matching {
  const evidence = gather(a, b, test, thresholds);
  const found = judge(evidence, test.positions, thresholds);
  const elsewhere = gather(a, turned(b), test, thresholds);
  const chance = judge(elsewhere, test.positions, thresholds);

  const draws = new CorrelationDraws(test, seed);
  const side = (of: "a" | "b") =>
    evidence[of].map(({ partner, parts, single, sum }, latent): LatentMatch => {
      const { kinds, single: value, sum: sumValue } = found[of];
      const kind = kinds[latent];
      const known = single && kind !== "lost" && kind !== "new";
      const r = value[latent];
      const isBetter = sum !== undefined && sumValue[latent] > r;
      return {
        ...{ latent, kind, partner },
        correlation: known ? draws.interval(single, r) : { value: r, low: NaN, high: NaN },
        parts: isBetter ? parts : [],
        ...(isBetter && { sumCorrelation: draws.interval(sum, sumValue[latent]) }),
      };
    });
  const counts = (of: "a" | "b") =>
    Object.fromEntries(
      MATCH_KINDS.filter((kind) => kind !== (of === "a" ? "new" : "lost")).map((kind) => {
        const count = ({ kinds }: Judged) => kinds.filter((one) => one === kind).length;
        return [kind, { count: count(found[of]), null: count(chance[of]) }];
      }),
    );
  const real = oneToOne(evidence, a, b, test, thresholds.shared);
  const { pairs, mean, atLeastShared } = oneToOne(elsewhere, a, turned(b), test, thresholds.shared);
  return {
    thresholds,
    selectionPositions: a.selection.positions,
    positions: test.positions,
    documents: test.documents,
    a: side("a"),
    b: side("b"),
    counts: { a: counts("a"), b: counts("b") },
    oneToOne: { ...real, null: { pairs, mean, atLeastShared } },
  };
}

function turned({ selection, test, norms }: MatchSide): MatchSide {
  const by = ({ positions }: Firings) => Math.floor(positions / 2);
  return { selection: rotated(selection, by(selection)), test: rotated(test, by(test)), norms };
}

/** What is known of one latent beside its class; `single` and `sum` are of the test documents. */
interface Evidence {
  rare: boolean;
  mutual: boolean;
  partner: number;
  single: DocumentSums | undefined;
  parts: number[];
  sum: DocumentSums | undefined;
}

/** Best partners of each latent on the selection documents; r falls along `latents`. */
interface Partners {
  latents: number[];
  correlations: number[];
}

function gather(
  a: MatchSide,
  b: MatchSide,
  test: HeldText,
  { minFirings, shared }: MatchThresholds,
): { a: Evidence[]; b: Evidence[]; partnersOfA: Partners[] } {
  const partners = bestPartners(a.selection, b.selection);
  const best = (of: Partners[]) => of.map(({ latents }) => latents[0] ?? -1);
  const [bestOfA, bestOfB] = [best(partners.a), best(partners.b)];
  const side = (own: MatchSide, other: MatchSide, mine: Partners[], theirs: number[]) => {
    const counts = [firingCounts(own.selection), firingCounts(own.test)];
    const moments = momentsOf(own.selection);
    const scratch = [0, 1].map(() => new Float64Array(own.selection.positions));
    const others = momentsOf(other.selection);
    return mine.map(({ latents }, f): Evidence => {
      const partner = latents[0] ?? -1;
      const rare = counts.some((count) => count[f] < minFirings);
      if (rare || partner < 0)
        return { rare, mutual: false, partner, single: undefined, parts: [], sum: undefined };
      const series = seriesOf(own.test, [f]);
      const single = documentSums(series, seriesOf(other.test, [partner]), test.document);
      const mutual = theirs[partner] === f;
      if (mutual && correlationOf(single, test.positions) >= shared)
        return { rare, mutual, partner, single, parts: [], sum: undefined };
      const parts = partsOf(f, own.selection, other, moments, others, latents, scratch);
      return {
        ...{ rare, mutual, partner, single, parts },
        sum:
          parts.length > 1
            ? documentSums(series, seriesOf(other.test, parts, other.norms), test.document)
            : undefined,
      };
    });
  };
  return {
    a: side(a, b, partners.a, bestOfB),
    b: side(b, a, partners.b, bestOfA),
    partnersOfA: partners.a,
  };
}

/** The `CANDIDATES` best partners, both ways, in one sweep. */
function bestPartners(a: Firings, b: Firings): { a: Partners[]; b: Partners[] } {
  const [of, other] = [momentsOf(a), momentsOf(b)];
  const empty = (n: number) =>
    Array.from({ length: n }, (): Partners => ({ latents: [], correlations: [] }));
  const found = { a: empty(a.dSae), b: empty(b.dSae) };
  const meetings = new Meetings(b.dSae);
  for (let f = 0; f < a.dSae; f++) {
    meetings.look(a, f, b);
    for (const g of meetings.partners) {
      const { sums, squares } = other;
      const ab = meetings.products[g];
      const r = pearsonOfSums(a.positions, of.sums[f], of.squares[f], sums[g], squares[g], ab);
      if (!(r > 0)) continue;
      insert(found.a[f], g, r);
      insert(found.b[g], f, r);
    }
  }
  return found;
}

function insert({ latents, correlations }: Partners, latent: number, r: number): void {
  let place = correlations.length;
  // Of equals the one with the lower number comes first.
  while (
    place > 0 &&
    (correlations[place - 1] < r || (correlations[place - 1] === r && latents[place - 1] > latent))
  )
    place--;
  if (place >= CANDIDATES) return;
  latents.splice(place, 0, latent);
  correlations.splice(place, 0, r);
  latents.length = correlations.length = Math.min(latents.length, CANDIDATES);
}

/** Adds the candidate that raises r of the sum most, from the best single one on, until none does. */
function partsOf(
  f: number,
  own: Firings,
  other: MatchSide,
  mine: ReturnType<typeof momentsOf>,
  theirs: ReturnType<typeof momentsOf>,
  candidates: readonly number[],
  [activations, sum]: readonly Float64Array[],
): number[] {
  const n = own.positions;
  for (let i = own.offsets[f]; i < own.offsets[f + 1]; i++) activations[own.at[i]] = own.values[i];
  const { offsets, at, values } = other.selection;
  const dot = (g: number, vector: Float64Array) => {
    let total = 0;
    for (let i = offsets[g]; i < offsets[g + 1]; i++) total += values[i] * vector[at[i]];
    return total * other.norms[g];
  };
  const products = candidates.map((g) => dot(g, activations));
  const chosen: number[] = [];
  let [total, squares, product, r] = [0, 0, 0, 0];
  while (chosen.length < PARTS) {
    let best: { c: number; r: number; squares: number } | undefined;
    for (const [c, g] of candidates.entries()) {
      if (chosen.includes(c)) continue;
      if (chosen.length === 0 && c > 0) break;
      const norm = other.norms[g];
      const squared = squares + 2 * dot(g, sum) + norm ** 2 * theirs.squares[g];
      const raised = pearsonOfSums(
        ...([n, mine.sums[f], mine.squares[f], total + norm * theirs.sums[g], squared] as const),
        product + products[c],
      );
      if (raised > (best?.r ?? -1)) best = { c, r: raised, squares: squared };
    }
    if (!best || (chosen.length > 0 && best.r < r + PART_GAIN)) break;
    const g = candidates[best.c];
    chosen.push(best.c);
    total += other.norms[g] * theirs.sums[g];
    product += products[best.c];
    ({ r, squares } = best);
    for (let i = offsets[g]; i < offsets[g + 1]; i++) sum[at[i]] += values[i] * other.norms[g];
  }
  // Both are all 0 in between.
  for (let i = own.offsets[f]; i < own.offsets[f + 1]; i++) activations[own.at[i]] = 0;
  for (const c of chosen)
    for (let i = offsets[candidates[c]]; i < offsets[candidates[c] + 1]; i++) sum[at[i]] = 0;
  return chosen.map((c) => candidates[c]);
}

interface Judged {
  kinds: MatchKind[];
  single: Float64Array;
  sum: Float64Array;
}

/** Classes by the rules above, over the `n` positions of the test documents. */
function judge(
  evidence: { a: Evidence[]; b: Evidence[] },
  n: number,
  { shared, lost, margin }: MatchThresholds,
): { a: Judged; b: Judged } {
  const measure = (side: Evidence[], of: "single" | "sum") =>
    Float64Array.from(side, (one) => {
      const sums = one[of];
      return sums ? correlationOf(sums, n) : NaN;
    });
  const single = { a: measure(evidence.a, "single"), b: measure(evidence.b, "single") };
  const sum = { a: measure(evidence.a, "sum"), b: measure(evidence.b, "sum") };
  const isShared = (of: "a" | "b", f: number) => evidence[of][f].mutual && single[of][f] >= shared;
  const isSum = (of: "a" | "b", f: number) =>
    !isShared(of, f) && sum[of][f] >= shared && sum[of][f] >= single[of][f] + margin;
  const partsIn = (of: "a" | "b") => {
    const parts = new Set<number>();
    evidence[of].forEach(({ parts: own }, f) => {
      if (isSum(of, f)) for (const part of own) parts.add(part);
    });
    return parts;
  };
  const partOf = { a: partsIn("b"), b: partsIn("a") };
  const kindsOf = (of: "a" | "b") =>
    evidence[of].map(({ rare }, f): MatchKind => {
      if (rare) return "rare";
      if (isShared(of, f)) return "shared";
      if (isSum(of, f)) return of === "a" ? "split" : "merged";
      if (partOf[of].has(f)) return of === "a" ? "merged" : "split";
      if (single[of][f] >= lost) return "related";
      return of === "a" ? "lost" : "new";
    });
  return {
    a: { kinds: kindsOf("a"), single: single.a, sum: sum.a },
    b: { kinds: kindsOf("b"), single: single.b, sum: sum.b },
  };
}

/** The best one-to-one matching of candidates by r on the selection documents, measured on the test ones. */
function oneToOne(
  { a: evidence, b: others, partnersOfA }: ReturnType<typeof gather>,
  a: MatchSide,
  b: MatchSide,
  test: HeldText,
  threshold: number,
): Omit<OneToOne, "null"> {
  const candidates = partnersOfA.flatMap(({ latents, correlations }, row): Candidate[] =>
    evidence[row].rare
      ? []
      : latents.flatMap((column, i) =>
          others[column].rare ? [] : [{ row, column, score: correlations[i] }],
        ),
  );
  const { partner, exact } = matchCandidates(candidates, evidence.length, others.length);
  const scores = Array.from(partner, (g, f) => {
    if (g < 0) return NaN;
    const sums = documentSums(seriesOf(a.test, [f]), seriesOf(b.test, [g]), test.document);
    return correlationOf(sums, test.positions);
  });
  return { ...summary(scores, threshold), exact, partner: [...partner] };
}

/** Of the scores that are numbers. */
export function summary(
  scores: readonly number[],
  threshold: number,
): Pick<OneToOne, "pairs" | "mean" | "atLeastShared"> {
  const made = scores.filter((score) => !Number.isNaN(score));
  return {
    pairs: made.length,
    mean: made.reduce((sum, score) => sum + score, 0) / made.length,
    atLeastShared: made.filter((score) => score >= threshold).length,
  };
}
