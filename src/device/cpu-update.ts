/**
 * The optimiser on the cpu device. An update forms the gradient of a latent and uses it at once,
 * while it and the latent's rows are in the cache; no gradient exists as a whole unless asked for.
 */
import type { Tensor, UpdateLatents, UpdateLatentsDense } from "./device.ts";
import { floatsOfProduct, layOutProduct, plain, product, transposed } from "./cpu-blocks.ts";
import {
  layoutOf,
  share,
  type CpuOp,
  type Crew,
  type OnCpu,
  type Ops,
  type Scratch,
} from "./cpu-crew.ts";
import { roundUp, type CpuTensor } from "./cpu-memory.ts";
import { floatsOf } from "./cpu-sums.ts";

/** Latents that a worker is dealt together, whose part of dBPre is added up by itself. */
const SPAN = 64;
/** Latents whose gradients one product forms: few enough for the cache. */
const DENSE_UNIT = 256;
/** Bytes of a source, as assembly/update.ts reads it. */
const SOURCE_BYTES = 36;

export const updateOps: Ops<
  "updateLatents" | "updateLatentsDense" | "applyLatents" | "updateVector"
> = {
  updateLatents(op, crew, scratch) {
    const { params, x, bPre } = op;
    const latents = params.wEnc.rows;
    // The padding after the biases' gradients; it must be 0 before anyone gets there.
    const { stride } = params.bEnc;
    if (crew.thread === 0)
      new Float32Array(crew.shared.buffer, scratch.dBEnc, stride).fill(0, latents);
    const found = listAllPairs(op, crew, scratch);
    const all = { from: 0, to: latents };
    const pairsOf = ({ part, starts, pairs }: FoundPairs) => {
      return { starts, pairs, latents: part.latents ?? all };
    };
    const decoderSources = found.map((of) => ({
      ...pairsOf(of),
      rows: of.part.residual.address,
      center: 0,
      coefficients: of.part.decoder === false ? 0 : of.part.values.address,
      summed: of.part.dWeights?.address ?? 0,
      scale: -of.part.gradScale,
    }));
    const encoderSources = found.map((of) => ({
      ...pairsOf(of),
      rows: x.address,
      center: bPre?.address ?? 0,
      coefficients: of.part.dValues.address,
      summed: of.part.dValues.address,
      scale: 1,
    }));
    const sourceBytes = op.parts.length * SOURCE_BYTES;
    const forDecoder = scratch.sources + crew.thread * 2 * sourceBytes;
    const forEncoder = forDecoder + sourceBytes;
    writeSources(crew, forDecoder, decoderSources);
    writeSources(crew, forEncoder, encoderSources);
    const gradient = scratch.gradients + crew.thread * widest(op) * 4;
    for (const [f, to] of dealLatents(crew, latents, SPAN)) {
      const from = { gradient, step: 0, sums: 0 };
      updateDecoder(
        op,
        crew,
        { ...from, scale: 1, sources: [forDecoder, decoderSources.length] },
        f,
        to,
      );
      updateEncoder(
        op,
        crew,
        scratch,
        { ...from, sources: [forEncoder, encoderSources.length] },
        f,
        to,
      );
    }
    sumPartials(op, crew, scratch.partials);
  },

  async updateLatentsDense(op, crew, scratch) {
    const { own, kernels } = crew;
    const { rows, x, bPre, params, acts, dPre, levels, gradScale, normPenalty, dWeights } = op;
    const [d, e] = [params.wEnc.stride, params.wDec.stride];
    const width = Math.max(d, e);
    const size = { m: DENSE_UNIT, n: width, inner: rows, turned: true, common: "b" } as const;
    // The inputs have their own room: once there, they serve all latents, as residuals do.
    const room = { center: d, x: floatsOfProduct(size).b };
    const decoderAt = layOutProduct(own, size, room);
    const encoderAt = { ...decoderAt, b: decoderAt.x };
    if (bPre) own.load(decoderAt.center, bPre, 0, 1);
    const inputs = plain(x, bPre ? decoderAt.center : 0);
    const address = scratch.gradients + crew.thread * DENSE_UNIT * widest(op) * 4;
    const gradient = (stride: number) => ({ address, rows: DENSE_UNIT, columns: stride, stride });
    for (const [f, to] of dealLatents(crew, params.wEnc.rows, DENSE_UNIT)) {
      const sum = ({ address: of, stride }: CpuTensor, out: number, scale: number, add: boolean) =>
        kernels.columnSums(of, stride * 4, rows, scale, out, +add, f * 4, roundUp(to, 4) * 4);
      for (const { latents, residual } of levels) {
        const some = [Math.max(f, latents.from), Math.min(to, latents.to)] as const;
        if (some[0] >= some[1]) continue;
        await product(crew, decoderAt, transposed(acts), plain(residual), some, [0, e], [0, rows]);
        own.store(decoderAt.out, e, gradient(e), some[0] - f, some[1] - f);
      }
      if (normPenalty !== 0) sum(acts, scratch.dNorms, normPenalty, false);
      if (dWeights) sum(dWeights, scratch.dNorms, 1, normPenalty !== 0);
      const sums = normPenalty !== 0 || dWeights ? scratch.dNorms : 0;
      const sources = [0, 0];
      const scale = -gradScale;
      updateDecoder(op, crew, { gradient: address, step: e * 4, scale, sums, sources }, f, to);
      await product(crew, encoderAt, transposed(dPre), inputs, [f, to], [0, d], [0, rows]);
      own.store(encoderAt.out, d, gradient(d), 0, to - f);
      sum(dPre, scratch.dBEnc, 1, false);
      for (let at = f; at < to; at += SPAN) {
        const from = { gradient: address + (at - f) * d * 4, step: d * 4, sources };
        updateEncoder(op, crew, scratch, from, at, Math.min(at + SPAN, to));
      }
    }
    sumPartials(op, crew, scratch.partials);
  },

  applyLatents({ params, moments, gradients, adam, decoder, ...op }, crew) {
    const [first, last] = share(crew, params.wEnc.rows, SPAN);
    const scale = op.scale ? floatsOf(crew, op.scale, 1)[0] : 1;
    const { wDec } = params;
    const row = wDec.stride * 4;
    for (let f = first; f < last; f += SPAN) {
      const range = [f, Math.min(f + SPAN, last)] as const;
      for (const name of ["wEnc", "wDec"] as const) {
        const { address, stride } = gradients[name];
        const gradient = address + f * stride * 4;
        stepRows(crew, params[name], gradient, moments[name], adam, scale, ...range);
      }
      if (!decoder.unitNorm) continue;
      crew.kernels.normalizeRows(wDec.address + f * row, row, range[1] - f);
    }
    const { address } = gradients.bEnc;
    stepVector(crew, params.bEnc, address, moments.bEnc, adam, scale, first, last);
  },

  updateVector({ param, grad, moments, adam, scale, min = -Infinity }, crew) {
    const factor = scale ? floatsOf(crew, scale, 1)[0] : 1;
    if (param.rows === 1) {
      const columns = share(crew, param.columns, 64);
      stepVector(crew, param, grad.address, moments, adam, factor, ...columns, min);
      return;
    }
    const [first, last] = share(crew, param.rows, 16);
    const gradient = grad.address + first * grad.stride * 4;
    stepRows(crew, param, gradient, moments, adam, factor, first, last, min);
  },
};

