/**
 * Held-out text with the latents it excites, chunk by chunk: the stream that every analysis eats.
 * Position means one token of the stream; beginning-of-sequence tokens are not part of it.
 */
import type { BatchCodes } from "../sae/sae.ts";

/** A document as the analysis needs it. */
export interface TextDocument {
  /** Its number in the stream, from 0, in the order of the text. */
  ordinal: number;
  id: string;
  text: string;
  /** Labelled spans, where the corpus has them: UTF-16 offsets, `end` exclusive. */
  spans: readonly { concept: string; start: number; end: number }[];
}

/** A stretch of tokens in reading order. */
export interface TextChunk {
  /** Number of the first position in the whole stream. */
  first: number;
  /** Positions in this chunk. */
  length: number;
  tokens: Int32Array; // [length]
  /** The packed row a position came from; a window never crosses rows, since the model did not. */
  row: Int32Array; // [length], numbered over the whole stream
  /** Place of a position's document in `documents`. */
  document: Int32Array; // [length]
  documents: TextDocument[];
  /** UTF-16 offsets of the token in its document's text; tokens that share a character share a range. */
  start: Int32Array; // [length]
  end: Int32Array; // [length]
}

/** The codes of a chunk, by latent: latent f fires at positions[offsets[f] … offsets[f+1]-1], rising. */
export interface CodesByLatent {
  offsets: Int32Array; // [dSae + 1]
  positions: Int32Array;
  values: Float32Array; // all > 0
}

/**
 * Turns codes [rows, …] round, so that everything about one latent lies together. `keep[n]` is the
 * position that row n becomes, or -1 for a row that is left out; kept positions must rise.
 */
export function codesByLatent(codes: BatchCodes, dSae: number, keep: Int32Array): CodesByLatent {
  const offsets = new Int32Array(dSae + 1);
  eachActive(codes, dSae, keep, (latent) => {
    offsets[latent + 1]++;
  });
  for (let f = 0; f < dSae; f++) offsets[f + 1] += offsets[f];
  const positions = new Int32Array(offsets[dSae]);
  const values = new Float32Array(offsets[dSae]);
  const next = offsets.slice(0, dSae);
  eachActive(codes, dSae, keep, (latent, position, value) => {
    const slot = next[latent]++;
    positions[slot] = position;
    values[slot] = value;
  });
  return { offsets, positions, values };
}

function eachActive(
  codes: BatchCodes,
  dSae: number,
  keep: Int32Array,
  visit: (latent: number, position: number, value: number) => void,
): void {
  const sparse = codes.kind === "sparse";
  const width = sparse ? codes.k : dSae;
  const values = sparse ? codes.values : codes.acts;
  for (let n = 0; n < keep.length; n++) {
    if (keep[n] < 0) continue;
    for (let i = n * width, slot = 0; slot < width; i++, slot++) {
      if (values[i] > 0) visit(sparse ? codes.indices[i] : slot, keep[n], values[i]);
    }
  }
}

/** The tokens from `from` to `to` (exclusive) of one document, as pieces whose concatenation is exactly the document's text there. */
export interface Pieces {
  text: string[];
  /** The piece that holds token from + i. */
  pieceOf: number[];
}

/**
 * Exact characters of a window: cut from the document's text, never decoded from tokens. Tokens that
 * hold parts of one character (byte-level vocabularies split emoji and rare scripts) become one
 * piece; characters between two tokens belong to the piece before them.
 */
export function piecesOf(chunk: TextChunk, from: number, to: number): Pieces {
  const text = chunk.documents[chunk.document[from]].text;
  const cuts: number[] = [];
  const pieceOf: number[] = [];
  let reached = -1;
  for (let p = from; p < to; p++) {
    const start = chunk.start[p];
    const fresh = p === from || (start >= reached && !splitsPair(text, start));
    if (fresh) cuts.push(start);
    pieceOf.push(cuts.length - 1);
    reached = Math.max(reached, chunk.end[p], p === from ? start + 1 : 0);
  }
  if (splitsPair(text, cuts[0])) cuts[0]--;
  const last = splitsPair(text, chunk.end[to - 1]) ? chunk.end[to - 1] + 1 : chunk.end[to - 1];
  return { text: cuts.map((cut, i) => text.slice(cut, cuts[i + 1] ?? last)), pieceOf };
}

/** Whether a cut at `at` would part a surrogate pair. */
function splitsPair(text: string, at: number): boolean {
  return (text.codePointAt(at - 1) ?? 0) > 0xffff && at > 0;
}

/** Positions [from, to) within `radius` of `position` in the same row and document. */
export function windowAround(chunk: TextChunk, position: number, radius: number): [number, number] {
  const same = (p: number) =>
    chunk.row[p] === chunk.row[position] && chunk.document[p] === chunk.document[position];
  let from = position;
  let to = position + 1;
  while (from > 0 && position - from < radius && same(from - 1)) from--;
  while (to < chunk.length && to - position <= radius && same(to)) to++;
  return [from, to];
}
