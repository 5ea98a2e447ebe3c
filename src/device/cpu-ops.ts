/**
 * Every operation as one worker of the crew runs it. All workers run the same operation at once,
 * each on its share; the caller puts a barrier after each operation.
 *
 * Shares are cut at fixed places that depend on sizes alone, every number is computed by one worker
 * from whole rows or columns, and sums over shares are added in the order of the shares: so the
 * number of threads never changes a bit of the result.
 */
import type { Device, Tensor, UpdateLatents, UpdateLatentsDense } from "./device.ts";
import { roundUp, scatter, type CpuTensor } from "./cpu-memory.ts";
import type { OwnMemory } from "./cpu-products.ts";
import type { OwnKernels, SharedKernels } from "./kernels.ts";

/** What a worker runs operations with. */
export interface Crew {
  readonly thread: number;
  readonly threads: number;
  readonly shared: WebAssembly.Memory;
  readonly kernels: SharedKernels;
  readonly own: OwnMemory;
  readonly ownKernels: OwnKernels;
  /** Returns when all workers have come here. */
  barrier(): void;
}

export type OpName = {
  [Key in keyof Device]: Device[Key] extends (op: never) => void
    ? Key extends "free" | "close" | "tensor" | "write" | "read" | "readF32" | "readI32"
      ? never
      : Key
    : never;
}[keyof Device];

/** An operation's arguments as workers see them. */
type OnCpu<T> = T extends Tensor
  ? CpuTensor
  : T extends object
    ? { [Key in keyof T]: OnCpu<T[Key]> }
    : T;
export type CpuOp<Name extends OpName> = OnCpu<Parameters<Device[Name]>[0]>;

/** Numbers that lie in the shared memory, to be put into a tensor when its turn has come. */
export interface CopyIn {
  tensor: CpuTensor;
  from: number;
  count: number;
  offset: number;
}

type Run<Op> = (op: Op, crew: Crew, scratch: Record<string, number>) => void | Promise<void>;
type Ops = { [Name in OpName]: Run<CpuOp<Name>> } & { copyIn: Run<CopyIn> };

/** Rows of a block in a matrix product. */
const BLOCK_ROWS = 256;
/** Terms of a sum that one product adds; longer sums are added product by product. */
const BLOCK_INNER = 1024;
/** Latents whose gradients are formed and used together: small enough for the cache. */
const SPARSE_UNIT = 64;
const DENSE_UNIT = 256;

