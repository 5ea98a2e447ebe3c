/**
 * The stages that several commands share, from activations to a trained autoencoder in a run folder.
 * Each picks up where an earlier attempt stopped.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";

import type { ActivationSource, RowSource } from "../activation-source.ts";
import { configJsonSchema, type RunConfig } from "../config.ts";
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import { sourceText } from "../model/text.ts";
import { readMetrics, RunFolder, writeWhole } from "../runs.ts";
import { latestCheckpoint, writeCheckpoint } from "../sae/checkpoint.ts";
import { loadSae, saveSae, type SaeDetails } from "../sae/formats.ts";
import { evaluateReconstruction, latentSummary } from "../sae/metrics.ts";
import type { Sae } from "../sae/sae.ts";
import { Trainer, type Metrics, type TrainerState } from "../sae/train.ts";
import { kindOf } from "../sae/weights.ts";
import { currentJob } from "../workbench/job-folder.ts";
import { Interrupted } from "./interrupt.ts";
import { previewOf } from "./preview.ts";
import { Progress } from "./progress.ts";
import type { Activations, Context } from "./sources.ts";
import { short } from "../readable.ts";
import { lens, shortPath, type Terminal } from "./terminal.ts";

/** A new run folder for `config`, with the schema that editors use beside it. */
export function createRun(config: RunConfig): RunFolder {
  const { runs, name } = config;
  const run = RunFolder.create(runs, name, { $schema: "../lens.schema.json", ...config });
  currentJob()?.tell({ run: run.id });
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
  const began = performance.now();
  let waitedMs = 0;
  const onWait = (ms: number) => void (waitedMs += ms);
  const watched = watch(
    activations.train,
    signal,
    () => {
      if (training) progress.update(++done);
    },
    (ms) => {
      if (!training) onWait(ms);
    },
  );
  const { onTheFly } = activations;
  const open = () => openTrainer(context, run, device, watched);
  const trainer = await (onTheFly?.takeOff(open) ?? open());
  const progress = new Progress({
    label: "training",
    unit: "steps",
    total: trainer.totalSteps,
    start: trainer.step,
    quiet: terminal.quiet,
  });
  done = trainer.step;
  training = true;
  // Somebody may be looking on, who would like to see more than numbers.
  const preview = currentJob() && previewOf(context, run, device, activations);

  try {
    const saveCheckpoint = async (state: TrainerState) => {
      await writeCheckpoint(run.path("checkpoints"), state, config.train.keepCheckpoints);
    };
    const { validation } = activations;
    for await (const metrics of trainer.fit({ validation, saveCheckpoint, onWait })) {
      run.appendMetrics({ ...metrics });
      progress.update(metrics.step, summaryOf(metrics));
      await preview?.show(trainer);
    }
    progress.end();
    if (onTheFly) terminal.note(onTheFly.waits(performance.now() - began, waitedMs));
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
  activations: Activations,
  trainer: Trainer,
): Promise<Trained> {
  const sae = await trainer.sae();
  const details = await detailsOf(config, trainer.settings, device, sae, activations);
  await saveSae(run.path("sae"), sae, details);
  return { sae, details };
}

/** `source` with a word at every batch and at how long it was waited for, and an end when the signal says so. */
export function watch(
  source: RowSource,
  signal: AbortSignal,
  onBatch: () => void,
  onWait: (ms: number) => void = () => undefined,
): ActivationSource {
  return {
    ...source,
    async *batches(options) {
      let asked = performance.now();
      for await (const batch of source.batches(options)) {
        onWait(performance.now() - asked);
        await currentJob()?.whilePaused();
        signal.throwIfAborted();
        yield batch;
        onBatch();
        asked = performance.now();
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
  const { dIn, dOut, dSae, heads, transcoder } = trainer.resolved;
  const { sae, train } = config;
  const size = sae.dSae === undefined ? ` (${sae.expansion} × ${dIn})` : "";
  const rate = train.learningRate === undefined ? " (2e-4/√(dSae/2¹⁴))" : "";
  const width = heads.length > 1 ? `dIn ${dIn} (${heads.length} × ${heads[0]})` : `dIn ${dIn}`;
  const widths = transcoder ? `${width}, dOut ${dOut}` : width;
  terminal.note(
    `${kindOf(trainer.resolved)}: ${architectureText(sae)}, ${widths}, dSae ${dSae}${size}\n` +
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
async function detailsOf(
  config: RunConfig,
  { train: settings }: Trainer["settings"],
  device: Device,
  sae: Sae,
  { train, validation, manifest, hookPoints }: Activations,
): Promise<SaeDetails> {
  const heldOut = validation ?? train;
  const onDevice = sae.on(device, config.train.batchSize);
  try {
    const { density, meanActivation, ...metrics } = await evaluateReconstruction(onDevice, heldOut);
    const summary = latentSummary({ density, meanActivation });
    return {
      modelName: manifest?.model.name,
      ...placeOf(hookPoints),
      contextLength: manifest?.contextLength,
      prependBos: manifest ? manifest.bos !== "none" : undefined,
      ...{ eos: manifest?.eos, packing: manifest?.packing },
      dataset: manifest && sourceText(manifest.data.source),
      averageSparsity: metrics.l0 / sae.spec.dSae,
      activeFeatures: summary.activeFeatures,
      trainingConfig: { seed: config.seed, sae: config.sae, train: settings },
      metrics: { ...metrics, ...summary },
      provenance: { activations: heldOut.provenance },
    };
  } finally {
    onDevice.close();
  }
}

function placeOf(
  hookPoints: Activations["hookPoints"],
): Pick<SaeDetails, "hookPoint" | "hookPoints" | "targetHookPoint"> {
  if (!hookPoints) return {};
  const { inputs, target } = hookPoints;
  if (inputs.length > 1) return { hookPoints: inputs };
  return { hookPoint: inputs[0], ...(target !== undefined && { targetHookPoint: target }) };
}
