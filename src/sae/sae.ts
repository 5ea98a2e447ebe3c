/**
 * A sparse autoencoder: its weights on the host with encode and decode in plain loops (for pages,
 * single rows and as the definition in tests), and the same on a device for streams of batches.
 *
 * x [d] → z = W_enc (s·x - b_dec) + b_enc → a = select(z) → x̂ = (W_decᵀ a + b_dec) / s
 *
 * s is the scale that training applied to its inputs; b_dec is subtracted only when
 * `applyBDecToInput`. Latents keep the units of training whether s is folded or not.
 */
import type { Device, LatentParams, Tensor } from "../device/device.ts";
import { UserError } from "../error.ts";
import {
  decode,
  encode,
  freeCodes,
  makeCodes,
  type Codes,
  type Selection,
} from "./architecture.ts";

/** What the weights mean. */
export interface SaeSpec {
  selection: Selection;
  dIn: number;
  dSae: number;
  applyBDecToInput: boolean;
  /** s above; 1 for weights that take raw activations. */
  scale: number;
}

export interface SaeWeights {
  /** [dSae, dIn], one row per latent. */
  W_enc: Float32Array;
  /** [dSae] */
  b_enc: Float32Array;
  /** [dSae, dIn], one row per latent. */
  W_dec: Float32Array;
  /** [dIn] */
  b_dec: Float32Array;
}

export class Sae implements SaeWeights {
  readonly spec: SaeSpec;
  readonly W_enc: Float32Array;
  readonly b_enc: Float32Array;
  readonly W_dec: Float32Array;
  readonly b_dec: Float32Array;

  /** @throws UserError when an array's length does not fit dIn and dSae, or k exceeds dSae. */
  constructor(spec: SaeSpec, weights: SaeWeights) {
    const { dIn, dSae, selection } = spec;
    const expected = { W_enc: dSae * dIn, b_enc: dSae, W_dec: dSae * dIn, b_dec: dIn };
    for (const name of ["W_enc", "b_enc", "W_dec", "b_dec"] as const)
      if (weights[name].length !== expected[name])
        throw new UserError(
          `${name} must hold ${expected[name]} numbers for dIn ${dIn} and dSae ${dSae}; got ${weights[name].length}`,
        );
    if (selection.architecture === "topk" && selection.k > dSae)
      throw new UserError(`k must be at most dSae (${dSae}); got ${selection.k}`);
    this.spec = spec;
    this.W_enc = weights.W_enc;
    this.b_enc = weights.b_enc;
    this.W_dec = weights.W_dec;
    this.b_dec = weights.b_dec;
  }

  /** z of one row x [dIn] → [dSae], before the selection; sums in float64. */
  preActivations(x: ArrayLike<number>): Float32Array {
    const { dIn, dSae, scale, applyBDecToInput } = this.spec;
    const input = Float64Array.from(
      { length: dIn },
      (_, c) => scale * x[c] - (applyBDecToInput ? this.b_dec[c] : 0),
    );
    const z = new Float32Array(dSae);
    for (let f = 0; f < dSae; f++) {
      let sum = this.b_enc[f];
      for (let c = 0, w = f * dIn; c < dIn; c++, w++) sum += this.W_enc[w] * input[c];
      z[f] = sum;
    }
    return z;
  }

  /** Latents of one row x [dIn] → [dSae]. */
  encode(x: ArrayLike<number>): Float32Array {
    const z = this.preActivations(x);
    const { selection } = this.spec;
    switch (selection.architecture) {
      case "relu":
        return z.map((v) => Math.max(v, 0));
      case "topk": {
        const order = Array.from(z, (_, f) => f).sort((f, g) => z[g] - z[f] || f - g);
        const acts = new Float32Array(z.length);
        for (const f of order.slice(0, selection.k)) acts[f] = Math.max(z[f], 0);
        return acts;
      }
      default:
        return selection satisfies never;
    }
  }

  /** Reconstruction of one row in raw units from its latents [dSae] → [dIn]; sums in float64. */
  decode(acts: ArrayLike<number>): Float32Array {
    const { dIn, dSae, scale } = this.spec;
    const sum = Float64Array.from(this.b_dec);
    for (let f = 0; f < dSae; f++) {
      const a = acts[f];
      if (a === 0) continue;
      for (let c = 0, w = f * dIn; c < dIn; c++, w++) sum[c] += a * this.W_dec[w];
    }
    return Float32Array.from(sum, (v) => v / scale);
  }

