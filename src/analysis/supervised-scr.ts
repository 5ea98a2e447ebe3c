/**
 * Spurious correlation removal (SHIFT, Marks et al. 2024, made a score by Karvonen et al. 2024; SAEBench): a classifier
 * of a target concept A learns from rows in which another concept B always comes with it, and so leans
 * on B. The latents that a probe for B owes most to are removed; if they are B and nothing else, the
 * classifier is as good as one that learnt from rows in which A and B have nothing to do with each other:
 *
 *   SCR(n) = (acc_removed(n) − acc_biased) / (acc_clean − acc_biased)
 *
 * with accuracies for A on test rows of which a quarter have both, A alone, B alone, neither. Latents are ranked by
 * |Δmean_i · (w_B · W_dec[i])| on train rows so balanced. 1: the bias is gone; 0: nothing has changed;
 * below 0: removing them has done harm. Latents that fire as often, at random, are the null.
 *
 * Removing a latent sets it to 0, as SAEBench does. That also moves the scores of all rows one way, and with them the
 * place of the classifier's threshold, which is no bias; beside it stands the same with each latent set to its
 * mean over the balanced train rows, which does not.
 */
import { Rng } from "../rng.ts";
import { DocumentDraws, intervalOf, type Drawn } from "./document-draws.ts";
import type { Interval } from "./interval.ts";
import {
  commonConcepts,
  mean,
  NULL_DRAWS,
  nullOf,
  REMOVED,
  RemovalProbe,
  type AccuracyTally,
  type RemovalOptions,
} from "./supervised-removal.ts";
import {
  largest,
  latentMeans,
  picked,
  type LabelledRows,
  type LabelledSplit,
  type Picked,
} from "./supervised-rows.ts";
import { matchedLatents } from "./supervised-scores.ts";

export interface ScrOptions extends RemovalOptions {
  /** [target, spurious]; absent: pairs of common concepts, the most balanced first, both ways round. */
  pairs?: readonly (readonly [string, string])[];
  /** How many such pairs, each both ways round; default 4. */
  pairCount?: number;
  /** Rows of each of the four combinations, at most; default 250. */
  perCell?: number;
}

export interface ScrPair {
  target: string;
  spurious: string;
  trainRows: number;
  testRows: number;
  /** Of the target on balanced test rows, of which half have it: chance is 0.5. */
  accuracy: { clean: Interval; biased: Interval };
  /** Why there is no score: too few rows, or a classifier that is not biased. */
  unmeasured?: string;
  removed: {
    n: number;
    /** The most effective first. */
    latents: number[];
    toZero: Removal;
    toMean: Removal;
  }[];
}

export interface Removal {
  accuracy: Interval;
  score: Interval;
  /** The score when as many latents that fire as often are removed: mean and the middle 95 % of 10 draws. */
  null: Interval;
}

const WAYS = ["toZero", "toMean"] as const;
type Way = (typeof WAYS)[number];

export interface ScrResult {
  chance: 0.5;
  pairs: ScrPair[];
  /** Mean over the pairs with a score, documents drawn once for all of them. */
  means: { n: number; pairs: number; toZero: MeanRemoval; toMean: MeanRemoval }[];
  /** Mean scores with latents set to their means on every draw, by name. */
  drawn: Record<string, Drawn>;
}

interface MeanRemoval {
  score: Interval;
  null: number;
}

const MIN_PER_CELL = 15;
/** Below it there is no bias to speak of, and the score would divide by noise. */
const MIN_BIAS = 0.05;

/** @param W_dec raw units, [dSae, dIn] (`rawDecoder`). */
export function spuriousRemoval(
  split: LabelledSplit,
  W_dec: Float32Array,
  options: ScrOptions = {},
): ScrResult {
  const { seed = 0, removed = REMOVED } = options;
  const draws = new DocumentDraws(split.test.documents, seed);
  const pairs = options.pairs ?? balancedPairs(split, options.pairCount ?? 4);
  const measured = pairs.map(([target, spurious], i) => {
    options.onProgress?.(i, pairs.length);
    return removeOne(split, W_dec, target, spurious, draws, { ...options, seed, removed });
  });
  const scored = measured.filter(({ pair }) => pair.unmeasured === undefined);
  const drawn: Record<string, Drawn> = {};
  const means = removed.flatMap((n, at) => {
    const own = scored.filter(({ pair }) => pair.removed[at]?.n === n);
    if (own.length === 0) return [];
    const [toZero, toMean] = WAYS.map((way) => {
      const score = draws.draw((w) => mean(own.map(({ scoreOf }) => scoreOf(at, way, w))));
      if (way === "toMean") drawn[`score.${n}`] = score;
      const byChance = mean(own.map(({ pair }) => pair.removed[at][way].null.value));
      return { score: intervalOf(score), null: byChance };
    });
    return [{ n, pairs: own.length, toZero, toMean }];
  });
  return { chance: 0.5, pairs: measured.map(({ pair }) => pair), means, drawn };
}

/** Pairs of common concepts, both ways round, in the order of the rarest of their four combinations. */
export function balancedPairs({ train }: LabelledSplit, count: number): [string, string][] {
  const names = commonConcepts(train);
  const found: { pair: [string, string]; least: number }[] = [];
  for (const [i, a] of names.entries())
    for (const b of names.slice(i + 1)) {
      const least = Math.min(...cellsOf(train, a, b).map((cell) => cell.length));
      found.push({ pair: [a, b], least });
    }
  found.sort((p, q) => q.least - p.least);
  // Each concept in two pairs at most, so that the mean is not about one of them.
  const uses = new Map<string, number>();
  const chosen: [string, string][] = [];
  for (const { pair } of found) {
    if (chosen.length === 2 * count) break;
    if (pair.some((name) => (uses.get(name) ?? 0) >= 2)) continue;
    for (const name of pair) uses.set(name, (uses.get(name) ?? 0) + 1);
    chosen.push(pair, [pair[1], pair[0]]);
  }
  return chosen;
}

