/**
 * Which latents of a row may be wanted, found without computing its pre-activations in f32.
 *
 * With u = (x - bPre - μ)/C and v = C W_enc[f], for any μ and any diagonal C,
 *
 *     z = ⟨x - bPre, W_enc[f]⟩ + b_f = ⟨u, v⟩ + ⟨μ, W_enc[f]⟩ + b_f,
 *
 * and with int8 copies û, v̂ of u and v (one scale per row, one per latent), by Cauchy and Schwarz,
 *
 *     |⟨u, v⟩ - ⟨û, v̂⟩| ≤ ‖u‖ ‖v - v̂‖ + ‖u - û‖ ‖v̂‖.
 *
 * All four norms are computed, none is estimated, and the rounding of z itself in f32 is added to
 * them (assembly/quantize.ts); so the bound holds for the very number that `dot` gives. Latents whose
 * upper bound reaches a limit are candidates, and only their z is computed. For the k largest the
 * limit is the k-th largest lower bound seen so far.
 *
 * μ and C only make the bound tight: μ is the mean of typical rows, so that it does not matter where
 * zero is, and C evens out coordinates of large variance. A row that is not helped by it (far larger
 * than others in one coordinate, all latents alike, not finite) soon has more candidates than its list holds; it is
 * given up, for its caller to do it in f32. All of this depends on the row, the latents and the sample
 * that μ and C come from, never on what ran before or on how rows are shared among threads.
 */
import { share, type Crew } from "./cpu-crew.ts";
import { roundUp, type CpuTensor } from "./cpu-memory.ts";
import { FLIP } from "./cpu-products.ts";

/** Latents and rows of one integer product: its result, and what it is made of, fit into a core's cache. */
const TILE = 512;
const BLOCK = 256;

/** Rows that μ and C come from. */
const SAMPLE = 128;

/** Bytes that the lists of candidates of a worker's rows take at a time, about. */
const LIST_BYTES = 2 ** 25;

/** What is screened. */
export interface Screened {
  rows: number;
  x: CpuTensor;
  bPre: CpuTensor | null;
  wEnc: CpuTensor;
  bEnc: CpuTensor;
}

/** The room for lists of candidates: what a row may have, and how many rows a worker does at a time. */
export interface ScreenRoom {
  capacity: number;
  strip: number;
}

/** Room for at most `most` rows of a worker. */
export function roomFor(most: number, capacity: number): ScreenRoom {
  const blocks = Math.max(1, Math.floor(LIST_BYTES / (12 * capacity * BLOCK)));
  return { capacity, strip: Math.min(roundUp(Math.max(1, most), 16), blocks * BLOCK) };
}

/** The candidates of rows first … last-1, ragged, in the shared memory (assembly/candidates.ts). */
export interface Candidates {
  first: number;
  last: number;
  /** Address of x - bPre of the first row. */
  centred: number;
  /** Addresses: three numbers of every slot, and four of every row. */
  latents: number;
  uppers: number;
  z: number;
  ends: number;
  from: number;
  to: number;
  /** The limit that each row was screened with at first. */
  limits: number;
  /** Rows without candidates, since they were given up. */
  givenUp: number[];
}

/** The count of a row that was given up (assembly/screen.ts). */
const GIVEN_UP = -1;

/** Arrays that assembly/quantize.ts writes; the last one of latents is not needed for screening. */
const PER_LATENT = 6;
const SCREENED_PER_LATENT = 5;
const PER_ROW = 4;

/** Bytes of shared memory that screening takes. */
export function screenScratch(
  { rows, wEnc }: Pick<Screened, "rows" | "wEnc">,
  threads: number,
  { capacity, strip }: ScreenRoom,
): Record<string, number> {
  const d = wEnc.stride;
  return {
    frame: threads * 3 * d * 4,
    bytes: wEnc.rows * d,
    statistics: PER_LATENT * wEnc.rows * 4,
    centred: rows * d * 4,
    quantized: threads * strip * d,
    rowStatistics: threads * PER_ROW * strip * 4,
    candidates: threads * strip * capacity * 12,
    rowEnds: threads * strip * 16,
    latentCounts: threads * (wEnc.rows + 1) * 4,
    pairs: threads * strip * capacity * 8,
  };
}

