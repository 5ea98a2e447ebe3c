/** An SAE on a device: encoding, decoding and measuring batches of activations. */
import type { Device, Slots, Tensor } from "../device/device.ts";
import { UserError } from "../error.ts";
import { sumOfSquares } from "./metrics.ts";
import { Side } from "./side.ts";
import { denseRowsOf, sparseCapacity } from "./step-codes.ts";
import type { SaeSpec, SaeWeights } from "./weights.ts";

/** The latents of a batch on the host. */
export type BatchCodes =
  /** Per row `k` slots by falling value, an unused slot with index -1; [rows, k]. */
  | { kind: "sparse"; k: number; indices: Int32Array; values: Float32Array }
  /** Row n has the slots ends[n-1] … ends[n]-1, its latents rising; ends [rows]. */
  | RaggedCodes
  /** [rows, dSae] */
  | { kind: "dense"; acts: Float32Array };

interface RaggedCodes {
  kind: "ragged";
  indices: Int32Array;
  values: Float32Array;
  ends: Int32Array;
}

/** Calls `visit` for every active latent of a batch's rows, row by row. */
export function eachActive(
  codes: BatchCodes,
  rows: number,
  dSae: number,
  visit: (row: number, latent: number, value: number) => void,
): void {
  const values = codes.kind === "dense" ? codes.acts : codes.values;
  const width = codes.kind === "sparse" ? codes.k : dSae;
  const isRagged = codes.kind === "ragged";
  for (let n = 0; n < rows; n++) {
    const start = isRagged ? (n === 0 ? 0 : codes.ends[n - 1]) : n * width;
    const end = isRagged ? codes.ends[n] : start + width;
    for (let i = start; i < end; i++)
      if (values[i] > 0) visit(n, codes.kind === "dense" ? i - start : codes.indices[i], values[i]);
  }
}

/** What one batch's reconstruction adds to the metrics. */
export interface BatchStatistics {
  /** Per row ‖y‖², ‖ŷ‖², ⟨y, ŷ⟩, ‖y - ŷ‖² of the target y, which is the input unless it is a transcoder, in raw units; [rows, 4]. */
  rowStats: Float64Array;
  /** Σ ‖y - ŷ‖² in the units of training. */
  error: number;
  /** Rows in which each latent fired; [dSae]. */
  counts: Int32Array;
  /** Sum of each latent's values; [dSae]. */
  sums: Float32Array;
}

/** Rows of a batch whose latents are on the device at once. */
interface Piece {
  from: number;
  rows: number;
  codes: Slots;
}

/** An SAE on a device, for batches. Made by `Sae.on` or by the trainer over its own tensors. */
export class SaeOnDevice {
  readonly spec: SaeSpec;
  readonly maxRows: number;
  readonly device: Device;
  readonly #params: Partial<Record<keyof SaeWeights, Tensor>>;
  readonly #ownsParams: boolean;
  readonly #input: Side;
  /** The input again, unless it is a transcoder. */
  readonly #target: Side;
  readonly #residual: Tensor;
  readonly #stats: Tensor;
  readonly #sparse: ReturnType<typeof sparseTensors>;
  /** Dense latents, of as many rows as memory allows; once they were needed they are taken first. */
  #dense: { values: Tensor; pre: Tensor | null; magnitudes: Tensor | null } | undefined;
  readonly #denseRows: number;
  /** What is decoded against: the target less the skip connection's part, or 0. */
  readonly #rest: Tensor | null;
  #zero: Tensor | undefined;
  /** The running threshold of a batchTopk SAE, for each latent. */
  readonly #threshold: Tensor | null;
  readonly #firing: { sinceFired: Tensor; counts: Tensor; sums: Tensor };

