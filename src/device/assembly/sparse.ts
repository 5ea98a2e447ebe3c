/**
 * Sparse codes in the shared memory: decoding them, and turning (row, latent) pairs round so that
 * the gradients of one latent can be gathered together.
 *
 * Codes are `indices` and `values`, k slots per row, rows `codeRow` bytes apart. A slot whose index
 * is not in [0, dSae) is unused.
 */
import { dot } from "./vector";

/** residual = target - (Σ_j values[n,j] wDec[indices[n,j]] + bDec) for rows [first, last); bDec may be 0. */
export function decodeRows(
  target: usize,
  bDec: usize,
  wDec: usize,
  row: usize,
  indices: usize,
  values: usize,
  codeRow: usize,
  k: i32,
  dSae: i32,
  residual: usize,
  first: i32,
  last: i32,
): void {
  const slots = (<usize>k) << 2;
  const zero = f32x4.splat(0);
  for (let n = <usize>first; n < <usize>last; n++) {
    const index = indices + n * codeRow;
    const value = values + n * codeRow;
    const t = target + n * row;
    const r = residual + n * row;
    let i: usize = 0;
    // 32 output floats stay in registers while all rows of W_dec are added.
    for (const whole = row & ~127; i < whole; i += 128) {
      let a0 = bDec ? v128.load(bDec + i) : zero;
      let a1 = bDec ? v128.load(bDec + i, 16) : zero;
      let a2 = bDec ? v128.load(bDec + i, 32) : zero;
      let a3 = bDec ? v128.load(bDec + i, 48) : zero;
      let a4 = bDec ? v128.load(bDec + i, 64) : zero;
      let a5 = bDec ? v128.load(bDec + i, 80) : zero;
      let a6 = bDec ? v128.load(bDec + i, 96) : zero;
      let a7 = bDec ? v128.load(bDec + i, 112) : zero;
      for (let j: usize = 0; j < slots; j += 4) {
        const f = load<i32>(index + j);
        if (<u32>f >= <u32>dSae) continue;
        const s = v128.load32_splat(value + j);
        const w = wDec + <usize>f * row + i;
        a0 = f32x4.add(a0, f32x4.mul(s, v128.load(w)));
        a1 = f32x4.add(a1, f32x4.mul(s, v128.load(w, 16)));
        a2 = f32x4.add(a2, f32x4.mul(s, v128.load(w, 32)));
        a3 = f32x4.add(a3, f32x4.mul(s, v128.load(w, 48)));
        a4 = f32x4.add(a4, f32x4.mul(s, v128.load(w, 64)));
        a5 = f32x4.add(a5, f32x4.mul(s, v128.load(w, 80)));
        a6 = f32x4.add(a6, f32x4.mul(s, v128.load(w, 96)));
        a7 = f32x4.add(a7, f32x4.mul(s, v128.load(w, 112)));
      }
      v128.store(r + i, f32x4.sub(v128.load(t + i), a0));
      v128.store(r + i, f32x4.sub(v128.load(t + i, 16), a1), 16);
      v128.store(r + i, f32x4.sub(v128.load(t + i, 32), a2), 32);
      v128.store(r + i, f32x4.sub(v128.load(t + i, 48), a3), 48);
      v128.store(r + i, f32x4.sub(v128.load(t + i, 64), a4), 64);
      v128.store(r + i, f32x4.sub(v128.load(t + i, 80), a5), 80);
      v128.store(r + i, f32x4.sub(v128.load(t + i, 96), a6), 96);
      v128.store(r + i, f32x4.sub(v128.load(t + i, 112), a7), 112);
    }
    for (; i < row; i += 16) {
      let a = bDec ? v128.load(bDec + i) : zero;
      for (let j: usize = 0; j < slots; j += 4) {
        const f = load<i32>(index + j);
        if (<u32>f >= <u32>dSae) continue;
        a = f32x4.add(
          a,
          f32x4.mul(v128.load32_splat(value + j), v128.load(wDec + <usize>f * row + i)),
        );
      }
      v128.store(r + i, f32x4.sub(v128.load(t + i), a));
    }
  }
}

/** dValues[n,j] = scale ⟨residual[n], wDec[indices[n,j]]⟩ where values[n,j] > 0, else 0; rows [first, last). */
export function valueGradients(
  residual: usize,
  wDec: usize,
  row: usize,
  indices: usize,
  values: usize,
  dValues: usize,
  codeRow: usize,
  k: i32,
  dSae: i32,
  scale: f32,
  first: i32,
  last: i32,
): void {
  const slots = (<usize>k) << 2;
  for (let n = <usize>first; n < <usize>last; n++) {
    const code = n * codeRow;
    for (let j: usize = 0; j < slots; j += 4) {
      const f = load<i32>(indices + code + j);
      const active = <u32>f < <u32>dSae && load<f32>(values + code + j) > 0;
      const d = active ? scale * dot(residual + n * row, wDec + <usize>f * row, row) : <f32>0;
      store<f32>(dValues + code + j, d);
    }
  }
}

