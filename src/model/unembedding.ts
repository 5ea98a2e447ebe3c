/**
 * The last step of a transformer as plain arrays: what turns the residual stream into logits, and
 * what carries values at other hook points into the residual stream. Read from the checkpoint when
 * asked for; the runtime keeps copies of its own.
 *
 *     logits = W_U · norm(resid),    layerNorm(x) = gain ⊙ (x − mean x) / √(var x + epsilon) + bias
 *                                    rmsNorm(x) = gain ⊙ x / √(mean x² + epsilon)
 *
 * and where the model caps its logits (Gemma 2), cap · tanh(logits / cap) of that.
 */
import { UserError } from "../error.ts";
import { Safetensors } from "../safetensors.ts";
import { parseHookPoint } from "./hook-point.ts";
import type { Norm, Spec } from "./spec.ts";
import type { Weights } from "./weights.ts";

/** The norm between the last residual stream and the unembedding. */
export interface FinalNorm {
  kind: Norm["kind"];
  /** As it is applied: 1 added where the family does. */
  gain: Float32Array; // [dModel]
  /** Zeros where there is none. */
  bias: Float32Array; // [dModel]
  epsilon: number;
}

/** No family here has a bias on the logits; folding the norm's bias in gives one (bias · W_U). */
export interface Unembedding {
  vocabSize: number;
  dModel: number;
  /** [vocabSize, dModel]: row t is the direction that token t's logit reads (TransformerLens' W_U, transposed). */
  W_U: Float32Array;
  norm: FinalNorm;
  /** Logits l become cap · tanh(l / cap); null: they stay. */
  logitCap: number | null;
}

/** Where a model's weights are. */
export interface WeightFiles {
  spec: Spec;
  weights: Weights;
  files: readonly string[];
}

export async function readUnembedding({ spec, weights, files }: WeightFiles): Promise<Unembedding> {
  const { vocabSize, dModel, norm } = spec;
  const { kind, epsilon, isPlusOne } = norm;
  const name = weights.tensors.has("unembedding.weight") ? "unembedding" : "embedding";
  const names = [`${name}.weight`, "finalNorm.weight"];
  if (kind === "layerNorm") names.push("finalNorm.bias");
  const [W_U, stored, bias = new Float32Array(dModel)] = await readFloats(weights, files, names);
  const gain = isPlusOne ? stored.map((one) => 1 + one) : stored;
  const { logitCap } = spec;
  return { vocabSize, dModel, W_U, norm: { kind, gain, bias, epsilon }, logitCap };
}

/**
 * The matrix [width, dModel] by which values at a hook point enter the residual stream: W_out of an
 * MLP's hidden layer, W_O of attention's heads; null where the values already are what is added to
 * the stream, or the stream itself. Biases, which no value there changes, are left out.
 * @throws UserError when the model has no such hook point, or no matrix carries what is there into the stream.
 */
export async function readWriter(
  { spec, weights, files }: WeightFiles,
  hookPoint: string,
): Promise<Float32Array | null> {
  const { kind, layer } = parseHookPoint(hookPoint, spec);
  switch (kind) {
    case "mlp.hook_post":
      requireNoNorm("hook_mlp_out");
      return linear(`blocks.${layer}.mlpOut`, spec.dMlp);
    case "attn.hook_z":
      requireNoNorm("hook_attn_out");
      return linear(`blocks.${layer}.attentionOut`, spec.heads * spec.dHead);
    case "hook_embed":
    case "hook_full_embed":
    case "hook_resid_pre":
    case "hook_attn_out":
    case "hook_resid_mid":
    case "hook_mlp_out":
    case "hook_resid_post":
    case "hook_normalized_resid_post":
      return null;
    case "ln1.hook_scale":
    case "ln1.hook_normalized":
    case "attn.hook_q":
    case "attn.hook_k":
    case "attn.hook_v":
    case "attn.hook_rot_q":
    case "attn.hook_rot_k":
    case "attn.hook_pattern":
    case "ln2.hook_scale":
    case "ln2.hook_normalized":
    case "mlp.hook_pre":
    case "mlp.hook_pre_linear":
    case "ln_final.hook_scale":
    case "ln_final.hook_normalized":
      throw new UserError(
        `what is at ${hookPoint} is not added to the stream: no matrix carries it there, so it has no direct effect on the logits`,
      );
    default:
      return kind satisfies never;
  }

  function requireNoNorm(after: string): void {
    if (spec.hasPostNorms)
      throw new UserError(
        `what is at ${hookPoint} goes through a norm before it is added to the stream, so that no matrix carries it there; use blocks.${layer}.${after} instead`,
      );
  }

  /** The weight of a linear layer as [in, out]. */
  async function linear(name: string, width: number): Promise<Float32Array> {
    const [weight] = await readFloats(weights, files, [`${name}.weight`]);
    return weights.linear === "inOut" ? weight : transposed(weight, spec.dModel, width);
  }
}

async function readFloats(
  weights: Weights,
  files: readonly string[],
  names: readonly string[],
): Promise<Float32Array[]> {
  const checkpoint = await Safetensors.openAll(files);
  try {
    const read: Float32Array[] = [];
    for (const name of names) {
      const info = weights.tensors.get(name);
      if (!info) throw new UserError(`${files.join(", ")} has no ${name}.`);
      read.push(await checkpoint.floats(info.name));
    }
    return read;
  } finally {
    await checkpoint.close();
  }
}

/** [rows, columns] → [columns, rows]. */
function transposed(matrix: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(matrix.length);
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++) out[c * rows + r] = matrix[r * columns + c];
  return out;
}
