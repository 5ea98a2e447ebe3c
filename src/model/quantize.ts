/**
 * Weights of a model's linear layers as 8-bit integers: column n of W [in, out] is s_n · (q − 128), with
 * s_n = max |W_n| / 127, rounded to nearest. They are made tensor by tensor, once for each checkpoint, in a file
 * that ONNX Runtime reads in place; embeddings, norms, biases and the unembedding stay as they are. Behind the
 * tensors the file has their xxh64, 16 hexadecimal digits, so that damage is found when it is opened.
 */
import { mkdir, open, rename, rm, type FileHandle } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";

import { hashStream } from "../file-hash.ts";
import { Safetensors } from "../safetensors.ts";
import type { LinearLayout } from "./spec.ts";
import type { Weights } from "./weights.ts";

/** A linear layer's weight in the file of quantised ones. */
export interface QuantizedTensor {
  file: string;
  /** [in, out]: uint8, 128 is zero. */
  shape: readonly [number, number];
  /** Bytes from the start of the file: the integers, and the scales, float32 [out]. */
  offset: number;
  scales: number;
}

/** Of how the integers are made: goes into the file's name and the weights' hash. */
export const QUANTIZATION = "int8-columns-1";
/** The value that stands for zero. */
export const ZERO_POINT = 128;
const LARGEST = 127;
const ALIGNMENT = 64;
const HASH_DIGITS = 16;

/** Where each linear layer's weight lies in `file`; `bytes`: the length of all, before the hash. */
export function quantizedLayout(
  { tensors, linear }: Weights,
  file: string,
): { tensors: Map<string, QuantizedTensor>; bytes: number } {
  const found = new Map<string, QuantizedTensor>();
  let end = 0;
  const take = (bytes: number) => {
    const at = end;
    end = Math.ceil((end + bytes) / ALIGNMENT) * ALIGNMENT;
    return at;
  };
  for (const [name, { shape }] of tensors) {
    if (!name.startsWith("blocks.") || shape.length !== 2) continue;
    const [rows, columns] = linear === "inOut" ? shape : [shape[1], shape[0]];
    const offset = take(rows * columns);
    found.set(name, { file, shape: [rows, columns], offset, scales: take(4 * columns) });
  }
  return { tensors: found, bytes: end };
}

/**
 * The quantised weights of the checkpoint `files`, from the cache (`latent-lens/int8` in XDG_CACHE_HOME, or
 * ~/.cache) or made there first, and made anew where the file is not what was written. `hash`: of the
 * checkpoint. At most one tensor is in memory at a time.
 */
export async function quantizedWeights(
  weights: Weights,
  files: readonly string[],
  hash: string,
): Promise<Map<string, QuantizedTensor>> {
  const cache = process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache");
  const path = join(cache, "latent-lens", "int8", `${hash}-${QUANTIZATION}.bin`);
  const { tensors, bytes } = quantizedLayout(weights, path);
  if (await isWhole(path, bytes)) return tensors;
  await mkdir(dirname(path), { recursive: true });
  const prepared = `${path}.${process.pid}.tmp`;
  const checkpoint = await Safetensors.openAll(files);
  const handle = await open(prepared, "w+");
  try {
    await handle.truncate(bytes);
    for (const [name, { offset, scales }] of tensors) {
      const info = weights.tensors.get(name)!;
      const values = await checkpoint.floats(info.name);
      const made = quantizeColumns(values, info.shape, weights.linear);
      await handle.write(made.integers, 0, made.integers.byteLength, offset);
      await handle.write(new Uint8Array(made.scales.buffer), 0, made.scales.byteLength, scales);
    }
    await handle.write(await hashOf(handle, bytes), bytes, "latin1");
    await handle.sync();
    await handle.close();
    await rename(prepared, path);
  } finally {
    await checkpoint.close();
    await handle.close();
    await rm(prepared, { force: true });
  }
  return tensors;
}

/** Whether the file at `path` has `bytes` bytes and, behind them, their hash. */
async function isWhole(path: string, bytes: number): Promise<boolean> {
  const handle = await open(path, "r").catch(() => undefined);
  if (!handle) return false;
  try {
    if ((await handle.stat()).size !== bytes + HASH_DIGITS) return false;
    const { buffer } = await handle.read(Buffer.alloc(HASH_DIGITS), 0, HASH_DIGITS, bytes);
    return buffer.toString("latin1") === (await hashOf(handle, bytes));
  } finally {
    await handle.close();
  }
}

/** xxh64 of a file's first `bytes` bytes. */
async function hashOf(handle: FileHandle, bytes: number): Promise<string> {
  const hash = await hashStream();
  const buffer = new Uint8Array(1 << 20);
  for (let at = 0; at < bytes;) {
    const { bytesRead } = await handle.read(buffer, 0, Math.min(buffer.length, bytes - at), at);
    if (bytesRead === 0) break; // shorter than it was a moment ago: the hash will tell
    hash.update(buffer.subarray(0, bytesRead));
    at += bytesRead;
  }
  return hash.digest();
}

/** The integers [in, out] of a matrix that lies as `linear` says, and the scale of each column. */
export function quantizeColumns(
  values: Float32Array,
  shape: readonly number[],
  linear: LinearLayout,
): { integers: Uint8Array; scales: Float32Array<ArrayBuffer> } {
  const [rows, columns] = linear === "inOut" ? shape : [shape[1], shape[0]];
  // Of the element in row k, column n of [in, out].
  const [byRow, byColumn] = linear === "inOut" ? [columns, 1] : [1, rows];
  const scales = new Float32Array(columns);
  for (let k = 0; k < rows; k++)
    for (let n = 0; n < columns; n++) {
      const size = Math.abs(values[k * byRow + n * byColumn]);
      if (size > scales[n]) scales[n] = size;
    }
  const inverse = Float64Array.from(scales, (largest) => (largest === 0 ? 0 : LARGEST / largest));
  for (let n = 0; n < columns; n++) scales[n] = scales[n] === 0 ? 1 : scales[n] / LARGEST;
  const integers = new Uint8Array(rows * columns);
  for (let k = 0; k < rows; k++)
    for (let n = 0; n < columns; n++)
      integers[k * columns + n] =
        Math.round(values[k * byRow + n * byColumn] * inverse[n]) + ZERO_POINT;
  return { integers, scales };
}
