/** Lists the pre-activations of a block that reach a limit, in a worker's own memory. */

/**
 * Appends (row, latent, z) of each z + bias > limits[c] to three lists of `capacity` entries, row by
 * row, latents rising; returns how many there are in all, those that found no room included.
 * `found` is how many the lists hold so far; `firstRow` and `firstLatent` are added to the numbers.
 * z, bias and limits are readable up to a multiple of 16 columns; the limits there are Infinity.
 */
export function collectAbove(
  z: usize,
  zRow: usize,
  bias: usize,
  limits: usize,
  columns: i32,
  rows: i32,
  firstRow: i32,
  firstLatent: i32,
  listRows: usize,
  listLatents: usize,
  listValues: usize,
  capacity: i32,
  found: i32,
): i32 {
  const end = (<usize>columns) << 2;
  for (let n: usize = 0; n < <usize>rows; n++) {
    const zn = z + n * zRow;
    for (let c: usize = 0; c < end; c += 64) {
      const s0 = f32x4.add(v128.load(zn + c), v128.load(bias + c));
      const s1 = f32x4.add(v128.load(zn + c, 16), v128.load(bias + c, 16));
      const s2 = f32x4.add(v128.load(zn + c, 32), v128.load(bias + c, 32));
      const s3 = f32x4.add(v128.load(zn + c, 48), v128.load(bias + c, 48));
      const g0 = f32x4.gt(s0, v128.load(limits + c));
      const g1 = f32x4.gt(s1, v128.load(limits + c, 16));
      const g2 = f32x4.gt(s2, v128.load(limits + c, 32));
      const g3 = f32x4.gt(s3, v128.load(limits + c, 48));
      if (!v128.any_true(v128.or(v128.or(g0, g1), v128.or(g2, g3)))) continue;
      let greater =
        i32x4.bitmask(g0) |
        (i32x4.bitmask(g1) << 4) |
        (i32x4.bitmask(g2) << 8) |
        (i32x4.bitmask(g3) << 12);
      for (; greater != 0; greater &= greater - 1) {
        if (found < capacity) {
          const at = c + ((<usize>ctz(greater)) << 2);
          const to = (<usize>found) << 2;
          store<i32>(listRows + to, firstRow + <i32>n);
          store<i32>(listLatents + to, firstLatent + <i32>(at >> 2));
          store<f32>(listValues + to, load<f32>(zn + at) + load<f32>(bias + at));
        }
        found++;
      }
    }
  }
  return found;
}
