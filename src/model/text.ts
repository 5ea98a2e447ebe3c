/**
 * Documents from where text comes from: the built-in corpus, files of several kinds, standard input,
 * the web, and mixtures of them. The order is fixed, so a document's ordinal in the stream names it,
 * and the stream can be opened again from there.
 */
import { stat } from "node:fs/promises";
import { relative } from "node:path";

import { type Span, type Split, stories } from "../corpus/index.ts";
import { UserError } from "../error.ts";
import { Rng } from "../rng.ts";
import { hashBytes, hashFile } from "../file-hash.ts";
import { isDataset, openDataset } from "./data/dataset.ts";
import { filesOf } from "./data/files.ts";
import { readFile } from "./data/formats.ts";
import { nameOf, STDIN } from "./data/lines.ts";
import type { Document, Message, RecordOptions } from "./data/records.ts";

export type { Document, Message, Span, Split };

/** A part of a mixture. */
export interface SourcePart {
  source: string;
  /** How often a document is taken from here, relative to the other parts (default 1). */
  weight?: number;
  /** Its own field; absent: the one of all. */
  field?: string;
}

/** Where documents come from: one place, or a mixture of several. */
export type Source = string | readonly (string | SourcePart)[];

export interface DocumentOptions extends RecordOptions {
  /**
   * Which part of the source. The built-in corpus has parts without a common text (default
   * "train"). Of the documents in files, eight of ten consecutive ones are for training, the ninth
   * for validation, the tenth for testing; without a split, all are given.
   */
  split?: Split;
  /** Seed of the built-in corpus, of mixtures and of shuffling (default 0). */
  seed?: number;
  /** Documents to pass over: the stream begins with the document of this ordinal in its split. */
  skip?: number;
  /**
   * Mixes the order of documents in files: each one given is drawn from so many that are held in
   * memory, and the next one read takes its place. So a document comes at most that much earlier
   * than it stands, and may come any time later. Absent: the order of the files.
   */
  shuffle?: number;
  /** Is told of each document that is left out because it is nothing but white space. */
  onEmpty?: (id: string) => void;
  /** Stops the fetching of files. */
  signal?: AbortSignal;
}

/**
 * The documents of a source:
 * - `builtin:stories`: the built-in corpus, without end, with labels;
 * - a `.txt` file: one document, or several separated by lines that hold only `<|endoftext|>`;
 * - a `.jsonl` file: one per line, with optional `id` and `spans`; `.json`: the same, or one list;
 * - a `.csv` or `.tsv` file: one per row, by the names in the first row;
 * - a `.parquet` file: one per row;
 * - each but the last also as `.gz`;
 * - a folder of such files, and the folders in it, by their paths;
 * - `http://…`, `https://…`: one such file; it is downloaded once;
 * - `owner/name[@revision][:config[/split]]`: that split (default "train") of a data set of the Hugging Face
 *   hub, where there is no such folder; its files are fetched as they are reached;
 * - `-`: standard input, text or JSON lines, once;
 * - a list of these: a mixture. Each document comes from part i with probability w_i / Σ w over the
 *   parts that have not ended, drawn from the seed; a mixture ends when all its parts have.
 *
 * The field of a record may hold a list of messages, which `renderChat` makes into text. Documents
 * of nothing but white space are left out. Throws UserError, naming file and line, for a missing
 * file, invalid UTF-8, what is no such file, a missing field, labels outside their text, a split that
 * there is not, or files with too few documents for the split.
 */
export async function* documents(
  source: Source,
  options: DocumentOptions = {},
): AsyncGenerator<Document, void, undefined> {
  const { split, skip = 0 } = options;
  // A program in JavaScript can ask for any.
  if (split !== undefined && !PLACES.includes(split))
    throw new UserError(`split must be train, validation or test; got ${split}`);
  const [first, ...others] = partsOf(source);
  if (others.length > 0) return yield* skipping(mixture([first, ...others], options), skip);
  yield* documentsOfPart(first, options, 0);
}

/**
 * The documents of files, in the order given, as `documents` gives those of a folder; `name` is what
 * messages call them. A file is asked for when the one before it has been read.
 */
export async function* documentsOfFiles(
  name: string,
  files: Iterable<string> | AsyncIterable<string>,
  options: DocumentOptions = {},
  stream = 0,
): AsyncGenerator<Document, void, undefined> {
  const { shuffle = 1, seed = 0, skip = 0 } = options;
  const inOrder = inSplit(name, files, options);
  if (shuffle <= 1) return yield* skipping(inOrder, skip);
  yield* skipping(shuffled(inOrder, shuffle, new Rng(seed, "documents", stream)), skip);
}

/** @throws UserError when `source` can be read only once: `purpose` needs it again. */
export function requireRereadable(source: Source, purpose: string): void {
  if (isReadOnce(source))
    throw new UserError(
      `${purpose} needs the text again, and standard input (-) can be read only once: save it to a file and give that.`,
    );
}

/** Whether standard input is among the places of the text. */
export function isReadOnce(source: Source): boolean {
  return partsOf(source).some((part) => part.source === STDIN);
}

