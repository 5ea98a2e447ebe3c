/**
 * What is done with gradients in the shared memory. The rows of a latent are treated one after the
 * other, each as a whole: its gradient is formed, constrained and used while it is in the cache.
 *
 * Sources are what the gradients of sparse codes are gathered from: `count` records of 36 bytes, as
 * cpu-update.ts writes them. A latent's gradient is the sum over the sources, among whose latents
 * [from, to) it is, of scale Σ coefficients[slot] (rows[row] - center) over its pairs (row, slot);
 * center may be 0, and coefficients too, for a source without a gradient.
 */
import { among } from "./slots";
import { addScaled64, dot, dot64, high, low, narrow, sumLanes } from "./vector";

const SOURCE_BYTES: usize = 36;
const ROWS: usize = 0;
const CENTER: usize = 4;
const COEFFICIENTS: usize = 8;
const SUMMED: usize = 12;
const STARTS: usize = 16;
const PAIRS: usize = 20;
const SCALE: usize = 24;
const FROM: usize = 28;
const TO: usize = 32;

/** Norms whose squares, and the products they occur in, are far from the ends of f32's range. */
const SMALLEST_SQUARE: f32 = 1e-25;
const LARGEST_SQUARE: f32 = 1e25;

/** out += scale Σ coefficients[slot of pair] (source[row of pair] - center). */
function gatherRow(
  out: usize,
  source: usize,
  center: usize,
  row: usize,
  coefficients: usize,
  pair0: usize,
  pair1: usize,
  scale: f32,
  centered: bool,
): void {
  const s = f32x4.splat(scale);
  const zero = f32x4.splat(0);
  let i: usize = 0;
  for (const whole = row & ~63; i < whole; i += 64) {
    const c0 = centered ? v128.load(center + i) : zero;
    const c1 = centered ? v128.load(center + i, 16) : zero;
    const c2 = centered ? v128.load(center + i, 32) : zero;
    const c3 = centered ? v128.load(center + i, 48) : zero;
    let a0 = zero;
    let a1 = zero;
    let a2 = zero;
    let a3 = zero;
    for (let pair = pair0; pair < pair1; pair += 8) {
      const coefficient = load<f32>(coefficients + <usize>load<u32>(pair, 4));
      if (coefficient == 0) continue; // not even NaN times 0
      const v = f32x4.splat(coefficient);
      const r = source + <usize>load<u32>(pair) * row + i;
      if (centered) {
        a0 = f32x4.add(a0, f32x4.mul(v, f32x4.sub(v128.load(r), c0)));
        a1 = f32x4.add(a1, f32x4.mul(v, f32x4.sub(v128.load(r, 16), c1)));
        a2 = f32x4.add(a2, f32x4.mul(v, f32x4.sub(v128.load(r, 32), c2)));
        a3 = f32x4.add(a3, f32x4.mul(v, f32x4.sub(v128.load(r, 48), c3)));
      } else {
        a0 = f32x4.add(a0, f32x4.mul(v, v128.load(r)));
        a1 = f32x4.add(a1, f32x4.mul(v, v128.load(r, 16)));
        a2 = f32x4.add(a2, f32x4.mul(v, v128.load(r, 32)));
        a3 = f32x4.add(a3, f32x4.mul(v, v128.load(r, 48)));
      }
    }
    v128.store(out + i, f32x4.add(v128.load(out + i), f32x4.mul(s, a0)));
    v128.store(out + i, f32x4.add(v128.load(out + i, 16), f32x4.mul(s, a1)), 16);
    v128.store(out + i, f32x4.add(v128.load(out + i, 32), f32x4.mul(s, a2)), 32);
    v128.store(out + i, f32x4.add(v128.load(out + i, 48), f32x4.mul(s, a3)), 48);
  }
  for (; i < row; i += 16) {
    const c = centered ? v128.load(center + i) : zero;
    let a = zero;
    for (let pair = pair0; pair < pair1; pair += 8) {
      const coefficient = load<f32>(coefficients + <usize>load<u32>(pair, 4));
      if (coefficient == 0) continue;
      const v = f32x4.splat(coefficient);
      const r = v128.load(source + <usize>load<u32>(pair) * row + i);
      a = f32x4.add(a, f32x4.mul(v, centered ? f32x4.sub(r, c) : r));
    }
    v128.store(out + i, f32x4.add(v128.load(out + i), f32x4.mul(s, a)));
  }
}

/**
 * The gradient of latent f from all sources, into the row g. Returns the sum of the sources'
 * `summed` numbers (if not 0) over the latent's pairs.
 */
