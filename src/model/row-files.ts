/** Rows of activations in files, one file after the other, read with several reads under way. */
import { open, type FileHandle } from "node:fs/promises";

import type { RowReader } from "../activation-source.ts";
import { UserError } from "../error.ts";
import { bf16ToF32, f16ToF32 } from "../float-types.ts";
import { readNpyHeader } from "../npy.ts";
import type { RowBuffer } from "../row-stream.ts";
import { Safetensors } from "../safetensors.ts";
import {
  gatherHeld,
  heldBlock,
  heldPart,
  placeHeld,
  requireFinite,
  runsOf,
  type HeldBlock,
  type HeldType,
} from "./held-rows.ts";
import { SCALES } from "./store/manifest.ts";

type FileType = "F64" | HeldType;
const BYTES: Record<FileType, number> = { F64: 8, F32: 4, F16: 2, BF16: 2, I8: 1 };

/** A contiguous [rows, dIn] somewhere in a file. */
export interface RowFile {
  path: string;
  dtype: FileType;
  rows: number;
  dIn: number;
  /** Bytes from the start of the file. */
  offset: number;
  /** Of I8: where its rows' scales, F32 [rows], are. */
  scalesOffset?: number;
}

export async function openNpy(path: string): Promise<RowFile> {
  const { dtype, shape, offset } = await readNpyHeader(path);
  return { path, dtype, rows: shape[0], dIn: shape[1], offset };
}

/**
 * @param tensor absent: the only two-dimensional one of floats.
 * @throws UserError when there is no such tensor, or it is not of rows of floats.
 */
export async function openSafetensors(path: string, tensor: string | undefined): Promise<RowFile> {
  const file = await Safetensors.open(path);
  await file.close();
  const scales = file.tensors.get(SCALES);
  const isScaled = (rows: number) =>
    scales?.dtype === "F32" && scales.shape.join() === String(rows);
  const matrices = [...file.tensors.values()].filter(
    ({ shape, dtype }) =>
      shape.length === 2 && Object.hasOwn(BYTES, dtype) && (dtype !== "I8" || isScaled(shape[0])),
  );
  if (tensor === undefined && matrices.length !== 1)
    throw new UserError(
      `${path} holds ${matrices.length} two-dimensional tensors of floats (${matrices.map((m) => m.name).join(", ")}); say which one holds the activations.`,
    );
  const info = tensor === undefined ? matrices[0] : file.info(tensor);
  if (!matrices.includes(info))
    throw new UserError(
      `${path}: tensor ${info.name} is ${info.dtype} [${info.shape.join(", ")}]; activations must be F32, F16, BF16, F64, or I8 with scales F32 [rows] beside it, [rows, width].`,
    );
  const [rows, dIn] = info.shape;
  const found = { path, dtype: info.dtype as FileType, rows, dIn, offset: info.offset };
  return found.dtype === "I8" ? { ...found, scalesOffset: scales!.offset } : found;
}

/** Bytes per read, and reads under way at once: what fills a disk's queue without filling memory. */
const READ_BYTES = 8 << 20;
const READS_AT_ONCE = 4;

