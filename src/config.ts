/**
 * Every configuration of Lens as one Zod schema: a default and one sentence per field. Help texts,
 * the JSON Schema for editors and the errors a person sees all come from here.
 */
import { z } from "zod";
import { describeIssue } from "./config-errors.ts";
import { UserError } from "./error.ts";
import { isRecord } from "./is-record.ts";

const count = (description: string) => z.int().positive().describe(description);
const text = (description: string) => z.string().min(1).describe(description);
const texts = (description: string) => z.array(z.string().min(1)).default([]).describe(description);

/** Where activations are taken when nothing else is said. */
export const DEFAULT_HOOK_POINT = "blocks.2.hook_resid_post";

const targetHookPoint = text(
  "Train a transcoder: predict the activations at this hook point from those at hookPoint. Absent: an autoencoder.",
).optional();
const hookPoints = texts(
  "Train a crosscoder: one dictionary for the activations at all of these hook points, of one width; patterns such as blocks.*.hook_resid_post too.",
);

/** What both sources of a language model's activations refuse. */
const HOOK_POINT_TWICE =
  "cannot be combined with hookPoints: give one hook point for an autoencoder or transcoder, or several for a crosscoder";
const TARGET_AND_SEVERAL =
  "cannot be combined with several hook points: a transcoder predicts one hook point from one other, a crosscoder reconstructs what it reads";

const sourcePart = z.strictObject({
  source: text("Where its documents come from."),
  weight: z
    .number()
    .positive()
    .default(1)
    .describe("How often a document is taken from here, relative to the others."),
  field: text("Its own field; absent: that of all.").optional(),
});

const fromModelFields = z.strictObject({
  from: z.literal("model").describe("Run a language model over text and take its activations."),
  model: z
    .string()
    .default("builtin:tiny")
    .describe(
      "builtin:tiny, a folder in Hugging Face layout, or a model of its hub: owner/name[@revision].",
    ),
  modelWeights: z
    .enum(["checkpoint", "int8"])
    .default("checkpoint")
    .describe(
      "The model's weights as they are, or those of its linear layers as 8-bit integers: a quarter of the memory and somewhat faster, with values that differ by about a percent; how much is printed.",
    ),
  modelDevice: z
    .enum(["cpu", "webgpu"])
    .default("cpu")
    .describe(
      "Where the model runs: the CPU, or a GPU through WebGPU, whose results are compared with the CPU's first.",
    ),
  data: z
    .union([z.string(), z.array(z.union([z.string(), sourcePart])).min(1)], {
      error:
        "must be a source, or a list of sources or {source, weight, field} with weights above 0",
    })
    .default("builtin:stories")
    .describe(
      "builtin:stories; a file (.txt, .jsonl, .json, .csv, .tsv, also .gz; .parquet), a folder of them or the URL of one; a data set of the Hugging Face hub, owner/name[@revision][:config[/split]]; - for standard input; or a list of these, mixed by their weights.",
    ),
  field: z
    .string()
    .default("text")
    .describe("The field or column that holds the text, or a list of the messages of a chat."),
  hookPoint: text(
    `Hook point in TransformerLens notation; absent: ${DEFAULT_HOOK_POINT}, unless there are hookPoints.`,
  ).optional(),
  targetHookPoint,
  hookPoints,
  tokens: count("How many training activations to collect.").default(1_000_000),
  validationTokens: count("How many activations of held-out documents to collect.").default(50_000),
  contextLength: count("Tokens per row; absent: the model's own limit, at most 256.").optional(),
  bos: z
    .enum(["document", "row", "none"])
    .default("document")
    .describe(
      "Where the beginning-of-sequence token goes: before each document, also at each row's start, or nowhere. Its own activations are never kept.",
    ),
  eos: z
    .boolean()
    .default(false)
    .describe(
      "Put the end-of-sequence token, an encoder's [SEP], behind each document. Its own activations are never kept.",
    ),
  packing: z
    .enum(["continuous", "separate"])
    .default("continuous")
    .describe(
      "How documents become rows of tokens: continuous: one behind the other; separate: each in rows of its own, whose rest is padding, which no position sees and nothing counts.",
    ),
  skipSpecialTokens: z
    .boolean()
    .default(false)
    .describe(
      "Leave out special tokens that are spelt out in the text, here and in every metric and feature.",
    ),
  skipPositions: z
    .int()
    .nonnegative()
    .default(0)
    .describe("Leave out the first so many positions of each row of tokens."),
  maxNorm: z
    .number()
    .positive()
    .optional()
    .describe(
      "Leave out tokens whose activation at one of the hook points has a larger norm; absent: none.",
    ),
  shuffleDocuments: count(
    "Mix the documents of files: each is drawn from so many held in memory. Absent: in their order.",
  ).optional(),
  dtype: z
    .enum(["f32", "f16", "bf16", "int8"])
    .default("f16")
    .describe(
      "Type of the activations on disk; f16 stops with an error on overflow; int8: 8 bits a value and a scale for each row.",
    ),
  shardRows: count("Activations per shard file.").default(131_072),
  onTheFly: z
    .boolean()
    .default(false)
    .describe(
      "Train straight from the model; activations are kept nowhere, and run anew in every epoch when they do not fit into train.bufferRows.",
    ),
});
const fromModel = fromModelFields
  .refine((a) => a.hookPoint === undefined || a.hookPoints.length === 0, {
    path: ["hookPoint"],
    message: HOOK_POINT_TWICE,
  })
  .refine((a) => a.targetHookPoint === undefined || a.hookPoints.length === 0, {
    path: ["targetHookPoint"],
    message: TARGET_AND_SEVERAL,
  })
  .refine((a) => !(a.onTheFly && a.maxNorm !== undefined), {
    path: ["maxNorm"],
    message:
      "cannot be combined with onTheFly: how many activations it leaves would be known only after all were made",
  });

