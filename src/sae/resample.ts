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
 * Restarts dead latents, each from a row of its own, drawn with probability proportional to its
 * squared error; those that get none, because there are more of them than rows, wait for the next time.
 * W_dec[f] becomes the target's direction from b_dec, W_enc[f] that of the input (the same but for a
 * transcoder, whose input is taken as it is) at a fifth of the mean norm of the living latents' rows,
 * biases 0, a threshold what it was at the start; Adam's moments of all of them 0.
 * @param batch the rows of the last batch by number, in the units of training, and their row statistics.
 * @param sinceFired [dSae]; becomes 0 for those that are restarted.
 * @returns how many were.
 */
export async function resample(
  device: Device,
  parameters: Parameters,
  resolved: ResolvedSae,
  batch: {
    input: (row: number) => Float64Array;
    target: (row: number) => Float64Array;
    rowStats: Float64Array;
  },
  sinceFired: Int32Array,
  options: { deadAfterTokens: number; seed: number; step: number },
): Promise<number> {
  const { dSae, transcoder, unitNormDecoder, objective } = resolved;
  const { selection } = objective;
  const dead: number[] = [];
  for (let f = 0; f < dSae; f++) if (sinceFired[f] >= options.deadAfterTokens) dead.push(f);
  const errors = Float64Array.from(
    { length: batch.rowStats.length / 4 },
    (_, n) => batch.rowStats[n * 4 + 3],
  );
  const rng = new Rng(options.seed, "resample", options.step);
  const drawn = draw(errors, rng);
  if (dead.length === 0 || drawn.length === 0) return 0;

  const norms = device.tensor([dSae]);
  device.rowNorms({ w: parameters.get("W_enc").value, out: norms });
  const [encoderNorms, bDec] = await Promise.all([
    device.readF32(norms),
    device.readF32(parameters.get("b_dec").value),
  ]);
  device.free(norms);
  const living = encoderNorms.filter((_, f) => sinceFired[f] < options.deadAfterTokens);
  const meanNorm = living.length > 0 ? living.reduce((a, b) => a + b, 0) / living.length : 1;

  const decoderNorm = unitNormDecoder ? 1 : FREE_DECODER_NORM;
  const zero = new Float32Array(1);
  let restarted = 0;
  for (const [i, f] of dead.slice(0, drawn.length).entries()) {
    const n = drawn[i];
    const written = batch.target(n).map((v, c) => v - bDec[c]);
    const read = transcoder ? batch.input(n) : written;
    const [writtenNorm, readNorm] = [lengthOf(written), lengthOf(read)];
    if (writtenNorm === 0 || readNorm === 0) continue;
    parameters.restart("W_dec", f, scaled(written, decoderNorm / writtenNorm));
    parameters.restart("W_enc", f, scaled(read, (ENCODER_SHARE * meanNorm) / readNorm));
    parameters.restart("b_enc", f, zero);
    if (selection.architecture === "jumprelu")
      parameters.restart("threshold", f, new Float32Array([selection.initialThreshold]));
    if (selection.architecture === "gated") {
      parameters.restart("b_mag", f, zero);
      parameters.restart("r_mag", f, zero);
    }
    sinceFired[f] = 0;
    restarted += 1;
  }
  return restarted;
}

/**
 * All rows that have an error, in the order in which they are drawn without replacement (Efraimidis
 * and Spirakis 2006): two latents that begin at the same row would stay the same for ever.
 */
function draw(errors: Float64Array, rng: Rng): number[] {
  const keys = errors.map((error) => -Math.log(1 - rng.uniform()) / error);
  return Array.from(keys.keys())
    .filter((n) => errors[n] > 0)
    .sort((a, b) => keys[a] - keys[b] || a - b);
}

function lengthOf(vector: Float64Array): number {
  return Math.sqrt(vector.reduce((sum, v) => sum + v * v, 0));
}

function scaled(vector: Float64Array, factor: number): Float32Array {
  return Float32Array.from(vector, (v) => v * factor);
}
