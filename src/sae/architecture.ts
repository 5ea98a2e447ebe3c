/**
 * What makes one SAE architecture differ from another, as one algebra: a selection of latents, a
 * reconstruction over one or more prefixes of them, a sparsity loss, an auxiliary loss. Each is
 * stated here once, in the terms of the device's operations, which supply the gradients.
 *
 * N rows in the batch, d width of the input x, e of the target y, F = dSae, n_f the norm of
 * W_dec[f], or 1 where training keeps it there; sg(·) counts as a constant. x and y are as the
 * transforms (transform.ts) leave them.
 *
 * Structure: an autoencoder reconstructs y = x; a transcoder the activations of another hook point;
 * a crosscoder those of several at once, side by side in both x and y, with n_f the sum of the norms
 * of W_dec[f]'s parts (Lindsey et al. 2024). A skip transcoder (Paulo et al. 2025) adds W_skip x to
 * the reconstruction, with the x that the encoder sees before b_dec is taken off.
 *
 * Selection of a from z = W_enc (x - b_dec) + b_enc:
 *   relu        max(z, 0)
 *   topk        the k largest of a row, max(z, 0)
 *   batchTopk   in training the k·N largest max(z, 0) of the batch; afterwards z where z > θ
 *               (Bussmann et al. 2024)
 *   jumprelu    z where z > θ_f and z > 0, θ trained (Rajamanoharan et al. 2024b)
 *   gated       max(e^{r_f} (π - b_gate) + b_mag, 0) where π = z > 0, b_gate being b_enc
 *               (Rajamanoharan et al. 2024a)
 * Reconstruction, x̂ = a W_dec + b_dec, r = y - x̂ (y is x but for a transcoder):
 *   sum         x̂ = a W_dec + b_dec, (1/N) Σ_n ‖r_n‖²;  mean: over the N·e elements.
 *   Over prefixes m_1 < … < m_L = F (Matryoshka, Bussmann et al. 2025): the mean over l of the same
 *   with only the first m_l latents, so that coefficients carry over from L = 1.
 * Sparsity, c the coefficient:
 *   l1          c/N Σ_n Σ_f a n_f, the norms trained too (Anthropic, "Circuits Updates", April 2024);
 *               with reconstruction "mean", c · mean|a| over the N·F elements. Gated: of relu(π).
 *   lp          c/N Σ_n Σ_f [(a n_f + δ)^p - δ^p] (p-annealing, Karvonen et al. 2024; δ keeps the
 *               slope at 0 finite)
 *   tanh        c/N Σ_n Σ_f tanh(s a n_f) (Anthropic, January 2025)
 *   step        c · L0, quadratic: c (L0/target - 1)², L0 the batch's mean number of active latents.
 *               θ learns by straight-through estimators, see `thresholdGradient`.
 * Auxiliary:
 *   auxK        r̂ = Σ relu(z_f) W_dec[f] over the auxK dead latents with the largest z; the loss is
 *               c · scale · (1/N) Σ_n ‖sg(r_n) - r̂_n‖², the bias not added again (Gao et al. 2024,
 *               appendix A.2). scale, by variant: summed 1; openai 1/V(r); eleuther share/V(y);
 *               saelens share, with V(·) the variance per row around the batch's mean and share =
 *               min(dead latents / (d/2), 1). 0 while no latent is dead.
 *   gated       c/N Σ_n ‖y - (relu(π) sg(W_dec) + sg(b_dec))‖², with sg(W_skip x) where there is one
 *   preAct      c/N Σ_n Σ_f relu(θ_f - z) sg(n_f) over the dead latents, or all.
 *
 * Coefficients count in units of ρ, the root mean square of the elements of y (1 when inputs are
 * normalised, or by request): a loss in which inputs, latents and thresholds are all multiplied by ρ
 * is multiplied by ρ² as a whole. So l1 and preAct carry a factor ρ, the others ρ² with lengths in ρ.
 */
