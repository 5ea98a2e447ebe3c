/**
 * Activations on disk as a source: our own stores, and folders of .safetensors or .npy files made
 * elsewhere.
 */
import { open, readdir, stat, type FileHandle } from "node:fs/promises";
import { basename, join } from "node:path";

import { rowSource, type RowReader, type RowSource } from "../activation-source.ts";
import { UserError } from "../error.ts";
import { readNpyHeader } from "../npy.ts";
import type { RowBuffer } from "../row-stream.ts";
import { bf16ToF32, f16ToF32, hashBytes, hashFile, Safetensors } from "../safetensors.ts";
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

type FloatType = "F64" | "F32" | "F16" | "BF16";
const BYTES: Record<FloatType, number> = { F64: 8, F32: 4, F16: 2, BF16: 2 };

/** A contiguous [rows, dIn] somewhere in a file. */
interface RowFile {
  path: string;
  dtype: FloatType;
  rows: number;
  dIn: number;
  /** Bytes from the start of the file. */
  offset: number;
}

async function openNpy(path: string): Promise<RowFile> {
  const { dtype, shape, offset } = await readNpyHeader(path);
  return { path, dtype, rows: shape[0], dIn: shape[1], offset };
}

async function openSafetensors(path: string, tensor: string | undefined): Promise<RowFile> {
  const file = await Safetensors.open(path);
  await file.close();
  const matrices = [...file.tensors.values()].filter(
    ({ shape, dtype }) => shape.length === 2 && Object.hasOwn(BYTES, dtype),
  );
  if (tensor === undefined && matrices.length !== 1)
    throw new UserError(
      `${path} holds ${matrices.length} two-dimensional tensors of floats (${matrices.map((m) => m.name).join(", ")}); say which one holds the activations.`,
    );
  const info = tensor === undefined ? matrices[0] : file.info(tensor);
  if (!matrices.includes(info))
    throw new UserError(
      `${path}: tensor ${info.name} is ${info.dtype} [${info.shape.join(", ")}]; activations must be F32, F16, BF16 or F64 [rows, width].`,
    );
  const [rows, dIn] = info.shape;
  return { path, dtype: info.dtype as FloatType, rows, dIn, offset: info.offset };
}

async function sizeOf(path: string): Promise<number> {
  const info = await stat(path).catch((error: NodeJS.ErrnoException) => {
    throw new UserError(`${path} cannot be read (${error.code}): the store is not complete.`);
  });
  return info.size;
}

/** Bytes per read, and reads under way at once: what fills a disk's queue without filling memory. */
const READ_BYTES = 8 << 20;
const READS_AT_ONCE = 4;

/** Rows of several files, one after the other. */
function fileReader(files: readonly RowFile[]): RowReader {
  const [{ dIn, dtype }] = files;
  const rows = files.reduce((sum, file) => sum + file.rows, 0);
  // Held as on disk, decoded when gathered: a buffer of f16 takes half the memory.
  const held = files.every((file) => file.dtype === dtype) && dtype !== "F64" ? dtype : "F32";

  function hold(count: number): RowBuffer {
    const room = (rows: number) =>
      held === "F32" ? new Float32Array(rows * dIn) : new Uint16Array(rows * dIn);
    const values = room(count);

    /** Reads `rows` rows of a file from `row` on, checks them, and puts them into `slots`. */
    async function bring(handle: FileHandle, file: RowFile, row: number, slots: Uint32Array) {
      const runs = [...runsOf(slots)];
      const direct = runs.length === 1;
      const target = direct
        ? values.subarray(slots[0] * dIn, (slots[0] + slots.length) * dIn)
        : room(slots.length);
      await readRows(handle, file, row, target, held);
      requireFinite(target, held, file, row);
      if (direct) return;
      for (const [at, end] of runs)
        values.set(target.subarray(at * dIn, end * dIn), slots[at] * dIn);
    }

    return {
      async load(ranges, slots) {
        let fileStart = 0;
        for (const file of files) {
          const pieces: { row: number; slots: Uint32Array }[] = [];
          const pieceRows = Math.max(1, Math.floor(READ_BYTES / (dIn * BYTES[file.dtype])));
          let to = 0;
          for (const { start, end } of ranges) {
            const last = Math.min(end, fileStart + file.rows);
            for (let row = Math.max(start, fileStart); row < last; row += pieceRows) {
              const at = to + row - start;
              const rows = Math.min(pieceRows, last - row);
              pieces.push({ row: row - fileStart, slots: slots.subarray(at, at + rows) });
            }
            to += end - start;
          }
          fileStart += file.rows;
          if (pieces.length === 0) continue;
          const handle = await open(file.path, "r");
          try {
            await inParallel(READS_AT_ONCE, pieces, (piece) =>
              bring(handle, file, piece.row, piece.slots),
            );
          } finally {
            await handle.close();
          }
        }
      },
      gather: (slots, out) => gather(values, held, dIn, slots, out),
    };
  }
  return { dIn, rows, hold };
}

