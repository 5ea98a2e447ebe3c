/**
 * What every device must compute, the reference included, with ragged codes, ranges of latents,
 * penalties, thresholds, gates and kept gradients: numbers small enough to be worked out by hand.
 */
import { afterAll, describe, expect, test } from "vitest";

import { f32, free, i32, numbers, readGradients, training } from "../../test/device-numbers.ts";
import { closeDevices, devices } from "../../test/device-trials.ts";
import type { Device } from "./device.ts";

afterAll(closeDevices);

/** Two rows: latents 0 and 2, and latent 1; a third row without any, a fourth with 0 and an unused slot. */
const raggedCodes = (device: Device, values: number[]) => ({
  indices: i32(device, [0, 2, 1, 0, -1, 9, 9]),
  ends: i32(device, [2, 3, 3, 5]),
  values: f32(device, values),
});

for (const device of devices) {
  describe(device.name, () => {
    const encoder = () => ({
      ...{ rows: 3, bPre: f32(device, [1, 0]) },
      x: f32(device, [
        [2, 3],
        [4, -1],
        [0, -2],
      ]),
      wEnc: f32(device, [
        [1, 0],
        [0, 1],
        [1, 1],
      ]),
      bEnc: f32(device, [0, 0, -2]),
    });
    // x - bPre: [1, 3], [3, -1], [-1, -2]; z: [1, 3, 2], [3, -1, 0], [-1, -2, -5]

    test("encodeBatchTopK: the largest of the batch, ties to the lower row, then latent", async () => {
      const out = {
        ...{ indices: device.tensor([5], "i32"), values: device.tensor([5]) },
        ...{ ends: device.tensor([3], "i32"), cutoff: device.tensor([1]) },
      };
      const all = [out.indices, out.values, out.ends, out.cutoff];
      const seen = () => Promise.all(all.map((tensor) => numbers(device, tensor)));
      device.encodeBatchTopK({ ...encoder(), ...out, count: 1 });
      expect(await seen()).toEqual([[1, 0, 0, 0, 0], [3, 0, 0, 0, 0], [1, 1, 1], [3]]);
      device.encodeBatchTopK({ ...encoder(), ...out, count: 3 });
      expect(await seen()).toEqual([[1, 2, 0, 0, 0], [3, 2, 3, 0, 0], [2, 3, 3], [2]]);
      // Only four values are positive.
      device.encodeBatchTopK({ ...encoder(), ...out, count: 5 });
      expect(await seen()).toEqual([[0, 1, 2, 0, 0], [1, 3, 2, 3, 0], [3, 4, 4], [1]]);
      device.encodeBatchTopK({ ...encoder(), ...out, count: 0 });
      expect((await seen()).slice(2)).toEqual([[0, 0, 0], [0]]);
    });

    test("encodeThreshold: all pairs above, and those within the margin below with value 0", async () => {
      const out = (capacity: number) => ({
        ...{ indices: device.tensor([capacity], "i32"), values: device.tensor([capacity]) },
        ...{ pre: device.tensor([capacity]), ends: device.tensor([3], "i32") },
        total: device.tensor([1], "i32"),
      });
      const threshold = f32(device, [1, 2.5, 0]);
      const plain = out(4);
      device.encodeThreshold({ ...encoder(), ...plain, threshold, margin: 0 });
      // z = 1 is not above 1, nor z = 0 above 0.
      expect(await numbers(device, plain.indices)).toEqual([1, 2, 0, 0]);
      expect(await numbers(device, plain.values)).toEqual([3, 2, 3, 0]);
      expect(await numbers(device, plain.ends)).toEqual([2, 3, 3]);
      expect(await numbers(device, plain.total)).toEqual([3]);
      const near = out(6);
      device.encodeThreshold({ ...encoder(), ...near, threshold, margin: 0.5 });
      expect(await numbers(device, near.indices)).toEqual([0, 1, 2, 0, 2, 0]);
      expect(await numbers(device, near.values)).toEqual([0, 3, 2, 3, 0, 0]);
      expect(await numbers(device, near.pre)).toEqual([1, 3, 2, 3, 0, 0]);
      expect(await numbers(device, near.ends)).toEqual([3, 5, 5]);
      // Below a threshold that is negative itself, a value still is not.
      const low = out(9);
      device.encodeThreshold({
        ...{ ...encoder(), ...low, threshold: f32(device, [-2, -9, -1]), margin: 0, pre: null },
      });
      expect(await numbers(device, low.indices)).toEqual([0, 1, 2, 0, 1, 2, 0, 1, 0]);
      expect(await numbers(device, low.values)).toEqual([1, 3, 2, 3, 0, 0, 0, 0, 0]);
      const full = out(2);
      device.encodeThreshold({ ...encoder(), ...full, threshold: null, margin: 0 });
      expect(await numbers(device, full.total)).toEqual([4]);
    });

    test("applyThreshold", async () => {
      const pre = f32(device, [[1, 2, -1, 3]]);
      const values = device.tensor([1, 4]);
      device.applyThreshold({ rows: 1, pre, threshold: f32(device, [1, 1, -2, 4]), values });
      expect(await numbers(device, values)).toEqual([0, 2, 0, 0]);
    });

    test("decodeSparse and valueGradients of ragged codes and ranges of latents", async () => {
      const codes = raggedCodes(device, [1, 2, 3, 0, 5, 7, 7]);
      const wDec = f32(device, [
        [1, 0, 2],
        [0, 1, 0],
        [1, 1, 1],
      ]);
      const target = f32(device, Array<number[]>(4).fill([10, 10, 10]));
      const residual = device.tensor([4, 3]);
      const dValues = f32(device, Array<number>(7).fill(-7));
      const op = { rows: 4, ...codes, wDec, bDec: null, target, residual };
      device.decodeSparse({ ...op, gradient: { dValues, gradScale: 0.5 } });
      // x̂: [1, 0, 2] + 2 [1, 1, 1]; 3 [0, 1, 0]; nothing; nothing
      const left = [7, 8, 6, 10, 7, 10, 10, 10, 10, 10, 10, 10];
      expect(await numbers(device, residual)).toEqual(left);
      expect(await numbers(device, dValues)).toEqual([-9.5, -10.5, -3.5, 0, 0, -7, -7]);
      // Of latents 0 and 1 only; the others' gradients stay what they were.
      device.write(dValues, new Float32Array(7).fill(-7));
      const latents = { from: 0, to: 2 };
      device.decodeSparse({ ...op, latents, gradient: { dValues, gradScale: 1 } });
      expect((await numbers(device, residual)).slice(0, 3)).toEqual([9, 10, 8]);
      expect(await numbers(device, dValues)).toEqual([-25, -7, -7, 0, -7, -7, -7]);
      const gradients = { rows: 4, ...codes, wDec, residual, dValues, gradScale: 1 };
      device.valueGradients({ ...gradients, inactiveToo: true });
      expect(await numbers(device, dValues)).toEqual([-25, -27, -7, -30, 0, -7, -7]);
    });

    test("decodeDense and backwardDense of ranges of latents", async () => {
      const wDec = f32(device, [[3], [0], [1]]);
      const acts = f32(device, [[1, 0, 2]]);
      const residual = device.tensor([1, 1]);
      const decode = { rows: 1, acts, wDec, bDec: null, target: f32(device, [[16]]), residual };
      device.decodeDense({ ...decode, latents: { from: 1, to: 3 } });
      expect(await numbers(device, residual)).toEqual([14]);
      device.decodeDense({ ...decode, latents: { from: 1, to: 1 } });
      expect(await numbers(device, residual)).toEqual([16]);
      const dPre = f32(device, [[7, 7, 7]]);
      const op = { rows: 1, residual, gradScale: 0.5, wDec, l1: 2, weights: null, dPre };
      device.backwardDense({ ...op, acts, latents: { from: 1, to: 3 } });
      expect(await numbers(device, dPre)).toEqual([7, 0, -6]);
      device.backwardDense({ ...op, acts: null });
      expect(await numbers(device, dPre)).toEqual([-22, 2, -6]);
    });

    test("penalize adds to gradients, and gives those of the weights and the penalty of each row", async () => {
      const codes = raggedCodes(device, [1, 2, 3, 0, 5, 7, 7]);
      const out = () => ({
        dValues: f32(device, Array<number>(7).fill(10)),
        dWeights: f32(device, Array<number>(7).fill(-7)),
        rowPenalty: device.tensor([4]),
      });
      const weights = f32(device, [2, 1, 0.5]);
      const one = out();
      const l1 = { kind: "l1", coefficient: 3 } as const;
      device.penalize({ rows: 4, codes, penalty: l1, weights, ...one });
      // λ w, λ a, λ Σ w a
      expect(await numbers(device, one.dValues)).toEqual([16, 11.5, 13, 10, 10, 10, 10]);
      expect(await numbers(device, one.dWeights)).toEqual([3, 6, 9, 0, 0, -7, -7]);
      expect(await numbers(device, one.rowPenalty)).toEqual([9, 9, 0, 0]);
      const two = out();
      const lp = { kind: "lp", coefficient: 2, p: 2, delta: 1 } as const;
      device.penalize({ rows: 4, codes, penalty: lp, weights: null, ...two, inactiveToo: true });
      // s = (u + 1)² - 1, s' = 2 (u + 1); also where the value is 0
      expect(await numbers(device, two.dValues)).toEqual([18, 22, 26, 14, 10, 10, 10]);
      expect(await numbers(device, two.dWeights)).toEqual([8, 24, 48, 0, 0, -7, -7]);
      expect(await numbers(device, two.rowPenalty)).toEqual([22, 30, 0, 0]);
      const tanh = { kind: "tanh", coefficient: 4, c: 0.5 } as const;
      const three = { dValues: device.tensor([1, 2]), rowPenalty: device.tensor([1]) };
      const op = { rows: 1, codes: { values: f32(device, [[2 * Math.log(2), 0]]) }, penalty: tanh };
      device.penalize({ ...op, weights: f32(device, [2, 1]), dWeights: null, ...three });
      // tanh(2 ln 2) = 15/17
      const t = 15 / 17;
      expect((await numbers(device, three.rowPenalty))[0]).toBeCloseTo(4 * t, 5);
      expect((await numbers(device, three.dValues))[0]).toBeCloseTo(4 * 2 * 0.5 * (1 - t * t), 5);
      expect((await numbers(device, three.dValues))[1]).toBe(0);
    });

    test("thresholdGradient: both losses' gradients by the threshold, and the mask", async () => {
      // θ = [2, 1, 4], ε = 1: windows (1.5, 2.5), (0.5, 1.5), (3.5, 4.5)
      const pre = f32(device, [2.25, 3.75, 1.25, 1.5, 0, 9, 9]);
      const codes = raggedCodes(device, [2.25, 0, 1.25, 0, 0, 9, 9]);
      const run = async (target: number | null) => {
        const dValues = f32(device, [1, 2, 3, 4, 5, 9, 9]);
        const dThreshold = f32(device, [7, 7, 7]);
        device.thresholdGradient({
          ...{ rows: 4, codes, pre, threshold: f32(device, [2, 1, 4]), bandwidth: 1 },
          ...{ dValues, l0: { coefficient: 10, target }, dThreshold },
        });
        // z = 1.5 lies at the edge of its window, which is not in it.
        expect(await numbers(device, dValues)).toEqual([1, 0, 3, 0, 5, 9, 9]);
        return numbers(device, dThreshold);
      };
      // -(θ dValue + dL0)/ε
      expect(await run(null)).toEqual([-(2 * 1 + 10), -(1 * 3 + 10), -(4 * 2 + 10)]);
      // L0 = 2/4; d/dL0_n of 10 · 4 (L0/0.25 - 1)² = 2 · 10 (2 - 1)/0.25 = 80
      expect(await run(0.25)).toEqual([-82, -83, -88]);
    });

    test("thresholdGradient divides by the bandwidth", async () => {
      const dThreshold = device.tensor([1]);
      const op = { rows: 1, codes: { values: f32(device, [[2.25]]) }, pre: f32(device, [[2.25]]) };
      device.thresholdGradient({
        ...{ ...op, threshold: f32(device, [2]), bandwidth: 4, dValues: f32(device, [[3]]) },
        ...{ l0: { coefficient: 10, target: null }, dThreshold },
      });
      expect(await numbers(device, dThreshold)).toEqual([-4]);
    });

    test("gate and gateGradient", async () => {
      const rMag = f32(device, [Math.log(2), 0, 0]);
      const [bGate, bMag] = [f32(device, [0.5, 0, 1]), f32(device, [1, -5, 0.25])];
      const codes = raggedCodes(device, [1, 2, 3, 0, 5, 7, 7]);
      const magnitudes = f32(device, Array<number>(7).fill(-7));
      const op = { rows: 4, codes, rMag, bGate, bMag, magnitudes };
      device.gate(op);
      // 2 (1 - 0.5) + 1; (2 - 1) + 0.25; 3 - 5 < 0; π = 0
      expect(await numbers(device, magnitudes)).toEqual([2, 1.25, 0, 0, 0, -7, -7]);
      const dGate = f32(device, [10, 20, 30, 40, 50, 9, 9]);
      const sums = {
        dBGate: device.tensor([3]),
        dBMag: device.tensor([3]),
        dRMag: device.tensor([3]),
      };
      const dMagnitudes = f32(device, [1, 2, 3, 4, 5, 9, 9]);
      device.gateGradient({ ...op, dMagnitudes, dGate, ...sums });
      expect(await numbers(device, dGate)).toEqual([12, 22, 30, 0, 50, 9, 9]);
      expect(await numbers(device, sums.dBGate)).toEqual([10, 30, 20]);
      expect(await numbers(device, sums.dBMag)).toEqual([1, 0, 2]);
      expect(await numbers(device, sums.dRMag)).toEqual([1, 0, 2]);
    });

    test("preActPenalty: the sum over all rows from those where a latent is active", async () => {
      const wEnc = f32(device, [[1], [2]]);
      const bEnc = f32(device, [3, 2]);
      // With one input x: z = [x + 3, 2x + 2]; rows x = 0, -1, 2: [3, 2], [2, 0], [5, 6]
      const codes = {
        indices: i32(device, [0, 1, 0, 0, 1]),
        ends: i32(device, [2, 3, 5]),
        values: f32(device, [3, 2, 0, 5, 6]),
      };
      const pre = f32(device, [3, 2, 2, 5, 6]);
      const run = async (atLeast: number) => {
        const out = {
          ...{ dValues: f32(device, [1, 1, 1, 1, 1]), dThreshold: f32(device, [10, 10]) },
          ...{ coefficients: f32(device, [7, 7]), penalty: device.tensor([1]) },
        };
        device.preActPenalty({
          ...{ rows: 3, codes, pre, wEnc, bEnc, ...out, coefficient: 0.5 },
          ...{ threshold: f32(device, [2.5, 1]), weights: f32(device, [4, 6]) },
          inputs: f32(device, [1]),
          eligible: { sinceFired: i32(device, [5, 8]), atLeast },
        });
        return Promise.all(Object.values(out).map((tensor) => numbers(device, tensor)));
      };
      // relu(θ - z): latent 0: 2.5 - 2 in row 1; latent 1: 1 - 0 in row 1
      expect(await run(0)).toEqual([[3, 4, 1, 3, 4], [12, 13], [-2, -3], [0.5 * (4 * 0.5 + 6)]]);
      expect(await run(6)).toEqual([[1, 4, 1, 1, 4], [10, 13], [0, -3], [3]]);
      expect(await run(9)).toEqual([[1, 1, 1, 1, 1], [10, 10], [0, 0], [0]]);
    });

    // ---- updates ----

    /** Two latents, three inputs, two outputs. */
    const state = () => ({
      params: {
        wEnc: f32(device, [
          [1, 2, 3],
          [4, 5, 6],
        ]),
        bEnc: f32(device, [1, 1]),
        wDec: f32(device, [
          [3, 4],
          [0, 2],
        ]),
      },
      moments: training(device, 2, 3, 2),
      gradients: {
        wEnc: f32(device, Array<number[]>(2).fill([100, 100, 100])),
        bEnc: f32(device, [100, 100]),
        wDec: f32(device, Array<number[]>(2).fill([100, 100])),
      },
      dBPre: f32(device, [100, 100, 100]),
    });
    const read = ({ gradients, dBPre }: ReturnType<typeof state>) =>
      Promise.all(
        [gradients.wEnc, gradients.bEnc, gradients.wDec, dBPre].map((t) => numbers(device, t)),
      );

    test("updateLatents keeps gradients, each part's by its range, and takes no step", async () => {
      const s = state();
      const codes = { indices: i32(device, [0, 1]), ends: i32(device, [2]) };
      const shared = { ...codes, values: f32(device, [1, 2]), dValues: f32(device, [3, 5]) };
      const residuals = [f32(device, [[1, 0]]), f32(device, [[0, 1]])];
      const op = { ...s, rows: 1, x: f32(device, [[1, 0, 2]]), bPre: null, adam: readGradients };
      const parts = [
        { ...shared, residual: residuals[0], gradScale: 1, latents: { from: 0, to: 1 } },
        { ...shared, residual: residuals[1], gradScale: 10, latents: { from: 1, to: 2 } },
      ];
      device.updateLatents({ ...op, parts, decoder: { projectGradient: false, unitNorm: true } });
      const expected = [
        [3, 0, 6, 5, 0, 10],
        [3, 5],
        [-1, 0, 0, -20],
        [-23, -31, -39],
      ];
      expect(await read(s)).toEqual(expected);
      // With accumulate it is the projection of what is added that counts: [-1, 0] without its part
      // along [0.6, 0.8] is [-0.64, 0.48]; along [0, 1] nothing is left of [0, -20].
      device.updateLatents({
        ...{ ...op, parts, accumulate: true },
        decoder: { projectGradient: true, unitNorm: true },
      });
      const [wEnc, bEnc, wDec, dBPre] = await read(s);
      expect(wEnc).toEqual([6, 0, 12, 10, 0, 20]);
      expect(bEnc).toEqual([6, 10]);
      expect(wDec).toEqual([-1.64, 0.48, 0, -20]);
      expect(dBPre).toEqual([-46, -62, -78]);
      expect(await numbers(device, s.params.wEnc)).toEqual([1, 2, 3, 4, 5, 6]);
      expect(await numbers(device, s.params.wDec)).toEqual([3, 4, 0, 2]);
      expect(await numbers(device, s.moments.wDec.v)).toEqual([0, 0, 0, 0]);
    });

    test("updateLatents: norms' gradients, detached decoders, and slots that contribute nothing", async () => {
      const s = state();
      const part = {
        ...{ indices: i32(device, [[0, 1]]), values: f32(device, [[2, 0]]) },
        ...{ dValues: f32(device, [[0, 0]]), residual: f32(device, [[1, 1]]), gradScale: 1 },
        dWeights: f32(device, [[10, 1000]]), // the second has neither value nor dValue
      };
      const op = { ...s, rows: 1, x: f32(device, [[1, 0, 2]]), bPre: null, adam: readGradients };
      device.updateLatents({ ...op, parts: [part], decoder: free });
      expect((await read(s))[2]).toEqual([-2 + 6, -2 + 8, 0, 0]);
      device.updateLatents({ ...op, parts: [{ ...part, decoder: false }], decoder: free });
      expect((await read(s))[2]).toEqual([6, 8, 0, 0]);
      // Each of the row's numbers a group: their signs. A group of norm 0 has none.
      const dValues = f32(device, [[0, 1]]);
      const parts = [{ ...part, dValues, decoder: false }];
      device.updateLatents({ ...op, parts, decoder: free, normGroups: 2 });
      expect((await read(s))[2]).toEqual([10, 10, 0, 1000]);
    });

    test("rankOne adds to the gradients of W_enc, b_enc and bPre", async () => {
      for (const isDense of [false, true]) {
        const s = state();
        const rankOne = { coefficients: f32(device, [2, -1]), inputs: f32(device, [1, 10, 100]) };
        const op = { ...s, rows: 3, bPre: null, adam: readGradients, decoder: free, rankOne };
        const x = device.tensor([3, 3]);
        if (isDense) {
          const levels = [{ latents: { from: 0, to: 2 }, residual: device.tensor([3, 2]) }];
          const codes = { acts: device.tensor([3, 2]), dPre: device.tensor([3, 2]) };
          device.updateLatentsDense({ ...op, x, ...codes, levels, gradScale: 1, normPenalty: 0 });
        } else device.updateLatents({ ...op, x, parts: [] });
        const [wEnc, bEnc, wDec, dBPre] = await read(s);
        expect(wEnc).toEqual([2, 20, 200, -1, -10, -100]);
        expect(bEnc).toEqual([6, -3]);
        expect(wDec).toEqual([0, 0, 0, 0]);
        // -(6 [1, 2, 3] - 3 [4, 5, 6])
        expect(dBPre).toEqual([6, 3, 0]);
      }
    });

    test("updateLatentsDense: a residual for each range of latents, norms by groups, gradients kept", async () => {
      const s = state();
      const op = {
        ...{ ...s, rows: 2, x: device.tensor([2, 3]), bPre: null, adam: readGradients },
        acts: f32(device, [
          [1, 0],
          [2, 3],
        ]),
        ...{ dPre: device.tensor([2, 2]), gradScale: 0.5, decoder: free },
        levels: [
          { latents: { from: 0, to: 1 }, residual: f32(device, Array<number[]>(2).fill([2, 0])) },
          { latents: { from: 1, to: 2 }, residual: f32(device, Array<number[]>(2).fill([0, 4])) },
        ],
      };
      device.updateLatentsDense({ ...op, normPenalty: 0 });
      expect((await read(s))[2]).toEqual([-3, 0, 0, -6]);
      const dWeights = f32(device, [
        [1, 2],
        [3, 4],
      ]);
      device.updateLatentsDense({ ...op, normPenalty: 2, dWeights, accumulate: true });
      // Norms' gradients: 2 · 3 + 4 = 10 and 2 · 3 + 6 = 12, along [0.6, 0.8] and [0, 1]
      expect((await read(s))[2]).toEqual([-6 + 6, 8, 0, -12 + 12]);
      device.updateLatentsDense({ ...op, normPenalty: 2, dWeights, normGroups: 2 });
      expect((await read(s))[2]).toEqual([-3 + 10, 10, 0, -6 + 12]);
    });

    test("kept gradients, scaled and applied, are the update's own step", async () => {
      const rate = { learningRate: 0.1, beta1: 0.5, beta2: 0.75, eps: 1e-3, step: 2 };
      const decoder = { projectGradient: true, unitNorm: true };
      const [direct, kept] = [state(), state()];
      const part = {
        ...{ indices: i32(device, [[0, 1]]), values: f32(device, [[2, 1]]), gradScale: 1 },
        ...{ dValues: f32(device, [[3, -1]]), residual: f32(device, [[1, 2]]) },
      };
      const half = { ...part, gradScale: 0.5, dValues: f32(device, [[1.5, -0.5]]) };
      const { gradients: _gradients, ...now } = direct;
      const op = { rows: 1, x: f32(device, [[1, 0, 2]]), bPre: null, adam: rate, decoder };
      device.updateLatents({ ...op, ...now, parts: [half] });
      device.updateLatents({ ...op, ...kept, parts: [part] });
      const { params, moments, gradients } = kept;
      const scale = f32(device, [0.5]);
      device.applyLatents({ params, moments, gradients, adam: rate, decoder, scale });
      for (const name of ["wEnc", "bEnc", "wDec"] as const) {
        const expected = await numbers(device, direct.params[name]);
        expect(await numbers(device, params[name])).toEqual(expected);
        expect(await numbers(device, moments[name].m)).toEqual(
          await numbers(device, direct.moments[name].m),
        );
      }
      expect(await numbers(device, params.bEnc)).not.toEqual([1, 1]);
    });

    test("updateVector: a scaled gradient, a lower bound, a matrix", async () => {
      const param = f32(device, [
        [1, 0.05],
        [1, 1],
      ]);
      const moments = { m: device.tensor([2, 2]), v: device.tensor([2, 2]) };
      const grad = f32(device, [
        [4, 4],
        [-4, 0],
      ]);
      const adam = { learningRate: 0.1, beta1: 0.5, beta2: 0.75, eps: 1e-12, step: 1 };
      device.updateVector({ param, grad, moments, adam, scale: f32(device, [0.5]), min: 0 });
      expect(await numbers(device, param)).toEqual([0.9, 0, 1.1, 1]);
      expect(await numbers(device, moments.m)).toEqual([1, 1, -1, 0]);
      expect(await numbers(device, moments.v)).toEqual([1, 1, 1, 0]);
    });

    // ---- sums ----

    test("sumOfSquares and clipFactor: the factor of PyTorch's clip_grad_norm_", async () => {
      const [squares, out] = [f32(device, [7]), device.tensor([1])];
      device.sumOfSquares({ x: f32(device, [3, 4]), out: squares, accumulate: false });
      device.sumOfSquares({ x: f32(device, [[10], [-5]]), out: squares, accumulate: true });
      expect(await numbers(device, squares)).toEqual([150]);
      device.sumOfSquares({ x: f32(device, [3, 4]), out: squares, accumulate: false });
      device.clipFactor({ squares, maxNorm: 2, out });
      expect(await numbers(device, out)).toEqual([0.4]);
      device.clipFactor({ squares, maxNorm: 6, out });
      expect(await numbers(device, out)).toEqual([1]);
    });

    test("movingAverage, addScaled and multiply", async () => {
      const [value, into] = [f32(device, [10, 20]), f32(device, [0, 40])];
      device.movingAverage({ value, into, rate: 0.25 });
      expect(await numbers(device, into)).toEqual([2.5, 35]);
      device.addScaled({ rows: 1, x: value, scale: 2, out: into, accumulate: true });
      expect(await numbers(device, into)).toEqual([22.5, 75]);
      const [x, out] = [f32(device, [[1, 2], [3, 4]]), f32(device, [[9, 9], [9, 9]])]; // prettier-ignore
      device.addScaled({ rows: 1, x, scale: -2, out, accumulate: false });
      expect(await numbers(device, out)).toEqual([-2, -4, 9, 9]);
      device.multiply({ rows: 1, x: out, by: f32(device, [3]) });
      expect(await numbers(device, out)).toEqual([-6, -12, 9, 9]);
    });

    test("inverseVariance: of the rows about their mean, 0 where they do not differ", async () => {
      const out = device.tensor([1]);
      const x = f32(device, [[1, 5], [3, 5], [100, 100]]); // prettier-ignore
      device.inverseVariance({ rows: 2, x, factor: 3, out });
      expect(await numbers(device, out)).toEqual([1.5]);
      const same = f32(device, Array<number[]>(7).fill([0.1, 1e10]));
      device.inverseVariance({ rows: 7, x: same, factor: 3, out });
      expect(await numbers(device, out)).toEqual([0]);
      device.inverseVariance({ rows: 0, x: same, factor: 3, out });
      expect(await numbers(device, out)).toEqual([0]);
    });

    test("rowNorms by groups, and matmul of some rows, scaled and added", async () => {
      const w = f32(device, [[3, 4, 0, 2], [0, 0, 0, 0]]); // prettier-ignore
      const out = device.tensor([2]);
      for (const [groups, norm] of [
        [1, Math.sqrt(29)],
        [2, 7],
        [4, 9],
      ]) {
        // prettier-ignore
        device.rowNorms({ w, out, groups });
        const [first, second] = await numbers(device, out);
        expect(first).toBeCloseTo(norm, 5);
        expect(second).toBe(0);
      }
      const a = f32(device, [[1, 2], [3, 4], [100, 100]]); // prettier-ignore
      const b = f32(device, [[5], [6]]); // prettier-ignore
      const product = f32(device, [[1], [1], [1]]);
      const op = { a, transB: false, rows: 2, scale: 2, accumulate: true };
      device.matmul({ ...op, b, transA: false, out: product });
      expect(await numbers(device, product)).toEqual([1 + 2 * 17, 1 + 2 * 39, 1]);
      const turned = f32(device, [[1], [1]]);
      device.matmul({ ...op, b, transA: true, out: turned });
      expect(await numbers(device, turned)).toEqual([1 + 2 * 23, 1 + 2 * 34]);
    });

    test("recordFiring of ragged codes", async () => {
      const stats = {
        ...{ sinceFired: i32(device, [4, 4, 4]), counts: i32(device, [1, 1, 1]) },
        sums: f32(device, [10, 10, 10]),
      };
      device.recordFiring({ rows: 4, codes: raggedCodes(device, [1, 0, 3, 5, 5, 7, 7]), stats });
      expect(await numbers(device, stats.sinceFired)).toEqual([0, 2, 8]);
      expect(await numbers(device, stats.counts)).toEqual([3, 2, 1]);
      expect(await numbers(device, stats.sums)).toEqual([16, 13, 10]);
    });
  });
}
