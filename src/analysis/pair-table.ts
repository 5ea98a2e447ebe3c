/**
 * Counts, and if wanted sums, of pairs of numbers in bounded memory: an open-addressing table that is
 * exact until it is full. Then the rarest pairs are dropped by lossy counting (Manku & Motwani,
 * "Approximate Frequency Counts over Data Streams", VLDB 2002), with the buckets cut by memory instead
 * of by length: a pair that enters when `error` is Δ may have been dropped before with a count of at
 * most Δ, and to make room all pairs with count + Δ ≤ b go, the smallest b that frees half of the
 * table; `error` then is b. So for every pair, also for one that is not there,
 *
 *   count ≤ true count ≤ count + error
 */
import { packArrays, unpackArrays } from "./packed.ts";

const FIRST_SLOTS = 1 << 12;
const MAX_LOAD = 0.7;
const EMPTY = 0xffffffff;

export class PairTable {
  /** By how much a count may be too small; 0 while everything fitted. */
  error = 0;
  readonly #maxSlots: number;
  readonly #hasSums: boolean;
  #first!: Uint32Array;
  #second!: Uint32Array;
  #counts!: Uint32Array;
  #deltas!: Uint32Array;
  #sums!: Float64Array;
  #size = 0;

  /** A table of at most `maxBytes`, but of room for 4,096 pairs at least. */
  constructor(maxBytes: number, options: { sums?: boolean } = {}) {
    this.#hasSums = options.sums ?? false;
    const slots = 2 ** Math.floor(Math.log2(Math.max(maxBytes, 1) / this.#slotBytes));
    this.#maxSlots = Math.max(slots, FIRST_SLOTS);
    this.#allocate(FIRST_SLOTS);
  }

  /** Bytes of a table once it has grown to its full size. */
  get plannedBytes(): number {
    return this.#maxSlots * this.#slotBytes;
  }

  /** Bytes of the arrays as they are. */
  get bytes(): number {
    return this.#first.length * this.#slotBytes;
  }

  get #slotBytes(): number {
    return this.#hasSums ? 24 : 16;
  }

  /** Adds `count` (> 0) firings of the pair, and `sum` to its sum. */
  add(first: number, second: number, count: number, sum = 0): void {
    let slot = this.#slot(first, second);
    if (this.#first[slot] === EMPTY) {
      if (this.#size + 1 > this.#first.length * MAX_LOAD) {
        this.#makeRoom();
        slot = this.#slot(first, second);
      }
      this.#first[slot] = first;
      this.#second[slot] = second;
      this.#deltas[slot] = this.error;
      this.#size++;
    }
    this.#counts[slot] += count;
    if (this.#hasSums) this.#sums[slot] += sum;
  }

  count(first: number, second: number): number {
    return this.#counts[this.#slot(first, second)];
  }

  /** Calls `visit` for every pair that is there, in no particular order. */
  each(visit: (first: number, second: number, count: number, sum: number) => void): void {
    for (let slot = 0; slot < this.#first.length; slot++)
      if (this.#first[slot] !== EMPTY)
        visit(
          this.#first[slot],
          this.#second[slot],
          this.#counts[slot],
          this.#hasSums ? this.#sums[slot] : 0,
        );
  }

  toBytes(): Uint8Array {
    return packArrays(
      { maxSlots: this.#maxSlots, hasSums: this.#hasSums, error: this.error, size: this.#size },
      {
        first: this.#first,
        second: this.#second,
        counts: this.#counts,
        deltas: this.#deltas,
        sums: this.#sums,
      },
    );
  }

  /** @throws UserError when `bytes` are not what `toBytes` made. */
  static from(bytes: Uint8Array): PairTable {
    const { about, arrays } = unpackArrays(bytes);
    const { maxSlots, hasSums, error, size } = about as {
      maxSlots: number;
      hasSums: boolean;
      error: number;
      size: number;
    };
    const table = new PairTable(maxSlots * (hasSums ? 24 : 16), { sums: hasSums });
    table.error = error;
    table.#size = size;
    table.#first = arrays.first as Uint32Array;
    table.#second = arrays.second as Uint32Array;
    table.#counts = arrays.counts as Uint32Array;
    table.#deltas = arrays.deltas as Uint32Array;
    table.#sums = arrays.sums as Float64Array;
    return table;
  }

  /** Where the pair is, or the free slot that it would take. */
  #slot(first: number, second: number): number {
    const mask = this.#first.length - 1;
    let h = Math.imul(first, 0x9e3779b1) ^ Math.imul(second, 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d);
    let slot = (h ^ (h >>> 13)) & mask;
    while (
      this.#first[slot] !== EMPTY &&
      (this.#first[slot] !== first || this.#second[slot] !== second)
    )
      slot = (slot + 1) & mask;
    return slot;
  }

  #allocate(slots: number): void {
    this.#first = new Uint32Array(slots).fill(EMPTY);
    this.#second = new Uint32Array(slots);
    this.#counts = new Uint32Array(slots);
    this.#deltas = new Uint32Array(slots);
    this.#sums = new Float64Array(this.#hasSums ? slots : 0);
  }

  #makeRoom(): void {
    const [first, second, counts] = [this.#first, this.#second, this.#counts];
    const [deltas, sums] = [this.#deltas, this.#sums];
    let keepFrom = 0;
    if (first.length * 2 <= this.#maxSlots) this.#allocate(first.length * 2);
    else {
      keepFrom = this.#cut() + 1;
      this.error = keepFrom - 1;
      this.#allocate(first.length);
    }
    this.#size = 0;
    for (let old = 0; old < first.length; old++) {
      if (first[old] === EMPTY || counts[old] + deltas[old] < keepFrom) continue;
      const slot = this.#slot(first[old], second[old]);
      this.#first[slot] = first[old];
      this.#second[slot] = second[old];
      this.#counts[slot] = counts[old];
      this.#deltas[slot] = deltas[old];
      if (this.#hasSums) this.#sums[slot] = sums[old];
      this.#size++;
    }
  }

  /** The smallest b for which at most half of the pairs have count + Δ > b. */
  #cut(): number {
    const bounds = new Float64Array(this.#size);
    let n = 0;
    for (let slot = 0; slot < this.#first.length; slot++)
      if (this.#first[slot] !== EMPTY) bounds[n++] = this.#counts[slot] + this.#deltas[slot];
    bounds.sort();
    return bounds[n >> 1];
  }
}
