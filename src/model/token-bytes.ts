/**
 * Which bytes of a text a token stands for, read from tokenizer.json. Two kinds of BPE say it exactly:
 *
 *   byte level   every character of a token is a byte (GPT-2, Pythia, OPT, Llama 3, Qwen, SmolLM)
 *   spaces       tokens are spelt with ▁ for a space, <0xNN> is a byte of a character that has no
 *                token; a space may be put before the text (Llama 2, Mistral, Gemma)
 *
 * A text may be composed to NFC first (Pythia, Qwen). Whatever else changes texts is refused.
 */
import { UserError } from "../error.ts";
import { isRecord } from "../is-record.ts";

/** What is read of tokenizer.json. */
export interface TokenizerJson {
  normalizer: unknown;
  pre_tokenizer: unknown;
  model: unknown;
  added_tokens: {
    id: number;
    content: string;
    special?: boolean;
    lstrip?: boolean;
    rstrip?: boolean;
  }[];
}

export interface TokenKind {
  /** The bytes of a token of the vocabulary. @throws UserError for one that is not spelt as the kind is. */
  bytesOf(token: string, id: number): Uint8Array;
  /** The text whose bytes the tokens are. */
  normalised(text: string): string;
  isNfc: boolean;
  /** Whether a long text may be cut between a letter and white space without changing a token. */
  canCut: boolean;
  /** Whether a space is put before the text; after every added token too, and before a space too? */
  prepended: { everywhere: boolean; evenBeforeSpace: boolean } | undefined;
}

const METASPACE = "\u2581";

/** @throws UserError for a tokenizer whose tokens are not the bytes of the text. */
export function kindOf(json: TokenizerJson, path: string): TokenKind {
  const refuse = (what: string) =>
    new UserError(`${path}: ${what}. Supported are byte-level BPE (GPT-2's kind), BPE with byte fallback (Llama 2's kind) and WordPiece (BERT's kind).`); // prettier-ignore
  if (!isRecord(json.model)) throw refuse('it has no "model"');
  const type = json.model["type"] ?? ("merges" in json.model ? "BPE" : "unnamed");
  if (type !== "BPE") throw refuse(`its model is ${nameOf(type)}`);
  const greedy = json.added_tokens.find((token) => token.lstrip || token.rstrip);
  if (greedy) throw refuse(`its token ${greedy.content} swallows the spaces around it`);
  const normalizers = stepsOf(json.normalizer, "normalizers");
  const preTokenizers = stepsOf(json.pre_tokenizer, "pretokenizers");
  return json.model["byte_fallback"] === true
    ? spaces(normalizers, preTokenizers, refuse)
    : byteLevel(normalizers, preTokenizers, refuse, path);
}

type Refuse = (what: string) => UserError;

function byteLevel(
  normalizers: unknown[],
  preTokenizers: unknown[],
  refuse: Refuse,
  path: string,
): TokenKind {
  const other = normalizers.find((step) => typeOf(step) !== "NFC");
  if (other !== undefined) throw refuse(`it normalizes text (${typeOf(other)})`);
  const step = preTokenizers.find((one) => typeOf(one) === "ByteLevel");
  if (!isRecord(step))
    throw refuse(
      `its pre-tokenizer is ${preTokenizers.map(typeOf).join(" + ") || "none"}, without ByteLevel`,
    );
  if (step["add_prefix_space"] === true) throw refuse("it adds a space before the text");
  const isNfc = normalizers.length > 0;
  return {
    ...{ isNfc, canCut: true },
    normalised: (text) => (isNfc ? text.normalize("NFC") : text),
    prepended: undefined,
    bytesOf: (token, id) =>
      Uint8Array.from(token, (character) => {
        const byte = BYTE_OF.get(character);
        if (byte !== undefined) return byte;
        throw new UserError(
          `${path}: token ${id} (${JSON.stringify(token)}) is not in the byte-level alphabet: fetch it again.`,
        );
      }),
  };
}

function spaces(normalizers: unknown[], preTokenizers: unknown[], refuse: Refuse): TokenKind {
  let prepended: TokenKind["prepended"];
  for (const step of normalizers) {
    const type = typeOf(step);
    const { pattern, content, prepend } = step as Record<string, unknown>;
    const isSpace = isRecord(pattern) && pattern["String"] === " " && content === METASPACE;
    if (type === "Prepend" && prepend === METASPACE)
      prepended = { everywhere: true, evenBeforeSpace: true };
    else if (!(type === "Replace" && isSpace)) throw refuse(`it normalizes text (${type})`);
  }
  for (const step of preTokenizers) {
    const type = typeOf(step);
    const { replacement, prepend_scheme: scheme, add_prefix_space: old } = step as Record<string, unknown>; // prettier-ignore
    if (type === "Metaspace" && replacement === METASPACE) {
      const where = scheme ?? (old === false ? "never" : "always");
      if (where !== "never") prepended = { everywhere: where === "always", evenBeforeSpace: false };
    } else if (type !== "Split") throw refuse(`its pre-tokenizer is ${type}`);
  }
  const encoder = new TextEncoder();
  return {
    isNfc: false,
    canCut: false, // a space would be put before each part
    // The sign itself becomes what a space becomes.
    normalised: (text) => text.replaceAll(METASPACE, " "),
    prepended,
    bytesOf: (token) => {
      const byte = /^<0x([0-9A-Fa-f]{2})>$/.exec(token)?.[1];
      if (byte !== undefined) return Uint8Array.of(parseInt(byte, 16));
      return encoder.encode(token.replaceAll(METASPACE, " "));
    },
  };
}

/** The parts of a step that is a sequence of some, or the step alone. */
function stepsOf(step: unknown, parts: string): unknown[] {
  if (step == null) return [];
  return isRecord(step) && Array.isArray(step[parts]) ? (step[parts] as unknown[]) : [step];
}

const nameOf = (type: unknown) => (typeof type === "string" ? type : "unnamed");
const typeOf = (part: unknown) => (isRecord(part) ? nameOf(part["type"]) : "none");

/**
 * The byte that each character of the byte-level alphabet stands for. Bytes that print in Latin-1
 * stand for themselves; the other 68 are numbered from U+0100 on (GPT-2's `bytes_to_unicode`).
 */
const BYTE_OF = new Map<string, number>();
for (let byte = 0, next = 256; byte < 256; byte++) {
  const prints = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  BYTE_OF.set(String.fromCharCode(prints ? byte : next++), byte);
}
