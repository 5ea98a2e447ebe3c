/**
 * How many bits the codes take (Ayonrinde et al. 2024, "Interpretability as compression"): which latents
 * fire at a position, and with what values, rounded so finely that reconstruction hardly suffers.
 *
 *   bits per position = Σ_f h(p_f) + p_f H(q_f),   h(p) = −p log₂ p − (1−p) log₂(1−p),
 *
 * p_f how often latent f fires and H(q_f) the entropy of its rounded values when it does. Values are put to the
 * middles of steps of δ / ‖W_dec[f]‖, so that rounding moves every latent's part of x̂ equally, and
 *
 *   δ² = 12 τ Σ‖x−x̂‖² / (number of firings),
 *
 * by which rounding errors that are even over a step and independent of each other add the share τ = 0.01
 * to the squared error; what they do add is measured. Beside it the same for activations without an SAE:
 * each dimension (or principal component) less its mean rounded to the nearest multiple of one
 * step, the step such that the squared error is that of the rounded codes; bits = Σ_c H(round((x_c−x̄_c)/Δ)).
 * Entropies are of the frequencies in this text. The lengths of the two dictionaries count for nothing.
 */
import type { Device } from "../device/device.ts";
import type { Sae } from "../sae/sae.ts";
import { principalComponents, spread } from "./concept-directions.ts";
import { DocumentDraws, intervalOf, type Drawn } from "./document-draws.ts";
import { MIN_UNITS } from "./document-sums.ts";
import type { Interval } from "./interval.ts";
import type { CodedRows } from "./supervised-rows.ts";

export interface DescriptionLength {
  positions: number;
  documents: number;
  /** What rounding was meant to add to the squared error, as a share of it. */
  tolerance: number;
  /** δ. */
  step: number;
  fvu: number;
  fvuRounded: number;
  /** Bits per position; intervals only with 10 documents or more. */
  bits: {
    codes: Interval;
    /** The parts of `codes`: which latents fire, and their values. */
    firing: Interval;
    values: Interval;
    dimensions: Interval;
    /** null where activations are too wide to find principal components. */
    components: Interval | null;
  };
  drawn: Record<string, Drawn>;
}

const TOLERANCE = 0.01;
/** Finding principal components takes dIn³ operations, and at most so many rows enter the covariance. */
const PCA_WIDTH = 1024;
const SPREAD_ROWS = 20_000;

/** @param sae in raw units (`rawSae`). */
export async function descriptionLength(
  rows: CodedRows,
  sae: Sae,
  device: Device,
  seed = 0,
): Promise<DescriptionLength> {
  const { rows: positions, dIn, documents, document } = rows;
  const draws = new DocumentDraws(documents, seed, documents < MIN_UNITS ? 0 : undefined);
  const lengths = new Float64Array(documents);
  for (const d of document) lengths[d]++;
  const perPosition = (bits: Float64Array) => draws.ratio(bits, lengths);

  const { mean, variance } = momentsOf(rows.x, positions, dIn);
  const errors = errorsOf(rows, sae);
  const error = sumOfSquares(errors);
  const step = Math.sqrt((12 * TOLERANCE * error) / Math.max(1, rows.codes.positions.length));
  const { firing, values } = codeBits(rows, sae, step, errors);
  const rounded = sumOfSquares(errors);
  const codes = firing.map((bits, d) => bits + values[d]);

  const centred = rows.x.map((v, i) => v - mean[i % dIn]);
  const dense = (columns: Float32Array) => {
    const bits = new Float64Array(documents);
    const width = stepFor(columns, rounded);
    const bins = new Int32Array(positions);
    for (let c = 0; c < dIn; c++) {
      for (let n = 0; n < positions; n++) bins[n] = nearest(columns[n * dIn + c], width);
      addBits(bins, document, bits);
    }
    return perPosition(bits);
  };
  const dimensions = dense(centred);
  const components = dIn > PCA_WIDTH ? null : dense(await rotated(centred, dIn, positions, device));
  const drawn = { bits: perPosition(codes) };
  return {
    ...{ positions, documents, tolerance: TOLERANCE, step },
    ...{ fvu: error / variance, fvuRounded: rounded / variance },
    bits: {
      codes: intervalOf(drawn.bits),
      firing: intervalOf(perPosition(firing)),
      values: intervalOf(perPosition(values)),
      dimensions: intervalOf(dimensions),
      components: components && intervalOf(components),
    },
    drawn: {
      ...drawn,
      ...(components && { bitsLessComponents: less(drawn.bits, components) }),
      bitsLessDimensions: less(drawn.bits, dimensions),
    },
  };
}

function less(a: Drawn, b: Drawn): Drawn {
  return { value: a.value - b.value, draws: a.draws.map((draw, i) => draw - b.draws[i]) };
}

/** Column means, and Σ‖x − x̄‖². */
function momentsOf(x: Float32Array, rows: number, dIn: number) {
  const mean = new Float64Array(dIn);
  for (let i = 0; i < x.length; i++) mean[i % dIn] += x[i];
  for (let c = 0; c < dIn; c++) mean[c] /= rows;
  let variance = 0;
  for (let i = 0; i < x.length; i++) variance += (x[i] - mean[i % dIn]) ** 2;
  return { mean, variance };
}

