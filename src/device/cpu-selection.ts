/** Sparse latents by screening: which candidates are evaluated, and which of them are selected. */
import { share, type Crew, type CpuOp, type Screening } from "./cpu-crew.ts";
import { smallestOfLargest, PairList } from "./cpu-pairs.ts";
import {
  evaluate,
  prepare,
  roomFor,
  rowOfSample,
  screen,
  screenScratch,
  sizeOfRow,
  type Candidates,
  type Prepared,
  type Screened,
  type ScreenRoom,
} from "./cpu-screen.ts";

type Scratch = Record<string, number>;
type Range = readonly [first: number, last: number];

/** Rows of a batch that tell where the limits are. */
const SAMPLE_ROWS = 64;
/** By how much more latents than wanted the limit is put, in turn, until they are enough. */
const MARGINS = [1.15, 1.6];

/** Is screening worth its while? Screening must be possible where it is asked for always. */
export function screens(
  screening: Screening,
  { rows, wEnc }: Pick<Screened, "rows" | "wEnc">,
): boolean {
  if (screening === "always") return rows > 0;
  return screening === "auto" && rows >= 64 && wEnc.columns >= 64 && wEnc.rows >= 2048;
}

/** The same for the k largest of each row. Where they are more than a few of all latents, most rows are screened in vain. */
export function screensTopK(screening: Screening, op: CpuOp<"encodeTopK">): boolean {
  const k = op.indices.columns;
  const fewest = screening === "always" ? 2 * k : 64 * k;
  return !op.eligible && fewest <= op.wEnc.rows && screens(screening, op);
}

/** Candidates a row may have: several times as many as come to be selected, and never more than latents. */
const capacityFor = (k: number, { wEnc }: Pick<Screened, "wEnc">) =>
  Math.min(k > 0 ? Math.max(256, 24 * k) : 2048, wEnc.rows + 1);

/** The rows that one of `threads` workers has at most, of `rows` shared out in units. */
const mostRows = (rows: number, threads: number, unit: number) =>
  Math.ceil(Math.ceil(rows / unit) / threads) * unit;

const rowsIn = (rows: number, threads: number, unit: number, capacity: number) =>
  roomFor(Math.min(rows, mostRows(rows, threads, unit)), capacity);

/** A few rows of the batch, of which the largest values are found first. */
interface Sample {
  rows: number;
  /** How many values of each. */
  k: number;
  room: ScreenRoom;
}

function sampleOf(op: Pick<Screened, "rows" | "wEnc">, threads: number, k: number): Sample {
  const rows = Math.min(op.rows, SAMPLE_ROWS);
  return { rows, k, room: rowsIn(rows, threads, 16, capacityFor(k, op)) };
}

/** A batch top-k looks at several times as many of a row as it has to select on average. */
const batchSample = (op: CpuOp<"encodeBatchTopK">, threads: number) =>
  sampleOf(op, threads, Math.min(4 * Math.ceil(op.count / op.rows), op.wEnc.rows >> 1));

/** Scratch for screening all rows (for k of each, or 0) after a sample. */
export function selectionScratch(
  op: Screened,
  threads: number,
  unit: number,
  k: number,
  sample?: Sample,
): Scratch {
  const room = rowsIn(op.rows, threads, unit, capacityFor(k, op));
  const scratch = screenScratch(op, threads, room);
  if (!sample) return scratch;
  const { rows } = sample;
  const first = screenScratch({ rows, wEnc: op.wEnc }, threads, sample.room);
  for (const [name, bytes] of Object.entries(first)) scratch[name] = Math.max(scratch[name], bytes);
  return { ...scratch, sample: rows * op.x.stride * 4, sampleValues: rows * sample.k * 4 };
}

export const topKScratch = (op: CpuOp<"encodeTopK">, threads: number, unit: number) =>
  selectionScratch(
    op,
    threads,
    unit,
    op.indices.columns,
    sampleOf(op, threads, op.indices.columns),
  );

export const batchScratch = (op: CpuOp<"encodeBatchTopK">, threads: number, unit: number) =>
  selectionScratch(op, threads, unit, 0, batchSample(op, threads));

/**
 * `encodeTopK` of this worker's rows [first, last); returns the rows that are left for f32. Passes two
 * barriers.
 */
