/** Settings of the sparse autoencoder, architecture by architecture. */
import { z } from "zod";

import { count, nonNegative } from "./config-fields.ts";

const saeCommon = {
  dSae: count("Number of latents; absent: expansion × dIn.").optional(),
  expansion: z.number().positive().default(8).describe("Latents per input dimension."),
  matryoshkaWidths: z
    .array(z.int().positive())
    .default([])
    .describe(
      "Prefixes of the latents that must each reconstruct on their own, rising; dSae is added as the last. Empty: no nesting.",
    ),
  init: z
    .enum(["tied", "xavier", "data"])
    .default("tied")
    .describe(
      "tied: random decoder rows of norm 1 (0.1 when the norms are free), encoder = decoder; xavier: both Xavier-uniform, independent; data: as tied, in the directions of the first activations from their mean, the encoder at the scale that reconstructs them best.",
    ),
  decoderBiasInit: z
    .enum(["mean", "geometricMedian", "zero"])
    .default("mean")
    .describe(
      "Decoder bias at the start: the mean or the geometric median of the first activations, or 0.",
    ),
  applyBDecToInput: z
    .boolean()
    .optional()
    .describe(
      "Subtract the decoder bias from the input before encoding; absent: true, but false for a transcoder.",
    ),
  skip: z
    .boolean()
    .default(false)
    .describe("Of a transcoder: add a linear map of the input to the reconstruction."),
  normalizeActivations: z
    .enum(["none", "expectedAverageNorm", "rms", "layerNorm", "whitening"])
    .default("expectedAverageNorm")
    .describe(
      "expectedAverageNorm: scale inputs so that their mean norm is √dIn; rms: so that their mean square is 1; whitening: to mean 0 and covariance 1 (these are folded into the weights on saving); layerNorm: each row to mean 0 and variance 1.",
    ),
  unitNormDecoder: z
    .boolean()
    .optional()
    .describe(
      "Keep decoder rows at norm 1 and project their gradient; absent: false for relu, else true.",
    ),
};

const penalised = {
  coefficientUnits: z
    .enum(["inputRms", "raw"])
    .default("inputRms")
    .describe(
      "inputRms: coefficients, bandwidth and thresholds count in the root mean square of unnormalised inputs, so that they carry over between layers; raw: as they stand.",
    ),
  sparsityWarmupSteps: nonNegative(
    "Steps over which the sparsity coefficient rises linearly from 0.",
  ).default(0),
  targetL0: z
    .number()
    .positive()
    .optional()
    .describe(
      "Active latents per row to arrive at: after the warm-up a controller moves the sparsity coefficient. Absent: it stays.",
    ),
};

const relu = z.strictObject({
  architecture: z.literal("relu").describe("ReLU latents with an L1 penalty."),
  ...saeCommon,
  ...penalised,
  loss: z
    .enum(["sum", "mean"])
    .default("sum")
    .describe(
      "sum: mean over rows of Σ(x-x̂)² + l1·Σ a·‖W_dec‖ (Anthropic, April 2024); mean: mean((x-x̂)²) + l1·mean|a| over all elements.",
    ),
  l1: z.number().nonnegative().default(5).describe("Coefficient of the sparsity penalty."),
  pEnd: z
    .number()
    .positive()
    .max(1)
    .default(1)
    .describe(
      "p-annealing: the penalty's exponent falls from 1 to this, its coefficient adjusted so that it stays continuous; 1: no annealing.",
    ),
  pAnnealStart: nonNegative("Step after which the exponent begins to fall.").default(0),
  pUpdates: count("In how many equal changes the exponent falls.").default(10),
});

const gated = z.strictObject({
  architecture: z
    .literal("gated")
    .describe("Gates decide which latents are active, magnitudes how much."),
  ...saeCommon,
  ...penalised,
  l1: z.number().nonnegative().default(5).describe("Coefficient of the sparsity penalty."),
  auxCoefficient: z
    .number()
    .nonnegative()
    .default(1)
    .describe("Weight of the reconstruction from the gates' pre-activations."),
});

const topkCommon = {
  k: count("Latents kept per row; of batchTopk on average.").default(32),
  kStart: count("k at the first step, from which it falls linearly to k; absent: k.").optional(),
  kAnnealSteps: nonNegative("Steps over which k falls from kStart.").default(0),
  auxK: z
    .int()
    .positive()
    .optional()
    .describe(
      "Dead latents that reconstruct the residual in the auxiliary loss; absent: dIn/2, at most dSae.",
    ),
  auxKCoefficient: z
    .number()
    .nonnegative()
    .default(1 / 32)
    .describe("Coefficient of the auxiliary loss; 0 turns it off."),
  auxKVariant: z
    .enum(["summed", "openai", "eleuther", "saelens"])
    .default("summed")
    .describe(
      "How the auxiliary loss is scaled: summed: mean over rows; openai: divided by the variance of the residual; eleuther: by that of the input, times the share of dead latents that are needed; saelens: as summed, times that share.",
    ),
};

const topk = z.strictObject({
  architecture: z.literal("topk").describe("Only the k largest latents of each row are kept."),
  ...saeCommon,
  ...topkCommon,
});

const batchTopk = z.strictObject({
  architecture: z
    .literal("batchTopk")
    .describe(
      "The k·rows largest latents of a batch are kept; later a threshold takes their place.",
    ),
  ...saeCommon,
  ...topkCommon,
  thresholdRate: z
    .number()
    .positive()
    .max(1)
    .default(0.1)
    .describe("How fast the running threshold follows the smallest latent kept in a batch."),
});

const jumprelu = z.strictObject({
  architecture: z
    .literal("jumprelu")
    .describe("Each latent is active above a threshold of its own."),
  ...saeCommon,
  ...penalised,
  sparsityLoss: z
    .enum(["step", "tanh", "quadratic"])
    .default("step")
    .describe(
      "step: l0Coefficient·L0; tanh: l0Coefficient·Σ tanh(tanhScale·a·‖W_dec‖); quadratic: l0Coefficient·(L0/targetL0 - 1)².",
    ),
  l0Coefficient: z.number().nonnegative().default(1).describe("Coefficient of the sparsity loss."),
  tanhScale: z.number().positive().default(4).describe("Slope of the tanh loss."),
  bandwidth: z
    .number()
    .positive()
    .default(0.1)
    .describe("Width of the window around a threshold in which latents move it."),
  initialThreshold: z.number().nonnegative().default(0.1).describe("Thresholds at the start."),
  preActCoefficient: z
    .number()
    .nonnegative()
    .default(0)
    .describe(
      "Coefficient of the pre-activation loss, which pulls latents up to their thresholds.",
    ),
  preActOn: z
    .enum(["dead", "all"])
    .default("dead")
    .describe("The latents that the pre-activation loss is on."),
});

export const saeSchema = z
  .discriminatedUnion("architecture", [topk, relu, batchTopk, jumprelu, gated])
  .describe("The sparse autoencoder.");

export type SaeConfig = z.infer<typeof saeSchema>;
