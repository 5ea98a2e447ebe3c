/** How long a run will take and how much room, found by doing a little of it. */
import { memorySource } from "../activation-source.ts";
import type { ModelActivationsConfig, RunConfig } from "../config.ts";
import { openDevice } from "../device/device.ts";
import { loadModel, type LoadOptions, type Model } from "../model/model.ts";
import { rowBytes } from "../model/store/manifest.ts";
import { Rng } from "../rng.ts";
import { resolveSae } from "../sae/architecture.ts";
import { planMemory, type MemoryPlan } from "../sae/memory-plan.ts";
import { identity } from "../sae/transform.ts";
import { pairedSource } from "../zipped-source.ts";
import { stepOptions, totalSteps, Trainer } from "../sae/train.ts";
import { hookPointsOf, namesOf } from "./hook-points.ts";
import { loadingOf } from "./reading.ts";

export interface RunEstimate {
  dIn: number;
  dSae: number;
  steps: number;
  /** Of the autoencoder's weights, encoder, decoder and biases together. */
  parameters: number;
  /** Seconds; `collect`: of running the model for what training takes, stored or not. */
  seconds: { collect: number; train: number; evaluate: number; features: number; total: number };
  /** Bytes of memory that training takes; the model's weights come on top. */
  memory: MemoryPlan;
  modelBytes: number;
  /** Bytes that collected activations take on disk. */
  diskBytes: number;
  /** What was measured to tell. */
  measured: { tokensPerSecond: number | null; secondsPerStep: number };
}

/** Steps that are tried; the first ones take longer and do not count. */
const TRIED = 5;
const SKIPPED = 2;
/** A pass over text with everything done to it beside the forward pass, in forward passes. */
const FEATURES_PASSES = 2.5;

/**
 * Tries a forward pass of the model and a few training steps on made-up activations. What else the
 * machine does meanwhile slows them as it would the run.
 * @throws UserError as the run itself would, for settings that do not go together or do not fit.
 */
export async function estimateRun(
  config: RunConfig,
  options: LoadOptions = {},
): Promise<RunEstimate | undefined> {
  const { activations } = config;
  if (activations.from === "folder") return undefined; // known when its files have been read
  if (activations.from === "synthetic") {
    const { dIn, samples } = activations;
    return estimateTraining(config, { dIn, heads: [dIn], rows: samples });
  }
  const model = await loadModel(activations.model, {
    ...loadingOf(activations),
    threads: config.threads,
    ...options,
  });
  try {
    const roles = hookPointsOf(model, activations);
    const heads = roles.inputs.map((name) => model.hookWidth(name));
    const dOut = roles.target === undefined ? {} : { dOut: model.hookWidth(roles.target) };
    const names = namesOf(roles);
    const rate = await tokensPerSecond(model, names, activations);
    const trained = await estimateTraining(config, {
      ...{ dIn: heads.reduce((a, b) => a + b), heads, ...dOut, rows: activations.tokens },
    });
    const { tokens, validationTokens, dtype, onTheFly } = activations;
    const isAnew = onTheFly && tokens > config.train.bufferRows; // in every epoch
    const made = isAnew ? trained.steps * config.train.batchSize : tokens;
    const rows = names.map((name) => rowBytes(dtype, model.hookWidth(name)));
    const passes = 2 + 3 * (roles.target === undefined ? roles.inputs.length : 1);
    // On the fly the model and training run at the same time, but on the same cores.
    const collect = (made + validationTokens) / rate;
    const evaluate = (passes * validationTokens) / rate;
    const features = (FEATURES_PASSES * config.features.tokens) / rate;
    const { train } = trained.seconds;
    return {
      ...trained,
      seconds: { collect, train, evaluate, features, total: collect + train + evaluate + features },
      modelBytes: 4 * model.info.parameters,
      diskBytes: onTheFly ? 0 : (tokens + validationTokens) * rows.reduce((a, b) => a + b),
      measured: { ...trained.measured, tokensPerSecond: rate },
    };
  } finally {
    await model.close();
  }
}

async function tokensPerSecond(
  model: Model,
  capture: string[],
  { contextLength }: ModelActivationsConfig,
): Promise<number> {
  const length = contextLength ?? Math.min(model.info.contextLength, 256);
  const batch = 16;
  const rng = new Rng(0, "estimate");
  const { vocabSize } = model.info;
  const tokens = Int32Array.from({ length: batch * length }, () => Math.floor(rng.uniform() * vocabSize)); // prettier-ignore
  const pass = async () => {
    const began = performance.now();
    await model.forward({ tokens, batch, length, capture });
    return (performance.now() - began) / 1000;
  };
  await pass(); // builds the graph
  return (batch * length) / (await pass());
}

async function estimateTraining(
  { sae, train, seed, device: name, threads }: RunConfig,
  source: { dIn: number; dOut?: number; heads: number[]; rows: number },
): Promise<RunEstimate> {
  const { dIn, dOut } = source;
  const resolved = resolveSae(sae, source);
  const memory = planMemory(resolved, {
    ...stepOptions(train),
    transforms: { input: identity(dIn), output: identity(dOut ?? dIn) },
  });
  const device = await openDevice(name, { threads });
  try {
    const rng = new Rng(seed, "estimate");
    const rows = train.batchSize;
    const made = (width: number) => Float32Array.from({ length: rows * width }, () => rng.normal());
    const plain = memorySource(made(dIn), dIn, {});
    const trainer = await Trainer.create(device, {
      sae,
      // As the run's, but short.
      train: { ...train, steps: TRIED, tokens: undefined, epochs: undefined, ...{ warmupSteps: 0, decaySteps: 0, logEvery: 1, from: undefined } }, // prettier-ignore
      seed,
      source: {
        ...(dOut === undefined ? plain : pairedSource(plain, memorySource(made(dOut), dOut, {}))),
        heads: source.heads,
      },
    });
    const times: number[] = [];
    try {
      for await (const _ of trainer.fit()) times.push(performance.now());
    } finally {
      trainer.close();
    }
    const secondsPerStep = (times[TRIED - 1] - times[SKIPPED - 1]) / 1000 / (TRIED - SKIPPED);
    const steps = totalSteps(train, source.rows);
    const { dSae, dOut: width } = resolved;
    return {
      ...{ dIn, dSae, steps, memory, modelBytes: 0, diskBytes: 0 },
      parameters: dSae * (dIn + width + 1) + width,
      seconds: { collect: 0, evaluate: 0, features: 0, train: steps * secondsPerStep, total: steps * secondsPerStep }, // prettier-ignore
      measured: { tokensPerSecond: null, secondsPerStep },
    };
  } finally {
    await device.close();
  }
}
