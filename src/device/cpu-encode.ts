/**
 * Encoding on the cpu device. Sparse latents are found by screening (cpu-screen.ts), which computes
 * few pre-activations; rows that it gives up, and calls too small for it, are done by products in f32,
 * tile by tile, and what is kept of each while it is in the cache.
 */
import { BLOCK_ROWS, layOutProduct, plain, product, dealBlocks, transposed } from "./cpu-blocks.ts";
import { share, type Crew, type CpuOp, type Ops, type Scratch } from "./cpu-crew.ts";
import { roundUp } from "./cpu-memory.ts";
import { countSelected, PairList, smallestOfLargest } from "./cpu-pairs.ts";
import {
  screenedAbove,
  screenedBatch,
  screenedTopK,
  screens,
  screensTopK,
  batchScratch,
  selectionScratch,
  topKScratch,
} from "./cpu-selection.ts";

type Encoding = CpuOp<"encodeTopK"> | CpuOp<"encodeBatchTopK"> | CpuOp<"encodeThreshold">;

export const encodeOps: Ops<"encodeTopK" | "encodeBatchTopK" | "encodeThreshold" | "encodeDense"> =
  {
    async encodeTopK(op, crew, scratch) {
      const mine = sharedRows(crew, op.rows);
      const rest = screensTopK(crew.screening, op)
        ? await screenedTopK(crew, op, scratch, mine, unitOf(op.rows))
        : rowsOf(mine);
      await largestOfRows(crew, op, rest);
    },

    async encodeThreshold(op, crew, scratch) {
      const { shared } = crew;
      const capacity = op.indices.columns;
      const dSae = op.wEnc.rows;
      const thresholds =
        op.threshold && new Float32Array(shared.buffer, op.threshold.address, dSae);
      const limitOf = (f: number) => Math.fround((thresholds ? thresholds[f] : 0) - op.margin);
      const mine = sharedRows(crew, op.rows);
      const list = new PairList(...mine);
      const rest = screens(crew.screening, op)
        ? await screenedAbove(crew, op, scratch, mine, unitOf(op.rows), limitOf, list)
        : rowsOf(mine);
      await collect(crew, op, rest, list, capacity, limitOf);
      list.sort();
      const offset = publishCounts(crew, scratch, list);
      const total = new Int32Array(shared.buffer, op.total.address, 1);
      if (crew.thread === 0) total[0] = offset.total;
      if (offset.total > capacity) return;
      const to = list.copyTo(shared.buffer, op, offset.start);
      const pre = op.pre && new Float32Array(shared.buffer, op.pre.address, capacity);
      pre?.set(list.values.subarray(0, list.count), offset.start);
      for (let i = 0; i < list.count; i++) {
        const z = to.values[i];
        if (!(z > 0 && z > (thresholds ? thresholds[to.indices[i]] : 0))) to.values[i] = 0;
      }
    },

    async encodeBatchTopK(op, crew, scratch) {
      const { shared, threads, thread } = crew;
      const { count } = op;
      const list = await largestOfBatch(crew, op, scratch);
      if (count < list.count) {
        const own = smallestOfLargest(list.values.subarray(0, list.count), count);
        list.keep((z) => z >= own);
      }
      // Whatever the worker's share kept is at most its ties more than `count`; all see the values of all.
      const all = exchangeValues(crew, scratch, list, count);
      const cutoff = count === 0 || all.length === 0 ? Infinity : smallestOfLargest(all, count);
      const { ties, selected } = countSelected(list, cutoff);
      const counts = new Int32Array(shared.buffer, scratch.counts, 2 * threads);
      counts[2 * thread] = selected;
      counts[2 * thread + 1] = ties;
      crew.barrier();
      // Ties at the cutoff go to the lower rows: the shares of lower threads come first.
      let room = count;
      for (let t = 0; t < threads; t++) room -= counts[2 * t];
      let start = 0;
      for (let t = 0; t < threads; t++) {
        const taken = Math.min(Math.max(room, 0), counts[2 * t + 1]);
        if (t === thread) list.keepAbove(cutoff, taken);
        if (t < thread) start += counts[2 * t] + taken;
        room -= taken;
      }
      list.copyTo(shared.buffer, op, start);
      if (thread === 0)
        new Float32Array(shared.buffer, op.cutoff.address, 1)[0] = Number.isFinite(cutoff)
          ? cutoff
          : 0;
    },

    async encodeDense(op, crew) {
      const { own, kernels } = crew;
      const { x, bPre, wEnc, bEnc, out } = op;
      const blocks = dealBlocks(crew, op.rows, wEnc.rows);
      const size = { m: blocks.height, n: blocks.width, inner: wEnc.stride, common: "a" } as const;
      const at = layOutProduct(own, size, { center: wEnc.stride });
      if (bPre) own.load(at.center, bPre, 0, 1);
      const a = plain(x, bPre ? at.center : 0);
      for (const [m0, m1, n0, n1] of blocks) {
        await product(crew, at, a, transposed(wEnc), [m0, m1], [n0, n1], [0, wEnc.stride]);
        own.store(at.out, n1 - n0, out, m0, m1, n0, n1);
        kernels.addBias(
          ...[out.address, bEnc.address, +(op.activation === "relu"), out.stride * 4],
          ...[m0, m1, n0 * 4, n1 * 4],
        );
      }
    },
  };

