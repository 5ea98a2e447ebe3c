/**
 * The safetensors format (https://github.com/huggingface/safetensors): an eight-byte header length,
 * a JSON header, then the tensors' bytes. Reads ranges of one file or of a sharded checkpoint,
 * trusting nothing the header says.
 */
import type { FileHandle } from "node:fs/promises";
import { dirname, join } from "node:path";

import { messageOf, UserError } from "./error.ts";
import { bf16ToF32, f16ToF32 } from "./float-types.ts";
import { isRecord } from "./is-record.ts";
import { openForReading, readText } from "./open-file.ts";

/** Bytes per element of the types a header may name. */
export const ELEMENT_BYTES = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  F8_E4M3: 1,
  F8_E5M2: 1,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
} as const;

export type TensorType = keyof typeof ELEMENT_BYTES;

export interface TensorInfo {
  name: string;
  dtype: TensorType;
  shape: readonly number[];
  /** Path of the file that holds the tensor. */
  file: string;
  /** Bytes from the start of that file. */
  offset: number;
  /** Bytes. */
  length: number;
}

/** A range [from, to) of a tensor's first dimension. */
export type RowRange = readonly [from: number, to: number];

/** Larger headers are refused, as the reference implementation does. */
const MAX_HEADER_BYTES = 100_000_000;
/** One read or write call asks for at most this much (some systems stop at 2 GiB). */
export const MAX_IO_BYTES = 1 << 30;

/** The tensors of one file, or of the shards of one checkpoint. */
export class Safetensors {
  /** Files in the order opened. */
  readonly files: readonly string[];
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** The headers' `__metadata__`, merged. */
  readonly metadata: Readonly<Record<string, string>>;
  readonly #handles: Map<string, FileHandle>;

  private constructor(
    handles: Map<string, FileHandle>,
    tensors: Map<string, TensorInfo>,
    metadata: Record<string, string>,
  ) {
    this.#handles = handles;
    this.files = [...handles.keys()];
    this.tensors = tensors;
    this.metadata = metadata;
  }

  /**
   * Opens a `.safetensors` file, or the checkpoint that a `.safetensors.index.json` describes.
   * Throws UserError if a file is missing, truncated, or its header is not consistent.
   */
  static async open(path: string): Promise<Safetensors> {
    return path.endsWith(".index.json") ? openShards(path) : Safetensors.#openAll([path]);
  }

  /** Opens several files as one; no name may occur twice. */
  static async openAll(paths: readonly string[]): Promise<Safetensors> {
    return Safetensors.#openAll(paths);
  }

