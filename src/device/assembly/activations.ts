/**
 * What lies between the codes and their gradients, in the shared memory: penalties, thresholds and
 * gates, slot by slot. Layouts of codes are those of slots.ts. Kernels that add up over rows do so
 * for a range of latents, in f64 and with the rows rising; the others for a range of rows.
 */
import { among, endOfSlots, firstSlot, latentOf } from "./slots";
import { dot64 } from "./vector";

const LN2_HIGH: f64 = 6.9314718036912381649e-1; // its low 32 bits are 0: products with small whole numbers are exact
const LN2_LOW: f64 = 1.90821492927058770002e-10;

/** e^x. Without the tables of the standard library, which would lie in the tensors' memory. */
function exp64(x: f64): f64 {
  if (!(x > -745.2)) return x == x ? 0 : x;
  if (x > 709.8) return Infinity;
  const n = nearest<f64>(x / (LN2_HIGH + LN2_LOW));
  const r = x - n * LN2_HIGH - n * LN2_LOW;
  // The Taylor series; |r| < 0.347: r^14 / 14! < 1e-17.
  let sum: f64 = 1 / 479001600.0 + r / 6227020800.0;
  sum = 1 / 3628800.0 + r * (1 / 39916800.0 + r * sum);
  sum = 1 / 40320.0 + r * (1 / 362880.0 + r * sum);
  sum = 1 / 720.0 + r * (1 / 5040.0 + r * sum);
  sum = 1 / 24.0 + r * (1 / 120.0 + r * sum);
  sum = 1 / 2.0 + r * (1 / 6.0 + r * sum);
  sum = 1 + r * (1 + r * sum);
  // 2^n in two factors, since it may be too small or large for one.
  const half = (<i64>n) >> 1;
  return sum * powerOf2(half) * powerOf2(<i64>n - half);
}

function powerOf2(n: i64): f64 {
  return reinterpret<f64>((n + 1023) << 52);
}

/** ln x for x ≥ 0. */
function log64(x: f64): f64 {
  if (!(x > 0)) return x == 0 ? -Infinity : NaN;
  if (x == Infinity) return x;
  let exponent: i64 = 0;
  if (x < 2.2250738585072014e-308) {
    x *= 18014398509481984; // 2^54: no denormal any more
    exponent = -54;
  }
  const bits = reinterpret<i64>(x);
  exponent += (bits >> 52) - 1023;
  let m = reinterpret<f64>((bits & 0xfffffffffffff) | 0x3ff0000000000000);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    exponent++;
  }
  // ln m = 2 artanh s = 2 Σ s^i / i over odd i; |s| < 0.172: s^21 / 21 < 1e-17.
  const s = (m - 1) / (m + 1);
  const q = s * s;
  let sum: f64 = 1 / 17.0 + q / 19.0;
  sum = 1 / 13.0 + q * (1 / 15.0 + q * sum);
  sum = 1 / 9.0 + q * (1 / 11.0 + q * sum);
  sum = 1 / 5.0 + q * (1 / 7.0 + q * sum);
  sum = 1 + q * (1 / 3.0 + q * sum);
  return <f64>exponent * LN2_HIGH + (2 * s * sum + <f64>exponent * LN2_LOW);
}

function tanh64(x: f64): f64 {
  if (abs(x) < 1e-4) return x - (x * x * x) / 3; // x^5 is below rounding, and so little is lost
  const e = exp64(-2 * abs(x));
  return copysign<f64>((1 - e) / (1 + e), x);
}

/**
 * The penalty λ Σ s(w a) of rows [first, last), with s(u) = u (kind 0), (u + b)^a - b^a (kind 1) or
 * tanh(a u) (kind 2): adds λ w s' to dValues in active slots; dWeights, unless 0, becomes λ a s'
 * there and 0 elsewhere. weights may be 0, meaning ones. latents is how many there are.
 */