  /** W_dec[f], a view [dIn]. */
  decoderRow(latent: number): Float32Array {
    const { dIn } = this.spec;
    return this.W_dec.subarray(latent * dIn, (latent + 1) * dIn);
  }

  /** The same function with scale 1: W_enc·s, W_dec/s, b_dec/s; b_enc and the latents stay. */
  fold(): Sae {
    const { scale } = this.spec;
    if (scale === 1) return this;
    return new Sae(
      { ...this.spec, scale: 1 },
      {
        W_enc: this.W_enc.map((v) => v * scale),
        b_enc: this.b_enc,
        W_dec: this.W_dec.map((v) => v / scale),
        b_dec: this.b_dec.map((v) => v / scale),
      },
    );
  }

  /** A copy of the weights on a device, ready for batches of up to `maxRows` rows. Free it by `close`. */
  on(device: Device, maxRows: number): SaeOnDevice {
    const { dIn, dSae } = this.spec;
    const tensors = {
      wEnc: device.tensor([dSae, dIn]),
      bEnc: device.tensor([dSae]),
      wDec: device.tensor([dSae, dIn]),
      bDec: device.tensor([dIn]),
    };
    device.write(tensors.wEnc, this.W_enc);
    device.write(tensors.bEnc, this.b_enc);
    device.write(tensors.wDec, this.W_dec);
    device.write(tensors.bDec, this.b_dec);
    return new SaeOnDevice(device, this.spec, tensors, maxRows, true);
  }
}

/** The latents of a batch on the host. */
export type BatchCodes =
  /** Per row `k` slots by falling value, an unused slot with index -1; [rows, k]. */
  | { kind: "sparse"; k: number; indices: Int32Array; values: Float32Array }
  /** [rows, dSae] */
  | { kind: "dense"; acts: Float32Array };

/** What one batch's reconstruction adds to the metrics, in the scaled units of training. */
export interface BatchStatistics {
  /** Per row ‖x‖², ‖x̂‖², ⟨x, x̂⟩, ‖x - x̂‖²; [rows, 4]. */
  rowStats: Float32Array;
  /** Rows in which each latent fired; [dSae]. */
  counts: Int32Array;
  /** Sum of each latent's values; [dSae]. */
  sums: Float32Array;
}

/** An SAE on a device, for batches. Made by `Sae.on` or by the trainer over its own tensors. */
export class SaeOnDevice {
  readonly spec: SaeSpec;
  readonly maxRows: number;
  readonly device: Device;
  readonly #params: LatentParams & { bDec: Tensor };
  readonly #ownsParams: boolean;
  readonly #x: Tensor;
  readonly #residual: Tensor;
  readonly #stats: Tensor;
  readonly #codes: Codes;
  readonly #firing: { sinceFired: Tensor; counts: Tensor; sums: Tensor };
  readonly #staging: Float32Array;