export async function screenedTopK(
  crew: Crew,
  op: CpuOp<"encodeTopK">,
  scratch: Scratch,
  mine: Range,
  unit: number,
): Promise<Int32Array> {
  const { kernels, shared } = crew;
  const k = op.indices.columns;
  const room = rowsIn(op.rows, crew.threads, unit, capacityFor(k, op));
  const prepared = prepare(crew, op, scratch, 0);
  const perSize = await guessPerSize(crew, op, scratch, prepared);
  const rest: number[] = [];
  const wanted = { k, limit: -Infinity, perSize };
  for await (const found of screen(crew, op, scratch, prepared, room, wanted, mine)) {
    const rows = found.last - found.first;
    const { ends, from, to, latents, uppers, z } = found;
    kernels.likelyCandidates(rows, ends, k, latents, uppers, from, to);
    evaluate(crew, op, scratch, room, found);
    kernels.remainingCandidates(rows, ends, k, latents, uppers, z, from, to);
    evaluate(crew, op, scratch, room, found);
    const codeRow = op.indices.stride * 4;
    const [values, indices] = [op.values, op.indices].map(
      ({ address }) => address + found.first * codeRow,
    );
    const list = [rows, ends, to, k, latents, z];
    kernels.takeLargest(...list, values, indices, codeRow, found.limits, from);
    const missed = new Int32Array(shared.buffer, from, rows);
    for (let n = 0; n < rows; n++) if (missed[n] !== 0) rest.push(found.first + n);
    for (const row of found.givenUp) rest.push(row);
  }
  return Int32Array.from(rest).sort();
}

/**
 * A multiple of a row's size that its k-th largest z will hardly be below: a little less than in any row of
 * the sample, or -Infinity if there is none. Passes a barrier.
 */
async function guessPerSize(
  crew: Crew,
  op: CpuOp<"encodeTopK">,
  scratch: Scratch,
  prepared: Prepared,
): Promise<number> {
  const sample = sampleOf(op, crew.threads, op.indices.columns);
  const values = await sampleLargest(crew, op, scratch, prepared, sample);
  const { rows, k } = sample;
  let least = Infinity;
  for (let n = 0; n < rows; n++) {
    let smallest = Infinity;
    for (let j = n * k; j < (n + 1) * k; j++) smallest = Math.min(smallest, values[j]);
    const size = sizeOfRow(crew, op, prepared, rowOfSample(n, rows, op.rows));
    // Not where the row was given up, its values being NaN.
    if (smallest < Infinity && size > 0) least = Math.min(least, smallest / size);
  }
  return least > 0 && least < Infinity ? 0.95 * least : -Infinity;
}

/**
 * Adds to the list the pairs of this worker's rows [first, last) with z > limitOf(latent), row by row;
 * returns the rows that are left for f32. Passes a barrier.
 */
export async function screenedAbove(
  crew: Crew,
  op: CpuOp<"encodeThreshold">,
  scratch: Scratch,
  mine: Range,
  unit: number,
  limitOf: (latent: number) => number,
  list: PairList,
): Promise<Int32Array> {
  const limits = new Float32Array(crew.shared.buffer, scratch.limits, op.wEnc.rows);
  const [first, last] = share(crew, op.wEnc.rows, 16);
  for (let f = first; f < last; f++) limits[f] = limitOf(f);
  // Each worker quantises the latents whose limits it has just written; the others' come after a barrier.
  const prepared = prepare(crew, op, scratch, scratch.limits);
  const above = { limits: scratch.limits, limit: 0, capacity: op.indices.columns };
  return takeAbove(crew, op, scratch, prepared, mine, unit, above, list);
}

/** Evaluates all candidates and adds to the list those above their limit; returns the rows that were given up. */
async function takeAbove(
  crew: Crew,
  op: Screened,
  scratch: Scratch,
  prepared: Prepared,
  mine: Range,
  unit: number,
  above: { limits: number; limit: number; capacity: number },
  list: PairList,
): Promise<Int32Array> {
  const { kernels, shared } = crew;
  const room = rowsIn(op.rows, crew.threads, unit, capacityFor(0, op));
  const rest: number[] = [];
  // Offsets are subtracted already, where there are any.
  const wanted = { k: 0, limit: above.limit, perSize: -Infinity };
  for await (const found of screen(crew, op, scratch, prepared, room, wanted, mine)) {
    evaluateAll(crew, op, scratch, room, found);
    const { ends, latents, uppers, z } = found;
    const rows = found.last - found.first;
    // Upper bounds have done their work: the rows' numbers take their place.
    const count = kernels.takeAbove(
      ...[rows, ends, found.first, above.limits, above.limit, uppers, latents, z],
    );
    list.add(
      new Int32Array(shared.buffer, uppers, count),
      new Int32Array(shared.buffer, latents, count),
      new Float32Array(shared.buffer, z, count),
      above.capacity,
    );
    for (const row of found.givenUp) rest.push(row);
  }
  return Int32Array.from(rest);
}

