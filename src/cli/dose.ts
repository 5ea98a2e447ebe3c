/** `lens steer --dose`: what a feature does to generated text, strength by strength, beside controls. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { subjectsOf } from "../analysis/controls.ts";
import { DOSE_COLUMNS, doseFigures, doseTable, recommendation } from "../analysis/dose-report.ts";
import { doseResponse, type DoseOptions, type Score } from "../analysis/dose.ts";
import { openFeatures } from "../analysis/features.ts";
import { latentsOf, type Found } from "../analysis/find.ts";
import { wordOf } from "../analysis/labels.ts";
import { renderPng } from "../analysis/plots.ts";
import type { SteerOptions } from "../analysis/steer.ts";
import { conceptScore, patternScore } from "../analysis/text-score.ts";
import { UserError } from "../error.ts";
import type { Model } from "../model/model.ts";
import type { Sae } from "../sae/sae.ts";
import type { Target } from "./find.ts";
import { Progress } from "./progress.ts";
import { shortPath, table, type Terminal } from "./terminal.ts";

interface Options {
  find?: string;
  by: string;
  dose: string;
  concept?: string;
  regex?: string;
  texts: string;
  out?: string;
}

/** Controls of each kind. */
const CONTROLS = 2;

export async function dose(
  sae: Sae,
  model: Model,
  options: Options,
  folder: string,
  terminal: Terminal,
  settings: Pick<DoseOptions, "prompt" | "generation"> & {
    steer: SteerOptions;
    target: Target | undefined;
  },
): Promise<void> {
  const { target: aim } = settings;
  if (aim === undefined)
    throw new UserError("--dose measures one feature: say which with --find, or with --add");
  const strengths = options.dose.split(",").map((text) => {
    const strength = Number(text);
    if (text.trim() === "" || !Number.isFinite(strength))
      throw new UserError(`dose must be numbers with commas between them; got ${options.dose}`);
    return strength;
  });
  const features = await openFeatures(join(folder, "features"));
  const { found: best, unit, others } = aim;
  const concept = options.concept ?? (options.by === "effect" ? options.find : undefined);
  const { score, of } = scoreOf({ ...options, ...(concept && { concept }) }, best);
  terminal.note(`counted: ${of}`);
  const controls = { ...settings.steer, unit, latents: CONTROLS, directions: CONTROLS };
  const subjects = subjectsOf(sae, model, features, latentsOf(best), controls, others);
  let progress: Progress | undefined;
  const result = await doseResponse(model, subjects, strengths, {
    ...{ prompt: settings.prompt, generation: settings.generation, score },
    texts: Number(options.texts),
    onProgress: (done, total) => {
      progress ??= new Progress({
        ...{ label: "steering", unit: "passes", total, quiet: terminal.quiet },
      });
      progress.update(done);
    },
  });
  progress?.end();
  const out = options.out ?? join(folder, "steering");
  const name = `latent-${latentsOf(best).join("-")}`;
  await mkdir(out, { recursive: true });
  const figures = await doseFigures(result, of);
  for (const { id, svg } of figures) {
    await writeFile(join(out, `${name}-${id}.svg`), svg);
    await writeFile(join(out, `${name}-${id}.png`), await renderPng(svg));
  }
  const value = { feature: best, counted: of, ...result, recommendation: recommendation(result) };
  await writeFile(join(out, `${name}.json`), JSON.stringify(value, null, 2) + "\n");
  const [target] = result.subjects;
  const sample = target.responses.at(-1)?.samples[0] ?? "";
  terminal.result(
    value,
    [
      table(DOSE_COLUMNS, doseTable(result)),
      "rate: % of words; intervals: 95 %, bootstrap over texts",
      recommendation(result),
      `At strength ${strengths.at(-1)}: ${sample.slice(0, 300)}`,
      `figures: ${shortPath(out)}`,
    ].join("\n"),
  );
}

/** What is counted: a concept or a pattern that was given, else what the feature's label says. */
function scoreOf({ concept, regex }: Options, { label }: Found): { score: Score; of: string } {
  if (regex !== undefined) {
    let pattern: RegExp;
    try {
      pattern = new RegExp(regex, "giu");
    } catch (error) {
      throw new UserError(`regex ${regex} is none: ${(error as Error).message}`);
    }
    return { score: patternScore(pattern), of: `/${regex}/` };
  }
  const name = concept ?? (label?.kind === "concept" ? label.name : undefined);
  if (name !== undefined) {
    return { score: conceptScore(name), of: name };
  }
  const word = label && wordOf(label);
  if (!word) throw new UserError("what should be counted in the texts? Give --concept or --regex");
  const escaped = word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return {
    score: patternScore(new RegExp(`(?<![\\p{L}])${escaped}(?![\\p{L}])`, "giu")),
    of: `the word ${JSON.stringify(word)}`,
  };
}
