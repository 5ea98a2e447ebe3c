/** Encoding on the cpu device: products tile by tile, and what is kept of each while it is in the cache. */
import { BLOCK_ROWS, layOutProduct, plain, product, dealBlocks, transposed } from "./cpu-blocks.ts";
import { share, type Crew, type CpuOp, type Ops, type Scratch } from "./cpu-crew.ts";
import { roundUp } from "./cpu-memory.ts";
import { countSelected, PairList, smallestOfLargest } from "./cpu-pairs.ts";

type Encoding = CpuOp<"encodeTopK"> | CpuOp<"encodeBatchTopK"> | CpuOp<"encodeThreshold">;

export const encodeOps: Ops<"encodeTopK" | "encodeBatchTopK" | "encodeThreshold" | "encodeDense"> =
  {
    async encodeTopK(op, crew) {
      const { own, ownKernels } = crew;
      const k = op.indices.columns;
      const latents = eligibleLatents(op, crew.shared);
      const [first, last] = share(crew, op.rows, blockOf(op.rows));
      if (first === last) return;
      const at = layOutTiles(crew, op, latents.length, {
        values: (last - first) * k,
        indices: (last - first) * k,
      });
      await forEachTile(crew, op, at, latents, (some, offered, n, count) => {
        const heap = (n - first) * k * 4;
        ownKernels.offerToHeaps(
          ...[at.z, at.tile * 4, at.bias, at.numbers, some.length, count],
          ...[at.values + heap, at.indices + heap, k, offered],
        );
      });
      ownKernels.finishHeaps(at.values, at.indices, k, latents.length, last - first);
      own.store(at.values, k, op.values, first, last, 0, k);
      own.store(at.indices, k, op.indices, first, last, 0, k);
    },

    async encodeThreshold(op, crew, scratch) {
      const { shared } = crew;
      const capacity = op.indices.columns;
      const dSae = op.wEnc.rows;
      const thresholds =
        op.threshold && new Float32Array(shared.buffer, op.threshold.address, dSae);
      const limitOf = (f: number) => Math.fround((thresholds ? thresholds[f] : 0) - op.margin);
      const list = await collect(crew, op, capacity, limitOf, () => undefined);
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
      // A worker's list is cut down to its own `count` largest whenever it has grown far beyond.
      let least = 0;
      const list = await collect(
        crew,
        op,
        Infinity,
        () => least,
        (grown) => {
          if (count === 0 || grown.count < Math.max(4 * count, 65_536)) return;
          least = smallestOfLargest(grown.values.subarray(0, grown.count), count);
          grown.keep((z) => z >= least);
          // Values equal to it must still be found, for the tie to go to the lower row.
          least = below(least);
        },
      );
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

/** What batch top-k exchanges between workers: each one's values, and how many it selects. */
export const encodeScratch: Scratch<"encodeBatchTopK" | "encodeThreshold"> = {
  encodeThreshold: (_, threads) => ({ counts: threads * 8 }),
  encodeBatchTopK: ({ count }, threads) => ({
    counts: threads * 8,
    // The values of every share, none of more than `count`.
    lengths: threads * 4,
    values: threads * Math.max(1, count) * 4,
  }),
};

const blockOf = (rows: number) =>
  Math.min(BLOCK_ROWS, Math.max(64, roundUp(Math.ceil(rows / 8), 16)));

/** Room for a block of rows, a tile of latents and their product, and for `more` floats by name. */
function layOutTiles<More extends string>(
  { own }: Crew,
  op: Encoding,
  latents: number,
  more: Record<More, number>,
) {
  const d = op.wEnc.stride;
  const block = blockOf(op.rows);
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
 * Runs `use` for every tile of latents and block of this worker's rows, with their product (without
 * the bias) in `at.z`: the latents, how many came before them, the first row and how many rows.
 */
async function forEachTile(
  crew: Crew,
  op: Encoding,
  at: TileRoom,
  latents: Int32Array,
  use: (some: Int32Array, offered: number, n: number, count: number) => void,
): Promise<void> {
  const { own, ownKernels, shared } = crew;
  const { rows, x, bPre, wEnc, bEnc } = op;
  const d = wEnc.stride;
  const { tile, block } = at;
  const [first, last] = share(crew, rows, block);
  if (bPre) own.load(at.center, bPre, 0, 1);
  const allBias = new Float32Array(shared.buffer, bEnc.address, bEnc.columns);
  for (let offered = 0; offered < latents.length; offered += tile) {
    const some = latents.subarray(offered, offered + tile);
    own.loadRows(at.w, wEnc, some);
    own.i32(at.numbers, tile).set(some);
    const bias = own.f32(at.bias, tile).fill(-Infinity);
    for (let c = 0; c < some.length; c++) bias[c] = allBias[some[c]];
    for (let n = first; n < last; n += block) {
      const count = Math.min(block, last - n);
      if (own.load(at.x, x, n, n + count) && bPre) {
        ownKernels.centerRows(at.x, at.center, d * 4, count);
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
 * The pairs of this worker's rows with z > limitOf(latent), by row, then latent. Beyond `capacity`
 * they are only counted. `after` may cut the list down, tile by tile.
 */
async function collect(
  crew: Crew,
  op: CpuOp<"encodeBatchTopK"> | CpuOp<"encodeThreshold">,
  capacity: number,
  limitOf: (latent: number) => number,
  after: (list: PairList) => void,
): Promise<PairList> {
  const { own, ownKernels } = crew;
  const dSae = op.wEnc.rows;
  const [first, last] = share(crew, op.rows, blockOf(op.rows));
  const list = new PairList(first, last);
  if (first === last) return list;
  const room = blockOf(op.rows) * Math.min(roundUp(dSae, 16), 1024);
  const at = layOutTiles(crew, op, dSae, { rows: room, latents: room, values: room });
  await forEachTile(crew, op, at, allLatents(dSae), (some, offered, n, count) => {
    const limits = own.f32(at.limits, at.tile).fill(Infinity);
    for (let c = 0; c < some.length; c++) limits[c] = limitOf(some[c]);
    const found = ownKernels.collectAbove(
      ...[at.z, at.tile * 4, at.bias, at.limits, some.length, count, n, offered],
      ...[at.rows, at.latents, at.values, room, 0],
    );
    list.add(
      own.i32(at.rows, found),
      own.i32(at.latents, found),
      own.f32(at.values, found),
      capacity,
    );
    after(list);
  });
  list.sort();
  return list;
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
