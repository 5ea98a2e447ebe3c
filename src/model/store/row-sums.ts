/** The sums of a shard's record. */
import type { ShardSums } from "./manifest.ts";

/** Sums of the values that are added. */
export class RowSums {
  readonly sums: ShardSums;

  constructor(width: number) {
    const sum = new Array<number>(width).fill(0);
    this.sums = { sum, sumSquares: 0, sumNorm: 0, maxNorm: 0 };
  }

  /** @param values [rows, width] */
  add(values: Float32Array): void {
    const width = this.sums.sum.length;
    for (let start = 0; start < values.length; start += width) this.addRow(values, start);
  }

  /** Adds the row that begins at `start`. @returns the sum of its squares. */
  addRow(values: Float32Array, start: number): number {
    const { sum } = this.sums;
    let squares = 0;
    for (let j = 0; j < sum.length; j++) {
      const x = values[start + j];
      sum[j] += x;
      squares += x * x;
    }
    const norm = Math.sqrt(squares);
    this.sums.sumSquares += squares;
    this.sums.sumNorm += norm;
    if (norm > this.sums.maxNorm) this.sums.maxNorm = norm;
    return squares;
  }
}
