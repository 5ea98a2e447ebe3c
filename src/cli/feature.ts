/** `lens feature`: one latent of a trained run, with everything that is known of it. */
import { join } from "node:path";
import type { Command } from "commander";

import { openFeatures } from "../analysis/features.ts";
import {
  DIRECT_FORMS,
  logitEffects,
  nearestToLogits,
  whyNoEffects,
  type LogitEffect,
  type LogitForm,
} from "../analysis/logits.ts";
import { coNeighbors, type CoMeasure } from "../analysis/neighbors.ts";
import { suspectsOf } from "../analysis/suspects.ts";
import { writePointOf } from "../analysis/write-point.ts";
import { trueLogitEffect, type TrueLogitEffect } from "../analysis/true-logits.ts";
import { openDevice } from "../device/device.ts";
import { nearestName, UserError } from "../error.ts";
import {
  countedCoActivation,
  factsOf,
  nameOf,
  near,
  withTexts,
} from "../workbench/feature-facts.ts";
import { heldOutDocuments, openModelRun } from "../workbench/model-run.ts";
import { textCodes, valuesOf } from "../workbench/text-codes.ts";
import { interruptibly } from "./analyse.ts";
import { featureMap, type FeaturesRun } from "./feature-map.ts";
import { featureText, type FeatureView } from "./feature-text.ts";
import { numberOf } from "./generate.ts";
import { interruptible } from "./interrupt.ts";
import { readingOf } from "../workbench/reading.ts";
import { Progress } from "./progress.ts";
import { shortPath, Terminal } from "./terminal.ts";

interface Options {
  runs: string;
  logits: string;
  text?: string;
  top: string;
  examples: string;
  json?: boolean;
  quiet?: boolean;
}

const FORMS: readonly LogitForm[] = [...DIRECT_FORMS, "true"];

export function define(command: Command): void {
  command
    .argument("<latent>", "number of the latent, from 0; or map: all of them")
    .argument("[run]", "a run: id, folder or `latest`", "latest")
    .description(
      "Show one latent: what it fires on, its label, what it does to the next token, and the latents " +
        "near it. With map: count how all of them fire together, draw maps of them, list those that look " +
        "split, absorbed or duplicated. Needs the run's features/, which lens run and lens features make.",
    )
    .option("--runs <folder>", "the folder that holds the run folders", "runs")
    .option(
      `--logits <${FORMS.join("|")}>`,
      "the effect on the logits: decoder row through the unembedding as it is; with the final norm's gain; " +
        "centred as well, as TransformerLens' weights are; or measured in held-out text by running the later layers again",
      "centred",
    )
    .option("--text <text>", "show how it fires on this text as well")
    .option("--top <integer>", "tokens at each end of the logits, and neighbours of each kind", "8")
    .option("--examples <integer>", "examples shown", "6")
    .option("--quiet", "print errors and the result only")
    .option("--json", "print everything as JSON")
    .action((latent: string, id: string, options: Options) =>
      interruptible((signal) => run(latent, id, options, signal)),
    );
}

/** What the parts of a view are made from. */
interface Opened extends FeaturesRun {
  latent: number;
  top: number;
}

async function run(latent: string, id: string, options: Options, signal: AbortSignal) {
  const terminal = new Terminal(options);
  const form = formOf(options.logits);
  const isMap = latent === "map";
  const number = isMap ? 0 : numberOf("latent", latent);
  const [top, examples] = [numberOf("top", options.top), numberOf("examples", options.examples)];
  const opened = await openModelRun(options.runs, id, "looking at features");
  const { folder, model } = opened;
  try {
    const features = await openFeatures(join(folder, "features"));
    features.feature(number);
    const run = { ...opened, features, terminal, signal };
    if (isMap) {
      await featureMap(run);
      return;
    }
    const view = await viewOf({ ...run, latent: number, top }, form, options.text);
    terminal.result(view, featureText(view, { examples, isColoured: process.stdout.isTTY }));
    const { max } = view.feature;
    if (view.coActivation)
      terminal.next(
        `steer --run ${shortPath(folder)} --add ${number}=${max.toPrecision(3)} "Once upon a time"`,
        "see what it does when it is turned up",
      );
    else
      terminal.next(
        `feature map ${shortPath(folder)}`,
        "count what fires together: neighbours by firing, suspects, maps",
      );
  } finally {
    await model.close();
  }
}