/** counts[f] = number of active pairs of latent f, for latents [firstLatent, lastLatent). */
export function countPairs(
  indices: usize,
  values: usize,
  codeRow: usize,
  k: i32,
  rows: i32,
  firstLatent: i32,
  lastLatent: i32,
  counts: usize,
): void {
  const slots = (<usize>k) << 2;
  const width = lastLatent - firstLatent;
  memory.fill(counts + ((<usize>firstLatent) << 2), 0, (<usize>width) << 2);
  for (let n: usize = 0; n < <usize>rows; n++) {
    const code = n * codeRow;
    for (let j: usize = 0; j < slots; j += 4) {
      const f = load<i32>(indices + code + j);
      if (<u32>(f - firstLatent) >= <u32>width || !(load<f32>(values + code + j) > 0)) continue;
      const at = counts + ((<usize>f) << 2);
      store<i32>(at, load<i32>(at) + 1);
    }
  }
}

/**
 * Lists the active pairs of latents [firstLatent, lastLatent) latent by latent, rows rising: for
 * each the row and the byte offset of its slot (8 bytes a pair). The counts of all latents below
 * must be final. Afterwards ends[f] is one past latent f's last pair, so that its pairs are
 * [ends[f] - counts[f], ends[f]).
 */
export function listPairs(
  indices: usize,
  values: usize,
  codeRow: usize,
  k: i32,
  rows: i32,
  firstLatent: i32,
  lastLatent: i32,
  counts: usize,
  ends: usize,
  pairs: usize,
): void {
  const slots = (<usize>k) << 2;
  const width = lastLatent - firstLatent;
  let start: i32 = 0;
  for (let f = 0; f < firstLatent; f++) start += load<i32>(counts + ((<usize>f) << 2));
  for (let f = firstLatent; f < lastLatent; f++) {
    store<i32>(ends + ((<usize>f) << 2), start);
    start += load<i32>(counts + ((<usize>f) << 2));
  }
  for (let n: usize = 0; n < <usize>rows; n++) {
    const code = n * codeRow;
    for (let j: usize = 0; j < slots; j += 4) {
      const f = load<i32>(indices + code + j);
      if (<u32>(f - firstLatent) >= <u32>width || !(load<f32>(values + code + j) > 0)) continue;
      const at = ends + ((<usize>f) << 2);
      const next = load<i32>(at);
      const pair = pairs + ((<usize>next) << 3);
      store<i32>(pair, <i32>n);
      store<i32>(pair, <i32>(code + j), 4);
      store<i32>(at, next + 1);
    }
  }
}

/** One row of a gather: out += scale Σ coefficients[pair] (source[row of pair] - center). */
function gatherRow(
  out: usize,
  source: usize,
  center: usize,
  row: usize,
  coefficients: usize,
  from: usize,
  to: usize,
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
    for (let pair = from; pair < to; pair += 8) {
      const v = v128.load32_splat(coefficients + <usize>load<u32>(pair, 4));
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
    for (let pair = from; pair < to; pair += 8) {
      const v = v128.load32_splat(coefficients + <usize>load<u32>(pair, 4));
      const r = v128.load(source + <usize>load<u32>(pair) * row + i);
      a = f32x4.add(a, f32x4.mul(v, centered ? f32x4.sub(r, c) : r));
    }
    v128.store(out + i, f32x4.add(v128.load(out + i), f32x4.mul(s, a)));
  }
}

/** out[f - firstLatent] += scale Σ over latent f's pairs of coefficients[pair] source[row of pair]. */
export function gatherRows(
  out: usize,
  source: usize,
  row: usize,
  coefficients: usize,
  pairs: usize,
  counts: usize,
  ends: usize,
  scale: f32,
  firstLatent: i32,
  lastLatent: i32,
): void {
  for (let f = firstLatent; f < lastLatent; f++) {
    const to = pairs + ((<usize>load<u32>(ends + ((<usize>f) << 2))) << 3);
    const from = to - ((<usize>load<u32>(counts + ((<usize>f) << 2))) << 3);
    const g = out + <usize>(f - firstLatent) * row;
    if (from < to) gatherRow(g, source, 0, row, coefficients, from, to, scale, false);
  }
}

/** out[f - firstLatent] += Σ over latent f's pairs of coefficients[pair] (source[row of pair] - center). */
export function gatherCenteredRows(
  out: usize,
  source: usize,
  center: usize,
  row: usize,
  coefficients: usize,
  pairs: usize,
  counts: usize,
  ends: usize,
  firstLatent: i32,
  lastLatent: i32,
): void {
  for (let f = firstLatent; f < lastLatent; f++) {
    const to = pairs + ((<usize>load<u32>(ends + ((<usize>f) << 2))) << 3);
    const from = to - ((<usize>load<u32>(counts + ((<usize>f) << 2))) << 3);
    const g = out + <usize>(f - firstLatent) * row;
    if (from < to) gatherRow(g, source, center, row, coefficients, from, to, 1, true);
  }
}

/** out[f] += Σ over latent f's pairs of coefficients[pair]. */
export function gatherSums(
  out: usize,
  coefficients: usize,
  pairs: usize,
  counts: usize,
  ends: usize,
  firstLatent: i32,
  lastLatent: i32,
): void {
  for (let f = firstLatent; f < lastLatent; f++) {
    const to = pairs + ((<usize>load<u32>(ends + ((<usize>f) << 2))) << 3);
    const from = to - ((<usize>load<u32>(counts + ((<usize>f) << 2))) << 3);
    let sum: f64 = 0;
    for (let pair = from; pair < to; pair += 8) {
      sum += <f64>load<f32>(coefficients + <usize>load<u32>(pair, 4));
    }
    const at = out + ((<usize>f) << 2);
    store<f32>(at, load<f32>(at) + <f32>sum);
  }
}
