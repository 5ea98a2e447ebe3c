/**
 * Does a latent stand for something a person has a word for? Each latent's activation is taken as
 * a score for each label, over all positions of a text:
 *
 * AUC  the probability that a position with the label has a higher activation than one without, ties
 *      counting half (Mann–Whitney U / (P·N)); exact, silent positions included.
 * precision, recall, F1  of "activation ≥ threshold", with threshold > 0.
 *
 * The label of a latent, and its threshold, are chosen on one set of documents (selection) and every
 * number shown is measured on another (test), so that choosing the best of thousands of labels does
 * not flatter it.
 */
import { firingsIn, type CodesByLatent, type TextChunk } from "./codes.ts";
import type { Label, LabelledPositions, TokenLabels } from "./labels.ts";
import { fallingOrder } from "./order.ts";
import { aucOfRanks } from "./label-scores.ts";

/** How well a latent's activation tells which positions carry a label. */
export interface LabelScore {
  label: number;
  /** Positions that carry the label. */
  positives: number;
  /** NaN when every position carries the label. */
  auc: number;
  /** Of "fires at all". */
  precision: number;
  recall: number;
  /** The threshold with the best F1, and that F1. */
  threshold: number;
  f1: number;
}

/** Labels that fewer positions carry, or lack (in either set), are not considered: their AUC would be noise. */
export const MIN_POSITIVES = 20;

/** Per label, while one latent is scored; `hits` is all zero in between. */
interface Scratch {
  hits: Int32Array;
  rankSums: Float64Array;
  f1: Float64Array;
  thresholds: Float64Array;
}

/** A text's codes and labels, held in memory to score one against the other. */
export class LabelledCodes {
  readonly dSae: number;
  readonly labels: TokenLabels;
  readonly #maxEntries: number;
  readonly #chunks: { base: number; codes: CodesByLatent }[] = [];
  #offsets = new Int32Array(1);
  #ids = new Int32Array(0);
  #entries = 0;
  #positions = 0;
  #full = false;
  #positives: Int32Array | undefined;
  #scratch: Scratch | undefined;

  /** Keeps at most `maxEntries` activations (8 bytes each); text past that is left out, which `positions` tells. */
  constructor(labels: TokenLabels, dSae: number, maxEntries = 2 ** 24) {
    this.labels = labels;
    this.dSae = dSae;
    this.#maxEntries = maxEntries;
  }

  /** Positions that the scores are computed over. */
  get positions(): number {
    return this.#positions;
  }

  /** Adds a chunk; false when it did not fit any more and nothing further will be taken. */
  add(chunk: TextChunk, codes: CodesByLatent): boolean {
    if (
      this.#full ||
      (this.#entries > 0 && this.#entries + codes.values.length > this.#maxEntries)
    ) {
      this.#full = true;
      return false;
    }
    this.#append(chunk.length, this.labels.label(chunk));
    this.#chunks.push({ base: this.#positions, codes });
    this.#entries += codes.values.length;
    this.#positions += chunk.length;
    this.#positives = undefined;
    return true;
  }

  #append(length: number, labelled: LabelledPositions): void {
    const used = this.#offsets[this.#positions];
    this.#offsets = grown(this.#offsets, this.#positions + length + 1);
    this.#ids = grown(this.#ids, used + labelled.ids.length);
    this.#ids.set(labelled.ids, used);
    for (let p = 1; p <= length; p++)
      this.#offsets[this.#positions + p] = used + labelled.offsets[p];
  }

