/**
 * How good an SAE is on held-out text: its reconstruction (formulas in sae/metrics.ts), and what the
 * language model loses when the reconstruction takes the place of the activation: of a transcoder at
 * the hook point that it predicts, of a crosscoder at each of its hook points by itself, with the
 * others left as they come.
 *
 * Rules, the same in every number: beginning-of-sequence positions, and those that the run's rules
 * leave out (token-filter.ts), are never replaced and count in no reconstruction metric. The cross-entropy is the mean, over all predictions of a token of the
 * text (a document's first one included, a beginning-of-sequence token never), of −log p in nats;
 * all tokens weigh the same, whatever row, document or batch they are in.
 */
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import type { Model } from "../model/model.ts";
import type { Document } from "../model/text.ts";
import { ReconstructionSums, type Evaluation } from "../sae/metrics.ts";
import type { Sae } from "../sae/sae.ts";
import {
  joinHeads,
  requireFit,
  rowBatches,
  withinNorm,
  type HookPoints,
  type TextOptions,
} from "./codes.ts";
import { DetailSums, Divergence, type Replacement } from "./evaluation-detail.ts";
import {
  addMeans,
  gatherRows,
  predictionsOf,
  replaceRows,
  requireTarget,
  splicesOf,
  type Splice,
} from "./splice.ts";
import { rowsAtOnce } from "./write-point.ts";

export interface EvaluateOptions extends TextOptions {
  /** What the SAE reads. */
  hookPoint: HookPoints;
  /** What a transcoder predicts; of others absent. */
  targetHookPoint?: string | undefined;
  device: Device;
  /**
   * Every metric there is, with intervals over documents (`ModelEvaluation.detail`). It needs the
   * logits at all positions, so that rows go through the model fewer at once where the vocabulary is large.
   */
  detail?: boolean;
}

/** Cross-entropies in nats per token. */
export interface CrossEntropy {
  /** Predictions counted. */
  predictions: number;
  /** The model as it is. */
  clean: number;
  /** With the reconstruction in place of the activation at the hook point. */
  sae: number;
  /** With 0 in its place. */
  zero: number;
  /** With the mean activation of this text in its place. */
  mean: number;
}

/** How much of the loss comes back when the reconstruction takes the place of an ablation. */
export interface LossRecovered {
  /** (zero − sae) / (zero − clean): 1 when nothing is lost, 0 when no better than ablation to zero. */
  ceLossRecovered: number;
  /** (mean − sae) / (mean − clean): the same against the milder ablation to the mean. */
  ceLossRecoveredFromMean: number;
}

/** One hook point at which reconstructions were put into the model. */
export interface SplicedEvaluation extends LossRecovered {
  hookPoint: string;
  /** Of the activations at this hook point alone; the formula is that of sae/metrics.ts. */
  fvu: number;
  crossEntropy: CrossEntropy;
}

/** Of a crosscoder `LossRecovered` is the mean over its hook points. */
export interface ModelEvaluation extends Evaluation, LossRecovered {
  /** One, of a crosscoder one for each hook point. */
  spliced: SplicedEvaluation[];
  /** When it was asked for; its `detail()` gives the numbers. */
  detail?: DetailSums;
}

/**
 * Evaluates `sae` at its hook points on the first `tokens` positions of `documents`, which is read
 * twice: once for the mean activation, once for the rest.
 * @throws UserError when SAE and hook points do not fit, or the text has no tokens.
 */
export async function evaluate(
  sae: Sae,
  model: Model,
  documents: () => AsyncIterable<Document> | Iterable<Document>,
  options: EvaluateOptions,
): Promise<ModelEvaluation> {
  return (await evaluateAll([sae], model, documents, options))[0];
}

/**
 * `evaluate` of several SAEs on the same hook points, in their order. The text goes through the model
 * once as it is and once for each ablation, and then once more for each SAE; all of them are on the
 * device at once.
 * @throws UserError when an SAE and the hook points do not fit, or the text has no tokens.
 */
