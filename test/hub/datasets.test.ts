/** Text of the hub's data sets: what is fetched, what is said of what is wrong, and what the cache alone gives. */
import { readdirSync, rmSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parquetWriteBuffer } from "hyparquet-writer";
import { describe, expect, test, vi } from "vitest";

import { reportDownloads } from "../../src/model/download-report.ts";
import { openRepo } from "../../src/model/hub.ts";
import {
  documents,
  type DocumentOptions,
  hashSource,
  stampOfSource,
} from "../../src/model/text.ts";
import { commitOf, type StoredRepo, useHub } from "./hub-server.ts";

// Between attempts people wait for seconds; nothing here hangs on how long.
vi.mock("../../src/model/hub-client.ts", async (original) => {
  const client = await original<typeof import("../../src/model/hub-client.ts")>();
  const pause: typeof client.pause = (ms, signal) => client.pause(Math.min(ms, 20), signal);
  return { ...client, pause };
});

const place = useHub();
const commit = commitOf("first");
const SHARDS = 3;
const ROWS = 40;
const shard = (split: string, i: number) => `data/${split}-0000${i}-of-0000${SHARDS}.parquet`;
const textOf = (split: string, i: number, row: number) =>
  `${split} ${i} ${row}: ${"words ".repeat(600)}`;

function parquet(texts: string[], name = "text"): Buffer {
  return Buffer.from(
    parquetWriteBuffer({
      columnData: [{ name, data: texts, type: "STRING" }],
      codec: "UNCOMPRESSED",
    }),
  );
}

/** A data set of three files for training and three for testing. */
function offer(more: Record<string, Buffer | string> = {}, id = "owner/texts"): StoredRepo {
  const files: Record<string, Buffer> = {};
  for (const split of ["train", "test"])
    for (let i = 0; i < SHARDS; i++)
      files[shard(split, i)] = parquet(
        Array.from({ length: ROWS }, (_, row) => textOf(split, i, row)),
      );
  for (const [path, content] of Object.entries(more)) files[path] = Buffer.from(content);
  return offerFiles(files, id);
}

function offerFiles(files: Record<string, Buffer>, id = "owner/texts"): StoredRepo {
  const repo = { commit, files };
  place.hub.repos.set(`datasets/${id}`, repo);
  return repo;
}

async function read(source: string, options: DocumentOptions = {}, limit = Infinity) {
  const found: string[] = [];
  for await (const { text } of documents(source, options)) {
    found.push(text);
    if (found.length === limit) break;
  }
  return found;
}

const all = (split: string) =>
  Array.from({ length: SHARDS * ROWS }, (_, n) => textOf(split, Math.floor(n / ROWS), n % ROWS));

async function refusal(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => "nothing was refused",
    (error: Error) => `${error.name}: ${error.message}`,
  );
}

