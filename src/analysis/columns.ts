/** Columns of numbers and matrices that hold them row by row. */

/** Columns as rows, [rows, columns]. */
export function rowsOf(columns: readonly Float32Array[]): Float32Array {
  const k = columns.length;
  const rows = new Float32Array(k * columns[0].length);
  for (const [j, column] of columns.entries())
    for (let i = 0, at = j; i < column.length; i++, at += k) rows[at] = column[i];
  return rows;
}

/** Column i of a matrix of `count`, copied. */
export function columnInto(
  column: Float32Array<ArrayBuffer>,
  matrix: Float32Array,
  i: number,
  count: number,
): Float32Array<ArrayBuffer> {
  for (let n = 0, at = i; n < column.length; n++, at += count) column[n] = matrix[at];
  return column;
}

/** All of the columns of a matrix of `count`. */
export function columnsOf(matrix: Float32Array, count: number): Float32Array[] {
  return Array.from({ length: count }, (_, i) =>
    columnInto(new Float32Array(matrix.length / count), matrix, i, count),
  );
}

/** Vectors of one length, one after the other. */
export function joined(vectors: readonly Float64Array[]): Float64Array {
  const all = new Float64Array(vectors.length * vectors[0].length);
  for (const [i, vector] of vectors.entries()) all.set(vector, i * vector.length);
  return all;
}
