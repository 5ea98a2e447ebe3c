import { setImmediate } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { rowSource, type Batch, type RowReader } from "./activation-source.ts";
import { UserError } from "./error.ts";
import type { RowRange } from "./row-order.ts";

const ROWS = 1000;
const ORDER = { batchSize: 20, seed: 3, shuffle: true, bufferRows: 200 };

interface SlowRows {
  rows?: number;
  failAt?: number;
  mixing?: "window";
}

/**
 * Numbered rows of width 1, loaded slowly, later ones sooner, with a record of what was done; `failAt`
 * is a row that cannot be read.
 */
function slowRows({ rows: all = ROWS, failAt = -1, mixing }: SlowRows = {}) {
  const record = { loaded: 0, under: 0, mostUnder: 0, capacity: 0, overwritten: 0, closed: 0 };
  const reader: RowReader = {
    dIn: 1,
    rows: all,
    mixing,
    hold(rows) {
      record.capacity = rows;
      const held = new Float32Array(rows).fill(-1);
      const served = new Set<number>();
      return {
        async load(ranges: readonly RowRange[], slots) {
          record.mostUnder = Math.max(record.mostUnder, ++record.under);
          const turns = Math.max(1, 4 - record.under);
          for (let i = 0; i < turns; i++) await setImmediate();
          record.under--;
          let at = 0;
          for (const { start, end } of ranges)
            for (let row = start; row < end; row++) {
              if (row === failAt) throw new UserError(`row ${row} is damaged`);
              if (held[slots[at]] >= 0 && !served.delete(held[slots[at]])) record.overwritten++;
              held[slots[at++]] = row;
              record.loaded++;
            }
        },
        gather(slots, out) {
          slots.forEach((slot, i) => {
            out[i] = held[slot];
            served.add(held[slot]);
          });
        },
        close: () => Promise.resolve(void record.closed++),
      };
    },
  };
  return { source: rowSource(reader, {}), record };
}

const next = async (batches: AsyncIterator<Batch>) => (await batches.next()).value as Batch;

describe("reading ahead", () => {
  it("never overwrites a row that was not served, and holds no more than the buffer", async () => {
    const { source, record } = slowRows();
    let served = 0;
    for await (const { data, next } of source.batches(ORDER)) {
      expect(data.every((row) => row >= 0)).toBe(true);
      served += data.length;
      expect(record.loaded - served).toBeLessThanOrEqual(ORDER.bufferRows);
      if (next.epoch === 3) break;
    }
    expect(served).toBe(3 * ROWS);
    expect(record).toMatchObject({ overwritten: 0, capacity: ORDER.bufferRows });
  });

  it("has the next pool in memory when its turn comes, but for the last batch", async () => {
    const { source, record } = slowRows();
    const batches = source.batches(ORDER)[Symbol.asyncIterator]();
    for (let batch = 1; batch <= 40; batch++) {
      await next(batches);
      for (let i = 0; i < 5; i++) await setImmediate(); // the step
      const served = batch * ORDER.batchSize;
      // A pool of fewer rows than the buffer leaves room for some of the one after the next.
      expect(record.loaded).toBeGreaterThanOrEqual(Math.min(ROWS, served + 180));
    }
    await batches.return?.();
  });

  it("does not move the cursor: batches say where the stream goes on after them", async () => {
    const { source } = slowRows();
    const batches = source.batches(ORDER)[Symbol.asyncIterator]();
    const first = await next(batches);
    for (let i = 0; i < 20; i++) await setImmediate();
    expect(first.next).toEqual({ epoch: 0, row: 20 });
    const second = Array.from((await next(batches)).data);
    await batches.return?.();
    const resumed = slowRows().source.batches({ ...ORDER, from: first.next });
    expect(Array.from((await next(resumed[Symbol.asyncIterator]())).data)).toEqual(second);
  });

  it("reports what failed when its pool's turn comes, after the batches before it", async () => {
    const whole = slowRows();
    const order: number[] = [];
    for await (const { data, next } of whole.source.batches(ORDER)) {
      order.push(...data);
      if (next.epoch > 0) break;
    }
    const failAt = order[ROWS - 1]; // of the last pool
    const batches = slowRows({ failAt }).source.batches(ORDER)[Symbol.asyncIterator]();
    for (let batch = 0; batch < 40; batch++) {
      const { data } = await next(batches);
      expect(Array.from(data)).toEqual(order.slice(batch * 20, (batch + 1) * 20));
      for (let i = 0; i < 5; i++) await setImmediate();
    }
    await expect(batches.next()).rejects.toThrow(`row ${failAt} is damaged`);
    expect(await batches.next()).toMatchObject({ done: true });
  });

  it("ends with the iterator: nothing is read after its return has resolved", async () => {
    const { source, record } = slowRows();
    const batches = source.batches(ORDER)[Symbol.asyncIterator]();
    await next(batches);
    await setImmediate();
    await batches.return?.();
    expect(record.under).toBe(0);
    const { loaded } = record;
    for (let i = 0; i < 20; i++) await setImmediate();
    expect(record.loaded).toBe(loaded);
  });

  it("reads no pool that begins after the last batch wanted", async () => {
    const { source, record } = slowRows();
    const order = { ...ORDER, mixing: "window" as const, limit: 21 };
    let served = 0;
    for await (const { rows } of source.batches(order)) {
      served += rows;
      for (let i = 0; i < 5; i++) await setImmediate();
    }
    expect(served).toBe(420);
    expect(record.loaded).toBe(600);
  });

  it("reads what a few first batches came from once, for those and the stream that goes on", async () => {
    const { source, record } = slowRows();
    const order = { ...ORDER, mixing: "window" as const };
    const all = async (limit: number) => {
      const rows: number[] = [];
      for await (const { data } of source.batches({ ...order, limit })) rows.push(...data);
      return rows;
    };
    const few = await all(8);
    expect(await all(8)).toEqual(few);
    expect(record.loaded).toBe(200);
    const whole = await all(50);
    expect(whole.slice(0, few.length)).toEqual(few);
    expect(whole.toSorted((a, b) => a - b)).toEqual([...Array(ROWS).keys()]);
    expect(record).toMatchObject({ loaded: ROWS, capacity: ORDER.bufferRows });
    expect((await all(50)).length).toBe(ROWS);
    expect(record.loaded).toBe(2 * ROWS);
  });
});

