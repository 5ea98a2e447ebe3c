/**
 * The trainer: one step written out in order, metrics yielded, and a state that holds everything.
 *
 * Units: losses and their terms are in the scaled units of training (they are what is minimised);
 * mse is in raw units, fvu and cosine have none, l0 and l1 count latents (see metrics.ts).
 */
import type { ActivationSource, Batch, Cursor } from "../activation-source.ts";
import type { z } from "zod";

import {
  parseSection,
  saeSchema,
  trainSchema,
  type SaeConfig,
  type TrainConfig,
} from "../config.ts";
import type { Adam, Device, Moments, Tensor } from "../device/device.ts";
import { UserError } from "../error.ts";
import {
  encode,
  makeCodes,
  reconstructionTerm,
  reluCoefficients,
  resolveSae,
  warmup,
  type ResolvedSae,
} from "./architecture.ts";
import { initialize } from "./initialize.ts";
import {
  evaluateReconstruction,
  ReconstructionSums,
  sumOfSquares,
  type Evaluation,
} from "./metrics.ts";
import { Sae, SaeOnDevice, scaled, type SaeSpec } from "./sae.ts";

/** Absent fields take the defaults that config.ts states. */
export interface TrainerOptions {
  sae: z.input<typeof saeSchema>;
  train?: z.input<typeof trainSchema>;
  /** Seed of the initial weights and of the order of the activations; default 0. */
  seed?: number;
  source: ActivationSource;
}

export interface Settings {
  sae: SaeConfig;
  train: TrainConfig;
  seed: number;
  source: ActivationSource;
}

function settingsOf({ sae, train = {}, seed = 0, source }: TrainerOptions): Settings {
  return {
    sae: parseSection(saeSchema, sae, "sae"),
    train: parseSection(trainSchema, train, "train"),
    seed,
    source,
  };
}

/** The loss is their sum; each includes its coefficient. */
export interface LossTerms {
  reconstruction: number;
  sparsity: number;
  aux: number;
}

/** What training looks like at one step. Means are over all rows since the metrics before. */
export interface Metrics {
  /** Optimiser steps done. */
  step: number;
  /** Passes over the activations done, with their fraction. */
  epoch: number;
  /** Activations trained on. */
  tokens: number;
  loss: number;
  terms: LossTerms;
  mse: number;
  /** Against the mean of the rows since the metrics before. */
  fvu: number;
  l0: number;
  l1: number;
  cosine: number;
  /** Share of latents that have not fired for deadAfterTokens activations. */
  deadFraction: number;
  denseFraction: number;
  /** Of the step just done. */
  learningRate: number;
  /** At the end of an epoch: the mean over all of its rows, as the weights were when each was seen. */
  epochLoss?: { loss: number; terms: LossTerms };
  /** Over the whole validation source, as the weights are now; aux is 0. */
  validation?: ValidationMetrics;
}

export type ValidationMetrics = Omit<Evaluation, "density" | "meanActivation"> & {
  loss: number;
  terms: LossTerms;
};

export interface FitOptions {
  validation?: ActivationSource;
  /** Called every checkpointEvery steps and at the end, after the step's metrics were taken. */
  saveCheckpoint?: (state: TrainerState) => Promise<void>;
}

/** Everything a trainer knows: restored from it, training goes on bit for bit. */
export interface TrainerState {
  /** Plain JSON. */
  progress: Progress;
  /** Absent tensors are all 0. */
  tensors: Partial<Record<StateTensor, Float32Array | Int32Array>>;
}

export interface Progress {
  sae: SaeConfig;
  train: TrainConfig;
  seed: number;
  dIn: number;
  /** Rows in an epoch of the source. */
  rows: number;
  /** What inputs are multiplied by. */
  scale: number;
  step: number;
  tokens: number;
  cursor: Cursor;
  /** Sums since the last metrics; their counts are the tensor windowCounts. */
  window: { sums: Record<string, number | number[]>; terms: LossTerms };
  epoch: { rows: number; terms: LossTerms };
}

const parameterNames = ["W_enc", "b_enc", "W_dec", "b_dec"] as const;
type ParameterName = (typeof parameterNames)[number];
export type StateTensor =
  ParameterName | `${ParameterName}.${"m" | "v"}` | "sinceFired" | "windowCounts";

