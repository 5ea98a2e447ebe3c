/** A smaller store: some rows, hook points, or a smaller type, with everything else as it was. */
import { join } from "node:path";

import { UserError } from "../../error.ts";
import { Safetensors, type RowRange } from "../../safetensors.ts";
import { writeTensorPieces, type TensorPieces } from "../../safetensors-write.ts";
import { HELD, heldBlock, holdRows } from "../held-rows.ts";
import {
  deriveStore,
  openSource,
  requireOther,
  type Derivation,
  type DeriveOptions,
  type SourceStore,
} from "./derive.ts";
import {
  ACTIVATIONS,
  rowBytes,
  SCALES,
  planOf,
  shardPath,
  TOKEN_COLUMNS,
  TOKENS,
  type ShardRecord,
  type StoreFile,
  type StoreManifest,
  type StorePlan,
} from "./manifest.ts";
import { RowSums } from "./row-sums.ts";
import { copyStoreFile, RowsFile } from "./rows.ts";

export interface SubsetOptions extends DeriveOptions {
  /** Rows from and up to, of the whole store. */
  rows?: RowRange;
  /** Numbers of documents from and up to. */
  documents?: RowRange;
  /** Names; absent: all. */
  hookPoints?: readonly string[];
  /** Type on disk; absent: as it is. */
  dtype?: StorePlan["dtype"];
}

/** What is taken of one shard. */
interface Taken {
  shard: number;
  /** Rows within the shard. */
  ranges: RowRange[];
  rows: number;
  isWhole: boolean;
}

/**
 * Makes a store of some rows and hook points of the store at `path`. Files of which all is taken are
 * copied byte for byte; the statistics of shards that were cut are those of the values as stored.
 * @returns the new store's manifest.
 * @throws UserError when nothing is left, a hook point is not in the store, a value is too large for
 * the type asked for, or a file is damaged.
 */
export async function subsetStore(path: string, options: SubsetOptions): Promise<StoreManifest> {
  requireOther(options.out, [path]);
  const source = await openSource(path);
  const { manifest } = source;
  const { rows, documents } = options;
  requireRange("rows", rows, manifest.rows);
  requireRange("documents", documents);
  const dtype = options.dtype ?? manifest.dtype;
  const names = manifest.hookPoints.map(({ name }) => name);
  const unknown = options.hookPoints?.find((name) => !names.includes(name));
  if (unknown !== undefined)
    throw new UserError(
      `${path} holds activations of ${names.join(", ")}; ${unknown} is not among them.`,
    );
  const hookPoints = manifest.hookPoints.filter(
    ({ name }) => options.hookPoints?.includes(name) ?? true,
  );
  if (hookPoints.length === 0) throw new UserError("name at least one hook point to keep.");
  const taken = await takenOf(source, rows, documents);
  const total = taken.reduce((sum, { rows }) => sum + rows, 0);
  if (total === 0)
    throw new UserError(
      `no rows of ${path} are left by ${[rows && `rows ${rows.join(":")}`, documents && `documents ${documents.join(":")}`].filter(Boolean).join(" and ")}: it has ${manifest.rows} rows.`,
    );
  const plan: StorePlan = {
    ...planOf(manifest),
    ...{ hookPoints, dtype, tokens: total },
    made: {
      by: "subset",
      of: source.hash,
      ...(rows && { rows: [...rows] }),
      ...(documents && { documents: [...documents] }),
      ...(dtype !== manifest.dtype && { dtype: manifest.dtype }),
      ...(manifest.made && { earlier: manifest.made }),
    },
  };
  return deriveStore(
    plan,
    options,
    (store) => bytesOf(plan, taken) - store.bytes,
    async (store) => {
      let done = 0;
      for (const [number, part] of taken.entries()) {
        options.signal?.throwIfAborted();
        if (number >= store.shards.length) await store.commit(await takeShard(store, source, part));
        done += part.rows;
        options.onProgress?.({ done, total });
      }
    },
  );
}

function requireRange(name: string, range: RowRange | undefined, end = Infinity): void {
  if (!range) return;
  const [from, to] = range;
  if (Number.isInteger(from) && Number.isInteger(to) && 0 <= from && from < to && to <= end) return;
  throw new UserError(
    `${name} must be FROM:TO with 0 ≤ FROM < TO${end === Infinity ? "" : ` ≤ ${end}`}; got ${from}:${to}`,
  );
}

/** The shards of which something is taken. */
async function takenOf(
  { path, manifest }: SourceStore,
  asked: RowRange = [0, manifest.rows],
  documents: RowRange | undefined,
): Promise<Taken[]> {
  const taken: Taken[] = [];
  let first = 0;
  for (const [shard, { rows: all }] of manifest.shards.entries()) {
    const within: RowRange = [Math.max(0, asked[0] - first), Math.min(all, asked[1] - first)];
    first += all;
    if (within[0] >= within[1]) continue;
    const ranges = documents ? await ofDocuments(path, shard, within, documents) : [within];
    const rows = ranges.reduce((sum, [from, to]) => sum + to - from, 0);
    if (rows > 0) taken.push({ shard, ranges, rows, isWhole: rows === all });
  }
  return taken;
}