export function penalize(
  indices: usize,
  ends: usize,
  codeRow: usize,
  k: i32,
  values: usize,
  latents: i32,
  kind: i32,
  coefficient: f64,
  a: f64,
  b: f64,
  weights: usize,
  dValues: usize,
  dWeights: usize,
  rowPenalty: usize,
  inactiveToo: bool,
  first: i32,
  last: i32,
): void {
  const atZero = kind == 1 ? exp64(a * log64(b)) : 0;
  for (let n = <usize>first; n < <usize>last; n++) {
    const end = endOfSlots(indices, ends, codeRow, k, n, latents);
    let sum: f64 = 0;
    for (let slot = firstSlot(indices, ends, codeRow, k, n, 0); slot < end; slot += 4) {
      const f = latentOf(indices, codeRow, n, slot);
      const value = <f64>load<f32>(values + slot);
      if (!among(f, 0, latents) || !(value > 0 || inactiveToo)) {
        if (dWeights) store<f32>(dWeights + slot, 0);
        continue;
      }
      const w = weights ? <f64>load<f32>(weights + ((<usize>f) << 2)) : 1;
      const u = w * value;
      let s = u;
      let slope: f64 = 1;
      if (kind == 1) {
        const power = exp64(a * log64(u + b));
        s = power - atZero;
        slope = (a * power) / (u + b);
      } else if (kind == 2) {
        s = tanh64(a * u);
        slope = a * (1 - s * s);
      }
      sum += s;
      const former = <f64>load<f32>(dValues + slot);
      store<f32>(dValues + slot, <f32>(former + coefficient * w * slope));
      if (dWeights) store<f32>(dWeights + slot, <f32>(coefficient * value * slope));
    }
    store<f32>(rowPenalty + (n << 2), <f32>(coefficient * sum));
  }
}

/** values = pre where pre > threshold and pre > 0, else 0, for rows [first, last) of dense latents. */
export function applyThreshold(
  pre: usize,
  threshold: usize,
  values: usize,
  row: usize,
  first: i32,
  last: i32,
): void {
  const zero = f32x4.splat(0);
  for (let n = <usize>first; n < <usize>last; n++) {
    for (let i: usize = 0; i < row; i += 16) {
      const z = v128.load(pre + n * row + i);
      const above = v128.and(f32x4.gt(z, v128.load(threshold + i)), f32x4.gt(z, zero));
      v128.store(values + n * row + i, v128.and(z, above));
    }
  }
}

/** out[0] = number of active slots of rows [first, last), as an f64. */
export function countActive(
  indices: usize,
  ends: usize,
  codeRow: usize,
  k: i32,
  values: usize,
  latents: i32,
  out: usize,
  first: i32,
  last: i32,
): void {
  let count: f64 = 0;
  for (let n = <usize>first; n < <usize>last; n++) {
    const end = endOfSlots(indices, ends, codeRow, k, n, latents);
    for (let slot = firstSlot(indices, ends, codeRow, k, n, 0); slot < end; slot += 4) {
      if (!among(latentOf(indices, codeRow, n, slot), 0, latents)) continue;
      if (load<f32>(values + slot) > 0) count += 1;
    }
  }
  store<f64>(out, count);
}

/**
 * The straight-through estimators of the JumpReLU for latents [from, to): sums[f] (f64) becomes
 * Σ_n K((z-θ)/ε) (-1/ε) (θ dValue + dL0), K(u) being 1 where |u| < 1/2; dValues are cut to the active slots.
 */
