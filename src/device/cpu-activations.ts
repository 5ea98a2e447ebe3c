/** Penalties, thresholds and gates on the cpu device: what lies between codes and their gradients. */
import { layoutOf, share, type OpName, type Ops, type Scratch } from "./cpu-crew.ts";
import { floatsOf, sumOf } from "./cpu-sums.ts";

/** Latents of a share: whole vectors of 16 f32 and of 8 f64. */
const UNIT = 64;

const kinds = { l1: 0, lp: 1, tanh: 2 };

export const activationOps: Ops<
  "applyThreshold" | "penalize" | "thresholdGradient" | "gate" | "gateGradient" | "preActPenalty"
> = {
  applyThreshold({ rows, pre, threshold, values }, { kernels, ...crew }) {
    const row = pre.stride * 4;
    const shared = share(crew, rows, 16);
    kernels.applyThreshold(pre.address, threshold.address, values.address, row, ...shared);
  },

  penalize(op, { kernels, ...crew }) {
    const { rows, codes, penalty, weights, dValues, dWeights, rowPenalty } = op;
    const a = penalty.kind === "lp" ? penalty.p : penalty.kind === "tanh" ? penalty.c : 0;
    const b = penalty.kind === "lp" ? penalty.delta : 0;
    // Without weights nothing says how many latents there are; an unused slot is one below 0 then.
    const latents = codes.indices ? (weights?.columns ?? 2 ** 31 - 1) : codes.values.columns;
    kernels.penalize(
      ...[...layoutOf(codes), codes.values.address, latents],
      ...[kinds[penalty.kind], penalty.coefficient, a, b, weights?.address ?? 0],
      ...[dValues.address, dWeights?.address ?? 0, rowPenalty.address, +!!op.inactiveToo],
      ...share(crew, rows, 16),
    );
  },

  thresholdGradient(op, { kernels, ...crew }, { actives, sums }) {
    const { rows, codes, pre, threshold, bandwidth, dValues, dThreshold } = op;
    const { coefficient, target } = op.l0;
    const latents = threshold.columns;
    const slots = [...layoutOf(codes), codes.values.address];
    let dL0 = coefficient;
    if (target !== null) {
      const counted = share(crew, rows, 16);
      kernels.countActive(...slots, latents, actives + crew.thread * 8, ...counted);
      crew.barrier();
      const l0 = sumOf(crew, actives, crew.threads) / rows;
      dL0 = (2 * coefficient * (l0 / target - 1)) / target;
    }
    const [first, last] = share(crew, latents, UNIT);
    kernels.thresholdGradient(
      ...[...slots, rows, pre.address, threshold.address, bandwidth, dL0],
      ...[dValues.address, sums, first, last],
    );
    const found = new Float64Array(crew.shared.buffer, sums, latents);
    floatsOf(crew, dThreshold, latents).set(found.subarray(first, last), first);
  },

  gate(op, { kernels, ...crew }, { scales }) {
    const { rows, codes, rMag, bGate, bMag, magnitudes } = op;
    kernels.exponentials(rMag.address, scales, ...share(crew, rMag.columns, UNIT));
    crew.barrier();
    kernels.gate(
      ...[...layoutOf(codes), codes.values.address, rMag.columns, scales],
      ...[bGate.address, bMag.address, magnitudes.address, ...share(crew, rows, 16)],
    );
  },

  gateGradient(op, { kernels, ...crew }, { scales, sums }) {
    const { rows, codes, rMag, bGate, magnitudes, dMagnitudes, dGate } = op;
    const latents = rMag.columns;
    const [first, last] = share(crew, latents, UNIT);
    kernels.exponentials(rMag.address, scales, first, last);
    kernels.gateGradient(
      ...[...layoutOf(codes), codes.values.address, rows, scales, bGate.address],
      ...[magnitudes.address, dMagnitudes.address, dGate.address, sums, first, last],
    );
    const found = new Float64Array(crew.shared.buffer, sums, 3 * latents);
    for (const [s, tensor] of [op.dBGate, op.dBMag, op.dRMag].entries()) {
      const out = floatsOf(crew, tensor, latents);
      for (let f = first; f < last; f++) out[f] = found[3 * f + s];
    }
  },

  preActPenalty(op, { kernels, ...crew }, { counts, excess, terms }) {
    const { rows, codes, pre, threshold, weights, eligible, coefficient, wEnc } = op;
    const [first, last] = share(crew, threshold.columns, UNIT);
    const which = [threshold, weights, eligible.sinceFired].map(({ address }) => address);
    kernels.preActSlots(
      ...[...layoutOf(codes), codes.values.address, rows, pre.address, ...which],
      ...[eligible.atLeast, coefficient, op.dValues.address, counts, excess, first, last],
    );
    kernels.preActLatents(
      ...[rows, ...which, eligible.atLeast, coefficient, op.inputs.address],
      ...[wEnc.address, wEnc.stride * 4, op.bEnc.address, counts, excess],
      ...[op.coefficients.address, op.dThreshold.address, terms, first, last],
    );
    crew.barrier();
    if (crew.thread !== 0) return;
    floatsOf(crew, op.penalty, 1)[0] = sumOf(crew, terms, threshold.columns);
  },
};

export const activationScratch: Scratch<OpName & keyof typeof activationOps> = {
  thresholdGradient({ threshold }, threads) {
    return { actives: threads * 8, sums: threshold.stride * 8 };
  },
  gate: ({ rMag }) => ({ scales: rMag.stride * 8 }),
  gateGradient: ({ rMag }) => ({ scales: rMag.stride * 8, sums: rMag.stride * 24 }),
  preActPenalty({ threshold: { stride } }) {
    return { counts: stride * 4, excess: stride * 8, terms: stride * 8 };
  },
};
