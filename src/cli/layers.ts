/** `lens layers`: which features of one autoencoder are which of another, and where concepts are found. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Command } from "commander";

import { matchConcepts } from "../analysis/concept-alignment.ts";
import { conceptCourses, type ConceptCourse } from "../analysis/concept-layers.ts";
import { matchDecoders, type CosineMatch } from "../analysis/directions.ts";
import { LabelledText } from "../analysis/labelled-text.ts";
import { conceptFigure, shortNames } from "../analysis/layers-figure.ts";
import {
  matchFeatures,
  MATCH_THRESHOLDS,
  type LatentMatch,
  type Matching,
  type MatchSide,
  type MatchThresholds,
} from "../analysis/matching.ts";
import { renderPng } from "../analysis/plots.ts";
import { openDevice, type Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import { meaningOf } from "../workbench/model-run.ts";
import { numberOf } from "./generate.ts";
import { interruptible } from "./interrupt.ts";
import { isOneSpace, openPlacedRuns, type PlacedRun, type PlacedRuns } from "./placed-runs.ts";
import { readHalves } from "./placed-text.ts";
import { Progress } from "./progress.ts";
import { short } from "../readable.ts";
import { shortPath, table, Terminal } from "./terminal.ts";

interface Options {
  runs: string;
  tokens: string;
  shared: string;
  lost: string;
  seed: string;
  out?: string;
  json?: boolean;
  quiet?: boolean;
}

export function define(command: Command): void {
  command
    .argument(
      "<runs...>",
      "two or more: runs, folders with cfg.json, checkpoints (…/step-00000500)",
    )
    .description(
      "Match the features of each autoencoder with those of the next, by when they fire and by where they " +
        "point, and follow the text's labelled concepts along all of them. They must be of one model. " +
        "lens train --sweep examples/layers.yaml trains one for each layer of the built-in model.",
    )
    .option("--runs <folder>", "the folder that holds the run folders", "runs")
    .option("--tokens <integer>", "held-out tokens to read", "80000")
    .option(
      "--shared <number>",
      "correlation from which two features are one",
      String(MATCH_THRESHOLDS.shared),
    )
    .option(
      "--lost <number>",
      "correlation below which a feature has no counterpart",
      String(MATCH_THRESHOLDS.lost),
    )
    .option("--seed <integer>", "of bootstrap draws and nulls", "0")
    .option(
      "--out <folder>",
      "where layers.json and the figure go; absent: layers/ of the last run, or here where the last is none",
    )
    .option("--quiet", "print errors and the result only")
    .option("--json", "print the result as JSON")
    .action((ids: string[], options: Options) =>
      interruptible((signal) => run(ids, options, signal)),
    );
}

/** The features of one autoencoder beside those of the next. */
interface Step extends Matching {
  from: string;
  to: string;
  /** Absent where the two do not write into one space. */
  decoders?: CosineMatch;
}

async function run(ids: string[], options: Options, signal: AbortSignal): Promise<void> {
  const terminal = new Terminal(options);
  const [tokens, seed] = [numberOf("tokens", options.tokens), numberOf("seed", options.seed)];
  const thresholds = {
    ...MATCH_THRESHOLDS,
    ...{ shared: numberOf("shared", options.shared), lost: numberOf("lost", options.lost) },
  };
  if (ids.length < 2)
    throw new UserError(`two or more autoencoders are compared; got ${ids.join(", ")} alone`);
  if (!(thresholds.lost < thresholds.shared && thresholds.shared <= 1))
    throw new UserError(`lost must be below shared, which is at most 1; got ${options.lost} and ${options.shared}`); // prettier-ignore
  const device = await openDevice("auto");
  try {
    const placed = await openPlacedRuns(options.runs, ids, device, terminal);
    try {
      const { steps, courses } = await compare(placed, device, terminal, signal, { tokens, seed, thresholds }); // prettier-ignore
      const names = placed.runs.map(({ name }) => name);
      const value = {
        model: placed.modelName,
        autoencoders: placed.runs.map(({ id, name, hookPoints }) => ({ id, name, hookPoints })),
        ...{ seed, steps, concepts: courses },
      };
      const out = options.out ?? join(placed.runs.at(-1)!.folder ?? ".", "layers");
      await mkdir(out, { recursive: true });
      await writeFile(join(out, "layers.json"), JSON.stringify(value) + "\n");
      if (courses.length > 0) {
        const { svg } = await conceptFigure(courses, names);
        await writeFile(join(out, "concepts.svg"), svg);
        await writeFile(join(out, "concepts.png"), await renderPng(svg));
      }
      terminal.result(value, layersText(steps, courses, placed.runs, shortPath(out)));
    } finally {
      await placed.model.close();
    }
  } finally {
    await device.close();
  }
}

