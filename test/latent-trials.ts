/**
 * Trials of what works on latents: fixed, ragged and dense ones at awkward sizes, with unused slots
 * and empty rows, other widths of inputs and reconstructions, ranges of latents, kept gradients.
 */
import type { Penalty, Tensor } from "../src/device/device.ts";
import {
  adam,
  codesOf,
  layouts,
  MARK,
  sparseCodesOf,
  STATE,
  trained,
  type Data,
  type Entry,
  type Layout,
  type Trial,
} from "./device-trials.ts";

export interface Size {
  rows: number;
  d: number;
  /** Width of what is reconstructed. */
  e: number;
  F: number;
  k: number;
}

export const sizes: Size[] = [
  { rows: 0, d: 3, e: 2, F: 5, k: 2 },
  { rows: 1, d: 1, e: 1, F: 1, k: 1 },
  { rows: 3, d: 1, e: 6, F: 5, k: 2 },
  { rows: 2, d: 3, e: 1, F: 1, k: 1 },
  { rows: 5, d: 7, e: 12, F: 33, k: 33 },
  { rows: 17, d: 64, e: 65, F: 257, k: 3 },
  { rows: 9, d: 200, e: 130, F: 700, k: 32 },
  { rows: 70, d: 33, e: 1034, F: 40, k: 5 }, // products longer than one block
  { rows: 1100, d: 7, e: 10, F: 70, k: 4 }, // more rows than a block
];
export const label = ({ rows, d, e, F, k }: Size) => `rows ${rows}, d ${d}, e ${e}, F ${F}, k ${k}`;
export const middling = sizes[5];

type Make = (data: Data, size: Size, layout: Layout) => Trial;

/** Two ranges that hold all latents, one of them perhaps empty. */
const halves = (F: number) => [
  { from: 0, to: F >> 1 },
  { from: F >> 1, to: F },
];

/** In how many equal groups the columns may fall, more than one where they can. */
const groupsOf = (e: number) => [2, 3, 5].find((groups) => e % groups === 0) ?? 1;

/** Renames tensors, so that a trial may have several codes. */
const named = (suffix: string, tensors: Record<string, Entry>) =>
  Object.fromEntries(Object.entries(tensors).map(([name, entry]) => [name + suffix, entry]));

/** The codes that lie in tensors named by `named`. */
const codesNamed = (suffix: string, t: Record<string, Tensor>) =>
  sparseCodesOf(
    Object.fromEntries(
      ["indices", "ends", "values"].flatMap((name) =>
        t[name + suffix] ? [[name, t[name + suffix]]] : [],
      ),
    ),
  );

// ---- decoding and the gradients of values ----

const decodeSparse: Make = (data, { rows, d: _d, e, F, k }, layout) => {
  const codes = data.slots(layout, rows, F, k);
  const marks = () => codes.like(() => MARK);
  return {
    tensors: {
      ...codes.tensors,
      ...{ wDec: data.random([F, e]), bDec: data.random([e]), target: data.batch(rows, e) },
      ...{ residual: data.marked(rows, e), dValues: marks() },
      ...{ upper: data.marked(rows, e), dUpper: marks(), bare: data.marked(rows, e) },
    },
    run: (device, t) => {
      const op = { rows, ...sparseCodesOf(t), wDec: t.wDec, bDec: t.bDec, target: t.target };
      const gradient = { dValues: t.dValues, gradScale: 0.3 };
      device.decodeSparse({ ...op, residual: t.residual, gradient });
      device.decodeSparse({
        ...{ ...op, bDec: null, residual: t.upper, latents: halves(F)[1] },
        gradient: { dValues: t.dUpper, gradScale: -2, inactiveToo: true },
      });
      device.decodeSparse({ ...op, residual: t.bare, latents: halves(F)[0] });
    },
    out: ["residual", "dValues", "upper", "dUpper", "bare"],
  };
};

