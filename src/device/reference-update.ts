/** The definition of gradients gathered by latent, of the decoder's constraint and of Adam. */
import type {
  Adam,
  ApplyLatents,
  Device,
  Moments,
  Tensor,
  TensorData,
  UpdateLatents,
  UpdateLatentsDense,
  UpdateVector,
} from "./device.ts";
import { data, dataOrNull, rowNorm, slotsOf } from "./reference-data.ts";

export function updateLatents(op: UpdateLatents): void {
  const [dSae, dIn] = op.params.wEnc.shape;
  const dOut = op.params.wDec.shape[1];
  const [x, bPre] = [data(op.x), dataOrNull(op.bPre)];
  const sums = new GradientSums(dSae, dIn, dOut);
  for (const part of op.parts) {
    const [values, dValues, residual] = [part.values, part.dValues, part.residual].map(data);
    for (let n = 0; n < op.rows; n++) {
      for (const { at, latent: f } of slotsOf(part, n, dSae, part.latents)) {
        const [value, dValue] = [values[at], dValues[at]];
        if (value === 0 && dValue === 0) continue;
        if (part.dWeights) sums.dNorm[f] += data(part.dWeights)[at];
        sums.bEnc[f] += dValue;
        // What is 0 contributes nothing, not even 0 · NaN.
        if (dValue !== 0) {
          for (let i = 0; i < dIn; i++)
            sums.wEnc[f * dIn + i] += dValue * (x[n * dIn + i] - (bPre ? bPre[i] : 0));
        }
        if (value === 0 || part.decoder === false) continue;
        for (let i = 0; i < dOut; i++)
          sums.wDec[f * dOut + i] += -part.gradScale * residual[n * dOut + i] * value;
      }
    }
  }
  finishUpdate(op, sums);
}

export function updateLatentsDense(op: UpdateLatentsDense): void {
  const [dSae, dIn] = op.params.wEnc.shape;
  const dOut = op.params.wDec.shape[1];
  const [x, bPre] = [data(op.x), dataOrNull(op.bPre)];
  const [acts, dPre, dWeights] = [data(op.acts), data(op.dPre), dataOrNull(op.dWeights ?? null)];
  const sums = new GradientSums(dSae, dIn, dOut);
  for (const { latents, residual } of op.levels) {
    const r = data(residual);
    for (let n = 0; n < op.rows; n++) {
      for (let f = latents.from; f < latents.to; f++) {
        const act = acts[n * dSae + f];
        const d = dPre[n * dSae + f];
        sums.dNorm[f] += op.normPenalty * act + (dWeights ? dWeights[n * dSae + f] : 0);
        sums.bEnc[f] += d;
        for (let i = 0; i < dOut; i++)
          sums.wDec[f * dOut + i] += act * -op.gradScale * r[n * dOut + i];
        for (let i = 0; i < dIn; i++)
          sums.wEnc[f * dIn + i] += d * (x[n * dIn + i] - (bPre ? bPre[i] : 0));
      }
    }
  }
  finishUpdate(op, sums);
}

export function applyLatents({
  params,
  moments,
  gradients,
  adam,
  decoder,
  scale,
}: ApplyLatents): void {
  for (const name of ["wEnc", "bEnc", "wDec"] as const)
    adamStep(params[name], scaled(data(gradients[name]), scale), moments[name], adam);
  if (decoder.unitNorm) normalizeRows(params.wDec);
}

export function updateVector({ param, grad, moments, adam, scale, min }: UpdateVector): void {
  adamStep(param, scaled(data(grad), scale ?? null), moments, adam);
  if (min === undefined) return;
  const p = data(param);
  for (let i = 0; i < p.length; i++) p[i] = Math.max(p[i], min);
}

export function clipFactor({ squares, maxNorm, out }: Parameters<Device["clipFactor"]>[0]): void {
  data(out)[0] = Math.min(1, maxNorm / (Math.sqrt(data(squares)[0]) + 1e-6));
}

export function movingAverage({ value, into, rate }: Parameters<Device["movingAverage"]>[0]): void {
  const [from, to] = [data(value), data(into)];
  for (let i = 0; i < to.length; i++) to[i] += rate * (from[i] - to[i]);
}

/** Sums over the batch that make the gradients of the per-latent parameters. */
class GradientSums {
  readonly wEnc: Float64Array;
  readonly bEnc: Float64Array;
  readonly wDec: Float64Array;
  /** Loss gradient of each latent's decoder norm. */
  readonly dNorm: Float64Array;