export async function evaluateAll(
  saes: readonly Sae[],
  model: Model,
  documents: () => AsyncIterable<Document> | Iterable<Document>,
  options: EvaluateOptions,
): Promise<ModelEvaluation[]> {
  const { device } = options;
  model.requireNextTokens("losses, by which an SAE is evaluated");
  const [{ inputs, target }] = saes.map((sae) => ({
    inputs: requireFit(sae, model, options.hookPoint),
    target: requireTarget(sae, model, options.targetHookPoint),
  }));
  const splices = splicesOf(saes[0], target === undefined ? inputs : [target]);
  const text = textOptions(model, options);
  await addMeans(splices, inputs, model, documents(), text);
  const capture = target === undefined ? inputs : [...inputs, target];
  const parts = saes.map((sae) => partOf(sae, splices, options.detail));
  const encoders: ReturnType<Sae["on"]>[] = [];
  const ablated = splices.map(() => ({ zero: 0, mean: 0 }));
  const { dIn, heads, dOut } = saes[0].spec;
  let predictions = 0;
  let cleanLoss = 0;
  try {
    for await (const read of rowBatches(model, documents(), text)) {
      const input = read.pass;
      const wanted = { loss: true, ...(options.detail && { logits: "all" as const }) };
      const clean = await model.forward({ ...input, capture, ...wanted });
      const batch = withinNorm(read, clean.activations);
      if (batch.kept.length === 0) continue;
      const kept = (name: string) =>
        gatherRows(clean.activations[name], batch.kept, model.hookWidth(name));
      const x = joinHeads({ dIn, heads }, inputs.map(kept));
      const y = target === undefined ? undefined : kept(target);
      const predicted = predictionsOf(batch);
      const sumOf = (loss: Float32Array) => predicted.places.reduce((sum, at) => sum + loss[at], 0);
      const divergence =
        clean.logits && new Divergence(clean.logits, batch.length, model.info.vocabSize);
      predictions += predicted.places.length;
      cleanLoss += sumOf(clean.loss!);
      for (const { detail } of parts)
        for (const s of splices.keys()) {
          detail?.addPredictions(s, "predictions", predicted, () => 1);
          detail?.addPredictions(s, "clean", predicted, (at) => clean.loss![at]);
        }
      /** Σ of the loss with `row(n)` at the n-th kept position; detail goes into the sums of `which`. */
      const lossWith = async (
        s: number,
        kind: Replacement,
        which: readonly Part[],
        row: (n: number) => ArrayLike<number>,
      ) => {
        const { hookPoint } = splices[s];
        const patch = replaceRows(clean.activations[hookPoint], batch.kept, row);
        const patched = { ...input, patch: { [hookPoint]: patch }, ...wanted };
        const { loss, logits } = await model.forward(patched);
        if (divergence) {
          const kl = new Map(predicted.places.map((at) => [at, divergence.at(at, logits!)]));
          for (const { detail } of which) {
            detail!.addPredictions(s, kind, predicted, (at) => loss![at]);
            detail!.addPredictions(s, `kl.${kind}`, predicted, (at) => kl.get(at)!);
          }
        }
        return sumOf(loss!);
      };

      for (const [i, part] of parts.entries()) {
        // The first batch is never the smaller one.
        const encoder = (encoders[i] ??= part.sae.on(device, batch.tokens.length));
        const rows = batch.kept.length;
        part.totals.addTargets(y ?? x, rows);
        const { statistics, reconstruction } = await encoder.measure(x, rows, y);
        part.totals.addOutputs(statistics);
        statistics.sums.forEach((sum, f) => (part.activationSums[f] += sum));
        part.detail?.addRows(batch, y ?? x, reconstruction, await encoder.encode(x, rows));
        for (const [s, { width, column }] of splices.entries()) {
          addErrors(part.errors[s], column, y ?? x, reconstruction, dOut);
          part.losses[s] += await lossWith(s, "sae", [part], (n) => {
            const at = n * dOut + column;
            return reconstruction.subarray(at, at + width);
          });
        }
      }
      for (const [s, { width, mean }] of splices.entries()) {
        const zero = new Float32Array(width);
        ablated[s].zero += await lossWith(s, "zero", parts, () => zero);
        ablated[s].mean += await lossWith(s, "mean", parts, () => mean);
      }
    }
  } finally {
    for (const encoder of encoders) encoder.close();
  }
  if (predictions === 0)
    throw new UserError("the text has no row of two tokens, so there is no prediction to evaluate");
  return parts.map((part) =>
    evaluationOf(
      part,
      splices.map(({ hookPoint }, s) => ({
        hookPoint,
        predictions,
        clean: cleanLoss / predictions,
        sae: part.losses[s] / predictions,
        zero: ablated[s].zero / predictions,
        mean: ablated[s].mean / predictions,
      })),
    ),
  );
}

