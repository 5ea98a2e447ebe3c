/** Features by what they stand for, in words. */
import { isSpecific, type BestLabel } from "./concepts.ts";
import type { LatentExplanation } from "./explanations.ts";
import type { Features } from "./features.ts";
import { wordOf } from "./labels.ts";

/** A feature that a search found. */
export interface Found {
  latent: number;
  /** Others that are turned up with it. */
  with?: readonly number[];
  /** Why, in words. */
  because: string;
  label?: BestLabel | undefined;
}

/** All latents that are turned up. */
export const latentsOf = ({ latent, with: more = [] }: Found): number[] => [latent, ...more];

/**
 * Features for a query, best first: those whose label is the query, then those whose label holds it (each by
 * F1 on text that had no part in choosing the label), then those that are most active on a token
 * that reads like it, by their share of activation on it. Where `explanations` are given, by latent, a rule counts as a
 * label does: all that it names must be the query, or one of what it names.
 */
export function findFeatures(
  { index, labels }: Features,
  query: string,
  explanations?: readonly LatentExplanation[],
): Found[] {
  const wanted = query.trim().toLowerCase();
  const bare = (text: string) => text.trim().toLowerCase();
  const found: (Found & { rank: number })[] = [];
  for (let latent = 0; latent < index.dSae; latent++) {
    const label = labels?.best[latent] ?? undefined;
    const name = label && bare(label.name);
    const word = label && wordOf(label)?.toLowerCase();
    const score = label?.atThreshold.f1 ?? 0;
    const rule = explanations?.[latent]?.rules[0];
    const ruled = rule?.labels.map((one) => wordOf(one)?.toLowerCase() ?? bare(one.name)) ?? [];
    const fit = ruled.every((one) => one === wanted) ? 4 : ruled.includes(wanted) ? 2 : 0;
    const rank = name === wanted || word === wanted ? 4 : name?.includes(wanted) ? 2 : 0;
    if (rule && fit > 0 && fit + rule.f1.value > rank + score)
      found.push({
        ...{ latent, label, rank: fit + rule.f1.value },
        because: `rule: ${rule.text}, F1 ${rule.f1.value.toFixed(2)}`,
      });
    else if (rank > 0)
      found.push({ latent, label, because: `label ${label!.name}`, rank: rank + score });
    else if (index.columns.topTokens[latent].slice(0, 1).some((text) => bare(text) === wanted))
      found.push({
        ...{ latent, label, rank: index.columns.tokenSelectivity[latent] },
        because: `most active on ${JSON.stringify(index.columns.topTokens[latent][0])}`,
      });
  }
  return found
    .toSorted((a, b) => b.rank - a.rank || a.latent - b.latent)
    .map(({ rank: _rank, ...rest }) => rest);
}

/** A feature in one line. */
export function describeFound(found: Found): string {
  const { because, label } = found;
  const latents = latentsOf(found);
  const trust =
    label && !because.startsWith("rule") && !isSpecific(label)
      ? ", which it does not fit well"
      : "";
  return `latent${latents.length > 1 ? "s" : ""} ${latents.join(" + ")} (${because}${trust})`;
}
