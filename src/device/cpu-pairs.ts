/** The (row, latent, z) that a worker found in its rows, before they become ragged codes. */
import type { CpuTensor } from "./cpu-memory.ts";

export class PairList {
  rows = new Int32Array(1024);
  latents = new Int32Array(1024);
  values = new Float32Array(1024);
  /** How many are listed. */
  count = 0;
  /** How many there are, those beyond the capacity included. */
  total = 0;
  readonly #first: number;
  readonly #last: number;

  /** A list for rows [first, last). */
  constructor(first: number, last: number) {
    this.#first = first;
    this.#last = last;
  }

  add(rows: Int32Array, latents: Int32Array, values: Float32Array, capacity: number): void {
    this.total += rows.length;
    const room = Math.min(rows.length, Math.max(0, capacity - this.count));
    const needed = this.count + room;
    if (needed > this.rows.length) {
      const size = Math.max(needed, 2 * this.rows.length);
      this.rows = grown(this.rows, new Int32Array(size));
      this.latents = grown(this.latents, new Int32Array(size));
      this.values = grown(this.values, new Float32Array(size));
    }
    this.rows.set(rows.subarray(0, room), this.count);
    this.latents.set(latents.subarray(0, room), this.count);
    this.values.set(values.subarray(0, room), this.count);
    this.count = needed;
  }

  /** Drops the pairs whose value does not pass, in place. */
  keep(passes: (value: number) => boolean): void {
    let kept = 0;
    for (let i = 0; i < this.count; i++) if (passes(this.values[i])) this.#move(i, kept++);
    this.count = kept;
  }

  /** Keeps the values above `cutoff` and the first `ties` that equal it. */
  keepAbove(cutoff: number, ties: number): void {
    let left = ties;
    this.keep((z) => z > cutoff || (z === cutoff && left-- > 0));
  }

  /** By row, and within a row as they were added (so by latent, which tiles add in order). */
  sort(): void {
    const next = new Int32Array(this.#last - this.#first + 1);
    for (let i = 0; i < this.count; i++) next[this.rows[i] - this.#first + 1]++;
    for (let n = 1; n < next.length; n++) next[n] += next[n - 1];
    const [rows, latents, values] = [this.rows, this.latents, this.values];
    this.rows = new Int32Array(rows.length);
    this.latents = new Int32Array(rows.length);
    this.values = new Float32Array(rows.length);
    for (let i = 0; i < this.count; i++) {
      const at = next[rows[i] - this.#first]++;
      this.rows[at] = rows[i];
      this.latents[at] = latents[i];
      this.values[at] = values[i];
    }
  }

  /** Writes the (sorted) list into ragged codes from slot `start` on, with the ends of its rows. */
  copyTo(
    buffer: ArrayBufferLike,
    codes: { indices: CpuTensor; values: CpuTensor; ends: CpuTensor },
    start: number,
  ): { indices: Int32Array; values: Float32Array } {
    const indices = new Int32Array(buffer, codes.indices.address + start * 4, this.count);
    const values = new Float32Array(buffer, codes.values.address + start * 4, this.count);
    indices.set(this.latents.subarray(0, this.count));
    values.set(this.values.subarray(0, this.count));
    const ends = new Int32Array(buffer, codes.ends.address, this.#last);
    for (let n = this.#first, i = 0; n < this.#last; n++) {
      while (i < this.count && this.rows[i] === n) i++;
      ends[n] = start + i;
    }
    return { indices, values };
  }

  #move(from: number, to: number): void {
    this.rows[to] = this.rows[from];
    this.latents[to] = this.latents[from];
    this.values[to] = this.values[from];
  }
}

function grown<T extends Int32Array | Float32Array>(from: T, to: T): T {
  to.set(from);
  return to;
}

/** How many values of a list are above `cutoff`, and how many equal it. */
export function countSelected(list: PairList, cutoff: number) {
  let [selected, ties] = [0, 0];
  for (let i = 0; i < list.count; i++) {
    if (list.values[i] > cutoff) selected++;
    else if (list.values[i] === cutoff) ties++;
  }
  return { selected, ties };
}

/** The smallest of the `count` largest values (of all, when they are fewer), by Hoare's selection. */
export function smallestOfLargest(values: Float32Array, count: number): number {
  const v = values.slice();
  const wanted = Math.min(count, v.length) - 1;
  let [low, high] = [0, v.length - 1];
  while (low < high) {
    const pivot = v[(low + high) >> 1];
    let [i, j] = [low, high];
    while (i <= j) {
      while (v[i] > pivot) i++;
      while (v[j] < pivot) j--;
      if (i > j) break;
      [v[i], v[j]] = [v[j], v[i]];
      i++;
      j--;
    }
    if (wanted <= j) high = j;
    else if (wanted >= i) low = i;
    else break;
  }
  return v[wanted];
}
