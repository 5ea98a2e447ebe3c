/**
 * Latents in the plane, so that those that are near each other lie near each other: by UMAP (McInnes,
 * Healy & Melville 2018; the library umap-js) from exact nearest neighbours, either of decoder
 * directions (distance 1 − cosine) or of firing (distance 1 − Jaccard). Same seed, same map.
 *
 * How far to trust a map: trustworthiness (Venna & Kaski 2001), beside that of a random layout.
 */
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import { Rng } from "../rng.ts";
import type { Sae } from "../sae/sae.ts";
import { nearestRows, togetherOf, unitRows, type CoFirings } from "./neighbors.ts";

export const MAP_KINDS = ["decoder", "coActivation"] as const;
export type MapKind = (typeof MAP_KINDS)[number];

export interface LatentMap {
  kind: MapKind;
  /** [dSae]; null for a latent that is not on the map. */
  x: (number | null)[];
  y: (number | null)[];
  /** Latents on the map. */
  count: number;
  /** Of those on the map; 1 is perfect. `random`: of a layout drawn at random. */
  trustworthiness: { neighbors: number; value: number; random: number; rows: number };
  seconds: number;
}

export interface MapOptions {
  seed: number;
  device?: Device;
  signal?: AbortSignal;
  onProgress?: (progress: { done: number; total: number }) => void;
}

/** Neighbours that a place in the plane is made from, and that trustworthiness looks at. */
const NEIGHBORS = 15;
/** Latents that fire less often are not on the map of firing: their few partners are accidents. */
export const MIN_FIRINGS = 50;

/** The map of decoder directions; latents with a zero row are not on it. */
export async function decoderMap(sae: Sae, options: MapOptions): Promise<LatentMap> {
  const { dOut, dSae } = sae.spec;
  const isThere = (latent: number) => sae.decoderRow(latent).some((v) => v !== 0);
  const latents = Array.from({ length: dSae }, (_, latent) => latent).filter(isThere);
  const rows = new Float32Array(latents.length * dOut);
  latents.forEach((latent, i) => rows.set(sae.decoderRow(latent), i * dOut));
  const unit = unitRows(rows, dOut);
  const { device } = options;
  const nearest = await nearestRows(unit, dOut, {
    ...{ count: NEIGHBORS - 1, ...(device && { device }) },
  });
  const similarities = (i: number, out: Float64Array) => {
    for (let j = 0; j < latents.length; j++) {
      let dot = 0;
      for (let c = 0, a = i * dOut, b = j * dOut; c < dOut; c++, a++, b++) dot += unit[a] * unit[b];
      out[j] = dot;
    }
  };
  return mapOf(
    "decoder",
    dSae,
    latents,
    { ...nearest, near: nearest.cosines },
    similarities,
    options,
  );
}

/** The map of firing; latents that fire at fewer than 50 positions are not on it. */
export async function coActivationMap(co: CoFirings, options: MapOptions): Promise<LatentMap> {
  const dSae = co.firings.length;
  const latents = Array.from({ length: dSae }, (_, latent) => latent).filter(
    (latent) => co.firings[latent] >= MIN_FIRINGS,
  );
  const placeOf = new Int32Array(dSae).fill(-1);
  latents.forEach((latent, i) => (placeOf[latent] = i));
  const jaccards = latents.map((f) => {
    const partners = co.partners(f);
    const found: { place: number; jaccard: number }[] = [];
    for (const [i, g] of partners.latents.entries()) {
      const { positions, firings } = co;
      const { jaccard } = togetherOf(positions, firings[f], firings[g], partners.counts[i]);
      if (placeOf[g] >= 0) found.push({ place: placeOf[g], jaccard });
    }
    return found;
  });
  const count = NEIGHBORS - 1;
  const rows = new Int32Array(latents.length * count).fill(-1);
  const near = new Float32Array(latents.length * count).fill(NaN);
  jaccards.forEach((found, i) =>
    found
      .toSorted((a, b) => b.jaccard - a.jaccard || a.place - b.place)
      .slice(0, count)
      .forEach(({ place, jaccard }, k) => {
        rows[i * count + k] = place;
        near[i * count + k] = jaccard;
      }),
  );
  const similarities = (i: number, out: Float64Array) => {
    out.fill(0);
    for (const { place, jaccard } of jaccards[i]) out[place] = jaccard;
  };
  return mapOf("coActivation", dSae, latents, { count, rows, near }, similarities, options);
}

/** Fills out[j] with how similar point j is to point i, for all j. */
type Similarities = (i: number, out: Float64Array) => void;

