/**
 * How well an explanation of a latent does, from a judge's answers on test documents; every score is
 * corrected for chance, so that 0 is what a judge who knows nothing gets and 1 is without fault. An
 * example is one document, so that examples are independent. Rates of right answers have Wilson's
 * interval, since a bootstrap of ten right answers would be certain of itself; the others are bootstrapped over examples.
 */
import { aucBetween } from "./label-scores.ts";
import { bootstrap, type Interval } from "./interval.ts";

/** An example with what a judge answered about it. */
export interface Judged {
  truth: boolean;
  answer: boolean;
}

/**
 * Youden's J = sensitivity + specificity − 1 = 2·balanced accuracy − 1 (Youden 1950), with the interval for a
 * difference of two rates that combines their Wilson intervals (Newcombe 1998, method 10). NaN without answers of both kinds of truth.
 */
export function youden(judged: readonly Judged[]): Interval {
  const rateOf = (truth: boolean) => {
    const own = judged.filter((one) => one.truth === truth);
    return wilson(own.filter(({ answer }) => answer === truth).length, own.length);
  };
  const [hits, rejections] = [rateOf(true), rateOf(false)];
  const value = hits.value + rejections.value - 1;
  return {
    value,
    low: value - Math.hypot(hits.value - hits.low, rejections.value - rejections.low),
    high: value + Math.hypot(hits.high - hits.value, rejections.high - rejections.value),
  };
}

/** (accuracy − 1/n) / (1 − 1/n) of finding the odd one of n. */
export function oddOneOut(found: readonly boolean[], n: number): Interval {
  const { value, low, high } = wilson(found.filter(Boolean).length, found.length);
  const corrected = (accuracy: number) => (accuracy - 1 / n) / (1 - 1 / n);
  return { value: corrected(value), low: corrected(low), high: corrected(high) };
}

/** A rate with its 95 % score interval (Wilson 1927). NaN of nothing. */
export function wilson(count: number, of: number): Interval {
  const z = 1.959963984540054;
  const rate = count / of;
  const middle = (rate + z ** 2 / (2 * of)) / (1 + z ** 2 / of);
  const reach = (z / (1 + z ** 2 / of)) * Math.sqrt((rate * (1 - rate)) / of + (z / (2 * of)) ** 2);
  return { value: rate, low: Math.max(0, middle - reach), high: Math.min(1, middle + reach) };
}

/** Predicted and actual activation on the tokens of one example. */
export interface Simulated {
  predicted: readonly number[];
  actual: readonly number[];
}

/** Pearson's r over the tokens of all examples (Bills et al. 2023, without their rescaling, which r does not see). NaN where one side is constant. */
export function simulation(examples: readonly Simulated[]): Interval {
  return bootstrap(examples.length, (drawn) => {
    let [n, x, y, xx, yy, xy] = [0, 0, 0, 0, 0, 0];
    for (const i of drawn) {
      const { predicted, actual } = examples[i];
      for (let t = 0; t < actual.length; t++) {
        n++;
        x += predicted[t];
        y += actual[t];
        xx += predicted[t] ** 2;
        yy += actual[t] ** 2;
        xy += predicted[t] * actual[t];
      }
    }
    const spread = (n * xx - x * x) * (n * yy - y * y);
    return spread > 0 ? (n * xy - x * y) / Math.sqrt(spread) : NaN;
  });
}

/** 2·AUC − 1 of how near each example is to the explanation. */
export function nearness(examples: readonly { truth: boolean; near: number }[]): Interval {
  return bootstrap(examples.length, (drawn) => {
    const side = (truth: boolean) =>
      Array.from(drawn, (n) => examples[n])
        .filter((one) => one.truth === truth)
        .map(({ near }) => near);
    return 2 * aucBetween(side(true), side(false)) - 1;
  });
}
