/**
 * Every metric of a reconstruction, each formula once. All are sums over rows until the end, kept
 * in float64, so that the result does not depend on how the rows were cut into batches.
 *
 * Units: x, x̂ and whatever is made of them are in the units of the raw activations, whatever
 * transform training applied; latents keep the units of training (see sae.ts).
 */
import type { ActivationSource } from "../activation-source.ts";
import { UserError } from "../error.ts";
import type { BatchStatistics, SaeOnDevice } from "./sae-on-device.ts";

/** Quality of a reconstruction over a set of rows. N rows, x what is reconstructed (of a transcoder its target), d its width, x̄ the set's mean row. */
export interface ReconstructionMetrics {
  /** N */
  rows: number;
  /** Mean squared error over all N·d elements: Σ_n ‖x - x̂‖² / (N·d). */
  mse: number;
  /** Fraction of variance unexplained: Σ_n ‖x - x̂‖² / Σ_n ‖x - x̄‖². */
  fvu: number;
  /** Mean number of latents with a value > 0 per row. */
  l0: number;
  /** Mean of Σ_f a_f per row. */
  l1: number;
  /** Mean of ⟨x, x̂⟩ / (‖x‖‖x̂‖) per row; a row with x or x̂ = 0 counts 0. */
  cosine: number;
  /** Share of latents that fire in more than a tenth of the rows. */
  denseFraction: number;
}

/** Latents that fire in more than this share of the rows are called dense. */
const DENSE = 0.1;

/** What every reconstruction metric is a formula of: sums over rows, e = x - x̂, raw units (a in the units of training). */
export interface RowSums {
  rows: number;
  /** d, no sum. */
  width: number;
  /** Σ ‖e‖² */
  sse: number;
  /** Σ ‖e - ē‖², ē the mean error. */
  centredError: number;
  /** Σ ‖x - x̄‖² */
  spread: number;
  /** Σ ‖x‖² */
  xSquared: number;
  /** Σ ‖x̂‖² */
  outSquared: number;
  /** Σ ⟨x, x̂⟩ */
  dot: number;
  /** Σ ⟨x, x̂⟩ / (‖x‖‖x̂‖); a row with x or x̂ = 0 adds 0. */
  cosines: number;
  /** Σ ‖x̂‖ / ‖x‖; a row with x = 0 adds 0. */
  normRatios: number;
  /** Σ ‖e‖² / ‖x - x̄‖²; a row with x = x̄ adds 0. */
  errorRatios: number;
  /** Σ #{f : a_f > 0} */
  active: number;
  /** Σ_n Σ_f a_f */
  activation: number;
}

type From<Name extends keyof RowSums> = Pick<RowSums, Name>;

/** Every reconstruction metric, by name; the ratios of means unless it says otherwise. */
export const RECONSTRUCTION_FORMULAS = {
  /** Mean number of latents with a value > 0 per row. */
  l0: (s: From<"active" | "rows">) => s.active / s.rows,
  /** Mean of Σ_f a_f per row. */
  l1: (s: From<"activation" | "rows">) => s.activation / s.rows,
  /** Σ ‖e‖² / (N·d). */
  mse: (s: From<"sse" | "rows" | "width">) => s.sse / (s.rows * s.width),
  /** Fraction of variance unexplained, pooled: Σ ‖e‖² / Σ ‖x - x̄‖². SAELens ≥ 6.46 and OpenMOSS report 1 - this; sparsify this, with the mean of each batch. */
  fvu: (s: From<"sse" | "spread">) => s.sse / s.spread,
  /** Mean over rows of ‖e‖² / ‖x - x̄‖²: 1 - this is SAELens' `explained_variance_legacy` and SAEBench's published explained variance. */
  fvuLegacy: (s: From<"errorRatios" | "rows">) => s.errorRatios / s.rows,
  /** Σ_c Var(e_c) / Σ_c Var(x_c): 1 - this is dictionary_learning's `frac_variance_explained`. Blind to a constant error. */
  fvuVariance: (s: From<"centredError" | "spread">) => s.centredError / s.spread,
  /** Σ ‖e‖² / Σ ‖x‖²: the normalised MSE of OpenAI's README; no mean is taken off. */
  fvuUncentred: (s: From<"sse" | "xSquared">) => s.sse / s.xSquared,
  /** Mean over rows of the cosine between x and x̂. */
  cosine: (s: From<"cosines" | "rows">) => s.cosines / s.rows,
  /** Mean over rows of ‖x̂‖ / ‖x‖ (SAELens' `l2_ratio`): below 1 where reconstructions shrink. */
  normRatio: (s: From<"normRatios" | "rows">) => s.normRatios / s.rows,
  /** E‖x̂‖² / E⟨x, x̂⟩ (Rajamanoharan et al. 2024, eq. 10): below 1 is shrinkage. */
  relativeReconstructionBias: (s: From<"outSquared" | "dot">) => s.outSquared / s.dot,
} satisfies Record<string, (sums: RowSums) => number>;

