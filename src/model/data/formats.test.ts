import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { parquetWriteFile } from "hyparquet-writer";
import { afterAll, describe, expect, test } from "vitest";

import { UserError } from "../../error.ts";
import { type Document, type DocumentOptions, documents, type Source } from "../text.ts";

const folder = await mkdtemp(join(tmpdir(), "lens-formats-"));
afterAll(() => rm(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);

async function file(name: string, content: string | Uint8Array): Promise<string> {
  await mkdir(join(at(name), ".."), { recursive: true });
  await writeFile(at(name), content);
  return at(name);
}

/** A Parquet file with a column for each entry; several row groups. */
function parquet(name: string, columns: Record<string, unknown[]>, rowGroupSize = 5): string {
  const columnData = Object.entries(columns).map(([column, data]) => ({
    ...{ name: column, data, type: columnType(data[0]) },
  }));
  parquetWriteFile({ filename: at(name), columnData, rowGroupSize });
  return at(name);
}

function columnType(value: unknown): "STRING" | "INT64" | "DOUBLE" | "JSON" {
  if (typeof value === "string") return "STRING";
  if (typeof value === "bigint") return "INT64";
  return typeof value === "number" ? "DOUBLE" : "JSON";
}

async function read(source: Source, options?: DocumentOptions): Promise<Document[]> {
  const found: Document[] = [];
  for await (const document of documents(source, options)) found.push(document);
  return found;
}

async function texts(source: Source, options?: DocumentOptions): Promise<string[]> {
  return (await read(source, options)).map((document) => document.text);
}

async function refused(source: Source, options?: DocumentOptions): Promise<string> {
  const error: unknown = await read(source, options).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(UserError);
  return (error as UserError).message;
}

/** What is hard about text: separators, quotes, line ends within, characters of many bytes, nothing. */
const HARD = ['a,b\t"c"', "two\nlines\r\nof it", "é🦊 日本", " ", "  kept  ", "", "{", "last"];
const TEXTS = Array.from({ length: 40 }, (_, i) => `${i}: ${HARD[i % HARD.length]}`).concat(HARD);
const FULL = TEXTS.filter((text) => text.trim() !== "");

const quoted = (text: string) => `"${text.replaceAll('"', '""')}"`;
const lines = TEXTS.map((text, i) => JSON.stringify({ n: i, text })).join("\n");
const table = (separator: string) =>
  ["n", ...TEXTS.keys()].map((n, i) => [n, i === 0 ? "text" : quoted(TEXTS[i - 1])].join(separator)).join("\n"); // prettier-ignore

const sources = {
  jsonl: await file("x.jsonl", lines),
  "jsonl.gz": await file("x.jsonl.gz", gzipSync(lines)),
  "json of lines": await file("lines.json", lines),
  "json list": await file(
    "list.json",
    JSON.stringify(
      TEXTS.map((text) => ({ text })),
      null,
      1,
    ),
  ),
  csv: await file("x.csv", `\uFEFF${table(",")}`),
  "csv.gz": await file("x.csv.gz", gzipSync(table(",") + "\n")),
  tsv: await file("x.tsv", table("\t")),
  parquet: parquet("x.parquet", { n: TEXTS.map((_, i) => BigInt(i)), text: TEXTS }),
};

describe.each(Object.entries(sources))("%s", (_, source) => {
  test("holds the same documents as every other kind", async () => {
    const empty: string[] = [];
    expect(await texts(source, { onEmpty: (id) => empty.push(id) })).toEqual(FULL);
    expect(empty).toHaveLength(TEXTS.length - FULL.length);
    expect(new Set((await read(source)).map(({ id }) => id)).size).toBe(FULL.length);
  });

  test("is split and read on from anywhere", async () => {
    const split = { train: [] as string[], validation: [] as string[], test: [] as string[] };
    for (const [i, text] of FULL.entries())
      split[i % 10 < 8 ? "train" : i % 10 === 8 ? "validation" : "test"].push(text);
    for (const [name, expected] of Object.entries(split))
      for (const skip of [0, 1, 3, 100])
        expect(await texts(source, { split: name as "train", skip })).toEqual(expected.slice(skip));
  });

  test("without the field says which there are", async () => {
    expect(await refused(source, { field: "story" })).toMatch(
      /x\.|l.*\.json.*the field "story" is missing; there are: .*text \(string\)/,
    );
  });
});

test("text and gzipped text are the same documents, whatever the name says of the packing", async () => {
  const text = FULL.join("\n<|endoftext|>\n");
  expect(await texts(await file("x.txt", text))).toEqual(FULL);
  expect(await texts(await file("x.txt.gz", gzipSync(text)))).toEqual(FULL);
  expect(await texts(await file("unpacked.txt.gz", text))).toEqual(FULL);
});

describe("fields", () => {
  test("the only one with text is named", async () => {
    const path = await file("story.jsonl", '{"n": 1, "story": "once"}');
    expect(await refused(path)).toContain(
      'line 1: the field "text" is missing; there are: n (number), story (string); the only one with text is story: set field to story.',
    );
    expect(await texts(path, { field: "story" })).toEqual(["once"]);
    const columns = parquet("story.parquet", { n: [1n], score: [0.5], story: ["once"] });
    expect(await refused(columns)).toContain(
      'story.parquet: the field "text" is missing; there are: n (int64), score (double), story (string); the only one with text is story',
    );
  });

  test("dots lead into nested records; null is an empty text; what is no text is refused", async () => {
    const path = await file(
      "nested.jsonl",
      '{"a": {"b": "x"}}\n{"a.b": "y", "a": {"b": 1}}\n{"a": {"b": null}}\n{"a": {"b": 3}}',
    );
    expect(await texts(path, { field: "a.b" }).catch((e: Error) => e.message)).toContain(
      'line 4: the field "a.b" is not a string but a number',
    );
    const nested = parquet("nested.parquet", { a: [{ b: "x" }, { b: null }, { b: "z" }] });
    expect(await texts(nested, { field: "a.b" })).toEqual(["x", "z"]);
  });

  test("ids and labels come from Parquet too, their integers as numbers", async () => {
    const span = { concept: "animal", start: 4, end: 7 };
    const path = parquet("labels.parquet", { id: [7n], text: ["the cat"], spans: [[span]] });
    expect(await read(path)).toEqual([{ id: "7", text: "the cat", spans: [span] }]);
  });
});

describe("chats", () => {
  const chat = [
    { role: "user", content: "Hi" },
    { role: "assistant", content: "Hello" },
  ];
  const renderChat: DocumentOptions["renderChat"] = async (messages) =>
    messages.map(({ role, content }) => `<${role}>${content as string}`).join("");
  const expected = ["<user>Hi<assistant>Hello"];

  test("become text through what renders them, from every kind that holds lists", async () => {
    const options = { field: "messages", renderChat };
    const path = await file("chat.jsonl", JSON.stringify({ messages: chat }));
    expect(await texts(path, options)).toEqual(expected);
    expect(await texts(parquet("chat.parquet", { messages: [chat] }), options)).toEqual(expected);
    const shared = chat.map(({ role, content }) => ({
      ...{ from: role === "user" ? "human" : "gpt", value: content },
    }));
    const other = await file("shared.jsonl", JSON.stringify({ conversations: shared }));
    expect(await texts(other, { field: "conversations", renderChat })).toEqual(expected);
  });

  test("are refused without it, and when they are no messages", async () => {
    const path = await file("chat2.jsonl", JSON.stringify({ id: "a", messages: chat }));
    expect(await refused(path)).toContain("for the chat in it set field to messages");
    expect(await refused(path, { field: "messages" })).toContain("no model is at hand");
    const bad = await file("chat3.jsonl", '{"messages": ["Hi"]}');
    expect(await refused(bad, { field: "messages", renderChat })).toContain('"Hi" is no message');
  });
});

test("a Parquet file that pyarrow wrote holds what it was given, null and nested columns too", async () => {
  const path = fileURLToPath(new URL("../../../test/fixtures/text/pyarrow.parquet", import.meta.url)); // prettier-ignore
  const numbers = [0, 1, 2, 5, 6, 7, 8, 9, 10, 11]; // 3 is null, 4 empty
  const spans = [{ concept: "c", start: 0, end: 1 }];
  expect(await read(path)).toEqual(
    numbers.map((i) => ({ id: `${i}`, text: `${i}: é🦊\n`, ...(i % 5 === 0 && { spans }) })),
  );
  expect((await texts(path, { field: "kind" })).join("")).toBe("012012012012");
  expect((await texts(path, { field: "meta.body" })).at(-1)).toBe("b11");
  const renderChat: DocumentOptions["renderChat"] = async (messages) => JSON.stringify(messages);
  expect((await texts(path, { field: "messages", renderChat }))[6]).toBe(
    '[{"role":"user","content":"q6"},{"role":"assistant","content":"a6"}]',
  );
});

describe("damage is named with its place", () => {
  const cut = (bytes: Uint8Array, share: number) => bytes.subarray(0, bytes.length * share);

  test("of packed files", async () => {
    const packed = gzipSync(lines);
    expect(await refused(await file("cut.jsonl.gz", cut(packed, 0.7)))).toMatch(
      /cut\.jsonl\.gz is cut short/,
    );
    const wrong = Uint8Array.from(packed, (byte, i) => (i > 40 && i < 60 ? 255 : byte));
    expect(await refused(await file("wrong.jsonl.gz", wrong))).toMatch(/wrong\.jsonl\.gz is /);
  });

  test("of Parquet files", async () => {
    const whole = await readFile(sources.parquet);
    for (const bytes of [cut(whole, 0.5), new Uint8Array(), Buffer.from("not parquet at all")])
      expect(await refused(await file("cut.parquet", bytes))).toMatch(
        /cut\.parquet cannot be read as Parquet \(.+\)/,
      );
  });

  test("of tables", async () => {
    const cases: [string, string][] = [
      ["n,text\n1,a\n2,b,c\n", "line 3: the row has 3 fields, the first row names 2"],
      ['text\n"a\nb"\nc"d\n', "line 4"],
      ['text\na\n"b', "line 3"],
    ];
    for (const [content, message] of cases)
      expect(await refused(await file("bad.csv", content))).toContain(`bad.csv, ${message}`);
  });

  test("of characters", async () => {
    const text = Buffer.from("text\nok\nna\u00efve\n");
    const latin = Buffer.concat([text, Buffer.from("na\u00efve\n", "latin1"), text]);
    for (const kind of ["txt", "csv", "jsonl"])
      expect(await refused(await file(`latin.${kind}`, latin))).toMatch(
        kind === "jsonl" ? /line 1|line 4/ : /latin\.\w+ is not valid UTF-8 in line 4/,
      );
    // A Parquet string of the same length, bytes changed in place.
    const path = parquet("latin.parquet", { text: ["ok", "\uFEFFmark", "naive"] });
    expect(await texts(path)).toEqual(["ok", "\uFEFFmark", "naive"]);
    const bytes = await readFile(path);
    for (let at = 0; (at = bytes.indexOf("naive", at)) !== -1; at++) bytes[at + 2] = 0xef;
    expect(await refused(await file("latin.parquet", bytes))).toMatch(
      /latin\.parquet has text that is not valid UTF-8 in row 3:/,
    );
  });

  test("of JSON lists", async () => {
    expect(await refused(await file("bad.json", "[{]"))).toContain("bad.json: not JSON");
    expect(await refused(await file("bad2.json", '[{"text": "a"}, 3]'))).toContain(
      "bad2.json, record 2: not an object",
    );
  });
});

test("a file of one long line is read whole", async () => {
  const text = "word é ".repeat(3 << 20);
  const path = await file("long.jsonl", JSON.stringify({ text }));
  const [found] = await texts(path);
  expect(found === text).toBe(true);
});
