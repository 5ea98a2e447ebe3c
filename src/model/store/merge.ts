/** Stores one after the other as one. */
import { join } from "node:path";

import { UserError } from "../../error.ts";
import { hashBytes } from "../../file-hash.ts";
import { Safetensors } from "../../safetensors.ts";
import { writeTensorPieces } from "../../safetensors-write.ts";
import {
  deriveStore,
  openSource,
  requireOther,
  type Derivation,
  type DeriveOptions,
  type SourceStore,
} from "./derive.ts";
import { differencesOf, essence } from "./identity.ts";
import type { MergedPart } from "./made.ts";
import {
  planOf,
  shardPath,
  TOKENS,
  type StoreFile,
  type StoreManifest,
  type StorePlan,
} from "./manifest.ts";
import { copyStoreFile, RowsFile } from "./rows.ts";

/** Document numbers are int32 in the shards. */
const MAX_DOCUMENT = 2 ** 31 - 1;

/**
 * Makes one store of the rows of `paths`, one store's after the other's. Files of activations are
 * copied byte for byte; document numbers of later stores go on after those of earlier ones.
 * @returns the new store's manifest.
 * @throws UserError when fewer than two stores are given, they differ in anything that makes rows
 * comparable (model, tokenizer, hook points, type, context, filters, split), saying in what, or a file
 * is damaged.
 */
export async function mergeStores(
  paths: readonly string[],
  options: DeriveOptions,
): Promise<StoreManifest> {
  if (paths.length < 2)
    throw new UserError(`two or more stores are merged; got ${paths.length}: name the others too.`);
  requireOther(options.out, paths);
  const sources: SourceStore[] = [];
  for (const path of paths) sources.push(await openSource(path));
  requireAlike(sources);
  const parts: MergedPart[] = [];
  let firstDocument = 0;
  for (const { path, hash, manifest } of sources) {
    const { rows, data, made } = manifest;
    parts.push({ hash, rows, firstDocument, data, ...(made && { earlier: made }) });
    firstDocument += await documentsIn(path, manifest);
    if (firstDocument > MAX_DOCUMENT)
      throw new UserError(
        `${paths.join(", ")} have documents up to number ${firstDocument} together, more than ${MAX_DOCUMENT}: merge fewer.`,
      );
  }
  const total = parts.reduce((sum, part) => sum + part.rows, 0);
  const files = sources.flatMap(({ records }) => records.flatMap((record) => record.files));
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  const plan = await mergedPlan(sources, parts, total);
  return deriveStore(
    plan,
    options,
    (store) => bytes - store.bytes,
    async (store) => {
      let done = 0;
      let number = 0;
      for (const [p, { path, records }] of sources.entries())
        for (const record of records) {
          options.signal?.throwIfAborted();
          if (number++ >= store.shards.length) {
            const files = await copyShard(store, path, record.files, parts[p]);
            await store.commit({ ...record, files });
          }
          done += record.rows;
          options.onProgress?.({ done, total });
        }
    },
  );
}

/** Copies a shard's files; those of the tokens get other document numbers where they must. */
async function copyShard(
  { out, shards: { length: number } }: Derivation,
  from: string,
  files: readonly StoreFile[],
  { firstDocument }: MergedPart,
): Promise<StoreFile[]> {
  const copies: StoreFile[] = [];
  for (const file of files) {
    const source = join(from, file.path);
    const folder = file.path.slice(0, file.path.lastIndexOf("/"));
    const path = shardPath(folder, number);
    const copy =
      folder === TOKENS && firstDocument > 0
        ? await renumber(source, join(out, path), firstDocument)
        : await copyStoreFile(source, join(out, path), file);
    copies.push({ path, bytes: copy.bytes, xxh64: copy.xxh64 });
  }
  return copies;
}

/** Writes a shard's tokens with `firstDocument` added to the numbers of their documents. */
async function renumber(from: string, to: string, firstDocument: number) {
  const header = await Safetensors.open(from);
  const documents = await header.ints("documents");
  await header.close();
  // Negative numbers stand for no document.
  const shifted = documents.map((number) => (number < 0 ? number : number + firstDocument));
  const file = await RowsFile.open(from, documents.length);
  try {
    const tensors = file.pieces([[0, documents.length]]);
    tensors["documents"].pieces = [new Uint8Array(shifted.buffer)];
    return await writeTensorPieces(to, tensors);
  } finally {
    await file.close();
  }
}

/** One more than the largest document number of a store. */
async function documentsIn(path: string, manifest: StoreManifest): Promise<number> {
  let count = 0;
  for (const shard of manifest.shards.keys()) {
    const file = await Safetensors.open(join(path, shardPath(TOKENS, shard)));
    try {
      for (const number of await file.ints("documents")) if (number >= count) count = number + 1;
    } finally {
      await file.close();
    }
  }
  return count;
}

/** What may differ between stores whose rows can stand in one. */
function comparable(plan: StorePlan): object {
  const { tokens: _t, shardRows: _s, batchRows: _b, made: _m, data, ...rest } = plan;
  return { ...essence({ ...rest, data } as StorePlan), data: { split: data.split } };
}

function requireAlike([first, ...others]: readonly SourceStore[]): void {
  for (const other of others) {
    const words = [`is`, `in ${other.path}`] as const;
    const [a, b] = [first, other].map(({ manifest }) => comparable(planOf(manifest)));
    const differences = differencesOf(a, b, words);
    if (differences.length > 0)
      throw new UserError(
        `${first.path} and ${other.path} cannot be one store: ${differences.join("; ")}. Collect them with the same settings.`,
      );
  }
}

async function mergedPlan(
  sources: readonly SourceStore[],
  parts: MergedPart[],
  rows: number,
): Promise<StorePlan> {
  const plans = sources.map(({ manifest }) => planOf(manifest));
  const [first] = plans;
  const hashes = plans.map(({ data }) => data.hash);
  return {
    ...first,
    data: {
      ...first.data,
      source: plans.flatMap(({ data: { source } }) => source),
      hash: hashes.every((hash) => hash === null)
        ? null
        : await hashBytes(Buffer.from(JSON.stringify(hashes))),
    },
    tokens: rows,
    shardRows: Math.max(...plans.map(({ shardRows }) => shardRows)),
    made: { by: "merge", parts },
  };
}
