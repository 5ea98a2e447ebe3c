/**
 * How often each two latents of an SAE fire at the same position: all pairs, in one pass.
 *
 * Where a counter for every pair fits into the memory given, counts are exact: the triangle f < g of
 * u32, 4 · dSae · (dSae - 1) / 2 bytes (4,096 latents: 34 MB). Otherwise pairs share a bounded table
 * that drops the rarest ones, and `error` says by how much a count may be too small (pair-table.ts).
 *
 * Positions are worked off in blocks, latent by latent, so that the counters of one latent stay in
 * the processor's cache while all its partners are counted. Blocks are cut by position, never by
 * chunk: the result does not depend on how the text was cut. (Reading a count ends a block early. With
 * a bounded table, where it matters in which order pairs came, read only when all has been added.)
 */
import type { CodesByLatent } from "./codes.ts";
import { packArrays, unpackArrays } from "./packed.ts";
import { PairTable } from "./pair-table.ts";

/** Everything that fires together with one latent. */
export interface Partners {
  /** Rising; without the latent itself. */
  latents: Int32Array;
  /** Positions where both fire. */
  counts: Uint32Array;
}

const DEFAULT_BYTES = 2 ** 29;
/** A block ends with the position that brings it to so many positions or so many active latents: enough that each latent's counters are used many times while they are in the cache. */
const BLOCK_POSITIONS = 2 ** 16;
const BLOCK_ENTRIES = 2 ** 21;

export class CoActivation {
  readonly dSae: number;
  readonly maxBytes: number;
  /** Positions where each latent fires; [dSae]. */
  readonly firings: Uint32Array;
  #positions = 0;
  /** Counters of the pairs f < g, f by f. */
  #triangle: Uint32Array | undefined;
  #table: PairTable | undefined;
  #partners: Map<number, Partners> | undefined;
  /** The block that is filling: row by row the latents that fire, rising. */
  readonly #latents: Int32Array;
  /** Entries of the block by latent, and for each entry where its row ends. */
  readonly #entries: Int32Array;
  readonly #rowEnds: Int32Array;
  readonly #blockEntries: number;
  readonly #ends = new Int32Array(BLOCK_POSITIONS);
  #rows = 0;

  /** `blockEntries` matters to speed and, where counts are bounded, to which pairs are dropped. */
  constructor(dSae: number, options: { maxBytes?: number; blockEntries?: number } = {}) {
    this.dSae = dSae;
    this.#blockEntries = options.blockEntries ?? BLOCK_ENTRIES;
    // A row that begins before the block is full may go on past that.
    const capacity = this.#blockEntries + dSae;
    this.#latents = new Int32Array(capacity);
    this.#entries = new Int32Array(capacity);
    this.#rowEnds = new Int32Array(capacity);
    this.maxBytes = options.maxBytes ?? DEFAULT_BYTES;
    this.firings = new Uint32Array(dSae);
    const pairs = (dSae * (dSae - 1)) / 2;
    if (4 * pairs <= this.maxBytes) this.#triangle = new Uint32Array(pairs);
    else this.#table = new PairTable(this.maxBytes);
  }

  /** Bytes that counting so many latents takes at most, the block that is filling included. */
  static plannedBytes(dSae: number, maxBytes = DEFAULT_BYTES): number {
    const triangle = 2 * dSae * (dSae - 1);
    const pairs = triangle <= maxBytes ? triangle : new PairTable(maxBytes).plannedBytes;
    return pairs + 4 * (dSae + BLOCK_POSITIONS + 3 * (BLOCK_ENTRIES + dSae));
  }

  /** Bytes of the arrays as they are. */
  get bytes(): number {
    const pairs = this.#triangle?.byteLength ?? this.#table!.bytes;
    return pairs + this.firings.byteLength + 3 * this.#latents.byteLength + this.#ends.byteLength;
  }

  get positions(): number {
    return this.#positions;
  }

  /** 0 when all counts are exact; otherwise by how much a count may be too small. */
  get error(): number {
    this.#finishBlock();
    return this.#table?.error ?? 0;
  }

