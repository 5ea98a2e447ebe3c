/**
 * Documents → rows of tokens of one length, as language models are trained and SAEs are fed:
 * documents follow each other without padding, or each has rows of its own; every token remembers the
 * characters it covers.
 */
import { UserError } from "../error.ts";
import type { Document } from "./text.ts";
import type { Tokenizer } from "./tokenizer.ts";

/**
 * Where beginning-of-sequence tokens stand:
 * - `document`: before every document, and nowhere else;
 * - `row`: at the start of every row, and between documents within a row (SAELens' rule);
 * - `none`: nowhere.
 */
export type BosRule = "document" | "row" | "none";

/** How documents become rows. What is not text is marked as such and counts nowhere. */
export interface PackingRules {
  bos: BosRule;
  /**
   * The end-of-sequence token behind every document. Where it is the token that `bos` puts before documents
   * (GPT-2's <|endoftext|>) that one stands for both.
   */
  eos?: boolean | undefined;
  /** `separate`: each document in rows of its own, whose rest is padding. Absent: one behind the other. */
  packing?: Packing | undefined;
}
export type Packing = "continuous" | "separate";

/** The rules among settings. What is as it always was is left out, so that hashes are too. */
export function packingRules<B extends BosRule | undefined>({
  bos,
  eos,
  packing,
}: Omit<PackingRules, "bos"> & { bos: B }): { bos: B; eos?: true; packing?: "separate" } {
  return { bos, ...(eos && { eos }), ...(packing === "separate" && { packing }) };
}

/** Among a row's documents: tokens that are no text. */
export const NO_TEXT = { bos: -1, eos: -2, padding: -3 } as const;

/** A place in the stream of tokens, between two rows. */
export interface PackingPosition {
  /** Ordinal of the document the next row begins in (or at whose end it continues). */
  document: number;
  /** How many tokens of that document earlier rows hold; with `document`, its BOS is one of them, and so is its EOS. */
  token: number;
}

export interface PackedRow {
  /** [length] token ids. */
  tokens: Int32Array;
  /** [length] ordinal of each token's document; less than 0 for what is no text (NO_TEXT). */
  documents: Int32Array;
  /** [length] first character of each token in its document's text (UTF-16), 0 for what is no text. */
  starts: Int32Array;
  /** [length] character after each token's last one, 0 for what is no text. */
  ends: Int32Array;
  /** Tokens before the padding; `length` where there is none. */
  used: number;
  /** Where the row after this one begins: give it as `resumeAt` to go on from here. */
  next: PackingPosition;
}

export interface PackingOptions extends PackingRules {
  /** Tokens per row. */
  contextLength: number;
  /** Of documents one behind the other: yield the unfinished last row, shorter, instead of dropping it. Default false. */
  partial?: boolean;
  /**
   * Begin here instead of at the first document. `documents` must then start with the document of
   * that ordinal: `documents(source, { skip: resumeAt.document })`.
   */
  resumeAt?: PackingPosition;
}

/**
 * Packs documents into rows. The same documents give the same rows, however often the packing is
 * interrupted and resumed. Documents without tokens are passed over (they keep their ordinal).
 * Throws UserError if there is not one token, or not one whole row, in all the text.
 */
