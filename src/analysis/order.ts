const DIGITS = [0, 11, 22];
const BUCKETS = 2048;
/** The first bucket of the last digit that holds negative values. */
const NEGATIVE = 512;
/** Kept from one sort to the next, which are many and of one length. */
const room = {
  floats: new Float32Array(0),
  keys: [new Uint32Array(0), new Uint32Array(0)],
  orders: [new Int32Array(0), new Int32Array(0)],
};
const starts = DIGITS.map(() => new Int32Array(BUCKETS));

/**
 * Places of the values from the largest down, ties in their order; NaN is not allowed. O(n): radix sort over the
 * bits of those that are not 0, which of a sparse column are few.
 * @param into what is returned, when it is there already: as long as the values, or longer.
 */
export function fallingOrder(
  values: Float32Array,
  into: Int32Array<ArrayBuffer> = new Int32Array(values.length),
): Int32Array<ArrayBuffer> {
  const n = values.length;
  if (room.floats.length < n) {
    room.floats = new Float32Array(n);
    room.keys = [new Uint32Array(n), new Uint32Array(n)];
    room.orders = [new Int32Array(n), new Int32Array(n)];
  }
  const { floats } = room;
  floats.set(values);
  const bits = new Uint32Array(floats.buffer);
  let [keys, nextKeys] = room.keys;
  let [order, nextOrder] = room.orders;
  for (const counts of starts) counts.fill(0);
  const [low, middle, high] = starts;
  let used = 0;
  for (let i = 0; i < n; i++) {
    if (floats[i] === 0) continue;
    // The bits of floats order as integers, those of negative ones backwards; then all is turned round.
    const key = bits[i] & 0x80000000 ? bits[i] : 0x7fffffff - bits[i];
    keys[used] = key;
    order[used++] = i;
    low[key & 2047]++;
    middle[(key >>> 11) & 2047]++;
    high[key >>> 22]++;
  }
  let positive = 0;
  for (const counts of starts)
    for (let b = 0, sum = 0; b < BUCKETS; b++) {
      if (b === NEGATIVE && counts === high) {
        positive = sum;
        sum += n - used;
      }
      const count = counts[b];
      counts[b] = sum;
      sum += count;
    }
  for (const [digit, shift] of DIGITS.entries()) {
    const next = starts[digit];
    if (digit === DIGITS.length - 1) nextOrder = into;
    for (let i = 0; i < used; i++) {
      const to = next[(keys[i] >>> shift) & 2047]++;
      nextKeys[to] = keys[i];
      nextOrder[to] = order[i];
    }
    [keys, nextKeys, order, nextOrder] = [nextKeys, keys, nextOrder, order];
  }
  if (used < n) for (let i = 0, to = positive; i < n; i++) if (floats[i] === 0) into[to++] = i;
  return into;
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
