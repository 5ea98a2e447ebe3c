/**
 * A sparse autoencoder on the host: its weights, and encode and decode in plain loops, for pages and
 * single rows and as the definition in tests. sae-on-device.ts does the same for streams of batches.
 *
 * x [dIn] → t = T(x) → z = W_enc (t - b_dec) + b_enc → a = select(z) → x̂ = P⁻¹(W_decᵀ a + b_dec + W_skip t)
 *
 * T and P are the transforms of input and output that training applied (transform.ts), one and the
 * same unless it is a transcoder; b_dec is subtracted only when `applyBDecToInput`. Latents keep the
 * units of training whether the transforms are folded or not.
 */
import type { Device, Tensor } from "../device/device.ts";
import { UserError } from "../error.ts";
import { foldTransforms } from "./fold.ts";
import { SaeOnDevice } from "./sae-on-device.ts";
import { forwardRow, identity, inverseRow, isFoldable, isIdentity } from "./transform.ts";
import {
  completeSpec,
  weightShapes,
  type SaeSpec,
  type SaeSpecOptions,
  type SaeWeights,
} from "./weights.ts";

export class Sae implements SaeWeights {
  readonly spec: SaeSpec;
  readonly W_enc: Float32Array;
  readonly b_enc: Float32Array;
  readonly W_dec: Float32Array;
  readonly b_dec: Float32Array;
  readonly threshold?: Float32Array | undefined;
  readonly b_mag?: Float32Array;
  readonly r_mag?: Float32Array;
  readonly W_skip?: Float32Array;

  /** @throws UserError when an array's length does not fit the spec, or k exceeds dSae. */
  constructor(options: SaeSpecOptions, weights: SaeWeights) {
    const spec = completeSpec(options);
    const { dIn, dOut, dSae, selection } = spec;
    this.spec = spec;
    this.W_enc = weights.W_enc;
    this.b_enc = weights.b_enc;
    this.W_dec = weights.W_dec;
    this.b_dec = weights.b_dec;
    if (weights.threshold) this.threshold = weights.threshold;
    if (weights.b_mag) this.b_mag = weights.b_mag;
    if (weights.r_mag) this.r_mag = weights.r_mag;
    if (weights.W_skip) this.W_skip = weights.W_skip;
    for (const [name, shape] of Object.entries(weightShapes(spec))) {
      const expected = shape.reduce((a, b) => a * b);
      const data = weights[name as keyof SaeWeights];
      if (data?.length !== expected) {
        const width = dOut === dIn ? `dIn ${dIn}` : `dIn ${dIn}, dOut ${dOut}`;
        throw new UserError(
          `${name} must hold ${expected} numbers for ${width} and dSae ${dSae}; got ${data?.length ?? "none"}`,
        );
      }
    }
    if (selection.architecture === "topk" && selection.k > dSae)
      throw new UserError(`k must be at most dSae (${dSae}); got ${selection.k}`);
  }

  /** z of one row x [dIn] → [dSae], before the selection; sums in float64. */
  preActivations(x: ArrayLike<number>): Float32Array {
    const input = this.#centred(x);
    return Float32Array.from({ length: this.spec.dSae }, (_, f) => this.#product(f, input));
  }

  /** What the encoder's rows are multiplied with. */
  #centred(x: ArrayLike<number>): Float64Array {
    const { dIn, input: transform, applyBDecToInput } = this.spec;
    const input = forwardRow(transform, take(x, dIn));
    if (applyBDecToInput) for (let c = 0; c < dIn; c++) input[c] -= this.b_dec[c];
    return input;
  }