export const ops: Ops = {
  async encodeTopK(op, { own, ownKernels, ...crew }) {
    const { rows, x, bPre, wEnc, bEnc } = op;
    const k = op.indices.columns;
    const d = wEnc.stride;
    const block = Math.min(BLOCK_ROWS, Math.max(64, roundUp(Math.ceil(rows / 8), 16)));
    const [first, last] = share(crew, rows, block);
    if (first === last) return;
    const latents = eligibleLatents(op, crew.shared);
    // All tiles have one size (the last is filled up), so that equal latents get equal sums.
    const most = Math.max(64, Math.min(1024, Math.floor(2 ** 21 / d)));
    const tile = roundUp(Math.ceil(latents.length / Math.ceil(latents.length / most)) || 16, 16);
    const at = own.layOut({
      w: tile * d,
      bias: tile,
      numbers: tile,
      x: block * d,
      center: d,
      z: block * tile,
      values: (last - first) * k,
      indices: (last - first) * k,
    });
    if (bPre) own.load(at.center, bPre, 0, 1);
    const allBias = new Float32Array(crew.shared.buffer, bEnc.address, bEnc.columns);
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
        const heap = (n - first) * k * 4;
        ownKernels.offerToHeaps(
          ...[at.z, tile * 4, at.bias, at.numbers, some.length, count],
          ...[at.values + heap, at.indices + heap, k, offered],
        );
      }
    }
    ownKernels.finishHeaps(at.values, at.indices, k, latents.length, last - first);
    own.store(at.values, k, op.values, first, last, 0, k);
    own.store(at.indices, k, op.indices, first, last, 0, k);
  },

  async encodeRelu(op, crew) {
    const { own, ownKernels } = crew;
    const { x, bPre, wEnc, bEnc, acts } = op;
    const blocks = shareOfBlocks(crew, op.rows, wEnc.rows);
    const at = layOutProduct(own, blocks.height, blocks.width, wEnc.stride, {
      bias: blocks.width,
      center: wEnc.stride,
    });
    if (bPre) own.load(at.center, bPre, 0, 1);
    const a = { tensor: x, transposed: false, center: bPre ? at.center : 0 };
    const b = { tensor: wEnc, transposed: true, center: 0 };
    for (const [m0, m1, n0, n1] of blocks) {
      const width = await product(crew, at, a, b, m0, m1, n0, n1);
      own.load(at.bias, bEnc, 0, 1, n0, n0 + width);
      ownKernels.addBiasRelu(at.out, at.bias, width * 4, m1 - m0);
      own.store(at.out, width, acts, m0, m1, n0, n1);
    }
  },

  decodeSparse(op, { kernels, ...crew }) {
    const { indices, values, wDec, bDec, target, residual, gradient } = op;
    const row = wDec.stride * 4;
    const codes = [indices.stride * 4, indices.columns, wDec.rows];
    const [first, last] = share(crew, op.rows, 16);
    kernels.decodeRows(
      ...[target.address, bDec?.address ?? 0, wDec.address, row],
      ...[indices.address, values.address, ...codes, residual.address, first, last],
    );
    if (!gradient) return;
    kernels.valueGradients(
      ...[residual.address, wDec.address, row, indices.address, values.address],
      ...[gradient.dValues.address, ...codes, -gradient.gradScale, first, last],
    );
  },

  async decodeDense(op, crew) {
    const { acts, wDec, bDec, target, residual } = op;
    const blocks = shareOfBlocks(crew, op.rows, wDec.stride);
    const at = layOutProduct(crew.own, blocks.height, blocks.width, wDec.rows, {});
    const a = { tensor: acts, transposed: false, center: 0 };
    const b = { tensor: wDec, transposed: false, center: 0 };
    for (const [m0, m1, n0, n1] of blocks) {
      const width = await product(crew, at, a, b, m0, m1, n0, n1);
      crew.own.store(at.out, width, residual, m0, m1, n0, n1);
      crew.kernels.subtractFromTarget(
        ...[residual.address, target.address, bDec?.address ?? 0, wDec.stride * 4],
        ...[m0, m1, n0 * 4, n1 * 4],
      );
    }
  },

  async backwardDense(op, crew) {
    const { acts, residual, gradScale, wDec, weights, l1, dPre } = op;
    const blocks = shareOfBlocks(crew, op.rows, wDec.rows);
    const at = layOutProduct(crew.own, blocks.height, blocks.width, wDec.stride, {});
    const a = { tensor: residual, transposed: false, center: 0 };
    const b = { tensor: wDec, transposed: true, center: 0 };
    for (const [m0, m1, n0, n1] of blocks) {
      const width = await product(crew, at, a, b, m0, m1, n0, n1);
      crew.own.store(at.out, width, dPre, m0, m1, n0, n1);
      crew.kernels.maskGradient(
        ...[dPre.address, acts.address, weights?.address ?? 0, -gradScale, l1],
        ...[acts.stride * 4, m0, m1, n0 * 4, (n0 + width) * 4],
      );
    }
  },

  updateLatents(op, crew, scratch) {
    const { kernels, shared } = crew;
    const { rows, x, bPre, params, parts } = op;
    const row = x.stride * 4;
    const [first, last] = share(crew, params.wEnc.rows, SPARSE_UNIT);
    const codesOf = (part: (typeof parts)[number]) => {
      const { indices, values } = part;
      return [indices.address, values.address, indices.stride * 4, indices.columns, rows];
    };
    for (const [p, part] of parts.entries()) {
      kernels.countPairs(...codesOf(part), first, last, scratch[`counts${p}`]);
    }
    crew.barrier(); // where a worker's list begins depends on everyone's counts
    for (const [p, part] of parts.entries()) {
      const lists = [scratch[`counts${p}`], scratch[`ends${p}`], scratch[`pairs${p}`]];
      kernels.listPairs(...codesOf(part), first, last, ...lists);
    }
    const gradient = scratch.gradients + crew.thread * SPARSE_UNIT * row;
    const gradientRows = new Float32Array(shared.buffer, gradient, SPARSE_UNIT * x.stride);
    new Float32Array(shared.buffer, scratch.dBEnc).fill(0, first, roundUp(last, 4));
    for (let f = first; f < last; f += SPARSE_UNIT) {
      const to = Math.min(f + SPARSE_UNIT, last);
      gradientRows.fill(0);
      for (const [p, { residual, values, gradScale }] of parts.entries()) {
        const lists = [scratch[`pairs${p}`], scratch[`counts${p}`], scratch[`ends${p}`]];
        kernels.gatherRows(
          ...[gradient, residual.address, row, values.address, ...lists],
          ...[-gradScale, f, to],
        );
      }
      stepDecoder(op, crew, gradient, f, to);
      gradientRows.fill(0);
      for (const [p, { dValues }] of parts.entries()) {
        const lists = [scratch[`pairs${p}`], scratch[`counts${p}`], scratch[`ends${p}`], f, to];
        if (bPre) {
          kernels.gatherCenteredRows(
            ...[gradient, x.address, bPre.address, row, dValues.address, ...lists],
          );
        } else {
          const [pairs, counts, ends] = lists;
          kernels.gatherRows(
            ...[gradient, x.address, row, dValues.address, pairs, counts, ends, 1, f, to],
          );
        }
        kernels.gatherSums(scratch.dBEnc, dValues.address, ...lists);
      }
      const partial = scratch.partials + (f / SPARSE_UNIT) * row;
      stepEncoder(op, crew, gradient, scratch.dBEnc, op.dBPre ? partial : 0, f, to);
    }
    sumPartials(op, crew, scratch.partials, SPARSE_UNIT);
  },

  async updateLatentsDense(op, crew, scratch) {
    const { own, kernels } = crew;
    const { rows, x, bPre, params, acts, dPre, residual, gradScale, normPenalty } = op;
    const d = x.stride;
    const [first, last] = share(crew, params.wEnc.rows, DENSE_UNIT);
    const center = { center: d };
    const decoderAt = layOutProduct(own, DENSE_UNIT, d, rows, {
      ...center,
      // The encoder's operands have their own room: x, once loaded, serves all latents.
      dPre: DENSE_UNIT * Math.min(rows, BLOCK_INNER),
      x: Math.min(rows, BLOCK_INNER) * d,
    });
    const encoderAt = { ...decoderAt, a: decoderAt.dPre, b: decoderAt.x };
    if (bPre) own.load(decoderAt.center, bPre, 0, 1);
    const address = scratch.gradients + crew.thread * DENSE_UNIT * d * 4;
    const gradient = { address, rows: DENSE_UNIT, columns: d, stride: d };
    const normal = { transposed: false, center: 0 };
    const turned = { transposed: true, center: 0 };
    for (let f = first; f < last; f += DENSE_UNIT) {
      const to = Math.min(f + DENSE_UNIT, last);
      const columns = [f * 4, roundUp(to, 4) * 4];
      const w = params.wDec.address + f * d * 4;
      const [actsT, residuals] = [
        { tensor: acts, ...turned },
        { tensor: residual, ...normal },
      ];
      await product(crew, decoderAt, actsT, residuals, f, to, 0, d, rows);
      own.store(decoderAt.out, d, gradient, 0, to - f);
      if (normPenalty !== 0) {
        kernels.columnSums(acts.address, acts.stride * 4, rows, 1, scratch.actSums, 0, ...columns);
      }
      kernels.scaleWithNormPenalty(
        ...[address, -gradScale, w, scratch.actSums + f * 4, normPenalty, d * 4, to - f],
      );
      stepDecoder(op, crew, address, f, to);
      const inputs = { tensor: x, transposed: false, center: bPre ? decoderAt.center : 0 };
      await product(crew, encoderAt, { tensor: dPre, ...turned }, inputs, f, to, 0, d, rows);
      own.store(encoderAt.out, d, gradient, 0, to - f);
      kernels.columnSums(dPre.address, dPre.stride * 4, rows, 1, scratch.dBEnc, 0, ...columns);
      const partial = scratch.partials + (f / DENSE_UNIT) * d * 4;
      stepEncoder(op, crew, address, scratch.dBEnc, op.dBPre ? partial : 0, f, to);
    }
    sumPartials(op, crew, scratch.partials, DENSE_UNIT);
  },

  updateVector(op, { kernels, ...crew }) {
    const [first, last] = share(crew, op.param.stride, 64);
    const { m, v } = op.moments;
    const addresses = [op.param, op.grad, m, v].map((tensor) => tensor.address + first * 4);
    kernels.adam(...addresses, (last - first) * 4, ...adamFactors(op.adam));
  },

  columnSum(op, { kernels, ...crew }) {
    const { x, out } = op;
    const [first, last] = share(crew, x.stride, 16);
    kernels.columnSums(
      ...[x.address, x.stride * 4, op.rows, op.scale, out.address, +op.accumulate],
      ...[first * 4, last * 4],
    );
  },

  rowNorms({ w, out }, { kernels, ...crew }) {
    kernels.rowNorms(w.address, w.stride * 4, out.address, ...share(crew, w.rows, 16));
  },

  rowStats({ rows, target, residual, out }, { kernels, ...crew }) {
    const row = target.stride * 4;
    kernels.rowStats(target.address, residual.address, row, out.address, ...share(crew, rows, 16));
  },

  recordFiring({ rows, codes, stats }, { kernels, ...crew }, { lastFired, batchSums }) {
    const { sinceFired, counts, sums } = stats;
    const [first, last] = share(crew, counts.columns, 64);
    const into = [counts.address, lastFired, batchSums];
    if ("acts" in codes) {
      const { address, stride } = codes.acts;
      kernels.recordDense(address, stride * 4, rows, first, roundUp(last, 4), ...into);
    } else {
      const { indices, values } = codes;
      const slots = [indices.address, values.address, indices.stride * 4, indices.columns];
      kernels.recordSparse(...slots, rows, first, last, ...into);
    }
    const found = [lastFired, batchSums, rows, first, last];
    kernels.finishFiring(sinceFired.address, sums.address, ...found);
  },

  async matmul({ a, b, transA, transB, out }, crew) {
    const inner = transA ? a.rows : transB ? a.stride : a.columns;
    const blocks = shareOfBlocks(crew, out.rows, transB ? b.rows : b.stride);
    const at = layOutProduct(crew.own, blocks.height, blocks.width, inner, {});
    const left = { tensor: a, transposed: transA, center: 0 };
    const right = { tensor: b, transposed: transB, center: 0 };
    for (const [m0, m1, n0, n1] of blocks) {
      const width = await product(crew, at, left, right, m0, m1, n0, n1);
      crew.own.store(at.out, width, out, m0, m1, n0, Math.min(n1, out.stride));
    }
  },

  copyIn({ tensor, from, count, offset }, { thread, shared }) {
    if (thread !== 0) return;
    const numbers = tensor.dtype === "f32" ? Float32Array : Int32Array;
    scatter(shared.buffer, tensor, new numbers(shared.buffer, from, count), offset);
  },
};