/** Rows with neither, b alone, a alone, both. */
function cellsOf({ labels, rows }: LabelledRows, a: string, b: string): number[][] {
  const cells: number[][] = [[], [], [], []];
  const none = new Uint8Array(rows);
  const [hasA, hasB] = [labels.get(a) ?? none, labels.get(b) ?? none];
  for (let n = 0; n < rows; n++) cells[2 * hasA[n] + hasB[n]].push(n);
  return cells;
}

function removeOne(
  split: LabelledSplit,
  W_dec: Float32Array,
  target: string,
  spurious: string,
  draws: DocumentDraws,
  options: ScrOptions & { seed: number; removed: readonly number[] },
) {
  const { train, test } = split;
  const { perCell = 250, seed, removed } = options;
  const rng = new Rng(seed, "scr", target, spurious);
  const sampled = (sample: LabelledRows) => {
    const cells = cellsOf(sample, target, spurious).map((rows) => rng.shuffle(rows));
    return { cells, size: Math.min(perCell, ...cells.map((rows) => rows.length)) };
  };
  const [fit, measure] = [sampled(train), sampled(test)];
  const pair: ScrPair = {
    ...{ target, spurious, trainRows: 4 * fit.size, testRows: 4 * measure.size },
    ...{ accuracy: { clean: noInterval(), biased: noInterval() }, removed: [] },
  };
  const without: Record<Way, AccuracyTally>[] = [];
  let scoreFrom: (tally: AccuracyTally, weights: Uint16Array) => number = () => NaN;
  const scoreOf = (at: number, way: Way, weights: Uint16Array) =>
    scoreFrom(without[at][way], weights);
  if (Math.min(fit.size, measure.size) < MIN_PER_CELL) {
    pair.unmeasured = `fewer than ${MIN_PER_CELL} rows of one of the four combinations (train ${fit.size}, test ${measure.size})`;
    return { pair, scoreOf };
  }
  const [labelA, labelB] = [train.labels.get(target)!, train.labels.get(spurious)!];
  const quarters = fit.cells.flatMap((rows) => rows.slice(0, fit.size));
  const [neither, , , both] = fit.cells;
  const half = Math.min(2 * fit.size, neither.length, both.length);
  const biasedRows = picked([...neither.slice(0, half), ...both.slice(0, half)], labelA);
  const balancedA = picked(quarters, labelA);
  const balancedB = picked(quarters, labelB);
  const asked = picked(
    measure.cells.flatMap((rows) => rows.slice(0, measure.size)),
    test.labels.get(target)!,
  );
  const probeOf = (rows: Picked) => new RemovalProbe(split, W_dec, rows, asked);
  const [clean, biased, ofSpurious] = [balancedA, biasedRows, balancedB].map(probeOf);
  const [cleanTally, biasedTally] = [clean, biased].map((probe) => probe.without([]));
  const interval = (statistic: (weights: Uint16Array) => number) => draws.interval(statistic);
  pair.accuracy.clean = interval((w) => cleanTally.accuracy(w));
  pair.accuracy.biased = interval((w) => biasedTally.accuracy(w));
  const bias = pair.accuracy.clean.value - pair.accuracy.biased.value;
  if (bias < MIN_BIAS) {
    pair.unmeasured = `the biased classifier is no more than ${MIN_BIAS} worse than the clean one (${bias.toFixed(3)}): there is no bias to remove`;
    return { pair, scoreOf };
  }
  const ranked = largest(ofSpurious.effects.map(Math.abs), Math.max(...removed));
  const shift = latentMeans(train, balancedB.rows).map((m, f) => m * biased.products[f]);
  const tallyWithout = (latents: readonly number[], way: Way) =>
    biased.without(latents, way === "toZero" ? 0 : latents.reduce((sum, f) => sum + shift[f], 0));
  scoreFrom = (tally, weights) => {
    const [from, to] = [biasedTally.accuracy(weights), cleanTally.accuracy(weights)];
    // A draw of documents in which nothing is biased says nothing about the removal.
    return to > from ? (tally.accuracy(weights) - from) / (to - from) : NaN;
  };
  const everyOnce = new Uint16Array(test.documents).fill(1);
  for (const n of removed) {
    if (n > ranked.length) break;
    const latents = ranked.slice(0, n);
    const others = Array.from({ length: NULL_DRAWS }, () => matchedLatents(train, latents, rng));
    const [toZero, toMean] = WAYS.map((way) => {
      const tally = tallyWithout(latents, way);
      const removal: Removal = {
        accuracy: interval((w) => tally.accuracy(w)),
        score: interval((w) => scoreFrom(tally, w)),
        null: nullOf(others.map((latents) => scoreFrom(tallyWithout(latents, way), everyOnce))),
      };
      return { tally, removal };
    });
    without.push({ toZero: toZero.tally, toMean: toMean.tally });
    pair.removed.push({
      ...{ n, latents: latents.slice(0, 20) },
      ...{ toZero: toZero.removal, toMean: toMean.removal },
    });
  }
  return { pair, scoreOf };
}

function noInterval(): Interval {
  return { value: NaN, low: NaN, high: NaN };
}
