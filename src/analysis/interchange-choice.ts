/**
 * What stands for an attribute of a prompt's characters at its last position: latents, dimensions, or the
 * span of the differences between mean activations; chosen on some prompts, interchanged between any two.
 */
import type { EncodedPrompt } from "./interchange-prompts.ts";
import { mean } from "./supervised-removal.ts";
import { largest } from "./supervised-rows.ts";
import type { matchedLatents } from "./supervised-scores.ts";

/** What an interchange puts at the last position of the base. */
export type Replace = (base: EncodedPrompt, source: EncodedPrompt) => ArrayLike<number>;

/** The columns of an attribute, by prompts to choose on, and how they are interchanged. */
export class Choice {
  /** Most the attribute's own first; none that others move more. */
  readonly latents: number[];
  readonly dimensions: number[];
  readonly #W_dec: Float32Array;
  readonly #dIn: number;
  readonly #dSae: number;
  /** Prompts in which each latent fires. */
  readonly #counts: Int32Array;
  /** Orthonormal; spans the differences between the means of the values. */
  readonly #directions: Float64Array[];

  constructor(
    prompts: readonly EncodedPrompt[],
    own: readonly number[],
    attribute: string,
    W_dec: Float32Array,
  ) {
    this.#dIn = prompts[own[0]].x.length;
    this.#dSae = W_dec.length / this.#dIn;
    this.#W_dec = W_dec;
    this.#counts = new Int32Array(this.#dSae);
    for (const p of own) for (const f of prompts[p].latents) this.#counts[f]++;
    const attributes = Object.keys(prompts[own[0]].prompt.values);
    const spread = (width: number, add: (p: number, sums: Float64Array) => void) => {
      const score = new Float64Array(width);
      for (const name of attributes) {
        const means = meansByValue(prompts, own, name, width, add);
        const sign = name === attribute ? 1 : -1;
        for (let c = 0; c < width; c++)
          score[c] += sign * variance(means.map((values) => values[c]));
      }
      return score;
    };
    const addLatents = (p: number, sums: Float64Array) => {
      const { latents, values } = prompts[p];
      for (const [i, f] of latents.entries()) sums[f] += values[i];
    };
    const addX = (p: number, sums: Float64Array) => prompts[p].x.forEach((v, c) => (sums[c] += v));
    const squares = new Float64Array(this.#dSae);
    for (let i = 0; i < W_dec.length; i++) squares[Math.floor(i / this.#dIn)] += W_dec[i] ** 2;
    const scores = spread(this.#dSae, addLatents).map((score, f) => score * squares[f]);
    this.latents = largest(scores, this.#dSae);
    this.dimensions = largest(spread(this.#dIn, addX), this.#dIn);
    this.#directions = orthonormal(
      differencesFromMean(meansByValue(prompts, own, attribute, this.#dIn, addX)),
    );
  }

  /** Firing counts as `matchedLatents` takes them. */
  firing(): Parameters<typeof matchedLatents>[0] {
    const offsets = new Int32Array(this.#dSae + 1);
    for (let f = 0; f < this.#dSae; f++) offsets[f + 1] = offsets[f] + this.#counts[f];
    const none = { positions: new Int32Array(), values: new Float32Array() };
    return { codes: { offsets, ...none }, dSae: this.#dSae };
  }

  /** @param latents absent: all. */
  swapLatents(latents?: readonly number[]): Replace {
    const chosen = latents && new Set(latents);
    return (base, source) => {
      const out = Float64Array.from(base.x);
      for (const [{ latents: firing, values }, sign] of [
        [source, 1],
        [base, -1],
      ] as const)
        // prettier-ignore
        for (const [i, f] of firing.entries()) {
          if (chosen && !chosen.has(f)) continue;
          const a = sign * values[i];
          for (let c = 0, w = f * this.#dIn; c < this.#dIn; c++) out[c] += a * this.#W_dec[w++];
        }
      return out;
    };
  }

  swapDimensions(dimensions: readonly number[]): Replace {
    return (base, source) => {
      const out = base.x.slice();
      for (const c of dimensions) out[c] = source.x[c];
      return out;
    };
  }

  swapMeans(): Replace {
    return (base, source) => {
      const out = Float64Array.from(base.x);
      for (const u of this.#directions) {
        const along = u.reduce((sum, v, c) => sum + v * (source.x[c] - base.x[c]), 0);
        for (let c = 0; c < out.length; c++) out[c] += along * u[c];
      }
      return out;
    };
  }
}

/** Mean over the prompts of each value of an attribute; [values][width]. */
function meansByValue(
  prompts: readonly EncodedPrompt[],
  own: readonly number[],
  attribute: string,
  width: number,
  add: (p: number, sums: Float64Array) => void,
): Float64Array[] {
  const byValue = new Map<string, number[]>();
  for (const p of own) {
    const value = prompts[p].prompt.values[attribute];
    byValue.set(value, [...(byValue.get(value) ?? []), p]);
  }
  return [...byValue.values()].map((members) => {
    const sums = new Float64Array(width);
    for (const p of members) add(p, sums);
    return sums.map((sum) => sum / members.length);
  });
}

function variance(values: readonly number[]): number {
  const middle = mean(values);
  return mean(values.map((v) => (v - middle) ** 2));
}

function differencesFromMean(rows: readonly Float64Array[]): Float64Array[] {
  return rows.map((row) => row.map((v, c) => v - mean(rows.map((other) => other[c]))));
}

/** A basis of what the rows span (Gram–Schmidt); what is left of a row below 1e-6 of its length counts as 0. */
function orthonormal(rows: readonly Float64Array[]): Float64Array[] {
  const basis: Float64Array[] = [];
  for (const row of rows) {
    const rest = row.slice();
    for (const u of basis) {
      const along = u.reduce((sum, v, c) => sum + v * rest[c], 0);
      for (let c = 0; c < rest.length; c++) rest[c] -= along * u[c];
    }
    const length = Math.hypot(...rest);
    if (length > 1e-6 * Math.hypot(...row)) basis.push(rest.map((v) => v / length));
  }
  return basis;
}