/**
 * Bytes of shared memory an operation needs while it runs, by name; their contents are whatever the
 * operation before left.
 */
export function scratchOf(name: string, op: unknown, threads: number): Record<string, number> {
  switch (name as OpName) {
    case "updateLatents": {
      const { rows, params, parts } = op as CpuOp<"updateLatents">;
      const bytes = updateScratch(params.wEnc, threads, SPARSE_UNIT);
      for (const [p, { indices }] of parts.entries()) {
        bytes[`counts${p}`] = params.bEnc.stride * 4;
        bytes[`ends${p}`] = params.bEnc.stride * 4;
        bytes[`pairs${p}`] = rows * indices.columns * 8;
      }
      return bytes;
    }
    case "updateLatentsDense": {
      const { params } = op as CpuOp<"updateLatentsDense">;
      const bytes = updateScratch(params.wEnc, threads, DENSE_UNIT);
      return { ...bytes, actSums: params.bEnc.stride * 4 };
    }
    case "recordFiring": {
      const { counts } = (op as CpuOp<"recordFiring">).stats;
      return { lastFired: counts.stride * 4, batchSums: counts.stride * 8 };
    }
    default:
      return {};
  }
}

/** Gradients of a unit of latents per worker, of all encoder biases, and dBPre unit by unit. */
function updateScratch(wEnc: CpuTensor, threads: number, unit: number): Record<string, number> {
  return {
    gradients: threads * unit * wEnc.stride * 4,
    dBEnc: roundUp(wEnc.rows, 4) * 4,
    partials: Math.ceil(wEnc.rows / unit) * wEnc.stride * 4,
  };
}

