/**
 * Typed arrays in one piece of bytes, for files that are read by range and for records in a log:
 * u32 length of the header, the header as JSON, then the arrays, each beginning at a multiple of 8.
 */
import { closeSync, openSync, readSync } from "node:fs";

import { UserError } from "../error.ts";

const TYPES = {
  u8: Uint8Array,
  u16: Uint16Array,
  u32: Uint32Array,
  i32: Int32Array,
  f32: Float32Array,
  f64: Float64Array,
} as const;
type TypeName = keyof typeof TYPES;
export type PackedArray =
  Uint8Array | Uint16Array | Uint32Array | Int32Array | Float32Array | Float64Array;

interface Header {
  about: unknown;
  /** Name, type, length and first byte, counted from the end of the header. */
  arrays: [name: string, type: TypeName, length: number, offset: number][];
}

const aligned = (bytes: number) => Math.ceil(bytes / 8) * 8;

export function packArrays(about: unknown, arrays: Record<string, PackedArray>): Uint8Array {
  let offset = 0;
  const header: Header = { about, arrays: [] };
  for (const [name, array] of Object.entries(arrays)) {
    const [type] = Object.entries(TYPES).find(([, Type]) => array instanceof Type)!;
    header.arrays.push([name, type as TypeName, array.length, offset]);
    offset = aligned(offset + array.byteLength);
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const start = aligned(4 + json.length);
  const bytes = new Uint8Array(start + offset);
  new DataView(bytes.buffer).setUint32(0, json.length, true);
  bytes.set(json, 4);
  Object.values(arrays).forEach((array, i) =>
    bytes.set(
      new Uint8Array(array.buffer, array.byteOffset, array.byteLength),
      start + header.arrays[i][3],
    ),
  );
  return bytes;
}

/**
 * What `packArrays` was given, the arrays copied.
 * @throws UserError when the bytes are not of that form.
 */
export function unpackArrays(bytes: Uint8Array): {
  about: unknown;
  arrays: Record<string, PackedArray>;
} {
  try {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const length = view.getUint32(0, true);
    const { about, arrays } = JSON.parse(
      new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(4, 4 + length)),
    ) as Header;
    const start = aligned(4 + length);
    const entries = arrays.map(([name, type, count, offset]) => {
      const array = new TYPES[type](count);
      const from = bytes.subarray(start + offset, start + offset + array.byteLength);
      if (from.length !== array.byteLength) throw new RangeError("cut off");
      new Uint8Array(array.buffer).set(from);
      return [name, array] as const;
    });
    return { about, arrays: Object.fromEntries(entries) };
  } catch {
    throw new UserError("the bytes are damaged or of another version; make them again");
  }
}

/**
 * A file that holds what `packArrays` made, read piece by piece. Reading waits: a piece is a few hundred
 * bytes, which are there before a promise would be.
 */
export class PackedFile {
  readonly about: unknown;
  readonly #path: string;
  readonly #file: number;
  readonly #arrays: Map<string, { type: TypeName; length: number; offset: number }>;

  /** @throws UserError when there is no such file, or it is of another form. */
  constructor(path: string) {
    this.#path = path;
    try {
      this.#file = openSync(path, "r");
    } catch {
      throw new UserError(`${path} cannot be read; index the features again: lens features`);
    }
    try {
      const length = this.#bytes(0, 4).readUInt32LE(0);
      const { about, arrays } = JSON.parse(this.#bytes(4, length).toString("utf8")) as Header;
      const start = aligned(4 + length);
      this.about = about;
      this.#arrays = new Map(
        arrays.map(([name, type, count, offset]) => [
          name,
          { type, length: count, offset: start + offset },
        ]),
      );
    } catch {
      this.close();
      throw new UserError(`${path} is damaged; index the features again: lens features`);
    }
  }

  /** Numbers from … to-1 of an array. @throws UserError when it has fewer. */
  read(name: string, from: number, to: number): PackedArray {
    const array = this.#arrays.get(name);
    if (!array || to > array.length)
      throw new UserError(`${this.#path} has no ${name} up to ${to}; index the features again`);
    const numbers = new TYPES[array.type](to - from);
    const bytes = this.#bytes(array.offset + from * numbers.BYTES_PER_ELEMENT, numbers.byteLength);
    new Uint8Array(numbers.buffer).set(bytes);
    return numbers;
  }

  close(): void {
    closeSync(this.#file);
  }

  #bytes(at: number, length: number): Buffer {
    const bytes = Buffer.alloc(length);
    if (readSync(this.#file, bytes, 0, length, at) !== length) throw new RangeError("cut off");
    return bytes;
  }
}
