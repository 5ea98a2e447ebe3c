/**
 * Activations as training sees them: an endless, resumable stream of mixed batches, whatever made
 * them (a store on disk, a synthetic dictionary, an array in memory).
 */
import { UserError } from "./error.ts";
import { ascending, mixedOrder } from "./row-order.ts";
import { loadAhead, type LoadedPool, type RowBuffer } from "./row-stream.ts";

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

/** What a kind of storage has to offer for `rowSource` to make a source of it. */
export interface RowReader {
  readonly dIn: number;
  readonly rows: number;
  readonly tokenRows?: TokenRows | undefined;
  /** Room for `rows` rows of it. */
  hold(rows: number): RowBuffer;
}

/** Rows brought in at once when reading in stored order. */
const SEQUENTIAL_ROWS = 32_768;

/** A source over `reader`; rows that fit into a caller's buffer as a whole are loaded once and kept. */
export function rowSource(reader: RowReader, provenance: Record<string, unknown>): RowSource {
  const { dIn, rows, tokenRows } = reader;
  let whole: Promise<RowBuffer> | undefined;
  /** All rows, each in the place of its number. */
  function loadWhole(): Promise<RowBuffer> {
    const load = async () => {
      const buffer = reader.hold(rows);
      await buffer.load([{ start: 0, end: rows }], ascending(rows));
      return buffer;
    };
    whole ??= load().catch((error: unknown) => {
      whole = undefined;
      throw error;
    });
    return whole;
  }

  async function* pools(options: BatchOptions, from: Cursor): AsyncGenerator<LoadedPool> {
    const { batchSize, bufferRows, seed, shuffle } = options;
    if (rows > bufferRows) {
      const order = { rows, bufferRows, seed, shuffle };
      yield* loadAhead(reader.hold(bufferRows), order, from, batchSize);
      return;
    }
    const buffer = await loadWhole();
    for (let { epoch, row } = from; ; epoch++, row = 0)
      for (const { first, order } of mixedOrder({ ...options, rows, epoch }, row)) {
        const take = (at: number, count: number, out: Float32Array) =>
          buffer.gather(order.subarray(at, at + count), out);
        yield { epoch, first, rows, take };
      }
  }

  async function* batches(options: BatchOptions): AsyncGenerator<Batch> {
    const { batchSize, from } = options;
    requirePositive("batchSize", batchSize);
    requirePositive("bufferRows", options.bufferRows);
    let { epoch, row } = from ?? { epoch: 0, row: 0 };
    if (row > rows)
      throw new UserError(
        `the stream was to go on after row ${row} of epoch ${epoch}, but these activations have only ${rows} rows; ` +
          `they are not the ones the checkpoint was made with`,
      );
    if (row === rows) [epoch, row] = [epoch + 1, 0];
    const data = new Float32Array(Math.min(batchSize, rows) * dIn);
    let filled = 0;
    for await (const pool of pools(options, { epoch, row })) {
      if (pool.epoch > epoch) [epoch, row] = [pool.epoch, 0];
      for (let at = row - pool.first; at < pool.rows;) {
        const count = Math.min(batchSize - filled, pool.rows - at);
        pool.take(at, count, data.subarray(filled * dIn, (filled + count) * dIn));
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

  async function* rowsInOrder(blockRows: number): AsyncGenerator<RowBlock> {
    requirePositive("blockRows", blockRows);
    const bufferRows = whole ? rows : Math.ceil(SEQUENTIAL_ROWS / blockRows) * blockRows;
    const options = { batchSize: blockRows, bufferRows, seed: 0, shuffle: false };
    let first = 0;
    for await (const { data, rows: count } of batches(options)) {
      yield { data, rows: count, first };
      first += count;
      if (first === rows) return;
    }
  }

  function slice(start: number, end: number): RowSource {
    if (!(0 <= start && start < end && end <= rows))
      throw new UserError(`rows ${start} to ${end} do not exist: there are ${rows}`);
    const part: RowReader = {
      dIn,
      rows: end - start,
      tokenRows: tokenRows && { ...tokenRows, first: tokenRows.first + start },
      hold: (count) => {
        const buffer = reader.hold(count);
        return {
          load: (ranges, slots) =>
            buffer.load(
              ranges.map((range) => ({ start: range.start + start, end: range.end + start })),
              slots,
            ),
          gather: (slots, out) => buffer.gather(slots, out),
        };
      },
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
  const hold = (count: number): RowBuffer => {
    const rowOf = new Uint32Array(count);
    return {
      load(ranges, slots) {
        let at = 0;
        for (const { start, end } of ranges)
          for (let row = start; row < end; row++) rowOf[slots[at++]] = row;
        return Promise.resolve();
      },
      gather(slots, out) {
        for (let i = 0; i < slots.length; i++) {
          const start = rowOf[slots[i]] * dIn;
          out.set(data.subarray(start, start + dIn), i * dIn);
        }
      },
    };
  };
  return rowSource({ dIn, rows, hold }, provenance);
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
