/**
 * Arithmetic, sums, the optimiser's separate pieces, products and ragged encoding, of every device
 * against the reference at awkward sizes.
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
  play,
  STATE,
  trained,
  type Trial,
} from "../../test/device-trials.ts";
import { label, sizes, type Size } from "../../test/latent-trials.ts";
import { openDevice } from "./device.ts";

afterAll(closeDevices);

type Make = (data: Data, size: Size) => Trial;

const sumOfSquares: Make = (data, { F, d }) => ({
  tensors: {
    ...{ matrix: data.random([F, d]), vector: data.random([F]) },
    ...{ out: data.positive([1]), both: data.positive([1]) },
  },
  run: (device, { matrix, vector, out, both }) => {
    device.sumOfSquares({ x: matrix, out, accumulate: true });
    device.sumOfSquares({ x: matrix, out: both, accumulate: false });
    device.sumOfSquares({ x: vector, out: both, accumulate: true });
  },
  out: ["out", "both"],
});

/** Sums of squares from nothing to what is no f32. */
const clipFactor: Make = (data) => {
  const squares = [0, 1e-40, 0.5, 1, 4.1, 1e30, Infinity, NaN];
  const names = squares.map((_, i) => `factor${i}`);
  return {
    tensors: Object.fromEntries(
      squares.flatMap((square, i) => [
        [`square${i}`, data.f32([1], () => square)],
        [names[i], data.random([1])],
      ]),
    ),
    run: (device, t) => {
      for (let i = 0; i < squares.length; i++)
        device.clipFactor({ squares: t[`square${i}`], maxNorm: 1, out: t[names[i]] });
    },
    out: names,
  };
};

const movingAverage: Make = (data, { F, d }) => ({
  tensors: {
    ...{ matrix: data.random([F, d]), vector: data.random([F]) },
    ...{ matrixInto: data.random([F, d]), vectorInto: data.random([F]) },
  },
  run: (device, { matrix, vector, matrixInto, vectorInto }) => {
    device.movingAverage({ value: matrix, into: matrixInto, rate: 0.01 });
    device.movingAverage({ value: vector, into: vectorInto, rate: 1 });
  },
  out: ["matrixInto", "vectorInto"],
});

const addScaled: Make = (data, { rows, F, d }) => ({
  tensors: {
    ...{ x: data.batch(rows, d), out: data.marked(rows, d), sum: data.batch(rows, d) },
    ...{ vector: data.random([F]), vectorSum: data.random([F]), none: data.random([F]) },
  },
  run: (device, { x, out, sum, vector, vectorSum, none }) => {
    device.addScaled({ rows, x, scale: -0.3, out, accumulate: false });
    device.addScaled({ rows, x, scale: 1.7, out: sum, accumulate: true });
    device.addScaled({ rows: 1, x: vector, scale: -9, out: vectorSum, accumulate: true });
    device.addScaled({ rows: 0, x: vector, scale: 2, out: none, accumulate: false });
  },
  out: ["out", "sum", "vectorSum", "none"],
});

const multiply: Make = (data, { rows, F, d }) => ({
  tensors: {
    ...{ x: data.batch(rows, d), vector: data.random([F]) },
    by: data.f32([1], () => -0.7),
  },
  run: (device, { x, vector, by }) => {
    device.multiply({ rows, x, by });
    device.multiply({ rows: 1, x: vector, by });
  },
  out: ["x", "vector"],
});

const inverseVariance: Make = (data, { rows, d }) => {
  const far = data.batch(rows, d);
  far.data = far.data.map((v, i) => v + 1000 * (i % d)); // means that are much larger than what varies
  return {
    tensors: {
      ...{ x: data.batch(rows, d), far, same: data.f32([rows + EXTRA_ROWS, d], () => 5) },
      ...{ out: data.random([1]), farOut: data.random([1]), none: data.random([1]) },
    },
    run: (device, { x, far, same, out, farOut, none }) => {
      device.inverseVariance({ rows, x, factor: 0.5, out });
      device.inverseVariance({ rows, x: far, factor: 2, out: farOut });
      device.inverseVariance({ rows, x: same, factor: 2, out: none });
    },
    out: ["out", "farOut", "none"],
  };
};

