/** Links from the latents of one SAE to those of another, by firing together and by weights. */
import type { Device } from "../device/device.ts";
import type { Sae } from "../sae/sae.ts";
import {
  composition,
  COMPOSITION_RULES,
  judgedLatents,
  PairMeasurer,
  type Composition,
  type CompositionOptions,
  type HalvedText,
  type Halves,
  type Pair,
  type PairKindResult,
} from "./composition.ts";
import { CorrelationDraws, correlationOf, documentSums, seriesOf } from "./firings.ts";
import type { Interval } from "./interval.ts";
import {
  linkAgreement,
  strongestWeights,
  virtualWeight,
  type Agreement,
  type VirtualWeight,
} from "./virtual-weights.ts";

/** f of the one fires, and g of the other at the same position. */
export interface Link extends Pair {
  /** Pearson's r of the activations over all positions. */
  correlation: Interval;
  /** P(g | f) / P(g) and P(f | g) / P(f), which are the same. */
  lift: number;
  /** Where the one's decoder and the other's encoder are of one space. */
  virtual?: VirtualWeight;
}

export interface Links extends Omit<Composition, "together"> {
  together: Omit<PairKindResult, "listed"> & { listed: Link[] };
  /** Absent where the one does not write into what the other reads. */
  weights?: {
    /** 3.09 / √dIn, a cosine that one in a thousand of random directions exceeds. */
    chance: number;
    /** The pairs with the highest cosine; `q` is NaN: they were not found by firing. */
    strongest: Link[];
    /** Absent with too few pairs. */
    agreement?: Agreement;
  };
}

export interface LinkSide {
  sae: Sae;
  halves: Halves;
}

export interface LinkOptions extends CompositionOptions {
  /** Whether `from` writes into the space that `to` reads, so that weights can be multiplied. */
  weights: boolean;
  device?: Device;
}

/** @throws nothing; with fewer than two test documents intervals are NaN. */
export async function findLinks(
  from: LinkSide,
  to: LinkSide,
  text: HalvedText,
  options: LinkOptions,
): Promise<Links> {
  const { rules = COMPOSITION_RULES, weights, device, seed = 0, list = 200, latents } = options;
  const found = await composition(from.halves, to.halves, text, options);
  const [a, b] = [from.halves.test, to.halves.test];
  const saes = [from.sae.fold(), to.sae.fold()] as const;
  const draws = new CorrelationDraws(text.test, seed);
  const linked = (pair: Pair): Link => {
    const [f, g] = pair.latents;
    const sums = documentSums(seriesOf(a, [f]), seriesOf(b, [g]), text.test.document);
    return {
      ...pair,
      lift: pair.together / pair.expected,
      correlation: draws.interval(sums, correlationOf(sums, text.test.positions)),
      ...(weights && { virtual: virtualWeight(saes[0], f, saes[1], g) }),
    };
  };
  const links = { ...found, together: { ...found.together, listed: found.together.listed.map(linked) } }; // prettier-ignore
  if (!weights) return links;
  const judged = [from, to].map(({ halves: { selection, test } }) =>
    judgedLatents([selection, test], rules.minFirings),
  ) as [boolean[], boolean[]];
  const asked = latents && new Set(latents);
  const sources = judged[0].map((is, f) => is && (!asked || asked.has(f)));
  const measurer = new PairMeasurer(a, b, text.test, seed);
  const strongest = await strongestWeights(...saes, [sources, judged[1]], {
    ...{ count: list, ...(device && { device }) },
  });
  const agreement = await linkAgreement(...saes, a, b, {
    ...{ judged, minExpected: rules.minExpected, seed, ...(device && { device }) },
  });
  return {
    ...links,
    weights: {
      chance: 3.09 / Math.sqrt(saes[1].spec.dIn),
      strongest: strongest.map((latents) =>
        linked(measurer.measure({ latents, q: NaN }, "together")),
      ),
      ...(agreement && { agreement }),
    },
  };
}
