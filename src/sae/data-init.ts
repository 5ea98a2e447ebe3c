/** Weights that begin in the directions of activations, at the scale that reconstructs them best. */
import type { Device } from "../device/device.ts";
import { kAt, type ResolvedSae, type Selection } from "./architecture.ts";
import { Sae } from "./sae.ts";
import type { SaeWeights } from "./weights.ts";

/** Rows that the encoder's scale is fitted to, at most. */
export const FITTED_ROWS = 1024;

/** Rows [count, dIn] and [count, dOut] in the units of training, of an autoencoder the same, and their means. */
export interface FirstRows {
  count: number;
  inputs: Float32Array;
  targets: Float32Array;
  inputMean: Float64Array;
  targetMean: Float64Array;
}

/**
 * Turns decoder rows into the directions of `rows.targets` from their mean, one after the other, and
 * encoder rows into those of the inputs, at the norms that they have. Rows that have been met before
 * or lie in the mean are passed over: equal latents would stay equal for ever. Where rows run out,
 * latents keep the random directions that they have.
 */
export function aimAtRows(
  { W_enc, W_dec }: SaeWeights,
  { dIn, dOut, dSae }: ResolvedSae,
  { count, inputs, targets, inputMean, targetMean }: FirstRows,
): void {
  // Equal rows have equal norms, and others do not in practice.
  const met = new Set<number>();
  let f = 0;
  for (let n = 0; n < count && f < dSae; n++) {
    const target = deviation(targets.subarray(n * dOut, (n + 1) * dOut), targetMean);
    const input = deviation(inputs.subarray(n * dIn, (n + 1) * dIn), inputMean);
    const norm = lengthOf(target);
    if (norm === 0 || lengthOf(input) === 0 || met.has(norm)) continue;
    met.add(norm);
    pointAt(W_dec.subarray(f * dOut, (f + 1) * dOut), target);
    pointAt(W_enc.subarray(f * dIn, (f + 1) * dIn), input);
    f += 1;
  }
}

/**
 * Multiplies the encoder and its bias by the factor that makes the squared error over `rows` least
 * while the same latents are active: Σ⟨y - b, ŷ - b⟩ / Σ‖ŷ - b‖². A JumpReLU's thresholds let others
 * be active then, so it is done again, up to four times in all.
 * @param rows at most FITTED_ROWS.
 */
export async function fitEncoder(
  device: Device,
  weights: SaeWeights,
  resolved: ResolvedSae,
  rows: FirstRows,
): Promise<void> {
  const { dIn, dOut, dSae, transcoder, skip, applyBDecToInput } = resolved;
  const selection = selectionAtStart(resolved);
  const spec = { selection, dIn, dOut, dSae, transcoder, skip, applyBDecToInput };
  const count = Math.min(rows.count, FITTED_ROWS);
  for (let round = 0; round < 4; round++) {
    const onDevice = new Sae(spec, weights).on(device, count);
    const outputs = await onDevice.reconstruct(rows.inputs.subarray(0, count * dIn), count);
    onDevice.close();
    let [along, squares] = [0, 0];
    for (let i = 0; i < count * dOut; i++) {
      const bias = weights.b_dec[i % dOut];
      along += (rows.targets[i] - bias) * (outputs[i] - bias);
      squares += (outputs[i] - bias) ** 2;
    }
    const factor = along / squares;
    if (!(factor > 0 && factor < Infinity)) return;
    for (const data of [weights.W_enc, weights.b_enc])
      for (let i = 0; i < data.length; i++) data[i] *= factor;
    if (Math.abs(factor - 1) < 1e-3) return;
  }
}

/** How latents are chosen in the first step; of batch top-k row by row. */
function selectionAtStart({ objective: { selection } }: ResolvedSae): Selection {
  if ("k" in selection) return { architecture: "topk", k: kAt(selection, 1) };
  return { architecture: selection.architecture };
}

function deviation(row: Float32Array, mean: Float64Array): Float64Array {
  return mean.map((m, c) => row[c] - m);
}

/** Turns `row` into the direction of `vector`, keeping its norm. */
function pointAt(row: Float32Array, vector: Float64Array): void {
  const factor = lengthOf(row) / lengthOf(vector);
  for (let c = 0; c < row.length; c++) row[c] = factor * vector[c];
}

function lengthOf(vector: Float32Array | Float64Array): number {
  let sum = 0;
  for (const v of vector) sum += v * v;
  return Math.sqrt(sum);
}