  /** Positions that carry each label; [labels.labels.length]. */
  positives(): Int32Array {
    if (this.#positives?.length !== this.labels.labels.length) {
      const counts = new Int32Array(this.labels.labels.length);
      for (let i = 0; i < this.#offsets[this.#positions]; i++) counts[this.#ids[i]]++;
      this.#positives = counts;
    }
    return this.#positives;
  }

  /**
   * Scores one latent against every admitted label that it fires on at least once, in one sweep over
   * its firings from the strongest down: O(firings · (log firings + labels per position)).
   */
  scores(latent: number, admit: (label: number) => boolean): LabelScore[] {
    const { values, positions } = this.#firings(latent);
    const fired = values.length;
    const positives = this.positives();
    const { hits, rankSums, f1, thresholds } = this.#scratchFor(positives.length);
    const seen: number[] = [];
    for (let begin = 0; begin < fired;) {
      let end = begin + 1;
      while (end < fired && values[end] === values[begin]) end++;
      // Ranks among the firings run from 1 (weakest); tied ones share their mean.
      const rank = fired - (begin + end - 1) / 2;
      for (let i = begin; i < end; i++)
        for (let j = this.#offsets[positions[i]]; j < this.#offsets[positions[i] + 1]; j++) {
          const label = this.#ids[j];
          if (hits[label]++ === 0) {
            seen.push(label);
            rankSums[label] = 0;
            f1[label] = 0;
          }
          rankSums[label] += rank;
        }
      // A threshold takes all tied firings or none, so F1 is looked at when the group is complete.
      for (let i = begin; i < end; i++)
        for (let j = this.#offsets[positions[i]]; j < this.#offsets[positions[i] + 1]; j++) {
          const label = this.#ids[j];
          const here = (2 * hits[label]) / (positives[label] + end);
          if (here > f1[label]) {
            f1[label] = here;
            thresholds[label] = values[begin];
          }
        }
      begin = end;
    }
    const scores = seen.filter(admit).map((label) => ({
      label,
      positives: positives[label],
      auc: this.#auc(label, fired, hits[label], rankSums[label]),
      precision: hits[label] / fired,
      recall: hits[label] / positives[label],
      threshold: thresholds[label],
      f1: f1[label],
    }));
    for (const label of seen) hits[label] = 0;
    return scores;
  }

  /** One latent against one label, also when they never meet; F1 is at `threshold`, which is given. */
  scoreAt(
    latent: number,
    label: number,
    threshold: number,
  ): LabelScore & { precisionAt: number; recallAt: number } {
    const { values, positions } = this.#firings(latent);
    const fired = values.length;
    const positives = this.positives()[label];
    let [hits, rankSum, chosen, hitsChosen] = [0, 0, 0, 0];
    for (let begin = 0; begin < fired;) {
      let end = begin + 1;
      while (end < fired && values[end] === values[begin]) end++;
      for (let i = begin; i < end; i++)
        if (this.#carries(positions[i], label)) {
          hits++;
          rankSum += fired - (begin + end - 1) / 2;
        }
      if (values[begin] >= threshold) [chosen, hitsChosen] = [end, hits];
      begin = end;
    }
    return {
      label,
      positives,
      auc: this.#auc(label, fired, hits, rankSum),
      precision: fired > 0 ? hits / fired : 0,
      recall: hits / positives,
      threshold,
      precisionAt: chosen > 0 ? hitsChosen / chosen : 0,
      recallAt: hitsChosen / positives,
      f1: (2 * hitsChosen) / (positives + chosen),
    };
  }

  #carries(position: number, label: number): boolean {
    for (let j = this.#offsets[position]; j < this.#offsets[position + 1]; j++)
      if (this.#ids[j] === label) return true;
    return false;
  }

  /** From the ranks (1 = weakest) of the `hits` firings with the label among the `fired` firings. */
  #auc(label: number, fired: number, hits: number, rankSum: number): number {
    const count = this.positives()[label];
    const negatives = this.#positions - count;
    // Silent positions are the lowest, tied: ranks 1 … silent.
    const silent = this.#positions - fired;
    const ranks = rankSum + hits * silent + ((count - hits) * (silent + 1)) / 2;
    return aucOfRanks(ranks, count, negatives);
  }

  #scratchFor(labels: number): Scratch {
    if (this.#scratch?.hits.length !== labels)
      this.#scratch = {
        hits: new Int32Array(labels),
        rankSums: new Float64Array(labels),
        f1: new Float64Array(labels),
        thresholds: new Float64Array(labels),
      };
    return this.#scratch;
  }

