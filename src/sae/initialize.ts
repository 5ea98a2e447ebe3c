/** What a trainer starts from: weights, and what the first activations say about scale and mean. */
import type { ActivationSource } from "../activation-source.ts";
import type { TrainConfig } from "../config.ts";
import { UserError } from "../error.ts";
import { Rng } from "../rng.ts";
import type { ResolvedSae } from "./architecture.ts";
import type { SaeWeights } from "./sae.ts";

/** Batches that the input scale and the mean are taken from, at most. */
const STATISTICS_BATCHES = 100;

/** The norm of the decoder rows at the start when nothing keeps them at 1 (Anthropic, April 2024). */
const FREE_DECODER_NORM = 0.1;

/**
 * The weights at step 0 and the scale that inputs are multiplied by. Reads the source's first
 * activations when one of them is derived from the data.
 * @throws UserError when there are none, or they are all 0 and were to be scaled.
 */
export async function initialize(
  resolved: ResolvedSae,
  source: ActivationSource,
  train: TrainConfig,
  seed: number,
): Promise<{ scale: number; weights: SaeWeights }> {
  const { dIn, normalizeActivations, decoderBiasInit } = resolved;
  const weights = initialWeights(resolved, seed);
  if (normalizeActivations === "none" && decoderBiasInit === "zero") return { scale: 1, weights };
  const { mean, meanNorm } = await firstStatistics(source, train, seed);
  let scale = 1;
  if (normalizeActivations === "expectedAverageNorm") {
    if (!(meanNorm > 0))
      throw new UserError(
        `the activations' mean norm is ${meanNorm}, so they cannot be scaled; check them, or set sae.normalizeActivations to none.`,
      );
    scale = Math.sqrt(dIn) / meanNorm;
  }
  if (decoderBiasInit === "mean") weights.b_dec.set(mean.map((v) => v * scale));
  return { scale, weights };
}

/**
 * tied: decoder rows in random directions, of norm 1 when training keeps them there and 0.1
 * otherwise; the encoder is a copy. xavier: both U(±√(6/(dIn + dSae))), independent; decoder rows
 * are brought to norm 1 when training keeps them there. Biases are 0.
 */
export function initialWeights(resolved: ResolvedSae, seed: number): SaeWeights {
  const { dIn, dSae, init, unitNormDecoder } = resolved;
  const encoder = new Rng(seed, "W_enc");
  const decoder = new Rng(seed, "W_dec");
  const size = dSae * dIn;
  const biases = { b_enc: new Float32Array(dSae), b_dec: new Float32Array(dIn) };
  switch (init) {
    case "tied": {
      const W_dec = Float32Array.from({ length: size }, () => decoder.normal());
      setRowNorms(W_dec, dIn, unitNormDecoder ? 1 : FREE_DECODER_NORM);
      return { W_enc: W_dec.slice(), W_dec, ...biases };
    }
    case "xavier": {
      const bound = Math.sqrt(6 / (dIn + dSae));
      const uniform = (rng: Rng) =>
        Float32Array.from({ length: size }, () => (2 * rng.uniform() - 1) * bound);
      const W_dec = uniform(decoder);
      if (unitNormDecoder) setRowNorms(W_dec, dIn, 1);
      return { W_enc: uniform(encoder), W_dec, ...biases };
    }
    default:
      return init satisfies never;
  }
}

function setRowNorms(matrix: Float32Array, dIn: number, norm: number): void {
  for (let start = 0; start < matrix.length; start += dIn) {
    const row = matrix.subarray(start, start + dIn);
    const factor = norm / Math.sqrt(row.reduce((sum, v) => sum + v * v, 0));
    row.forEach((v, c) => (row[c] = v * factor));
  }
}

/** Mean row and mean norm of the first activations in training order: at most 100 batches, bufferRows rows, one epoch. */
async function firstStatistics(
  source: ActivationSource,
  train: TrainConfig,
  seed: number,
): Promise<{ mean: Float64Array; meanNorm: number }> {
  const { dIn } = source;
  const { batchSize, shuffle, bufferRows } = train;
  const sum = new Float64Array(dIn);
  let norms = 0;
  let rows = 0;
  let batches = 0;
  for await (const batch of source.batches({ batchSize, seed, shuffle, bufferRows })) {
    for (let n = 0; n < batch.rows; n++) {
      let squared = 0;
      for (let c = 0; c < dIn; c++) {
        const v = batch.data[n * dIn + c];
        sum[c] += v;
        squared += v * v;
      }
      norms += Math.sqrt(squared);
    }
    rows += batch.rows;
    batches += 1;
    if (batches >= STATISTICS_BATCHES || rows >= bufferRows || batch.next.epoch > 0) break;
  }
  if (rows === 0) throw new UserError("there are no activations to train on");
  return { mean: sum.map((v) => v / rows), meanNorm: norms / rows };
}
