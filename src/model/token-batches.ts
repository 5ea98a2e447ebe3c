/** Text → packed rows of tokens → batches that go through the model together. */
import type { Model } from "./model.ts";
import {
  cutToLongest,
  packRows,
  type PackedRow,
  type PackingPosition,
  type PackingRules,
} from "./packing.ts";
import { documents, type DocumentOptions, type Source } from "./text.ts";

/** Rows of tokens that go through the model together; all have the same length. */
export interface TokenBatch {
  rows: PackedRow[];
  /** Where these rows begin in the text, and where those after them. */
  before: PackingPosition;
  after: PackingPosition;
}

/** How text becomes batches; the same settings give the same batches, wherever reading begins. */
export interface TokenBatchOptions extends PackingRules {
  data: Pick<DocumentOptions, "split" | "seed" | "field" | "shuffle">;
  contextLength: number;
  /** Rows per batch; the last, and the one before a shorter row, may have fewer. */
  batchRows: number;
}

/** The batches of `source` from `resumeAt` on, to the end of the text. */
export async function* tokenBatches(
  { tokenizer }: Pick<Model, "tokenizer">,
  source: Source,
  { data, contextLength, bos, eos, packing, batchRows }: TokenBatchOptions,
  resumeAt?: PackingPosition,
  { onEmpty, signal }: Pick<DocumentOptions, "onEmpty" | "signal"> = {},
): AsyncGenerator<TokenBatch> {
  const { split, seed, field, shuffle } = data;
  const texts = documents(source, {
    ...{ split, seed, field, shuffle, skip: resumeAt?.document, onEmpty, signal },
    renderChat: tokenizer.renderChat,
  });
  let before = resumeAt ?? { document: 0, token: 0 };
  let rows: PackedRow[] = [];
  const take = (): TokenBatch => {
    const batch = { rows: cutToLongest(rows), before, after: rows.at(-1)!.next };
    before = batch.after;
    rows = [];
    return batch;
  };
  const options = { contextLength, bos, eos, packing, resumeAt, partial: true };
  for await (const row of packRows(texts, tokenizer, options)) {
    // The last row of the text may be shorter.
    if (rows.length > 0 && rows[0].tokens.length !== row.tokens.length) yield take();
    rows.push(row);
    if (rows.length === batchRows) yield take();
  }
  if (rows.length > 0) yield take();
}

/** What a forward pass takes of a batch; `lengths` where rows have padding. */
export interface BatchTokens {
  tokens: Int32Array;
  batch: number;
  length: number;
  lengths?: Int32Array;
}

/** Rows of tokens of one length as the model takes them. */
export function batchTokens(rows: readonly Pick<PackedRow, "tokens" | "used">[]): BatchTokens {
  const { length } = rows[0].tokens;
  const tokens = new Int32Array(rows.length * length);
  for (const [r, row] of rows.entries()) tokens.set(row.tokens, r * length);
  const hasPadding = rows.some(({ used }) => used < length);
  const lengths = hasPadding && { lengths: Int32Array.from(rows, ({ used }) => used) };
  return { tokens, batch: rows.length, length, ...lengths };
}
