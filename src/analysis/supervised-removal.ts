/**
 * Latents taken out of what a linear probe reads. The probe is linear and so is the decoder, so that
 * removing latents S from an activation, with the SAE's error kept, changes the probe's score by
 *
 *   w · (x − Σ_{i∈S} a_i W_dec[i]) + b = score − Σ_{i∈S} a_i (w · W_dec[i])
 *
 * which holds for the mean over a text's tokens as well, with the mean of a_i.
 */
import { UserError } from "../error.ts";
import type { Sae } from "../sae/sae.ts";
import { isIdentity } from "../sae/transform.ts";
import type { Drawn } from "./document-draws.ts";
import { percentileInterval, type Interval } from "./interval.ts";
import { fitProbe, probeScores } from "./probe.ts";
import {
  activationsOf,
  latentDifferences,
  placesOf,
  type LabelledRows,
  type LabelledSplit,
  type Picked,
} from "./supervised-rows.ts";

/** What every evaluation that removes latents can be told. */
export interface RemovalOptions {
  /** Numbers of latents; default REMOVED. */
  removed?: readonly number[];
  seed?: number;
  onProgress?: (done: number, total: number) => void;
}

/**
 * The SAE with its transforms in its weights: its decoder in raw units.
 * @throws UserError for a transcoder, and where rows are normalised one by one: there the decoder does not write to what the probe reads, or not linearly.
 */
export function rawSae(sae: Sae): Sae {
  if (sae.spec.transcoder)
    throw new UserError(
      "the SAE is a transcoder: its decoder does not write to the activations that it reads",
    );
  const folded = sae.fold();
  if (!isIdentity(folded.spec.input))
    throw new UserError(
      "the SAE normalises each activation by itself (layer norm), so that a latent does not add the same to all of them; this needs an SAE that does not",
    );
  return folded;
}

/** The decoder of `rawSae`, [dSae, dIn]. */
export function rawDecoder(sae: Sae): Float32Array {
  return rawSae(sae).W_dec;
}

/** w · W_dec[i] of every latent; [dSae]. */
function decoderProducts(W_dec: Float32Array, weights: ArrayLike<number>): Float64Array {
  const dIn = weights.length;
  const out = new Float64Array(W_dec.length / dIn);
  for (let f = 0, i = 0; f < out.length; f++)
    for (let c = 0; c < dIn; c++) out[f] += weights[c] * W_dec[i++];
  return out;
}

/**
 * What a probe's score owes to each latent (Marks et al. 2024; SAEBench): effect_i = Δmean_i · (w · W_dec[i]),
 * Δmean_i the mean of the latent with the label less that without; [dSae].
 */
function removalEffects(sample: LabelledRows, rows: Picked, products: Float64Array): Float64Array {
  return latentDifferences(sample, rows).map((difference, f) => difference * products[f]);
}

/** A probe fitted to train rows, as it does on test rows when latents are removed from what it reads. */
export class RemovalProbe {
  readonly #test: LabelledRows;
  readonly #asked: Picked;
  readonly #scores: Float64Array;
  /** w · W_dec[i]; [dSae]. */
  readonly products: Float64Array;
  /** `removalEffects` on the rows that it was fitted to. */
  readonly effects: Float64Array;

  /** @param W_dec raw units, [dSae, dIn] (`rawDecoder`). */
  constructor({ train, test }: LabelledSplit, W_dec: Float32Array, fit: Picked, asked: Picked) {
    const probe = fitProbe(activationsOf(train, fit.rows), fit.labels, { standardise: true });
    this.#test = test;
    this.#asked = asked;
    this.#scores = probeScores(probe, activationsOf(test, asked.rows));
    this.products = decoderProducts(W_dec, probe.weights);
    this.effects = removalEffects(train, fit, this.products);
  }

  /** @param back is added to all scores again. */
  without(latents: readonly number[], back = 0): AccuracyTally {
    const { rows } = this.#asked;
    const scores = scoresWithout(this.#test, rows, this.#scores, this.products, latents);
    const moved = scores.map((score) => score + back);
    return new AccuracyTally(this.#test, this.#asked, moved);
  }
}

/** How many random choices make a null. */
export const NULL_DRAWS = 10;

/** Scores of random choices: their mean and their middle 95 %. */
export function nullOf(scores: readonly number[]): Interval {
  return percentileInterval(mean(scores), scores);
}

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** The mean of statistics that were drawn together. */
export function meanDrawn(all: readonly Drawn[]): Drawn {
  return {
    value: mean(all.map(({ value }) => value)),
    draws: all[0].draws.map((_, i) => mean(all.map(({ draws }) => draws[i]))),
  };
}

/** Scores of `rows` with `latents` removed. */
function scoresWithout(
  sample: LabelledRows,
  rows: Int32Array,
  scores: Float64Array,
  products: Float64Array,
  latents: readonly number[],
): Float64Array {
  const { codes } = sample;
  const place = placesOf(sample.rows, rows);
  const out = scores.slice();
  for (const f of latents)
    for (let i = codes.offsets[f]; i < codes.offsets[f + 1]; i++) {
      const n = place[codes.positions[i]];
      if (n >= 0) out[n] -= codes.values[i] * products[f];
    }
  return out;
}

/** Right answers and rows by document: what accuracies of drawn documents are made of. */
export class AccuracyTally {
  readonly #right: Float64Array;
  readonly #total: Float64Array;

  constructor(sample: LabelledRows, { rows, labels }: Picked, scores: Float64Array) {
    this.#right = new Float64Array(sample.documents);
    this.#total = new Float64Array(sample.documents);
    rows.forEach((n, i) => {
      this.#total[sample.document[n]]++;
      this.#right[sample.document[n]] += Number(Number(scores[i] >= 0) === labels[i]);
    });
  }

  /** NaN when none of the documents that are drawn has a row. */
  accuracy(weights: Uint16Array): number {
    let [right, total] = [0, 0];
    for (let d = 0; d < this.#total.length; d++) {
      right += weights[d] * this.#right[d];
      total += weights[d] * this.#total[d];
    }
    return right / total;
  }
}

/** Numbers of latents that are removed. */
export const REMOVED = [2, 5, 10, 20, 50, 100, 500];

/** Concepts of 3 to 30 % of the rows, the commoner first, none a kind of another. */
export function commonConcepts({ labels, rows }: LabelledRows): string[] {
  const share = (concept: string) => labels.get(concept)!.reduce((sum, v) => sum + v, 0) / rows;
  const shares = [...labels.keys()].map((concept) => ({ concept, share: share(concept) }));
  const found: string[] = [];
  for (const { concept } of shares
    .filter((one) => one.share >= 0.03 && one.share <= 0.3)
    .sort((a, b) => b.share - a.share || (a.concept < b.concept ? -1 : 1)))
    if (!found.some((other) => rootOf(other) === rootOf(concept))) found.push(concept);
  return found;
}

function rootOf(concept: string): string {
  return concept.split(".")[0];
}