export const updateScratch: Scratch<keyof typeof updateOps> = {
  updateLatents(op, threads) {
    const latents = op.params.wEnc.rows;
    const bytes: Record<string, number> = {
      ...latentScratch(op),
      gradients: threads * widest(op) * 4,
      sources: threads * 2 * op.parts.length * SOURCE_BYTES,
    };
    for (const [l, [{ indices, ends }]] of pairLists(op.parts).entries()) {
      bytes[`counts${l}`] = bytes[`next${l}`] = threads * latents * 4;
      bytes[`starts${l}`] = (latents + 1) * 4;
      bytes[`pairs${l}`] = (ends ? indices.columns : op.rows * indices.columns) * 8;
    }
    return bytes;
  },
  updateLatentsDense(op, threads) {
    return { ...latentScratch(op), gradients: threads * DENSE_UNIT * widest(op) * 4 };
  },
};

/** The ranges of latents that this worker is dealt, `unit` at a time. */
function* dealLatents(crew: Crew, latents: number, unit: number) {
  for (const u of crew.deal(Math.ceil(latents / unit))) {
    yield [u * unit, Math.min((u + 1) * unit, latents)] as const;
  }
}

type Update = OnCpu<UpdateLatents> | OnCpu<UpdateLatentsDense>;
type Part = CpuOp<"updateLatents">["parts"][number];

