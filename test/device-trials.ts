/**
 * Operations as data: what goes in, what is run, what comes out, so that any device can be compared
 * with the reference on the same numbers.
 */
import { expect } from "vitest";

import { messageOf } from "../src/error.ts";
import { sizeOf } from "../src/device/check.ts";
import {
  openDevice,
  type Adam,
  type Device,
  type DeviceName,
  type Dtype,
  type Moments,
  type Slots,
  type SparseCodes,
  type Tensor,
  type TensorData,
} from "../src/device/device.ts";
import { Rng } from "../src/rng.ts";

/** DEVICES=reference,cpu makes a device that cannot be opened a failure instead of a skip. */
export const required = process.env.DEVICES?.split(",") as DeviceName[] | undefined;

export const opened = await Promise.all(
  (required ?? (["reference", "cpu"] as const)).map(async (name) => {
    try {
      return { name, device: await openDevice(name, { threads: 2 }), problem: "" };
    } catch (error) {
      return { name, device: undefined, problem: messageOf(error) };
    }
  }),
);
export const devices = opened.flatMap(({ device }) => device ?? []);
export const reference = await openDevice("reference");
export const closeDevices = () => Promise.all([...devices, reference].map((d) => d.close()));

export interface Entry {
  shape: number[];
  dtype: Dtype;
  data: TensorData;
}

export interface Trial {
  /** Every tensor, outputs included, with what is in it before. */
  tensors: Record<string, Entry>;
  run: (device: Device, t: Record<string, Tensor>) => void;
  out: string[];
  /** How large the terms are, at least, whose sums the outputs are: where sums cancel, differences are measured by it. */
  terms?: number;
}

export async function play(device: Device, { tensors, run, out }: Trial) {
  const t: Record<string, Tensor> = {};
  for (const [name, { shape, dtype, data }] of Object.entries(tensors)) {
    t[name] = device.tensor(shape, dtype);
    device.write(t[name], data);
  }
  run(device, t);
  const results: Record<string, TensorData> = {};
  for (const name of out) results[name] = await device.read(t[name]);
  device.free(...Object.values(t));
  return results;
}

/**
 * Largest difference, in units of the largest number expected (but for marks) or of the terms it is
 * made of; what is not finite must be equal.
 */
function difference(actual: TensorData, expected: TensorData, terms: number): number {
  let [most, largest] = [0, terms];
  for (let i = 0; i < expected.length; i++) {
    if (!Number.isFinite(expected[i])) {
      if (!Object.is(actual[i], expected[i])) return Infinity;
      continue;
    }
    if (!Number.isFinite(actual[i])) return Infinity;
    most = Math.max(most, Math.abs(actual[i] - expected[i]));
    if (expected[i] !== MARK) largest = Math.max(largest, Math.abs(expected[i]));
  }
  return most === 0 ? 0 : most / largest;
}

export async function expectLikeReference(device: Device, trial: Trial, tolerance: number) {
  const [actual, expected] = [await play(device, trial), await play(reference, trial)];
  for (const name of trial.out) {
    if (trial.tensors[name].dtype === "i32") expectSameBits(actual[name], expected[name], name);
    else {
      const d = difference(actual[name], expected[name], trial.terms ?? 0);
      expect(d, `${name}: normalised difference`).toBeLessThanOrEqual(tolerance);
    }
  }
}

export function expectSameBits(actual: TensorData, expected: TensorData, name: string) {
  const bytes = (data: TensorData) => Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  // toEqual takes seconds for a million numbers; it is wanted for its message only.
  if (!bytes(actual).equals(bytes(expected))) expect(actual, name).toEqual(expected);
}

// ---- data ----

export const EXTRA_ROWS = 2; // of capacity beyond `rows`: NaN or a mark, to show that nothing touches them
export const MARK = 77;

export const layouts = ["fixed", "ragged", "dense"] as const;
export type Layout = (typeof layouts)[number];

export interface SlotData {
  /** values, and indices and ends where the layout has them. */
  tensors: Record<string, Entry> & { values: Entry };
  /** Of each slot of the rows; unused ones are outside [0, dSae). */
  latents: number[];
  /** A tensor of the shape of the values. */
  like: (next: (latent: number, at: number) => number) => Entry;
  random: (scale?: number) => Entry;
}

/** The codes that were made of \`SlotData.tensors\`; of the same layout, with other values if given. */
export function codesOf(t: Record<string, Tensor>, values = t.values): Slots {
  return t.indices ? sparseCodesOf(t, values) : { values };
}

export function sparseCodesOf(t: Record<string, Tensor>, values = t.values): SparseCodes {
  const { indices, ends } = t;
  return { values, indices, ...(ends && { ends }) };
}

export class Data {
  readonly rng: Rng;
  constructor(...seed: (string | number)[]) {
    this.rng = new Rng(5, ...seed);
  }

  f32(shape: number[], next: (i: number) => number): Entry {
    return { shape, dtype: "f32", data: new Float32Array(sizeOf(shape)).map((_, i) => next(i)) };
  }

  i32(shape: number[], next: (i: number) => number): Entry {
    return { shape, dtype: "i32", data: new Int32Array(sizeOf(shape)).map((_, i) => next(i)) };
  }

  /** Mean 0, variance `scale`². */
  random(shape: number[], scale = 1): Entry {
    const width = Math.sqrt(12) * scale;
    return this.f32(shape, () => (this.rng.uint32() / 2 ** 32 - 0.5) * width);
  }

  positive(shape: number[], scale = 1): Entry {
    return this.f32(shape, () => (0.1 + this.rng.uniform()) * scale);
  }

  /** Small whole numbers: sums of their products are exact in f32, so that ties are ties everywhere. */
  whole(shape: number[], most = 3): Entry {
    return this.f32(shape, () => this.rng.int(2 * most + 1) - most);
  }

