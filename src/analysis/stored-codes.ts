/**
 * The stream of `encodeText` from activations that were stored before (`lens collect`) instead of from
 * the model: only the SAE's encoder is run. The text is laid beside the store and compared with it
 * token by token; without the text, documents are put together again from their tokens.
 */
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import { openActivations, type ActivationStore, type StoreTokens } from "../model/activations.ts";
import type { Model } from "../model/model.ts";
import { isInTextOrder } from "../model/store/made.ts";
import type { StoreManifest } from "../model/store/manifest.ts";
import { sourceText, type Document } from "../model/text.ts";
import type { Sae } from "../sae/sae.ts";
import { sideBySide } from "../zipped-source.ts";
import {
  codesByLatent,
  type CodesByLatent,
  type HookPoints,
  type TextChunk,
  type TextDocument,
} from "./codes.ts";

export interface StoredOptions {
  /** Positions to read; reading stops with the chunk that reaches them. Absent: the whole store. */
  tokens?: number;
  /** Positions in a chunk, about: chunks end where rows of tokens do. */
  blockRows?: number;
  /** Asked before a chunk is worked out, by the number of its first position: true leaves the chunk out. */
  skip?: (first: number) => boolean;
}

const BLOCK_ROWS = 4096;

/** Stored activations that an SAE reads, and what is known of them. */
export interface StoredActivations {
  path: string;
  manifest: StoreManifest;
  /** One per head of the SAE. */
  stores: readonly ActivationStore[];
}

/**
 * Opens the store at `path` as `sae` reads it: at one hook point, for a crosscoder at several.
 * @param hookPoints absent: all that the store holds.
 * @throws UserError when there is no store, it was made elsewhere and so has no tokens, it lacks a
 * hook point, or they are not as many or as wide as the SAE's heads.
 */
export async function openStored(
  { spec: { heads } }: Pick<Sae, "spec">,
  path: string,
  hookPoints?: HookPoints,
): Promise<StoredActivations> {
  const asked = typeof hookPoints === "string" ? [hookPoints] : hookPoints;
  const { manifest } = await openActivations(path, asked ? { hookPoint: asked[0] } : {}).catch(
    async (error: unknown) => {
      // Of a store of several hook points all are taken when none is named.
      if (asked || heads.length === 1) throw error;
      const { readManifest } = await import("../model/store/manifest.ts");
      const manifest = await readManifest(path);
      if (!manifest) throw error;
      return { manifest };
    },
  );
  if (!manifest)
    throw new UserError(
      `${path} was made elsewhere and has no tokens beside its activations: collect them with lens collect`,
    );
  if (!isInTextOrder(manifest.made))
    throw new UserError(
      `${path} was shuffled, so its rows are no text any more: use the store that it was made of, or collect again`,
    );
  const names = asked ?? manifest.hookPoints.map(({ name }) => name);
  const stores: ActivationStore[] = [];
  for (const hookPoint of names) stores.push(await openActivations(path, { hookPoint }));
  if (stores.length !== heads.length)
    throw new UserError(
      `the SAE reads ${heads.length} hook point${heads.length > 1 ? "s" : ""}; got ${names.length} of ${path} (${names.join(", ")}): name those that it was trained on`,
    );
  for (const [head, { dIn }] of stores.entries())
    if (dIn !== heads[head])
      throw new UserError(
        `the SAE takes activations of width ${heads[head]}, but ${names[head]} in ${path} has width ${dIn}: use the hook point that the SAE was trained on`,
      );
  return { path, manifest, stores };
}

/** Whether the store's rows are those of its text from the beginning on, so that the text can be laid beside it. */
export const hasWholeText = ({ made }: Pick<StoreManifest, "made">): boolean => made === undefined;

/**
 * Stored activations through the SAE's encoder, with their text: chunks of whole rows of tokens, in
 * order. The next chunk is encoded while the caller works on the one it was given.
 *
 * Memory: 20 bytes per position of the store for its tokens; two blocks of activations.
 *
 * @param documents what the store was collected from, from the first document on; without it, texts
 * are put together from the tokens, have no labelled spans, and the last may end early.
 * @throws UserError when the tokenizer is not the store's, or a token of the text is not the one in
 * the store, saying which.
 */
