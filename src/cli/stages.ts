/**
 * The stages that several commands share: from settings to activations, and from activations to a
 * trained autoencoder in a run folder. Each picks up where an earlier attempt stopped.
 */
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";

import {
  memorySource,
  splitSource,
  type ActivationSource,
  type RowSource,
} from "../activation-source.ts";
import { configJsonSchema, type ModelActivationsConfig, type RunConfig } from "../config.ts";
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import { openActivations, type ActivationStore } from "../model/activations.ts";
import { collect } from "../model/collect.ts";
import type { Model } from "../model/model.ts";
import { configHash, readMetrics, RunFolder, writeWhole } from "../runs.ts";
import { latestCheckpoint, writeCheckpoint } from "../sae/checkpoint.ts";
import { loadSae, saveSae, type SaeDetails } from "../sae/formats.ts";
import { evaluateReconstruction, latentSummary } from "../sae/metrics.ts";
import type { Sae } from "../sae/sae.ts";
import { syntheticActivations } from "../sae/synthetic.ts";
import { Trainer, type Metrics, type TrainerState } from "../sae/train.ts";
import { Interrupted } from "./interrupt.ts";
import { Progress } from "./progress.ts";
import { lens, short, shortPath, type Terminal } from "./terminal.ts";

/** What every stage needs. */
export interface Context {
  config: RunConfig;
  terminal: Terminal;
  signal: AbortSignal;
}

export interface Activations {
  train: RowSource;
  /** Absent only for a folder with validationFraction 0. */
  validation: RowSource | undefined;
  /** When a model made them. */
  model?: Model;
  /** The stores behind `train` and `validation`, when there are any. */
  stores?: { train: ActivationStore; validation: ActivationStore };
  /** The true directions of synthetic activations, [features, dIn]. */
  directions?: Float32Array;
}

/** A new run folder for `config`, with the schema that editors use beside it. */
export function createRun(config: RunConfig): RunFolder {
  const { runs, name } = config;
  const run = RunFolder.create(runs, name, { $schema: "../lens.schema.json", ...config });
  writeWhole(join(runs, "lens.schema.json"), JSON.stringify(configJsonSchema(), null, 2) + "\n");
  return run;
}

/**
 * Leaves the run folder as it is to be found: an interrupted run can be resumed, a failed one says
 * why, and one that a wrong setting stopped before it made anything is gone.
 */
export function afterFailure(error: unknown, run: RunFolder, command: "run" | "train"): unknown {
  if (!(error instanceof Interrupted)) {
    const isEmpty = run.isNew && readMetrics(run.folder).length === 0;
    if (isEmpty && error instanceof UserError) run.remove();
    else run.fail(error);
    return error;
  }
  run.close();
  return new Interrupted(
    `stopped; everything is saved. Go on with: ${lens(`${command} --resume ${shortPath(run.folder)}`)}`,
  );
}

/** Scores in one line. */
export function scoresText(scores: Record<string, number>): string {
  return Object.entries(scores)
    .map(([name, value]) => `${name} ${short(value)}`)
    .join("  ");
}

/** The activations that the settings ask for: collected (or found collected), read or made. */
export async function openSources(context: Context): Promise<Activations> {
  const { config, terminal } = context;
  const { activations, seed } = config;
  switch (activations.from) {
    case "model":
      return collectSources(context, activations);
    case "synthetic": {
      const { dIn, features, samples } = activations;
      const made = syntheticActivations(activations, seed);
      terminal.note(
        `activations: ${short(samples)} made from ${features} directions, width ${dIn}`,
      );
      const provenance = { ...activations, seed };
      return {
        train: memorySource(made.train, dIn, { ...provenance, split: "train" }),
        validation: memorySource(made.validation, dIn, { ...provenance, split: "validation" }),
        directions: made.directions,
      };
    }
    case "folder": {
      const { path, validationPath, hookPoint, tensor } = activations;
      const store = await openActivations(path, { hookPoint, tensor });
      terminal.note(`activations: ${short(store.rows)} from ${path}, width ${store.dIn}`);
      if (validationPath === undefined) return splitSource(store, activations.validationFraction);
      const validation = await openActivations(validationPath, { hookPoint, tensor });
      return { train: store, validation };
    }
    default:
      return activations satisfies never;
  }
}

