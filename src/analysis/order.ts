/** An odd number of passes ends in the array that is returned. */
const DIGITS = [0, 11, 22];
const BUCKETS = 2048;
/** Kept from one sort to the next, which are many and of one length. */
const room = { floats: new Float32Array(0), keys: new Uint32Array(0), order: new Int32Array(0) };
const starts = DIGITS.map(() => new Int32Array(BUCKETS));

/**
 * Places of the values from the largest down, ties in their order; NaN is not allowed. O(n): radix sort over the bits.
 * @param into what is returned, when it is there already: as long as the values, or longer.
 */
export function fallingOrder(
  values: Float32Array,
  into: Int32Array<ArrayBuffer> = new Int32Array(values.length),
): Int32Array<ArrayBuffer> {
  const n = values.length;
  if (room.keys.length < n) {
    room.floats = new Float32Array(n);
    room.keys = new Uint32Array(n);
    room.order = new Int32Array(n);
  }
  const { floats } = room;
  floats.set(values);
  let [keys, nextKeys] = [new Uint32Array(floats.buffer), room.keys];
  for (const counts of starts) counts.fill(0);
  const [low, middle, high] = starts;
  for (let i = 0; i < n; i++) {
    // The bits of floats order as integers, those of negative ones backwards; then all is turned round.
    const bits = floats[i] === 0 ? 0 : keys[i];
    const key = (keys[i] = bits & 0x80000000 ? bits : 0x7fffffff - bits);
    low[key & 2047]++;
    middle[(key >>> 11) & 2047]++;
    high[key >>> 22]++;
  }
  for (const counts of starts)
    for (let b = 0, sum = 0; b < BUCKETS; b++) {
      const count = counts[b];
      counts[b] = sum;
      sum += count;
    }
  let [order, nextOrder] = [room.order, into];
  for (const [digit, shift] of DIGITS.entries()) {
    const next = starts[digit];
    for (let i = 0; i < n; i++) {
      const to = next[(keys[i] >>> shift) & 2047]++;
      nextKeys[to] = keys[i];
      nextOrder[to] = digit === 0 ? i : order[i];
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
