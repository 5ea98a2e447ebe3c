/**
 * Activations on disk as a source: our own stores, and folders of .safetensors or .npy files made
 * elsewhere.
 */
import { open, readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";

import { rowSource, type RowSource } from "../activation-source.ts";
import { UserError } from "../error.ts";
import { hashBytes, hashFile } from "../file-hash.ts";
import { Safetensors } from "../safetensors.ts";
import { fileReader, openNpy, openSafetensors, type RowFile } from "./row-files.ts";
import {
  ACTIVATIONS,
  readManifest,
  readPlan,
  readRecord,
  shardPath,
  TOKEN_COLUMNS,
  TOKENS,
  type StoreManifest,
  type TokenColumn,
} from "./store/manifest.ts";

export interface OpenOptions {
  /** Which hook point of a store that holds several. */
  hookPoint?: string;
  /** Which tensor of .safetensors files made elsewhere; absent: the only two-dimensional one. */
  tensor?: string;
  /** Compare every file with the hash in the manifest. */
  verify?: boolean;
}

/** For each row of a store: its token, where that stands, and the characters it covers. */
export type StoreTokens = Record<TokenColumn, Int32Array>;

export interface ActivationStore extends RowSource {
  readonly path: string;
  /** Absent when the activations were made elsewhere. */
  readonly manifest?: StoreManifest;
  readonly hookPoint?: string;
  /**
   * The whole store's tokens, each array [rows]: token ids; positions in their row of tokens;
   * numbers of the documents in their split; first and past-the-last character in the document.
   * @throws UserError for activations made elsewhere: they have none.
   */
  tokens(): Promise<StoreTokens>;
}

/**
 * Opens a store that `collect` made, or a folder (or one file) of activations made elsewhere:
 * .safetensors or .npy files, each [rows, dIn], in the order of their names.
 * @throws UserError for a missing, unfinished, truncated or damaged store (naming the file), files
 * of different widths, and, while reading, NaN or infinite values (naming file and row).
 */
export async function openActivations(
  path: string,
  options: OpenOptions = {},
): Promise<ActivationStore> {
  const info = await stat(path).catch(() => undefined);
  if (!info) throw new UserError(`${path} does not exist: give a folder of activations.`);
  const manifest = info.isDirectory() ? await readManifest(path) : undefined;
  if (manifest) return openStore(path, manifest, options);
  if (info.isDirectory()) await refuseUnfinished(path);
  return openForeign(path, info.isDirectory(), options);
}

async function refuseUnfinished(path: string): Promise<void> {
  const plan = await readPlan(path);
  if (!plan) return;
  let rows = 0;
  for (let shard = 0; ; shard++) {
    const record = await readRecord(path, shard);
    if (!record) break;
    rows += record.rows;
  }
  throw new UserError(
    `${path} is an unfinished store: ${rows} of ${plan.tokens} activations; collect again with the same options to finish it.`,
  );
}

async function openStore(
  path: string,
  manifest: StoreManifest,
  options: OpenOptions,
): Promise<ActivationStore> {
  const names = manifest.hookPoints.map((hook) => hook.name);
  const hookPoint = options.hookPoint ?? (names.length === 1 ? names[0] : undefined);
  const hook = manifest.hookPoints.find(({ name }) => name === hookPoint);
  if (!hookPoint || !hook)
    throw new UserError(
      `${path} holds activations of ${names.join(", ")}; ` +
        (hookPoint ? `${hookPoint} is not among them.` : "say which hook point."),
    );
  for (const { file, path: name } of manifest.shards.flatMap((shard) =>
    shard.files.map((file) => ({ file, path: join(path, file.path) })),
  )) {
    const size = await sizeOf(name);
    if (size !== file.bytes)
      throw new UserError(
        `${name} has ${size} bytes, the manifest says ${file.bytes}: the file was changed or not copied completely.`,
      );
    if (!options.verify) continue;
    const hash = await hashFile(name);
    if (hash !== file.xxh64)
      throw new UserError(
        `${name} is damaged: its xxh64 is ${hash}, the manifest says ${file.xxh64}. Copy it again, or collect into a new folder.`,
      );
  }
  const files: RowFile[] = [];
  for (const [shard, { rows }] of manifest.shards.entries()) {
    const name = join(path, shardPath(hookPoint, shard));
    const file = await openSafetensors(name, ACTIVATIONS);
    if (file.rows !== rows || file.dIn !== hook.width)
      throw new UserError(
        `${name} holds [${file.rows}, ${file.dIn}], the manifest says [${rows}, ${hook.width}]: it is not of this store.`,
      );
    files.push(file);
  }
  const { model, tokenizer, data, statistics } = manifest;
  const provenance = {
    from: "store",
    manifest: await hashBytes(Buffer.from(JSON.stringify(manifest))),
    hookPoint,
    model,
    tokenizer,
    data,
    rows: manifest.rows,
    meanNorm: statistics[hookPoint].meanNorm,
  };
  const shards = manifest.shards.map(({ rows, files }, shard) => {
    const { xxh64 } = files.find((file) => file.path === shardPath(TOKENS, shard))!;
    return { rows, xxh64 };
  });
  const reader = { ...fileReader(files), tokenRows: { shards, first: 0 } };
  return {
    ...rowSource(reader, provenance),
    path,
    manifest,
    hookPoint,
    tokens: () => readTokens(path, manifest),
  };
}

async function readTokens(path: string, manifest: StoreManifest): Promise<StoreTokens> {
  const columns = TOKEN_COLUMNS.map((name) => [name, new Int32Array(manifest.rows)] as const);
  let first = 0;
  for (const [shard, { rows }] of manifest.shards.entries()) {
    const file = await Safetensors.open(join(path, shardPath(TOKENS, shard)));
    try {
      for (const [name, column] of columns) column.set(await file.ints(name), first);
    } finally {
      await file.close();
    }
    first += rows;
  }
  return Object.fromEntries(columns) as StoreTokens;
}

async function openForeign(
  path: string,
  isFolder: boolean,
  { tensor }: OpenOptions,
): Promise<ActivationStore> {
  const paths = isFolder ? (await readdir(path)).sort().map((name) => join(path, name)) : [path];
  const files: RowFile[] = [];
  for (const name of paths) {
    if (name.endsWith(".safetensors")) files.push(await openSafetensors(name, tensor));
    else if (name.endsWith(".npy")) files.push(await openNpy(name));
  }
  if (files.length === 0)
    throw new UserError(`${path} holds no .safetensors or .npy files of activations.`);
  const [first] = files;
  const other = files.find((file) => file.dIn !== first.dIn);
  if (other)
    throw new UserError(
      `${first.path} has activations of width ${first.dIn}, ${other.path} of width ${other.dIn}: keep them in different folders.`,
    );
  if (files.every((file) => file.rows === 0)) throw new UserError(`${path} holds no rows.`);
  const provenance = {
    from: "folder",
    files: await Promise.all(
      files.map(async (file) => ({ name: basename(file.path), ...(await fingerprint(file.path)) })),
    ),
  };
  return {
    ...rowSource(fileReader(files), provenance),
    path,
    tokens: () =>
      Promise.reject(
        new UserError(`${path} was made elsewhere and has no tokens beside its activations.`),
      ),
  };
}

/** Hashing a large foreign file whole would take longer than training on a part of it. */
const FINGERPRINT_BYTES = 1 << 20;

async function fingerprint(path: string): Promise<{ bytes: number; xxh64OfEnds: string }> {
  const handle = await open(path, "r");
  try {
    const { size } = await handle.stat();
    const ends = Buffer.alloc(Math.min(size, 2 * FINGERPRINT_BYTES));
    const half = Math.ceil(ends.length / 2);
    await handle.read(ends, 0, half, 0);
    await handle.read(ends, half, ends.length - half, size - (ends.length - half));
    return { bytes: size, xxh64OfEnds: await hashBytes(ends) };
  } finally {
    await handle.close();
  }
}

async function sizeOf(path: string): Promise<number> {
  const info = await stat(path).catch((error: NodeJS.ErrnoException) => {
    throw new UserError(`${path} cannot be read (${error.code}): the store is not complete.`);
  });
  return info.size;
}
