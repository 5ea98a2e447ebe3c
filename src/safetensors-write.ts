/**
 * Writes files in the safetensors format (safetensors.ts): whole, or none.
 */
import { open, type FileHandle, mkdir, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";

import { UserError } from "./error.ts";
import { hashStream } from "./file-hash.ts";
import { f32ToBf16, f32ToF16 } from "./float-types.ts";
import { syncFolder } from "./open-file.ts";
import { ELEMENT_BYTES, MAX_IO_BYTES, type TensorType } from "./safetensors.ts";

export type WritableType = "F32" | "F16" | "BF16" | "I32" | "I8";

export interface TensorToWrite {
  dtype: WritableType;
  shape: readonly number[];
  /**
   * Float32Array for the float types (rounded to nearest even on the way out), Int32Array for I32,
   * Int8Array for I8; a Uint16Array for F16 or BF16 holds bits that are already converted.
   */
  data: Float32Array | Int32Array | Uint16Array | Int8Array;
}

/** Elements converted at a time: memory for a write does not grow with the tensor. */
const CHUNK_ELEMENTS = 1 << 20;

/**
 * Writes `tensors` to `path`, which appears whole or not at all (temporary name, sync, rename).
 * Returns the file's size in bytes and the xxh64 of its content. Throws UserError if a finite value
 * is too large for the 16-bit type asked for (F16 ends at 65504), or if the disk is full.
 */
export async function writeSafetensors(
  path: string,
  tensors: Readonly<Record<string, TensorToWrite>>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<{ bytes: number; xxh64: string }> {
  const inPieces = Object.entries(tensors).map(([name, { dtype, shape, data }]) => {
    const elements = elementsOf(shape);
    if (data.length !== elements) {
      throw new Error(`${name}: shape [${shape.join(", ")}] does not fit ${data.length} elements`);
    }
    function* pieces() {
      for (let at = 0; at < data.length; at += CHUNK_ELEMENTS)
        yield encodeElements(name, dtype, data.subarray(at, at + CHUNK_ELEMENTS), at);
    }
    return [name, { dtype, shape, pieces: pieces() }] as const;
  });
  return writeTensorPieces(path, Object.fromEntries(inPieces), metadata);
}

/** A tensor to write whose bytes, as they are in the file, come in pieces; one is used up before the next is asked for. */
export interface TensorPieces {
  dtype: TensorType;
  shape: readonly number[];
  pieces: Iterable<Uint8Array> | AsyncIterable<Uint8Array>;
}

/** As `writeSafetensors`, for tensors that are never whole in memory. */
export async function writeTensorPieces(
  path: string,
  tensors: Readonly<Record<string, TensorPieces>>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<{ bytes: number; xxh64: string }> {
  // Wider elements first, so that every tensor is aligned to its element size.
  const entries = Object.entries(tensors).sort(
    ([, a], [, b]) => ELEMENT_BYTES[b.dtype] - ELEMENT_BYTES[a.dtype],
  );
  const header: Record<string, unknown> = {};
  if (Object.keys(metadata).length > 0) header["__metadata__"] = metadata;
  let end = 0;
  for (const [name, { dtype, shape }] of entries) {
    const start = end;
    end += elementsOf(shape) * ELEMENT_BYTES[dtype];
    header[name] = { dtype, shape, data_offsets: [start, end] };
  }
  let json = new TextEncoder().encode(JSON.stringify(header));
  const padded = new Uint8Array(Math.ceil(json.length / 8) * 8).fill(0x20);
  padded.set(json);
  json = padded;

  const hash = await hashStream();
  const temporary = `${path}.${process.pid}.tmp`;
  await mkdir(dirname(path), { recursive: true });
  let handle: FileHandle | undefined;
  try {
    handle = await open(temporary, "w");
    const write = async (bytes: Uint8Array) => {
      hash.update(bytes);
      for (let at = 0; at < bytes.length; at += MAX_IO_BYTES) {
        await handle!.writeFile(bytes.subarray(at, at + MAX_IO_BYTES));
      }
    };
    const length = new Uint8Array(8);
    new DataView(length.buffer).setBigUint64(0, BigInt(json.length), true);
    await write(length);
    await write(json);
    for (const [name, { dtype, shape, pieces }] of entries) {
      let left = elementsOf(shape) * ELEMENT_BYTES[dtype];
      for await (const piece of pieces) {
        left -= piece.length;
        await write(piece);
      }
      if (left !== 0) throw new Error(`${name}: its pieces are ${-left} bytes too many`);
    }
    await handle.sync();
    await handle.close();
    handle = undefined;
    await rename(temporary, path);
    await syncFolder(dirname(path));
  } catch (error) {
    await handle?.close().catch(() => undefined);
    await rm(temporary, { force: true });
    if ((error as NodeJS.ErrnoException).code === "ENOSPC") {
      const bytes = 8 + json.length + end;
      throw new UserError(`no space left on the disk for ${path} (${bytes} bytes): free some.`);
    }
    throw error;
  }
  return { bytes: 8 + json.length + end, xxh64: hash.digest() };
}

const elementsOf = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1);

function encodeElements(
  name: string,
  dtype: WritableType,
  data: TensorToWrite["data"],
  at: number,
): Uint8Array {
  const bytesOf = (a: ArrayBufferView) => new Uint8Array(a.buffer, a.byteOffset, a.byteLength);
  const isHalf = dtype === "F16" || dtype === "BF16";
  if (dtype === "I8" && data instanceof Int8Array) return bytesOf(data);
  if (dtype === "I32" ? data instanceof Int32Array : data instanceof Float32Array) {
    if (!isHalf) return bytesOf(data);
    const floats = data as Float32Array;
    const half = dtype === "F16" ? f32ToF16(floats) : f32ToBf16(floats);
    const infinity = dtype === "F16" ? 0x7c00 : 0x7f80;
    for (let i = 0; i < half.length; i++) {
      if ((half[i] & 0x7fff) === infinity && Number.isFinite(floats[i])) {
        throw new UserError(
          `tensor ${name}: element ${at + i} is ${floats[i]}, too large for ${dtype}` +
            `${dtype === "F16" ? " (at most 65504)" : ""}. Store it as ` +
            `${dtype === "F16" ? "bf16 or f32" : "f32"}.`,
        );
      }
    }
    return bytesOf(half);
  }
  if (isHalf && data instanceof Uint16Array) return bytesOf(data);
  throw new Error(`${name}: a ${data.constructor.name} cannot be written as ${dtype}`);
}