async function compare(
  placed: PlacedRuns,
  device: Device,
  terminal: Terminal,
  signal: AbortSignal,
  { tokens, seed, thresholds }: { tokens: number; seed: number; thresholds: MatchThresholds },
): Promise<{ steps: Step[]; courses: ConceptCourse[] }> {
  const { runs } = placed;
  const labelled = runs.map(({ sae }) => {
    const selection = new LabelledText(sae.spec.dSae);
    return [selection, new LabelledText(sae.spec.dSae, selection)];
  });
  const halves = await readHalves(placed, device, terminal, signal, {
    ...{ tokens, purpose: "half are chosen on and half tested on" },
    onPart: (half, chunk, codes) => {
      for (const [i, own] of codes.entries()) labelled[i][half].add(chunk, own);
    },
  });
  for (const half of labelled.flat()) half.finish();

  const [selection, test] = halves.map((half) => half.held());
  const sides = runs.map(({ sae: { W_dec, spec } }, i): MatchSide => ({
    ...{ selection: selection.firings[i], test: test.firings[i] },
    norms: Float64Array.from({ length: spec.dSae }, (_, f) =>
      Math.hypot(...W_dec.subarray(f * spec.dOut, (f + 1) * spec.dOut)),
    ),
  }));
  const steps: Step[] = [];
  const matching = new Progress({
    ...{ label: "matching", unit: "pairs of autoencoders", total: runs.length - 1, quiet: terminal.quiet }, // prettier-ignore
  });
  for (let i = 0; i + 1 < runs.length; i++) {
    signal.throwIfAborted();
    const [a, b] = [runs[i], runs[i + 1]];
    const matched = matchFeatures(sides[i], sides[i + 1], test.text, thresholds, seed);
    const alive = (side: LatentMatch[]) =>
      new Set(side.flatMap(({ kind, latent }) => (kind === "rare" ? [] : [latent])));
    const decoders = isOneSpace(a, b)
      ? await matchDecoders(a.sae, b.sae, alive(matched.a), alive(matched.b), {
          ...{ threshold: thresholds.shared, device, seed },
        })
      : undefined;
    steps.push({ from: a.name, to: b.name, ...matched, ...(decoders && { decoders }) });
    // A breath for Ctrl-C.
    await new Promise((resolve) => setImmediate(resolve));
    matching.update(i + 1);
  }
  matching.end();
  const hasConcepts = labelled[0][0].concepts.length > 0;
  const courses = hasConcepts
    ? conceptCourses(labelled.map(([chosen, tested]) => matchConcepts(chosen, tested, seed)))
    : [];
  if (!hasConcepts) terminal.note("concepts: none, since the text has no labelled spans");
  return { steps, courses };
}

const COLUMNS = ["shared", "split", "merged", "related", "lost", "new", "rare"] as const;

function layersText(
  steps: readonly Step[],
  courses: readonly ConceptCourse[],
  runs: readonly PlacedRun[],
  out: string,
): string {
  const names = shortNames(runs.map(({ name }) => name));
  const rows = steps.map(({ counts, oneToOne, decoders }, i) => [
    `${names[i]} → ${names[i + 1]}`,
    ...COLUMNS.map((kind) => {
      const { count, null: chance } = (kind === "new" ? counts.b : counts.a)[kind];
      return kind === "lost" || kind === "new" || kind === "rare"
        ? String(count)
        : `${count} (${chance})`;
    }),
    besideNull(oneToOne),
    besideNull(decoders),
  ]);
  const [{ thresholds, positions, documents }] = steps;
  const { shared, lost, margin, minFirings } = thresholds;
  return [
    table(["features", ...COLUMNS, "one-to-one r", "cosine"], rows),
    `shared: each the other's best partner, r ≥ ${shared}; split: a sum of 2 to 4 of the next has r ≥ ${shared}, ${margin} more than ` +
      `one; merged: part of such a sum the other way round; lost, new: no partner with r ≥ ${lost}; rare: under ${minFirings} firings. ` +
      `In brackets: the same against text moved by half its length; cosines against a turned decoder. ` +
      `r over ${short(positions)} positions of ${documents} documents that had no part in choosing partners.`,
    ...steps.flatMap((step, i) => examples(step, names[i + 1], runs[i], runs[i + 1])),
    ...conceptText(courses, names),
    `layers.json${courses.length > 0 ? ", concepts.svg, concepts.png" : ""} in ${out}`,
  ].join("\n\n");
}

