import { describe, expect, it } from "vitest";
import { memorySource, splitSource, type Cursor } from "./activation-source.ts";
import type { BatchOptions, RowSource } from "./activation-source.ts";
import { UserError } from "./error.ts";
import { Rng } from "./rng.ts";
import { mixedOrder } from "./row-order.ts";

/** Rows that name themselves: row i is [i, -i]. */
const numbered = (rows: number) =>
  memorySource(
    Float32Array.from({ length: rows * 2 }, (_, i) => (i % 2 ? -(i >> 1) : i >> 1)),
    2,
  );

const options: BatchOptions = { batchSize: 64, seed: 7, shuffle: true, bufferRows: 1000 };

async function take(source: RowSource, batches: number, from: Partial<BatchOptions> = {}) {
  const taken: { rows: number[]; next: Cursor }[] = [];
  for await (const batch of source.batches({ ...options, ...from })) {
    const rows = Array.from({ length: batch.rows }, (_, i) => batch.data[2 * i]);
    expect(rows.every((row, i) => batch.data[2 * i + 1] === -row)).toBe(true);
    taken.push({ rows, next: batch.next });
    if (taken.length === batches) break;
  }
  return taken;
}

const ascending = (rows: number) => Array.from({ length: rows }, (_, i) => i);
const sorted = (rows: number[]) => rows.toSorted((a, b) => a - b);

