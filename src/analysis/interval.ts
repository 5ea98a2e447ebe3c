/** Intervals of a statistic by the bootstrap: what it would be on other draws of the same size. */
import { Rng } from "../rng.ts";

export interface Interval {
  value: number;
  /** Ends of the 95 % interval. */
  low: number;
  high: number;
}

/** Draws of every bootstrap. */
export const DRAWS = 1000;

/**
 * Percentile bootstrap (Efron 1979): `statistic` of all units, with the 2.5th and 97.5th percentile of
 * what it is on 1,000 draws, with replacement, of as many units. Units must be independent of each
 * other: texts or documents, not the tokens in them. Draws on which the statistic is no number are left
 * out; with fewer than two units the interval is [NaN, NaN].
 * @param statistic of units given by their numbers, each as often as it was drawn.
 */
export function bootstrap(
  units: number,
  statistic: (drawn: Int32Array) => number,
  seed = 0,
): Interval {
  return bootstrapAll(units, (drawn) => [statistic(drawn)], seed)[0];
}

/** `bootstrap` of several statistics on the same draws, in their order. */
export function bootstrapAll(
  units: number,
  statistics: (drawn: Int32Array) => number[],
  seed = 0,
): Interval[] {
  const all = Int32Array.from({ length: units }, (_, n) => n);
  const values = statistics(all);
  if (units < 2) return values.map((value) => ({ value, low: NaN, high: NaN }));
  const rng = new Rng(seed, "bootstrap");
  const draws = values.map((): number[] => []);
  for (let draw = 0; draw < DRAWS; draw++) {
    const found = statistics(all.map(() => rng.int(units)));
    for (const [i, v] of found.entries()) draws[i].push(v);
  }
  return values.map((value, i) => percentileInterval(value, draws[i]));
}

/** `value` with the 2.5th and 97.5th percentile of what it is on other draws; those that are NaN are left out. */
export function percentileInterval(value: number, draws: ArrayLike<number>): Interval {
  // Those that are NaN come last.
  const sorted = new Float64Array(draws).sort();
  let count = sorted.length;
  while (count > 0 && Number.isNaN(sorted[count - 1])) count--;
  const at = (share: number) => sorted[Math.round(share * (count - 1))] ?? NaN;
  return { value, low: at(0.025), high: at(0.975) };
}

/** `bootstrap` of Σ numerators / Σ denominators over units. */
export function ratioInterval(
  numerators: ArrayLike<number>,
  denominators: ArrayLike<number>,
  seed = 0,
): Interval {
  return bootstrap(
    numerators.length,
    (drawn) => {
      let [top, bottom] = [0, 0];
      for (const n of drawn) {
        top += numerators[n];
        bottom += denominators[n];
      }
      return top / bottom;
    },
    seed,
  );
}
