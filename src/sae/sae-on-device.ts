/** An SAE on a device: encoding, decoding and measuring batches of activations. */
import type { Device, Slots, Tensor } from "../device/device.ts";
import { sparseCapacity } from "./step-codes.ts";
import type { SaeSpec, SaeWeights } from "./weights.ts";

/** The latents of a batch on the host. */
export type BatchCodes =
  /** Per row `k` slots by falling value, an unused slot with index -1; [rows, k]. */
  | { kind: "sparse"; k: number; indices: Int32Array; values: Float32Array }
  /** Row n has the slots ends[n-1] … ends[n]-1, its latents rising; ends [rows]. */
  | { kind: "ragged"; indices: Int32Array; values: Float32Array; ends: Int32Array }
  /** [rows, dSae] */
  | { kind: "dense"; acts: Float32Array };

/** What one batch's reconstruction adds to the metrics, in the scaled units of training. */
export interface BatchStatistics {
  /** Per row ‖x‖², ‖x̂‖², ⟨x, x̂⟩, ‖x - x̂‖²; [rows, 4]. */
  rowStats: Float32Array;
  /** Rows in which each latent fired; [dSae]. */
  counts: Int32Array;
  /** Sum of each latent's values; [dSae]. */
  sums: Float32Array;
}

/** An SAE on a device, for batches. Made by `Sae.on` or by the trainer over its own tensors. */
export class SaeOnDevice {
  readonly spec: SaeSpec;
  readonly maxRows: number;
  readonly device: Device;
  readonly #params: Partial<Record<keyof SaeWeights, Tensor>>;
  readonly #ownsParams: boolean;
  readonly #x: Tensor;
  readonly #residual: Tensor;
  readonly #stats: Tensor;
  readonly #sparse: ReturnType<typeof sparseTensors>;
  #dense: { values: Tensor; pre: Tensor | null; magnitudes: Tensor | null } | undefined;
  /** The running threshold of a batchTopk SAE, for each latent. */
  readonly #threshold: Tensor | null;
  readonly #firing: { sinceFired: Tensor; counts: Tensor; sums: Tensor };
  readonly #staging: Float32Array;

  constructor(
    device: Device,
    spec: SaeSpec,
    params: Partial<Record<keyof SaeWeights, Tensor>>,
    maxRows: number,
    ownsParams: boolean,
  ) {
    const { dIn, dSae } = spec;
    this.device = device;
    this.spec = spec;
    this.maxRows = maxRows;
    this.#params = params;
    this.#ownsParams = ownsParams;
    this.#x = device.tensor([maxRows, dIn]);
    this.#residual = device.tensor([maxRows, dIn]);
    this.#stats = device.tensor([maxRows, 4]);
    this.#sparse = sparseTensors(device, spec, maxRows);
    this.#threshold = null;
    if (spec.selection.architecture === "batchTopk") {
      this.#threshold = device.tensor([dSae]);
      device.write(this.#threshold, new Float32Array(dSae).fill(spec.selection.threshold));
    }
    this.#firing = {
      sinceFired: device.tensor([dSae], "i32"),
      counts: device.tensor([dSae], "i32"),
      sums: device.tensor([dSae]),
    };
    this.#staging = new Float32Array(spec.scale === 1 ? 0 : maxRows * dIn);
  }

  /** Latents of x [rows, dIn] (raw units), rows ≤ maxRows. */
  async encode(x: Float32Array, rows: number): Promise<BatchCodes> {
    const { indices, ends, values } = await this.#encode(x, rows);
    const { device } = this;
    if (!indices)
      return { kind: "dense", acts: await device.readF32(values, rows * this.spec.dSae) };
    if (!ends) {
      const k = indices.shape[1];
      const slots = await Promise.all([
        device.readI32(indices, rows * k),
        device.readF32(values, rows * k),
      ]);
      return { kind: "sparse", k, indices: slots[0], values: slots[1] };
    }
    const rowEnds = await device.readI32(ends, rows);
    const count = rowEnds[rows - 1];
    const slots = await Promise.all([
      device.readI32(indices, count),
      device.readF32(values, count),
    ]);
    return { kind: "ragged", indices: slots[0], values: slots[1], ends: rowEnds };
  }

  /** x̂ of x [rows, dIn], both in raw units, rows ≤ maxRows → [rows, dIn]. */
  async reconstruct(x: Float32Array, rows: number): Promise<Float32Array> {
    this.#decode(rows, await this.#encode(x, rows));
    return this.#readReconstruction(x, rows);
  }

