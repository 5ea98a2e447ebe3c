import { expect, test } from "vitest";

import { toCsv, type Annotation, type Group } from "./annotations.ts";

test("CSV read back by the rules of RFC 4180 is what was said", () => {
  const nasty = 'say "hi", twice\r\nand\nonce more';
  const annotations = [
    annotation(10, { label: nasty, notes: ",", tags: ["a", 'b"c'], rating: 4, confidence: 0.5 }),
    annotation(2, { label: "plain 🐕" }),
  ];
  const text = toCsv({
    annotations,
    groups: [group("g, one", [2, 300]), group("two", [2])],
  });
  expect(text.endsWith("\r\n")).toBe(true);
  const time = "2026-01-02T03:04:05.678Z";
  expect(parseCsv(text)).toEqual([
    ["latent", "label", "notes", "tags", "rating", "confidence", "author", "updated", "groups"],
    ["2", "plain 🐕", "", "", "", "", "ada", time, "g, one; two"],
    ["10", nasty, ",", 'a; b"c', "4", "0.5", "ada", time, ""],
    ["300", "", "", "", "", "", "", "", "g, one"],
  ]);
});

test("cells that a spreadsheet would run as a formula get a quote in front, others none", () => {
  const dangerous = ["=1+1", "+1", "-1", "@sum", "\tx", "\rx", '=a,"b"'];
  const harmless = ["1=1", "a-b", " =x", "'=x", "x@y"];
  for (const label of dangerous) {
    const said = annotation(0, { label, notes: label, tags: [label], author: label });
    const row = parseCsv(toCsv({ annotations: [said], groups: [group(label, [0])] }))[1];
    expect(row.filter((cell) => cell === `'${label}`)).toHaveLength(5);
  }
  for (const label of harmless)
    expect(parseCsv(toCsv({ annotations: [annotation(0, { label })], groups: [] }))[1][1]).toBe(
      label,
    );
});

function annotation(latent: number, said: Partial<Annotation>): Annotation {
  const content = { label: "", notes: "", tags: [], rating: null, confidence: null };
  const by = { author: "ada", updated: "2026-01-02T03:04:05.678Z" };
  return { run: "r", latent, version: 1, ...content, ...by, ...said };
}

function group(name: string, latents: number[]): Group {
  const by = { author: "ada", created: "", updated: "" };
  return { id: name, run: "r", name, description: "", ...by, latents };
}

/** A strict reader: a quote within an unquoted cell, or text after a closing one, is an error. */
function parseCsv(text: string): string[][] {
  const rows: string[][] = [];
  const cell = /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n)/y;
  let row: string[] = [];
  while (cell.lastIndex < text.length) {
    const from = cell.lastIndex;
    const match = cell.exec(text);
    if (match === null) throw new Error(`no CSV at ${JSON.stringify(text.slice(from, from + 40))}`);
    row.push(match[1]?.replaceAll('""', '"') ?? match[2]);
    if (match[3] === ",") continue;
    rows.push(row);
    row = [];
  }
  return rows;
}
