/** Over how many latents is a concept spread: SAEBench's rule, with its interval. */
import { intervalOf, type Drawn } from "./document-draws.ts";
import type { Interval } from "./interval.ts";

/** Over how many latents a concept is spread. */
export interface Splitting {
  /** The first k at which one more latent adds less than 0.03 to F1 (SAEBench's rule). */
  latents: Interval;
  /** The least k whose F1 is within 0.03 of that with ten. */
  within: number;
  /** `latents` for labels moved along the text. */
  shuffled: number;
}

const GAIN = 0.03;

/** From the F1 of the probes with k = 1, 2, …, on the test documents and on every draw of them. */
export function splittingOf(f1s: readonly Drawn[]): Splitting {
  const first = (of: (k: number) => number) => {
    let k = 1;
    while (k < f1s.length && of(k) - of(k - 1) >= GAIN) k++;
    return k;
  };
  const last = f1s.at(-1)!.value;
  return {
    latents: intervalOf({
      value: first((k) => f1s[k].value),
      draws: f1s[0].draws.map((_, i) => first((k) => f1s[k].draws[i])),
    }),
    within: 1 + f1s.findIndex(({ value }) => value >= last - GAIN),
    shuffled: NaN,
  };
}
