/** All latents of a feature index as columns, for lists that sort and filter: in a server and in a page. */
import { TextColumn, type PackedTable } from "../packed-table.ts";
import type { Explanations } from "./explanations.ts";
import type { Features } from "./features.ts";

/** Stands between the tokens of a row of `tokens`; no token holds it. */
export const TOKEN_SEPARATOR = "\u0001";

/**
 * One row per latent. Numbers: firings, documents, mean, max, selectivity (tokenSelectivity), kinds
 * (tokenTypes), density (firings / positions), auc and f1 of the label that fits best, rule (F1 of the
 * best rule); NaN where there is none. Texts: label, tokens, rule.
 */
export function featureColumns(features: Features, explanations?: Explanations): PackedTable {
  const { index, labels } = features;
  const { columns, dSae, positions, documents } = index;
  const best = (latent: number) => labels?.best[latent] ?? undefined;
  const rule = (latent: number) => explanations?.latents[latent]?.rules[0];
  const numbers = (value: (latent: number) => number | undefined) =>
    Float32Array.from({ length: dSae }, (_, latent) => value(latent) ?? NaN);
  const texts = (value: (latent: number) => string | undefined) =>
    TextColumn.of(Array.from({ length: dSae }, (_, latent) => value(latent) ?? ""));
  return {
    meta: { dSae, positions, documents, labelled: labels !== undefined, explained: explanations !== undefined }, // prettier-ignore
    numbers: {
      firings: Int32Array.from(columns.firings),
      documents: Int32Array.from(columns.documents),
      density: numbers((latent) => columns.firings[latent] / positions),
      mean: Float32Array.from(columns.mean),
      max: Float32Array.from(columns.max),
      selectivity: Float32Array.from(columns.tokenSelectivity),
      kinds: Float32Array.from(columns.tokenTypes),
      auc: numbers((latent) => best(latent)?.auc),
      f1: numbers((latent) => best(latent)?.atThreshold.f1),
      rule: numbers((latent) => rule(latent)?.f1.value),
    },
    texts: {
      label: texts((latent) => best(latent)?.name),
      tokens: texts((latent) => columns.topTokens[latent].join(TOKEN_SEPARATOR)),
      rule: texts((latent) => rule(latent)?.text),
    },
  };
}