function evaluateAll(
  crew: Crew,
  op: Screened,
  scratch: Scratch,
  room: ScreenRoom,
  found: Candidates,
): void {
  const rows = found.last - found.first;
  const numbers = (address: number) => new Int32Array(crew.shared.buffer, address, rows);
  const ends = numbers(found.ends);
  numbers(found.to).set(ends);
  const from = numbers(found.from);
  from.set(ends.subarray(0, rows - 1), 1);
  from[0] = 0;
  evaluate(crew, op, scratch, room, found);
}

/**
 * The pairs of this worker's rows that may be among the `count` largest of all, by row, then latent, or
 * undefined (for all workers) when no limit was found that tells them from the others. `collect` does the same in f32
 * for rows that were given up.
 */
export async function screenedBatch(
  crew: Crew,
  op: CpuOp<"encodeBatchTopK">,
  scratch: Scratch,
  mine: Range,
  unit: number,
  collect: (rows: Int32Array, list: PairList, limit: number) => Promise<void>,
): Promise<PairList | undefined> {
  const { shared, thread, threads } = crew;
  const prepared = prepare(crew, op, scratch, 0);
  const sample = batchSample(op, threads);
  const sampled = await sampleLargest(crew, op, scratch, prepared, sample);
  const values = sampled.filter((z) => !Number.isNaN(z));
  const sampledRows = values.length / sample.k;
  const counts = new Int32Array(shared.buffer, scratch.counts, threads);
  for (const margin of MARGINS) {
    const wanted = Math.ceil((margin * op.count * sampledRows) / op.rows);
    if (wanted >= values.length) return undefined;
    // Only values above 0 are ever selected; that many positive ones there are not.
    const cutoff = smallestOfLargest(values, wanted);
    if (!(cutoff > 0)) return undefined;
    const list = new PairList(...mine);
    const above = { limits: 0, limit: cutoff, capacity: Infinity };
    const rest = await takeAbove(crew, op, scratch, prepared, mine, unit, above, list);
    await collect(rest, list, cutoff);
    list.sort();
    counts[thread] = list.count;
    crew.barrier();
    const found = counts.reduce((sum, n) => sum + n, 0);
    crew.barrier(); // before anyone writes counts again
    if (found >= op.count) return list;
  }
  return undefined;
}

/**
 * The largest z of each row of the sample [rows, k], or nearly so; NaN of rows that were given up. The same in
 * all workers. Passes a barrier.
 */
async function sampleLargest(
  crew: Crew,
  op: Screened,
  scratch: Scratch,
  prepared: Prepared,
  { rows, k, room }: Sample,
): Promise<Float32Array> {
  const { kernels, shared } = crew;
  const stride = op.x.stride;
  const mine = share(crew, rows, 16);
  const x = new Float32Array(shared.buffer, op.x.address, op.rows * stride);
  const sample = new Float32Array(shared.buffer, scratch.sample, rows * stride);
  for (let n = mine[0]; n < mine[1]; n++) {
    const row = rowOfSample(n, rows, op.rows);
    sample.set(x.subarray(row * stride, (row + 1) * stride), n * stride);
  }
  const sampled = { ...op, rows, x: { ...op.x, address: scratch.sample, rows } };
  const values = new Float32Array(shared.buffer, scratch.sampleValues, rows * k);
  values.fill(NaN, mine[0] * k, mine[1] * k);
  const wanted = { k, limit: -Infinity, perSize: -Infinity };
  for await (const found of screen(crew, sampled, scratch, prepared, room, wanted, mine)) {
    const count = found.last - found.first;
    const { ends, from, to, latents, uppers, z } = found;
    // The k of the largest upper bounds: for a guess they need not be the k largest.
    kernels.likelyCandidates(count, ends, k, latents, uppers, from, to);
    evaluate(crew, sampled, scratch, room, found);
    const [begin, end] = [from, to].map((at) => new Int32Array(shared.buffer, at, count));
    for (let n = 0; n < count; n++) {
      const some = new Float32Array(shared.buffer, z + begin[n] * 4, end[n] - begin[n]);
      values.set(some, (found.first + n) * k);
    }
  }
  crew.barrier();
  return values.slice();
}