/** The parts of a source, of one place too. */
export function partsOf(source: Source): (SourcePart & { weight: number })[] {
  const parts = typeof source === "string" ? [source] : source;
  if (parts.length === 0) throw new UserError("a mixture of no sources has no text: name one");
  return parts.map((part) => {
    const { weight = 1, ...rest } = typeof part === "string" ? { source: part } : part;
    if (!(weight > 0 && weight < Infinity))
      throw new UserError(`the weight of ${rest.source} must be above 0; got ${weight}`);
    return { ...rest, weight };
  });
}

/** A source in one line, for people. */
export function sourceText(source: Source): string {
  if (typeof source === "string") return source;
  const parts = partsOf(source).map(({ source, weight, field }) => {
    return `${weight} × ${source}${field === undefined ? "" : ` (${field})`}`;
  });
  return parts.join(" + ");
}

/**
 * Says what text a source holds, wherever its files lie; null for what is told by its name alone
 * (the built-in corpus) or cannot be known (standard input).
 */
export async function hashSource(source: Source): Promise<string | null> {
  const encode = (text: string) => new TextEncoder().encode(text);
  if (typeof source !== "string") {
    const hashes = [];
    for (const { source: of, weight, field } of partsOf(source))
      hashes.push([(await hashSource(of)) ?? of, weight, field]);
    return hashBytes(encode(JSON.stringify(hashes)));
  }
  if (source.startsWith("builtin:") || source === STDIN) return null;
  if (isDataset(source)) return (await openDataset(source)).hash;
  const files = await filesOf(source).catch(() => []); // reading it will say what is wrong
  if (files.length === 0) return null;
  if (!(await stat(source).catch(() => undefined))?.isDirectory()) return hashFile(files[0]);
  const hashes: string[] = [];
  for (const file of files)
    hashes.push(relative(source, file).replaceAll("\\", "/"), await hashFile(file));
  return hashBytes(encode(hashes.join("\n")));
}

/** Names, sizes and times of the files of a source, or the hash of a data set: text that was changed shows in them. Null where there are none. */
export async function stampOfSource(source: Source): Promise<unknown> {
  if (typeof source !== "string")
    return Promise.all(partsOf(source).map((part) => stampOfSource(part.source)));
  if (source.startsWith("builtin:") || source === STDIN) return null;
  if (isDataset(source)) return (await openDataset(source)).hash;
  const files = await filesOf(source).catch(() => undefined);
  if (!files) return null;
  return Promise.all(
    files.map(async (path) => {
      const { size, mtimeMs } = await stat(path);
      return [path, size, mtimeMs];
    }),
  );
}

async function* documentsOfPart(
  { source, field }: SourcePart,
  options: DocumentOptions,
  stream: number,
): AsyncGenerator<Document, void, undefined> {
  const { split, seed, skip = 0 } = options;
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
  const own = { ...options, field: field ?? options.field };
  const files = isDataset(source)
    ? (await openDataset(source)).files(options.signal)
    : await filesOf(source);
  yield* documentsOfFiles(nameOf(source), files, own, stream);
}

async function* mixture(
  parts: ReturnType<typeof partsOf>,
  { skip: _, ...options }: DocumentOptions,
): AsyncGenerator<Document, void, undefined> {
  const rng = new Rng(options.seed ?? 0, "mixture");
  const all = parts.map((part, i) => ({
    ...{ weight: part.weight, documents: documentsOfPart(part, options, i) },
  }));
  const open = [...all];
  try {
    while (open.length > 0) {
      let draw = rng.uniform() * open.reduce((sum, { weight }) => sum + weight, 0);
      let i = 0;
      while (i < open.length - 1 && draw >= open[i].weight) draw -= open[i++].weight;
      const next = await open[i].documents.next();
      if (next.done) open.splice(i, 1);
      else yield next.value;
    }
  } finally {
    for (const { documents } of all) await documents.return();
  }
}

/** The documents of files that are in the split and hold anything. */
async function* inSplit(
  name: string,
  files: Iterable<string> | AsyncIterable<string>,
  options: DocumentOptions,
): AsyncGenerator<Document, void, undefined> {
  const { split, onEmpty } = options;
  let count = 0; // documents read
  let given = 0; // and of these, in the split
  for await (const file of files) {
    for await (const document of readFile(file, options)) {
      if (!/\S/.test(document.text)) {
        onEmpty?.(document.id);
        continue;
      }
      const place = PLACES[count++ % PLACES.length];
      if (split !== undefined && split !== place) continue;
      given++;
      yield document;
    }
  }
  if (count > 0 && given === 0) {
    throw new UserError(
      `${name} has too few documents (${count}) for a ${split} part, which is one of every ten. ` +
        "Separate the documents of a .txt file by lines of <|endoftext|>, or give more.",
    );
  }
}

/** The splits of ten consecutive documents in files. */
const PLACES: readonly Split[] = [...Array<Split>(8).fill("train"), "validation", "test"];

async function* shuffled(
  documents: AsyncIterable<Document>,
  size: number,
  rng: Rng,
): AsyncGenerator<Document, void, undefined> {
  const held: Document[] = [];
  for await (const document of documents) {
    if (held.length < size) {
      held.push(document);
      continue;
    }
    const at = rng.int(size);
    yield held[at];
    held[at] = document;
  }
  yield* rng.shuffle(held);
}

async function* skipping<T>(
  items: AsyncIterable<T>,
  skip: number,
): AsyncGenerator<T, void, undefined> {
  // prettier-ignore
  let ordinal = 0;
  for await (const item of items) if (ordinal++ >= skip) yield item;
}
