/**
 * Activations as they are stored (float16, bfloat16, int8 with a scale for each row) to float32, and
 * the search for values that are not finite. All work in whole vectors: after what they are asked to read
 * or write there is room for 32 bytes more, of which nothing is said.
 */

/** 127 - 15, the difference of the exponents' biases, in the place of the exponent in a float32's upper half. */
const REBASE: i16 = 112 << 7;

/** Four subnormal float16, which are so many times 2^-24, in 32-bit lanes, as float32. */
function subnormals(h: v128): v128 {
  const magnitude = v128.and(h, i32x4.splat(0x7fff));
  const sign = i32x4.shl(v128.xor(h, magnitude), 16);
  const times = f32x4.convert_i32x4_s(magnitude);
  return v128.or(sign, f32x4.mul(times, f32x4.splat(5.960464477539063e-8)));
}

/** `count` float16 as float32, exactly. */
export function float16(from: usize, to: usize, count: i32): void {
  const end = from + ((<usize>count) << 1);
  const rebase = i16x8.splat(REBASE);
  for (; from < end; from += 16, to += 32) {
    const h = v128.load(from);
    const magnitude = v128.and(h, i16x8.splat(0x7fff));
    const sign = v128.xor(h, magnitude);
    // Infinities and NaN have the largest exponent in both types, zero the smallest.
    const special = i16x8.gt_s(magnitude, i16x8.splat(0x7bff));
    const isZero = i16x8.eq(magnitude, i16x8.splat(0));
    const isSubnormal = v128.andnot(i16x8.lt_s(magnitude, i16x8.splat(0x400)), isZero);
    let upper = i16x8.add(i16x8.shr_u(magnitude, 3), rebase);
    upper = i16x8.add(upper, v128.and(special, rebase));
    upper = v128.or(v128.andnot(upper, isZero), sign);
    const lower = i16x8.shl(magnitude, 13);
    let first = v128.shuffle<i16>(lower, upper, 0, 8, 1, 9, 2, 10, 3, 11);
    let second = v128.shuffle<i16>(lower, upper, 4, 12, 5, 13, 6, 14, 7, 15);
    if (v128.any_true(isSubnormal)) {
      // Rare: the others among the eight stay what they are.
      first = v128.bitselect(subnormals(i32x4.extend_low_i16x8_u(h)), first, i32x4.extend_low_i16x8_s(isSubnormal)); // prettier-ignore
      second = v128.bitselect(subnormals(i32x4.extend_high_i16x8_u(h)), second, i32x4.extend_high_i16x8_s(isSubnormal)); // prettier-ignore
    }
    v128.store(to, first);
    v128.store(to, second, 16);
  }
}

/** `count` bfloat16 as float32, exactly: they are its upper halves. */
export function bfloat16(from: usize, to: usize, count: i32): void {
  const end = from + ((<usize>count) << 1);
  for (; from < end; from += 16, to += 32) {
    const h = v128.load(from);
    v128.store(to, i32x4.shl(i32x4.extend_low_i16x8_u(h), 16));
    v128.store(to, i32x4.shl(i32x4.extend_high_i16x8_u(h), 16), 16);
  }
}

/** Rows of `width` int8, each times its scale. What is written past a row's end is the next row's to overwrite. */
export function scaledInt8(from: usize, scales: usize, to: usize, rows: i32, width: i32): void {
  for (let row = 0; row < rows; row++, scales += 4) {
    const scale = v128.load32_splat(scales);
    const end = from + <usize>width;
    let out = to;
    for (let at = from; at < end; at += 8, out += 32) {
      const q = v128.load_ext<i8>(at);
      const lower = f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(q));
      const upper = f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(q));
      v128.store(out, f32x4.mul(lower, scale));
      v128.store(out, f32x4.mul(upper, scale), 16);
    }
    from = end;
    to += (<usize>width) << 2;
  }
}

/** Whether one of the 16-bit values in `bytes`, a multiple of 16, has all bits of `exponent`. */
export function hasExponent16(from: usize, bytes: i32, exponent: i32): bool {
  const mask = i16x8.splat(<i16>exponent);
  let found = i16x8.splat(0);
  for (const end = from + <usize>bytes; from < end; from += 16) {
    found = v128.or(found, i16x8.eq(v128.and(v128.load(from), mask), mask));
  }
  return v128.any_true(found);
}

/** Whether one of the 32-bit values in `bytes`, a multiple of 16, has all bits of `exponent`. */
export function hasExponent32(from: usize, bytes: i32, exponent: i32): bool {
  const mask = i32x4.splat(exponent);
  let found = i32x4.splat(0);
  for (const end = from + <usize>bytes; from < end; from += 16) {
    found = v128.or(found, i32x4.eq(v128.and(v128.load(from), mask), mask));
  }
  return v128.any_true(found);
}
