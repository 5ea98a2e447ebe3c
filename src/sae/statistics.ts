/** What the first activations say about scale, mean and covariance, and the first of them. */
import type { ActivationSource } from "../activation-source.ts";
import type { TrainConfig } from "../config.ts";
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import type { ResolvedSae } from "./architecture.ts";
import { forwardRow, type Transform } from "./transform.ts";

/** Batches that statistics are taken of, at most. */
const STATISTICS_BATCHES = 100;

/** Added to a row's standard deviation before it divides; SAELens' number. */
export const LAYER_NORM_EPS = 1e-5;

/** Sums over the first activations of one side. */
export class Statistics {
  readonly width: number;
  #rows = 0;
  readonly #heads: readonly number[];
  readonly #sum: Float64Array;
  readonly #norms: Float64Array;
  readonly #squares: Float64Array;
  readonly #eachRow: Transform | null;
  readonly #kept: Float32Array;
  #keptRows = 0;
  /** What covariances are taken around: a row near the mean, which float32 products need. */
  #centre: Float64Array | undefined;
  #products: Float32Array | undefined;

  /** @param heads widths of the parts whose norms count by themselves. @param eachRow what is done to every row first. */
  constructor(heads: readonly number[], keepRows: number, eachRow: Transform | null) {
    this.width = heads.reduce((a, b) => a + b);
    this.#heads = heads;
    this.#sum = new Float64Array(this.width);
    this.#norms = new Float64Array(heads.length);
    this.#squares = new Float64Array(heads.length);
    this.#eachRow = eachRow;
    this.#kept = new Float32Array(keepRows * this.width);
  }

  /** @param x [rows, width] */
  add(x: Float32Array, rows: number): void {
    const { width } = this;
    for (let n = 0; n < rows; n++) {
      const raw = x.subarray(n * width, (n + 1) * width);
      const row = this.#eachRow ? forwardRow(this.#eachRow, raw) : raw;
      for (let head = 0, c = 0; head < this.#heads.length; head++) {
        let squared = 0;
        for (let end = c + this.#heads[head]; c < end; c++) {
          const v = row[c];
          this.#sum[c] += v;
          squared += v * v;
        }
        this.#norms[head] += Math.sqrt(squared);
        this.#squares[head] += squared;
      }
      if ((this.#keptRows + 1) * width <= this.#kept.length)
        this.#kept.set(row, this.#keptRows++ * width);
    }
    this.#rows += rows;
  }

  /** Rows less the mean of those of the first call, for products of theirs. */
  centred(x: Float32Array, rows: number): Float32Array {
    const { width } = this;
    this.#centre ??= this.mean();
    const out = new Float32Array(rows * width);
    for (let i = 0; i < out.length; i++) out[i] = x[i] - this.#centre[i % width];
    return out;
  }

  /** Σ c cᵀ over all centred rows; [width, width]. */
  setProducts(products: Float32Array): void {
    this.#products = products;
  }

  mean(): Float64Array {
    return this.#sum.map((v) => v / this.#rows);
  }

  meanNorm(head: number): number {
    return this.#norms[head] / this.#rows;
  }

  /** Root mean square of the elements, of one head or all. */
  rms(head?: number): number {
    if (head !== undefined)
      return Math.sqrt(this.#squares[head] / (this.#rows * this.#heads[head]));
    return Math.sqrt(this.#squares.reduce((a, b) => a + b) / (this.#rows * this.width));
  }

  covariance(): Float64Array {
    const d = this.width;
    const shift = this.mean().map((v, c) => v - this.#centre![c]);
    return Float64Array.from(
      this.#products!,
      (v, i) => v / this.#rows - shift[Math.floor(i / d)] * shift[i % d],
    );
  }

  /** Not transformed, but for rows that are normalised one by one. */
  keptRows(): Float32Array {
    return this.#kept.subarray(0, this.#keptRows * this.width);
  }

  /** A row such as the mean, in the units of training. */
  transformed(transform: Transform, row: Float32Array | Float64Array): Float64Array {
    return this.#eachRow ? Float64Array.from(row) : forwardRow(transform, row);
  }
}

/**
 * Statistics of the first activations in training order, inputs x and targets y (of an autoencoder
 * the same): at most 100 batches, bufferRows rows, one epoch. The first `keep` rows are kept.
 */
export async function firstStatistics(
  device: Device,
  source: ActivationSource,
  resolved: ResolvedSae,
  train: TrainConfig,
  seed: number,
  keep: number,
): Promise<{ x: Statistics; y: Statistics }> {
  const { dOut, heads, transcoder, init, normalizeActivations } = resolved;
  const { batchSize, shuffle, bufferRows } = train;
  const kept = Math.min(keep, source.rows);
  const eachRow: Transform | null =
    normalizeActivations === "layerNorm" ? { kind: "layerNorm", eps: LAYER_NORM_EPS } : null;
  const x = new Statistics(heads, transcoder && init !== "data" ? 0 : kept, eachRow);
  const y = transcoder ? new Statistics([dOut], kept, eachRow) : x;
  const sides = transcoder ? [x, y] : [x];
  const products = sides.map(({ width }) =>
    normalizeActivations === "whitening"
      ? { rows: device.tensor([batchSize, width]), sum: device.tensor([width, width]) }
      : null,
  );
  let rows = 0;
  let batches = 0;
  try {
    for await (const batch of source.batches({ batchSize, seed, shuffle, bufferRows })) {
      for (const [i, side] of sides.entries()) {
        const data = i === 0 ? batch.data : batch.target!;
        side.add(data, batch.rows);
        const product = products[i];
        if (!product) continue;
        device.write(product.rows, side.centred(data, batch.rows));
        const { rows: a, sum: out } = product;
        device.matmul({
          ...{ a, b: a, transA: true, transB: false, out, rows: batch.rows, accumulate: true },
        });
      }
      rows += batch.rows;
      batches += 1;
      if (batches >= STATISTICS_BATCHES || rows >= bufferRows || batch.next.epoch > 0) break;
    }
    if (rows === 0) throw new UserError("there are no activations to train on");
    for (const [i, side] of sides.entries())
      if (products[i]) side.setProducts(await device.readF32(products[i].sum));
  } finally {
    for (const product of products) if (product) device.free(product.rows, product.sum);
  }
  return { x, y };
}
