import { expect, test } from "vitest";

import { NO_TEXT, packRows, type PackedRow, type PackingOptions } from "./packing.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** One token per character, its code; 1 is the beginning-of-sequence token, written "^". */
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
  decode: (ids) => Array.from(ids, (id) => ["$", "^"][id] ?? String.fromCodePoint(id)).join(""),
  tokenBytes: (id) => Uint8Array.of(id),
};
/** The same with an end-of-sequence token, written "$". */
const withEnd: Tokenizer = { ...characters, eosId: 0 };
const documentsOf = (...texts: string[]) => texts.map((text, i) => ({ id: String(i), text }));

async function pack(
  texts: string[],
  options: PackingOptions,
  tokenizer = characters,
): Promise<PackedRow[]> {
  const rows: PackedRow[] = [];
  const from = options.resumeAt?.document ?? 0;
  for await (const row of packRows(documentsOf(...texts).slice(from), tokenizer, options)) {
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

test("EOS stands behind every document that has tokens, and is none of its text", async () => {
  const rules = { contextLength: 4, eos: true, partial: true };
  const texts = ["abcde", "", "fg"];
  const rows = await pack(texts, { ...rules, bos: "document" }, withEnd);
  expect(shown(rows)).toEqual(["^abc", "de$^", "fg$"]);
  expect([...rows[1].documents]).toEqual([0, 0, NO_TEXT.eos, NO_TEXT.bos]);
  expect([...rows[1].ends]).toEqual([4, 5, 0, 0]);
  expect(shown(await pack(texts, { ...rules, bos: "row" }, withEnd))).toEqual([
    ...["^abc", "^de$", "^fg$"],
  ]);
  expect(shown(await pack(texts, { ...rules, bos: "none" }, withEnd))).toEqual(["abcd", "e$fg", "$"]); // prettier-ignore
});

test("EOS that is BOS too stands between documents once", async () => {
  const same = { ...characters, eosId: characters.bosId };
  for (const bos of ["document", "row"] as const) {
    const rules = { contextLength: 4, bos, partial: true };
    const plain = await pack(["abcde", "fg"], rules);
    expect(await pack(["abcde", "fg"], { ...rules, eos: true }, same)).toEqual(plain);
  }
  const alone = { contextLength: 4, bos: "none", eos: true, partial: true } as const;
  expect(shown(await pack(["abc", "d"], alone, same))).toEqual(["abc^", "d^"]);
});

test("separate documents have rows of their own, filled with padding that is no text", async () => {
  const rules = { contextLength: 4, packing: "separate" } as const;
  const texts = ["abcde", "", "fg", "hijk"];
  const rows = await pack(texts, { ...rules, bos: "document", eos: true }, withEnd);
  expect(shown(rows)).toEqual(["^abc", "de$$", "^fg$", "^hij", "k$$$"]);
  expect(rows.map(({ used }) => used)).toEqual([4, 3, 4, 4, 2]);
  expect([...rows[1].documents]).toEqual([0, 0, NO_TEXT.eos, NO_TEXT.padding]);
  expect(shown(await pack(texts, { ...rules, bos: "row" }, withEnd))).toEqual([
    ...["^abc", "^de$", "^fg$", "^hij", "^k$$"],
  ]);
  const last = (await pack(texts, { ...rules, bos: "row" }, withEnd))[4];
  expect([...last.documents]).toEqual([NO_TEXT.bos, 3, NO_TEXT.padding, NO_TEXT.padding]);
});

test("resuming after any row goes on exactly as if nothing had happened", async () => {
  const texts = ["abcde", "", "f", "ghijklmno", "pq", "rstu", "v", "w", "xyz"];
  for (const bos of ["document", "row", "none"] as const)
    for (const contextLength of [2, 3, 4, 7])
      for (const eos of [false, true])
        for (const packing of ["continuous", "separate"] as const) {
          const options = { contextLength, bos, eos, packing, partial: true };
          const whole = await pack(texts, options, withEnd);
          for (const [i, row] of whole.entries()) {
            const rest = await pack(texts, { ...options, resumeAt: row.next }, withEnd);
            expect(rest, `${JSON.stringify(options)}, after row ${i}`).toEqual(whole.slice(i + 1));
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
  const endless = pack(["a"], { contextLength: 4, bos: "none", eos: true });
  await expect(endless).rejects.toThrow("no end-of-sequence token");
  await expect(pack(["a"], { contextLength: 1, bos: "row" })).rejects.toThrow("at least 2; got 1");
  await expect(pack(["a"], { contextLength: 0, bos: "none" })).rejects.toThrow("at least 1; got 0");
});
