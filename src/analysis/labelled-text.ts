/**
 * Text whose tokens carry concepts, with the latents and activations at each token, held in memory:
 * what latents, dimensions and directions are compared with concepts on.
 */
import {
  firingsIn,
  selectDocuments,
  type CodesByLatent,
  type EncodedChunk,
  type TextChunk,
  type TextDocument,
} from "./codes.ts";
import { grown } from "./concepts.ts";
import type { Firings } from "./encoded-text.ts";
import { conceptsAt, visibleRange } from "./labels.ts";
import { fallingOrder } from "./order.ts";
import { aucOfRanks } from "./label-scores.ts";

/** Positions by falling value of one score; all positions that are left out have the same, lower one. */
export interface Column {
  positions: Int32Array;
  values: Float32Array;
}

/** Scores of one column for every concept. */
export interface ConceptScores {
  auc: Float64Array; // [concepts]
  /** The best F1 of "value ≥ threshold", and the threshold; Infinity where no position above the left-out ones has the concept. */
  f1: Float64Array;
  threshold: Float64Array;
}

/** One set of documents (to choose on, or to test on). */
export class LabelledText {
  /** Shared by all sets of a text; a concept's number is its place. */
  readonly concepts: string[];
  readonly dSae: number;
  /** The document of each position, numbered from 0 without gaps; [positions] and more. */
  documents = new Int32Array(0);
  documentCount = 0;
  positions = 0;
  /** Positions that carry each concept. */
  positives = new Float64Array(0);
  /** Activations by chunk; `base` is the first position. Empty unless they were asked for. */
  readonly activations: { base: number; x: Float32Array<ArrayBuffer> }[] = [];
  readonly #numbers: Map<string, number>;
  readonly #chunks: { base: number; codes: CodesByLatent }[] = [];
  /** Concepts of position p: ids[offsets[p]] … ids[offsets[p + 1] - 1], each once. */
  #offsets = new Int32Array(1);
  #ids = new Int32Array(0);
  #lastOrdinal = -1;

  constructor(dSae: number, sharedWith?: LabelledText) {
    this.dSae = dSae;
    this.concepts = sharedWith?.concepts ?? [];
    this.#numbers = sharedWith ? sharedWith.#numbers : new Map<string, number>();
  }

  add(chunk: TextChunk, codes: CodesByLatent, x?: Float32Array<ArrayBuffer>): void {
    const base = this.positions;
    this.#offsets = grown(this.#offsets, base + chunk.length + 1);
    this.documents = grown(this.documents, base + chunk.length);
    let used = this.#offsets[base];
    for (let p = 0; p < chunk.length; p++) {
      const document = chunk.documents[chunk.document[p]];
      if (document.ordinal !== this.#lastOrdinal) this.documentCount++;
      this.#lastOrdinal = document.ordinal;
      this.documents[base + p] = this.documentCount - 1;
      const own = this.#conceptsOf(chunk, p, document);
      this.#ids = grown(this.#ids, used + own.size);
      for (const id of own) this.#ids[used++] = id;
      this.#offsets[base + p + 1] = used;
    }
    this.positions += chunk.length;
    this.#chunks.push({ base, codes });
    if (x) this.activations.push({ base, x });
  }

  #conceptsOf(chunk: TextChunk, p: number, { spans }: TextDocument): Set<number> {
    const own = new Set<number>();
    if (spans.length === 0) return own;
    for (const concept of conceptsAt(spans, ...visibleRange(chunk, p))) {
      let id = this.#numbers.get(concept);
      if (id === undefined) this.#numbers.set(concept, (id = this.concepts.push(concept) - 1));
      own.add(id);
    }
    return own;
  }

