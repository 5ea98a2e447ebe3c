/**
 * Rows on their way from where they are stored into a buffer of fixed size: each row that was served
 * makes room for one of the pool that comes next, so that pools are read while others are served and
 * no more is in memory than the buffer.
 */
import { ascending, mixedOrder, type OrderOptions, type RowRange } from "./row-order.ts";

/** A place in an endless stream. */
interface Place {
  epoch: number;
  /** Rows of the epoch that are served before. */
  row: number;
}

/** Room in memory for a fixed number of rows, in whatever form they are stored. */
export interface RowBuffer {
  /**
   * Brings the rows of `ranges` (ascending, not overlapping) in, one after the other into the places
   * `slots`, which nobody reads until this is done.
   */
  load(ranges: readonly RowRange[], slots: Uint32Array): Promise<void>;
  /** Decodes the rows in `slots` into out [slots.length, dIn]. */
  gather(slots: Uint32Array, out: Float32Array): void;
  /** No more will be loaded: ends what loading keeps open, also in the middle of it. Held rows stay. */
  close?(): Promise<void>;
}

/** A pool whose rows are all in memory. */
export interface LoadedPool {
  epoch: number;
  /** Rows of the epoch that are served before the pool. */
  first: number;
  rows: number;
  /** Decodes rows at … at+count-1 of its order into `out` [count, dIn], for the last time: their room is used again. */
  take(at: number, count: number, out: Float32Array): void;
}

/** Rows brought in by one call at most. */
const LOAD_ROWS = 8192;

/**
 * The pools of a stream from the place `from` on, read ahead as far as
 * `buffer`, with room for `order.bufferRows` rows, has room. What fails while reading ahead is thrown
 * when its pool's turn comes. Returning ends the reading before it resolves.
 * @param batchRows how many rows are taken at a time: room is filled once so much of it is free.
 * @param to no pool is read that begins here or later; absent: there is no end.
 * @param isLoaded whether the rows of the first pool are in the buffer already, in their order.
 */
export async function* loadAhead(
  buffer: RowBuffer,
  order: Omit<OrderOptions, "epoch">,
  {
    from,
    to,
    batchRows,
    isLoaded = false,
  }: { from: Place; to?: Place | undefined; batchRows: number; isLoaded?: boolean },
): AsyncGenerator<LoadedPool, void> {
  const free = new SlotQueue(order.bufferRows);
  const ready: LoadedPool[] = [];
  let failure: { error: unknown } | undefined;
  let ended = false;
  let isRead = false;
  let wakeReader = () => {};
  let wakeServer = () => {};

  async function fill(): Promise<void> {
    let isHere = isLoaded;
    for (let { epoch, row } = from; ; epoch++, row = 0)
      for (const pool of mixedOrder({ ...order, epoch }, row)) {
        if (to && (epoch > to.epoch || (epoch === to.epoch && pool.first >= to.row))) return;
        const slots = new Uint32Array(pool.rows);
        const rest = pool.ranges.map((range) => ({ ...range }));
        for (let at = 0; at < pool.rows;) {
          while (!ended && free.length < Math.min(batchRows, pool.rows - at))
            await new Promise<void>((resolve) => (wakeReader = resolve));
          if (ended) return;
          const count = Math.min(LOAD_ROWS, free.length, pool.rows - at);
          const taken = slots.subarray(at, at + count);
          free.take(taken);
          if (!isHere) await buffer.load(cutOff(rest, count), taken);
          at += count;
        }
        isHere = false;
        const inOrder = pool.order.map((position) => slots[position]);
        // A stream that begins within a pool never serves what comes before.
        free.give(inOrder.subarray(0, Math.max(0, row - pool.first)));
        ready.push({
          ...{ epoch, first: pool.first, rows: pool.rows },
          take(at, count, out) {
            const served = inOrder.subarray(at, at + count);
            buffer.gather(served, out);
            free.give(served);
            wakeReader();
          },
        });
        wakeServer();
      }
  }

  const filling = fill()
    .catch((error: unknown) => void (failure = { error }))
    .then(() => {
      isRead = true;
      wakeServer();
    });
  try {
    for (;;) {
      while (ready.length === 0) {
        if (failure) throw failure.error;
        if (isRead) return;
        await new Promise<void>((resolve) => (wakeServer = resolve));
      }
      yield ready.shift()!;
    }
  } finally {
    ended = true;
    wakeReader();
    await buffer.close?.();
    await filling;
  }
}

