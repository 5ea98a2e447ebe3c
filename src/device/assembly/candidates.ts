/**
 * Pre-activations of candidates, exactly: of (row, latent) pairs that bounds could not rule out, in
 * ragged lists in the shared memory. Row n of a list has slots ends[n-1] … ends[n]-1 (0 for ends[-1]);
 * a slot is an index into latents, uppers and z. Row n of the list is row n of `x`.
 */
import { finishHeap, makeHeap, rank, siftDown } from "./heap";
import { dot, sumLanes } from "./vector";

function startOf(ends: usize, n: usize): usize {
  return n == 0 ? 0 : <usize>load<u32>(ends + ((n - 1) << 2));
}

/**
 * z = ⟨x, w⟩ + b of slots [from[n], to[n]) of `rows` rows, latent by latent, so that a row of w is read once.
 * `counts` has room for latents + 1 integers, `pairs` for two per slot.
 */
export function evaluateCandidates(
  x: usize,
  w: usize,
  row: usize,
  bEnc: usize,
  latents: i32,
  rows: i32,
  listed: usize,
  from: usize,
  to: usize,
  z: usize,
  counts: usize,
  pairs: usize,
): void {
  memory.fill(counts, 0, (<usize>latents + 1) << 2);
  for (let n: usize = 0; n < <usize>rows; n++) {
    const end = load<u32>(to + (n << 2));
    for (let slot = load<u32>(from + (n << 2)); slot < end; slot++) {
      const at = counts + ((<usize>load<u32>(listed + ((<usize>slot) << 2))) << 2);
      store<u32>(at, load<u32>(at, 4) + 1, 4);
    }
  }
  for (let f: usize = 0; f < <usize>latents; f++) {
    const at = counts + (f << 2);
    store<u32>(at, load<u32>(at, 4) + load<u32>(at), 4);
  }
  for (let n: usize = 0; n < <usize>rows; n++) {
    const end = load<u32>(to + (n << 2));
    for (let slot = load<u32>(from + (n << 2)); slot < end; slot++) {
      const at = counts + ((<usize>load<u32>(listed + ((<usize>slot) << 2))) << 2);
      const place = load<u32>(at);
      store<u32>(at, place + 1);
      const pair = pairs + ((<usize>place) << 3);
      store<u32>(pair, <u32>n);
      store<u32>(pair, slot, 4);
    }
  }
  // Now counts[f] is where the pairs of latent f end.
  let pair: usize = 0;
  for (let f: usize = 0; f < <usize>latents; f++) {
    const end = <usize>load<u32>(counts + (f << 2));
    const wf = w + f * row;
    const bias = load<f32>(bEnc + (f << 2));
    for (; pair + 1 < end; pair += 2) {
      const at = pairs + (pair << 3);
      const x0 = x + <usize>load<u32>(at) * row;
      const x1 = x + <usize>load<u32>(at, 8) * row;
      const z0 = z + ((<usize>load<u32>(at, 4)) << 2);
      const z1 = z + ((<usize>load<u32>(at, 12)) << 2);
      twoDots(x0, x1, wf, row, bias, z0, z1);
    }
    for (; pair < end; pair++) {
      const at = pairs + (pair << 3);
      const value = dot(x + <usize>load<u32>(at) * row, wf, row) + bias;
      store<f32>(z + ((<usize>load<u32>(at, 4)) << 2), value);
    }
  }
}

/** What `dot` computes, to the bit, for two rows at once. */
function twoDots(
  x0: usize,
  x1: usize,
  w: usize,
  row: usize,
  bias: f32,
  z0: usize,
  z1: usize,
): void {
  let a0 = f32x4.splat(0);
  let a1 = a0;
  let a2 = a0;
  let a3 = a0;
  let b0 = a0;
  let b1 = a0;
  let b2 = a0;
  let b3 = a0;
  let i: usize = 0;
  for (const whole = row & ~63; i < whole; i += 64) {
    const w0 = v128.load(w + i);
    const w1 = v128.load(w + i, 16);
    const w2 = v128.load(w + i, 32);
    const w3 = v128.load(w + i, 48);
    a0 = f32x4.add(a0, f32x4.mul(v128.load(x0 + i), w0));
    a1 = f32x4.add(a1, f32x4.mul(v128.load(x0 + i, 16), w1));
    a2 = f32x4.add(a2, f32x4.mul(v128.load(x0 + i, 32), w2));
    a3 = f32x4.add(a3, f32x4.mul(v128.load(x0 + i, 48), w3));
    b0 = f32x4.add(b0, f32x4.mul(v128.load(x1 + i), w0));
    b1 = f32x4.add(b1, f32x4.mul(v128.load(x1 + i, 16), w1));
    b2 = f32x4.add(b2, f32x4.mul(v128.load(x1 + i, 32), w2));
    b3 = f32x4.add(b3, f32x4.mul(v128.load(x1 + i, 48), w3));
  }
  for (; i < row; i += 16) {
    const w0 = v128.load(w + i);
    a0 = f32x4.add(a0, f32x4.mul(v128.load(x0 + i), w0));
    b0 = f32x4.add(b0, f32x4.mul(v128.load(x1 + i), w0));
  }
  store<f32>(z0, sumLanes(f32x4.add(f32x4.add(a0, a1), f32x4.add(a2, a3))) + bias);
  store<f32>(z1, sumLanes(f32x4.add(f32x4.add(b0, b1), f32x4.add(b2, b3))) + bias);
}

