/** The definition of decoding, and of the gradients of single latents. */
import type {
  BackwardDense,
  DecodeDense,
  DecodeSparse,
  Device,
  Gate,
  GateGradient,
  PreActPenalty,
  ThresholdGradient,
  ValueGradients,
} from "./device.ts";
import { data, dataOrNull, slotRange, slotsOf } from "./reference-data.ts";

export function decodeSparse(op: DecodeSparse): void {
  const [dSae, dOut] = op.wDec.shape;
  const [values, wDec] = [data(op.values), data(op.wDec)];
  const [target, residual, bDec] = [data(op.target), data(op.residual), dataOrNull(op.bDec)];
  for (let n = 0; n < op.rows; n++) {
    const reconstruction = bDec ? Float64Array.from(bDec) : new Float64Array(dOut);
    for (const { at, latent } of slotsOf(op, n, dSae, op.latents)) {
      for (let i = 0; i < dOut; i++) reconstruction[i] += values[at] * wDec[latent * dOut + i];
    }
    for (let i = 0; i < dOut; i++)
      residual[n * dOut + i] = target[n * dOut + i] - reconstruction[i];
  }
  if (op.gradient) valueGradients({ ...op, ...op.gradient });
}

export function valueGradients(op: ValueGradients): void {
  const [dSae, dOut] = op.wDec.shape;
  const [values, wDec] = [data(op.values), data(op.wDec)];
  const [residual, dValues] = [data(op.residual), data(op.dValues)];
  for (let n = 0; n < op.rows; n++) {
    // A slot without a latent has no gradient; with a range, other latents' slots are left alone.
    const [start, end] = slotRange(op, n, dSae);
    if (!op.latents) dValues.fill(0, start, end);
    for (const { at, latent } of slotsOf(op, n, dSae, op.latents)) {
      let product = 0;
      for (let i = 0; i < dOut; i++) product += residual[n * dOut + i] * wDec[latent * dOut + i];
      dValues[at] = values[at] > 0 || op.inactiveToo ? -op.gradScale * product : 0;
    }
  }
}

export function decodeDense(op: DecodeDense): void {
  const [dSae, dOut] = op.wDec.shape;
  const { from, to } = op.latents ?? { from: 0, to: dSae };
  const [acts, wDec, bDec] = [data(op.acts), data(op.wDec), dataOrNull(op.bDec)];
  const [target, residual] = [data(op.target), data(op.residual)];
  for (let n = 0; n < op.rows; n++) {
    const reconstruction = bDec ? Float64Array.from(bDec) : new Float64Array(dOut);
    for (let f = from; f < to; f++) {
      for (let i = 0; i < dOut; i++) reconstruction[i] += acts[n * dSae + f] * wDec[f * dOut + i];
    }
    for (let i = 0; i < dOut; i++)
      residual[n * dOut + i] = target[n * dOut + i] - reconstruction[i];
  }
}

export function backwardDense(op: BackwardDense): void {
  const [dSae, dOut] = op.wDec.shape;
  const { from, to } = op.latents ?? { from: 0, to: dSae };
  const [acts, residual, wDec] = [dataOrNull(op.acts), data(op.residual), data(op.wDec)];
  const [weights, dPre] = [dataOrNull(op.weights), data(op.dPre)];
  for (let n = 0; n < op.rows; n++) {
    for (let f = from; f < to; f++) {
      if (acts && !(acts[n * dSae + f] > 0)) {
        dPre[n * dSae + f] = 0;
        continue;
      }
      let product = 0;
      for (let i = 0; i < dOut; i++) product += residual[n * dOut + i] * wDec[f * dOut + i];
      dPre[n * dSae + f] = -op.gradScale * product + op.l1 * (weights ? weights[f] : 1);
    }
  }
}

export function penalize(op: Parameters<Device["penalize"]>[0]): void {
  const { penalty, codes } = op;
  const [values, dValues] = [data(codes.values), data(op.dValues)];
  const [weights, dWeights] = [dataOrNull(op.weights), dataOrNull(op.dWeights)];
  const dSae = op.weights?.shape[0] ?? (codes.indices ? Infinity : codes.values.shape[1]);
  for (let n = 0; n < op.rows; n++) {
    let sum = 0;
    const [start, end] = slotRange(codes, n, dSae);
    dWeights?.fill(0, start, end);
    for (const { at, latent } of slotsOf(codes, n, dSae)) {
      const a = values[at];
      if (!(a > 0) && !op.inactiveToo) continue;
      const w = weights ? weights[latent] : 1;
      const [s, slope] = penaltyAndSlope(penalty, w * a);
      sum += s;
      dValues[at] += penalty.coefficient * w * slope;
      if (dWeights) dWeights[at] = penalty.coefficient * a * slope;
    }
    data(op.rowPenalty)[n] = penalty.coefficient * sum;
  }
}

/** s(u) and s'(u). */
function penaltyAndSlope(
  penalty: Parameters<Device["penalize"]>[0]["penalty"],
  u: number,
): [number, number] {
  switch (penalty.kind) {
    case "l1":
      return [u, 1];
    case "lp": {
      const { p, delta } = penalty;
      return [(u + delta) ** p - delta ** p, p * (u + delta) ** (p - 1)];
    }
    case "tanh": {
      const t = Math.tanh(penalty.c * u);
      return [t, penalty.c * (1 - t * t)];
    }
    default:
      return penalty satisfies never;
  }
}

