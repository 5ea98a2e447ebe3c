/**
 * The k largest pre-activations of each row, tile by tile, in a worker's own memory. Each row keeps
 * a heap of the best k seen so far with the worst of them at the root; a vector comparison with the
 * root passes over almost everything.
 */
import { finishHeap, makeHeap, rank, siftDown } from "./heap";

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
      if (filled == k - 1) makeHeap(values, kept, k);
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

/** Ends the heaps of `rows` rows, as finishHeap does. */
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
    // One that was never filled was never made a heap.
    if (used < k) makeHeap(values, latents, used);
    finishHeap(values, latents, k, used);
  }
}