export function thresholdGradient(
  indices: usize,
  ends: usize,
  codeRow: usize,
  k: i32,
  values: usize,
  rows: i32,
  pre: usize,
  threshold: usize,
  bandwidth: f64,
  dL0: f64,
  dValues: usize,
  sums: usize,
  from: i32,
  to: i32,
): void {
  memory.fill(sums + ((<usize>from) << 3), 0, (<usize>(to - from)) << 3);
  for (let n: usize = 0; n < <usize>rows; n++) {
    const end = endOfSlots(indices, ends, codeRow, k, n, to);
    for (let slot = firstSlot(indices, ends, codeRow, k, n, from); slot < end; slot += 4) {
      const f = latentOf(indices, codeRow, n, slot);
      if (!among(f, from, to)) continue;
      const theta = <f64>load<f32>(threshold + ((<usize>f) << 2));
      const dValue = <f64>load<f32>(dValues + slot);
      if (abs(<f64>load<f32>(pre + slot) - theta) < bandwidth / 2) {
        const at = sums + ((<usize>f) << 3);
        store<f64>(at, load<f64>(at) - (theta * dValue + dL0) / bandwidth);
      }
      if (!(load<f32>(values + slot) > 0)) store<f32>(dValues + slot, 0);
    }
  }
}

/** out[f] = e^r[f] as an f64, for latents [from, to). */
export function exponentials(r: usize, out: usize, from: i32, to: i32): void {
  for (let f = <usize>from; f < <usize>to; f++) {
    store<f64>(out + (f << 3), exp64(<f64>load<f32>(r + (f << 2))));
  }
}

/** magnitudes = max(scales[f] (value - bGate[f]) + bMag[f], 0) where the value is > 0, else 0; rows [first, last). */
export function gate(
  indices: usize,
  ends: usize,
  codeRow: usize,
  k: i32,
  values: usize,
  latents: i32,
  scales: usize,
  bGate: usize,
  bMag: usize,
  magnitudes: usize,
  first: i32,
  last: i32,
): void {
  for (let n = <usize>first; n < <usize>last; n++) {
    const end = endOfSlots(indices, ends, codeRow, k, n, latents);
    for (let slot = firstSlot(indices, ends, codeRow, k, n, 0); slot < end; slot += 4) {
      const f = <usize>latentOf(indices, codeRow, n, slot);
      const value = <f64>load<f32>(values + slot);
      let magnitude: f64 = 0;
      if (among(<i32>f, 0, latents) && value > 0) {
        const u = value - <f64>load<f32>(bGate + (f << 2));
        magnitude = max<f64>(load<f64>(scales + (f << 3)) * u + <f64>load<f32>(bMag + (f << 2)), 0);
      }
      store<f32>(magnitudes + slot, <f32>magnitude);
    }
  }
}

/**
 * The gradients behind `gate` for latents [from, to): sums[f] (three f64) becomes Σ_n of dGate as it
 * came, of dMagnitude and of dMagnitude scales[f] (value - bGate[f]), the latter two where the
 * magnitude is > 0; dGate becomes the gradient of value - bGate through both. Where the value is
 * not > 0 nothing counts and dGate becomes 0.
 */
export function gateGradient(
  indices: usize,
  ends: usize,
  codeRow: usize,
  k: i32,
  values: usize,
  rows: i32,
  scales: usize,
  bGate: usize,
  magnitudes: usize,
  dMagnitudes: usize,
  dGate: usize,
  sums: usize,
  from: i32,
  to: i32,
): void {
  memory.fill(sums + <usize>from * 24, 0, <usize>(to - from) * 24);
  for (let n: usize = 0; n < <usize>rows; n++) {
    const end = endOfSlots(indices, ends, codeRow, k, n, to);
    for (let slot = firstSlot(indices, ends, codeRow, k, n, from); slot < end; slot += 4) {
      const f = <usize>latentOf(indices, codeRow, n, slot);
      if (!among(<i32>f, from, to)) continue;
      const value = <f64>load<f32>(values + slot);
      if (!(value > 0)) {
        store<f32>(dGate + slot, 0);
        continue;
      }
      const at = sums + f * 24;
      const d = <f64>load<f32>(dGate + slot);
      store<f64>(at, load<f64>(at) + d);
      if (!(load<f32>(magnitudes + slot) > 0)) continue;
      const dMagnitude = <f64>load<f32>(dMagnitudes + slot);
      const scale = load<f64>(scales + (f << 3));
      const u = value - <f64>load<f32>(bGate + (f << 2));
      store<f64>(at, load<f64>(at, 8) + dMagnitude, 8);
      store<f64>(at, load<f64>(at, 16) + dMagnitude * scale * u, 16);
      store<f32>(dGate + slot, <f32>(scale * dMagnitude + d));
    }
  }
}