/** First and past-the-last index of stretches of `numbers` that count up by one. */
function* runsOf(numbers: Uint32Array): Generator<[number, number]> {
  for (let at = 0, end: number; at < numbers.length; at = end) {
    for (end = at + 1; end < numbers.length && numbers[end] === numbers[end - 1] + 1;) end++;
    yield [at, end];
  }
}

async function inParallel<T>(
  limit: number,
  items: readonly T[],
  work: (item: T) => Promise<void>,
): Promise<void> {
  let next = 0;
  let failed = false;
  const worker = async () => {
    while (next < items.length && !failed)
      await work(items[next++]).catch((error: unknown) => {
        failed = true;
        throw error;
      });
  };
  // All are awaited even after a failure: the file is closed next, and none may still read from it.
  const results = await Promise.allSettled(Array.from({ length: limit }, worker));
  for (const result of results) if (result.status === "rejected") throw result.reason;
}

/** Fills `target` with rows of `file` from `row` on, converted where the file's type is not `held`. */
async function readRows(
  handle: FileHandle,
  file: RowFile,
  row: number,
  target: Float32Array | Uint16Array,
  held: FloatType,
): Promise<void> {
  const width = BYTES[file.dtype];
  const raw =
    file.dtype === held
      ? new Uint8Array(target.buffer, target.byteOffset, target.byteLength)
      : new Uint8Array(target.length * width);
  const offset = file.offset + row * file.dIn * width;
  for (let done = 0; done < raw.length;) {
    const { bytesRead } = await handle.read(raw, done, raw.length - done, offset + done);
    if (bytesRead === 0)
      throw new UserError(
        `${file.path} ended at byte ${offset + done}: it was cut while being read.`,
      );
    done += bytesRead;
  }
  if (file.dtype === held) return;
  const floats = target as Float32Array<ArrayBuffer>;
  if (file.dtype === "F64") floats.set(new Float64Array(raw.buffer));
  else if (file.dtype === "F16") f16ToF32(new Uint16Array(raw.buffer), floats);
  else if (file.dtype === "BF16") bf16ToF32(new Uint16Array(raw.buffer), floats);
  else floats.set(new Float32Array(raw.buffer));
}

/** An exponent of all ones is a NaN or an infinity, in each of the types. */
function requireFinite(
  values: Float32Array | Uint16Array,
  held: FloatType,
  file: RowFile,
  firstRow: number,
): void {
  const exponent = held === "F32" ? 0x7f800000 : held === "F16" ? 0x7c00 : 0x7f80;
  if (values instanceof Uint16Array && !mayHaveExponent(values, exponent)) return;
  const bits =
    values instanceof Float32Array
      ? new Uint32Array(values.buffer, values.byteOffset, values.length)
      : values;
  for (let i = 0; i < bits.length; i++) {
    if ((bits[i] & exponent) !== exponent) continue;
    const row = Math.floor(i / file.dIn);
    throw new UserError(
      `${file.path}: row ${firstRow + row} holds NaN or an infinite value (column ${i % file.dIn}); remove the row or make the activations again.`,
    );
  }
}

/** Looks at two 16-bit values at a time: adding the exponent's lowest bit to all ones carries into the (masked) sign. */
function mayHaveExponent(values: Uint16Array, exponent: number): boolean {
  if (values.byteOffset % 4 !== 0 || values.length % 2 !== 0) return true;
  const pairs = new Uint32Array(values.buffer, values.byteOffset, values.length / 2);
  const mask = (exponent << 16) | exponent;
  const lowest = mask & ~(mask << 1);
  let carries = 0;
  for (let i = 0; i < pairs.length; i++) carries |= (pairs[i] & mask) + lowest;
  return (carries & 0x80008000) !== 0;
}

function gather(
  values: Float32Array | Uint16Array,
  held: FloatType,
  dIn: number,
  slots: Uint32Array,
  out: Float32Array,
): void {
  // Rows that follow each other, as in stored order, are decoded at one go.
  for (const [at, end] of runsOf(slots)) {
    const rows = values.subarray(slots[at] * dIn, (slots[at] + end - at) * dIn);
    const target = out.subarray(at * dIn, end * dIn) as Float32Array<ArrayBuffer>;
    if (rows instanceof Float32Array) target.set(rows);
    else if (held === "F16") f16ToF32(rows, target);
    else bf16ToF32(rows, target);
  }
}
