/**
 * Rows of activations in memory, held in the type they have on disk and decoded when they are
 * gathered: a buffer of f16 takes half the memory, one of int8 a quarter.
 */
import { UserError } from "../error.ts";
import {
  ALL_ONES,
  areFinite,
  bf16ToF32,
  f16ToF32,
  f32ToBf16,
  f32ToF16,
  int8ToF32,
} from "../float-types.ts";

/** How rows are held; int8: q of −127 … 127 in a row that has one scale s, each value q·s. */
export type HeldType = "F32" | "F16" | "BF16" | "I8";

/** By the settings' names. */
export const HELD = { f32: "F32", bf16: "BF16", f16: "F16", int8: "I8" } as const;

export type HeldValues = Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer> | Int8Array<ArrayBuffer>; // prettier-ignore

/** A block of rows [rows, width]; `scales` [rows] where the type is I8, else empty. */
export interface HeldBlock {
  values: HeldValues;
  scales: Float32Array<ArrayBuffer>;
}

/** Room for `rows` rows. */
export function heldBlock(type: HeldType, rows: number, width: number): HeldBlock {
  const scales = new Float32Array(type === "I8" ? rows : 0);
  if (type === "F32") return { values: new Float32Array(rows * width), scales };
  if (type === "I8") return { values: new Int8Array(rows * width), scales };
  return { values: new Uint16Array(rows * width), scales };
}

/** Rows from … to-1 of a block, sharing its memory. */
export function heldPart(block: HeldBlock, width: number, from: number, to: number): HeldBlock {
  return {
    values: block.values.subarray(from * width, to * width),
    scales: block.scales.length > 0 ? block.scales.subarray(from, to) : block.scales,
  };
}

/** Copies all of `part` into `block` from row `to` on. */
export function placeHeld(block: HeldBlock, part: HeldBlock, width: number, to: number): void {
  block.values.set(part.values, to * width);
  if (block.scales.length > 0) block.scales.set(part.scales, to);
}

/** Values of rows that lie apart, put together to be decoded at one go: few enough to stay in the cache. */
const VALUES_TOGETHER = 16_384;

/** Decodes the rows `slots` of a block into `out` [slots.length, width]. */
export function gatherHeld(
  type: HeldType,
  block: HeldBlock,
  width: number,
  slots: Uint32Array,
  out: Float32Array,
): void {
  const rowsAtOnce = Math.max(1, Math.floor(VALUES_TOGETHER / width));
  const together = heldBlock(type, Math.min(rowsAtOnce, slots.length), width);
  for (let first = 0; first < slots.length; first += rowsAtOnce) {
    const part = slots.subarray(first, first + rowsAtOnce);
    const runs = [...runsOf(part)];
    const target = out.subarray(first * width, (first + part.length) * width);
    if (runs.length === 1) {
      const rows = heldPart(block, width, part[0], part[0] + part.length);
      decodeHeld(type, rows, width, target as Float32Array<ArrayBuffer>);
      continue;
    }
    for (const [at, end] of runs)
      placeHeld(together, heldPart(block, width, part[at], part[at] + end - at), width, at);
    const rows = heldPart(together, width, 0, part.length);
    decodeHeld(type, rows, width, target as Float32Array<ArrayBuffer>);
  }
}

function decodeHeld(
  type: HeldType,
  { values, scales }: HeldBlock,
  width: number,
  out: Float32Array<ArrayBuffer>,
): void {
  if (values instanceof Float32Array) out.set(values);
  else if (values instanceof Int8Array) int8ToF32(values, scales, width, out);
  else if (type === "F16") f16ToF32(values, out);
  else bf16ToF32(values, out);
}

/** Rounds rows x [rows, width], which fit into the type, into `block`. */
export function holdRows(type: HeldType, x: Float32Array, width: number, block: HeldBlock): void {
  const { values } = block;
  if (values instanceof Float32Array) values.set(x);
  else if (values instanceof Int8Array) toInt8(x, width, block);
  else if (type === "F16") f32ToF16(x, values);
  else f32ToBf16(x, values);
}

/**
 * Rounds rows x [rows, width] to int8: s = max|x| / 127 in each row, q = x / s to the nearest, so that
 * no value is further than s / 2 from q·s. A row of zeros has s = 0.
 */
function toInt8(x: Float32Array, width: number, { values, scales }: HeldBlock): void {
  for (let row = 0, i = 0; i < x.length; row++) {
    const end = i + width;
    let largest = 0;
    for (let j = i; j < end; j++) largest = Math.max(largest, Math.abs(x[j]));
    scales[row] = largest / 127;
    // As it is kept, rounded to f32: the quotient may then just exceed 127.
    const scale = scales[row] || 1;
    for (; i < end; i++) values[i] = Math.max(-127, Math.min(127, Math.round(x[i] / scale)));
  }
}

/** Largest size that each type rounds to a finite value. */
export const LIMITS = { f32: Infinity, bf16: 2 ** 128 * (1 - 2 ** -9), f16: 65520, int8: Infinity };

/**
 * @param where which activation `values` are, for the message.
 * @throws UserError for what a model made that is not finite, or would not be in the type.
 */
export function requireHoldable(
  dtype: keyof typeof LIMITS,
  values: Float32Array,
  where: string,
): void {
  const bad = values.find((x) => !Number.isFinite(x));
  if (bad !== undefined)
    throw new UserError(
      `the model's activation in ${where} holds ${bad}: its weights are damaged, or it overflows on this text`,
    );
  const large = values.find((x) => Math.abs(x) >= LIMITS[dtype]);
  if (large !== undefined)
    throw new UserError(
      `the activation in ${where} holds ${large}, too large for ${dtype}` +
        `${dtype === "f16" ? " (at most 65504): use dtype bf16 or f32" : ": use dtype f32"}`,
    );
}

/** First and past-the-last index of stretches of `numbers` that count up by one. */
export function* runsOf(numbers: Uint32Array | Int32Array): Generator<[number, number]> {
  for (let at = 0, end: number; at < numbers.length; at = end) {
    for (end = at + 1; end < numbers.length && numbers[end] === numbers[end - 1] + 1;) end++;
    yield [at, end];
  }
}

/**
 * @param where what holds the rows, for the message, and the number of its first row there.
 * @throws UserError for NaN or an infinity, naming row and column.
 */
export function requireFinite(
  type: HeldType,
  { values, scales }: HeldBlock,
  width: number,
  where: { path: string; firstRow: number },
): void {
  const fail = (row: number, column: string) =>
    new UserError(
      `${where.path}: row ${where.firstRow + row} holds NaN or an infinite value${column}; remove the row or make the activations again.`,
    );
  const badScale = scales.findIndex((scale) => !Number.isFinite(scale));
  if (badScale !== -1) throw fail(badScale, " (its scale)");
  if (type === "I8" || values instanceof Int8Array || areFinite(type, values)) return;
  const exponent = ALL_ONES[type];
  const bits =
    values instanceof Float32Array
      ? new Uint32Array(values.buffer, values.byteOffset, values.length)
      : values;
  for (let i = 0; i < bits.length; i++)
    if ((bits[i] & exponent) === exponent)
      throw fail(Math.floor(i / width), ` (column ${i % width})`);
}
