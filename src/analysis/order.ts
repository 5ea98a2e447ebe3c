/** Places of the values from the largest down, ties in their order; NaN is not allowed. O(n): radix sort over the bits. */
export function fallingOrder(values: Float32Array): Int32Array<ArrayBuffer> {
  const n = values.length;
  const floats = values.slice();
  let keys = new Uint32Array(floats.buffer);
  // The bits of floats order as integers, those of negative ones backwards; then all is turned round.
  for (let i = 0; i < n; i++) {
    const bits = floats[i] === 0 ? 0 : keys[i];
    keys[i] = bits & 0x80000000 ? bits : 0x7fffffff - bits;
  }
  let order = new Int32Array(n);
  for (let i = 0; i < n; i++) order[i] = i;
  let [nextKeys, nextOrder] = [new Uint32Array(n), new Int32Array(n)];
  for (const shift of [0, 11, 22]) {
    const starts = new Int32Array(2048);
    for (let i = 0; i < n; i++) starts[(keys[i] >>> shift) & 2047]++;
    for (let b = 0, sum = 0; b < 2048; b++) {
      const count = starts[b];
      starts[b] = sum;
      sum += count;
    }
    for (let i = 0; i < n; i++) {
      const to = starts[(keys[i] >>> shift) & 2047]++;
      nextKeys[to] = keys[i];
      nextOrder[to] = order[i];
    }
    [keys, nextKeys, order, nextOrder] = [nextKeys, keys, nextOrder, order];
  }
  return order;
}

/** Places of the `count` largest values, falling; of equals the first one first. NaN is not allowed. */
export function highest(values: ArrayLike<number>, count: number): number[] {
  const best: number[] = [];
  if (count === 0) return best;
  for (let i = 0; i < values.length; i++) {
    if (best.length === count) {
      if (!(values[i] > values[best[count - 1]])) continue;
      best.pop();
    }
    let place = best.length;
    while (place > 0 && values[best[place - 1]] < values[i]) place--;
    best.splice(place, 0, i);
  }
  return best;
}
