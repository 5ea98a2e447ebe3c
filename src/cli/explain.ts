/** `lens explain`: what the latents of a run respond to, in words that are put to the test. */
import { join } from "node:path";
import type { Command } from "commander";

import {
  explainByRules,
  bestNamed,
  readExplanations,
  readText,
  summaryOf,
  writeExplanations,
  type Explanations,
  type LatentExplanation,
} from "../analysis/explanations.ts";
import type { EncodedText } from "../analysis/encoded-text.ts";
import { SCORERS } from "../analysis/judge.ts";
import { openFeatures, type Features } from "../analysis/features.ts";
import { whyNoEffects } from "../analysis/logits.ts";
import { rankFeatures } from "../analysis/ranking.ts";
import { NAMED_F1 } from "../analysis/rules.ts";
import { openDevice } from "../device/device.ts";
import { UserError } from "../error.ts";
import { type ModelRun, heldOutDocuments, openModelRun } from "../workbench/model-run.ts";
import { interruptibly } from "./analyse.ts";
import { askingOf, explainLatents, modelTable, type ModelOptions } from "./explain-model.ts";
import { numberOf } from "./generate.ts";
import { interruptible } from "./interrupt.ts";
import { readingOf } from "../workbench/reading.ts";
import { Progress } from "./progress.ts";
import { short } from "../readable.ts";
import { shortPath, table, Terminal } from "./terminal.ts";

interface Options extends ModelOptions {
  runs: string;
  tokens?: string;
  latents?: string;
  top: string;
  json?: boolean;
  quiet?: boolean;
}

export function define(command: Command): void {
  command
    .argument("[run]", "a run: id, folder or `latest`", "latest")
    .description(
      "Name what the latents respond to: for each the token, word, class of tokens or run of tokens that fits it " +
        "best, chosen on half of the documents and measured on the others. Needs no other model; with --endpoint one is asked " +
        "as well, and what it says is scored. Writes explanations.json into the run's features/.",
    )
    .option("--runs <folder>", "the folder that holds the run folders", "runs")
    .option("--tokens <integer>", "held-out tokens to read (default: the run's features.tokens)")
    .option("--latents <numbers>", "show (and ask about) these: 1,2,3")
    .option(
      "--top <integer>",
      "how many to show: the best named; or to ask about: the first of lens features",
      "20",
    )
    .option(
      "--endpoint <url>",
      "ask a language model too, at this OpenAI-compatible server: http://localhost:8080/v1",
    )
    .option("--model <name>", "of --endpoint: the model to ask")
    .option(
      "--key-from <variable>",
      "of --endpoint: the environment variable that holds the key, which is stored nowhere",
      "LENS_API_KEY",
    )
    .option(
      `--scorers <${SCORERS.join("|")},…>`,
      "of --endpoint: how explanations are scored",
      "detection,fuzzing",
    )
    .option("--dry-run", "of --endpoint: print what it would take, and ask nothing")
    .option("--max-requests <integer>", "of --endpoint: ask nothing if more are needed")
    .option(
      "--price-in <number>",
      "of --endpoint: price of a million tokens read, for the estimate",
    )
    .option("--price-out <number>", "of --endpoint: price of a million tokens written")
    .option("--concurrency <integer>", "of --endpoint: requests at a time", "4")
    .option("--retries <integer>", "of --endpoint: attempts after the first", "4")
    .option("--timeout <seconds>", "of --endpoint: the longest wait for an answer", "120")
    .option("--quiet", "print errors and the result only")
    .option("--json", "print the result as JSON")
    .action((id: string, options: Options) => interruptible((signal) => run(id, options, signal)));
}

async function run(id: string, options: Options, signal: AbortSignal): Promise<void> {
  const terminal = new Terminal(options);
  const top = numberOf("top", options.top);
  const asking = askingOf(options);
  const opened = await openModelRun(options.runs, id, "explaining");
  const { folder, model } = opened;
  try {
    const why = await whyNoEffects(opened.sae, model, opened.places);
    if (why !== undefined)
      throw new UserError(`latents are explained by the tokens that they promote, too: ${why}`);
    const features = await openFeatures(join(folder, "features"));
    const latents = options.latents?.split(",").map((text) => numberOf("latents", text));
    for (const latent of latents ?? []) features.feature(latent);
    const tokens = options.tokens === undefined ? opened.config.features.tokens : numberOf("tokens", options.tokens); // prettier-ignore
    const { text, explanations } = await byRules(
      { ...opened, features },
      tokens,
      terminal,
      signal,
      !!asking,
    );
    if (asking) {
      const asked = latents ?? rankFeatures(features.index, { limit: top });
      const { seed } = opened.config;
      const setting = { folder, text, explanations, latents: asked, seed, terminal, signal };
      const { cost, found, failed } = await explainLatents(asking, setting);
      const value = {
        ...{ folder, cost, failed: Object.fromEntries(failed) },
        latents: [...found].map(([latent, one]) => ({ latent, ...one })),
      };
      if (asking.isDry) terminal.result(value, "nothing was asked");
      else terminal.result(value, modelTable(found, failed, asking.scorers));
      if (asking.isDry) return;
      terminal.next(`feature ${asked[0]} ${shortPath(folder)}`, "look at one in full");
      return;
    }
    const shown = latents
      ? latents.map((latent) => explanations.latents[latent])
      : bestNamed(explanations.latents).slice(0, top);
    const summary = summaryOf(explanations.latents);
    terminal.result(
      { folder, positions: explanations.positions, summary, latents: shown },
      `${tableOf(shown)}\n\n${summaryText(explanations, summary)}`,
    );
    terminal.next(`feature ${shown[0]?.latent ?? 0} ${shortPath(folder)}`, "look at one in full");
  } finally {
    await model.close();
  }
}

