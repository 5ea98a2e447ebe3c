/**
 * Chunks of text with their codes on disk, in the order they came: what a pass over the data leaves
 * behind, so that it is not repeated. The log is read again for the windows of examples, which are
 * known only when everything has been seen; and after a crash, to go on where the log ends.
 *
 * A log is a sequence of records, each: u32 bytes of the payload, u32 of its hash's length, the payload
 * (packed.ts), its xxh64 as text. A record that was cut off, or damaged, ends the log.
 */
import { open, type FileHandle } from "node:fs/promises";

import { hashBytes } from "../file-hash.ts";
import type { CodesByLatent, TextChunk, TextDocument } from "./codes.ts";
import { packArrays, unpackArrays } from "./packed.ts";

export interface CodedChunk {
  chunk: TextChunk;
  codes: CodesByLatent;
}

export class CodeLog {
  readonly #file: FileHandle;
  /** Where each record begins; the last entry is where the next one will. */
  readonly #offsets: number[] = [0];

  private constructor(file: FileHandle) {
    this.#file = file;
  }

  /**
   * Opens the log at `path` and goes on with it, if it was begun for the same `purpose`; otherwise
   * begins it anew.
   */
  static async open(path: string, purpose: string): Promise<CodeLog> {
    const file = await open(path, "a+");
    const log = new CodeLog(file);
    const about = new TextEncoder().encode(purpose);
    const begun = await log.#readRecord(0);
    if (begun && Buffer.compare(begun.payload, about) === 0) {
      log.#offsets.push(begun.next);
      for (;;) {
        const record = await log.#readRecord(log.#offsets.at(-1)!);
        if (!record) break;
        log.#offsets.push(record.next);
      }
      await file.truncate(log.#offsets.at(-1));
    } else {
      await file.truncate(0);
      await log.#append(about);
    }
    return log;
  }

  /** Chunks in the log. */
  get length(): number {
    return this.#offsets.length - 2;
  }

  /** Bytes of the file. */
  get bytes(): number {
    return this.#offsets.at(-1)!;
  }

  async append({ chunk, codes }: CodedChunk): Promise<void> {
    const { first, length, documents, tokens, row, document, start, end } = chunk;
    const { offsets, positions, values } = codes;
    await this.#append(
      packArrays(
        { first, length, documents },
        { tokens, row, document, start, end, offsets, positions, values },
      ),
    );
  }

  /** All chunks, in order. */
  async *chunks(): AsyncGenerator<CodedChunk> {
    for (let i = 1; i < this.#offsets.length - 1; i++) {
      const record = await this.#readRecord(this.#offsets[i]);
      if (!record) throw new Error("the log was changed while it was read");
      const { about, arrays } = unpackArrays(record.payload);
      const { first, length, documents } = about as {
        first: number;
        length: number;
        documents: TextDocument[];
      };
      const ints = (name: string) => arrays[name] as Int32Array;
      yield {
        chunk: {
          ...{ first, length, documents },
          ...{ tokens: ints("tokens"), row: ints("row"), document: ints("document") },
          ...{ start: ints("start"), end: ints("end") },
        },
        codes: {
          offsets: ints("offsets"),
          positions: ints("positions"),
          values: arrays.values as Float32Array,
        },
      };
    }
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  async #append(payload: Uint8Array): Promise<void> {
    const hash = new TextEncoder().encode(await hashBytes(payload));
    const record = new Uint8Array(8 + payload.length + hash.length);
    const view = new DataView(record.buffer);
    view.setUint32(0, payload.length, true);
    view.setUint32(4, hash.length, true);
    record.set(payload, 8);
    record.set(hash, 8 + payload.length);
    await this.#file.appendFile(record);
    this.#offsets.push(this.#offsets.at(-1)! + record.length);
  }

  async #readRecord(at: number): Promise<{ payload: Uint8Array; next: number } | undefined> {
    const head = await this.#read(at, 8);
    if (!head) return undefined;
    const view = new DataView(head.buffer);
    const [length, hashLength] = [view.getUint32(0, true), view.getUint32(4, true)];
    const { size } = await this.#file.stat();
    if (at + 8 + length + hashLength > size) return undefined;
    const rest = await this.#read(at + 8, length + hashLength);
    if (!rest) return undefined;
    const payload = rest.subarray(0, length);
    const hash = new TextDecoder().decode(rest.subarray(length));
    if ((await hashBytes(payload)) !== hash) return undefined;
    return { payload, next: at + 8 + length + hashLength };
  }

  /** Undefined when the file ends before. */
  async #read(at: number, length: number): Promise<Uint8Array | undefined> {
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length;) {
      const { bytesRead } = await this.#file.read(bytes, done, length - done, at + done);
      if (bytesRead === 0) return undefined;
      done += bytesRead;
    }
    return bytes;
  }
}
