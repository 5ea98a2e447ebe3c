/** What a trainer starts from: weights, and what the first activations say about scale and mean. */
import type { ActivationSource } from "../activation-source.ts";
import type { TrainConfig } from "../config.ts";
import { UserError } from "../error.ts";
import { Rng } from "../rng.ts";
import { inUnits, type ResolvedSae } from "./architecture.ts";
import { loadSae } from "./formats.ts";
import type { Sae } from "./sae.ts";
import type { SaeWeights } from "./weights.ts";

/** Batches that the input scale and the mean are taken from, at most. */
const STATISTICS_BATCHES = 100;

/** The norm of the decoder rows at the start when nothing keeps them at 1 (Anthropic, April 2024). */
export const FREE_DECODER_NORM = 0.1;

/** Activations that the geometric median is taken of, at most. */
const MEDIAN_ROWS = 32_768;

/**
 * The weights at step 0, the scale that inputs are multiplied by, and ρ, the unit of coefficients.
 * Reads the source's first activations when one of them is derived from the data.
 * @throws UserError when there are none, or they are all 0 and were to be scaled.
 */
export async function initialize(
  resolved: ResolvedSae,
  source: ActivationSource,
  train: TrainConfig,
  seed: number,
): Promise<{ scale: number; rho: number; weights: SaeWeights; threshold: number | null }> {
  const start = train.from === undefined ? undefined : await loadStart(train.from, resolved);
  const { scale, rho, weights } = await initializeAnew(resolved, source, train, seed);
  if (!start) return { scale, rho, weights, threshold: null };
  const { selection } = start.spec;
  return {
    ...{ scale, rho, weights: unfolded(start, scale) },
    threshold: selection.architecture === "batchTopk" ? selection.threshold : null,
  };
}

/**
 * The autoencoder that training starts from.
 * @throws UserError when it cannot be read, or is of another kind or size than the configuration asks for.
 */
async function loadStart(folder: string, resolved: ResolvedSae): Promise<Sae> {
  const { sae } = await loadSae(folder);
  const { selection, dIn, dSae, applyBDecToInput } = sae.spec;
  const wanted = {
    architecture: resolved.objective.selection.architecture,
    ...{ dIn: resolved.dIn, dSae: resolved.dSae, applyBDecToInput: resolved.applyBDecToInput },
  };
  const found = { architecture: selection.architecture, dIn, dSae, applyBDecToInput };
  for (const key of Object.keys(wanted) as (keyof typeof wanted)[])
    if (wanted[key] !== found[key])
      throw new UserError(
        `train.from ${folder} has ${key} ${String(found[key])}, but the settings say ${String(wanted[key])}; set sae.${key} to what it has`,
      );
  return sae;
}

/** A folded autoencoder's weights for inputs that are multiplied by `scale` first: the inverse of `Sae.fold`. */
function unfolded(sae: Sae, scale: number): SaeWeights {
  const { W_enc, b_enc, W_dec, b_dec, threshold, b_mag, r_mag } = sae;
  return {
    W_enc: W_enc.map((v) => v / scale),
    b_enc,
    W_dec: W_dec.map((v) => v * scale),
    b_dec: b_dec.map((v) => v * scale),
    ...(threshold && { threshold }),
    ...(b_mag && { b_mag }),
    ...(r_mag && { r_mag }),
  };
}

