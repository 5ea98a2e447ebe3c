/** Several autoencoders of one model, for the commands that compare them: runs, checkpoints, folders. */
import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { isDeepStrictEqual } from "node:util";

import type { Features } from "../analysis/features.ts";
import type { HookPoints } from "../analysis/codes.ts";
import type { PlacedSae } from "../analysis/joint-codes.ts";
import { parseConfig, type ModelActivationsConfig } from "../config.ts";
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import { loadModel, type Model } from "../model/model.ts";
import type { PackingRules } from "../model/packing.ts";
import type { Document } from "../model/text.ts";
import { findRun } from "../runs.ts";
import { readCheckpoint } from "../sae/checkpoint.ts";
import { loadSae } from "../sae/formats.ts";
import type { Sae } from "../sae/sae.ts";
import { Trainer } from "../sae/train.ts";
import { hookPointsOf } from "../workbench/hook-points.ts";
import {
  featuresForNames,
  heldOutText,
  saeFolder,
  type TextSettings,
} from "../workbench/model-run.ts";
import { loadingOf } from "../workbench/reading.ts";
import { interruptibly } from "./analyse.ts";
import type { Terminal } from "./terminal.ts";

/** An autoencoder with the place it reads at. */
export interface PlacedRun extends PlacedSae {
  /** As it was asked for. */
  id: string;
  /** Short and different from the others': where it reads, or else what it was called. */
  name: string;
  /** The run's folder, of a run. */
  folder: string | undefined;
  features: Features | undefined;
}

export interface PlacedRuns {
  runs: PlacedRun[];
  /** To be closed. */
  model: Model;
  modelName: string;
  /** What text is read, and how: that of the first. */
  text: TextSettings & Pick<ModelActivationsConfig, "contextLength"> & PackingRules;
}

interface Found {
  id: string;
  sae: Sae;
  modelName: string;
  hookPoints: (model: Model) => HookPoints;
  folder?: string;
  text: PlacedRuns["text"];
  /** How its model was loaded, where that is known. */
  loading?: ReturnType<typeof loadingOf>;
}

/**
 * @param ids runs, folders with cfg.json, or checkpoints (folders step-… of a run).
 * @throws UserError when one does not exist, has no model, or they are of different models.
 */
export async function openPlacedRuns(
  base: string,
  ids: readonly string[],
  device: Device,
  terminal: Terminal,
): Promise<PlacedRuns> {
  const found: Found[] = [];
  for (const id of ids) found.push(await find(base, id, device));
  const [first, ...rest] = found;
  for (const other of rest)
    if (other.modelName !== first.modelName)
      throw new UserError(
        `features can be compared in one model only: ${first.id} is of ${first.modelName}, ${other.id} of ${other.modelName}`,
      );
  const { loading = {} } = first;
  for (const other of rest)
    if (other.loading && !isDeepStrictEqual(other.loading, loading))
      terminal.note(
        `the model is loaded as ${first.id} has it (${loadingText(loading)}); ${other.id} is of activations made otherwise (${loadingText(other.loading)})`,
      );
  const model = await loadModel(first.modelName, loading);
  try {
    const placed = found.map((one) => ({ ...one, hookPoints: one.hookPoints(model) }));
    const places = placed.map(({ hookPoints }) => [hookPoints].flat().join("+"));
    const runs: PlacedRun[] = [];
    for (const [i, { id, sae, hookPoints, folder }] of placed.entries()) {
      const isAlone = places.filter((place) => place === places[i]).length === 1;
      runs.push({
        ...{ id, sae, hookPoints, folder },
        name: isAlone ? places[i] : id.replace(/\/+$/, "").split("/").at(-1)!,
        features: folder === undefined ? undefined : await featuresForNames(folder, terminal),
      });
    }
    return { runs, model, modelName: first.modelName, text: first.text };
  } catch (error) {
    await model.close();
    throw error;
  }
}

const loadingText = ({ weights = "checkpoint", device = "cpu" }: NonNullable<Found["loading"]>) =>
  `weights ${weights}, device ${device}`;

/** Text of which the autoencoders saw nothing in training. */
export function heldOutTextOf(
  { text, model }: PlacedRuns,
  signal: AbortSignal,
): AsyncGenerator<Document> {
  return interruptibly(heldOutText(text, model), signal);
}

/** Whether decoder rows can be compared: the same place, or places that all are the residual stream. */
export function isOneSpace(a: PlacedRun, b: PlacedRun): boolean {
  if (a.sae.spec.transcoder || b.sae.spec.transcoder) return false;
  const [from, to] = [a, b].map(({ hookPoints }) => [hookPoints].flat());
  if (from.join() === to.join()) return true;
  return [from, to].every((names) => names.length === 1 && names[0].includes("hook_resid_"));
}

async function find(base: string, id: string, device: Device): Promise<Found> {
  if (existsSync(join(id, "cfg.json"))) return findFolder(id);
  const isCheckpoint = existsSync(join(id, "state.safetensors"));
  const run = isCheckpoint ? dirname(dirname(resolve(id))) : id;
  const { folder, config: stored } = findRun(base, run);
  const { activations } = parseConfig(stored);
  if (activations.from !== "model")
    throw new UserError(
      `features are compared in text, and the activations of ${folder} come from no model (activations.from ${activations.from})`,
    );
  const sae = isCheckpoint
    ? await saeOfCheckpoint(id, device)
    : (await loadSae(saeFolder(base, id))).sae;
  return {
    ...{ id, sae, modelName: activations.model, text: activations },
    loading: loadingOf(activations),
    hookPoints: (model) => hookPointsOf(model, activations).inputs,
    // What features stand for was looked up with the finished autoencoder.
    ...(!isCheckpoint && { folder }),
  };
}

async function findFolder(id: string): Promise<Found> {
  const { sae, details } = await loadSae(id);
  const { modelName, hookPoint, hookPoints = hookPoint, contextLength, prependBos } = details;
  const { eos, packing } = details;
  if (modelName === undefined || hookPoints === undefined)
    throw new UserError(
      `${join(id, "cfg.json")} does not say which model and hook point the autoencoder is of (metadata.model_name, metadata.hook_name)`,
    );
  const data = details.dataset ?? "builtin:stories";
  return {
    ...{ id, sae, modelName, hookPoints: () => hookPoints },
    text: {
      ...{ data, field: "text", contextLength, eos, packing },
      bos: prependBos === false ? "none" : "document",
    },
  };
}

async function saeOfCheckpoint(path: string, device: Device): Promise<Sae> {
  const state = await readCheckpoint(path);
  const { sae, train, seed, rows, dIn, dOut, heads, transcoder } = state.progress;
  const source = {
    ...{ dIn, heads, rows, provenance: {} },
    ...(transcoder && { dOut }),
    batches: () => {
      throw new Error("nothing is trained here");
    },
  };
  const trainer = Trainer.resume(device, { sae, train, seed, source }, state);
  try {
    return (await trainer.sae()).fold();
  } finally {
    trainer.close();
  }
}
