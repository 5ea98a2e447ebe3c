/**
 * What a person could call a token: labels that a latent may turn out to stand for. Some come with
 * the corpus (concepts, as spans), the rest are read off the text itself.
 */
import { piecesOf, windowAround, type TextChunk, type TextDocument } from "./codes.ts";

export type LabelKind =
  /** A concept that the corpus marked; every token that overlaps the span carries it. */
  | "concept"
  /** A class of tokens: punctuation, capitals, places in sentence, paragraph and document. */
  | "class"
  /** One vocabulary item, exactly. */
  | "token"
  /** The word that the token belongs to, whatever its case and the space before it. */
  | "word"
  /** The token before is this vocabulary item. */
  | "after"
  /** The token that follows is this vocabulary item. */
  | "before"
  /** This vocabulary item directly after that one. */
  | "pair"
  /** This vocabulary item directly after those two. */
  | "triple";

/** Labels of what a position is, and of what lies right beside it. */
const ADJACENT: ReadonlySet<LabelKind> = new Set<LabelKind>([
  ...(["concept", "class", "token", "word", "after", "before", "pair"] as const),
]);

/** Labels that a model which reads from left to right could know of, save the rest of a word or span. */
export const CAUSAL: ReadonlySet<LabelKind> = new Set<LabelKind>([
  ...(["concept", "class", "token", "word", "after", "pair", "triple"] as const),
]);

export interface Label {
  kind: LabelKind;
  /** In words, complete by itself: `token " dog"`, `after "the"`, `animal.dog`. */
  name: string;
}

/** The labels of a chunk's positions: ids[offsets[p]] … ids[offsets[p+1]-1], each once. */
export interface LabelledPositions {
  offsets: Int32Array;
  ids: Int32Array;
}

/** Gives labels to positions and numbers to labels; the numbers hold for all chunks given to one instance. */
export class TokenLabels {
  readonly labels: Label[] = [];
  readonly #ids = new Map<string, number>();
  readonly #tokenText: (token: number) => string;
  readonly #kinds: ReadonlySet<LabelKind>;
  #marks: { document: TextDocument; marks: DocumentMarks } | undefined;

  /** `tokenText` shows a vocabulary item to a person; labels of other kinds than `kinds` are not given. */
  constructor(tokenText: (token: number) => string, kinds = ADJACENT) {
    this.#tokenText = tokenText;
    this.#kinds = kinds;
  }

  label(chunk: TextChunk): LabelledPositions {
    const offsets = new Int32Array(chunk.length + 1);
    const ids: number[] = [];
    const own = new Set<number>();
    for (let p = 0; p < chunk.length; p++) {
      own.clear();
      this.#labelPosition(chunk, p, own);
      for (const id of own) ids.push(id);
      offsets[p + 1] = ids.length;
    }
    return { offsets, ids: Int32Array.from(ids) };
  }

  #labelPosition(chunk: TextChunk, p: number, own: Set<number>): void {
    const document = chunk.documents[chunk.document[p]];
    const marks = this.#marksOf(document);
    const [from, to] = windowAround(chunk, p, 2);
    const token = chunk.tokens[p];
    own.add(this.#tokenLabel("token", token));
    if (from < p) {
      own.add(this.#tokenLabel("after", chunk.tokens[p - 1]));
      own.add(this.#pairLabel(chunk.tokens[p - 1], token));
    }
    if (from < p - 1 && this.#kinds.has("triple"))
      own.add(this.#tripleLabel(chunk.tokens[p - 2], chunk.tokens[p - 1], token));
    if (to > p + 1 && this.#kinds.has("before"))
      own.add(this.#tokenLabel("before", chunk.tokens[p + 1]));

    const raw = piecesOf(chunk, p, p + 1).text[0];
    const [start, end] = visibleRange(chunk, p);
    for (const name of marks.classes(raw.trim(), raw, start, end)) own.add(this.#id("class", name));
    const word = marks.wordAt(start);
    if (word !== undefined) own.add(this.#id("word", word));
    for (const concept of conceptsAt(marks.spans, start, end))
      own.add(this.#id("concept", concept));
  }

  #tokenLabel(kind: "token" | "after" | "before", token: number): number {
    return this.#lookUp(`${kind} ${token}`, () => ({
      kind,
      name: `${kind} ${quote(this.#tokenText(token))}`,
    }));
  }

  #pairLabel(before: number, token: number): number {
    return this.#lookUp(`pair ${before} ${token}`, () => ({
      kind: "pair",
      name: `${quote(this.#tokenText(token))} after ${quote(this.#tokenText(before))}`,
    }));
  }

  #tripleLabel(first: number, second: number, token: number): number {
    return this.#lookUp(`triple ${first} ${second} ${token}`, () => ({
      kind: "triple",
      name: `${quote(this.#tokenText(token))} after ${quote(this.#tokenText(first) + this.#tokenText(second))}`,
    }));
  }

  #id(kind: LabelKind, name: string): number {
    return this.#lookUp(`${kind} ${name}`, () => ({
      kind,
      name: kind === "word" ? `word ${quote(name)}` : name,
    }));
  }

  #lookUp(key: string, make: () => Label): number {
    let id = this.#ids.get(key);
    if (id === undefined) {
      id = this.labels.push(make()) - 1;
      this.#ids.set(key, id);
    }
    return id;
  }

  /** Documents come one after the other, so that only the newest needs to be remembered. */
  #marksOf(document: TextDocument): DocumentMarks {
    if (this.#marks?.document !== document)
      this.#marks = { document, marks: new DocumentMarks(document) };
    return this.#marks.marks;
  }
}

