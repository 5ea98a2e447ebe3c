/**
 * Every operation of every device against the reference device, on awkward sizes, scales and
 * contents. What the reference itself must compute is in definition.test.ts. DEVICES=reference,cpu
 * makes a device that cannot be opened a failure instead of a skip.
 */
import { afterAll, describe, expect, test } from "vitest";

import {
  adam,
  closeDevices,
  Data,
  devices,
  expectLikeReference,
  expectSameBits,
  EXTRA_ROWS,
  MARK,
  opened,
  play,
  reference,
  required,
  STATE,
  trained,
  type Trial,
} from "../../test/device-trials.ts";
import { openDevice, type Device, type Tensor } from "./device.ts";

afterAll(closeDevices);

for (const { name, device, problem } of opened) {
  if (device) continue;
  const skipOrRun = required ? test : test.skip;
  skipOrRun(`${name} opens (it does not: ${problem})`, () => {
    throw new Error(problem);
  });
}

// ---- trials: one per operation, at any size ----

interface Size {
  rows: number;
  d: number;
  F: number;
  k: number;
}

const sizes: Size[] = [
  { rows: 0, d: 3, F: 5, k: 2 },
  { rows: 1, d: 1, F: 1, k: 1 },
  { rows: 3, d: 1, F: 5, k: 2 },
  { rows: 2, d: 3, F: 1, k: 1 },
  { rows: 5, d: 7, F: 33, k: 33 },
  { rows: 17, d: 64, F: 257, k: 3 },
  { rows: 7, d: 130, F: 257, k: 257 },
  { rows: 9, d: 768, F: 2048, k: 32 },
  { rows: 130, d: 1030, F: 33, k: 5 }, // sums longer than one product adds
  { rows: 1100, d: 7, F: 70, k: 4 }, // more rows than a block
];
const label = ({ rows, d, F, k }: Size) => `rows ${rows}, d ${d}, F ${F}, k ${k}`;

type Make = (data: Data, size: Size) => Trial;

const encodeTopK: Make = (data, { rows, d, F, k }) => ({
  tensors: {
    x: data.whole([rows + EXTRA_ROWS, d]),
    bPre: data.whole([d]),
    wEnc: data.whole([F, d]),
    bEnc: data.whole([F]),
    indices: data.marked(rows, k, "i32"),
    values: data.marked(rows, k),
  },
  run: (device, { x, bPre, wEnc, bEnc, indices, values }) =>
    device.encodeTopK({ rows, x, bPre, wEnc, bEnc, indices, values }),
  out: ["indices", "values"],
});

const encodeDense: Make = (data, { rows, d, F }) => ({
  tensors: {
    x: data.batch(rows, d),
    bPre: data.random([d]),
    wEnc: data.random([F, d]),
    bEnc: data.random([F]),
    acts: data.marked(rows, F),
    pre: data.marked(rows, F),
  },
  run: (device, { x, bPre, wEnc, bEnc, acts, pre }) => {
    const op = { rows, x, bPre, wEnc, bEnc };
    device.encodeDense({ ...op, activation: "relu", out: acts });
    device.encodeDense({ ...op, activation: "none", out: pre });
  },
  out: ["acts", "pre"],
});

const decodeSparse: Make = (data, { rows, d, F, k }) => ({
  tensors: {
    ...data.codes(rows, F, k),
    wDec: data.random([F, d]),
    bDec: data.random([d]),
    target: data.batch(rows, d),
    residual: data.marked(rows, d),
    dValues: data.marked(rows, k),
  },
  run: (device, { indices, values, wDec, bDec, target, residual, dValues }) => {
    const gradient = { dValues, gradScale: 0.3 };
    device.decodeSparse({ rows, indices, values, wDec, bDec, target, residual, gradient });
  },
  out: ["residual", "dValues"],
});

const decodeDense: Make = (data, { rows, d, F }) => ({
  tensors: {
    acts: data.acts(rows, F),
    wDec: data.random([F, d]),
    bDec: data.random([d]),
    target: data.batch(rows, d),
    residual: data.marked(rows, d),
  },
  run: (device, { acts, wDec, bDec, target, residual }) =>
    device.decodeDense({ rows, acts, wDec, bDec, target, residual }),
  out: ["residual"],
});

