import { mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { fault, healFaults } from "../../../test/faulty-files.ts";
import { stubModel } from "../../../test/stub-model.ts";
import { hashFile } from "../../file-hash.ts";
import { Safetensors } from "../../safetensors.ts";
import { openActivations } from "../activations.ts";
import { collect, type CollectOptions } from "../collect.ts";
import { readManifest } from "./manifest.ts";
import { mergeStores } from "./merge.ts";
import { shuffleStore } from "./shuffle.ts";
import { subsetStore } from "./subset.ts";
import { verifyStore } from "./verify.ts";

vi.mock(import("node:fs/promises"), async (importOriginal) => {
  const { faulty } = await import("../../../test/faulty-files.ts");
  return faulty(await importOriginal());
});

let folder: string;
beforeEach(async () => {
  healFaults();
  folder = await mkdtemp(join(tmpdir(), "lens-store-"));
});
afterEach(async () => {
  healFaults();
  await rm(folder, { recursive: true });
});

const at = (...names: string[]) => join(folder, ...names);
const POINTS = ["hook_embed", "blocks.0.hook_resid_post"] as const;

/** A store of texts, each a document; all but the last two of ten are taken. */
async function storeOf(name: string, texts: string[], more: Partial<CollectOptions> = {}) {
  const lines = texts.map((text) => JSON.stringify({ text })).join("\n");
  await writeFile(at(`${name}.jsonl`), lines);
  const options = { hookPoint: "*", tokens: 700, shardRows: 150, contextLength: 16, batchRows: 4 };
  await collect(stubModel(), at(`${name}.jsonl`), { out: at(name), ...options, ...more });
  return at(name);
}

const stories = (count: number, word = "la") =>
  Array.from({ length: count }, (_, i) => `Story ${i}: ${`${word} `.repeat(i % 17)}end.`);

/** Everything that a store holds of each row, as text: tokens and all activations. */
async function rowsOf(path: string, points: readonly string[] = POINTS): Promise<string[]> {
  const store = await openActivations(path, { hookPoint: points[0] });
  const columns = Object.values(await store.tokens());
  const rows = Array.from({ length: store.rows }, (_, row) => columns.map((c) => c[row]).join());
  for (const hookPoint of points) {
    const opened = await openActivations(path, { hookPoint });
    for await (const { first, rows: count, data } of opened.rowsInOrder(64))
      for (let r = 0; r < count; r++)
        rows[first + r] += `;${data.subarray(r * opened.dIn, (r + 1) * opened.dIn).join()}`;
  }
  return rows;
}

async function contents(store: string): Promise<Record<string, string>> {
  const entries = await readdir(store, { recursive: true, withFileTypes: true });
  const files = entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
  const hashes = files.map(async (file) => [relative(store, file), await hashFile(file)]);
  return Object.fromEntries((await Promise.all(hashes)) as [string, string][]);
}

async function expectWhole(path: string) {
  const { finished, damaged, hash } = await verifyStore(path);
  expect({ finished, damaged }).toEqual({ finished: true, damaged: [] });
  return hash;
}

/** Fails after every change of a file in turn; each time, trying again must end in the same bytes. */
async function surviveEveryCrash(work: (out: string) => Promise<unknown>): Promise<number> {
  Object.assign(fault, { changes: 0 });
  await work(at("undisturbed"));
  const changes = fault.changes;
  const undisturbed = await contents(at("undisturbed"));
  for (let after = 0; after < changes; after++) {
    const out = at(`crash-${after}`);
    Object.assign(fault, { changes: 0, after });
    // What fails while a temporary folder is removed is not noticed, as after a kill.
    await work(out).catch(() => undefined);
    healFaults();
    await work(out);
    expect(await contents(out), `crash at change ${after}`).toEqual(undisturbed);
    await rm(out, { recursive: true });
  }
  return changes;
}

describe("verifying a store", () => {
  it("finds a changed byte in every one of its files, and names that file alone", async () => {
    const path = await storeOf("a", stories(60), { tokens: 300 });
    await expectWhole(path);
    for (const name of Object.keys(await contents(path))) {
      const bytes = await readFile(join(path, name));
      for (const share of [0, 0.2, 0.5, 0.77, 0.999]) {
        const spoilt = Buffer.from(bytes);
        spoilt[Math.floor(share * bytes.length)] ^= 1;
        await writeFile(join(path, name), spoilt);
        const { damaged } = await verifyStore(path);
        expect(damaged.map((file) => file.path), `${name} at ${share}`).toEqual([name]); // prettier-ignore
      }
      await writeFile(join(path, name), bytes);
    }
    await expectWhole(path);
  });

  it("names all files that are cut, missing, changed or extra", async () => {
    const path = await storeOf("a", stories(60));
    await truncate(join(path, "tokens", "00001.safetensors"), 100);
    await rm(join(path, "hook_embed", "00002.safetensors"));
    await writeFile(join(path, "hook_embed", "00009.safetensors"), "");
    await rm(join(path, "shard-00003.json"));
    const record = await readFile(join(path, "shard-00000.json"), "utf8");
    await writeFile(join(path, "shard-00000.json"), record.replace('"skip": ', '"skip": 1'));
    await writeFile(join(path, "README"), "notes");
    const { damaged } = await verifyStore(path);
    expect(damaged.map(({ path, problem }) => `${path} ${problem}`).sort()).toEqual([
      "hook_embed/00002.safetensors is missing",
      "hook_embed/00009.safetensors is extra: the manifest does not know it",
      expect.stringMatching(/^shard-00000.json has xxh64/),
      "shard-00003.json is missing",
      expect.stringMatching(/^tokens\/00001.safetensors has 100 bytes; \d+ are recorded$/),
    ]);
  });

  it("gives stores of the same bytes the same hash, wherever their text lay", async () => {
    const [a, b, c] = [
      await storeOf("a", stories(60)),
      await storeOf("b", stories(60)),
      await storeOf("c", stories(60, "lo")),
    ];
    const hashes = [await expectWhole(a), await expectWhole(b), await expectWhole(c)];
    expect(hashes[1]).toBe(hashes[0]);
    expect(hashes[2]).not.toBe(hashes[0]);
  });

  it("tells of an unfinished store how much is whole, and refuses what is none", async () => {
    const path = await storeOf("a", stories(60));
    await rm(join(path, "manifest.json"));
    await rm(join(path, "shard-00004.json"));
    expect(await verifyStore(path)).toMatchObject({
      ...{ finished: false, rows: 600, shards: 4, planned: 700, damaged: [], hash: undefined },
    });
    await expect(verifyStore(at("nowhere"))).rejects.toThrow(/is no store of activations/);
  });
});

describe("merging stores", () => {
  it("puts their rows one after the other, with document numbers of their own", async () => {
    const a = await storeOf("a", stories(60));
    const b = await storeOf("b", stories(40, "lo"), { tokens: 320 });
    const made = await mergeStores([a, b], { out: at("c") });
    const documents = 1 + Math.max(...(await (await openActivations(a, { hookPoint: POINTS[0] })).tokens()).documents); // prettier-ignore
    const shifted = (row: string) => {
      const [token, position, document, ...rest] = row.split(",");
      return [token, position, Number(document) + documents, ...rest].join();
    };
    expect(await rowsOf(at("c"))).toEqual([
      ...(await rowsOf(a)),
      ...(await rowsOf(b)).map(shifted),
    ]);
    const hashes = [await expectWhole(a), await expectWhole(b)];
    expect(made.made).toMatchObject({
      by: "merge",
      parts: [
        { hash: hashes[0], rows: 700, firstDocument: 0, data: { source: at("a.jsonl") } },
        { hash: hashes[1], rows: 320, firstDocument: documents, data: { source: at("b.jsonl") } },
      ],
    });
    await expectWhole(at("c"));
    // Copied files keep their hashes.
    const [of, into] = [await contents(a), await contents(at("c"))];
    expect(into["hook_embed/00004.safetensors"]).toBe(of["hook_embed/00004.safetensors"]);
  });

  it("combines statistics exactly", async () => {
    const options = { dtype: "f32" } as const;
    const [a, b] = [await storeOf("a", stories(60), options), await storeOf("b", stories(40, "lo"), { ...options, tokens: 320 })]; // prettier-ignore
    const { statistics } = await mergeStores([a, b], { out: at("c") });
    const [x, y] = [await readManifest(a), await readManifest(b)];
    for (const point of POINTS) {
      const [s, t, both] = [x!.statistics[point], y!.statistics[point], statistics[point]];
      const mean = (of: (s: typeof both) => number) => (700 * of(s) + 320 * of(t)) / 1020;
      both.mean.forEach((m, j) =>
        expect(m).toBeCloseTo(
          mean((s) => s.mean[j]),
          10,
        ),
      );
      expect(both.meanNorm).toBeCloseTo(mean((s) => s.meanNorm), 10); // prettier-ignore
      expect(both.maxNorm).toBe(Math.max(s.maxNorm, t.maxNorm));
      expect(both.rms ** 2).toBeCloseTo(mean((s) => s.rms ** 2), 8); // prettier-ignore
    }
  });

  it("refuses stores that differ, saying in what and how", async () => {
    const a = await storeOf("a", stories(60));
    const other = await storeOf("b", stories(60), { contextLength: 8, dtype: "bf16" });
    await expect(mergeStores([a, other], { out: at("c") })).rejects.toThrow(
      /contextLength is 16, in .*b 8; dtype is "f16", in .*b "bf16"\. Collect/,
    );
    const held = await storeOf("d", stories(60), { split: "test", tokens: 50 });
    await expect(mergeStores([a, held], { out: at("c") })).rejects.toThrow(
      /data\.split is "train", in .*d "test"/,
    );
    await expect(mergeStores([a], { out: at("c") })).rejects.toThrow(/two or more/);
    await expect(mergeStores([a, a], { out: a })).rejects.toThrow(/cannot be written/);
  });

  it("finds damage while it copies", async () => {
    const [a, b] = [await storeOf("a", stories(60)), await storeOf("b", stories(40))];
    const file = join(b, "hook_embed", "00001.safetensors");
    const bytes = await readFile(file);
    bytes[bytes.length - 1] ^= 1;
    await writeFile(file, bytes);
    await expect(mergeStores([a, b], { out: at("c") })).rejects.toThrow(/b.hook_embed.00001.safetensors is damaged/); // prettier-ignore
  });

  it("ends in the same bytes, whichever change of a file was the last", async () => {
    const short = { tokens: 60, shardRows: 50, hookPoint: "hook_embed" };
    const [a, b] = [await storeOf("a", stories(30), short), await storeOf("b", stories(20), short)];
    expect(await surviveEveryCrash((out) => mergeStores([a, b], { out }))).toBeGreaterThan(40);
  }, 120_000);
});

describe("a subset of a store", () => {
  it("has the rows asked for, with everything that belongs to them", async () => {
    const a = await storeOf("a", stories(60));
    await subsetStore(a, { out: at("b"), rows: [140, 460] });
    expect(await rowsOf(at("b"))).toEqual((await rowsOf(a)).slice(140, 460));
    await expectWhole(at("b"));
    expect((await readManifest(at("b")))!.shards.map(({ rows }) => rows)).toEqual([10, 150, 150, 10]); // prettier-ignore
  });

  it("has the documents and hook points asked for", async () => {
    const a = await storeOf("a", stories(60));
    await subsetStore(a, { out: at("b"), documents: [5, 9], hookPoints: [POINTS[1]] });
    const all = await rowsOf(a, [POINTS[1]]);
    const wanted = all.filter((row) => {
      const document = Number(row.split(",")[2]);
      return document >= 5 && document < 9;
    });
    expect(wanted.length).toBeGreaterThan(100);
    expect(await rowsOf(at("b"), [POINTS[1]])).toEqual(wanted);
    expect(Object.keys(await contents(at("b"))).join()).not.toContain("hook_embed");
  });

  it.each(["f32", "f16", "bf16", "int8"] as const)("can be stored as %s", async (dtype) => {
    const a = await storeOf("a", stories(60), { dtype: "f32" });
    const direct = await storeOf("b", stories(60), { dtype });
    await subsetStore(a, { out: at("c"), dtype });
    expect(await rowsOf(at("c"))).toEqual(await rowsOf(direct));
    const cut = await subsetStore(direct, { out: at("d"), rows: [0, 200], dtype: "f32" });
    expect(await rowsOf(at("d"))).toEqual((await rowsOf(direct)).slice(0, 200));
    const norms = (await rowsOf(direct, [POINTS[0]])).slice(0, 200).map((row) => Math.hypot(...row.split(";")[1].split(",").map(Number))); // prettier-ignore
    expect(cut.statistics[POINTS[0]].maxNorm).toBeGreaterThanOrEqual(Math.max(...norms) - 1e-9);
  });

  it("refuses what it has not, and values that are too large", async () => {
    const a = await storeOf("a", stories(60));
    const out = at("b");
    await expect(subsetStore(a, { out, rows: [0, 701] })).rejects.toThrow(/≤ 700; got 0:701/);
    await expect(subsetStore(a, { out, documents: [500, 501] })).rejects.toThrow(/no rows of .* are left by documents 500:501/); // prettier-ignore
    await expect(subsetStore(a, { out, hookPoints: ["hook_pos"] })).rejects.toThrow(/hook_pos is not among/); // prettier-ignore
    const large = stubModel({ odd: { token: "X".charCodeAt(0), value: 70000 } });
    await writeFile(at("x.txt"), "abcX");
    await collect(large, at("x.txt"), { out: at("x"), hookPoint: "hook_embed", tokens: 4, dtype: "f32" }); // prettier-ignore
    await expect(subsetStore(at("x"), { out, dtype: "f16" })).rejects.toThrow(/70000, too large for f16/); // prettier-ignore
  });

  it("ends in the same bytes, whichever change of a file was the last", async () => {
    const a = await storeOf("a", stories(30), { tokens: 120, shardRows: 50, hookPoint: "hook_embed" }); // prettier-ignore
    const work = (out: string) => subsetStore(a, { out, rows: [10, 110] });
    expect(await surviveEveryCrash(work)).toBeGreaterThan(40);
  }, 120_000);
});

describe("a shuffled store", () => {
  /** Enough rows for statistics; about five buckets of the larger hook point. */
  const large = async () => storeOf("a", stories(700), { tokens: 12_000, shardRows: 1000 });
  const memoryBytes = 2 * 20 * 2500;

  it("has every row once, tokens and hook points still together", async () => {
    const a = await large();
    const made = await shuffleStore(a, { out: at("b"), seed: 7, memoryBytes });
    const [before, after] = [await rowsOf(a), await rowsOf(at("b"))];
    expect(after).not.toEqual(before);
    expect(after.toSorted()).toEqual(before.toSorted());
    expect(made.made).toMatchObject({
      by: "shuffle",
      seed: 7,
      of: await expectWhole(a),
      buckets: 5,
    });
    expect(new Set(made.shards.map(({ rows }) => rows)).size).toBeGreaterThan(1);
    await expectWhole(at("b"));
    expect(Object.keys(await contents(at("b"))).join()).not.toMatch(/scattered|,lock/);
    const before0 = (await readManifest(a))!.statistics[POINTS[0]];
    expect(made.statistics[POINTS[0]].meanNorm / before0.meanNorm).toBeCloseTo(1, 3);
  });

  it("is in an order as random as chance makes it", async () => {
    const a = await large();
    await shuffleStore(a, { out: at("b"), seed: 1, memoryBytes });
    // Each row of the store has its own (document, start), so its old place can be looked up.
    const tokens = async (path: string) => {
      const { documents, starts } = await (await openActivations(path, { hookPoint: POINTS[0] })).tokens(); // prettier-ignore
      return Array.from(documents, (document, row) => `${document}:${starts[row]}`);
    };
    const place = new Map((await tokens(a)).map((key, row) => [key, row]));
    const old = (await tokens(at("b"))).map((key) => place.get(key)!);
    const n = old.length;
    expect(new Set(old).size).toBe(n);

    // Source shards among the first 2000 rows: chi-squared of 11 degrees of freedom; 31.3 is exceeded once in a thousand.
    const counts = new Array<number>(12).fill(0);
    for (const row of old.slice(0, 2000)) counts[Math.floor(row / 1000)]++;
    const expected = 2000 / 12;
    const chi = counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
    expect(chi).toBeLessThan(31.3);
    // Far too even would be wrong too: 1.9 is undercut once in a thousand.
    expect(chi).toBeGreaterThan(1.9);

    // Neighbours that were within 50 of each other: about 2·50/n of n − 1, Poisson; four standard deviations.
    const near = old.filter((row, i) => i > 0 && Math.abs(row - old[i - 1]) <= 50).length;
    const mean = (2 * 50 * (n - 1)) / n;
    expect(Math.abs(near - mean)).toBeLessThan(4 * Math.sqrt(mean));

    // A row's new place against its old: correlation of standard deviation 1/√n; four of them.
    const middle = (n - 1) / 2;
    const products = old.reduce((sum, row, i) => sum + (row - middle) * (i - middle), 0);
    const correlation = products / ((n * (n * n - 1)) / 12);
    expect(Math.abs(correlation)).toBeLessThan(4 / Math.sqrt(n));
  });

  it("depends on the seed, and on nothing else", async () => {
    const a = await storeOf("a", stories(60));
    const memoryBytes = 2 * 20 * 300;
    await shuffleStore(a, { out: at("b"), seed: 1, memoryBytes });
    await shuffleStore(a, { out: at("c"), seed: 1, memoryBytes });
    await shuffleStore(a, { out: at("d"), seed: 2, memoryBytes });
    expect(await contents(at("c"))).toEqual(await contents(at("b")));
    expect(await rowsOf(at("d"))).not.toEqual(await rowsOf(at("b")));
    await expect(shuffleStore(a, { out: at("b"), seed: 3, memoryBytes })).rejects.toThrow(
      /holds another store: made\.seed was 1, now 3/,
    );
  });

  it("moves int8 rows with their scales", async () => {
    const a = await storeOf("a", stories(60), { dtype: "int8" });
    await shuffleStore(a, { out: at("b"), memoryBytes: 2 * 20 * 100 });
    expect((await rowsOf(at("b"))).toSorted()).toEqual((await rowsOf(a)).toSorted());
    const file = await Safetensors.open(join(at("b"), "hook_embed", "00000.safetensors"));
    expect([...file.tensors.keys()].sort()).toEqual(["activations", "scales"]);
    await file.close();
  });

  it("of very few rows has no empty shard", async () => {
    const a = await storeOf("a", stories(60), { tokens: 12 });
    const made = await shuffleStore(a, { out: at("b"), memoryBytes: 40 });
    expect(made.made).toMatchObject({ buckets: 12 });
    expect((await rowsOf(at("b"))).toSorted()).toEqual((await rowsOf(a)).toSorted());
    await expect(shuffleStore(a, { out: at("c"), memoryBytes: 39 })).rejects.toThrow(/give more/);
  });

  it("ends in the same bytes, whichever change of a file was the last", async () => {
    const a = await storeOf("a", stories(30), { tokens: 90, shardRows: 50, hookPoint: "hook_embed" }); // prettier-ignore
    const work = (out: string) => shuffleStore(a, { out, memoryBytes: 2 * 20 * 40 });
    expect(await surviveEveryCrash(work)).toBeGreaterThan(70);
  }, 120_000);

  it("is begun only where the disk has room, and says when that ran out", async () => {
    const a = await storeOf("a", stories(60));
    const plans: { bytesNeeded: number }[] = [];
    const options = { out: at("b"), onPlan: (plan: (typeof plans)[0]) => void plans.push(plan) };
    Object.assign(fault, { free: 20_000 });
    await expect(shuffleStore(a, options)).rejects.toThrow(/needs 0.000 GB|needs 0.0\d+ GB, but/);
    // Tokens (20 bytes) and 3 + 4 values of f16, of 700 rows, twice.
    expect(plans).toMatchObject([{ bytesNeeded: 2 * 700 * 34 }]);
    healFaults();
    Object.assign(fault, { after: 20, code: "ENOSPC" });
    await expect(shuffleStore(a, options)).rejects.toThrow(/no space left on the disk/);
    healFaults();
    await shuffleStore(a, options);
    await shuffleStore(a, { out: at("c") });
    expect(await contents(at("b"))).toEqual(await contents(at("c")));
  });

  it("is not made by two at once, nor in a folder of something else", async () => {
    const a = await storeOf("a", stories(60));
    let second: Promise<unknown> | undefined;
    const onProgress = () => {
      second ??= shuffleStore(a, { out: at("b") }).catch((error: unknown) => error);
    };
    await shuffleStore(a, { out: at("b"), onProgress });
    expect(String(await second)).toMatch(/UserError: .*in use by process/);
    await mkdir(at("c"));
    await writeFile(at("c", "thesis.tex"), "");
    await expect(shuffleStore(a, { out: at("c") })).rejects.toThrow(/thesis\.tex/);
    await expect(shuffleStore(at("c"), { out: at("d") })).rejects.toThrow(/holds no/);
    await expect(collect(stubModel(), at("a.jsonl"), { out: at("b"), hookPoint: "*", tokens: 700, shardRows: 150, contextLength: 16, batchRows: 4 })).rejects.toThrow(/made/); // prettier-ignore
  });
});
