import { expect, test } from "vitest";

import { packRows, type PackedRow, type PackingOptions } from "./packing.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** One token per character, its code; 1 is the beginning-of-sequence token. */
const characters: Tokenizer = {
  vocabSize: 128,
  specialIds: [],
  bosId: 1,
  eosId: null,
  hash: "",
  encode: (text) => ({
    ids: Int32Array.from(text, (character) => character.codePointAt(0)!),
    starts: Int32Array.from(text, (_, i) => i),
    ends: Int32Array.from(text, (_, i) => i + 1),
  }),
  decode: (ids) => Array.from(ids, (id) => (id === 1 ? "^" : String.fromCodePoint(id))).join(""),
  tokenBytes: (id) => Uint8Array.of(id),
};
const documentsOf = (...texts: string[]) => texts.map((text, i) => ({ id: String(i), text }));

async function pack(texts: string[], options: PackingOptions): Promise<PackedRow[]> {
  const rows: PackedRow[] = [];
  const from = options.resumeAt?.document ?? 0;
  for await (const row of packRows(documentsOf(...texts).slice(from), characters, options)) {
    rows.push(row);
  }
  return rows;
}
const shown = (rows: PackedRow[]) => rows.map((row) => characters.decode(row.tokens));

test("documents follow each other; the unfinished last row is dropped or kept", async () => {
  const texts = ["abcde", "fg", "hij"];
  expect(shown(await pack(texts, { contextLength: 4, bos: "none" }))).toEqual(["abcd", "efgh"]);
  expect(shown(await pack(texts, { contextLength: 4, bos: "none", partial: true }))).toEqual([
    "abcd",
    "efgh",
    "ij",
  ]);
});

test("with the rule `document`, BOS stands before each document and nowhere else", async () => {
  const rows = await pack(["abcde", "", "fg", "hij"], {
    contextLength: 4,
    bos: "document",
    partial: true,
  });
  expect(shown(rows)).toEqual(["^abc", "de^f", "g^hi", "j"]);
  expect([...rows[1].documents]).toEqual([0, 0, -1, 2]);
  expect([...rows[1].starts]).toEqual([3, 4, 0, 0]);
  expect([...rows[1].ends]).toEqual([4, 5, 0, 1]);
});

test("with the rule `row`, BOS starts each row and stands between documents", async () => {
  const rows = (texts: string[]) => pack(texts, { contextLength: 4, bos: "row", partial: true });
  expect(shown(await rows(["abcde", "fg"]))).toEqual(["^abc", "^de^", "^fg"]);
  expect(shown(await rows(["abc", "de"]))).toEqual(["^abc", "^de"]); // one BOS where both rules ask
  expect(shown(await rows(["ab", "cde"]))).toEqual(["^ab^", "^cde"]);
});

test("resuming after any row goes on exactly as if nothing had happened", async () => {
  const texts = ["abcde", "", "f", "ghijklmno", "pq", "rstu", "v", "w", "xyz"];
  for (const bos of ["document", "row", "none"] as const) {
    for (const contextLength of [2, 3, 4, 7]) {
      const options = { contextLength, bos, partial: true };
      const whole = await pack(texts, options);
      for (const [i, row] of whole.entries()) {
        const rest = await pack(texts, { ...options, resumeAt: row.next });
        expect(rest, `${bos}, rows of ${contextLength}, after row ${i}`).toEqual(
          whole.slice(i + 1),
        );
      }
    }
  }
});

test("text without tokens, or without one whole row, is refused", async () => {
  const options = { contextLength: 8, bos: "document" } as const;
  await expect(pack([], options)).rejects.toThrow("yields no tokens (0 documents");
  await expect(pack(["", ""], options)).rejects.toThrow("yields no tokens (2 documents");
  await expect(pack(["ab", "c"], options)).rejects.toThrow(
    "3 tokens in 2 documents, less than one row of 8",
  );
});

test("rules that cannot be followed are refused", async () => {
  const none = packRows([], { ...characters, bosId: null }, { contextLength: 4, bos: "row" });
  await expect(none.next()).rejects.toThrow('use "none"');
  await expect(pack(["a"], { contextLength: 1, bos: "row" })).rejects.toThrow("at least 2; got 1");
  await expect(pack(["a"], { contextLength: 0, bos: "none" })).rejects.toThrow("at least 1; got 0");
});
