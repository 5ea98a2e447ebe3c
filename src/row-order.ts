/** In which order the rows of a source are served, and which of them are in memory together. */
import { Rng } from "./rng.ts";

/** Rows start … end-1. */
export interface RowRange {
  start: number;
  end: number;
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

/**
 * Which rows share a pool when not all fit into one: `store`: each pool is a sample of all rows;
 * `window`: rows that follow each other, which is all that a stream can offer.
 */
export type Mixing = "store" | "window";

export interface OrderOptions {
  rows: number;
  bufferRows: number;
  seed: number;
  epoch: number;
  shuffle: boolean;
  mixing: Mixing;
}

/**
 * The order of one epoch, from the pool that serves row `from` on. A pure function of its
 * arguments: no state to save.
 *
 * Rows that all fit into the buffer are one pool: a full Fisher–Yates shuffle. Otherwise a pool is a
 * window of bufferRows rows that follow each other, or, mixed from the whole store, the rows
 * are cut into short blocks, cheap to read, and as many consecutive blocks as there are pools form
 * a stratum; each stratum deals its blocks out to the pools at random. Every such pool is thus a sample
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
      const order = ascending(rows);
      if (shuffle) new Rng(seed, "row order", epoch, pool).shuffle(order);
      yield { first, rows, ranges, order };
    }
    first += rows;
    pool += 1;
  }
}

function* poolRanges(options: OrderOptions): Generator<RowRange[]> {
  const { rows, bufferRows, seed, epoch, shuffle, mixing } = options;
  if (!shuffle || mixing === "window" || rows <= bufferRows) {
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
  const dealt = ascending(pools);
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

/** 0 … count-1. */
export function ascending(count: number): Uint32Array {
  const numbers = new Uint32Array(count);
  for (let i = 0; i < count; i++) numbers[i] = i;
  return numbers;
}
