/**
 * Activations as training sees them: an endless, resumable stream of mixed batches, whatever made
 * them (a store on disk, a synthetic dictionary, an array in memory).
 */
import { UserError } from "./error.ts";
import { Rng } from "./rng.ts";

/** A place in the stream; plain JSON, kept in checkpoints. */
export interface Cursor {
  epoch: number;
  /** Rows of this epoch already served. */
  row: number;
}

export interface Batch {
  /** [rows, dIn], row by row; valid until the next batch is asked for. */
  data: Float32Array;
  /** [rows, dOut], when the source has targets: what is to be predicted from each row; valid as long. */
  target?: Float32Array;
  rows: number;
  /** Where the stream goes on after this batch. */
  next: Cursor;
}

export interface BatchOptions {
  batchSize: number;
  /** Seed of the order; the order is a pure function of (seed, epoch), so a cursor is all a checkpoint needs. */
  seed: number;
  shuffle: boolean;
  /** Rows held in memory to mix from. */
  bufferRows: number;
  from?: Cursor;
}

/** Which tokens rows belong to: those of a store's shards, from row `first` of the whole store on. */
export interface TokenRows {
  /** xxh64 of what a store holds about each shard's tokens. */
  shards: readonly { rows: number; xxh64: string }[];
  first: number;
}

export interface ActivationSource {
  readonly dIn: number;
  /** Width of the targets of a source that has them. */
  readonly dOut?: number | undefined;
  /** Widths of the hook points whose activations stand side by side in a row, when they are several. */
  readonly heads?: readonly number[] | undefined;
  /** Rows in one epoch. */
  readonly rows: number;
  /** The tokens of the rows, where they are known. */
  readonly tokenRows?: TokenRows | undefined;
  /** What the activations are, for the run's provenance: JSON with hashes where there are files. */
  readonly provenance: Record<string, unknown>;
  /** Endless: epoch after epoch; the last batch of an epoch may be short. */
  batches(options: BatchOptions): AsyncIterable<Batch>;
}

/** Rows in stored order. */
export interface RowBlock {
  /** [rows, dIn]; valid until the next block is asked for. */
  data: Float32Array;
  /** [rows, dOut], when the source has targets; valid as long. */
  target?: Float32Array;
  rows: number;
  /** Number of the block's first row in the source. */
  first: number;
}

/** A source whose rows have numbers, so that it can be cut and read in stored order. */
export interface RowSource extends ActivationSource {
  /** All rows once, in stored order, `blockRows` at a time. */
  rowsInOrder(blockRows: number): AsyncIterable<RowBlock>;
  /** Rows start … end-1 as a source of their own. */
  slice(start: number, end: number): RowSource;
}

/** Rows start … end-1. */
export interface RowRange {
  start: number;
  end: number;
}

/** Rows that lie in memory in whatever form they are stored. */
export interface HeldRows {
  /** Decodes held rows `indices` (0 is the first row held) into out [indices.length, dIn]. */
  gather(indices: Uint32Array, out: Float32Array): void;
}

/** What a kind of storage has to offer for `rowSource` to make a source of it. */
export interface RowReader {
  readonly dIn: number;
  readonly rows: number;
  readonly tokenRows?: TokenRows | undefined;
  /** Brings `ranges` (ascending, not overlapping) into memory. */
  load(ranges: readonly RowRange[]): Promise<HeldRows>;
}

/** Rows that are in memory together and are served in one random order. */
export interface Pool {
  /** Rows of the epoch served before this pool. */
  first: number;
  rows: number;
  /** Where the pool's rows are stored, ascending. */
  ranges: RowRange[];
  /** The order of serving: positions in the concatenation of `ranges`. */
  order: Uint32Array;
}

export interface OrderOptions {
  rows: number;
  bufferRows: number;
  seed: number;
  epoch: number;
  shuffle: boolean;
}

/**
 * The order of one epoch, from the pool that serves row `from` on. A pure function of its
 * arguments: no state to save.
 *
 * Rows that all fit into the buffer are one pool: a full Fisher–Yates shuffle. Otherwise the rows
 * are cut into short blocks, cheap to read, and as many consecutive blocks as there are pools form
 * a stratum; each stratum deals its blocks out to the pools at random. Every pool is thus a sample
 * spread evenly over the whole store, so that a batch, drawn from a pool without replacement,
 * strays no further from the store's mean than a random sample would, however the store is sorted.
 */