  /** A latent's firings, strongest first. */
  #firings(latent: number): { values: Float32Array; positions: Int32Array } {
    const { positions, values } = firingsIn(this.#chunks, latent);
    const order = fallingOrder(values);
    return {
      values: Float32Array.from(order, (i) => values[i]),
      positions: Int32Array.from(order, (i) => positions[i]),
    };
  }
}

/** The array, or a longer copy of it. */
export function grown(array: Int32Array, length: number): Int32Array<ArrayBuffer> {
  if (array.length >= length) return array as Int32Array<ArrayBuffer>;
  const larger = new Int32Array(Math.max(length, array.length * 2));
  larger.set(array);
  return larger;
}

/** The label that fits a latent best, with numbers from documents that had no part in choosing it. */
export interface BestLabel extends Label {
  /** Positions of the test documents that carry the label. */
  positives: number;
  auc: number;
  /** Of "fires at all". */
  precision: number;
  recall: number;
  /** Of "activation ≥ threshold", the threshold with the best F1 on the selection documents. */
  threshold: number;
  atThreshold: { precision: number; recall: number; f1: number };
  /** On the selection documents, for comparison. */
  selection: { auc: number; f1: number };
}

/** A label is said to line up with a latent from this AUC on. */
export const ALIGNED_AUC = 0.95;

/** Whether a latent lines up with its label: AUC ≥ 0.95 on the test documents. */
export function isAligned(label: BestLabel | null | undefined): boolean {
  return (label?.auc ?? 0) >= ALIGNED_AUC;
}

/**
 * The stricter question whether the latent stands for the label and little else: also F1 ≥ 0.5 at the
 * threshold. A high AUC alone leaves room for other things that excite it when the label is rare.
 */
export function isSpecific(label: BestLabel | null | undefined): boolean {
  return isAligned(label) && label!.atThreshold.f1 >= 0.5;
}

/**
 * Best label of every latent of `latents`. Chosen on `selection`: among the labels with AUC ≥ 0.95
 * the one with the highest F1 at its best threshold; when there is none, the highest F1 of all.
 * (AUC alone would favour rare labels that a busy latent happens to cover.) Undefined for a latent
 * that fires on no label with at least 20 positions in both sets.
 */
export function bestLabels(
  latents: Iterable<number>,
  selection: LabelledCodes,
  test: LabelledCodes,
): Map<number, BestLabel | undefined> {
  const inSelection = selection.positives();
  const inTest = test.positives();
  const enough = (count: number, positions: number) =>
    count >= MIN_POSITIVES && positions - count >= MIN_POSITIVES;
  const admit = (label: number) =>
    enough(inSelection[label], selection.positions) && enough(inTest[label], test.positions);
  const best = new Map<number, BestLabel | undefined>();
  for (const latent of latents) {
    const candidates = selection.scores(latent, admit);
    const chosen = candidates.sort(
      (a, b) =>
        Number(b.auc >= ALIGNED_AUC) - Number(a.auc >= ALIGNED_AUC) ||
        b.f1 - a.f1 ||
        b.auc - a.auc ||
        a.label - b.label,
    )[0] as LabelScore | undefined;
    if (!chosen) {
      best.set(latent, undefined);
      continue;
    }
    const found = test.scoreAt(latent, chosen.label, chosen.threshold);
    best.set(latent, {
      ...selection.labels.labels[chosen.label],
      positives: found.positives,
      auc: found.auc,
      precision: found.precision,
      recall: found.recall,
      threshold: chosen.threshold,
      atThreshold: { precision: found.precisionAt, recall: found.recallAt, f1: found.f1 },
      selection: { auc: chosen.auc, f1: chosen.f1 },
    });
  }
  return best;
}