export function thresholdGradient(op: ThresholdGradient): void {
  const { rows, codes, bandwidth, l0 } = op;
  const [dSae] = op.threshold.shape;
  const [values, pre, threshold] = [codes.values, op.pre, op.threshold].map(data);
  const dValues = data(op.dValues);
  let active = 0;
  for (let n = 0; n < rows; n++)
    for (const { at } of slotsOf(codes, n, dSae)) if (values[at] > 0) active++;
  const meanL0 = active / rows;
  const dL0 =
    l0.target === null
      ? l0.coefficient
      : (2 * l0.coefficient * (meanL0 / l0.target - 1)) / l0.target;
  const dThreshold = new Float64Array(dSae);
  for (let n = 0; n < rows; n++) {
    for (const { at, latent } of slotsOf(codes, n, dSae)) {
      const theta = threshold[latent];
      if (Math.abs(pre[at] - theta) < bandwidth / 2)
        dThreshold[latent] -= (theta * dValues[at] + dL0) / bandwidth;
      if (!(values[at] > 0)) dValues[at] = 0;
    }
  }
  data(op.dThreshold).set(dThreshold);
}

export function gate(op: Gate): void {
  const [dSae] = op.rMag.shape;
  const [pi, magnitudes] = [data(op.codes.values), data(op.magnitudes)];
  const [rMag, bGate, bMag] = [op.rMag, op.bGate, op.bMag].map(data);
  for (let n = 0; n < op.rows; n++) {
    const [start, end] = slotRange(op.codes, n, dSae);
    magnitudes.fill(0, start, end);
    for (const { at, latent: f } of slotsOf(op.codes, n, dSae)) {
      if (pi[at] > 0)
        magnitudes[at] = Math.max(Math.exp(rMag[f]) * (pi[at] - bGate[f]) + bMag[f], 0);
    }
  }
}

export function gateGradient(op: GateGradient): void {
  const [dSae] = op.rMag.shape;
  const [pi, magnitudes] = [data(op.codes.values), data(op.magnitudes)];
  const [rMag, bGate] = [op.rMag, op.bGate].map(data);
  const [dMagnitudes, dGate] = [op.dMagnitudes, op.dGate].map(data);
  const [dBGate, dBMag, dRMag] = [0, 0, 0].map(() => new Float64Array(dSae));
  for (let n = 0; n < op.rows; n++) {
    for (const { at, latent: f } of slotsOf(op.codes, n, dSae)) {
      if (!(pi[at] > 0)) {
        dGate[at] = 0;
        continue;
      }
      const gain = Math.exp(rMag[f]);
      const dMagnitude = magnitudes[at] > 0 ? dMagnitudes[at] : 0;
      dBGate[f] += dGate[at];
      dBMag[f] += dMagnitude;
      dRMag[f] += dMagnitude * gain * (pi[at] - bGate[f]);
      dGate[at] = gain * dMagnitude + dGate[at];
    }
  }
  data(op.dBGate).set(dBGate);
  data(op.dBMag).set(dBMag);
  data(op.dRMag).set(dRMag);
}

export function preActPenalty(op: PreActPenalty): void {
  const { rows, codes, coefficient, eligible } = op;
  const [dSae, dIn] = op.wEnc.shape;
  const [values, pre, threshold, weights] = [codes.values, op.pre, op.threshold, op.weights].map(
    data,
  );
  const [inputs, wEnc, bEnc] = [op.inputs, op.wEnc, op.bEnc].map(data);
  const sinceFired = data(eligible.sinceFired);
  const [dValues, dThreshold] = [op.dValues, op.dThreshold].map(data);
  const isEligible = (f: number) => sinceFired[f] >= eligible.atLeast;
  // Σ_n relu(θ - z_n) = Σ_n (θ - z_n) - Σ_{active} (θ - z_n), and Σ_n z_n needs the inputs' sum only.
  const excess = new Float64Array(dSae);
  const inactive = new Float64Array(dSae).fill(rows);
  for (let n = 0; n < rows; n++) {
    for (const { at, latent: f } of slotsOf(codes, n, dSae)) {
      if (!(values[at] > 0) || !isEligible(f)) continue;
      excess[f] += pre[at] - threshold[f];
      inactive[f] -= 1;
      dValues[at] += coefficient * weights[f];
    }
  }
  let penalty = 0;
  for (let f = 0; f < dSae; f++) {
    if (!isEligible(f)) {
      data(op.coefficients)[f] = 0;
      continue;
    }
    const c = coefficient * weights[f];
    let shortfall = rows * (threshold[f] - bEnc[f]) + excess[f];
    for (let i = 0; i < dIn; i++) shortfall -= inputs[i] * wEnc[f * dIn + i];
    data(op.coefficients)[f] = -c;
    dThreshold[f] += c * inactive[f];
    penalty += c * shortfall;
  }
  data(op.penalty)[0] = penalty;
}
