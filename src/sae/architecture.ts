/**
 * What makes one SAE architecture differ from another: how a row's latents are chosen, and which
 * terms the loss adds up. Each loss is stated here once, as the coefficients that the device's
 * operations take; the operations supply the gradients.
 *
 * N rows in the batch, d = dIn, F = dSae, a = latents, x̂ = a W_dec + b_dec, r = x - x̂.
 *
 * relu, loss "mean":  mean(r²) over all N·d elements + l1 · mean|a| over all N·F elements.
 * relu, loss "sum":   (1/N) Σ_n ‖r_n‖² + l1 · (1/N) Σ_n Σ_f a_nf ‖W_dec[f]‖, the norms trained too
 *                     (Anthropic, "Circuits Updates", April 2024).
 * topk:               (1/N) Σ_n ‖r_n‖² + auxKCoefficient · (1/N) Σ_n ‖r_n - r̂_n‖², where r counts as
 *                     a constant and r̂ = Σ relu(z_f) W_dec[f] over the auxK dead latents with the
 *                     largest pre-activations, without the bias, which r has already taken out
 *                     (AuxK: Gao et al. 2024, appendix A.2). While no latent is dead the term is 0.
 */
import type { SaeConfig } from "../config.ts";
import type { Device, LatentParams, Slots, Tensor } from "../device/device.ts";
import { UserError } from "../error.ts";

/** How latents are chosen; all that encoding needs to know. */
export type Selection = { architecture: "relu" } | { architecture: "topk"; k: number };

/** A selection with the loss it is trained by. */
export type Objective =
  | { architecture: "relu"; loss: "sum" | "mean"; l1: number; l1WarmupSteps: number }
  | { architecture: "topk"; k: number; auxK: number; auxKCoefficient: number };

/** A configuration with every derived value filled in for one input width. */
export interface ResolvedSae {
  dIn: number;
  dSae: number;
  init: "tied" | "xavier";
  decoderBiasInit: "mean" | "zero";
  applyBDecToInput: boolean;
  normalizeActivations: "none" | "expectedAverageNorm";
  unitNormDecoder: boolean;
  objective: Objective;
}

/** @throws UserError when k or auxK exceeds dSae, or dSae is not at least 1. */
export function resolveSae(sae: SaeConfig, dIn: number): ResolvedSae {
  const dSae = sae.dSae ?? Math.round(sae.expansion * dIn);
  if (dSae < 1)
    throw new UserError(
      `expansion × dIn must give at least one latent; got ${sae.expansion} × ${dIn}. Raise sae.expansion or set sae.dSae.`,
    );
  return {
    dIn,
    dSae,
    init: sae.init,
    decoderBiasInit: sae.decoderBiasInit,
    applyBDecToInput: sae.applyBDecToInput,
    normalizeActivations: sae.normalizeActivations,
    unitNormDecoder: sae.unitNormDecoder ?? sae.architecture === "topk",
    objective: objectiveOf(sae, dIn, dSae),
  };
}

function objectiveOf(sae: SaeConfig, dIn: number, dSae: number): Objective {
  switch (sae.architecture) {
    case "relu":
      return {
        architecture: "relu",
        loss: sae.loss,
        l1: sae.l1,
        l1WarmupSteps: sae.l1WarmupSteps,
      };
    case "topk":
      if (sae.k > dSae) throw new UserError(`k must be at most dSae (${dSae}); got ${sae.k}`);
      if (sae.auxK !== undefined && sae.auxK > dSae)
        throw new UserError(`auxK must be at most dSae (${dSae}); got ${sae.auxK}`);
      return {
        architecture: "topk",
        k: sae.k,
        auxK: sae.auxK ?? Math.min(Math.max(1, Math.floor(dIn / 2)), dSae),
        auxKCoefficient: sae.auxKCoefficient,
      };
    default:
      return sae satisfies never;
  }
}

/** The coefficients of a relu loss for a batch of `rows`, in the device operations' terms. */
export interface ReluCoefficients {
  /** The loss gradient of x̂ is -gradScale · r. */
  gradScale: number;
  /** The loss gradient that the penalty gives each active latent (times ‖W_dec[f]‖ when byNorm). */
  l1: number;
  byNorm: boolean;
}

/** @param step counted from 1; the penalty rises linearly to its full weight at step l1WarmupSteps. */
export function reluCoefficients(
  objective: Extract<Objective, { architecture: "relu" }>,
  rows: number,
  dIn: number,
  dSae: number,
  step: number,
): ReluCoefficients {
  const l1 = objective.l1 * warmup(step, objective.l1WarmupSteps);
  return objective.loss === "mean"
    ? { gradScale: 2 / (rows * dIn), l1: l1 / (rows * dSae), byNorm: false }
    : { gradScale: 2 / rows, l1: l1 / rows, byNorm: true };
}

/** min(step / steps, 1), and 1 when there is nothing to warm up. */
export function warmup(step: number, steps: number): number {
  return steps > 0 ? Math.min(1, step / steps) : 1;
}

/** The reconstruction term from Σ_n ‖r_n‖². */
export function reconstructionTerm(
  objective: Objective,
  sse: number,
  rows: number,
  dIn: number,
): number {
  const mean = objective.architecture === "relu" && objective.loss === "mean";
  return sse / (mean ? rows * dIn : rows);
}

/** Where a batch's latents live on the device. */
export type Codes = Slots;

/** Room for the latents of `rows` rows; whoever asked frees it by `freeCodes`. */
export function makeCodes(device: Device, selection: Selection, rows: number, dSae: number): Codes {
  switch (selection.architecture) {
    case "relu":
      return { values: device.tensor([rows, dSae]) };
    case "topk":
      return {
        indices: device.tensor([rows, selection.k], "i32"),
        values: device.tensor([rows, selection.k]),
      };
    default:
      return selection satisfies never;
  }
}

export function freeCodes(device: Device, codes: Codes): void {
  if (codes.indices) device.free(codes.indices);
  device.free(codes.values);
}

/** Queues codes = encode(x); bPre is the decoder bias when it is subtracted first, else null. */
export function encode(
  device: Device,
  op: { rows: number; x: Tensor; bPre: Tensor | null; params: LatentParams; codes: Codes },
): void {
  const { wEnc, bEnc } = op.params;
  const { rows, x, bPre, codes } = op;
  const { indices, values } = codes;
  const input = { rows, x, bPre, wEnc, bEnc };
  if (indices) device.encodeTopK({ ...input, indices, values });
  else device.encodeDense({ ...input, activation: "relu", out: values });
}

/** Queues residual = target - decode(codes). */
export function decode(
  device: Device,
  op: { rows: number; codes: Codes; wDec: Tensor; bDec: Tensor; target: Tensor; residual: Tensor },
): void {
  const { codes, ...rest } = op;
  if (codes.indices) device.decodeSparse({ ...rest, ...codes });
  else device.decodeDense({ ...rest, acts: codes.values });
}