  constructor(
    device: Device,
    spec: SaeSpec,
    params: Partial<Record<keyof SaeWeights, Tensor>>,
    maxRows: number,
    ownsParams: boolean,
  ) {
    const { dIn, dOut, dSae, transcoder, input, output, selection } = spec;
    this.device = device;
    this.spec = spec;
    this.maxRows = maxRows;
    this.#params = params;
    this.#ownsParams = ownsParams;
    this.#input = new Side(device, input, dIn, maxRows, !transcoder);
    this.#target = transcoder ? new Side(device, output, dOut, maxRows, true) : this.#input;
    this.#residual = device.tensor([maxRows, dOut]);
    this.#stats = device.tensor([maxRows, 4]);
    this.#sparse = sparseTensors(device, spec, maxRows);
    this.#denseRows = denseRowsOf(selection.architecture, dSae, maxRows);
    this.#rest = spec.skip ? device.tensor([maxRows, dOut]) : null;
    this.#threshold = null;
    if (selection.architecture === "batchTopk") {
      this.#threshold = device.tensor([dSae]);
      device.write(this.#threshold, new Float32Array(dSae).fill(selection.threshold));
    }
    this.#firing = {
      sinceFired: device.tensor([dSae], "i32"),
      counts: device.tensor([dSae], "i32"),
      sums: device.tensor([dSae]),
    };
  }

  /** Latents of x [rows, dIn] (raw units), rows ≤ maxRows. */
  async encode(x: Float32Array, rows: number): Promise<BatchCodes> {
    const pieces: RaggedCodes[] = [];
    for await (const piece of this.#encoded(x, rows)) {
      const codes = await this.#read(piece);
      if (codes.kind === "sparse") return codes;
      pieces.push(codes);
    }
    return pieces.length === 1 ? pieces[0] : joined(pieces);
  }

