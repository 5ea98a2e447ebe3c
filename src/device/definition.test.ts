/**
 * What every device must compute, the reference included: numbers small enough to be worked out by
 * hand, and gradients against finite differences of a loss written out in float64.
 */
import { afterAll, describe, expect, test } from "vitest";

import { f32, free, i32, numbers, readGradients, training } from "../../test/device-numbers.ts";
import { closeDevices, devices } from "../../test/device-trials.ts";
import { Rng } from "../rng.ts";

// A device that cannot be opened is reported by device.test.ts.
afterAll(closeDevices);

for (const device of devices) {
  describe(device.name, () => {
    // Three latents in two dimensions.
    const w = [
      [3, 4],
      [0, 2],
      [1, 0],
    ];

    test("encodeTopK", async () => {
      const wEnc = f32(device, w);
      const bEnc = f32(device, [0, 0, 1]);
      // x - bPre: [1, 1], [-1, 0]; z: [7, 2, 2], [-3, 0, 0]
      const x = f32(device, [
        [2, 1],
        [0, 0],
      ]);
      const bPre = f32(device, [1, 0]);
      const indices = device.tensor([2, 2], "i32");
      const values = device.tensor([2, 2]);
      device.encodeTopK({ rows: 2, x, bPre, wEnc, bEnc, indices, values });
      expect(await numbers(device, indices)).toEqual([0, 1, 1, 2]);
      expect(await numbers(device, values)).toEqual([7, 2, 0, 0]);
      const eligible = { sinceFired: i32(device, [5, 4, 6]), atLeast: 6 };
      device.encodeTopK({ rows: 2, x, bPre, wEnc, bEnc, indices, values, eligible });
      expect(await numbers(device, indices)).toEqual([2, -1, 2, -1]);
      expect(await numbers(device, values)).toEqual([2, 0, 0, 0]);
    });

    test("encodeDense", async () => {
      const x = f32(device, [
        [2, 1],
        [0, -1],
      ]);
      const op = { rows: 2, x, bPre: f32(device, [1, 0]), out: device.tensor([2, 3]) };
      const encoder = { wEnc: f32(device, w), bEnc: f32(device, [0, 0, 1]) };
      device.encodeDense({ ...op, ...encoder, activation: "relu" });
      expect(await numbers(device, op.out)).toEqual([7, 2, 2, 0, 0, 0]);
      device.encodeDense({ ...op, ...encoder, activation: "none" });
      expect((await numbers(device, op.out)).slice(0, 3)).toEqual([7, 2, 2]);
    });

    test("decodeSparse", async () => {
      const op = {
        rows: 1,
        indices: i32(device, [[2, 0, -1, 1]]),
        values: f32(device, [[2, 1, 0, 0]]),
        wDec: f32(device, w),
        bDec: f32(device, [10, 20]),
        target: f32(device, [[16, 26]]),
        residual: device.tensor([1, 2]),
        gradient: { dValues: device.tensor([1, 4]), gradScale: 0.5 },
      };
      device.decodeSparse(op);
      // x̂ = 2 [1, 0] + [3, 4] + [10, 20] = [15, 24]
      expect(await numbers(device, op.residual)).toEqual([1, 2]);
      expect(await numbers(device, op.gradient.dValues)).toEqual([-0.5, -5.5, 0, 0]);
    });

    test("decodeDense and backwardDense", async () => {
      const wDec = f32(device, w);
      const acts = f32(device, [[1, 0, 2]]);
      const residual = device.tensor([1, 2]);
      const target = f32(device, [[16, 26]]);
      device.decodeDense({ rows: 1, acts, wDec, bDec: f32(device, [10, 20]), target, residual });
      expect(await numbers(device, residual)).toEqual([1, 2]);
      const dPre = device.tensor([1, 3]);
      const op = { rows: 1, acts, residual, gradScale: 0.5, wDec, l1: 2, dPre };
      device.backwardDense({ ...op, weights: null });
      expect(await numbers(device, dPre)).toEqual([-3.5, 0, 1.5]);
      device.backwardDense({ ...op, weights: f32(device, [1, 2, 3]) });
      expect(await numbers(device, dPre)).toEqual([-3.5, 0, 5.5]);
    });

    test("updateLatents: projection, Adam, unit norm and dBPre", async () => {
      const params = {
        wEnc: f32(device, [
          [1, 2],
          [3, 4],
        ]),
        bEnc: f32(device, [1, 1]),
        wDec: f32(device, [
          [2, 0],
          [0, 0],
        ]),
      };
      const moments = training(device, 2, 2);
      const part = {
        indices: i32(device, [[0], [0]]),
        values: f32(device, [[2], [0]]), // the second row is not active
        dValues: f32(device, [[-3], [0]]),
        residual: f32(device, [
          [1, 1],
          [5, 5],
        ]),
        gradScale: 0.5,
      };
      const dBPre = device.tensor([2]);
      device.updateLatents({
        ...{
          rows: 2,
          x: f32(device, [
            [4, 6],
            [8, 8],
          ]),
          bPre: f32(device, [3, 4]),
        },
        ...{ parts: [part, part], params, moments, dBPre },
        adam: { learningRate: 0.1, beta1: 0.5, beta2: 0.75, eps: 1e-12, step: 1 },
        decoder: { projectGradient: true, unitNorm: true },
      });
      // G_dec = 2 · -0.5 · 2 · [1, 1] = [-2, -2], along the row nothing is left: [0, -2].
      // m = (1 - β1) G; the first Adam step is lr · sign(G): W_dec = [2, 0.1], then of norm 1.
      expect(await numbers(device, moments.wDec.m)).toEqual([0, -1, 0, 0]);
      expect(await numbers(device, moments.wDec.v)).toEqual([0, 1, 0, 0]);
      const norm = Math.hypot(2, 0.1);
      const wDec = await device.readF32(params.wDec);
      expect(wDec[0]).toBeCloseTo(2 / norm, 6);
      expect(wDec[1]).toBeCloseTo(0.1 / norm, 6);
      expect(Array.from(wDec.subarray(2))).toEqual([0, 0]);
      // G_enc = 2 · -3 · ([4, 6] - [3, 4]) = [-6, -12], g_b = -6, dBPre = 6 [1, 2]
      expect(await numbers(device, moments.wEnc.m)).toEqual([-3, -6, 0, 0]);
      expect(await numbers(device, params.wEnc)).toEqual([1.1, 2.1, 3, 4]);
      expect(await numbers(device, moments.bEnc.m)).toEqual([-3, 0]);
      expect(await numbers(device, params.bEnc)).toEqual([1.1, 1]);
      expect(await numbers(device, dBPre)).toEqual([6, 12]);
    });

    test("updateLatentsDense: the same gradients from dense codes, and the norm penalty", async () => {
      const params = {
        wEnc: f32(device, [
          [1, 2],
          [3, 4],
        ]),
        bEnc: f32(device, [1, 1]),
        wDec: f32(device, [
          [3, 4],
          [0, 0],
        ]),
      };
      const moments = training(device, 2, 2);
      const dBPre = device.tensor([2]);
      device.updateLatentsDense({
        ...{ rows: 1, x: f32(device, [[4, 6]]), bPre: f32(device, [3, 4]), dBPre },
        ...{ acts: f32(device, [[2, 1]]), dPre: f32(device, [[-3, 1]]) },
        levels: [{ latents: { from: 0, to: 2 }, residual: f32(device, [[1, 1]]) }],
        ...{ gradScale: 0.5, normPenalty: 10 },
        ...{ params, moments, adam: readGradients, decoder: free },
      });
      // G_dec[0] = 2 · -0.5 · [1, 1] + 10 · 2 · [0.6, 0.8]; a row of norm 0 has no penalty gradient
      expect(await numbers(device, moments.wDec.m)).toEqual([11, 15, -0.5, -0.5]);
      expect(await numbers(device, moments.wEnc.m)).toEqual([-3, -6, 1, 2]);
      expect(await numbers(device, moments.bEnc.m)).toEqual([-3, 1]);
      expect(await numbers(device, dBPre)).toEqual([3 * 1 - 1 * 3, 3 * 2 - 1 * 4]);
      expect(await numbers(device, params.wDec)).toEqual([3, 4, 0, 0]);
    });

    test("updateVector: two Adam steps as PyTorch takes them", async () => {
      const param = f32(device, [1, 1]);
      const moments = { m: device.tensor([2]), v: device.tensor([2]) };
      const rate = { learningRate: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8 };
      device.updateVector({
        param,
        grad: f32(device, [1, -4]),
        moments,
        adam: { ...rate, step: 1 },
      });
      expect(await numbers(device, param)).toEqual([0.99, 1.01]);
      device.updateVector({
        param,
        grad: f32(device, [1, 0]),
        moments,
        adam: { ...rate, step: 2 },
      });
      // second: m = -0.36, v = 0.015984; 1.01 + 0.01 · (0.36/0.19) / √(0.015984/0.001999)
      expect(await numbers(device, param)).toEqual([0.98, 1.016701]);
      // 1 - β2 in f32 would give v = 0.0009999871 for the first gradient
      expect((await device.readF32(moments.v))[1]).toBe(
        Math.fround(Math.fround(0.001 * 16) * 0.999),
      );
    });

    test("columnSum, rowNorms and rowStats", async () => {
      const x = f32(device, w);
      const out = f32(device, [100, 200]);
      device.columnSum({ rows: 2, x, scale: 2, out, accumulate: true });
      expect(await numbers(device, out)).toEqual([106, 212]);
      device.columnSum({ rows: 3, x, scale: -1, out, accumulate: false });
      expect(await numbers(device, out)).toEqual([-4, -6]);
      const norms = device.tensor([3]);
      device.rowNorms({ w: x, out: norms });
      expect(await numbers(device, norms)).toEqual([5, 2, 1]);
      const stats = device.tensor([1, 4]);
      // x̂ = [2, 5]
      const op = { rows: 1, target: f32(device, [[3, 4]]), residual: f32(device, [[1, -1]]) };
      device.rowStats({ ...op, out: stats });
      expect(await numbers(device, stats)).toEqual([25, 29, 26, 2]);
    });

    test("recordFiring", async () => {
      const fresh = () => ({
        sinceFired: i32(device, [4, 4, 4, 4]),
        counts: i32(device, [1, 1, 1, 1]),
        sums: f32(device, [10, 10, 10, 10]),
      });
      const sparse = fresh();
      const indices = i32(device, [
        [0, 1],
        [0, 2],
        [3, -1],
      ]);
      const values = f32(device, [
        [1, 2],
        [3, 0],
        [5, 0],
      ]);
      device.recordFiring({ rows: 3, codes: { indices, values }, stats: sparse });
      const dense = fresh();
      const acts = f32(device, [
        [1, 2, 0, 0],
        [3, 0, 0, 0],
        [0, 0, 0, 5],
      ]);
      device.recordFiring({ rows: 3, codes: { values: acts }, stats: dense });
      for (const stats of [sparse, dense]) {
        expect(await numbers(device, stats.sinceFired)).toEqual([1, 2, 7, 0]);
        expect(await numbers(device, stats.counts)).toEqual([3, 2, 1, 2]);
        expect(await numbers(device, stats.sums)).toEqual([14, 12, 10, 15]);
      }
    });

    test("matmul, each factor as it is or transposed", async () => {
      const a = f32(device, [
        [1, 2],
        [3, 4],
      ]);
      const b = f32(device, [
        [5, 6],
        [7, 8],
      ]);
      const out = device.tensor([2, 2]);
      const expected = {
        nn: [19, 22, 43, 50],
        nt: [17, 23, 39, 53],
        tn: [26, 30, 38, 44],
        tt: [23, 31, 34, 46],
      };
      for (const [kind, product] of Object.entries(expected)) {
        device.matmul({ a, b, transA: kind[0] === "t", transB: kind[1] === "t", out });
        expect(await numbers(device, out), kind).toEqual(product);
      }
    });

    // ---- gradients ----

    const [N, d, F, K] = [6, 5, 9, 3];
    const rng = new Rng(11);
    const random = (count: number) => Float32Array.from({ length: count }, () => rng.normal());
    const start = {
      x: random(N * d),
      wEnc: random(F * d),
      bEnc: random(F),
      wDec: random(F * d),
      b: random(d), // the decoder's bias, also subtracted before encoding
    };
    type Point = { [Key in keyof typeof start]: ArrayLike<number> };

    /** acts[n][f] = max(z, 0) and ‖x - x̂‖² with the latents in `chosen` (default: all), in float64. */
    function forward(
      { x, wEnc, bEnc, wDec, b }: Point,
      chosen?: (n: number, f: number) => boolean,
    ) {
      const acts: number[][] = [];
      let squares = 0;
      for (let n = 0; n < N; n++) {
        acts[n] = [];
        for (let f = 0; f < F; f++) {
          let z = bEnc[f];
          for (let i = 0; i < d; i++) z += (x[n * d + i] - b[i]) * wEnc[f * d + i];
          acts[n][f] = chosen && !chosen(n, f) ? 0 : Math.max(z, 0);
        }
        for (let i = 0; i < d; i++) {
          let reconstruction = b[i];
          for (let f = 0; f < F; f++) reconstruction += acts[n][f] * wDec[f * d + i];
          squares += (x[n * d + i] - reconstruction) ** 2;
        }
      }
      return { acts, squares };
    }

    function expectGradient(
      actual: Float32Array,
      name: Exclude<keyof Point, "x">,
      loss: (point: Point) => number,
    ) {
      const step = 1e-6;
      for (let i = 0; i < actual.length; i++) {
        const moved = (by: number) => {
          const values = Float64Array.from(start[name]);
          values[i] += by;
          return loss({ ...start, [name]: values });
        };
        const expected = (moved(step) - moved(-step)) / (2 * step);
        expect(Math.abs(actual[i] - expected), `${name}[${i}]`).toBeLessThan(
          2e-6 * (10 + Math.abs(expected)),
        );
      }
    }

    function load() {
      const tensor = (data: Float32Array, ...shape: number[]) => {
        const made = device.tensor(shape);
        device.write(made, data);
        return made;
      };
      return {
        x: tensor(start.x, N, d),
        b: tensor(start.b, d),
        params: {
          wEnc: tensor(start.wEnc, F, d),
          bEnc: tensor(start.bEnc, F),
          wDec: tensor(start.wDec, F, d),
        },
        moments: training(device, F, d),
        residual: device.tensor([N, d]),
        dBPre: device.tensor([d]),
        db: device.tensor([d]),
      };
    }

    async function expectAllGradients(
      { moments, dBPre, db }: ReturnType<typeof load>,
      loss: (point: Point) => number,
    ) {
      expectGradient(await device.readF32(moments.wEnc.m), "wEnc", loss);
      expectGradient(await device.readF32(moments.bEnc.m), "bEnc", loss);
      expectGradient(await device.readF32(moments.wDec.m), "wDec", loss);
      const [encoder, decoder] = [await device.readF32(dBPre), await device.readF32(db)];
      expectGradient(
        encoder.map((v, i) => v + decoder[i]),
        "b",
        loss,
      );
    }

    test("the sparse path's gradients are those of c/2 Σ‖x - x̂‖²", async () => {
      const c = 0.3;
      const t = load();
      const { x, b, params, moments, residual, dBPre } = t;
      const codes = { indices: device.tensor([N, K], "i32"), values: device.tensor([N, K]) };
      device.encodeTopK({ rows: N, x, bPre: b, ...params, ...codes });
      const dValues = device.tensor([N, K]);
      const gradient = { dValues, gradScale: c };
      const decode = { rows: N, ...codes, wDec: params.wDec, bDec: b, target: x, residual };
      device.decodeSparse({ ...decode, gradient });
      const parts = [{ ...codes, ...gradient, residual }];
      const update = { rows: N, x, bPre: b, parts, params, moments, dBPre };
      device.updateLatents({ ...update, adam: readGradients, decoder: free });
      device.columnSum({ rows: N, x: residual, scale: -c, out: t.db, accumulate: false });

      const indices = Array.from(await device.readI32(codes.indices));
      const chosen = (n: number, f: number) => indices.slice(n * K, n * K + K).includes(f);
      await expectAllGradients(t, (point) => (c / 2) * forward(point, chosen).squares);
    });

    test("the dense path's gradients are those of c/2 Σ‖x - x̂‖² + λ Σ acts ‖W_dec‖", async () => {
      const [c, lambda] = [0.3, 0.2];
      const t = load();
      const { x, b, params, moments, residual, dBPre } = t;
      const [acts, dPre] = [device.tensor([N, F]), device.tensor([N, F])];
      const norms = device.tensor([F]);
      const { wDec } = params;
      device.encodeDense({ rows: N, x, bPre: b, ...params, activation: "relu", out: acts });
      device.decodeDense({ rows: N, acts, wDec, bDec: b, target: x, residual });
      device.rowNorms({ w: wDec, out: norms });
      const backward = { rows: N, acts, residual, gradScale: c, wDec, l1: lambda };
      device.backwardDense({ ...backward, weights: norms, dPre });
      device.updateLatentsDense({
        ...{ rows: N, x, bPre: b, acts, dPre, gradScale: c, normPenalty: lambda },
        levels: [{ latents: { from: 0, to: F }, residual }],
        ...{ params, moments, dBPre, adam: readGradients, decoder: free },
      });
      device.columnSum({ rows: N, x: residual, scale: -c, out: t.db, accumulate: false });

      await expectAllGradients(t, (point) => {
        const { acts, squares } = forward(point);
        let penalty = 0;
        for (let f = 0; f < F; f++) {
          const row = Array.from({ length: d }, (_, i) => point.wDec[f * d + i]);
          for (let n = 0; n < N; n++) penalty += acts[n][f] * Math.hypot(...row);
        }
        return (c / 2) * squares + lambda * penalty;
      });
    });
  });
}
