/**
 * Random calls of every operation that latents of any layout go through, against the reference
 * device: sizes, layouts, ranges and optional arguments as they come. Encoding is tested elsewhere.
 */
import { afterAll, describe, expect, test } from "vitest";

import { Rng } from "../rng.ts";
import { sizeOf } from "./check.ts";
import { openDevice, type Device, type Tensor, type TensorData } from "./device.ts";

const CALLS = 25;
/** In units of a result's largest number. */
const TOLERANCE = 3e-6;

const reference = await openDevice("reference");
const crews = await Promise.all([1, 3].map((threads) => openDevice("cpu", { threads })));
afterAll(() => Promise.all(crews.map((device) => device.close())));

/** What a tensor holds before a call. */
class Numbers {
  readonly shape: number[];
  readonly data: TensorData;

  constructor(shape: number[], data: TensorData) {
    this.shape = shape;
    this.data = data;
  }
}

interface Codes {
  indices?: Numbers;
  ends?: Numbers;
  values: Numbers;
}

type Kind = "fixed" | "ragged" | "dense";

/** Draws a call's sizes and what is in its tensors. */
class Draw {
  readonly rng: Rng;
  readonly rows: number;
  readonly N: number;
  readonly d: number;
  readonly e: number;
  readonly F: number;

  constructor(seed: number) {
    this.rng = new Rng(seed, "random calls");
    this.rows = this.pick(0, 1, 3, 9, 17, 33, 70);
    this.N = Math.max(1, this.rows + this.rng.int(3));
    this.d = this.pick(3, 7, 33, 64, 100);
    this.e = this.chance(0.6) ? this.d : this.pick(4, 66);
    this.F = this.pick(5, 33, 64, 70, 130);
  }

  chance(probability: number): boolean {
    return this.rng.uniform() < probability;
  }

  pick<T>(...items: T[]): T {
    return items[this.rng.int(items.length)];
  }

  /** Undefined as often as not. */
  maybe<T>(make: () => T): T | undefined {
    return this.chance(0.5) ? make() : undefined;
  }

  f32(shape: number[], next = () => 3 * this.rng.uniform() - 1.5): Numbers {
    return new Numbers(shape, Float32Array.from({ length: sizeOf(shape) }, next));
  }

  positive(shape: number[]): Numbers {
    return this.f32(shape, () => this.rng.uniform() + 0.1);
  }

  i32(shape: number[], next: (i: number) => number): Numbers {
    return new Numbers(
      shape,
      Int32Array.from({ length: sizeOf(shape) }, (_, i) => next(i)),
    );
  }

  /** Numbers of the codes' shape; 0 wherever the codes are when `active`. */
  like({ values }: Codes, active = false): Numbers {
    const numbers = this.f32(values.shape);
    if (active) values.data.forEach((v, i) => v > 0 || (numbers.data[i] = 0));
    return numbers;
  }

  range() {
    return this.maybe(() => {
      const from = this.rng.int(this.F);
      return { from, to: from + 1 + this.rng.int(this.F - from) };
    });
  }

  /** Codes of which some are 0 and, where the layout has such, some slots unused. */
  codes(kind: Kind): Codes {
    const { rng, rows, N, F } = this;
    const value = () => (rng.uniform() < 0.7 ? rng.uniform() + 0.1 : 0);
    if (kind === "dense") return { values: this.f32([N, F], value) };
    const latents = Array.from({ length: F }, (_, f) => f);
    if (kind === "fixed") {
      const k = 1 + rng.int(Math.min(F, 20));
      const indices = this.i32([N, k], () => -1);
      for (let n = 0; n < rows; n++) {
        rng.shuffle(latents);
        for (let j = 0; j < k; j++) {
          indices.data[n * k + j] = rng.uniform() < 0.1 ? this.pick(-1, -(2 ** 31)) : latents[j];
        }
      }
      return { indices, values: this.f32([N, k], value) };
    }
    const slots: number[] = [];
    const ends = this.i32([N], () => 0);
    for (let n = 0; n < rows; n++) {
      const share = this.pick(0, 0.1, 0.5, 1);
      slots.push(...latents.filter(() => rng.uniform() < share));
      ends.data[n] = slots.length;
    }
    const P = slots.length + 1 + rng.int(3);
    return {
      ...{ indices: this.i32([P], (i) => slots[i] ?? -1), ends },
      values: this.f32([P], value),
    };
  }

  sparse(): Codes {
    return this.codes(this.pick("fixed", "ragged"));
  }

  any(): Codes {
    return this.codes(this.pick("fixed", "ragged", "dense"));
  }