  /** x̂ of x [rows, dIn], both in raw units, rows ≤ maxRows → [rows, dOut]. */
  async reconstruct(x: Float32Array, rows: number): Promise<Float32Array> {
    const { dOut, transcoder } = this.spec;
    const out = new Float32Array(rows * dOut);
    for await (const piece of this.#encoded(x, rows)) {
      const target = transcoder ? this.#zeros() : this.#target.rows;
      this.#decode(piece, target);
      out.set(await this.#reconstruction(piece, transcoder ? null : x), piece.from * dOut);
    }
    return out;
  }

  /**
   * Encodes and decodes x [rows, dIn] (raw units), rows ≤ maxRows, and reads back only the sums that metrics need.
   * @param target [rows, dOut], of a transcoder.
   */
  async statistics(x: Float32Array, rows: number, target?: Float32Array): Promise<BatchStatistics> {
    return (await this.#measured(x, rows, target, null)).statistics;
  }

  /** `statistics` and `reconstruct` from one encoding and decoding. */
  async measure(
    x: Float32Array,
    rows: number,
    target?: Float32Array,
  ): Promise<{ statistics: BatchStatistics; reconstruction: Float32Array }> {
    return this.#measured(x, rows, target, new Float32Array(rows * this.spec.dOut));
  }

  async #measured<Out extends Float32Array | null>(
    x: Float32Array,
    rows: number,
    target: Float32Array | undefined,
    reconstruction: Out,
  ): Promise<{ statistics: BatchStatistics; reconstruction: Out }> {
    const { device, spec } = this;
    const firing = this.#firing;
    if (spec.transcoder !== (target !== undefined))
      throw new UserError(
        spec.transcoder
          ? "a transcoder is measured against a target, the activations that it is to predict; none was given"
          : "only a transcoder has a target beside its input",
      );
    device.write(firing.counts, new Int32Array(spec.dSae));
    device.write(firing.sums, new Float32Array(spec.dSae));
    const rowStats = new Float64Array(rows * 4);
    let error = 0;
    const side = this.#target;
    for await (const piece of this.#encoded(x, rows, target)) {
      const { from, rows: count, codes } = piece;
      this.#decode(piece, side.rows);
      device.rowStats({
        ...{ rows: count, target: side.rows, residual: this.#residual, out: this.#stats },
      });
      device.recordFiring({ rows: count, codes, stats: firing });
      const stats = await device.readF32(this.#stats, count * 4);
      error += sumOfSquares(stats);
      rowStats.set(await side.rawStats(stats, from, count), from * 4);
      if (reconstruction)
        reconstruction.set(await this.#reconstruction(piece, target ?? x), from * spec.dOut);
    }
    const [counts, sums] = await Promise.all([
      device.readI32(firing.counts),
      device.readF32(firing.sums),
    ]);
    return { statistics: { rowStats, error, counts, sums }, reconstruction };
  }

  /** x̂ of a piece, in raw units, from the errors that decoding has left; `raw` is what it was decoded against, null for 0. */
  #reconstruction({ from, rows }: Piece, raw: Float32Array | null): Promise<Float32Array> {
    const { dOut } = this.spec;
    const rest = raw && raw.subarray(from * dOut, (from + rows) * dOut);
    return this.#target.reconstruction(this.#residual, rest, from, rows);
  }

  /** ‖W_dec[f]‖ of every latent in the units of training, a crosscoder's head by head and added; [dSae]. */
  async decoderNorms(): Promise<Float32Array> {
    const { dSae, heads } = this.spec;
    const out = this.device.tensor([dSae]);
    try {
      this.device.rowNorms({ w: this.#params.W_dec!, out, groups: heads.length });
      return await this.device.readF32(out);
    } finally {
      this.device.free(out);
    }
  }

  /** Frees the device memory that this object made. */
  close(): void {
    const { device } = this;
    const mine: (Tensor | null | undefined)[] = [
      ...Object.values(this.#sparse ?? {}),
      ...Object.values(this.#dense ?? {}),
      ...[this.#threshold, this.#rest, this.#zero],
    ];
    const { sinceFired, counts, sums } = this.#firing;
    this.#input.close();
    if (this.#target !== this.#input) this.#target.close();
    device.free(this.#residual, this.#stats, sinceFired, counts, sums);
    device.free(...mine.filter((tensor) => !!tensor));
    if (this.#ownsParams) device.free(...Object.values(this.#params));
  }

  /**
   * Queues the encoding of x, as a whole or, where latents have no room in sparse form, piece by
   * piece; waits only to learn which.
   */
  async *#encoded(x: Float32Array, rows: number, target?: Float32Array): AsyncGenerator<Piece> {
    if (rows < 1 || rows > this.maxRows)
      throw new RangeError(`a batch must have 1 to ${this.maxRows} rows; got ${rows}`);
    this.#input.stage(x, rows);
    if (target) this.#target.stage(target, rows);
    const upload = (from: number, count: number) => {
      this.#input.upload(from, count);
      if (target) this.#target.upload(from, count);
    };
    const { architecture } = this.spec.selection;
    const fixed = architecture === "topk";
    if (fixed || !this.#dense) {
      upload(0, rows);
      const codes = this.#encodeSparse(rows);
      const { total, indices } = this.#sparse;
      if (fixed || (await this.device.readI32(total!))[0] <= indices.shape[0]) {
        yield { from: 0, rows, codes: this.#gated(rows, codes) };
        return;
      }
    }
    for (let from = 0; from < rows; from += this.#denseRows) {
      const count = Math.min(this.#denseRows, rows - from);
      upload(from, count);
      yield { from, rows: count, codes: this.#gated(count, this.#encodeDense(count)) };
    }
  }

  #encoding(rows: number) {
    const { W_enc, b_enc, b_dec } = this.#params;
    const bPre = this.spec.applyBDecToInput ? b_dec! : null;
    return { rows, x: this.#input.rows, bPre, wEnc: W_enc!, bEnc: b_enc! };
  }

  #thresholds(): Tensor | null {
    const isJump = this.spec.selection.architecture === "jumprelu";
    return isJump ? this.#params.threshold! : this.#threshold;
  }

  #encodeSparse(rows: number): Slots {
    const { device } = this;
    const { indices, values, ends, total } = this.#sparse;
    const op = this.#encoding(rows);
    if (!ends) {
      device.encodeTopK({ ...op, indices, values });
      return { indices, values };
    }
    device.encodeThreshold({
      ...{ ...op, threshold: this.#thresholds(), margin: 0, indices, values, pre: null, ends },
      total: total!,
    });
    return { indices, values, ends };
  }

  #encodeDense(rows: number): Slots {
    const { device } = this;
    const { dSae, selection } = this.spec;
    const make = () => device.tensor([this.#denseRows, dSae]);
    const threshold = this.#thresholds();
    this.#dense ??= {
      values: make(),
      pre: threshold ? make() : null,
      magnitudes: selection.architecture === "gated" ? make() : null,
    };
    const { values, pre } = this.#dense;
    const op = this.#encoding(rows);
    if (pre && threshold) {
      device.encodeDense({ ...op, activation: "none", out: pre });
      device.applyThreshold({ rows, pre, threshold, values });
    } else device.encodeDense({ ...op, activation: "relu", out: values });
    return { values };
  }

  /** The latents themselves: of a gated SAE the magnitudes behind its gates. */
  #gated(rows: number, codes: Slots): Slots {
    if (this.spec.selection.architecture !== "gated") return codes;
    const magnitudes = (codes.indices ? this.#sparse : this.#dense!).magnitudes!;
    const { r_mag, b_enc, b_mag } = this.#params;
    this.device.gate({
      ...{ rows, codes, magnitudes, rMag: r_mag!, bGate: b_enc!, bMag: b_mag! },
    });
    return { ...codes, values: magnitudes };
  }

  /** Queues residual = target - reconstruction, and what raw errors are read from. */
  #decode({ rows, codes: { indices, ends, values } }: Piece, full: Tensor): void {
    const { device } = this;
    const { W_dec, b_dec, W_skip } = this.#params;
    let target = full;
    if (this.#rest && W_skip) {
      const out = this.#rest;
      device.matmul({
        ...{ a: this.#input.rows, b: W_skip, transA: false, transB: true, out, rows, scale: -1 },
      });
      device.addScaled({ rows, x: full, scale: 1, out, accumulate: true });
      target = out;
    }
    const op = { rows, wDec: W_dec!, bDec: b_dec!, target, residual: this.#residual };
    if (indices) device.decodeSparse({ ...op, indices, values, ...(ends && { ends }) });
    else device.decodeDense({ ...op, acts: values });
    this.#target.measure(this.#residual, rows);
  }

  #zeros(): Tensor {
    return (this.#zero ??= this.device.tensor([this.maxRows, this.spec.dOut]));
  }

  async #read({ rows, codes }: Piece): Promise<Exclude<BatchCodes, { kind: "dense" }>> {
    const { device } = this;
    const { indices, ends, values } = codes;
    if (!indices) return ragged(await device.readF32(values, rows * this.spec.dSae), rows);
    const rowEnds = ends && (await device.readI32(ends, rows));
    const count = rowEnds ? rowEnds[rows - 1] : rows * indices.shape[1];
    const [latents, numbers] = await Promise.all([
      device.readI32(indices, count),
      device.readF32(values, count),
    ]);
    return rowEnds
      ? { kind: "ragged", indices: latents, values: numbers, ends: rowEnds }
      : { kind: "sparse", k: indices.shape[1], indices: latents, values: numbers };
  }
}

/** Room for sparse latents: k per row, or so many by threshold that working on them pays. */
function sparseTensors(device: Device, { selection, dSae }: SaeSpec, rows: number) {
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

/** Dense latents [rows, …] as ragged ones. */
function ragged(acts: Float32Array, rows: number): RaggedCodes {
  const width = acts.length / rows;
  let active = 0;
  for (const v of acts) if (v > 0) active++;
  const indices = new Int32Array(active);
  const values = new Float32Array(active);
  const ends = new Int32Array(rows);
  for (let n = 0, i = 0, at = 0; n < rows; n++) {
    for (let f = 0; f < width; f++, i++) {
      if (!(acts[i] > 0)) continue;
      indices[at] = f;
      values[at++] = acts[i];
    }
    ends[n] = at;
  }
  return { kind: "ragged", indices, values, ends };
}

function joined(pieces: RaggedCodes[]): RaggedCodes {
  const sum = (count: (piece: RaggedCodes) => number) =>
    pieces.reduce((all, piece) => all + count(piece), 0);
  const indices = new Int32Array(sum((piece) => piece.indices.length));
  const values = new Float32Array(indices.length);
  const ends = new Int32Array(sum((piece) => piece.ends.length));
  let [at, row] = [0, 0];
  for (const piece of pieces) {
    indices.set(piece.indices, at);
    values.set(piece.values, at);
    ends.set(
      piece.ends.map((end) => end + at),
      row,
    );
    at += piece.indices.length;
    row += piece.ends.length;
  }
  return { kind: "ragged", indices, values, ends };
}
