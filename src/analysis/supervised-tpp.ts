/**
 * Targeted probe perturbation (Karvonen et al. 2024; SAEBench): probes for several concepts, and the latents
 * that one concept's probe owes most to are removed. If they are that concept and nothing else, its own probe
 * fails and the others do not:
 *
 *   TPP(n) = mean over concepts j of ( drop_jj − mean over i ≠ j of drop_ij )
 *
 * drop_ij = accuracy of probe i as it is − with the top n latents of concept j removed, on test rows of which
 * half carry concept i; at most 0.5, where the probe can only guess. Latents are ranked by
 * Δmean_i · (w_j · W_dec[i]), those that speak for the concept only. Latents that fire as often are the null.
 */
import { Rng } from "../rng.ts";
import { percentileInterval, type Interval } from "./interval.ts";
import { fitProbe, probeScores } from "./probe.ts";
import {
  AccuracyTally,
  commonConcepts,
  decoderProducts,
  REMOVED,
  removalEffects,
  scoresWithout,
} from "./supervised-removal.ts";
import { MIN_PER_CLASS } from "./supervised-probing.ts";
import { activationsOf, balanced, largest, type LabelledSplit } from "./supervised-rows.ts";
import { PairedDraws, matchedLatents } from "./supervised-scores.ts";

export interface TppOptions {
  /** Absent: the commonest, none a kind of another. */
  concepts?: readonly string[];
  /** How many of those; default 10. */
  conceptCount?: number;
  removed?: readonly number[];
  trainPerClass?: number;
  testPerClass?: number;
  seed?: number;
  onProgress?: (done: number, total: number) => void;
}

export interface TppResult {
  chance: 0.5;
  concepts: {
    concept: string;
    trainRows: number;
    testRows: number;
    accuracy: Interval;
    latents: number[];
  }[];
  tooRare: string[];
  removed: {
    n: number;
    score: Interval;
    /** Mean drop of the own probe, and of the others. */
    own: Interval;
    others: Interval;
    /** The score when latents that fire as often are removed: mean and the middle 95 % of 10 draws. */
    null: Interval;
    /** drop_jj − mean of the others, by concept. */
    byConcept: Record<string, number>;
  }[];
}

const NULL_DRAWS = 10;

/** @param W_dec raw units, [dSae, dIn] (`rawDecoder`). */
export function targetedPerturbation(
  { train, test }: LabelledSplit,
  W_dec: Float32Array,
  options: TppOptions = {},
): TppResult {
  const { conceptCount = 10, removed = REMOVED, trainPerClass = 500, testPerClass = 250, seed = 0 } = options; // prettier-ignore
  const draws = new PairedDraws(test.documents, seed);
  const rng = new Rng(seed, "tpp");
  const names = options.concepts ?? commonConcepts(train).slice(0, conceptCount);
  const tooRare: string[] = [];
  const subjects = names.flatMap((concept) => {
    const [fitLabel, measureLabel] = [train.labels.get(concept), test.labels.get(concept)];
    const fit = fitLabel && balanced(fitLabel, trainPerClass, rng);
    const measure = measureLabel && balanced(measureLabel, testPerClass, rng);
    if (!fit || !measure || Math.min(fit.rows.length, measure.rows.length) < 2 * MIN_PER_CLASS) {
      tooRare.push(concept);
      return [];
    }
    const probe = fitProbe(activationsOf(train, fit.rows), fit.labels, { standardise: true });
    const products = decoderProducts(W_dec, probe.weights);
    const scores = probeScores(probe, activationsOf(test, measure.rows));
    const ranked = largest(removalEffects(train, fit, products), Math.max(...removed));
    const clean = new AccuracyTally(test, measure, scores);
    return [{ concept, fit, measure, products, scores, ranked, clean }];
  });
  const interval = (statistic: (weights: Uint16Array) => number) => draws.interval(statistic);
  const result: TppResult = {
    chance: 0.5,
    concepts: subjects.map(({ concept, fit, measure, clean, ranked }) => ({
      ...{ concept, trainRows: fit.rows.length, testRows: measure.rows.length },
      ...{ accuracy: interval((w) => clean.accuracy(w)), latents: ranked.slice(0, 20) },
    })),
    ...{ tooRare, removed: [] },
  };
  if (subjects.length < 2) return result;

  /** tallies[j][i]: probe i with the latents of concept j removed. */
  const talliesOf = (latents: readonly number[][]) =>
    latents.map((own) =>
      subjects.map(({ measure, scores, products }) => {
        const changed = scoresWithout(test, measure.rows, scores, products, own);
        return new AccuracyTally(test, measure, changed);
      }),
    );
  const dropsOf = (tallies: AccuracyTally[][], weights: Uint16Array) => {
    const clean = subjects.map((subject) => subject.clean.accuracy(weights));
    return tallies.map((row, j) => {
      const drops = row.map((tally, i) => clean[i] - tally.accuracy(weights));
      const rest = drops.reduce((sum, drop, i) => sum + (i === j ? 0 : drop), 0);
      return { own: drops[j], others: rest / (drops.length - 1) };
    });
  };
  const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;
  for (const [step, n] of removed.entries()) {
    options.onProgress?.(step, removed.length);
    // A concept may have fewer latents that speak for it; with none at all in common n means nothing.
    if (subjects.every(({ ranked }) => ranked.length < n)) break;
    const chosen = subjects.map(({ ranked }) => ranked.slice(0, n));
    const tallies = talliesOf(chosen);
    const difference = ({ own, others }: { own: number; others: number }) => own - others;
    const everyOnce = new Uint16Array(test.documents).fill(1);
    const every = dropsOf(tallies, everyOnce);
    const nulls = Array.from({ length: NULL_DRAWS }, () => {
      const random = chosen.map((latents) => matchedLatents(train, latents, rng));
      return mean(dropsOf(talliesOf(random), everyOnce).map(difference));
    });
    // One pass over the draws for three numbers.
    const kept = new Map<Uint16Array, ReturnType<typeof dropsOf>>();
    const drops = (weights: Uint16Array) => {
      const found = kept.get(weights) ?? dropsOf(tallies, weights);
      kept.set(weights, found);
      return found;
    };
    result.removed.push({
      n,
      score: interval((w) => mean(drops(w).map(difference))),
      own: interval((w) => mean(drops(w).map(({ own }) => own))),
      others: interval((w) => mean(drops(w).map(({ others }) => others))),
      null: percentileInterval(mean(nulls), nulls),
      byConcept: Object.fromEntries(every.map((one, j) => [subjects[j].concept, difference(one)])),
    });
  }
  return result;
}
