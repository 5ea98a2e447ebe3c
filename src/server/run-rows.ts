/** A run as lists show it. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

import type { MetricsLine, RunInfo } from "../runs.ts";
import type { Damage } from "./run-store.ts";
import type { RunDetail, RunRow } from "./schemas.ts";

const SPARK = 60;

/** @param metrics the run's log steps so far. */
export function runRow(run: RunInfo, metrics: readonly MetricsLine[]): RunRow {
  const { folder, summary, config } = run;
  const { activations, sae } = config as {
    activations?: Record<string, unknown>;
    sae?: Record<string, unknown>;
  };
  const last = metrics.at(-1);
  const heldOut = Object.entries(summary?.eval_scores ?? {}).map(([name, { mean }]) => [
    name,
    mean,
  ]);
  const logged = ["fvu", "l0", "deadFraction", "loss"].map((name) => [name, finite(last?.[name])]);
  const isHeldOut = heldOut.length > 0;
  const width = widthOf(folder);
  const data: unknown = activations?.data;
  const text = (name: string, value: unknown) =>
    typeof value === "string" && value !== "" ? { [name]: value } : {};
  return {
    ...{ id: run.id, name: run.name, status: run.status, started: run.started },
    ...(summary && { duration: summary.duration }),
    ...text("error", summary?.error),
    ...text("model", activations?.model),
    ...text("hookPoint", hookPointText(activations)),
    ...text("data", Array.isArray(data) ? sourcesText(data) : data),
    ...text("architecture", sae?.architecture),
    ...(width !== undefined && { dSae: width }),
    scores: Object.fromEntries(
      isHeldOut ? heldOut : logged.filter(([, v]) => v !== null),
    ) as RunRow["scores"],
    isHeldOut,
    step: last?.step ?? 0,
    spark: thinned(metrics).map((line) => finite(line.fvu)),
    hasSae: existsSync(join(folder, "sae", "cfg.json")),
    hasFeatures: existsSync(join(folder, "features", "index.json")),
  };
}

/** The places of a mixture, of whatever a config holds. */
function sourcesText(parts: readonly unknown[]): string {
  const names = parts.map((part) => (part as { source?: unknown } | null)?.source ?? part);
  return names.filter((name) => typeof name === "string").join(" + ");
}

/** What pages cannot show of a run, and what makes it (anew, of what is damaged). */
export function missingOf(
  { id, status, folder, config }: RunInfo,
  row: RunRow,
  damage: Damage,
): RunDetail["missing"] {
  const has = (...parts: string[]) => existsSync(join(folder, ...parts));
  const { from } = (config.activations ?? {}) as { from?: string };
  if (status === "running") return [];
  if (!row.hasSae)
    return [
      {
        ...{ what: "autoencoder", why: `its training is not finished: the run is ${status}` },
        ...{ command: `lens run --resume ${id}`, job: "resume" },
      },
    ];
  if (from !== undefined && from !== "model")
    return [
      {
        what: "features",
        why: `features are looked up in text, and its activations come from no model (${from})`,
        command: "lens run --activations.from model",
      },
    ];
  const missing: RunDetail["missing"] = [];
  const lacks = (what: string, why: string, command: string, job: string) =>
    missing.push({ what, why, command: `lens ${command}`, job });
  if (!row.hasFeatures)
    return [
      {
        ...{ what: "features", why: "no feature index has been made of it" },
        ...{ command: `lens features ${id}`, job: "features" },
      },
    ];
  if (damage.labels !== undefined)
    lacks(
      "scored labels",
      `${damage.labels}. Explanations and map are to be made anew after it, too`,
      `features ${id}`,
      "features",
    );
  const unexplained = has("features", "explanations.json")
    ? damage.explanations
    : "its latents have not been explained by rules";
  if (unexplained !== undefined) lacks("explanations", unexplained, `explain ${id}`, "explain");
  if (!has("features", "map", "map.json"))
    lacks("map", "its latents have not been laid out", `feature map ${id}`, "map");
  if (!has("concepts", "concepts.json"))
    lacks("concepts", "its latents have not been tried on the labelled concepts", `concepts ${id}`, "concepts"); // prettier-ignore
  return missing;
}

/** Evenly spread log steps, the first and the last among them. */
function thinned(metrics: readonly MetricsLine[]): MetricsLine[] {
  if (metrics.length <= SPARK) return [...metrics];
  return Array.from(
    { length: SPARK },
    (_, i) => metrics[Math.round((i * (metrics.length - 1)) / (SPARK - 1))],
  );
}

function finite(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

function hookPointText(activations: Record<string, unknown> | undefined): string {
  const { hookPoint, hookPoints, targetHookPoint } = activations ?? {};
  const inputs = Array.isArray(hookPoints) && hookPoints.length > 0 ? hookPoints : [hookPoint];
  const names = [inputs.filter((name) => typeof name === "string").join(" + "), targetHookPoint];
  return names.filter((name) => typeof name === "string" && name !== "").join(" → ");
}

/** dSae of the autoencoder that was saved in a run folder; undefined where none says so. */
export function widthOf(folder: string): number | undefined {
  try {
    const { d_sae } = JSON.parse(readFileSync(join(folder, "sae", "cfg.json"), "utf8")) as { d_sae?: unknown }; // prettier-ignore
    return Number.isSafeInteger(d_sae) && (d_sae as number) > 0 ? (d_sae as number) : undefined;
  } catch {
    return undefined; // not saved yet
  }
}

/** Metrics as columns: every number in the lines by its dotted name, NaN where a line has none. */
export function metricColumns(
  lines: readonly MetricsLine[],
): Record<string, Float64Array<ArrayBuffer>> {
  // Without a prototype: names are whatever the lines hold.
  const columns = Object.create(null) as Record<string, Float64Array<ArrayBuffer>>;
  const put = (name: string, row: number, value: unknown) => {
    if (typeof value === "number")
      (columns[name] ??= new Float64Array(lines.length).fill(NaN))[row] = value;
    else if (typeof value === "object" && value !== null)
      for (const [key, inner] of Object.entries(value)) put(`${name}.${key}`, row, inner);
  };
  lines.forEach((line, row) => {
    for (const [key, value] of Object.entries(line)) put(key, row, value);
  });
  return columns;
}
