/**
 * The definition of every device operation: plain loops, sums in float64, numbers rounded to f32
 * only where they are stored. Slow on purpose; the other devices are tested against it.
 */
import { sizeOf } from "./check.ts";
import type {
  Adam,
  BackwardDense,
  DecodeDense,
  DecodeSparse,
  Device,
  Dtype,
  EncodeRelu,
  EncodeTopK,
  FiringStats,
  Moments,
  SparseCodes,
  Tensor,
  TensorData,
  UpdateLatents,
  UpdateLatentsDense,
  UpdateVector,
} from "./device.ts";

interface HostTensor extends Tensor {
  data: TensorData;
}

const data = (tensor: Tensor) => (tensor as HostTensor).data;
const dataOrNull = (tensor: Tensor | null) => (tensor === null ? null : data(tensor));

export function openReference(): Device {
  return new ReferenceDevice();
}

class ReferenceDevice implements Device {
  readonly name = "reference";
  readonly description = "reference: plain loops on one thread, sums in float64";

  tensor(shape: readonly number[], dtype: Dtype = "f32"): Tensor {
    const size = sizeOf(shape);
    const numbers = dtype === "f32" ? new Float32Array(size) : new Int32Array(size);
    return { shape, dtype, data: numbers } as HostTensor;
  }

  free(): void {}

  write(tensor: Tensor, numbers: TensorData, offset = 0): void {
    data(tensor).set(numbers, offset);
  }

  read(tensor: Tensor, count?: number): Promise<TensorData> {
    return Promise.resolve(data(tensor).slice(0, count));
  }

  readF32(tensor: Tensor, count?: number): Promise<Float32Array> {
    return this.read(tensor, count) as Promise<Float32Array>;
  }

