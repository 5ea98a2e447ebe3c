/**
 * Text with the latents it excites, chunk by chunk: the stream that every analysis eats. A position
 * is one token of the stream; beginning-of-sequence tokens are not part of it.
 */
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import type { Model } from "../model/model.ts";
import { cutToLongest, packRows, type PackedRow, type PackingRules } from "../model/packing.ts";
import { batchTokens, type BatchTokens } from "../model/token-batches.ts";
import { keptPlaces, TokenFilter, type TokenRules } from "../model/token-filter.ts";
import type { Document, Span } from "../model/text.ts";
import type { BatchCodes } from "../sae/sae-on-device.ts";
import type { Sae } from "../sae/sae.ts";
import { sideBySide } from "../zipped-source.ts";

/** A document as the analysis needs it. */
export interface TextDocument {
  /** Its number in the stream, from 0, in the order of the text. */
  ordinal: number;
  id: string;
  text: string;
  /** Labelled spans, where the corpus has them: UTF-16 offsets, `end` exclusive. */
  spans: readonly Span[];
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
  const rows = keep.length;
  const slots = codes.kind === "dense" ? codes.acts : codes.values;
  const indices = codes.kind === "dense" ? undefined : codes.indices;
  const width = codes.kind === "sparse" ? codes.k : dSae;
  const ends = codes.kind === "ragged" ? codes.ends : undefined;
  const startOf = (row: number) => (ends ? (row === 0 ? 0 : ends[row - 1]) : row * width);
  const endOf = (row: number) => (ends ? ends[row] : (row + 1) * width);
  const offsets = new Int32Array(dSae + 1);
  for (let row = 0; row < rows; row++) {
    if (keep[row] < 0) continue;
    const [start, end] = [startOf(row), endOf(row)];
    for (let i = start; i < end; i++) if (slots[i] > 0) offsets[(indices ? indices[i] : i - start) + 1]++; // prettier-ignore
  }
  for (let f = 0; f < dSae; f++) offsets[f + 1] += offsets[f];
  const positions = new Int32Array(offsets[dSae]);
  const values = new Float32Array(offsets[dSae]);
  const next = offsets.slice(0, dSae);
  for (let row = 0; row < rows; row++) {
    if (keep[row] < 0) continue;
    const [start, end] = [startOf(row), endOf(row)];
    for (let i = start; i < end; i++) {
      if (!(slots[i] > 0)) continue;
      const slot = next[indices ? indices[i] : i - start]++;
      positions[slot] = keep[row];
      values[slot] = slots[i];
    }
  }
  return { offsets, positions, values };
}

/** @throws UserError for a latent that an SAE of `dSae` latents does not have. */
export function requireLatent(latent: number, dSae: number): void {
  if (!Number.isInteger(latent) || latent < 0 || latent >= dSae)
    throw new UserError(`latent must be a whole number from 0 to ${dSae - 1}; got ${latent}`);
}

