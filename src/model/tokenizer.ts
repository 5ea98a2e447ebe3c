/**
 * Text ↔ tokens, with the exact characters of every token. WordPiece is in word-piece.ts; the tokenizing
 * of BPE is @huggingface/tokenizers, which reports no offsets, but a token says which bytes it stands for
 * (token-bytes.ts), so the offsets follow from walking the text's UTF-8.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Tokenizer as UntypedTokenizer } from "@huggingface/tokenizers";

import { messageOf, UserError } from "../error.ts";
import { isRecord } from "../is-record.ts";
import { hashBytes } from "../file-hash.ts";
import { chatRenderer, type RenderChat } from "./chat.ts";
import { isWordPiece, wordPieceTokenizer } from "./word-piece.ts";
import { kindOf, type TokenizerJson, type TokenKind } from "./token-bytes.ts";

/** What is used of the library, whose own declarations do not resolve under Node's module rules. */
interface HuggingFaceTokenizer {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
  get_vocab(): Map<string | undefined, number>;
  get_added_tokens_decoder(): Map<number, unknown>;
  token_to_id(token: string): number | undefined;
}
const HuggingFaceTokenizer = UntypedTokenizer as unknown as new (
  tokenizer: object,
  config: object,
) => HuggingFaceTokenizer;

/** Tokens of a text. Offsets count UTF-16 code units, as JavaScript strings do. */
export interface Encoding {
  ids: Int32Array;
  /**
   * Token i covers the characters [starts[i], ends[i]). A character whose UTF-8 bytes are spread
   * over several tokens is covered by every one of them.
   */
  starts: Int32Array;
  ends: Int32Array;
}

export interface Tokenizer {
  /** One more than the largest token id. */
  readonly vocabSize: number;
  /** The beginning-of-sequence token, of WordPiece [CLS]; null if the model has none. */
  readonly bosId: number | null;
  /** The end-of-sequence token, of WordPiece [SEP]; null if the model has none. */
  readonly eosId: number | null;
  /** Tokens that stand for no text, such as <|endoftext|>. */
  readonly specialIds: readonly number[];
  /** xxh64 of tokenizer.json. */
  readonly hash: string;
  /**
   * The tokens of `text`. No special token is added; one that is spelt out in the text
   * (`<|endoftext|>`) becomes that token, as in Hugging Face's tokenizers.
   */
  encode(text: string): Encoding;
  /**
   * The text of tokens: their bytes, joined, as UTF-8; what is not valid UTF-8 becomes U+FFFD. Of WordPiece,
   * which does not keep texts as they are, words with a space between them.
   */
  decode(ids: ArrayLike<number>): string;
  /** The bytes a token stands for; UserError if there is no such token. */
  tokenBytes(id: number): Uint8Array;
  /** A conversation as text, through the model's chat template; absent where there can be none. */
  readonly renderChat?: RenderChat;
}

/**
 * Loads `tokenizer.json` of a model's folder, and the names of the special tokens from
 * `tokenizer_config.json` if that exists; `ids` are the model's own, used where it names none.
 * Throws UserError if a file is missing or damaged, or the tokenizer does not keep texts as they are.
 */