/** Runs with the same data share their activations: the folder's name says what determines them. */
async function collectSources(
  { config, terminal, signal }: Context,
  activations: ModelActivationsConfig,
): Promise<Activations> {
  const { loadModel } = await import("../model/model.ts");
  const model = await loadModel(activations.model, { threads: config.threads });
  const [hookPoint] = model.expandHookPoints([activations.hookPoint]);
  const hash = configHash({
    ...activations,
    hookPoint,
    model: await model.weightsHash(),
    tokenizer: model.tokenizer.hash,
    files: filesOf(activations.data),
  });
  const name = `${activations.model}-${hookPoint}`.replace(/[^\w.-]+/g, "-").replace(/^-+/, "");
  const folder = join(config.runs, "activations", `${name.slice(-80)}-${hash}`);
  const { data, field, contextLength, bos, dtype, shardRows } = activations;
  const store = async (split: "train" | "validation", tokens: number) => {
    const out = join(folder, split);
    const finished = existsSync(join(out, "manifest.json"));
    const progress = new Progress({
      label: `collecting (${split})`,
      unit: "tokens",
      total: tokens,
      quiet: terminal.quiet || finished,
    });
    try {
      const opened = await collect(model, data, {
        ...{ out, hookPoint, tokens, split, field, contextLength, bos, dtype, shardRows, signal },
        onProgress: ({ done }) => progress.update(done),
      });
      if (finished) terminal.note(`activations (${split}): ${short(opened.rows)} found in ${out}`);
      else progress.end(out);
      return opened;
    } catch (error) {
      progress.stop();
      throw error;
    }
  };
  const train = await store("train", activations.tokens);
  const validation = await store("validation", activations.validationTokens);
  return { train, validation, model, stores: { train, validation } };
}

/** Names, sizes and times of text files, so that changed text is collected anew. */
function filesOf(data: string): unknown {
  if (data.startsWith("builtin:") || !existsSync(data)) return null;
  const paths = statSync(data).isDirectory()
    ? readdirSync(data).map((name) => join(data, name))
    : [data];
  return paths.sort().map((path) => {
    const { size, mtimeMs } = statSync(path);
    return [path, size, mtimeMs];
  });
}

export interface Trained {
  sae: Sae;
  details: SaeDetails;
}

/** Trains in the run folder, from its newest checkpoint if there is one, and saves sae/. A finished one is only read. */
export async function trainStage(
  context: Context,
  run: RunFolder,
  device: Device,
  activations: Activations,
): Promise<Trained> {
  const { config, terminal, signal } = context;
  const finished = await trainedBefore(context, run);
  if (finished) return finished;
  // The batches that initialisation looks at are no steps.
  let training = false;
  let done = 0;
  const watched = watch(activations.train, signal, () => {
    if (training) progress.update(++done);
  });
  const trainer = await openTrainer(context, run, device, watched);
  const progress = new Progress({
    label: "training",
    unit: "steps",
    total: trainer.totalSteps,
    start: trainer.step,
    quiet: terminal.quiet,
  });
  done = trainer.step;
  training = true;

  try {
    const saveCheckpoint = async (state: TrainerState) => {
      await writeCheckpoint(run.path("checkpoints"), state, config.train.keepCheckpoints);
    };
    const { validation } = activations;
    for await (const metrics of trainer.fit({ validation, saveCheckpoint })) {
      run.appendMetrics({ ...metrics });
      progress.update(metrics.step, summaryOf(metrics));
    }
    progress.end();
    return await saveTrained(context, run, device, activations, trainer);
  } catch (error) {
    progress.stop();
    // The iterator of activations throws this, between two steps: the trainer is whole.
    if (signal.aborted && trainer.step > 0)
      await writeCheckpoint(
        run.path("checkpoints"),
        await trainer.state(),
        config.train.keepCheckpoints,
      );
    throw error;
  } finally {
    trainer.close();
  }
}

/** The autoencoder that an earlier attempt finished, if one did. */
export async function trainedBefore(
  { terminal }: Context,
  run: RunFolder,
): Promise<Trained | undefined> {
  const folder = run.path("sae");
  if (!existsSync(join(folder, "cfg.json"))) return undefined;
  terminal.note(`training: finished before, in ${folder}`);
  return loadSae(folder);
}