const updateVector: Make = (data, { F, d }) => {
  const tensors: Trial["tensors"] = { scale: data.f32([1], () => 0.3) };
  for (const [name, shape] of Object.entries({ matrix: [F, d], vector: [F] })) {
    tensors[name] = data.random(shape);
    tensors[`${name}Grad`] = data.random(shape);
    tensors[`${name}M`] = data.random(shape, 0.3);
    tensors[`${name}V`] = data.positive(shape, 0.5);
  }
  const names = ["matrix", "vector"];
  return {
    tensors,
    run: (device, t) => {
      for (const name of names) {
        const moments = { m: t[`${name}M`], v: t[`${name}V`] };
        const op = { param: t[name], grad: t[`${name}Grad`], moments };
        device.updateVector({ ...op, adam, scale: t.scale, min: -0.1 });
        device.updateVector({ ...op, adam: { ...adam, step: 4 }, scale: null });
      }
    },
    out: names.flatMap((name) => [name, `${name}M`, `${name}V`]),
  };
};

const applyLatents =
  (unitNorm: boolean): Make =>
  (data, { d, e, F }) => ({
    tensors: {
      ...data.state(F, d, 1, e),
      ...{ gWEnc: data.random([F, d]), gBEnc: data.random([F]), gWDec: data.random([F, e]) },
      scale: data.f32([1], () => 0.2),
    },
    run: (device, t) => {
      const { params, moments } = trained(t);
      const gradients = { wEnc: t.gWEnc, bEnc: t.gBEnc, wDec: t.gWDec };
      const op = { params, moments, gradients, decoder: { unitNorm } };
      device.applyLatents({ ...op, adam, scale: t.scale });
      device.applyLatents({ ...op, adam: { ...adam, step: 4 }, scale: null });
    },
    out: [...STATE, "gWEnc", "gBEnc", "gWDec"],
  });

const rowNorms: Make = (data, { F, e }) => {
  const divisors = Array.from({ length: e }, (_, i) => i + 1).filter((g) => e % g === 0);
  const counts = [...new Set([divisors[0], divisors[divisors.length >> 1], divisors.at(-1)!])];
  const w = data.random([F, e]);
  w.data.fill(0, 0, e); // a row of nothing
  return {
    tensors: {
      w,
      ...Object.fromEntries(counts.map((groups) => [`in${groups}`, data.random([F])])),
    },
    run: (device, t) => {
      for (const groups of counts) device.rowNorms({ w: t.w, out: t[`in${groups}`], groups });
    },
    out: counts.map((groups) => `in${groups}`),
  };
};

/** Products of the used rows of a batch, times a number, added to what is there; NaN behind the rows. */
const matmul: Make = (data, { rows, d, e }) => {
  const kinds = ["00", "01", "10", "11"];
  const tensors: Trial["tensors"] = {};
  for (const kind of kinds) {
    const [transA, transB] = [kind[0] === "1", kind[1] === "1"];
    tensors[`a${kind}`] = data.batch(rows, d);
    // b along the batch where a is turned; its own columns are the batch's rows when it is too.
    const tall = data.batch(rows, e);
    const wide = data.f32([e, rows + EXTRA_ROWS], (i) =>
      i % (rows + EXTRA_ROWS) < rows ? data.rng.normal() : NaN,
    );
    const fixed = data.random(transB ? [e, d] : [d, e]);
    tensors[`b${kind}`] = transA ? (transB ? wide : tall) : fixed;
    tensors[kind] = transA ? data.random([d, e]) : data.marked(rows, e);
    tensors[`sum${kind}`] = transA ? data.random([d, e]) : data.batch(rows, e);
  }
  return {
    tensors,
    run: (device, t) => {
      for (const kind of kinds) {
        const [transA, transB] = [kind[0] === "1", kind[1] === "1"];
        const op = { a: t[`a${kind}`], b: t[`b${kind}`], transA, transB, rows };
        device.matmul({ ...op, out: t[kind] });
        device.matmul({ ...op, out: t[`sum${kind}`], scale: -0.5, accumulate: true });
      }
    },
    out: kinds.flatMap((kind) => [kind, `sum${kind}`]),
  };
};