const valueGradients: Make = (data, { rows, e, F, k }, layout) => {
  const codes = data.slots(layout, rows, F, k);
  const out = ["active", "all", "lower", "lowerAll"];
  return {
    tensors: {
      ...codes.tensors,
      ...{ wDec: data.random([F, e]), residual: data.batch(rows, e) },
      ...Object.fromEntries(out.map((name) => [name, codes.like(() => MARK)])),
    },
    run: (device, t) => {
      const op = { rows, ...sparseCodesOf(t), wDec: t.wDec, residual: t.residual, gradScale: 0.4 };
      const latents = halves(F)[0];
      device.valueGradients({ ...op, dValues: t.active });
      device.valueGradients({ ...op, dValues: t.all, inactiveToo: true });
      device.valueGradients({ ...op, dValues: t.lower, latents });
      device.valueGradients({ ...op, dValues: t.lowerAll, latents, inactiveToo: true });
    },
    out,
  };
};

const dense: Make = (data, { rows, e, F }) => ({
  tensors: {
    ...{ acts: data.acts(rows, F), wDec: data.random([F, e]), bDec: data.random([e]) },
    ...{ target: data.batch(rows, e), first: data.marked(rows, e), second: data.marked(rows, e) },
    ...{ given: data.batch(rows, e), weights: data.positive([F]) },
    ...{ dPre: data.marked(rows, F), everywhere: data.marked(rows, F) },
  },
  run: (device, t) => {
    const { acts, wDec, bDec, target, first, second, given, weights, dPre, everywhere } = t;
    const [lower, upper] = halves(F);
    const decode = { rows, acts, wDec };
    device.decodeDense({ ...decode, bDec, target, residual: first, latents: lower });
    device.decodeDense({ ...decode, bDec: null, target, residual: second, latents: upper });
    const backward = { rows, residual: given, gradScale: 0.4, wDec, l1: 0.5 };
    device.backwardDense({ ...backward, acts, weights, dPre, latents: upper });
    device.backwardDense({ ...backward, acts: null, weights: null, dPre: everywhere });
  },
  out: ["first", "second", "dPre", "everywhere"],
});

// ---- what lies between codes and their gradients ----

const penalties: Penalty[] = [
  { kind: "l1", coefficient: 0.7 },
  { kind: "lp", coefficient: 0.7, p: 0.6, delta: 0.01 },
  { kind: "tanh", coefficient: 0.7, c: 3 },
];

const penalize: Make = (data, { rows, F, k }, layout) => {
  const codes = data.slots(layout, rows, F, k);
  const tensors: Trial["tensors"] = { ...codes.tensors, weights: data.positive([F]) };
  // Without weights an index beyond the latents could not be told from one of them.
  const { indices } = tensors;
  if (indices) indices.data = indices.data.map((f) => (f >= F ? -1 : f));
  const out: string[] = [];
  for (let i = 0; i < 2 * penalties.length; i++) {
    tensors[`dValues${i}`] = codes.random();
    tensors[`dWeights${i}`] = codes.like(() => MARK);
    tensors[`rowPenalty${i}`] = data.marked(rows, 1);
    tensors[`rowPenalty${i}`].shape.pop();
    out.push(`dValues${i}`, `dWeights${i}`, `rowPenalty${i}`);
  }
  return {
    tensors,
    run: (device, t) => {
      for (const [p, penalty] of penalties.entries()) {
        const op = { rows, codes: codesOf(t), penalty };
        const into = (i: number) => ({
          dValues: t[`dValues${i}`],
          rowPenalty: t[`rowPenalty${i}`],
        });
        device.penalize({
          ...{ ...op, ...into(2 * p), weights: t.weights, dWeights: t[`dWeights${2 * p}`] },
        });
        device.penalize({
          ...{ ...op, ...into(2 * p + 1), weights: null, dWeights: null, inactiveToo: true },
        });
      }
    },
    out,
  };
};

/** Codes of a JumpReLU: z in used slots, of which many lie near their threshold; values cut off by it. */
export function jumping(data: Data, { rows, F, k }: Size, layout: Layout, scale = 1) {
  const codes = data.slots(layout, rows, F, k);
  const threshold = data.positive([F], scale);
  const pre = codes.random(scale);
  codes.tensors.values = codes.like((f, at) => {
    const z = pre.data[at];
    return z > threshold.data[f] && z > 0 ? z : 0;
  });
  return { codes, tensors: { ...codes.tensors, threshold, pre } };
}

