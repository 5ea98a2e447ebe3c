/** What a trainer starts from: weights, and what the first activations say about scale and mean. */
import type { ActivationSource } from "../activation-source.ts";
import type { TrainConfig } from "../config.ts";
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import { Rng } from "../rng.ts";
import { inUnits, type ResolvedSae } from "./architecture.ts";
import { aimAtRows, fitEncoder, FITTED_ROWS, type FirstRows } from "./data-init.ts";
import { unfoldTransforms } from "./fold.ts";
import { loadSae } from "./formats.ts";
import type { Sae } from "./sae.ts";
import { geometricMedian } from "../geometric-median.ts";
import { firstStatistics, LAYER_NORM_EPS, Statistics } from "./statistics.ts";
import {
  forwardRow,
  identity,
  isFoldable,
  scaling,
  whitening,
  type Transform,
  type Transforms,
} from "./transform.ts";
import type { SaeSpec, SaeWeights } from "./weights.ts";

/** The norm of the decoder rows at the start when nothing keeps them at 1 (Anthropic, April 2024). */
export const FREE_DECODER_NORM = 0.1;

/** Activations that the geometric median is taken of, at most. */
const MEDIAN_ROWS = 32_768;

/** What training starts from. */
export interface Start {
  input: Transform;
  /** Of an autoencoder the input's. */
  output: Transform;
  /** The unit of coefficients, see architecture.ts. */
  rho: number;
  weights: SaeWeights;
}

/**
 * The weights at step 0, the transforms of input and output, and the unit of coefficients. Reads the
 * source's first activations when one of them is derived from the data.
 * @throws UserError when there are none, or they cannot be normalised as they were to be.
 */
export async function initialize(
  device: Device,
  resolved: ResolvedSae,
  source: ActivationSource,
  train: TrainConfig,
  seed: number,
): Promise<Start & { threshold: number | null }> {
  const from = train.from === undefined ? undefined : await loadStart(train.from, resolved);
  if (!from) {
    const start = await initializeAnew(device, resolved, source, train, seed);
    return { ...start, threshold: null };
  }
  // Its weights are not wanted.
  const start = await initializeAnew(device, { ...resolved, init: "tied" }, source, train, seed);
  const { selection } = from.spec;
  return {
    ...{ ...start, weights: unfolded(from, start) },
    threshold: selection.architecture === "batchTopk" ? selection.threshold : null,
  };
}

/**
 * The autoencoder that training starts from.
 * @throws UserError when it cannot be read, or is of another kind or size than the configuration asks for.
 */
async function loadStart(folder: string, resolved: ResolvedSae): Promise<Sae> {
  const { sae } = await loadSae(folder);
  const kindOf = (
    architecture: string,
    { dIn, dOut, dSae, applyBDecToInput, transcoder, skip }: SaeSpec | ResolvedSae,
  ) => ({ architecture, dIn, dOut, dSae, applyBDecToInput, transcoder, skip });
  const wanted = kindOf(resolved.objective.selection.architecture, resolved);
  const found = kindOf(sae.spec.selection.architecture, sae.spec);
  for (const key of Object.keys(wanted) as (keyof typeof wanted)[])
    if (wanted[key] !== found[key])
      throw new UserError(
        `train.from ${folder} has ${key} ${String(found[key])}, but the settings say ${String(wanted[key])}; set sae.${key} to what it has`,
      );
  const isLayerNorm = sae.spec.input.kind === "layerNorm";
  if (isLayerNorm !== (resolved.normalizeActivations === "layerNorm"))
    throw new UserError(
      `train.from ${folder} was trained ${isLayerNorm ? "on" : "without"} rows normalised one by one; set sae.normalizeActivations to ${isLayerNorm ? "layerNorm" : "another value than layerNorm"}`,
    );
  return sae;
}

/** A folded autoencoder's weights for transformed inputs: the inverse of `Sae.fold`. */
function unfolded(sae: Sae, { input, output }: Start): SaeWeights {
  if (!isFoldable(input) || !isFoldable(output)) return sae;
  return unfoldTransforms(sae, { input, output }, sae.spec);
}

async function initializeAnew(
  device: Device,
  resolved: ResolvedSae,
  source: ActivationSource,
  train: TrainConfig,
  seed: number,
): Promise<Start> {
  const { dIn, dOut, heads, transcoder, normalizeActivations, decoderBiasInit } = resolved;
  const { inRmsUnits, init } = resolved;
  const isBlind = normalizeActivations === "none" && decoderBiasInit === "zero" && !inRmsUnits;
  if (isBlind && init !== "data") {
    const input = identity(dIn);
    const output = transcoder ? identity(dOut) : input;
    return { input, output, rho: 1, weights: initialWeights(resolved, seed) };
  }
  const keep = Math.max(
    init === "data" ? Math.max(resolved.dSae, FITTED_ROWS) : 0,
    decoderBiasInit === "geometricMedian" ? MEDIAN_ROWS : 0,
  );
  const { x, y } = await firstStatistics(device, source, resolved, train, seed, keep);
  const input = normalisation(normalizeActivations, x, heads);
  const output = transcoder ? normalisation(normalizeActivations, y, [dOut]) : input;
  const rms = y.rms();
  const rho = inRmsUnits && rms > 0 ? rms : 1;
  const inRho = { ...resolved, objective: inUnits(resolved.objective, rho) };
  const weights = initialWeights(inRho, seed);
  const centre =
    decoderBiasInit === "geometricMedian"
      ? geometricMedian(y.keptRows().subarray(0, MEDIAN_ROWS * dOut), dOut)
      : y.mean();
  const rows = init === "data" ? firstRows({ x, y }, { input, output }) : null;
  if (rows) aimAtRows(weights, resolved, rows);
  if (decoderBiasInit !== "zero") {
    weights.b_dec.set(y.transformed(output, centre));
    if (transcoder) {
      const mean = forwardRow(input, x.mean());
      for (let f = 0, w = 0; f < weights.b_enc.length; f++)
        for (let c = 0; c < dIn; c++, w++) weights.b_enc[f] -= weights.W_enc[w] * mean[c];
    }
  }
  if (rows) await fitEncoder(device, weights, inRho, rows);
  return { input, output, rho, weights };
}