export const syntheticSchema = z.strictObject({
  from: z.literal("synthetic").describe("Make activations from a known dictionary of directions."),
  samples: count("Training activations.").default(10_000),
  validationSamples: count("Validation activations, from the same dictionary.").default(1_000),
  dIn: count("Width of an activation.").default(768),
  features: count("Number of ground-truth directions.").default(100),
  sparsity: z
    .number()
    .positive()
    .max(1)
    .default(0.1)
    .describe(
      "Share of the directions that are active in each sample; on average, but for kind independent.",
    ),
  noise: z.number().nonnegative().default(0.1).describe("Standard deviation of the added noise."),
  kind: z
    .enum(["independent", "correlated", "hierarchical", "zipf"])
    .default("independent")
    .describe(
      "Which directions are active together: independent: a fixed number, drawn anew for each sample; correlated: those of a group favour the same samples; hierarchical: children only beside their parent; zipf: each by itself, the i-th at a rate ∝ 1/i^zipfExponent.",
    ),
  groupSize: count("Of kind correlated: directions in a group.").default(8),
  correlation: z
    .number()
    .min(0)
    .max(1)
    .default(0.3)
    .describe("Of kind correlated: correlation of the firing of any two directions of a group."),
  childrenPerParent: count("Of kind hierarchical: children of each parent.").default(3),
  childProbability: z
    .number()
    .positive()
    .max(1)
    .default(0.3)
    .describe("Of kind hierarchical: probability that a child fires when its parent does."),
  zipfExponent: z
    .number()
    .nonnegative()
    .default(0.5)
    .describe("Of kind zipf: how fast the rates fall with the rank."),
  strengthMean: z
    .number()
    .default(0)
    .describe("The strength of an active direction is |strengthMean + strengthStd·N(0,1)|."),
  strengthStd: z
    .number()
    .nonnegative()
    .default(1)
    .describe("Spread of the strengths; see strengthMean."),
});

