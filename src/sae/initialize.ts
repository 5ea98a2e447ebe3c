/** What a trainer starts from: weights, and what the first activations say about scale and mean. */
import type { ActivationSource } from "../activation-source.ts";
import type { TrainConfig } from "../config.ts";
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import { Rng } from "../rng.ts";
import { inUnits, type ResolvedSae } from "./architecture.ts";
import { unfoldTransforms } from "./fold.ts";
import { loadSae } from "./formats.ts";
import type { Sae } from "./sae.ts";
import {
  forwardRow,
  identity,
  isFoldable,
  scaling,
  whitening,
  type Transform,
} from "./transform.ts";
import type { SaeSpec, SaeWeights } from "./weights.ts";

/** Batches that the input scale and the mean are taken from, at most. */
const STATISTICS_BATCHES = 100;

/** The norm of the decoder rows at the start when nothing keeps them at 1 (Anthropic, April 2024). */
export const FREE_DECODER_NORM = 0.1;

/** Added to a row's standard deviation before it divides; SAELens' number. */
const LAYER_NORM_EPS = 1e-5;

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
  const start = await initializeAnew(device, resolved, source, train, seed);
  if (!from) return { ...start, threshold: null };
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
  const { inRmsUnits } = resolved;
  if (normalizeActivations === "none" && decoderBiasInit === "zero" && !inRmsUnits) {
    const input = identity(dIn);
    const output = transcoder ? identity(dOut) : input;
    return { input, output, rho: 1, weights: initialWeights(resolved, seed) };
  }
  const { x, y } = await firstStatistics(device, source, resolved, train, seed);
  const input = normalisation(normalizeActivations, x, heads);
  const output = transcoder ? normalisation(normalizeActivations, y, [dOut]) : input;
  const rms = y.rms();
  const rho = inRmsUnits && rms > 0 ? rms : 1;
  const inRho = { ...resolved, objective: inUnits(resolved.objective, rho) };
  const weights = initialWeights(inRho, seed);
  if (decoderBiasInit !== "zero") {
    const centre = decoderBiasInit === "mean" ? y.mean() : geometricMedian(y.keptRows(), dOut);
    weights.b_dec.set(y.transformed(output, centre));
    if (transcoder) {
      const mean = forwardRow(input, x.mean());
      for (let f = 0, w = 0; f < weights.b_enc.length; f++)
        for (let c = 0; c < dIn; c++, w++) weights.b_enc[f] -= weights.W_enc[w] * mean[c];
    }
  }
  return { input, output, rho, weights };
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
 * otherwise; the encoder is a copy, or for a transcoder, whose sides have nothing in common, made in
 * the same way. xavier: both U(±√(6/(width + dSae))), independent; decoder rows are brought to norm 1
 * when training keeps them there. Biases and W_skip are 0.
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

/** Sums over the first activations of one side. */
class Statistics {
  readonly width: number;
  #rows = 0;
  readonly #heads: readonly number[];
  readonly #sum: Float64Array;
  readonly #norms: Float64Array;
  readonly #squares: Float64Array;
  readonly #eachRow: Transform | null;
  readonly #kept: Float32Array;
  #keptRows = 0;
  /** What covariances are taken around: a row near the mean, which float32 products need. */
  #centre: Float64Array | undefined;
  #products: Float32Array | undefined;

  /** @param heads widths of the parts whose norms count by themselves. @param eachRow what is done to every row first. */
  constructor(heads: readonly number[], keepRows: number, eachRow: Transform | null) {
    this.width = heads.reduce((a, b) => a + b);
    this.#heads = heads;
    this.#sum = new Float64Array(this.width);
    this.#norms = new Float64Array(heads.length);
    this.#squares = new Float64Array(heads.length);
    this.#eachRow = eachRow;
    this.#kept = new Float32Array(keepRows * this.width);
  }

