/**
 * How good an SAE is on held-out text: its reconstruction (formulas in sae/metrics.ts), and what the
 * language model loses when the reconstruction takes the place of the activation: of a transcoder at
 * the hook point that it predicts, of a crosscoder at each of its hook points by itself, with the
 * others left as they come.
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
import {
  joinHeads,
  requireFit,
  requireWidth,
  rowBatches,
  type HookPoints,
  type RowBatch,
  type TextOptions,
} from "./codes.ts";

export interface EvaluateOptions extends TextOptions {
  /** What the SAE reads. */
  hookPoint: HookPoints;
  /** What a transcoder predicts; of others absent. */
  targetHookPoint?: string | undefined;
  device: Device;
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
  const [{ inputs, target }] = saes.map((sae) => ({
    inputs: requireFit(sae, model, options.hookPoint),
    target: requireTarget(sae, model, options.targetHookPoint),
  }));
  const splices = splicesOf(saes[0], target === undefined ? inputs : [target]);
  await addMeans(splices, model, documents(), options);
  const capture = target === undefined ? inputs : [...inputs, target];
  const parts = saes.map((sae) => partOf(sae, splices));
  const encoders: ReturnType<Sae["on"]>[] = [];
  const { dIn, heads, dOut } = saes[0].spec;
  let predictions = 0;
  let cleanLoss = 0;
  try {
    for await (const batch of rowBatches(model, documents(), options)) {
      const input = { tokens: batch.tokens, batch: batch.rows.length, length: batch.length };
      const clean = await model.forward({ ...input, capture, loss: true });
      const kept = (name: string) =>
        gatherRows(clean.activations[name], batch.kept, model.hookWidth(name));
      const x = joinHeads({ dIn, heads }, inputs.map(kept));
      const y = target === undefined ? undefined : kept(target);
      const places = counted(batch);
      const sumCounted = (loss: Float32Array) => places.reduce((sum, at) => sum + loss[at], 0);
      predictions += places.length;
      cleanLoss += sumCounted(clean.loss!);
      const lossWith = async (hookPoint: string, row: (n: number) => Float32Array) => {
        const patch = replaceRows(clean.activations[hookPoint], batch.kept, row);
        const patched = { ...input, patch: { [hookPoint]: patch }, loss: true };
        return sumCounted((await model.forward(patched)).loss!);
      };

      for (const [i, part] of parts.entries()) {
        // The first batch is never the smaller one.
        const encoder = (encoders[i] ??= part.sae.on(device, batch.tokens.length));
        part.totals.addTargets(y ?? x, batch.kept.length);
        const { statistics, reconstruction } = await encoder.measure(x, batch.kept.length, y);
        part.totals.addOutputs(statistics);
        statistics.sums.forEach((sum, f) => (part.activationSums[f] += sum));
        for (const [s, { hookPoint, width, column }] of splices.entries()) {
          addErrors(part.errors[s], column, y ?? x, reconstruction, dOut);
          part.losses[s] += await lossWith(hookPoint, (n) => {
            const at = n * dOut + column;
            return reconstruction.subarray(at, at + width);
          });
        }
      }
      for (const { hookPoint, width, mean, losses } of splices) {
        const zero = new Float32Array(width);
        losses.zero += await lossWith(hookPoint, () => zero);
        losses.mean += await lossWith(hookPoint, () => mean);
      }
    }
  } finally {
    for (const encoder of encoders) encoder.close();
  }
  if (predictions === 0)
    throw new UserError("the text has no row of two tokens, so there is no prediction to evaluate");
  return parts.map((part) => evaluationOf(part, splices, cleanLoss, predictions));
}

/** What is summed up about one SAE. */
interface Part {
  sae: Sae;
  totals: ReconstructionSums;
  activationSums: Float64Array;
  /** For each hook point that is replaced: the loss, summed over the predictions, and the errors. */
  losses: number[];
  errors: ReconstructionSums[];
}

function partOf(sae: Sae, splices: readonly Splice[]): Part {
  const { dOut, dSae } = sae.spec;
  return {
    sae,
    totals: new ReconstructionSums(dOut, dSae),
    activationSums: new Float64Array(dSae),
    losses: splices.map(() => 0),
    errors: splices.map(({ width }) => new ReconstructionSums(width, 0)),
  };
}

function evaluationOf(
  { sae, totals, activationSums, losses, errors }: Part,
  splices: readonly Splice[],
  cleanLoss: number,
  predictions: number,
): ModelEvaluation {
  const spliced = splices.map(({ hookPoint, losses: ablated }, s): SplicedEvaluation => {
    const crossEntropy = {
      predictions,
      clean: cleanLoss / predictions,
      sae: losses[s] / predictions,
      zero: ablated.zero / predictions,
      mean: ablated.mean / predictions,
    };
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
  };
}

/** The hook point that a transcoder predicts. @throws UserError when it is missing, does not fit, or the SAE is none. */
export function requireTarget(
  { spec }: Sae,
  model: Model,
  target: string | undefined,
): string | undefined {
  const { transcoder, dOut } = spec;
  if (transcoder !== (target !== undefined))
    throw new UserError(
      transcoder
        ? "the SAE is a transcoder: name the hook point that it predicts (targetHookPoint)"
        : `the SAE is no transcoder, so it has no target hook point; got ${target}`,
    );
  if (target !== undefined) requireWidth("predicts", dOut, model, target);
  return target;
}

/** A hook point whose activations are replaced, and what comes of its ablation. */
interface Splice {
  hookPoint: string;
  width: number;
  /** Where its part of a reconstruction begins. */
  column: number;
  /** Mean activation over the kept positions; [width]. */
  mean: Float32Array;
  /** Summed over the predictions. */
  losses: { zero: number; mean: number };
}

function splicesOf({ spec }: Sae, hookPoints: readonly string[]): Splice[] {
  let end = 0;
  return hookPoints.map((hookPoint, head) => {
    const width = hookPoints.length > 1 ? spec.heads[head] : spec.dOut;
    const column = end;
    end += width;
    return {
      ...{ hookPoint, width, column, mean: new Float32Array(width) },
      losses: { zero: 0, mean: 0 },
    };
  });
}

function recovered({ clean, sae }: CrossEntropy, ablated: number): number {
  return (ablated - sae) / (ablated - clean);
}

/** Sets the mean activations of `splices`. */
async function addMeans(
  splices: readonly Splice[],
  model: Model,
  documents: AsyncIterable<Document> | Iterable<Document>,
  options: TextOptions,
): Promise<void> {
  const sums = splices.map(({ width }) => new Float64Array(width));
  const capture = splices.map(({ hookPoint }) => hookPoint);
  let rows = 0;
  for await (const batch of rowBatches(model, documents, options)) {
    const { tokens, length, kept } = batch;
    const { activations } = await model.forward({
      ...{ tokens, batch: batch.rows.length, length, capture },
    });
    for (const [i, { hookPoint, width }] of splices.entries()) {
      const x = activations[hookPoint];
      for (const at of kept) for (let c = 0; c < width; c++) sums[i][c] += x[at * width + c];
    }
    rows += kept.length;
  }
  for (const [i, { mean }] of splices.entries()) sums[i].forEach((v, c) => (mean[c] = v / rows));
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
export function counted({ rows, length }: RowBatch): number[] {
  return rows.flatMap(({ documents }, r) =>
    Array.from({ length: length - 1 }, (_, i) => i).flatMap((i) =>
      documents[i + 1] >= 0 ? [r * (length - 1) + i] : [],
    ),
  );
}
