/** `lens ablate`: what the model loses without a latent, on held-out text. */
import type { Command } from "commander";

import { ablate, type Ablation } from "../analysis/ablate.ts";
import type { ChangedPrediction, Effect, LatentAblation } from "../analysis/ablation-tally.ts";
import type { Interval } from "../analysis/interval.ts";
import { openDevice } from "../device/device.ts";
import { UserError } from "../error.ts";
import {
  featuresForNames,
  heldOutDocuments,
  meaningOf,
  openModelRun,
} from "../workbench/model-run.ts";
import { packedAs } from "../workbench/reading.ts";
import { interruptibly } from "./analyse.ts";
import { numberOf } from "./generate.ts";
import { interruptible } from "./interrupt.ts";
import { Progress } from "./progress.ts";
import { short } from "../readable.ts";
import { table, Terminal } from "./terminal.ts";

interface Options {
  runs: string;
  tokens: string;
  controls: string;
  examples: string;
  at?: string;
  seed: string;
  quiet?: boolean;
  json?: boolean;
}

export function define(command: Command): void {
  command
    .argument("<latents>", "latents with commas between them: 123,45")
    .argument("[run]", "a run: id, folder or `latest`", "latest")
    .description(
      "Take each of the latents out of the model by itself, on text that the run has not seen, and " +
        "measure how the loss changes: in total, by the direct path to the logits, and beside " +
        "random directions of the same length.",
    )
    .option("--runs <folder>", "the folder that holds the run folders", "runs")
    .option("--tokens <integer>", "positions of held-out text", "20000")
    .option("--controls <integer>", "random directions per latent", "2")
    .option("--examples <integer>", "predictions shown that change most, of each kind", "3")
    .option("--at <hookPoint>", "of a crosscoder: at which of its hook points")
    .option("--seed <integer>", "same seed, same directions", "0")
    .option("--quiet", "print errors and the result only")
    .option("--json", "print the result as JSON")
    .action((latents: string, id: string, options: Options) =>
      interruptible((signal) => run(latents, id, options, signal)),
    );
}

/** Whole numbers with commas between them. @throws UserError for anything else. */
function listOf(text: string): number[] {
  return text.split(",").map((part) => {
    if (!/^\s*\d+\s*$/.test(part))
      throw new UserError(`latents must be whole numbers with commas between them; got ${text}`);
    return Number(part);
  });
}

async function run(list: string, id: string, options: Options, signal: AbortSignal) {
  const terminal = new Terminal(options);
  const latents = [...new Set(listOf(list))];
  const tokens = numberOf("tokens", options.tokens);
  const opened = await openModelRun(options.runs, id, "ablation");
  const { folder, model, sae, config, activations, places } = opened;
  const device = await openDevice(config.device, { threads: config.threads });
  const progress = new Progress({
    ...{ label: "ablating", unit: "tokens", total: tokens, quiet: terminal.quiet },
  });
  try {
    const text = interruptibly(heldOutDocuments(config, model), signal);
    const result = await ablate(sae, model, text, {
      ...{ ...places, at: options.at, latents, device, tokens, ...packedAs(activations) },
      controls: numberOf("controls", options.controls),
      examples: numberOf("examples", options.examples),
      seed: numberOf("seed", options.seed),
      onProgress: (done) => progress.update(done),
    });
    progress.end();
    const features = await featuresForNames(folder, terminal);
    terminal.result(
      result,
      resultText(result, (latent) => meaningOf(features, latent)),
    );
    terminal.next(
      `attribute ${id} --runs ${options.runs} --text "Once upon a time"`,
      "which latents a next token comes from",
    );
  } catch (error) {
    progress.stop();
    throw error;
  } finally {
    await device.close();
    await model.close();
  }
}

function resultText(result: Ablation, meaning: (latent: number) => string): string {
  const { hookPoint, positions, predictions, documents, loss, latents } = result;
  return [
    `${short(positions)} positions, ${short(predictions)} predictions, ${short(documents)} documents; loss as it is ${loss.toFixed(4)} nats`,
    `latents removed at ${hookPoint}; Δ loss in nats with 95 % intervals (bootstrap over documents)`,
    ...latents.map((latent) => latentText(latent, meaning(latent.latent))),
  ].join("\n");
}

function latentText(found: LatentAblation, meaning: string): string {
  const { latent, firings, firingPredictions, firingDocuments, total, direct, control } = found;
  const title = `\nlatent ${latent}${meaning && ` (${meaning})`}`;
  if (firings === 0) return `${title}: does not fire in this text, so nothing changes without it`;
  const rows: [string, Effect][] = [
    ["total", total],
    ["direct", direct],
    ["random, total", control.total],
    ["random, direct", control.direct],
  ];
  const lines = [
    `${title}: fires at ${short(firings)} positions in ${short(firingDocuments)} documents, ${short(firingPredictions)} of them with a prediction`,
    table(
      ["", "Δ loss/firing", "Δ loss/document", "Δ loss/prediction", "KL/firing", "KL/prediction"],
      rows.map(([name, effect]) => [
        name,
        ...[effect.lossPerFiring, effect.lossPerDocument, effect.lossPerPrediction].map(ranged),
        ...[effect.klPerFiring, effect.klPerPrediction].map(ranged),
      ]),
    ),
  ];
  if (firingDocuments < 2)
    lines.push("fires in one document only: intervals over documents would say nothing");
  const tokens = (list: LatentAblation["hurtTokens"]) =>
    list.map(({ text, loss, count }) => `${JSON.stringify(text)} ${signed(loss)} in ${count}`).join(", "); // prettier-ignore
  if (found.hurtTokens.length > 0) lines.push(`worse without it: ${tokens(found.hurtTokens)}`);
  for (const example of found.hurt) lines.push(exampleText(example));
  if (found.helpedTokens.length > 0) lines.push(`better without it: ${tokens(found.helpedTokens)}`);
  for (const example of found.helped) lines.push(exampleText(example));
  return lines.join("\n");
}

function exampleText({ loss, pieces, predicted }: ChangedPrediction): string {
  const shown = pieces.map((piece, i) => (i === predicted ? `[${piece}]` : piece)).join("");
  return `  ${signed(loss).padStart(8)}  ${shown.replaceAll("\n", "⏎")}`;
}

const signed = (v: number) => `${v > 0 ? "+" : ""}${compact(v)}`;

const compact = (v: number) =>
  v !== 0 && Math.abs(v) < 1e-3 ? v.toExponential(1) : v.toFixed(Math.abs(v) < 1 ? 4 : 2);

function ranged({ value, low, high }: Interval): string {
  if (Number.isNaN(value)) return "–";
  return Number.isNaN(low) ? compact(value) : `${compact(value)} (${compact(low)} to ${compact(high)})`; // prettier-ignore
}