/** The rows that were kept, transformed in place. */
function firstRows(
  { x, y }: { x: Statistics; y: Statistics },
  { input, output }: Transforms,
): FirstRows {
  const transformed = (side: Statistics, transform: Transform) => {
    const { width } = side;
    const rows = side.keptRows();
    for (let at = 0; at < rows.length; at += width) {
      const row = rows.subarray(at, at + width);
      row.set(side.transformed(transform, row));
    }
    return rows;
  };
  const inputs = transformed(x, input);
  const inputMean = x.transformed(input, x.mean());
  const count = inputs.length / x.width;
  if (x === y) return { count, inputs, targets: inputs, inputMean, targetMean: inputMean };
  const targetMean = y.transformed(output, y.mean());
  return { count, inputs, targets: transformed(y, output), inputMean, targetMean };
}

/** @throws UserError when the statistics do not allow it. */
function normalisation(
  kind: ResolvedSae["normalizeActivations"],
  statistics: Statistics,
  widths: number[],
): Transform {
  switch (kind) {
    case "none":
      return identity(statistics.width);
    case "layerNorm":
      return { kind: "layerNorm", eps: LAYER_NORM_EPS };
    case "whitening":
      return whitening(statistics.mean(), statistics.covariance());
    case "expectedAverageNorm":
    case "rms": {
      const factors = widths.map((width, head) => {
        const norm = statistics.meanNorm(head);
        if (!(norm > 0))
          throw new UserError(
            `the activations' mean norm is ${norm}, so they cannot be scaled; check them, or set sae.normalizeActivations to none.`,
          );
        return kind === "rms" ? 1 / statistics.rms(head) : Math.sqrt(width) / norm;
      });
      return scaling(factors, widths);
    }
    default:
      return kind satisfies never;
  }
}

/**
 * tied: decoder rows in random directions, of norm 1 when training keeps them there and 0.1
 * otherwise; the encoder is a copy, or for a transcoder, whose sides have nothing in common, made in
 * the same way. xavier: both U(±√(6/(width + dSae))), independent; decoder rows are brought to norm 1
 * when training keeps them there. data: as tied, what data-init.ts turns in the directions of rows.
 * Biases and W_skip are 0.
 */
export function initialWeights(resolved: ResolvedSae, seed: number): SaeWeights {
  const { dIn, dOut, dSae, init, transcoder, skip, unitNormDecoder } = resolved;
  const encoder = new Rng(seed, "W_enc");
  const decoder = new Rng(seed, "W_dec");
  const { selection } = resolved.objective;
  const rest = {
    b_enc: new Float32Array(dSae),
    b_dec: new Float32Array(dOut),
    ...(selection.architecture === "jumprelu" && {
      threshold: new Float32Array(dSae).fill(selection.initialThreshold),
    }),
    ...(selection.architecture === "gated" && {
      b_mag: new Float32Array(dSae),
      r_mag: new Float32Array(dSae),
    }),
    ...(skip && { W_skip: new Float32Array(dOut * dIn) }),
  };
  switch (init) {
    case "data":
    case "tied": {
      const directions = (rng: Rng, width: number) => {
        const rows = Float32Array.from({ length: dSae * width }, () => rng.normal());
        setRowNorms(rows, width, unitNormDecoder ? 1 : FREE_DECODER_NORM);
        return rows;
      };
      const W_dec = directions(decoder, dOut);
      return { W_enc: transcoder ? directions(encoder, dIn) : W_dec.slice(), W_dec, ...rest };
    }
    case "xavier": {
      const uniform = (rng: Rng, width: number) => {
        const bound = Math.sqrt(6 / (width + dSae));
        return Float32Array.from({ length: dSae * width }, () => (2 * rng.uniform() - 1) * bound);
      };
      const W_dec = uniform(decoder, dOut);
      if (unitNormDecoder) setRowNorms(W_dec, dOut, 1);
      return { W_enc: uniform(encoder, dIn), W_dec, ...rest };
    }
    default:
      return init satisfies never;
  }
}

function setRowNorms(matrix: Float32Array, width: number, norm: number): void {
  for (let start = 0; start < matrix.length; start += width) {
    const row = matrix.subarray(start, start + width);
    const factor = norm / Math.sqrt(row.reduce((sum, v) => sum + v * v, 0));
    row.forEach((v, c) => (row[c] = v * factor));
  }
}
