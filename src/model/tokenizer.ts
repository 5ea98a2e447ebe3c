/**
 * Text ↔ tokens for byte-level BPE (GPT-2 and its kin), with the exact characters of every token.
 * The tokenizing itself is @huggingface/tokenizers; it reports no offsets, but a byte-level token
 * says which bytes it stands for, so the offsets follow from walking the text's UTF-8.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Tokenizer as UntypedTokenizer } from "@huggingface/tokenizers";

import { messageOf, UserError } from "../error.ts";
import { hashBytes } from "../safetensors.ts";
import { chatRenderer, type RenderChat } from "./chat.ts";

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
  /** The beginning-of-sequence token, or null if the model has none. */
  readonly bosId: number | null;
  /** The end-of-sequence token, or null if the model has none. */
  readonly eosId: number | null;
  /** xxh64 of tokenizer.json. */
  readonly hash: string;
  /**
   * The tokens of `text`. No special token is added; one that is spelt out in the text
   * (`<|endoftext|>`) becomes that token, as in Hugging Face's tokenizers.
   */
  encode(text: string): Encoding;
  /** The text of tokens: their bytes, joined, as UTF-8; what is not valid UTF-8 becomes U+FFFD. */
  decode(ids: ArrayLike<number>): string;
  /** The bytes a token stands for; UserError if there is no such token. */
  tokenBytes(id: number): Uint8Array;
  /** A conversation as text, through the model's chat template; absent where there can be none. */
  readonly renderChat?: RenderChat;
}

/**
 * Loads `tokenizer.json` of a model's folder, and the names of the special tokens from
 * `tokenizer_config.json` if that exists; `ids` are the model's own, used where it names none.
 * Throws UserError if a file is missing or damaged, or the tokenizer is not byte-level.
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
  checkByteLevel(json, path);

  let inner: HuggingFaceTokenizer;
  try {
    inner = new HuggingFaceTokenizer(json, config);
  } catch (error) {
    throw new UserError(`${path} cannot be used (${messageOf(error)}): fetch it again.`);
  }
  const special = (field: string, fallback: number | null) => {
    const value = config[field];
    const name = isRecord(value) ? value["content"] : value;
    return (typeof name === "string" ? inner.token_to_id(name) : undefined) ?? fallback;
  };
  return new ByteLevelTokenizer(inner, path, {
    bosId: special("bos_token", ids.bosId),
    eosId: special("eos_token", ids.eosId),
    hash: await hashBytes(bytes),
    renderChat: chatRenderer(folder),
  });
}

class ByteLevelTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly bosId: number | null;
  readonly eosId: number | null;
  readonly hash: string;
  readonly renderChat: RenderChat;
  readonly #inner: HuggingFaceTokenizer;
  readonly #path: string;
  /** Bytes by id; undefined where the ids have a hole. */
  readonly #bytes: (Uint8Array | undefined)[] = [];

  constructor(
    inner: HuggingFaceTokenizer,
    path: string,
    facts: Pick<Required<Tokenizer>, "bosId" | "eosId" | "hash" | "renderChat">,
  ) {
    this.#inner = inner;
    this.#path = path;
    this.bosId = facts.bosId;
    this.eosId = facts.eosId;
    this.hash = facts.hash;
    this.renderChat = facts.renderChat;
    const added = inner.get_added_tokens_decoder();
    const encoder = new TextEncoder();
    for (const [token, id] of inner.get_vocab()) {
      if (token === undefined) continue; // a hole in the ids
      // Added tokens are spelt as they are; those of the vocabulary in the byte-level alphabet.
      this.#bytes[id] = added.has(id) ? encoder.encode(token) : bytesOfToken(token, id, path);
    }
    this.vocabSize = this.#bytes.length;
  }

  encode(text: string): Encoding {
    const ids = this.#idsOf(text);
    const starts = new Int32Array(ids.length);
    const ends = new Int32Array(ids.length);
    // The character at `index`, `width` code units wide, has the bytes [from, to).
    let [index, width, from, to] = [0, 0, 0, 0];
    let byte = 0;
    const advance = () => {
      index += width;
      from = to;
      const code = text.codePointAt(index);
      if (code === undefined) throw this.#inexact(text);
      width = code > 0xffff ? 2 : 1;
      // A lone surrogate is encoded as U+FFFD: three bytes, as by this count.
      to = from + (code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4);
    };
    for (let i = 0; i < ids.length; i++) {
      const length = this.#bytes[ids[i]]?.length ?? 0;
      if (length === 0) throw this.#inexact(text);
      if (byte >= to) advance();
      starts[i] = index;
      byte += length;
      while (to < byte) advance();
      ends[i] = index + width;
    }
    if (byte !== to || index + width !== text.length) throw this.#inexact(text);
    return { ids, starts, ends };
  }

  #idsOf(text: string): Int32Array {
    if (text === "") return new Int32Array();
    const found: Int32Array[] = [];
    for (const piece of piecesOf(text))
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
        "drop or change some. Only byte-level tokenizers that keep the text as it is are supported.",
    );
  }
}

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