  constructor(dSae: number, dIn: number, dOut: number) {
    this.wEnc = new Float64Array(dSae * dIn);
    this.bEnc = new Float64Array(dSae);
    this.wDec = new Float64Array(dSae * dOut);
    this.dNorm = new Float64Array(dSae);
  }
}

/** What both updates share: penalties on norms, rank-one part, dBPre, then the step or the written gradients. */
function finishUpdate(op: UpdateLatents | UpdateLatentsDense, sums: GradientSums): void {
  const { params, moments, adam, decoder, normGroups = 1, rankOne } = op;
  const [dSae, dIn] = params.wEnc.shape;
  const dOut = params.wDec.shape[1];
  const [wEnc, wDec] = [data(params.wEnc), data(params.wDec)];

  const width = dOut / normGroups;
  for (let f = 0; f < dSae; f++) {
    for (let start = 0; start < dOut && sums.dNorm[f] !== 0; start += width) {
      const norm = rowNorm(wDec, f, dOut, start, start + width);
      if (norm === 0) continue; // the norm has no gradient there; 0 is its smallest subgradient
      for (let i = f * dOut + start; i < f * dOut + start + width; i++)
        sums.wDec[i] += (sums.dNorm[f] * wDec[i]) / norm;
    }
  }
  if (rankOne) {
    const [coefficients, inputs] = [data(rankOne.coefficients), data(rankOne.inputs)];
    for (let f = 0; f < dSae; f++) {
      sums.bEnc[f] += coefficients[f] * op.rows;
      for (let i = 0; i < dIn; i++) sums.wEnc[f * dIn + i] += coefficients[f] * inputs[i];
    }
  }
  if (op.dBPre) {
    const out = data(op.dBPre);
    for (let i = 0; i < dIn; i++) {
      let sum = 0;
      for (let f = 0; f < dSae; f++)
        if (sums.bEnc[f] !== 0) sum += sums.bEnc[f] * wEnc[f * dIn + i];
      out[i] = (op.accumulate ? out[i] : 0) - sum;
    }
  }
  if (decoder.projectGradient) projectGradient(sums.wDec, wDec, dSae, dOut);
  if (op.gradients) {
    for (const name of ["wEnc", "bEnc", "wDec"] as const) {
      const out = data(op.gradients[name]);
      for (let i = 0; i < out.length; i++) out[i] = (op.accumulate ? out[i] : 0) + sums[name][i];
    }
    return;
  }
  adamStep(params.wEnc, sums.wEnc, moments.wEnc, adam);
  adamStep(params.bEnc, sums.bEnc, moments.bEnc, adam);
  adamStep(params.wDec, sums.wDec, moments.wDec, adam);
  if (decoder.unitNorm) normalizeRows(params.wDec);
}

function scaled(gradient: TensorData, scale: Tensor | null): TensorData | Float64Array {
  if (scale === null) return gradient;
  const factor = data(scale)[0];
  return Float64Array.from(gradient, (g) => factor * g);
}

/** G -= (G·u)u per row, u = W/‖W‖; a row of norm 0 has no direction, its gradient stays. */
function projectGradient(g: Float64Array, w: TensorData, rows: number, columns: number): void {
  for (let f = 0; f < rows; f++) {
    const norm = rowNorm(w, f, columns);
    if (norm === 0) continue;
    let along = 0;
    for (let i = f * columns; i < (f + 1) * columns; i++) along += (g[i] * w[i]) / norm;
    for (let i = f * columns; i < (f + 1) * columns; i++) g[i] -= (along * w[i]) / norm;
  }
}

function normalizeRows(tensor: Tensor): void {
  const [rows, columns] = tensor.shape;
  const w = data(tensor);
  for (let f = 0; f < rows; f++) {
    const norm = rowNorm(w, f, columns);
    if (norm === 0) continue;
    for (let i = f * columns; i < (f + 1) * columns; i++) w[i] /= norm;
  }
}

/** The formula at `Adam`; the step is taken from the moments as stored, in f32. */
function adamStep(
  param: Tensor,
  grad: Float64Array | TensorData,
  moments: Moments,
  adam: Adam,
): void {
  const { learningRate, beta1, beta2, eps, step } = adam;
  const [p, m, v] = [data(param), data(moments.m), data(moments.v)];
  const stepSize = learningRate / (1 - beta1 ** step);
  const correction2 = 1 - beta2 ** step;
  for (let i = 0; i < p.length; i++) {
    m[i] = beta1 * m[i] + (1 - beta1) * grad[i];
    v[i] = beta2 * v[i] + (1 - beta2) * grad[i] * grad[i];
    p[i] -= (stepSize * m[i]) / (Math.sqrt(v[i] / correction2) + eps);
  }
}