const thresholdGradient: Make = (data, size, layout) => {
  const { codes, tensors } = jumping(data, size, layout);
  const [dValues, dValues2] = [codes.random(), codes.random()];
  const [dThreshold, dThreshold2] = [data.random([size.F]), data.random([size.F])];
  return {
    tensors: { ...tensors, dValues, dValues2, dThreshold, dThreshold2 },
    run: (device, t) => {
      const { pre, threshold } = t;
      const op = { rows: size.rows, codes: codesOf(t), pre, threshold, bandwidth: 1.2 };
      device.thresholdGradient({
        ...{ ...op, dValues: t.dValues, dThreshold: t.dThreshold },
        l0: { coefficient: 0.3, target: null },
      });
      device.thresholdGradient({
        ...{ ...op, dValues: t.dValues2, dThreshold: t.dThreshold2 },
        l0: { coefficient: 0.3, target: 1.7 },
      });
    },
    out: ["dValues", "dValues2", "dThreshold", "dThreshold2"],
  };
};

const applyThreshold: Make = (data, { rows, F }) => {
  const pre = data.batch(rows, F);
  const threshold = data.random([F], 0.5); // some below 0, where values still are not
  for (let n = 0; n < rows; n++) pre.data[n * F + (n % F)] = threshold.data[n % F]; // on the threshold
  return {
    tensors: { pre, threshold, values: data.marked(rows, F) },
    run: (device, { pre, threshold, values }) =>
      device.applyThreshold({ rows, pre, threshold, values }),
    out: ["values"],
  };
};

const gateVectors = (data: Data, F: number) => ({
  rMag: data.random([F], 0.5),
  bGate: data.random([F], 0.3),
  bMag: data.random([F], 0.4),
});

const gate: Make = (data, { rows, F, k }, layout) => {
  const codes = data.slots(layout, rows, F, k);
  const magnitudes = codes.like(() => MARK);
  return {
    tensors: { ...codes.tensors, ...gateVectors(data, F), magnitudes },
    run: (device, t) => {
      const { rMag, bGate, bMag } = t;
      device.gate({ rows, codes: codesOf(t), rMag, bGate, bMag, magnitudes: t.magnitudes });
    },
    out: ["magnitudes"],
  };
};

const gateGradient: Make = (data, { rows, F, k }, layout) => {
  const codes = data.slots(layout, rows, F, k);
  const sums = ["dBGate", "dBMag", "dRMag"];
  return {
    tensors: {
      ...{ ...codes.tensors, ...gateVectors(data, F) },
      magnitudes: codes.like(() => Math.max(0, data.rng.normal() + 0.5)),
      ...{ dMagnitudes: codes.random(), dGate: codes.random() },
      ...Object.fromEntries(sums.map((name) => [name, data.random([F])])),
    },
    run: (device, t) => {
      const { rMag, bGate, bMag, magnitudes, dMagnitudes, dGate, dBGate, dBMag, dRMag } = t;
      device.gateGradient({
        ...{ rows, codes: codesOf(t), rMag, bGate, bMag },
        ...{ magnitudes, dMagnitudes, dGate, dBGate, dBMag, dRMag },
      });
    },
    out: ["dGate", ...sums],
  };
};

const preActPenalty: Make = (data, size, layout) => {
  const { F, d } = size;
  const { codes, tensors } = jumping(data, size, layout);
  const trial: Trial = {
    tensors: {
      ...{ ...tensors, weights: data.positive([F]), inputs: data.random([d]) },
      ...{ wEnc: data.random([F, d]), bEnc: data.random([F]) },
      sinceFired: data.i32([F], () => data.rng.int(9)),
    },
    run: (device, t) => {
      const { pre, threshold, weights, inputs, wEnc, bEnc, sinceFired } = t;
      for (const atLeast of [0, 5, 99]) {
        const [dValues, dThreshold] = [t[`dValues${atLeast}`], t[`dThreshold${atLeast}`]];
        device.preActPenalty({
          ...{ rows: size.rows, codes: codesOf(t), pre, threshold, weights, inputs, wEnc, bEnc },
          ...{ eligible: { sinceFired, atLeast }, coefficient: 0.3, dValues, dThreshold },
          ...{ coefficients: t[`coefficients${atLeast}`], penalty: t[`penalty${atLeast}`] },
        });
      }
    },
    out: [],
  };
  for (const atLeast of [0, 5, 99]) {
    const made = {
      ...{ dValues: codes.random(), dThreshold: data.random([F]) },
      ...{ coefficients: data.random([F]), penalty: data.random([1]) },
    };
    Object.assign(trial.tensors, named(`${atLeast}`, made));
    trial.out.push(...Object.keys(made).map((name) => `${name}${atLeast}`));
  }
  return trial;
};