const backwardDense: Make = (data, { rows, d, F }) => ({
  tensors: {
    acts: data.acts(rows, F),
    residual: data.batch(rows, d),
    wDec: data.random([F, d]),
    weights: data.positive([F]),
    dPre: data.marked(rows, F),
    unweighted: data.marked(rows, F),
  },
  run: (device, { acts, residual, wDec, weights, dPre, unweighted }) => {
    const op = { rows, acts, residual, gradScale: 0.4, wDec, l1: 2 };
    device.backwardDense({ ...op, weights, dPre });
    device.backwardDense({ ...op, weights: null, dPre: unweighted });
  },
  out: ["dPre", "unweighted"],
});

const updateLatents: Make = (data, { rows, d, F, k }) => {
  const k2 = Math.min(F, k + 1);
  const [one, two] = [data.codes(rows, F, k), data.codes(rows, F, k2)];
  return {
    tensors: {
      ...{ x: data.batch(rows, d), bPre: data.random([d]) },
      ...{ indices: one.indices, values: one.values },
      ...{ dValues: data.batch(rows, k), residual: data.batch(rows, d) },
      ...{ indices2: two.indices, values2: two.values },
      ...{ dValues2: data.batch(rows, k2), residual2: data.batch(rows, d) },
      ...data.state(F, d),
    },
    run: (device, t) => {
      const { x, bPre, indices, values, dValues, residual } = t;
      const second = { indices: t.indices2, values: t.values2, dValues: t.dValues2 };
      device.updateLatents({
        ...trained(t),
        ...{ rows, x, bPre, adam },
        parts: [
          { indices, values, dValues, residual, gradScale: 0.3 },
          { ...second, residual: t.residual2, gradScale: 0.7 },
        ],
        decoder: { projectGradient: true, unitNorm: true },
      });
    },
    out: [...STATE, "dBPre"],
  };
};

const updateLatentsDense: Make = (data, { rows, d, F }) => ({
  tensors: {
    x: data.batch(rows, d),
    bPre: data.random([d]),
    acts: data.acts(rows, F),
    dPre: data.batch(rows, F),
    residual: data.batch(rows, d),
    ...data.state(F, d),
  },
  run: (device, t) => {
    const { x, bPre, acts, dPre, residual } = t;
    device.updateLatentsDense({
      ...trained(t),
      ...{ rows, x, bPre, acts, dPre, adam, gradScale: 0.3, normPenalty: 0.2 },
      levels: [{ latents: { from: 0, to: F }, residual }],
      decoder: { projectGradient: false, unitNorm: false },
    });
  },
  out: [...STATE, "dBPre"],
});

const updateVector: Make = (data, { d }) => ({
  tensors: {
    param: data.random([d]),
    grad: data.random([d]),
    m: data.random([d]),
    v: data.positive([d]),
  },
  run: (device, { param, grad, m, v }) =>
    device.updateVector({ param, grad, moments: { m, v }, adam }),
  out: ["param", "m", "v"],
});

const columnSum: Make = (data, { rows, d }) => ({
  tensors: { x: data.batch(rows, d), out: data.random([d]), fresh: data.random([d]) },
  run: (device, { x, out, fresh }) => {
    device.columnSum({ rows, x, scale: -0.5, out, accumulate: true });
    device.columnSum({ rows, x, scale: 2, out: fresh, accumulate: false });
  },
  out: ["out", "fresh"],
});

const rowNorms: Make = (data, { d, F }) => ({
  tensors: { w: data.random([F, d]), out: data.random([F]) },
  run: (device, { w, out }) => device.rowNorms({ w, out }),
  out: ["out"],
});

const rowStats: Make = (data, { rows, d }) => ({
  tensors: {
    target: data.batch(rows, d),
    residual: data.batch(rows, d),
    out: data.marked(rows, 4),
  },
  run: (device, { target, residual, out }) => device.rowStats({ rows, target, residual, out }),
  out: ["out"],
});

