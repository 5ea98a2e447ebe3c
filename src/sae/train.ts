/**
 * The trainer: batches in, steps (step.ts) in order, metrics out, and a state that holds everything.
 *
 * Units: losses and their terms are in the scaled units of training (they are what is minimised);
 * mse is in raw units, fvu and cosine have none, l0 and l1 count latents (see metrics.ts).
 */
import type { ActivationSource, Cursor } from "../activation-source.ts";
import type { z } from "zod";

import {
  parseSection,
  saeSchema,
  trainSchema,
  type SaeConfig,
  type TrainConfig,
} from "../config.ts";
import type { Adam, Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import {
  reconstructionTerm,
  reluCoefficients,
  resolveSae,
  warmup,
  type ResolvedSae,
} from "./architecture.ts";
import { initialize } from "./initialize.ts";
import { evaluateReconstruction, ReconstructionSums, type Evaluation } from "./metrics.ts";
import { Sae, type SaeSpec } from "./sae.ts";
import { TrainingStep, type LossTerms, type StepTensor } from "./step.ts";

export type { LossTerms } from "./step.ts";

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

export type StateTensor = StepTensor | "windowCounts";

/** Settings that may differ between a checkpoint and the run that goes on from it: none of them touches the weights. */
const freeSettings = new Set(["logEvery", "validateEvery", "checkpointEvery", "keepCheckpoints"]);

export class Trainer {
  readonly resolved: ResolvedSae;
  /** Adam's learning rate before warm-up and decay. */
  readonly learningRate: number;
  /** Steps from the first to the last, resumed ones included. */
  readonly totalSteps: number;

  /** The configuration with every default filled in. */
  readonly settings: Settings;
  readonly #progress: Progress;
  #sums: ReconstructionSums;
  readonly #step: TrainingStep;

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
    const { dSae } = this.resolved;
    this.learningRate = train.learningRate ?? 2e-4 / Math.sqrt(dSae / 2 ** 14);
    this.totalSteps = totalSteps(train, source.rows);
    this.settings = settings;
    this.#progress = structuredClone(state.progress);

    const { tensors } = state;
    const counts = tensors.windowCounts ?? new Int32Array(dSae);
    this.#sums = ReconstructionSums.from(state.progress.window.sums, counts);
    const { batchSize, deadAfterTokens } = train;
    const options = { batchSize, deadAfterTokens, scale: this.scale };
    this.#step = new TrainingStep(device, this.resolved, options, tensors);
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
        const input = batch.data.subarray(0, rows * source.dIn);
        this.#step.queue(input, rows, this.#adam(this.step + 1));
        this.#sums.addInputs(input, rows);
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

  /** Waits for the step queued last and adds it to the running sums. */
  async #record(rows: number): Promise<void> {
    const progress = this.#progress;
    const step = progress.step + 1;
    const { terms, statistics } = await this.#step.result(rows, step);
    const loss = total(terms);
    if (!Number.isFinite(loss))
      throw new UserError(
        `the loss became ${loss} at step ${step}; training stops, checkpoints stay as they are. ` +
          `Lower train.learningRate (${this.learningRate}) or look for outliers in the activations.`,
      );

    const { window, epoch } = progress;
    addTerms(window.terms, terms, rows);
    addTerms(epoch.terms, terms, rows);
    epoch.rows += rows;
    this.#sums.addOutputs(statistics, this.scale);
    progress.step = step;
    progress.tokens += rows;
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
      deadFraction: this.#step.dead / dSae,
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
    const onDevice = this.#step.encoder(this.#spec(), this.settings.train.batchSize);
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
    return new Sae(this.#spec(), await this.#finiteWeights());
  }

  /** Everything, for a checkpoint. @throws UserError when a weight is not finite. */
  async state(): Promise<TrainerState> {
    const weights = await this.#finiteWeights();
    const windowCounts = Int32Array.from(this.#sums.counts);
    const progress = structuredClone(this.#progress);
    progress.window.sums = this.#sums.toJSON();
    return { progress, tensors: { ...weights, ...(await this.#step.moments()), windowCounts } };
  }

  /** Frees the device memory; the trainer cannot be used afterwards. */
  close(): void {
    this.#step.close();
  }

  #spec(): SaeSpec {
    const { objective, dIn, dSae, applyBDecToInput } = this.resolved;
    const selection =
      objective.architecture === "topk"
        ? { architecture: objective.architecture, k: objective.k }
        : { architecture: objective.architecture };
    return { selection, dIn, dSae, applyBDecToInput, scale: this.scale };
  }

  async #finiteWeights() {
    const weights = await this.#step.weights();
    for (const [name, data] of Object.entries(weights))
      if (!data.every(Number.isFinite))
        throw new UserError(
          `${name} is no longer finite after step ${this.step}; training stops, checkpoints stay as they are. ` +
            `Lower train.learningRate (${this.learningRate}) or look for outliers in the activations.`,
        );
    return weights;
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
