/** A trained run with its model, for what tries things out in it: commands, and the server. */
import { existsSync } from "node:fs";
import { join } from "node:path";

import { openFeatures, type Features } from "../analysis/features.ts";
import { parseConfig, type ModelActivationsConfig, type RunConfig } from "../config.ts";
import { UserError } from "../error.ts";
import { loadModel, type LoadOptions, type Model } from "../model/model.ts";
import { documents } from "../model/text.ts";
import { findRun } from "../runs.ts";
import { loadSae } from "../sae/formats.ts";
import type { Sae } from "../sae/sae.ts";
import { hookPointsOf } from "./hook-points.ts";
import { loadingOf } from "./reading.ts";

export interface ModelRun {
  folder: string;
  config: RunConfig;
  activations: ModelActivationsConfig;
  sae: Sae;
  /** To be closed. */
  model: Model;
  /** Where the SAE reads, and of a transcoder what it predicts. */
  places: { hookPoint: string[]; targetHookPoint?: string };
}

/**
 * @param known its SAE, where it has been read already.
 * @throws UserError when there is no such run, no SAE in it, or its activations come from no model.
 */
export async function openModelRun(
  runs: string,
  id: string,
  purpose: string,
  known?: Sae,
  options: LoadOptions = {},
): Promise<ModelRun> {
  const { folder, config: stored } = findRun(runs, id);
  const config = parseConfig(stored);
  const { activations } = config;
  if (activations.from !== "model")
    throw new UserError(
      `${purpose} needs the model that the activations came from; those of ${folder} come from no model (activations.from ${activations.from})`,
    );
  const sae = known ?? (await loadSae(saeFolder(runs, id))).sae;
  const model = await loadModel(activations.model, {
    ...loadingOf(activations),
    threads: config.threads,
    ...options,
  });
  const { inputs, target } = hookPointsOf(model, activations);
  const places = {
    ...{ hookPoint: inputs },
    ...(target !== undefined && { targetHookPoint: target }),
  };
  return { folder, config, activations, sae, model, places };
}

/**
 * A run's features for a command that only wants to know what latents stand for: absent where none were
 * looked up, and where the index cannot be read, which costs the names and a note.
 */
export async function featuresForNames(
  folder: string,
  terminal: { note(text: string): void },
): Promise<Features | undefined> {
  const dir = join(folder, "features");
  if (!existsSync(join(dir, "index.json"))) return undefined;
  try {
    return await openFeatures(dir);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    terminal.note(`latents are shown without names: ${error.message}`);
    return undefined;
  }
}

/** What a latent stands for, in a few words; empty where nothing is known. */
export function meaningOf(features: Features | undefined, latent: number): string {
  const label = features?.labels?.best[latent]?.name;
  if (label !== undefined) return label;
  const [token] = features?.index.columns.topTokens[latent] ?? [];
  return token === undefined ? "" : `fires on ${JSON.stringify(token)}`;
}

/** The folder of the autoencoder that `id` names: one with cfg.json, or that of a run. */
export function saeFolder(runs: string, id: string): string {
  if (existsSync(join(id, "cfg.json"))) return id;
  const { folder, status } = findRun(runs, id);
  const sae = join(folder, "sae");
  if (!existsSync(join(sae, "cfg.json")))
    throw new UserError(`${folder} has no trained autoencoder yet: the run is ${status}`);
  return sae;
}

/** Text that neither training nor validation saw, as `model` reads it. */
export function heldOutDocuments(
  { activations }: Pick<RunConfig, "activations">,
  model: Pick<Model, "tokenizer">,
) {
  if (activations.from !== "model") throw new Error("only a model reads text");
  return heldOutText(activations, model);
}

/** The same, of what the settings say of the text. */
export function heldOutText(
  { data, field, shuffleDocuments }: TextSettings,
  { tokenizer }: Pick<Model, "tokenizer">,
) {
  return documents(data, {
    ...{ split: "test", field, shuffle: shuffleDocuments },
    renderChat: tokenizer.renderChat,
  });
}

/** What settings say of which documents are read. */
export type TextSettings = Pick<ModelActivationsConfig, "data" | "field" | "shuffleDocuments">;
