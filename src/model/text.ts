/**
 * Documents from where text comes from: files, folders, or the built-in corpus. The order is fixed,
 * so a document's ordinal in the stream names it, and the stream can be opened again from there.
 */
import { readdir, stat } from "node:fs/promises";
import { createReadStream } from "node:fs";
import { basename, extname, join } from "node:path";

import { type Span, type Split, stories } from "../corpus/index.ts";
import { messageOf, UserError } from "../error.ts";

export type { Span, Split };

export interface Document {
  /** Names the document within its source. */
  id: string;
  text: string;
  /** Labels, where the source has them: stretches [start, end) of the text that show a concept. */
  spans?: Span[];
}

export interface DocumentOptions {
  /**
   * Which part of the source. The built-in corpus has parts without a common text (default
   * "train"). Of the documents in files, eight of ten consecutive ones are for training, the ninth
   * for validation, the tenth for testing; without a split, all are given.
   */
  split?: Split;
  /** Seed of the built-in corpus (default 0). */
  seed?: number;
  /** Field of JSON lines that holds the text (default "text"). */
  field?: string;
  /** Documents to pass over: the stream begins with the document of this ordinal in its split. */
  skip?: number;
}

/**
 * The documents of a source:
 * - `builtin:stories`: the built-in corpus, without end, with labels;
 * - a `.txt` file: one document, or several separated by lines that hold only `<|endoftext|>`;
 * - a `.jsonl` file: one per line, with optional `id` and `spans`;
 * - a folder of such files, by name.
 *
 * Documents of nothing but white space are left out. Throws UserError, naming file and line, for a
 * missing file, invalid UTF-8, bad JSON, a missing field, labels outside their text, a split that there
 * is not, or files with too few documents for the split.
 */
export async function* documents(
  source: string,
  options: DocumentOptions = {},
): AsyncGenerator<Document, void, undefined> {
  const { split, seed, skip = 0 } = options;
  // A program in JavaScript can ask for any.
  if (split !== undefined && !PLACES.includes(split))
    throw new UserError(`split must be train, validation or test; got ${split}`);
  if (source.startsWith("builtin:")) {
    if (source !== "builtin:stories") {
      throw new UserError(
        `there is no built-in corpus ${source}; the only one is builtin:stories.`,
      );
    }
    for (const { id, text, spans } of stories(split ?? "train", { seed, start: skip })) {
      yield { id, text, spans };
    }
    return;
  }
  let count = 0; // documents read
  let ordinal = 0; // and of these, in the split
  for (const file of await filesOf(source)) {
    for await (const document of extname(file) === ".txt"
      ? texts(file)
      : jsonLines(file, options)) {
      const place = PLACES[count++ % PLACES.length];
      if (split !== undefined && split !== place) continue;
      if (ordinal++ >= skip) yield document;
    }
  }
  if (count > 0 && ordinal === 0) {
    throw new UserError(
      `${source} has too few documents (${count}) for a ${split} part, which is one of every ten. ` +
        "Separate the documents of a .txt file by lines of <|endoftext|>, or give more.",
    );
  }
}

/** The splits of ten consecutive documents in files. */
const PLACES: readonly Split[] = [...Array<Split>(8).fill("train"), "validation", "test"];

async function filesOf(source: string): Promise<string[]> {
  const status = await stat(source).catch(() => undefined);
  if (!status) {
    throw new UserError(
      `${source} does not exist: give a .txt or .jsonl file, a folder of them, or builtin:stories.`,
    );
  }
  const readable = (name: string) => [".txt", ".jsonl"].includes(extname(name));
  if (!status.isDirectory()) {
    if (readable(source)) return [source];
    throw new UserError(
      `${source} is neither .txt nor .jsonl: other kinds of file cannot be read.`,
    );
  }
  const names = (await readdir(source)).filter(readable).sort();
  if (names.length === 0) throw new UserError(`the folder ${source} holds no .txt or .jsonl file.`);
  return names.map((name) => join(source, name));
}

const SEPARATOR = /^<\|endoftext\|>[ \t]*\r?\n?$/;

async function* texts(file: string): AsyncGenerator<Document> {
  let number = 0;
  let parts: string[] = [];
  const finish = (): Document[] => {
    const text = parts.join("");
    parts = [];
    return text.trim() === "" ? [] : [{ id: `${basename(file)}#${number++}`, text }];
  };
  for await (const { text: line } of linesOf(file)) {
    if (!SEPARATOR.test(line)) {
      parts.push(line);
      continue;
    }
    // The line end before a separator is the separator's, not the text's.
    if (parts.length > 0) parts.push(parts.pop()!.replace(/\r?\n$/, ""));
    yield* finish();
  }
  yield* finish();
}

async function* jsonLines(file: string, options: DocumentOptions): AsyncGenerator<Document> {
  const { field = "text" } = options;
  for await (const { text: line, number } of linesOf(file)) {
    if (line.trim() === "") continue;
    const fail = (problem: string) => new UserError(`${file}, line ${number}: ${problem}.`);
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (error) {
      throw fail(`not JSON (${messageOf(error)})`);
    }
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw fail('not an object; each line should be one, such as {"text": "…"}');
    }
    const record = value as Record<string, unknown>;
    const { [field]: text, id, spans } = record;
    if (typeof text !== "string") {
      const fields = Object.keys(record).join(", ") || "none";
      throw fail(
        `the field "${field}" is ${text === undefined ? "missing" : "not a string"}; ` +
          `the line's fields: ${fields}`,
      );
    }
    if (text.trim() === "") continue;
    const named = typeof id === "string" || typeof id === "number";
    const document: Document = { id: named ? String(id) : `${basename(file)}:${number}`, text };
    if (spans !== undefined) document.spans = checkSpans(spans, text, fail);
    yield document;
  }
}

function checkSpans(value: unknown, text: string, fail: (problem: string) => UserError): Span[] {
  if (!Array.isArray(value)) throw fail('"spans" is not a list');
  return value.map((item: unknown) => {
    const { concept, start, end } = (item ?? {}) as Record<string, unknown>;
    const inside =
      Number.isSafeInteger(start) &&
      Number.isSafeInteger(end) &&
      (start as number) >= 0 &&
      (start as number) < (end as number) &&
      (end as number) <= text.length;
    if (typeof concept === "string" && inside) {
      return { concept, start: start as number, end: end as number };
    }
    throw fail(
      `span ${JSON.stringify(item)} is not {concept, start, end} inside a text of ${text.length} ` +
        "characters",
    );
  });
}

/** The lines of a UTF-8 file with their line ends, numbered from 1. A byte order mark is dropped. */
async function* linesOf(file: string): AsyncGenerator<{ text: string; number: number }> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let number = 0;
  let rest = "";
  const decode = (bytes?: Uint8Array) => {
    try {
      return decoder.decode(bytes, { stream: bytes !== undefined });
    } catch {
      throw new UserError(
        `${file} is not valid UTF-8 (after line ${number}): save it as UTF-8 and try again.`,
      );
    }
  };
  for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20 })) {
    const text = decode(chunk as Uint8Array);
    const lastEnd = text.lastIndexOf("\n");
    if (lastEnd === -1) {
      rest += text;
      continue;
    }
    const lines = (rest + text.slice(0, lastEnd + 1)).match(/[^\n]*\n/g)!;
    rest = text.slice(lastEnd + 1);
    for (const line of lines) yield { text: line, number: ++number };
  }
  rest += decode();
  if (rest !== "") yield { text: rest, number: ++number };
}