async function initializeAnew(
  resolved: ResolvedSae,
  source: ActivationSource,
  train: TrainConfig,
  seed: number,
): Promise<{ scale: number; rho: number; weights: SaeWeights }> {
  const { dIn, normalizeActivations, decoderBiasInit, inRmsUnits } = resolved;
  if (normalizeActivations === "none" && decoderBiasInit === "zero" && !inRmsUnits)
    return { scale: 1, rho: 1, weights: initialWeights(resolved, seed) };
  const { mean, meanNorm, rms, rows } = await firstStatistics(
    source,
    train,
    seed,
    decoderBiasInit === "geometricMedian" ? MEDIAN_ROWS : 0,
  );
  let scale = 1;
  if (normalizeActivations !== "none") {
    if (!(meanNorm > 0))
      throw new UserError(
        `the activations' mean norm is ${meanNorm}, so they cannot be scaled; check them, or set sae.normalizeActivations to none.`,
      );
    scale = normalizeActivations === "rms" ? 1 / rms : Math.sqrt(dIn) / meanNorm;
  }
  const rho = inRmsUnits && rms > 0 ? rms : 1;
  const inRho = { ...resolved, objective: inUnits(resolved.objective, rho) };
  const weights = initialWeights(inRho, seed);
  if (decoderBiasInit === "mean") weights.b_dec.set(mean.map((v) => v * scale));
  if (decoderBiasInit === "geometricMedian")
    weights.b_dec.set(geometricMedian(rows, dIn).map((v) => v * scale));
  return { scale, rho, weights };
}

/**
 * The point with the smallest mean distance from the rows of x [rows, dIn], by Weiszfeld's iteration
 * from the mean: at most 100 times, or until it moves by less than 1e-5 of its distance.
 */
export function geometricMedian(x: Float32Array, dIn: number): Float64Array {
  const rows = x.length / dIn;
  let median = new Float64Array(dIn);
  for (let i = 0; i < x.length; i++) median[i % dIn] += x[i] / rows;
  for (let iteration = 0; iteration < 100; iteration++) {
    const next = new Float64Array(dIn);
    let weights = 0;
    for (let n = 0; n < rows; n++) {
      let squared = 0;
      for (let c = 0; c < dIn; c++) squared += (x[n * dIn + c] - median[c]) ** 2;
      if (squared === 0) continue;
      const weight = 1 / Math.sqrt(squared);
      weights += weight;
      for (let c = 0; c < dIn; c++) next[c] += weight * x[n * dIn + c];
    }
    if (weights === 0) return median;
    let moved = 0;
    for (let c = 0; c < dIn; c++) {
      next[c] /= weights;
      moved += (next[c] - median[c]) ** 2;
    }
    median = next;
    // rows / weights is the harmonic mean of the distances.
    if (Math.sqrt(moved) < (1e-5 * rows) / weights) break;
  }
  return median;
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
  const { selection } = resolved.objective;
  const biases = {
    b_enc: new Float32Array(dSae),
    b_dec: new Float32Array(dIn),
    ...(selection.architecture === "jumprelu" && {
      threshold: new Float32Array(dSae).fill(selection.initialThreshold),
    }),
    ...(selection.architecture === "gated" && {
      b_mag: new Float32Array(dSae),
      r_mag: new Float32Array(dSae),
    }),
  };
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

/**
 * Mean row, mean norm and root mean square of the first activations in training order, and up to
 * `keepRows` of them: at most 100 batches, bufferRows rows, one epoch.
 */
async function firstStatistics(
  source: ActivationSource,
  train: TrainConfig,
  seed: number,
  keepRows: number,
): Promise<{ mean: Float64Array; meanNorm: number; rms: number; rows: Float32Array }> {
  const { dIn } = source;
  const { batchSize, shuffle, bufferRows } = train;
  const sum = new Float64Array(dIn);
  const kept: Float32Array[] = [];
  let keptRows = 0;
  let norms = 0;
  let squares = 0;
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
      squares += squared;
    }
    const take = Math.min(batch.rows, keepRows - keptRows);
    if (take > 0) kept.push(batch.data.slice(0, take * dIn));
    keptRows += Math.max(0, take);
    rows += batch.rows;
    batches += 1;
    if (batches >= STATISTICS_BATCHES || rows >= bufferRows || batch.next.epoch > 0) break;
  }
  if (rows === 0) throw new UserError("there are no activations to train on");
  const held = new Float32Array(keptRows * dIn);
  let at = 0;
  for (const part of kept) {
    held.set(part, at);
    at += part.length;
  }
  return {
    mean: sum.map((v) => v / rows),
    meanNorm: norms / rows,
    rms: Math.sqrt(squares / (rows * dIn)),
    rows: held,
  };
}
