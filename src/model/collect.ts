/**
 * Text → tokens → activations → a store on disk (its layout: store/manifest.ts). Collecting into
 * the same folder again goes on after the last whole shard, so a crash costs at most one, and ends
 * in the same bytes as if it had never happened. What a finished store holds stays readable while it
 * is added to.
 */
import { join } from "node:path";

import type { ModelActivationsConfig } from "../config.ts";
import { messageOf, UserError } from "../error.ts";
import { lockFolder, unlockFolder } from "../lock.ts";
import { openActivations, type ActivationStore } from "./activations.ts";
import type { Model } from "./model.ts";
import { packingRules } from "./packing.ts";
import { committedShards, finishStore, makeFolder, removeUncommitted, requireEmpty, writeJson } from "./store/commit.ts"; // prettier-ignore
import { differencesOf, essence } from "./store/identity.ts";
import { ShardBuffer } from "./store/shard-buffer.ts";
import {
  readManifest,
  readPlan,
  readRecord,
  recordPath,
  rowBytes,
  type ShardRecord,
  type StorePlan,
} from "./store/manifest.ts";
import {
  hashSource,
  requireRereadable,
  sourceText,
  type DocumentOptions,
  type Source,
} from "./text.ts";
import { batchTokens, tokenBatches } from "./token-batches.ts";
import { countDropped, keptPlaces, TokenFilter, tokenMask, tokenRules } from "./token-filter.ts";

export interface CollectOptions extends Partial<
  Pick<
    ModelActivationsConfig,
    | "field"
    | "shuffleDocuments"
    | "contextLength"
    | "bos"
    | "eos"
    | "packing"
    | "dtype"
    | "shardRows"
    | "skipSpecialTokens"
    | "skipPositions"
    | "maxNorm"
  >
> {
  /** The folder to fill. */
  out: string;
  /** One hook point, or several (also patterns such as `blocks.*.hook_resid_post`), in one pass. */
  hookPoint: string | readonly string[];
  /** Activations to collect, per hook point; fewer when the text ends before. */
  tokens: number;
  /** Which documents; training and validation never share one. */
  split?: DocumentOptions["split"];
  /** Seed of the built-in corpus, of mixtures and of shuffling. */
  seed?: number;
  /** Is told of each document without text that was read. */
  onEmpty?: DocumentOptions["onEmpty"];
  /** Rows of tokens per forward pass. */
  batchRows?: number;
  /** Go on in the text behind a finished store of fewer tokens; otherwise another number is an error. */
  append?: boolean;
  onProgress?: (progress: { done: number; total: number }) => void;
  /** Stops between batches; whole shards stay, and collecting again goes on from there. */
  signal?: AbortSignal;
}

/** What collecting needs of a model. */
export type CollectModel = Pick<
  Model,
  "info" | "tokenizer" | "device" | "expandHookPoints" | "hookWidth" | "weightsHash" | "forward"
>;

/** Longer rows cost attention that grows with their square, and a feature rarely needs more. */
const DEFAULT_CONTEXT = 256;
/** Node reads and writes less than 2 GiB at once, and Python users load whole shards. */
const MAX_FILE_BYTES = 2 ** 30;

/**
 * Runs `model` over `source` (see `documents`) and stores the activations at one
 * or many hook points in `out`. Activations of beginning-of-sequence tokens are left out: they say
 * nothing about the text and are far larger than all others.
 *
 * Memory: two shards, that is 2 · shardRows · Σ widths · bytes of the type.
 *
 * @returns the store, opened at the first hook point.
 * @throws UserError when the folder holds a store made with other options (naming them) or is in
 * use by a live process; for an unknown hook point; for text without tokens; for NaN, infinite or
 * (f16) too large activations, naming hook point, shard and row; and when the disk is full.
 */
export async function collect(
  model: CollectModel,
  source: Source,
  options: CollectOptions,
): Promise<ActivationStore> {
  const { out } = options;
  const wanted = await collectionPlan(model, source, options);
  await makeFolder(out);
  if (await readPlan(out)) requireRereadable(source, `going on with ${out}`);
  lockFolder(out);
  let plan: StorePlan;
  try {
    plan = await settlePlan(out, wanted, options.append);
    const shards = await committedShards(out);
    const manifest = await readManifest(out);
    if (manifest?.tokens !== plan.tokens || manifest.shards.length !== shards.length) {
      await removeUncommitted(out, plan, shards.length);
      await collectShards(model, source, plan, options, shards);
      await finishStore(out, plan, shards);
    }
  } finally {
    unlockFolder(out);
  }
  return openActivations(out, { hookPoint: plan.hookPoints[0].name });
}