/** A trainer for the run, at its newest checkpoint if there is one. */
export async function openTrainer(
  { config, terminal }: Context,
  run: RunFolder,
  device: Device,
  source: ActivationSource,
): Promise<Trainer> {
  const latest = await latestCheckpoint(run.path("checkpoints"), (message) =>
    terminal.note(message),
  );
  const options = { sae: config.sae, train: config.train, seed: config.seed, source };
  const trainer = latest
    ? Trainer.resume(device, options, latest.state)
    : await Trainer.create(device, options);
  run.truncateMetrics(trainer.step);
  describeTraining(trainer, config, device, terminal);
  return trainer;
}

/** Saves what was trained into the run's sae/, with its held-out metrics. */
export async function saveTrained(
  { config }: Context,
  run: RunFolder,
  device: Device,
  { train, validation, model, stores }: Activations,
  trainer: Trainer,
): Promise<Trained> {
  const sae = await trainer.sae();
  const details = await detailsOf(config, device, sae, validation ?? train, model, stores);
  await saveSae(run.path("sae"), sae, details);
  return { sae, details };
}

/** `source` with a word at every batch, and an end when the signal says so. */
export function watch(
  source: RowSource,
  signal: AbortSignal,
  onBatch: () => void,
): ActivationSource {
  return {
    ...source,
    async *batches(options) {
      for await (const batch of source.batches(options)) {
        signal.throwIfAborted();
        yield batch;
        onBatch();
      }
    },
  };
}

function describeTraining(
  trainer: Trainer,
  config: RunConfig,
  device: Device,
  terminal: Terminal,
): void {
  const { dIn, dSae } = trainer.resolved;
  const { sae, train } = config;
  const size = sae.dSae === undefined ? ` (${sae.expansion} × ${dIn})` : "";
  const rate = train.learningRate === undefined ? " (2e-4/√(dSae/2¹⁴))" : "";
  terminal.note(
    `autoencoder: ${architectureText(sae)}, dIn ${dIn}, dSae ${dSae}${size}\n` +
      `training: ${short(trainer.totalSteps)} steps of ${short(train.batchSize)}, ` +
      `learning rate ${trainer.learningRate.toPrecision(3)}${rate}, ${device.name} device (${device.description})` +
      (trainer.step > 0 ? `\ngoing on after step ${short(trainer.step)}` : ""),
  );
}

/** An architecture with the setting that says how sparse it is. */
export function architectureText(sae: RunConfig["sae"]): string {
  const nested = sae.matryoshkaWidths.length > 0 ? "matryoshka " : "";
  const { architecture } = sae;
  switch (architecture) {
    case "topk":
    case "batchTopk":
      return `${nested}${architecture}, k ${sae.k}`;
    case "relu":
    case "gated":
    case "jumprelu": {
      const [name, value] =
        architecture === "jumprelu" ? ["l0Coefficient", sae.l0Coefficient] : ["l1", sae.l1];
      const target = sae.targetL0 === undefined ? `${name} ${value}` : `target L0 ${sae.targetL0}`;
      return `${nested}${architecture}, ${target}`;
    }
    default:
      return sae satisfies never;
  }
}

/** The few numbers that tell whether it goes well. */
function summaryOf({ fvu, l0, deadFraction }: Metrics): string {
  return `fvu ${fvu.toFixed(4)}  l0 ${l0.toFixed(1)}  dead ${(100 * deadFraction).toFixed(1)}%`;
}

/** What belongs beside the weights. */
export async function detailsOf(
  config: RunConfig,
  device: Device,
  sae: Sae,
  heldOut: ActivationSource,
  model: Model | undefined,
  stores: Activations["stores"],
): Promise<SaeDetails> {
  const onDevice = sae.on(device, config.train.batchSize);
  try {
    const { density, meanActivation, ...metrics } = await evaluateReconstruction(onDevice, heldOut);
    const summary = latentSummary({ density, meanActivation });
    const manifest = stores?.train.manifest;
    return {
      modelName: model?.info.source,
      hookPoint: stores?.train.hookPoint,
      contextLength: manifest?.contextLength,
      prependBos: manifest ? manifest.bos !== "none" : undefined,
      dataset: manifest?.data.source,
      averageSparsity: metrics.l0 / sae.spec.dSae,
      activeFeatures: summary.activeFeatures,
      trainingConfig: { seed: config.seed, sae: config.sae, train: config.train },
      metrics: { ...metrics, ...summary },
      provenance: { activations: heldOut.provenance },
    };
  } finally {
    onDevice.close();
  }
}
