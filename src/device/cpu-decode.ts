/** Decoding on the cpu device, and the gradients of latents' values. */
import { layOutProduct, plain, product, shareOfBlocks, transposed } from "./cpu-blocks.ts";
import { layoutOf, share, type Ops } from "./cpu-crew.ts";
import type { CpuTensor } from "./cpu-memory.ts";

/** The latents that count: a range if one is given. */
const rangeOf = (latents: { from: number; to: number } | undefined, w: CpuTensor) =>
  latents ?? { from: 0, to: w.rows };

export const decodeOps: Ops<"decodeSparse" | "valueGradients" | "decodeDense" | "backwardDense"> = {
  decodeSparse(op, { kernels, ...crew }) {
    const { values, wDec, bDec, target, residual, latents, gradient } = op;
    const { from, to } = rangeOf(latents, wDec);
    const dValues = [gradient?.dValues.address ?? 0, -(gradient?.gradScale ?? 0), +!latents];
    kernels.decodeRows(
      ...[target.address, bDec?.address ?? 0, wDec.address, wDec.stride * 4],
      ...[...layoutOf(op), values.address, residual.address, from, to],
      ...[...dValues, ...share(crew, op.rows, 16)],
    );
  },

  valueGradients(op, { kernels, ...crew }) {
    const { values, wDec, residual, gradScale, dValues, latents, inactiveToo } = op;
    const { from, to } = rangeOf(latents, wDec);
    kernels.valueGradients(
      ...[residual.address, wDec.address, wDec.stride * 4, ...layoutOf(op), values.address],
      ...[from, to, dValues.address, -gradScale, +!latents, +!!inactiveToo],
      ...share(crew, op.rows, 16),
    );
  },

  async decodeDense(op, crew) {
    const { acts, wDec, bDec, target, residual } = op;
    const { from, to } = rangeOf(op.latents, wDec);
    const blocks = shareOfBlocks(crew, op.rows, wDec.stride);
    const size = { m: blocks.height, n: blocks.width, inner: to - from };
    const at = layOutProduct(crew.own, { ...size, common: "a" }, {});
    for (const [m0, m1, n0, n1] of blocks) {
      await product(crew, at, plain(acts), plain(wDec), [m0, m1], [n0, n1], [from, to]);
      crew.own.store(at.out, n1 - n0, residual, m0, m1, n0, n1);
      crew.kernels.subtractFromTarget(
        ...[residual.address, target.address, bDec?.address ?? 0, wDec.stride * 4],
        ...[m0, m1, n0 * 4, n1 * 4],
      );
    }
  },

  async backwardDense(op, crew) {
    const { acts, residual, gradScale, wDec, weights, l1, dPre } = op;
    const { from, to } = rangeOf(op.latents, wDec);
    const blocks = shareOfBlocks(crew, op.rows, to - from);
    const size = { m: blocks.height, n: blocks.width, inner: wDec.stride };
    const at = layOutProduct(crew.own, { ...size, common: "a" }, {});
    const terms = [0, wDec.stride] as const;
    for (const [m0, m1, n0, n1] of blocks) {
      const latents = [from + n0, from + n1] as const;
      await product(crew, at, plain(residual), transposed(wDec), [m0, m1], latents, terms);
      crew.own.store(at.out, n1 - n0, dPre, m0, m1, ...latents);
      crew.kernels.maskGradient(
        ...[dPre.address, acts?.address ?? 0, weights?.address ?? 0, -gradScale, l1],
        ...[dPre.stride * 4, m0, m1, latents[0] * 4, latents[1] * 4],
      );
    }
  },
};