async function mapOf(
  kind: MapKind,
  dSae: number,
  latents: readonly number[],
  nearest: { count: number; rows: Int32Array; near: Float32Array },
  similarities: Similarities,
  { seed, signal, onProgress }: MapOptions,
): Promise<LatentMap> {
  const began = performance.now();
  const n = latents.length;
  if (n < 4 * NEIGHBORS)
    throw new UserError(
      `a map needs ${4 * NEIGHBORS} latents or more; ${n} ${kind === "decoder" ? "have a decoder row that is not 0" : `fire at ${MIN_FIRINGS} positions or more`}`,
    );
  const { UMAP } = await import("umap-js");
  const rng = new Rng(seed, "map", kind);
  const umap = new UMAP({ nNeighbors: NEIGHBORS, minDist: 0.1, random: () => rng.uniform() });
  // The library counts a point as its own first neighbour, and skips −1.
  const lists = <T>(first: (i: number) => T, rest: (slot: number) => T) =>
    Array.from({ length: n }, (_, i) => [
      first(i),
      ...Array.from({ length: nearest.count }, (_, k) => rest(i * nearest.count + k)),
    ]);
  umap.setPrecomputedKNN(
    lists(
      (i) => i,
      (slot) => nearest.rows[slot],
    ),
    lists(
      () => 0,
      (slot) => (nearest.rows[slot] < 0 ? 1 : Math.max(0, 1 - nearest.near[slot])),
    ),
  );
  const total = umap.initializeFit(Array.from({ length: n }, () => [0]));
  for (let epoch = 1; epoch <= total; epoch++) {
    umap.step();
    if (epoch % 10 > 0) continue;
    signal?.throwIfAborted();
    onProgress?.({ done: epoch, total });
    await new Promise((resolve) => setImmediate(resolve)); // lets an interruption in
  }
  const layout = Float32Array.from(umap.getEmbedding().flat());
  const random = Float32Array.from(layout, () => rng.uniform());
  const [value, chance] = trustworthiness([layout, random], similarities, NEIGHBORS, { seed });
  const column = (axis: number) => {
    const values = new Array<number | null>(dSae).fill(null);
    latents.forEach((latent, i) => (values[latent] = Number(layout[2 * i + axis].toFixed(3))));
    return values;
  };
  return {
    ...{ kind, x: column(0), y: column(1), count: n },
    trustworthiness: { neighbors: NEIGHBORS, value, random: chance, rows: Math.min(n, SAMPLE) },
    seconds: (performance.now() - began) / 1000,
  };
}

/** Points whose neighbours in the plane are looked at. */
const SAMPLE = 1000;

/**
 * Trustworthiness of layouts [n, 2] (Venna & Kaski 2001, eq. 1), each:
 *
 *     1 − 2 / (n k (2n − 3k − 1)) Σ_i Σ_{j among the k nearest of i in the plane} max(0, r(i, j) − k)
 *
 * r(i, j) the rank of j by similarity to i, from 1; equally similar ones share their mean rank. The
 * mean over i is that of all points, or of 1,000 drawn ones.
 * @throws UserError unless k < n / 2.
 */
export function trustworthiness(
  layouts: readonly Float32Array[],
  similarities: Similarities,
  k: number,
  { seed = 0, sample = SAMPLE }: { seed?: number; sample?: number } = {},
): number[] {
  const n = layouts[0].length / 2;
  if (!(k < n / 2))
    throw new UserError(`trustworthiness needs more than twice as many points as neighbours; got ${n} points and ${k} neighbours`); // prettier-ignore
  const all = Int32Array.from({ length: n }, (_, i) => i);
  const rows = n <= sample ? all : new Rng(seed, "trustworthiness").shuffle(all).slice(0, sample);
  const similar = new Float64Array(n);
  const sorted = new Float64Array(n - 1);
  const excess = layouts.map(() => 0);
  for (const i of rows) {
    similarities(i, similar);
    similar.forEach((value, j) => {
      if (j !== i) sorted[j < i ? j : j - 1] = value;
    });
    sorted.sort();
    for (const [l, layout] of layouts.entries())
      for (const j of nearestInPlane(layout, i, k)) {
        const from = search(sorted, (v) => v >= similar[j]);
        const to = search(sorted, (v) => v > similar[j]);
        // Those from … to are as similar as j, itself among them; those after are more so.
        const rank = n - 1 - to + (to - from + 1) / 2;
        excess[l] += Math.max(0, rank - k);
      }
  }
  return excess.map((sum) => 1 - (2 * sum) / (rows.length * k * (2 * n - 3 * k - 1)));
}

/** The k points nearest to point i of a layout [n, 2]. */
function nearestInPlane(layout: Float32Array, i: number, k: number): number[] {
  const found: number[] = [];
  const distances: number[] = [];
  for (let j = 0; j < layout.length / 2; j++) {
    if (j === i) continue;
    const distance = (layout[2 * j] - layout[2 * i]) ** 2 + (layout[2 * j + 1] - layout[2 * i + 1]) ** 2; // prettier-ignore
    if (found.length === k && !(distance < distances[k - 1])) continue;
    let at = found.length;
    while (at > 0 && distances[at - 1] > distance) at--;
    found.splice(at, 0, j);
    distances.splice(at, 0, distance);
    if (found.length > k) {
      found.pop();
      distances.pop();
    }
  }
  return found;
}

/** The first place in rising values where it is so. */
function search(values: Float64Array, isThere: (v: number) => boolean): number {
  let [low, high] = [0, values.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (isThere(values[middle])) high = middle;
    else low = middle + 1;
  }
  return low;
}