/** from and to of the k candidates of each row with the largest upper bounds, which come to its front. Rows without any have none. */
export function likelyCandidates(
  rows: i32,
  ends: usize,
  k: i32,
  latents: usize,
  uppers: usize,
  from: usize,
  to: usize,
): void {
  for (let n: usize = 0; n < <usize>rows; n++) {
    const start = startOf(ends, n);
    const end = <usize>load<u32>(ends + (n << 2));
    store<u32>(from + (n << 2), <u32>start);
    if (start == end) {
      store<u32>(to + (n << 2), <u32>start);
      continue;
    }
    bringForward(latents, uppers, <i32>start, <i32>end - 1, <i32>start + k - 1);
    store<u32>(to + (n << 2), <u32>start + k);
  }
}

/** Reorders slots [low, high] so that none after `wanted` has a larger upper bound than one before. */
function bringForward(latents: usize, uppers: usize, low: i32, high: i32, wanted: i32): void {
  while (low < high) {
    const pivot = load<f32>(uppers + ((<usize>((low + high) >> 1)) << 2));
    let i = low;
    let j = high;
    while (i <= j) {
      while (load<f32>(uppers + ((<usize>i) << 2)) > pivot) i++;
      while (load<f32>(uppers + ((<usize>j) << 2)) < pivot) j--;
      if (i > j) break;
      exchange(latents, i, j);
      exchange(uppers, i, j);
      i++;
      j--;
    }
    if (wanted <= j) high = j;
    else if (wanted >= i) low = i;
    else return;
  }
}

function exchange(words: usize, i: i32, j: i32): void {
  const a = words + ((<usize>i) << 2);
  const b = words + ((<usize>j) << 2);
  const moved = load<u32>(a);
  store<u32>(a, load<u32>(b));
  store<u32>(b, moved);
}

/**
 * After the first k of each row are evaluated: from and to of the others that may yet be among the k largest,
 * for their upper bounds reach the smallest of those, and which come next.
 */
export function remainingCandidates(
  rows: i32,
  ends: usize,
  k: i32,
  latents: usize,
  uppers: usize,
  z: usize,
  from: usize,
  to: usize,
): void {
  for (let n: usize = 0; n < <usize>rows; n++) {
    const start = startOf(ends, n);
    const end = <usize>load<u32>(ends + (n << 2));
    const second = start == end ? end : start + <usize>k;
    let least: f32 = Infinity;
    for (let slot = start; slot < second; slot++) {
      least = min(least, rank(load<f32>(z + (slot << 2))));
    }
    let next = second;
    for (let slot = second; slot < end; slot++) {
      if (!(load<f32>(uppers + (slot << 2)) >= least)) continue;
      exchange(latents, <i32>slot, <i32>next);
      exchange(uppers, <i32>slot, <i32>next);
      next++;
    }
    store<u32>(from + (n << 2), <u32>second);
    store<u32>(to + (n << 2), <u32>next);
  }
}

/**
 * The k largest z of each row's slots up to to[n], as `encodeTopK` gives them: rows of values and indices
 * `codeRow` bytes apart. missed[n] becomes 1 where one of them is below what the row was screened with
 * (guesses[n]), so that there may be others, else 0. A row without candidates is left alone.
 */
export function takeLargest(
  rows: i32,
  ends: usize,
  to: usize,
  k: i32,
  latents: usize,
  z: usize,
  values: usize,
  indices: usize,
  codeRow: usize,
  guesses: usize,
  missed: usize,
): void {
  const bytes = (<usize>k) << 2;
  for (let n: usize = 0; n < <usize>rows; n++) {
    const start = startOf(ends, n);
    store<i32>(missed + (n << 2), 0);
    if (start == <usize>load<u32>(ends + (n << 2))) continue;
    const end = <usize>load<u32>(to + (n << 2));
    const kept = values + n * codeRow;
    const numbers = indices + n * codeRow;
    memory.copy(kept, z + (start << 2), bytes);
    memory.copy(numbers, latents + (start << 2), bytes);
    makeHeap(kept, numbers, k);
    for (let slot = start + <usize>k; slot < end; slot++) {
      const value = rank(load<f32>(z + (slot << 2)));
      const latent = load<i32>(latents + (slot << 2));
      const worst = rank(load<f32>(kept));
      if (value < worst || (value == worst && latent > load<i32>(numbers))) continue;
      siftDown(kept, numbers, k, value, latent, 0);
    }
    const least = rank(load<f32>(kept));
    if (!(least >= load<f32>(guesses + (n << 2)))) store<i32>(missed + (n << 2), 1);
    finishHeap(kept, numbers, k, k);
  }
}

/**
 * The evaluated slots with z > limit, the row's latents rising as they were: rows (numbered from firstRow on),
 * latents and z from the front of their lists on. `limits` are the latents', or 0: then `limit` is everyone's.
 * Returns how many there are.
 */
export function takeAbove(
  rows: i32,
  ends: usize,
  firstRow: i32,
  limits: usize,
  limit: f32,
  listedRows: usize,
  latents: usize,
  z: usize,
): i32 {
  let taken: usize = 0;
  let slot: usize = 0;
  for (let n: usize = 0; n < <usize>rows; n++) {
    const end = <usize>load<u32>(ends + (n << 2));
    for (; slot < end; slot++) {
      const f = load<i32>(latents + (slot << 2));
      const value = load<f32>(z + (slot << 2));
      if (!(value > (limits ? load<f32>(limits + ((<usize>f) << 2)) : limit))) continue;
      store<i32>(listedRows + (taken << 2), firstRow + <i32>n);
      store<i32>(latents + (taken << 2), f);
      store<f32>(z + (taken << 2), value);
      taken++;
    }
  }
  return <i32>taken;
}
