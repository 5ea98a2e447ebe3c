/**
 * The codes of a whole text in memory, to be looked at by latent and by position as often as a
 * comparison needs. A latent's activations over all positions are a sparse vector; everything said
 * of two latents comes from Σa, Σa², Σb, Σb², Σab, silent positions adding nothing to any of them.
 */
import { Rng } from "../rng.ts";
import type { CodesByLatent, TextChunk } from "./codes.ts";
import { DocumentDraws, intervalOf } from "./document-draws.ts";
import type { Interval } from "./interval.ts";

/** Where the positions of a text belong. */
export interface HeldText {
  positions: number;
  /** Documents; those of `document` are numbered from 0. */
  documents: number;
  document: Int32Array; // [positions]
  token: Int32Array; // [positions]
}

/** The activations of one SAE on a held text. */
export interface Firings {
  dSae: number;
  positions: number;
  /** By latent: f fires at at[offsets[f] … offsets[f+1]-1], rising. */
  offsets: Int32Array; // [dSae + 1]
  at: Int32Array;
  values: Float32Array;
  /** By position: at p the latents rows.latents[rows.offsets[p] … rows.offsets[p+1]-1] fire, rising. */
  rows: { offsets: Int32Array; latents: Int32Array; values: Float32Array };
}

/** Bytes that holding one activation takes. */
export const BYTES_PER_ACTIVATION = 16;

/** Takes chunks and their codes in and gives them back as one text with the firings of each SAE. */
export class FiringsCollector {
  readonly #widths: readonly number[];
  readonly #chunks: { base: number; length: number; codes: readonly CodesByLatent[] }[] = [];
  readonly #document: Int32Array[] = [];
  readonly #token: Int32Array[] = [];
  #positions = 0;
  #documents = 0;
  #last = -1;

  /** @param widths dSae of each SAE. */
  constructor(widths: readonly number[]) {
    this.#widths = widths;
  }

  get positions(): number {
    return this.#positions;
  }

  get documents(): number {
    return this.#documents;
  }

  /** Chunks in reading order, so that a document's positions lie together. */
  add(chunk: TextChunk, codes: readonly CodesByLatent[]): void {
    const numbered = chunk.document.map((place) => {
      const { ordinal } = chunk.documents[place];
      if (ordinal !== this.#last) {
        this.#last = ordinal;
        this.#documents++;
      }
      return this.#documents - 1;
    });
    this.#document.push(numbered);
    this.#token.push(chunk.tokens);
    this.#chunks.push({ base: this.#positions, length: chunk.length, codes });
    this.#positions += chunk.length;
  }

