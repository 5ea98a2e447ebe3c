/**
 * Every configuration of Lens as one Zod schema: a default and one sentence per field. Help texts,
 * the JSON Schema for editors and the errors a person sees all come from here.
 */
import { z } from "zod";
import { activationsSchema } from "./config-activations.ts";
import { describeIssue } from "./config-errors.ts";
import { count, nonNegative } from "./config-fields.ts";
import { saeSchema } from "./config-sae.ts";
import { UserError } from "./error.ts";
import { isRecord } from "./is-record.ts";

export * from "./config-activations.ts";
export * from "./config-sae.ts";

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
    activations: activationsSchema.default(() => activationsSchema.parse({ from: "model" })),
    sae: saeSchema.default(() => saeSchema.parse({ architecture: "topk" })),
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