/** x − x̂ of every row. */
function errorsOf({ x, codes, dIn, dSae }: CodedRows, sae: Sae): Float32Array {
  const errors = x.map((v, i) => v - sae.b_dec[i % dIn]);
  for (let f = 0; f < dSae; f++) addDecoded(errors, codes, f, sae, (a) => -a);
  return errors;
}

/** Adds `change` of a latent's values, decoded, to the rows. */
function addDecoded(
  out: Float32Array,
  { offsets, positions, values }: CodedRows["codes"],
  latent: number,
  sae: Sae,
  change: (a: number) => number,
): void {
  const row = sae.decoderRow(latent);
  for (let i = offsets[latent]; i < offsets[latent + 1]; i++) {
    const a = change(values[i]);
    for (let c = 0, at = positions[i] * row.length; c < row.length; c++) out[at++] += a * row[c];
  }
}

/** Bits by document of which latents fire and of their rounded values; `errors` become those of the rounded codes. */
function codeBits(
  { codes, document, documents, rows, dSae }: CodedRows,
  sae: Sae,
  step: number,
  errors: Float32Array,
): { firing: Float64Array; values: Float64Array } {
  const firing = new Float64Array(documents);
  const values = new Float64Array(documents);
  let silence = 0;
  for (let f = 0; f < dSae; f++) {
    const [from, to] = [codes.offsets[f], codes.offsets[f + 1]];
    if (from === to) continue;
    const p = (to - from) / rows;
    // A latent that always fires is never silent: what that would cost does not matter.
    const silent = p < 1 ? -Math.log2(1 - p) : 0;
    silence += silent;
    const own = Int32Array.from(
      { length: to - from },
      (_, i) => document[codes.positions[from + i]],
    );
    for (const d of own) firing[d] += -Math.log2(p) - silent;
    const length = Math.hypot(...sae.decoderRow(f));
    // Where a latent writes nothing its values tell nothing.
    const width = length > 0 && step > 0 ? step / length : Infinity;
    const bins = Int32Array.from(own, (_, i) => Math.floor(codes.values[from + i] / width));
    addBits(bins, own, values);
    if (width < Infinity)
      addDecoded(errors, codes, f, sae, (a) => a - width * (Math.floor(a / width) + 0.5));
  }
  for (const d of document) firing[d] += silence;
  return { firing, values };
}

/** Adds −log₂ of each bin's frequency among all to the sum of its document. */
export function addBits(bins: Int32Array, document: ArrayLike<number>, sums: Float64Array): void {
  const counts = new Map<number, number>();
  for (const bin of bins) counts.set(bin, (counts.get(bin) ?? 0) + 1);
  const cost = new Map<number, number>();
  for (const [bin, count] of counts) cost.set(bin, -Math.log2(count / bins.length));
  for (let n = 0; n < bins.length; n++) sums[document[n]] += cost.get(bins[n])!;
}

function nearest(v: number, width: number): number {
  return width === Infinity ? 0 : Math.floor(v / width + 0.5);
}

/** The step at which rounding all values to the nearest multiple costs this squared error; Infinity when 0 for all costs no more. */
function stepFor(values: Float32Array, error: number): number {
  const cost = (width: number) => {
    let sum = 0;
    for (let i = 0; i < values.length; i++)
      sum += (values[i] - width * Math.floor(values[i] / width + 0.5)) ** 2;
    return sum;
  };
  if (sumOfSquares(values) <= error) return Infinity;
  // An even error in a step costs width²/12 a value; clipping to 0 costs less.
  let low = Math.sqrt((error / values.length) * 12) / 4;
  let high = low;
  while (cost(high) < error) high *= 2;
  while (cost(low) > error) low /= 2;
  for (let i = 0; i < 30; i++) {
    const middle = Math.sqrt(low * high);
    if (cost(middle) < error) low = middle;
    else high = middle;
  }
  return low;
}

function sumOfSquares(values: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i] ** 2;
  return sum;
}

/** Rows of mean 0 as their principal components; [rows, dIn]. */
async function rotated(
  centred: Float32Array,
  dIn: number,
  rows: number,
  device: Device,
): Promise<Float32Array> {
  const every = Math.max(1, Math.ceil(rows / SPREAD_ROWS));
  const sample: Float32Array[] = [];
  for (let n = 0; n < rows; n += every) sample.push(centred.subarray(n * dIn, (n + 1) * dIn));
  const directions = await principalComponents(spread(sample, dIn));
  const [a, b, out] = [rows, dIn, rows].map((count) => device.tensor([count, dIn]));
  try {
    device.write(a, centred);
    device.write(b, Float32Array.from(directions));
    device.matmul({ a, b, transA: false, transB: true, out });
    return await device.readF32(out, rows * dIn);
  } finally {
    for (const tensor of [a, b, out]) device.free(tensor);
  }
}
