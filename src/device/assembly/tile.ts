/**
 * Blocks of matrices in a worker's own memory, before and after ONNX Runtime's products: what must
 * be done while the block is still in the cache.
 */

/** x -= center for `rows` rows. */
export function centerRows(x: usize, center: usize, row: usize, rows: i32): void {
  for (let n: usize = 0; n < <usize>rows; n++) {
    for (let i: usize = 0; i < row; i += 16) {
      const at = x + n * row + i;
      v128.store(at, f32x4.sub(v128.load(at), v128.load(center + i)));
    }
  }
}

/** z = max(z + bias, 0) for `rows` rows. NaN stays NaN. */
export function addBiasRelu(z: usize, bias: usize, row: usize, rows: i32): void {
  for (let n: usize = 0; n < <usize>rows; n++) {
    for (let i: usize = 0; i < row; i += 16) {
      const at = z + n * row + i;
      v128.store(at, f32x4.max(f32x4.add(v128.load(at), v128.load(bias + i)), f32x4.splat(0)));
    }
  }
}

/** sum += x over `bytes` of floats. */
export function addTo(sum: usize, x: usize, bytes: usize): void {
  for (let i: usize = 0; i < bytes; i += 16) {
    v128.store(sum + i, f32x4.add(v128.load(sum + i), v128.load(x + i)));
  }
}
