/** Products of many vectors with many vectors, block by block, so that only a block is ever in memory. */
import type { Device } from "../device/device.ts";

/** Products of the rows from … of one matrix with all rows of another. */
export interface ProductBlock {
  from: number;
  rows: number;
  /** [rows, m] */
  products: Float32Array;
}

/** Numbers in a block. */
const BLOCK = 2 ** 21;

/**
 * a bᵀ for a [n, width] and b [m, width], in blocks of rows of a. On a device sums are float32, without
 * one they are float64 in plain loops: right for a few rows, slow (0.5 to 1 billion products a second)
 * for many. The array of a block is used again for the next.
 */
export async function* rowProducts(
  a: Float32Array,
  b: Float32Array,
  width: number,
  device?: Device,
): AsyncGenerator<ProductBlock> {
  const [n, m] = [a.length / width, b.length / width];
  const blockRows = Math.max(1, Math.min(n, Math.floor(BLOCK / m)));
  if (!device) {
    const products = new Float32Array(blockRows * m);
    for (let from = 0; from < n; from += blockRows) {
      const rows = Math.min(blockRows, n - from);
      for (let i = 0; i < rows; i++)
        for (let j = 0; j < m; j++) {
          let sum = 0;
          for (let c = 0, x = (from + i) * width, y = j * width; c < width; c++, x++, y++)
            sum += a[x] * b[y];
          products[i * m + j] = sum;
        }
      yield { from, rows, products: products.subarray(0, rows * m) };
    }
    return;
  }
  const tensors = [
    device.tensor([m, width]),
    device.tensor([blockRows, width]),
    device.tensor([blockRows, m]),
  ];
  const [right, left, out] = tensors;
  try {
    device.write(right, b);
    for (let from = 0; from < n; from += blockRows) {
      const rows = Math.min(blockRows, n - from);
      device.write(left, a.subarray(from * width, (from + rows) * width));
      device.matmul({ a: left, b: right, transA: false, transB: true, out, rows });
      yield { from, rows, products: await device.readF32(out, rows * m) };
    }
  } finally {
    device.free(...tensors);
  }
}
