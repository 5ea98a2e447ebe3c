/** The definition of encoding: z = (x - bPre) W_encᵀ + b_enc in float64, rounded to f32, then the selection. */
import type {
  EncodeBatchTopK,
  EncodeDense,
  EncodeThreshold,
  EncodeTopK,
  Tensor,
} from "./device.ts";
import { data, dataOrNull } from "./reference-data.ts";

export function encodeTopK(op: EncodeTopK): void {
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
    const z = preActivations(op, n);
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

export function encodeBatchTopK(op: EncodeBatchTopK): void {
  const [dSae] = op.wEnc.shape;
  const [indices, values, ends] = [op.indices, op.values, op.ends].map(data);
  const pairs: { n: number; f: number; z: number }[] = [];
  for (let n = 0; n < op.rows; n++) {
    const z = preActivations(op, n);
    for (let f = 0; f < dSae; f++) if (z[f] > 0) pairs.push({ n, f, z: z[f] });
  }
  // The sort is stable, so ties stay in the order of rows, then latents.
  const kept = pairs.sort((a, b) => b.z - a.z).slice(0, op.count);
  data(op.cutoff)[0] = kept.at(-1)?.z ?? 0;
  kept.sort((a, b) => a.n - b.n || a.f - b.f);
  for (const [p, { f, z }] of kept.entries()) {
    indices[p] = f;
    values[p] = z;
  }
  for (let n = 0, p = 0; n < op.rows; n++) {
    while (p < kept.length && kept[p].n === n) p++;
    ends[n] = p;
  }
}

export function encodeThreshold(op: EncodeThreshold): void {
  const [dSae] = op.wEnc.shape;
  const [indices, values, ends] = [op.indices, op.values, op.ends].map(data);
  const [threshold, pre] = [dataOrNull(op.threshold), dataOrNull(op.pre)];
  let total = 0;
  for (let n = 0; n < op.rows; n++) {
    const z = preActivations(op, n);
    for (let f = 0; f < dSae; f++) {
      const limit = threshold ? threshold[f] : 0;
      if (!(z[f] > Math.fround(limit - op.margin))) continue;
      // Beyond the capacity an array takes no numbers; only the total counts then.
      indices[total] = f;
      values[total] = z[f] > limit && z[f] > 0 ? z[f] : 0;
      if (pre) pre[total] = z[f];
      total += 1;
    }
    ends[n] = total;
  }
  data(op.total)[0] = total;
}

export function encodeDense(op: EncodeDense): void {
  const [dSae] = op.wEnc.shape;
  const out = data(op.out);
  for (let n = 0; n < op.rows; n++) {
    const z = preActivations(op, n);
    for (let f = 0; f < dSae; f++)
      out[n * dSae + f] = op.activation === "relu" ? Math.max(z[f], 0) : z[f];
  }
}

export function applyThreshold(op: {
  rows: number;
  pre: Tensor;
  threshold: Tensor;
  values: Tensor;
}): void {
  const dSae = op.pre.shape[1];
  const [pre, threshold, values] = [op.pre, op.threshold, op.values].map(data);
  for (let n = 0; n < op.rows; n++) {
    for (let f = 0; f < dSae; f++) {
      const z = pre[n * dSae + f];
      values[n * dSae + f] = z > threshold[f] && z > 0 ? z : 0;
    }
  }
}

/** z[f] of row n. */
function preActivations(
  op: EncodeTopK | EncodeBatchTopK | EncodeThreshold | EncodeDense,
  n: number,
): Float32Array {
  const [dSae, dIn] = op.wEnc.shape;
  const [x, bPre, wEnc, bEnc] = [data(op.x), dataOrNull(op.bPre), data(op.wEnc), data(op.bEnc)];
  const z = new Float32Array(dSae);
  for (let f = 0; f < dSae; f++) {
    let sum = bEnc[f];
    for (let i = 0; i < dIn; i++) {
      sum += (x[n * dIn + i] - (bPre ? bPre[i] : 0)) * wEnc[f * dIn + i];
    }
    z[f] = sum;
  }
  return z;
}
