/**
 * A sparse autoencoder on the host: its weights, and encode and decode in plain loops, for pages and
 * single rows and as the definition in tests. sae-on-device.ts does the same for streams of batches.
 *
 * x [d] → z = W_enc (s·x - b_dec) + b_enc → a = select(z) → x̂ = (W_decᵀ a + b_dec) / s
 *
 * s is the scale that training applied to its inputs; b_dec is subtracted only when
 * `applyBDecToInput`. Latents keep the units of training whether s is folded or not.
 */
import type { Device, Tensor } from "../device/device.ts";
import { UserError } from "../error.ts";
import { SaeOnDevice } from "./sae-on-device.ts";
import { weightNames, type SaeSpec, type SaeWeights } from "./weights.ts";

export class Sae implements SaeWeights {
  readonly spec: SaeSpec;
  readonly W_enc: Float32Array;
  readonly b_enc: Float32Array;
  readonly W_dec: Float32Array;
  readonly b_dec: Float32Array;
  readonly threshold?: Float32Array | undefined;
  readonly b_mag?: Float32Array;
  readonly r_mag?: Float32Array;

  /** @throws UserError when an array's length does not fit dIn and dSae, or k exceeds dSae. */
  constructor(spec: SaeSpec, weights: SaeWeights) {
    const { dIn, dSae, selection } = spec;
    const sizes: Partial<Record<keyof SaeWeights, number>> = {
      W_enc: dSae * dIn,
      W_dec: dSae * dIn,
      b_dec: dIn,
    };
    this.spec = spec;
    this.W_enc = weights.W_enc;
    this.b_enc = weights.b_enc;
    this.W_dec = weights.W_dec;
    this.b_dec = weights.b_dec;
    if (weights.threshold) this.threshold = weights.threshold;
    if (weights.b_mag) this.b_mag = weights.b_mag;
    if (weights.r_mag) this.r_mag = weights.r_mag;
    for (const name of weightNames(selection)) {
      const expected = sizes[name] ?? dSae;
      const data = weights[name];
      if (data?.length !== expected)
        throw new UserError(
          `${name} must hold ${expected} numbers for dIn ${dIn} and dSae ${dSae}; got ${data?.length ?? "none"}`,
        );
    }
    if (selection.architecture === "topk" && selection.k > dSae)
      throw new UserError(`k must be at most dSae (${dSae}); got ${selection.k}`);
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
      case "batchTopk":
        return z.map((v) => (v > selection.threshold && v > 0 ? v : 0));
      case "jumprelu":
        return z.map((v, f) => (v > this.threshold![f] && v > 0 ? v : 0));
      case "gated":
        return z.map((pi, f) =>
          pi > 0
            ? Math.max(Math.exp(this.r_mag![f]) * (pi - this.b_enc[f]) + this.b_mag![f], 0)
            : 0,
        );
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
    const { threshold, b_mag, r_mag } = this;
    return new Sae(
      { ...this.spec, scale: 1 },
      {
        W_enc: this.W_enc.map((v) => v * scale),
        b_enc: this.b_enc,
        W_dec: this.W_dec.map((v) => v / scale),
        b_dec: this.b_dec.map((v) => v / scale),
        ...(threshold && { threshold }),
        ...(b_mag && { b_mag }),
        ...(r_mag && { r_mag }),
      },
    );
  }

  /** A copy of the weights on a device, ready for batches of up to `maxRows` rows. Free it by `close`. */
  on(device: Device, maxRows: number): SaeOnDevice {
    const { dIn, dSae, selection } = this.spec;
    const tensors: Partial<Record<keyof SaeWeights, Tensor>> = {};
    for (const name of weightNames(selection)) {
      const isMatrix = name === "W_enc" || name === "W_dec";
      const tensor = device.tensor(isMatrix ? [dSae, dIn] : [this[name]!.length]);
      device.write(tensor, this[name]!);
      tensors[name] = tensor;
    }
    return new SaeOnDevice(device, this.spec, tensors, maxRows, true);
  }
}
