/**
 * coactivation.bin: for each latent those that it fires with, and those that it should fire with by chance
 * and does not, with exact counts:
 *
 *   the 64 partners with the most common positions,
 *   the 64 with the highest phi, the correlation of firing with firing (Pearson's φ of the 2 × 2 table):
 *     φ = (n·N − a·b) / √(a (N − a) b (N − b)),
 *   the 32 furthest below expectation, by z = (n − e) / √e, e = a·b / N, where e ≥ 5,
 *
 * with n common positions, a and b firings of the two, N positions. Read by range: a latent's
 * partners open without the rest.
 */
import { writeFile } from "node:fs/promises";

import type { CoActivation } from "./co-activation.ts";
import { packArrays, PackedFile } from "./packed.ts";

const MOST = 64;
const BELOW = 32;
/** Below that, not to meet at all is no surprise. */
const MIN_EXPECTED = 5;

/** Latents that stand out by how often they fire together with one. */
export interface StoredPartners {
  /** Rising. */
  latents: Int32Array;
  /** Positions where both fire; may be 0. */
  counts: Uint32Array;
  /** By how much a count may be too small; 0 when all are exact. */
  error: number;
}

/** Writes what stands out of `co` to `path`. */
export async function writePartners(path: string, co: CoActivation): Promise<void> {
  const { dSae, firings, positions: N, error } = co;
  const offsets = new Uint32Array(dSae + 1);
  const latents: Int32Array[] = [];
  const counts: Uint32Array[] = [];
  const common = new Uint32Array(dSae);
  const [byCount, byPhi, byLack] = [new Best(MOST), new Best(MOST), new Best(BELOW)];
  for (let f = 0; f < dSae; f++) {
    const partners = co.partners(f);
    const a = firings[f];
    common.fill(0);
    partners.latents.forEach((g, i) => (common[g] = partners.counts[i]));
    for (const best of [byCount, byPhi, byLack]) best.clear();
    if (a > 0)
      for (let g = 0; g < dSae; g++) {
        if (g === f || firings[g] === 0) continue;
        const [n, b] = [common[g], firings[g]];
        const expected = (a * b) / N;
        if (n > 0) {
          byCount.offer(g, n);
          if (n > expected) byPhi.offer(g, (n * N - a * b) / Math.sqrt(a * (N - a) * b * (N - b)));
        }
        // What a bounded table may have lost counts as being there.
        const most = n + error;
        if (expected >= MIN_EXPECTED && most < expected)
          byLack.offer(g, (expected - most) / Math.sqrt(expected));
      }
    const chosen = Int32Array.from(
      new Set([...byCount.items(), ...byPhi.items(), ...byLack.items()]),
    ).sort();
    latents.push(chosen);
    counts.push(Uint32Array.from(chosen, (g) => common[g]));
    offsets[f + 1] = offsets[f] + chosen.length;
  }
  const all = { latents: new Int32Array(offsets[dSae]), counts: new Uint32Array(offsets[dSae]) };
  for (let f = 0; f < dSae; f++) {
    all.latents.set(latents[f], offsets[f]);
    all.counts.set(counts[f], offsets[f]);
  }
  await writeFile(path, packArrays({ dSae, positions: N, error }, { offsets, ...all }));
}

/** The partners of one latent, read by their place in the file. @throws UserError */
export function readPartners(path: string, latent: number): StoredPartners {
  const file = new PackedFile(path);
  try {
    const [from, to] = file.read("offsets", latent, latent + 2);
    return {
      latents: file.read("latents", from, to) as Int32Array,
      counts: file.read("counts", from, to) as Uint32Array,
      error: (file.about as { error: number }).error,
    };
  } finally {
    file.close();
  }
}

/** The so many highest of what is offered; of equal ones the first. */
class Best {
  readonly #limit: number;
  readonly #keys: Float64Array;
  readonly #items: Int32Array;
  #size = 0;

  constructor(limit: number) {
    this.#limit = limit;
    this.#keys = new Float64Array(limit + 1);
    this.#items = new Int32Array(limit + 1);
  }

  clear(): void {
    this.#size = 0;
  }

  offer(item: number, key: number): void {
    if (this.#size === this.#limit && key <= this.#keys[this.#size - 1]) return;
    let at = this.#size;
    for (; at > 0 && this.#keys[at - 1] < key; at--) {
      this.#keys[at] = this.#keys[at - 1];
      this.#items[at] = this.#items[at - 1];
    }
    this.#keys[at] = key;
    this.#items[at] = item;
    if (this.#size < this.#limit) this.#size++;
  }

  items(): Int32Array {
    return this.#items.subarray(0, this.#size);
  }
}