/** What is exchanged between workers: how many each one has found, for batch top-k its values too. */
export const encodeScratch: Scratch<"encodeTopK" | "encodeBatchTopK" | "encodeThreshold"> = {
  encodeTopK: (op, threads, screening) =>
    screensTopK(screening, op) ? topKScratch(op, threads, unitOf(op.rows)) : {},
  encodeThreshold: (op, threads, screening) => ({
    counts: threads * 8,
    ...(screens(screening, op) && {
      limits: op.bEnc.stride * 4,
      ...selectionScratch(op, threads, unitOf(op.rows), 0),
    }),
  }),
  encodeBatchTopK: (op, threads, screening) => ({
    counts: threads * 8,
    // The values of every share, none of more than `count`.
    lengths: threads * 4,
    values: threads * Math.max(1, op.count) * 4,
    ...(screens(screening, op) && batchScratch(op, threads, unitOf(op.rows))),
  }),
};

/** Rows of a block of f32 products, at whose multiples the rows are shared. */
const unitOf = (rows: number) =>
  Math.min(BLOCK_ROWS, Math.max(64, roundUp(Math.ceil(rows / 8), 16)));

const sharedRows = (crew: Crew, rows: number) => share(crew, rows, unitOf(rows));

function rowsOf([first, last]: readonly [number, number]): Int32Array {
  return new Int32Array(last - first).map((_, n) => first + n);
}

/** `encodeTopK` of the numbered rows, by products in f32. */
async function largestOfRows(crew: Crew, op: CpuOp<"encodeTopK">, rows: Int32Array): Promise<void> {
  if (rows.length === 0) return;
  const { own, ownKernels } = crew;
  const k = op.indices.columns;
  const latents = eligibleLatents(op, crew.shared);
  const at = layOutTiles(crew, op, latents.length, {
    values: rows.length * k,
    indices: rows.length * k,
  });
  await forEachTile(crew, op, at, latents, rows, (some, offered, n, count) => {
    const heap = n * k * 4;
    ownKernels.offerToHeaps(
      ...[at.z, at.tile * 4, at.bias, at.numbers, some.length, count],
      ...[at.values + heap, at.indices + heap, k, offered],
    );
  });
  ownKernels.finishHeaps(at.values, at.indices, k, latents.length, rows.length);
  own.storeRows(at.values, k, op.values, rows);
  own.storeRows(at.indices, k, op.indices, rows);
}