/**
 * What is to be collected and how, with every default filled in.
 * @throws UserError for settings that do not fit the model.
 */
export async function collectionPlan(
  model: CollectModel,
  source: Source,
  options: Omit<CollectOptions, "out">,
): Promise<StorePlan> {
  const { dtype = "f16", tokens, batchRows = 8, shardRows = 131_072 } = options;
  const { bos = "document", eos, packing } = options;
  const contextLength =
    options.contextLength ?? Math.min(model.info.contextLength, DEFAULT_CONTEXT);
  if (contextLength > model.info.contextLength)
    throw new UserError(
      `contextLength must be at most the model's ${model.info.contextLength}; got ${contextLength}`,
    );
  for (const [name, value] of Object.entries({ tokens, batchRows, shardRows, contextLength }))
    if (!Number.isInteger(value) || value < 1)
      throw new UserError(`${name} must be a positive integer; got ${value}`);
  const rules = tokenRules(options);
  if (rules && rules.skipPositions >= contextLength)
    throw new UserError(
      `skipPositions must be less than contextLength (${contextLength}); got ${rules.skipPositions}`,
    );
  const patterns = typeof options.hookPoint === "string" ? [options.hookPoint] : options.hookPoint;
  const hookPoints = model
    .expandHookPoints(patterns)
    .map((name) => ({ name, width: model.hookWidth(name) }));
  const largest = Math.max(...hookPoints.map(({ width }) => rowBytes(dtype, width)));
  return {
    schema: "latent-lens/activations@1",
    model: {
      name: model.info.source,
      weightsHash: await model.weightsHash(),
      ...(model.device !== "cpu" && { device: model.device }),
    },
    tokenizer: { hash: model.tokenizer.hash },
    data: {
      source,
      split: options.split ?? "train",
      field: options.field ?? "text",
      ...(options.shuffleDocuments !== undefined && { shuffle: options.shuffleDocuments }),
      seed: options.seed ?? 0,
      hash: await hashSource(source),
    },
    contextLength,
    ...packingRules({ bos, eos, packing }),
    tokenMask: tokenMask(rules, { eos }),
    ...(rules && { tokenRules: rules }),
    dtype,
    hookPoints,
    tokens,
    shardRows: Math.min(shardRows, Math.floor(MAX_FILE_BYTES / largest)),
    batchRows,
  };
}

/** The plan that the store was begun with, when it asks for the same; otherwise `wanted`, written. */
async function settlePlan(
  out: string,
  wanted: StorePlan,
  append: boolean | undefined,
): Promise<StorePlan> {
  const begun = await readPlan(out);
  if (begun) {
    const differences = differencesOf(essence(begun), essence(wanted));
    if (differences.length === 0) return begun;
    const isLonger =
      wanted.tokens > begun.tokens &&
      differencesOf(essence({ ...begun, tokens: wanted.tokens }), essence(wanted)).length === 0;
    if (isLonger && append) {
      await requireEnd(out, begun);
      await writeJson(join(out, "plan.json"), { ...begun, tokens: wanted.tokens });
      return { ...begun, tokens: wanted.tokens };
    }
    // Until a shard is whole there is nothing to lose.
    if (isLonger && (await readRecord(out, 0)))
      throw new UserError(
        `${out} holds ${begun.tokens} activations, ${wanted.tokens} are asked for: add the others with --append (append: true), or use another folder.`,
      );
    if (await readRecord(out, 0))
      throw new UserError(
        `${out} holds activations collected with other options: ${differences.join("; ")}. ` +
          "Use the same options to go on, or another folder.",
      );
  } else await requireEmpty(out);
  await writeJson(join(out, "plan.json"), wanted);
  return wanted;
}

