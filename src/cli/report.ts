/** The page of a run: report.html, and its plots as files of their own. */
import { mkdir } from "node:fs/promises";

import type { Features } from "../analysis/features.ts";
import { galleryOf } from "../analysis/gallery.ts";
import type { SplicedEvaluation } from "../analysis/evaluate.ts";
import { latentFigures, renderPng, trainingFigures } from "../analysis/plots.ts";
import { writeReport, type Tile } from "../analysis/report.ts";
import type { RunConfig } from "../config.ts";
import { sourceText as textSource } from "../model/text.ts";
import { readMetrics, readRun, writeWhole, type RunFolder } from "../runs.ts";
import { kindOf } from "../sae/weights.ts";
import type { RunEvaluation } from "./analyse.ts";
import type { Context } from "./sources.ts";
import { architectureText, type Trained } from "./stages.ts";
import { duration, short } from "../readable.ts";
import { shortPath } from "./terminal.ts";

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
  const { dSae } = sae.spec;
  const path = run.path("report.html");
  await writeReport(path, {
    title: run.id,
    summary: `A ${architectureText(config.sae)} ${kindOf(sae.spec)}: ${short(dSae)} latents ${sourceText(config, { sae, details })}.`,
    tiles: tiles(evaluation, sae.spec.transcoder),
    training,
    latents,
    ...(features && (await galleryOf(features, config.features.gallery))),
    sections: sections(evaluation),
    provenance: provenance(run, details.provenance, features),
  });
  terminal.note(`report: ${shortPath(path)} (${duration((performance.now() - began) / 1000)})`);
  return path;
}

function tiles({ scores, spliced, rows }: RunEvaluation, transcoder: boolean): Tile[] {
  const over = `over ${short(rows)} held-out activations`;
  const formula = transcoder ? "Σ‖y − ŷ‖² / Σ‖y − ȳ‖² of the target y" : "Σ‖x − x̂‖² / Σ‖x − x̄‖²";
  const all: (Tile | undefined)[] = [
    {
      label: "FVU",
      value: short(scores.fvu),
      meaning: `Fraction of variance unexplained, ${formula}, ${over}: 0 is perfect.`,
      detail: "variance unexplained",
    },
    {
      label: "L0",
      value: short(scores.l0),
      meaning: `Mean number of latents active at once, ${over}.`,
      detail: "latents active at once",
    },
    spliced && recoveredTile(spliced, scores.ceLossRecovered),
    {
      label: "Dead",
      value: percent(scores.deadFraction),
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

function recoveredTile(spliced: readonly SplicedEvaluation[], mean: number): Tile {
  const formula =
    "(zero − sae) / (zero − clean): cross-entropy of the model with the reconstruction in place, between zero ablation and the model as it is";
  const [{ hookPoint, crossEntropy: ce }] = spliced;
  const tile = { label: "CE recovered", value: percent(mean) };
  if (spliced.length === 1)
    return {
      ...tile,
      meaning: `${formula} (zero ${short(ce.zero)}, clean ${short(ce.clean)}), at ${hookPoint}.`,
      detail: `loss ${short(ce.clean)} → ${short(ce.sae)} nats`,
    };
  const each = spliced.map(({ ceLossRecovered }) => ceLossRecovered);
  return {
    ...tile,
    meaning: `Mean over the hook points, each replaced by itself, of ${formula}.`,
    detail: `mean of ${spliced.length}, ${percent(Math.min(...each))} to ${percent(Math.max(...each))}`,
  };
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

function sections({ scores, spliced }: RunEvaluation) {
  const all = [
    {
      title: "Held-out numbers",
      text: "Measured on data that training did not see; formulas in docs/metrics.md.",
      rows: entries(scores),
    },
  ];
  if (spliced?.length === 1)
    all.push({
      title: "Cross-entropy",
      text:
        "Nats per token of the model as it is (clean), with the reconstruction in place of the " +
        `activation at ${spliced[0].hookPoint} (sae), with 0, and with the mean activation in its place.`,
      rows: entries({ ...spliced[0].crossEntropy }),
    });
  else if (spliced)
    all.push({
      title: "Hook point by hook point",
      text:
        "Of the activations at each hook point: the variance that is left unexplained, the share of " +
        "the loss that is recovered with the reconstruction in place there and nowhere else, and the " +
        "nats per token of the model as it is (clean), with the reconstruction (sae), with 0 and " +
        "with the mean activation.",
      rows: spliced.map(({ hookPoint, fvu, ceLossRecovered, crossEntropy: ce }) => [
        hookPoint,
        `FVU ${short(fvu)}, CE recovered ${percent(ceLossRecovered)} (clean ${short(ce.clean)}, ` +
          `sae ${short(ce.sae)}, zero ${short(ce.zero)}, mean ${short(ce.mean)})`,
      ]),
    });
  return all;
}

function entries(values: Record<string, number>): [string, string][] {
  return Object.entries(values).map(([name, value]) => [name, short(value)]);
}

/** What it reads, and of a transcoder what it predicts: "on … of … over …, width 256". */
function sourceText({ activations: a }: RunConfig, { sae, details }: Trained): string {
  const { dIn, dOut, heads, transcoder } = sae.spec;
  const width = transcoder
    ? `widths ${dIn} → ${dOut}`
    : heads.length > 1
      ? `width ${heads.length} × ${heads[0]}`
      : `width ${dIn}`;
  const { hookPoint, hookPoints = hookPoint ? [hookPoint] : [], targetHookPoint } = details;
  let places = hookPoints.length > 0 ? `on ${hookPoints.join(", ")}` : "";
  if (targetHookPoint !== undefined) places = `from ${hookPoint} to ${targetHookPoint}`;
  switch (a.from) {
    case "model":
      return `${places} of ${a.model} over ${textSource(a.data)}, ${width}`;
    case "synthetic":
      return `on synthetic activations of ${a.features} directions, ${width}`;
    case "folder": {
      const folders = [a.path, ...a.joinPaths].join(", ");
      const targets = a.targetPath === undefined ? "" : ` with targets in ${a.targetPath}`;
      return `${places === "" ? "on" : `${places}:`} the activations in ${folders}${targets}, ${width}`;
    }
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
