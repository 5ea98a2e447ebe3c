/** Settings of activations: from a model, made, or from folders. */
import { z } from "zod";

import { count, text, texts } from "./config-fields.ts";

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

export type ActivationsConfig = z.infer<typeof activationsSchema>;
export type ModelActivationsConfig = z.infer<typeof fromModel>;
export type SyntheticConfig = z.infer<typeof syntheticSchema>;
export type FolderConfig = z.infer<typeof fromFolder>;

/** Whether activations in folders are to be predicted from others. */
export function hasTarget(activations: FolderConfig): boolean {
  return TARGET_FIELDS.some((name) => activations[name] !== undefined);
}