/** All firings of a latent in chunks that were put one after the other, in the order of the text. */
export function firingsIn(
  chunks: readonly { base: number; codes: CodesByLatent }[],
  latent: number,
): { positions: Int32Array; values: Float32Array } {
  let count = 0;
  for (const { codes } of chunks) count += codes.offsets[latent + 1] - codes.offsets[latent];
  const positions = new Int32Array(count);
  const values = new Float32Array(count);
  let at = 0;
  for (const { base, codes } of chunks)
    for (let i = codes.offsets[latent]; i < codes.offsets[latent + 1]; i++, at++) {
      positions[at] = base + codes.positions[i];
      values[at] = codes.values[i];
    }
  return { positions, values };
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
  const { text } = chunk.documents[chunk.document[from]];
  const cuts: number[] = [];
  const pieceOf: number[] = [];
  let reached = -1;
  for (let p = from; p < to; p++) {
    if (chunk.start[p] >= reached) cuts.push(chunk.start[p]);
    pieceOf.push(cuts.length - 1);
    reached = Math.max(reached, chunk.end[p]);
  }
  return { text: cuts.map((cut, i) => text.slice(cut, cuts[i + 1] ?? reached)), pieceOf };
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

/** Those positions whose document `keep` admits, as a chunk and codes of their own. */
export function selectDocuments(
  chunk: TextChunk,
  codes: CodesByLatent,
  keep: (document: TextDocument) => boolean,
): { chunk: TextChunk; codes: CodesByLatent } {
  const admitted = chunk.documents.map(keep);
  const place = new Int32Array(chunk.length).fill(-1);
  let length = 0;
  for (let p = 0; p < chunk.length; p++) if (admitted[chunk.document[p]]) place[p] = length++;
  const pick = (values: Int32Array) => values.filter((_, p) => place[p] >= 0);
  const dSae = codes.offsets.length - 1;
  const offsets = new Int32Array(dSae + 1);
  const positions = new Int32Array(codes.positions.length);
  const values = new Float32Array(codes.positions.length);
  let kept = 0;
  for (let f = 0; f < dSae; f++) {
    for (let i = codes.offsets[f]; i < codes.offsets[f + 1]; i++) {
      if (place[codes.positions[i]] < 0) continue;
      positions[kept] = place[codes.positions[i]];
      values[kept++] = codes.values[i];
    }
    offsets[f + 1] = kept;
  }
  return {
    chunk: {
      ...chunk,
      length,
      tokens: pick(chunk.tokens),
      row: pick(chunk.row),
      document: pick(chunk.document),
      start: pick(chunk.start),
      end: pick(chunk.end),
    },
    codes: { offsets, positions: positions.slice(0, kept), values: values.slice(0, kept) },
  };
}

/** How documents become rows of tokens; the same rules as the activations that the SAE was trained on. */
export interface TextOptions extends Partial<PackingRules> {
  /** Positions to read; reading stops with the row that reaches them, whatever the batch. */
  tokens: number;
  /** Tokens per row; absent: the model's own limit, at most 256. */
  contextLength?: number;
  /** What is left out beside the tokens that packing adds; absent: nothing. */
  rules?: TokenRules;
  /** Rows per forward pass. */
  batchRows?: number;
  /** Asked before a chunk is worked out, by the number of its first position: true leaves the chunk out. */
  skip?: (first: number) => boolean;
}

/** Rows of one length that go through the model together. */
export interface RowBatch {
  rows: PackedRow[];
  length: number;
  /** [rows · length] */
  tokens: Int32Array;
  /** What a forward pass takes of them. */
  pass: BatchTokens;
  /** Places in the flattened batch that count: text, but for what the rules leave out. */
  kept: Int32Array;
  /** Why the other places do not; see token-filter.ts. */
  reasons: Uint8Array;
  filter: TokenFilter;
  /** The documents that the batch touches, by ordinal. */
  documents: Map<number, TextDocument>;
}

/** Documents → batches of packed rows, with the documents at hand, until `tokens` positions are read or the text ends. */
export async function* rowBatches(
  model: Pick<Model, "tokenizer" | "info">,
  documents: AsyncIterable<Document> | Iterable<Document>,
  options: TextOptions,
): AsyncGenerator<RowBatch> {
  const { tokens: wanted, bos = "document", eos, packing, batchRows = 16 } = options;
  const contextLength = options.contextLength ?? Math.min(model.info.contextLength, 256);
  const filter = new TokenFilter(options.rules, model.tokenizer);
  const open = new Map<number, TextDocument>();
  async function* remembered(): AsyncGenerator<Document> {
    let ordinal = 0;
    for await (const document of documents) {
      const { id, text, spans = [] } = document;
      open.set(ordinal, { ordinal, id, text, spans });
      ordinal++;
      yield document;
    }
  }
  let rows: PackedRow[] = [];
  let read = 0;
  const take = (): RowBatch => {
    const batch = batchOf(cutToLongest(rows), open, filter);
    rows = [];
    const oldest = Math.min(...batch.documents.keys(), Infinity);
    for (const ordinal of open.keys()) if (ordinal < oldest) open.delete(ordinal);
    return batch;
  };
  for await (const row of packRows(remembered(), model.tokenizer, {
    ...{ contextLength, bos, eos, packing },
    partial: true,
  })) {
    // Only the last row of a text is shorter.
    if (rows.length > 0 && rows[0].tokens.length !== row.tokens.length) yield take();
    rows.push(row);
    read += keptPlaces(filter.reasons([row])).length;
    if (rows.length === batchRows || read >= wanted) yield take();
    if (read >= wanted) return;
  }
  if (rows.length > 0) yield take();
}

function batchOf(
  rows: PackedRow[],
  open: ReadonlyMap<number, TextDocument>,
  filter: TokenFilter,
): RowBatch {
  const length = rows[0].tokens.length;
  const pass = batchTokens(rows);
  const { tokens } = pass;
  const documents = new Map<number, TextDocument>();
  for (const row of rows)
    for (const ordinal of row.documents)
      if (ordinal >= 0 && !documents.has(ordinal)) documents.set(ordinal, open.get(ordinal)!);
  const reasons = filter.reasons(rows);
  return { rows, length, tokens, pass, kept: keptPlaces(reasons), reasons, filter, documents };
}

/** The batch with what its activations [rows · length, width] at the hook points leave of it. */
export function withinNorm(
  batch: RowBatch,
  activations: Readonly<Record<string, Float32Array>>,
): RowBatch {
  if (!batch.filter.needsNorms) return batch;
  const reasons = batch.reasons.slice();
  batch.filter.addNorms(reasons, activations);
  return { ...batch, reasons, kept: keptPlaces(reasons) };
}

/** Where an SAE reads: a hook point, of a crosscoder one for each of its heads, in their order. */
export type HookPoints = string | readonly string[];

/**
 * The hook points that the SAE reads.
 * @throws UserError, naming what does not fit, when they are not as many or as wide as the SAE's heads.
 */
export function requireFit(
  { spec }: Pick<Sae, "spec">,
  model: Model,
  hookPoints: HookPoints,
): readonly string[] {
  const names = typeof hookPoints === "string" ? [hookPoints] : hookPoints;
  const { heads } = spec;
  if (names.length !== heads.length)
    throw new UserError(
      `the SAE is ${heads.length > 1 ? `a crosscoder of ${heads.length} hook points` : "of one hook point"}; got ${names.length} (${names.join(", ")}): use those that it was trained on`,
    );
  for (const [head, name] of names.entries()) requireWidth("takes", heads[head], model, name);
  return names;
}

/** @throws UserError, naming both, when the width that the SAE takes or predicts is not that of the hook point. */
export function requireWidth(
  verb: "takes" | "predicts",
  wanted: number,
  model: Model,
  hookPoint: string,
): void {
  const width = model.hookWidth(hookPoint);
  if (width !== wanted)
    throw new UserError(
      `the SAE ${verb} activations of width ${wanted}, but ${hookPoint} of ${model.info.source} has width ${width}: use the model and hook point that the SAE was trained on`,
    );
}

/** Activations as an SAE of these hook points takes them: side by side, [rows, Σ widths]. */
export function joinHeads(
  { heads, dIn }: Pick<Sae["spec"], "heads" | "dIn">,
  parts: readonly Float32Array[],
): Float32Array {
  if (parts.length === 1) return parts[0];
  const rows = parts[0].length / heads[0];
  return sideBySide(parts, heads, new Float32Array(rows * dIn));
}

/** A chunk of text with its latents, and what the SAE read. */
export interface EncodedChunk {
  chunk: TextChunk;
  codes: CodesByLatent;
  /** A copy of the activations of the chunk's positions [length, dIn]. */
  activations: () => Float32Array<ArrayBuffer>;
}

/**
 * Text through the model up to the hook points and through the SAE's encoder.
 * @throws UserError when SAE and hook points do not fit, or the text has no tokens.
 */
export async function* encodeText(
  sae: Sae,
  device: Device,
  model: Model,
  hookPoints: HookPoints,
  documents: AsyncIterable<Document> | Iterable<Document>,
  options: TextOptions,
): AsyncGenerator<EncodedChunk> {
  const capture = requireFit(sae, model, hookPoints);
  const { dIn, dSae } = sae.spec;
  let encoder: ReturnType<Sae["on"]> | undefined;
  let first = 0;
  let firstRow = 0;
  try {
    for await (const read of rowBatches(model, documents, options)) {
      const skipped = options.skip?.(first) === true;
      if (skipped && !read.filter.needsNorms) {
        first += read.kept.length;
        firstRow += read.rows.length;
        continue;
      }
      const { activations } = await model.forward({ ...read.pass, capture });
      const batch = withinNorm(read, activations);
      if (skipped || batch.kept.length === 0) {
        first += batch.kept.length;
        firstRow += batch.rows.length;
        continue;
      }
      const chunk = chunkOf(batch, first, firstRow);
      const x = joinHeads(
        sae.spec,
        capture.map((name) => activations[name]),
      );
      // Only the last batch, or the first when all before it were left out, is smaller.
      encoder ??= sae.on(device, batch.tokens.length);
      const codes = await encoder.encode(x, batch.tokens.length);
      const place = new Int32Array(batch.tokens.length).fill(-1);
      batch.kept.forEach((at, position) => (place[at] = position));
      first += chunk.length;
      firstRow += batch.rows.length;
      const copied = () => {
        const rows = new Float32Array(chunk.length * dIn);
        batch.kept.forEach((at, p) => rows.set(x.subarray(at * dIn, (at + 1) * dIn), p * dIn));
        return rows;
      };
      yield { chunk, codes: codesByLatent(codes, dSae, place), activations: copied };
    }
  } finally {
    encoder?.close();
  }
}

/** A batch's text in reading order. @param first number of its first position. @param firstRow of its first row. */
export function chunkOf(
  { rows, length, kept, documents }: RowBatch,
  first: number,
  firstRow: number,
): TextChunk {
  const list = [...documents.values()];
  const indexOf = new Map(list.map((document, i) => [document.ordinal, i]));
  const column = (value: (row: PackedRow, i: number, r: number) => number) =>
    kept.map((at) => {
      const r = Math.floor(at / length);
      return value(rows[r], at % length, r);
    });
  return {
    first,
    length: kept.length,
    tokens: column((row, i) => row.tokens[i]),
    row: column((_row, _i, r) => firstRow + r),
    document: column((row, i) => indexOf.get(row.documents[i])!),
    documents: list,
    start: column((row, i) => row.starts[i]),
    end: column((row, i) => row.ends[i]),
  };
}

/** A token for a reader: its characters, or where it holds only part of one, its bytes as ⟨e2 80⟩. */
export function tokenText(model: Pick<Model, "tokenizer">): (token: number) => string {
  const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  return (token) => {
    const bytes = model.tokenizer.tokenBytes(token);
    try {
      return strict.decode(bytes);
    } catch {
      return `⟨${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ")}⟩`;
    }
  };
}