describe("reading in stored order", () => {
  const rows = 100_001;

  it.each([1000, 4096, 5000, 50_000])(
    "serves every row once, %i at a time, several reads under way",
    async (blockRows) => {
      const { source, record } = slowRows({ rows });
      let served = 0;
      for await (const { data, first, rows: count } of source.rowsInOrder(blockRows)) {
        expect(first).toBe(served);
        expect(count).toBe(Math.min(blockRows, rows - served));
        expect(data.length).toBe(count);
        expect(data.every((row, i) => row === first + i)).toBe(true);
        served += count;
      }
      expect(served).toBe(rows);
      expect(record).toMatchObject({ loaded: rows, overwritten: 0, closed: 1 });
      expect(record.mostUnder).toBeGreaterThan(1);
      expect(record.capacity).toBeLessThan(rows + blockRows);
    },
  );

  it("reads one part after the other, ahead, where rows come in no other way", async () => {
    const { source, record } = slowRows({ rows, mixing: "window" });
    let served = 0;
    for await (const { rows: count } of source.rowsInOrder(4096)) {
      served += count;
      for (let i = 0; i < 8; i++) await setImmediate(); // work on the block
      expect(record.loaded).toBeGreaterThanOrEqual(Math.min(rows, served + 4096));
    }
    expect(served).toBe(rows);
    expect(record.mostUnder).toBe(1);
  });

  it("reports what failed after the blocks before it, and reads no more", async () => {
    const { source, record } = slowRows({ rows, failAt: 10_000 });
    let served = 0;
    const all = async () => {
      for await (const { rows: count } of source.rowsInOrder(2048)) served += count;
    };
    await expect(all()).rejects.toThrow("row 10000 is damaged");
    expect(served).toBe(8192);
    expect(record).toMatchObject({ under: 0, closed: 1 });
  });

  it("ends with the iterator: nothing is read after its return has resolved", async () => {
    const { source, record } = slowRows({ rows });
    for await (const block of source.rowsInOrder(1000)) {
      expect(block.first).toBe(0);
      break;
    }
    expect(record).toMatchObject({ under: 0, closed: 1 });
    const { loaded } = record;
    for (let i = 0; i < 20; i++) await setImmediate();
    expect(record.loaded).toBe(loaded);
  });
});
