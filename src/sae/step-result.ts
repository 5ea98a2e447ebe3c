/** What a training step computed, and sums of it over the pieces of a batch and over batches. */
import type { BatchStatistics } from "./sae-on-device.ts";

/** The loss is their sum; each includes its coefficient. */
export interface LossTerms {
  reconstruction: number;
  sparsity: number;
  aux: number;
}

/** What one step computed. */
export interface StepResult {
  terms: LossTerms;
  statistics: BatchStatistics;
  /** Pairs of row and latent that a sparse step had to do with, or those active in a dense one. */
  listed: number;
  /** The smallest latent that batch top-k kept; 0 when it kept none. */
  cutoff: number;
  /** Σ of the lp penalty without its coefficient, for p and for nextP. */
  penalties: { now: number; next: number } | null;
}

export function noTerms(): LossTerms {
  return { reconstruction: 0, sparsity: 0, aux: 0 };
}

export function totalLoss({ reconstruction, sparsity, aux }: LossTerms): number {
  return reconstruction + sparsity + aux;
}

/** Adds the mean terms of `rows` rows to sums over rows. */
export function addTerms(sum: LossTerms, terms: LossTerms, rows: number): void {
  sum.reconstruction += terms.reconstruction * rows;
  sum.sparsity += terms.sparsity * rows;
  sum.aux += terms.aux * rows;
}

export function meanTerms({ reconstruction, sparsity, aux }: LossTerms, rows: number): LossTerms {
  return { reconstruction: reconstruction / rows, sparsity: sparsity / rows, aux: aux / rows };
}

/** The result of a batch from those of its pieces, which divide by the whole batch already. */
export function joined(results: StepResult[]): StepResult {
  const [first, ...rest] = results;
  if (rest.length === 0) return first;
  const rowStats = new Float64Array(
    results.reduce((sum, { statistics }) => sum + statistics.rowStats.length, 0),
  );
  let at = 0;
  for (const { statistics } of results) {
    rowStats.set(statistics.rowStats, at);
    at += statistics.rowStats.length;
  }
  const terms = { ...first.terms };
  let penalties = first.penalties && { ...first.penalties };
  for (const result of rest) {
    terms.reconstruction += result.terms.reconstruction;
    terms.sparsity += result.terms.sparsity;
    terms.aux += result.terms.aux;
    if (penalties && result.penalties)
      penalties = {
        now: penalties.now + result.penalties.now,
        next: penalties.next + result.penalties.next,
      };
  }
  const counts = first.statistics.counts.slice();
  const sums = first.statistics.sums.slice();
  let { listed } = first;
  let { error } = first.statistics;
  for (const { statistics, listed: more } of rest) {
    error += statistics.error;
    for (let f = 0; f < counts.length; f++) {
      counts[f] += statistics.counts[f];
      sums[f] += statistics.sums[f];
    }
    listed += more;
  }
  return { terms, penalties, listed, cutoff: 0, statistics: { rowStats, error, counts, sums } };
}