  readI32(tensor: Tensor, count?: number): Promise<Int32Array> {
    return this.read(tensor, count) as Promise<Int32Array>;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  encodeTopK(op: EncodeTopK): void {
    const [dSae] = op.wEnc.shape;
    const k = op.indices.shape[1];
    const indices = data(op.indices);
    const values = data(op.values);
    const sinceFired = op.eligible && data(op.eligible.sinceFired);
    const candidates: number[] = [];
    for (let f = 0; f < dSae; f++) {
      if (!op.eligible || sinceFired![f] >= op.eligible.atLeast) candidates.push(f);
    }
    for (let n = 0; n < op.rows; n++) {
      const z = preActivations(op, n).map(Math.fround);
      const rank = (f: number) => (Number.isNaN(z[f]) ? -Infinity : z[f]);
      const kept = candidates
        .toSorted((a, b) => (rank(a) === rank(b) ? a - b : rank(a) > rank(b) ? -1 : 1))
        .slice(0, k);
      for (let j = 0; j < k; j++) {
        indices[n * k + j] = j < kept.length ? kept[j] : -1;
        values[n * k + j] = j < kept.length ? Math.max(z[kept[j]], 0) : 0;
      }
    }
  }

  encodeRelu(op: EncodeRelu): void {
    const [dSae] = op.wEnc.shape;
    const acts = data(op.acts);
    for (let n = 0; n < op.rows; n++) {
      const z = preActivations(op, n);
      for (let f = 0; f < dSae; f++) acts[n * dSae + f] = Math.max(z[f], 0);
    }
  }

  decodeSparse(op: DecodeSparse): void {
    const [dSae, dIn] = op.wDec.shape;
    const k = op.indices.shape[1];
    const [indices, values, wDec] = [data(op.indices), data(op.values), data(op.wDec)];
    const [target, residual, bDec] = [data(op.target), data(op.residual), dataOrNull(op.bDec)];
    for (let n = 0; n < op.rows; n++) {
      for (let i = 0; i < dIn; i++) {
        let reconstruction = bDec ? bDec[i] : 0;
        for (let j = 0; j < k; j++) {
          const f = indices[n * k + j];
          if (f >= 0 && f < dSae) reconstruction += values[n * k + j] * wDec[f * dIn + i];
        }
        residual[n * dIn + i] = target[n * dIn + i] - reconstruction;
      }
      if (!op.gradient) continue;
      const dValues = data(op.gradient.dValues);
      for (let j = 0; j < k; j++) {
        const f = indices[n * k + j];
        const active = f >= 0 && f < dSae && values[n * k + j] > 0;
        let product = 0;
        for (let i = 0; active && i < dIn; i++)
          product += residual[n * dIn + i] * wDec[f * dIn + i];
        dValues[n * k + j] = active ? -op.gradient.gradScale * product : 0;
      }
    }
  }

  decodeDense(op: DecodeDense): void {
    const [dSae, dIn] = op.wDec.shape;
    const [acts, wDec, bDec] = [data(op.acts), data(op.wDec), dataOrNull(op.bDec)];
    const [target, residual] = [data(op.target), data(op.residual)];
    for (let n = 0; n < op.rows; n++) {
      const reconstruction = bDec ? Float64Array.from(bDec) : new Float64Array(dIn);
      for (let f = 0; f < dSae; f++) {
        for (let i = 0; i < dIn; i++) reconstruction[i] += acts[n * dSae + f] * wDec[f * dIn + i];
      }
      for (let i = 0; i < dIn; i++) residual[n * dIn + i] = target[n * dIn + i] - reconstruction[i];
    }
  }

  backwardDense(op: BackwardDense): void {
    const [dSae, dIn] = op.wDec.shape;
    const [acts, residual, wDec] = [data(op.acts), data(op.residual), data(op.wDec)];
    const [weights, dPre] = [dataOrNull(op.weights), data(op.dPre)];
    for (let n = 0; n < op.rows; n++) {
      for (let f = 0; f < dSae; f++) {
        if (!(acts[n * dSae + f] > 0)) {
          dPre[n * dSae + f] = 0;
          continue;
        }
        let product = 0;
        for (let i = 0; i < dIn; i++) product += residual[n * dIn + i] * wDec[f * dIn + i];
        dPre[n * dSae + f] = -op.gradScale * product + op.l1 * (weights ? weights[f] : 1);
      }
    }
  }

  updateLatents(op: UpdateLatents): void {
    const [dSae, dIn] = op.params.wDec.shape;
    const [x, bPre] = [data(op.x), dataOrNull(op.bPre)];
    const gradients = new LatentGradients(dSae, dIn);
    for (const part of op.parts) {
      const k = part.indices.shape[1];
      const [indices, values, dValues] = [
        data(part.indices),
        data(part.values),
        data(part.dValues),
      ];
      const residual = data(part.residual);
      for (let n = 0; n < op.rows; n++) {
        for (let j = 0; j < k; j++) {
          const f = indices[n * k + j];
          const value = values[n * k + j];
          if (!(f >= 0 && f < dSae && value > 0)) continue;
          const dValue = dValues[n * k + j];
          gradients.bEnc[f] += dValue;
          for (let i = 0; i < dIn; i++) {
            gradients.wDec[f * dIn + i] += -part.gradScale * residual[n * dIn + i] * value;
            gradients.wEnc[f * dIn + i] += dValue * (x[n * dIn + i] - (bPre ? bPre[i] : 0));
          }
        }
      }
    }
    applyLatentGradients(op, gradients);
  }

  updateLatentsDense(op: UpdateLatentsDense): void {
    const [dSae, dIn] = op.params.wDec.shape;
    const [x, bPre, wDec] = [data(op.x), dataOrNull(op.bPre), data(op.params.wDec)];
    const [acts, dPre, residual] = [data(op.acts), data(op.dPre), data(op.residual)];
    const gradients = new LatentGradients(dSae, dIn);
    const actSums = new Float64Array(dSae);
    for (let n = 0; n < op.rows; n++) {
      for (let f = 0; f < dSae; f++) {
        const act = acts[n * dSae + f];
        const d = dPre[n * dSae + f];
        actSums[f] += act;
        gradients.bEnc[f] += d;
        for (let i = 0; i < dIn; i++) {
          gradients.wDec[f * dIn + i] += act * -op.gradScale * residual[n * dIn + i];
          gradients.wEnc[f * dIn + i] += d * (x[n * dIn + i] - (bPre ? bPre[i] : 0));
        }
      }
    }
    for (let f = 0; f < dSae; f++) {
      const norm = rowNorm(wDec, f, dIn);
      if (norm === 0) continue; // the penalty has no gradient there; 0 is its smallest subgradient
      for (let i = 0; i < dIn; i++) {
        gradients.wDec[f * dIn + i] += (op.normPenalty * actSums[f] * wDec[f * dIn + i]) / norm;
      }
    }
    applyLatentGradients(op, gradients);
  }

  updateVector(op: UpdateVector): void {
    adamStep(op.param, data(op.grad), op.moments, op.adam);
  }

  columnSum(op: Parameters<Device["columnSum"]>[0]): void {
    const [x, out] = [data(op.x), data(op.out)];
    const columns = op.x.shape[1];
    for (let c = 0; c < columns; c++) {
      let sum = 0;
      for (let n = 0; n < op.rows; n++) sum += x[n * columns + c];
      out[c] = op.scale * sum + (op.accumulate ? out[c] : 0);
    }
  }

  rowNorms(op: Parameters<Device["rowNorms"]>[0]): void {
    const [rows, columns] = op.w.shape;
    for (let f = 0; f < rows; f++) data(op.out)[f] = rowNorm(data(op.w), f, columns);
  }

  rowStats(op: Parameters<Device["rowStats"]>[0]): void {
    const [target, residual, out] = [data(op.target), data(op.residual), data(op.out)];
    const dIn = op.target.shape[1];
    for (let n = 0; n < op.rows; n++) {
      let [tt, rr, tr, ee] = [0, 0, 0, 0];
      for (let i = 0; i < dIn; i++) {
        const t = target[n * dIn + i];
        const e = residual[n * dIn + i];
        tt += t * t;
        rr += (t - e) * (t - e);
        tr += t * (t - e);
        ee += e * e;
      }
      out.set([tt, rr, tr, ee], n * 4);
    }
  }

  recordFiring(op: {
    rows: number;
    codes: SparseCodes | { acts: Tensor };
    stats: FiringStats;
  }): void {
    const [dSae] = op.stats.counts.shape;
    const [sinceFired, counts, sums] = [op.stats.sinceFired, op.stats.counts, op.stats.sums].map(
      data,
    );
    const lastFired = new Int32Array(dSae).fill(-1);
    const batchSums = new Float64Array(dSae);
    const record = (n: number, f: number, value: number) => {
      if (!(f >= 0 && f < dSae && value > 0)) return;
      lastFired[f] = n;
      counts[f]++;
      batchSums[f] += value;
    };
    for (let n = 0; n < op.rows; n++) {
      if ("acts" in op.codes) {
        for (let f = 0; f < dSae; f++) record(n, f, data(op.codes.acts)[n * dSae + f]);
      } else {
        const k = op.codes.indices.shape[1];
        for (let j = 0; j < k; j++) {
          record(n, data(op.codes.indices)[n * k + j], data(op.codes.values)[n * k + j]);
        }
      }
    }
    for (let f = 0; f < dSae; f++) {
      sums[f] += batchSums[f];
      sinceFired[f] = lastFired[f] < 0 ? sinceFired[f] + op.rows : op.rows - 1 - lastFired[f];
    }
  }

  matmul(op: Parameters<Device["matmul"]>[0]): void {
    const [a, b, out] = [data(op.a), data(op.b), data(op.out)];
    const [m, p] = op.out.shape;
    const inner = op.a.shape[op.transA ? 0 : 1];
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < p; j++) {
        let sum = 0;
        for (let l = 0; l < inner; l++) {
          sum +=
            a[op.transA ? l * m + i : i * inner + l] * b[op.transB ? j * inner + l : l * p + j];
        }
        out[i * p + j] = sum;
      }
    }
  }
}

