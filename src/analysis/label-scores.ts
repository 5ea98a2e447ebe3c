/** How well scores tell labels: what every comparison of latents, dimensions and directions with labels is measured by. */
import { fallingOrder } from "./order.ts";

/**
 * AUC from ranks (1 = lowest of all, ties sharing their mean): Mann–Whitney U / (P·N), the probability
 * that a positive has a higher score than a negative, ties counting half.
 * @returns NaN without positives or without negatives.
 */
export function aucOfRanks(rankSum: number, positives: number, negatives: number): number {
  return (rankSum - (positives * (positives + 1)) / 2) / (positives * negatives);
}

/** AUC of scores for labels (0 or 1); NaN scores are not allowed. */
export function auc(scores: ArrayLike<number>, labels: Uint8Array): number {
  const sorted = Float64Array.from(scores).sort();
  let positives = 0;
  let rankSum = 0;
  const own = new Float64Array(labels.reduce((sum, label) => sum + label, 0));
  for (let n = 0; n < labels.length; n++) if (labels[n]) own[positives++] = scores[n];
  own.sort();
  for (let p = 0, begin = 0; p < positives;) {
    while (sorted[begin] < own[p]) begin++;
    let end = begin;
    while (end < sorted.length && sorted[end] === sorted[begin]) end++;
    for (; p < positives && own[p] === sorted[begin]; p++) rankSum += (begin + 1 + end) / 2;
    begin = end;
  }
  return aucOfRanks(rankSum, positives, labels.length - positives);
}

/** AUC of two groups of scores: P(a positive > a negative) + ½ P(equal); NaN where one is empty. */
export function aucBetween(positives: ArrayLike<number>, negatives: ArrayLike<number>): number {
  const labels = new Uint8Array(positives.length + negatives.length).fill(1, 0, positives.length);
  const scores = new Float64Array(labels.length);
  scores.set(positives);
  scores.set(negatives, positives.length);
  return auc(scores, labels);
}

/** How predictions and labels agree. */
export interface Agreement {
  truePositives: number;
  falsePositives: number;
  trueNegatives: number;
  falseNegatives: number;
  accuracy: number;
  /** (recall + specificity) / 2; NaN when there is one class only. */
  balancedAccuracy: number;
  /** Of what is predicted, the share that carries the label; 0 when nothing is. */
  precision: number;
  /** Of what carries the label, the share that is predicted; NaN when nothing does. */
  recall: number;
  /** 2 TP / (2 TP + FP + FN): the harmonic mean of precision and recall; NaN when nothing carries the label or is predicted to. */
  f1: number;
}

/** Of "score ≥ threshold" for labels (0 or 1). */
export function agreement(scores: ArrayLike<number>, labels: Uint8Array, threshold = 0): Agreement {
  let [both, predicted, positives] = [0, 0, 0];
  for (let n = 0; n < labels.length; n++) {
    positives += labels[n];
    if (scores[n] < threshold) continue;
    predicted++;
    both += labels[n];
  }
  return agreementOf(both, predicted, positives, labels.length);
}

/** From counts: of `total` items, `positives` carry the label, `predicted` are said to, and `both`. */
export function agreementOf(
  both: number,
  predicted: number,
  positives: number,
  total: number,
): Agreement {
  const trueNegatives = total - positives - predicted + both;
  const recall = both / positives;
  return {
    truePositives: both,
    falsePositives: predicted - both,
    trueNegatives,
    falseNegatives: positives - both,
    accuracy: (both + trueNegatives) / total,
    balancedAccuracy: (recall + trueNegatives / (total - positives)) / 2,
    precision: predicted > 0 ? both / predicted : 0,
    recall,
    f1: (2 * both) / (positives + predicted),
  };
}

/** The threshold of "score ≥ threshold" with the best F1 (of several the highest), and that F1; without labels Infinity and 0. */
export function bestThreshold(
  scores: Float32Array,
  labels: Uint8Array,
  order = fallingOrder(scores),
): { threshold: number; f1: number } {
  let [positives, hits] = [0, 0];
  for (const label of labels) positives += label;
  let best = { threshold: Infinity, f1: 0 };
  for (let i = 0; i < order.length; i++) {
    hits += labels[order[i]];
    // A threshold takes all tied scores or none.
    if (i + 1 < order.length && scores[order[i + 1]] === scores[order[i]]) continue;
    const f1 = (2 * hits) / (positives + i + 1);
    if (f1 > best.f1) best = { threshold: scores[order[i]], f1 };
  }
  return best;
}
