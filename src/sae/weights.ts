/** What an SAE consists of. */
import type { Selection } from "./architecture.ts";

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
  /** θ of a jumprelu SAE, in the units of its latents; [dSae]. */
  threshold?: Float32Array | undefined;
  /** Of a gated SAE, whose b_enc is the gates' bias; [dSae]. */
  b_mag?: Float32Array;
  /** Of a gated SAE: the logarithm of each magnitude's gain over its gate; [dSae]. */
  r_mag?: Float32Array;
}

/** The weights that each architecture has beside the four that all have. */
const vectors = {
  relu: [],
  topk: [],
  batchTopk: [],
  jumprelu: ["threshold"],
  gated: ["b_mag", "r_mag"],
} as const satisfies Record<Selection["architecture"], (keyof SaeWeights)[]>;

/** The names of an architecture's weights. */
export function weightNames({ architecture }: Selection): (keyof SaeWeights)[] {
  return ["W_enc", "b_enc", "W_dec", "b_dec", ...vectors[architecture]];
}