export function* mixedOrder(options: OrderOptions, from = 0): Generator<Pool> {
  const { seed, epoch, shuffle } = options;
  let first = 0;
  let pool = 0;
  for (const ranges of poolRanges(options)) {
    const rows = ranges.reduce((sum, range) => sum + range.end - range.start, 0);
    if (first + rows > from) {
      const order = new Uint32Array(rows).map((_, i) => i);
      if (shuffle) new Rng(seed, "row order", epoch, pool).shuffle(order);
      yield { first, rows, ranges, order };
    }
    first += rows;
    pool += 1;
  }
}

function* poolRanges(options: OrderOptions): Generator<RowRange[]> {
  const { rows, bufferRows, seed, epoch, shuffle } = options;
  if (!shuffle || rows <= bufferRows) {
    for (let start = 0; start < rows; start += bufferRows)
      yield [{ start, end: Math.min(rows, start + bufferRows) }];
    return;
  }
  const blockRows = Math.min(MAX_BLOCK_ROWS, Math.max(1, Math.floor(bufferRows / MIN_BLOCKS)));
  const blocks = Math.ceil(rows / blockRows);
  const pools = Math.ceil(blocks / Math.floor(bufferRows / blockRows));
  const strata = Math.ceil(blocks / pools);

  // blockOf[pool * strata + stratum]; the last stratum may not have a block for every pool.
  const blockOf = new Uint32Array(pools * strata);
  const rng = new Rng(seed, "pool order", epoch);
  const dealt = new Uint32Array(pools).map((_, i) => i);
  for (let stratum = 0; stratum < strata; stratum++) {
    rng.shuffle(dealt);
    for (let i = 0; i < pools; i++) blockOf[dealt[i] * strata + stratum] = stratum * pools + i;
  }
  for (let pool = 0; pool < pools; pool++) {
    const ranges: RowRange[] = [];
    for (const block of blockOf.subarray(pool * strata, (pool + 1) * strata)) {
      const start = block * blockRows;
      if (start >= rows) continue;
      const end = Math.min(rows, start + blockRows);
      const previous = ranges.at(-1);
      if (previous?.end === start) previous.end = end;
      else ranges.push({ start, end });
    }
    yield ranges;
  }
}

/** Long enough to be read at disk speed (64 KiB at 256 × f16), short enough that a pool has many. */
const MAX_BLOCK_ROWS = 128;
/** A pool of a smaller buffer still comes from this many places of the store. */
const MIN_BLOCKS = 2048;
/** Rows brought in at once when reading in stored order. */
const SEQUENTIAL_ROWS = 32_768;

