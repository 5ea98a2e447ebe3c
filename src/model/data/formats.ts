/** Files of text → documents, by the kind that a file's name ends in. */
import { basename, extname } from "node:path";

import { messageOf, UserError } from "../../error.ts";
import { csvRecords } from "./csv.ts";
import {
  blocksOf,
  linesOf,
  MAX_DOCUMENT_BYTES,
  nameOf,
  STDIN,
  tooLong,
  type Block,
} from "./lines.ts";
import { parquetRecords } from "./parquet.ts";
import { toDocument, DEFAULT_FIELD, type Document, type RecordOptions } from "./records.ts";

type Kind = "txt" | "jsonl" | "json" | "csv" | "tsv" | "parquet";

const KINDS: readonly string[] = ["txt", "jsonl", "json", "csv", "tsv", "parquet"] satisfies Kind[];

/** The kinds of file, for messages. */
export const KINDS_TEXT = ".txt, .jsonl, .json, .csv or .tsv (all also .gz), or .parquet";

/** What a file's name says it holds; undefined when nothing that can be read. */
export function kindOf(name: string): Kind | undefined {
  const packed = extname(name).toLowerCase() === ".gz";
  const kind = extname(packed ? name.slice(0, -3) : name)
    .slice(1)
    .toLowerCase();
  return KINDS.includes(kind) && !(packed && kind === "parquet") ? (kind as Kind) : undefined;
}

/**
 * The documents of a file, those without text too. Standard input is JSON lines when it begins with
 * "{", and text otherwise.
 * @throws UserError naming file and line (or row) for what is wrong.
 */
export async function* readFile(
  file: string,
  options: RecordOptions,
): AsyncGenerator<Document, void, undefined> {
  const kind = kindOf(file);
  if (kind === "parquet") yield* parquet(file, options);
  else if (kind === "csv") yield* csv(file, ",", options);
  else if (kind === "tsv") yield* csv(file, "\t", options);
  else yield* lined(file, kind, options);
}

async function* lined(
  file: string,
  kind: Kind | undefined,
  options: RecordOptions,
): AsyncGenerator<Document, void, undefined> {
  const { start, blocks } = await withStart(blocksOf(file));
  if (kind === "txt" || (file === STDIN && start !== "{")) yield* texts(file, blocks);
  else if (kind === "json" && start === "[") yield* jsonList(file, blocks, options);
  else yield* jsonLines(file, blocks, options);
}

/** The first character that is not white space (empty when there is none), and all of the blocks. */
async function withStart(
  blocks: AsyncGenerator<Block, void, undefined>,
): Promise<{ start: string; blocks: AsyncGenerator<Block, void, undefined> }> {
  const head: Block[] = [];
  let start = "";
  for (let next; start === "" && !(next = await blocks.next()).done; head.push(next.value))
    start = /\S/u.exec(next.value.text)?.[0] ?? "";
  const whole = async function* () {
    try {
      yield* head;
      yield* blocks;
    } finally {
      await blocks.return();
    }
  };
  return { start, blocks: whole() };
}

const SEPARATOR = /^<\|endoftext\|>[ \t]*\r?\n?$/;

async function* texts(file: string, blocks: AsyncIterable<Block>): AsyncGenerator<Document> {
  let number = 0;
  let parts: string[] = [];
  let length = 0;
  const finish = (): Document => {
    const text = parts.join("");
    parts = [];
    length = 0;
    // Numbers go by the documents that hold something.
    return { id: `${idOf(file)}#${/\S/.test(text) ? number++ : number}`, text };
  };
  for await (const { text: line, number: lineNumber } of linesOf(blocks)) {
    if (!SEPARATOR.test(line)) {
      parts.push(line);
      length += line.length;
      if (length > MAX_DOCUMENT_BYTES)
        throw tooLong(`the document of ${nameOf(file)} that goes on in line ${lineNumber}`);
      continue;
    }
    // The line end before a separator is the separator's, not the text's.
    if (parts.length > 0) parts.push(parts.pop()!.replace(/\r?\n$/, ""));
    yield finish();
  }
  if (length > 0) yield finish();
}

async function* jsonLines(
  file: string,
  blocks: AsyncIterable<Block>,
  options: RecordOptions,
): AsyncGenerator<Document> {
  for await (const { text: line, number } of linesOf(blocks)) {
    if (!/\S/.test(line)) continue;
    const where = `${nameOf(file)}, line ${number}`;
    const record = toRecord(parseJson(line, where), where, "each line");
    yield await toDocument(record, { where, id: `${idOf(file)}:${number}` }, options);
  }
}

/** A file that is one JSON list cannot be read piece by piece. */
async function* jsonList(
  file: string,
  blocks: AsyncIterable<Block>,
  options: RecordOptions,
): AsyncGenerator<Document> {
  const parts: string[] = [];
  let length = 0;
  for await (const { text } of blocks) {
    parts.push(text);
    length += text.length;
    if (length > MAX_DOCUMENT_BYTES)
      throw new UserError(
        `${nameOf(file)} is one JSON list of more than ${MAX_DOCUMENT_BYTES / 2 ** 20} MiB, which is read as a whole: ` +
          "save it as JSON lines (.jsonl, one record a line), which may have any size.",
      );
  }
  const items = parseJson(parts.join(""), nameOf(file)) as unknown[];
  for (const [i, item] of items.entries()) {
    const where = `${nameOf(file)}, record ${i + 1}`;
    const record = toRecord(item, where, "each");
    yield await toDocument(record, { where, id: `${idOf(file)}:${i + 1}` }, options);
  }
}

async function* csv(
  file: string,
  delimiter: string,
  options: RecordOptions,
): AsyncGenerator<Document> {
  for await (const { record, line } of csvRecords(file, delimiter)) {
    const where = `${nameOf(file)}, the row that ends in line ${line}`;
    // A cell cannot hold labels.
    const { spans: _, ...cells } = record;
    const place = { where, id: `${idOf(file)}:${line}` };
    yield await toDocument(options.field === "spans" ? record : cells, place, options);
  }
}

async function* parquet(file: string, options: RecordOptions): AsyncGenerator<Document> {
  for await (const { record, row } of parquetRecords(file, options.field ?? DEFAULT_FIELD)) {
    const place = { where: `${nameOf(file)}, row ${row}`, id: `${idOf(file)}:${row}` };
    yield await toDocument(record, place, options);
  }
}

function idOf(file: string): string {
  return file === STDIN ? "stdin" : basename(file);
}

function parseJson(text: string, where: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UserError(`${where}: not JSON (${messageOf(error)}).`);
  }
}

function toRecord(value: unknown, where: string, each: string): Record<string, unknown> {
  if (typeof value === "object" && value !== null && !Array.isArray(value))
    return value as Record<string, unknown>;
  throw new UserError(`${where}: not an object; ${each} should be one, such as {"text": "…"}.`);
}
