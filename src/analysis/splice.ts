/** Putting other values in place of a model's activations at hook points. */
import { UserError } from "../error.ts";
import type { Model } from "../model/model.ts";
import type { Document } from "../model/text.ts";
import type { Sae } from "../sae/sae.ts";
import { requireWidth, rowBatches, withinNorm, type RowBatch, type TextOptions } from "./codes.ts";

/** A hook point whose activations are replaced. */
export interface Splice {
  hookPoint: string;
  width: number;
  /** Where its part of a reconstruction begins. */
  column: number;
  /** Mean activation over the kept positions; [width]. */
  mean: Float64Array;
}

/** Where the reconstructions of an SAE of these inputs go in: its target, or else each of its inputs. */
export function splicesOf({ spec }: Sae, hookPoints: readonly string[]): Splice[] {
  let end = 0;
  return hookPoints.map((hookPoint, head) => {
    const width = hookPoints.length > 1 ? spec.heads[head] : spec.dOut;
    const column = end;
    end += width;
    return { hookPoint, width, column, mean: new Float64Array(width) };
  });
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

/** Sets the mean activations of `splices`. @param inputs what the SAE reads: their norms count too. */
export async function addMeans(
  splices: readonly Splice[],
  inputs: readonly string[],
  model: Model,
  documents: AsyncIterable<Document> | Iterable<Document>,
  options: TextOptions,
): Promise<void> {
  const capture = splices.map(({ hookPoint }) => hookPoint);
  let rows = 0;
  for await (const batch of rowBatches(model, documents, options)) {
    const wanted = [...new Set([...inputs, ...capture])];
    const { activations } = await model.forward({ ...batch.pass, capture: wanted });
    const { kept } = withinNorm(batch, activations);
    for (const { hookPoint, width, mean } of splices) {
      const x = activations[hookPoint];
      for (const at of kept) for (let c = 0; c < width; c++) mean[c] += x[at * width + c];
    }
    rows += kept.length;
  }
  for (const { mean } of splices) mean.forEach((sum, c) => (mean[c] = sum / rows));
}

export function gatherRows(x: Float32Array, kept: Int32Array, width: number): Float32Array {
  const out = new Float32Array(kept.length * width);
  kept.forEach((at, n) => {
    out.set(x.subarray(at * width, (at + 1) * width), n * width);
  });
  return out;
}

/** A copy of x with `row(n)` at the n-th kept place. */
export function replaceRows(
  x: Float32Array,
  kept: Int32Array,
  row: (n: number) => ArrayLike<number>,
): Float32Array {
  const out = x.slice();
  kept.forEach((at, n) => {
    const values = row(n);
    out.set(values, at * values.length);
  });
  return out;
}

/** A prediction of a token of the text. */
export interface Predictions {
  /** Places in loss [rows, length − 1]. */
  places: number[];
  /** Ordinal of the document that the predicted token is of. */
  documents: number[];
}

/** All predictions in a batch of a token of the text: of a token that packing adds there is none. */
export function predictionsOf({ rows, length }: RowBatch): Predictions {
  const found: Predictions = { places: [], documents: [] };
  for (const [r, { documents }] of rows.entries())
    for (let i = 0; i + 1 < length; i++) {
      if (documents[i + 1] < 0) continue;
      found.places.push(r * (length - 1) + i);
      found.documents.push(documents[i + 1]);
    }
  return found;
}
