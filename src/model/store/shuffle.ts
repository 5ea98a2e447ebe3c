/**
 * A store in random order, exactly: every order is as likely as every other, however large the store.
 * Two passes (Rao 1961, Sandelius 1962): each row goes into a bucket drawn for it alone, and each
 * bucket, which fits into memory, is shuffled by itself. The first pass writes one file for each piece
 * of a shard, its rows grouped by bucket; the second reads a bucket's groups from all of them. Buckets
 * are of unequal size, and must be: made equal, the order would no longer be uniform.
 */
import { mkdir, open, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";

import { UserError } from "../../error.ts";
import { Rng } from "../../rng.ts";
import { hashBytes } from "../../file-hash.ts";
import { writeTensorPieces, type TensorPieces } from "../../safetensors-write.ts";
import { ascending } from "../../row-order.ts";
import { syncFolder } from "../../open-file.ts";
import { writeJson } from "./commit.ts";
import {
  deriveStore,
  openSource,
  requireOther,
  type Derivation,
  type DeriveOptions,
  type SourceStore,
} from "./derive.ts";
import {
  planOf,
  shardPath,
  TOKENS,
  type ShardRecord,
  type StoreFile,
  type StoreManifest,
  type StorePlan,
} from "./manifest.ts";
import { readInto } from "../row-files.ts";
import { RowSums } from "./row-sums.ts";
import { decodeRows, PIECE_BYTES, RowsFile } from "./rows.ts";

export interface ShuffleOptions extends DeriveOptions {
  seed?: number;
  /** Bytes of rows in memory at most, about; more memory means fewer and larger reads. */
  memoryBytes?: number;
}

const DEFAULT_MEMORY = 2 ** 30;
/** Node reads and writes less than 2 GiB at once, and Python users load whole shards. */
const MAX_BUCKET_BYTES = 0.9 * 2 ** 30;
/** Where the rows grouped by bucket are until the store is finished. */
const SCATTERED = "scattered";

/** A tensor of every shard: of the tokens or of a hook point. */
interface Column {
  folder: string;
  name: string;
  dtype: TensorPieces["dtype"];
  /** Of one row. */
  shape: readonly number[];
  rowBytes: number;
}

/** Rows of a shard that are grouped in one go. */
interface Piece {
  shard: number;
  first: number;
  rows: number;
}

/** What is recorded of a piece once its file is whole. */
interface PieceRecord extends Piece {
  /** Hash of the plan it belongs to. */
  plan: string;
  /** [buckets + 1] Where each bucket's rows begin. */
  offsets: number[];
}

/**
 * Makes a store of the rows of `path` in an order drawn from `seed`; tokens and all hook points move
 * together. The order depends on the seed and the number of buckets alone, so that the same call makes
 * the same bytes. Reads and writes everything twice; needs the store's size on the disk twice while it
 * works. Statistics are those of the values as stored.
 * @returns the new store's manifest.
 * @throws UserError when the memory holds not a row, or as `deriveStore`.
 */
export async function shuffleStore(path: string, options: ShuffleOptions): Promise<StoreManifest> {
  const { seed = 0, memoryBytes = DEFAULT_MEMORY } = options;
  if (!Number.isSafeInteger(seed) || seed < 0)
    throw new UserError(`seed must be a non-negative integer; got ${seed}`);
  requireOther(options.out, [path]);
  const source = await openSource(path);
  const { manifest } = source;
  const columns = await columnsOf(source);
  const rowBytes = Math.max(...folderBytes(columns).values());
  // Half for the rows; the rest for orders and pieces on their way to the disk.
  const held = Math.floor(memoryBytes / 2 / rowBytes);
  if (!(held >= 1))
    throw new UserError(
      `memory must hold two rows of ${rowBytes} bytes; got ${memoryBytes} bytes: give more.`,
    );
  const bucketRows = Math.min(held, Math.floor(MAX_BUCKET_BYTES / rowBytes));
  const buckets = Math.ceil(manifest.rows / bucketRows);
  const plan: StorePlan = {
    ...planOf(manifest),
    ...{ tokens: manifest.rows, shardRows: Math.ceil(manifest.rows / buckets) },
    made: {
      ...{ by: "shuffle", of: source.hash, seed, buckets },
      ...(manifest.made && { earlier: manifest.made }),
    },
  };
  const pieces = piecesOf(manifest, Math.max(1, held));
  const planHash = await hashBytes(Buffer.from(JSON.stringify(plan)));
  const total = 2 * manifest.rows;
  const allBytes = manifest.rows * columns.reduce((sum, { rowBytes }) => sum + rowBytes, 0);
  const isAllCommitted = ({ shards }: Derivation) =>
    shards.reduce((sum, { rows }) => sum + rows, 0) === manifest.rows;
  return deriveStore(
    plan,
    options,
    async (store) => {
      if (isAllCommitted(store)) return 0;
      let left = 2 * allBytes - store.bytes;
      for (const [number] of pieces.entries()) {
        const info = await stat(scatteredPath(store.out, number)).catch(() => undefined);
        left -= info?.size ?? 0;
      }
      return Math.max(0, left);
    },
    async (store) => {
      if (!isAllCommitted(store)) {
        await mkdir(join(store.out, SCATTERED), { recursive: true });
        const records: PieceRecord[] = [];
        let done = 0;
        const tell = (rows: number) => {
          options.signal?.throwIfAborted();
          options.onProgress?.({ done: (done += rows), total });
        };
        tell(0);
        const pieceRows = Math.max(...pieces.map(({ rows }) => rows));
        const draw = { seed, buckets };
        const scatter = new Scatter(source, columns, store.out, planHash, draw, pieceRows);
        for (const [number, piece] of pieces.entries()) {
          records.push(await scatter.write(number, piece));
          tell(piece.rows);
        }
        await gatherBuckets(store, columns, records, seed, tell);
      }
      // Before the manifest, so that no finished store has them.
      await rm(join(store.out, SCATTERED), { recursive: true, force: true });
    },
  );
}

async function columnsOf({ path, manifest }: SourceStore): Promise<Column[]> {
  const columns: Column[] = [];
  for (const folder of [TOKENS, ...manifest.hookPoints.map(({ name }) => name)]) {
    const file = await RowsFile.open(join(path, shardPath(folder, 0)), manifest.shards[0].rows);
    await file.close();
    for (const { name, dtype, shape, rowBytes } of file.tensors)
      columns.push({ folder, name, dtype, shape: shape.slice(1), rowBytes });
  }
  return columns;
}

/** Bytes of a row by folder. */
function folderBytes(columns: readonly Column[]): Map<string, number> {
  const bytes = new Map<string, number>();
  for (const { folder, rowBytes } of columns)
    bytes.set(folder, (bytes.get(folder) ?? 0) + rowBytes);
  return bytes;
}

function piecesOf({ shards }: StoreManifest, rowsAtOnce: number): Piece[] {
  return shards.flatMap(({ rows }, shard) =>
    Array.from({ length: Math.ceil(rows / rowsAtOnce) }, (_, n) => {
      const first = n * rowsAtOnce;
      return { shard, first, rows: Math.min(rowsAtOnce, rows - first) };
    }),
  );
}

const scatteredPath = (out: string, piece: number) =>
  join(out, SCATTERED, `${String(piece).padStart(5, "0")}.bin`);

/** The first pass. */
class Scatter {
  readonly #source: SourceStore;
  readonly #columns: readonly Column[];
  readonly #out: string;
  readonly #plan: string;
  readonly #draw: { seed: number; buckets: number };
  /** For the rows of one tensor of a piece. */
  readonly #room: Uint8Array<ArrayBuffer>;
  #drawn: { shard: number; bucketOf: Uint32Array } | undefined;

  constructor(
    source: SourceStore,
    columns: readonly Column[],
    out: string,
    plan: string,
    draw: { seed: number; buckets: number },
    pieceRows: number,
  ) {
    const rowBytes = Math.max(...columns.map((column) => column.rowBytes));
    this.#room = new Uint8Array(pieceRows * rowBytes);
    this.#source = source;
    this.#columns = columns;
    this.#out = out;
    this.#plan = plan;
    this.#draw = draw;
  }

  /** Writes the file of a piece, unless it is there already. */
  async write(number: number, piece: Piece): Promise<PieceRecord> {
    const path = scatteredPath(this.#out, number);
    const recordPath = path.replace(/bin$/, "json");
    const rowBytes = this.#columns.reduce((sum, column) => sum + column.rowBytes, 0);
    const before = await readPiece(recordPath);
    const info = await stat(path).catch(() => undefined);
    const isDone =
      before?.plan === this.#plan &&
      before.shard === piece.shard &&
      before.first === piece.first &&
      before.rows === piece.rows &&
      info?.size === piece.rows * rowBytes;
    if (isDone) return before;

    const { order, offsets } = this.#grouped(piece);
    const { shard, first, rows } = piece;
    const temporary = `${path}.tmp`;
    const handle = await open(temporary, "w");
    try {
      for (const folder of new Set(this.#columns.map((column) => column.folder))) {
        const file = await RowsFile.open(
          join(this.#source.path, shardPath(folder, shard)),
          this.#source.manifest.shards[shard].rows,
        );
        try {
          for (const column of this.#columns.filter((column) => column.folder === folder)) {
            const bytes = this.#room.subarray(0, rows * column.rowBytes);
            await file.read(column.name, first, bytes);
            for (const group of inOrder(bytes, column.rowBytes, order))
              await handle.writeFile(group);
          }
        } finally {
          await file.close();
        }
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
    await syncFolder(join(this.#out, SCATTERED));
    const record: PieceRecord = { plan: this.#plan, ...piece, offsets };
    await writeJson(recordPath, record);
    return record;
  }

  /** A piece's rows, grouped by their buckets. */
  #grouped({ shard, first, rows }: Piece): { order: Uint32Array; offsets: number[] } {
    const { seed, buckets } = this.#draw;
    if (this.#drawn?.shard !== shard) {
      // Drawn for the whole shard, so that they do not depend on where it is cut.
      const bucketOf = new Uint32Array(this.#source.manifest.shards[shard].rows);
      const rng = new Rng(seed, "shuffle: bucket", shard);
      for (let row = 0; row < bucketOf.length; row++) bucketOf[row] = rng.int(buckets);
      this.#drawn = { shard, bucketOf };
    }
    const bucketOf = this.#drawn.bucketOf.subarray(first, first + rows);
    const offsets = new Array<number>(buckets + 1).fill(0);
    for (const bucket of bucketOf) offsets[bucket + 1]++;
    for (let bucket = 0; bucket < buckets; bucket++) offsets[bucket + 1] += offsets[bucket];
    const order = new Uint32Array(rows);
    const next = Uint32Array.from(offsets);
    for (let row = 0; row < rows; row++) order[next[bucketOf[row]]++] = row;
    return { order, offsets };
  }
}

async function readPiece(path: string): Promise<PieceRecord | undefined> {
  const text = await readFile(path, "utf8").catch(() => undefined);
  return text === undefined ? undefined : (JSON.parse(text) as PieceRecord);
}

/** The rows of `bytes` in `order`, some at a time; each piece is valid until the next. */
function* inOrder(bytes: Uint8Array, rowBytes: number, order: Uint32Array): Generator<Uint8Array> {
  const rows = Math.max(1, Math.min(order.length, Math.floor(PIECE_BYTES / rowBytes)));
  const piece = new Uint8Array(rows * rowBytes);
  const isWords = rowBytes === 4 && bytes.byteOffset % 4 === 0;
  const from = isWords ? new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4) : bytes;
  const to = isWords ? new Uint32Array(piece.buffer) : piece;
  const units = from.length / (bytes.length / rowBytes);
  for (let at = 0; at < order.length; at += rows) {
    const count = Math.min(rows, order.length - at);
    for (let i = 0; i < count; i++) {
      const start = order[at + i] * units;
      if (isWords) to[i] = from[start];
      else to.set(from.subarray(start, start + units), i * units);
    }
    yield piece.subarray(0, count * rowBytes);
  }
}

/** The second pass: a shard of every bucket that got rows. */
async function gatherBuckets(
  store: Derivation,
  columns: readonly Column[],
  pieces: readonly PieceRecord[],
  seed: number,
  tell: (rows: number) => void,
): Promise<void> {
  const buckets = pieces[0].offsets.length - 1;
  const sizes = Array.from({ length: buckets }, (_, bucket) =>
    pieces.reduce((sum, { offsets }) => sum + offsets[bucket + 1] - offsets[bucket], 0),
  );
  // One room for all that is held, since what is let go need not be given back at once.
  const rowBytes = Math.max(...folderBytes(columns).values());
  const room = new Uint8Array(Math.max(...sizes) * rowBytes + columns.length * 8);
  let number = 0;
  for (const [bucket, rows] of sizes.entries()) {
    if (rows === 0) continue;
    if (number++ >= store.shards.length) {
      const order = new Rng(seed, "shuffle: order", bucket).shuffle(ascending(rows));
      await store.commit(await gatherBucket(store, columns, pieces, bucket, order, room));
    }
    tell(rows);
  }
}

async function gatherBucket(
  { out, plan, shards: { length: number } }: Derivation,
  columns: readonly Column[],
  pieces: readonly PieceRecord[],
  bucket: number,
  order: Uint32Array,
  room: Uint8Array<ArrayBuffer>,
): Promise<Omit<ShardRecord, "next">> {
  const rows = order.length;
  const files: StoreFile[] = [];
  const sums: ShardRecord["sums"] = {};
  for (const folder of [TOKENS, ...plan.hookPoints.map(({ name }) => name)]) {
    const own = columns.filter((column) => column.folder === folder);
    const held: Record<string, Uint8Array<ArrayBuffer>> = {};
    let used = 0;
    for (const { name, rowBytes } of own) {
      held[name] = room.subarray(used, used + rows * rowBytes);
      used = Math.ceil((used + rows * rowBytes) / 8) * 8;
    }
    await readGroups(out, columns, folder, pieces, bucket, held);
    const tensors = own.map(({ name, dtype, shape, rowBytes }): [string, TensorPieces] => [
      name,
      { dtype, shape: [rows, ...shape], pieces: inOrder(held[name], rowBytes, order) },
    ]);
    const path = shardPath(folder, number);
    files.push({
      path,
      ...(await writeTensorPieces(join(out, path), Object.fromEntries(tensors))),
    });
    const width = plan.hookPoints.find(({ name }) => name === folder)?.width;
    if (width !== undefined) sums[folder] = sumsOf(own, held, rows, width);
  }
  return { rows, files, sums };
}

/** Fills `held` with a bucket's rows of every piece, one after the other. */
async function readGroups(
  out: string,
  columns: readonly Column[],
  folder: string,
  pieces: readonly PieceRecord[],
  bucket: number,
  held: Record<string, Uint8Array>,
): Promise<void> {
  let at = 0;
  for (const [number, { rows, offsets }] of pieces.entries()) {
    const [from, to] = [offsets[bucket], offsets[bucket + 1]];
    if (from === to) continue;
    const path = scatteredPath(out, number);
    const handle = await open(path, "r");
    try {
      let start = 0;
      for (const { folder: of, name, rowBytes } of columns) {
        if (of === folder) {
          const target = held[name].subarray(at * rowBytes, (at + to - from) * rowBytes);
          await readInto(handle, path, target, start + from * rowBytes);
        }
        start += rows * rowBytes;
      }
    } finally {
      await handle.close();
    }
    at += to - from;
  }
}

function sumsOf(
  columns: readonly Column[],
  held: Record<string, Uint8Array<ArrayBuffer>>,
  rows: number,
  width: number,
): ShardRecord["sums"][string] {
  const sums = new RowSums(width);
  const tensors = columns.map(({ name, dtype, shape }) => ({
    name,
    dtype,
    shape: [rows, ...shape],
  }));
  const atOnce = Math.max(1, Math.floor(PIECE_BYTES / (4 * width)));
  for (let row = 0; row < rows; row += atOnce) {
    const to = Math.min(rows, row + atOnce);
    const part = columns.map(({ name, rowBytes }) => [
      name,
      held[name].subarray(row * rowBytes, to * rowBytes),
    ]);
    sums.add(decodeRows(tensors, Object.fromEntries(part) as typeof held));
  }
  return sums.sums;
}