  /** @param x [rows, width] */
  add(x: Float32Array, rows: number): void {
    const { width } = this;
    for (let n = 0; n < rows; n++) {
      const raw = x.subarray(n * width, (n + 1) * width);
      const row = this.#eachRow ? forwardRow(this.#eachRow, raw) : raw;
      for (let head = 0, c = 0; head < this.#heads.length; head++) {
        let squared = 0;
        for (let end = c + this.#heads[head]; c < end; c++) {
          const v = row[c];
          this.#sum[c] += v;
          squared += v * v;
        }
        this.#norms[head] += Math.sqrt(squared);
        this.#squares[head] += squared;
      }
      if ((this.#keptRows + 1) * width <= this.#kept.length)
        this.#kept.set(row, this.#keptRows++ * width);
    }
    this.#rows += rows;
  }

  /** Rows less the mean of those of the first call, for products of theirs. */
  centred(x: Float32Array, rows: number): Float32Array {
    const { width } = this;
    this.#centre ??= this.mean();
    const out = new Float32Array(rows * width);
    for (let i = 0; i < out.length; i++) out[i] = x[i] - this.#centre[i % width];
    return out;
  }

  /** Σ c cᵀ over all centred rows; [width, width]. */
  setProducts(products: Float32Array): void {
    this.#products = products;
  }

  mean(): Float64Array {
    return this.#sum.map((v) => v / this.#rows);
  }

  meanNorm(head: number): number {
    return this.#norms[head] / this.#rows;
  }

  /** Root mean square of the elements, of one head or all. */
  rms(head?: number): number {
    if (head !== undefined)
      return Math.sqrt(this.#squares[head] / (this.#rows * this.#heads[head]));
    return Math.sqrt(this.#squares.reduce((a, b) => a + b) / (this.#rows * this.width));
  }

  covariance(): Float64Array {
    const d = this.width;
    const shift = this.mean().map((v, c) => v - this.#centre![c]);
    return Float64Array.from(
      this.#products!,
      (v, i) => v / this.#rows - shift[Math.floor(i / d)] * shift[i % d],
    );
  }

  keptRows(): Float32Array {
    return this.#kept.subarray(0, this.#keptRows * this.width);
  }

  /** A row such as the mean, in the units of training. */
  transformed(transform: Transform, row: Float64Array): Float64Array {
    return this.#eachRow ? row : forwardRow(transform, row);
  }
}

/**
 * Statistics of the first activations in training order, inputs x and targets y (of an autoencoder
 * the same): at most 100 batches, bufferRows rows, one epoch.
 */
async function firstStatistics(
  device: Device,
  source: ActivationSource,
  resolved: ResolvedSae,
  train: TrainConfig,
  seed: number,
): Promise<{ x: Statistics; y: Statistics }> {
  const { dOut, heads, transcoder, normalizeActivations, decoderBiasInit } = resolved;
  const { batchSize, shuffle, bufferRows } = train;
  const keep = decoderBiasInit === "geometricMedian" ? MEDIAN_ROWS : 0;
  const eachRow: Transform | null =
    normalizeActivations === "layerNorm" ? { kind: "layerNorm", eps: LAYER_NORM_EPS } : null;
  const x = new Statistics(heads, transcoder ? 0 : keep, eachRow);
  const y = transcoder ? new Statistics([dOut], keep, eachRow) : x;
  const sides = transcoder ? [x, y] : [x];
  const products = sides.map(({ width }) =>
    normalizeActivations === "whitening"
      ? { rows: device.tensor([batchSize, width]), sum: device.tensor([width, width]) }
      : null,
  );
  let rows = 0;
  let batches = 0;
  try {
    for await (const batch of source.batches({ batchSize, seed, shuffle, bufferRows })) {
      for (const [i, side] of sides.entries()) {
        const data = i === 0 ? batch.data : batch.target!;
        side.add(data, batch.rows);
        const product = products[i];
        if (!product) continue;
        device.write(product.rows, side.centred(data, batch.rows));
        const { rows: a, sum: out } = product;
        device.matmul({
          ...{ a, b: a, transA: true, transB: false, out, rows: batch.rows, accumulate: true },
        });
      }
      rows += batch.rows;
      batches += 1;
      if (batches >= STATISTICS_BATCHES || rows >= bufferRows || batch.next.epoch > 0) break;
    }
    if (rows === 0) throw new UserError("there are no activations to train on");
    for (const [i, side] of sides.entries())
      if (products[i]) side.setProducts(await device.readF32(products[i].sum));
  } finally {
    for (const product of products) if (product) device.free(product.rows, product.sum);
  }
  return { x, y };
}