/** What rows are quantised with. */
export interface Prepared {
  /** Addresses of μ and 1/C. */
  center: number;
  shrink: number;
  /** ‖μ‖, rounded up. */
  centerLength: number;
  /** The error of z by rounding is below rounding · (‖x - bPre‖ + ‖μ‖) · ‖v̂‖. */
  rounding: number;
}

/**
 * Quantises W_enc, each worker its part. `offsets` is the address of [F] numbers that are subtracted
 * from z before it is compared with a limit, or 0. Passes a barrier.
 */
export function prepare(
  crew: Crew,
  op: Screened,
  scratch: Record<string, number>,
  offsets: number,
): Prepared {
  const { kernels, shared, thread } = crew;
  const { wEnc, bEnc } = op;
  const d = wEnc.stride;
  const latents = wEnc.rows;
  const center = scratch.frame + thread * 3 * d * 4;
  const [stretch, shrink] = [center + d * 4, center + d * 8];
  const { mean, scales } = calibrate(crew, op);
  new Float32Array(shared.buffer, center, d).set(mean);
  new Float32Array(shared.buffer, stretch, d).set(scales);
  new Float32Array(shared.buffer, shrink, d).set(scales.map((c) => 1 / c));
  kernels.quantizeLatents(
    ...[wEnc.address, d * 4, bEnc.address, offsets, center, stretch],
    ...[scratch.bytes, scratch.statistics, latents, ...share(crew, latents, 16)],
  );
  crew.barrier();
  const statistics = new Float32Array(shared.buffer, scratch.statistics, PER_LATENT * latents);
  const [sizes, lengths] = [statistics.subarray(3 * latents), statistics.subarray(5 * latents)];
  // Rounding goes with the lengths of W_enc's rows, the bound's second term with their copies'.
  let ratio = 1;
  for (let f = 0; f < latents; f++)
    if (sizes[f] > 0) ratio = Math.max(ratio, lengths[f] / sizes[f]);
  return {
    ...{ center, shrink, centerLength: Math.hypot(...mean) * 1.001 },
    // `dot` adds d/16 products in each of 16 lanes, then the lanes; ⟨μ, W_enc[f]⟩ is added in 4.
    rounding: ratio * (d / 4 + 32) * 2 ** -24,
  };
}

/** Row n of a sample of `count` of `rows` rows: one of each of as many equal parts, where in it changing from part to part. */
export function rowOfSample(n: number, count: number, rows: number): number {
  // The golden ratio: no period of the rows is missed, or hit each time.
  const within = (n * 0.618033988749895) % 1;
  return Math.floor(((n + within) * rows) / count);
}

/** μ and C from a sample of rows of usual size, the same in every worker. */
function calibrate({ shared }: Crew, { rows, x, bPre }: Screened) {
  const d = x.stride;
  const count = Math.min(rows, SAMPLE);
  const shift = bPre ? new Float32Array(shared.buffer, bPre.address, d) : new Float32Array(d);
  const sample = new Float32Array(count * d);
  const squares = new Float64Array(count);
  for (let n = 0; n < count; n++) {
    const row = rowOfSample(n, count, rows);
    const from = new Float32Array(shared.buffer, x.address + row * d * 4, d);
    for (let c = 0; c < d; c++) {
      const v = Math.fround(from[c] - shift[c]);
      sample[n * d + c] = v;
      squares[n] += v * v;
    }
  }
  // NaN sorts last.
  const usual = squares.slice().sort()[count >> 1];
  const sums = new Float64Array(d);
  const sumsOfSquares = new Float64Array(d);
  let used = 0;
  for (let n = 0; n < count; n++) {
    if (!(squares[n] <= 16 * usual && squares[n] < 1e24)) continue;
    used++;
    for (let c = 0; c < d; c++) {
      const v = sample[n * d + c];
      sums[c] += v;
      sumsOfSquares[c] += v * v;
    }
  }
  const mean = new Float32Array(d);
  const deviations = new Float64Array(d);
  for (let c = 0; c < d && used > 0; c++) {
    mean[c] = sums[c] / used;
    deviations[c] = Math.sqrt(Math.max(0, sumsOfSquares[c] / used - (sums[c] / used) ** 2));
  }
  const middle = deviations.slice().sort()[d >> 1];
  const scales = new Float32Array(d).fill(1);
  for (let c = 0; c < d; c++) {
    // Half of a large deviation (of its logarithm) burdens the rows, the other half the latents.
    const power = Math.round(Math.log2(deviations[c] / middle) / 2);
    if (Number.isFinite(power)) scales[c] = 2 ** Math.min(8, Math.max(0, power));
  }
  return { mean, scales };
}

