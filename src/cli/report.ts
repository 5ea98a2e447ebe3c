/** The page of a run: report.html, and its plots as files of their own. */
import { mkdir } from "node:fs/promises";

import type { Features } from "../analysis/features.ts";
import { galleryOf } from "../analysis/gallery.ts";
import { latentFigures, renderPng, trainingFigures } from "../analysis/plots.ts";
import { writeReport, type Tile } from "../analysis/report.ts";
import type { RunConfig } from "../config.ts";
import { readMetrics, readRun, writeWhole, type RunFolder } from "../runs.ts";
import type { RunEvaluation } from "./analyse.ts";
import { architectureText, type Context, type Trained } from "./stages.ts";
import { duration, short, shortPath } from "./terminal.ts";

/** Writes report.html and plots/, and returns the page's path. */
export async function reportStage(
  { config, terminal }: Context,
  run: RunFolder,
  { sae, details }: Trained,
  evaluation: RunEvaluation,
  features: Features | undefined,
): Promise<string> {
  const began = performance.now();
  const training = await trainingFigures(readMetrics(run.folder));
  const latents = await latentFigures(evaluation, evaluation.rows);
  await mkdir(run.path("plots"), { recursive: true });
  for (const { id, svg } of [...training, ...latents]) {
    writeWhole(run.path("plots", `${id}.svg`), svg);
    writeWhole(run.path("plots", `${id}.png`), await renderPng(svg));
  }
  const { dIn, dSae } = sae.spec;
  const path = run.path("report.html");
  await writeReport(path, {
    title: run.id,
    summary: `A ${architectureText(config.sae)} autoencoder: ${short(dSae)} latents on ${sourceText(config)}, width ${dIn}.`,
    tiles: tiles(evaluation),
    training,
    latents,
    ...(features && (await galleryOf(features, config.features.gallery))),
    sections: sections(evaluation),
    provenance: provenance(run, details.provenance, features),
  });
  terminal.note(`report: ${shortPath(path)} (${duration((performance.now() - began) / 1000)})`);
  return path;
}

function tiles({ scores, crossEntropy, rows }: RunEvaluation): Tile[] {
  const over = `over ${short(rows)} held-out activations`;
  const all: (Tile | undefined)[] = [
    {
      label: "FVU",
      value: short(scores.fvu),
      meaning: `Fraction of variance unexplained, Σ‖x − x̂‖² / Σ‖x − x̄‖², ${over}: 0 is perfect.`,
      detail: "variance unexplained",
    },
    {
      label: "L0",
      value: short(scores.l0),
      meaning: `Mean number of latents active at once, ${over}.`,
      detail: "latents active at once",
    },
    crossEntropy && {
      label: "CE recovered",
      value: `${(100 * scores.ceLossRecovered).toFixed(1)} %`,
      meaning:
        "(zero − sae) / (zero − clean): cross-entropy of the model with the reconstruction in place, " +
        `between zero ablation (${short(crossEntropy.zero)}) and the model as it is (${short(crossEntropy.clean)}).`,
      detail: `loss ${short(crossEntropy.clean)} → ${short(crossEntropy.sae)} nats`,
    },
    {
      label: "Dead",
      value: `${(100 * scores.deadFraction).toFixed(1)} %`,
      meaning: `Share of the latents that never fired ${over}.`,
      detail: "latents that never fired",
    },
    scores.mmcs === undefined
      ? undefined
      : {
          label: "MMCS",
          value: short(scores.mmcs),
          meaning:
            "Mean over the true directions of the best |cosine| with a decoder row: 1 when all are found.",
          detail: "true directions recovered",
        },
  ];
  return all.filter((tile) => tile !== undefined);
}

function sections({ scores, crossEntropy }: RunEvaluation) {
  const all = [
    {
      title: "Held-out numbers",
      text: "Measured on data that training did not see; formulas in docs/metrics.md.",
      rows: entries(scores),
    },
  ];
  if (crossEntropy)
    all.push({
      title: "Cross-entropy",
      text:
        "Nats per token of the model as it is (clean), with the reconstruction in place of the " +
        "activation (sae), with 0, and with the mean activation in its place.",
      rows: entries({ ...crossEntropy }),
    });
  return all;
}

function entries(values: Record<string, number>): [string, string][] {
  return Object.entries(values).map(([name, value]) => [name, short(value)]);
}

function sourceText({ activations: a }: RunConfig): string {
  switch (a.from) {
    case "model":
      return `${a.hookPoint} of ${a.model} over ${a.data}`;
    case "synthetic":
      return `synthetic activations of ${a.features} directions`;
    case "folder":
      return `the activations in ${a.path}`;
    default:
      return a satisfies never;
  }
}

function provenance(
  run: RunFolder,
  activations: unknown,
  features: Features | undefined,
): [string, string][] {
  const rows: [string, string][] = [];
  const add = (name: string, value: unknown) => {
    if (value === undefined || value === null) return;
    if (typeof value === "object" && !Array.isArray(value))
      for (const [key, v] of Object.entries(value)) add(name ? `${name}.${key}` : key, v);
    else rows.push([name, typeof value === "string" ? value : JSON.stringify(value)]);
  };
  add("run", run.id);
  const { provenance: made, $schema: _schema, ...settings } = readRun(run.folder).config;
  add("", made);
  add("", activations);
  add("features", features?.index.provenance);
  add("", settings);
  return rows;
}
