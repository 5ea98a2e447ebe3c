/**
 * Held-out text with the codes of all latents, whole in memory, in two halves that share no document:
 * explanations are made on one (train) and measured on the other (test).
 *
 * Memory: 8 bytes per activation and about 80 per position (its labels), at most `MAX_ENTRIES` activations.
 */
import {
  firingsIn,
  piecesOf,
  requireLatent,
  windowAround,
  type CodesByLatent,
  type TextChunk,
} from "./codes.ts";
import { grown } from "./concepts.ts";
import type { Example } from "./features.ts";
import type { TokenLabels } from "./labels.ts";

/** Documents with even numbers are for making explanations, odd ones for measuring them; as labels are chosen. */
export const TRAIN = 0;
export const TEST = 1;
export type Half = typeof TRAIN | typeof TEST;

const MAX_ENTRIES = 2 ** 25;

/** Where one latent fires: places in the text, rising, with its activation there. */
export interface Firings {
  positions: Int32Array;
  values: Float32Array;
}

export class EncodedText {
  readonly dSae: number;
  readonly labels: TokenLabels;
  /** False when text was left out since it did not fit. */
  complete = true;
  /** Per position, of which the first `positions` are filled. */
  tokens = new Int32Array(0);
  /** Number of the position's document in the whole text. */
  document = new Int32Array(0);
  /** labelIds[labelOffsets[p]] … are the labels of position p. */
  labelOffsets = new Int32Array(1);
  labelIds = new Int32Array(0);
  positions = 0;
  documents = 0;
  readonly #chunks: { base: number; chunk: TextChunk; codes: CodesByLatent }[] = [];
  #entries = 0;
  /** The latent that was asked for last, which most often is asked for again. */
  #last: { latent: number; halves: [Firings, Firings] } | undefined;

  constructor(labels: TokenLabels, dSae: number) {
    this.labels = labels;
    this.dSae = dSae;
  }

  /** Adds a chunk; false when it did not fit any more, and nothing further is taken. */
  add(chunk: TextChunk, codes: CodesByLatent): boolean {
    if (!this.complete || this.#entries + codes.values.length > MAX_ENTRIES) {
      this.complete = false;
      return false;
    }
    const base = this.positions;
    const end = base + chunk.length;
    this.tokens = grown(this.tokens, end);
    this.document = grown(this.document, end);
    this.tokens.set(chunk.tokens, base);
    for (let p = 0; p < chunk.length; p++)
      this.document[base + p] = chunk.documents[chunk.document[p]].ordinal;
    const labelled = this.labels.label(chunk);
    const used = this.labelOffsets[base];
    this.labelIds = grown(this.labelIds, used + labelled.ids.length);
    this.labelIds.set(labelled.ids, used);
    this.labelOffsets = grown(this.labelOffsets, end + 1);
    for (let p = 1; p <= chunk.length; p++)
      this.labelOffsets[base + p] = used + labelled.offsets[p];
    for (const { ordinal } of chunk.documents)
      this.documents = Math.max(this.documents, ordinal + 1);
    this.#chunks.push({ base, chunk, codes });
    this.#entries += codes.values.length;
    this.#last = undefined;
    this.positions = end;
    return true;
  }

  half(position: number): Half {
    return (this.document[position] % 2) as Half;
  }

  /** Positions of each half. */
  sizes(): { train: number; test: number } {
    let test = 0;
    for (let p = 0; p < this.positions; p++) test += this.half(p);
    return { train: this.positions - test, test };
  }

  /** A latent's firings in one half, not to be written to. @throws UserError when there is no such latent. */
  firings(latent: number, half: Half): Firings {
    requireLatent(latent, this.dSae);
    if (this.#last?.latent !== latent)
      this.#last = { latent, halves: this.#split(firingsIn(this.#chunks, latent)) };
    return this.#last.halves[half];
  }

  #split({ positions, values }: Firings): [Firings, Firings] {
    let ofTest = 0;
    for (let i = 0; i < positions.length; i++) ofTest += this.half(positions[i]);
    const empty = (count: number): Firings => ({
      positions: new Int32Array(count),
      values: new Float32Array(count),
    });
    const halves: [Firings, Firings] = [empty(positions.length - ofTest), empty(ofTest)];
    const used = [0, 0];
    for (let i = 0; i < positions.length; i++) {
      const half = this.half(positions[i]);
      halves[half].positions[used[half]] = positions[i];
      halves[half].values[used[half]++] = values[i];
    }
    return halves;
  }

  /** Positions [from, to) with at most `before` and `after` tokens beside `position`, in its row and document. */
  window(position: number, before: number, after: number): [number, number] {
    const { base, chunk } = this.#at(position);
    const [from, to] = windowAround(chunk, position - base, Math.max(before, after));
    return [Math.max(base + from, position - before), Math.min(base + to, position + after + 1)];
  }

  /** The text around a position, with the activations that `acts` (zero where absent) gives by position. */
  example(
    position: number,
    [from, to]: readonly [number, number],
    acts: ReadonlyMap<number, number>,
  ): Example {
    const { base, chunk } = this.#at(position);
    const { text, pieceOf } = piecesOf(chunk, from - base, to - base);
    const values = new Array<number>(text.length).fill(0);
    for (let p = from; p < to; p++)
      values[pieceOf[p - from]] = Math.max(values[pieceOf[p - from]], acts.get(p) ?? 0);
    const document = chunk.documents[chunk.document[position - base]];
    return {
      value: acts.get(position) ?? 0,
      document: document.id,
      pieces: text,
      values,
      peak: pieceOf[position - from],
      cutBefore: chunk.start[from - base] > 0,
      cutAfter: chunk.end[to - 1 - base] < document.text.length,
    };
  }

  #at(position: number): { base: number; chunk: TextChunk } {
    let [low, high] = [0, this.#chunks.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#chunks[middle].base <= position) low = middle;
      else high = middle - 1;
    }
    return this.#chunks[low];
  }
}
