/**
 * Activations as training sees them: an endless, resumable stream of mixed batches, whatever made
 * them (a store on disk, a synthetic dictionary, an array in memory).
 */
import { UserError } from "./error.ts";
import { ascending, mixedOrder, type Mixing, type OrderOptions, type Pool } from "./row-order.ts";
import {
  loadAhead,
  partsInOrder,
  ROWS_IN_ORDER,
  type LoadedPool,
  type RowBuffer,
  type RowPart,
} from "./row-stream.ts";

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
  /** How rows are mixed that do not all fit into the buffer; absent: as the source can, `store` if it can both. */
  mixing?: Mixing | undefined;
  from?: Cursor;
  /**
   * Batches to serve; absent: without end. Nothing is read that only later ones need, and what a
   * few first batches were taken from is kept for a stream that goes on beyond them.
   */
  limit?: number | undefined;
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
  /** The only way in which the rows can be mixed, where there is only one. */
  readonly mixing?: "window" | undefined;
  /** The tokens of the rows, where they are known. */
  readonly tokenRows?: TokenRows | undefined;
  /** What the activations are, for the run's provenance: JSON with hashes where there are files. */
  readonly provenance: Record<string, unknown>;
  /** Epoch after epoch; the last batch of an epoch may be short. */
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
  /** Set when rows come one after the other only. */
  readonly mixing?: "window" | undefined;
  /** Room for `rows` rows of it. */
  hold(rows: number): RowBuffer;
}

/** A source over `reader`; rows that fit into a caller's buffer as a whole are loaded once and kept. */
export function rowSource(reader: RowReader, provenance: Record<string, unknown>): RowSource {
  const { dIn, rows, tokenRows } = reader;
  /** The first pool of a stream, loaded for statistics, until one that goes on beyond it takes it over. */
  let opening: { order: string; buffer: Promise<RowBuffer> } | undefined;
  let whole: Promise<RowBuffer> | undefined;
  /** All rows, each in the place of its number. */
  function loadWhole(): Promise<RowBuffer> {
    whole ??= loadAll(reader).catch((error: unknown) => {
      whole = undefined;
      throw error;
    });
    return whole;
  }

  async function* pools(options: BatchOptions, from: Cursor): AsyncGenerator<LoadedPool> {
    const { batchSize, bufferRows, seed, shuffle, limit } = options;
    const mixing = options.mixing ?? reader.mixing ?? "store";
    const order = { rows, bufferRows, seed, shuffle, mixing };
    if (rows > bufferRows) {
      const to = limit === undefined ? undefined : after(from, limit, batchSize);
      yield* poolsAhead(order, { from, to, batchRows: batchSize });
      return;
    }
    const buffer = await loadWhole();
    for (let { epoch, row } = from; ; epoch++, row = 0)
      for (const { first, order: positions } of mixedOrder({ ...order, epoch }, row)) {
        const take = (at: number, count: number, out: Float32Array) =>
          buffer.gather(positions.subarray(at, at + count), out);
        yield { epoch, first, rows, take };
      }
  }

  /** Pools that do not all fit into memory together. */
  async function* poolsAhead(
    order: Omit<OrderOptions, "epoch">,
    span: { from: Cursor; to: Cursor | undefined; batchRows: number },
  ): AsyncGenerator<LoadedPool> {
    const { from, to } = span;
    const [first] = mixedOrder({ ...order, epoch: 0 });
    const begins = from.epoch === 0 && from.row < first.rows;
    const name = JSON.stringify(order);
    if (begins && to?.epoch === 0 && to.row <= first.rows) {
      if (opening?.order !== name) {
        await (await opening?.buffer)?.close?.();
        opening = { order: name, buffer: loadFirst(first, order) };
      }
      const { buffer } = opening;
      buffer.catch(() => (opening = undefined));
      const held = await buffer;
      const take = (at: number, count: number, out: Float32Array) =>
        held.gather(first.order.subarray(at, at + count), out);
      yield { epoch: 0, first: 0, rows: first.rows, take };
      return;
    }
    const taken = begins && opening?.order === name ? opening.buffer : undefined;
    if (taken) opening = undefined; // its rows make room as they are served
    const buffer = taken ? await taken : reader.hold(order.bufferRows);
    yield* loadAhead(buffer, order, { ...span, isLoaded: taken !== undefined });
  }

  async function loadFirst({ ranges, rows: count }: Pool, order: Omit<OrderOptions, "epoch">) {
    const buffer = reader.hold(order.bufferRows);
    try {
      await buffer.load(ranges, ascending(count));
    } catch (error) {
      await buffer.close?.();
      throw error;
    }
    return buffer;
  }

  /** Where a stream stands that went on by so many batches; the last of an epoch may be short. */
  function after({ epoch, row }: Cursor, batches: number, batchSize: number): Cursor {
    const left = Math.ceil((rows - row) / batchSize);
    if (batches <= left) return { epoch, row: Math.min(rows, row + batches * batchSize) };
    const perEpoch = Math.ceil(rows / batchSize);
    const later = batches - left - 1;
    return {
      epoch: epoch + 1 + Math.floor(later / perEpoch),
      row: Math.min(rows, ((later % perEpoch) + 1) * batchSize),
    };
  }

  async function* batches(options: BatchOptions): AsyncGenerator<Batch> {
    const { batchSize, from, limit = Infinity } = options;
    if (reader.mixing && (options.mixing ?? reader.mixing) !== reader.mixing && options.shuffle)
      throw new UserError(
        `these activations come one after the other, so they can be mixed in windows only; got mixing ${options.mixing}`,
      );
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
    let served = 0;
    if (limit < 1) return;
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
        if (++served >= limit) return;
        filled = 0;
      }
    }
  }

  async function* rowsInOrder(blockRows: number): AsyncGenerator<RowBlock> {
    requirePositive("blockRows", blockRows);
    const data = new Float32Array(Math.min(blockRows, rows) * dIn);
    for await (const { first, last, gather } of parts(blockRows))
      for (let at = first; at < last; at += blockRows) {
        const count = Math.min(blockRows, last - at);
        const block = data.subarray(0, count * dIn);
        gather(at, at + count, block);
        yield { data: block, rows: count, first: at };
      }
  }

  async function* parts(blockRows: number): AsyncGenerator<RowPart> {
    if (!whole && rows > Math.max(ROWS_IN_ORDER, blockRows)) {
      // Rows that are made one after the other are made ahead by whoever makes them.
      yield* partsInOrder(reader, blockRows, reader.mixing === "window" ? 1 : Infinity);
      return;
    }
    const buffer = await loadWhole();
    const numbers = ascending(rows);
    const gather = (from: number, to: number, out: Float32Array) =>
      buffer.gather(numbers.subarray(from, to), out);
    yield { first: 0, last: rows, gather };
  }

  function slice(start: number, end: number): RowSource {
    if (!(0 <= start && start < end && end <= rows))
      throw new UserError(`rows ${start} to ${end} do not exist: there are ${rows}`);
    const part: RowReader = {
      dIn,
      rows: end - start,
      tokenRows: tokenRows && { ...tokenRows, first: tokenRows.first + start },
      mixing: reader.mixing,
      hold: (count) => {
        const buffer = reader.hold(count);
        return {
          load: (ranges, slots) =>
            buffer.load(
              ranges.map((range) => ({ start: range.start + start, end: range.end + start })),
              slots,
            ),
          gather: (slots, out) => buffer.gather(slots, out),
          close: async () => buffer.close?.(),
        };
      },
    };
    return rowSource(part, { ...provenance, rowRange: [start, end] });
  }

  const { mixing } = reader;
  return { dIn, rows, mixing, tokenRows, provenance, batches, rowsInOrder, slice };
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
  const gather = (numbers: Uint32Array, out: Float32Array) => {
    for (let i = 0; i < numbers.length; i++) {
      const start = numbers[i] * dIn;
      out.set(data.subarray(start, start + dIn), i * dIn);
    }
  };
  const hold = (count: number) => numberedRows(count, () => Promise.resolve({ gather }));
  return rowSource({ dIn, rows, hold }, provenance);
}