const recordFiring: Make = (data, { rows, F, k }) => ({
  tensors: {
    ...data.codes(rows, F, k),
    acts: data.acts(rows, F),
    sinceFired: data.i32([F], () => data.rng.int(9)),
    counts: data.i32([F], () => data.rng.int(9)),
    sums: data.random([F]),
    sinceFired2: data.i32([F], () => data.rng.int(9)),
    counts2: data.i32([F], () => data.rng.int(9)),
    sums2: data.random([F]),
  },
  run: (device, t) => {
    const stats = { sinceFired: t.sinceFired, counts: t.counts, sums: t.sums };
    device.recordFiring({ rows, codes: { indices: t.indices, values: t.values }, stats });
    const dense = { sinceFired: t.sinceFired2, counts: t.counts2, sums: t.sums2 };
    device.recordFiring({ rows, codes: { values: t.acts }, stats: dense });
  },
  out: ["sinceFired", "counts", "sums", "sinceFired2", "counts2", "sums2"],
});

const matmul: Make = (data, { rows, d, F }) => {
  const m = rows + 1;
  const trial: Trial = { tensors: {}, run: () => {}, out: ["00", "01", "10", "11"] };
  for (const name of trial.out) {
    trial.tensors[`a${name}`] = data.random(name[0] === "1" ? [d, m] : [m, d]);
    trial.tensors[`b${name}`] = data.random(name[1] === "1" ? [F, d] : [d, F]);
    trial.tensors[name] = data.random([m, F]);
  }
  trial.run = (device, t) => {
    for (const name of trial.out) {
      const [transA, transB] = [name[0] === "1", name[1] === "1"];
      device.matmul({ a: t[`a${name}`], b: t[`b${name}`], transA, transB, out: t[name] });
    }
  };
  return trial;
};

const trials = {
  encodeTopK,
  encodeDense,
  decodeSparse,
  decodeDense,
  backwardDense,
  updateLatents,
  updateLatentsDense,
  updateVector,
  columnSum,
  rowNorms,
  rowStats,
  recordFiring,
  matmul,
} satisfies Record<string, Make>;

/** Tensors named as the operation's arguments are. */
type Given<Op extends keyof typeof trials> = Parameters<Device[Op]>[0] & Record<string, Tensor>;

// Sums of at most 2,048 f32 products, and what Adam makes of them.
const TOLERANCE = 2e-6;