const fromFolderFields = z.strictObject({
  from: z.literal("folder").describe("Read activations made elsewhere."),
  path: z
    .string()
    .describe("A folder of .safetensors or .npy files, each [rows, dIn], or a Lens store."),
  hookPoint: text("Which hook point of a Lens store that holds several.").optional(),
  tensor: z.string().optional().describe("Which tensor of .safetensors files that hold several."),
  targetPath: text(
    "Train a transcoder: predict the activations in this folder from those in path, row by row. Absent: path, when there is a targetHookPoint or targetTensor.",
  ).optional(),
  targetHookPoint,
  targetTensor: text("Which tensor of .safetensors files a transcoder predicts.").optional(),
  hookPoints,
  joinPaths: texts(
    "Train a crosscoder: folders whose activations stand beside those in path, row by row; of another hook point, or of another model on the same tokens.",
  ),
  validationPath: z
    .string()
    .optional()
    .describe("Validation activations; absent: validationFraction of the rows is held out."),
  validationTargetPath: text("The targets that go with validationPath, as targetPath.").optional(),
  validationJoinPaths: texts("What goes with validationPath, as joinPaths."),
  validationFraction: z
    .number()
    .min(0)
    .max(0.5)
    .default(0.05)
    .describe("Share of the rows, the last ones, kept out of training."),
});
const TARGET_FIELDS = ["targetPath", "targetHookPoint", "targetTensor"] as const;
const fromFolder = fromFolderFields
  .refine((a) => a.hookPoint === undefined || a.hookPoints.length === 0, {
    path: ["hookPoint"],
    message: HOOK_POINT_TWICE,
  })
  .refine((a) => a.joinPaths.length === 0 || a.hookPoints.length === 0, {
    path: ["joinPaths"],
    message:
      "cannot be combined with hookPoints: a crosscoder reads several hook points of one store, or one of each folder (hookPoint, when they hold several)",
  })
  .superRefine((a, context) => {
    const given = TARGET_FIELDS.find((name) => a[name] !== undefined);
    if (given !== undefined && a.hookPoints.length + a.joinPaths.length > 0)
      context.addIssue({ code: "custom", path: [given], message: TARGET_AND_SEVERAL });
  })
  .refine(
    (a) =>
      (a.validationTargetPath !== undefined) ===
      (a.validationPath !== undefined && a.targetPath !== undefined),
    {
      path: ["validationTargetPath"],
      message: "goes with validationPath and targetPath: give it when both are given, only then",
    },
  )
  .refine(
    (a) =>
      a.validationJoinPaths.length === (a.validationPath === undefined ? 0 : a.joinPaths.length),
    {
      path: ["validationJoinPaths"],
      message:
        "goes with validationPath and joinPaths: one folder for each of joinPaths when both are given, only then",
    },
  );

export const activationsSchema = z
  .discriminatedUnion("from", [fromModel, syntheticSchema, fromFolder])
  .describe("Where the activations come from.");

const nonNegative = (description: string) => z.int().nonnegative().describe(description);

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