  static async #openAll(paths: readonly string[]): Promise<Safetensors> {
    const handles = new Map<string, FileHandle>();
    const tensors = new Map<string, TensorInfo>();
    const metadata: Record<string, string> = {};
    try {
      for (const path of paths) {
        const handle = await openForReading(path);
        handles.set(path, handle);
        const { size } = await handle.stat();
        const header = await readHeader(path, size, (from, length) =>
          readExactly(handle, path, from, length),
        );
        Object.assign(metadata, header.metadata);
        for (const tensor of header.tensors) {
          const other = tensors.get(tensor.name);
          if (other) {
            throw new UserError(
              `tensor ${tensor.name} is in both ${other.file} and ${path}: remove one of the files.`,
            );
          }
          tensors.set(tensor.name, tensor);
        }
      }
      return new Safetensors(handles, tensors, metadata);
    } catch (error) {
      for (const handle of handles.values()) await handle.close();
      throw error;
    }
  }

  /** Where the tensor `name` lies; throws UserError if there is none. */
  info(name: string): TensorInfo {
    const info = this.tensors.get(name);
    if (info) return info;
    const some = [...this.tensors.keys()].slice(0, 8).join(", ");
    throw new UserError(
      `no tensor named ${name} in ${this.files.join(", ")}; it holds ${this.tensors.size}: ` +
        `${some}${this.tensors.size > 8 ? ", …" : ""}.`,
    );
  }

  /** The tensor's bytes (little-endian), or those of some rows. */
  async bytes(name: string, rows?: RowRange): Promise<Uint8Array<ArrayBuffer>> {
    const info = this.info(name);
    let { offset, length } = info;
    if (rows) {
      const [from, to] = rows;
      const count = info.shape[0] ?? 0;
      if (!(from >= 0 && from <= to && to <= count)) {
        throw new UserError(`rows ${from} to ${to} of ${name} were asked for; it has ${count}.`);
      }
      const rowBytes = count === 0 ? 0 : length / count;
      offset += from * rowBytes;
      length = (to - from) * rowBytes;
    }
    return readExactly(this.#handles.get(info.file)!, info.file, offset, length);
  }

  /** The tensor (F32, F16, BF16 or F64) as float32, or some of its rows. */
  async floats(name: string, rows?: RowRange): Promise<Float32Array<ArrayBuffer>> {
    const { dtype, file } = this.info(name);
    const { buffer } = await this.bytes(name, rows);
    switch (dtype) {
      case "F32":
        return new Float32Array(buffer);
      case "F16":
        return f16ToF32(new Uint16Array(buffer));
      case "BF16":
        return bf16ToF32(new Uint16Array(buffer));
      case "F64":
        return Float32Array.from(new Float64Array(buffer));
      default:
        throw new UserError(
          `tensor ${name} in ${file} has dtype ${dtype}; F32, F16, BF16 or F64 was expected.`,
        );
    }
  }

  /** The tensor (I32, I64, I8, U8 or BOOL) as int32; throws UserError for a value that does not fit. */
  async ints(name: string, rows?: RowRange): Promise<Int32Array<ArrayBuffer>> {
    const { dtype, file } = this.info(name);
    const { buffer } = await this.bytes(name, rows);
    switch (dtype) {
      case "I32":
        return new Int32Array(buffer);
      case "I8":
        return Int32Array.from(new Int8Array(buffer));
      case "U8":
      case "BOOL":
        return Int32Array.from(new Uint8Array(buffer));
      case "I64":
        return Int32Array.from(new BigInt64Array(buffer), (value) => {
          if (BigInt.asIntN(32, value) === value) return Number(value);
          throw new UserError(`tensor ${name} in ${file} holds ${value}, more than 32 bits.`);
        });
      default:
        throw new UserError(
          `tensor ${name} in ${file} has dtype ${dtype}; I32, I64, I8, U8 or BOOL was expected.`,
        );
    }
  }

  async close(): Promise<void> {
    for (const handle of this.#handles.values()) await handle.close();
    this.#handles.clear();
  }
}

async function openShards(indexPath: string): Promise<Safetensors> {
  const fail = (what: string) =>
    new UserError(`${indexPath} ${what}: download or save the checkpoint again.`);
  let index: unknown;
  try {
    index = JSON.parse(await readText(indexPath));
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw fail(`is not JSON (${messageOf(error)})`);
  }
  const map = isRecord(index) ? index["weight_map"] : undefined;
  if (!isRecord(map)) throw fail('has no "weight_map"');
  const names = new Set<string>();
  for (const [tensor, shard] of Object.entries(map)) {
    // A shard lies beside its index; anything else could name a file of someone else's.
    if (typeof shard !== "string" || !/^[^/\\:]+\.safetensors$/.test(shard)) {
      throw fail(`puts ${tensor} in ${JSON.stringify(shard)}, which is not a file beside it`);
    }
    names.add(shard);
  }
  if (names.size === 0) throw fail("names no shards");
  const folder = dirname(indexPath);
  const shards = await Safetensors.openAll([...names].sort().map((name) => join(folder, name)));
  for (const [tensor, shard] of Object.entries(map)) {
    if (shards.tensors.get(tensor)?.file === join(folder, shard as string)) continue;
    await shards.close();
    throw fail(`says ${tensor} is in ${shard as string}, which does not hold it`);
  }
  return shards;
}

/**
 * Header of one file of `size` bytes, of which `read` gives a part; checked in full: what is returned lies
 * inside the file and does not overlap. @throws UserError naming `path` for a file that is damaged.
 */
export async function readHeader(
  path: string,
  size: number,
  read: (from: number, length: number) => Promise<Uint8Array<ArrayBuffer>>,
): Promise<{ tensors: TensorInfo[]; metadata: Record<string, string> }> {
  const again = "The file is damaged or was not copied completely: fetch or write it again.";
  const fail = (what: string) => new UserError(`${path}: ${what}. ${again}`);

  if (size < 8) throw fail(`it has ${size} bytes, too few for a safetensors file`);
  const lengthBytes = await read(0, 8);
  const headerBytes = Number(new DataView(lengthBytes.buffer).getBigUint64(0, true));
  if (headerBytes > MAX_HEADER_BYTES || 8 + headerBytes > size) {
    throw fail(`its header claims ${headerBytes} bytes in a file of ${size}`);
  }
  let header: unknown;
  try {
    const bytes = await read(8, headerBytes);
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw fail(`its header is not JSON (${messageOf(error)})`);
  }
  if (!isRecord(header)) throw fail("its header is not a JSON object");

  const base = 8 + headerBytes;
  const tensors: TensorInfo[] = [];
  const metadata: Record<string, string> = {};
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") {
      for (const [key, value] of Object.entries(isRecord(entry) ? entry : {})) {
        metadata[key] = String(value);
      }
      continue;
    }
    const { dtype, shape, data_offsets: offsets } = isRecord(entry) ? entry : {};
    if (!isTensorType(dtype)) {
      const known = Object.keys(ELEMENT_BYTES).join(", ");
      throw fail(`tensor ${name} has dtype ${JSON.stringify(dtype)}, not one of ${known}`);
    }
    if (!isCounts(shape)) throw fail(`tensor ${name} has shape ${JSON.stringify(shape)}`);
    if (!isCounts(offsets) || offsets.length !== 2 || offsets[0] > offsets[1]) {
      throw fail(`tensor ${name} has data_offsets ${JSON.stringify(offsets)}`);
    }
    const [from, to] = offsets;
    const expected = shape.reduce((product, size) => product * size, ELEMENT_BYTES[dtype]);
    if (to - from !== expected) {
      throw fail(
        `tensor ${name} (${dtype} [${shape.join(", ")}]) needs ${expected} bytes, but its ` +
          `data_offsets span ${to - from}`,
      );
    }
    if (base + to > size) {
      throw fail(`tensor ${name} ends at byte ${base + to} of a file of ${size}`);
    }
    tensors.push({ name, dtype, shape, file: path, offset: base + from, length: expected });
  }

  const inOrder = tensors.filter((t) => t.length > 0).sort((a, b) => a.offset - b.offset);
  for (const [i, tensor] of inOrder.entries()) {
    const before = inOrder[i - 1];
    if (before && before.offset + before.length > tensor.offset) {
      throw fail(`tensors ${before.name} and ${tensor.name} overlap`);
    }
  }
  return { tensors, metadata };
}

async function readExactly(
  handle: FileHandle,
  path: string,
  offset: number,
  length: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(length);
  let done = 0;
  while (done < length) {
    const ask = Math.min(length - done, MAX_IO_BYTES);
    const { bytesRead } = await handle.read(bytes, done, ask, offset + done);
    if (bytesRead === 0) {
      throw new UserError(
        `${path} ended at byte ${offset + done}; ${length - done} more were expected. ` +
          "It was changed while being read, or is truncated: fetch or write it again.",
      );
    }
    done += bytesRead;
  }
  return bytes;
}

function isTensorType(value: unknown): value is TensorType {
  return typeof value === "string" && Object.hasOwn(ELEMENT_BYTES, value);
}

/** A list of non-negative integers whose product and sums stay exact. */
function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((v) => Number.isSafeInteger(v) && (v as number) >= 0);
}