for (const device of devices.filter(({ name }) => name !== "reference")) {
  describe(device.name, () => {
    for (const [op, make] of Object.entries(trials)) {
      test.each(sizes.map((size) => [label(size), size] as const))(
        `${op} computes what the reference does (%s)`,
        async (name, size) => {
          await expectLikeReference(device, make(new Data(op, name), size), TOLERANCE);
        },
      );
    }

    test("optional arguments may be absent", async () => {
      const size = { rows: 5, d: 7, F: 20, k: 3 };
      const { rows } = size;
      const none = { bPre: null, bDec: null };
      const data = new Data("absent");
      const runs: [Trial, Trial["run"]][] = [
        [
          encodeTopK(data, size),
          (on, t) => on.encodeTopK({ ...(t as Given<"encodeTopK">), ...none, rows }),
        ],
        [
          encodeDense(data, size),
          (on, t) => {
            const op = { ...(t as Given<"encodeDense">), ...none, rows };
            on.encodeDense({ ...op, activation: "relu", out: t.acts });
            on.encodeDense({ ...op, activation: "none", out: t.pre });
          },
        ],
        [
          decodeSparse(data, size),
          (on, t) => on.decodeSparse({ ...(t as Given<"decodeSparse">), ...none, rows }),
        ],
        [
          decodeDense(data, size),
          (on, t) => on.decodeDense({ ...(t as Given<"decodeDense">), ...none, rows }),
        ],
      ];
      for (const [trial, run] of runs) {
        const out = trial.out.filter((name) => name !== "dValues");
        await expectLikeReference(device, { ...trial, run, out }, TOLERANCE);
      }
      for (const op of ["updateLatents", "updateLatentsDense"] as const) {
        const trial = trials[op](data, size);
        const run: Trial["run"] = (on, t) => {
          const { x, acts, dPre, residual, indices, values, dValues } = t;
          const decoder = { projectGradient: false, unitNorm: false };
          const common = { ...trained(t), rows, x, bPre: null, adam, decoder, dBPre: null };
          const parts = [{ indices, values, dValues, residual, gradScale: 1 }];
          if (op === "updateLatents") on.updateLatents({ ...common, parts });
          else {
            const levels = [{ latents: { from: 0, to: size.F }, residual }];
            const dense = { acts, dPre, levels, gradScale: 1, normPenalty: 0 };
            on.updateLatentsDense({ ...common, ...dense });
          }
        };
        await expectLikeReference(device, { ...trial, run, out: STATE }, TOLERANCE);
      }
    });

    test("a second run of an update goes on from the first", async () => {
      const trial = updateLatents(new Data("again"), { rows: 40, d: 20, F: 100, k: 4 });
      const once = trial.run;
      const twice: Trial["run"] = (on, t) => {
        once(on, t);
        once(on, t);
      };
      await expectLikeReference(device, { ...trial, run: twice }, TOLERANCE);
    });

    // ---- selection ----

    const selection = (
      change: (trial: Trial, size: Size, data: Data) => void,
      size: Size,
      eligible?: number,
    ) => {
      const data = new Data("selection", label(size));
      const trial = encodeTopK(data, size);
      trial.tensors.sinceFired = data.i32([size.F], (f) => f % 10);
      change(trial, size, data);
      trial.run = (on, { x, bPre, wEnc, bEnc, indices, values, sinceFired }) =>
        on.encodeTopK({
          ...{ rows: size.rows, x, bPre, wEnc, bEnc, indices, values },
          ...(eligible !== undefined && { eligible: { sinceFired, atLeast: eligible } }),
        });
      return trial;
    };
    const wide = { rows: 21, d: 40, F: 2500, k: 40 }; // three tiles of latents

    test("among equal latents the first are taken", async () => {
      const trial = selection(({ tensors }) => {
        for (const name of ["wEnc", "bEnc"]) tensors[name].data.fill(1);
      }, wide);
      const { indices } = await play(device, trial);
      for (let n = 0; n < wide.rows; n++) {
        const row = Array.from(indices.subarray(n * wide.k, (n + 1) * wide.k));
        expect(row).toEqual(row.map((_, j) => j));
      }
    });

    test("copies of a latent tie, wherever they stand", async () => {
      // Seven different latents of random numbers, over and over: sums must not depend on the column.
      const trial = selection(({ tensors }, { F, d }, data) => {
        const some = data.random([7, d]).data;
        tensors.x = data.random([wide.rows + EXTRA_ROWS, d]);
        tensors.wEnc.data = tensors.wEnc.data.map((_, i) => some[i % (7 * d)]);
        tensors.bEnc.data = tensors.bEnc.data.map((_, f) => (f % 7) / 10);
        expect(tensors.wEnc.data).toHaveLength(F * d);
      }, wide);
      const [actual, expected] = [await play(device, trial), await play(reference, trial)];
      expectSameBits(actual.indices, expected.indices, "indices");
    });

    test("rising values, each better than the last, are all seen", async () => {
      const trial = selection(({ tensors }) => {
        tensors.wEnc.data.fill(0);
        tensors.bEnc.data = tensors.bEnc.data.map((_, f) => f);
      }, wide);
      await expectLikeReference(device, trial, 0);
    });

    test("negative and zero pre-activations keep their index and order with value 0", async () => {
      const trial = selection(({ tensors }) => {
        tensors.x.data.fill(0);
        tensors.bPre.data.fill(0);
        tensors.bEnc.data = tensors.bEnc.data.map((_, f) => -(f % 100));
      }, wide);
      await expectLikeReference(device, trial, 0);
      const { values } = await play(device, trial);
      expect(values.subarray(0, wide.rows * wide.k).every((v) => Object.is(v, 0))).toBe(true);
    });

    test.each([0, 1, 9, 10])(
      "only eligible latents are taken (sinceFired >= %i)",
      async (atLeast) => {
        await expectLikeReference(
          device,
          selection(() => {}, wide, atLeast),
          0,
        );
        // 3 of 33 are eligible for 9, fewer than k: the rest of the slots stays unused.
        await expectLikeReference(
          device,
          selection(() => {}, { rows: 5, d: 7, F: 33, k: 8 }, atLeast),
          0,
        );
      },
    );

    test("the codes of random numbers agree with the reference within rounding", async () => {
      const size = { rows: 70, d: 96, F: 1500, k: 20 };
      const trial = selection(({ tensors }, { rows, d, F }, data) => {
        tensors.x = data.random([rows + EXTRA_ROWS, d]);
        tensors.wEnc = data.random([F, d], 0.1);
      }, size);
      await expectLikeReference(device, { ...trial, out: ["values"] }, TOLERANCE);
      const { indices, values } = await play(device, trial);
      const everything = selection(() => {}, { ...size, k: size.F });
      everything.tensors = { ...everything.tensors, ...trial.tensors };
      everything.tensors.indices = new Data().marked(size.rows, size.F, "i32");
      everything.tensors.values = new Data().marked(size.rows, size.F);
      const all = await play(reference, everything);
      for (let n = 0; n < size.rows; n++) {
        for (let j = 0; j < size.k; j++) {
          const at = all.indices.indexOf(indices[n * size.k + j], n * size.F);
          expect(Math.abs(all.values[at] - values[n * size.k + j])).toBeLessThan(1e-5);
        }
      }
    });

    // ---- scales, degenerate rows and NaN ----

    test.each([2 ** -100, 2 ** -40, 2 ** 40])("codes and decoding at scale %d", async (scale) => {
      const size = { rows: 9, d: 37, F: 50, k: 5 };
      const data = new Data("scale", scale);
      const scaled = (trial: Trial, ...names: string[]) => {
        for (const name of names) {
          const entry = trial.tensors[name];
          entry.data = entry.data.map((v) => v * scale);
        }
        return trial;
      };
      await expectLikeReference(device, scaled(encodeTopK(data, size), "x", "bPre", "bEnc"), 1e-6);
      const decode = scaled(decodeSparse(data, size), "values", "target", "bDec");
      await expectLikeReference(device, decode, TOLERANCE);
      const dense = scaled(decodeDense(data, size), "acts", "target", "bDec");
      await expectLikeReference(device, dense, TOLERANCE);
    });

    test.each([1e-30, 1e30])("norms of rows at scale %d", async (scale) => {
      const data = new Data("norms", scale);
      const size = { rows: 9, d: 37, F: 70, k: 5 };
      const trial = rowNorms(data, size);
      trial.tensors.w = data.random([size.F, size.d], scale);
      await expectLikeReference(device, trial, TOLERANCE);
      // Weights so small or large next to their step: projection and unit norm still see a direction.
      for (const make of [updateLatents, updateLatentsDense]) {
        const update = make(data, size);
        update.tensors.wDec = data.random([size.F, size.d], scale);
        if (make === updateLatents) {
          for (const name of ["residual", "residual2"]) update.tensors[name].data.fill(0);
          update.tensors.wDecM.data.fill(0);
        }
        await expectLikeReference(device, update, TOLERANCE);
      }
    });

    test("denormal moments decay like everyone's", async () => {
      const trial = updateVector(new Data("denormal"), { rows: 0, d: 33, F: 1, k: 1 });
      trial.tensors.m.data.fill(1e-40);
      trial.tensors.v.data.fill(3e-42);
      trial.tensors.grad.data.fill(0);
      await expectLikeReference(device, trial, 1e-4);
    });

    test("decoder rows of norm 0 stay 0 and get no projection", async () => {
      const size = { rows: 9, d: 37, F: 70, k: 5 };
      const trial = updateLatents(new Data("zero"), size);
      for (const name of ["wDec", "wDecM", "residual", "residual2"]) {
        trial.tensors[name].data.fill(0);
      }
      await expectLikeReference(device, trial, TOLERANCE);
      const dense = updateLatentsDense(new Data("zero"), size);
      dense.tensors.wDec.data.fill(0);
      await expectLikeReference(device, dense, TOLERANCE);
    });

    test("unit rows have norm 1, and a projected gradient leaves it to first order", async () => {
      const trial = updateLatents(new Data("unit"), { rows: 30, d: 24, F: 64, k: 6 });
      const { wDec } = await play(device, trial);
      for (let f = 0; f < 64; f++) {
        const row = Array.from(wDec.subarray(f * 24, (f + 1) * 24));
        expect(Math.hypot(...row)).toBeCloseTo(1, 6);
      }
    });

    test("NaN in one row of a batch stays in that row", async () => {
      const size = { rows: 9, d: 37, F: 1500, k: 5 };
      for (const make of [encodeTopK, encodeDense, decodeSparse, decodeDense, backwardDense]) {
        const trial = make(new Data("nan"), size);
        for (const name of ["x", "target", "residual"]) {
          trial.tensors[name]?.data.fill(NaN, 4 * size.d, 5 * size.d);
        }
        await expectLikeReference(device, trial, TOLERANCE);
      }
    });

    test("NaN in one latent stays in that latent's codes, and ranks last", async () => {
      const size = { rows: 9, d: 37, F: 33, k: 33 };
      const trial = selection(
        ({ tensors }, { d }) => tensors.wEnc.data.fill(NaN, 7 * d, 8 * d),
        size,
      );
      const { indices, values } = await play(device, trial);
      for (let n = 0; n < size.rows; n++) {
        expect(indices[n * size.k + 32]).toBe(7);
        expect(values[n * size.k + 32]).toBeNaN();
        expect(values.subarray(n * size.k, n * size.k + 32).every(Number.isFinite)).toBe(true);
      }
      await expectLikeReference(device, trial, 0);
    });

    test("NaN in the gradient reaches only the latents it belongs to", async () => {
      const size = { rows: 9, d: 37, F: 300, k: 5 };
      const trial = updateLatents(new Data("nan gradient"), size);
      trial.tensors.residual.data.fill(NaN, 0, size.d);
      await expectLikeReference(device, { ...trial, out: STATE }, TOLERANCE);
    });

    test("indices outside the latents are unused slots", async () => {
      const size = { rows: 9, d: 37, F: 30, k: 5 };
      for (const make of [decodeSparse, updateLatents, recordFiring]) {
        const trial = make(new Data("outside"), size);
        const { data } = trial.tensors.indices;
        for (const [i, index] of [-1, 30, 2 ** 31 - 1, -(2 ** 31), 29].entries()) data[i] = index;
        trial.tensors.values.data.fill(1, 0, 5);
        await expectLikeReference(device, trial, TOLERANCE);
      }
    });

    test("rows beyond `rows` are left as they are", async () => {
      const size = { rows: 5, d: 7, F: 33, k: 3 };
      const outputs = {
        encodeTopK,
        encodeDense,
        decodeSparse,
        decodeDense,
        backwardDense,
        rowStats,
      };
      for (const [op, make] of Object.entries(outputs)) {
        const trial = make(new Data(op), size);
        const results = await play(device, trial);
        for (const name of trial.out) {
          const columns = trial.tensors[name].shape[1];
          const rest = Array.from(results[name].subarray(size.rows * columns));
          expect(rest, `${op} ${name}`).toEqual(rest.map(() => MARK));
        }
      }
    });
  });
}

test("the cpu device gives the same bits on 1, 2 and 3 threads", async () => {
  const crews = await Promise.all([1, 2, 3].map((threads) => openDevice("cpu", { threads })));
  try {
    for (const [op, make] of Object.entries(trials)) {
      for (const size of [sizes[4], sizes[7], { rows: 700, d: 100, F: 900, k: 8 }]) {
        const trial = make(new Data(op, "threads"), size);
        const [one, ...more] = await Promise.all(crews.map((device) => play(device, trial)));
        for (const other of more) {
          for (const name of trial.out) {
            expectSameBits(other[name], one[name], `${op}, ${name}, ${label(size)}`);
          }
        }
      }
    }
  } finally {
    await Promise.all(crews.map((device) => device.close()));
  }
});
