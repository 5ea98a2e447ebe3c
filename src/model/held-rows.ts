/**
 * Rows of activations in memory, held in the type they have on disk and decoded when they are
 * gathered: a buffer of f16 takes half the memory, one of int8 a quarter.
 */
import { UserError } from "../error.ts";
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from "../safetensors.ts";

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

/** Decodes the rows `slots` of a block into `out` [slots.length, width]. */
export function gatherHeld(
  type: HeldType,
  { values, scales }: HeldBlock,
  width: number,
  slots: Uint32Array,
  out: Float32Array,
): void {
  // Rows that follow each other, as in stored order, are decoded at one go.
  for (const [at, end] of runsOf(slots)) {
    const from = slots[at] * width;
    const rows = values.subarray(from, from + (end - at) * width);
    const target = out.subarray(at * width, end * width) as Float32Array<ArrayBuffer>;
    if (rows instanceof Float32Array) target.set(rows);
    else if (rows instanceof Int8Array) scaleRows(rows, scales.subarray(slots[at]), width, target);
    else if (type === "F16") f16ToF32(rows, target);
    else bf16ToF32(rows, target);
  }
}

function scaleRows(q: Int8Array, scales: Float32Array, width: number, out: Float32Array): void {
  for (let row = 0, i = 0; i < q.length; row++) {
    const scale = scales[row];
    for (const end = i + width; i < end; i++) out[i] = q[i] * scale;
  }
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

/** First and past-the-last index of stretches of `numbers` that count up by one. */
export function* runsOf(numbers: Uint32Array): Generator<[number, number]> {
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
  if (values instanceof Int8Array) return;
  // An exponent of all ones is a NaN or an infinity, in each of the types.
  const exponent = type === "F32" ? 0x7f800000 : type === "F16" ? 0x7c00 : 0x7f80;
  if (values instanceof Uint16Array && !mayHaveExponent(values, exponent)) return;
  const bits =
    values instanceof Float32Array
      ? new Uint32Array(values.buffer, values.byteOffset, values.length)
      : values;
  for (let i = 0; i < bits.length; i++)
    if ((bits[i] & exponent) === exponent)
      throw fail(Math.floor(i / width), ` (column ${i % width})`);
}

/** Looks at two 16-bit values at a time: adding the exponent's lowest bit to all ones carries into the (masked) sign. */
function mayHaveExponent(values: Uint16Array, exponent: number): boolean {
  if (values.byteOffset % 4 !== 0 || values.length % 2 !== 0) return true;
  const pairs = new Uint32Array(values.buffer, values.byteOffset, values.length / 2);
  const mask = (exponent << 16) | exponent;
  const lowest = mask & ~(mask << 1);
  let carries = 0;
  for (let i = 0; i < pairs.length; i++) carries |= (pairs[i] & mask) + lowest;
  return (carries & 0x80008000) !== 0;
}
