/**
 * What lies in an activation store:
 *
 *     plan.json                        what is collected and how; written first, changed only in how much
 *     shard-00000.json                 commit record of a shard: its files, sums, where the text goes on
 *     tokens/00000.safetensors         tokens, positions, documents, starts, ends: I32 [rows]
 *     <hook point>/00000.safetensors   activations [rows, width]; of int8 also scales F32 [rows]
 *     manifest.json                    plan, shards and statistics; written last
 *
 * A shard counts when its commit record exists, which is written after its files are whole and
 * synced. Nothing in these files depends on when or in how many attempts they were written.
 */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";

import { messageOf, UserError } from "../../error.ts";
import { DROPPED, nothingDropped } from "../token-filter.ts";
import { madeSchema } from "./made.ts";

const count = z.int().nonnegative();

const planSchema = z.object({
  schema: z.literal("latent-lens/activations@1"),
  /** Name and hash of the weights; where they ran, if not on the CPU: a GPU rounds otherwise. */
  model: z.object({
    name: z.string(),
    weightsHash: z.string(),
    device: z.literal("webgpu").optional(),
  }),
  tokenizer: z.object({ hash: z.string() }),
  data: z.object({
    /** One place, or the parts of a mixture. */
    source: z.union([
      z.string(),
      z
        .array(
          z.union([
            z.string(),
            z.object({
              source: z.string(),
              weight: z.number().optional(),
              field: z.string().optional(),
            }),
          ]),
        )
        .readonly(),
    ]),
    split: z.enum(["train", "validation", "test"]),
    field: z.string(),
    /** Documents that were held to draw from; absent: they came in the order of their files. */
    shuffle: count.optional(),
    /** Of the built-in corpus, mixtures and shuffling. */
    seed: count,
    /** Of the files' contents; null for the built-in corpus. */
    hash: z.string().nullable(),
  }),
  contextLength: z.int().positive(),
  bos: z.enum(["document", "row", "none"]),
  eos: z.literal(true).optional(),
  packing: z.literal("separate").optional(),
  /** Rules by which positions were left out, in words; in every denominator they do not exist. */
  tokenMask: z.array(z.string()),
  /** The same for programs (token-filter.ts); absent: only positions that packing adds. */
  tokenRules: z
    .object({
      skipSpecialTokens: z.boolean(),
      skipPositions: count,
      maxNorm: z.number().positive().optional(),
    })
    .optional(),
  dtype: z.enum(["f32", "f16", "bf16", "int8"]),
  hookPoints: z.array(z.object({ name: z.string(), width: z.int().positive() })).min(1),
  /** Rows asked for; a text that ends earlier gives fewer. */
  tokens: z.int().positive(),
  shardRows: z.int().positive(),
  /** Rows of tokens per forward pass; part of the plan because sums may depend on it in the last bit. */
  batchRows: z.int().positive(),
  /** Of a store that was made of others: how. */
  made: madeSchema.optional(),
});

const fileSchema = z.object({ path: z.string(), bytes: count, xxh64: z.string() });

/** Sums over the rows of a shard, of values before they are rounded to the type on disk. */
const sumsSchema = z.object({
  sum: z.array(z.number()),
  sumSquares: z.number(),
  sumNorm: z.number(),
  maxNorm: z.number(),
});

/** How many tokens were left out, by why. */
const droppedSchema = z.object(
  Object.fromEntries(DROPPED.map((reason) => [reason, count])) as Record<
    (typeof DROPPED)[number],
    typeof count
  >,
);

const shardSchema = z.object({
  rows: z.int().positive(),
  files: z.array(fileSchema),
  /** Absent in stores of older versions. */
  dropped: droppedSchema.optional(),
  /** By hook point. */
  sums: z.record(z.string(), sumsSchema),
  /** Where the next shard goes on; null when this is the last one. */
  next: z
    .object({
      /** Where the batch of token rows begins in which the next shard begins. */
      packing: z.object({ document: count, token: count }),
      /** Rows of that batch's activations that belong to this shard. */
      skip: count,
    })
    .nullable(),
});

const statisticsSchema = z.object({
  /** [width] */
  mean: z.array(z.number()),
  /** Mean over rows of the Euclidean norm. */
  meanNorm: z.number(),
  maxNorm: z.number(),
  /** √(mean of x² over all elements). */
  rms: z.number(),
  /** [width]; of `medianRows` rows spread evenly over the store (medians.ts). Absent in stores of older versions. */
  geometricMedian: z.array(z.number()).optional(),
  medianRows: z.int().positive().optional(),
});

