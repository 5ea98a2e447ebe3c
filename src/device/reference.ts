/**
 * The definition of every device operation: plain loops, sums in float64, numbers rounded to f32
 * only where they are stored. Slow on purpose; the other devices are tested against it.
 */
import { sizeOf } from "./check.ts";
import type { Device, Dtype, FiringStats, Slots, Tensor, TensorData } from "./device.ts";
import { data, hostTensor, rowNorm, slotsOf } from "./reference-data.ts";
import * as encoding from "./reference-encode.ts";
import * as latents from "./reference-latents.ts";
import * as update from "./reference-update.ts";

export function openReference(): Device {
  return new ReferenceDevice();
}

class ReferenceDevice implements Device {
  readonly name = "reference";
  readonly description = "reference: plain loops on one thread, sums in float64";
  readonly memoryLimit = Infinity;

  tensor(shape: readonly number[], dtype: Dtype = "f32"): Tensor {
    const size = sizeOf(shape);
    return hostTensor(
      shape,
      dtype,
      dtype === "f32" ? new Float32Array(size) : new Int32Array(size),
    );
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

  encodeTopK = encoding.encodeTopK;
  encodeBatchTopK = encoding.encodeBatchTopK;
  encodeThreshold = encoding.encodeThreshold;
  encodeDense = encoding.encodeDense;
  applyThreshold = encoding.applyThreshold;
  decodeSparse = latents.decodeSparse;
  valueGradients = latents.valueGradients;
  decodeDense = latents.decodeDense;
  backwardDense = latents.backwardDense;
  penalize = latents.penalize;
  thresholdGradient = latents.thresholdGradient;
  gate = latents.gate;
  gateGradient = latents.gateGradient;
  preActPenalty = latents.preActPenalty;
  updateLatents = update.updateLatents;
  updateLatentsDense = update.updateLatentsDense;
  applyLatents = update.applyLatents;
  updateVector = update.updateVector;
  clipFactor = update.clipFactor;
  movingAverage = update.movingAverage;

  sumOfSquares({ x, out, accumulate }: Parameters<Device["sumOfSquares"]>[0]): void {
    let sum = accumulate ? data(out)[0] : 0;
    for (const v of data(x)) sum += v * v;
    data(out)[0] = sum;
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

  addScaled(op: Parameters<Device["addScaled"]>[0]): void {
    const [x, out] = [data(op.x), data(op.out)];
    const count = op.rows * op.x.shape[op.x.shape.length - 1];
    for (let i = 0; i < count; i++) out[i] = op.scale * x[i] + (op.accumulate ? out[i] : 0);
  }

  multiply(op: Parameters<Device["multiply"]>[0]): void {
    const [x, by] = [data(op.x), data(op.by)[0]];
    const count = op.rows * op.x.shape[op.x.shape.length - 1];
    for (let i = 0; i < count; i++) x[i] *= by;
  }

  inverseVariance(op: Parameters<Device["inverseVariance"]>[0]): void {
    const x = data(op.x);
    const columns = op.x.shape[1];
    let total = 0;
    for (let c = 0; c < columns; c++) {
      // Divided once: the mean of equal numbers is that number, and their variance 0.
      let sum = 0;
      for (let n = 0; n < op.rows; n++) sum += x[n * columns + c];
      for (let n = 0; n < op.rows; n++) total += (x[n * columns + c] - sum / op.rows) ** 2;
    }
    data(op.out)[0] = total === 0 ? 0 : op.factor / total;
  }

  rowNorms({ w, out, groups = 1 }: Parameters<Device["rowNorms"]>[0]): void {
    const [rows, columns] = w.shape;
    const width = columns / groups;
    for (let f = 0; f < rows; f++) {
      let sum = 0;
      for (let from = 0; from < columns; from += width)
        sum += rowNorm(data(w), f, columns, from, from + width);
      data(out)[f] = sum;
    }
  }

  rowStats(op: Parameters<Device["rowStats"]>[0]): void {
    const [target, residual, out] = [data(op.target), data(op.residual), data(op.out)];
    const dOut = op.target.shape[1];
    for (let n = 0; n < op.rows; n++) {
      let [tt, rr, tr, ee] = [0, 0, 0, 0];
      for (let i = 0; i < dOut; i++) {
        const t = target[n * dOut + i];
        const e = residual[n * dOut + i];
        tt += t * t;
        rr += (t - e) * (t - e);
        tr += t * (t - e);
        ee += e * e;
      }
      out.set([tt, rr, tr, ee], n * 4);
    }
  }

  recordFiring(op: { rows: number; codes: Slots; stats: FiringStats }): void {
    const [dSae] = op.stats.counts.shape;
    const { sinceFired, counts, sums } = op.stats;
    const values = data(op.codes.values);
    const lastFired = new Int32Array(dSae).fill(-1);
    const batchSums = new Float64Array(dSae);
    for (let n = 0; n < op.rows; n++) {
      for (const { at, latent } of slotsOf(op.codes, n, dSae)) {
        if (!(values[at] > 0)) continue;
        lastFired[latent] = n;
        data(counts)[latent]++;
        batchSums[latent] += values[at];
      }
    }
    for (let f = 0; f < dSae; f++) {
      data(sums)[f] += batchSums[f];
      data(sinceFired)[f] =
        lastFired[f] < 0 ? data(sinceFired)[f] + op.rows : op.rows - 1 - lastFired[f];
    }
  }

  matmul(op: Parameters<Device["matmul"]>[0]): void {
    const { transA, transB, scale = 1, accumulate = false } = op;
    const [a, b, out] = [data(op.a), data(op.b), data(op.out)];
    const p = op.out.shape[1];
    const aColumns = op.a.shape[1];
    const bColumns = op.b.shape[1];
    const m = transA ? aColumns : (op.rows ?? op.a.shape[0]);
    const inner = transA ? (op.rows ?? op.a.shape[0]) : aColumns;
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < p; j++) {
        let sum = 0;
        for (let l = 0; l < inner; l++) {
          sum +=
            a[transA ? l * aColumns + i : i * aColumns + l] *
            b[transB ? j * bColumns + l : l * bColumns + j];
        }
        out[i * p + j] = scale * sum + (accumulate ? out[i * p + j] : 0);
      }
    }
  }
}