function gather(g: usize, row: usize, sources: usize, count: i32, f: i32): f64 {
  memory.fill(g, 0, row);
  let sum: f64 = 0;
  const end = sources + <usize>count * SOURCE_BYTES;
  for (let s = sources; s < end; s += SOURCE_BYTES) {
    if (!among(f, load<i32>(s, FROM), load<i32>(s, TO))) continue;
    const start = load<u32>(s, STARTS) + ((<usize>f) << 2);
    const pair0 = load<u32>(s, PAIRS) + ((<usize>load<u32>(start)) << 3);
    const pair1 = load<u32>(s, PAIRS) + ((<usize>load<u32>(start, 4)) << 3);
    if (pair0 == pair1) continue;
    const rows = load<u32>(s, ROWS);
    const center = load<u32>(s, CENTER);
    const coefficients = load<u32>(s, COEFFICIENTS);
    const scale = load<f32>(s, SCALE);
    if (coefficients && center) {
      gatherRow(g, rows, center, row, coefficients, pair0, pair1, scale, true);
    } else if (coefficients) gatherRow(g, rows, 0, row, coefficients, pair0, pair1, scale, false);
    const summed = load<u32>(s, SUMMED);
    if (!summed) continue;
    for (let pair = pair0; pair < pair1; pair += 8) {
      sum += <f64>load<f32>(summed + <usize>load<u32>(pair, 4));
    }
  }
  return sum;
}

/** a += s b over a row. */
function addScaledRow(a: usize, b: usize, s: f32, row: usize): void {
  const s4 = f32x4.splat(s);
  for (let i: usize = 0; i < row; i += 16) {
    v128.store(a + i, f32x4.add(v128.load(a + i), f32x4.mul(s4, v128.load(b + i))));
  }
}

/** x *= s over a row. */
function scaleRow(x: usize, s: f32, row: usize): void {
  const s4 = f32x4.splat(s);
  for (let i: usize = 0; i < row; i += 16) v128.store(x + i, f32x4.mul(s4, v128.load(x + i)));
}

/** G -= (G·u)u with u = W/‖W‖; a row of norm 0 has no direction, its gradient stays. */
function projectRow(g: usize, w: usize, row: usize): void {
  const squared = dot(w, w, row);
  const along = dot(g, w, row);
  if (squared > SMALLEST_SQUARE && squared < LARGEST_SQUARE && abs(along) < LARGEST_SQUARE) {
    addScaledRow(g, w, -along / squared, row);
    return;
  }
  const squared64 = dot64(w, w, row);
  if (squared64 != 0) addScaled64(g, w, -dot64(g, w, row) / squared64, row);
}

/** W /= ‖W‖; a row of norm 0 stays. `squared` is ‖W‖² as an f32. */
function normalizeRow(w: usize, squared: f32, row: usize): void {
  if (squared > SMALLEST_SQUARE && squared < LARGEST_SQUARE) {
    scaleRow(w, <f32>(1 / sqrt<f64>(<f64>squared)), row);
    return;
  }
  const squared64 = dot64(w, w, row);
  if (squared64 == 0) return;
  const inverse = f64x2.splat(1 / sqrt<f64>(squared64));
  for (let i: usize = 0; i < row; i += 16) {
    const v = v128.load(w + i);
    v128.store(w + i, narrow(f64x2.mul(inverse, low(v)), f64x2.mul(inverse, high(v))));
  }
}

/** W /= ‖W‖ for `rows` rows; a row of norm 0 stays. */
export function normalizeRows(w: usize, row: usize, rows: i32): void {
  for (let r: usize = 0; r < <usize>rows; r++) {
    normalizeRow(w + r * row, dot(w + r * row, w + r * row, row), row);
  }
}

/**
 * One Adam step over `bytes` of floats, with g = scale grad, after which no parameter is below `least`:
 * m = β1 m + (1-β1) g;  v = β2 v + (1-β2) g²;  p -= stepSize m / (√(v / correction2) + eps)
 * with stepSize = lr / (1-β1^t) and correction2 = 1-β2^t. The factors 1-β come rounded from f64:
 * 1 - 0.999 in f32 is off by 1e-5.
 */
export function adam(
  param: usize,
  grad: usize,
  m: usize,
  v: usize,
  bytes: usize,
  scale: f32,
  least: f32,
  stepSize: f32,
  correction2: f32,
  beta1: f32,
  oneMinusBeta1: f32,
  beta2: f32,
  oneMinusBeta2: f32,
  eps: f32,
): void {
  const scale4 = f32x4.splat(scale);
  const least4 = f32x4.splat(least);
  const step4 = f32x4.splat(stepSize);
  const inverse4 = f32x4.splat(<f32>1 / correction2);
  const beta1x4 = f32x4.splat(beta1);
  const rest1x4 = f32x4.splat(oneMinusBeta1);
  const beta2x4 = f32x4.splat(beta2);
  const rest2x4 = f32x4.splat(oneMinusBeta2);
  const eps4 = f32x4.splat(eps);
  for (let i: usize = 0; i < bytes; i += 16) {
    const g = f32x4.mul(scale4, v128.load(grad + i));
    const mi = f32x4.add(f32x4.mul(beta1x4, v128.load(m + i)), f32x4.mul(rest1x4, g));
    const vi = f32x4.add(f32x4.mul(beta2x4, v128.load(v + i)), f32x4.mul(f32x4.mul(rest2x4, g), g));
    v128.store(m + i, mi);
    v128.store(v + i, vi);
    const divisor = f32x4.add(f32x4.sqrt(f32x4.mul(vi, inverse4)), eps4);
    const change = f32x4.div(f32x4.mul(step4, mi), divisor);
    v128.store(param + i, f32x4.pmax(f32x4.sub(v128.load(param + i), change), least4));
  }
}