export const trainSchema = z
  .strictObject({
    batchSize: count("Activations per step.").default(2048),
    epochs: z.number().positive().optional().describe("Passes over the training activations."),
    tokens: count("Activations to train on, in passes over the data as needed.").optional(),
    steps: count("Optimiser steps.").optional(),
    learningRate: z
      .number()
      .positive()
      .optional()
      .describe("Adam's learning rate; absent: 2e-4/√(dSae/2¹⁴)."),
    beta1: z.number().min(0).lt(1).default(0.9).describe("Adam's decay of the first moment."),
    beta2: z.number().min(0).lt(1).default(0.999).describe("Adam's decay of the second moment."),
    eps: z.number().positive().default(1e-8).describe("Adam's epsilon."),
    warmupSteps: z
      .int()
      .nonnegative()
      .default(0)
      .describe("Steps over which the learning rate rises linearly from 0."),
    decaySteps: z
      .int()
      .nonnegative()
      .default(0)
      .describe("Last steps, over which the learning rate falls linearly to 0."),
    from: z
      .string()
      .optional()
      .describe(
        "Start from the weights of the autoencoder in this folder (cfg.json and sae_weights.safetensors); absent: from new ones.",
      ),
    schedule: z
      .enum(["constant", "linear", "cosine"])
      .default("constant")
      .describe("How the learning rate moves from the warm-up to the end, before decaySteps."),
    finalLearningRate: z
      .number()
      .min(0)
      .max(1)
      .default(0)
      .describe("Where a linear or cosine schedule ends, as a share of the learning rate."),
    clipGradNorm: z
      .number()
      .positive()
      .optional()
      .describe("Scale a step's gradients down to this norm, all together; absent: never."),
    emaDecay: z
      .number()
      .min(0)
      .lt(1)
      .default(0)
      .describe(
        "The autoencoder is a moving average of the weights with this decay; 0: the weights.",
      ),
    resampleEvery: nonNegative(
      "Steps between resamplings of dead latents from badly reconstructed inputs; 0: never.",
    ).default(0),
    resampleUntil: nonNegative("Last step at which latents are resampled; 0: no end.").default(0),
    earlyStopPatience: nonNegative(
      "Validations without a better loss after which training ends; 0: it runs to its end.",
    ).default(0),
    earlyStopMinDelta: z
      .number()
      .nonnegative()
      .default(1e-3)
      .describe("How much better, relatively, a validation loss must be to count."),
    shuffle: z.boolean().default(true).describe("Mix the activations; false: in stored order."),
    bufferRows: count("Activations held in memory to mix from.").default(262_144),
    mixing: z
      .enum(["store", "window"])
      .optional()
      .describe(
        "What is mixed when not all activations fit into bufferRows: store: from all over the store; window: bufferRows that follow each other at a time. Absent: store, but window when activations.onTheFly.",
      ),
    deadAfterTokens: count(
      "A latent that has not fired for this many activations is dead.",
    ).default(100_000),
    logEvery: count("Steps between metrics.").default(50),
    validateEvery: z
      .int()
      .nonnegative()
      .default(0)
      .describe("Steps between validation losses; 0: after each epoch and at the end."),
    checkpointEvery: z
      .int()
      .nonnegative()
      .default(500)
      .describe("Steps between checkpoints; 0: only at the end."),
    keepCheckpoints: count("How many of the newest checkpoints are kept.").default(2),
  })
  .refine((t) => [t.epochs, t.tokens, t.steps].filter((v) => v !== undefined).length <= 1, {
    message: "takes only one of epochs, tokens and steps",
  })
  .describe("How the autoencoder is trained.");

export const featuresSchema = z
  .strictObject({
    tokens: count("Held-out tokens that the features are looked up in.").default(200_000),
    topExamples: count("Strongest examples kept per latent.").default(12),
    randomExamples: count("Random firing examples kept per latent.").default(6),
    quantileExamples: count("Examples kept of each fifth of a latent's firings by rank.").default(
      3,
    ),
    nearMissExamples: count(
      "Examples kept per latent where it is silent on a token that it usually fires on.",
    ).default(5),
    silentExamples: count("Random examples kept per latent where it is silent.").default(3),
    contextTokens: count("Tokens shown on each side of an example.").default(12),
    pairMegabytes: count(
      "Memory for the counts of pairs: of two latents, and of latents with token types. What does not fit is counted with a stated error.",
    ).default(1024),
    store: z
      .string()
      .optional()
      .describe(
        "A store of activations of held-out text (lens collect --split test) to look the features up in; absent: the model is run.",
      ),
    gallery: count("Features shown in the report, most interesting first.").default(50),
  })
  .describe("How features are looked up and shown.");