  /** z of one latent. */
  #product(f: number, input: Float64Array): number {
    const dIn = input.length;
    let sum = this.b_enc[f];
    for (let c = 0, w = f * dIn; c < dIn; c++, w++) sum += this.W_enc[w] * input[c];
    return Math.fround(sum);
  }

  /** Latents of one row x [dIn] → [dSae]. */
  encode(x: ArrayLike<number>): Float32Array {
    const z = this.preActivations(x);
    const { selection } = this.spec;
    if (selection.architecture !== "topk") return z.map((v, f) => this.#activated(f, v));
    const order = Array.from(z, (_, f) => f).sort((f, g) => z[g] - z[f] || f - g);
    const acts = new Float32Array(z.length);
    for (const f of order.slice(0, selection.k)) acts[f] = Math.max(z[f], 0);
    return acts;
  }

  /**
   * Some of the latents of one row, as `encode` gives them, without the products of all others: none
   * of them unless the k largest are kept, and then only until k are found that are larger.
   */
  encodeSome(x: ArrayLike<number>, latents: readonly number[]): Float32Array {
    const input = this.#centred(x);
    const { selection, dSae } = this.spec;
    const own = latents.map((f) => this.#product(f, input));
    if (selection.architecture !== "topk")
      return Float32Array.from(latents, (f, i) => this.#activated(f, own[i]));
    // How many come before each; of equal ones the lower latent does.
    const before = latents.map(() => 0);
    const open = new Set([...latents.keys()].filter((i) => own[i] > 0));
    for (let g = 0; g < dSae && open.size > 0; g++) {
      const z = this.#product(g, input);
      for (const i of open) {
        if (z > own[i] || (z === own[i] && g < latents[i])) before[i]++;
        if (before[i] === selection.k) open.delete(i);
      }
    }
    return Float32Array.from(own, (z, i) => (open.has(i) ? z : 0));
  }

  /** The activation of a latent by its own z, where others have no part in it. */
  #activated(f: number, z: number): number {
    const { selection } = this.spec;
    switch (selection.architecture) {
      case "topk":
        throw new Error("which latents of topk are kept depends on all of them");
      case "relu":
        return Math.max(z, 0);
      case "batchTopk":
        return z > selection.threshold && z > 0 ? z : 0;
      case "jumprelu":
        return z > this.threshold![f] && z > 0 ? z : 0;
      case "gated":
        return z > 0
          ? Math.max(Math.exp(this.r_mag![f]) * (z - this.b_enc[f]) + this.b_mag![f], 0)
          : 0;
      default:
        return selection satisfies never;
    }
  }

  /**
   * Reconstruction of one row in raw units from its latents [dSae] → [dOut]; sums in float64.
   * @param x the row that was encoded [dIn]: needed by a skip transcoder, and where rows are
   * normalised one by one. @throws UserError when it is needed and absent.
   */
  decode(acts: ArrayLike<number>, x?: ArrayLike<number>): Float32Array {
    const { dIn, dOut, dSae, input, output } = this.spec;
    const sum = Float64Array.from(this.b_dec);
    for (let f = 0; f < dSae; f++) {
      const a = acts[f];
      if (a === 0) continue;
      for (let c = 0, w = f * dOut; c < dOut; c++, w++) sum[c] += a * this.W_dec[w];
    }
    if (this.W_skip) {
      if (!x)
        throw new UserError(
          "a skip transcoder decodes with the row that was encoded as the second argument",
        );
      const t = forwardRow(input, take(x, dIn));
      for (let c = 0, w = 0; c < dOut; c++)
        for (let i = 0; i < dIn; i++, w++) sum[c] += this.W_skip[w] * t[i];
    }
    return Float32Array.from(inverseRow(output, sum, x && take(x, dIn)));
  }

  /** W_dec[f], a view [dOut]. */
  decoderRow(latent: number): Float32Array {
    const { dOut } = this.spec;
    return this.W_dec.subarray(latent * dOut, (latent + 1) * dOut);
  }

  /** The same function with its transforms in the weights; normalisation of single rows cannot go there and stays. */
  fold(): Sae {
    const { spec } = this;
    const { input, output, dIn, dOut } = spec;
    if (!isFoldable(input) || !isFoldable(output)) return this;
    if (isIdentity(input) && isIdentity(output)) return this;
    return new Sae(
      { ...spec, input: identity(dIn), output: identity(dOut) },
      foldTransforms(this, { input, output }, spec),
    );
  }

  /** A copy of the weights on a device, ready for batches of up to `maxRows` rows. Free it by `close`. */
  on(device: Device, maxRows: number): SaeOnDevice {
    const tensors: Partial<Record<keyof SaeWeights, Tensor>> = {};
    for (const [key, shape] of Object.entries(weightShapes(this.spec))) {
      const name = key as keyof SaeWeights;
      const tensor = device.tensor(shape);
      device.write(tensor, this[name]!);
      tensors[name] = tensor;
    }
    return new SaeOnDevice(device, this.spec, tensors, maxRows, true);
  }
}

function take(x: ArrayLike<number>, length: number): Float64Array {
  return Float64Array.from({ length }, (_, c) => x[c]);
}