export async function* encodeStored(
  sae: Sae,
  device: Device,
  { path, manifest, stores }: StoredActivations,
  tokenizer: Model["tokenizer"],
  documents?: AsyncIterable<Document> | Iterable<Document>,
  options: StoredOptions = {},
): AsyncGenerator<{ chunk: TextChunk; codes: CodesByLatent }> {
  if (tokenizer.hash !== manifest.tokenizer.hash)
    throw new UserError(
      `${path} was collected with the tokenizer of ${manifest.model.name} (${manifest.tokenizer.hash}); this one is ${tokenizer.hash}: use that model`,
    );
  if (documents && !hasWholeText(manifest))
    throw new UserError(
      `${path} is a part of other stores or several of them, so no text can be laid beside it: give none, and documents are put together from their tokens`,
    );
  const { dSae, dIn, heads } = sae.spec;
  const { blockRows = BLOCK_ROWS, skip } = options;
  const tokens = await stores[0].tokens();
  const wanted = Math.min(options.tokens ?? Infinity, manifest.rows);
  const text = new StoredText(path, manifest, tokens, tokenizer, documents);
  const capacity = blockRows + manifest.contextLength;
  const encoder = sae.on(device, capacity);
  const blocks = stores.map((store) => store.rowsInOrder(blockRows)[Symbol.asyncIterator]());
  const x = new Float32Array(capacity * dIn);
  const identity = Int32Array.from({ length: capacity }, (_, n) => n);
  let [first, held, firstRow] = [0, 0, 0];
  let pending: Promise<{ chunk: TextChunk; codes: CodesByLatent }> | undefined;
  try {
    while (first < wanted) {
      const read = first + held;
      if (read < manifest.rows) {
        const next = await Promise.all(blocks.map((block) => block.next()));
        const count = (next[0].value as { rows: number }).rows;
        const parts = next.map(({ value }) => (value as { data: Float32Array }).data);
        const room = x.subarray(held * dIn, (held + count) * dIn);
        if (parts.length === 1) room.set(parts[0]);
        else sideBySide(parts, heads, room);
        held += count;
      }
      const length = wholeRows(tokens.positions, first, held, manifest.rows);
      if (length === 0) continue;
      const chunk = await text.chunk(first, length, firstRow);
      const { row } = chunk;
      const result = await pending;
      if (skip?.(first)) pending = undefined;
      else {
        pending = encoder.encode(x, length).then((codes) => ({
          chunk,
          codes: codesByLatent(codes, dSae, identity.subarray(0, length)),
        }));
        // Whoever awaits it hears of a failure; until then it is not unhandled.
        pending.catch(() => undefined);
      }
      firstRow = row[length - 1] + 1;
      // `encode` has taken its copy.
      x.copyWithin(0, length * dIn, held * dIn);
      held -= length;
      first += length;
      if (result) yield result;
    }
    if (pending) yield await pending;
    pending = undefined;
  } finally {
    await pending?.catch(() => undefined);
    for (const block of blocks) await block.return?.();
    encoder.close();
  }
}

/** How many of the `held` positions from `first` on belong to rows of tokens that end among them. */
function wholeRows(positions: Int32Array, first: number, held: number, total: number): number {
  let end = first + held;
  if (end === total) return held;
  // A row begins where the position does not rise.
  while (end > first && positions[end] > positions[end - 1]) end--;
  return end - first;
}

/** The text behind a store, chunk by chunk in order. */
class StoredText {
  readonly #path: string;
  readonly #manifest: StoreManifest;
  readonly #tokens: StoreTokens;
  readonly #tokenizer: Model["tokenizer"];
  readonly #documents: AsyncIterator<Document> | Iterator<Document> | undefined;
  #ordinal = -1;
  /** The document that the last position read belongs to, and how many of its tokens were compared. */
  #open: { document: TextDocument; encoding: ReturnType<Model["tokenizer"]["encode"]> | null; compared: number } | undefined; // prettier-ignore

  constructor(
    path: string,
    manifest: StoreManifest,
    tokens: StoreTokens,
    tokenizer: Model["tokenizer"],
    documents: AsyncIterable<Document> | Iterable<Document> | undefined,
  ) {
    this.#path = path;
    this.#manifest = manifest;
    this.#tokens = tokens;
    this.#tokenizer = tokenizer;
    if (documents)
      this.#documents =
        Symbol.asyncIterator in documents
          ? documents[Symbol.asyncIterator]()
          : documents[Symbol.iterator]();
  }

