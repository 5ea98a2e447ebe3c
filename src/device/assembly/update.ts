/** What is done with gradients in the shared memory: Adam, and the decoder's constraint row by row. */
import { dot64, high, low, narrow } from "./vector";

/**
 * One Adam step over `bytes` of floats:
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
  stepSize: f32,
  correction2: f32,
  beta1: f32,
  oneMinusBeta1: f32,
  beta2: f32,
  oneMinusBeta2: f32,
  eps: f32,
): void {
  const step4 = f32x4.splat(stepSize);
  const inverse4 = f32x4.splat(<f32>1 / correction2);
  const beta1x4 = f32x4.splat(beta1);
  const rest1x4 = f32x4.splat(oneMinusBeta1);
  const beta2x4 = f32x4.splat(beta2);
  const rest2x4 = f32x4.splat(oneMinusBeta2);
  const eps4 = f32x4.splat(eps);
  for (let i: usize = 0; i < bytes; i += 16) {
    const g = v128.load(grad + i);
    const mi = f32x4.add(f32x4.mul(beta1x4, v128.load(m + i)), f32x4.mul(rest1x4, g));
    const vi = f32x4.add(f32x4.mul(beta2x4, v128.load(v + i)), f32x4.mul(f32x4.mul(rest2x4, g), g));
    v128.store(m + i, mi);
    v128.store(v + i, vi);
    const divisor = f32x4.add(f32x4.sqrt(f32x4.mul(vi, inverse4)), eps4);
    const change = f32x4.div(f32x4.mul(step4, mi), divisor);
    v128.store(param + i, f32x4.sub(v128.load(param + i), change));
  }
}

/** g += factor u over one row, in f64: factor may be no f32 where a row is very small or large. */
function addScaledRow(g: usize, u: usize, factor: f64, row: usize): void {
  const f = f64x2.splat(factor);
  for (let i: usize = 0; i < row; i += 16) {
    const gi = v128.load(g + i);
    const ui = v128.load(u + i);
    const lower = f64x2.add(low(gi), f64x2.mul(f, low(ui)));
    const upper = f64x2.add(high(gi), f64x2.mul(f, high(ui)));
    v128.store(g + i, narrow(lower, upper));
  }
}

/** G -= (G·u)u with u = W/‖W‖, for `rows` rows; a row of norm 0 has no direction, its gradient stays. */
export function projectRows(grad: usize, w: usize, row: usize, rows: i32): void {
  for (let r: usize = 0; r < <usize>rows; r++) {
    const g = grad + r * row;
    const u = w + r * row;
    const squared = dot64(u, u, row);
    if (squared != 0) addScaledRow(g, u, -dot64(g, u, row) / squared, row);
  }
}

/** W /= ‖W‖ for `rows` rows; a row of norm 0 stays. */
export function normalizeRows(w: usize, row: usize, rows: i32): void {
  for (let r: usize = 0; r < <usize>rows; r++) {
    const u = w + r * row;
    const squared = dot64(u, u, row);
    if (squared == 0) continue;
    const inverse = f64x2.splat(1 / sqrt<f64>(squared));
    for (let i: usize = 0; i < row; i += 16) {
      const ui = v128.load(u + i);
      v128.store(u + i, narrow(f64x2.mul(inverse, low(ui)), f64x2.mul(inverse, high(ui))));
    }
  }
}

/** out = -Σ_r weights[r] W[r] over `rows` rows. */
export function subtractWeightedRows(
  out: usize,
  w: usize,
  weights: usize,
  row: usize,
  rows: i32,
): void {
  memory.fill(out, 0, row);
  for (let r: usize = 0; r < <usize>rows; r++) {
    const s = v128.load32_splat(weights + (r << 2));
    for (let i: usize = 0; i < row; i += 16) {
      const product = f32x4.mul(s, v128.load(w + r * row + i));
      v128.store(out + i, f32x4.sub(v128.load(out + i), product));
    }
  }
}

/** G = scale G + λ actSums[r] W[r]/‖W[r]‖ over `rows` rows; a row of norm 0 gets no penalty. */
export function scaleWithNormPenalty(
  grad: usize,
  scale: f32,
  w: usize,
  actSums: usize,
  lambda: f32,
  row: usize,
  rows: i32,
): void {
  const scale4 = f32x4.splat(scale);
  for (let r: usize = 0; r < <usize>rows; r++) {
    const g = grad + r * row;
    for (let i: usize = 0; i < row; i += 16) {
      v128.store(g + i, f32x4.mul(scale4, v128.load(g + i)));
    }
    if (lambda == 0) continue;
    const u = w + r * row;
    const squared = dot64(u, u, row);
    if (squared == 0) continue;
    const actSum = <f64>load<f32>(actSums + (r << 2));
    addScaledRow(g, u, (<f64>lambda * actSum) / sqrt<f64>(squared), row);
  }
}