import type { SaeConfig } from "../config.ts";
import type { LatentRange } from "../device/device.ts";
import { UserError } from "../error.ts";

/** How latents are chosen once trained; all that encoding needs to know. */
export type Selection =
  | { architecture: "relu" }
  | { architecture: "topk"; k: number }
  | { architecture: "batchTopk"; k: number; threshold: number }
  | { architecture: "jumprelu" }
  | { architecture: "gated" };

export type Sparsity = { coefficient: number; warmupSteps: number; targetL0: number | null } & (
  | { kind: "l1"; mean: boolean }
  | { kind: "lp"; delta: number; pEnd: number; pAnnealStart: number; pUpdates: number }
  | { kind: "tanh"; c: number }
  | { kind: "step" }
  | { kind: "quadratic"; target: number }
);

export type AuxKVariant = "summed" | "openai" | "eleuther" | "saelens";

export type Auxiliary =
  | { kind: "auxK"; auxK: number; coefficient: number; variant: AuxKVariant }
  | { kind: "gated"; coefficient: number }
  | { kind: "preAct"; coefficient: number; on: "dead" | "all" };

/** A selection with the loss it is trained by. */
export interface Objective {
  selection:
    | { architecture: "relu" | "gated" }
    | ({ architecture: "topk" | "batchTopk" } & TopK)
    | { architecture: "jumprelu"; bandwidth: number; initialThreshold: number };
  /** "mean" over elements instead of rows. */
  reconstruction: "sum" | "mean";
  sparsity: Sparsity | null;
  auxiliary: Auxiliary | null;
}

interface TopK {
  k: number;
  kStart: number;
  kAnnealSteps: number;
  thresholdRate: number;
}

/** What an SAE is trained on, as far as its shape is concerned: what a source says of itself. */
export interface Widths {
  dIn: number;
  /** Width of the targets of a transcoder; absent otherwise. */
  dOut?: number | undefined;
  /** Widths of the hook points side by side in a row of a crosscoder; absent: one of dIn. */
  heads?: readonly number[] | undefined;
}

/** A configuration with every derived value filled in for one source of activations. */
export interface ResolvedSae {
  dIn: number;
  dOut: number;
  heads: number[];
  transcoder: boolean;
  skip: boolean;
  dSae: number;
  /** The nested prefixes as ranges of latents, rising; one, of all latents, without nesting. */
  levels: LatentRange[];
  init: "tied" | "xavier" | "data";
  decoderBiasInit: "mean" | "geometricMedian" | "zero";
  applyBDecToInput: boolean;
  normalizeActivations: SaeConfig["normalizeActivations"];
  unitNormDecoder: boolean;
  /** Whether coefficients count in units of the inputs' root mean square. */
  inRmsUnits: boolean;
  /** With ρ = 1; see `inUnits`. */
  objective: Objective;
}

/** @throws UserError when a setting does not fit dSae or another setting. */
export function resolveSae(sae: SaeConfig, source: Widths): ResolvedSae {
  const { dIn } = source;
  const dSae = sae.dSae ?? Math.round(sae.expansion * dIn);
  if (dSae < 1)
    throw new UserError(
      `expansion × dIn must give at least one latent; got ${sae.expansion} × ${dIn}. Raise sae.expansion or set sae.dSae.`,
    );
  return {
    ...structureOf(sae, source),
    dIn,
    dSae,
    levels: levelsOf(sae.matryoshkaWidths, dSae),
    init: sae.init,
    decoderBiasInit: sae.decoderBiasInit,
    normalizeActivations: sae.normalizeActivations,
    unitNormDecoder: sae.unitNormDecoder ?? sae.architecture !== "relu",
    inRmsUnits:
      sae.normalizeActivations === "none" &&
      "coefficientUnits" in sae &&
      sae.coefficientUnits === "inputRms",
    objective: objectiveOf(sae, dIn, dSae),
  };
}

