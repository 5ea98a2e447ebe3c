/** How an SAE's latents lie to each other: weights only, no data. */
import type { Device } from "../device/device.ts";
import type { Sae } from "../sae/sae.ts";
import { unitRows } from "./neighbors.ts";
import { rowProducts } from "./products.ts";

/** Per latent; cosines of rows that are 0 are 0. Directions in raw units: transforms are folded in first. */
export interface Geometry {
  /** Largest cosine of its decoder row with another latent's; [dSae]. */
  decoderMaxCosine: Float64Array;
  /** The same of encoder rows; [dSae]. */
  encoderMaxCosine: Float64Array;
  /** Cosine between its encoder and its decoder row; null for a transcoder, where they live in different spaces. */
  encoderDecoderCosine: Float64Array | null;
  decoderNorm: Float64Array;
  encoderNorm: Float64Array;
}

/**
 * Blocks of products on `device`, so that memory grows with dSae and not with its square; time grows
 * with dSae² · (dIn + dOut).
 */
export async function geometryOf(sae: Sae, device: Device): Promise<Geometry> {
  const { W_enc, W_dec, spec } = sae.fold();
  const { dIn, dOut, dSae, transcoder } = spec;
  const decoder = unitRows(W_dec, dOut);
  const encoder = unitRows(W_enc, dIn);
  const between = new Float64Array(dSae);
  if (!transcoder)
    for (let f = 0, i = 0; f < dSae; f++)
      for (let c = 0; c < dIn; c++, i++) between[f] += encoder[i] * decoder[i];
  return {
    decoderMaxCosine: await largestOther(decoder, dOut, device),
    encoderMaxCosine: await largestOther(encoder, dIn, device),
    encoderDecoderCosine: transcoder ? null : between,
    decoderNorm: normsOf(W_dec, dOut),
    encoderNorm: normsOf(W_enc, dIn),
  };
}

function normsOf(rows: Float32Array, width: number): Float64Array {
  return Float64Array.from({ length: rows.length / width }, (_, f) => {
    let squared = 0;
    for (let i = f * width; i < (f + 1) * width; i++) squared += rows[i] * rows[i];
    return Math.sqrt(squared);
  });
}

/** Of each row its largest product with another; NaN when there is none. */
async function largestOther(
  rows: Float32Array,
  width: number,
  device: Device,
): Promise<Float64Array> {
  const count = rows.length / width;
  const largest = new Float64Array(count).fill(count > 1 ? -Infinity : NaN);
  for await (const block of rowProducts(rows, rows, width, device))
    for (let n = 0; n < block.rows; n++) {
      const f = block.from + n;
      for (let g = 0, i = n * count; g < count; g++, i++)
        if (g !== f && block.products[i] > largest[f]) largest[f] = block.products[i];
    }
  return largest;
}

/** How values are spread: mean, and quantiles by linear interpolation between order statistics. */
export interface Spread {
  mean: number;
  min: number;
  q05: number;
  q25: number;
  median: number;
  q75: number;
  q95: number;
  max: number;
}

export function spreadOf(values: ArrayLike<number>): Spread {
  const sorted = Float64Array.from(values).sort();
  const at = (share: number) => {
    const place = share * (sorted.length - 1);
    const low = Math.floor(place);
    const high = Math.min(low + 1, sorted.length - 1);
    return sorted[low] + (sorted[high] - sorted[low]) * (place - low);
  };
  return {
    mean: sorted.reduce((sum, v) => sum + v, 0) / sorted.length,
    ...{ min: at(0), q05: at(0.05), q25: at(0.25), median: at(0.5) },
    ...{ q75: at(0.75), q95: at(0.95), max: at(1) },
  };
}

/** How often the latents fire. */
export interface DensityDistribution {
  /** Positions that densities are shares of. */
  positions: number;
  /** Latents that fired at least once, and the others; both depend on `positions`: more text, fewer dead. */
  alive: number;
  dead: number;
  /** Share of all latents that fire in more than 1 % of the positions; in more than 10 %. */
  above1Percent: number;
  above10Percent: number;
  /** Of the densities of all latents, dead ones included. */
  spread: Spread;
  /** Latents alive by log10 of their density: counts[i] lie in [edges[i], edges[i + 1]), the last also on its end. */
  histogram: { edges: number[]; counts: number[] };
}

const BINS_PER_DECADE = 4;

export function densityDistribution(
  density: ArrayLike<number>,
  positions: number,
): DensityDistribution {
  const all = Array.from(density);
  const alive = all.filter((d) => d > 0);
  const lowest = Math.min(0, ...[Math.floor(Math.log10(1 / Math.max(1, positions)))]);
  const bins = Math.max(1, -lowest * BINS_PER_DECADE);
  const edges = Array.from({ length: bins + 1 }, (_, i) => lowest + i / BINS_PER_DECADE);
  const counts = new Array<number>(bins).fill(0);
  for (const d of alive) {
    // A density on an edge belongs above it; rounding of log10 must not move it below.
    const place = Math.floor((Math.log10(d) - lowest) * BINS_PER_DECADE + 1e-9);
    counts[Math.min(bins - 1, place)]++;
  }
  const share = (limit: number) => all.filter((d) => d > limit).length / all.length;
  return {
    ...{ positions, alive: alive.length, dead: all.length - alive.length },
    ...{ above1Percent: share(0.01), above10Percent: share(0.1) },
    spread: spreadOf(all),
    histogram: { edges, counts },
  };
}
