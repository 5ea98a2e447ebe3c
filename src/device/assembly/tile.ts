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

/** sum += x over `bytes` of floats. */
export function addTo(sum: usize, x: usize, bytes: usize): void {
  for (let i: usize = 0; i < bytes; i += 16) {
    v128.store(sum + i, f32x4.add(v128.load(sum + i), v128.load(x + i)));
  }
}

/** x = scale x (+ former, unless that is 0) over `bytes` of floats. */
export function scaleTile(x: usize, scale: f32, former: usize, bytes: usize): void {
  const scale4 = f32x4.splat(scale);
  for (let i: usize = 0; i < bytes; i += 16) {
    const scaled = f32x4.mul(scale4, v128.load(x + i));
    v128.store(x + i, former ? f32x4.add(scaled, v128.load(former + i)) : scaled);
  }
}

/** out = xᵀ for a matrix of `rows` rows of `columns` floats, both lying dense. */
export function transpose(x: usize, rows: i32, columns: i32, out: usize): void {
  const from = (<usize>columns) << 2;
  const to = (<usize>rows) << 2;
  // Squares of 16 by 16: what is read and what is written of one are 16 cache lines each.
  for (let r0 = 0; r0 < rows; r0 += 16) {
    const r1 = min(r0 + 16, rows);
    for (let c0 = 0; c0 < columns; c0 += 16) {
      const c1 = min(c0 + 16, columns);
      if (r1 - r0 < 16 || c1 - c0 < 16) {
        for (let r = <usize>r0; r < <usize>r1; r++) {
          for (let c = <usize>c0; c < <usize>c1; c++) {
            store<f32>(out + c * to + (r << 2), load<f32>(x + r * from + (c << 2)));
          }
        }
        continue;
      }
      for (let r = <usize>r0; r < <usize>r1; r += 4) {
        for (let c = <usize>c0; c < <usize>c1; c += 4) {
          const at = x + r * from + (c << 2);
          const v0 = v128.load(at);
          const v1 = v128.load(at + from);
          const v2 = v128.load(at + 2 * from);
          const v3 = v128.load(at + 3 * from);
          const low01 = v128.shuffle<i32>(v0, v1, 0, 4, 1, 5);
          const high01 = v128.shuffle<i32>(v0, v1, 2, 6, 3, 7);
          const low23 = v128.shuffle<i32>(v2, v3, 0, 4, 1, 5);
          const high23 = v128.shuffle<i32>(v2, v3, 2, 6, 3, 7);
          const o = out + c * to + (r << 2);
          v128.store(o, v128.shuffle<i64>(low01, low23, 0, 2));
          v128.store(o + to, v128.shuffle<i64>(low01, low23, 1, 3));
          v128.store(o + 2 * to, v128.shuffle<i64>(high01, high23, 0, 2));
          v128.store(o + 3 * to, v128.shuffle<i64>(high01, high23, 1, 3));
        }
      }
    }
  }
}