/** This worker's part [first, last) of `total`, cut at multiples of `unit`. */
function share(crew: Pick<Crew, "thread" | "threads">, total: number, unit: number) {
  const units = Math.ceil(total / unit);
  const cut = (thread: number) =>
    Math.min(total, Math.floor((units * thread) / crew.threads) * unit);
  return [cut(crew.thread), cut(crew.thread + 1)] as const;
}

/**
 * This worker's blocks [m0, m1, n0, n1] of an [m, n] matrix. Blocks are large, for fast products,
 * yet at least eight where the matrix allows it, for a fair share.
 */
function shareOfBlocks(crew: Crew, m: number, n: number) {
  const down = Math.ceil(m / BLOCK_ROWS);
  const wanted = Math.ceil(n / Math.ceil(8 / Math.max(1, down)));
  const width = Math.min(512, Math.max(64, roundUp(wanted, 16)));
  const across = Math.ceil(n / width);
  const [first, last] = share(crew, down * across, 1);
  return {
    height: Math.min(BLOCK_ROWS, m),
    width,
    *[Symbol.iterator]() {
      for (let block = first; block < last; block++) {
        const m0 = Math.floor(block / across) * BLOCK_ROWS;
        const n0 = (block % across) * width;
        yield [m0, Math.min(m0 + BLOCK_ROWS, m), n0, Math.min(n0 + width, n)] as const;
      }
    },
  };
}

