/**
 * WordPiece, BERT's tokenizer, written out because it changes texts: a token must know which characters of
 * the text it was made of. As in Hugging Face's tokenizers (BertNormalizer, BertPreTokenizer, WordPiece):
 *
 *   characters  control characters are left out, accents and capitals too where the settings say so
 *   words       are what stands between white space; punctuation and CJK ideographs are words of their own
 *   tokens      the longest piece of the vocabulary that a word begins with, then the longest that goes
 *               on there (spelt ##…); a word that has no such pieces is one [UNK]
 *
 * What kind a character is, Node's Unicode says; Hugging Face's library asks an older one, by which
 * punctuation and accents that came after Unicode 8 (2015) are letters.
 */
import { UserError } from "../error.ts";
import { isRecord } from "../is-record.ts";
import type { TokenizerJson } from "./token-bytes.ts";
import type { Encoding, Tokenizer } from "./tokenizer.ts";

/** What a tokenizer's settings say of characters. */
interface Normalizer {
  cleanText: boolean;
  isolatesIdeographs: boolean;
  stripsAccents: boolean;
  lowercases: boolean;
}

/** A word as it is looked up, character for character, and where each of them is in the text. */
interface Word {
  characters: string[];
  starts: number[];
  ends: number[];
}

/** The end of a word among the characters that one of the text becomes. */
const BREAK = "";

export function isWordPiece(json: TokenizerJson): boolean {
  return isRecord(json.model) && json.model["type"] === "WordPiece";
}

/**
 * The tokenizer that `tokenizer.json` describes. `names`: [CLS] and [SEP] under their own names, which
 * stand for the beginning and the end of a text.
 * @throws UserError for settings that would be followed wrongly, or a damaged vocabulary.
 */
export function wordPieceTokenizer(
  json: TokenizerJson,
  path: string,
  facts: { hash: string; names: { cls: string; sep: string } },
): Tokenizer {
  return new WordPieceTokenizer(json, path, facts);
}

class WordPieceTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly bosId: number | null;
  readonly eosId: number | null;
  readonly specialIds: readonly number[];
  readonly hash: string;
  readonly #ids = new Map<string, number>();
  readonly #tokens: string[] = [];
  readonly #added = new Map<string, number>();
  readonly #addedSearch: RegExp | undefined;
  readonly #normalizer: Normalizer;
  readonly #prefix: string;
  readonly #unknown: number;
  readonly #longestWord: number;
  /** Of a piece, in UTF-16 code units. */
  readonly #longestPiece: number;
  /** What each character becomes, by its code point, as far as seen. */
  readonly #becomes = new Map<number, string[]>();

  constructor(
    json: TokenizerJson,
    path: string,
    { hash, names }: { hash: string; names: { cls: string; sep: string } },
  ) {
    const refuse = (what: string) =>
      new UserError(`${path}: ${what}. Of WordPiece, tokenizers of BERT's kind are supported.`);
    this.specialIds = json.added_tokens.filter(({ special }) => special).map(({ id }) => id);
    const model = json.model as Record<string, unknown>;
    if (!isRecord(model["vocab"])) throw refuse('its model has no "vocab"');
    for (const [token, id] of Object.entries(model["vocab"])) {
      if (!Number.isSafeInteger(id) || (id as number) < 0)
        throw refuse(`its token ${JSON.stringify(token)} has the id ${JSON.stringify(id)}`);
      this.#ids.set(token, id as number);
      this.#tokens[id as number] = token;
    }
    for (const { content, id, ...rules } of json.added_tokens as AddedToken[]) {
      for (const rule of ["lstrip", "rstrip", "single_word", "normalized"] as const)
        if (rules[rule]) throw refuse(`its token ${content} has the rule ${rule}`);
      this.#added.set(content, id);
      this.#tokens[id] = content;
    }
    const preTokenizer = isRecord(json.pre_tokenizer) ? json.pre_tokenizer["type"] : undefined;
    if (preTokenizer !== "BertPreTokenizer") {
      const name = typeof preTokenizer === "string" ? preTokenizer : "none";
      throw refuse(`its pre-tokenizer is ${name}, not BertPreTokenizer`);
    }
    this.#normalizer = normalizerOf(json.normalizer, refuse);
    const unknown = model["unk_token"];
    const unknownId = typeof unknown === "string" ? this.#ids.get(unknown) : undefined;
    if (unknownId === undefined) throw refuse("its unk_token is not in its vocabulary");
    this.#unknown = unknownId;
    this.#prefix = (model["continuing_subword_prefix"] as string | undefined) ?? "##";
    this.#longestWord = (model["max_input_chars_per_word"] as number | undefined) ?? 100;
    this.#longestPiece = Math.max(...[...this.#ids.keys()].map((token) => token.length));
    if (this.#added.size > 0) {
      const longestFirst = [...this.#added.keys()].sort((a, b) => b.length - a.length);
      const escaped = longestFirst.map((one) => one.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
      this.#addedSearch = new RegExp(escaped.join("|"), "g");
    }
    const idOf = (token: string) => this.#added.get(token) ?? this.#ids.get(token) ?? null;
    this.bosId = idOf(names.cls);
    this.eosId = idOf(names.sep);
    this.hash = hash;
    this.vocabSize = this.#tokens.length;
  }

  encode(text: string): Encoding {
    const found: Found = { ids: [], starts: [], ends: [] };
    let from = 0;
    for (const match of this.#addedSearch ? text.matchAll(this.#addedSearch) : []) {
      this.#encodeStretch(text, from, match.index, found);
      from = match.index + match[0].length;
      push(found, this.#added.get(match[0])!, match.index, from);
    }
    this.#encodeStretch(text, from, text.length, found);
    return {
      ids: Int32Array.from(found.ids),
      starts: Int32Array.from(found.starts),
      ends: Int32Array.from(found.ends),
    };
  }

  /** Words apart by spaces: what stood between them, accents and capitals are not kept by the tokens. */
  decode(ids: ArrayLike<number>): string {
    let text = "";
    for (const id of Array.from(ids)) {
      const token = this.#tokenOf(id);
      const goesOn = this.#goesOn(id);
      text += goesOn ? token.slice(this.#prefix.length) : `${text === "" ? "" : " "}${token}`;
    }
    return text;
  }

  /** The token's own characters, without ##. */
  tokenBytes(id: number): Uint8Array {
    const token = this.#tokenOf(id);
    return new TextEncoder().encode(this.#goesOn(id) ? token.slice(this.#prefix.length) : token);
  }

  #goesOn(id: number): boolean {
    const token = this.#tokens[id];
    return token.startsWith(this.#prefix) && token.length > this.#prefix.length;
  }

  #tokenOf(id: number): string {
    const token = this.#tokens[id] as string | undefined;
    if (token !== undefined) return token;
    throw new UserError(`there is no token ${id}; ids run from 0 to ${this.vocabSize - 1}.`);
  }

  /** The characters [from, to) of a text, in which no token is spelt out. */
  #encodeStretch(text: string, from: number, to: number, found: Found): void {
    let word: Word = { characters: [], starts: [], ends: [] };
    const end = () => {
      if (word.characters.length === 0) return;
      this.#encodeWord(word, found);
      word = { characters: [], starts: [], ends: [] };
    };
    for (let at = from; at < to;) {
      const code = text.codePointAt(at)!;
      const next = at + (code > 0xffff ? 2 : 1);
      for (const character of this.#characters(code)) {
        if (character === BREAK) end();
        else {
          word.characters.push(character);
          word.starts.push(at);
          word.ends.push(next);
        }
      }
      at = next;
    }
    end();
  }

  #encodeWord({ characters, starts, ends }: Word, found: Found): void {
    const count = characters.length;
    const pieces: { id: number; from: number; to: number }[] = [];
    for (let from = 0; from < count && count <= this.#longestWord;) {
      const prefix = from === 0 ? "" : this.#prefix;
      let to = Math.min(count, from + this.#longestPiece);
      let id: number | undefined;
      for (; to > from; to--) {
        id = this.#ids.get(prefix + characters.slice(from, to).join(""));
        if (id !== undefined) break;
      }
      if (id === undefined) break;
      pieces.push({ id, from, to });
      from = to;
    }
    const isWhole = pieces.at(-1)?.to === count;
    if (!isWhole) return push(found, this.#unknown, starts[0], ends[count - 1]);
    for (const { id, from, to } of pieces) push(found, id, starts[from], ends[to - 1]);
  }

  #characters(code: number): string[] {
    let known = this.#becomes.get(code);
    if (!known) this.#becomes.set(code, (known = charactersOf(code, this.#normalizer)));
    return known;
  }
}

interface AddedToken {
  content: string;
  id: number;
  lstrip?: boolean;
  rstrip?: boolean;
  single_word?: boolean;
  normalized?: boolean;
}

interface Found {
  ids: number[];
  starts: number[];
  ends: number[];
}

function push(found: Found, id: number, start: number, end: number): void {
  found.ids.push(id);
  found.starts.push(start);
  found.ends.push(end);
}

function normalizerOf(json: unknown, refuse: (what: string) => UserError): Normalizer {
  if (!isRecord(json) || json["type"] !== "BertNormalizer")
    throw refuse(
      `its normalizer is ${isRecord(json) ? String(json["type"]) : "none"}, not BertNormalizer`,
    );
  const lowercases = json["lowercase"] !== false;
  return {
    cleanText: json["clean_text"] !== false,
    isolatesIdeographs: json["handle_chinese_chars"] !== false,
    // Accents go with the capitals unless it is said otherwise.
    stripsAccents: (json["strip_accents"] as boolean | null | undefined) ?? lowercases,
    lowercases,
  };
}

/** What a character of the text becomes: characters to be looked up, and ends of words. */
function charactersOf(code: number, normalizer: Normalizer): string[] {
  const character = String.fromCodePoint(code);
  if (normalizer.cleanText) {
    const isKept = "\t\n\r".includes(character);
    if (code === 0 || code === 0xfffd || (!isKept && CONTROL.test(character))) return [];
  }
  let own = character;
  if (normalizer.stripsAccents) own = own.normalize("NFD").replace(/\p{Mn}/gu, "");
  if (normalizer.lowercases) own = own.toLowerCase();
  const parts = Array.from(own).flatMap((one) =>
    SPACE.test(one) ? [BREAK] : PUNCTUATION.test(one) ? [BREAK, one, BREAK] : [one],
  );
  const isApart = normalizer.isolatesIdeographs && isIdeograph(code);
  return isApart ? [BREAK, ...parts, BREAK] : parts;
}

const CONTROL = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}]/u;
const SPACE = /\p{White_Space}/u;
/** All that prints in ASCII and is no letter or digit, and what Unicode calls punctuation. */
const PUNCTUATION = /[!-/:-@[-`{-~]|\p{P}/u;

/** The blocks that BERT's tokenizer takes for CJK ideographs. */
const IDEOGRAPHS = [
  [0x4e00, 0x9fff],
  [0x3400, 0x4dbf],
  [0x20000, 0x2a6df],
  [0x2a700, 0x2b73f],
  [0x2b740, 0x2b81f],
  [0x2b920, 0x2ceaf],
  [0xf900, 0xfaff],
  [0x2f800, 0x2fa1f],
];

function isIdeograph(code: number): boolean {
  return IDEOGRAPHS.some(([first, last]) => first <= code && code <= last);
}