/** The pairs of this worker's rows that may be among the `count` largest of all, by row, then latent. */
async function largestOfBatch(
  crew: Crew,
  op: CpuOp<"encodeBatchTopK">,
  scratch: Record<string, number>,
): Promise<PairList> {
  const { count } = op;
  const mine = sharedRows(crew, op.rows);
  if (count > 0 && screens(crew.screening, op)) {
    const screened = await screenedBatch(
      ...([crew, op, scratch, mine, unitOf(op.rows)] as const),
      (rows, list, limit) => collect(crew, op, rows, list, Infinity, () => limit),
    );
    if (screened) return screened;
  }
  // A worker's list is cut down to its own `count` largest whenever it has grown far beyond.
  let least = 0;
  const list = new PairList(...mine);
  await collect(...([crew, op, rowsOf(mine), list, Infinity, () => least] as const), () => {
    if (count === 0 || list.count < Math.max(4 * count, 65_536)) return;
    least = smallestOfLargest(list.values.subarray(0, list.count), count);
    list.keep((z) => z >= least);
    // Values equal to it must still be found, for the tie to go to the lower row.
    least = below(least);
  });
  list.sort();
  return list;
}

/** Room for a block of rows, a tile of latents and their product, and for `more` floats by name. */
function layOutTiles<More extends string>(
  { own }: Crew,
  op: Encoding,
  latents: number,
  more: Record<More, number>,
) {
  const d = op.wEnc.stride;
  const block = unitOf(op.rows);
  // All tiles have one size (the last is filled up), so that equal latents get equal sums.
  const most = Math.max(64, Math.min(1024, Math.floor(2 ** 21 / d)));
  const tile = roundUp(Math.ceil(latents / Math.ceil(latents / most)) || 16, 16);
  const own4 = {
    ...{ w: tile * d, bias: tile, limits: tile, numbers: tile },
    ...{ x: block * d, center: d, z: block * tile },
  };
  const at = own.layOut<string>({ ...own4, ...more }) as Record<keyof typeof own4 | More, number>;
  return { ...at, tile, block };
}

type TileRoom = Record<"w" | "bias" | "numbers" | "x" | "center" | "z" | "tile" | "block", number>;

/**
 * Runs `use` for every tile of latents and block of the numbered rows, with their product (without
 * the bias) in `at.z`: the latents, how many came before them, how many rows came before, and how many rows.
 */
async function forEachTile(
  crew: Crew,
  op: Encoding,
  at: TileRoom,
  latents: Int32Array,
  rows: Int32Array,
  use: (some: Int32Array, offered: number, n: number, count: number) => void,
): Promise<void> {
  const { own, ownKernels, shared } = crew;
  const { x, bPre, wEnc, bEnc } = op;
  const d = wEnc.stride;
  const { tile, block } = at;
  if (bPre) own.load(at.center, bPre, 0, 1);
  const allBias = new Float32Array(shared.buffer, bEnc.address, bEnc.columns);
  for (let offered = 0; offered < latents.length; offered += tile) {
    const some = latents.subarray(offered, offered + tile);
    own.loadRows(at.w, wEnc, some);
    own.i32(at.numbers, tile).set(some);
    const bias = own.f32(at.bias, tile).fill(-Infinity);
    for (let c = 0; c < some.length; c++) bias[c] = allBias[some[c]];
    for (let n = 0; n < rows.length; n += block) {
      const count = Math.min(block, rows.length - n);
      // The only block need not be loaded again.
      if (offered === 0 || rows.length > block) {
        own.loadRows(at.x, x, rows.subarray(n, n + count));
        if (bPre) ownKernels.centerRows(at.x, at.center, d * 4, count);
      }
      // Never a single row: products of one row add in another order, which differs by column.
      const m = roundUp(count, 4);
      const [a, b] = [at.x, at.w];
      await own.multiply({ transA: false, transB: true, m, n: tile, k: d, a, b, out: at.z });
      use(some, offered, n, count);
    }
  }
}

