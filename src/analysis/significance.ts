/** From many tests to what may be believed: tails of distributions, and false discoveries kept rare. */

/**
 * q-values of Benjamini & Hochberg 1995: q_(i) = min_{j ≥ i} p_(j) · m / j with p-values in rising order.
 * Of what has q ≤ 0.05, at most 5 % are false on average, where tests are independent or depend on each other
 * positively.
 * @param tests m: all tests that were made; those beyond `pValues` count as p = 1.
 */
export function benjaminiHochberg(
  pValues: ArrayLike<number>,
  tests = pValues.length,
): Float64Array {
  const order = Float64Array.from(pValues, (_, i) => i).sort(
    (a, b) => pValues[a] - pValues[b] || a - b,
  );
  const q = new Float64Array(pValues.length);
  let least = 1;
  for (let i = order.length - 1; i >= 0; i--) {
    least = Math.min(least, (pValues[order[i]] * tests) / (i + 1));
    q[order[i]] = least;
  }
  return q;
}

/** P(Z ≥ z) of a standard normal Z. */
export function normalTail(z: number): number {
  const half = gammaTails(0.5, z ** 2 / 2).upper / 2;
  return z >= 0 ? half : 1 - half;
}

/**
 * P(X ≥ x) of Pearson's type III distribution, a shifted gamma distribution, by its first three moments: what
 * sums of many bounded parts look like (Mielke & Berry 2001, for permutation tests).
 */
export function pearson3Tail(
  x: number,
  { mean, variance, third }: { mean: number; variance: number; third: number },
): number {
  const z = (x - mean) / Math.sqrt(variance);
  const skew = third / variance ** 1.5;
  // Γ(4/skew²) is normal then, and its series would not end.
  if (Math.abs(skew) < 1e-3) return normalTail(z);
  const shape = 4 / skew ** 2;
  const at = shape + (2 * z) / skew;
  if (at <= 0) return skew > 0 ? 1 : 0;
  const { lower, upper } = gammaTails(shape, at);
  return skew > 0 ? upper : lower;
}

const STEPS = 100_000;

/** γ(a, x) / Γ(a) and Γ(a, x) / Γ(a), the incomplete gamma functions, by series or continued fraction (Lentz). */
export function gammaTails(a: number, x: number): { lower: number; upper: number } {
  if (x <= 0) return { lower: 0, upper: 1 };
  if (x === Infinity) return { lower: 1, upper: 0 };
  const front = Math.exp(a * Math.log(x) - x - logGamma(a));
  if (x < a + 1) {
    let term = 1 / a;
    let sum = term;
    for (let n = 1; n < STEPS && term > sum * 1e-16; n++) {
      term *= x / (a + n);
      sum += term;
    }
    return { lower: front * sum, upper: 1 - front * sum };
  }
  let b = x + 1 - a;
  let c = 1e300;
  let d = 1 / b;
  let h = d;
  for (let n = 1; n < STEPS; n++) {
    const step = n * (a - n);
    b += 2;
    d = 1 / (step * d + b);
    c = b + step / c;
    h *= c * d;
    if (Math.abs(c * d - 1) < 1e-15) break;
  }
  return { lower: 1 - front * h, upper: front * h };
}

/** ln Γ(a) by Stirling's series, a raised above 10 first. */
function logGamma(a: number): number {
  let shift = 0;
  for (; a < 10; a++) shift += Math.log(a);
  const s = 1 / a ** 2;
  const series = (1 / 12 - s * (1 / 360 - s * (1 / 1260 - s / 1680))) / a;
  return (a - 0.5) * Math.log(a) - a + 0.5 * Math.log(2 * Math.PI) + series - shift;
}

/**
 * Wilson's 95 % interval (1927) of a share, `count` of `n` independent cases: the middle is drawn towards ½,
 * so that few cases make no extreme.
 */
export function wilson(count: number, n: number): [low: number, high: number] {
  const z = 1.959964;
  const middle = (count + z ** 2 / 2) / (n + z ** 2);
  const half = (z * Math.sqrt((count * (n - count)) / n + z ** 2 / 4)) / (n + z ** 2);
  return [middle - half, middle + half];
}