/** Whole numbers, whose sums are exact in f32: ties, and values on a threshold, are so everywhere. */
function wholeEncoding(data: Data, { rows, d, F }: Size): Trial["tensors"] {
  return {
    ...{ x: data.whole([rows + EXTRA_ROWS, d]), bPre: data.whole([d]) },
    ...{ wEnc: data.whole([F, d]), bEnc: data.whole([F]) },
  };
}

const ragged = (data: Data, rows: number, capacity: number): Trial["tensors"] => ({
  ...{ indices: data.i32([capacity], () => MARK), values: data.f32([capacity], () => MARK) },
  ends: data.i32([rows + EXTRA_ROWS], () => MARK),
});

const encodeBatchTopK =
  (share: number): Make =>
  (data, size) => {
    const { rows, F } = size;
    const count = Math.floor(share * rows * F);
    return {
      tensors: {
        ...{ ...wholeEncoding(data, size), ...ragged(data, rows, count + 2) },
        cutoff: data.random([1]),
      },
      run: (device, { x, bPre, wEnc, bEnc, indices, values, ends, cutoff }) =>
        device.encodeBatchTopK({
          ...{ rows, x, bPre, wEnc, bEnc, count, indices, values, ends, cutoff },
        }),
      out: ["indices", "values", "ends", "cutoff"],
    };
  };

const encodeThreshold =
  (margin: number): Make =>
  (data, size) => {
    const { rows, F } = size;
    const made = ragged(data, rows, rows * F + 2);
    return {
      tensors: {
        ...{ ...wholeEncoding(data, size), ...made },
        ...{ threshold: data.whole([F], 6), pre: data.f32(made.values.shape, () => MARK) },
        total: data.i32([1], () => MARK),
      },
      run: (device, { x, bPre, wEnc, bEnc, threshold, indices, values, pre, ends, total }) =>
        device.encodeThreshold({
          ...{ rows, x, bPre, wEnc, bEnc, threshold, margin, indices, values, pre, ends, total },
        }),
      out: ["indices", "values", "pre", "ends", "total"],
    };
  };

const trials: Record<string, Make> = {
  sumOfSquares,
  clipFactor,
  movingAverage,
  addScaled,
  multiply,
  inverseVariance,
  updateVector,
  applyLatents: applyLatents(false),
  "applyLatents to unit norm": applyLatents(true),
  rowNorms,
  matmul,
  "encodeBatchTopK of few": encodeBatchTopK(0.02),
  "encodeBatchTopK of many": encodeBatchTopK(0.3),
  "encodeBatchTopK of more than there are": encodeBatchTopK(1),
  "encodeThreshold without a margin": encodeThreshold(0),
  "encodeThreshold with a margin": encodeThreshold(2),
};

const TOLERANCE = 2e-6;