/**
 * Adds to the list the pairs of the numbered rows with z > limitOf(latent), latents rising. Beyond
 * `capacity` they are only counted. `after` may cut the list down, tile by tile.
 */
async function collect(
  crew: Crew,
  op: CpuOp<"encodeBatchTopK"> | CpuOp<"encodeThreshold">,
  rows: Int32Array,
  list: PairList,
  capacity: number,
  limitOf: (latent: number) => number,
  after: () => void = () => undefined,
): Promise<void> {
  if (rows.length === 0) return;
  const { own, ownKernels } = crew;
  const dSae = op.wEnc.rows;
  const room = unitOf(op.rows) * Math.min(roundUp(dSae, 16), 1024);
  const at = layOutTiles(crew, op, dSae, { rows: room, latents: room, values: room });
  await forEachTile(crew, op, at, allLatents(dSae), rows, (some, offered, n, count) => {
    const limits = own.f32(at.limits, at.tile).fill(Infinity);
    for (let c = 0; c < some.length; c++) limits[c] = limitOf(some[c]);
    const found = ownKernels.collectAbove(
      ...[at.z, at.tile * 4, at.bias, at.limits, some.length, count, n, offered],
      ...[at.rows, at.latents, at.values, room, 0],
    );
    const numbers = own.i32(at.rows, found);
    for (let i = 0; i < found; i++) numbers[i] = rows[numbers[i]];
    list.add(numbers, own.i32(at.latents, found), own.f32(at.values, found), capacity);
    after();
  });
}

/** Tells all workers how long each one's list is; returns where this one's begins, and their sum. */
function publishCounts(
  crew: Crew,
  scratch: Record<string, number>,
  list: PairList,
): { start: number; total: number } {
  const { thread, threads, shared } = crew;
  const counts = new Int32Array(shared.buffer, scratch.counts, threads);
  counts[thread] = list.total;
  crew.barrier();
  let [start, total] = [0, 0];
  for (let t = 0; t < threads; t++) {
    if (t < thread) start += counts[t];
    total += counts[t];
  }
  return { start, total };
}

/** The values of all workers' lists; of one that is longer than `count`, ties with its smallest, only `count`. */
function exchangeValues(
  crew: Crew,
  scratch: Record<string, number>,
  list: PairList,
  count: number,
): Float32Array {
  const { thread, threads, shared } = crew;
  const room = Math.max(1, count);
  const lengths = new Int32Array(shared.buffer, scratch.lengths, threads);
  const values = new Float32Array(shared.buffer, scratch.values, threads * room);
  const own = list.values.slice(0, list.count);
  // The largest of them: those it leaves out are ties with the smallest.
  if (own.length > count) own.sort().reverse();
  lengths[thread] = Math.min(own.length, count);
  values.set(own.subarray(0, lengths[thread]), thread * room);
  crew.barrier();
  const all = new Float32Array(lengths.reduce((sum, n) => sum + n, 0));
  for (let t = 0, end = 0; t < threads; end += lengths[t++])
    all.set(values.subarray(t * room, t * room + lengths[t]), end);
  return all;
}

/** The next f32 towards 0 of a positive f32. */
function below(value: number): number {
  const bits = new Int32Array(new Float32Array([value]).buffer);
  bits[0] -= 1;
  return new Float32Array(bits.buffer)[0];
}

function allLatents(dSae: number): Int32Array {
  return new Int32Array(dSae).map((_, f) => f);
}

/** The numbers of the latents that may be selected, rising. */
function eligibleLatents(op: CpuOp<"encodeTopK">, shared: WebAssembly.Memory): Int32Array {
  const all = allLatents(op.wEnc.rows);
  if (!op.eligible) return all;
  const sinceFired = new Int32Array(shared.buffer, op.eligible.sinceFired.address, all.length);
  let count = 0;
  for (let f = 0; f < all.length; f++) if (sinceFired[f] >= op.eligible.atLeast) all[count++] = f;
  return all.subarray(0, count);
}
