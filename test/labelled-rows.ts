import type { LabelledRows } from "../src/analysis/supervised-rows.ts";

/** Rows from dense codes [rows, dSae] and labels by concept. */
export function rowsOf(
  x: ArrayLike<number>,
  codes: ArrayLike<number>,
  labels: Record<string, ArrayLike<number>>,
  document: ArrayLike<number>,
  { dIn, dSae, documents }: { dIn: number; dSae: number; documents: number },
): LabelledRows {
  const rows = x.length / dIn;
  const offsets = new Int32Array(dSae + 1);
  const positions: number[] = [];
  const values: number[] = [];
  for (let f = 0; f < dSae; f++) {
    for (let n = 0; n < rows; n++) {
      if (codes[n * dSae + f] === 0) continue;
      positions.push(n);
      values.push(codes[n * dSae + f]);
    }
    offsets[f + 1] = positions.length;
  }
  return {
    ...{ rows, dIn, dSae, documents, x: Float32Array.from(x) },
    codes: { offsets, positions: Int32Array.from(positions), values: Float32Array.from(values) },
    document: Int32Array.from(document),
    labels: new Map(Object.entries(labels).map(([name, label]) => [name, Uint8Array.from(label)])),
  };
}
