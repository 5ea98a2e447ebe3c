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
  // 8 rows of the result at a time: where rows are powers of two long, no more of their cache lines
  // fit into the cache together.
  for (let c0 = 0; c0 < columns; c0 += 8) {
    const c1 = min(c0 + 8, columns);
    const whole = c1 - c0 == 8 ? rows & ~3 : 0;
    for (let r: usize = 0; r < <usize>whole; r += 4) {
      transpose4(x + r * from + ((<usize>c0) << 2), from, out + <usize>c0 * to + (r << 2), to);
      transpose4(
        x + r * from + ((<usize>c0) << 2) + 16,
        from,
        out + <usize>(c0 + 4) * to + (r << 2),
        to,
      );
    }
    for (let r = <usize>whole; r < <usize>rows; r++) {
      for (let c = <usize>c0; c < <usize>c1; c++) {
        store<f32>(out + c * to + (r << 2), load<f32>(x + r * from + (c << 2)));
      }
    }
  }
}

/** A square of 4 by 4 floats. */
function transpose4(x: usize, from: usize, out: usize, to: usize): void {
  const v0 = v128.load(x);
  const v1 = v128.load(x + from);
  const v2 = v128.load(x + 2 * from);
  const v3 = v128.load(x + 3 * from);
  const low01 = v128.shuffle<i32>(v0, v1, 0, 4, 1, 5);
  const high01 = v128.shuffle<i32>(v0, v1, 2, 6, 3, 7);
  const low23 = v128.shuffle<i32>(v2, v3, 0, 4, 1, 5);
  const high23 = v128.shuffle<i32>(v2, v3, 2, 6, 3, 7);
  v128.store(out, v128.shuffle<i64>(low01, low23, 0, 2));
  v128.store(out + to, v128.shuffle<i64>(low01, low23, 1, 3));
  v128.store(out + 2 * to, v128.shuffle<i64>(high01, high23, 0, 2));
  v128.store(out + 3 * to, v128.shuffle<i64>(high01, high23, 1, 3));
}
