/** Made-up text for tests: words as tokens. */
import type { TextChunk, TextDocument } from "../src/analysis/codes.ts";

/** A chunk of one document whose tokens are the given words, each with the space before it. */
export function chunkOfWords(words: string[]): {
  chunk: TextChunk;
  tokenText: (token: number) => string;
} {
  return chunkOfPieces([words.map((word, i) => (i > 0 ? ` ${word}` : word))]);
}

/** A chunk of several documents, each given by the exact texts of its tokens; one row per document. */
export function chunkOfPieces(
  documents: string[][],
  spans: TextDocument["spans"][] = [],
): { chunk: TextChunk; tokenText: (token: number) => string; vocabulary: string[] } {
  const vocabulary = [...new Set(documents.flat())];
  const row = documents.flatMap((pieces, d) => pieces.map(() => d));
  const start: number[] = [];
  const end: number[] = [];
  for (const pieces of documents) {
    let at = 0;
    for (const piece of pieces) {
      start.push(at);
      end.push((at += piece.length));
    }
  }
  const chunk: TextChunk = {
    first: 0,
    length: row.length,
    tokens: Int32Array.from(documents.flat(), (piece) => vocabulary.indexOf(piece)),
    row: Int32Array.from(row),
    document: Int32Array.from(row),
    documents: documents.map((pieces, d) => ({
      ordinal: d,
      id: `document ${d}`,
      text: pieces.join(""),
      spans: spans[d] ?? [],
    })),
    start: Int32Array.from(start),
    end: Int32Array.from(end),
  };
  return { chunk, tokenText: (token) => vocabulary[token], vocabulary };
}
