/**
 * Resampling of dead latents (Bricken et al. 2023, "Towards Monosemanticity", appendix): each begins
 * anew in the direction of an input that is reconstructed badly.
 */
import type { Device } from "../device/device.ts";
import { Rng } from "../rng.ts";
import type { ResolvedSae } from "./architecture.ts";
import { FREE_DECODER_NORM } from "./initialize.ts";
import type { Parameters } from "./parameters.ts";

/** A new encoder row is as long as this share of the mean encoder row of the living. */
const ENCODER_SHARE = 0.2;

/**
 * Restarts every dead latent. Inputs are drawn with probability proportional to their squared error;
 * W_dec[f] becomes the input's direction from b_dec, W_enc[f] the same direction at a fifth of the
 * mean norm of the living latents' rows, biases 0, a threshold what it was at the start; Adam's
 * moments of all of them 0.
 * @param x [rows, dIn], scaled units. @param rowStats [rows, 4] of the same rows.
 * @param sinceFired [dSae]; becomes 0 for those that are restarted.
 * @returns how many were.
 */
export async function resample(
  device: Device,
  parameters: Parameters,
  resolved: ResolvedSae,
  batch: { x: Float32Array; rowStats: Float32Array },
  sinceFired: Int32Array,
  options: { deadAfterTokens: number; seed: number; step: number },
): Promise<number> {
  const { dIn, dSae, unitNormDecoder, objective } = resolved;
  const { selection } = objective;
  const dead: number[] = [];
  for (let f = 0; f < dSae; f++) if (sinceFired[f] >= options.deadAfterTokens) dead.push(f);
  const errors = Float64Array.from(
    { length: batch.rowStats.length / 4 },
    (_, n) => batch.rowStats[n * 4 + 3],
  );
  const sum = errors.reduce((a, b) => a + b, 0);
  if (dead.length === 0 || !(sum > 0)) return 0;

  const norms = device.tensor([dSae]);
  device.rowNorms({ w: parameters.get("W_enc").value, out: norms });
  const [encoderNorms, bDec] = await Promise.all([
    device.readF32(norms),
    device.readF32(parameters.get("b_dec").value),
  ]);
  device.free(norms);
  const living = encoderNorms.filter((_, f) => sinceFired[f] < options.deadAfterTokens);
  const meanNorm = living.length > 0 ? living.reduce((a, b) => a + b, 0) / living.length : 1;

  const rng = new Rng(options.seed, "resample", options.step);
  const decoderNorm = unitNormDecoder ? 1 : FREE_DECODER_NORM;
  const zero = new Float32Array(1);
  for (const f of dead) {
    let left = rng.uniform() * sum;
    let n = 0;
    while (n < errors.length - 1 && (left -= errors[n]) > 0) n++;
    const direction = batch.x.slice(n * dIn, (n + 1) * dIn).map((v, c) => v - bDec[c]);
    const norm = Math.hypot(...direction);
    if (norm === 0) continue;
    parameters.restart(
      "W_dec",
      f,
      direction.map((v) => (v * decoderNorm) / norm),
    );
    parameters.restart(
      "W_enc",
      f,
      direction.map((v) => (v * ENCODER_SHARE * meanNorm) / norm),
    );
    parameters.restart("b_enc", f, zero);
    if (selection.architecture === "jumprelu")
      parameters.restart("threshold", f, new Float32Array([selection.initialThreshold]));
    if (selection.architecture === "gated") {
      parameters.restart("b_mag", f, zero);
      parameters.restart("r_mag", f, zero);
    }
    sinceFired[f] = 0;
  }
  return dead.length;
}
