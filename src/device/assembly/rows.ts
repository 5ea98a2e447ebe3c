/** Dense matrices in the shared memory: sums, norms, masks and the firing statistics. */
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
  for (let i = first; i < last; i += 16) {
    let s0 = f64x2.splat(0);
    let s1 = s0;
    for (let n: usize = 0; n < <usize>rows; n++) {
      const v = v128.load(x + n * row + i);
      s0 = f64x2.add(s0, low(v));
      s1 = f64x2.add(s1, high(v));
    }
    s0 = f64x2.mul(s, s0);
    s1 = f64x2.mul(s, s1);
    if (accumulate) {
      const former = v128.load(out + i);
      s0 = f64x2.add(s0, low(former));
      s1 = f64x2.add(s1, high(former));
    }
    v128.store(out + i, narrow(s0, s1));
  }
}

/** out[r] = ‖w[r]‖ for rows [first, last). */
export function rowNorms(w: usize, row: usize, out: usize, first: i32, last: i32): void {
  for (let r = <usize>first; r < <usize>last; r++) {
    store<f32>(out + (r << 2), <f32>sqrt<f64>(dot64(w + r * row, w + r * row, row)));
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

/** d = (scale d + l1 weights) where acts > 0, else 0, in the same ranges; weights may be 0, meaning ones. */
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
  for (let n = <usize>firstRow; n < <usize>lastRow; n++) {
    for (let i = first; i < last; i += 16) {
      const at = n * row + i;
      const penalty = weights ? f32x4.mul(l1x4, v128.load(weights + i)) : l1x4;
      const gradient = f32x4.add(f32x4.mul(scale4, v128.load(d + at)), penalty);
      const active = f32x4.gt(v128.load(acts + at), f32x4.splat(0));
      v128.store(d + at, v128.and(gradient, active));
    }
  }
}

/**
 * For latents [firstLatent, lastLatent) of sparse codes: counts[f] += rows in which it is active,
 * lastFired[f] = the last such row or -1, batchSums[f] (f64) = the sum of its values.
 */
export function recordSparse(
  indices: usize,
  values: usize,
  codeRow: usize,
  k: i32,
  rows: i32,
  firstLatent: i32,
  lastLatent: i32,
  counts: usize,
  lastFired: usize,
  batchSums: usize,
): void {
  const slots = (<usize>k) << 2;
  const width = lastLatent - firstLatent;
  memory.fill(lastFired + ((<usize>firstLatent) << 2), 0xff, (<usize>width) << 2);
  memory.fill(batchSums + ((<usize>firstLatent) << 3), 0, (<usize>width) << 3);
  for (let n: usize = 0; n < <usize>rows; n++) {
    const code = n * codeRow;
    for (let j: usize = 0; j < slots; j += 4) {
      const f = load<i32>(indices + code + j);
      const value = load<f32>(values + code + j);
      if (<u32>(f - firstLatent) >= <u32>width || !(value > 0)) continue;
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
