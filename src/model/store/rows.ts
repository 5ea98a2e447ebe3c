/**
 * The rows of a store's files, as bytes: in each file every tensor has the rows of its shard as first
 * dimension, whatever else it holds. Only what must look at numbers decodes them.
 */
import { open, rename, rm, mkdir, type FileHandle } from "node:fs/promises";
import { dirname } from "node:path";

import { UserError } from "../../error.ts";
import { ascending } from "../../row-order.ts";
import { hashStream } from "../../file-hash.ts";
import { syncFolder } from "../../open-file.ts";
import { Safetensors, type RowRange, type TensorInfo } from "../../safetensors.ts";
import type { TensorPieces } from "../../safetensors-write.ts";
import { gatherHeld, type HeldType } from "../held-rows.ts";
import { readInto } from "../row-files.ts";
import { ACTIVATIONS, SCALES, type StoreFile } from "./manifest.ts";

/** Bytes moved at a time. */
export const PIECE_BYTES = 8 << 20;

/** A shard's file of tokens or of a hook point. */
export class RowsFile {
  readonly path: string;
  readonly rows: number;
  /** In the order of the file. */
  readonly tensors: readonly (TensorInfo & { rowBytes: number })[];
  readonly #handle: FileHandle;

  private constructor(path: string, rows: number, tensors: TensorInfo[], handle: FileHandle) {
    this.path = path;
    this.rows = rows;
    this.tensors = tensors.map((info) => ({ ...info, rowBytes: info.length / rows }));
    this.#handle = handle;
  }

  /** @throws UserError when the file cannot be read, or a tensor in it has not `rows` rows. */
  static async open(path: string, rows: number): Promise<RowsFile> {
    const file = await Safetensors.open(path);
    await file.close();
    const tensors = [...file.tensors.values()];
    for (const { name, shape } of tensors)
      if (shape[0] !== rows)
        throw new UserError(
          `${path}: tensor ${name} has shape [${shape.join(", ")}], but the shard has ${rows} rows: the file is not of this store.`,
        );
    return new RowsFile(path, rows, tensors, await open(path, "r"));
  }

  /** Fills `target` with the bytes of a tensor from row `first` on. */
  async read(tensor: string, first: number, target: Uint8Array): Promise<void> {
    const { offset, rowBytes } = this.tensors.find(({ name }) => name === tensor)!;
    await readInto(this.#handle, this.path, target, offset + first * rowBytes);
  }

  /** The tensors as they are written again, of the rows in `ranges` (ascending). */
  pieces(ranges: readonly RowRange[]): Record<string, TensorPieces> {
    const rows = ranges.reduce((sum, [from, to]) => sum + to - from, 0);
    const tensors = this.tensors.map(({ name, dtype, shape }): [string, TensorPieces] => [
      name,
      { dtype, shape: [rows, ...shape.slice(1)], pieces: this.#bytesOf(name, ranges) },
    ]);
    return Object.fromEntries(tensors);
  }

  async *#bytesOf(tensor: string, ranges: readonly RowRange[]): AsyncGenerator<Uint8Array> {
    const { rowBytes } = this.tensors.find(({ name }) => name === tensor)!;
    for (const [from, to] of cut(ranges, rowBytes)) {
      const piece = new Uint8Array((to - from) * rowBytes);
      await this.read(tensor, from, piece);
      yield piece;
    }
  }

  /** The activations [rows, width] of the rows in `ranges`, as numbers, some at a time. */
  async *floats(ranges: readonly RowRange[]): AsyncGenerator<Float32Array> {
    const { rowBytes } = this.tensors.find(({ name }) => name === ACTIVATIONS)!;
    for (const [from, to] of cut(ranges, rowBytes)) {
      const held: Record<string, Uint8Array<ArrayBuffer>> = {};
      for (const { name, rowBytes } of this.tensors) {
        held[name] = new Uint8Array((to - from) * rowBytes);
        await this.read(name, from, held[name]);
      }
      yield decodeRows(this.tensors, held);
    }
  }

  close(): Promise<void> {
    return this.#handle.close();
  }
}

/** The ranges in pieces of a few MiB. */
function* cut(ranges: readonly RowRange[], rowBytes: number): Generator<RowRange> {
  const rows = Math.max(1, Math.floor(PIECE_BYTES / rowBytes));
  for (const [from, to] of ranges)
    for (let at = from; at < to; at += rows) yield [at, Math.min(to, at + rows)];
}

/** Activations [rows, width] from the bytes of a hook point's tensors. */
export function decodeRows(
  tensors: readonly Pick<TensorInfo, "name" | "dtype" | "shape">[],
  bytes: Record<string, Uint8Array<ArrayBuffer>>,
): Float32Array {
  const { dtype, shape } = tensors.find(({ name }) => name === ACTIVATIONS)!;
  const { buffer, byteOffset, length } = bytes[ACTIVATIONS];
  const [, width] = shape;
  const Values = { F32: Float32Array, F16: Uint16Array, BF16: Uint16Array, I8: Int8Array }[
    dtype as HeldType
  ];
  const values = new Values(buffer, byteOffset, length / Values.BYTES_PER_ELEMENT);
  const { buffer: held, byteOffset: at, length: size } = bytes[SCALES] ?? new Uint8Array();
  const block = { values, scales: new Float32Array(held, at, size / 4) };
  const out = new Float32Array(values.length);
  gatherHeld(dtype as HeldType, block, width, ascending(values.length / width), out);
  return out;
}

/**
 * Copies a file, which appears whole or not at all.
 * @throws UserError when its bytes are not those of `expected`, or the disk is full.
 */
export async function copyStoreFile(
  from: string,
  to: string,
  expected: Omit<StoreFile, "path">,
): Promise<Omit<StoreFile, "path">> {
  const source = await open(from, "r");
  const temporary = `${to}.${process.pid}.tmp`;
  await mkdir(dirname(to), { recursive: true });
  let target: FileHandle | undefined;
  try {
    target = await open(temporary, "w");
    const hash = await hashStream();
    const piece = new Uint8Array(Math.min(PIECE_BYTES, expected.bytes + 1));
    let bytes = 0;
    for (;;) {
      const { bytesRead } = await source.read(piece, 0, piece.length);
      if (bytesRead === 0) break;
      hash.update(piece.subarray(0, bytesRead));
      await target.writeFile(piece.subarray(0, bytesRead));
      bytes += bytesRead;
    }
    const xxh64 = hash.digest();
    if (bytes !== expected.bytes || xxh64 !== expected.xxh64)
      throw new UserError(
        `${from} is damaged: it has ${bytes} bytes and xxh64 ${xxh64}, its store says ${expected.bytes} and ${expected.xxh64}. Copy it again, or collect again.`,
      );
    await target.sync();
    await target.close();
    target = undefined;
    await rename(temporary, to);
    await syncFolder(dirname(to));
    return expected;
  } catch (error) {
    await target?.close().catch(() => undefined);
    await rm(temporary, { force: true });
    throw error;
  } finally {
    await source.close();
  }
}