/** The options of the text, with no more rows at once than logits have room for. */
function textOptions(model: Model, options: EvaluateOptions): TextOptions {
  if (!options.detail) return options;
  const { batchRows = 16, contextLength = model.info.contextLength } = options;
  const length = Math.min(contextLength, model.info.contextLength);
  return { ...options, batchRows: Math.min(batchRows, rowsAtOnce(model, length, "all")) };
}

/** What is summed up about one SAE. */
interface Part {
  sae: Sae;
  totals: ReconstructionSums;
  activationSums: Float64Array;
  /** For each hook point that is replaced: the loss, summed over the predictions, and the errors. */
  losses: number[];
  errors: ReconstructionSums[];
  detail?: DetailSums;
}

function partOf(sae: Sae, splices: readonly Splice[], detail = false): Part {
  const { dOut, dSae } = sae.spec;
  return {
    sae,
    totals: new ReconstructionSums(dOut, dSae),
    activationSums: new Float64Array(dSae),
    losses: splices.map(() => 0),
    errors: splices.map(({ width }) => new ReconstructionSums(width, 0)),
    ...(detail && { detail: new DetailSums(splices, dSae) }),
  };
}

function evaluationOf(
  { sae, totals, activationSums, errors, detail }: Part,
  found: readonly (CrossEntropy & { hookPoint: string })[],
): ModelEvaluation {
  const spliced = found.map(({ hookPoint, ...crossEntropy }, s): SplicedEvaluation => {
    return {
      hookPoint,
      fvu: errors[s].metrics().fvu,
      crossEntropy,
      ceLossRecovered: recovered(crossEntropy, crossEntropy.zero),
      ceLossRecoveredFromMean: recovered(crossEntropy, crossEntropy.mean),
    };
  });
  const average = (key: keyof LossRecovered) =>
    spliced.reduce((sum, one) => sum + one[key], 0) / spliced.length;
  return {
    ...totals.metrics(),
    deadFraction: totals.counts.filter((n) => n === 0).length / sae.spec.dSae,
    density: totals.counts.map((n) => n / totals.rows),
    meanActivation: activationSums.map((sum) => sum / totals.rows),
    spliced,
    ceLossRecovered: average("ceLossRecovered"),
    ceLossRecoveredFromMean: average("ceLossRecoveredFromMean"),
    ...(detail && { detail }),
  };
}

function recovered({ clean, sae }: CrossEntropy, ablated: number): number {
  return (ablated - sae) / (ablated - clean);
}

/** Adds a batch's errors at one hook point. @param y what was to be reconstructed, as `reconstruction` [rows, dOut]. */
function addErrors(
  errors: ReconstructionSums,
  column: number,
  y: Float32Array,
  reconstruction: Float32Array,
  dOut: number,
): void {
  const rows = y.length / dOut;
  const width = errors.xSum.length;
  const part = new Float32Array(rows * width);
  const rowStats = new Float64Array(rows * 4);
  for (let n = 0; n < rows; n++) {
    for (let c = 0; c < width; c++) {
      const at = n * dOut + column + c;
      const [v, r] = [y[at], reconstruction[at]];
      part[n * width + c] = v;
      rowStats[n * 4] += v * v;
      rowStats[n * 4 + 1] += r * r;
      rowStats[n * 4 + 2] += v * r;
      rowStats[n * 4 + 3] += (v - r) ** 2;
    }
  }
  errors.addTargets(part, rows);
  errors.addOutputs({ rowStats, error: 0, counts: new Int32Array(), sums: new Float32Array() });
}
