/**
 * A heap of the k best (value, latent) of a row, the worst of them at the root. None of it is
 * exported from a module.
 */

/** NaN ranks like -Infinity, so that it is taken last and cannot disturb the order of the rest. */
export function rank(v: f32): f32 {
  return v == v ? v : -Infinity;
}

/** Does (value a, latent i) come after (value b, latent j)? Ties go to the lower latent. */
function after(a: f32, i: i32, b: f32, j: i32): bool {
  const ra = rank(a);
  const rb = rank(b);
  return ra < rb || (ra == rb && i > j);
}

/** Puts (value, latent) where slot `at` is free, moving it down a heap of n entries to its place. */
export function siftDown(
  values: usize,
  latents: usize,
  n: i32,
  value: f32,
  latent: i32,
  at: i32,
): void {
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

/** Makes a heap of the first n entries. */
export function makeHeap(values: usize, latents: usize, n: i32): void {
  for (let at = n / 2 - 1; at >= 0; at--) {
    const value = load<f32>(values + ((<usize>at) << 2));
    siftDown(values, latents, n, value, load<i32>(latents + ((<usize>at) << 2)), at);
  }
}

/** Sorts a heap of `used` entries into falling order and makes values max(value, 0); slots from there to k become unused. */
export function finishHeap(values: usize, latents: usize, k: i32, used: i32): void {
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