  /** Call once all is added: counts the positions of each concept. */
  finish(): void {
    this.positives = new Float64Array(this.concepts.length);
    for (let i = 0; i < this.#offsets[this.positions]; i++) this.positives[this.#ids[i]]++;
  }

  /**
   * 1 where a position has the concept. `shift` moves all labels circularly by so many positions: the
   * null in which they keep their number, their runs and their company, but not their text.
   */
  labelsOf(concept: number, shift = 0): Uint8Array {
    const labels = new Uint8Array(this.positions);
    for (let p = 0; p < this.positions; p++) {
      const from = (p + shift) % this.positions;
      for (let i = this.#offsets[from]; i < this.#offsets[from + 1]; i++)
        if (this.#ids[i] === concept) labels[p] = 1;
    }
    return labels;
  }

  /** A latent's firings, strongest first. */
  latent(latent: number): Column {
    const { positions, values } = this.firings(latent);
    return columnOf(values, positions);
  }

  /** A latent's firings in the order of the text. */
  firings(latent: number): Firings {
    return firingsIn(this.#chunks, latent);
  }

  /** A column against every concept: one sweep from the strongest down, ties together. */
  scores({ positions, values }: Column, shift = 0): ConceptScores {
    const n = this.positions;
    const size = this.concepts.length;
    const hits = new Int32Array(size);
    const rankSums = new Float64Array(size);
    const f1 = new Float64Array(size);
    const threshold = new Float64Array(size).fill(Infinity);
    for (let begin = 0; begin < positions.length;) {
      let end = begin + 1;
      while (end < values.length && values[end] === values[begin]) end++;
      const rank = n - (begin + end - 1) / 2;
      for (let i = begin; i < end; i++) {
        const from = (positions[i] + shift) % n;
        for (let j = this.#offsets[from]; j < this.#offsets[from + 1]; j++) {
          hits[this.#ids[j]]++;
          rankSums[this.#ids[j]] += rank;
        }
      }
      for (let i = begin; i < end; i++) {
        const from = (positions[i] + shift) % n;
        for (let j = this.#offsets[from]; j < this.#offsets[from + 1]; j++) {
          const c = this.#ids[j];
          const here = (2 * hits[c]) / (this.positives[c] + end);
          if (here > f1[c]) [f1[c], threshold[c]] = [here, values[begin]];
        }
      }
      begin = end;
    }
    // The positions left out are the lowest, tied: ranks 1 … left.
    const left = n - positions.length;
    const auc = rankSums.map((sum, c) => {
      const positives = this.positives[c];
      const ranks = sum + ((positives - hits[c]) * (left + 1)) / 2;
      return aucOfRanks(ranks, positives, n - positives);
    });
    return { auc, f1, threshold };
  }

  /**
   * Mean of each latent over the positions with each concept less that over those without:
   * [concepts, dSae]; by it SAEBench ranks the latents of its k-sparse probes.
   */
  meanDifferences(shift = 0): Float64Array {
    const size = this.concepts.length;
    const n = this.positions;
    const out = new Float64Array(size * this.dSae);
    for (let f = 0; f < this.dSae; f++) {
      let total = 0;
      const { positions, values } = this.firings(f);
      for (let i = 0; i < values.length; i++) {
        total += values[i];
        const from = (positions[i] + shift) % n;
        for (let j = this.#offsets[from]; j < this.#offsets[from + 1]; j++)
          out[this.#ids[j] * this.dSae + f] += values[i];
      }
      for (let c = 0; c < size; c++) {
        const sum = out[c * this.dSae + f];
        const P = this.positives[c];
        out[c * this.dSae + f] = sum / P - (total - sum) / (n - P);
      }
    }
    return out;
  }
}

/** `columnOf` of all positions in a column that is there already. */
export function sortedInto(values: Float32Array, column: Column): void {
  const { positions, values: sorted } = column;
  fallingOrder(values, positions as Int32Array<ArrayBuffer>);
  for (let i = 0; i < sorted.length; i++) sorted[i] = values[positions[i]];
}

/** Values (of all positions, or of `positions`), sorted. */
export function columnOf(values: Float32Array, positions?: Int32Array): Column {
  const order = fallingOrder(values);
  const sorted = new Float32Array(order.length);
  // Loops: `from` with a function takes ten times as long, and this runs for every score.
  for (let i = 0; i < order.length; i++) sorted[i] = values[order[i]];
  if (positions) for (let i = 0; i < order.length; i++) order[i] = positions[order[i]];
  return { positions: order, values: sorted };
}

/** Both halves of a text: documents with even numbers to choose on, those with odd ones to test on. */
export async function labelledHalves(
  stream: AsyncIterable<EncodedChunk>,
  dSae: number,
  withActivations: boolean,
  onProgress?: (positions: number) => void,
): Promise<{ selection: LabelledText; test: LabelledText }> {
  const selection = new LabelledText(dSae);
  const test = new LabelledText(dSae, selection);
  for await (const { chunk, codes, activations } of stream) {
    const x = withActivations ? activations() : undefined;
    for (const [odd, half] of [selection, test].entries()) {
      const mine = (document: TextDocument) => document.ordinal % 2 === odd;
      const part = selectDocuments(chunk, codes, mine);
      half.add(part.chunk, part.codes, x && rowsOf(chunk, x, mine));
    }
    onProgress?.(selection.positions + test.positions);
  }
  selection.finish();
  test.finish();
  return { selection, test };
}

function rowsOf(
  chunk: TextChunk,
  x: Float32Array,
  keep: (document: TextDocument) => boolean,
): Float32Array<ArrayBuffer> {
  const width = x.length / chunk.length;
  const places = Array.from(chunk.document.keys()).filter((p) =>
    keep(chunk.documents[chunk.document[p]]),
  );
  const rows = new Float32Array(places.length * width);
  for (const [i, p] of places.entries())
    rows.set(x.subarray(p * width, (p + 1) * width), i * width);
  return rows;
}
