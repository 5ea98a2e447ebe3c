import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";

import { UserError } from "./error.ts";
import { f32ToBf16 } from "./float-types.ts";
import { hashBytes, hashFile } from "./file-hash.ts";
import { Safetensors } from "./safetensors.ts";
import { writeSafetensors } from "./safetensors-write.ts";

const folder = await mkdtemp(join(tmpdir(), "lens-safetensors-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

let files = 0;
/** A file with the given header and data; `headerLength` overrides the true length of the header. */
async function fileWith(header: unknown, data: Uint8Array, headerLength?: number): Promise<string> {
  const path = join(folder, `made-${files++}.safetensors`);
  const json = new TextEncoder().encode(
    typeof header === "string" ? header : JSON.stringify(header),
  );
  const length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(headerLength ?? json.length), true);
  await writeFile(path, Buffer.concat([length, json, data]));
  return path;
}

async function refusal(path: string): Promise<string> {
  try {
    await (await Safetensors.open(path)).close();
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return (error as Error).message;
  }
  throw new Error(`${path} was accepted`);
}

describe("a safetensors file", () => {
  test("what is written is read back, in every type, whole or by rows", async () => {
    const path = join(folder, "round", "trip.safetensors");
    const values = Float32Array.of(1, -0.5, 3.25, 1e-3, 100, -7);
    const written = await writeSafetensors(
      path,
      {
        half: { dtype: "F16", shape: [3, 2], data: values },
        ids: { dtype: "I32", shape: [2], data: Int32Array.of(-1, 2 ** 31 - 1) },
        exact: { dtype: "F32", shape: [3, 2], data: values },
        brain: { dtype: "BF16", shape: [6], data: f32ToBf16(values) },
        empty: { dtype: "F32", shape: [0, 4], data: new Float32Array(0) },
      },
      { format: "pt", note: "ü" },
    );
    const bytes = await readFile(path);
    expect(written.bytes).toBe(bytes.length);
    expect(written.xxh64).toBe(await hashFile(path));
    expect(written.xxh64).toBe(await hashBytes(bytes));
    expect(await readdir(join(folder, "round"))).toEqual(["trip.safetensors"]);

    const file = await Safetensors.open(path);
    expect(file.metadata).toEqual({ format: "pt", note: "ü" });
    expect(await file.floats("exact")).toEqual(values);
    expect(await file.floats("exact", [1, 3])).toEqual(values.slice(2));
    expect(await file.floats("half", [2, 3])).toEqual(Float32Array.of(100, -7));
    expect((await file.floats("half"))[3]).toBeCloseTo(1e-3, 6);
    expect((await file.floats("brain"))[3]).toBeCloseTo(1e-3, 5);
    expect(await file.ints("ids")).toEqual(Int32Array.of(-1, 2 ** 31 - 1));
    expect(await file.floats("empty")).toHaveLength(0);
    for (const info of file.tensors.values()) expect(info.offset % 4 === 0).toBe(true);
    await expect(file.floats("exact", [2, 4])).rejects.toThrow("rows 2 to 4 of exact");
    await expect(file.floats("ids")).rejects.toThrow("dtype I32");
    await expect(file.floats("nothing")).rejects.toThrow("no tensor named nothing");
    await file.close();
  });

  test("a value too large for f16 stops the write, is named, and leaves no file", async () => {
    const path = join(folder, "overflow", "x.safetensors");
    const data = Float32Array.of(1, 70000);
    await expect(
      writeSafetensors(path, { acts: { dtype: "F16", shape: [2], data } }),
    ).rejects.toThrow(/tensor acts: element 1 is 70000, too large for F16.*bf16 or f32/);
    expect(await readdir(join(folder, "overflow"))).toEqual([]);
    await writeSafetensors(path, { acts: { dtype: "BF16", shape: [2], data } });
    expect(await readdir(join(folder, "overflow"))).toEqual(["x.safetensors"]);
  });

  test("an older file survives a write that fails", async () => {
    const path = join(folder, "kept.safetensors");
    const one = { dtype: "F32", shape: [1], data: Float32Array.of(1) } as const;
    await writeSafetensors(path, { x: one });
    const before = await hashFile(path);
    const huge = { dtype: "F16", shape: [1], data: Float32Array.of(1e6) } as const;
    await expect(writeSafetensors(path, { x: huge })).rejects.toThrow(UserError);
    expect(await hashFile(path)).toBe(before);
  });
});

describe("a damaged or lying file is refused with its name and the value seen", () => {
  const tensor = (offsets: unknown, dtype: unknown = "F32", shape: unknown = [2]) => ({
    dtype,
    shape,
    data_offsets: offsets,
  });
  const eight = new Uint8Array(8);

  test("missing, empty and cut before the header's length", async () => {
    expect(await refusal(join(folder, "none.safetensors"))).toContain("does not exist");
    const path = join(folder, "stub.safetensors");
    await writeFile(path, "1234");
    expect(await refusal(path)).toMatch(/stub\.safetensors: it has 4 bytes/);
    expect(await refusal(folder)).toMatch(/readable file|not a file/);
  });

  test("a truncated header and a truncated tensor", async () => {
    expect(await refusal(await fileWith({ x: tensor([0, 8]) }, eight, 5000))).toMatch(
      /header claims 5000 bytes in a file of \d+.*fetch or write it again/,
    );
    expect(await refusal(await fileWith({ x: tensor([0, 8]) }, eight.subarray(3)))).toMatch(
      /tensor x ends at byte \d+ of a file of \d+/,
    );
    expect(await refusal(await fileWith("{", eight, 2 ** 52))).toContain("header claims");
  });

  test("a header that is not what it should be", async () => {
    expect(await refusal(await fileWith('{"x":', eight))).toContain("not JSON");
    expect(await refusal(await fileWith("[1, 2]", eight))).toContain("not a JSON object");
    expect(await refusal(await fileWith({ x: tensor([0, 8], "F31") }, eight))).toContain(
      'dtype "F31", not one of F64, F32',
    );
    expect(await refusal(await fileWith({ x: tensor([0, 8], "F32", [-2]) }, eight))).toContain(
      "shape [-2]",
    );
    expect(await refusal(await fileWith({ x: tensor([8, 0]) }, eight))).toContain(
      "data_offsets [8,0]",
    );
    expect(await refusal(await fileWith({ x: 3 }, eight))).toContain("dtype undefined");
  });

  test("offsets that do not fit the shape, or overlap", async () => {
    expect(await refusal(await fileWith({ x: tensor([0, 8], "F32", [3]) }, eight))).toContain(
      "tensor x (F32 [3]) needs 12 bytes, but its data_offsets span 8",
    );
    const both = { a: tensor([0, 8]), b: tensor([4, 12]) };
    expect(await refusal(await fileWith(both, new Uint8Array(12)))).toContain(
      "tensors a and b overlap",
    );
  });
});

describe("a sharded checkpoint", () => {
  test("is read through its index", async () => {
    const one = { dtype: "F32", shape: [1], data: Float32Array.of(1) } as const;
    const two = { dtype: "F32", shape: [1], data: Float32Array.of(2) } as const;
    await writeSafetensors(join(folder, "s", "a-1.safetensors"), { one });
    await writeSafetensors(join(folder, "s", "a-2.safetensors"), { two });
    const index = join(folder, "s", "a.safetensors.index.json");
    const map = { one: "a-1.safetensors", two: "a-2.safetensors" };
    await writeFile(index, JSON.stringify({ weight_map: map }));
    const checkpoint = await Safetensors.open(index);
    expect(checkpoint.files).toHaveLength(2);
    expect((await checkpoint.floats("one"))[0] + (await checkpoint.floats("two"))[0]).toBe(3);
    await checkpoint.close();

    await writeFile(index, JSON.stringify({ weight_map: { ...map, one: "a-2.safetensors" } }));
    expect(await refusal(index)).toContain("says one is in a-2.safetensors");
    await writeFile(index, JSON.stringify({ weight_map: { one: "gone.safetensors" } }));
    expect(await refusal(index)).toContain("gone.safetensors does not exist");
  });

  test("whose index names a file elsewhere is refused", async () => {
    const index = join(folder, "bad.safetensors.index.json");
    for (const name of ["../x.safetensors", "/etc/x.safetensors", "C:\\x.safetensors", "x", 3]) {
      await writeFile(index, JSON.stringify({ weight_map: { w: name } }));
      expect(await refusal(index)).toContain("not a file beside it");
    }
    await writeFile(index, "{}");
    expect(await refusal(index)).toContain('no "weight_map"');
  });
});