/** What the source of the activations decides, and what does not go with it. */
function structureOf(
  sae: SaeConfig,
  { dIn, dOut, heads = [dIn] }: Widths,
): Pick<ResolvedSae, "dOut" | "heads" | "transcoder" | "skip" | "applyBDecToInput"> {
  const transcoder = dOut !== undefined;
  const { skip, applyBDecToInput = !transcoder, normalizeActivations } = sae;
  if (skip && !transcoder)
    throw new UserError(
      "sae.skip is for transcoders, which predict one hook point from another; these activations have no target.",
    );
  if (transcoder && applyBDecToInput)
    throw new UserError(
      "sae.applyBDecToInput cannot be true for a transcoder: its decoder bias belongs to the target, not to the input.",
    );
  if (transcoder && normalizeActivations === "layerNorm")
    throw new UserError(
      "sae.normalizeActivations layerNorm cannot be undone on a transcoder's output, whose mean and variance are not known when it is used; use rms or whitening.",
    );
  if (
    heads.length > 1 &&
    (normalizeActivations === "layerNorm" || normalizeActivations === "whitening")
  )
    throw new UserError(
      `sae.normalizeActivations ${normalizeActivations} is for one hook point, these activations come from ${heads.length}; use expectedAverageNorm or rms, which scale each by itself.`,
    );
  if (heads.some((width) => width !== heads[0]))
    throw new UserError(
      `the hook points of a crosscoder must have one width; these have ${heads.join(", ")}`,
    );
  if (transcoder && heads.length > 1)
    throw new UserError("a crosscoder reconstructs what it encodes; give no target");
  return { dOut: dOut ?? dIn, heads: [...heads], transcoder, skip, applyBDecToInput };
}

/** The ranges that prefixes of these widths add, one by one, up to dSae. */
export function levelsOf(widths: readonly number[], dSae: number): LatentRange[] {
  const ends = widths.at(-1) === dSae ? widths : [...widths, dSae];
  return ends.map((to, l) => {
    const from = l === 0 ? 0 : ends[l - 1];
    if (to <= from || to > dSae)
      throw new UserError(
        `matryoshkaWidths must rise and be at most dSae (${dSae}); got ${widths.join(", ")}`,
      );
    return { from, to };
  });
}

function objectiveOf(sae: SaeConfig, dIn: number, dSae: number): Objective {
  switch (sae.architecture) {
    case "relu": {
      if (sae.loss === "mean" && sae.pEnd < 1)
        throw new UserError(`p-annealing needs sae.loss sum; got ${sae.loss}`);
      const { pEnd, pAnnealStart, pUpdates } = sae;
      return {
        selection: { architecture: "relu" },
        reconstruction: sae.loss,
        sparsity: {
          ...penalty(sae, sae.l1),
          ...(pEnd < 1
            ? { kind: "lp", delta: LP_DELTA, pEnd, pAnnealStart, pUpdates }
            : { kind: "l1", mean: sae.loss === "mean" }),
        },
        auxiliary: null,
      };
    }
    case "gated":
      return {
        selection: { architecture: "gated" },
        reconstruction: "sum",
        sparsity: { ...penalty(sae, sae.l1), kind: "l1", mean: false },
        auxiliary: { kind: "gated", coefficient: sae.auxCoefficient },
      };
    case "topk":
    case "batchTopk": {
      const { k, kStart = k, kAnnealSteps, auxKCoefficient, auxKVariant } = sae;
      for (const [name, value] of Object.entries({ k, kStart, auxK: sae.auxK ?? 1 }))
        if (value > dSae)
          throw new UserError(`${name} must be at most dSae (${dSae}); got ${value}`);
      if (kStart < k) throw new UserError(`kStart must be at least k (${k}); got ${kStart}`);
      const thresholdRate = sae.architecture === "batchTopk" ? sae.thresholdRate : 0;
      const auxK = sae.auxK ?? Math.min(Math.max(1, Math.floor(dIn / 2)), dSae);
      return {
        selection: { architecture: sae.architecture, k, kStart, kAnnealSteps, thresholdRate },
        reconstruction: "sum",
        sparsity: null,
        auxiliary:
          auxKCoefficient > 0
            ? { kind: "auxK", auxK, coefficient: auxKCoefficient, variant: auxKVariant }
            : null,
      };
    }
    case "jumprelu": {
      const { bandwidth, initialThreshold, sparsityLoss, targetL0 } = sae;
      const common = penalty(sae, sae.l0Coefficient);
      let sparsity: Sparsity;
      if (sparsityLoss === "quadratic") {
        if (targetL0 === undefined)
          throw new UserError(
            "the quadratic sparsity loss needs sae.targetL0, the number of active latents per row it aims at",
          );
        // The loss itself aims at the target; no controller is needed.
        sparsity = { ...common, targetL0: null, kind: "quadratic", target: targetL0 };
      } else if (sparsityLoss === "tanh") sparsity = { ...common, kind: "tanh", c: sae.tanhScale };
      else sparsity = { ...common, kind: "step" };
      return {
        selection: { architecture: "jumprelu", bandwidth, initialThreshold },
        reconstruction: "sum",
        sparsity,
        auxiliary:
          sae.preActCoefficient > 0
            ? { kind: "preAct", coefficient: sae.preActCoefficient, on: sae.preActOn }
            : null,
      };
    }
    default:
      return sae satisfies never;
  }
}

