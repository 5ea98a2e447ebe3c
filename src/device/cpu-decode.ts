/** Decoding on the cpu device, and the gradients of latents' values. */
import { layOutProduct, plain, product, dealBlocks, transposed } from "./cpu-blocks.ts";
import { layoutOf, type Crew, type Ops } from "./cpu-crew.ts";
import type { CpuTensor } from "./cpu-memory.ts";

const ROWS = 16;

/** The latents that count: a range if one is given. */
const rangeOf = (latents: { from: number; to: number } | undefined, w: CpuTensor) =>
  latents ?? { from: 0, to: w.rows };

/** The ranges of rows that this worker is dealt; how many slots they have may differ. */
function* dealRows(crew: Pick<Crew, "deal">, rows: number) {
  for (const unit of crew.deal(Math.ceil(rows / ROWS))) {
    yield [unit * ROWS, Math.min((unit + 1) * ROWS, rows)] as const;
  }
}

export const decodeOps: Ops<"decodeSparse" | "valueGradients" | "decodeDense" | "backwardDense"> = {
  decodeSparse(op, { kernels, ...crew }) {
    const { values, wDec, bDec, target, residual, latents, gradient } = op;
    const { from, to } = rangeOf(latents, wDec);
    const dValues = [gradient?.dValues.address ?? 0, -(gradient?.gradScale ?? 0), +!latents];
    const inactiveToo = +!!gradient?.inactiveToo;
    const args = [
      ...[target.address, bDec?.address ?? 0, wDec.address, wDec.stride * 4],
      ...[...layoutOf(op), values.address, residual.address, from, to, ...dValues],
      inactiveToo,
    ];
    for (const rows of dealRows(crew, op.rows)) kernels.decodeRows(...args, ...rows);
  },

  valueGradients(op, { kernels, ...crew }) {
    const { values, wDec, residual, gradScale, dValues, latents, inactiveToo } = op;
    const { from, to } = rangeOf(latents, wDec);
    const args = [
      ...[residual.address, wDec.address, wDec.stride * 4, ...layoutOf(op), values.address],
      ...[from, to, dValues.address, -gradScale, +!latents, +!!inactiveToo],
    ];
    for (const rows of dealRows(crew, op.rows)) kernels.valueGradients(...args, ...rows);
  },

  async decodeDense(op, crew) {
    const { acts, wDec, bDec, target, residual } = op;
    const { from, to } = rangeOf(op.latents, wDec);
    const blocks = dealBlocks(crew, op.rows, wDec.stride);
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
    const blocks = dealBlocks(crew, op.rows, to - from);
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
