/** Matrices in the shared memory row by row: sums, norms, masks; and the firing statistics. */
import { among, endOfSlots, firstSlot } from "./slots";
import { dot64, high, low, narrow } from "./vector";

/** out = scale Σ_{n<rows} x[n] (+ out when accumulate), for the columns in bytes [first, last) of a row. Sums in f64. */
export function columnSums(
  x: usize,
  row: usize,
  rows: i32,
  scale: f64,
  out: usize,
  accumulate: bool,
  first: usize,
  last: usize,
): void {
  const s = f64x2.splat(scale);
  const zero = f64x2.splat(0);
  let i = first;
  // A cache line at a time.
  for (; i + 64 <= last; i += 64) {
    let s0 = zero;
    let s1 = zero;
    let s2 = zero;
    let s3 = zero;
    let s4 = zero;
    let s5 = zero;
    let s6 = zero;
    let s7 = zero;
    for (let n: usize = 0; n < <usize>rows; n++) {
      const at = x + n * row + i;
      const v0 = v128.load(at);
      const v1 = v128.load(at, 16);
      const v2 = v128.load(at, 32);
      const v3 = v128.load(at, 48);
      s0 = f64x2.add(s0, low(v0));
      s1 = f64x2.add(s1, high(v0));
      s2 = f64x2.add(s2, low(v1));
      s3 = f64x2.add(s3, high(v1));
      s4 = f64x2.add(s4, low(v2));
      s5 = f64x2.add(s5, high(v2));
      s6 = f64x2.add(s6, low(v3));
      s7 = f64x2.add(s7, high(v3));
    }
    storeSums(out + i, s, s0, s1, accumulate);
    storeSums(out + i + 16, s, s2, s3, accumulate);
    storeSums(out + i + 32, s, s4, s5, accumulate);
    storeSums(out + i + 48, s, s6, s7, accumulate);
  }
  for (; i < last; i += 16) {
    let s0 = zero;
    let s1 = zero;
    for (let n: usize = 0; n < <usize>rows; n++) {
      const v = v128.load(x + n * row + i);
      s0 = f64x2.add(s0, low(v));
      s1 = f64x2.add(s1, high(v));
    }
    storeSums(out + i, s, s0, s1, accumulate);
  }
}

/** Four floats out = scale (s0, s1), plus what was there when accumulate. */
function storeSums(out: usize, scale: v128, s0: v128, s1: v128, accumulate: bool): void {
  s0 = f64x2.mul(scale, s0);
  s1 = f64x2.mul(scale, s1);
  if (accumulate) {
    const former = v128.load(out);
    s0 = f64x2.add(s0, low(former));
    s1 = f64x2.add(s1, high(former));
  }
  v128.store(out, narrow(s0, s1));
}

/** out[c] (f64) = Σ_{n<rows} (x[n,c] - mean of column c)², for the columns in bytes [first, last) of a row. */
export function columnDeviations(
  x: usize,
  row: usize,
  rows: i32,
  out: usize,
  first: usize,
  last: usize,
): void {
  const count = f64x2.splat(<f64>rows);
  for (let i = first; i < last; i += 16) {
    let m0 = f64x2.splat(0);
    let m1 = m0;
    for (let n: usize = 0; n < <usize>rows; n++) {
      const v = v128.load(x + n * row + i);
      m0 = f64x2.add(m0, low(v));
      m1 = f64x2.add(m1, high(v));
    }
    m0 = f64x2.div(m0, count);
    m1 = f64x2.div(m1, count);
    let s0 = f64x2.splat(0);
    let s1 = s0;
    for (let n: usize = 0; n < <usize>rows; n++) {
      const v = v128.load(x + n * row + i);
      const d0 = f64x2.sub(low(v), m0);
      const d1 = f64x2.sub(high(v), m1);
      s0 = f64x2.add(s0, f64x2.mul(d0, d0));
      s1 = f64x2.add(s1, f64x2.mul(d1, d1));
    }
    v128.store(out + (i << 1), s0);
    v128.store(out + (i << 1), s1, 16);
  }
}

/** out[0] (f64) = Σ x² over `bytes` of floats. */
export function squares(x: usize, bytes: usize, out: usize): void {
  store<f64>(out, dot64(x, x, bytes));
}

/** out = scale x (+ out when accumulate) over `bytes` of floats. */
export function addScaled(out: usize, x: usize, scale: f32, accumulate: bool, bytes: usize): void {
  const scale4 = f32x4.splat(scale);
  for (let i: usize = 0; i < bytes; i += 16) {
    const scaled = f32x4.mul(scale4, v128.load(x + i));
    v128.store(out + i, accumulate ? f32x4.add(scaled, v128.load(out + i)) : scaled);
  }
}