/** A mean with its null; where there is none, or nothing was judged, a dash. */
function besideNull(found: { mean: number; null: { mean: number } } | undefined): string {
  if (!found || Number.isNaN(found.mean)) return "-";
  const two = (value: number) => value.toFixed(2).replace("-0.00", "0.00");
  return `${two(found.mean)} (${two(found.null.mean)})`;
}

/** The best split of a step, and its best correlated pair, with what is known of the latents. */
function examples({ a }: Step, to: string, from: PlacedRun, next: PlacedRun): string[] {
  const named = (run: PlacedRun, latent: number) => {
    const meaning = meaningOf(run.features, latent);
    return meaning === "" ? String(latent) : `${latent} (${meaning})`;
  };
  const best = (kind: string, of: (match: LatentMatch) => number) =>
    a.filter((match) => match.kind === kind).sort((x, y) => of(y) - of(x))[0] as
      LatentMatch | undefined;
  const gain = (match: LatentMatch) => match.sumCorrelation!.value - match.correlation.value;
  const shared = best("shared", ({ correlation }) => correlation.value);
  const split = best("split", gain);
  const range = ({ value, low, high }: LatentMatch["correlation"]) =>
    `r ${value.toFixed(3)} (${low.toFixed(3)}–${high.toFixed(3)})`;
  const lines = [
    ...(shared
      ? [`nearest: ${named(from, shared.latent)} is ${named(next, shared.partner)} at ${to}, ${range(shared.correlation)}`] // prettier-ignore
      : []),
    ...(split
      ? [`clearest split: ${named(from, split.latent)} is ${split.parts.map((part) => named(next, part)).join(" + ")} at ${to}, ${range(split.sumCorrelation!)}; the best alone ${split.correlation.value.toFixed(3)}`] // prettier-ignore
      : []),
  ];
  return lines.length > 0 ? [lines.join("\n")] : [];
}

function conceptText(courses: readonly ConceptCourse[], names: readonly string[]): string[] {
  if (courses.length === 0) return [];
  const count = (is: (course: ConceptCourse) => boolean) => String(courses.filter(is).length);
  const mean = (values: number[]) => values.reduce((sum, v) => sum + v, 0) / values.length;
  const rows = names.map((name, i) => [
    name,
    count(({ at }) => at[i].auc.value >= 0.95),
    count(({ appears }) => appears === i),
    count(({ peak }) => peak === i),
    count(({ fades }) => fades === i),
    mean(courses.map(({ at }) => at[i].auc.value)).toFixed(3),
    mean(courses.map(({ at }) => at[i].f1)).toFixed(3),
    mean(courses.map(({ at }) => at[i].null)).toFixed(3),
  ]);
  const spread = ({ at }: ConceptCourse) => at.at(-1)!.auc.value - at[0].auc.value;
  const list = courses.toSorted((a, b) => spread(b) - spread(a));
  const line = ({ concept, at }: ConceptCourse) => [
    concept,
    ...at.map(
      ({ auc }) => `${auc.value.toFixed(3)} (${auc.low.toFixed(2)}–${auc.high.toFixed(2)})`,
    ),
  ];
  const most = list.length > 10 ? [...list.slice(0, 5), ...list.slice(-5)] : list;
  return [
    table(
      ["hook point", "AUC ≥ 0.95", "appear", "peak", "fade", "mean AUC", "mean F1", "null AUC"],
      rows,
    ),
    `${courses.length} concepts. appear: the first hook point with AUC ≥ 0.95; fade: the first after the peak whose 95 % interval lies below the peak's.`,
    table(["most gained, most lost", ...names], most.map(line)),
  ];
}