/** What is read of tokenizer.json. */
interface TokenizerJson {
  normalizer: unknown;
  pre_tokenizer: unknown;
  model: unknown;
  added_tokens: { content: string; lstrip?: boolean; rstrip?: boolean }[];
}

/** Refuses tokenizers whose tokens are not the bytes of the text. */
function checkByteLevel(json: TokenizerJson, path: string): void {
  const refuse = (what: string) =>
    new UserError(`${path}: ${what}. Only byte-level BPE tokenizers (GPT-2's kind) are supported.`);
  const nameOf = (type: unknown) => (typeof type === "string" ? type : "unnamed");
  const typeOf = (part: unknown) => (isRecord(part) ? nameOf(part["type"]) : "none");
  if (!isRecord(json.model)) throw refuse('it has no "model"');
  if (!Array.isArray(json.added_tokens)) json.added_tokens = [];
  const type = json.model["type"] ?? ("merges" in json.model ? "BPE" : "unnamed");
  if (type !== "BPE" || json.model["byte_fallback"] === true) {
    throw refuse(`its model is ${nameOf(type)}${type === "BPE" ? " with byte fallback" : ""}`);
  }
  if (json.normalizer != null) throw refuse(`it normalizes text (${typeOf(json.normalizer)})`);

  const { pre_tokenizer: first } = json;
  const steps: unknown[] =
    isRecord(first) && Array.isArray(first["pretokenizers"]) ? first["pretokenizers"] : [first];
  const byteLevel = steps.find((step) => typeOf(step) === "ByteLevel");
  if (!isRecord(byteLevel)) {
    throw refuse(`its pre-tokenizer is ${steps.map(typeOf).join(" + ")}, without ByteLevel`);
  }
  if (byteLevel["add_prefix_space"] === true) throw refuse("it adds a space before the text");
  const greedy = json.added_tokens.find((token) => token.lstrip || token.rstrip);
  if (greedy) throw refuse(`its token ${greedy.content} swallows the spaces around it`);
}

/**
 * The byte that each character of the byte-level alphabet stands for. Bytes that print in Latin-1
 * stand for themselves; the other 68 are numbered from U+0100 on (GPT-2's `bytes_to_unicode`).
 */
const BYTE_OF = new Map<string, number>();
for (let byte = 0, next = 256; byte < 256; byte++) {
  const prints = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  BYTE_OF.set(String.fromCharCode(prints ? byte : next++), byte);
}

function bytesOfToken(token: string, id: number, path: string): Uint8Array {
  return Uint8Array.from(token, (character) => {
    const byte = BYTE_OF.get(character);
    if (byte !== undefined) return byte;
    throw new UserError(
      `${path}: token ${id} (${JSON.stringify(token)}) is not in the byte-level alphabet. Only ` +
        "byte-level BPE tokenizers (GPT-2's kind) are supported.",
    );
  });
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

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