interface Parameter extends Moments {
  value: Tensor;
}

/** Settings that may differ between a checkpoint and the run that goes on from it: none of them touches the weights. */
const freeSettings = new Set(["logEvery", "validateEvery", "checkpointEvery", "keepCheckpoints"]);

export class Trainer {
  readonly resolved: ResolvedSae;
  /** Adam's learning rate before warm-up and decay. */
  readonly learningRate: number;
  /** Steps from the first to the last, resumed ones included. */
  readonly totalSteps: number;

  readonly #device: Device;
  /** The configuration with every default filled in. */
  readonly settings: Settings;
  readonly #progress: Progress;
  #sums: ReconstructionSums;

  readonly #parameters: Record<ParameterName, Parameter>;
  readonly #batch: ReturnType<typeof batchTensors>;
  readonly #firing: { sinceFired: Tensor; counts: Tensor; sums: Tensor };
  readonly #bDecGradient: Tensor;
  readonly #staging: Float32Array;
  /** Latents that were dead before the coming step. */
  #dead: number;

  /**
   * A trainer at step 0. Reads the source's first activations when the configuration derives the
   * input scale or the decoder bias from them.
   * @throws UserError when the configuration is wrong or does not fit the source.
   */
  static async create(device: Device, options: TrainerOptions): Promise<Trainer> {
    const settings = settingsOf(options);
    const { sae, train, seed, source } = settings;
    const { dIn, rows } = source;
    const resolved = resolveSae(sae, dIn);
    const { scale, weights } = await initialize(resolved, source, train, seed);
    const progress: Progress = {
      ...{ sae, train, seed, dIn, rows, scale },
      step: 0,
      tokens: 0,
      cursor: { epoch: 0, row: 0 },
      window: { sums: new ReconstructionSums(dIn, resolved.dSae).toJSON(), terms: noTerms() },
      epoch: { rows: 0, terms: noTerms() },
    };
    return new Trainer(device, settings, { progress, tensors: { ...weights } });
  }

  /**
   * A trainer that goes on from `state` as if it had never stopped.
   * @throws UserError when the configuration or the source is not the one that the state comes from.
   */
  static resume(device: Device, options: TrainerOptions, state: TrainerState): Trainer {
    const { progress } = state;
    const settings = settingsOf(options);
    const { sae, train, seed, source } = settings;
    const compare = (section: string, before: object, now: object) => {
      for (const key of new Set([...Object.keys(before), ...Object.keys(now)])) {
        const [was, is] = [before, now].map((o) => JSON.stringify((o as never)[key]));
        if (was !== is && !freeSettings.has(key))
          throw new UserError(
            `the checkpoint was made with ${section}${key} ${was}; now it is ${is}. Resume with the old value, or train anew.`,
          );
      }
    };
    compare("sae.", progress.sae, sae);
    compare("train.", progress.train, train);
    compare("", pick(progress), { seed, dIn: source.dIn, rows: source.rows });
    return new Trainer(device, settings, state);
  }

