/** The stages after training: how good is it, what do the latents stand for, the page to look at. */
import { existsSync, readFileSync } from "node:fs";

import type { Device } from "../device/device.ts";
import { evaluateAll, type ModelEvaluation, type SplicedEvaluation } from "../analysis/evaluate.ts";
import { indexFeatures } from "../analysis/index-features.ts";
import type { Features } from "../analysis/features.ts";
import { hasWholeText, openStored, type StoredActivations } from "../analysis/stored-codes.ts";
import type { Model } from "../model/model.ts";
import { documents, stampOfSource } from "../model/text.ts";
import { readResults, type RunFolder } from "../runs.ts";
import { saveSae } from "../sae/formats.ts";
import { evaluateReconstruction, latentSummary, type Evaluation } from "../sae/metrics.ts";
import { absorption, recovery } from "../sae/recovery.ts";
import type { Sae } from "../sae/sae.ts";
import { kindOf } from "../sae/weights.ts";
import { hookPointsOf } from "../workbench/hook-points.ts";
import { heldOutDocuments } from "../workbench/model-run.ts";
import { readingOf } from "../workbench/reading.ts";
import { Progress } from "./progress.ts";
import type { Activations, Context } from "./sources.ts";
import { scoresText, type Trained } from "./stages.ts";
import { short } from "../readable.ts";

/** evaluation.json: every held-out number of a run. */
export interface RunEvaluation {
  /** What `lens runs` shows and compares. */
  scores: Record<string, number>;
  /** The model with the reconstruction in it, by hook point; absent without a model. */
  spliced?: SplicedEvaluation[];
  /** Rows that the numbers are computed over. */
  rows: number;
  /** Per latent. */
  density: number[];
  meanActivation: number[];
}

const EVALUATION = "evaluation.json";

/** Whether an earlier attempt has measured the run's autoencoder. */
export function isEvaluated(run: RunFolder): boolean {
  return existsSync(run.path(EVALUATION));
}

/**
 * Measures the autoencoder on text (or rows) it was not trained on, unless it was `measured` already,
 * and records it as the run's result.
 */
export async function evaluateStage(
  context: Context,
  run: RunFolder,
  device: Device,
  activations: Activations,
  trained: Trained,
  measured?: RunEvaluation,
): Promise<RunEvaluation> {
  const { config, terminal } = context;
  const path = run.path(EVALUATION);
  const began = performance.now();
  let evaluation: RunEvaluation;
  if (existsSync(path)) {
    evaluation = JSON.parse(readFileSync(path, "utf8")) as RunEvaluation;
  } else {
    evaluation = measured ?? (await measure(context, device, activations, trained));
    const { scores } = evaluation;
    const { details, sae } = trained;
    const metrics = { ...(details.metrics as object), ...scores };
    await saveSae(run.path("sae"), sae, { ...details, metrics });
    run.writeJson(EVALUATION, evaluation);
  }
  const { scores } = evaluation;
  terminal.note(`held-out: ${scoresText(scores)}`);
  if (readResults(run.folder).length === 0) {
    run.logResult({
      task_input: { heldOut: trained.details.dataset ?? config.activations.from },
      output: { sae: "sae" },
      eval_scores: scores,
      eval_metadata: { rows: evaluation.rows, spliced: evaluation.spliced },
      success: true,
      latency: (performance.now() - began) / 1000,
    });
  }
  return evaluation;
}

/** Held-out metrics, with the cross-entropies when there is a model that predicts the next token. */
export async function measure(
  context: Context,
  device: Device,
  activations: Activations,
  trained: Trained,
): Promise<RunEvaluation> {
  return (await measureAll(context, device, activations, [trained]))[0];
}

/** `measure` of several autoencoders of the same activations: what does not depend on them is done once. */
export async function measureAll(
  { config, terminal, signal }: Context,
  device: Device,
  { model, validation, train, synthetic }: Activations,
  trained: readonly Trained[],
): Promise<RunEvaluation[]> {
  if (trained.length === 0) return [];
  const saes = trained.map(({ sae }) => sae);
  // An encoder has no cross-entropies.
  if (model && !model.info.isEncoder && config.activations.from === "model") {
    const measured = await measureInModel({ config, terminal, signal }, device, model, saes);
    return measured.map((evaluation) => {
      const { ceLossRecovered, spliced } = evaluation;
      return { ...recordOf(evaluation, { ceLossRecovered }), spliced };
    });
  }
  const measured: RunEvaluation[] = [];
  for (const sae of saes) {
    const scores: Record<string, number> = {};
    const onDevice = sae.on(device, config.train.batchSize);
    try {
      const evaluation = await evaluateReconstruction(onDevice, validation ?? train);
      if (synthetic) {
        // Directions are in raw units, and so is the decoder once a whitening is folded in.
        const { W_dec, spec } = sae.fold();
        const { density } = evaluation;
        Object.assign(scores, recovery(synthetic.directions, W_dec, spec.dIn, density));
        Object.assign(scores, await absorption(onDevice, W_dec, synthetic));
      }
      measured.push(recordOf(evaluation, scores));
    } finally {
      onDevice.close();
    }
  }
  return measured;
}

