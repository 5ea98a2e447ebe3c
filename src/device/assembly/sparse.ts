/**
 * Sparse codes in the shared memory: decoding them, and turning (row, latent) pairs round so that
 * the gradients of one latent can be gathered together. Layouts of codes are those of slots.ts.
 */
import { among, endOfSlots, firstSlot, latentOf } from "./slots";
import { dot } from "./vector";

/** One row of `valueGradients`, whose slots lie in [start, end). */
function gradientsOfRow(
  residual: usize,
  wDec: usize,
  row: usize,
  indices: usize,
  codeRow: usize,
  n: usize,
  start: usize,
  end: usize,
  values: usize,
  dValues: usize,
  scale: f32,
  from: i32,
  to: i32,
  unusedToo: bool,
  inactiveToo: bool,
): void {
  for (let slot = start; slot < end; slot += 4) {
    const f = latentOf(indices, codeRow, n, slot);
    if (among(f, from, to)) {
      const wanted = inactiveToo || load<f32>(values + slot) > 0;
      const d = wanted ? scale * dot(residual, wDec + <usize>f * row, row) : <f32>0;
      store<f32>(dValues + slot, d);
    } else if (unusedToo) store<f32>(dValues + slot, 0);
  }
}

/**
 * residual = target - (Σ values wDec[latent] + bDec) over the slots of latents [from, to), for rows
 * [first, last); bDec may be 0. Then, unless dValues is 0, what `valueGradients` does, while the rows
 * of wDec are still in the cache.
 */
export function decodeRows(
  target: usize,
  bDec: usize,
  wDec: usize,
  row: usize,
  indices: usize,
  ends: usize,
  codeRow: usize,
  k: i32,
  values: usize,
  residual: usize,
  from: i32,
  to: i32,
  dValues: usize,
  scale: f32,
  unusedToo: bool,
  inactiveToo: bool,
  first: i32,
  last: i32,
): void {
  const zero = f32x4.splat(0);
  for (let n = <usize>first; n < <usize>last; n++) {
    const start = firstSlot(indices, ends, codeRow, k, n, from);
    const end = endOfSlots(indices, ends, codeRow, k, n, to);
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
      for (let slot = start; slot < end; slot += 4) {
        const f = latentOf(indices, codeRow, n, slot);
        if (!among(f, from, to)) continue;
        const s = v128.load32_splat(values + slot);
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
      for (let slot = start; slot < end; slot += 4) {
        const f = latentOf(indices, codeRow, n, slot);
        if (!among(f, from, to)) continue;
        const w = v128.load(wDec + <usize>f * row + i);
        a = f32x4.add(a, f32x4.mul(v128.load32_splat(values + slot), w));
      }
      v128.store(r + i, f32x4.sub(v128.load(t + i), a));
    }
    if (dValues) {
      gradientsOfRow(
        r,
        wDec,
        row,
        indices,
        codeRow,
        n,
        start,
        end,
        values,
        dValues,
        scale,
        from,
        to,
        unusedToo,
        inactiveToo,
      );
    }
  }
}

/**
 * dValues = scale ⟨residual[n], wDec[latent]⟩ in the slots of latents [from, to) where the value is
 * > 0, or in all of them with inactiveToo, else 0; other slots become 0 with unusedToo and are left
 * alone without. Rows [first, last).
 */
export function valueGradients(
  residual: usize,
  wDec: usize,
  row: usize,
  indices: usize,
  ends: usize,
  codeRow: usize,
  k: i32,
  values: usize,
  from: i32,
  to: i32,
  dValues: usize,
  scale: f32,
  unusedToo: bool,
  inactiveToo: bool,
  first: i32,
  last: i32,
): void {
  for (let n = <usize>first; n < <usize>last; n++) {
    const start = firstSlot(indices, ends, codeRow, k, n, from);
    const end = endOfSlots(indices, ends, codeRow, k, n, to);
    gradientsOfRow(
      residual + n * row,
      wDec,
      row,
      indices,
      codeRow,
      n,
      start,
      end,
      values,
      dValues,
      scale,
      from,
      to,
      unusedToo,
      inactiveToo,
    );
  }
}

/** Does a slot contribute to gradients? One with value 0 and dValue 0 does not. */
function contributes(values: usize, dValues: usize, slot: usize): bool {
  return load<f32>(values + slot) != 0 || load<f32>(dValues + slot) != 0;
}

/**
 * counts[f] = number of pairs of latent f that contribute, for all latents, in rows [first, last):
 * what one worker has found in its rows.
 */
export function countPairs(
  indices: usize,
  ends: usize,
  codeRow: usize,
  k: i32,
  values: usize,
  dValues: usize,
  latents: i32,
  counts: usize,
  first: i32,
  last: i32,
): void {
  memory.fill(counts, 0, (<usize>latents) << 2);
  for (let n = <usize>first; n < <usize>last; n++) {
    const end = endOfSlots(indices, ends, codeRow, k, n, latents);
    for (let slot = firstSlot(indices, ends, codeRow, k, n, 0); slot < end; slot += 4) {
      const f = load<i32>(indices + slot);
      if (!among(f, 0, latents) || !contributes(values, dValues, slot)) continue;
      const at = counts + ((<usize>f) << 2);
      store<i32>(at, load<i32>(at) + 1);
    }
  }
}

/**
 * From the counts of all threads, one after the other with `latents` each: where the pairs of each
 * latent start (starts, latents + 1 of them; 0 for none wanted), and where those of this thread do (next).
 */
export function startPairs(
  counts: usize,
  threads: i32,
  thread: i32,
  latents: i32,
  starts: usize,
  next: usize,
): void {
  let start: i32 = 0;
  for (let f: usize = 0; f < <usize>latents; f++) {
    if (starts) store<i32>(starts + (f << 2), start);
    for (let t = 0; t < threads; t++) {
      if (t == thread) store<i32>(next + (f << 2), start);
      start += load<i32>(counts + ((<usize>t * <usize>latents + f) << 2));
    }
  }
  if (starts) store<i32>(starts + ((<usize>latents) << 2), start);
}

/**
 * Lists the pairs that contribute in rows [first, last), each latent's from next[f] on: the row and
 * the slot, 8 bytes a pair. So each latent's pairs end up together, rows rising, by whatever number
 * of threads they were listed.
 */
export function listPairs(
  indices: usize,
  ends: usize,
  codeRow: usize,
  k: i32,
  values: usize,
  dValues: usize,
  latents: i32,
  next: usize,
  pairs: usize,
  first: i32,
  last: i32,
): void {
  for (let n = <usize>first; n < <usize>last; n++) {
    const end = endOfSlots(indices, ends, codeRow, k, n, latents);
    for (let slot = firstSlot(indices, ends, codeRow, k, n, 0); slot < end; slot += 4) {
      const f = load<i32>(indices + slot);
      if (!among(f, 0, latents) || !contributes(values, dValues, slot)) continue;
      const at = next + ((<usize>f) << 2);
      const place = load<i32>(at);
      const pair = pairs + ((<usize>place) << 3);
      store<i32>(pair, <i32>n);
      store<i32>(pair, <i32>slot, 4);
      store<i32>(at, place + 1);
    }
  }
}