  /** Encodes and decodes x [rows, dIn] (raw units), rows ≤ maxRows, and reads back only the sums that metrics need. */
  async statistics(x: Float32Array, rows: number): Promise<BatchStatistics> {
    const { device, spec } = this;
    const firing = this.#firing;
    const codes = await this.#encode(x, rows);
    this.#decode(rows, codes);
    device.rowStats({ rows, target: this.#x, residual: this.#residual, out: this.#stats });
    device.write(firing.counts, new Int32Array(spec.dSae));
    device.write(firing.sums, new Float32Array(spec.dSae));
    device.recordFiring({ rows, codes, stats: firing });
    const [rowStats, counts, sums] = await Promise.all([
      device.readF32(this.#stats, rows * 4),
      device.readI32(firing.counts),
      device.readF32(firing.sums),
    ]);
    return { rowStats, counts, sums };
  }

  /** `statistics` and `reconstruct` from one encoding and decoding. */
  async measure(
    x: Float32Array,
    rows: number,
  ): Promise<{ statistics: BatchStatistics; reconstruction: Float32Array }> {
    const statistics = await this.statistics(x, rows);
    return { statistics, reconstruction: await this.#readReconstruction(x, rows) };
  }

  /** x̂ from the residual that the last decoding, which was of x, left on the device. */
  async #readReconstruction(x: Float32Array, rows: number): Promise<Float32Array> {
    const out = await this.device.readF32(this.#residual, rows * this.spec.dIn);
    const { scale } = this.spec;
    for (let i = 0; i < out.length; i++) out[i] = x[i] - out[i] / scale;
    return out;
  }

  /** ‖W_dec[f]‖ of every latent in the scaled units of training; [dSae]. */
  async decoderNorms(): Promise<Float32Array> {
    const out = this.device.tensor([this.spec.dSae]);
    try {
      this.device.rowNorms({ w: this.#params.W_dec!, out });
      return await this.device.readF32(out);
    } finally {
      this.device.free(out);
    }
  }

  /** Frees the device memory that this object made. */
  close(): void {
    const { device } = this;
    const mine: (Tensor | null)[] = [
      ...Object.values(this.#sparse ?? {}),
      ...Object.values(this.#dense ?? {}),
    ];
    const { sinceFired, counts, sums } = this.#firing;
    device.free(this.#x, this.#residual, this.#stats, sinceFired, counts, sums);
    device.free(...[...mine, this.#threshold].filter((tensor) => tensor !== null));
    if (this.#ownsParams) device.free(...Object.values(this.#params));
  }

  /** Queues the encoding of x; waits only to learn whether latents by threshold found room. */
  async #encode(x: Float32Array, rows: number): Promise<Slots> {
    const { dIn, scale, applyBDecToInput, selection } = this.spec;
    const { device } = this;
    if (rows < 1 || rows > this.maxRows)
      throw new RangeError(`a batch must have 1 to ${this.maxRows} rows; got ${rows}`);
    device.write(this.#x, scaled(x.subarray(0, rows * dIn), scale, this.#staging));
    const { W_enc, b_enc, b_dec } = this.#params;
    const bPre = applyBDecToInput ? b_dec! : null;
    const op = { rows, x: this.#x, bPre, wEnc: W_enc!, bEnc: b_enc! };
    const { architecture } = selection;
    if (!this.#sparse) return this.#encodeDense(op);
    const { indices, values, ends, total, magnitudes } = this.#sparse;
    if (!ends) {
      device.encodeTopK({ ...op, indices, values });
      return { indices, values };
    }
    const threshold = architecture === "jumprelu" ? this.#params.threshold! : this.#threshold;
    device.encodeThreshold({
      ...{ ...op, threshold, margin: 0, indices, values, pre: null, ends, total: total! },
    });
    if ((await device.readI32(total!))[0] > indices.shape[0]) return this.#encodeDense(op);
    return magnitudes
      ? this.#gate(rows, { indices, values, ends }, magnitudes)
      : { indices, values, ends };
  }

  /** The same as [rows, dSae]. */
  #encodeDense(op: { rows: number; x: Tensor; bPre: Tensor | null; wEnc: Tensor; bEnc: Tensor }) {
    const { device } = this;
    const { dSae, selection } = this.spec;
    const { architecture } = selection;
    const make = () => device.tensor([this.maxRows, dSae]);
    const threshold = architecture === "jumprelu" ? this.#params.threshold! : this.#threshold;
    this.#dense ??= {
      values: make(),
      pre: threshold ? make() : null,
      magnitudes: architecture === "gated" ? make() : null,
    };
    const { values, pre, magnitudes } = this.#dense;
    if (pre && threshold) {
      device.encodeDense({ ...op, activation: "none", out: pre });
      device.applyThreshold({ rows: op.rows, pre, threshold, values });
    } else device.encodeDense({ ...op, activation: "relu", out: values });
    return magnitudes ? this.#gate(op.rows, { values }, magnitudes) : { values };
  }

  #gate(rows: number, codes: Slots, magnitudes: Tensor): Slots {
    const { r_mag, b_enc, b_mag } = this.#params;
    this.device.gate({
      ...{ rows, codes, magnitudes, rMag: r_mag!, bGate: b_enc!, bMag: b_mag! },
    });
    return { ...codes, values: magnitudes };
  }

  #decode(rows: number, { indices, ends, values }: Slots): void {
    const { W_dec, b_dec } = this.#params;
    const op = {
      ...{ rows, wDec: W_dec!, bDec: b_dec!, target: this.#x, residual: this.#residual },
    };
    if (indices) this.device.decodeSparse({ ...op, indices, values, ...(ends && { ends }) });
    else this.device.decodeDense({ ...op, acts: values });
  }
}

/** Room for sparse latents; a relu SAE may have most of them active, and is encoded densely. */
function sparseTensors(device: Device, { selection, dSae }: SaeSpec, rows: number) {
  if (selection.architecture === "relu") return null;
  const isTopK = selection.architecture === "topk";
  const shape = isTopK ? [rows, selection.k] : [sparseCapacity(rows, dSae)];
  return {
    indices: device.tensor(shape, "i32"),
    values: device.tensor(shape),
    ends: isTopK ? null : device.tensor([rows], "i32"),
    total: isTopK ? null : device.tensor([1], "i32"),
    magnitudes: selection.architecture === "gated" ? device.tensor(shape) : null,
  };
}

/** x times scale, in `staging` unless the scale is 1. */
export function scaled(x: Float32Array, scale: number, staging: Float32Array): Float32Array {
  if (scale === 1) return x;
  for (let i = 0; i < x.length; i++) staging[i] = x[i] * scale;
  return staging.subarray(0, x.length);
}