/** A matrix, or its transpose, as a factor; `center` is the address of a row to subtract, or 0. */
interface Factor {
  tensor: Pick<CpuTensor, "address" | "rows" | "columns" | "stride">;
  transposed: boolean;
  center: number;
}

type ProductRoom = Record<"a" | "b" | "out" | "partial", number>;

function layOutProduct<More extends string>(
  own: OwnMemory,
  m: number,
  n: number,
  inner: number,
  more: Record<More, number>,
): ProductRoom & Record<More, number> {
  const depth = Math.min(inner, BLOCK_INNER);
  const partial = inner > BLOCK_INNER ? m * n : 0;
  const floats = { a: m * depth, b: depth * n, out: m * n, partial, ...more };
  return own.layOut<string>(floats) as ProductRoom & Record<More, number>;
}

/**
 * Rows [m0, m1) and columns [n0, n1) of A B into `at.out` of the worker's own memory; returns the
 * length of its rows, n1 - n0 rounded up to a multiple of 4. `inner` is the length of the sums.
 */
async function product(
  { own, ownKernels }: Crew,
  at: ProductRoom,
  a: Factor,
  b: Factor,
  m0: number,
  m1: number,
  n0: number,
  n1: number,
  // Along rows the padding may take part, being zeros on both sides.
  inner = a.transposed ? a.tensor.rows : b.transposed ? a.tensor.stride : a.tensor.columns,
): Promise<number> {
  const load = (
    address: number,
    factor: Factor,
    r0: number,
    r1: number,
    c0: number,
    c1: number,
  ) => {
    if (own.load(address, factor.tensor, r0, r1, c0, c1) && factor.center) {
      ownKernels.centerRows(address, factor.center + c0 * 4, (c1 - c0) * 4, r1 - r0);
    }
  };
  const m = m1 - m0;
  const n = roundUp(n1 - n0, 4);
  for (let k0 = 0; k0 < inner; k0 += BLOCK_INNER) {
    const k1 = Math.min(k0 + BLOCK_INNER, inner);
    if (a.transposed) load(at.a, a, k0, k1, m0, m1);
    else load(at.a, a, m0, m1, k0, k1);
    if (b.transposed) load(at.b, b, n0, n1, k0, k1);
    else load(at.b, b, k0, k1, n0, n1);
    const factors = { transA: a.transposed, transB: b.transposed, a: at.a, b: at.b };
    await own.multiply({ ...factors, m, n, k: k1 - k0, out: k0 === 0 ? at.out : at.partial });
    if (k0 > 0) ownKernels.addTo(at.out, at.partial, m * n * 4);
  }
  if (inner === 0) own.f32(at.out, m * n).fill(0);
  return n;
}

