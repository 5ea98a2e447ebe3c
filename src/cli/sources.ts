/** From settings to activations: collected (or found collected), read from folders, or made. */
import { join } from "node:path";

import { memorySource, splitSource, type RowSource } from "../activation-source.ts";
import {
  hasTarget,
  type FolderConfig,
  type ModelActivationsConfig,
  type RunConfig,
  type SaeConfig,
} from "../config.ts";
import { UserError } from "../error.ts";
import { openActivations, type ActivationStore } from "../model/activations.ts";
import { collect } from "../model/collect.ts";
import { matchHookPoints } from "../model/hook-point.ts";
import type { Model } from "../model/model.ts";
import {
  isFinished,
  readManifest,
  type StoreManifest,
  type StorePlan,
} from "../model/store/manifest.ts";
import { requireRereadable } from "../model/text.ts";
import { resolveSae } from "../sae/architecture.ts";
import { syntheticActivations, type SyntheticActivations } from "../sae/synthetic.ts";
import { joinedSource, pairedSource } from "../zipped-source.ts";
import { hookPointsOf, namesOf, type HookPointRoles } from "../workbench/hook-points.ts";
import { onTheFlySources, type Flight } from "./on-the-fly.ts";
import { Progress } from "./progress.ts";
import { storeFolder } from "./store-folder.ts";
import { short } from "../readable.ts";
import { collectingOf, loadingOf } from "../workbench/reading.ts";
import { noteEmpty, type Terminal } from "./terminal.ts";
import { noteWeights } from "./weights-note.ts";

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
  /** What the rows are activations of, where that is known. */
  hookPoints?: HookPointRoles;
  /** How the rows of `train` were made, where that is known. */
  manifest?: Pick<StorePlan, "model" | "contextLength" | "bos" | "eos" | "packing" | "data">;
  /** Of activations that are stored nowhere. */
  onTheFly?: Flight;
  /** Synthetic activations, with what they were made from. */
  synthetic?: SyntheticActivations;
}

/**
 * The activations that the settings ask for.
 * @param saes autoencoders that are to be trained on them: what does not go together is refused
 * before anything is collected.
 */
export async function openSources(
  context: Context,
  saes: readonly SaeConfig[] = [],
): Promise<Activations> {
  const { config, terminal } = context;
  const { activations, seed } = config;
  switch (activations.from) {
    case "model":
      return collectSources(context, activations, saes);
    case "synthetic": {
      const { dIn, features, samples, kind } = activations;
      const made = syntheticActivations(activations, seed);
      terminal.note(
        `activations: ${short(samples)} made from ${features} ${kind} directions, width ${dIn}`,
      );
      const provenance = { ...activations, seed };
      return {
        train: memorySource(made.train, dIn, { ...provenance, split: "train" }),
        validation: memorySource(made.validation, dIn, { ...provenance, split: "validation" }),
        synthetic: made,
      };
    }
    case "folder":
      return folderSources(context, activations);
    default:
      return activations satisfies never;
  }
}

/** Ends the model, and the thread that makes rows for training, if there are any. */
export async function closeSources(activations: Activations | undefined): Promise<void> {
  await activations?.onTheFly?.close();
  await activations?.model?.close();
}

/** "a", "a → b" or "a + b", for people. */
function hookPointsText({ inputs, target }: HookPointRoles): string {
  return inputs.join(" + ") + (target === undefined ? "" : ` → ${target}`);
}

/** Activations of the hook points as training takes them: alone, with a target, or side by side. */
async function sourceOf(
  { inputs, target }: HookPointRoles,
  open: (name: string) => Promise<RowSource>,
): Promise<RowSource> {
  const sources = [];
  for (const name of inputs) sources.push(await open(name));
  if (target !== undefined) return pairedSource(sources[0], await open(target));
  return sources.length === 1 ? sources[0] : joinedSource(sources);
}

