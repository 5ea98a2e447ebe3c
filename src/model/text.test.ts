import { spawnSync } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";

import { storyAt } from "../corpus/index.ts";
import { UserError } from "../error.ts";
import {
  type Document,
  type DocumentOptions,
  documents,
  documentsOfFiles,
  hashSource,
  requireRereadable,
  type Source,
  sourceText,
} from "./text.ts";

const folder = await mkdtemp(join(tmpdir(), "lens-text-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

async function file(name: string, content: string | Uint8Array): Promise<string> {
  const path = join(folder, name);
  await mkdir(join(path, ".."), { recursive: true });
  await writeFile(path, content);
  return path;
}

async function read(source: Source, options?: DocumentOptions, limit = 100): Promise<Document[]> {
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

describe("a mixture", () => {
  const lines = (name: string, count: number, field = "text") =>
    file(
      `${name}.jsonl`,
      Array.from({ length: count }, (_, i) => JSON.stringify({ [field]: `${name} ${i}` })).join(
        "\n",
      ),
    );

  test("takes documents by the weights, each part in its order, and goes on when one ends", async () => {
    const [a, b, c] = [
      await lines("a", 3000),
      await lines("b", 3000),
      await lines("c", 30, "body"),
    ];
    const source = [{ source: a, weight: 3 }, b, { source: c, weight: 1, field: "body" }];
    const all = (await read(source, { seed: 5 }, Infinity)).map(({ text }) => text);
    for (const name of ["a", "b", "c"])
      expect(all.filter((text) => text.startsWith(name))).toEqual(
        Array.from({ length: name === "c" ? 30 : 3000 }, (_, i) => `${name} ${i}`),
      );
    // c ends soon; then a has three in four, with a standard deviation of 0.01.
    const early = all.slice(300, 2300).filter((text) => text.startsWith("a")).length / 2000;
    expect(Math.abs(early - 0.75)).toBeLessThan(0.05);
    expect(all.slice(0, 100).filter((text) => text.startsWith("c")).length).toBeGreaterThan(8);
    const again = (await read(source, { seed: 5, skip: 200 }, Infinity)).map(({ text }) => text);
    expect(again).toEqual(all.slice(200));
    expect((await read(source, { seed: 6 }, 100)).map(({ text }) => text)).not.toEqual(
      all.slice(0, 100),
    );
  });

  test("is split part by part, the built-in corpus among them", async () => {
    const a = await lines("a", 40);
    const found = await read([a, "builtin:stories"], { split: "test" }, 20);
    const own = found.filter(({ text }) => text.startsWith("a "));
    expect(own.map(({ text }) => text)).toEqual(["a 9", "a 19", "a 29", "a 39"]);
    expect(found.find(({ id }) => id.startsWith("test/"))).toEqual(
      (await read("builtin:stories", { split: "test" }, 1))[0],
    );
  });

  test("of nothing, or with a weight that is none, is refused", async () => {
    await expect(read([])).rejects.toThrow("a mixture of no sources");
    for (const weight of [0, -1, NaN, Infinity])
      await expect(read([{ source: "a", weight }, "b"])).rejects.toThrow(
        `the weight of a must be above 0; got ${weight}`,
      );
  });

  test("is one line for people, and is known by its weights and what its files hold", async () => {
    const a = await lines("a", 3);
    expect(sourceText([{ source: a, weight: 3, field: "x" }, "b"])).toBe(`3 × ${a} (x) + 1 × b`);
    const hash = await hashSource([{ source: a, weight: 3 }, "builtin:stories"]);
    expect(await hashSource([{ source: a, weight: 2 }, "builtin:stories"])).not.toBe(hash);
    await file("moved.jsonl", await readFile(a));
    const moved = { source: join(folder, "moved.jsonl"), weight: 3 };
    expect(await hashSource([moved, "builtin:stories"])).toBe(hash);
  });
});

test("shuffling gives every document once, in an order of the seed, none much earlier than it stands", async () => {
  const all = Array.from({ length: 300 }, (_, i) => `document ${i}`);
  const path = await file("order.txt", all.join("\n<|endoftext|>\n"));
  const order = async (options: DocumentOptions) =>
    (await read(path, options, Infinity)).map(({ text }) => all.indexOf(text));
  const mixed = await order({ shuffle: 20 });
  expect([...mixed].sort((a, b) => a - b)).toEqual([...all.keys()]);
  for (const [place, ordinal] of mixed.entries()) expect(ordinal - place).toBeLessThanOrEqual(20);
  expect(mixed.filter((ordinal, place) => ordinal === place).length).toBeLessThan(30);
  expect(await order({ shuffle: 20, skip: 123 })).toEqual(mixed.slice(123));
  expect(await order({ shuffle: 20, seed: 1 })).not.toEqual(mixed);
  expect(await order({ shuffle: 1 })).toEqual([...all.keys()]);
  // Which split a document is in does not depend on the order.
  const held = await order({ shuffle: 20, split: "test" });
  expect([...held].sort((a, b) => a - b)).toEqual(all.flatMap((_, i) => (i % 10 === 9 ? i : [])));
});

test("a list of files is read in the order given", async () => {
  const files = [await file("2.txt", "second"), await file("1.txt", "first")];
  const found = [];
  for await (const { text } of documentsOfFiles("owner/name", files)) found.push(text);
  expect(found).toEqual(["second", "first"]);
  const few = documentsOfFiles("owner/name", files, { split: "test" });
  await expect(few.next()).rejects.toThrow("owner/name has too few documents (2)");
});

describe("standard input", () => {
  const module = new URL("./text.ts", import.meta.url).href;
  const loader = new URL("../../test/typescript-loader.mjs", import.meta.url).href;
  /** What a process prints that reads its standard input with `documents("-", options)`, `times` over. */
  function reading(input: string | Uint8Array, options: DocumentOptions = {}, times = 1): string {
    const program = `
      const { documents } = await import(${JSON.stringify(module)});
      try {
        for (let i = 0; i < ${times}; i++)
          for await (const { id, text } of documents("-", ${JSON.stringify(options)}))
            console.log(JSON.stringify([id, text]));
      } catch (error) { console.log(error.name + ": " + error.message); }`;
    const args = ["--import", loader, "--input-type=module", "-e", program];
    return spawnSync(process.execPath, args, { input, encoding: "utf8" }).stdout;
  }

  test("is JSON lines or text, by its first character, also packed; and is read once", () => {
    const lines = '{"text": "a"}\n{"text": "b"}\n';
    const expected = '["stdin:1","a"]\n["stdin:2","b"]\n';
    expect(reading(gzipSync(lines))).toBe(expected);
    expect(reading(lines, { skip: 1 })).toBe('["stdin:2","b"]\n');
    expect(reading("x\n<|endoftext|>\ny")).toBe('["stdin#0","x"]\n["stdin#1","y"]\n');
    expect(reading("\n  {")).toContain("UserError: standard input, line 2: not JSON");
    expect(reading(lines, {}, 2)).toBe(
      `${expected}UserError: standard input (-) can be read only once, and this needs the text again: save it to a file and give that.\n`,
    );
  });

  test("is refused where the text is needed again", () => {
    expect(() => requireRereadable(["a", "-"], "training")).toThrow(
      "training needs the text again, and standard input (-) can be read only once",
    );
    expect(() => requireRereadable("builtin:stories", "training")).not.toThrow();
  });
});

describe("a URL", () => {
  const asked: string[] = [];
  const ranges: (string | undefined)[] = [];
  /** Text that is cut after 50,000 characters twice, and in `changed` is another one from then on. */
  const lettered = (letter: string) => letter.repeat(120_000);
  const resumable = (request: IncomingMessage, response: ServerResponse) => {
    const { range, "if-range": known } = request.headers;
    const nth = ranges.push(range);
    const letter = request.url!.includes("changed") && nth > 1 ? "b" : "a";
    const etag = `"${letter}"`;
    const from = known === etag ? Number(/\d+/.exec(range!)![0]) : 0;
    const rest = lettered(letter).slice(from);
    response.writeHead(from > 0 ? 206 : 200, {
      ...{ etag, "content-length": rest.length },
      ...(from > 0 && { "content-range": `bytes ${from}-119999/120000` }),
    });
    if (nth > 2) response.end(rest);
    else response.write(rest.slice(0, 50_000), () => setTimeout(() => response.destroy(), 20));
  };
  const server = createServer((request, response) => {
    asked.push(request.url!);
    if (request.url === "/some/x.jsonl.gz?download=true")
      response.end(gzipSync('{"text": "from afar"}'));
    else if (request.url!.startsWith("/resumed")) resumable(request, response);
    else if (request.url === "/cut.txt") {
      response.writeHead(200, { "content-length": 100 });
      response.write("half", () => response.destroy());
    } else response.writeHead(404).end();
  });
  let base = "";
  beforeAll(async () => {
    vi.stubEnv("XDG_CACHE_HOME", join(folder, "cache"));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  afterAll(() => {
    vi.unstubAllEnvs();
    server.close();
  });

  test("is downloaded once and read from the copy", async () => {
    const url = `${base}/some/x.jsonl.gz?download=true`;
    expect(await texts(url)).toEqual(["from afar"]);
    expect(await texts(url)).toEqual(["from afar"]);
    expect(asked).toEqual(["/some/x.jsonl.gz?download=true"]);
    expect(await hashSource(url)).toMatch(/^[0-9a-f]{16}$/);
  });

  test("whose connection is cut is continued, and begun anew when it has changed", async () => {
    expect(await texts(`${base}/resumed.txt`)).toEqual([lettered("a")]);
    expect(ranges).toEqual([undefined, "bytes=50000-", "bytes=100000-"]);
    ranges.length = 0;
    expect(await texts(`${base}/resumed-changed.txt`)).toEqual([lettered("b")]);
    expect(ranges).toEqual([undefined, "bytes=50000-", "bytes=50000-"]);
  });

  test("that fails says why and leaves nothing", async () => {
    await expect(read(`${base}/none.txt`)).rejects.toThrow(
      `${base}/none.txt cannot be downloaded: the server answers 404`,
    );
    await expect(read(`${base}/cut.txt`)).rejects.toThrow(
      /cut\.txt cannot be downloaded: terminated/,
    );
    await expect(read("http://127.0.0.1:1/x.txt")).rejects.toThrow(/cannot be downloaded: fetch failed \(/); // prettier-ignore
    await expect(read(`${base}/page.html`)).rejects.toThrow("does not end in the name of a file");
    await expect(read("http://")).rejects.toThrow("http:// is no URL");
    expect(await readdir(join(folder, "cache", "latent-lens", "text-files"))).toHaveLength(3);
  });
});