  /** Counts `length` further positions with their codes. */
  add(codes: CodesByLatent, length: number): void {
    const { offsets, positions } = codes;
    const total = offsets[this.dSae];
    this.#partners = undefined;
    // Row by row; latents rise within a row because they are visited in order.
    const next = new Int32Array(length + 1);
    for (let i = 0; i < total; i++) next[positions[i] + 1]++;
    for (let p = 0; p < length; p++) next[p + 1] += next[p];
    const latents = new Int32Array(total);
    for (let f = 0; f < this.dSae; f++) {
      this.firings[f] += offsets[f + 1] - offsets[f];
      for (let i = offsets[f]; i < offsets[f + 1]; i++) latents[next[positions[i]]++] = f;
    }
    // Where row p ended is where row p + 1 began: next[p] now is the end of row p.
    for (let p = 0, from = 0; p < length; from = next[p], p++) {
      const at = this.#rows === 0 ? 0 : this.#ends[this.#rows - 1];
      const end = at + next[p] - from;
      this.#latents.set(latents.subarray(from, next[p]), at);
      this.#ends[this.#rows++] = end;
      if (this.#rows === BLOCK_POSITIONS || end >= this.#blockEntries) this.#finishBlock();
    }
    this.#positions += length;
  }

  /** Positions where both f and g fire; of one latent, where it fires. */
  count(f: number, g: number): number {
    this.#finishBlock();
    if (f === g) return this.firings[f];
    const [low, high] = f < g ? [f, g] : [g, f];
    if (this.#triangle) return this.#triangle[this.#base(low) + high];
    return this.#table!.count(low, high);
  }

  /** Every latent that fires at least once together with f, as far as it is known (see `error`). */
  partners(f: number): Partners {
    this.#finishBlock();
    if (this.#table) return this.#byLatent().get(f) ?? listOf([], []);
    const triangle = this.#triangle!;
    const latents: number[] = [];
    const counts: number[] = [];
    for (let g = 0; g < this.dSae; g++) {
      if (g === f) continue;
      const count = g < f ? triangle[this.#base(g) + f] : triangle[this.#base(f) + g];
      if (count === 0) continue;
      latents.push(g);
      counts.push(count);
    }
    return listOf(latents, counts);
  }

  /** Everything, so that counting can go on elsewhere. */
  toBytes(): Uint8Array {
    const table = this.#table?.toBytes() ?? new Uint8Array(0);
    const { dSae, maxBytes } = this;
    return packArrays(
      {
        ...{ dSae, maxBytes, blockEntries: this.#blockEntries },
        ...{ positions: this.#positions, rows: this.#rows },
      },
      {
        firings: this.firings,
        triangle: this.#triangle ?? new Uint32Array(0),
        table,
        ends: this.#ends.subarray(0, this.#rows),
        latents: this.#latents.subarray(0, this.#rows === 0 ? 0 : this.#ends[this.#rows - 1]),
      },
    );
  }

  /** @throws UserError when `bytes` are not what `toBytes` made. */
  static from(bytes: Uint8Array): CoActivation {
    const { about, arrays } = unpackArrays(bytes);
    const { dSae, maxBytes, blockEntries, positions, rows } = about as Record<string, number>;
    const made = new CoActivation(dSae, { maxBytes, blockEntries });
    made.firings.set(arrays.firings);
    made.#positions = positions;
    made.#rows = rows;
    made.#ends.set(arrays.ends);
    made.#latents.set(arrays.latents);
    if (made.#triangle) made.#triangle.set(arrays.triangle);
    else made.#table = PairTable.from(arrays.table as Uint8Array);
    return made;
  }

  /** Place of the pair (f, 0), which is not there itself: that of (f, g) is g further. */
  #base(f: number): number {
    return (f * (2 * this.dSae - f - 1)) / 2 - f - 1;
  }

  #finishBlock(): void {
    const rows = this.#rows;
    if (rows === 0) return;
    const [latents, ends] = [this.#latents, this.#ends];
    const total = ends[rows - 1];
    // Entries by latent, and for each where its row ends.
    const offsets = new Int32Array(this.dSae + 1);
    for (let e = 0; e < total; e++) offsets[latents[e] + 1]++;
    for (let f = 0; f < this.dSae; f++) offsets[f + 1] += offsets[f];
    const [entries, rowEnd] = [this.#entries, this.#rowEnds];
    const next = offsets.slice(0, this.dSae);
    for (let row = 0, e = 0; row < rows; row++)
      for (; e < ends[row]; e++) {
        entries[next[latents[e]]++] = e;
        rowEnd[e] = ends[row];
      }
    if (this.#triangle) {
      const triangle = this.#triangle;
      for (let f = 0; f < this.dSae; f++) {
        const base = this.#base(f) + f + 1;
        const own = triangle.subarray(base, base + this.dSae - f - 1);
        for (let i = offsets[f]; i < offsets[f + 1]; i++) {
          const e = entries[i];
          const end = rowEnd[e];
          for (let j = e + 1; j < end; j++) own[latents[j] - f - 1]++;
        }
      }
    } else {
      const counts = new Uint32Array(this.dSae);
      const touched = new Int32Array(this.dSae);
      for (let f = 0; f < this.dSae; f++) {
        let n = 0;
        for (let i = offsets[f]; i < offsets[f + 1]; i++) {
          const e = entries[i];
          for (let j = e + 1; j < rowEnd[e]; j++)
            if (counts[latents[j]]++ === 0) touched[n++] = latents[j];
        }
        for (let t = 0; t < n; t++) {
          this.#table!.add(f, touched[t], counts[touched[t]]);
          counts[touched[t]] = 0;
        }
      }
    }
    this.#rows = 0;
  }

  #byLatent(): Map<number, Partners> {
    if (this.#partners) return this.#partners;
    const lists = new Map<number, [latent: number, count: number][]>();
    const push = (f: number, g: number, count: number) => {
      const list = lists.get(f);
      if (list) list.push([g, count]);
      else lists.set(f, [[g, count]]);
    };
    this.#table!.each((f, g, count) => {
      push(f, g, count);
      push(g, f, count);
    });
    this.#partners = new Map();
    for (const [f, list] of lists) {
      list.sort(([a], [b]) => a - b);
      this.#partners.set(f, listOf(list.map(([g]) => g), list.map(([, count]) => count))); // prettier-ignore
    }
    return this.#partners;
  }
}

function listOf(latents: readonly number[], counts: readonly number[]): Partners {
  return { latents: Int32Array.from(latents), counts: Uint32Array.from(counts) };
}