/**
 * W_dec of latents [from, to). The gradient of latent f is what the sources give, or, when `step`
 * is not 0, what lies at gradient + (f - from) step, times scale. Added to it is the gradient of
 * s ‖W_dec[f]‖, s being the sum of the sources' `summed` numbers and of normSums[f] (unless 0) and
 * the norm that of each of `groups` pieces of `groupBytes` by itself; a piece of norm 0 has none.
 * Then it is projected if asked for, and either written (added, with accumulate) to the row of
 * `out`, or, when that is 0, used for an Adam step, and unit norm.
 */
export function updateDecoder(
  gradient: usize,
  step: usize,
  scale: f32,
  sources: usize,
  count: i32,
  normSums: usize,
  groups: i32,
  groupBytes: usize,
  project: bool,
  out: usize,
  accumulate: bool,
  w: usize,
  m: usize,
  v: usize,
  row: usize,
  unitNorm: bool,
  from: i32,
  to: i32,
  stepSize: f32,
  correction2: f32,
  beta1: f32,
  oneMinusBeta1: f32,
  beta2: f32,
  oneMinusBeta2: f32,
  eps: f32,
): void {
  for (let f = from; f < to; f++) {
    const g = gradient + <usize>(f - from) * step;
    const at = <usize>f * row;
    let sum = normSums ? <f64>load<f32>(normSums + ((<usize>f) << 2)) : 0;
    if (step) scaleRow(g, scale, row);
    else sum += gather(g, row, sources, count, f);
    for (let group: usize = 0; sum != 0 && group < <usize>groups; group++) {
      const piece = w + at + group * groupBytes;
      const squared = dot64(piece, piece, groupBytes);
      if (squared == 0) continue;
      addScaled64(g + group * groupBytes, piece, sum / sqrt<f64>(squared), groupBytes);
    }
    if (project) projectRow(g, w + at, row);
    if (out) {
      keepRow(out + at, g, accumulate, row);
      continue;
    }
    adam(
      w + at,
      g,
      m + at,
      v + at,
      row,
      1,
      -Infinity,
      stepSize,
      correction2,
      beta1,
      oneMinusBeta1,
      beta2,
      oneMinusBeta2,
      eps,
    );
    if (unitNorm) normalizeRow(w + at, dot(w + at, w + at, row), row);
  }
}

/**
 * W_enc of latents [from, to), with the gradients as for `updateDecoder`, except that nothing is
 * scaled. sums[f], the gradient of b_enc, is what lies there, or with sources the sum of their
 * `summed` numbers. Unless coefficients is 0, coefficients[f] inputs is added to the gradient and
 * coefficients[f] rows to that of b_enc. Then, unless partial is 0, partial -= sums[f] W_enc[f], and
 * the gradient is written or used for an Adam step.
 */
export function updateEncoder(
  gradient: usize,
  step: usize,
  sources: usize,
  count: i32,
  sums: usize,
  coefficients: usize,
  inputs: usize,
  rows: f64,
  partial: usize,
  out: usize,
  accumulate: bool,
  w: usize,
  m: usize,
  v: usize,
  row: usize,
  from: i32,
  to: i32,
  stepSize: f32,
  correction2: f32,
  beta1: f32,
  oneMinusBeta1: f32,
  beta2: f32,
  oneMinusBeta2: f32,
  eps: f32,
): void {
  if (partial) memory.fill(partial, 0, row);
  for (let f = from; f < to; f++) {
    const g = gradient + <usize>(f - from) * step;
    const at = <usize>f * row;
    const sumAt = sums + ((<usize>f) << 2);
    let sum = step ? <f64>load<f32>(sumAt) : gather(g, row, sources, count, f);
    if (coefficients) {
      const coefficient = load<f32>(coefficients + ((<usize>f) << 2));
      addScaledRow(g, inputs, coefficient, row);
      sum += <f64>coefficient * rows;
    }
    store<f32>(sumAt, <f32>sum);
    if (partial && sum != 0) addScaledRow(partial, w + at, <f32>-sum, row);
    if (out) keepRow(out + at, g, accumulate, row);
    else
      adam(
        w + at,
        g,
        m + at,
        v + at,
        row,
        1,
        -Infinity,
        stepSize,
        correction2,
        beta1,
        oneMinusBeta1,
        beta2,
        oneMinusBeta2,
        eps,
      );
  }
}

/** out = g, or out += g. */
function keepRow(out: usize, g: usize, accumulate: bool, row: usize): void {
  if (accumulate) addScaledRow(out, g, 1, row);
  else memory.copy(out, g, row);
}