  /** [rows + EXTRA_ROWS, columns] with NaN in the extra rows. */
  batch(rows: number, columns: number, scale = 1): Entry {
    const entry = this.random([rows + EXTRA_ROWS, columns], scale);
    entry.data.fill(NaN, rows * columns);
    return entry;
  }

  /** Non-negative, about half of them 0, with NaN in the extra rows. */
  acts(rows: number, columns: number): Entry {
    const entry = this.batch(rows, columns);
    entry.data = entry.data.map((v) => (v < 0 ? 0 : v));
    return entry;
  }

  /** For an output of [rows + EXTRA_ROWS, columns]. */
  marked(rows: number, columns: number, dtype: Dtype = "f32"): Entry {
    return this[dtype]([rows + EXTRA_ROWS, columns], () => MARK);
  }

  /** Codes of k different latents per row; some values are 0 and some slots unused. */
  codes(rows: number, dSae: number, k: number) {
    const indices = this.i32([rows + EXTRA_ROWS, k], () => 0);
    const values = this.positive([rows + EXTRA_ROWS, k]);
    const latents = this.rng.shuffle(Array.from({ length: dSae }, (_, f) => f));
    for (let n = 0; n < rows; n++) {
      const start = this.rng.int(dSae);
      for (let j = 0; j < k; j++) {
        const fate = this.rng.int(10);
        indices.data[n * k + j] = fate === 0 ? -1 : latents[(start + j) % dSae];
        if (fate < 2) values.data[n * k + j] = 0;
      }
    }
    indices.data.fill(0, rows * k);
    values.data.fill(NaN, rows * k);
    return { indices, values };
  }

  /**
   * Latents of any layout with about k per row, some of them with value 0, some slots unused and, of
   * ragged ones, some rows empty. Behind the last row's slots, and in what is made like them, is NaN.
   */
  slots(layout: Layout, rows: number, dSae: number, k: number): SlotData {
    const made =
      layout === "ragged" ? this.#ragged(rows, dSae, k) : this.#fixed(layout, rows, dSae, k);
    const { shape, latents } = made;
    const like = (next: (latent: number, at: number) => number) =>
      this.f32(shape, (i) => (i < latents.length ? next(latents[i], i) : NaN));
    const values = like(() => (this.rng.int(5) === 0 ? 0 : 0.1 + this.rng.uniform()));
    const tensors = { values, ...made.tensors };
    return { tensors, latents, like, random: (scale = 1) => like(() => this.rng.normal() * scale) };
  }

  #fixed(layout: Layout, rows: number, dSae: number, k: number) {
    const width = layout === "dense" ? dSae : k;
    const latents = Array.from({ length: rows }, () =>
      layout === "dense" ? Array.from({ length: dSae }, (_, f) => f) : this.#draw(dSae, k, k),
    ).flat();
    const indices = this.i32([rows + EXTRA_ROWS, k], (i) => latents[i] ?? 0);
    const shape = [rows + EXTRA_ROWS, width];
    return { shape, latents, tensors: { ...(layout === "fixed" && { indices }) } };
  }

  #ragged(rows: number, dSae: number, k: number) {
    const latents: number[] = [];
    const ends: number[] = [];
    for (let n = 0; n < rows; n++) {
      const some = n % 3 === 1 ? [] : this.#draw(dSae, k, this.rng.int(k + 1));
      latents.push(...some.sort((a, b) => a - b));
      ends.push(latents.length);
    }
    const shape = [latents.length + EXTRA_ROWS];
    const indices = this.i32(shape, (i) => latents[i] ?? 0);
    const tensors = { indices, ends: this.i32([rows + EXTRA_ROWS], (n) => ends[n] ?? 2 ** 30) };
    return { shape, latents, tensors };
  }

  /** `count` different latents, of `among` random neighbours, every tenth replaced by an unused slot. */
  #draw(dSae: number, among: number, count: number): number[] {
    const start = this.rng.int(dSae);
    const some = Array.from({ length: among }, (_, j) => (start + 7 * j) % dSae);
    const different = this.rng.shuffle([...new Set(some)]);
    for (let f = 0; different.length < count; f++) if (!different.includes(f)) different.push(f);
    return different
      .slice(0, count)
      .map((f) =>
        this.rng.int(10) > 0 ? f : [-1, dSae, -(2 ** 31), 2 ** 31 - 1][this.rng.int(4)],
      );
  }

  /** Parameters and Adam's moments in the midst of training. */
  state(dSae: number, dIn: number, scale = 1, dOut = dIn): Record<string, Entry> {
    const shapes = { wEnc: [dSae, dIn], bEnc: [dSae], wDec: [dSae, dOut] };
    const state: Record<string, Entry> = { dBPre: this.f32([dIn], () => MARK) };
    for (const [name, shape] of Object.entries(shapes)) {
      state[name] = this.random(shape, scale);
      state[`${name}M`] = this.random(shape, 0.3 * scale);
      state[`${name}V`] = this.positive(shape, 0.5 * scale * scale);
    }
    return state;
  }
}

export const adam: Adam = { learningRate: 0.05, beta1: 0.9, beta2: 0.99, eps: 1e-3, step: 3 };
export const STATE = ["wEnc", "bEnc", "wDec"].flatMap((name) => [name, `${name}M`, `${name}V`]);

export function trained(t: Record<string, Tensor>) {
  const moments = (name: string): Moments => ({ m: t[`${name}M`], v: t[`${name}V`] });
  return {
    params: { wEnc: t.wEnc, bEnc: t.bEnc, wDec: t.wDec },
    moments: { wEnc: moments("wEnc"), bEnc: moments("bEnc"), wDec: moments("wDec") },
    dBPre: t.dBPre,
  };
}
