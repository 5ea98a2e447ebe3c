/**
 * What a latent does to the next token: its decoder row, carried to the residual stream and through
 * the unembedding. Later layers and the size of the residual stream are left out, so there are three
 * answers, which differ; each is always named. With r the decoder row in raw units, in the residual
 * stream, and W_U [vocabulary, dModel]:
 *
 *     raw      ℓ = W_U r                      what SAEDashboard shows for a model loaded as it is
 *     folded   ℓ = W_U (gain ⊙ r)             the final norm's gain folded in
 *     centred  ℓ = (W_U − mean row) (gain ⊙ (r − mean r))
 *              what TransformerLens' processed weights give (fold_ln, center_unembed): a layer norm
 *              cannot see a constant on r, nor the softmax a constant on ℓ; before an RMS norm, which
 *              does, r is left as it is
 *
 * All are per unit of the latent, and of a residual stream whose deviation from its mean has a root
 * mean square of 1; the norm divides by the actual one. What later layers make of it, in real
 * contexts, is in true-logits.ts.
 */
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import type { Model } from "../model/model.ts";
import type { Unembedding } from "../model/unembedding.ts";
import type { Sae } from "../sae/sae.ts";
import { isFoldable } from "../sae/transform.ts";
import { highest } from "./order.ts";
import { rowProducts } from "./products.ts";
import { carried, checkLatents, directionsAt, writePointOf, type Places } from "./write-point.ts";

export const DIRECT_FORMS = ["raw", "folded", "centred"] as const;
export type DirectForm = (typeof DIRECT_FORMS)[number];
/** `true`: the mean change of the logits in real contexts, later layers run again. */
export type LogitForm = DirectForm | "true";

export interface TokenLogit {
  token: number;
  value: number;
}

/** How a latent's effects on all tokens of the vocabulary are spread. */
export interface LogitSpread {
  /** 50 bins of equal width from the lowest to the highest effect, the last one closed. */
  histogram: { low: number; high: number; counts: number[] };
  mean: number;
  /** Root of the mean squared deviation (not n − 1). */
  std: number;
  /** m₃ / m₂^1.5 of the central moments m; 0 where all effects are equal. */
  skewness: number;
  /** m₄ / m₂² − 3: 0 for a normal distribution, large where few tokens stand out. */
  excessKurtosis: number;
}

export interface LogitEffect extends LogitSpread {
  latent: number;
  form: LogitForm;
  /** Most raised first. */
  top: TokenLogit[];
  /** Most lowered first. */
  bottom: TokenLogit[];
}

/**
 * Decoder rows of `latents` as directions in the residual stream, in raw units, [latents, dModel]: of
 * a crosscoder those at the hook point that `places.at` names, by default the last, which is the
 * nearest to the logits. Where the SAE normalises each row by itself, per standard deviation of that row.
 * @throws UserError when SAE and hook points do not fit, or for a latent out of range.
 */
export async function residualDirections(
  sae: Sae,
  model: Model,
  places: Places,
  latents: readonly number[],
): Promise<Float32Array> {
  checkLatents(sae, latents);
  const point = writePointOf(sae, model, nearestToLogits(places));
  const { dModel } = model.info;
  const writer = await model.writer(point.hookPoint);
  const { column, width } = point;
  const directionAt = isFoldable(sae.spec.output)
    ? directionsAt(sae, point)
    : (latent: number) =>
        Float64Array.from(sae.decoderRow(latent).subarray(column, column + width));
  const none = new Float32Array();
  const out = new Float32Array(latents.length * dModel);
  for (const [i, latent] of latents.entries())
    out.set(carried(writer, directionAt(latent, none)), i * dModel);
  return out;
}

/** The places with a crosscoder's last hook point chosen, unless one is. */
export function nearestToLogits(places: Places): Places {
  const { hookPoint, at } = places;
  if (typeof hookPoint === "string" || hookPoint.length === 1) return places;
  return { ...places, at: at ?? hookPoint[hookPoint.length - 1] };
}

/**
 * Why the latents have no direct effect on the logits (nothing carries what they write to the residual
 * stream, or the model is an encoder); undefined where they have one.
 * @throws UserError when SAE and hook points do not fit.
 */
