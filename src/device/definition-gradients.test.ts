/**
 * Gradients that several operations make together, against finite differences of the loss that they
 * belong to, written out in float64: nested reconstructions, penalties by decoder norm, gates, the
 * pre-activation loss; inputs and outputs of different widths, sparse and dense latents.
 */
import { afterAll, describe, expect, test } from "vitest";

import { free, i32, readGradients, training } from "../../test/device-numbers.ts";
import { closeDevices, devices } from "../../test/device-trials.ts";
import { Rng } from "../rng.ts";
import type { Device, Penalty, Slots, SparseCodes, Tensor } from "./device.ts";

afterAll(closeDevices);

const [N, d, e, F] = [6, 5, 4, 9];
const rng = new Rng(23);
const random = (count: number, scale = 1) =>
  Float32Array.from({ length: count }, () => rng.normal() * scale);
const start = {
  ...{ x: random(N * d), y: random(N * e), bPre: random(d, 0.3) },
  ...{ wEnc: random(F * d), bEnc: random(F), wDec: random(F * e), bDec: random(e) },
  ...{ rMag: random(F, 0.4), bMag: random(F, 0.5) },
  threshold: random(F).map((v) => 0.2 + Math.abs(v)),
};
type Point = { [Key in keyof typeof start]: ArrayLike<number> };

// ---- losses ----

/** z[n][f] = ⟨x_n - bPre, W_enc[f]⟩ + b_enc[f] */
function preActivations({ x, bPre, wEnc, bEnc }: Point): number[][] {
  return Array.from({ length: N }, (_, n) =>
    Array.from({ length: F }, (_, f) => {
      let z = bEnc[f];
      for (let i = 0; i < d; i++) z += (x[n * d + i] - bPre[i]) * wEnc[f * d + i];
      return z;
    }),
  );
}

/** Σ ‖y - (a W_dec + b_dec)‖², of the latents before `to`. */
function squaredError(acts: number[][], { y, wDec, bDec }: Point, to = F): number {
  let sum = 0;
  for (let n = 0; n < N; n++) {
    for (let i = 0; i < e; i++) {
      let reconstruction = bDec[i];
      for (let f = 0; f < to; f++) reconstruction += acts[n][f] * wDec[f * e + i];
      sum += (y[n * e + i] - reconstruction) ** 2;
    }
  }
  return sum;
}

/** The sum of the norms of `groups` equal pieces of W_dec[f]. */
function normOf({ wDec }: Point, f: number, groups: number): number {
  let sum = 0;
  for (let g = 0; g < groups; g++) {
    const [from, to] = [g, g + 1].map((piece) => f * e + (piece * e) / groups);
    sum += Math.hypot(...Array.from({ length: to - from }, (_, i) => wDec[from + i]));
  }
  return sum;
}

const relu = (z: number[][]) => z.map((row) => row.map((v) => Math.max(v, 0)));

function expectGradient(actual: Float32Array, name: keyof Point, loss: (point: Point) => number) {
  const step = 1e-6;
  let largest = 0;
  for (let i = 0; i < actual.length; i++) {
    const moved = (by: number) => {
      const values = Float64Array.from(start[name]);
      values[i] += by;
      return loss({ ...start, [name]: values });
    };
    const expected = (moved(step) - moved(-step)) / (2 * step);
    largest = Math.max(largest, Math.abs(expected));
    expect(Math.abs(actual[i] - expected), `${name}[${i}]`).toBeLessThan(
      3e-6 * (10 + Math.abs(expected)),
    );
  }
  expect(largest, `some gradient of ${name}`).toBeGreaterThan(1e-2);
}

// ---- the same on a device ----

function load(device: Device) {
  const tensor = (data: Float32Array, ...shape: number[]) => {
    const made = device.tensor(shape);
    device.write(made, data);
    return made;
  };
  const vectors = ["bEnc", "rMag", "bMag", "threshold"] as const;
  return {
    ...{ x: tensor(start.x, N, d), y: tensor(start.y, N, e) },
    ...{ bPre: tensor(start.bPre, d), bDec: tensor(start.bDec, e) },
    ...{ wEnc: tensor(start.wEnc, F, d), wDec: tensor(start.wDec, F, e) },
    ...(Object.fromEntries(vectors.map((name) => [name, tensor(start[name], F)])) as Record<
      (typeof vectors)[number],
      Tensor
    >),
    ...{ moments: training(device, F, d, e), dBPre: device.tensor([d]), dBDec: device.tensor([e]) },
  };
}
type Loaded = ReturnType<typeof load>;

const encoding = ({ x, bPre, wEnc, bEnc }: Loaded) => ({ rows: N, x, bPre, wEnc, bEnc });

const forms = ["fixed", "ragged", "dense"] as const;
type Form = (typeof forms)[number];