/**
 * The pre-activation loss in the active slots of eligible latents among [from, to): dValues +=
 * coefficient weights[f]; counts[f] becomes their number and excess[f] (f64) the sum of z - θ there.
 */
export function preActSlots(
  indices: usize,
  ends: usize,
  codeRow: usize,
  k: i32,
  values: usize,
  rows: i32,
  pre: usize,
  threshold: usize,
  weights: usize,
  sinceFired: usize,
  atLeast: f64,
  coefficient: f64,
  dValues: usize,
  counts: usize,
  excess: usize,
  from: i32,
  to: i32,
): void {
  memory.fill(counts + ((<usize>from) << 2), 0, (<usize>(to - from)) << 2);
  memory.fill(excess + ((<usize>from) << 3), 0, (<usize>(to - from)) << 3);
  for (let n: usize = 0; n < <usize>rows; n++) {
    const end = endOfSlots(indices, ends, codeRow, k, n, to);
    for (let slot = firstSlot(indices, ends, codeRow, k, n, from); slot < end; slot += 4) {
      const f = latentOf(indices, codeRow, n, slot);
      if (!among(f, from, to) || !(load<f32>(values + slot) > 0)) continue;
      const at = (<usize>f) << 2;
      if (!(<f64>load<i32>(sinceFired + at) >= atLeast)) continue;
      const w = <f64>load<f32>(weights + at);
      store<f32>(dValues + slot, <f32>(<f64>load<f32>(dValues + slot) + coefficient * w));
      store<i32>(counts + at, load<i32>(counts + at) + 1);
      const z = <f64>load<f32>(pre + slot) - <f64>load<f32>(threshold + at);
      store<f64>(excess + (at << 1), load<f64>(excess + (at << 1)) + z);
    }
  }
}

/**
 * The rest of the pre-activation loss for latents [from, to), from what `preActSlots` found: the
 * coefficients of its rank-one gradient, its gradient by the threshold (added to dThreshold), and
 * terms[f] (f64), each latent's part of the loss. `row` is that of inputs and wEnc.
 */
export function preActLatents(
  rows: i32,
  threshold: usize,
  weights: usize,
  sinceFired: usize,
  atLeast: f64,
  coefficient: f64,
  inputs: usize,
  wEnc: usize,
  row: usize,
  bEnc: usize,
  counts: usize,
  excess: usize,
  coefficients: usize,
  dThreshold: usize,
  terms: usize,
  from: i32,
  to: i32,
): void {
  for (let f = <usize>from; f < <usize>to; f++) {
    const at = f << 2;
    if (!(<f64>load<i32>(sinceFired + at) >= atLeast)) {
      store<f32>(coefficients + at, 0);
      store<f64>(terms + (f << 3), 0);
      continue;
    }
    const weight = coefficient * <f64>load<f32>(weights + at);
    const n = <f64>rows;
    const bound = <f64>load<f32>(threshold + at);
    const sumOfZ = dot64(wEnc + f * row, inputs, row) + n * <f64>load<f32>(bEnc + at);
    store<f32>(coefficients + at, <f32>-weight);
    const gradient = weight * (n - <f64>load<i32>(counts + at));
    store<f32>(dThreshold + at, <f32>(<f64>load<f32>(dThreshold + at) + gradient));
    store<f64>(terms + (f << 3), weight * (n * bound - sumOfZ + load<f64>(excess + (f << 3))));
  }
}