export async function* packRows(
  documents: AsyncIterable<Document> | Iterable<Document>,
  tokenizer: Tokenizer,
  options: PackingOptions,
): AsyncGenerator<PackedRow, void, undefined> {
  const { contextLength, bos, partial = false, resumeAt } = options;
  const isSeparate = options.packing === "separate";
  const bosId = bos === "none" ? -1 : tokenizer.bosId;
  if (bosId === null) {
    throw new UserError(
      `bos "${bos}" was asked for, but the tokenizer has no beginning-of-sequence token: use "none".`,
    );
  }
  if (options.eos && tokenizer.eosId === null)
    throw new UserError(
      "eos was asked for, but the tokenizer has no end-of-sequence token: leave it out.",
    );
  const eosId = options.eos && tokenizer.eosId !== bosId ? tokenizer.eosId : null;
  const paddingId = tokenizer.eosId ?? tokenizer.bosId ?? 0;
  // In `row` mode a row needs a BOS and at least one token, or the packing would stand still.
  const shortest = bos === "row" ? 2 : 1;
  if (!Number.isSafeInteger(contextLength) || contextLength < shortest) {
    throw new UserError(
      `contextLength must be an integer of at least ${shortest}; got ${contextLength}.`,
    );
  }

  let row = new RowBuilder(contextLength);
  let rows = 0;
  let tokensSeen = 0;
  let ordinal = resumeAt?.document ?? 0;
  let skip = resumeAt?.token ?? 0; // tokens of the first document that are in earlier rows

  for await (const document of documents) {
    const { ids, starts, ends } = tokenizer.encode(document.text);
    tokensSeen += ids.length;
    const hasBos = bos === "document" && ids.length > 0 ? 1 : 0;
    const end = hasBos + ids.length;
    const length = end + (eosId !== null && ids.length > 0 ? 1 : 0);
    for (let at = skip; at < length; at++) {
      // At a row's start or where a document starts within a row: once where both are true.
      if (bos === "row" && (row.length === 0 || at === 0)) row.push(bosId, NO_TEXT.bos, 0, 0);
      if (row.length === contextLength) {
        // The BOS took the last place; the next row begins with its own.
        yield row.finish({ document: ordinal, token: at });
        rows++;
        row = new RowBuilder(contextLength);
        row.push(bosId, NO_TEXT.bos, 0, 0);
      }
      const i = at - hasBos;
      if (i < 0) row.push(bosId, NO_TEXT.bos, 0, 0);
      else if (at === end) row.push(eosId!, NO_TEXT.eos, 0, 0);
      else row.push(ids[i], ordinal, starts[i], ends[i]);
      if (row.length === contextLength) {
        const ended = at + 1 === length;
        yield row.finish(
          ended ? { document: ordinal + 1, token: 0 } : { document: ordinal, token: at + 1 },
        );
        rows++;
        row = new RowBuilder(contextLength);
      }
    }
    skip = 0;
    ordinal++;
    if (!isSeparate || row.length === 0) continue;
    yield row.finish({ document: ordinal, token: 0 }, paddingId);
    rows++;
    row = new RowBuilder(contextLength);
  }

  if (partial && row.length > 0) {
    yield row.finish({ document: ordinal, token: 0 });
    rows++;
  }
  if (rows > 0 || resumeAt) return;
  if (tokensSeen === 0) {
    throw new UserError(
      `the text yields no tokens (${ordinal} documents were read): check that the source is the one ` +
        "meant, and that it is not empty.",
    );
  }
  throw new UserError(
    `the text has ${tokensSeen} tokens in ${ordinal} documents, less than one row of ` +
      `${contextLength}: give more text or a smaller context length.`,
  );
}

/** Rows that go through the model together, as long as the longest of them is without its padding. */
export function cutToLongest(rows: readonly PackedRow[]): PackedRow[] {
  const length = Math.max(...rows.map(({ used }) => used));
  return rows.map((row) => ({
    ...row,
    tokens: row.tokens.subarray(0, length),
    documents: row.documents.subarray(0, length),
    starts: row.starts.subarray(0, length),
    ends: row.ends.subarray(0, length),
  }));
}

class RowBuilder {
  length = 0;
  readonly #tokens: Int32Array;
  readonly #documents: Int32Array;
  readonly #starts: Int32Array;
  readonly #ends: Int32Array;

  constructor(capacity: number) {
    this.#tokens = new Int32Array(capacity);
    this.#documents = new Int32Array(capacity);
    this.#starts = new Int32Array(capacity);
    this.#ends = new Int32Array(capacity);
  }

  push(token: number, document: number, start: number, end: number): void {
    this.#tokens[this.length] = token;
    this.#documents[this.length] = document;
    this.#starts[this.length] = start;
    this.#ends[this.length] = end;
    this.length++;
  }

  /** @param padding the token that fills the row; absent: a row that is not full is shorter. */
  finish(next: PackingPosition, padding?: number): PackedRow {
    const used = this.length;
    if (padding !== undefined)
      while (this.length < this.#tokens.length) this.push(padding, NO_TEXT.padding, 0, 0);
    const cut = (values: Int32Array) =>
      values.length === this.length ? values : values.slice(0, this.length);
    return {
      tokens: cut(this.#tokens),
      documents: cut(this.#documents),
      starts: cut(this.#starts),
      ends: cut(this.#ends),
      used,
      next,
    };
  }
}
