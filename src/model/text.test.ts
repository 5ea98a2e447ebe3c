import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";

import { storyAt } from "../corpus/index.ts";
import { UserError } from "../error.ts";
import { type Document, type DocumentOptions, documents } from "./text.ts";

const folder = await mkdtemp(join(tmpdir(), "lens-text-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

async function file(name: string, content: string | Uint8Array): Promise<string> {
  const path = join(folder, name);
  await mkdir(join(path, ".."), { recursive: true });
  await writeFile(path, content);
  return path;
}

async function read(source: string, options?: DocumentOptions, limit = 100): Promise<Document[]> {
  const found: Document[] = [];
  for await (const document of documents(source, options)) {
    found.push(document);
    if (found.length === limit) break;
  }
  return found;
}

async function texts(source: string, options?: DocumentOptions): Promise<string[]> {
  return (await read(source, options)).map((document) => document.text);
}

describe("the built-in corpus", () => {
  test("yields labelled stories of a split, from any ordinal on", async () => {
    const [first, second] = await read("builtin:stories", { split: "test", seed: 3 }, 2);
    const { id, text, spans } = storyAt("test", 1, 3);
    expect(second).toEqual({ id, text, spans });
    expect(first.id).not.toBe(id);
    const skipped = await read("builtin:stories", { split: "test", seed: 3, skip: 1 }, 1);
    expect(skipped).toEqual([second]);
    expect((await read("builtin:stories", {}, 1))[0].id).toBe(storyAt("train", 0).id);
    await expect(read("builtin:poems")).rejects.toThrow("builtin:stories");
  });
});

describe("a .txt file", () => {
  test("is one document, character for character", async () => {
    const text = "  One\r\n\r\ntwo <|endoftext|> inside 🦊\n";
    expect(await read(await file("one.txt", text))).toEqual([{ id: "one.txt#0", text }]);
  });

  test("is several where a line holds only the separator; empty ones are left out", async () => {
    const path = await file(
      "many.txt",
      "a\nb\n<|endoftext|>\n\n<|endoftext|>\r\nc\r\n<|endoftext|> \n  d\n<|endoftext|>",
    );
    expect(await read(path)).toEqual([
      { id: "many.txt#0", text: "a\nb" },
      { id: "many.txt#1", text: "c" },
      { id: "many.txt#2", text: "  d" },
    ]);
    expect(await texts(path, { skip: 2 })).toEqual(["  d"]);
    expect(await texts(path, { skip: 3 })).toEqual([]);
  });

  test("longer than a read, with characters across its boundary, comes back whole", async () => {
    const line = "é🦊".repeat(999) + "x\n";
    const text = "y" + line.repeat(400);
    expect(await texts(await file("long.txt", text))).toEqual([text]);
  });
});

describe("a .jsonl file", () => {
  test("has one document a line, in the field asked for, with ids and labels", async () => {
    const span = { concept: "animal", start: 4, end: 7 };
    const path = await file(
      "some.jsonl",
      `\uFEFF${JSON.stringify({ text: "the cat", id: "x1", spans: [span] })}\r\n\n` +
        `${JSON.stringify({ text: "two\nlines", title: "T" })}\n{"text": " ", "title": "U"}`,
    );
    expect(await read(path)).toEqual([
      { id: "x1", text: "the cat", spans: [span] },
      { id: "some.jsonl:3", text: "two\nlines" },
    ]);
    await expect(texts(path, { field: "title" })).rejects.toThrow(
      'line 1: the field "title" is missing; there are: text (string), id (string), spans (list).',
    );
  });

  test("that is wrong is refused with its line", async () => {
    const cases: [string, string][] = [
      ['{"text": "a"}\n{"text": ', "line 2: not JSON"],
      ['"text"', "line 1: not an object"],
      ['\n{"text": 3}', 'line 2: the field "text" is not a string'],
      ['{"text": "ab", "spans": {}}', '"spans" is not a list'],
      ['{"text": "ab", "spans": [{"concept": "c", "start": 1, "end": 3}]}', "text of 2 characters"],
      ['{"text": "ab", "spans": [null]}', "span null"],
    ];
    for (const [content, message] of cases) {
      const reading = read(await file("bad.jsonl", content));
      await expect(reading).rejects.toThrow(message);
      await expect(reading).rejects.toBeInstanceOf(UserError);
    }
  });
});

test("a folder is its files by path, those of the folders in it too", async () => {
  await file("f/b.jsonl", '{"text": "second"}');
  await file("f/a.txt", "first");
  await file("f/c.bin", "not read");
  await file("f/b/x.csv", "text\nbetween");
  await file("f/.cache/y.txt", "hidden");
  expect(await texts(join(folder, "f"))).toEqual(["first", "second", "between"]);
  expect(await texts(join(folder, "f"), { skip: 1 })).toEqual(["second", "between"]);
});

test("the splits of files hold every document once", async () => {
  const all = Array.from({ length: 23 }, (_, i) => `document ${i}`);
  const path = await file("split.txt", all.join("\n<|endoftext|>\n"));
  const [train, validation, testing] = await Promise.all(
    (["train", "validation", "test"] as const).map((split) => texts(path, { split })),
  );
  expect(validation).toEqual(["document 8", "document 18"]);
  expect(testing).toEqual(["document 9", "document 19"]);
  expect([...train, ...validation, ...testing].sort()).toEqual(all.sort());
  expect(await texts(path, { split: "validation", skip: 1 })).toEqual(["document 18"]);
  const few = await file("few.txt", "only one");
  expect(await texts(few, { split: "train" })).toEqual(["only one"]);
  for (const source of [few, "builtin:stories"])
    await expect(texts(source, { split: "val" as "validation" })).rejects.toThrow(
      "split must be train, validation or test; got val",
    );
  await expect(texts(few, { split: "validation" })).rejects.toThrow(
    /too few documents \(1\) for a validation part/,
  );
});

test("what cannot be read as text is refused by name", async () => {
  await expect(read(join(folder, "none.txt"))).rejects.toThrow("none.txt does not exist");
  await expect(read(await file("x.doc", "a,b"))).rejects.toThrow("x.doc is not .txt, .jsonl");
  await expect(read(await file("empty/x.doc", "a,b").then((path) => join(path, ".."))))
    .rejects //
    .toThrow("holds no file of .txt, .jsonl");
  const latin1 = await file("latin1.txt", Uint8Array.of(0x61, 0x0a, 0xe9, 0x0a));
  await expect(read(latin1)).rejects.toThrow(/latin1\.txt is not valid UTF-8 in line 2/);
  const cut = await file("cut.txt", Uint8Array.of(0x61, 0xf0, 0x9f));
  await expect(read(cut)).rejects.toThrow(/cut\.txt is not valid UTF-8 in line 1/);
});