/** The rows of a shard within `within` whose documents have numbers from and up to `documents`. */
async function ofDocuments(
  path: string,
  shard: number,
  within: RowRange,
  [from, to]: RowRange,
): Promise<RowRange[]> {
  const file = await Safetensors.open(join(path, shardPath(TOKENS, shard)));
  const numbers = await file.ints("documents").finally(() => file.close());
  const ranges: RowRange[] = [];
  const isIn = (row: number) => numbers[row] >= from && numbers[row] < to;
  for (let row = within[0], end: number; row < within[1]; row = end) {
    for (end = row; end < within[1] && isIn(end);) end++;
    if (end > row) ranges.push([row, end]);
    else end++;
  }
  return ranges;
}

/** Bytes that will be written, about: headers are not counted. */
function bytesOf(plan: StorePlan, taken: readonly Taken[]): number {
  const tokens = 4 * TOKEN_COLUMNS.length;
  const bytes = plan.hookPoints.map(({ width }) => rowBytes(plan.dtype, width));
  const row = bytes.reduce((sum, width) => sum + width, tokens);
  return taken.reduce((sum, { rows }) => sum + rows * row, 0);
}

async function takeShard(
  { out, plan, shards: { length: number } }: Derivation,
  { path, manifest, records }: SourceStore,
  { shard, ranges, rows, isWhole }: Taken,
): Promise<Omit<ShardRecord, "next">> {
  const files: StoreFile[] = [];
  const sums: ShardRecord["sums"] = {};
  const convert = plan.dtype !== manifest.dtype;
  for (const folder of [TOKENS, ...plan.hookPoints.map(({ name }) => name)]) {
    const from = join(path, shardPath(folder, shard));
    const to = shardPath(folder, number);
    const isActivations = folder !== TOKENS;
    if (isActivations && isWhole) sums[folder] = records[shard].sums[folder];
    if (isWhole && !(convert && isActivations)) {
      const known = records[shard].files.find((file) => file.path === shardPath(folder, shard))!;
      const { bytes, xxh64 } = await copyStoreFile(from, join(out, to), known);
      files.push({ path: to, bytes, xxh64 });
      continue;
    }
    const file = await RowsFile.open(from, manifest.shards[shard].rows);
    try {
      const width = plan.hookPoints.find(({ name }) => name === folder)?.width;
      const tensors =
        convert && width !== undefined
          ? converted(file, ranges, [rows, width], plan.dtype)
          : file.pieces(ranges);
      files.push({ path: to, ...(await writeTensorPieces(join(out, to), tensors)) });
      if (width === undefined || isWhole) continue;
      const sum = new RowSums(width);
      for await (const values of file.floats(ranges)) sum.add(values);
      sums[folder] = sum.sums;
    } finally {
      await file.close();
    }
  }
  return { rows, files, sums };
}

/** The activations of `ranges`, in another type. */
function converted(
  file: RowsFile,
  ranges: readonly RowRange[],
  [rows, width]: [rows: number, width: number],
  dtype: StorePlan["dtype"],
): Record<string, TensorPieces> {
  const type = HELD[dtype];
  // Scales come before what they belong to, so the rows of int8 are converted twice.
  async function* pieces(part: "values" | "scales") {
    for await (const values of file.floats(ranges)) {
      const block = heldBlock(type, values.length / width, width);
      holdRows(type, values, width, block);
      requireFinite(file, values, block.values, dtype);
      const { buffer, byteLength } = block[part];
      yield new Uint8Array(buffer, 0, byteLength);
    }
  }
  return {
    [ACTIVATIONS]: { dtype: type, shape: [rows, width], pieces: pieces("values") },
    ...(type === "I8" && { [SCALES]: { dtype: "F32", shape: [rows], pieces: pieces("scales") } }),
  };
}

/** Values that are finite may become infinite in a 16-bit type. */
function requireFinite(
  file: RowsFile,
  values: Float32Array,
  bits: ArrayLike<number>,
  dtype: StorePlan["dtype"],
): void {
  if (!(bits instanceof Uint16Array)) return;
  const infinity = dtype === "f16" ? 0x7c00 : 0x7f80;
  const at = bits.findIndex((x) => (x & 0x7fff) === infinity);
  if (at >= 0)
    throw new UserError(
      `${file.path} holds ${values[at]}, too large for ${dtype}: use ${dtype === "f16" ? "bf16 or f32" : "f32"}.`,
    );
}
