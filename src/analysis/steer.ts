/**
 * Steering: what an SAE's latents say is changed, and the model goes on from there.
 *
 * Every edit acts on the activation x at the SAE's hook point as a difference,
 *
 *     x' = x + decode(a') - decode(a) = x + P⁻¹ Σ_f (a'_f - a_f) W_dec[f],    a = encode(x),
 *
 * with P⁻¹ the linear part of what undoes the SAE's output transform. What the SAE does not explain
 * of x (its error) is thereby left as it is, and where no latent changes x' is x, bit for bit.
 */
import { UserError } from "../error.ts";
import type { Intervention } from "../model/generate.ts";
import type { Model } from "../model/model.ts";
import type { Sae } from "../sae/sae.ts";
import { inverseRow } from "../sae/transform.ts";
import { requireFit, requireLatent, type HookPoints } from "./codes.ts";

/** What becomes of one latent's activation a at a position. */
export type Change =
  /** a' = a + value; also below 0. */
  | { kind: "add"; value: number }
  /** a' = value, whether it fires or not. */
  | { kind: "set"; value: number }
  /** a' = value · a */
  | { kind: "scale"; value: number }
  /** a' = value where it fires. */
  | { kind: "clamp"; value: number }
  /** a' = min(a, value) */
  | { kind: "cap"; value: number }
  /** a' = 0 */
  | { kind: "ablate" }
  /** The component of x along the latent's decoder direction d = P⁻¹ W_dec[f] becomes value · d; a has no part in it. */
  | { kind: "orthogonal"; value: number };

/** Where an edit acts; absent: everywhere. */
export interface Scope {
  positions?: "prompt" | "generated";
  /** Positions in prompt and continuation together, from the first token on; `to` exclusive. */
  from?: number;
  to?: number;
  /** Only where this latent's own activation exceeds `above` (default 0). */
  when?: { latent: number; above?: number };
}

export type Edit = { latent: number } & Change & Scope;

/** The latents whose activations an edit needs to know; of its own only where the change depends on it. */
function readBy({ latent, kind, when }: Edit): number[] {
  const isBlind = kind === "add" || kind === "orthogonal";
  return [...(isBlind ? [] : [latent]), ...(when ? [when.latent] : [])];
}

export interface SteerOptions {
  /** What the SAE reads and writes. */
  hookPoint: HookPoints;
  /** Tokens of the prompt, for edits whose scope is the prompt or what follows it. */
  promptLength: number;
}

/**
 * The intervention that `generate` takes, from an SAE's edits. Edits of one latent act one after the
 * other, each on what the one before made; conditions look at activations as they were before any edit.
 * @throws UserError for a latent that the SAE does not have, a value that is no number, or an SAE that
 * does not fit the model or writes elsewhere than it reads (a transcoder, a crosscoder).
 */
export function steering(
  sae: Sae,
  model: Model,
  edits: readonly Edit[],
  { hookPoint, promptLength }: SteerOptions,
): Intervention {
  const [name, ...others] = requireFit(sae, model, hookPoint);
  if (sae.spec.transcoder || others.length > 0)
    throw new UserError(
      "steering changes the activations that an autoencoder reads; a transcoder writes elsewhere, and a crosscoder in several places: use an autoencoder of one hook point.",
    );
  for (const edit of edits) checkEdit(edit, sae.spec.dSae);
  return {
    hookPoint: name,
    replace: (x, first) => edited(sae, edits, x, { first, promptLength }),
  };
}

function checkEdit(edit: Edit, dSae: number): void {
  requireLatent(edit.latent, dSae);
  if (edit.when) requireLatent(edit.when.latent, dSae);
  if (edit.kind !== "ablate" && !Number.isFinite(edit.value))
    throw new UserError(
      `the value that ${edit.kind} takes must be a number; got ${String(edit.value)}`,
    );
}

/**
 * x [rows, width] with the edits; x itself where nothing changes.
 * @param first position of the first row.
 */
