/**
 * Between float32 and the types that activations and weights are stored in. To 16-bit floats,
 * rounding is to nearest, ties to even; finite values beyond the type's range become infinite; a NaN
 * stays a (quiet) NaN.
 */
import { loadKernels } from "#platform";

/** Values worked on at a time: what is copied to the kernels' memory and back stays in the cache. */
const CHUNK = 16_384;
/** Kernels read and write whole vectors, past the end too. */
const PADDING = 32;

/** The kernels (see device/assembly/floats.ts) and where they find things in this thread's memory for them. */
interface Kernels {
  float16: (from: number, to: number, count: number) => void;
  bfloat16: (from: number, to: number, count: number) => void;
  scaledInt8: (from: number, scales: number, to: number, rows: number, width: number) => void;
  hasExponent16: (from: number, bytes: number, exponent: number) => number;
  hasExponent32: (from: number, bytes: number, exponent: number) => number;
}
const INPUT = 0;
const OUTPUT = INPUT + 4 * CHUNK + PADDING;
const SCALES = OUTPUT + 4 * CHUNK + PADDING;
const MEMORY_BYTES = SCALES + 4 * CHUNK;

let opened: ReturnType<typeof openKernels> | undefined;

function openKernels() {
  const pages = Math.ceil(MEMORY_BYTES / 65536);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
  const { buffer } = memory;
  return {
    kernels: loadKernels("floats", memory) as unknown as Kernels,
    bytes: new Uint8Array(buffer, INPUT, 4 * CHUNK + PADDING),
    halves: new Uint16Array(buffer, INPUT, CHUNK),
    output: new Float32Array(buffer, OUTPUT, CHUNK),
    scales: new Float32Array(buffer, SCALES, CHUNK),
  };
}

/** float16 bits → float32, exactly. */
export function f16ToF32(
  bits: Uint16Array,
  out = new Float32Array(bits.length),
): Float32Array<ArrayBuffer> {
  return widen("float16", bits, out);
}

/** bfloat16 bits → float32, exactly. */
export function bf16ToF32(
  bits: Uint16Array,
  out = new Float32Array(bits.length),
): Float32Array<ArrayBuffer> {
  return widen("bfloat16", bits, out);
}

function widen(kernel: "float16" | "bfloat16", bits: Uint16Array, out: Float32Array<ArrayBuffer>) {
  const { kernels, halves, output } = (opened ??= openKernels());
  for (let at = 0; at < bits.length; at += CHUNK) {
    const part = bits.subarray(at, at + CHUNK);
    halves.set(part);
    kernels[kernel](INPUT, OUTPUT, part.length);
    out.set(output.subarray(0, part.length), at);
  }
  return out;
}

/** Rows q [rows, width] of int8, each times its scale, into out [rows, width]. */
export function int8ToF32(
  q: Int8Array,
  scales: Float32Array,
  width: number,
  out: Float32Array,
): void {
  const opening = (opened ??= openKernels());
  const { kernels, bytes, output } = opening;
  const rows = q.length / width;
  const rowsAtOnce = Math.max(1, Math.floor(CHUNK / width));
  for (let row = 0; row < rows; row += rowsAtOnce) {
    const count = Math.min(rowsAtOnce, rows - row);
    opening.scales.set(scales.subarray(row, row + count));
    // A row that is longer than a chunk is done in parts.
    for (let column = 0; column < width; column += CHUNK) {
      const columns = Math.min(CHUNK, width - column);
      const start = row * width + column;
      bytes.set(q.subarray(start, start + count * columns));
      kernels.scaledInt8(INPUT, SCALES, OUTPUT, count, columns);
      out.set(output.subarray(0, count * columns), start);
    }
  }
}

/** Whether none of `values` (16 bits: as of `type`) is NaN or infinite. */
export function areFinite(
  type: "F32" | "F16" | "BF16",
  values: Float32Array | Uint16Array,
): boolean {
  const { kernels, bytes } = (opened ??= openKernels());
  const kernel = type === "F32" ? kernels.hasExponent32 : kernels.hasExponent16;
  const all = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  for (let at = 0; at < all.length; at += 4 * CHUNK) {
    const part = all.subarray(at, at + 4 * CHUNK);
    const padded = Math.ceil(part.length / 16) * 16;
    bytes.set(part);
    bytes.fill(0, part.length, padded);
    if (kernel(INPUT, padded, ALL_ONES[type]) !== 0) return false;
  }
  return true;
}

/** The exponent's bits: all of them are set in a NaN and in an infinity, and in nothing else. */
export const ALL_ONES = { F32: 0x7f800000, F16: 0x7c00, BF16: 0x7f80 } as const;

/** float32 → bfloat16 bits: the upper half of the float32, rounded. */
export function f32ToBf16(
  values: Float32Array,
  out = new Uint16Array(values.length),
): Uint16Array<ArrayBufferLike> {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) {
    const x = bits[i];
    out[i] =
      (x & 0x7fffffff) > 0x7f800000
        ? (x >>> 16) | 0x40 // rounding could carry a NaN's payload away
        : (x + 0x7fff + ((x >>> 16) & 1)) >>> 16;
  }
  return out;
}

/** float32 → float16 bits (IEEE binary16, subnormals included). */
export function f32ToF16(
  values: Float32Array,
  out = new Uint16Array(values.length),
): Uint16Array<ArrayBufferLike> {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) {
    const sign = (bits[i] >>> 16) & 0x8000;
    const x = bits[i] & 0x7fffffff;
    out[i] = sign | f16Magnitude(x);
  }
  return out;
}

function f16Magnitude(x: number): number {
  if (x > 0x7f800000) return 0x7e00; // NaN
  if (x >= 0x477ff000) return 0x7c00; // 65520 and above round to infinity
  if (x >= 0x38800000) {
    // Normal (2^-14 and above): move the exponent bias from 127 to 15, drop 13 bits of mantissa.
    const rebased = x - 0x38000000;
    return (rebased + 0xfff + ((rebased >>> 13) & 1)) >>> 13;
  }
  if (x <= 0x33000000) return 0; // 2^-25 is half the smallest subnormal and ties to zero
  // Subnormal: the mantissa with its hidden bit, in units of 2^-24.
  const mantissa = (x & 0x7fffff) | 0x800000;
  const shift = 126 - (x >>> 23);
  const kept = mantissa >>> shift;
  const rest = mantissa & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  return kept + (rest > half || (rest === half && (kept & 1) === 1) ? 1 : 0);
}
