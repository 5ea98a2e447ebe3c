/** What int8 weights change: loss and values at hook points, beside those of the checkpoint as it is. */
import { loadModel, type Model } from "./model.ts";
import { type PackedRow, type PackingRules, packRows } from "./packing.ts";
import type { Document } from "./text.ts";
import { batchTokens } from "./token-batches.ts";

export interface WeightsComparison {
  /** Predictions that were compared, of an encoder tokens. */
  tokens: number;
  /** Mean −log p(next token), in nats; null of an encoder, which predicts none. */
  loss: { checkpoint: number; int8: number } | null;
  /** By hook point: ‖int8 − checkpoint‖ / ‖checkpoint‖ over all values (relative L2). */
  differences: Record<string, number>;
}

const ROWS = 4;
const LENGTH = 128;

/**
 * Runs `model`, which has int8 weights, and its checkpoint as it is over the first few hundred tokens of a
 * text. Of the checkpoint a few layers are in memory at a time.
 * @throws UserError when the text has no token.
 */
export async function compareWeights(
  model: Model,
  text: AsyncIterable<Document>,
  capture: readonly string[],
  {
    bos = "document",
    eos,
    threads,
  }: Partial<Pick<PackingRules, "bos" | "eos">> & { threads?: number } = {},
): Promise<WeightsComparison> {
  const contextLength = Math.min(LENGTH, model.info.contextLength);
  const rows: PackedRow[] = [];
  for await (const row of packRows(text, model.tokenizer, {
    contextLength,
    bos,
    eos,
    partial: true,
  })) {
    // A short last row counts only where it is all there is.
    if (rows.length === 0 || row.tokens.length === contextLength) rows.push(row);
    if (rows.length === ROWS) break;
  }
  const pass = batchTokens(rows);
  const predicts = !model.info.isEncoder;
  const whole = await model.forward({ ...pass, capture, loss: predicts });
  const checkpoint = await loadModel(model.info.folder, { threads });
  try {
    // What goes into an encoder's layer is not what comes out of the one before.
    const exact = predicts
      ? await byLayer(checkpoint, pass, capture)
      : await checkpoint.forward({ ...pass, capture });
    const differences: Record<string, number> = {};
    for (const name of capture)
      differences[name] = relativeDifference(whole.activations[name], exact.activations[name]);
    const { batch, length } = pass;
    if (!predicts) return { tokens: batch * length, loss: null, differences };
    const loss = { checkpoint: mean(exact.loss!), int8: mean(whole.loss!) };
    return { tokens: batch * (length - 1), loss, differences };
  } finally {
    await checkpoint.close();
  }
}

/** A forward pass in which each layer is a graph of its own, so that no more than a few of them are open at once. */
async function byLayer(
  model: Model,
  pass: { tokens: Int32Array; batch: number; length: number },
  capture: readonly string[],
): Promise<{ activations: Record<string, Float32Array>; loss: Float32Array }> {
  const activations: Record<string, Float32Array> = {};
  const { layers } = model.info;
  let patch: Record<string, Float32Array> = {};
  for (let layer = 0; layer < layers; layer++) {
    const isHere = (name: string) =>
      name.startsWith(`blocks.${layer}.`) || (layer === 0 && !/^(blocks|ln_final)\./.test(name));
    const end = `blocks.${layer}.hook_resid_post`;
    const wanted = [...new Set([...capture.filter(isHere), end])];
    const result = await model.forward({ ...pass, patch, capture: wanted });
    Object.assign(activations, result.activations);
    const next = layer + 1 < layers ? `blocks.${layer + 1}.hook_resid_pre` : end;
    patch = { [next]: result.activations[end] };
  }
  const behind = capture.filter((name) => name.startsWith("ln_final."));
  const last = await model.forward({ ...pass, patch, capture: behind, loss: true });
  return { activations: { ...activations, ...last.activations }, loss: last.loss! };
}

function relativeDifference(values: Float32Array, exact: Float32Array): number {
  let [error, size] = [0, 0];
  for (let i = 0; i < exact.length; i++) {
    error += (values[i] - exact[i]) ** 2;
    size += exact[i] ** 2;
  }
  return Math.sqrt(error / size);
}

function mean(values: Float32Array): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