/** ‖(x - bPre - μ)/C‖ of row n, as a row's size is measured. */
export function sizeOfRow(
  { shared }: Crew,
  { x, bPre }: Screened,
  { center, shrink }: Prepared,
  n: number,
): number {
  const d = x.stride;
  const floats = (address: number) => new Float32Array(shared.buffer, address, d);
  const [row, mean, inverse] = [x.address + n * d * 4, center, shrink].map(floats);
  const shift = bPre ? floats(bPre.address) : new Float32Array(d);
  let sum = 0;
  for (let c = 0; c < d; c++) sum += ((row[c] - shift[c] - mean[c]) * inverse[c]) ** 2;
  return Math.sqrt(sum);
}

/**
 * The candidates of rows [first, last), strip by strip; those of a strip are valid until the next is asked for.
 * They hold all z of a row that, less the offsets, are at least `limit`, and at least `perSize` times the
 * row's size; with k > 0 only as many of them as the k largest may be among.
 */
export async function* screen(
  crew: Crew,
  op: Screened,
  scratch: Record<string, number>,
  prepared: Prepared,
  { capacity, strip }: ScreenRoom,
  { k, limit, perSize }: { k: number; limit: number; perSize: number },
  [first, last]: readonly [number, number],
): AsyncGenerator<Candidates, void> {
  const { own, ownKernels, kernels, shared, thread, byteForm } = crew;
  const { wEnc, x, bPre } = op;
  const d = wEnc.stride;
  const latents = wEnc.rows;
  const tile = Math.min(TILE, latents);
  const at = own.layOut({
    ...{ bytes: Math.ceil((tile * d) / 4), product: tile * BLOCK },
    ...{ statistics: SCREENED_PER_LATENT * tile, x: (strip * d) / 4, rows: PER_ROW * strip },
    ...{ counts: strip, lists: 3 * strip * capacity, spare: capacity },
    ...{ latents: BLOCK * capacity, uppers: BLOCK * capacity, ends: BLOCK },
  });
  const quantized = scratch.quantized + thread * strip * d;
  const rowStatistics = scratch.rowStatistics + thread * PER_ROW * strip * 4;
  const slots = scratch.candidates + thread * strip * capacity * 12;
  const rowEnds = scratch.rowEnds + thread * strip * 16;
  const places = {
    ...{ latents: slots, uppers: slots + strip * capacity * 4, z: slots + strip * capacity * 8 },
    ...{ ends: rowEnds, from: rowEnds + strip * 4, to: rowEnds + strip * 8 },
    limits: rowEnds + strip * 12,
  };
  const perLatent = new Float32Array(shared.buffer, scratch.statistics, PER_LATENT * latents);
  for (let start = first; start < last; start += strip) {
    const rows = Math.min(strip, last - start);
    const blocks = Array.from({ length: Math.ceil(rows / BLOCK) }, (_, b) => {
      const row = b * BLOCK;
      const count = Math.min(BLOCK, rows - row);
      return { row, count, width: roundUp(count, 16), stats: row * PER_ROW * 4 };
    });
    for (const { row, count, width, stats } of blocks) {
      kernels.quantizeRows(
        ...[x.address, bPre?.address ?? 0, d * 4, prepared.center, prepared.centerLength],
        ...[prepared.shrink, prepared.rounding, scratch.centred, quantized + row * d, width],
        ...[FLIP[byteForm], rowStatistics + stats, start + row, start + row + count],
      );
      const numbers = own.f32(at.rows + stats, PER_ROW * width);
      numbers.set(new Float32Array(shared.buffer, rowStatistics + stats, PER_ROW * width));
      const limits = numbers.subarray(3 * width);
      // Rows that cannot be worked with, and columns without a row, reach no limit.
      const counts = own.i32(at.counts + row * 4, width);
      for (let n = 0; n < width; n++) {
        counts[n] = limits[n] < Infinity ? 0 : GIVEN_UP;
        // Not -Infinity times a size of 0.
        const guess = perSize === -Infinity ? limit : perSize * numbers[width + n];
        limits[n] = n < count && limits[n] < Infinity ? Math.max(limit, guess) : Infinity;
      }
      own.copyOut(at.rows + stats + 12 * width, places.limits + row * 4, count * 4);
    }
    own.copyIn(at.x, quantized, roundUp(rows, 16) * d);
    for (let f = 0; f < latents; f += tile) {
      const m = Math.min(tile, latents - f);
      own.copyIn(at.bytes, scratch.bytes + f * d, m * d);
      for (let s = 0; s < SCREENED_PER_LATENT; s++) {
        const some = perLatent.subarray(s * latents + f, s * latents + f + m);
        own.f32(at.statistics + s * m * 4, m).set(some);
      }
      for (const { row, width, stats } of blocks) {
        // Nothing to look for where all rows were given up.
        const limits = own.f32(at.rows + stats + 12 * width, width);
        if (limits.every((least) => least === Infinity)) continue;
        const factors = { a: at.bytes, b: at.x + row * d };
        await own.multiplyBytes({ m, n: width, k: d, ...factors, out: at.product }, byteForm);
        ownKernels.collectCandidates(
          ...[at.product, width, at.statistics, m, f, at.rows + stats],
          ...[at.counts + row * 4, at.lists + row * capacity * 12, capacity, k, at.spare],
        );
      }
    }
    // From every row's own list to one ragged list in the shared memory.
    const givenUp: number[] = [];
    let total = 0;
    for (const { row, count } of blocks) {
      const before = total;
      total = ownKernels.packCandidates(
        ...[count, at.counts + row * 4, at.lists + row * capacity * 12, capacity, k],
        ...[at.latents, at.uppers, at.ends, before],
      );
      own.copyOut(at.latents, places.latents + before * 4, (total - before) * 4);
      own.copyOut(at.uppers, places.uppers + before * 4, (total - before) * 4);
      own.copyOut(at.ends, places.ends + row * 4, count * 4);
      const counts = own.i32(at.counts + row * 4, count);
      for (let n = 0; n < count; n++) if (counts[n] < 0) givenUp.push(start + row + n);
    }
    const centred = scratch.centred + start * d * 4;
    yield { ...places, first: start, last: start + rows, centred, givenUp };
  }
}

/** Computes the z of slots from[n] … to[n]-1 of every row. */
export function evaluate(
  { kernels, thread }: Crew,
  { wEnc, bEnc }: Screened,
  scratch: Record<string, number>,
  { capacity, strip }: ScreenRoom,
  found: Candidates,
): void {
  kernels.evaluateCandidates(
    ...[found.centred, wEnc.address, wEnc.stride * 4, bEnc.address, wEnc.rows],
    ...[found.last - found.first, found.latents, found.from, found.to, found.z],
    ...[scratch.latentCounts + thread * (wEnc.rows + 1) * 4],
    ...[scratch.pairs + thread * strip * capacity * 8],
  );
}