const manifestSchema = planSchema.extend({
  rows: z.int().positive(),
  /** Absent in stores of older versions. */
  dropped: droppedSchema.optional(),
  shards: z.array(z.object({ rows: z.int().positive(), files: z.array(fileSchema) })).min(1),
  /** By hook point. */
  statistics: z.record(z.string(), statisticsSchema),
  /** xxh64 of plan.json, of the shards' commit records, and of the manifest without this last one. */
  hashes: z.object({ plan: z.string(), records: z.array(z.string()), self: z.string() }).optional(),
});

export type StorePlan = z.infer<typeof planSchema>;
export type StoreFile = z.infer<typeof fileSchema>;
export type ShardSums = z.infer<typeof sumsSchema>;
export type ShardRecord = z.infer<typeof shardSchema>;
export type StoreStatistics = z.infer<typeof statisticsSchema>;
export type StoreManifest = z.infer<typeof manifestSchema>;

/** Folder of the shards' tokens, beside those of the hook points. */
export const TOKENS = "tokens";
/** Name of the tensor in a hook point's files. */
export const ACTIVATIONS = "activations";
/** Beside it where the type is int8: what the values of each row are to be multiplied with, F32 [rows]. */
export const SCALES = "scales";
export const TOKEN_COLUMNS = ["tokens", "positions", "documents", "starts", "ends"] as const;
export type TokenColumn = (typeof TOKEN_COLUMNS)[number];

/** Bytes of a row of activations on disk. */
export function rowBytes(dtype: StorePlan["dtype"], width: number): number {
  if (dtype === "int8") return width + 4;
  return width * (dtype === "f32" ? 4 : 2);
}

const fiveDigits = (shard: number) => String(shard).padStart(5, "0");
export const recordPath = (shard: number) => `shard-${fiveDigits(shard)}.json`;
/** Path, inside the store, of a shard's file of TOKENS or of a hook point. */
export const shardPath = (folder: string, shard: number) =>
  `${folder}/${fiveDigits(shard)}.safetensors`;

/** The plan of the store at `path`; undefined when there is none. Throws UserError when it is damaged. */
export const readPlan = (path: string) => readJson(join(path, "plan.json"), planSchema);
export const readRecord = (path: string, shard: number) =>
  readJson(join(path, recordPath(shard)), shardSchema);
/** Whether the store at `path` was finished: the manifest is written last. */
export const isFinished = (path: string) => existsSync(join(path, "manifest.json"));
export const readManifest = (path: string) => readJson(join(path, "manifest.json"), manifestSchema);

async function readJson<S extends z.ZodType>(
  path: string,
  schema: S,
): Promise<z.infer<S> | undefined> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new UserError(`${path} cannot be read: ${messageOf(error)}`);
  }
  const again = "the file is damaged or of another version: collect into a new folder";
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new UserError(`${path} is not JSON (${messageOf(error)}); ${again}`);
  }
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw new UserError(`${path}: ${issue.path.join(".")}: ${issue.message}; ${again}`);
}

/** Plan and shards as the manifest of a finished store. */
export function manifestOf(
  plan: StorePlan,
  shards: readonly ShardRecord[],
  medians: Readonly<Record<string, Pick<StoreStatistics, "geometricMedian" | "medianRows">>>,
): StoreManifest {
  const rows = shards.reduce((sum, shard) => sum + shard.rows, 0);
  let dropped: StoreManifest["dropped"] = nothingDropped();
  for (const shard of shards)
    if (!dropped || !shard.dropped) dropped = undefined;
    else for (const reason of DROPPED) dropped[reason] += shard.dropped[reason];
  const statistics = plan.hookPoints.map(({ name, width }): [string, StoreStatistics] => {
    const sums = shards.map((shard) => shard.sums[name]);
    const total = (of: (sums: ShardSums) => number) => sums.reduce((sum, s) => sum + of(s), 0);
    return [
      name,
      {
        mean: Array.from({ length: width }, (_, j) => total((s) => s.sum[j]) / rows),
        meanNorm: total((s) => s.sumNorm) / rows,
        maxNorm: Math.max(...sums.map((s) => s.maxNorm)),
        rms: Math.sqrt(total((s) => s.sumSquares) / (rows * width)),
        ...medians[name],
      },
    ];
  });
  return {
    ...plan,
    rows,
    ...(dropped && { dropped }),
    shards: shards.map(({ rows, files }) => ({ rows, files })),
    statistics: Object.fromEntries(statistics),
  };
}

/** The plan behind a manifest. */
export const planOf = (manifest: StoreManifest): StorePlan => planSchema.parse(manifest);
