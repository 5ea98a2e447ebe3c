/** What `lens eval` measures, and where its results go. */
import { existsSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { evaluationRecord, type EvaluationRecord } from "../analysis/evaluation-record.ts";
import type { ModelEvaluation } from "../analysis/evaluate.ts";
import { renderPng, type Figure } from "../analysis/plots.ts";
import { parseConfig, type ModelActivationsConfig, type RunConfig } from "../config.ts";
import type { Device } from "../device/device.ts";
import type { Model } from "../model/model.ts";
import { packingRules } from "../model/packing.ts";
import { sourceText } from "../model/text.ts";
import { findRun } from "../runs.ts";
import { loadSae, type SaeDetails } from "../sae/formats.ts";
import type { Sae } from "../sae/sae.ts";
import { hookPointsOf } from "../workbench/hook-points.ts";
import { saeFolder } from "../workbench/model-run.ts";
import { readSettings, withFlags } from "./settings.ts";

export interface EvalOptions extends Record<string, unknown> {
  compare?: string[];
  supervised?: boolean;
  structure?: boolean;
  /** Names of supervised evaluations, with commas between them. */
  only?: string;
  supervisedTokens?: string;
  out?: string;
  quiet?: boolean;
  json?: boolean;
}

/** What is measured, with the settings that say how. */
export interface Subject {
  folder: string;
  config: RunConfig;
  sae: Sae;
  details: SaeDetails;
}

/**
 * A run with its settings, or a folder with those that it tells of; the flags that were given on top.
 * @throws UserError when there is none, or the settings do not go together.
 */
export async function openSubject(id: string, options: EvalOptions): Promise<Subject> {
  const { runs } = readSettings(undefined, { runs: options.runs });
  const folder = saeFolder(runs, id);
  const { sae, details } = await loadSae(folder);
  const isFolder = existsSync(join(id, "cfg.json"));
  const stored = isFolder ? settingsOf(folder, details) : findRun(runs, id).config;
  return { folder, config: parseConfig(withFlags(stored, options)), sae, details };
}

/** The settings that an autoencoder's own files tell of. */
function settingsOf(folder: string, details: SaeDetails): Record<string, unknown> {
  const { modelName, hookPoint, hookPoints, targetHookPoint, contextLength, dataset } = details;
  const { eos, packing } = details;
  // Lens writes metadata.json beside cfg.json. What SAELens trained had its BOS before every row.
  const bos = existsSync(join(folder, "metadata.json")) ? "document" : "row";
  const told = {
    ...{ model: modelName, data: dataset, contextLength, eos, packing, targetHookPoint },
    ...(hookPoints ? { hookPoints } : { hookPoint }),
    bos: details.prependBos === undefined ? undefined : details.prependBos ? bos : "none",
  };
  const known = Object.entries(told).filter(([, value]) => value !== undefined);
  return { activations: { from: "model", ...Object.fromEntries(known) } };
}

export async function recordFor(
  { sae, config }: Subject,
  device: Device,
  model: Model,
  evaluation: ModelEvaluation,
): Promise<EvaluationRecord> {
  const activations = config.activations as ModelActivationsConfig;
  const { inputs, target } = hookPointsOf(model, activations);
  const { contextLength = Math.min(model.info.contextLength, 256) } = activations;
  return evaluationRecord(sae, device, evaluation, {
    ...{ model: activations.model, hookPoints: inputs, targetHookPoint: target },
    ...{ data: sourceText(activations.data), contextLength, ...packingRules(activations) },
  });
}

/** Writes the record and the figures, as SVG and PNG. */
export async function writeOut(
  folder: string,
  record: unknown,
  figures: readonly Figure[],
): Promise<void> {
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, "evaluation.json"), JSON.stringify(record, null, 1) + "\n");
  for (const { id, svg } of figures) {
    await writeFile(join(folder, `${id}.svg`), svg);
    await writeFile(join(folder, `${id}.png`), await renderPng(svg));
  }
}
