import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Rng } from "../rng.ts";
import { writeSafetensors } from "../safetensors-write.ts";
import { openActivations } from "./activations.ts";
import { gatherHeld, heldBlock, holdRows } from "./held-rows.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "lens-held-"));
});
afterEach(() => rm(folder, { recursive: true }));

const ROWS = 500;
const WIDTH = 7;

/** Rows of very different sizes, one of them zeros. */
function rows(): Float32Array {
  const rng = new Rng(3);
  return Float32Array.from({ length: ROWS * WIDTH }, (_, i) => {
    const row = Math.floor(i / WIDTH);
    return row === 40 ? 0 : rng.normal() * 10 ** ((row % 60) - 30);
  });
}

const decoded = (block: ReturnType<typeof heldBlock>, slots: Uint32Array) => {
  const out = new Float32Array(slots.length * WIDTH);
  gatherHeld("I8", block, WIDTH, slots, out);
  return out;
};

describe("int8 rows", () => {
  it("are within half a step of their row's scale, whatever its size", () => {
    const x = rows();
    const block = heldBlock("I8", ROWS, WIDTH);
    holdRows("I8", x, WIDTH, block);
    const back = decoded(
      block,
      Uint32Array.from({ length: ROWS }, (_, i) => i),
    );
    for (let row = 0; row < ROWS; row++) {
      const of = (values: Float32Array) => values.subarray(row * WIDTH, (row + 1) * WIDTH);
      const largest = Math.max(...of(x).map(Math.abs));
      for (let c = 0; c < WIDTH; c++)
        expect(Math.abs(of(x)[c] - of(back)[c])).toBeLessThanOrEqual(largest / 253.9);
      if (row !== 40) expect(Math.max(...of(back).map(Math.abs)) / largest).toBeCloseTo(1, 6);
    }
  });

  it("are read from a file in any order with their own scales, and beside files of other types", async () => {
    const x = rows();
    const block = heldBlock("I8", ROWS, WIDTH);
    holdRows("I8", x, WIDTH, block);
    const path = join(folder, "a.safetensors");
    await writeSafetensors(path, {
      activations: { dtype: "I8", shape: [ROWS, WIDTH], data: block.values },
      scales: { dtype: "F32", shape: [ROWS], data: block.scales },
    });
    const expected = decoded(
      block,
      Uint32Array.from({ length: ROWS }, (_, i) => i),
    );
    // A small buffer: pools from all over the file.
    const alone = await openActivations(folder);
    const seen: string[] = [];
    for await (const batch of alone.batches({
      batchSize: 25,
      seed: 1,
      shuffle: true,
      bufferRows: 100,
    })) {
      for (let r = 0; r < batch.rows; r++) seen.push(batch.data.subarray(r * WIDTH, (r + 1) * WIDTH).join()); // prettier-ignore
      if (batch.next.epoch > 0) break;
    }
    const wanted = Array.from({ length: ROWS }, (_, r) => expected.subarray(r * WIDTH, (r + 1) * WIDTH).join()); // prettier-ignore
    expect(seen).not.toEqual(wanted);
    expect(seen.toSorted()).toEqual(wanted.toSorted());

    const other = Float32Array.from({ length: WIDTH }, (_, i) => i);
    await writeSafetensors(join(folder, "b.safetensors"), {
      x: { dtype: "F16", shape: [1, WIDTH], data: other },
    });
    const both = await openActivations(folder);
    for await (const { data } of both.rowsInOrder(ROWS + 1))
      expect([...data]).toEqual([...expected, ...other]);
  });

  it("with an infinite scale are refused, naming the row", async () => {
    const data = new Int8Array(3 * WIDTH);
    await writeSafetensors(join(folder, "a.safetensors"), {
      activations: { dtype: "I8", shape: [3, WIDTH], data },
      scales: { dtype: "F32", shape: [3], data: Float32Array.of(1, Infinity, 1) },
    });
    const store = await openActivations(folder);
    const read = async () => {
      for await (const _ of store.rowsInOrder(3));
    };
    await expect(read()).rejects.toThrow(/row 1 holds NaN or an infinite value \(its scale\)/);
  });
});