/** Runs with the same data share their activations: the folder's name says what determines them. */
async function collectSources(
  context: Context,
  activations: ModelActivationsConfig,
  saes: readonly SaeConfig[],
): Promise<Activations> {
  const { config, terminal, signal } = context;
  requireRereadable(activations.data, "training");
  const { loadModel } = await import("../model/model.ts");
  const { threads } = config;
  const model = await loadModel(activations.model, { ...loadingOf(activations), threads, signal });
  const hookPoints = hookPointsOf(model, activations);
  terminal.note(`hook points: ${hookPointsText(hookPoints)}`);
  const heads = hookPoints.inputs.map((name) => model.hookWidth(name));
  const dOut = hookPoints.target === undefined ? undefined : model.hookWidth(hookPoints.target);
  for (const sae of saes) resolveSae(sae, { dIn: heads.reduce((a, b) => a + b), dOut, heads });

  const names = model.expandHookPoints(namesOf(hookPoints));
  const noteLoss = () => noteWeights(terminal, model, activations, names, threads);
  if (activations.onTheFly) {
    await noteLoss();
    return onTheFlySources(context, activations, model, hookPoints);
  }
  const folder = await storeFolder(config.runs, activations, model, names);
  const isCollected = (split: string) => isFinished(join(folder, split));
  // What is there was measured when it was collected.
  if (!isCollected("train")) await noteLoss();
  const store = async (split: "train" | "validation", tokens: number) => {
    const out = join(folder, split);
    const finished = isCollected(split);
    let empty = 0;
    const progress = new Progress({
      label: `collecting (${split})`,
      unit: "tokens",
      total: tokens,
      quiet: terminal.quiet || finished,
    });
    try {
      const opened = await collect(model, activations.data, {
        ...{ ...collectingOf(activations), out, tokens, split, signal },
        ...{ hookPoint: names, onEmpty: () => void empty++ },
        onProgress: ({ done }) => progress.update(done),
      });
      if (finished) terminal.note(`activations (${split}): ${short(opened.rows)} found in ${out}`);
      else progress.end(out);
      noteEmpty(terminal, empty);
      return opened;
    } catch (error) {
      progress.stop();
      throw error;
    }
  };
  const train = await store("train", activations.tokens);
  const validation = await store("validation", activations.validationTokens);
  const sourceIn = ({ path }: ActivationStore) =>
    sourceOf(hookPoints, (hookPoint) => openActivations(path, { hookPoint }));
  return {
    train: await sourceIn(train),
    validation: await sourceIn(validation),
    ...{ model, hookPoints, manifest: train.manifest! },
  };
}

async function folderSources(
  { terminal }: Context,
  activations: FolderConfig,
): Promise<Activations> {
  const { path, targetPath, joinPaths, validationPath, validationFraction } = activations;
  const { train, hookPoints, manifest } = await foldersSource(activations, {
    ...{ path, targetPath, joinPaths },
  });
  const { dIn, dOut } = train;
  const from =
    [path, ...joinPaths].join(", ") + (targetPath === undefined ? "" : ` → ${targetPath}`);
  const width = dOut === undefined ? `width ${dIn}` : `widths ${dIn} → ${dOut}`;
  const places = hookPoints ? `; hook points: ${hookPointsText(hookPoints)}` : "";
  terminal.note(`activations: ${short(train.rows)} from ${from}, ${width}${places}`);
  const known = { ...(hookPoints && { hookPoints }), ...(manifest && { manifest }) };
  if (validationPath === undefined) return { ...splitSource(train, validationFraction), ...known };
  const { train: validation } = await foldersSource(activations, {
    path: validationPath,
    targetPath: activations.validationTargetPath,
    joinPaths: activations.validationJoinPaths,
  });
  return { train, validation, ...known };
}

/** The folders of one split, as training takes them. */
async function foldersSource(
  activations: FolderConfig,
  { path, targetPath = path, joinPaths }: { path: string; targetPath?: string | undefined; joinPaths: string[] }, // prettier-ignore
): Promise<{ train: RowSource; hookPoints?: HookPointRoles; manifest?: StoreManifest }> {
  const { hookPoint, tensor, targetHookPoint, targetTensor } = activations;
  const { hookPoints } = activations;
  if (hookPoints.length > 0) {
    const manifest = await readManifest(path);
    if (!manifest) {
      await openActivations(path); // says so when there is nothing or not all of it
      throw new UserError(
        `${path} is not a Lens store, so it has no hook points; give the folders of the others in activations.joinPaths`,
      );
    }
    const all = manifest.hookPoints.map(({ name }) => name);
    const inputs = matchHookPoints(hookPoints, all, (pattern) => {
      return new UserError(`${path} holds activations of ${all.join(", ")}; ${pattern} is not among them`); // prettier-ignore
    });
    const train = await sourceOf({ inputs }, (name) => openActivations(path, { hookPoint: name }));
    return { train, hookPoints: { inputs }, manifest };
  }
  const stores = [await openActivations(path, { hookPoint, tensor })];
  for (const other of joinPaths) stores.push(await openActivations(other, { hookPoint, tensor }));
  const target = hasTarget(activations)
    ? await openActivations(targetPath, { hookPoint: targetHookPoint, tensor: targetTensor })
    : undefined;
  const named = stores.flatMap((store) => store.hookPoint ?? []);
  const known = {
    ...(named.length === stores.length &&
      (!target || target.hookPoint !== undefined) && {
        hookPoints: { inputs: named, ...(target && { target: target.hookPoint! }) },
      }),
    ...(stores[0].manifest && { manifest: stores[0].manifest }),
  };
  try {
    if (target) return { train: pairedSource(stores[0], target), ...known };
    return { train: stores.length === 1 ? stores[0] : joinedSource(stores), ...known };
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    const paths = target ? [path, targetPath] : [path, ...joinPaths];
    throw new UserError(`${paths.join(" and ")}: ${error.message}`);
  }
}