  private constructor(device: Device, settings: Settings, state: TrainerState) {
    const { sae, train, source } = settings;
    this.resolved = resolveSae(sae, source.dIn);
    const { dIn, dSae, objective } = this.resolved;
    this.learningRate = train.learningRate ?? 2e-4 / Math.sqrt(dSae / 2 ** 14);
    this.totalSteps = totalSteps(train, source.rows);
    this.#device = device;
    this.settings = settings;
    this.#progress = structuredClone(state.progress);

    const { tensors } = state;
    const counts = tensors.windowCounts ?? new Int32Array(dSae);
    this.#sums = ReconstructionSums.from(state.progress.window.sums, counts);
    this.#dead = countDead(tensors.sinceFired ?? new Int32Array(dSae), train.deadAfterTokens);

    const load = (name: StateTensor, shape: number[], dtype: "f32" | "i32" = "f32"): Tensor => {
      const tensor = device.tensor(shape, dtype);
      const data = tensors[name];
      if (data) device.write(tensor, data);
      return tensor;
    };
    const parameter = (name: ParameterName, ...shape: number[]): Parameter => ({
      value: load(name, shape),
      m: load(`${name}.m`, shape),
      v: load(`${name}.v`, shape),
    });
    this.#parameters = {
      W_enc: parameter("W_enc", dSae, dIn),
      b_enc: parameter("b_enc", dSae),
      W_dec: parameter("W_dec", dSae, dIn),
      b_dec: parameter("b_dec", dIn),
    };
    this.#firing = {
      sinceFired: load("sinceFired", [dSae], "i32"),
      counts: device.tensor([dSae], "i32"),
      sums: device.tensor([dSae]),
    };
    this.#bDecGradient = device.tensor([dIn]);
    this.#batch = batchTensors(device, this.resolved, train.batchSize);
    this.#staging = new Float32Array(this.scale === 1 ? 0 : train.batchSize * dIn);
    if (objective.architecture === "topk" && objective.auxKCoefficient > 0)
      this.#batch.aux = auxTensors(device, objective.auxK, dIn, train.batchSize);
  }

  /** Optimiser steps done. */
  get step(): number {
    return this.#progress.step;
  }

  /** What inputs are multiplied by before encoding; 1 without normalisation. */
  get scale(): number {
    return this.#progress.scale;
  }

  /**
   * Trains to the end of the budget, yielding metrics every logEvery steps, at the end of each
   * epoch and at the last step. Stopping early (`break`) leaves the trainer usable.
   * @throws UserError when the loss or a parameter stops being finite; no checkpoint of that is made.
   */
  async *fit({ validation, saveCheckpoint }: FitOptions = {}): AsyncGenerator<Metrics, void> {
    const { source, seed, train } = this.settings;
    const { batchSize, shuffle, bufferRows, logEvery, validateEvery, checkpointEvery } = train;
    const from = { ...this.#progress.cursor };
    const stream = source.batches({ batchSize, seed, shuffle, bufferRows, from });
    const batches = stream[Symbol.asyncIterator]();
    try {
      let coming = batches.next();
      while (this.step < this.totalSteps) {
        const result = await coming;
        if (result.done) throw new UserError(`the activations ended after ${this.step} steps`);
        const batch = result.value;
        const { rows } = batch;
        const next = { ...batch.next };
        this.#queueStep(batch);
        // The batch is on the device now; the next one is read while the device works.
        if (this.step + 1 < this.totalSteps) {
          coming = batches.next();
          coming.catch(() => undefined); // reported when awaited
        }
        await this.#record(rows);

        const { progress, step } = { progress: this.#progress, step: this.step };
        const epochEnds = next.epoch > progress.cursor.epoch;
        progress.cursor = next;
        const isLast = step === this.totalSteps;
        if (step % logEvery === 0 || epochEnds || isLast) {
          const metrics = this.#takeMetrics(epochEnds);
          const due = validateEvery > 0 ? step % validateEvery === 0 : epochEnds;
          if (validation && (due || isLast)) metrics.validation = await this.validate(validation);
          yield metrics;
        }
        if (saveCheckpoint && (isLast || (checkpointEvery > 0 && step % checkpointEvery === 0)))
          await saveCheckpoint(await this.state());
      }
    } finally {
      await batches.return?.();
    }
  }

  /** Queues one optimiser step: encode → decode → backward → update. */
  #queueStep(batch: Batch): void {
    const device = this.#device;
    const { dIn, dSae, objective, applyBDecToInput, unitNormDecoder } = this.resolved;
    const { W_enc, b_enc, W_dec, b_dec } = this.#parameters;
    const { x, residual, rowStats, codes, dCodes, norms, aux } = this.#batch;
    const { rows } = batch;
    const input = batch.data.subarray(0, rows * dIn);
    device.write(x, scaled(input, this.scale, this.#staging));

    const adam = this.#adam(this.step + 1);
    const params = { wEnc: W_enc.value, bEnc: b_enc.value, wDec: W_dec.value };
    const bPre = applyBDecToInput ? b_dec.value : null;
    const wDec = W_dec.value;
    const update = {
      rows,
      x,
      bPre,
      params,
      moments: { wEnc: W_enc, bEnc: b_enc, wDec: W_dec },
      adam,
      decoder: { projectGradient: unitNormDecoder, unitNorm: unitNormDecoder },
      dBPre: applyBDecToInput ? this.#bDecGradient : null,
    };

    encode(device, { rows, x, bPre, params, codes });
    let gradScale: number;
    if (objective.architecture === "topk") {
      gradScale = 2 / rows;
      const { indices, values } = codes as { indices: Tensor; values: Tensor };
      device.decodeSparse({
        rows,
        indices,
        values,
        wDec,
        bDec: b_dec.value,
        target: x,
        residual,
        gradient: { dValues: dCodes, gradScale },
      });
      const parts = [{ indices, values, dValues: dCodes, residual, gradScale }];
      if (aux && this.#dead > 0) {
        const auxScale = (2 * objective.auxKCoefficient) / rows;
        const eligible = {
          sinceFired: this.#firing.sinceFired,
          atLeast: this.settings.train.deadAfterTokens,
        };
        device.encodeTopK({
          rows,
          x,
          bPre,
          wEnc: params.wEnc,
          bEnc: params.bEnc,
          ...aux,
          eligible,
        });
        device.decodeSparse({
          rows,
          indices: aux.indices,
          values: aux.values,
          wDec,
          bDec: null,
          target: residual,
          residual: aux.residual,
          gradient: { dValues: aux.dValues, gradScale: auxScale },
        });
        device.rowStats({ rows, target: residual, residual: aux.residual, out: aux.rowStats });
        parts.push({ ...aux, gradScale: auxScale });
      }
      device.updateLatents({ ...update, parts });
    } else {
      const acts = codes.acts!;
      const c = reluCoefficients(objective, rows, dIn, dSae, this.step + 1);
      gradScale = c.gradScale;
      if (c.byNorm) device.rowNorms({ w: wDec, out: norms });
      const weights = c.byNorm ? norms : null;
      const normPenalty = c.byNorm ? c.l1 : 0;
      device.decodeDense({ rows, acts, wDec, bDec: b_dec.value, target: x, residual });
      device.backwardDense({
        rows,
        acts,
        residual,
        gradScale,
        wDec,
        l1: c.l1,
        weights,
        dPre: dCodes,
      });
      device.updateLatentsDense({
        ...update,
        acts,
        dPre: dCodes,
        residual,
        gradScale,
        normPenalty,
      });
    }

    // The decoder bias: through the reconstruction, and through the input when it is subtracted there.
    device.columnSum({
      rows,
      x: residual,
      scale: -gradScale,
      out: this.#bDecGradient,
      accumulate: applyBDecToInput,
    });
    device.updateVector({ param: b_dec.value, grad: this.#bDecGradient, moments: b_dec, adam });

    device.rowStats({ rows, target: x, residual, out: rowStats });
    device.write(this.#firing.counts, new Int32Array(dSae));
    device.write(this.#firing.sums, new Float32Array(dSae));
    device.recordFiring({ rows, codes, stats: this.#firing });
    this.#sums.addInputs(input, rows);
  }

  /** Waits for the step queued last and adds it to the running sums. */
  async #record(rows: number): Promise<void> {
    const device = this.#device;
    const { dIn, dSae, objective } = this.resolved;
    const { train } = this.settings;
    const { rowStats: stats, norms, aux } = this.#batch;
    const byNorm = objective.architecture === "relu" && objective.loss === "sum";
    const withAux = aux !== undefined && this.#dead > 0;
    const [rowStats, counts, sums, sinceFired, normOf, auxStats] = await Promise.all([
      device.readF32(stats, rows * 4),
      device.readI32(this.#firing.counts),
      device.readF32(this.#firing.sums),
      device.readI32(this.#firing.sinceFired),
      byNorm ? device.readF32(norms) : undefined,
      withAux ? device.readF32(aux.rowStats, rows * 4) : undefined,
    ]);

    const terms = { reconstruction: 0, sparsity: 0, aux: 0 };
    terms.reconstruction = reconstructionTerm(objective, sumOfSquares(rowStats), rows, dIn);
    if (objective.architecture === "relu") {
      const { l1 } = reluCoefficients(objective, rows, dIn, dSae, this.step + 1);
      terms.sparsity = l1 * sums.reduce((sum, v, f) => sum + v * (normOf?.[f] ?? 1), 0);
    } else if (auxStats) {
      terms.aux = (objective.auxKCoefficient * sumOfSquares(auxStats)) / rows;
    }
    const loss = total(terms);
    if (!Number.isFinite(loss))
      throw new UserError(
        `the loss became ${loss} at step ${this.step + 1}; training stops, checkpoints stay as they are. ` +
          `Lower train.learningRate (${this.learningRate}) or look for outliers in the activations.`,
      );

    const { window, epoch } = this.#progress;
    addTerms(window.terms, terms, rows);
    addTerms(epoch.terms, terms, rows);
    epoch.rows += rows;
    this.#sums.addOutputs({ rowStats, counts, sums }, this.scale);
    this.#dead = countDead(sinceFired, train.deadAfterTokens);
    this.#progress.step += 1;
    this.#progress.tokens += rows;
  }

  /** The metrics of the rows since the last call, which begins the next stretch. */
  #takeMetrics(epochEnds: boolean): Metrics {
    const progress = this.#progress;
    const { step, tokens, window, epoch } = progress;
    const { dIn, dSae } = this.resolved;
    const { mse, fvu, l0, l1, cosine, denseFraction } = this.#sums.metrics();
    const terms = meanTerms(window.terms, this.#sums.rows);
    const metrics: Metrics = {
      step,
      epoch: tokens / this.settings.source.rows,
      tokens,
      loss: total(terms),
      terms,
      mse,
      fvu,
      l0,
      l1,
      cosine,
      deadFraction: this.#dead / dSae,
      denseFraction,
      learningRate: this.#adam(step).learningRate,
    };
    this.#sums = new ReconstructionSums(dIn, dSae);
    window.terms = noTerms();
    if (epochEnds) {
      const means = meanTerms(epoch.terms, epoch.rows);
      metrics.epochLoss = { loss: total(means), terms: means };
      progress.epoch = { rows: 0, terms: noTerms() };
    }
    return metrics;
  }

  /** Metrics and loss of the weights as they are, over one pass of `source`. */
  async validate(source: ActivationSource): Promise<ValidationMetrics> {
    const { dIn, dSae, objective } = this.resolved;
    const onDevice = this.#encoder(this.settings.train.batchSize);
    try {
      const evaluation = await evaluateReconstruction(onDevice, source);
      const { density: _density, meanActivation, ...metrics } = evaluation;
      const { rows, mse } = metrics;
      const sse = mse * rows * dIn * this.scale ** 2;
      const terms = noTerms();
      terms.reconstruction = reconstructionTerm(objective, sse, rows, dIn);
      if (objective.architecture === "relu") {
        const { l1, byNorm } = reluCoefficients(objective, 1, dIn, dSae, Math.max(1, this.step));
        const norms = byNorm ? await onDevice.decoderNorms() : undefined;
        terms.sparsity = l1 * meanActivation.reduce((sum, v, f) => sum + v * (norms?.[f] ?? 1), 0);
      }
      return { ...metrics, loss: total(terms), terms };
    } finally {
      onDevice.close();
    }
  }

  /** The SAE as it is now, with the input scale not yet folded in. @throws UserError when a weight is not finite. */
  async sae(): Promise<Sae> {
    const [W_enc, b_enc, W_dec, b_dec] = await this.#readParameters();
    return new Sae(this.#spec(), { W_enc, b_enc, W_dec, b_dec });
  }

  /** Everything, for a checkpoint. @throws UserError when a weight is not finite. */
  async state(): Promise<TrainerState> {
    const device = this.#device;
    const tensors: TrainerState["tensors"] = {};
    const values = await this.#readParameters();
    for (const [i, name] of parameterNames.entries()) {
      const { m, v } = this.#parameters[name];
      tensors[name] = values[i];
      tensors[`${name}.m`] = await device.readF32(m);
      tensors[`${name}.v`] = await device.readF32(v);
    }
    tensors.sinceFired = await device.readI32(this.#firing.sinceFired);
    tensors.windowCounts = Int32Array.from(this.#sums.counts);
    const progress = structuredClone(this.#progress);
    progress.window.sums = this.#sums.toJSON();
    return { progress, tensors };
  }

  /** Frees the device memory; the trainer cannot be used afterwards. */
  close(): void {
    const { codes, aux, ...rest } = this.#batch;
    this.#device.free(
      ...Object.values(this.#parameters).flatMap(({ value, m, v }) => [value, m, v]),
      ...Object.values(this.#firing),
      ...Object.values(codes as Record<string, Tensor>),
      ...Object.values(aux ?? {}),
      ...Object.values(rest),
      this.#bDecGradient,
    );
  }

  #spec(): SaeSpec {
    const { objective, dIn, dSae, applyBDecToInput } = this.resolved;
    const selection =
      objective.architecture === "topk"
        ? { architecture: objective.architecture, k: objective.k }
        : { architecture: objective.architecture };
    return { selection, dIn, dSae, applyBDecToInput, scale: this.scale };
  }

  #encoder(maxRows: number): SaeOnDevice {
    const { W_enc, b_enc, W_dec, b_dec } = this.#parameters;
    const params = {
      wEnc: W_enc.value,
      bEnc: b_enc.value,
      wDec: W_dec.value,
      bDec: b_dec.value,
    };
    return new SaeOnDevice(this.#device, this.#spec(), params, maxRows, false);
  }

  async #readParameters(): Promise<Float32Array[]> {
    const values: Float32Array[] = [];
    for (const name of parameterNames) {
      const data = await this.#device.readF32(this.#parameters[name].value);
      if (!data.every(Number.isFinite))
        throw new UserError(
          `${name} is no longer finite after step ${this.step}; training stops, checkpoints stay as they are. ` +
            `Lower train.learningRate (${this.learningRate}) or look for outliers in the activations.`,
        );
      values.push(data);
    }
    return values;
  }

  #adam(step: number): Adam {
    const { beta1, beta2, eps, warmupSteps, decaySteps } = this.settings.train;
    const left = this.totalSteps - step + 1;
    const decay = decaySteps > 0 ? Math.min(1, left / decaySteps) : 1;
    const learningRate = this.learningRate * warmup(step, warmupSteps) * decay;
    return { learningRate, beta1, beta2, eps, step };
  }
}

/** Optimiser steps that a budget comes to; an epoch of `rows` ends with a short batch when they do not divide. */
function totalSteps(train: TrainConfig, rows: number): number {
  if (rows < 1) throw new UserError("there are no activations to train on");
  if (train.steps !== undefined) return train.steps;
  const tokens = train.tokens ?? Math.round((train.epochs ?? 1) * rows);
  const perEpoch = Math.ceil(rows / train.batchSize);
  const rest = Math.ceil((tokens % rows) / train.batchSize);
  return Math.max(1, Math.floor(tokens / rows) * perEpoch + rest);
}

/** Room for one batch: [N, d] inputs and residuals, the latents and their gradients. */
function batchTensors(device: Device, resolved: ResolvedSae, rows: number) {
  const { dIn, dSae, objective } = resolved;
  return {
    x: device.tensor([rows, dIn]),
    residual: device.tensor([rows, dIn]),
    rowStats: device.tensor([rows, 4]),
    codes: makeCodes(device, objective, rows, dSae),
    dCodes: device.tensor([rows, objective.architecture === "topk" ? objective.k : dSae]),
    norms: device.tensor([dSae]),
    aux: undefined as ReturnType<typeof auxTensors> | undefined,
  };
}

function auxTensors(device: Device, auxK: number, dIn: number, rows: number) {
  return {
    indices: device.tensor([rows, auxK], "i32"),
    values: device.tensor([rows, auxK]),
    dValues: device.tensor([rows, auxK]),
    residual: device.tensor([rows, dIn]),
    rowStats: device.tensor([rows, 4]),
  };
}

function countDead(sinceFired: ArrayLike<number>, deadAfterTokens: number): number {
  let dead = 0;
  for (let f = 0; f < sinceFired.length; f++) if (sinceFired[f] >= deadAfterTokens) dead++;
  return dead;
}

function pick({ seed, dIn, rows }: Progress): object {
  return { seed, dIn, rows };
}

function noTerms(): LossTerms {
  return { reconstruction: 0, sparsity: 0, aux: 0 };
}

function total({ reconstruction, sparsity, aux }: LossTerms): number {
  return reconstruction + sparsity + aux;
}

function addTerms(sum: LossTerms, terms: LossTerms, rows: number): void {
  sum.reconstruction += terms.reconstruction * rows;
  sum.sparsity += terms.sparsity * rows;
  sum.aux += terms.aux * rows;
}

function meanTerms({ reconstruction, sparsity, aux }: LossTerms, rows: number): LossTerms {
  return { reconstruction: reconstruction / rows, sparsity: sparsity / rows, aux: aux / rows };
}