/** relu(z), sparse ones without the latents that are 0. */
function reluCodes(device: Device, t: Loaded, form: Form): Slots {
  if (form === "dense") {
    const out = device.tensor([N, F]);
    device.encodeDense({ ...encoding(t), activation: "relu", out });
    return { values: out };
  }
  if (form === "fixed") {
    const codes = { indices: device.tensor([N, F], "i32"), values: device.tensor([N, F]) };
    device.encodeTopK({ ...encoding(t), ...codes });
    return codes;
  }
  return raggedCodes(device, t, null).codes;
}

/** Pairs above the threshold, with room to spare. */
function raggedCodes(device: Device, t: Loaded, threshold: Tensor | null) {
  const P = N * F + 3;
  const codes = {
    ...{ indices: device.tensor([P], "i32"), values: device.tensor([P]) },
    ends: device.tensor([N], "i32"),
  };
  const pre = device.tensor([P]);
  const total = device.tensor([1], "i32");
  device.encodeThreshold({ ...encoding(t), ...codes, threshold, margin: 0, pre, total });
  return { codes, pre };
}

const like = (device: Device, { values }: Slots) => device.tensor(values.shape);

function decode(
  device: Device,
  codes: Slots,
  op: Omit<Parameters<Device["decodeDense"]>[0], "acts">,
) {
  if (codes.indices) device.decodeSparse({ ...op, ...codes });
  else device.decodeDense({ ...op, acts: codes.values });
}

function valueGradients(
  device: Device,
  codes: Slots,
  op: Omit<Parameters<Device["valueGradients"]>[0], keyof SparseCodes>,
) {
  if (codes.indices) device.valueGradients({ ...op, ...codes });
  else {
    const { dValues: dPre, ...rest } = op;
    device.backwardDense({ ...rest, acts: codes.values, l1: 0, weights: null, dPre });
  }
}

type Update = Pick<Parameters<Device["updateLatents"]>[0], "normGroups" | "rankOne"> & {
  codes: Slots;
  dPre: Tensor;
  gradScale: number;
  levels: { latents: { from: number; to: number }; residual: Tensor }[];
  dWeights?: Tensor;
};

/** Gradients end up in the first moments. */
function update(device: Device, t: Loaded, op: Update) {
  const { codes, dPre, levels, dWeights, gradScale, ...more } = op;
  const { x, bPre, wEnc, bEnc, wDec, moments, dBPre } = t;
  const common = {
    ...{ rows: N, x, bPre, params: { wEnc, bEnc, wDec }, moments, dBPre },
    ...{ ...more, adam: readGradients, decoder: free },
  };
  if (codes.indices) {
    const parts = levels.map((level) => ({
      ...codes,
      ...level,
      dValues: dPre,
      gradScale,
      dWeights,
    }));
    device.updateLatents({ ...common, parts });
  } else {
    const acts = codes.values;
    const dense = { acts, dPre, levels, gradScale, normPenalty: 0, dWeights };
    device.updateLatentsDense({ ...common, ...dense });
  }
}

/** W_enc and, unless they say otherwise, b_enc, W_dec and bPre. */
async function expectGradients(
  device: Device,
  { moments, dBPre }: Loaded,
  loss: (point: Point) => number,
  names: ("bEnc" | "wDec" | "bPre")[] = ["bEnc", "wDec", "bPre"],
) {
  expectGradient(await device.readF32(moments.wEnc.m), "wEnc", loss);
  const found = { bEnc: moments.bEnc.m, wDec: moments.wDec.m, bPre: dBPre };
  for (const name of names) expectGradient(await device.readF32(found[name]), name, loss);
}

const all = { from: 0, to: F };

