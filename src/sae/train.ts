/**
 * The trainer: batches in, steps (step.ts) in order, metrics out, and a state that holds everything.
 *
 * Units: losses and their terms are in the scaled units of training (they are what is minimised);
 * mse is in raw units, fvu and cosine have none, l0 and l1 count latents (see metrics.ts).
 */
import type { ActivationSource, Batch, Cursor } from "../activation-source.ts";
import type { z } from "zod";

import { parseSection, saeSchema, trainSchema, type TrainConfig } from "../config.ts";
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import {
  inUnits,
  kAt,
  reconstructionTerm,
  resolveSae,
  type ResolvedSae,
  type Selection,
} from "./architecture.ts";
import { initialize } from "./initialize.ts";
import { requireMemory } from "./memory-plan.ts";
import {
  measureReconstruction,
  ReconstructionSums,
  sumOfSquares,
  type Evaluation,
} from "./metrics.ts";
import { Sae } from "./sae.ts";
import {
  anneal,
  control,
  learningRateAt,
  newAnneal,
  newControl,
  nextExponent,
  warmup,
} from "./schedules.ts";
import { isSparse } from "./step-codes.ts";
import {
  addTerms,
  meanTerms,
  noTerms,
  totalLoss,
  type LossTerms,
  type StepResult,
} from "./step-result.ts";
import { TrainingStep, type StepSettings } from "./step.ts";
import { trainTogether } from "./train-together.ts";
import {
  requireSameRun,
  transformFrom,
  transformTensors,
  type Progress,
  type Settings,
  type TrainerState,
} from "./trainer-state.ts";
import { identity, recordOf, type Transforms } from "./transform.ts";
import type { SaeSpec } from "./weights.ts";

export type { LossTerms } from "./step-result.ts";
export type { Progress, Settings, StateTensor, TrainerState } from "./trainer-state.ts";

/** Absent fields take the defaults that config.ts states. */
export interface TrainerOptions {
  sae: z.input<typeof saeSchema>;
  train?: z.input<typeof trainSchema>;
  /** Seed of the initial weights and of the order of the activations; default 0. */
  seed?: number;
  source: ActivationSource;
}

