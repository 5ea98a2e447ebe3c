import { expect, test } from "vitest";

import { packTable, TextColumn, unpackTable } from "./packed-table.ts";

const rows = ["the dog", "", "Ünïcödé 🐸 frog", "THE END", "dogdog"];

test("a table of numbers and texts comes back as it was, whatever its lengths", () => {
  for (let n = 0; n <= rows.length; n++) {
    const table = unpackTable(
      packTable({
        meta: { n, note: "ä" },
        numbers: {
          a: Float32Array.from({ length: n }, (_, i) => i / 3),
          b: Int32Array.from({ length: n }, (_, i) => 7 - i),
          c: Uint8Array.from({ length: n }, (_, i) => i),
          d: Float64Array.from({ length: n }, (_, i) => Math.PI * i),
        },
        texts: { t: TextColumn.of(rows.slice(0, n)) },
      }).buffer,
    );
    expect(table.meta).toEqual({ n, note: "ä" });
    expect([...table.numbers.a]).toEqual([...Float32Array.from({ length: n }, (_, i) => i / 3)]);
    expect([...table.numbers.b]).toEqual(Array.from({ length: n }, (_, i) => 7 - i));
    expect([...table.numbers.c]).toEqual(Array.from({ length: n }, (_, i) => i));
    expect([...table.numbers.d]).toEqual(Array.from({ length: n }, (_, i) => Math.PI * i));
    expect(Array.from({ length: n }, (_, i) => table.texts.t.at(i))).toEqual(rows.slice(0, n));
  }
});

test("a search finds each row once, in any case, and no text across two rows", () => {
  const found = (part: string, of = rows) => {
    const hits: number[] = [];
    TextColumn.of(of).search(part, (row) => hits.push(row));
    return hits;
  };
  expect(found("dog")).toEqual([0, 4]);
  expect(found("the")).toEqual([0, 3]);
  expect(found("🐸")).toEqual([2]);
  expect(found("enddog")).toEqual([]);
  expect(found("ab", ["xa", "b", "ab"])).toEqual([2]);
  expect(found("")).toEqual([]);
  // İ has two characters in lower case.
  expect(found("x", ["İİx", "ax", "b"])).toEqual([0, 1]);
});

test("bytes that are no table, or cut off anywhere, are refused", () => {
  const whole = packTable({
    meta: {},
    numbers: { a: Float32Array.of(1, 2, 3) },
    texts: { t: TextColumn.of(rows) },
  });
  const { length } = whole;
  for (let n = 0; n < length; n += 3)
    expect(() => unpackTable(whole.slice(0, n).buffer)).toThrow(/no table of columns/);
  expect(() => unpackTable(new TextEncoder().encode("not a table at all").buffer)).toThrow(
    /no table of columns/,
  );
});
