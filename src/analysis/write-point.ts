/**
 * Where an SAE writes, and what the model makes of changes there: what ablation and attribution have
 * in common. Removing latents S at a position changes the activation y at the SAE's write point by
 *
 *     δ = decode(a without S) − decode(a) = −P⁻¹ Σ_{f ∈ S} a_f W_dec[f]        (raw units)
 *
 * with P⁻¹ the linear part of what undoes the SAE's output transform; the SAE's error, y − decode(a),
 * stays as it is.
 */
import { UserError } from "../error.ts";
import type { Model } from "../model/model.ts";
import type { Sae } from "../sae/sae.ts";
import { requireFit, requireLatent, type HookPoints } from "./codes.ts";
import { requireTarget } from "./splice.ts";
import { directionOf } from "./steer.ts";

export interface Places {
  /** What the SAE reads. */
  hookPoint: HookPoints;
  /** What a transcoder predicts; of others absent. */
  targetHookPoint?: string | undefined;
  /** Of a crosscoder, the one of its hook points where its latents are changed; of others absent. */
  at?: string | undefined;
}

export interface WritePoint {
  /** Hook points that the SAE reads. */
  inputs: readonly string[];
  /** Hook point where changes of latents take place. */
  hookPoint: string;
  width: number;
  /** Where that hook point's part of a decoder row begins. */
  column: number;
  /** Held while the model runs on from `hookPoint`, so that nothing before it runs; null where there is nothing. */
  residual: string | null;
}

/**
 * @throws UserError when SAE and hook points do not fit, a transcoder's target is missing, or it is
 * not said at which of a crosscoder's hook points: a change at one of them is overwritten by that at
 * the next, so they cannot be made together.
 */
export function writePointOf(
  sae: Sae,
  model: Model,
  { hookPoint, targetHookPoint, at }: Places,
): WritePoint {
  const inputs = requireFit(sae, model, hookPoint);
  const target = requireTarget(sae, model, targetHookPoint);
  const point = (name: string, column: number): WritePoint => ({
    ...{ inputs, hookPoint: name, column, width: model.hookWidth(name) },
    residual: model.residualBefore(name),
  });
  if (inputs.length === 1) {
    if (at !== undefined)
      throw new UserError(`the SAE is no crosscoder, so there is nothing to choose; got ${at}`);
    return point(target ?? inputs[0], 0);
  }
  const head = inputs.indexOf(at ?? "");
  if (head === -1)
    throw new UserError(
      `the SAE is a crosscoder: say at which of its hook points (${inputs.join(", ")}) its latents are to be changed; got ${at ?? "none"}`,
    );
  return point(
    inputs[head],
    sae.spec.heads.slice(0, head).reduce((a, b) => a + b, 0),
  );
}

/** @throws UserError for a latent that the SAE does not have. */
export function checkLatents(sae: Sae, latents: readonly number[]): void {
  for (const latent of latents) requireLatent(latent, sae.spec.dSae);
}

/** What one unit of a latent adds at the write point to a row that the SAE read; [width]. */
export type Directions = (latent: number, row: Float32Array) => Float64Array;

export function directionsAt(sae: Sae, { column, width }: WritePoint): Directions {
  const known = new Map<number, Float64Array>();
  const find = (latent: number, row: Float32Array) =>
    directionOf(sae, [latent], row).subarray(column, column + width);
  // Where rows are normalised one by one the direction's length is the row's own.
  if (sae.spec.output.kind === "layerNorm") return find;
  return (latent, row) => {
    let direction = known.get(latent);
    if (!direction) known.set(latent, (direction = find(latent, row)));
    return direction;
  };
}

/** A row of tokens as the model had it, from which changed ones start. */
export interface CleanRow {
  tokens: Int32Array; // [length]
  /** Activations at the write point; [length, width]. */
  values: Float32Array;
  /** Those at `residual`, where there is one; [length, dModel]. */
  residual: Float32Array | undefined;
}

/** A row with something added at some positions. */
export interface Variant {
  row: CleanRow;
  /** [width] each, in float64: added before rounding. */
  added: ReadonlyMap<number, Float64Array>;
}

/**
 * Logits of the model run on from the write point with each variant's values there; all rows of one
 * length: [variants, length, vocabSize], or with "last" [variants, vocabSize].
 */
export async function logitsOf(
  model: Model,
  { hookPoint, width, residual }: WritePoint,
  variants: readonly Variant[],
  logits: "all" | "last",
): Promise<Float32Array> {
  const batch = variants.length;
  const { length } = variants[0].row.tokens;
  const tokens = new Int32Array(batch * length);
  const values = new Float32Array(batch * length * width);
  const patch: Record<string, Float32Array> = { [hookPoint]: values };
  if (residual !== null)
    patch[residual] = new Float32Array(batch * length * model.hookWidth(residual));
  for (const [n, { row, added }] of variants.entries()) {
    tokens.set(row.tokens, n * length);
    values.set(row.values, n * length * width);
    if (residual !== null) patch[residual].set(row.residual!, n * row.residual!.length);
    for (const [position, delta] of added) {
      const from = (n * length + position) * width;
      for (let c = 0; c < width; c++)
        values[from + c] = row.values[position * width + c] + delta[c];
    }
  }
  return (await model.forward({ tokens, batch, length, patch, logits })).logits!;
}

/** Logits [rows, vocabSize] of rows [rows, dModel] of the last residual stream: final norm and unembedding alone. */
export async function unembedded(model: Model, rows: Float32Array): Promise<Float32Array> {
  const { vocabSize, dModel, contextLength } = model.info;
  const count = rows.length / dModel;
  const out = new Float32Array(count * vocabSize);
  for (let from = 0; from < count; from += contextLength) {
    const length = Math.min(contextLength, count - from);
    const { logits } = await model.forward({
      // What the tokens are makes no difference above the patch.
      ...{ tokens: new Int32Array(length), batch: 1, length, logits: "all" },
      patch: { [model.lastResidual()]: rows.subarray(from * dModel, (from + length) * dModel) },
    });
    out.set(logits!, from * vocabSize);
  }
  return out;
}

/** What values at the write point add to the residual stream: themselves, or by the matrix [width, dModel] that carries them there. */
export function carried(matrix: Float32Array | null, values: Float64Array): Float64Array {
  if (!matrix) return values;
  const dModel = matrix.length / values.length;
  const out = new Float64Array(dModel);
  for (let i = 0; i < values.length; i++)
    for (let c = 0, w = i * dModel; c < dModel; c++, w++) out[c] += values[i] * matrix[w];
  return out;
}

/** Bytes that one pass may take for activations and logits. */
const PASS_BYTES = 256 * 2 ** 20;

/** Rows of a length that go through the model at once, logits at all positions (or the last one) wanted. */
export function rowsAtOnce(model: Model, length: number, logits: "all" | "last"): number {
  const { vocabSize, dModel, dMlp, heads } = model.info;
  const scored = logits === "all" ? length : 1;
  // Logits are held twice; of a layer its hidden values, some residual streams and attention's scores.
  const bytes = 4 * (2 * scored * vocabSize + length * (dMlp + 6 * dModel + heads * length));
  return Math.max(1, Math.min(64, Math.floor(PASS_BYTES / bytes)));
}