const recordFiring: Make = (data, { rows, F, k }, layout) => ({
  tensors: {
    ...data.slots(layout, rows, F, k).tensors,
    sinceFired: data.i32([F], () => data.rng.int(9)),
    counts: data.i32([F], () => data.rng.int(9)),
    sums: data.random([F]),
  },
  run: (device, t) => {
    const { sinceFired, counts, sums } = t;
    device.recordFiring({ rows, codes: codesOf(t), stats: { sinceFired, counts, sums } });
  },
  out: ["sinceFired", "counts", "sums"],
});

// ---- updates: projection may leave nothing of a gradient but the rounding of its terms ----

const GRADIENTS = ["gWEnc", "gBEnc", "gWDec"];
const gradientsOf = (t: Record<string, Tensor>) => {
  return { wEnc: t.gWEnc, bEnc: t.gBEnc, wDec: t.gWDec };
};

/** What every update of this file has: inputs, parameters, room for gradients, a rank-one part. */
function updating(data: Data, { rows, d, e, F }: Size): Trial["tensors"] {
  return {
    ...{ x: data.batch(rows, d), bPre: data.random([d]), ...data.state(F, d, 1, e) },
    ...{ gWEnc: data.random([F, d]), gBEnc: data.random([F]), gWDec: data.random([F, e]) },
    ...{ coefficients: data.random([F], 0.2), inputs: data.random([d]) },
  };
}

/** Parts that share codes, with ranges; another with a layout of its own and a detached decoder. */
function someParts(data: Data, { rows, e, F, k }: Size, layout: Layout) {
  const [one, two] = [
    data.slots(layout, rows, F, k),
    data.slots(layout === "fixed" ? "ragged" : "fixed", rows, F, Math.min(F, k + 1)),
  ];
  const tensors: Trial["tensors"] = {};
  for (const [suffix, codes] of [
    ["1", one],
    ["2", two],
  ] as const) {
    const [values, dValues, dWeights] = [codes.tensors.values, codes.random(), codes.random()];
    // What has neither value nor dValue contributes nothing; a value of 0 alone is no reason.
    dValues.data = dValues.data.map((v, i) => (values.data[i] === 0 && i % 2 === 0 ? 0 : v));
    Object.assign(tensors, named(suffix, { ...codes.tensors, dValues, dWeights }));
  }
  for (const l of [0, 1, 2]) tensors[`residual${l}`] = data.batch(rows, e);
  const parts = (t: Record<string, Tensor>) => {
    const shared = { ...codesNamed("1", t), dValues: t.dValues1, gradScale: 0.3 };
    const [lower, upper] = halves(F);
    return [
      { ...shared, residual: t.residual0, latents: lower, dWeights: t.dWeights1 },
      { ...shared, residual: t.residual1, latents: upper },
      {
        ...{ ...codesNamed("2", t), dValues: t.dValues2, gradScale: 0.7, decoder: false },
        ...{ residual: t.residual2, dWeights: t.dWeights2 },
      },
    ];
  };
  return { tensors, parts };
}

export const updateLatents: Make = (data, size, layout) => {
  const { tensors, parts } = someParts(data, size, layout);
  return {
    tensors: { ...updating(data, size), ...tensors },
    run: (device, t) => {
      const { x, bPre, coefficients, inputs } = t;
      device.updateLatents({
        ...{ ...trained(t), rows: size.rows, x, bPre, adam, parts: parts(t) },
        decoder: { projectGradient: true, unitNorm: true },
        ...{ normGroups: groupsOf(size.e), rankOne: { coefficients, inputs } },
      });
    },
    ...{ out: [...STATE, "dBPre"], terms: 1 },
  };
};