/** The characters of a token [start, end) without the white space around them; of white space alone, an empty range at its end. */
export function visibleRange(chunk: TextChunk, p: number): [start: number, end: number] {
  const raw = chunk.documents[chunk.document[p]].text.slice(chunk.start[p], chunk.end[p]);
  const start = chunk.start[p] + raw.length - raw.trimStart().length;
  return [start, Math.max(chunk.end[p] - (raw.length - raw.trimEnd().length), start)];
}

/** The concepts whose spans share a character with [start, end), or have an empty range in their midst. */
export function* conceptsAt(
  spans: TextDocument["spans"],
  start: number,
  end: number,
): Generator<string> {
  for (const span of spans) if (span.start < end && start < span.end) yield span.concept;
}

/** Token text as a reader should see it: in quotation marks, with its space, newlines as ⏎. */
function quote(text: string): string {
  return `“${text.replaceAll("\n", "⏎")}”`;
}

/** The word or token that a label is about by itself, without its spaces; undefined for other labels. */
export function wordOf({ kind, name }: Label): string | undefined {
  if (kind !== "word" && kind !== "token") return undefined;
  return /“(.*)”/.exec(name)?.[1].trim();
}

const OPENING = /[“«]/;
const CLOSING = /[”»]/;

/** What the text of a document says about its characters. */
class DocumentMarks {
  readonly spans: TextDocument["spans"];
  readonly #text: string;
  /** Number of the word that a character belongs to, or -1. */
  readonly #wordOf: Int32Array;
  readonly #words: { text: string; start: number; end: number }[] = [];
  readonly #inQuotes: Uint8Array;
  readonly #sentence: Int32Array;
  readonly #sentenceStarts = new Set<number>();
  readonly #paragraphStarts = new Set<number>();

  constructor({ text, spans }: TextDocument) {
    this.spans = spans;
    this.#text = text;
    this.#wordOf = new Int32Array(text.length).fill(-1);
    for (const match of text.matchAll(/[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*/gu)) {
      const start = match.index;
      const end = start + match[0].length;
      this.#wordOf.fill(this.#words.length, start, end);
      this.#words.push({ text: match[0].toLowerCase().replaceAll("’", "'"), start, end });
    }
    this.#inQuotes = quotedCharacters(text);
    this.#sentence = new Int32Array(text.length);
    let sentence = 0;
    let fresh = true;
    for (let i = 0; i < text.length; i++) {
      if (fresh && this.#wordOf[i] >= 0) {
        this.#sentenceStarts.add(i);
        fresh = false;
      }
      this.#sentence[i] = sentence;
      if (/[.!?…]/.test(text[i]) && !/[.!?…"”'’)\]]/.test(text[i + 1] ?? "")) {
        fresh = true;
        sentence++;
      } else if (
        /["”]/.test(text[i]) &&
        /[.!?…]/.test(text[i - 1] ?? "") &&
        /\s/.test(text[i + 1] ?? "")
      ) {
        fresh = true;
        sentence++;
      } else if (text[i] === "\n" && text[i - 1] !== "\n") {
        fresh = true;
      }
    }
    let line = true;
    for (let i = 0; i < text.length; i++) {
      if (text[i] === "\n") line = true;
      else if (line && /\S/.test(text[i])) {
        this.#paragraphStarts.add(i);
        line = false;
      }
    }
  }

  /** The word at a character, in lower case. */
  wordAt(at: number): string | undefined {
    return this.#words[this.#wordOf[at] ?? -1]?.text;
  }

  /** Classes of a token whose visible characters are `core` at [start, end); `raw` is the token with its spaces. */
  *classes(core: string, raw: string, start: number, end: number): Generator<string> {
    if (core === "") {
      yield raw.includes("\n") ? "newline" : "space";
      return;
    }
    const word = this.#words[this.#wordOf[start]];
    if (word) {
      if (/^\p{Lu}/u.test(core) && start === word.start) {
        yield "capitalised word";
        if (!this.#sentenceStarts.has(start) && core !== "I")
          yield "capitalised word inside a sentence";
      }
      if (start > word.start) yield "continues a word";
      if (start === word.start && end < word.end) yield "first piece of a longer word";
      if (end >= word.end && start > word.start) yield "last piece of a longer word";
      if (this.#sentenceStarts.has(start)) yield "first word of a sentence";
    } else if (/\p{N}/u.test(core)) yield "digits";
    else {
      yield "punctuation";
      if (/^[.!?…]+["”'’)]*$/.test(core)) yield "end of a sentence";
      if (/["“”«»]/.test(core))
        yield this.#opens(start + core.search(/["“”«»]/))
          ? "opening quotation mark"
          : "closing quotation mark";
      if (/^[,;:]/.test(core)) yield "comma, semicolon or colon";
    }
    if (this.#inQuotes[start]) yield "inside quotation marks";
    if (this.#sentence[start] === 0) yield "first sentence of a document";
    if (this.#paragraphStarts.has(start))
      yield start < 4 ? "start of a document" : "start of a paragraph";
  }

  #opens(at: number): boolean {
    const mark = this.#text[at];
    if (mark !== '"') return OPENING.test(mark);
    return at + 1 < this.#text.length && this.#inQuotes[at + 1] === 1;
  }
}

/** 1 for every character between quotation marks, the marks themselves excluded; a paragraph's end closes what was left open. */
function quotedCharacters(text: string): Uint8Array {
  const inside = new Uint8Array(text.length);
  let open = false;
  for (let i = 0; i < text.length; i++) {
    const ch = text[i];
    if (ch === "\n") open = false;
    else if (ch === '"') open = !open;
    else if (OPENING.test(ch)) open = true;
    else if (CLOSING.test(ch)) open = false;
    else if (open) inside[i] = 1;
  }
  return inside;
}
