/**
 * Which features to look at first, without looking at any label. What a person can read off a few
 * examples is a latent that the token in front of it decides: the score is the share of its variance
 * that the token type explains (ε², see `varianceByToken`), corrected for chance.
 */
import type { FeatureIndex } from "./features.ts";

export interface RankingOptions {
  /** Features wanted. */
  limit: number;
  /** Lowest and highest share of positions. */
  density: [number, number];
  minFirings: number;
  minDocuments: number;
  /** Features that may share their main token. */
  perToken: number;
}

export const RANKING: RankingOptions = {
  limit: 50,
  density: [1e-4, 0.05],
  minFirings: 50,
  minDocuments: 20,
  perToken: 1,
};

/** Latents, most interesting first; equal ones in the order of their numbers. */
export function rankFeatures(
  { dSae, positions, columns }: FeatureIndex,
  options: Partial<RankingOptions> = {},
): number[] {
  const { limit, density, minFirings, minDocuments, perToken } = { ...RANKING, ...options };
  const latents = Array.from({ length: dSae }, (_, latent) => latent).filter((latent) => {
    const firings = columns.firings[latent];
    const share = firings / positions;
    return (
      firings >= minFirings &&
      columns.documents[latent] >= minDocuments &&
      share >= density[0] &&
      share <= density[1]
    );
  });
  latents.sort((a, b) => columns.tokenSelectivity[b] - columns.tokenSelectivity[a] || a - b);
  const perMainToken = new Map<number, number>();
  return latents
    .filter((latent) => {
      const token = columns.mainToken[latent];
      const used = perMainToken.get(token) ?? 0;
      perMainToken.set(token, used + 1);
      return used < perToken;
    })
    .slice(0, limit);
}

/** The ranking in words, for whoever sees its result. */
export function describeRanking(options: Partial<RankingOptions> = {}): string {
  const { density, minFirings, minDocuments, perToken } = { ...RANKING, ...options };
  return `Ranked without looking at any label: latents that fire on ${density[0] * 100}–${density[1] * 100} % of the tokens, at least ${minFirings} times and in at least ${minDocuments} documents, by the share of the variance of their activation that the current token explains; with at most ${perToken} for each token that they are most active on.`;
}
