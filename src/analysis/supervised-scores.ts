/** How well a probe tells rows apart, with intervals over documents; and random latents to compare chosen ones with. */
import type { Rng } from "../rng.ts";
import type { DocumentDraws, Drawn } from "./document-draws.ts";
import { percentileInterval, type Interval } from "./interval.ts";
import { agreementOf } from "./label-scores.ts";
import type { LabelledRows } from "./supervised-rows.ts";

/** Of "score ≥ 0" but for AUC; 95 % intervals by drawing documents (the probe stays as it was fitted). */
export interface ProbeScores {
  rows: number;
  positives: number;
  accuracy: Interval;
  balancedAccuracy: Interval;
  auc: Interval;
  f1: Interval;
}

/**
 * @param document of each row; @param scores the log odds of the label of each row.
 */
export function scoresOnDraws(
  draws: DocumentDraws,
  document: Int32Array,
  scores: Float64Array,
  labels: Uint8Array,
): ProbeScores {
  const rows = labels.length;
  // Rows by rising score; ties together, so that one sweep gives the AUC of any draw.
  const order = Int32Array.from({ length: rows }, (_, n) => n).sort((a, b) => scores[a] - scores[b]); // prettier-ignore
  const sorted: SortedRows = {
    document: order.map((n) => document[n]),
    label: Uint8Array.from(order, (n) => labels[n]),
    endsTie: Uint8Array.from(order, (n, i) => Number(scores[n] !== scores[order[i + 1]])),
    cut: order.findIndex((n) => scores[n] >= 0),
  };
  if (sorted.cut < 0) sorted.cut = rows;
  const { all, drawn } = draws.measure((weights) => weightedScores(sorted, weights));
  const interval = (pick: (found: typeof all) => number) =>
    percentileInterval(pick(all), drawn.map(pick));
  return {
    rows,
    positives: labels.reduce((sum, one) => sum + one, 0),
    accuracy: interval(({ accuracy }) => accuracy),
    balancedAccuracy: interval(({ balancedAccuracy }) => balancedAccuracy),
    auc: interval(({ auc }) => auc),
    f1: interval(({ f1 }) => f1),
  };
}

/** Rows by rising score. */
interface SortedRows {
  document: Int32Array;
  label: Uint8Array;
  /** 1 at the last of the rows that share a score. */
  endsTie: Uint8Array;
  /** The first row whose score is at least 0. */
  cut: number;
}

/** Accuracy, balanced accuracy, F1 and AUC (ties count half) with each row as often as its document. */
function weightedScores({ document, label, endsTie, cut }: SortedRows, weights: Uint16Array) {
  let [up, down, positives, negatives] = [0, 0, 0, 0];
  let [missed, refused] = [0, 0];
  // Pairs (positive, negative) that are in the right order, tied ones half.
  let won = 0;
  for (let n = 0; n < label.length; n++) {
    if (n === cut) [missed, refused] = [positives, negatives];
    const weight = weights[document[n]];
    if (label[n] === 1) up += weight;
    else down += weight;
    if (endsTie[n] === 0) continue;
    won += up * (negatives + down / 2);
    positives += up;
    negatives += down;
    up = 0;
    down = 0;
  }
  if (cut === label.length) [missed, refused] = [positives, negatives];
  const total = positives + negatives;
  const both = positives - missed;
  const { accuracy, balancedAccuracy, f1 } = agreementOf(both, both + negatives - refused, positives, total); // prettier-ignore
  return { accuracy, balancedAccuracy, f1, auc: won / (positives * negatives) };
}

/**
 * For each chosen latent another one that fires about as often, at random among the 20 nearest in
 * firing count that are neither chosen nor taken: the null for "these latents and no others".
 */
export function matchedLatents(
  { codes, dSae }: Pick<LabelledRows, "codes" | "dSae">,
  chosen: readonly number[],
  rng: Rng,
): number[] {
  const count = (f: number) => codes.offsets[f + 1] - codes.offsets[f];
  const taken = new Set(chosen);
  const alive = Array.from({ length: dSae }, (_, f) => f)
    .filter((f) => count(f) > 0)
    .sort((a, b) => count(a) - count(b) || a - b);
  const place = new Map(alive.map((f, i) => [f, i]));
  const found: number[] = [];
  for (const latent of chosen) {
    const near: number[] = [];
    const at = place.get(latent) ?? 0;
    let [low, high] = [at - 1, at + 1];
    while (near.length < 20 && (low >= 0 || high < alive.length)) {
      const down = low >= 0 ? count(latent) - count(alive[low]) : Infinity;
      const up = high < alive.length ? count(alive[high]) - count(latent) : Infinity;
      const next = down <= up ? alive[low--] : alive[high++];
      if (!taken.has(next)) near.push(next);
    }
    if (near.length === 0) break;
    const pick = near[rng.int(near.length)];
    taken.add(pick);
    found.push(pick);
  }
  return found;
}

/** Mean of intervals' values over things measured on the same documents is not an interval's mean: draw the documents once for all of them. */
export function meanOverConcepts(
  concepts: readonly { document: Int32Array; right: Uint8Array }[],
  documents: number,
  draws: DocumentDraws,
): Drawn {
  const tallies = concepts.map(({ document, right }) => {
    const [total, correct] = [new Float64Array(documents), new Float64Array(documents)];
    document.forEach((d, n) => {
      total[d]++;
      correct[d] += right[n];
    });
    return { total, correct };
  });
  return draws.draw((weights) => {
    let [sum, counted] = [0, 0];
    for (const { total, correct } of tallies) {
      let [top, bottom] = [0, 0];
      for (let d = 0; d < documents; d++) {
        top += weights[d] * correct[d];
        bottom += weights[d] * total[d];
      }
      if (bottom === 0) continue;
      sum += top / bottom;
      counted++;
    }
    return sum / counted;
  });
}