export async function whyNoEffects(
  sae: Sae,
  model: Model,
  places: Places,
): Promise<string | undefined> {
  const { hookPoint } = writePointOf(sae, model, nearestToLogits(places));
  try {
    await model.writer(hookPoint);
    return undefined;
  } catch (error) {
    if (error instanceof UserError) return error.message;
    throw error;
  }
}

export interface LogitOptions extends Places {
  form: DirectForm;
  /** Absent: all of them. */
  latents?: readonly number[];
  /** Tokens at each end; by default 10. */
  top?: number;
  /** For many latents: products on a device; absent: in plain loops. */
  device?: Device;
}

/**
 * The logit effects of `latents`, in their order.
 * @throws UserError when SAE and hook points do not fit, or for a latent out of range.
 */
export async function* logitEffects(
  sae: Sae,
  model: Model,
  options: LogitOptions,
): AsyncGenerator<LogitEffect> {
  const { form, top = 10 } = options;
  for await (const { latent, effects } of effectVectors(sae, model, options))
    yield { latent, form, ...effectOf(effects, top) };
}

/** `logitEffects` on every token of the vocabulary; the array is used again. */
export async function* effectVectors(
  sae: Sae,
  model: Model,
  options: Omit<LogitOptions, "top">,
): AsyncGenerator<{ latent: number; effects: Float32Array }> {
  const { form, device, latents = [...Array(sae.spec.dSae).keys()] } = options;
  const unembedding = await model.unembedding();
  const { dModel, vocabSize, W_U } = unembedding;
  const directions = await residualDirections(sae, model, options, latents);
  for (let n = 0; n < latents.length; n++)
    asRead(directions.subarray(n * dModel, (n + 1) * dModel), unembedding, form);
  for await (const { from, rows, products } of rowProducts(directions, W_U, dModel, device))
    for (let n = 0; n < rows; n++) {
      const effects = products.subarray(n * vocabSize, (n + 1) * vocabSize);
      if (form === "centred") subtractMean(effects);
      yield { latent: latents[from + n], effects };
    }
}

/** Turns a direction, in place, into what W_U is multiplied by. */
function asRead(direction: Float32Array, { norm }: Unembedding, form: DirectForm): void {
  if (form === "raw") return;
  switch (norm.kind) {
    case "layerNorm":
      if (form === "centred") subtractMean(direction);
      break;
    case "rmsNorm": // it sees a constant
      break;
    default:
      norm.kind satisfies never;
  }
  for (let c = 0; c < direction.length; c++) direction[c] *= norm.gain[c];
}

function subtractMean(values: Float32Array): void {
  let sum = 0;
  for (const v of values) sum += v;
  const mean = sum / values.length;
  for (let i = 0; i < values.length; i++) values[i] -= mean;
}

/** The ends and the spread of effects [vocabulary]; equal effects in the order of the tokens. */
export function effectOf(
  effects: ArrayLike<number>,
  count: number,
): LogitSpread & Pick<LogitEffect, "top" | "bottom"> {
  const withValue = (token: number): TokenLogit => ({ token, value: effects[token] });
  const lowered = Float64Array.from(effects, (v) => -v);
  return {
    top: highest(effects, count).map(withValue),
    bottom: highest(lowered, count).map(withValue),
    ...spreadOf(effects),
  };
}

const BINS = 50;

function spreadOf(values: ArrayLike<number>): LogitSpread {
  const n = values.length;
  let [low, high, sum] = [Infinity, -Infinity, 0];
  for (let i = 0; i < n; i++) {
    low = Math.min(low, values[i]);
    high = Math.max(high, values[i]);
    sum += values[i];
  }
  const mean = sum / n;
  const counts = new Array<number>(BINS).fill(0);
  const perBin = high > low ? BINS / (high - low) : 0;
  let [m2, m3, m4] = [0, 0, 0];
  for (let i = 0; i < n; i++) {
    counts[Math.min(Math.floor((values[i] - low) * perBin), BINS - 1)]++;
    const deviation = values[i] - mean;
    const square = deviation * deviation;
    m2 += square;
    m3 += square * deviation;
    m4 += square * square;
  }
  [m2, m3, m4] = [m2 / n, m3 / n, m4 / n];
  return {
    histogram: { low, high, counts },
    mean,
    std: Math.sqrt(m2),
    skewness: m2 > 0 ? m3 / m2 ** 1.5 : 0,
    excessKurtosis: m2 > 0 ? m4 / m2 ** 2 - 3 : 0,
  };
}
