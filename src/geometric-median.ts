/**
 * The point with the smallest mean distance from the rows of x [rows, dIn], by Weiszfeld's iteration
 * from the mean: at most 100 times, or until it moves by less than 1e-5 of its distance.
 */
export function geometricMedian(x: Float32Array, dIn: number): Float64Array {
  const rows = x.length / dIn;
  let median = new Float64Array(dIn);
  for (let i = 0; i < x.length; i++) median[i % dIn] += x[i] / rows;
  for (let iteration = 0; iteration < 100; iteration++) {
    const next = new Float64Array(dIn);
    let weights = 0;
    for (let n = 0; n < rows; n++) {
      let squared = 0;
      for (let c = 0; c < dIn; c++) squared += (x[n * dIn + c] - median[c]) ** 2;
      if (squared === 0) continue;
      const weight = 1 / Math.sqrt(squared);
      weights += weight;
      for (let c = 0; c < dIn; c++) next[c] += weight * x[n * dIn + c];
    }
    if (weights === 0) return median;
    let moved = 0;
    for (let c = 0; c < dIn; c++) {
      next[c] /= weights;
      moved += (next[c] - median[c]) ** 2;
    }
    median = next;
    // rows / weights is the harmonic mean of the distances.
    if (Math.sqrt(moved) < (1e-5 * rows) / weights) break;
  }
  return median;
}