  async chunk(first: number, length: number, firstRow: number): Promise<TextChunk> {
    const { tokens, positions, documents: ordinals, starts, ends } = this.#tokens;
    const list: TextDocument[] = [];
    const row = new Int32Array(length);
    const document = new Int32Array(length);
    for (let p = 0; p < length; p++) {
      const at = first + p;
      if (p === 0) row[0] = firstRow;
      else row[p] = row[p - 1] + (positions[at] > positions[at - 1] ? 0 : 1);
      if (ordinals[at] !== this.#open?.document.ordinal) await this.#next(at);
      this.#pass(at);
      const { encoding, compared, document: opened } = this.#open!;
      if (list.at(-1) !== opened) list.push(opened);
      document[p] = list.length - 1;
      if (encoding && !this.#same(encoding, compared, at)) throw this.#differs(at);
      this.#open!.compared++;
    }
    const cut = (column: Int32Array) => column.slice(first, first + length);
    return {
      ...{ first, length, row, document, documents: list },
      ...{ tokens: cut(tokens), start: cut(starts), end: cut(ends) },
    };
  }

  /** Goes past tokens of the text that the store's rules left out before its position `at`. */
  #pass(at: number): void {
    const open = this.#open!;
    if (!this.#manifest.tokenRules || !open.encoding) return;
    const { starts } = open.encoding;
    const start = this.#tokens.starts[at];
    const isBefore = () => open.compared < starts.length && starts[open.compared] <= start;
    while (isBefore() && !this.#same(open.encoding, open.compared, at)) open.compared++;
  }

  #same(
    { ids, starts, ends }: { ids: Int32Array; starts: Int32Array; ends: Int32Array },
    i: number,
    at: number,
  ): boolean {
    // prettier-ignore
    const stored = this.#tokens;
    return (
      ids[i] === stored.tokens[at] && starts[i] === stored.starts[at] && ends[i] === stored.ends[at]
    );
  }

  /** Opens the document of position `at`. */
  async #next(at: number): Promise<void> {
    const ordinal = this.#tokens.documents[at];
    if (!this.#documents) {
      let to = at;
      while (to < this.#tokens.tokens.length && this.#tokens.documents[to] === ordinal) to++;
      const text = this.#tokenizer.decode(this.#tokens.tokens.subarray(at, to));
      const document = { ordinal, id: `document ${ordinal}`, text, spans: [] };
      this.#open = { document, encoding: null, compared: 0 };
      return;
    }
    const left = this.#open?.encoding;
    const leavesOut = this.#manifest.tokenRules !== undefined;
    if (left && left.ids.length !== this.#open!.compared && !leavesOut) throw this.#differs(at);
    for (;;) {
      const next = await this.#documents.next();
      if (next.done)
        throw new UserError(
          `the text ends after ${this.#ordinal + 1} documents, but ${this.#path} goes on with document ${ordinal}: ${this.#remedy()}`,
        );
      this.#ordinal++;
      const { id, text, spans = [] } = next.value;
      const encoding = this.#tokenizer.encode(text);
      const document = { ordinal: this.#ordinal, id, text, spans };
      this.#open = { document, encoding, compared: 0 };
      if (this.#ordinal === ordinal) return;
      // Only a document without tokens, or with none that is kept, has no place in the store.
      if (encoding.ids.length > 0 && !leavesOut) throw this.#differs(at);
    }
  }

  #differs(at: number): UserError {
    const { document, encoding, compared } = this.#open!;
    const show = (token: number | undefined) =>
      token === undefined ? "nothing more" : JSON.stringify(this.#tokenizer.decode([token]));
    const stored = this.#tokens;
    const here = stored.documents[at] === document.ordinal;
    return new UserError(
      `the text is not the one behind ${this.#path}: token ${compared} of document ${document.ordinal} (${document.id}) ` +
        `is ${show(encoding?.ids[compared])} in the text, ${here ? show(stored.tokens[at]) : "nothing more"} in the store (its row ${at}): ${this.#remedy()}`,
    );
  }

  #remedy(): string {
    const { source, split, seed } = this.#manifest.data;
    return `give the text that it was collected from (${sourceText(source)}, split ${split}, seed ${seed}), or none`;
  }
}
