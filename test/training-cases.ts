/** Training of every kind there is, small: what tests train, resume and kill. */
import { memorySource, type RowSource } from "../src/activation-source.ts";
import { parseSection, saeSchema, trainSchema } from "../src/config.ts";
import { syntheticActivations } from "../src/sae/synthetic.ts";
import type { Settings } from "../src/sae/train.ts";
import { joinedSource, pairedSource } from "../src/zipped-source.ts";

export const jumprelu = {
  architecture: "jumprelu",
  bandwidth: 0.5,
  initialThreshold: 0.3,
  l0Coefficient: 0.3,
};
export const batchTopk = { architecture: "batchTopk", k: 4 };
const nested = { matryoshkaWidths: [5, 17] };

/** What a case trains on; absent: its own input. */
export type Structure = "transcoder" | "crosscoder";

/** sae settings, train settings where the case is about them, and the structure. */
export const trainingCases: Record<
  string,
  [Record<string, unknown>, Record<string, unknown>?, Structure?]
> = {
  "relu, free norms": [{ architecture: "relu", l1: 1 }],
  "relu, unit norms": [{ architecture: "relu", l1: 1, unitNormDecoder: true }],
  "relu, mean loss": [{ architecture: "relu", l1: 1, loss: "mean" }],
  "relu, p-annealing": [
    { architecture: "relu", l1: 1, pEnd: 0.3, pAnnealStart: 5, pUpdates: 3, targetL0: 6 },
  ],
  "relu, target L0": [{ architecture: "relu", l1: 1, targetL0: 6, sparsityWarmupSteps: 5 }],
  gated: [{ architecture: "gated", l1: 1 }],
  "gated, free norms": [{ architecture: "gated", l1: 1, unitNormDecoder: false }],
  topk: [{ architecture: "topk", k: 4 }],
  "topk, k falling": [{ architecture: "topk", k: 3, kStart: 12, kAnnealSteps: 10 }],
  "topk, openai": [{ architecture: "topk", k: 4, auxKVariant: "openai" }],
  "topk, eleuther": [{ architecture: "topk", k: 4, auxKVariant: "eleuther" }],
  "topk, saelens": [{ architecture: "topk", k: 4, auxKVariant: "saelens", auxKCoefficient: 1 }],
  batchTopk: [batchTopk],
  "jumprelu, step": [jumprelu],
  "jumprelu, tanh": [{ ...jumprelu, sparsityLoss: "tanh" }],
  "jumprelu, tanh, free norms": [{ ...jumprelu, sparsityLoss: "tanh", unitNormDecoder: false }],
  "jumprelu, quadratic": [{ ...jumprelu, sparsityLoss: "quadratic", targetL0: 6 }],
  "jumprelu, pre-activation loss on dead latents": [{ ...jumprelu, preActCoefficient: 0.01 }],
  "jumprelu, pre-activation loss on all": [
    { ...jumprelu, preActCoefficient: 0.01, preActOn: "all" },
  ],
  "matryoshka over topk": [{ architecture: "topk", k: 4, ...nested }],
  "matryoshka over batchTopk": [{ ...batchTopk, ...nested }],
  "matryoshka over jumprelu": [{ ...jumprelu, ...nested }],
  "matryoshka over gated": [{ architecture: "gated", l1: 1, ...nested }],
  "matryoshka over relu": [{ architecture: "relu", l1: 1, ...nested }],
  "clipped gradients": [{ architecture: "topk", k: 4 }, { clipGradNorm: 0.5 }],
  "clipped gradients of a gated SAE": [{ architecture: "gated", l1: 1 }, { clipGradNorm: 0.5 }],
  "moving average": [batchTopk, { emaDecay: 0.9 }],
  "cosine schedule": [
    { architecture: "topk", k: 4 },
    { schedule: "cosine", warmupSteps: 4, finalLearningRate: 0.1 },
  ],
  resampling: [{ architecture: "relu", l1: 1 }, { resampleEvery: 7 }],
  "resampling jumprelu": [jumprelu, { resampleEvery: 7 }],
  "rows normalised one by one": [{ architecture: "topk", k: 4, normalizeActivations: "layerNorm" }],
  "whitened inputs": [{ architecture: "topk", k: 4, normalizeActivations: "whitening" }],
  "weights from data": [{ architecture: "topk", k: 4, init: "data" }],
  "weights from data, jumprelu": [{ ...jumprelu, init: "data" }],
  "weights from whitened data, gated skip transcoder": [
    { architecture: "gated", l1: 1, skip: true, init: "data", normalizeActivations: "whitening" },
    {},
    "transcoder",
  ],
  transcoder: [{ architecture: "topk", k: 4 }, {}, "transcoder"],
  "relu transcoder, free norms": [{ architecture: "relu", l1: 1 }, {}, "transcoder"],
  "whitened skip transcoder": [
    { architecture: "topk", k: 4, skip: true, normalizeActivations: "whitening" },
    { clipGradNorm: 10 },
    "transcoder",
  ],
  "nested gated skip transcoder": [
    { architecture: "gated", l1: 1, skip: true, ...nested },
    { emaDecay: 0.9 },
    "transcoder",
  ],
  "resampling jumprelu transcoder": [jumprelu, { resampleEvery: 7 }, "transcoder"],
  "crosscoder over topk": [{ architecture: "topk", k: 4 }, {}, "crosscoder"],
  "crosscoder over relu": [{ architecture: "relu", l1: 1 }, {}, "crosscoder"],
  "crosscoder over jumprelu, free norms": [
    { ...jumprelu, sparsityLoss: "tanh", unitNormDecoder: false },
    {},
    "crosscoder",
  ],
};

