/**
 * Int8 copies of encoder rows and of inputs, with what is needed to bound the error of products of
 * the copies (cpu-screen.ts has the formulas). `row` counts the bytes of a row of floats.
 *
 * Norms are sums of f32 squares, rounded up by ROUNDING; a row whose norm is outside [LEAST, MOST], where
 * squares may leave f32's range, is not quantised: its caller gives it up.
 */
import { sumLanes } from "./vector";

/** More than d 2^-24 for every d that fits into memory beside its weights, and than rounding a few times. */
const ROUNDING: f32 = 1.001;
const LEAST: f32 = 1e-12;
const MOST: f32 = 1e12;

/** Adding it rounds a small float to a whole number, which is then what the result's bits are more than WHOLE's. */
const WHOLE: f32 = 12582912; // 1.5 · 2^23

/** Arrays of latents' statistics, one after another, each `latents` floats long. */
const SCALE: usize = 0;
const BIAS: usize = 1;
const SPREAD: usize = 2;
const SIZE: usize = 3;
const SLACK: usize = 4;
const LENGTH: usize = 5;

function largestLane(v: v128): f32 {
  const a = max(f32x4.extract_lane(v, 0), f32x4.extract_lane(v, 1));
  return max(a, max(f32x4.extract_lane(v, 2), f32x4.extract_lane(v, 3)));
}

/** Is this a norm that can be worked with? Not when NaN. */
function usable(norm: f32): bool {
  return norm >= LEAST && norm <= MOST;
}

/**
 * Encoder rows [first, last) as q = round(w c / scale) + 128, u8, rows of row/4 bytes one after the
 * other, c being `stretch`; and their statistics, of which `latents` is the number in all:
 * scale; bias = b + ⟨w, center⟩ - limit + slack; spread = ‖w c - scale (q - 128)‖; size = ‖scale (q - 128)‖;
 * slack, the rounding of the bias; length = ‖w‖. A row that cannot be worked with gets bias Infinity.
 */
export function quantizeLatents(
  w: usize,
  row: usize,
  bEnc: usize,
  limits: usize,
  center: usize,
  stretch: usize,
  q: usize,
  statistics: usize,
  latents: i32,
  first: i32,
  last: i32,
): void {
  const array = (<usize>latents) << 2;
  for (let f = <usize>first; f < <usize>last; f++) {
    const from = w + f * row;
    const to = q + f * (row >> 2);
    let m0 = f32x4.splat(0);
    let s0 = m0;
    let s1 = m0;
    let c0 = m0;
    for (let i: usize = 0; i < row; i += 16) {
      const v = v128.load(from + i);
      const stretched = f32x4.mul(v, v128.load(stretch + i));
      m0 = f32x4.max(m0, f32x4.abs(stretched));
      s0 = f32x4.add(s0, f32x4.mul(stretched, stretched));
      s1 = f32x4.add(s1, f32x4.mul(v, v));
      c0 = f32x4.add(c0, f32x4.mul(v, v128.load(center + i)));
    }
    const largest = largestLane(m0);
    const length = sqrt<f32>(sumLanes(s1)) * ROUNDING;
    const bias = load<f32>(bEnc + (f << 2));
    const limit = limits ? load<f32>(limits + (f << 2)) : <f32>0;
    const shift = sumLanes(c0);
    const at = statistics + (f << 2);
    const slack = (abs(bias) + abs(limit) + abs(shift)) * <f32>1e-6;
    const zero = largest == 0;
    if (!zero && !(usable(sqrt<f32>(sumLanes(s0))) && usable(length))) {
      memory.fill(to, 128, row >> 2);
      for (let s: usize = 0; s <= LENGTH; s++) store<f32>(at + s * array, 0);
      store<f32>(at + BIAS * array, Infinity);
      store<f32>(at + SLACK * array, Infinity);
      continue;
    }
    const scale = zero ? <f32>1 : largest / 127;
    const scale4 = f32x4.splat(scale);
    const inverse = f32x4.splat(1 / scale);
    const whole = f32x4.splat(WHOLE);
    const zero128 = i32x4.splat(reinterpret<i32>(WHOLE) - 128);
    let rest = f32x4.splat(0);
    let size = rest;
    for (let i: usize = 0; i < row; i += 16) {
      const v = f32x4.mul(v128.load(from + i), v128.load(stretch + i));
      const shifted = f32x4.add(f32x4.mul(v, inverse), whole);
      const back = f32x4.mul(f32x4.sub(shifted, whole), scale4);
      const off = f32x4.sub(v, back);
      rest = f32x4.add(rest, f32x4.mul(off, off));
      size = f32x4.add(size, f32x4.mul(back, back));
      const ints = i32x4.sub(shifted, zero128);
      const halves = i16x8.narrow_i32x4_s(ints, ints);
      v128.store32_lane(to + (i >> 2), i8x16.narrow_i16x8_u(halves, halves), 0);
    }
    store<f32>(at + SCALE * array, scale);
    store<f32>(at + BIAS * array, bias + shift - limit + slack);
    store<f32>(at + SPREAD * array, sqrt<f32>(sumLanes(rest)) * ROUNDING);
    store<f32>(at + SIZE * array, sqrt<f32>(sumLanes(size)) * ROUNDING);
    store<f32>(at + SLACK * array, slack);
    store<f32>(at + LENGTH * array, length);
  }
}

