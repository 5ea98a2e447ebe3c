/** Sums, statistics and plain arithmetic on the cpu device. */
import { layOutProduct, product, dealBlocks } from "./cpu-blocks.ts";
import { layoutOf, share, type Crew, type Ops, type Scratch } from "./cpu-crew.ts";
import { roundUp, type CpuTensor } from "./cpu-memory.ts";

/** Floats whose squares are added by one worker before the shares are. */
const CHUNK = 2 ** 14;

export const sumOps: Ops<
  | "sumOfSquares"
  | "clipFactor"
  | "movingAverage"
  | "columnSum"
  | "addScaled"
  | "multiply"
  | "inverseVariance"
  | "rowNorms"
  | "rowStats"
  | "recordFiring"
  | "matmul"
> = {
  sumOfSquares({ x, out, accumulate }, { kernels, ...crew }, { partials }) {
    const chunks = chunksOf(x);
    const [first, last] = share(crew, chunks, 1);
    for (let chunk = first; chunk < last; chunk++) {
      const floats = Math.min(CHUNK, x.rows * x.stride - chunk * CHUNK);
      kernels.squares(x.address + chunk * CHUNK * 4, floats * 4, partials + chunk * 8);
    }
    crew.barrier();
    if (crew.thread !== 0) return;
    const total = floatsOf(crew, out, 1);
    total[0] = sumOf(crew, partials, chunks) + (accumulate ? total[0] : 0);
  },

  clipFactor({ squares, maxNorm, out }, crew) {
    if (crew.thread !== 0) return;
    const norm = Math.sqrt(floatsOf(crew, squares, 1)[0]);
    floatsOf(crew, out, 1)[0] = Math.min(1, maxNorm / (norm + 1e-6));
  },

  movingAverage({ value, into, rate }, { kernels, ...crew }) {
    const [first, last] = share(crew, into.rows * into.stride, 64);
    const addresses = [into.address + first * 4, value.address + first * 4];
    kernels.moveTowards(...addresses, rate, (last - first) * 4);
  },

  columnSum({ rows, x, scale, out, accumulate }, { kernels, ...crew }, { partials }) {
    const row = x.stride * 4;
    const height = partHeight(rows);
    const parts = Math.ceil(rows / height);
    const [firstPart, lastPart] = share(crew, parts, 1);
    for (let part = firstPart; part < lastPart; part++) {
      const count = Math.min(height, rows - part * height);
      const from = x.address + part * height * row;
      kernels.columnSums(from, row, count, 1, partials + part * row, 0, 0, row);
    }
    crew.barrier();
    const [first, last] = share(crew, x.stride, 16);
    kernels.columnSums(
      ...[partials, row, parts, scale, out.address, +accumulate, first * 4, last * 4],
    );
  },

  addScaled({ rows, x, scale, out, accumulate }, { kernels, ...crew }) {
    const [first, last] = share(crew, rows * x.stride, 64);
    const addresses = [out.address + first * 4, x.address + first * 4];
    kernels.addScaled(...addresses, scale, +accumulate, (last - first) * 4);
  },

  multiply({ rows, x, by }, { kernels, ...crew }) {
    const [factor] = floatsOf(crew, by, 1);
    const [first, last] = share(crew, rows, 16);
    const from = x.address + first * x.stride * 4;
    kernels.addScaled(from, from, factor, 0, (last - first) * x.stride * 4);
    if (!Number.isFinite(factor)) {
      kernels.clearPadding(from, x.stride * 4, x.columns * 4, last - first);
    }
  },

  inverseVariance({ rows, x, factor, out }, { kernels, ...crew }, { deviations }) {
    const [first, last] = share(crew, x.stride, 16);
    kernels.columnDeviations(x.address, x.stride * 4, rows, deviations, first * 4, last * 4);
    crew.barrier();
    if (crew.thread !== 0) return;
    const total = sumOf(crew, deviations, x.columns);
    floatsOf(crew, out, 1)[0] = total === 0 ? 0 : factor / total;
  },

  rowNorms({ w, out, groups = 1 }, { kernels, ...crew }) {
    const pieces = [groups, (w.columns / groups) * 4];
    kernels.rowNorms(w.address, w.stride * 4, out.address, ...pieces, ...share(crew, w.rows, 16));
  },

  rowStats({ rows, target, residual, out }, { kernels, ...crew }) {
    const row = target.stride * 4;
    kernels.rowStats(target.address, residual.address, row, out.address, ...share(crew, rows, 16));
  },

  recordFiring({ rows, codes, stats }, { kernels, ...crew }, { lastFired, batchSums }) {
    const { sinceFired, counts, sums } = stats;
    const [first, last] = share(crew, counts.columns, 64);
    const into = [counts.address, lastFired, batchSums];
    const { address, stride } = codes.values;
    if (codes.indices) {
      kernels.recordSparse(...layoutOf(codes), address, rows, first, last, ...into);
    } else kernels.recordDense(address, stride * 4, rows, first, roundUp(last, 4), ...into);
    const found = [lastFired, batchSums, rows, first, last];
    kernels.finishFiring(sinceFired.address, sums.address, ...found);
  },

  async matmul({ a, b, transA, transB, out, rows = a.rows, scale = 1, accumulate }, crew) {
    const { own, ownKernels } = crew;
    const [m, n] = [transA ? a.columns : rows, transB ? b.rows : b.columns];
    // Along rows the padding may take part, being zeros on both sides.
    const inner = transA ? rows : transB ? a.stride : a.columns;
    const blocks = dealBlocks(crew, m, n);
    const { height, width } = blocks;
    const size = { m: height, n: width, inner, turned: transA };
    const at = layOutProduct(own, size, { former: accumulate ? height * width : 0 });
    const left = { tensor: a, transposed: transA, center: 0 };
    const right = { tensor: b, transposed: transB, center: 0 };
    for (const [m0, m1, n0, n1] of blocks) {
      await product(crew, at, left, right, [m0, m1], [n0, n1], [0, inner]);
      if (accumulate) own.load(at.former, out, m0, m1, n0, n1);
      const bytes = (m1 - m0) * (n1 - n0) * 4;
      if (scale !== 1 || accumulate) {
        ownKernels.scaleTile(at.out, scale, accumulate ? at.former : 0, bytes);
      }
      own.store(at.out, n1 - n0, out, m0, m1, n0, n1);
    }
  },
};

export const sumScratch: Scratch<keyof typeof sumOps> = {
  sumOfSquares: ({ x }) => ({ partials: chunksOf(x) * 8 }),
  columnSum: ({ rows, x }) => ({ partials: Math.ceil(rows / partHeight(rows)) * x.stride * 4 }),
  inverseVariance: ({ x }) => ({ deviations: x.stride * 8 }),
  recordFiring({ stats: { counts } }) {
    return { lastFired: counts.stride * 4, batchSums: counts.stride * 8 };
  },
};

const chunksOf = (x: CpuTensor) => Math.ceil((x.rows * x.stride) / CHUNK);

/** Rows whose columns are added up by one worker before the parts are: few enough parts to be cheap. */
const partHeight = (rows: number) => Math.max(64, Math.ceil(rows / 64));

export function floatsOf(
  { shared }: Pick<Crew, "shared">,
  tensor: CpuTensor,
  count: number,
): Float32Array {
  return new Float32Array(shared.buffer, tensor.address, count);
}

/** The sum of `count` f64 in the shared memory, from the first to the last. */
export function sumOf({ shared }: Pick<Crew, "shared">, address: number, count: number): number {
  return new Float64Array(shared.buffer, address, count).reduce((sum, term) => sum + term, 0);
}