/** Rows that are read together, and rows in memory altogether, when reading in stored order. */
const PART_ROWS = 4096;
export const ROWS_IN_ORDER = 8 * PART_ROWS;

/** Rows first … last-1, all in memory until the next part is asked for. */
export interface RowPart {
  first: number;
  last: number;
  /** Decodes rows from … to-1 into out [to - from, dIn]. */
  gather: (from: number, to: number, out: Float32Array) => void;
}

/**
 * All rows of `reader` once, in stored order; while a part is served, those that follow are being
 * read. Returning ends the reading before it resolves.
 * @param multiple how many rows are taken at a time: but for the last, each part is a multiple of it.
 * @param loadsAtOnce parts that may be read at the same time.
 */
export async function* partsInOrder(
  reader: { rows: number; hold(rows: number): RowBuffer },
  multiple: number,
  loadsAtOnce: number,
): AsyncGenerator<RowPart> {
  const { rows } = reader;
  const partRows = multiple * Math.max(1, Math.floor(PART_ROWS / multiple));
  const room = partRows * Math.max(2, Math.ceil(ROWS_IN_ORDER / partRows));
  const slots = ascending(room);
  const buffer = reader.hold(room);
  const slotsOf = (from: number, to: number) =>
    slots.subarray(from % room, (from % room) + to - from);
  const loads: Promise<void>[] = [];
  let asked = 0;
  /** Reads on as far as there is room behind `first`, whose rows and later ones are not served. */
  const readOn = (first: number) => {
    for (; loads.length < loadsAtOnce && asked < Math.min(rows, first + room); asked += partRows) {
      const range = { start: asked, end: Math.min(rows, asked + partRows) };
      const load = buffer.load([range], slotsOf(range.start, range.end));
      load.catch(() => undefined); // thrown when its turn comes
      loads.push(load);
    }
  };
  try {
    for (let first = 0; first < rows; first += partRows) {
      readOn(first);
      await loads[0];
      void loads.shift();
      readOn(first);
      const gather = (from: number, to: number, out: Float32Array) =>
        buffer.gather(slotsOf(from, to), out);
      yield { first, last: Math.min(rows, first + partRows), gather };
    }
  } finally {
    await buffer.close?.();
    await Promise.allSettled(loads);
  }
}

/** Takes the first `count` rows off `ranges`. */
function cutOff(ranges: RowRange[], count: number): RowRange[] {
  const taken: RowRange[] = [];
  while (count > 0) {
    const { start, end } = ranges[0];
    const rows = Math.min(count, end - start);
    taken.push({ start, end: start + rows });
    if (start + rows === end) ranges.shift();
    else ranges[0].start += rows;
    count -= rows;
  }
  return taken;
}

/** Free places, first in, first out: rows served in stored order make room for rows that lie together. */
class SlotQueue {
  length: number;
  readonly #slots: Uint32Array;
  #head = 0;

  constructor(capacity: number) {
    this.length = capacity;
    this.#slots = ascending(capacity);
  }

  take(out: Uint32Array): void {
    for (let i = 0; i < out.length; i++)
      out[i] = this.#slots[(this.#head + i) % this.#slots.length];
    this.#head = (this.#head + out.length) % this.#slots.length;
    this.length -= out.length;
  }

  give(slots: Uint32Array): void {
    const tail = this.#head + this.length;
    for (let i = 0; i < slots.length; i++) this.#slots[(tail + i) % this.#slots.length] = slots[i];
    this.length += slots.length;
  }
}