async function byRules(
  { folder, config, activations, sae, model, places, features }: ModelRun & { features: Features },
  tokens: number,
  terminal: Terminal,
  signal: AbortSignal,
  /** Whether rules that were found before, on the same text, will do. */
  reuse: boolean,
): Promise<{ text: EncodedText; explanations: Explanations }> {
  const { seed } = config;
  const device = await openDevice(config.device, { threads: config.threads });
  const { dSae } = sae.spec;
  const bar = (label: string, unit: string, total: number) =>
    new Progress({ label, unit, total, quiet: terminal.quiet });
  let progress = bar("reading", "tokens", tokens);
  try {
    const documents = interruptibly(heldOutDocuments(config, model), signal);
    const text = await readText(sae, model, documents, {
      ...{ ...places, device, tokens, ...readingOf(activations) },
      onProgress: (done) => progress.update(done),
    });
    progress.end();
    const { dir } = features;
    const known = await foundBefore(dir, dSae, terminal);
    if (reuse && known?.positions.train === text.sizes().train)
      return { text, explanations: known };
    progress = bar("rules", "latents", dSae);
    const latents: LatentExplanation[] = [];
    for await (const one of explainByRules(text, sae, model, { ...places, device, seed })) {
      signal.throwIfAborted();
      latents.push(one);
      progress.update(latents.length);
      // So that an interrupt is heard.
      await new Promise(setImmediate);
    }
    progress.end();
    for (const one of latents) {
      const models = known?.latents[one.latent]?.models;
      if (models) one.models = models;
    }
    const explanations: Explanations = {
      version: 1,
      positions: text.sizes(),
      complete: text.complete,
      provenance: {
        hookPoint: places.hookPoint,
        seed,
        data: activations.data,
        ...features.index.provenance,
      },
      latents,
    };
    await writeExplanations(dir, explanations);
    if (!text.complete)
      terminal.note(`only ${short(text.positions)} tokens fit in memory; the rest was left out`);
    terminal.note(`wrote ${shortPath(folder)}/features/explanations.json`);
    return { text, explanations };
  } catch (error) {
    progress.stop();
    throw error;
  } finally {
    await device.close();
  }
}

/** Such that cannot be read are made anew as well; what a language model said of them is in answers/ too. */
async function foundBefore(
  dir: string,
  dSae: number,
  terminal: Terminal,
): Promise<Explanations | undefined> {
  try {
    return await readExplanations(dir, dSae);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    terminal.note("the explanations found before cannot be read; all are made anew");
    return undefined;
  }
}

function tableOf(latents: readonly LatentExplanation[]): string {
  const two = (value: number | undefined) => (value === undefined || Number.isNaN(value) ? "" : value.toFixed(2)); // prettier-ignore
  const header = ["latent", "F1", "95 %", "precision", "recall", "mass", "coverage", "R²", "alike", "next", "rule"]; // prettier-ignore
  return table(
    header,
    latents.map(({ latent, rules: [rule], alike, next, name }) =>
      rule
        ? [
            ...[String(latent), two(rule.f1.value), `${two(rule.f1.low)}–${two(rule.f1.high)}`],
            ...[
              two(rule.precision.value),
              two(rule.recall.value),
              `${Math.round(100 * rule.mass)}%`,
            ],
            ...[two(rule.coverage.value), two(rule.r2), two(alike?.value), two(next?.value)],
            shortRule(rule.text),
          ]
        : [String(latent), ...Array<string>(header.length - 2).fill(""), name],
    ),
  );
}

/** A long disjunction cut where a line would end. */
function shortRule(text: string): string {
  return text.length <= 70 ? text : `${text.slice(0, 68).replace(/,? [^ ]*$/, "")} …`;
}

function summaryText(explanations: Explanations, summary: ReturnType<typeof summaryOf>): string {
  const { positions, latents } = explanations;
  const percent = (count: number) => `${((100 * count) / latents.length).toFixed(1)} %`;
  const two = (value: number) => value.toFixed(2);
  const { medianR2, named, namedByText } = summary;
  return [
    `${short(named)} of ${short(latents.length)} latents (${percent(named)}) have a rule with F1 ≥ ${NAMED_F1} on ${short(positions.test)} test tokens` +
      (namedByText < named ? `, ${short(namedByText)} of them without the corpus's concepts` : "") +
      `; ${short(summary.namedAny)} when every firing counts, however weak; ${short(summary.namedShuffled)} of rules for shuffled activations.`,
    `Medians of the ${short(summary.judged)} that fire often enough to tell: F1 ${two(summary.medianF1)} ` +
      `(shuffled ${two(summary.medianShuffled)}, always firing ${two(summary.medianAlways)}); ` +
      `variance explained by the rule ${two(medianR2.rule)}, the token ${two(medianR2.token)}, up to three tokens ${two(medianR2.ngram)}; ` +
      `AUC of alike ${two(summary.medianAlike)}, of next ${two(summary.medianNext)} (chance 0.50).`,
  ].join("\n");
}
