/**
 * Which latents of a row may be wanted, judged by bounds of their pre-activations, in a worker's own
 * memory. cpu-screen.ts says how the bounds come about.
 *
 * Each row has a list of `capacity` candidates (latents, upper and lower bounds: three arrays) and a limit: a
 * latent whose upper bound is below it is not wanted. A row whose list has no room left is given up: its limit
 * becomes Infinity and its count GIVEN_UP.
 */

const GIVEN_UP: i32 = -1;

/**
 * Adds to the rows' lists the latents [firstLatent, firstLatent + latents) of which `product` [latents, width]
 * has the integer products with the rows. `statistics` are arrays of `latents` floats: scale, bias, spread,
 * size, slack; `rowStatistics` arrays of `width` floats: scale, size, error, limit. width is a multiple of 16.
 * Where a list is full, and k > 0, the row's limit is raised to the k-th largest of its lower bounds.
 * `spare` is room for `capacity` floats.
 */
export function collectCandidates(
  product: usize,
  width: i32,
  statistics: usize,
  latents: i32,
  firstLatent: i32,
  rowStatistics: usize,
  counts: usize,
  lists: usize,
  capacity: i32,
  k: i32,
  spare: usize,
): void {
  const array = (<usize>width) << 2;
  const perLatent = (<usize>latents) << 2;
  const scales = rowStatistics;
  const sizes = rowStatistics + array;
  const errors = rowStatistics + 2 * array;
  const limits = rowStatistics + 3 * array;
  for (let f: usize = 0; f < <usize>latents; f++) {
    const z = product + f * array;
    const at = statistics + (f << 2);
    const scale = v128.load32_splat(at);
    const bias = v128.load32_splat(at + perLatent);
    const spread = v128.load32_splat(at + 2 * perLatent);
    const size = v128.load32_splat(at + 3 * perLatent);
    for (let n: usize = 0; n < array; n += 16) {
      const product4 = f32x4.convert_i32x4_s(v128.load(z + n));
      const middle4 = f32x4.mul(f32x4.mul(product4, scale), v128.load(scales + n));
      const bound4 = f32x4.add(
        f32x4.mul(v128.load(sizes + n), spread),
        f32x4.mul(v128.load(errors + n), size),
      );
      const upper4 = f32x4.add(f32x4.add(middle4, bias), bound4);
      const reaches = f32x4.ge(upper4, v128.load(limits + n));
      if (!v128.any_true(reaches)) continue;
      let reached = i32x4.bitmask(reaches);
      for (; reached != 0; reached &= reached - 1) {
        const column = n + ((<usize>ctz(reached)) << 2);
        if (load<f32>(limits + column) == Infinity) continue;
        const slack = load<f32>(at + 4 * perLatent);
        const bound =
          load<f32>(sizes + column) * load<f32>(at + 2 * perLatent) +
          load<f32>(errors + column) * load<f32>(at + 3 * perLatent);
        const middle =
          <f32>load<i32>(z + column) * load<f32>(at) * load<f32>(scales + column) +
          load<f32>(at + perLatent);
        const count = load<i32>(counts + column);
        const list = lists + (column >> 2) * <usize>capacity * 12;
        const slot = list + ((<usize>count) << 2);
        const array2 = (<usize>capacity) << 2;
        store<i32>(slot, firstLatent + <i32>f);
        store<f32>(slot + array2, middle + bound);
        // Not NaN where the bound is infinite.
        store<f32>(slot + 2 * array2, slack == Infinity ? -Infinity : middle - 2 * slack - bound);
        store<i32>(counts + column, count + 1);
        if (count + 1 == capacity)
          makeRoom(list, capacity, k, spare, counts + column, limits + column);
      }
    }
  }
}

/** Raises a row's limit, and drops the candidates below it; gives the row up where that makes too little room. */
function makeRoom(
  list: usize,
  capacity: i32,
  k: i32,
  spare: usize,
  count: usize,
  limit: usize,
): void {
  if (k > 0) narrow(list, capacity, k, spare, count, limit);
  if (load<i32>(count) <= capacity - (capacity >> 3)) return;
  store<i32>(count, GIVEN_UP);
  store<f32>(limit, Infinity);
}

/** Raises a row's limit to the k-th largest of the lower bounds (if there are as many), and drops the candidates below it. */
function narrow(
  list: usize,
  capacity: i32,
  k: i32,
  spare: usize,
  count: usize,
  limit: usize,
): void {
  const listed = load<i32>(count);
  if (listed < k) return;
  const array = (<usize>capacity) << 2;
  const end = (<usize>listed) << 2;
  memory.copy(spare, list + 2 * array, end);
  const least = max(load<f32>(limit), kthLargest(spare, listed, k));
  store<f32>(limit, least);
  let to: usize = 0;
  for (let slot: usize = 0; slot < end; slot += 4) {
    const above = load<f32>(list + array + slot);
    if (!(above >= least)) continue;
    store<i32>(list + to, load<i32>(list + slot));
    store<f32>(list + array + to, above);
    store<f32>(list + 2 * array + to, load<f32>(list + 2 * array + slot));
    to += 4;
  }
  store<i32>(count, <i32>(to >> 2));
}

/** The k-th largest of n floats, none of them NaN, which it reorders (Hoare's selection). */
function kthLargest(values: usize, n: i32, k: i32): f32 {
  const wanted = k - 1;
  let low = 0;
  let high = n - 1;
  while (low < high) {
    const pivot = load<f32>(values + ((<usize>((low + high) >> 1)) << 2));
    let i = low;
    let j = high;
    while (i <= j) {
      while (load<f32>(values + ((<usize>i) << 2)) > pivot) i++;
      while (load<f32>(values + ((<usize>j) << 2)) < pivot) j--;
      if (i > j) break;
      const left = values + ((<usize>i) << 2);
      const right = values + ((<usize>j) << 2);
      const moved = load<f32>(left);
      store<f32>(left, load<f32>(right));
      store<f32>(right, moved);
      i++;
      j--;
    }
    if (wanted <= j) high = j;
    else if (wanted >= i) low = i;
    else break;
  }
  return load<f32>(values + ((<usize>wanted) << 2));
}

/**
 * The candidates of `rows` rows one after the other: latents and upper bounds, and in `ends` where each row's
 * end, `total` added, which is how many rows before these have; returns the new total. A row with fewer than
 * k candidates is given up; a given-up row has none.
 */
export function packCandidates(
  rows: i32,
  counts: usize,
  lists: usize,
  capacity: i32,
  k: i32,
  latents: usize,
  uppers: usize,
  ends: usize,
  total: i32,
): i32 {
  const before = total;
  const array = (<usize>capacity) << 2;
  for (let n: usize = 0; n < <usize>rows; n++) {
    const list = lists + n * 3 * array;
    const count = load<i32>(counts + (n << 2));
    if (count < k) store<i32>(counts + (n << 2), GIVEN_UP);
    else if (count > 0) {
      const bytes = (<usize>count) << 2;
      const to = (<usize>(total - before)) << 2;
      memory.copy(latents + to, list, bytes);
      memory.copy(uppers + to, list + array, bytes);
      total += count;
    }
    store<i32>(ends + (n << 2), total);
  }
  return total;
}
