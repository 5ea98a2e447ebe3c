/**
 * How good an SAE is on held-out text: its reconstruction (formulas in sae/metrics.ts), and what the
 * language model loses when the reconstruction takes the place of the activation.
 *
 * Rules, the same in every number: beginning-of-sequence positions are never replaced and count in
 * no reconstruction metric. The cross-entropy is the mean, over all predictions of a token of the
 * text (a document's first one included, a beginning-of-sequence token never), of −log p in nats;
 * all tokens weigh the same, whatever row, document or batch they are in.
 */
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import type { Model } from "../model/model.ts";
import type { Document } from "../model/text.ts";
import { ReconstructionSums, type Evaluation } from "../sae/metrics.ts";
import type { Sae } from "../sae/sae.ts";
import { requireFit, rowBatches, type RowBatch, type TextOptions } from "./codes.ts";

export interface EvaluateOptions extends TextOptions {
  hookPoint: string;
  device: Device;
}

/** Cross-entropies in nats per token. */
export interface CrossEntropy {
  /** Predictions counted. */
  predictions: number;
  /** The model as it is. */
  clean: number;
  /** With x̂ in place of x at the hook point. */
  sae: number;
  /** With 0 in its place. */
  zero: number;
  /** With the mean activation of this text in its place. */
  mean: number;
}

export interface ModelEvaluation extends Evaluation {
  hookPoint: string;
  crossEntropy: CrossEntropy;
  /** (zero − sae) / (zero − clean): 1 when nothing is lost, 0 when no better than ablation to zero. */
  ceLossRecovered: number;
  /** (mean − sae) / (mean − clean): the same against the milder ablation to the mean. */
  ceLossRecoveredFromMean: number;
}

/**
 * Evaluates `sae` at its hook point on the first `tokens` positions of `documents`, which is read
 * twice: once for the mean activation, once for the rest.
 * @throws UserError when SAE and hook point do not fit, or the text has no tokens.
 */
export async function evaluate(
  sae: Sae,
  model: Model,
  documents: () => AsyncIterable<Document> | Iterable<Document>,
  options: EvaluateOptions,
): Promise<ModelEvaluation> {
  const { hookPoint, device } = options;
  requireFit(sae, model, hookPoint);
  const { dIn, dSae } = sae.spec;
  const mean = await meanActivation(model, documents(), options);
  const totals = new ReconstructionSums(dIn, dSae);
  const activationSums = new Float64Array(dSae);
  const losses = { predictions: 0, clean: 0, sae: 0, zero: 0, mean: 0 };
  let encoder: ReturnType<Sae["on"]> | undefined;
  try {
    for await (const batch of rowBatches(model, documents(), options)) {
      const input = { tokens: batch.tokens, batch: batch.rows.length, length: batch.length };
      const clean = await model.forward({ ...input, capture: [hookPoint], loss: true });
      const x = clean.activations[hookPoint];
      const kept = gatherRows(x, batch.kept, dIn);
      const rows = batch.kept.length;
      // The first batch is never the smaller one.
      encoder ??= sae.on(device, batch.tokens.length);
      totals.addTargets(kept, rows);
      const { statistics, reconstruction } = await encoder.measure(kept, rows);
      totals.addOutputs(statistics);
      for (let f = 0; f < dSae; f++) activationSums[f] += statistics.sums[f];

      const lossWith = async (row: (n: number) => Float32Array) => {
        const patch = replaceRows(x, batch.kept, row);
        return (await model.forward({ ...input, patch: { [hookPoint]: patch }, loss: true })).loss!;
      };
      const zero = new Float32Array(dIn);
      const places = counted(batch);
      const sumCounted = (loss: Float32Array) => places.reduce((sum, at) => sum + loss[at], 0);
      losses.predictions += places.length;
      losses.clean += sumCounted(clean.loss!);
      losses.sae += sumCounted(
        await lossWith((n) => reconstruction.subarray(n * dIn, (n + 1) * dIn)),
      );
      losses.zero += sumCounted(await lossWith(() => zero));
      losses.mean += sumCounted(await lossWith(() => mean));
    }
  } finally {
    encoder?.close();
  }
  const { predictions } = losses;
  if (predictions === 0)
    throw new UserError("the text has no row of two tokens, so there is no prediction to evaluate");
  const crossEntropy: CrossEntropy = {
    predictions,
    clean: losses.clean / predictions,
    sae: losses.sae / predictions,
    zero: losses.zero / predictions,
    mean: losses.mean / predictions,
  };
  return {
    ...totals.metrics(),
    deadFraction: totals.counts.filter((n) => n === 0).length / dSae,
    density: totals.counts.map((n) => n / totals.rows),
    meanActivation: activationSums.map((sum) => sum / totals.rows),
    hookPoint,
    crossEntropy,
    ceLossRecovered: recovered(crossEntropy, crossEntropy.zero),
    ceLossRecoveredFromMean: recovered(crossEntropy, crossEntropy.mean),
  };
}

function recovered({ clean, sae }: CrossEntropy, ablated: number): number {
  return (ablated - sae) / (ablated - clean);
}

/** Mean activation over the kept positions; [dIn]. */
async function meanActivation(
  model: Model,
  documents: AsyncIterable<Document> | Iterable<Document>,
  options: EvaluateOptions,
): Promise<Float32Array> {
  const { hookPoint } = options;
  const width = model.hookWidth(hookPoint);
  const sum = new Float64Array(width);
  let rows = 0;
  for await (const { tokens, rows: packed, length, kept } of rowBatches(
    model,
    documents,
    options,
  )) {
    const { activations } = await model.forward({
      tokens,
      batch: packed.length,
      length,
      capture: [hookPoint],
    });
    const x = activations[hookPoint];
    for (const at of kept) for (let c = 0; c < width; c++) sum[c] += x[at * width + c];
    rows += kept.length;
  }
  return Float32Array.from(sum, (v) => v / rows);
}

function gatherRows(x: Float32Array, kept: Int32Array, width: number): Float32Array {
  const out = new Float32Array(kept.length * width);
  kept.forEach((at, n) => {
    out.set(x.subarray(at * width, (at + 1) * width), n * width);
  });
  return out;
}

/** A copy of x with `row(n)` at the n-th kept place. */
function replaceRows(
  x: Float32Array,
  kept: Int32Array,
  row: (n: number) => Float32Array,
): Float32Array {
  const out = x.slice();
  kept.forEach((at, n) => {
    const values = row(n);
    out.set(values, at * values.length);
  });
  return out;
}

/** Places in loss [rows, length − 1] whose prediction is a token of the text. */
function counted({ rows, length }: RowBatch): number[] {
  return rows.flatMap(({ documents }, r) =>
    Array.from({ length: length - 1 }, (_, i) => i).flatMap((i) =>
      documents[i + 1] >= 0 ? [r * (length - 1) + i] : [],
    ),
  );
}