/**
 * A source of the rows of `reader` that brings them all into memory, in the form in which it holds
 * them, when the first is asked for (or before, by `load`), and keeps them.
 */
export function keptSource(
  reader: RowReader,
  provenance: Record<string, unknown>,
): { source: RowSource; load(): Promise<void> } {
  const { dIn, rows, tokenRows } = reader;
  let kept: Promise<RowBuffer> | undefined;
  const load = () =>
    (kept ??= loadAll(reader).catch((error: unknown) => {
      kept = undefined;
      throw error;
    }));
  const hold = (count: number) => numberedRows(count, load);
  return {
    source: rowSource({ dIn, rows, tokenRows, hold }, provenance),
    load: async () => void (await load()),
  };
}

/** All rows of `reader`, each in the place of its number. */
async function loadAll(reader: RowReader): Promise<RowBuffer> {
  const { rows } = reader;
  const buffer = reader.hold(rows);
  try {
    await buffer.load([{ start: 0, end: rows }], ascending(rows));
  } finally {
    await buffer.close?.();
  }
  return buffer;
}

/** Room for `count` of the rows that are in memory elsewhere: their numbers are enough. */
function numberedRows(count: number, open: () => Promise<Pick<RowBuffer, "gather">>): RowBuffer {
  const rowOf = new Uint32Array(count);
  let rows: Pick<RowBuffer, "gather">;
  return {
    async load(ranges, slots) {
      rows = await open();
      let at = 0;
      for (const { start, end } of ranges)
        for (let row = start; row < end; row++) rowOf[slots[at++]] = row;
    },
    gather(slots, out) {
      rows.gather(
        slots.map((slot) => rowOf[slot]),
        out,
      );
    },
  };
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