for (const device of devices) {
  describe(device.name, () => {
    test.each(forms)("nested reconstructions of %s latents", async (form) => {
      const c = 0.3;
      const widths = [2, 5, F];
      const levels = widths.map((to, l) => ({ from: l === 0 ? 0 : widths[l - 1], to }));
      const L = levels.length;
      const t = load(device);
      const codes = reluCodes(device, t, form);
      const [residuals, gradients] = [0, 1].map(() => levels.map(() => device.tensor([N, e])));
      for (const [l, latents] of levels.entries()) {
        const bDec = l === 0 ? t.bDec : null;
        const target = l === 0 ? t.y : residuals[l - 1];
        decode(device, codes, {
          rows: N,
          wDec: t.wDec,
          bDec,
          target,
          residual: residuals[l],
          latents,
        });
      }
      // A latent of level l learns from the levels that hold it.
      for (const [l, out] of gradients.entries()) {
        for (let level = l; level < L; level++)
          device.addScaled({
            rows: N,
            x: residuals[level],
            scale: 1 / L,
            out,
            accumulate: level > l,
          });
      }
      const dValues = like(device, codes);
      const parts = levels.map((latents, l) => ({ latents, residual: gradients[l] }));
      for (const part of parts)
        valueGradients(device, codes, { rows: N, wDec: t.wDec, gradScale: c, dValues, ...part });
      update(device, t, { codes, dPre: dValues, levels: parts, gradScale: c });
      const sum = { rows: N, x: gradients[0], scale: -c, out: t.dBDec, accumulate: false };
      device.columnSum(sum);

      const loss = (point: Point) => {
        const acts = relu(preActivations(point));
        return widths.reduce((sum, to) => sum + (c / 2 / L) * squaredError(acts, point, to), 0);
      };
      await expectGradients(device, t, loss);
      expectGradient(await device.readF32(t.dBDec), "bDec", loss);
    });

    const penalties: Penalty[] = [
      { kind: "l1", coefficient: 0.4 },
      { kind: "lp", coefficient: 0.4, p: 0.7, delta: 0.05 },
      { kind: "tanh", coefficient: 0.4, c: 0.6 },
    ];
    const s = (penalty: Penalty, u: number) =>
      penalty.kind === "l1"
        ? u
        : penalty.kind === "lp"
          ? (u + penalty.delta) ** penalty.p - penalty.delta ** penalty.p
          : Math.tanh(penalty.c * u);

    test.each(penalties.flatMap((p) => forms.map((form) => [p.kind, form, p] as const)))(
      "the %s penalty of %s latents by the norms of their decoders' groups",
      async (_kind, form, penalty) => {
        const [c, normGroups] = [0.3, 2];
        const t = load(device);
        const codes = reluCodes(device, t, form);
        const [residual, weights] = [device.tensor([N, e]), device.tensor([F])];
        const [dValues, dWeights] = [like(device, codes), like(device, codes)];
        const rowPenalty = device.tensor([N]);
        device.rowNorms({ w: t.wDec, out: weights, groups: normGroups });
        decode(device, codes, { rows: N, wDec: t.wDec, bDec: t.bDec, target: t.y, residual });
        valueGradients(device, codes, { rows: N, wDec: t.wDec, residual, gradScale: c, dValues });
        device.penalize({ rows: N, codes, penalty, weights, dValues, dWeights, rowPenalty });
        const levels = [{ latents: all, residual }];
        update(device, t, { codes, dPre: dValues, dWeights, levels, gradScale: c, normGroups });

        const penaltyOf = (point: Point) => {
          const norms = Array.from({ length: F }, (_, f) => normOf(point, f, normGroups));
          let sum = 0;
          for (const row of relu(preActivations(point)))
            for (const [f, a] of row.entries()) sum += s(penalty, norms[f] * a);
          return penalty.coefficient * sum;
        };
        const loss = (point: Point) =>
          (c / 2) * squaredError(relu(preActivations(point)), point) + penaltyOf(point);
        await expectGradients(device, t, loss);
        const found = (await device.readF32(rowPenalty)).reduce((sum, v) => sum + v, 0);
        expect(found).toBeCloseTo(penaltyOf(start), 4);
      },
    );

    test("the dense norm penalty by groups", async () => {
      const [c, lambda, normGroups] = [0.3, 0.2, 4];
      const t = load(device);
      const { values: acts } = reluCodes(device, t, "dense");
      const [residual, weights, dPre] = [[N, e], [F], [N, F]].map((shape) => device.tensor(shape));
      const { wEnc, bEnc, wDec, x, bPre, moments, dBPre } = t;
      device.rowNorms({ w: wDec, out: weights, groups: normGroups });
      device.decodeDense({ rows: N, acts, wDec, bDec: t.bDec, target: t.y, residual });
      const backward = { rows: N, acts, residual, gradScale: c, wDec, l1: lambda, weights, dPre };
      device.backwardDense(backward);
      device.updateLatentsDense({
        ...{ rows: N, x, bPre, params: { wEnc, bEnc, wDec }, moments, dBPre, acts, dPre },
        ...{ levels: [{ latents: all, residual }], gradScale: c, normPenalty: lambda, normGroups },
        ...{ adam: readGradients, decoder: free },
      });
      await expectGradients(device, t, (point) => {
        const acts = relu(preActivations(point));
        let penalty = 0;
        for (const row of acts)
          for (const [f, a] of row.entries()) penalty += a * normOf(point, f, normGroups);
        return (c / 2) * squaredError(acts, point) + lambda * penalty;
      });
    });

    test.each(forms)("a gated SAE of %s latents, with its auxiliary loss", async (form) => {
      const [c, c2, lambda] = [0.3, 0.2, 0.1];
      const t = load(device);
      const { wDec, bDec, y } = t;
      const codes = reluCodes(device, t, form); // relu(π)
      const [magnitudes, dMagnitudes, dGate] = [0, 1, 2].map(() => like(device, codes));
      const gates = { rows: N, codes, rMag: t.rMag, bGate: t.bEnc, bMag: t.bMag, magnitudes };
      device.gate(gates);
      const decoded: Slots = { ...codes, values: magnitudes };
      const [residual, auxResidual] = [0, 1].map(() => device.tensor([N, e]));
      decode(device, decoded, { rows: N, wDec, bDec, target: y, residual });
      valueGradients(device, decoded, {
        rows: N,
        wDec,
        residual,
        gradScale: c,
        dValues: dMagnitudes,
      });
      decode(device, codes, { rows: N, wDec, bDec, target: y, residual: auxResidual });
      const aux = { rows: N, wDec, residual: auxResidual, gradScale: c2, dValues: dGate };
      valueGradients(device, codes, aux);
      device.penalize({
        ...{ rows: N, codes, penalty: { kind: "l1", coefficient: lambda }, weights: null },
        ...{ dValues: dGate, dWeights: null, rowPenalty: device.tensor([N]) },
      });
      const [dBGate, dBMag, dRMag] = [0, 1, 2].map(() => device.tensor([F]));
      device.gateGradient({ ...gates, dMagnitudes, dGate, dBGate, dBMag, dRMag });
      const levels = [{ latents: all, residual }];
      update(device, t, { codes: decoded, dPre: dGate, levels, gradScale: c });

      const loss = (point: Point) => {
        const pi = preActivations(point);
        const magnitude = (v: number, f: number) =>
          v > 0 ? Math.max(Math.exp(point.rMag[f]) * (v - point.bEnc[f]) + point.bMag[f], 0) : 0;
        const acts = pi.map((row) => row.map(magnitude));
        const opened = relu(pi);
        let sum = (c / 2) * squaredError(acts, point);
        // The decoder is detached there.
        sum += (c2 / 2) * squaredError(opened, { ...point, wDec: start.wDec, bDec: start.bDec });
        for (const row of opened) for (const v of row) sum += lambda * v;
        return sum;
      };
      await expectGradients(device, t, loss, ["wDec", "bPre"]);
      expectGradient(await device.readF32(dBGate), "bEnc", loss);
      expectGradient(await device.readF32(dBMag), "bMag", loss);
      expectGradient(await device.readF32(dRMag), "rMag", loss);
    });

    test.each(["ragged", "dense"] as const)(
      "the pre-activation loss of %s latents, as a rank-one part and a correction",
      async (form) => {
        const coefficient = 0.7;
        const w = Float32Array.from({ length: F }, (_, f) => 0.5 + f / 4);
        const sinceFired = i32(device, [9, 1, 5, 0, 7, 5, 4, 8, 6]);
        const isEligible = (f: number) => [0, 2, 4, 5, 7, 8].includes(f); // sinceFired >= 5
        const t = load(device);
        const { wEnc, bEnc, wDec, threshold } = t;
        let [codes, pre]: [Slots, Tensor] = [
          { values: device.tensor([N, F]) },
          device.tensor([N, F]),
        ];
        if (form === "ragged") ({ codes, pre } = raggedCodes(device, t, threshold));
        else {
          device.encodeDense({ ...encoding(t), activation: "none", out: pre });
          device.applyThreshold({ rows: N, pre, threshold, values: codes.values });
        }
        const dValues = like(device, codes);
        const [weights, inputs, coefficients] = [[F], [d], [F]].map((shape) =>
          device.tensor(shape),
        );
        const [dThreshold, penalty] = [device.tensor([F]), device.tensor([1])];
        device.write(weights, w);
        device.columnSum({ rows: N, x: t.x, scale: 1, out: inputs, accumulate: false });
        device.addScaled({ rows: 1, x: t.bPre, scale: -N, out: inputs, accumulate: true });
        device.preActPenalty({
          ...{ rows: N, codes, pre, threshold, weights, coefficient, inputs, wEnc, bEnc },
          ...{ eligible: { sinceFired, atLeast: 5 }, dValues, coefficients, dThreshold, penalty },
        });
        const levels = [{ latents: all, residual: device.tensor([N, e]) }];
        const rankOne = { coefficients, inputs };
        update(device, t, { codes, dPre: dValues, levels, gradScale: 0, rankOne });

        const loss = (point: Point) => {
          let sum = 0;
          for (const row of preActivations(point))
            for (const [f, z] of row.entries())
              if (isEligible(f)) sum += w[f] * Math.max(point.threshold[f] - z, 0);
          return coefficient * sum;
        };
        await expectGradients(device, t, loss, ["bEnc", "bPre"]);
        expectGradient(await device.readF32(dThreshold), "threshold", loss);
        expect((await device.readF32(penalty))[0]).toBeCloseTo(loss(start), 4);
        expect(await device.readF32(wDec)).toEqual(start.wDec);
      },
    );
  });
}