for (const device of devices.filter(({ name }) => name !== "reference")) {
  describe(device.name, () => {
    describe.each(Object.entries(trials))("%s computes what the reference does", (op, make) => {
      test.each(sizes.map((size) => [label(size), size] as const))("%s", async (name, size) => {
        await expectLikeReference(device, make(new Data(op, name), size), TOLERANCE);
      });
    });

    test.each([1e-40, 1e-30, 1e30])("arithmetic at scale %d", async (scale) => {
      const makes = { sumOfSquares, movingAverage, addScaled, multiply, inverseVariance, rowNorms };
      for (const [op, make] of Object.entries(makes)) {
        const trial = make(new Data(op, "scale"), sizes[5]);
        for (const [name, entry] of Object.entries(trial.tensors)) {
          if (name !== "by") entry.data = entry.data.map((v) => (v === MARK ? v : v * scale));
        }
        await expectLikeReference(device, trial, scale < 1e-38 ? 1e-4 : TOLERANCE);
      }
    });

    test("NaN in one place is in no other", async () => {
      for (const [op, name] of [
        ["addScaled", "x"],
        ["multiply", "x"],
        ["movingAverage", "matrix"],
        ["rowNorms", "w"],
        ["updateVector", "matrixGrad"],
        ["applyLatents", "gWDec"],
        ["applyLatents to unit norm", "gWEnc"],
      ]) {
        const trial = trials[op](new Data(op, "nan"), sizes[5]);
        trial.tensors[name].data[100] = NaN;
        await expectLikeReference(device, trial, TOLERANCE);
      }
    });

    test("pairs that found no room are counted, and nothing is written behind the codes", async () => {
      const size = { rows: 40, d: 8, e: 1, F: 300, k: 1 };
      const trial = encodeThreshold(1)(new Data("overflow"), size);
      for (const name of ["indices", "values", "pre"]) {
        trial.tensors[name].shape = [100];
        trial.tensors[name].data = trial.tensors[name].data.slice(0, 100);
      }
      await expectLikeReference(device, { ...trial, out: ["total"] }, 0);
      expect((await play(device, trial)).total[0]).toBeGreaterThan(100);
    });

    test("ragged encoding does without threshold, bias and pre-activations", async () => {
      const size = { rows: 40, d: 8, e: 1, F: 300, k: 1 };
      for (const make of [encodeThreshold(1), encodeBatchTopK(0.1)]) {
        const trial = make(new Data("absent"), size);
        const { pre: _pre, ...tensors } = trial.tensors;
        const run: Trial["run"] = (on, { x, wEnc, bEnc, indices, values, ends, total, cutoff }) => {
          const op = { rows: size.rows, x, bPre: null, wEnc, bEnc, indices, values, ends };
          if (cutoff) on.encodeBatchTopK({ ...op, count: 1000, cutoff });
          else on.encodeThreshold({ ...op, threshold: null, margin: 0, pre: null, total });
        };
        const out = trial.out.filter((name) => name !== "pre");
        await expectLikeReference(device, { tensors, run, out }, 0);
      }
    });

    test("batch top-k keeps none when none is positive, and none of NaN", async () => {
      const size = { rows: 40, d: 8, e: 1, F: 300, k: 1 };
      const none = encodeBatchTopK(0.1)(new Data("none"), size);
      none.tensors.wEnc.data.fill(0);
      none.tensors.bEnc.data.fill(0);
      await expectLikeReference(device, none, 0);
      const some = encodeBatchTopK(0.1)(new Data("some"), size);
      some.tensors.x.data.fill(NaN, 3 * 8, 4 * 8);
      some.tensors.bEnc.data[7] = NaN;
      await expectLikeReference(device, some, 0);
    });
  });
}

test("the cpu device gives the same bits on 1, 2 and 3 threads", async () => {
  const crews = await Promise.all([1, 2, 3].map((threads) => openDevice("cpu", { threads })));
  try {
    for (const [op, make] of Object.entries(trials)) {
      for (const size of [sizes[4], sizes[6], { rows: 700, d: 60, e: 50, F: 300, k: 8 }]) {
        const trial = make(new Data(op, "threads"), size);
        const [one, ...more] = await Promise.all(crews.map((device) => play(device, trial)));
        for (const other of more) {
          for (const name of trial.out)
            expectSameBits(other[name], one[name], `${op}, ${name}, ${label(size)}`);
        }
      }
    }
  } finally {
    await Promise.all(crews.map((device) => device.close()));
  }
});