/** δ of the lp penalty, in units of ρ. */
const LP_DELTA = 1e-3;

function penalty(
  sae: { sparsityWarmupSteps: number; targetL0?: number | undefined },
  coefficient: number,
) {
  return {
    coefficient,
    warmupSteps: sae.sparsityWarmupSteps,
    targetL0: sae.targetL0 ?? null,
  };
}

/** The objective with its coefficients, lengths and thresholds in units of ρ. */
export function inUnits(objective: Objective, rho: number): Objective {
  if (rho === 1) return objective;
  const { selection, sparsity, auxiliary } = objective;
  return {
    ...objective,
    selection:
      selection.architecture === "jumprelu"
        ? {
            ...selection,
            bandwidth: selection.bandwidth * rho,
            initialThreshold: selection.initialThreshold * rho,
          }
        : selection,
    sparsity: sparsity && sparsityInUnits(sparsity, rho),
    auxiliary:
      auxiliary?.kind === "preAct"
        ? { ...auxiliary, coefficient: auxiliary.coefficient * rho }
        : auxiliary,
  };
}

function sparsityInUnits(sparsity: Sparsity, rho: number): Sparsity {
  const { kind, coefficient } = sparsity;
  switch (kind) {
    case "l1":
      return { ...sparsity, coefficient: coefficient * rho };
    case "lp":
      // As l1: p begins at 1, and from there the coefficient follows so that the penalty stays continuous.
      return { ...sparsity, coefficient: coefficient * rho, delta: sparsity.delta * rho };
    case "tanh":
      return { ...sparsity, coefficient: coefficient * rho * rho, c: sparsity.c / rho };
    case "step":
    case "quadratic":
      return { ...sparsity, coefficient: coefficient * rho * rho };
    default:
      return kind satisfies never;
  }
}

/** k at a step counted from 1: from kStart linearly to k over kAnnealSteps, whole for topk. */
export function kAt({ k, kStart, kAnnealSteps }: TopK, step: number): number {
  if (step > kAnnealSteps || kAnnealSteps === 0) return k;
  return Math.round(kStart + ((k - kStart) * (step - 1)) / kAnnealSteps);
}

/** The reconstruction's part of the gradient: that of the loss by x̂ is -gradScale · r. */
export function gradScaleOf({ reconstruction }: Objective, rows: number, dOut: number): number {
  return reconstruction === "mean" ? 2 / (rows * dOut) : 2 / rows;
}

/** The reconstruction term from Σ_n ‖r_n‖². */
export function reconstructionTerm(
  { reconstruction }: Objective,
  sse: number,
  rows: number,
  dOut: number,
): number {
  return sse / (reconstruction === "mean" ? rows * dOut : rows);
}