function settingsOf({ sae, train = {}, seed = 0, source }: TrainerOptions): Settings {
  const parsed = parseSection(trainSchema, train, "train");
  return {
    sae: parseSection(saeSchema, sae, "sae"),
    train: { ...parsed, mixing: parsed.mixing ?? source.mixing ?? "store" },
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
  /** Of the step just done; with a target L0, where the controller has moved it. */
  sparsityCoefficient?: number;
  /** The threshold that has taken the place of batch top-k. */
  threshold?: number;
  /** At the end of an epoch: the mean over all of its rows, as the weights were when each was seen. */
  epochLoss?: { loss: number; terms: LossTerms };
  /**
   * Over the whole validation source, as the weights are now: aux is 0, and so is a sparsity loss
   * that the mean activations and L0 do not determine (lp, tanh, gated).
   */
  validation?: ValidationMetrics;
  /** Training ends here, before its budget: the validation loss no longer improved. */
  stoppedEarly?: true;
}

export type ValidationMetrics = Omit<Evaluation, "density" | "meanActivation"> & {
  loss: number;
  terms: LossTerms;
};

export interface FitOptions {
  validation?: ActivationSource;
  /** Called every checkpointEvery steps and at the end, after the step's metrics were taken. */
  saveCheckpoint?: (state: TrainerState) => Promise<void>;
  /** Is told of each step how many milliseconds it waited for its activations. */
  onWait?: (ms: number) => void;
}

export class Trainer {
  readonly resolved: ResolvedSae;
  /** Adam's learning rate before warm-up and decay. */
  readonly learningRate: number;
  /** Steps from the first to the last, resumed ones included. */
  readonly totalSteps: number;

  /** The configuration with every default filled in. */
  readonly settings: Settings;
  /** What is done to inputs and targets before they are trained on. */
  readonly transforms: Transforms;
  readonly #progress: Progress;
  #sums: ReconstructionSums;
  /** Row statistics of the last batch. */
  #lastStatistics: Float64Array = new Float64Array();
  readonly #step: TrainingStep;
  readonly #device: Device;

  /**
   * A trainer at step 0. Reads the source's first activations when the configuration derives the
   * input scale or the decoder bias from them.
   * @throws UserError when the configuration is wrong or does not fit the source.
   */
  static async create(device: Device, options: TrainerOptions): Promise<Trainer> {
    const settings = settingsOf(options);
    const { sae, train, seed, source } = settings;
    const { rows } = source;
    const resolved = resolveSae(sae, source);
    const { dIn, dOut, heads, transcoder, dSae } = resolved;
    const transforms = { input: identity(dIn), output: identity(dOut) };
    requireMemory(device, resolved, { ...stepOptions(train), transforms });
    const start = await initialize(device, resolved, source, train, seed);
    const { input, output, rho, weights, threshold } = start;
    const progress: Progress = {
      ...{ sae, train, seed, dIn, dOut, heads, transcoder, rows, rho },
      ...{ input: recordOf(input), output: recordOf(output) },
      ...{ dense: false, threshold, anneal: newAnneal(), control: newControl(), best: null },
      step: 0,
      tokens: 0,
      cursor: { epoch: 0, row: 0 },
      window: { sums: new ReconstructionSums(dOut, dSae).toJSON(), terms: noTerms() },
      epoch: { rows: 0, terms: noTerms() },
    };
    const tensors = {
      ...weights,
      ...transformTensors("input", input),
      ...(transcoder && transformTensors("output", output)),
    };
    return new Trainer(device, settings, { progress, tensors });
  }

  /**
   * A trainer that goes on from `state` as if it had never stopped.
   * @throws UserError when the configuration or the source is not the one that the state comes from.
   */
  static resume(device: Device, options: TrainerOptions, state: TrainerState): Trainer {
    const settings = settingsOf(options);
    requireSameRun(state.progress, settings);
    return new Trainer(device, settings, state);
  }

  private constructor(device: Device, settings: Settings, state: TrainerState) {
    const { sae, train, source } = settings;
    const resolved = resolveSae(sae, source);
    this.resolved = {
      ...resolved,
      objective: inUnits(resolved.objective, state.progress.rho),
    };
    const { dSae } = this.resolved;
    this.learningRate = train.learningRate ?? 2e-4 / Math.sqrt(dSae / 2 ** 14);
    this.totalSteps = totalSteps(train, source.rows);
    this.settings = settings;
    this.#progress = structuredClone(state.progress);
    this.#device = device;

    const { tensors } = state;
    const counts = tensors.windowCounts ?? new Int32Array(dSae);
    this.#sums = ReconstructionSums.from(state.progress.window.sums, counts);
    const input = transformFrom(state.progress.input, "input", tensors);
    const output = resolved.transcoder
      ? transformFrom(state.progress.output, "output", tensors)
      : input;
    this.transforms = { input, output };
    const options = { ...stepOptions(train), transforms: this.transforms };
    requireMemory(device, this.resolved, options);
    this.#step = new TrainingStep(device, this.resolved, options, tensors);
  }

  /** Optimiser steps done. */
  get step(): number {
    return this.#progress.step;
  }

  /**
   * Trains to the end of the budget, yielding metrics every logEvery steps, at the end of each
   * epoch and at the last step. Stopping early (`break`) leaves the trainer usable.
   * @throws UserError when the loss or a parameter stops being finite; no checkpoint of that is made.
   */
  async *fit({ validation, saveCheckpoint, onWait }: FitOptions = {}): AsyncGenerator<
    Metrics,
    void
  > {
    const save = saveCheckpoint && ((_: number, state: TrainerState) => saveCheckpoint(state));
    for await (const { metrics } of trainTogether([this], {
      validation,
      saveCheckpoint: save,
      onWait,
    }))
      yield metrics;
  }

  /** Whether there is nothing left to train. */
  get isDone(): boolean {
    return this.step >= this.totalSteps || this.hasStoppedEarly;
  }

  /** Where the next batch comes from. */
  get cursor(): Cursor {
    return this.#progress.cursor;
  }

  /** Whether the validation loss has not improved for as long as the configuration allows. */
  get hasStoppedEarly(): boolean {
    const { earlyStopPatience } = this.settings.train;
    return earlyStopPatience > 0 && (this.#progress.best?.since ?? 0) >= earlyStopPatience;
  }

  /**
   * One optimiser step on a batch, whose data may be reused as soon as this returns its promise.
   * @throws UserError when the loss stops being finite.
   */
  async train(batch: Batch): Promise<void> {
    const { source } = this.settings;
    const { rows, data, target } = batch;
    if (source.dOut !== undefined && !target)
      throw new UserError("the activations have no targets, which a transcoder trains on");
    const next = { ...batch.next };
    const settings = this.#stepSettings();
    const running = this.#step.run(data, rows, settings, target);
    const variance = this.#sums.addTargets(target ?? data, rows);
    this.#record(await running, { rows, variance }, settings);
    this.#progress.cursor = next;
    await this.#resample();
  }

  /** The metrics that are due after a step, if any; `epochEnds` when the step's batch was an epoch's last. */
  async report(epochEnds: boolean, validation?: ActivationSource): Promise<Metrics | undefined> {
    const { logEvery, validateEvery, earlyStopMinDelta } = this.settings.train;
    const { step } = this;
    const isLast = step === this.totalSteps;
    if (!(step % logEvery === 0 || epochEnds || isLast)) return undefined;
    const metrics = this.#takeMetrics(epochEnds);
    const due = validateEvery > 0 ? step % validateEvery === 0 : epochEnds;
    if (!validation || !(due || isLast)) return metrics;
    metrics.validation = await this.validate(validation);
    const { loss } = metrics.validation;
    const { best } = this.#progress;
    const isBetter = best === null || loss < best.loss * (1 - earlyStopMinDelta);
    this.#progress.best = isBetter ? { loss, since: 0 } : { ...best, since: best.since + 1 };
    if (this.hasStoppedEarly && !isLast) metrics.stoppedEarly = true;
    return metrics;
  }

  /** What the next step is to do. */
  #stepSettings(): StepSettings {
    const { beta1, beta2, eps } = this.settings.train;
    const { selection, sparsity } = this.resolved.objective;
    const progress = this.#progress;
    const step = progress.step + 1;
    const learningRate = this.#learningRate(step);
    return {
      adam: { learningRate, beta1, beta2, eps, step },
      sparsityCoefficient: this.#sparsityCoefficient(step),
      p: progress.anneal.p,
      nextP:
        sparsity?.kind === "lp" ? (nextExponent(sparsity, step, this.totalSteps)?.p ?? null) : null,
      k: "k" in selection ? kAt(selection, step) : 0,
      dense: progress.dense,
    };
  }

  #learningRate(step: number): number {
    return learningRateAt(this.settings.train, this.learningRate, step, this.totalSteps);
  }

  #sparsityCoefficient(step: number): number {
    const { sparsity } = this.resolved.objective;
    if (!sparsity) return 0;
    const { anneal: annealed, control: controlled } = this.#progress;
    const warm = sparsity.coefficient * warmup(step, sparsity.warmupSteps);
    return warm * annealed.factor * controlled.factor;
  }

  /** Adds a step's result to the running sums and lets what adapts adapt. */
  #record(
    result: StepResult,
    { rows, variance }: { rows: number; variance: number },
    settings: StepSettings,
  ): void {
    const progress = this.#progress;
    const { terms, statistics, listed, cutoff, penalties } = result;
    const { sparsity, selection } = this.resolved.objective;
    const step = progress.step + 1;
    const loss = totalLoss(terms);
    if (!Number.isFinite(loss))
      throw new UserError(
        `the loss became ${loss} at step ${step}; training stops, checkpoints stay as they are. ` +
          `Lower train.learningRate (${this.learningRate}) or look for outliers in the activations.`,
      );
    const { window, epoch } = progress;
    addTerms(window.terms, terms, rows);
    addTerms(epoch.terms, terms, rows);
    epoch.rows += rows;
    this.#sums.addOutputs(statistics);
    progress.step = step;
    progress.tokens += rows;
    this.#lastStatistics = statistics.rowStats;

    progress.dense = !isSparse(listed / rows, this.resolved.dSae);
    if (selection.architecture === "batchTopk" && cutoff > 0) {
      const { threshold } = progress;
      progress.threshold =
        threshold === null ? cutoff : threshold + selection.thresholdRate * (cutoff - threshold);
    }
    if (penalties && sparsity?.kind === "lp")
      anneal(progress.anneal, penalties, {
        p: settings.nextP!,
        changes: nextExponent(sparsity, step, this.totalSteps)?.changes ?? false,
      });
    if (sparsity && sparsity.targetL0 !== null && step > sparsity.warmupSteps) {
      const active = statistics.counts.reduce((sum, count) => sum + count, 0);
      const fvu = variance > 0 ? sumOfSquares(statistics.rowStats) / variance : 0;
      control(progress.control, { l0: active / rows, fvu }, sparsity.targetL0);
    }
  }

  /** Restarts dead latents when that is due. */
  async #resample(): Promise<void> {
    const { resampleEvery, resampleUntil } = this.settings.train;
    const { step } = this;
    if (resampleEvery === 0 || step % resampleEvery !== 0) return;
    if ((resampleUntil > 0 && step > resampleUntil) || this.#step.dead === 0) return;
    await this.#step.resample(this.#lastStatistics, { seed: this.settings.seed, step });
  }

  /** The metrics of the rows since the last call, which begins the next stretch. */
  #takeMetrics(epochEnds: boolean): Metrics {
    const progress = this.#progress;
    const { step, tokens, window, epoch } = progress;
    const { dOut, dSae } = this.resolved;
    const { mse, fvu, l0, l1, cosine, denseFraction } = this.#sums.metrics();
    const terms = meanTerms(window.terms, this.#sums.rows);
    const metrics: Metrics = {
      step,
      epoch: tokens / this.settings.source.rows,
      tokens,
      loss: totalLoss(terms),
      terms,
      mse,
      fvu,
      l0,
      l1,
      cosine,
      deadFraction: this.#step.dead / dSae,
      denseFraction,
      learningRate: this.#learningRate(step),
      ...(this.resolved.objective.sparsity && {
        sparsityCoefficient: this.#sparsityCoefficient(step),
      }),
      ...(progress.threshold !== null && { threshold: progress.threshold }),
    };
    this.#sums = new ReconstructionSums(dOut, dSae);
    window.terms = noTerms();
    if (epochEnds) {
      const means = meanTerms(epoch.terms, epoch.rows);
      metrics.epochLoss = { loss: totalLoss(means), terms: means };
      progress.epoch = { rows: 0, terms: noTerms() };
    }
    return metrics;
  }

  /** Metrics and loss of the weights as they are, over one pass of `source`. */
  async validate(source: ActivationSource): Promise<ValidationMetrics> {
    const { dOut, dSae, objective, unitNormDecoder } = this.resolved;
    // Averages are not the weights that the device trains on; they get room of their own.
    const { batchSize, emaDecay } = this.settings.train;
    const onDevice =
      emaDecay > 0
        ? (await this.sae()).on(this.#device, batchSize)
        : this.#step.encoder(this.#spec(), batchSize);
    try {
      const { evaluation, meanError } = await measureReconstruction(onDevice, source);
      const { density: _density, meanActivation, ...metrics } = evaluation;
      const { rows } = metrics;
      const terms = noTerms();
      terms.reconstruction = reconstructionTerm(objective, meanError * rows, rows, dOut);
      const { sparsity, selection } = objective;
      const c = this.#sparsityCoefficient(Math.max(1, this.step));
      if (sparsity?.kind === "l1" && selection.architecture === "relu") {
        const byNorm = !unitNormDecoder && !sparsity.mean;
        const norms = byNorm ? await onDevice.decoderNorms() : undefined;
        const sum = meanActivation.reduce((sum, v, f) => sum + v * (norms?.[f] ?? 1), 0);
        terms.sparsity = (c * sum) / (sparsity.mean ? dSae : 1);
      } else if (sparsity?.kind === "step") terms.sparsity = c * metrics.l0;
      else if (sparsity?.kind === "quadratic")
        terms.sparsity = c * (metrics.l0 / sparsity.target - 1) ** 2;
      return { ...metrics, loss: totalLoss(terms), terms };
    } finally {
      onDevice.close();
    }
  }

  /** The SAE as it is now, with its transforms not yet folded in. @throws UserError when a weight is not finite. */
  async sae(): Promise<Sae> {
    return new Sae(this.#spec(), await this.#finiteWeights(true));
  }

  /** Everything, for a checkpoint. @throws UserError when a weight is not finite. */
  async state(): Promise<TrainerState> {
    const weights = await this.#finiteWeights(false);
    const windowCounts = Int32Array.from(this.#sums.counts);
    const progress = structuredClone(this.#progress);
    progress.window.sums = this.#sums.toJSON();
    const { input, output } = this.transforms;
    const tensors = {
      ...{ ...weights, ...(await this.#step.moments()), windowCounts },
      ...transformTensors("input", input),
      ...(this.resolved.transcoder && transformTensors("output", output)),
    };
    return { progress, tensors };
  }

  /** Frees the device memory; the trainer cannot be used afterwards. */
  close(): void {
    this.#step.close();
  }

  #spec(): SaeSpec {
    const { objective, levels, dIn, dOut, dSae, heads } = this.resolved;
    const { transcoder, skip, applyBDecToInput } = this.resolved;
    const { architecture } = objective.selection;
    const selection: Selection =
      architecture === "topk"
        ? { architecture, k: objective.selection.k }
        : architecture === "batchTopk"
          ? {
              ...{ architecture, k: objective.selection.k },
              threshold: this.#progress.threshold ?? 0,
            }
          : { architecture };
    return {
      ...{ selection, dIn, dOut, dSae, heads, transcoder, skip, applyBDecToInput },
      matryoshkaWidths: levels.map(({ to }) => to),
      ...this.transforms,
    };
  }

  async #finiteWeights(averaged: boolean) {
    const weights = await this.#step.weights(averaged);
    for (const [name, data] of Object.entries<Float32Array>({ ...weights }))
      if (!data.every(Number.isFinite))
        throw new UserError(
          `${name} is no longer finite after step ${this.step}; training stops, checkpoints stay as they are. ` +
            `Lower train.learningRate (${this.learningRate}) or look for outliers in the activations.`,
        );
    return weights;
  }
}

/** What a training step needs to know of the settings. */
export function stepOptions({ batchSize, deadAfterTokens, clipGradNorm, emaDecay }: TrainConfig) {
  return { batchSize, deadAfterTokens, clipGradNorm, emaDecay };
}

/** Optimiser steps that a budget comes to; an epoch of `rows` ends with a short batch when they do not divide. */
export function totalSteps(train: TrainConfig, rows: number): number {
  if (rows < 1) throw new UserError("there are no activations to train on");
  if (train.steps !== undefined) return train.steps;
  const tokens = train.tokens ?? Math.round((train.epochs ?? 1) * rows);
  const perEpoch = Math.ceil(rows / train.batchSize);
  const rest = Math.ceil((tokens % rows) / train.batchSize);
  return Math.max(1, Math.floor(tokens / rows) * perEpoch + rest);
}