  constructor(
    device: Device,
    spec: SaeSpec,
    params: LatentParams & { bDec: Tensor },
    maxRows: number,
    ownsParams: boolean,
  ) {
    const { dIn, dSae } = spec;
    this.device = device;
    this.spec = spec;
    this.maxRows = maxRows;
    this.#params = params;
    this.#ownsParams = ownsParams;
    this.#x = device.tensor([maxRows, dIn]);
    this.#residual = device.tensor([maxRows, dIn]);
    this.#stats = device.tensor([maxRows, 4]);
    this.#codes = makeCodes(device, spec.selection, maxRows, dSae);
    this.#firing = {
      sinceFired: device.tensor([dSae], "i32"),
      counts: device.tensor([dSae], "i32"),
      sums: device.tensor([dSae]),
    };
    this.#staging = new Float32Array(spec.scale === 1 ? 0 : maxRows * dIn);
  }

  /** Latents of x [rows, dIn] (raw units), rows ≤ maxRows. */
  async encode(x: Float32Array, rows: number): Promise<BatchCodes> {
    this.#encode(x, rows);
    const { device } = this;
    const codes = this.#codes;
    if (!codes.indices)
      return { kind: "dense", acts: await device.readF32(codes.values, rows * this.spec.dSae) };
    const k = codes.indices.shape[1];
    const [indices, values] = await Promise.all([
      device.readI32(codes.indices, rows * k),
      device.readF32(codes.values, rows * k),
    ]);
    return { kind: "sparse", k, indices, values };
  }

  /** x̂ of x [rows, dIn], both in raw units, rows ≤ maxRows → [rows, dIn]. */
  async reconstruct(x: Float32Array, rows: number): Promise<Float32Array> {
    this.#encode(x, rows);
    this.#decode(rows);
    return this.#readReconstruction(x, rows);
  }

  /** Encodes and decodes x [rows, dIn] (raw units), rows ≤ maxRows, and reads back only the sums that metrics need. */
  async statistics(x: Float32Array, rows: number): Promise<BatchStatistics> {
    const { device, spec } = this;
    const firing = this.#firing;
    this.#encode(x, rows);
    this.#decode(rows);
    device.rowStats({ rows, target: this.#x, residual: this.#residual, out: this.#stats });
    device.write(firing.counts, new Int32Array(spec.dSae));
    device.write(firing.sums, new Float32Array(spec.dSae));
    device.recordFiring({ rows, codes: this.#codes, stats: firing });
    const [rowStats, counts, sums] = await Promise.all([
      device.readF32(this.#stats, rows * 4),
      device.readI32(firing.counts),
      device.readF32(firing.sums),
    ]);
    return { rowStats, counts, sums };
  }

  /** `statistics` and `reconstruct` from one encoding and decoding. */
  async measure(
    x: Float32Array,
    rows: number,
  ): Promise<{ statistics: BatchStatistics; reconstruction: Float32Array }> {
    const statistics = await this.statistics(x, rows);
    return { statistics, reconstruction: await this.#readReconstruction(x, rows) };
  }

  /** x̂ from the residual that the last decoding, which was of x, left on the device. */
  async #readReconstruction(x: Float32Array, rows: number): Promise<Float32Array> {
    const out = await this.device.readF32(this.#residual, rows * this.spec.dIn);
    const { scale } = this.spec;
    for (let i = 0; i < out.length; i++) out[i] = x[i] - out[i] / scale;
    return out;
  }

  /** ‖W_dec[f]‖ of every latent in the scaled units of training; [dSae]. */
  async decoderNorms(): Promise<Float32Array> {
    const out = this.device.tensor([this.spec.dSae]);
    try {
      this.device.rowNorms({ w: this.#params.wDec, out });
      return await this.device.readF32(out);
    } finally {
      this.device.free(out);
    }
  }

  /** Frees the device memory that this object made. */
  close(): void {
    const { device } = this;
    freeCodes(device, this.#codes);
    const { sinceFired, counts, sums } = this.#firing;
    device.free(this.#x, this.#residual, this.#stats, sinceFired, counts, sums);
    const { wEnc, bEnc, wDec, bDec } = this.#params;
    if (this.#ownsParams) device.free(wEnc, bEnc, wDec, bDec);
  }

  #encode(x: Float32Array, rows: number): void {
    const { dIn, scale, applyBDecToInput } = this.spec;
    if (rows < 1 || rows > this.maxRows)
      throw new RangeError(`a batch must have 1 to ${this.maxRows} rows; got ${rows}`);
    this.device.write(this.#x, scaled(x.subarray(0, rows * dIn), scale, this.#staging));
    encode(this.device, {
      rows,
      x: this.#x,
      bPre: applyBDecToInput ? this.#params.bDec : null,
      params: this.#params,
      codes: this.#codes,
    });
  }

  #decode(rows: number): void {
    decode(this.device, {
      rows,
      codes: this.#codes,
      wDec: this.#params.wDec,
      bDec: this.#params.bDec,
      target: this.#x,
      residual: this.#residual,
    });
  }
}

/** x times scale, in `staging` unless the scale is 1. */
export function scaled(x: Float32Array, scale: number, staging: Float32Array): Float32Array {
  if (scale === 1) return x;
  for (let i = 0; i < x.length; i++) staging[i] = x[i] * scale;
  return staging.subarray(0, x.length);
}