  adam() {
    const rates = { learningRate: 0.05, beta1: 0.9, beta2: 0.99, eps: 1e-3 };
    return { ...rates, step: 1 + this.rng.int(4) };
  }

  moments(shape: number[]) {
    return { m: this.f32(shape), v: this.positive(shape) };
  }

  latentParams() {
    const { F, d, e } = this;
    return { wEnc: this.f32([F, d]), bEnc: this.f32([F]), wDec: this.f32([F, e]) };
  }

  state() {
    const { F, d, e } = this;
    const [wEnc, wDec] = [this.moments([F, d]), this.moments([F, e])];
    return {
      params: this.latentParams(),
      moments: { wEnc, bEnc: this.moments([F]), wDec },
      adam: this.adam(),
    };
  }

  /** What both updates take. */
  update() {
    const { rows, N, F, d, e } = this;
    return {
      ...{ rows, x: this.f32([N, d]), bPre: this.maybe(() => this.f32([d])) ?? null },
      ...this.state(),
      decoder: { projectGradient: this.chance(0.5), unitNorm: this.chance(0.5) },
      dBPre: this.maybe(() => this.f32([d])) ?? null,
      ...this.maybe(() => ({ gradients: this.latentParams(), accumulate: this.chance(0.5) })),
      ...(e % 2 === 0 && this.maybe(() => ({ normGroups: 2 }))),
      rankOne: this.maybe(() => ({ coefficients: this.f32([F]), inputs: this.f32([d]) })),
    };
  }

  part(codes: Codes, dValues = this.like(codes)) {
    for (let i = 0; i < dValues.data.length; i += 5) dValues.data[i] = 0;
    return {
      ...{ ...codes, dValues, residual: this.f32([this.N, this.e]) },
      ...{ gradScale: this.rng.uniform(), latents: this.range() },
      dWeights: this.maybe(() => this.like(codes, true)),
      decoder: this.maybe(() => false),
    };
  }
}