export const updateLatentsGradients: Make = (data, size, layout) => {
  const { tensors, parts } = someParts(data, size, layout);
  return {
    tensors: { ...updating(data, size), ...tensors },
    run: (device, t) => {
      const { x, bPre, coefficients, inputs } = t;
      const op = { ...trained(t), rows: size.rows, x, adam, gradients: gradientsOf(t) };
      device.updateLatents({
        ...{ ...op, bPre, parts: parts(t).slice(0, 2), normGroups: groupsOf(size.e) },
        decoder: { projectGradient: false, unitNorm: true },
      });
      device.updateLatents({
        ...{ ...op, bPre: null, parts: parts(t).slice(1), accumulate: true },
        ...{ decoder: { projectGradient: true, unitNorm: true } },
        rankOne: { coefficients, inputs },
      });
    },
    ...{ out: [...GRADIENTS, ...STATE, "dBPre"], terms: 1 },
  };
};

function denseUpdate(data: Data, { rows, e, F }: Size): Trial["tensors"] {
  return {
    ...{ acts: data.acts(rows, F), dPre: data.batch(rows, F), dWeights: data.batch(rows, F) },
    ...{ residual0: data.batch(rows, e), residual1: data.batch(rows, e) },
  };
}

const updateLatentsDense: Make = (data, size) => ({
  tensors: { ...updating(data, size), ...denseUpdate(data, size) },
  run: (device, t) => {
    const { x, bPre, acts, dPre, dWeights, coefficients, inputs } = t;
    const [lower, upper] = halves(size.F);
    device.updateLatentsDense({
      ...{ ...trained(t), rows: size.rows, x, bPre, acts, dPre, dWeights, adam },
      levels: [
        { latents: lower, residual: t.residual0 },
        { latents: upper, residual: t.residual1 },
      ],
      ...{ gradScale: 0.3, normPenalty: 0.2, normGroups: groupsOf(size.e) },
      ...{ decoder: { projectGradient: true, unitNorm: true }, rankOne: { coefficients, inputs } },
    });
  },
  ...{ out: [...STATE, "dBPre"], terms: 1 },
});

export const updateLatentsDenseGradients: Make = (data, size) => ({
  tensors: { ...updating(data, size), ...denseUpdate(data, size) },
  run: (device, t) => {
    const { x, bPre, acts, dPre, dWeights, coefficients, inputs } = t;
    const op = { ...trained(t), rows: size.rows, x, acts, dPre, adam, gradScale: 0.3 };
    const all = { from: 0, to: size.F };
    device.updateLatentsDense({
      ...{ ...op, bPre, dWeights, normPenalty: 0, gradients: gradientsOf(t) },
      levels: [{ latents: all, residual: t.residual0 }],
      ...{ decoder: { projectGradient: true, unitNorm: true }, rankOne: { coefficients, inputs } },
    });
    device.updateLatentsDense({
      ...{ ...op, bPre: null, normPenalty: 0.2, gradients: gradientsOf(t), accumulate: true },
      levels: [{ latents: all, residual: t.residual1 }],
      ...{ decoder: { projectGradient: false, unitNorm: false }, normGroups: groupsOf(size.e) },
    });
  },
  ...{ out: [...GRADIENTS, ...STATE, "dBPre"], terms: 1 },
});

/** Operations by the layouts they take. */
const ops: Record<string, { make: Make; of: readonly Layout[] }> = {
  decodeSparse: { make: decodeSparse, of: ["fixed", "ragged"] },
  valueGradients: { make: valueGradients, of: ["fixed", "ragged"] },
  "decodeDense and backwardDense": { make: dense, of: ["dense"] },
  penalize: { make: penalize, of: layouts },
  thresholdGradient: { make: thresholdGradient, of: layouts },
  applyThreshold: { make: applyThreshold, of: ["dense"] },
  gate: { make: gate, of: layouts },
  gateGradient: { make: gateGradient, of: layouts },
  preActPenalty: { make: preActPenalty, of: layouts },
  recordFiring: { make: recordFiring, of: layouts },
  updateLatents: { make: updateLatents, of: ["fixed", "ragged"] },
  "updateLatents, gradients": { make: updateLatentsGradients, of: ["fixed", "ragged"] },
  updateLatentsDense: { make: updateLatentsDense, of: ["dense"] },
  "updateLatentsDense, gradients": { make: updateLatentsDenseGradients, of: ["dense"] },
};
export const cases = Object.entries(ops).flatMap(([op, { make, of }]) =>
  of.map((layout) => [op, layout, (data: Data, size: Size) => make(data, size, layout)] as const),
);
