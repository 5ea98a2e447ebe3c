/**
 * The k largest pre-activations of each row, tile by tile, in a worker's own memory. Each row keeps
 * a heap of the best k seen so far with the worst of them at the root; a vector comparison with the
 * root passes over almost everything.
 */

/** NaN ranks like -Infinity, so that it is taken last and cannot disturb the order of the rest. */
function rank(v: f32): f32 {
  return v == v ? v : -Infinity;
}

/** Does (value a, latent i) come after (value b, latent j)? Ties go to the lower latent. */
function after(a: f32, i: i32, b: f32, j: i32): bool {
  const ra = rank(a);
  const rb = rank(b);
  return ra < rb || (ra == rb && i > j);
}

/** Puts (value, latent) where slot `at` is free, moving it down a heap of n entries to its place. */
function siftDown(values: usize, latents: usize, n: i32, value: f32, latent: i32, at: i32): void {
  let parent = <usize>at;
  for (;;) {
    let child = (parent << 1) + 1;
    if (child >= <usize>n) break;
    let cv = load<f32>(values + (child << 2));
    let cl = load<i32>(latents + (child << 2));
    if (child + 1 < <usize>n) {
      const rv = load<f32>(values + (child << 2), 4);
      const rl = load<i32>(latents + (child << 2), 4);
      if (after(rv, rl, cv, cl)) {
        child++;
        cv = rv;
        cl = rl;
      }
    }
    if (!after(cv, cl, value, latent)) break;
    store<f32>(values + (parent << 2), cv);
    store<i32>(latents + (parent << 2), cl);
    parent = child;
  }
  store<f32>(values + (parent << 2), value);
  store<i32>(latents + (parent << 2), latent);
}

/**
 * Offers the pre-activations z + bias of `columns` latents (numbers in `latents`, rising from call
 * to call) to the heaps of `rows` rows; `offered` is how many latents they have seen before. Rows of
 * z are zRow bytes apart. bias, and each row of z, is readable up to a multiple of 16 columns; the
 * bias there is -Infinity.
 */
export function offerToHeaps(
  z: usize,
  zRow: usize,
  bias: usize,
  latents: usize,
  columns: i32,
  rows: i32,
  heapValues: usize,
  heapLatents: usize,
  k: i32,
  offered: i32,
): void {
  const end = (<usize>columns) << 2;
  for (let n: usize = 0; n < <usize>rows; n++) {
    const zn = z + n * zRow;
    const values = heapValues + n * ((<usize>k) << 2);
    const kept = heapLatents + n * ((<usize>k) << 2);
    let c: usize = 0;
    for (let filled = offered; filled < k && c < end; filled++, c += 4) {
      store<f32>(values + ((<usize>filled) << 2), load<f32>(zn + c) + load<f32>(bias + c));
      store<i32>(kept + ((<usize>filled) << 2), load<i32>(latents + c));
      if (filled != k - 1) continue;
      for (let at = k / 2 - 1; at >= 0; at--) {
        const value = load<f32>(values + ((<usize>at) << 2));
        siftDown(values, kept, k, value, load<i32>(kept + ((<usize>at) << 2)), at);
      }
    }
    // Later latents with the root's value lose the tie, so only a greater value counts.
    let worst = rank(load<f32>(values));
    for (; c < end && (c & 63) != 0; c += 4) {
      const value = load<f32>(zn + c) + load<f32>(bias + c);
      if (!(value > worst)) continue;
      siftDown(values, kept, k, value, load<i32>(latents + c), 0);
      worst = rank(load<f32>(values));
    }
    for (; c < end; c += 64) {
      const limit = f32x4.splat(worst);
      const g0 = f32x4.gt(f32x4.add(v128.load(zn + c), v128.load(bias + c)), limit);
      const g1 = f32x4.gt(f32x4.add(v128.load(zn + c, 16), v128.load(bias + c, 16)), limit);
      const g2 = f32x4.gt(f32x4.add(v128.load(zn + c, 32), v128.load(bias + c, 32)), limit);
      const g3 = f32x4.gt(f32x4.add(v128.load(zn + c, 48), v128.load(bias + c, 48)), limit);
      if (!v128.any_true(v128.or(v128.or(g0, g1), v128.or(g2, g3)))) continue;
      let greater =
        i32x4.bitmask(g0) |
        (i32x4.bitmask(g1) << 4) |
        (i32x4.bitmask(g2) << 8) |
        (i32x4.bitmask(g3) << 12);
      for (; greater != 0; greater &= greater - 1) {
        const at = c + ((<usize>ctz(greater)) << 2);
        const value = load<f32>(zn + at) + load<f32>(bias + at);
        if (!(value > worst)) continue;
        siftDown(values, kept, k, value, load<i32>(latents + at), 0);
        worst = rank(load<f32>(values));
      }
    }
  }
}

/** Sorts each row's heap into falling order and makes values max(value, 0); slots beyond `offered` become unused. */
export function finishHeaps(
  heapValues: usize,
  heapLatents: usize,
  k: i32,
  offered: i32,
  rows: i32,
): void {
  const used = min(k, offered);
  for (let n: usize = 0; n < <usize>rows; n++) {
    const values = heapValues + n * ((<usize>k) << 2);
    const latents = heapLatents + n * ((<usize>k) << 2);
    if (used < k) {
      // Never filled, so never made a heap.
      for (let at = used / 2 - 1; at >= 0; at--) {
        const value = load<f32>(values + ((<usize>at) << 2));
        siftDown(values, latents, used, value, load<i32>(latents + ((<usize>at) << 2)), at);
      }
    }
    for (let last = used - 1; last > 0; last--) {
      const at = (<usize>last) << 2;
      const value = load<f32>(values + at);
      const latent = load<i32>(latents + at);
      store<f32>(values + at, load<f32>(values));
      store<i32>(latents + at, load<i32>(latents));
      siftDown(values, latents, last, value, latent, 0);
    }
    for (let j = 0; j < k; j++) {
      const at = (<usize>j) << 2;
      if (j < used) store<f32>(values + at, max<f32>(load<f32>(values + at), 0));
      else {
        store<f32>(values + at, 0);
        store<i32>(latents + at, -1);
      }
    }
  }
}