/**
 * Rows [first, last) of x: centred = x - bPre (bPre may be 0), and q = round((centred - center) / c / scale),
 * s8 exclusive or `flip`, as columns 0 … of a matrix with rows of `width` bytes; `shrink` is 1/c. Statistics, four arrays of
 * `width` floats from column 0 on: scale; size = ‖(centred - center)/c‖; error = ‖that - scale q‖
 * + 2^-19 size + rounding (‖centred‖ + centerLength); -Infinity. A row that cannot be worked with gets
 * zeros and Infinity.
 */
export function quantizeRows(
  x: usize,
  bPre: usize,
  row: usize,
  center: usize,
  centerLength: f32,
  shrink: usize,
  rounding: f32,
  centred: usize,
  q: usize,
  width: i32,
  flip: i32,
  statistics: usize,
  first: i32,
  last: i32,
): void {
  const zero4 = f32x4.splat(0);
  const array = (<usize>width) << 2;
  for (let n = <usize>first; n < <usize>last; n++) {
    const from = x + n * row;
    const to = centred + n * row;
    const column = n - <usize>first;
    const at = statistics + (column << 2);
    let m0 = zero4;
    let m1 = zero4;
    let s0 = zero4;
    let s1 = zero4;
    for (let i: usize = 0; i < row; i += 16) {
      const v = f32x4.sub(v128.load(from + i), bPre ? v128.load(bPre + i) : zero4);
      v128.store(to + i, v);
      const u = f32x4.mul(f32x4.sub(v, v128.load(center + i)), v128.load(shrink + i));
      m0 = f32x4.max(m0, f32x4.abs(u));
      m1 = f32x4.max(m1, f32x4.abs(v));
      s0 = f32x4.add(s0, f32x4.mul(u, u));
      s1 = f32x4.add(s1, f32x4.mul(v, v));
    }
    const largest = largestLane(m0);
    const size = sqrt<f32>(sumLanes(s0));
    const length = sqrt<f32>(sumLanes(s1));
    // Denormal numbers may vanish on the way: then this is not a row of zeros.
    const zero = largest == 0 && largestLane(m1) == 0;
    const ok = (zero || usable(size)) && length <= MOST;
    const scale: f32 = ok && !zero ? largest / 127 : 0;
    const scale4 = f32x4.splat(scale);
    const inverse = f32x4.splat(scale > 0 ? 1 / scale : 0);
    const whole = f32x4.splat(WHOLE);
    let rest = zero4;
    for (let i: usize = 0; i < row; i += 16) {
      const v = f32x4.sub(v128.load(to + i), v128.load(center + i));
      const u = f32x4.mul(v, v128.load(shrink + i));
      const shifted = f32x4.add(f32x4.mul(u, inverse), whole);
      const off = f32x4.sub(u, f32x4.mul(f32x4.sub(shifted, whole), scale4));
      rest = f32x4.add(rest, f32x4.mul(off, off));
      // The lowest byte is the number's.
      const ints = v128.xor(shifted, i32x4.splat(flip));
      const place = q + (i >> 2) * <usize>width + column;
      store<i8>(place, <i8>i32x4.extract_lane(ints, 0));
      store<i8>(place + <usize>width, <i8>i32x4.extract_lane(ints, 1));
      store<i8>(place + 2 * <usize>width, <i8>i32x4.extract_lane(ints, 2));
      store<i8>(place + 3 * <usize>width, <i8>i32x4.extract_lane(ints, 3));
    }
    const error =
      sqrt<f32>(sumLanes(rest)) * ROUNDING +
      size * <f32>2e-6 +
      rounding * (length * ROUNDING + centerLength);
    store<f32>(at, scale);
    store<f32>(at + array, ok ? size * ROUNDING : 0);
    store<f32>(at + 2 * array, ok ? error : 0);
    store<f32>(at + 3 * array, ok ? -Infinity : Infinity);
  }
}