/** Per operation, the arguments of a call. */
const calls: Partial<Record<keyof Device, (draw: Draw) => object>> = {
  applyThreshold: (t) => ({
    ...{ rows: t.rows, pre: t.f32([t.N, t.F]), threshold: t.positive([t.F]) },
    values: t.f32([t.N, t.F]),
  }),

  decodeSparse(t) {
    const codes = t.sparse();
    return {
      ...{ rows: t.rows, ...codes, wDec: t.f32([t.F, t.e]), target: t.f32([t.N, t.e]) },
      ...{ bDec: t.maybe(() => t.f32([t.e])) ?? null, residual: t.f32([t.N, t.e]) },
      latents: t.range(),
      gradient: t.maybe(() => ({ dValues: t.like(codes), gradScale: 0.4 })),
    };
  },

  valueGradients(t) {
    const codes = t.sparse();
    return {
      ...{ rows: t.rows, ...codes, wDec: t.f32([t.F, t.e]), residual: t.f32([t.N, t.e]) },
      ...{ gradScale: 0.4, dValues: t.like(codes), latents: t.range() },
      inactiveToo: t.chance(0.5),
    };
  },

  decodeDense: (t) => ({
    ...{ rows: t.rows, acts: t.f32([t.N, t.F]), wDec: t.f32([t.F, t.e]), latents: t.range() },
    ...{ bDec: t.maybe(() => t.f32([t.e])) ?? null, target: t.f32([t.N, t.e]) },
    residual: t.f32([t.N, t.e]),
  }),

  backwardDense: (t) => ({
    ...{ rows: t.rows, acts: t.maybe(() => t.f32([t.N, t.F])) ?? null, l1: 2, gradScale: 0.4 },
    ...{ residual: t.f32([t.N, t.e]), wDec: t.f32([t.F, t.e]), latents: t.range() },
    ...{ weights: t.maybe(() => t.f32([t.F])) ?? null, dPre: t.f32([t.N, t.F]) },
  }),

  penalize(t) {
    const codes = t.any();
    const penalty = t.pick<object>(
      { kind: "l1", coefficient: 0.3 },
      { kind: "lp", coefficient: 0.4, p: 0.1 + t.rng.uniform(), delta: t.pick(1e-3, 0.1) },
      { kind: "tanh", coefficient: 0.5, c: t.pick(1e-6, 0.5, 4) },
    );
    return {
      ...{ rows: t.rows, codes, penalty, weights: t.maybe(() => t.positive([t.F])) ?? null },
      ...{ dValues: t.like(codes), dWeights: t.maybe(() => t.like(codes)) ?? null },
      ...{ rowPenalty: t.f32([t.N]), inactiveToo: t.chance(0.3) },
    };
  },

  thresholdGradient(t) {
    const codes = t.any();
    const target = t.rows > 0 ? t.pick(null, 3) : null;
    return {
      ...{ rows: t.rows, codes, pre: t.like(codes), threshold: t.positive([t.F]) },
      ...{ bandwidth: t.pick(0.01, 0.5, 2), dValues: t.like(codes), dThreshold: t.f32([t.F]) },
      l0: { coefficient: 0.4, target },
    };
  },

  gate(t) {
    const codes = t.any();
    const gates = { rMag: t.f32([t.F]), bGate: t.f32([t.F]), bMag: t.f32([t.F]) };
    return { rows: t.rows, codes, ...gates, magnitudes: t.like(codes) };
  },

  gateGradient(t) {
    const codes = t.any();
    const gates = { rMag: t.f32([t.F]), bGate: t.f32([t.F]), bMag: t.f32([t.F]) };
    const magnitudes = t.like(codes);
    magnitudes.data.forEach((m, i) => (magnitudes.data[i] = Math.max(m, 0)));
    return {
      ...{ rows: t.rows, codes, ...gates, magnitudes, dMagnitudes: t.like(codes) },
      ...{ dGate: t.like(codes), dBGate: t.f32([t.F]), dBMag: t.f32([t.F]) },
      dRMag: t.f32([t.F]),
    };
  },

  preActPenalty(t) {
    const codes = t.any();
    const sinceFired = t.i32([t.F], () => t.rng.int(10));
    return {
      ...{ rows: t.rows, codes, pre: t.like(codes), threshold: t.positive([t.F]) },
      ...{ weights: t.positive([t.F]), eligible: { sinceFired, atLeast: t.pick(0, 5, 20) } },
      ...{ coefficient: 0.3, inputs: t.f32([t.d]), wEnc: t.f32([t.F, t.d]), bEnc: t.f32([t.F]) },
      ...{ dValues: t.like(codes), coefficients: t.f32([t.F]), dThreshold: t.f32([t.F]) },
      penalty: t.f32([1]),
    };
  },

  updateLatents(t) {
    const codes = t.sparse();
    const first = t.part(codes);
    // Another part may have codes of its own, or share all or some of these.
    const others = [[], [t.part(t.sparse())], [t.part(codes, first.dValues)], [t.part(codes)]];
    return { ...t.update(), parts: t.chance(0.1) ? [] : [first, ...t.pick(...others)] };
  },

  updateLatentsDense(t) {
    const cut = 1 + t.rng.int(t.F - 1);
    const level = (from: number, to: number) => {
      return { latents: { from, to }, residual: t.f32([t.N, t.e]) };
    };
    return {
      ...{ ...t.update(), acts: t.codes("dense").values, dPre: t.f32([t.N, t.F]) },
      levels: t.chance(0.5) ? [level(0, cut), level(cut, t.F)] : [level(0, t.F)],
      ...{ gradScale: 0.3, normPenalty: t.pick(0, 0.2) },
      dWeights: t.maybe(() => t.f32([t.N, t.F])),
    };
  },

  applyLatents: (t) => ({
    ...{ ...t.state(), gradients: t.latentParams(), decoder: { unitNorm: t.chance(0.5) } },
    scale: t.maybe(() => t.f32([1])) ?? null,
  }),

  updateVector(t) {
    const shape = t.pick([t.d], [t.F, t.d]);
    return {
      ...{ param: t.f32(shape), grad: t.f32(shape), moments: t.moments(shape), adam: t.adam() },
      ...{ scale: t.maybe(() => t.f32([1])), min: t.pick(undefined, -0.5, 0.3) },
    };
  },

  sumOfSquares: (t) => ({
    ...{ x: t.f32(t.pick([t.d], [40 * t.F, t.d])), out: t.f32([1]), accumulate: t.chance(0.5) },
  }),

  clipFactor: (t) => ({
    ...{ squares: t.f32([1], () => t.pick(0, 0.01, 400)), maxNorm: t.pick(0.5, 2) },
    out: t.f32([1]),
  }),

  movingAverage(t) {
    const shape = t.pick([t.d], [t.F, t.d]);
    return { value: t.f32(shape), into: t.f32(shape), rate: 0.1 };
  },

  columnSum: (t) => ({
    ...{ rows: t.rows, x: t.f32([t.N, t.d]), scale: -0.5, out: t.f32([t.d]) },
    accumulate: t.chance(0.5),
  }),

  addScaled(t) {
    const { rows, shape } = t.pick({ rows: 1, shape: [t.d] }, { rows: t.rows, shape: [t.N, t.d] });
    return {
      ...{ rows, x: t.f32(shape), scale: 0.3, out: t.f32(shape), accumulate: t.chance(0.5) },
    };
  },

  multiply(t) {
    const { rows, shape } = t.pick({ rows: 1, shape: [t.d] }, { rows: t.rows, shape: [t.N, t.d] });
    return { rows, x: t.f32(shape), by: t.f32([1]) };
  },

  inverseVariance: (t) => ({
    ...{ rows: t.rows, x: t.f32([t.N, t.d], () => t.rng.uniform() + 5), factor: 3 },
    out: t.f32([1]),
  }),

  rowNorms: (t) => ({
    ...{ w: t.f32([t.F, t.e]), out: t.f32([t.F]) },
    groups: t.e % 2 === 0 ? t.pick(1, 2) : undefined,
  }),

  rowStats: (t) => ({
    ...{ rows: t.rows, target: t.f32([t.N, t.e]), residual: t.f32([t.N, t.e]) },
    out: t.f32([t.N, 4]),
  }),

  recordFiring(t) {
    const count = () => t.i32([t.F], () => t.rng.int(9));
    const stats = { sinceFired: count(), counts: count(), sums: t.f32([t.F]) };
    return { rows: t.rows, codes: t.any(), stats };
  },

  matmul(t) {
    const [transA, transB] = [t.chance(0.5), t.chance(0.5)];
    const [M, inner] = transA ? [t.d, t.N] : [t.N, t.d];
    return {
      ...{ a: t.f32([t.N, t.d]), b: t.f32(transB ? [t.F, inner] : [inner, t.F]), transA, transB },
      ...{ out: t.f32([M, t.F]), rows: t.maybe(() => t.rows) },
      ...{ scale: t.maybe(() => 0.3), accumulate: t.maybe(() => true) },
    };
  },
};