/** Sums per latent, and dBPre span by span. */
function latentScratch({ params: { wEnc, bEnc } }: Update): Record<string, number> {
  return {
    dBEnc: bEnc.stride * 4,
    dNorms: bEnc.stride * 4,
    partials: Math.ceil(wEnc.rows / SPAN) * wEnc.stride * 4,
  };
}

/** Floats of the longer of a latent's two rows. */
const widest = ({ params: { wEnc, wDec } }: Update) => Math.max(wEnc.stride, wDec.stride);

/** The parts by the lists of pairs that they share. */
function pairLists(parts: Part[]): Part[][] {
  const lists = new Map<string, Part[]>();
  for (const part of parts) {
    const { indices, ends, values, dValues } = part;
    const key = [indices, ends, values, dValues].map((tensor) => tensor?.address).join(" ");
    lists.set(key, [...(lists.get(key) ?? []), part]);
  }
  return [...lists.values()];
}

interface FoundPairs {
  part: Part;
  /** Addresses: where each latent's pairs start, and the pairs. */
  starts: number;
  pairs: number;
}

/** Lists the pairs of all parts by latent: each worker those of its rows. */
function listAllPairs(
  { rows, params, parts }: CpuOp<"updateLatents">,
  crew: Crew,
  scratch: Record<string, number>,
): FoundPairs[] {
  const { kernels, thread, threads } = crew;
  const latents = params.wEnc.rows;
  const mine = share(crew, rows, 16);
  const lists = pairLists(parts);
  const slotsOf = ({ values, dValues, ...layout }: Part) => [
    ...[...layoutOf({ values, ...layout }), values.address, dValues.address, latents],
  ];
  for (const [l, [part]] of lists.entries()) {
    kernels.countPairs(...slotsOf(part), scratch[`counts${l}`] + thread * latents * 4, ...mine);
  }
  crew.barrier(); // where a worker's pairs of a latent begin depends on everyone's counts
  for (const [l, [part]] of lists.entries()) {
    const starts = thread === 0 ? scratch[`starts${l}`] : 0;
    const next = scratch[`next${l}`] + thread * latents * 4;
    kernels.startPairs(scratch[`counts${l}`], threads, thread, latents, starts, next);
    kernels.listPairs(...slotsOf(part), next, scratch[`pairs${l}`], ...mine);
  }
  crew.barrier();
  return lists.flatMap((list, l) =>
    list.map((part) => ({ part, starts: scratch[`starts${l}`], pairs: scratch[`pairs${l}`] })),
  );
}

/** What a gradient is gathered from: addresses, but for scale and the latents that it counts for. */
interface Source {
  rows: number;
  center: number;
  coefficients: number;
  summed: number;
  starts: number;
  pairs: number;
  scale: number;
  latents: { from: number; to: number };
}

function writeSources({ shared }: Crew, address: number, sources: Source[]): void {
  const words = sources.length * (SOURCE_BYTES / 4);
  const integers = new Uint32Array(shared.buffer, address, words);
  const floats = new Float32Array(shared.buffer, address, words);
  for (const [s, { latents, scale, ...source }] of sources.entries()) {
    const { rows, center, coefficients, summed, starts, pairs } = source;
    const at = (s * SOURCE_BYTES) / 4;
    integers.set([rows, center, coefficients, summed, starts, pairs], at);
    floats[at + 6] = scale;
    integers.set([latents.from, latents.to], at + 7);
  }
}

/** Where gradients come from: `step` bytes apart from `gradient` on, or (step 0) from sources: address, count. */
interface Origin {
  gradient: number;
  step: number;
  sources: number[];
}

