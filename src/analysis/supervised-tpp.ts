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
import { MIN_PER_CLASS } from "./supervised-probing.ts";
import { balanced, largest, type LabelledSplit } from "./supervised-rows.ts";
import { matchedLatents } from "./supervised-scores.ts";

export interface TppOptions extends RemovalOptions {
  /** Absent: the commonest, none a kind of another. */
  concepts?: readonly string[];
  /** How many of those; default 10. */
  conceptCount?: number;
  trainPerClass?: number;
  testPerClass?: number;
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
  /** Scores on every draw, by name. */
  drawn: Record<string, Drawn>;
}

/** @param W_dec raw units, [dSae, dIn] (`rawDecoder`). */
export function targetedPerturbation(
  split: LabelledSplit,
  W_dec: Float32Array,
  options: TppOptions = {},
): TppResult {
  const { train, test } = split;
  const { conceptCount = 10, removed = REMOVED, trainPerClass = 500, testPerClass = 250, seed = 0 } = options; // prettier-ignore
  const draws = new DocumentDraws(test.documents, seed);
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
    const probe = new RemovalProbe(split, W_dec, fit, measure);
    const ranked = largest(probe.effects, Math.max(...removed));
    return [{ concept, fit, measure, probe, ranked, clean: probe.without([]) }];
  });
  const result: TppResult = {
    chance: 0.5,
    concepts: subjects.map(({ concept, fit, measure, clean, ranked }) => ({
      ...{ concept, trainRows: fit.rows.length, testRows: measure.rows.length },
      ...{ accuracy: draws.interval((w) => clean.accuracy(w)), latents: ranked.slice(0, 20) },
    })),
    ...{ tooRare, removed: [], drawn: {} },
  };
  if (subjects.length < 2) return result;

  /** tallies[j][i]: probe i with the latents of concept j removed. */
  const talliesOf = (latents: readonly number[][]) =>
    latents.map((own) => subjects.map(({ probe }) => probe.without(own)));
  const dropsOf = (tallies: AccuracyTally[][], weights: Uint16Array) => {
    const clean = subjects.map((subject) => subject.clean.accuracy(weights));
    return tallies.map((row, j) => {
      const drops = row.map((tally, i) => clean[i] - tally.accuracy(weights));
      const rest = drops.reduce((sum, drop, i) => sum + (i === j ? 0 : drop), 0);
      return { own: drops[j], others: rest / (drops.length - 1) };
    });
  };
  const difference = ({ own, others }: { own: number; others: number }) => own - others;
  const everyOnce = new Uint16Array(test.documents).fill(1);
  for (const [step, n] of removed.entries()) {
    options.onProgress?.(step, removed.length);
    // A concept may have fewer latents that speak for it; with none at all in common n means nothing.
    if (subjects.every(({ ranked }) => ranked.length < n)) break;
    const chosen = subjects.map(({ ranked }) => ranked.slice(0, n));
    const tallies = talliesOf(chosen);
    const { all, drawn } = draws.measure((weights) => dropsOf(tallies, weights));
    const meanOf = (value: (drop: (typeof all)[number]) => number): Drawn => ({
      value: mean(all.map(value)),
      draws: Float64Array.from(drawn, (drops) => mean(drops.map(value))),
    });
    const score = (result.drawn[`score.${n}`] = meanOf(difference));
    result.removed.push({
      ...{ n, score: intervalOf(score) },
      own: intervalOf(meanOf(({ own }) => own)),
      others: intervalOf(meanOf(({ others }) => others)),
      null: nullOf(
        Array.from({ length: NULL_DRAWS }, () => {
          const random = chosen.map((latents) => matchedLatents(train, latents, rng));
          return mean(dropsOf(talliesOf(random), everyOnce).map(difference));
        }),
      ),
      byConcept: Object.fromEntries(all.map((one, j) => [subjects[j].concept, difference(one)])),
    });
  }
  return result;
}
