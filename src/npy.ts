/**
 * Headers of NumPy's .npy files (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html):
 * magic, version, header length, then a Python dictionary that says how the array lies in the rest.
 */
import { open } from "node:fs/promises";

import { UserError } from "./error.ts";

/** A 2-D array of little-endian floats in C order. */
export interface NpyArray {
  dtype: "F16" | "F32" | "F64";
  shape: [rows: number, columns: number];
  /** Bytes from the start of the file to the array. */
  offset: number;
}

const DTYPES: Record<string, NpyArray["dtype"]> = { "<f2": "F16", "<f4": "F32", "<f8": "F64" };
const BYTES = { F16: 2, F32: 4, F64: 8 };
/** NumPy itself refuses longer headers by default. */
const MAX_HEADER_BYTES = 10_000;

/**
 * Reads and checks the header of `path`.
 * @throws UserError when the file is missing, is no .npy file, is shorter than its header says, or
 * holds anything but a two-dimensional little-endian float16, float32 or float64 array in C order.
 */
export async function readNpyHeader(path: string): Promise<NpyArray> {
  const handle = await open(path, "r").catch((error: NodeJS.ErrnoException) => {
    throw new UserError(`${path} cannot be opened (${error.code}): check the path.`);
  });
  try {
    const { size } = await handle.stat();
    const start = Buffer.alloc(Math.min(size, 12 + MAX_HEADER_BYTES));
    await handle.read(start, 0, start.length, 0);
    return parseNpyHeader(start, size, path);
  } finally {
    await handle.close();
  }
}

/** `start`: the first bytes of a file of `size` bytes, all of its header among them. */
function parseNpyHeader(start: Buffer, size: number, path: string): NpyArray {
  const major = start.length >= 12 ? start[6] : 0;
  if (start.subarray(0, 6).toString("latin1") !== "\x93NUMPY" || major < 1 || major > 3)
    throw new UserError(
      `${path} is not a .npy file of version 1 to 3: save it again with np.save.`,
    );
  const headerStart = major === 1 ? 10 : 12;
  const headerBytes = major === 1 ? start.readUInt16LE(8) : start.readUInt32LE(8);
  const offset = headerStart + headerBytes;
  if (headerBytes > MAX_HEADER_BYTES || offset > size)
    throw new UserError(
      `${path}: its header claims ${headerBytes} bytes in a file of ${size}; the file is damaged or was not copied completely.`,
    );
  const header = start.toString(major === 3 ? "utf8" : "latin1", headerStart, offset);
  const field = (name: string, value: string) =>
    new RegExp(`['"]${name}['"]\\s*:\\s*(${value})`).exec(header)?.[1];
  const descr = field("descr", "'[^']*'|\"[^\"]*\"|\\[")?.slice(1, -1);
  const order = field("fortran_order", "True|False");
  const dimensions = field("shape", "\\([\\d,\\sL]*\\)");
  if (descr === undefined || order === undefined || dimensions === undefined)
    throw new UserError(`${path}: its header does not describe an array: ${header.trim()}`);
  const shape = (dimensions.match(/\d+/g) ?? []).map(Number);
  const dtype = Object.hasOwn(DTYPES, descr) ? DTYPES[descr] : undefined;
  if (!dtype)
    throw new UserError(
      `${path} holds ${descr || "records"}; activations must be little-endian float16, float32 or float64 (<f2, <f4, <f8).`,
    );
  if (shape.length !== 2)
    throw new UserError(
      `${path} has shape (${shape.join(", ")}); activations must have shape (rows, width).`,
    );
  if (order === "True")
    throw new UserError(
      `${path} is in Fortran order; save it in C order: np.save(path, np.ascontiguousarray(x)).`,
    );
  const [rows, columns] = shape;
  const expected = offset + rows * columns * BYTES[dtype];
  if (!Number.isSafeInteger(expected) || expected !== size)
    throw new UserError(
      `${path}: an array of shape (${rows}, ${columns}) and type ${descr} needs ${expected} bytes with its header, ` +
        `the file has ${size}; it is damaged or was not copied completely.`,
    );
  return { dtype, shape: [rows, columns], offset };
}