export async function loadTokenizer(
  folder: string,
  ids: { bosId: number | null; eosId: number | null } = { bosId: null, eosId: null },
): Promise<Tokenizer> {
  const path = join(folder, "tokenizer.json");
  const bytes = await readOptional(path);
  if (!bytes) {
    throw new UserError(`${path} does not exist: the model's folder must hold its tokenizer.json.`);
  }
  const configPath = join(folder, "tokenizer_config.json");
  const configBytes = await readOptional(configPath);
  const config = configBytes ? parse(configBytes, configPath) : {};
  const json = parse(bytes, path) as unknown as TokenizerJson;
  if (!Array.isArray(json.added_tokens)) json.added_tokens = [];
  const nameOf = (field: string) => {
    const value = config[field];
    const name = isRecord(value) ? value["content"] : value;
    return typeof name === "string" ? name : undefined;
  };
  if (isWordPiece(json)) {
    const names = { cls: nameOf("cls_token") ?? "[CLS]", sep: nameOf("sep_token") ?? "[SEP]" };
    return wordPieceTokenizer(json, path, { hash: await hashBytes(bytes), names });
  }
  const kind = kindOf(json, path);

  let inner: HuggingFaceTokenizer;
  try {
    inner = new HuggingFaceTokenizer(json, config);
  } catch (error) {
    throw new UserError(`${path} cannot be used (${messageOf(error)}): fetch it again.`);
  }
  const special = (field: string, fallback: number | null) => {
    const name = nameOf(field);
    return (name !== undefined ? inner.token_to_id(name) : undefined) ?? fallback;
  };
  return new ExactTokenizer(inner, path, kind, {
    bosId: special("bos_token", ids.bosId),
    eosId: special("eos_token", ids.eosId),
    specialIds: json.added_tokens.filter(({ special }) => special).map(({ id }) => id),
    hash: await hashBytes(bytes),
    renderChat: chatRenderer(folder),
  });
}

class ExactTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly bosId: number | null;
  readonly eosId: number | null;
  readonly specialIds: readonly number[];
  readonly hash: string;
  readonly renderChat: RenderChat;
  readonly #inner: HuggingFaceTokenizer;
  readonly #path: string;
  readonly #kind: TokenKind;
  /** Tokens that stand for themselves: they end a stretch of text. */
  readonly #added: ReadonlySet<number>;
  /** Bytes by id; undefined where the ids have a hole. */
  readonly #bytes: (Uint8Array | undefined)[] = [];

  constructor(
    inner: HuggingFaceTokenizer,
    path: string,
    kind: TokenKind,
    facts: Pick<Required<Tokenizer>, "bosId" | "eosId" | "specialIds" | "hash" | "renderChat">,
  ) {
    this.#inner = inner;
    this.#path = path;
    this.#kind = kind;
    this.bosId = facts.bosId;
    this.eosId = facts.eosId;
    this.specialIds = facts.specialIds;
    this.hash = facts.hash;
    this.renderChat = facts.renderChat;
    const added = inner.get_added_tokens_decoder();
    this.#added = new Set(added.keys());
    const encoder = new TextEncoder();
    for (const [token, id] of inner.get_vocab()) {
      if (token === undefined) continue; // a hole in the ids
      // Added tokens are spelt as they are.
      this.#bytes[id] = added.has(id) ? encoder.encode(token) : kind.bytesOf(token, id);
    }
    this.vocabSize = this.#bytes.length;
  }

  encode(text: string): Encoding {
    const ids = this.#idsOf(text);
    const starts = new Int32Array(ids.length);
    const ends = new Int32Array(ids.length);
    const { prepended } = this.#kind;
    const read = this.#kind.normalised(text);
    // The character at `index`, `width` code units wide, has the bytes [from, to).
    let [index, width, from, to] = [0, 0, 0, 0];
    let byte = 0;
    const advance = () => {
      index += width;
      from = to;
      const code = read.codePointAt(index);
      if (code === undefined) throw this.#inexact(text);
      width = code > 0xffff ? 2 : 1;
      // A lone surrogate is encoded as U+FFFD: three bytes, as by this count.
      to = from + (code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4);
    };
    let isFirst = true;
    for (let i = 0; i < ids.length; i++) {
      const bytes = this.#bytes[ids[i]];
      let length = bytes?.length ?? 0;
      if (length === 0) throw this.#inexact(text);
      const isAdded = this.#added.has(ids[i]);
      // The space that was put before the text is no byte of it.
      if (isFirst && !isAdded && prepended && bytes![0] === SPACE)
        if (prepended.evenBeforeSpace || read[index + width] !== " ") length--;
      isFirst = isAdded && prepended?.everywhere === true;
      // One that is nothing but that space covers the character after it, as in Hugging Face's library.
      if (byte >= to) advance();
      starts[i] = index;
      byte += length;
      while (to < byte) advance();
      ends[i] = index + width;
    }
    if (byte !== to || index + width !== read.length) throw this.#inexact(text);
    if (this.#kind.isNfc && read !== text) toOriginal(text, read, starts, ends);
    return { ids, starts, ends };
  }

  #idsOf(text: string): Int32Array {
    if (text === "") return new Int32Array();
    const found: Int32Array[] = [];
    for (const piece of this.#kind.canCut ? piecesOf(text) : [text])
      found.push(Int32Array.from(this.#inner.encode(piece, { add_special_tokens: false }).ids));
    if (found.length === 1) return found[0];
    const ids = new Int32Array(found.reduce((sum, { length }) => sum + length, 0));
    let at = 0;
    for (const piece of found) {
      ids.set(piece, at);
      at += piece.length;
    }
    return ids;
  }

  decode(ids: ArrayLike<number>): string {
    const pieces = Array.from(ids, (id) => this.tokenBytes(id));
    const joined = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
    let offset = 0;
    for (const piece of pieces) {
      joined.set(piece, offset);
      offset += piece.length;
    }
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(joined);
  }

  tokenBytes(id: number): Uint8Array {
    const bytes = this.#bytes[id];
    if (bytes) return bytes;
    throw new UserError(`there is no token ${id}; ids run from 0 to ${this.vocabSize - 1}.`);
  }

  /** Some text did not become tokens byte for byte: offsets would be wrong, so there are none. */
  #inexact(text: string): UserError {
    const start = text.length > 40 ? `${text.slice(0, 40)}…` : text;
    return new UserError(
      `${this.#path} does not keep every byte of ${JSON.stringify(start)}: its vocabulary or rules ` +
        "drop or change some. Only tokenizers that keep the text as it is are supported.",
    );
  }
}

const SPACE = 0x20;
const CLUSTERS = new Intl.Segmenter("und", { granularity: "grapheme" });

/** Characters that go through the tokenizer at once: it takes many times their memory. */
const PIECE = 1 << 18;

/**
 * A long text in pieces that have the same tokens as the whole: they end between a letter or digit
 * and white space, where byte-level pre-tokenizers always cut. A text without such places is one.
 */
function* piecesOf(text: string): Generator<string> {
  let from = 0;
  const seam = /[\p{L}\p{N}](?=\s)/gu;
  while (text.length - from > PIECE) {
    seam.lastIndex = from + PIECE;
    if (!seam.exec(text)) break;
    yield text.slice(from, seam.lastIndex);
    from = seam.lastIndex;
  }
  yield text.slice(from);
}

/**
 * Offsets in the text composed to NFC become those in the text itself, in place. Composition stays within
 * what is seen as one character; where it changed one, its tokens cover all of it.
 */
function toOriginal(text: string, composed: string, starts: Int32Array, ends: Int32Array): void {
  /** By code unit of the composed text: where its character begins and ends in the text. */
  const from = new Int32Array(composed.length + 1).fill(text.length);
  const to = new Int32Array(composed.length + 1);
  let at = 0;
  for (const { segment, index } of CLUSTERS.segment(text)) {
    const own = segment.normalize("NFC");
    const isSame = own === segment;
    for (let i = 0; i < own.length; i++, at++) {
      from[at] = isSame ? index + i : index;
      to[at] = isSame ? index + i + 1 : index + segment.length;
    }
  }
  for (let i = 0; i < starts.length; i++) {
    const [start, end] = [starts[i], ends[i]];
    starts[i] = from[start];
    ends[i] = end > start ? to[end - 1] : from[start];
  }
}

async function readOptional(path: string): Promise<Uint8Array | undefined> {
  try {
    return await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

function parse(bytes: Uint8Array, path: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(new TextDecoder().decode(bytes));
    if (isRecord(value)) return value;
  } catch (error) {
    throw new UserError(`${path} is not JSON (${messageOf(error)}): fetch it again.`);
  }
  throw new UserError(`${path} is not a JSON object: fetch it again.`);
}