/** What one row adds to `RowSums` by itself; `a` comes from elsewhere. */
export type RowParts = Pick<
  RowSums,
  | ("sse" | "spread" | "xSquared" | "outSquared" | "dot")
  | ("cosines" | "normRatios" | "errorRatios")
>;

/**
 * The parts of the row at `at` of x and x̂, in float64.
 * @param mean x̄ [width].
 * @param errors [width]: x - x̂ is added to it.
 */
export function rowParts(
  x: Float32Array,
  out: Float32Array,
  at: number,
  mean: Float64Array,
  errors: Float64Array,
): RowParts {
  let [sse, spread, xSquared, outSquared, dot] = [0, 0, 0, 0, 0];
  for (let c = 0, i = at; c < mean.length; c++, i++) {
    const [v, r] = [x[i], out[i]];
    const e = v - r;
    const away = v - mean[c];
    errors[c] += e;
    sse += e * e;
    spread += away * away;
    xSquared += v * v;
    outSquared += r * r;
    dot += v * r;
  }
  const norms = Math.sqrt(xSquared) * Math.sqrt(outSquared);
  return {
    ...{ sse, spread, xSquared, outSquared, dot },
    cosines: norms > 0 ? dot / norms : 0,
    normRatios: xSquared > 0 ? Math.sqrt(outSquared / xSquared) : 0,
    errorRatios: spread > 0 ? sse / spread : 0,
  };
}

/** Running sums behind `ReconstructionMetrics`; everything but `counts` is plain JSON in a checkpoint. */
export class ReconstructionSums {
  rows = 0;
  /** Σ ‖x - x̂‖², raw units. */
  sse = 0;
  /** Σ ‖x‖², raw units. */
  xSquared = 0;
  /** Σ x, raw units; [d]. */
  xSum: Float64Array;
  cosine = 0;
  active = 0;
  l1 = 0;
  /** Rows in which each latent fired; [dSae]. */
  counts: Float64Array;

  constructor(width: number, dSae: number) {
    this.xSum = new Float64Array(width);
    this.counts = new Float64Array(dSae);
  }

  /**
   * Adds what a batch's reconstructions aim at: x [rows, d], raw units.
   * @returns Σ ‖x - x̄‖² of this batch against its own mean.
   */
  addTargets(x: Float32Array, rows: number): number {
    const { xSum } = this;
    const width = xSum.length;
    const before = xSum.slice();
    let squared = 0;
    for (let n = 0, i = 0; n < rows; n++)
      for (let c = 0; c < width; c++, i++) {
        const v = x[i];
        xSum[c] += v;
        squared += v * v;
      }
    this.xSquared += squared;
    this.rows += rows;
    const meanSquared = xSum.reduce((sum, v, c) => sum + (v - before[c]) ** 2, 0) / rows;
    return Math.max(0, squared - meanSquared);
  }

  /** Adds what came of that batch. */
  addOutputs(batch: BatchStatistics): void {
    const { rowStats, counts, sums } = batch;
    this.sse += sumOfSquares(rowStats);
    for (let i = 0; i < rowStats.length; i += 4) {
      const norms = Math.sqrt(rowStats[i]) * Math.sqrt(rowStats[i + 1]);
      if (norms > 0) this.cosine += rowStats[i + 2] / norms;
    }
    for (let f = 0; f < counts.length; f++) {
      this.counts[f] += counts[f];
      this.active += counts[f];
      this.l1 += sums[f];
    }
  }

  metrics(): ReconstructionMetrics {
    const { rows, sse, xSquared, xSum, counts, active } = this;
    const meanSquared = xSum.reduce((sum, v) => sum + v * v, 0) / rows;
    const sums = {
      ...{ rows, sse, active, width: xSum.length, spread: xSquared - meanSquared },
      ...{ activation: this.l1, cosines: this.cosine },
    };
    const { mse, fvu, l0, l1, cosine } = RECONSTRUCTION_FORMULAS;
    return {
      ...{ rows, mse: mse(sums), fvu: fvu(sums), l0: l0(sums), l1: l1(sums) },
      cosine: cosine(sums),
      denseFraction: counts.filter((n) => n > DENSE * rows).length / counts.length,
    };
  }