/** into += rate (value - into) over `bytes` of floats. */
export function moveTowards(into: usize, value: usize, rate: f32, bytes: usize): void {
  const rate4 = f32x4.splat(rate);
  for (let i: usize = 0; i < bytes; i += 16) {
    const former = v128.load(into + i);
    const change = f32x4.mul(rate4, f32x4.sub(v128.load(value + i), former));
    v128.store(into + i, f32x4.add(former, change));
  }
}

/** Copies `rows` rows of `bytes`, which are fromRow bytes apart, to where they are toRow apart. */
export function copyRows(
  from: usize,
  fromRow: usize,
  to: usize,
  toRow: usize,
  bytes: usize,
  rows: i32,
): void {
  for (let n: usize = 0; n < <usize>rows; n++) {
    memory.copy(to + n * toRow, from + n * fromRow, bytes);
  }
}

/** Zeros in the bytes [used, row) of `rows` rows. */
export function clearPadding(x: usize, row: usize, used: usize, rows: i32): void {
  for (let n: usize = 0; n < <usize>rows; n++) memory.fill(x + n * row + used, 0, row - used);
}

/** out[r] = the sum of the norms of `groups` pieces of `groupBytes` of w[r], for rows [first, last). */
export function rowNorms(
  w: usize,
  row: usize,
  out: usize,
  groups: i32,
  groupBytes: usize,
  first: i32,
  last: i32,
): void {
  for (let r = <usize>first; r < <usize>last; r++) {
    let sum: f64 = 0;
    for (let group: usize = 0; group < <usize>groups; group++) {
      const piece = w + r * row + group * groupBytes;
      sum += sqrt<f64>(dot64(piece, piece, groupBytes));
    }
    store<f32>(out + (r << 2), <f32>sum);
  }
}

/** out[n] = ‖t‖², ‖t-e‖², ⟨t, t-e⟩, ‖e‖² with t = target[n], e = residual[n], for rows [first, last). */
export function rowStats(
  target: usize,
  residual: usize,
  row: usize,
  out: usize,
  first: i32,
  last: i32,
): void {
  for (let n = <usize>first; n < <usize>last; n++) {
    let tt = f64x2.splat(0);
    let te = tt;
    let ee = tt;
    let rr = tt;
    for (let i = n * row; i < (n + 1) * row; i += 16) {
      const t = v128.load(target + i);
      const e = v128.load(residual + i);
      const t0 = low(t);
      const t1 = high(t);
      const r0 = f64x2.sub(t0, low(e));
      const r1 = f64x2.sub(t1, high(e));
      tt = f64x2.add(tt, f64x2.add(f64x2.mul(t0, t0), f64x2.mul(t1, t1)));
      rr = f64x2.add(rr, f64x2.add(f64x2.mul(r0, r0), f64x2.mul(r1, r1)));
      te = f64x2.add(te, f64x2.add(f64x2.mul(t0, r0), f64x2.mul(t1, r1)));
      ee = f64x2.add(ee, f64x2.add(f64x2.mul(low(e), low(e)), f64x2.mul(high(e), high(e))));
    }
    const at = out + (n << 4);
    store<f32>(at, <f32>(f64x2.extract_lane(tt, 0) + f64x2.extract_lane(tt, 1)));
    store<f32>(at, <f32>(f64x2.extract_lane(rr, 0) + f64x2.extract_lane(rr, 1)), 4);
    store<f32>(at, <f32>(f64x2.extract_lane(te, 0) + f64x2.extract_lane(te, 1)), 8);
    store<f32>(at, <f32>(f64x2.extract_lane(ee, 0) + f64x2.extract_lane(ee, 1)), 12);
  }
}

/** x = target - (x + bias) for rows [firstRow, lastRow) and the columns in bytes [first, last); bias may be 0. */
export function subtractFromTarget(
  x: usize,
  target: usize,
  bias: usize,
  row: usize,
  firstRow: i32,
  lastRow: i32,
  first: usize,
  last: usize,
): void {
  for (let n = <usize>firstRow; n < <usize>lastRow; n++) {
    for (let i = first; i < last; i += 16) {
      const at = n * row + i;
      const sum = bias ? f32x4.add(v128.load(x + at), v128.load(bias + i)) : v128.load(x + at);
      v128.store(x + at, f32x4.sub(v128.load(target + at), sum));
    }
  }
}

/**
 * d = (scale d + l1 weights) where acts > 0, else 0, for rows [firstRow, lastRow) and exactly the
 * columns in bytes [first, last). acts may be 0, meaning everywhere; weights may be 0, meaning ones.
 */