/** @throws UserError when it is not known where in the text a finished store ended. */
async function requireEnd(out: string, begun: StorePlan): Promise<void> {
  const shards = await committedShards(out);
  const rows = shards.reduce((sum, shard) => sum + shard.rows, 0);
  if (shards.at(-1)?.next !== null) return;
  throw new UserError(
    `${out} cannot be added to: ` +
      (rows < begun.tokens
        ? `its text ended after ${rows} activations; collect other text into another folder and merge the two.`
        : "an older version of Lens collected it, which did not record where in the text it ended; collect into another folder."),
  );
}

/** Collects what is missing after `shards`, and adds to them. */
async function collectShards(
  model: CollectModel,
  source: Source,
  plan: StorePlan,
  { out, signal, onProgress, onEmpty }: CollectOptions,
  shards: ShardRecord[],
): Promise<void> {
  const capture = plan.hookPoints.map(({ name }) => name);
  const total = plan.tokens;
  let done = shards.reduce((sum, shard) => sum + shard.rows, 0);
  const last = shards.at(-1);
  if (last?.next === null || done === total) return;
  let skip = last?.next.skip ?? 0;
  const filter = new TokenFilter(plan.tokenRules, model.tokenizer);
  let shard: ShardBuffer | undefined;
  let nextShard = shards.length;
  // A finished shard is written while the next one fills.
  let writing: Promise<void> = Promise.resolve();
  const commit = async (full: ShardBuffer, next: ShardRecord["next"]) => {
    await writing;
    writing = writeShard(out, plan, shards, full, next);
    // Whoever awaits it next hears of a failure; until then it is not unhandled.
    writing.catch(() => undefined);
  };
  try {
    onProgress?.({ done, total });
    for await (const batch of tokenBatches(model, source, plan, last?.next.packing, {
      onEmpty,
      signal,
    })) {
      signal?.throwIfAborted();
      const { activations } = await model.forward({ ...batchTokens(batch.rows), capture });
      const reasons = filter.reasons(batch.rows);
      filter.addNorms(reasons, activations);
      const kept = keptPlaces(reasons);
      filter.requireSome(reasons.length, kept.length);
      for (let from = skip; from < kept.length && done < total;) {
        shard ??= new ShardBuffer(plan, nextShard++, Math.min(plan.shardRows, total - done));
        const to = Math.min(kept.length, from + shard.capacity - shard.rows);
        shard.append(batch, activations, kept.subarray(from, to));
        // What is left out belongs to the row after it, at a batch's end to the one before.
        const first = from === 0 ? 0 : kept[from - 1] + 1;
        const end = to === kept.length ? reasons.length : kept[to - 1] + 1;
        countDropped(shard.dropped, reasons, first, end);
        done += to - from;
        from = to;
        if (shard.rows < shard.capacity) continue;
        const next =
          to === kept.length
            ? { packing: batch.after, skip: 0 }
            : { packing: batch.before, skip: to };
        await commit(shard, next);
        shard = undefined;
      }
      if (kept.length === 0 && shard) countDropped(shard.dropped, reasons, 0, reasons.length);
      skip = 0;
      onProgress?.({ done, total });
      if (done === total) break;
    }
    if (shard) await commit(shard, null);
    await writing;
  } finally {
    // The folder is given up after this, so nothing may still be written into it.
    await writing.catch(() => undefined);
  }
  if (shards.length === 0)
    throw new UserError(
      `${sourceText(plan.data.source)} (${plan.data.split}) yields no tokens to collect activations of: is the text empty?`,
    );
}

/** Writes a shard and then its record, which makes it count. */
async function writeShard(
  out: string,
  plan: StorePlan,
  shards: ShardRecord[],
  shard: ShardBuffer,
  next: ShardRecord["next"],
): Promise<void> {
  try {
    const record: ShardRecord = { ...(await shard.write(out)), next };
    await writeJson(join(out, recordPath(shard.shard)), record);
    shards.push(record);
  } catch (error) {
    const isFull = ["ENOSPC", "EDQUOT"].includes((error as NodeJS.ErrnoException).code ?? "");
    if (!isFull && !(error instanceof UserError)) throw error;
    const rows = shards.reduce((sum, { rows }) => sum + rows, 0);
    throw new UserError(
      `${isFull ? `no space left on the disk for ${out}` : messageOf(error)} ` +
        `${rows} of ${plan.tokens} activations are complete in ${out}; with space on the disk, ` +
        "collecting again with the same options goes on from there.",
    );
  }
}
