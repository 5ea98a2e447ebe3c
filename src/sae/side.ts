/** Raw rows on their way into a device, in the units of training, and errors on their way back. */
import type { Device, Tensor } from "../device/device.ts";
import { forwardRow, inverseRow, rowScale, uniformFactor, type Transform } from "./transform.ts";

/**
 * What an SAE takes in or is to give out, for batches of up to `maxRows` rows: the transform is
 * applied by plain loops where it is a factor per element, and by a product on the device where it
 * is a matrix.
 */
export class Side {
  /** The rows that were uploaded, transformed; [maxRows, width]. */
  readonly rows: Tensor;
  readonly width: number;
  readonly #device: Device;
  readonly #transform: Transform;
  readonly #factor: number | null;
  /** What `upload` sends: transformed rows, or for whitening centred ones. */
  readonly #staged: Float32Array;
  /** Of each staged row, where rows are normalised one by one: what its deviations were divided by. */
  readonly #divisors: Float64Array;
  readonly #matrix: { centred: Tensor; forward: Tensor } | null;
  /** What raw errors are measured with, unless they are the transformed ones times a number. */
  readonly #raw: {
    staged: Float32Array;
    rows: Tensor;
    back: Tensor | null;
    residual: Tensor | null;
    stats: Tensor;
  } | null;

  /** @param measured whether raw errors will be asked for. */
  constructor(
    device: Device,
    transform: Transform,
    width: number,
    maxRows: number,
    measured: boolean,
  ) {
    this.#device = device;
    this.#transform = transform;
    this.#factor = uniformFactor(transform);
    this.width = width;
    this.rows = device.tensor([maxRows, width]);
    this.#staged = new Float32Array(maxRows * width);
    this.#divisors = new Float64Array(transform.kind === "layerNorm" ? maxRows : 0);
    const matrixOf = (numbers: Float32Array) => {
      const tensor = device.tensor([width, width]);
      device.write(tensor, numbers);
      return tensor;
    };
    this.#matrix =
      transform.kind === "whiten"
        ? { centred: device.tensor([maxRows, width]), forward: matrixOf(transform.matrix) }
        : null;
    const isLinear = transform.kind !== "layerNorm";
    this.#raw =
      measured && this.#factor === null
        ? {
            staged: new Float32Array(maxRows * width),
            rows: device.tensor([maxRows, width]),
            back: isLinear ? matrixOf(inverseMatrix(transform, width)) : null,
            residual: isLinear ? device.tensor([maxRows, width]) : null,
            stats: device.tensor([maxRows, 4]),
          }
        : null;
  }

  /** Takes raw rows [count, width]; `raw` may be reused at once. */
  stage(raw: Float32Array, count: number): void {
    const { width } = this;
    const factor = this.#factor;
    const staged = this.#staged;
    const length = count * width;
    this.#raw?.staged.set(raw.subarray(0, length));
    if (factor !== null) {
      if (factor === 1) staged.set(raw.subarray(0, length));
      else for (let i = 0; i < length; i++) staged[i] = raw[i] * factor;
      return;
    }
    const transform = this.#transform;
    for (let n = 0; n < count; n++) {
      const row = raw.subarray(n * width, (n + 1) * width);
      const at = n * width;
      if (transform.kind === "whiten")
        for (let c = 0; c < width; c++) staged[at + c] = row[c] - transform.mean[c];
      else if (transform.kind === "scale") staged.set(forwardRow(transform, row), at);
      else {
        const { mean, divisor } = rowScale(row, transform.eps);
        this.#divisors[n] = divisor;
        for (let c = 0; c < width; c++) staged[at + c] = (row[c] - mean) / divisor;
      }
    }
  }

  /** Queues staged rows from … from+count-1 to become rows 0 … count-1 on the device. */
  upload(from: number, count: number): void {
    const device = this.#device;
    const [start, end] = [from * this.width, (from + count) * this.width];
    const staged = this.#staged.subarray(start, end);
    if (this.#raw) device.write(this.#raw.rows, this.#raw.staged.subarray(start, end));
    if (!this.#matrix) {
      device.write(this.rows, staged);
      return;
    }
    const { centred, forward } = this.#matrix;
    device.write(centred, staged);
    device.matmul({
      ...{ a: centred, b: forward, transA: false, transB: true, out: this.rows, rows: count },
    });
  }

  /** A staged row, transformed. */
  row(n: number): Float64Array {
    const staged = this.#staged.subarray(n * this.width, (n + 1) * this.width);
    const transform = this.#transform;
    if (transform.kind !== "whiten") return Float64Array.from(staged);
    return forwardRow({ ...transform, mean: new Float32Array(this.width) }, staged);
  }

  /** Queues what `rawStats` and `rawResidual` read of these errors [count, width]. */
  measure(residual: Tensor, count: number): void {
    if (!this.#raw) return;
    const { rows: target, back, stats, residual: raw } = this.#raw;
    if (back && raw)
      this.#device.matmul({
        ...{ a: residual, b: back, transA: false, transB: true, out: raw, rows: count },
      });
    this.#device.rowStats({ rows: count, target, residual: raw ?? residual, out: stats });
  }

  /**
   * `rowStats` of the errors that were measured last, in raw units.
   * @param stats the same in the units of training [count, 4]. @param from the first staged row of theirs.
   */
  async rawStats(stats: Float32Array, from: number, count: number): Promise<Float64Array> {
    const factor = this.#factor;
    if (factor !== null) return Float64Array.from(stats, (v) => v / (factor * factor));
    const out = Float64Array.from(await this.#device.readF32(this.#raw!.stats, count * 4));
    if (this.#transform.kind !== "layerNorm") return out;
    // Those are of x and the error in the row's own units, r = x/s - …: x̂ = x - s r.
    for (let n = 0, i = 0; n < count; n++, i += 4) {
      const s = this.#divisors[from + n];
      const [xx, , xMinusXr, rr] = out.subarray(i, i + 4);
      const xr = xx - xMinusXr;
      out[i + 1] = Math.max(0, xx - 2 * s * xr + s * s * rr);
      out[i + 2] = xx - s * xr;
      out[i + 3] = s * s * rr;
    }
    return out;
  }

  /** Reconstructions in raw units from the errors that were measured last: of `raw` [count, width], or of a target of 0 in the units of training. */
  async reconstruction(
    residual: Tensor,
    raw: Float32Array | null,
    from: number,
    count: number,
  ): Promise<Float32Array> {
    const { width } = this;
    const factor = this.#factor;
    const errors = await this.#device.readF32(this.#raw?.residual ?? residual, count * width);
    const zero = raw ? null : inverseRow(this.#transform, new Float32Array(width));
    for (let n = 0, i = 0; n < count; n++) {
      const divisor = this.#transform.kind === "layerNorm" ? this.#divisors[from + n] : 1;
      for (let c = 0; c < width; c++, i++) {
        const error = factor === null ? errors[i] * divisor : errors[i] / factor;
        errors[i] = (raw ? raw[i] : zero![c]) - error;
      }
    }
    return errors;
  }

  close(): void {
    const tensors = [
      this.rows,
      ...Object.values<Tensor>({ ...this.#matrix }),
      this.#raw?.rows,
      this.#raw?.back,
      this.#raw?.residual,
      this.#raw?.stats,
    ];
    this.#device.free(...tensors.filter((tensor) => !!tensor));
  }
}

/** M⁻¹ of a transform that is one matrix for all rows. */
function inverseMatrix(transform: Transform, width: number): Float32Array {
  if (transform.kind === "whiten") return transform.inverse;
  const matrix = new Float32Array(width * width);
  const diagonal = inverseRow(transform, new Float64Array(width).fill(1));
  for (let c = 0; c < width; c++) matrix[c * width + c] = diagonal[c];
  return matrix;
}