export function edited(
  sae: Sae,
  edits: readonly Edit[],
  x: Float32Array,
  { first, promptLength }: { first: number; promptLength: number },
): Float32Array {
  const { dIn } = sae.spec;
  const rows = x.length / dIn;
  let out = x;
  for (let n = 0; n < rows; n++) {
    const acting = edits.filter((edit) => isWithin(edit, first + n, promptLength));
    if (acting.length === 0) continue;
    const row = x.subarray(n * dIn, (n + 1) * dIn);
    const needed = new Set(acting.flatMap(readBy));
    const values = needed.size > 0 ? sae.encodeSome(row, [...needed]) : [];
    const before = new Map([...needed].map((latent, i) => [latent, values[i]]));
    const delta = deltaOf(sae, acting, row, before);
    if (!delta) continue;
    if (out === x) out = x.slice();
    for (let c = 0; c < dIn; c++) out[n * dIn + c] = row[c] + delta[c];
  }
  return out;
}

function isWithin({ positions, from = 0, to = Infinity }: Scope, at: number, promptLength: number) {
  if (positions === "prompt" && at >= promptLength) return false;
  if (positions === "generated" && at < promptLength) return false;
  return at >= from && at < to;
}

/** What is added to a row, or undefined when nothing changes. */
function deltaOf(
  sae: Sae,
  edits: readonly Edit[],
  row: Float32Array,
  before: ReadonlyMap<number, number>,
): Float64Array | undefined {
  const changed = new Map<number, number>();
  let moved: Float64Array | undefined;
  for (const edit of edits) {
    const { latent, when } = edit;
    if (when && !(before.get(when.latent)! > (when.above ?? 0))) continue;
    if (edit.kind === "orthogonal") {
      moved ??= new Float64Array(row.length);
      turn(row, moved, directionOf(sae, [latent], row), edit.value);
      continue;
    }
    const now = changed.get(latent) ?? before.get(latent) ?? 0;
    changed.set(latent, changeOf(edit, now));
  }
  const differences = [...changed]
    .map(([latent, value]) => [latent, value - (before.get(latent) ?? 0)] as const)
    .filter(([, difference]) => difference !== 0);
  if (differences.length === 0) return moved;
  const decoded = decodedDifference(sae, differences, row);
  if (moved) for (let c = 0; c < moved.length; c++) decoded[c] += moved[c];
  return decoded;
}

function changeOf(change: Exclude<Change, { kind: "orthogonal" }>, a: number): number {
  switch (change.kind) {
    case "add":
      return a + change.value;
    case "set":
      return change.value;
    case "scale":
      return a * change.value;
    case "clamp":
      return a > 0 ? change.value : a;
    case "cap":
      return Math.min(a, change.value);
    case "ablate":
      return 0;
    default:
      return change satisfies never;
  }
}

/** P⁻¹ Σ_f difference_f W_dec[f] without P⁻¹'s shift, in raw units. */
function decodedDifference(
  sae: Sae,
  differences: readonly (readonly [latent: number, difference: number])[],
  row: Float32Array,
): Float64Array<ArrayBuffer> {
  const { dOut, output } = sae.spec;
  const sum = new Float64Array(dOut);
  for (const [f, a] of differences) sae.decoderRow(f).forEach((w, c) => (sum[c] += a * w));
  const shift = inverseRow(output, new Float64Array(dOut), row);
  return Float64Array.from(inverseRow(output, sum, row), (v, c) => v - shift[c]);
}

/** What one unit of each of these latents adds to x, in raw units; [dOut]. `row` matters where rows are normalised one by one. */
export function directionOf(sae: Sae, latents: readonly number[], row: Float32Array): Float64Array {
  const units = latents.map((latent): [number, number] => [latent, 1]);
  return decodedDifference(sae, units, row);
}

/** Adds to `moved` what makes the component of row + moved along `direction` value · direction. */
function turn(
  row: Float32Array,
  moved: Float64Array,
  direction: Float64Array,
  value: number,
): void {
  const squared = direction.reduce((sum, v) => sum + v * v, 0);
  if (squared === 0) return;
  const along = direction.reduce((sum, v, c) => sum + v * (row[c] + moved[c]), 0) / squared;
  for (let c = 0; c < moved.length; c++) moved[c] += (value - along) * direction[c];
}