export const runSchema = z
  .strictObject({
    $schema: z.string().optional().describe("Where the editor finds this schema."),
    name: z
      .string()
      .regex(/^[\w.-]+$/, "may hold letters, digits, dot, dash and underscore only")
      .default("run")
      .describe("Start of the run folder's name."),
    seed: z.int().nonnegative().default(0).describe("Seed of everything random."),
    device: z
      .enum(["auto", "cpu", "reference"])
      .default("auto")
      .describe("Where the numbers are crunched; reference is slow and exact."),
    threads: count("Worker threads of the cpu device; absent: one per core.").optional(),
    runs: z.string().default("runs").describe("The folder that holds the run folders."),
    activations: activationsSchema.default(() => fromModel.parse({ from: "model" })),
    sae: saeSchema.default(() => topk.parse({ architecture: "topk" })),
    train: trainSchema.default(() => trainSchema.parse({})),
    features: featuresSchema.default(() => featuresSchema.parse({})),
    provenance: z
      .record(z.string(), z.unknown())
      .optional()
      .describe("What Lens adds to a run's config.json; not a setting."),
  })
  .refine(
    ({ activations: a, train }) => !(a.from === "model" && a.onTheFly && train.mixing === "store"),
    {
      path: ["train", "mixing"],
      message:
        "cannot be store with activations.onTheFly: there is no store to mix from; leave it out, or say window",
    },
  )
  .describe("A whole run: activations, autoencoder, training, features.");

export type RunConfig = z.infer<typeof runSchema>;
export type ActivationsConfig = z.infer<typeof activationsSchema>;
export type ModelActivationsConfig = z.infer<typeof fromModel>;
export type SyntheticConfig = z.infer<typeof syntheticSchema>;
export type FolderConfig = z.infer<typeof fromFolder>;

/** Whether activations in folders are to be predicted from others. */
export function hasTarget(activations: FolderConfig): boolean {
  return TARGET_FIELDS.some((name) => activations[name] !== undefined);
}
export type SaeConfig = z.infer<typeof saeSchema>;
export type TrainConfig = z.infer<typeof trainSchema>;
export type FeaturesConfig = z.infer<typeof featuresSchema>;

/** A run's config from what was read from a file and flags; absent fields get their defaults.
 * @throws UserError naming each wrong field, the value seen and, for an unknown key, the nearest valid one. */
export function parseConfig(values: unknown): RunConfig {
  return parseSection(runSchema, values, "");
}

/** The JSON Schema that editors use for completion and checking. */
export function configJsonSchema(): JsonSchema {
  const schema = z.toJSONSchema(runSchema, {
    io: "input",
    target: "draft-7",
    override: ({ jsonSchema }) => {
      // That an integer is at most 2^53 - 1 tells nobody anything.
      if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
    },
  }) as JsonSchema;
  // A section without its discriminator means the first variant (see withDefaultVariants).
  for (const section of Object.values(schema.properties ?? {})) {
    const [first] = section.oneOf ?? [];
    if (first) first.required = first.required?.filter((name) => !first.properties?.[name].const);
  }
  return schema;
}

/** The parts of JSON Schema that a configuration's schema uses. */
export interface JsonSchema {
  description?: string;
  type?: string;
  default?: unknown;
  const?: string;
  enum?: string[];
  properties?: Record<string, JsonSchema>;
  items?: JsonSchema;
  required?: string[];
  oneOf?: JsonSchema[];
  [keyword: string]: unknown;
}

/** Defaults of one section, with `values` on top. Throws UserError as `parseConfig` does. */
export function parseSection<S extends z.ZodType>(
  schema: S,
  values: unknown,
  section: string,
): z.infer<S> {
  const given = withDefaultVariants(schema, values);
  const result = schema.safeParse(given);
  if (result.success) return result.data;
  const lines = result.error.issues.flatMap((issue) =>
    describeIssue(schema, given, section, issue),
  );
  throw new UserError(lines.join("\n"));
}

/** A discriminated section without its discriminator means the default variant, so that `--sae.k 64` alone works. */
function withDefaultVariants(schema: z.ZodType, values: unknown): unknown {
  if (!isRecord(values)) return values;
  if (schema === (saeSchema as z.ZodType)) return { architecture: "topk", ...values };
  if (schema === (activationsSchema as z.ZodType)) return { from: "model", ...values };
  if (schema !== (runSchema as z.ZodType)) return values;
  const filled: Record<string, unknown> = { ...values };
  if (isRecord(filled.sae)) filled.sae = withDefaultVariants(saeSchema, filled.sae);
  if (isRecord(filled.activations))
    filled.activations = withDefaultVariants(activationsSchema, filled.activations);
  return filled;
}
