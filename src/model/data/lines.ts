/**
 * Bytes of a file or of standard input → UTF-8 text in whole lines. What is gzipped is unpacked on
 * the way, whatever it is called: its first two bytes say so.
 */
import { createReadStream } from "node:fs";
import { pipeline, Readable } from "node:stream";
import { createGunzip } from "node:zlib";

import { messageOf, UserError } from "../../error.ts";

/** The source that is standard input. */
export const STDIN = "-";

/**
 * A line, a document and a list of JSON may have this many bytes (256 MiB): a JavaScript string
 * holds no more than twice that.
 */
export const MAX_DOCUMENT_BYTES = 2 ** 28;

/** Whole lines with their line ends, the first of which has the number `line` (from 1). */
export interface Block {
  text: string;
  line: number;
}

/** How messages call a file. */
export function nameOf(file: string): string {
  return file === STDIN ? "standard input" : file;
}

export function tooLong(where: string): UserError {
  return new UserError(
    `${where} is longer than ${MAX_DOCUMENT_BYTES / 2 ** 20} MiB, which is the most a document may have: ` +
      "split it into several.",
  );
}

/**
 * The text of a file in blocks of whole lines; a byte order mark is dropped. Memory: a block is as
 * long as a read, or as the longest line.
 * @throws UserError for what cannot be read or is cut short, for invalid UTF-8 and for a line that
 * is too long, naming file and line.
 */
export async function* blocksOf(file: string): AsyncGenerator<Block, void, undefined> {
  const name = nameOf(file);
  let line = 1;
  let waiting: Uint8Array[] = []; // of a line whose end has not come
  let size = 0;
  const take = (end: Uint8Array): Block => {
    const bytes = waiting.length === 0 ? end : Buffer.concat([...waiting, end]);
    waiting = [];
    size = 0;
    const block = { text: decode(bytes, name, line), line };
    for (let at = -1; (at = bytes.indexOf(NEWLINE, at + 1)) !== -1;) line++;
    if (block.line === 1 && block.text.startsWith("\uFEFF")) block.text = block.text.slice(1);
    return block;
  };
  for await (const chunk of bytesOf(file)) {
    const end = chunk.lastIndexOf(NEWLINE) + 1;
    if (end > 0) yield take(chunk.subarray(0, end));
    if (end === chunk.length) continue;
    waiting.push(chunk.subarray(end));
    size += chunk.length - end;
    if (size > MAX_DOCUMENT_BYTES) throw tooLong(`${name}, line ${line},`);
  }
  if (size > 0) yield take(new Uint8Array());
}

/** The lines of blocks with their line ends, numbered from 1. */
export async function* linesOf(
  blocks: AsyncIterable<Block>,
): AsyncGenerator<{ text: string; number: number }, void, undefined> {
  for await (const { text, line } of blocks) {
    let number = line;
    for (let from = 0; from < text.length; number++) {
      const end = text.indexOf("\n", from) + 1 || text.length;
      yield { text: text.slice(from, end), number };
      from = end;
    }
  }
}

const NEWLINE = 10;

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function decode(bytes: Uint8Array, name: string, line: number): string {
  try {
    return strict.decode(bytes);
  } catch {
    throw new UserError(
      `${name} is not valid UTF-8 in line ${line + invalidLine(bytes)}: save it as UTF-8 and try again.`,
    );
  }
}

/** Which line of the bytes, from 0, is the first that is not UTF-8: no character holds a byte of a line end. */
function invalidLine(bytes: Uint8Array): number {
  let from = 0;
  for (let line = 0; ; line++) {
    const end = bytes.indexOf(NEWLINE, from);
    if (end === -1) return line;
    try {
      strict.decode(bytes.subarray(from, end));
    } catch {
      return line;
    }
    from = end + 1;
  }
}

let stdinWasRead = false;

function standardInput(): AsyncIterable<Uint8Array> {
  if (stdinWasRead)
    throw new UserError(
      "standard input (-) can be read only once, and this needs the text again: save it to a file and give that.",
    );
  stdinWasRead = true;
  return process.stdin;
}

async function* bytesOf(file: string): AsyncGenerator<Uint8Array, void, undefined> {
  const raw =
    file === STDIN ? standardInput() : createReadStream(file, { highWaterMark: CHUNK_BYTES });
  try {
    const { head, whole } = await withHead(raw);
    if (head[0] !== 0x1f || head[1] !== 0x8b) return yield* whole;
    const gunzip = createGunzip({ chunkSize: CHUNK_BYTES });
    // An error of either reaches the one that is read here.
    pipeline(Readable.from(whole), gunzip, () => undefined);
    yield* gunzip as AsyncIterable<Uint8Array>;
  } catch (error) {
    throw readError(error, nameOf(file));
  }
}

const CHUNK_BYTES = 1 << 20;

/** The first two bytes (fewer when there are no more), and all of the chunks. */
async function withHead(
  chunks: AsyncIterable<Uint8Array>,
): Promise<{ head: Uint8Array; whole: AsyncGenerator<Uint8Array, void, undefined> }> {
  const rest = chunks[Symbol.asyncIterator]();
  let head: Uint8Array = new Uint8Array();
  for (let next; head.length < 2 && !(next = await rest.next()).done;)
    head = head.length === 0 ? next.value : Buffer.concat([head, next.value]);
  const whole = async function* () {
    try {
      if (head.length > 0) yield head;
      for (let next; !(next = await rest.next()).done;) yield next.value;
    } finally {
      await rest.return?.();
    }
  };
  return { head, whole: whole() };
}

function readError(error: unknown, name: string): unknown {
  const { code } = error as NodeJS.ErrnoException;
  if (error instanceof UserError || typeof code !== "string") return error;
  if (code === "Z_BUF_ERROR")
    return new UserError(
      `${name} is cut short: its gzip data ends too early. Copy or download it again.`,
    );
  if (code.startsWith("Z_"))
    return new UserError(
      `${name} is damaged: its gzip data cannot be unpacked (${messageOf(error)}). Copy or download it again.`,
    );
  return new UserError(`${name} cannot be read: ${messageOf(error)}`);
}