  toJSON(): Record<string, number | number[]> {
    const { rows, sse, xSquared, xSum, cosine, active, l1 } = this;
    return { rows, sse, xSquared, xSum: Array.from(xSum), cosine, active, l1 };
  }

  /** The sums that `toJSON` wrote, with their counts. */
  static from(
    json: Record<string, number | number[]>,
    counts: ArrayLike<number>,
  ): ReconstructionSums {
    const sums = new ReconstructionSums(0, 0);
    Object.assign(sums, json, {
      xSum: Float64Array.from(json.xSum as number[]),
      counts: Float64Array.from(counts),
    });
    return sums;
  }
}

/** Σ_n ‖x_n - x̂_n‖² from a batch's row statistics. */
export function sumOfSquares(rowStats: Float32Array | Float64Array): number {
  let sum = 0;
  for (let i = 3; i < rowStats.length; i += 4) sum += rowStats[i];
  return sum;
}

/** A whole set's reconstruction, with each latent's part in it. */
export interface Evaluation extends ReconstructionMetrics {
  /** Share of latents that never fired in the set (so it falls as the set grows). */
  deadFraction: number;
  /** Share of the rows in which each latent fires; [dSae]. */
  density: Float64Array;
  /** Mean value of each latent over all rows, those where it is 0 included; [dSae]. */
  meanActivation: Float64Array;
}

/**
 * Encodes and decodes one whole pass over `source`.
 * @throws UserError when the source is not of the SAE's kind or width, or has no rows.
 */
export async function evaluateReconstruction(
  sae: SaeOnDevice,
  source: ActivationSource,
): Promise<Evaluation> {
  return (await measureReconstruction(sae, source)).evaluation;
}

/** The same with the mean over the rows of ‖x - x̂‖² in the units of training. */
export async function measureReconstruction(
  sae: SaeOnDevice,
  source: ActivationSource,
): Promise<{ evaluation: Evaluation; meanError: number }> {
  const { dIn, dOut, dSae, transcoder } = sae.spec;
  if (source.dIn !== dIn)
    throw new UserError(`the SAE takes activations of width ${dIn}; got ${source.dIn}`);
  if (transcoder !== (source.dOut !== undefined) || (source.dOut ?? dOut) !== dOut)
    throw new UserError(
      transcoder
        ? `the transcoder predicts activations of width ${dOut}; the source has ${source.dOut ? `targets of width ${source.dOut}` : "no targets"}`
        : "the source has targets beside its activations, but the SAE is no transcoder",
    );
  const totals = new ReconstructionSums(dOut, dSae);
  let errors = 0;
  const activationSums = new Float64Array(dSae);
  const pass = source.batches({
    batchSize: sae.maxRows,
    seed: 0,
    shuffle: false,
    bufferRows: sae.maxRows,
  });
  for await (const batch of pass) {
    totals.addTargets(batch.target ?? batch.data, batch.rows);
    const statistics = await sae.statistics(batch.data, batch.rows, batch.target);
    totals.addOutputs(statistics);
    errors += statistics.error;
    for (let f = 0; f < dSae; f++) activationSums[f] += statistics.sums[f];
    if (batch.next.epoch > 0 || totals.rows >= source.rows) break;
  }
  if (totals.rows === 0) throw new UserError("there are no activations to evaluate on");
  const evaluation = {
    ...totals.metrics(),
    deadFraction: totals.counts.filter((n) => n === 0).length / dSae,
    density: totals.counts.map((n) => n / totals.rows),
    meanActivation: activationSums.map((sum) => sum / totals.rows),
  };
  return { evaluation, meanError: errors / totals.rows };
}

/** What the latents of an SAE do on average. */
export interface LatentSummary {
  /** Mean and standard deviation (n - 1) over the latents of their mean activation. */
  meanActivation: { mean: number; std: number };
  /** Mean over the latents of the share of rows in which they fire. */
  meanDensity: number;
  /** Latents that fire in more than 1 % of the rows. */
  activeFeatures: number;
}

export function latentSummary({
  density,
  meanActivation,
}: Pick<Evaluation, "density" | "meanActivation">): LatentSummary {
  const mean = average(meanActivation);
  const squares = meanActivation.reduce((sum, v) => sum + (v - mean) ** 2, 0);
  return {
    meanActivation: { mean, std: Math.sqrt(squares / Math.max(1, meanActivation.length - 1)) },
    meanDensity: average(density),
    activeFeatures: density.filter((v) => v > 0.01).length,
  };
}

function average(values: Float64Array): number {
  return values.reduce((sum, v) => sum + v, 0) / values.length;
}