async function viewOf(
  opened: Opened,
  form: LogitForm,
  text: string | undefined,
): Promise<FeatureView> {
  const { folder, sae, model, features, places, latent, top } = opened;
  const co = await countedCoActivation(opened.features);
  const together = (by: CoMeasure) =>
    coNeighbors(co!, latent, { by, count: top }).map((one) => ({
      ...one,
      label: nameOf(features, one.latent),
    }));
  const { hookPoint } = writePointOf(sae, model, nearestToLogits(places));
  // What is measured needs no matrix into the stream, only a next token.
  const why =
    form !== "true" || model.info.isEncoder ? await whyNoEffects(sae, model, places) : undefined;
  return {
    ...{ run: folder, model: model.info.source, dSae: sae.spec.dSae },
    hookPoint: [places.hookPoint].flat().join(" + "),
    positions: features.index.positions,
    textDocuments: features.index.documents,
    feature: features.feature(latent),
    label: features.labels?.best[latent] ?? undefined,
    ...(text !== undefined && { text: await firingsOn(opened, text) }),
    ...(why === undefined
      ? { logits: { writesTo: hookPoint, ...withTexts(model, await effectOn(opened, form)) } }
      : { logits: null, noLogitsBecause: why }),
    neighbors: {
      decoder: await near(sae.W_dec, sae.spec.dOut, features, opened),
      encoder: await near(sae.W_enc, sae.spec.dIn, features, opened),
    },
    ...(co && {
      coActivation: { pmi: together("pmi"), jaccard: together("jaccard"), phi: together("phi") },
      suspects: await suspectsOf(sae, factsOf(features, co), { latents: [latent] }),
    }),
  };
}

function formOf(text: string): LogitForm {
  const form = FORMS.find((name) => name === text);
  if (form) return form;
  const near = nearestName(text, FORMS);
  throw new UserError(
    `logits must be one of ${FORMS.join(", ")}; got ${text}${near ? `. Did you mean ${near}?` : ""}`,
  );
}

async function effectOn(
  { sae, model, features, config, activations, places, latent, top, terminal, signal }: Opened,
  form: LogitForm,
): Promise<LogitEffect | TrueLogitEffect> {
  if (form !== "true") {
    for await (const effect of logitEffects(sae, model, {
      ...{ ...places, form, top, latents: [latent] },
    }))
      return effect;
    throw new Error("a latent was asked for and none came");
  }
  const device = await openDevice(config.device, { threads: config.threads });
  const documents = 100;
  const progress = new Progress({
    ...{ label: "true effect", unit: "documents", total: 2 * documents, quiet: terminal.quiet },
  });
  try {
    const text = interruptibly(heldOutDocuments(config, model), signal);
    const effect = await trueLogitEffect(sae, model, text, {
      ...{ ...places, device, latent, top, documents, seed: config.seed },
      ...readingOf(activations),
      amount: features.index.columns.mean[latent],
      tokens: config.features.tokens,
      onProgress: ({ done }) => progress.update(done),
    });
    progress.end();
    return effect;
  } catch (error) {
    progress.stop();
    throw error;
  } finally {
    await device.close();
  }
}

/** A text's pieces with the latent's activation on each. */
async function firingsOn(opened: Opened, text: string) {
  const codes = await textCodes(opened, text);
  return { pieces: codes.pieces, values: valuesOf(codes, opened.latent) };
}