  /** Everything that was taken in. */
  held(): { text: HeldText; firings: Firings[] } {
    return {
      text: {
        positions: this.#positions,
        documents: this.#documents,
        document: joined(this.#document, this.#positions),
        token: joined(this.#token, this.#positions),
      },
      firings: this.#widths.map((dSae, i) => this.#firings(dSae, i)),
    };
  }

  #firings(dSae: number, i: number): Firings {
    const offsets = new Int32Array(dSae + 1);
    for (const { codes } of this.#chunks)
      for (let f = 0; f < dSae; f++)
        offsets[f + 1] += codes[i].offsets[f + 1] - codes[i].offsets[f];
    for (let f = 0; f < dSae; f++) offsets[f + 1] += offsets[f];
    const at = new Int32Array(offsets[dSae]);
    const values = new Float32Array(offsets[dSae]);
    const next = offsets.slice(0, dSae);
    for (const { base, codes } of this.#chunks) {
      const own = codes[i];
      for (let f = 0; f < dSae; f++)
        for (let j = own.offsets[f]; j < own.offsets[f + 1]; j++) {
          const slot = next[f]++;
          at[slot] = base + own.positions[j];
          values[slot] = own.values[j];
        }
    }
    return firingsOf(dSae, this.#positions, { offsets, at, values });
  }
}

/** Firings from their order by latent. */
export function firingsOf(
  dSae: number,
  positions: number,
  byLatent: Pick<Firings, "offsets" | "at" | "values">,
): Firings {
  const { offsets, at, values } = byLatent;
  const rowOffsets = new Int32Array(positions + 1);
  for (const p of at) rowOffsets[p + 1]++;
  for (let p = 0; p < positions; p++) rowOffsets[p + 1] += rowOffsets[p];
  const next = rowOffsets.slice(0, positions);
  const rows = {
    offsets: rowOffsets,
    latents: new Int32Array(at.length),
    values: new Float32Array(at.length),
  };
  for (let f = 0; f < dSae; f++)
    for (let i = offsets[f]; i < offsets[f + 1]; i++) {
      const slot = next[at[i]]++;
      rows.latents[slot] = f;
      rows.values[slot] = values[i];
    }
  return { dSae, positions, offsets, at, values, rows };
}

/** Positions at which each latent fires; [dSae]. */
export function firingCounts({ dSae, offsets }: Firings): Int32Array {
  return Int32Array.from({ length: dSae }, (_, f) => offsets[f + 1] - offsets[f]);
}

/**
 * The same latents with what each does in a document turned round by a distance of its own: how often
 * and how strongly it fires in every document stays, and so do its runs; which latents meet is left to
 * chance. The null of everything that is said of latents together.
 */
export function turnedInDocuments(firings: Firings, text: HeldText, seed: number): Firings {
  const { dSae, positions, offsets } = firings;
  const rng = new Rng(seed, "turned in documents");
  const begins = new Int32Array(text.documents + 1).fill(positions);
  for (let p = positions - 1; p >= 0; p--) begins[text.document[p]] = p;
  const at = new Int32Array(firings.at.length);
  const values = new Float32Array(firings.at.length);
  for (let f = 0; f < dSae; f++) {
    let i = offsets[f];
    while (i < offsets[f + 1]) {
      const document = text.document[firings.at[i]];
      const begin = begins[document];
      const length = begins[document + 1] - begin;
      let end = i;
      while (end < offsets[f + 1] && firings.at[end] < begin + length) end++;
      const by = rng.int(length);
      // The first that wraps round comes first.
      let wrap = i;
      while (wrap < end && firings.at[wrap] - begin + by < length) wrap++;
      for (let k = 0, from = wrap; k < end - i; k++, from++) {
        if (from === end) from = i;
        at[i + k] = begin + ((firings.at[from] - begin + by) % length);
        values[i + k] = firings.values[from];
      }
      i = end;
    }
  }
  return firingsOf(dSae, positions, { offsets: offsets.slice(), at, values });
}

/**
 * Every latent `by` positions further on, from the text's end on at its beginning: the null of what is
 * said of two SAEs, which keeps all but which of their positions belong together.
 */
export function rotated({ dSae, positions, offsets, at, values }: Firings, by: number): Firings {
  const moved = { offsets, at: new Int32Array(at.length), values: new Float32Array(at.length) };
  for (let f = 0; f < dSae; f++) {
    const end = offsets[f + 1];
    let wrap = offsets[f];
    while (wrap < end && at[wrap] + by < positions) wrap++;
    for (let i = offsets[f], from = wrap; i < end; i++, from++) {
      if (from === end) from = offsets[f];
      moved.at[i] = (at[from] + by) % positions;
      moved.values[i] = values[from];
    }
  }
  return firingsOf(dSae, positions, moved);
}

/** What one latent has in common with all latents of another SAE (or its own). */
export class Meetings {
  /** Σ a·b over all positions; [dSae]. */
  readonly products: Float64Array;
  /** Positions where both fire; [dSae]. */
  readonly counts: Int32Array;
  /** The latents with a count above 0, in no particular order. */
  partners: number[] = [];

  constructor(dSae: number) {
    this.products = new Float64Array(dSae);
    this.counts = new Int32Array(dSae);
  }

  /**
   * Looks latent `f` of `a` up in `b`, which must be of the same text. O(firings of f · L0 of b).
   */
  look(a: Firings, f: number, b: Firings): void {
    for (const g of this.partners) {
      this.products[g] = 0;
      this.counts[g] = 0;
    }
    this.partners = [];
    const { offsets, latents, values } = b.rows;
    for (let i = a.offsets[f]; i < a.offsets[f + 1]; i++) {
      const p = a.at[i];
      for (let j = offsets[p]; j < offsets[p + 1]; j++) {
        const g = latents[j];
        if (this.counts[g]++ === 0) this.partners.push(g);
        this.products[g] += a.values[i] * values[j];
      }
    }
  }
}

/** Σa and Σa² of each latent; [dSae] each. */
export interface Moments {
  positions: number;
  sums: Float64Array;
  squares: Float64Array;
}

export function momentsOf({ dSae, positions, offsets, values }: Firings): Moments {
  const sums = new Float64Array(dSae);
  const squares = new Float64Array(dSae);
  for (let f = 0; f < dSae; f++)
    for (let i = offsets[f]; i < offsets[f + 1]; i++) {
      sums[f] += values[i];
      squares[f] += values[i] ** 2;
    }
  return { positions, sums, squares };
}

/**
 * Pearson's r = (n Σab − Σa Σb) / √((n Σa² − (Σa)²)(n Σb² − (Σb)²)) over n positions, silent ones
 * included. NaN when either is constant.
 */
export function pearsonOfSums(
  n: number,
  a: number,
  aa: number,
  b: number,
  bb: number,
  ab: number,
): number {
  const spread = (n * aa - a * a) * (n * bb - b * b);
  return spread > 0 ? (n * ab - a * b) / Math.sqrt(spread) : NaN;
}

/** A sparse vector over positions: one latent's activations, or a weighted sum of several. */
export interface Series {
  at: Int32Array; // rising
  values: Float64Array;
}

/** Σ_i weights[i] · activation of latents[i]. */
export function seriesOf(
  firings: Firings,
  latents: readonly number[],
  weights?: ArrayLike<number>,
): Series {
  if (latents.length === 1 && !weights) {
    const [from, to] = [firings.offsets[latents[0]], firings.offsets[latents[0] + 1]];
    return {
      at: firings.at.slice(from, to),
      values: Float64Array.from(firings.values.subarray(from, to)),
    };
  }
  const sums = new Map<number, number>();
  for (const f of latents)
    for (let i = firings.offsets[f]; i < firings.offsets[f + 1]; i++) {
      const p = firings.at[i];
      sums.set(p, (sums.get(p) ?? 0) + (weights ? weights[f] : 1) * firings.values[i]);
    }
  const at = Int32Array.from(sums.keys()).sort();
  return { at, values: Float64Array.from(at, (p) => sums.get(p)!) };
}

/** n, Σa, Σa², Σb, Σb², Σab of every document in which either is active; the others have n alone. */
export interface DocumentSums {
  documents: Int32Array; // rising
  /** [documents, 5] */
  sums: Float64Array;
}

export function documentSums(a: Series, b: Series, document: Int32Array): DocumentSums {
  const documents: number[] = [];
  const sums: number[] = [];
  let [i, j] = [0, 0];
  while (i < a.at.length || j < b.at.length) {
    const p = Math.min(a.at[i] ?? Infinity, b.at[j] ?? Infinity);
    const x = a.at[i] === p ? a.values[i++] : 0;
    const y = b.at[j] === p ? b.values[j++] : 0;
    if (documents.at(-1) !== document[p]) {
      documents.push(document[p]);
      sums.push(0, 0, 0, 0, 0);
    }
    const base = sums.length - 5;
    sums[base] += x;
    sums[base + 1] += x * x;
    sums[base + 2] += y;
    sums[base + 3] += y * y;
    sums[base + 4] += x * y;
  }
  return { documents: Int32Array.from(documents), sums: Float64Array.from(sums) };
}

/** Pearson's r of what was summed, over `n` positions. */
export function correlationOf({ documents, sums }: DocumentSums, n: number): number {
  let [a, aa, b, bb, ab] = [0, 0, 0, 0, 0];
  for (let k = 0, base = 0; k < documents.length; k++, base += 5) {
    a += sums[base];
    aa += sums[base + 1];
    b += sums[base + 2];
    bb += sums[base + 3];
    ab += sums[base + 4];
  }
  return pearsonOfSums(n, a, aa, b, bb, ab);
}

/** Intervals of correlations by the bootstrap over documents, all from the same draws. */
export class CorrelationDraws {
  readonly #draws: DocumentDraws | undefined;
  readonly #lengths: Float64Array;
  readonly #positions: Float64Array;

  constructor({ documents, document }: HeldText, seed: number) {
    this.#lengths = new Float64Array(documents);
    for (const d of document) this.#lengths[d]++;
    this.#draws = documents > 1 ? new DocumentDraws(documents, seed) : undefined;
    this.#positions = this.#draws?.sums(this.#lengths) ?? new Float64Array();
  }

  /** Of a correlation that is `value` on all documents; no ends with fewer than two. */
  interval({ documents, sums }: DocumentSums, value: number): Interval {
    if (!this.#draws) return { value, low: NaN, high: NaN };
    const column = new Float64Array(this.#lengths.length);
    const drawn = Array.from({ length: 5 }, (_, i) => {
      documents.forEach((d, k) => (column[d] = sums[k * 5 + i]));
      return this.#draws!.sums(column);
    });
    const [a, aa, b, bb, ab] = drawn;
    const draws = this.#positions.map((n, i) => pearsonOfSums(n, a[i], aa[i], b[i], bb[i], ab[i]));
    return intervalOf({ value, draws });
  }
}

function joined(parts: readonly Int32Array[], length: number): Int32Array {
  const out = new Int32Array(length);
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
