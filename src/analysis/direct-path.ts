/** A prediction taken apart along the residual stream, with the final norm's scale as it is. */
import { logSumExp } from "../model/generate.ts";
import type { Model } from "../model/model.ts";
import type { Unembedding } from "../model/unembedding.ts";
import type { Sae } from "../sae/sae.ts";
import { carried, unembedded, type WritePoint } from "./write-point.ts";

/** One number of the logits l: which of them is explained. */
export type Measure =
  /** l_t */
  | "logit"
  /** l_t − mean_v l_v: what softmax cannot see, a number added to all logits, is left out. */
  | "centred"
  /** log p(t) = l_t − log Σ_v exp l_v */
  | "logprob"
  /** l_t − l_u */
  | "difference";

export function measured(
  measure: Measure,
  logits: Float32Array,
  token: number,
  against: number | undefined,
): number {
  switch (measure) {
    case "logit":
      return logits[token];
    case "centred":
      return logits[token] - logits.reduce((sum, v) => sum + v, 0) / logits.length;
    case "logprob":
      return logits[token] - logSumExp(logits);
    case "difference":
      return logits[token] - logits[against!];
    default:
      return measure satisfies never;
  }
}

/** ∂m/∂l at these logits; [vocabSize]. */
function coefficientsOf(
  measure: Measure,
  logits: Float32Array,
  token: number,
  against: number | undefined,
): Float64Array {
  const c = new Float64Array(logits.length);
  if (measure === "centred") c.fill(-1 / logits.length);
  if (measure === "logprob") {
    const logSum = logSumExp(logits);
    logits.forEach((v, i) => (c[i] = -Math.exp(v - logSum)));
  }
  if (measure === "difference") c[against!] -= 1;
  c[token] += 1;
  return c;
}

/** What m is the sum of along the direct path: `value` again, but for rounding. */
export interface Completeness {
  /** The latents at the predicting position. */
  latents: number;
  /** What the SAE decodes without any latent: its bias, what its output transform adds, a skip connection. */
  decoderBias: number;
  /** What the SAE leaves unexplained at the write point. */
  error: number;
  /** What other parts of the model, before and after it, write into the residual stream. */
  rest: number;
  /** The final norm's bias through the unembedding; of a log-probability, and where logits are capped, also m − c·l, which is not linear. */
  constant: number;
  sum: number;
  value: number;
}

export interface DirectPath {
  completeness: Completeness;
  /** Of a latent among `parts`. */
  of: (latent: number) => { direct: number; directAblation: number };
}

/** @param subject the predicting position: `x` begins with what the SAE reads there, `residual` with its last residual stream. */
export async function directPath(
  sae: Sae,
  model: Model,
  { hookPoint, column, width }: WritePoint,
  subject: {
    measure: Measure;
    logits: Float32Array;
    token: number;
    against: number | undefined;
    value: number;
    x: Float32Array;
    residual: Float32Array;
    /** [width], at the write point. */
    written: Float32Array;
    /** a d of each latent that fires there; [width]. */
    parts: readonly { latent: number; part: Float64Array }[];
  },
): Promise<DirectPath> {
  const { measure, logits, token, against, value, x, written, parts } = subject;
  const { dModel } = model.info;
  const residual = subject.residual.subarray(0, dModel);
  const unembedding = await model.unembedding();
  const writer = await model.writer(hookPoint);
  const { logitCap } = unembedding;
  const c = coefficientsOf(measure, logits, token, against);
  let uncapped = logits;
  if (logitCap !== null) {
    // l = cap · tanh(u / cap): ∂l/∂u = 1 − (l / cap)².
    uncapped = logits.map((l) => logitCap * Math.atanh(l / logitCap));
    logits.forEach((l, v) => (c[v] *= 1 - (l / logitCap) ** 2));
  }
  const { h, bias } = readerOf(unembedding, c, residual);
  const read = (values: ArrayLike<number>) => dot(h, carried(writer, Float64Array.from(values)));
  const direct = parts.map(({ part }) => read(part));
  const decoded = sae
    .decode(sae.encode(x), x.subarray(0, sae.spec.dIn))
    .subarray(column, column + width);
  const latents = direct.reduce((sum, v) => sum + v, 0);
  const decoderBias = read(decoded) - latents;
  const error = read(written.map((v, i) => v - decoded[i]));
  const rest = dot(h, residual) - read(written);
  let nonlinear = value;
  uncapped.forEach((v, i) => (nonlinear -= c[i] * v));
  const isLinear = measure !== "logprob" && logitCap === null;
  const constant = bias + (isLinear ? 0 : nonlinear);
  const sum = latents + decoderBias + error + rest + constant;

  const rows = new Float32Array(parts.length * dModel);
  for (const [n, { part }] of parts.entries()) {
    const taken = carried(writer, part);
    for (let i = 0; i < dModel; i++) rows[n * dModel + i] = residual[i] - taken[i];
  }
  const without = await unembedded(model, rows);
  const size = logits.length;
  const place = new Map(parts.map(({ latent }, n) => [latent, n]));
  return {
    completeness: { latents, decoderBias, error, rest, constant, sum, value },
    of: (latent) => {
      const n = place.get(latent)!;
      const row = without.subarray(n * size, (n + 1) * size);
      return { direct: direct[n], directAblation: value - measured(measure, row, token, against) };
    },
  };
}

/** h with h·residual + bias = c·logits, uncapped ones, the norm's scale being that of `residual` [dModel]. */
function readerOf(
  { W_U, norm }: Unembedding,
  c: Float64Array,
  residual: Float32Array,
): { h: Float64Array; bias: number } {
  const d = residual.length;
  const direction = new Float64Array(d); // Σ_v c_v W_U[v]
  for (let v = 0; v < c.length; v++) {
    if (c[v] === 0) continue;
    for (let i = 0, w = v * d; i < d; i++, w++) direction[i] += c[v] * W_U[w];
  }
  const h = direction.map((u, i) => u * norm.gain[i]);
  const bias = dot(direction, norm.bias);
  switch (norm.kind) {
    case "layerNorm": {
      const mean = residual.reduce((sum, v) => sum + v, 0) / d;
      const variance = residual.reduce((sum, v) => sum + (v - mean) ** 2, 0) / d;
      const sigma = Math.sqrt(variance + norm.epsilon);
      const centre = h.reduce((sum, v) => sum + v, 0) / d;
      return { h: h.map((v) => (v - centre) / sigma), bias };
    }
    case "rmsNorm": {
      const square = residual.reduce((sum, v) => sum + v * v, 0) / d;
      const scale = Math.sqrt(square + norm.epsilon);
      return { h: h.map((v) => v / scale), bias };
    }
    default:
      return norm.kind satisfies never;
  }
}

function dot(a: Float64Array, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}