export const dIn = 13;
const dOut = 9;
const made = syntheticActivations(
  {
    ...{ from: "synthetic", samples: 400, validationSamples: 50, dIn, features: 20 },
    ...{ sparsity: 0.15, noise: 0.05 },
  } as never,
  3,
);

/** Rows to train on, targets that are a fixed linear image of theirs, and a second hook point; with their widths. */
export const activations = {
  inputs: { data: made.train, width: dIn },
  targets: { data: targetsOf(made.train), width: dOut },
  others: { data: made.train.map((v) => 10 * v), width: dIn },
};
export type Activations = keyof typeof activations;

/** [50, dIn], of the same kind. */
export const validation = made.validation;

function targetsOf(inputs: Float32Array): Float32Array {
  const targets = new Float32Array((inputs.length / dIn) * dOut);
  for (let i = 0; i < targets.length; i++) {
    const [n, c] = [Math.floor(i / dOut), i % dOut];
    targets[i] = 3 * inputs[n * dIn + c] - inputs[n * dIn + c + 4] + 2;
  }
  return targets;
}

/** What a structure trains on, out of sources of those activations. */
export function sourceOf(
  structure: Structure | undefined,
  { inputs, targets, others }: Record<Activations, RowSource>,
): RowSource {
  if (structure === "transcoder") return pairedSource(inputs, targets);
  return structure === "crosscoder" ? joinedSource([inputs, others]) : inputs;
}

const inMemory = Object.fromEntries(
  Object.entries(activations).map(([name, { data, width }]) => [name, memorySource(data, width)]),
) as Record<Activations, RowSource>;

/** Settings of a run of 30 steps, unless `train` says otherwise. */
export function trainingSettings(
  sae: Record<string, unknown>,
  train: Record<string, unknown> = {},
  structure?: Structure,
  sources = inMemory,
): Settings {
  return {
    sae: parseSection(saeSchema, { dSae: 40, ...sae }, "sae"),
    train: parseSection(
      trainSchema,
      {
        ...{ batchSize: 32, steps: 30, learningRate: 0.01, logEvery: 5, deadAfterTokens: 60 },
        ...train,
      },
      "train",
    ),
    seed: 11,
    source: sourceOf(structure, sources),
  };
}