/** Files whose contents were asked for, each once. */
const fetched = () => {
  const paths = place.hub
    .fetched()
    .map(({ path }) => path.split("?")[0].replace(/^.*\/data\//, "data/"));
  return [...new Set(paths)];
};

describe("a data set of the hub", () => {
  test("gives the documents of one split, in the order of its files", async () => {
    offer();
    expect(await read("owner/texts")).toEqual(all("train"));
    expect(await read("owner/texts:test")).toEqual(all("test"));
    expect(await read("owner/texts:default/test")).toEqual(all("test"));
  });

  test("is fetched as far as it is read", async () => {
    offer();
    expect(await read("owner/texts", {}, ROWS)).toHaveLength(ROWS);
    expect(fetched()).toEqual([shard("train", 0)]);
    await read("owner/texts", {}, ROWS + 1);
    expect(fetched()).toEqual([shard("train", 0), shard("train", 1)]);
    const count = place.hub.fetched().length;
    await read("owner/texts", {}, ROWS + 1);
    expect(place.hub.fetched()).toHaveLength(count);
  });

  test("has held-out documents, skips and shuffles as local files do", async () => {
    const { files } = offer();
    const folder = join(place.cache, "local");
    await mkdir(folder, { recursive: true });
    for (const [path, bytes] of Object.entries(files))
      if (path.includes("train")) await writeFile(join(folder, path.replace("data/", "")), bytes);
    for (const options of [
      { split: "validation" as const },
      { shuffle: 50, seed: 3 },
      { split: "train" as const, shuffle: 30, skip: 41 },
    ])
      expect(await read("owner/texts", options)).toEqual(await read(folder, options));
  });

  test("is part of mixtures, each with its own field", async () => {
    offer();
    offerFiles({ "a.csv": Buffer.from("story\nonce\nupon\n") }, "owner/stories");
    const mixed: string[] = [];
    const parts = ["owner/texts:test", { source: "owner/stories", field: "story", weight: 1 }];
    for await (const { text } of documents(parts)) mixed.push(text);
    expect(mixed.sort()).toEqual([...all("test"), "once", "upon"].sort());
  });

  test("is what lies here where there is a file or folder of that name", async () => {
    offer();
    const here = process.cwd();
    await mkdir(join(place.cache, "owner", "texts"), { recursive: true });
    await writeFile(join(place.cache, "owner", "texts", "a.txt"), "local");
    process.chdir(place.cache);
    try {
      expect(await read("owner/texts")).toEqual(["local"]);
    } finally {
      process.chdir(here);
    }
    expect(place.hub.asked).toEqual([]);
  });

  test("is known by its commit and files, without reading them", async () => {
    const repo = offer();
    const second = commitOf("second");
    Object.assign(repo, { refs: { "v1.0": second } });
    const hash = await hashSource("owner/texts");
    expect(hash).toMatch(new RegExp(`^${commit}:[0-9a-f]{16}$`));
    expect(await stampOfSource(["owner/texts", "builtin:stories"])).toEqual([hash, null]);
    expect(await hashSource(`owner/texts@${commit}:default/train`)).toBe(hash);
    expect(await hashSource("owner/texts:test")).not.toBe(hash);
    expect(await hashSource("owner/texts@v1.0")).not.toBe(hash);
    expect(place.hub.fetched()).toEqual([]);
  });

  test("stays at one commit while a process runs, whatever its branch does", async () => {
    const repo = offer();
    const hash = await hashSource("owner/texts");
    repo.commit = commitOf("second");
    expect(await hashSource("owner/texts")).toBe(hash);
    place.newCache();
    expect(await hashSource("owner/texts")).toContain(repo.commit);
  });

  test("is read as its card says", async () => {
    const front = "---\nconfigs:\n- config_name: only\n  data_files: data/test-*\n---\n";
    offer({ "README.md": front });
    expect(await read("owner/texts")).toEqual(all("test"));
    expect(await refusal(read("owner/texts:other"))).toMatch(/no config or split other; configs: only; splits of only: train\./); // prettier-ignore
  });

  test("is told of with its commit and size, and each file while it is fetched, but not its card", async () => {
    offer({ "README.md": "# Texts" });
    const told: string[] = [];
    reportDownloads({
      begin: (label) => (told.push(label), { update() {}, end() {}, stop() {} }),
      note: (text) => told.push(text),
    });
    await read("owner/texts", {}, 1);
    reportDownloads();
    expect(told).toEqual([
      expect.stringMatching(`text: owner/texts:default/train at commit ${commit.slice(0, 8)}, 3 files, 0\\.4 MB`), // prettier-ignore
      `owner/texts ${shard("train", 0)}`,
    ]);
  });

  test("stops being fetched when that is asked", async () => {
    offer();
    place.hub.fault = () => ({ pauseMs: 5_000 });
    const controller = new AbortController();
    const reading = refusal(read("owner/texts", { signal: controller.signal }));
    await vi.waitFor(() => expect(place.hub.asked.some(({ at }) => at === "cdn")).toBe(true));
    controller.abort(new Error("enough"));
    expect(await reading).toBe("Error: enough");
  });
});

describe("a data set that is made by a script", () => {
  const script = { "texts.py": "import os", "raw.jsonl": '{"text": "raw"}\n' };

  test("is read from the hub's Parquet copy, and not made", async () => {
    const repo = offerFiles({ "texts.py": Buffer.from("import os") });
    const converted = commitOf("converted");
    repo.refs = { "refs/convert/parquet": converted };
    repo.trees = {
      [converted]: { "en/train/0000.parquet": parquet(["one"]), "en/train/0001.parquet": parquet(["two"]) }, // prettier-ignore
    };
    expect(await read("owner/texts")).toEqual(["one", "two"]);
    expect(await read("owner/texts@refs/convert/parquet:en/train")).toEqual(["one", "two"]);
    expect(await hashSource("owner/texts")).toContain(converted);
    expect(place.hub.fetched().some(({ path }) => path.endsWith(".py"))).toBe(false);
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    expect(await read("owner/texts")).toEqual(["one", "two"]);
  });

  test("without such a copy is refused, unless it has files that can be read", async () => {
    const repo = offerFiles({ "texts.py": Buffer.from("import os"), "x.zip": Buffer.from("x") });
    expect(await refusal(read("owner/texts"))).toMatch(/^UserError: dataset owner\/texts is made by a script \(texts\.py\), which is not run here/); // prettier-ignore
    repo.commit = commitOf("second");
    repo.files = Object.fromEntries(Object.entries(script).map(([path, text]) => [path, Buffer.from(text)])); // prettier-ignore
    expect(await read("owner/texts")).toEqual(["raw"]);
  });
});

describe("refused with what to do", () => {
  test("a data set that is not there, with the nearest that is", async () => {
    offer();
    expect(await refusal(read("owner/textes"))).toMatch(/UserError: there is no dataset owner\/textes .*Did you mean owner\/texts\?/); // prettier-ignore
  });

  test("a name without an owner, which the hub has no longer", async () => {
    expect(await refusal(read("wikitext"))).toMatch(/wikitext does not exist: give .*with its owner \(owner\/name\)/); // prettier-ignore
    expect(place.hub.asked).toEqual([]);
  });

  test("a split, revision or column that is not there, with those that are", async () => {
    offer();
    expect(await refusal(read("owner/texts:default/validation"))).toMatch(/no split validation; there are: test, train\.$/); // prettier-ignore
    expect(await refusal(read("owner/texts@v2"))).toMatch(/no revision v2 .*It has main/);
    expect(await refusal(read("owner/texts", { field: "content" }))).toMatch(/the field "content" is missing; there are: text \(string\)/); // prettier-ignore
  });

  test("a gated data set, with and without a token", async () => {
    Object.assign(offer({ "README.md": "# Texts" }), { isGated: true, tokens: ["hf_good"] });
    expect(await refusal(read("owner/texts"))).toMatch(
      new RegExp(`only for those who were given access.*${place.hub.endpoint}/datasets/owner/texts, then set HF_TOKEN`), // prettier-ignore
    );
    vi.stubEnv("HF_TOKEN", "hf_good");
    expect(await read("owner/texts", {}, 1)).toHaveLength(1);
    for (const { at, token } of place.hub.asked) if (at === "cdn") expect(token).toBeUndefined();
  });

  test("a data set without a file that can be read", async () => {
    offerFiles({ "README.md": Buffer.from("#"), "a.jsonl.zst": Buffer.from("z") });
    expect(await refusal(read("owner/texts"))).toMatch(/has no file of \.txt, .*it has a\.jsonl\.zst\./); // prettier-ignore
  });
});

describe("what goes wrong on the way", () => {
  test("connections that are cut, again and again, end in the same text", async () => {
    offer();
    let cuts = 0;
    place.hub.fault = () => (cuts++ % 3 < 2 ? { cutAfter: 60_000 } : undefined);
    expect(await read("owner/texts")).toEqual(all("train"));
    expect(place.hub.fetched().filter(({ range }) => range !== undefined).length).toBeGreaterThan(SHARDS); // prettier-ignore
  });

  test("a file of another size than listed is refused, and those before it were read", async () => {
    const { files } = offer();
    place.hub.fault = (file) =>
      file === shard("train", 1) ? { bytes: files[file].subarray(100) } : undefined;
    const found: string[] = [];
    const reading = async () => {
      for await (const { text } of documents("owner/texts")) found.push(text);
    };
    expect(await refusal(reading())).toMatch(/data\/train-00001-of-00003\.parquet of owner\/texts as it is sent has/); // prettier-ignore
    expect(found).toEqual(all("train").slice(0, ROWS));
  });

  test("a redirect to another host is followed without the token", async () => {
    offer();
    vi.stubEnv("HF_TOKEN", "hf_mine");
    place.hub.moved.set("old/texts", "owner/texts");
    expect(await read("old/texts", {}, 1)).toHaveLength(1);
    const tokens = place.hub.asked.map(({ at, token }) => [at, token].join());
    expect(new Set(tokens)).toEqual(new Set(["hub,Bearer hf_mine", "cdn,"]));
  });
});

describe("without network", () => {
  test("all that was read before is read from the cache, and is the same data", async () => {
    offer({ "README.md": "# Texts" });
    const hash = await hashSource("owner/texts");
    await read("owner/texts");
    await place.hub.stop();
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    expect(await read("owner/texts")).toEqual(all("train"));
    expect(await hashSource("owner/texts")).toBe(hash);
  });

  test("a part ends in a message that names the next file, not in an early end", async () => {
    offer();
    await read("owner/texts", {}, ROWS + 1);
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    expect(await read("owner/texts", {}, 2 * ROWS)).toEqual(all("train").slice(0, 2 * ROWS));
    expect(await refusal(read("owner/texts"))).toMatch(
      new RegExp(`^UserError: ${shard("train", 2)} of dataset owner/texts is not in the cache .*HF_HUB_OFFLINE is set.*hf download owner/texts ${shard("train", 2)} --repo-type dataset --revision ${commit}$`), // prettier-ignore
    );
    expect(await refusal(read("owner/other"))).toMatch(/dataset owner\/other is not in the cache/);
  });

  test("a cache without a list, as other programs fill it, is read when no numbered file lacks", async () => {
    const { files } = offer();
    const repo = await openRepo("dataset", "owner/texts");
    await repo.fetch(Object.keys(files));
    rmSync(join(place.cache, "hub", "datasets--owner--texts", ".lens-files"), { recursive: true });
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    const notes: string[] = [];
    reportDownloads({ begin: () => ({ update() {}, end() {}, stop() {} }), note: (text) => notes.push(text) }); // prettier-ignore
    expect(await read("owner/texts")).toEqual(all("train"));
    reportDownloads();
    expect(notes.join()).toContain("those in it are taken for all");
    rmSync(join(repo.folder, shard("test", 1)));
    expect(await refusal(read("owner/texts:test"))).toMatch(/data\/test-00001-of-00003\.parquet of dataset owner\/texts is not in the cache/); // prettier-ignore
  });

  test("a network that is gone in the middle is named, and the same reading goes on later", async () => {
    offer();
    place.hub.fault = (file) => (file === shard("train", 1) ? { status: 503 } : undefined);
    expect(await refusal(read("owner/texts"))).toMatch(
      /train-00001-of-00003\.parquet .*answered 503/,
    );
    place.hub.fault = () => undefined;
    expect(await read("owner/texts")).toEqual(all("train"));
    expect(readdirSync(join(place.cache, "hub", "datasets--owner--texts", "blobs")).filter((name) => name.endsWith("incomplete"))).toEqual([]); // prettier-ignore
  });
});
