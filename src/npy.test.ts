import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { UserError } from "./error.ts";
import { readNpyHeader } from "./npy.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lens-npy-"));
});
afterAll(() => rm(folder, { recursive: true }));

/** A file as np.save writes it: the header is padded with spaces so that the data is 64-aligned. */
async function npyFile(header: string, dataBytes: number, version = 1, claimed?: number) {
  const prefix = version === 1 ? 10 : 12;
  const padded =
    header.padEnd(Math.ceil((prefix + header.length + 1) / 64) * 64 - prefix - 1) + "\n";
  const start = Buffer.alloc(prefix);
  start.write("\x93NUMPY", "latin1");
  start[6] = version;
  if (version === 1) start.writeUInt16LE(claimed ?? padded.length, 8);
  else start.writeUInt32LE(claimed ?? padded.length, 8);
  const path = join(folder, "array.npy");
  await writeFile(path, Buffer.concat([start, Buffer.from(padded), Buffer.alloc(dataBytes)]));
  return path;
}

const describeArray = (descr: string, shape: string, fortran = "False") =>
  `{'descr': '${descr}', 'fortran_order': ${fortran}, 'shape': ${shape}, }`;

describe("a .npy header", () => {
  it.each([1, 2, 3])(
    "of version %i gives type, shape and where the data starts",
    async (version) => {
      const path = await npyFile(describeArray("<f4", "(3, 5)"), 60, version);
      expect(await readNpyHeader(path)).toEqual({ dtype: "F32", shape: [3, 5], offset: 128 });
    },
  );

  it("gives the three float types", async () => {
    for (const [descr, dtype, bytes] of [
      ["<f2", "F16", 2],
      ["<f8", "F64", 8],
    ] as const) {
      const path = await npyFile(describeArray(descr, "(2, 4)"), 8 * bytes);
      expect((await readNpyHeader(path)).dtype).toBe(dtype);
    }
  });

  it.each([
    ["big-endian data", describeArray(">f4", "(2, 4)"), 32, /holds >f4/],
    ["integers", describeArray("<i4", "(2, 4)"), 32, /holds <i4/],
    ["records", "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}", 8, /records/],
    ["one dimension", describeArray("<f4", "(8,)"), 32, /shape \(8\)/],
    ["three dimensions", describeArray("<f4", "(2, 2, 2)"), 32, /shape \(2, 2, 2\)/],
    ["Fortran order", describeArray("<f4", "(2, 4)", "True"), 32, /ascontiguousarray/],
    ["too little data", describeArray("<f4", "(2, 4)"), 31, /needs 160 bytes .* has 159/],
    ["a shape beyond all files", describeArray("<f4", "(99999999999, 99999999999)"), 4, /needs/],
    ["no dictionary", "hello", 4, /does not describe an array/],
  ])("with %s is refused", async (_, header, bytes, message) => {
    const path = await npyFile(header, bytes);
    await expect(readNpyHeader(path)).rejects.toThrow(message);
    await expect(readNpyHeader(path)).rejects.toThrow(UserError);
  });

  it("that claims more than the file has is refused, as is another kind of file", async () => {
    const lying = await npyFile(describeArray("<f4", "(2, 4)"), 32, 2, 0xffffffff);
    await expect(readNpyHeader(lying)).rejects.toThrow(/claims 4294967295 bytes/);
    await writeFile(lying, "PK");
    await expect(readNpyHeader(lying)).rejects.toThrow(/not a .npy file/);
    await expect(readNpyHeader(join(folder, "none.npy"))).rejects.toThrow(/ENOENT/);
  });
});
