/** A transformer, described completely: sizes, and the choices in which model families differ. */
import type { Widths } from "./hook-point.ts";

export type Activation = "geluTanh" | "geluErf" | "relu" | "silu";

/** Layout of a linear layer's weight: [in, out] (Conv1D of GPT-2) or [out, in] (torch.nn.Linear). */
export type LinearLayout = "inOut" | "outIn";

/** Rotary positions: pairs (j, j + dim/2) of a head's first `dim` numbers are turned by position · inverse[j]. */
export interface Rotation {
  /** Even, at most dHead; what lies beyond is left as it is. */
  dim: number;
  /** Radians per position, [dim / 2], rounded to float32 as everybody computes them. */
  inverse: Float32Array;
}

export interface Norm {
  /** rmsNorm: x / √(mean x² + ε) ⊙ gain; layerNorm subtracts the mean first and has a bias. */
  kind: "layerNorm" | "rmsNorm";
  epsilon: number;
  /** The gain is 1 + what the checkpoint holds (Gemma). */
  isPlusOne: boolean;
}

export interface Spec extends Widths {
  modelType: string;
  vocabSize: number;
  /** Longest sequence, in tokens. */
  contextLength: number;
  /** Factor on the token's embedding; the unembedding has none. */
  embeddingScale: number;
  /** Rows of the table of token types, of which row 0 is added to the embedding; 0: there is none (all but BERT). */
  tokenTypes: number;
  norm: Norm;
  /** More norms, on what attention and MLP add to the stream (Gemma 2 and 3). */
  hasPostNorms: boolean;
  /** Norms over each head of queries and keys, before they are turned (Qwen 3, Gemma 3). */
  hasQkNorms: boolean;
  positions:
    /** A table whose row position + offset is added to the embedding. */
    | { kind: "learned"; offset: number }
    /** By layer; null where a layer knows no positions. */
    | { kind: "rotary"; layers: readonly (Rotation | null)[] };
  /** How queries, keys and values lie in the checkpoint: apart, one after the other, or so for each head. */
  qkv: "apart" | "joined" | "joinedByHead";
  hasBias: { qkv: boolean; attentionOut: boolean; mlp: boolean };
  /** Factor on the attention scores of each layer. */
  attentionScale: readonly number[];
  /** Of each layer: how many positions back from itself, itself included, a query sees; null: all. */
  windows: readonly (number | null)[];
  /** Scores s become cap · tanh(s / cap), before the mask. */
  scoreCap: number | null;
  /** The same of logits. */
  logitCap: number | null;
  activation: Activation;
  /** Whether the unembedding is the transposed embedding. */
  tied: boolean;
  bosId: number | null;
  eosId: number | null;
}
