/** The tensors of a checkpoint under the graph's names. */
import { UserError } from "../error.ts";
import type { Safetensors, TensorInfo } from "../safetensors.ts";
import { FAMILIES, type Role } from "./families.ts";
import type { QuantizedTensor } from "./quantize.ts";
import type { LinearLayout, Spec } from "./spec.ts";

export interface Weights {
  /** How the matrices of linear layers lie. */
  linear: LinearLayout;
  /**
   * `embedding.weight`, `blocks.3.qkv.bias`, …; `unembedding.weight` only if it is not the embedding;
   * `headDense.weight` and the rest of it only if an encoder's checkpoint has what predicts masked tokens.
   */
  tensors: ReadonlyMap<string, TensorInfo>;
  /** Those of linear layers that are to be computed with as 8-bit integers instead. */
  quantized?: ReadonlyMap<string, QuantizedTensor>;
}

/**
 * Finds the tensors that `spec` needs. Throws UserError listing those that are missing, and for
 * one whose shape does not fit the configuration or whose type is not a 16- or 32-bit float.
 */
export function bindWeights(
  spec: Spec,
  checkpoint: Pick<Safetensors, "files" | "tensors">,
): Weights {
  const { names, prefixes, linear, unembedding, maskedHead } = FAMILIES[spec.modelType];
  const where = checkpoint.files.join(", ");
  const has = (name: string) => checkpoint.tensors.has(name);
  const prefix = prefixes.find((p) => has(`${p}${names.embedding}.weight`));
  if (prefix === undefined) {
    const tried = prefixes.map((p) => `${p}${names.embedding}.weight`).join(" or ");
    throw new UserError(
      `${where} has no embedding (${tried}): these are not the weights of a ${spec.modelType} model.`,
    );
  }

  const tensors = new Map<string, TensorInfo>();
  const missing: string[] = [];
  const bind = (ours: string, theirs: string, shape: readonly number[]) => {
    // Checkpoints that were made from TensorFlow's call the parts of a norm so.
    const old = theirs.replace(/LayerNorm\.weight$/, "LayerNorm.gamma").replace(/LayerNorm\.bias$/, "LayerNorm.beta"); // prettier-ignore
    const info = checkpoint.tensors.get(theirs) ?? checkpoint.tensors.get(old);
    if (!info) {
      missing.push(theirs);
      return;
    }
    if (info.shape.join() !== shape.join()) {
      throw new UserError(
        `${info.file}: tensor ${theirs} has shape [${info.shape.join(", ")}], but config.json asks ` +
          `for [${shape.join(", ")}]. The two files are not of one model.`,
      );
    }
    if (!["F32", "F16", "BF16"].includes(info.dtype)) {
      throw new UserError(
        `${info.file}: tensor ${theirs} has dtype ${info.dtype}; weights must be F32, F16 or BF16.`,
      );
    }
    tensors.set(ours, info);
  };
  const module = (role: Role, layer: number | null, weight: readonly number[], bias?: number) => {
    const ours = layer === null ? role : `blocks.${layer}.${role}`;
    const theirs = prefix + names[role]!.replace("{}", String(layer));
    bind(`${ours}.weight`, `${theirs}.weight`, weight);
    if (bias !== undefined) bind(`${ours}.bias`, `${theirs}.bias`, [bias]);
  };
  const norm = (role: Role, layer: number | null) =>
    module(role, layer, [spec.dModel], spec.norm.kind === "layerNorm" ? spec.dModel : undefined);
  const dense = (role: Role, layer: number, width: number, out: number, hasBias: boolean) =>
    module(
      ...([role, layer] as const),
      linear === "inOut" ? [width, out] : [out, width],
      hasBias ? out : undefined,
    );

  const { dModel, heads, kvHeads, dHead, dMlp, hasBias, positions } = spec;
  module("embedding", null, [spec.vocabSize, dModel]);
  if (positions.kind === "learned")
    module("positions", null, [spec.contextLength + positions.offset, dModel]);
  if (spec.tokenTypes > 0) module("tokenTypes", null, [spec.tokenTypes, dModel]);
  if (spec.isEncoder) norm("embeddingNorm", null);
  for (let layer = 0; layer < spec.layers; layer++) {
    norm("norm1", layer);
    if (spec.qkv === "apart") {
      dense("query", layer, dModel, heads * dHead, hasBias.qkv);
      dense("key", layer, dModel, kvHeads * dHead, hasBias.qkv);
      dense("value", layer, dModel, kvHeads * dHead, hasBias.qkv);
    } else dense("qkv", layer, dModel, 3 * heads * dHead, hasBias.qkv);
    if (spec.hasQkNorms)
      for (const role of ["queryNorm", "keyNorm"] as const) module(role, layer, [dHead]);
    dense("attentionOut", layer, heads * dHead, dModel, hasBias.attentionOut);
    if (spec.hasPostNorms) norm("postNorm1", layer);
    norm("norm2", layer);
    if (spec.isGated) dense("gate", layer, dModel, dMlp, hasBias.mlp);
    dense("mlpIn", layer, dModel, dMlp, hasBias.mlp);
    dense("mlpOut", layer, dMlp, dModel, hasBias.mlp);
    if (spec.hasPostNorms) norm("postNorm2", layer);
  }
  if (!spec.isEncoder) norm("finalNorm", null);
  if (maskedHead && has(`${maskedHead.dense}.weight`)) {
    const { dense: theirs, norm, biases } = maskedHead;
    bind("headDense.weight", `${theirs}.weight`, [dModel, dModel]);
    bind("headDense.bias", `${theirs}.bias`, [dModel]);
    for (const part of ["weight", "bias"]) bind(`headNorm.${part}`, `${norm}.${part}`, [dModel]);
    bind("unembedding.bias", biases.find(has) ?? biases[0], [spec.vocabSize]);
  }
  // Checkpoints often leave out an unembedding that equals the embedding, whatever the flag says.
  const head = [`${unembedding}.weight`, `language_model.${unembedding}.weight`].find(has);
  if (!spec.tied && head !== undefined) bind("unembedding.weight", head, [spec.vocabSize, dModel]);
  if (missing.length > 0) {
    const shown = missing.slice(0, 10).join(", ");
    throw new UserError(
      `${where} lacks ${missing.length} of the tensors that config.json asks for: ${shown}` +
        `${missing.length > 10 ? ", …" : ""}. Fetch or save the checkpoint again.`,
    );
  }
  return { linear, tensors };
}