/**
 * Autoencoders in `model`, on text that training did not see: what `measureAll` makes its numbers of.
 * @param detail every metric, with intervals; see `EvaluateOptions`.
 */
export async function measureInModel(
  { config, terminal, signal }: Context,
  device: Device,
  model: Model,
  saes: readonly Sae[],
  detail = false,
): Promise<ModelEvaluation[]> {
  if (config.activations.from !== "model") throw new Error("only a model reads text");
  const { validationTokens: tokens } = config.activations;
  const { inputs, target } = hookPointsOf(model, config.activations);
  const progress = new Progress({
    label: "evaluating",
    unit: "tokens",
    total: tokens,
    quiet: terminal.quiet,
  });
  // The text is read twice: once through the model, then again as it is and, for each hook point
  // that is replaced, with the reconstructions, with zero and with the mean in place.
  const passes = 2 + (2 + saes.length) * (target === undefined ? inputs.length : 1);
  let pass = 0;
  let done = 0;
  const text = async function* () {
    const weight = (pass++ === 0 ? 1 : passes - 1) / passes;
    for await (const document of interruptibly(heldOutDocuments(config, model), signal)) {
      done += weight * model.tokenizer.encode(document.text).ids.length;
      progress.update(Math.min(tokens, Math.round(done)));
      yield document;
    }
  };
  const measured = await evaluateAll(saes, model, text, {
    ...{ hookPoint: inputs, targetHookPoint: target, device, tokens, detail },
    ...readingOf(config.activations),
  }).catch((error: unknown) => {
    progress.stop();
    throw error;
  });
  const [{ spec }] = saes;
  const subject = saes.length === 1 ? kindOf(spec) : `${saes.length} ${kindOf(spec)}s`;
  progress.end(`the model with and without the ${subject}`);
  return measured;
}

export function recordOf(evaluation: Evaluation, scores: Record<string, number>): RunEvaluation {
  const { fvu, mse, l0, l1, cosine, deadFraction, denseFraction, rows } = evaluation;
  const { activeFeatures } = latentSummary(evaluation);
  return {
    scores: { fvu, l0, deadFraction, ...scores, mse, l1, cosine, denseFraction, activeFeatures },
    rows,
    density: [...evaluation.density],
    meanActivation: [...evaluation.meanActivation],
  };
}

/** Looks the latents up in held-out text and writes features/; without a model there is no text, which it says. */
export async function featuresStage(
  { config, terminal, signal }: Context,
  run: RunFolder,
  device: Device,
  { model }: Activations,
  { sae }: Trained,
): Promise<Features | undefined> {
  if (!model || config.activations.from !== "model") {
    terminal.note(
      `features: none, since there is no text behind activations.from ${config.activations.from}`,
    );
    return undefined;
  }
  const { openFeatures } = await import("../analysis/features.ts");
  const out = run.path("features");
  if (existsSync(run.path("features", "index.json"))) return openFeatures(out);
  const { data, field, shuffleDocuments } = config.activations;
  const { gallery: _, store: path, tokens, ...shown } = config.features;
  const { inputs } = hookPointsOf(model, config.activations);
  const stored = path === undefined ? undefined : await openStored(sae, path, inputs);
  const total = Math.min(tokens, stored?.manifest.rows ?? Infinity);
  const progress = new Progress({
    ...{ label: "features", unit: "tokens", total, quiet: terminal.quiet },
  });
  const text = stored ? textBehind(stored, model) : heldOutDocuments(config, model);
  try {
    const features = await indexFeatures(sae, model, text, {
      ...{ out, device, hookPoint: inputs, seed: config.seed, tokens, signal },
      ...readingOf(config.activations),
      ...{ ...shown, ...(stored && { stored }) },
      resume: JSON.stringify({
        data,
        field,
        split: "test",
        ...(shuffleDocuments && { shuffleDocuments }),
        files: await stampOfSource(data),
      }),
      provenance: { run: run.id },
      onPlan: ({ counterBytes, labelBytes, tokenBytes, logBytesPerFiring }) =>
        terminal.note(
          `memory: counters of ${short(sae.spec.dSae)} latents at most ${megabytes(counterBytes)}, labels ${megabytes(labelBytes)}` +
            `${tokenBytes > 0 ? `, tokens ${megabytes(tokenBytes)}` : ""}; on disk for the time being about ${logBytesPerFiring} bytes per firing`,
        ),
      onProgress: ({ done }) => progress.update(done),
    });
    progress.end(`${short(features.index.bytesPerLatent)} bytes per latent`);
    return features;
  } catch (error) {
    progress.stop();
    throw error;
  }
}

/** The text that a store was collected from; undefined where it has to be put together from tokens. */
function textBehind({ manifest }: StoredActivations, { tokenizer: { renderChat } }: Model) {
  if (!hasWholeText(manifest)) return undefined;
  const { data } = manifest;
  return documents(data.source, { ...data, renderChat });
}

function megabytes(bytes: number): string {
  return `${short(Math.ceil(bytes / 1e6))} MB`;
}

/** The items, until the signal is aborted. */
export async function* interruptibly<T>(
  items: AsyncIterable<T>,
  signal: AbortSignal,
): AsyncGenerator<T> {
  for await (const item of items) {
    signal.throwIfAborted();
    yield item;
  }
}