/** Runs a call; returns what is in all its tensors afterwards, by path, and Σ x² of the f32 ones as the device adds it up. */
async function play(device: Device, name: keyof Device, call: object) {
  const made = new Map<Numbers, { tensor: Tensor; path: string }>();
  const build = (part: unknown, path: string): unknown => {
    if (part instanceof Numbers) {
      if (!made.has(part)) {
        const dtype = part.data instanceof Int32Array ? "i32" : "f32";
        const tensor = device.tensor(part.shape, dtype);
        device.write(tensor, part.data);
        made.set(part, { tensor, path });
      }
      return made.get(part)!.tensor;
    }
    if (Array.isArray(part)) return part.map((item, i) => build(item, `${path}[${i}]`));
    if (part === null || typeof part !== "object") return part;
    return Object.fromEntries(
      Object.entries(part).map(([key, value]) => [key, build(value, `${path}.${key}`)]),
    );
  };
  const op = build(call, "") as never;
  (device[name] as (op: never) => void)(op);
  const results = [];
  for (const { tensor, path } of made.values()) {
    const out = device.tensor([1]);
    if (tensor.dtype === "f32") device.sumOfSquares({ x: tensor, out, accumulate: false });
    const [squares] = await device.readF32(out);
    results.push({ path, squares, data: await device.read(tensor) });
    device.free(tensor, out);
  }
  return results;
}

const bytes = ({ buffer, byteOffset, byteLength }: TensorData) =>
  Buffer.from(buffer, byteOffset, byteLength);

describe.each(Object.entries(calls))("%s", (name, make) => {
  test.each(Array.from({ length: CALLS }, (_, seed) => seed))("random call %i", async (seed) => {
    const call = make(new Draw(seed));
    const op = name as keyof Device;
    const expected = await play(reference, op, call);
    const [one, more] = [await play(crews[0], op, call), await play(crews[1], op, call)];
    for (const [r, { path, data, squares }] of one.entries()) {
      const wanted = expected[r].data;
      let [most, largest] = [0, 0];
      for (let i = 0; i < wanted.length; i++) {
        most = Math.max(most, Math.abs(data[i] - wanted[i]));
        largest = Math.max(largest, Math.abs(wanted[i]));
      }
      expect(most, path).toBeLessThanOrEqual(TOLERANCE * largest);
      // Whatever lies in the padding of a row would be added up too.
      if (data instanceof Float32Array) {
        expect(Math.abs(squares / expected[r].squares - 1) || 0, path).toBeLessThan(2e-5);
      }
      expect(bytes(more[r].data).equals(bytes(data)), `${path} on three threads`).toBe(true);
    }
  });
});
