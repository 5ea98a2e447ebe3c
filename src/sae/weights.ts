/** What an SAE consists of. */
import type { Selection } from "./architecture.ts";
import { identity, type Transform } from "./transform.ts";

/** What the weights mean. */
export interface SaeSpec {
  selection: Selection;
  dIn: number;
  /** Width of what is reconstructed: dIn, but for a transcoder. */
  dOut: number;
  dSae: number;
  /** Widths of the hook points whose activations stand side by side in a row: one, but for a crosscoder. */
  heads: number[];
  /** Prefixes of the latents that reconstruct on their own, rising to dSae. */
  matryoshkaWidths: number[];
  applyBDecToInput: boolean;
  /** Whether it reconstructs another hook point's activations than those it encodes. */
  transcoder: boolean;
  /** Whether the input's linear image W_skip x is a part of the reconstruction. */
  skip: boolean;
  /** What is done to inputs before they are encoded. */
  input: Transform;
  /** What is undone on reconstructions; of an autoencoder `input` itself. */
  output: Transform;
}

/** What it is in a word: one of several hook points, from one hook point to another, or of one. */
export function kindOf({
  heads,
  transcoder,
  skip,
}: Pick<SaeSpec, "heads" | "transcoder" | "skip">): string {
  if (heads.length > 1) return "crosscoder";
  if (transcoder) return skip ? "skip transcoder" : "transcoder";
  return "autoencoder";
}

/** A plain autoencoder's spec needs no more than this. */
export type SaeSpecOptions = Pick<SaeSpec, "selection" | "dIn" | "dSae" | "applyBDecToInput"> &
  Partial<SaeSpec>;

export function completeSpec(spec: SaeSpecOptions): SaeSpec {
  const { dIn, dSae, dOut = dIn, transcoder = false, input = identity(dIn) } = spec;
  return {
    ...{ dOut, heads: [dIn], matryoshkaWidths: [dSae], transcoder, skip: false, input },
    output: transcoder ? identity(dOut) : input,
    ...spec,
  };
}

export interface SaeWeights {
  /** [dSae, dIn], one row per latent. */
  W_enc: Float32Array;
  /** [dSae] */
  b_enc: Float32Array;
  /** [dSae, dOut], one row per latent. */
  W_dec: Float32Array;
  /** [dOut] */
  b_dec: Float32Array;
  /** θ of a jumprelu SAE, in the units of its latents; [dSae]. */
  threshold?: Float32Array | undefined;
  /** Of a gated SAE, whose b_enc is the gates' bias; [dSae]. */
  b_mag?: Float32Array;
  /** Of a gated SAE: the logarithm of each magnitude's gain over its gate; [dSae]. */
  r_mag?: Float32Array;
  /** Of a skip transcoder; [dOut, dIn]. */
  W_skip?: Float32Array;
}

/** The weights that each architecture has beside the four that all have. */
const vectors = {
  relu: [],
  topk: [],
  batchTopk: [],
  jumprelu: ["threshold"],
  gated: ["b_mag", "r_mag"],
} as const satisfies Record<Selection["architecture"], (keyof SaeWeights)[]>;

/** The weights that an SAE has, with their shapes, in the order of a file. */
export function weightShapes({
  selection,
  dIn,
  dOut,
  dSae,
  skip,
}: {
  selection: { architecture: Selection["architecture"] };
  dIn: number;
  dOut: number;
  dSae: number;
  skip: boolean;
}): Partial<Record<keyof SaeWeights, number[]>> {
  return {
    W_enc: [dSae, dIn],
    b_enc: [dSae],
    W_dec: [dSae, dOut],
    b_dec: [dOut],
    ...Object.fromEntries(vectors[selection.architecture].map((name) => [name, [dSae]])),
    ...(skip && { W_skip: [dOut, dIn] }),
  };
}