describe("the order of an epoch", () => {
  it.each([
    ["a buffer that holds everything", 1000, 1000],
    ["a buffer a little too small", 1000, 999],
    ["a small buffer", 4321, 100],
    ["blocks of several rows, the last one short", 50_001, 6_000],
    ["a buffer of one row", 10, 1],
    ["a single row", 1, 8],
  ])("serves every row exactly once with %s", async (_, rows, bufferRows) => {
    for (const shuffle of [true, false]) {
      const batches = await take(numbered(rows), Math.ceil(rows / 64), { bufferRows, shuffle });
      const served = batches.flatMap((batch) => batch.rows);
      expect(sorted(served)).toEqual(ascending(rows));
      expect(batches.slice(0, -1).every((batch) => batch.rows.length === 64)).toBe(true);
      expect(batches.at(-1)!.next).toEqual({ epoch: 1, row: 0 });
    }
  });

  it("never holds more rows than the buffer", () => {
    for (const mixing of ["store", "window"] as const)
      for (const [rows, bufferRows] of [
        [4321, 100],
        [50_001, 6_000],
        [300_000, 262_144],
      ])
        for (const pool of mixedOrder({
          rows,
          bufferRows,
          mixing,
          seed: 1,
          epoch: 0,
          shuffle: true,
        }))
          expect(pool.rows).toBeLessThanOrEqual(bufferRows);
  });

  it("is the stored order when nothing is shuffled", async () => {
    const batches = await take(numbered(200), 4, { shuffle: false, bufferRows: 33 });
    expect(batches.flatMap((batch) => batch.rows)).toEqual(ascending(200));
  });

  it.each([1000, 3000])("goes on from any cursor as if never stopped (%i rows)", async (rows) => {
    const undisturbed = await take(numbered(rows), 100);
    for (let stop = 0; stop < 99; stop += 7) {
      const resumed = await take(numbered(rows), 99 - stop, { from: undisturbed[stop].next });
      expect(resumed).toEqual(undisturbed.slice(stop + 1));
    }
  });

  it("differs between epochs and between seeds, and not between calls", async () => {
    const epoch = (seed: number, number: number) =>
      take(numbered(3000), 47, { seed, from: { epoch: number, row: 0 } });
    expect(await epoch(1, 0)).toEqual(await epoch(1, 0));
    const first = (await epoch(1, 0)).map((batch) => batch.rows);
    expect((await epoch(1, 1)).map((batch) => batch.rows)).not.toEqual(first);
    expect((await epoch(2, 0)).map((batch) => batch.rows)).not.toEqual(first);
  });

  it("is a uniform permutation when everything fits", () => {
    // Each of 4! orders of four rows should come up 100 times in 2400 epochs.
    const counts = new Map<string, number>();
    for (let epoch = 0; epoch < 2400; epoch++) {
      const [pool] = mixedOrder({
        ...{ rows: 4, bufferRows: 4, seed: 3, epoch, shuffle: true, mixing: "store" },
      });
      const key = pool.order.join();
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    expect(counts.size).toBe(24);
    const chiSquare = [...counts.values()].reduce((sum, n) => sum + (n - 100) ** 2 / 100, 0);
    expect(chiSquare).toBeLessThan(49.7); // 23 degrees of freedom, p = 0.001
  });
});

describe("mixing", () => {
  /** Σ over batches of z², z = (batch mean - mean) in standard errors of a random sample. */
  async function chiSquareOfBatchMeans(rows: number, bufferRows: number, batchSize: number) {
    const mean = (rows - 1) / 2;
    const variance = (rows * rows - 1) / 12;
    const batches = await take(numbered(rows), Math.floor(rows / batchSize), {
      bufferRows,
      batchSize,
      shuffle: true,
    });
    const z = batches.map(
      (batch) =>
        (batch.rows.reduce((a, b) => a + b, 0) / batchSize - mean) /
        Math.sqrt((variance / batchSize) * ((rows - batchSize) / (rows - 1))),
    );
    return { perBatch: z.reduce((sum, v) => sum + v * v, 0) / z.length, batches: z.length };
  }

  // z² has mean 1 and variance 2 for independent random samples, so the mean of n of them stays
  // below 1 + 3.1·√(2/n) with probability 0.999. The rows are sorted: the hardest case.
  it.each([
    ["one row per block", 40_000, 4_000, 50],
    ["blocks of 8 rows", 200_000, 16_384, 256],
    ["blocks of 128 rows", 900_000, 262_144, 2048],
  ])("strays no further than random samples on sorted rows, %s", async (_, rows, buffer, batch) => {
    const { perBatch, batches } = await chiSquareOfBatchMeans(rows, buffer, batch);
    expect(perBatch).toBeLessThan(1 + 3.1 * Math.sqrt(2 / batches));
  });

  it("would be caught if pools were just consecutive rows", async () => {
    const source = numbered(40_000);
    const rng = new Rng(1);
    let worst = 0;
    for await (const block of source.rowsInOrder(4_000)) {
      const order = rng.shuffle(ascending(block.rows)).slice(0, 50);
      const mean = order.reduce((sum, i) => sum + block.data[2 * i], 0) / 50;
      worst = Math.max(worst, Math.abs(mean - 19_999.5) / (40_000 / Math.sqrt(12 * 50)));
    }
    expect(worst).toBeGreaterThan(5);
  });

  it("takes neighbours apart: pairs from one place are as rare in a batch as chance allows", async () => {
    const rows = 100_000;
    const [batch] = await take(numbered(rows), 1, { batchSize: 1000, bufferRows: 20_000 });
    const near = sorted(batch.rows);
    let pairs = 0;
    for (let i = 0; i < near.length; i++)
      for (let j = i + 1; j < near.length && near[j] - near[i] < 9; j++) pairs++;
    // Blocks of 9 rows out of a pool of a fifth of the store: at most 1000²/2 · 8/20000 ≈ 200
    // pairs share a block; a uniform sample of the store would have about 80 within 8 rows.
    expect(pairs).toBeLessThan(300);
  });
});

describe("mixing in windows", () => {
  it("takes the rows of one window after the other, each window in an order of its own", async () => {
    const batches = await take(numbered(1000), 16, { bufferRows: 300, mixing: "window" });
    const served = batches.flatMap(({ rows }) => rows);
    for (let start = 0; start < 1000; start += 300) {
      const window = served.slice(start, start + 300);
      expect(sorted(window)).toEqual(sorted(ascending(1000).slice(start, start + 300)));
      expect(window).not.toEqual(sorted(window));
    }
  });

  it("goes on from a cursor as if it had never stopped", async () => {
    const order = { bufferRows: 300, mixing: "window" as const };
    const whole = await take(numbered(1000), 40, order);
    for (const at of [1, 7, 15, 20])
      expect(await take(numbered(1000), 20, { ...order, from: whole[at - 1].next })).toEqual(
        whole.slice(at, at + 20),
      );
  });
});

describe("a limit", () => {
  it.each([1, 4, 5, 16, 17, 40])("of %i batches changes none of them", async (limit) => {
    for (const bufferRows of [300, 1000]) {
      const whole = await take(numbered(1000), 40, { bufferRows });
      expect(await take(numbered(1000), 41, { bufferRows, limit })).toEqual(whole.slice(0, limit));
      const from = whole[9].next;
      expect(await take(numbered(1000), 41, { bufferRows, limit: 10, from })).toEqual(
        whole.slice(10, 20),
      );
    }
  });
});

describe("rows in memory", () => {
  it("come back in stored order, in blocks", async () => {
    const seen: number[] = [];
    for await (const block of numbered(70_000).rowsInOrder(999)) {
      expect(block.first).toBe(seen.length);
      for (let i = 0; i < block.rows; i++) seen.push(block.data[2 * i]);
    }
    expect(seen).toEqual(ascending(70_000));
  });

  it("refuse data that is no whole number of rows", () => {
    expect(() => memorySource(new Float32Array(5), 2)).toThrow(UserError);
    expect(() => memorySource(new Float32Array(0), 2)).toThrow(/at least one row/);
  });

  it("hold out the last rows for validation", async () => {
    const { train, validation } = splitSource(numbered(100), 0.05);
    expect([train.rows, validation!.rows]).toEqual([95, 5]);
    expect(validation!.provenance).toEqual({ from: "memory", rowRange: [95, 100] });
    const [held] = await take(validation!, 1);
    expect(sorted(held.rows)).toEqual([95, 96, 97, 98, 99]);
    const trained = await take(train, 2);
    expect(sorted(trained.flatMap((batch) => batch.rows))).toEqual(ascending(95));
    expect(() => splitSource(numbered(1), 0.5)).toThrow(/leaves none/);
    expect(splitSource(numbered(3), 0).validation).toBeUndefined();
  });

  it("refuse a cursor that lies beyond them", async () => {
    await expect(take(numbered(10), 1, { from: { epoch: 0, row: 11 } })).rejects.toThrow(
      /only 10 rows/,
    );
  });
});