/** z[f] of row n: (x - bPre) · W_enc[f] + b_enc[f], in float64. */
function preActivations(op: EncodeTopK | EncodeRelu, n: number): Float64Array {
  const [dSae, dIn] = op.wEnc.shape;
  const [x, bPre, wEnc, bEnc] = [data(op.x), dataOrNull(op.bPre), data(op.wEnc), data(op.bEnc)];
  const z = Float64Array.from(bEnc);
  for (let f = 0; f < dSae; f++) {
    for (let i = 0; i < dIn; i++) {
      z[f] += (x[n * dIn + i] - (bPre ? bPre[i] : 0)) * wEnc[f * dIn + i];
    }
  }
  return z;
}

class LatentGradients {
  readonly wEnc: Float64Array;
  readonly bEnc: Float64Array;
  readonly wDec: Float64Array;

  constructor(dSae: number, dIn: number) {
    this.wEnc = new Float64Array(dSae * dIn);
    this.bEnc = new Float64Array(dSae);
    this.wDec = new Float64Array(dSae * dIn);
  }
}

/** What both updates share: dBPre, the decoder's constraint and the Adam step of all parameters. */
function applyLatentGradients(
  op: UpdateLatents | UpdateLatentsDense,
  gradients: LatentGradients,
): void {
  const { params, moments, adam, decoder } = op;
  const [dSae, dIn] = params.wDec.shape;
  const [wEnc, wDec] = [data(params.wEnc), data(params.wDec)];
  if (op.dBPre) {
    for (let i = 0; i < dIn; i++) {
      let sum = 0;
      for (let f = 0; f < dSae; f++) sum += gradients.bEnc[f] * wEnc[f * dIn + i];
      data(op.dBPre)[i] = -sum;
    }
  }
  if (decoder.projectGradient) projectGradient(gradients.wDec, wDec, dSae, dIn);
  adamStep(params.wEnc, gradients.wEnc, moments.wEnc, adam);
  adamStep(params.bEnc, gradients.bEnc, moments.bEnc, adam);
  adamStep(params.wDec, gradients.wDec, moments.wDec, adam);
  if (decoder.unitNorm) normalizeRows(wDec, dSae, dIn);
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

function normalizeRows(w: TensorData, rows: number, columns: number): void {
  for (let f = 0; f < rows; f++) {
    const norm = rowNorm(w, f, columns);
    if (norm === 0) continue;
    for (let i = f * columns; i < (f + 1) * columns; i++) w[i] /= norm;
  }
}

function rowNorm(w: TensorData, row: number, columns: number): number {
  let sum = 0;
  for (let i = row * columns; i < (row + 1) * columns; i++) sum += w[i] * w[i];
  return Math.sqrt(sum);
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