/** The decoder's rows of latents [f, to); `sums` is the address of gradients of all norms, or 0. */
function updateDecoder(
  op: Update,
  { kernels }: Crew,
  { gradient, step, scale, sources, sums }: Origin & { scale: number; sums: number },
  f: number,
  to: number,
): void {
  const { wDec } = op.params;
  const { m, v } = op.moments.wDec;
  const groups = op.normGroups ?? 1;
  kernels.updateDecoder(
    ...[gradient, step, scale, ...sources, sums, groups, (wDec.columns / groups) * 4],
    ...[+op.decoder.projectGradient, op.gradients?.wDec.address ?? 0, +!!op.accumulate],
    ...[wDec.address, m.address, v.address, wDec.stride * 4, +op.decoder.unitNorm],
    ...[f, to, ...adamFactors(op.adam)],
  );
}

/** The encoder's rows and biases of latents [f, to), which are of one span, and their part of dBPre. */
function updateEncoder(
  op: Update,
  crew: Crew,
  { dBEnc, partials }: Record<string, number>,
  { gradient, step, sources }: Origin,
  f: number,
  to: number,
): void {
  const { params, rankOne, gradients } = op;
  const { wEnc, bEnc } = params;
  const { m, v } = op.moments.wEnc;
  const row = wEnc.stride * 4;
  crew.kernels.updateEncoder(
    ...[gradient, step, ...sources, dBEnc],
    ...[rankOne?.coefficients.address ?? 0, rankOne?.inputs.address ?? 0, op.rows],
    ...[op.dBPre ? partials + (f / SPAN) * row : 0, gradients?.wEnc.address ?? 0],
    ...[+!!op.accumulate, wEnc.address, m.address, v.address, row],
    ...[f, to, ...adamFactors(op.adam)],
  );
  if (gradients) {
    const bytes = roundUp(to - f, 4) * 4;
    const at = [gradients.bEnc.address + f * 4, dBEnc + f * 4];
    crew.kernels.addScaled(...at, 1, +!!op.accumulate, bytes);
  } else stepVector(crew, bEnc, dBEnc, op.moments.bEnc, op.adam, 1, f, to);
}

/** dBPre from its parts, span by span in order. */
function sumPartials(op: Update, crew: Crew, partials: number): void {
  if (!op.dBPre) return;
  crew.barrier();
  const { rows, stride } = op.params.wEnc;
  const [first, last] = share(crew, stride, 16);
  crew.kernels.columnSums(
    ...[partials, stride * 4, Math.ceil(rows / SPAN), 1, op.dBPre.address, +!!op.accumulate],
    ...[first * 4, last * 4],
  );
}

/** Adam's step of rows [first, last) of a matrix, whose gradients begin at `gradient`. */
function stepRows(
  { kernels }: Crew,
  param: CpuTensor,
  gradient: number,
  { m, v }: OnCpu<{ m: Tensor; v: Tensor }>,
  adam: Update["adam"],
  scale: number,
  first: number,
  last: number,
  least = -Infinity,
): void {
  const row = param.stride * 4;
  const [p, m0, v0] = [param, m, v].map(({ address }) => address + first * row);
  const bytes = (last - first) * row;
  kernels.adam(p, gradient, m0, v0, bytes, scale, least, ...adamFactors(adam));
  if (Number.isFinite(scale) && least <= 0) return;
  for (const from of [p, m0, v0]) {
    kernels.clearPadding(from, row, param.columns * 4, last - first);
  }
}

/** Adam's step of elements [first, last) of a vector, first a multiple of 4; its whole gradient lies at `gradient`. */
function stepVector(
  { kernels }: Crew,
  param: CpuTensor,
  gradient: number,
  { m, v }: OnCpu<{ m: Tensor; v: Tensor }>,
  adam: Update["adam"],
  scale: number,
  first: number,
  last: number,
  least = -Infinity,
): void {
  const addresses = [param.address, gradient, m.address, v.address].map((at) => at + first * 4);
  const bytes = roundUp(last - first, 4) * 4;
  kernels.adam(...addresses, bytes, scale, least, ...adamFactors(adam));
  if (Number.isFinite(scale) && least <= 0) return;
  for (const { address } of [param, m, v]) {
    kernels.clearPadding(address + first * 4, bytes, (last - first) * 4, 1);
  }
}

/** Factors of the Adam kernel, in its order, from f64. */
function adamFactors({ learningRate, beta1, beta2, eps, step }: Update["adam"]): number[] {
  const stepSize = learningRate / (1 - beta1 ** step);
  return [stepSize, 1 - beta2 ** step, beta1, 1 - beta1, beta2, 1 - beta2, eps];
}
