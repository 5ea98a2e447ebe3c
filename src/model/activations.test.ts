import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { memorySource, splitSource, type RowSource } from "../activation-source.ts";
import { UserError } from "../error.ts";
import { Rng } from "../rng.ts";
import { writeSafetensors } from "../safetensors-write.ts";
import { openActivations } from "./activations.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "lens-activations-"));
});
afterEach(() => rm(folder, { recursive: true }));

const at = (name: string) => join(folder, name);

/** Multiples of 1/8 up to 127/8: seven bits, exact in every float type. */
function exact(rows: number, dIn: number, seed = 1): Float32Array {
  const rng = new Rng(seed);
  return Float32Array.from({ length: rows * dIn }, () => (rng.int(255) - 127) / 8);
}

async function write(name: string, dtype: "F32" | "F16" | "BF16", rows: Float32Array, dIn: number) {
  const tensor = { dtype, shape: [rows.length / dIn, dIn], data: rows };
  await writeSafetensors(at(name), { activations: tensor });
}

async function writeNpy(name: string, descr: string, data: ArrayBufferView, dIn: number) {
  const rows = data.byteLength / (dIn * Number(descr[2]));
  const header = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${rows}, ${dIn}), }`;
  const start = Buffer.alloc(10);
  start.write("\x93NUMPY\x01", "latin1");
  start.writeUInt16LE(118, 8);
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  await writeFile(at(name), Buffer.concat([start, Buffer.from(header.padEnd(117) + "\n"), bytes]));
}

async function inOrder(source: RowSource, blockRows = 7): Promise<Float32Array> {
  const all = new Float32Array(source.rows * source.dIn);
  for await (const block of source.rowsInOrder(blockRows))
    all.set(block.data, block.first * source.dIn);
  return all;
}

async function batches(source: RowSource, count: number, bufferRows: number) {
  const taken: number[][] = [];
  const options = { batchSize: 32, seed: 5, shuffle: true, bufferRows };
  for await (const batch of source.batches(options)) {
    taken.push([...batch.data]);
    if (taken.length === count) return taken;
  }
  return taken;
}

describe("activations made elsewhere", () => {
  it("are the rows of all files in the order of their names, whatever their types", async () => {
    const parts = [1, 2, 3, 4, 5].map((seed) => exact(10 * seed, 3, seed));
    await write("a.safetensors", "F16", parts[0], 3);
    await write("b.safetensors", "BF16", parts[1], 3);
    await write("c.safetensors", "F32", parts[2], 3);
    await writeNpy("d.npy", "<f4", parts[3], 3);
    await writeNpy("e.npy", "<f8", Float64Array.from(parts[4]), 3);
    await writeFile(at("notes.txt"), "not activations");
    const store = await openActivations(folder);
    expect([store.rows, store.dIn]).toEqual([150, 3]);
    expect(await inOrder(store)).toEqual(Float32Array.from(parts.flatMap((part) => [...part])));
    await expect(store.tokens()).rejects.toThrow(/no tokens/);
  });

  it.each(["F32", "F16", "BF16"] as const)(
    "of type %s come in the same order as from memory, through any buffer",
    async (dtype) => {
      const rows = exact(1000, 5);
      await write("0.safetensors", dtype, rows.subarray(0, 1500), 5);
      await write("1.safetensors", dtype, rows.subarray(1500), 5);
      const store = await openActivations(folder);
      for (const bufferRows of [50, 300, 5000])
        expect(await batches(store, 70, bufferRows)).toEqual(
          await batches(memorySource(rows, 5), 70, bufferRows),
        );
    },
  );

  it("may be one file, and one of several tensors in it", async () => {
    const tensor = (rows: number) => ({
      dtype: "F32" as const,
      shape: [rows, 2],
      data: exact(rows, 2),
    });
    await writeSafetensors(at("x.safetensors"), { inputs: tensor(4), outputs: tensor(6) });
    expect((await openActivations(at("x.safetensors"), { tensor: "outputs" })).rows).toBe(6);
    await expect(openActivations(folder)).rejects.toThrow(
      /2 two-dimensional tensors .*inputs, outputs/,
    );
    await expect(openActivations(folder, { tensor: "input" })).rejects.toThrow(/no tensor named/);
  });

  it("can be split, the last rows for validation", async () => {
    const rows = exact(100, 2);
    await write("a.safetensors", "F16", rows, 2);
    const { train, validation } = splitSource(await openActivations(folder), 0.1);
    expect(await inOrder(train)).toEqual(rows.subarray(0, 180));
    expect(await inOrder(validation!)).toEqual(rows.subarray(180));
  });

  it("are known by a fingerprint that changes with them", async () => {
    const rows = exact(10, 2);
    await write("a.safetensors", "F32", rows, 2);
    const before = (await openActivations(folder)).provenance;
    expect(before).toMatchObject({ from: "folder", files: [{ name: "a.safetensors" }] });
    expect((await openActivations(folder)).provenance).toEqual(before);
    rows[7] += 1;
    await write("a.safetensors", "F32", rows, 2);
    expect((await openActivations(folder)).provenance).not.toEqual(before);
  });

  it("of different widths are refused, with both", async () => {
    await write("a.safetensors", "F32", exact(4, 3), 3);
    await writeNpy("b.npy", "<f4", exact(4, 2), 2);
    await expect(openActivations(folder)).rejects.toThrow(
      /a\.safetensors has activations of width 3.*b\.npy of width 2/,
    );
  });

  it.each(["F32", "F16", "BF16", "<f8"] as const)(
    "with NaN or infinity in %s stop the reading, with file and row",
    async (dtype) => {
      for (const value of [NaN, Infinity, -Infinity]) {
        const rows = exact(50, 4);
        rows[33 * 4 + 2] = value;
        await write("a.safetensors", "F32", exact(5, 4), 4);
        if (dtype === "<f8") await writeNpy("b.npy", dtype, Float64Array.from(rows), 4);
        else await write("b.safetensors", dtype, rows, 4);
        const reading = openActivations(folder).then((store) => inOrder(store));
        await expect(reading).rejects.toThrow(/b\.(safetensors|npy): row 33 .*column 2/);
        await expect(reading).rejects.toThrow(UserError);
      }
    },
  );

  it("that are missing, empty or cut off are refused", async () => {
    await expect(openActivations(at("nowhere"))).rejects.toThrow(/does not exist/);
    await expect(openActivations(folder)).rejects.toThrow(/holds no \.safetensors or \.npy/);
    await writeSafetensors(at("a.safetensors"), {
      x: { dtype: "F32", shape: [0, 4], data: new Float32Array(0) },
    });
    await expect(openActivations(folder)).rejects.toThrow(/holds no rows/);
    await writeFile(at("a.safetensors"), "short");
    await expect(openActivations(folder)).rejects.toThrow(UserError);
  });
});