/** Rows of several files, one after the other. */
export function fileReader(files: readonly RowFile[]): RowReader {
  const [{ dIn, dtype }] = files;
  const rows = files.reduce((sum, file) => sum + file.rows, 0);
  // Files of several types become what all fit into.
  const held = files.every((file) => file.dtype === dtype) && dtype !== "F64" ? dtype : "F32";

  function hold(count: number): RowBuffer {
    const block = heldBlock(held, count, dIn);

    /** Reads `slots.length` rows of a file from `row` on, checks them, and puts them into `slots`. */
    async function bring(handle: FileHandle, file: RowFile, row: number, slots: Uint32Array) {
      const runs = [...runsOf(slots)];
      const direct = runs.length === 1;
      const target = direct
        ? heldPart(block, dIn, slots[0], slots[0] + slots.length)
        : heldBlock(held, slots.length, dIn);
      await readRows(handle, file, row, slots.length, target, held);
      requireFinite(held, target, dIn, { path: file.path, firstRow: row });
      if (direct) return;
      for (const [at, end] of runs)
        placeHeld(block, heldPart(target, dIn, at, end), dIn, slots[at]);
    }

    return {
      async load(ranges, slots) {
        let fileStart = 0;
        for (const file of files) {
          const pieces: { row: number; slots: Uint32Array }[] = [];
          const pieceRows = Math.max(1, Math.floor(READ_BYTES / (dIn * BYTES[file.dtype])));
          let to = 0;
          for (const { start, end } of ranges) {
            const last = Math.min(end, fileStart + file.rows);
            for (let row = Math.max(start, fileStart); row < last; row += pieceRows) {
              const at = to + row - start;
              const rows = Math.min(pieceRows, last - row);
              pieces.push({ row: row - fileStart, slots: slots.subarray(at, at + rows) });
            }
            to += end - start;
          }
          fileStart += file.rows;
          if (pieces.length === 0) continue;
          const handle = await open(file.path, "r");
          try {
            await inParallel(READS_AT_ONCE, pieces, (piece) =>
              bring(handle, file, piece.row, piece.slots),
            );
          } finally {
            await handle.close();
          }
        }
      },
      gather: (slots, out) => gatherHeld(held, block, dIn, slots, out),
    };
  }
  return { dIn, rows, hold };
}

async function inParallel<T>(
  limit: number,
  items: readonly T[],
  work: (item: T) => Promise<void>,
): Promise<void> {
  let next = 0;
  let failed = false;
  const worker = async () => {
    while (next < items.length && !failed)
      await work(items[next++]).catch((error: unknown) => {
        failed = true;
        throw error;
      });
  };
  // All are awaited even after a failure: the file is closed next, and none may still read from it.
  const results = await Promise.allSettled(Array.from({ length: limit }, worker));
  for (const result of results) if (result.status === "rejected") throw result.reason;
}

/** Fills `target` with `rows` rows of `file` from `row` on, converted where the file's type is not `held`. */
async function readRows(
  handle: FileHandle,
  file: RowFile,
  row: number,
  rows: number,
  target: HeldBlock,
  held: HeldType,
): Promise<void> {
  const width = BYTES[file.dtype];
  const bytesOf = (a: ArrayBufferView<ArrayBuffer>) =>
    new Uint8Array(a.buffer, a.byteOffset, a.byteLength);
  const isHeld = file.dtype === held;
  const raw = isHeld ? bytesOf(target.values) : new Uint8Array(rows * file.dIn * width);
  await readInto(handle, file.path, raw, file.offset + row * file.dIn * width);
  const scales = isHeld ? target.scales : new Float32Array(file.dtype === "I8" ? rows : 0);
  if (scales.length > 0)
    await readInto(handle, file.path, bytesOf(scales), file.scalesOffset! + row * 4);
  if (isHeld) return;
  const floats = target.values as Float32Array<ArrayBuffer>;
  if (file.dtype === "F64") floats.set(new Float64Array(raw.buffer));
  else if (file.dtype === "F16") f16ToF32(new Uint16Array(raw.buffer), floats);
  else if (file.dtype === "BF16") bf16ToF32(new Uint16Array(raw.buffer), floats);
  else if (file.dtype === "F32") floats.set(new Float32Array(raw.buffer));
  else {
    const all = Uint32Array.from({ length: rows }, (_, i) => i);
    gatherHeld("I8", { values: new Int8Array(raw.buffer), scales }, file.dIn, all, floats);
  }
}

/** Fills `target` from a file. @throws UserError where it ends too early. */
export async function readInto(
  handle: FileHandle,
  path: string,
  target: Uint8Array,
  position: number,
): Promise<void> {
  for (let done = 0; done < target.length;) {
    const { bytesRead } = await handle.read(target, done, target.length - done, position + done);
    if (bytesRead === 0)
      throw new UserError(
        `${path} ended at byte ${position + done}: it was cut while being read. Copy it again.`,
      );
    done += bytesRead;
  }
}