/** The numbers of the latents that may be selected, rising. */
function eligibleLatents(op: CpuOp<"encodeTopK">, shared: WebAssembly.Memory): Int32Array {
  const all = new Int32Array(op.wEnc.rows);
  if (!op.eligible) return all.map((_, f) => f);
  const sinceFired = new Int32Array(shared.buffer, op.eligible.sinceFired.address, all.length);
  let count = 0;
  for (let f = 0; f < all.length; f++) if (sinceFired[f] >= op.eligible.atLeast) all[count++] = f;
  return all.subarray(0, count);
}

type Update = OnCpu<UpdateLatents> | OnCpu<UpdateLatentsDense>;

/** Constraint and Adam step of W_dec for latents [f, to), whose gradient rows lie at `gradient`. */
function stepDecoder(op: Update, { kernels }: Crew, gradient: number, f: number, to: number): void {
  const { wDec } = op.params;
  const { m, v } = op.moments.wDec;
  const row = wDec.stride * 4;
  const w = wDec.address + f * row;
  if (op.decoder.projectGradient) kernels.projectRows(gradient, w, row, to - f);
  kernels.adam(
    ...[w, gradient, m.address + f * row, v.address + f * row, (to - f) * row],
    ...adamFactors(op.adam),
  );
  if (op.decoder.unitNorm) kernels.normalizeRows(w, row, to - f);
}

/** Adam step of W_enc and b_enc for latents [f, to), and their part of dBPre into `partial` if not 0. */
function stepEncoder(
  op: Update,
  { kernels }: Crew,
  gradient: number,
  dBEnc: number,
  partial: number,
  f: number,
  to: number,
): void {
  const { wEnc, bEnc } = op.params;
  const factors = adamFactors(op.adam);
  const row = wEnc.stride * 4;
  const w = wEnc.address + f * row;
  if (partial) kernels.subtractWeightedRows(partial, w, dBEnc + f * 4, row, to - f);
  const weights = op.moments.wEnc;
  const rows = [weights.m.address + f * row, weights.v.address + f * row, (to - f) * row];
  kernels.adam(w, gradient, ...rows, ...factors);
  const biases = op.moments.bEnc;
  const bytes = roundUp(to - f, 4) * 4;
  const addresses = [bEnc.address, dBEnc, biases.m.address, biases.v.address];
  kernels.adam(...addresses.map((address) => address + f * 4), bytes, ...factors);
}

/** dBPre from its parts, unit by unit in order. */
function sumPartials(op: Update, crew: Crew, partials: number, unit: number): void {
  if (!op.dBPre) return;
  crew.barrier();
  const { rows, stride } = op.params.wEnc;
  const [first, last] = share(crew, stride, 16);
  crew.kernels.columnSums(
    ...[partials, stride * 4, Math.ceil(rows / unit), 1, op.dBPre.address, 0],
    ...[first * 4, last * 4],
  );
}

/** Factors of the Adam kernel, in its order, from f64. */
function adamFactors({ learningRate, beta1, beta2, eps, step }: Update["adam"]): number[] {
  const stepSize = learningRate / (1 - beta1 ** step);
  return [stepSize, 1 - beta2 ** step, beta1, 1 - beta1, beta2, 1 - beta2, eps];
}