/** A source over `reader`; rows that fit into a caller's buffer as a whole are loaded once and kept. */
export function rowSource(reader: RowReader, provenance: Record<string, unknown>): RowSource {
  const { dIn, rows, tokenRows } = reader;
  let whole: Promise<HeldRows> | undefined;
  function load(ranges: readonly RowRange[]): Promise<HeldRows> {
    const isWhole = ranges.length === 1 && ranges[0].end - ranges[0].start === rows;
    if (!isWhole) return reader.load(ranges);
    whole ??= reader.load(ranges).catch((error: unknown) => {
      whole = undefined;
      throw error;
    });
    return whole;
  }

  async function* batches(options: BatchOptions): AsyncGenerator<Batch> {
    const { batchSize, from } = options;
    requirePositive("batchSize", batchSize);
    requirePositive("bufferRows", options.bufferRows);
    let epoch = from?.epoch ?? 0;
    let row = from?.row ?? 0;
    if (row > rows)
      throw new UserError(
        `the stream was to go on after row ${row} of epoch ${epoch}, but these activations have only ${rows} rows; ` +
          `they are not the ones the checkpoint was made with`,
      );
    const data = new Float32Array(Math.min(batchSize, rows) * dIn);
    for (; ; epoch++, row = 0) {
      let filled = 0;
      for (const pool of mixedOrder({ ...options, rows, epoch }, row)) {
        const held = await load(pool.ranges);
        for (let at = row - pool.first; at < pool.rows;) {
          const count = Math.min(batchSize - filled, pool.rows - at);
          held.gather(
            pool.order.subarray(at, at + count),
            data.subarray(filled * dIn, (filled + count) * dIn),
          );
          filled += count;
          at += count;
          row += count;
          if (filled < batchSize && row < rows) continue;
          const next = row < rows ? { epoch, row } : { epoch: epoch + 1, row: 0 };
          yield { data: data.subarray(0, filled * dIn), rows: filled, next };
          filled = 0;
        }
      }
    }
  }

  async function* rowsInOrder(blockRows: number): AsyncGenerator<RowBlock> {
    requirePositive("blockRows", blockRows);
    const chunkRows = whole ? rows : Math.ceil(SEQUENTIAL_ROWS / blockRows) * blockRows;
    const data = new Float32Array(Math.min(blockRows, rows) * dIn);
    for (const chunk of mixedOrder({
      rows,
      bufferRows: chunkRows,
      seed: 0,
      epoch: 0,
      shuffle: false,
    })) {
      const held = await load(chunk.ranges);
      for (let at = 0; at < chunk.rows; at += blockRows) {
        const count = Math.min(blockRows, chunk.rows - at);
        const block = data.subarray(0, count * dIn);
        held.gather(chunk.order.subarray(at, at + count), block);
        yield { data: block, rows: count, first: chunk.first + at };
      }
    }
  }

  function slice(start: number, end: number): RowSource {
    if (!(0 <= start && start < end && end <= rows))
      throw new UserError(`rows ${start} to ${end} do not exist: there are ${rows}`);
    const part: RowReader = {
      dIn,
      rows: end - start,
      tokenRows: tokenRows && { ...tokenRows, first: tokenRows.first + start },
      load: (ranges) =>
        reader.load(
          ranges.map((range) => ({ start: range.start + start, end: range.end + start })),
        ),
    };
    return rowSource(part, { ...provenance, rowRange: [start, end] });
  }

  return { dIn, rows, tokenRows, provenance, batches, rowsInOrder, slice };
}

/**
 * Activations in memory, `data` [rows, dIn] row by row (used in place, not copied).
 * @throws UserError when the length of `data` is not a positive multiple of `dIn`.
 */
export function memorySource(
  data: Float32Array,
  dIn: number,
  provenance: Record<string, unknown> = { from: "memory" },
): RowSource {
  requirePositive("dIn", dIn);
  const rows = data.length / dIn;
  if (!Number.isInteger(rows) || rows === 0)
    throw new UserError(
      `activations of width ${dIn} need a multiple of ${dIn} numbers, at least one row; got ${data.length}`,
    );
  const load = (ranges: readonly RowRange[]): Promise<HeldRows> => {
    const rowOf = new Uint32Array(ranges.reduce((sum, r) => sum + r.end - r.start, 0));
    let held = 0;
    for (const { start, end } of ranges)
      for (let row = start; row < end; row++) rowOf[held++] = row;
    return Promise.resolve({
      gather(indices, out) {
        for (let i = 0; i < indices.length; i++) {
          const start = rowOf[indices[i]] * dIn;
          out.set(data.subarray(start, start + dIn), i * dIn);
        }
      },
    });
  };
  return rowSource({ dIn, rows, load }, provenance);
}

/**
 * Holds out the last `fraction` of the rows (at least one, when `fraction` > 0).
 * @throws UserError when nothing would be left to train on.
 */
export function splitSource(
  source: RowSource,
  fraction: number,
): { train: RowSource; validation: RowSource | undefined } {
  if (fraction <= 0) return { train: source, validation: undefined };
  const heldOut = Math.max(1, Math.round(source.rows * fraction));
  const trainRows = source.rows - heldOut;
  if (trainRows < 1)
    throw new UserError(
      `holding out ${fraction} of ${source.rows} activations leaves none to train on; give more activations or a smaller fraction`,
    );
  return {
    train: source.slice(0, trainRows),
    validation: source.slice(trainRows, source.rows),
  };
}

function requirePositive(name: string, value: number): void {
  if (!Number.isInteger(value) || value < 1)
    throw new UserError(`${name} must be a positive integer; got ${value}`);
}
