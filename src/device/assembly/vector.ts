/**
 * What several kernel modules share. None of it is exported from a module.
 *
 * Rows lie at multiples of 16 bytes and are a multiple of 16 bytes long: the space after the last
 * number is padding that holds zeros, so that no kernel needs a tail loop for single floats.
 * `bytes` and `row` count bytes; addresses are bytes too.
 */

export function sumLanes(v: v128): f32 {
  return (
    f32x4.extract_lane(v, 0) +
    f32x4.extract_lane(v, 1) +
    (f32x4.extract_lane(v, 2) + f32x4.extract_lane(v, 3))
  );
}

/** ⟨a, b⟩ in f32, four vectors at a time to hide the latency of the additions. */
export function dot(a: usize, b: usize, bytes: usize): f32 {
  let s0 = f32x4.splat(0);
  let s1 = s0;
  let s2 = s0;
  let s3 = s0;
  let i: usize = 0;
  for (const whole = bytes & ~63; i < whole; i += 64) {
    s0 = f32x4.add(s0, f32x4.mul(v128.load(a + i), v128.load(b + i)));
    s1 = f32x4.add(s1, f32x4.mul(v128.load(a + i, 16), v128.load(b + i, 16)));
    s2 = f32x4.add(s2, f32x4.mul(v128.load(a + i, 32), v128.load(b + i, 32)));
    s3 = f32x4.add(s3, f32x4.mul(v128.load(a + i, 48), v128.load(b + i, 48)));
  }
  for (; i < bytes; i += 16) {
    s0 = f32x4.add(s0, f32x4.mul(v128.load(a + i), v128.load(b + i)));
  }
  return sumLanes(f32x4.add(f32x4.add(s0, s1), f32x4.add(s2, s3)));
}

/** The lower two of four f32 lanes as f64. */
export function low(v: v128): v128 {
  return f64x2.promote_low_f32x4(v);
}

/** The upper two of four f32 lanes as f64. */
export function high(v: v128): v128 {
  return f64x2.promote_low_f32x4(v128.shuffle<i32>(v, v, 2, 3, 2, 3));
}

/**
 * ⟨a, b⟩ in f64 over any number of floats. For norms: the square of an f32 as small as 1e-30 or as
 * large as 1e30 is no f32, yet such rows have a perfectly good direction.
 */
export function dot64(a: usize, b: usize, bytes: usize): f64 {
  let s0 = f64x2.splat(0);
  let s1 = s0;
  let i: usize = 0;
  for (const whole = bytes & ~15; i < whole; i += 16) {
    const va = v128.load(a + i);
    const vb = v128.load(b + i);
    s0 = f64x2.add(s0, f64x2.mul(low(va), low(vb)));
    s1 = f64x2.add(s1, f64x2.mul(high(va), high(vb)));
  }
  const s = f64x2.add(s0, s1);
  let sum = f64x2.extract_lane(s, 0) + f64x2.extract_lane(s, 1);
  for (; i < bytes; i += 4) sum += <f64>load<f32>(a + i) * <f64>load<f32>(b + i);
  return sum;
}

/** a += factor b over any number of floats, in f64: factor may be no f32 where a row is very small or large. */
export function addScaled64(a: usize, b: usize, factor: f64, bytes: usize): void {
  const f = f64x2.splat(factor);
  let i: usize = 0;
  for (const whole = bytes & ~15; i < whole; i += 16) {
    const va = v128.load(a + i);
    const vb = v128.load(b + i);
    const lower = f64x2.add(low(va), f64x2.mul(f, low(vb)));
    const upper = f64x2.add(high(va), f64x2.mul(f, high(vb)));
    v128.store(a + i, narrow(lower, upper));
  }
  for (; i < bytes; i += 4) {
    store<f32>(a + i, <f32>(<f64>load<f32>(a + i) + factor * <f64>load<f32>(b + i)));
  }
}

/** Four f32 from four f64 given as two pairs. */
export function narrow(lower: v128, upper: v128): v128 {
  return v128.shuffle<i64>(f32x4.demote_f64x2_zero(lower), f32x4.demote_f64x2_zero(upper), 0, 2);
}