export function maskGradient(
  d: usize,
  acts: usize,
  weights: usize,
  scale: f32,
  l1: f32,
  row: usize,
  firstRow: i32,
  lastRow: i32,
  first: usize,
  last: usize,
): void {
  const scale4 = f32x4.splat(scale);
  const l1x4 = f32x4.splat(l1);
  const whole = first + ((last - first) & ~15);
  for (let n = <usize>firstRow; n < <usize>lastRow; n++) {
    let i = first;
    for (; i < whole; i += 16) {
      const at = n * row + i;
      const penalty = weights ? f32x4.mul(l1x4, v128.load(weights + i)) : l1x4;
      const gradient = f32x4.add(f32x4.mul(scale4, v128.load(d + at)), penalty);
      if (acts) {
        const active = f32x4.gt(v128.load(acts + at), f32x4.splat(0));
        v128.store(d + at, v128.and(gradient, active));
      } else v128.store(d + at, gradient);
    }
    for (; i < last; i += 4) {
      const at = n * row + i;
      const penalty = weights ? l1 * load<f32>(weights + i) : l1;
      const active = !acts || load<f32>(acts + at) > 0;
      store<f32>(d + at, active ? scale * load<f32>(d + at) + penalty : 0);
    }
  }
}

/**
 * For latents [from, to) of sparse codes (layouts: slots.ts): counts[f] += rows in which it is
 * active, lastFired[f] = the last such row or -1, batchSums[f] (f64) = the sum of its values.
 */
export function recordSparse(
  indices: usize,
  ends: usize,
  codeRow: usize,
  k: i32,
  values: usize,
  rows: i32,
  from: i32,
  to: i32,
  counts: usize,
  lastFired: usize,
  batchSums: usize,
): void {
  memory.fill(lastFired + ((<usize>from) << 2), 0xff, (<usize>(to - from)) << 2);
  memory.fill(batchSums + ((<usize>from) << 3), 0, (<usize>(to - from)) << 3);
  for (let n: usize = 0; n < <usize>rows; n++) {
    const end = endOfSlots(indices, ends, codeRow, k, n, to);
    for (let slot = firstSlot(indices, ends, codeRow, k, n, from); slot < end; slot += 4) {
      const f = load<i32>(indices + slot);
      const value = load<f32>(values + slot);
      if (!among(f, from, to) || !(value > 0)) continue;
      const at = (<usize>f) << 2;
      store<i32>(counts + at, load<i32>(counts + at) + 1);
      store<i32>(lastFired + at, <i32>n);
      store<f64>(batchSums + (at << 1), load<f64>(batchSums + (at << 1)) + <f64>value);
    }
  }
}

/** The same for dense codes; firstLatent and lastLatent are multiples of 4 (padding never fires). */
export function recordDense(
  acts: usize,
  row: usize,
  rows: i32,
  firstLatent: i32,
  lastLatent: i32,
  counts: usize,
  lastFired: usize,
  batchSums: usize,
): void {
  for (let i = (<usize>firstLatent) << 2; i < (<usize>lastLatent) << 2; i += 16) {
    let count = v128.load(counts + i);
    let last = i32x4.splat(-1);
    let s0 = f64x2.splat(0);
    let s1 = s0;
    for (let n = 0; n < rows; n++) {
      const a = v128.load(acts + <usize>n * row + i);
      const active = f32x4.gt(a, f32x4.splat(0));
      const value = v128.and(a, active);
      count = i32x4.sub(count, active); // a true lane is -1
      last = v128.bitselect(i32x4.splat(n), last, active);
      s0 = f64x2.add(s0, low(value));
      s1 = f64x2.add(s1, high(value));
    }
    v128.store(counts + i, count);
    v128.store(lastFired + i, last);
    v128.store(batchSums + (i << 1), s0);
    v128.store(batchSums + (i << 1), s1, 16);
  }
}

/** Turns what a record kernel found into the running statistics, for latents [firstLatent, lastLatent). */
export function finishFiring(
  sinceFired: usize,
  sums: usize,
  lastFired: usize,
  batchSums: usize,
  rows: i32,
  firstLatent: i32,
  lastLatent: i32,
): void {
  for (let f = <usize>firstLatent; f < <usize>lastLatent; f++) {
    const at = f << 2;
    const last = load<i32>(lastFired + at);
    store<i32>(sinceFired + at, last < 0 ? load<i32>(sinceFired + at) + rows : rows - 1 - last);
    store<f32>(sums + at, <f32>(<f64>load<f32>(sums + at) + load<f64>(batchSums + (f << 3))));
  }
}

/** z = z + bias, or max(z + bias, 0), for rows [firstRow, lastRow) and the columns in bytes [first, last). NaN stays NaN. */
export function addBias(
  z: usize,
  bias: usize,
  relu: bool,
  row: usize,
  firstRow: i32,
  lastRow: i32,
  first: usize,
  last: usize,
): void {
  const zero = f32x4.splat(0);
  for (let n = <usize>firstRow; n < <usize>lastRow; n++) {
    for (let i = first; i < last; i += 16) {
      const at = z + n * row + i;
      const sum = f32x4.add(v128.load(at), v128.load(bias + i));
      v128.store(at, relu ? f32x4.max(sum, zero) : sum);
    }
  }
}
