import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { fault, healFaults } from "../../test/faulty-files.ts";
import { stubActivation, stubModel, BOS, SPECIAL } from "../../test/stub-model.ts";
import { UserError } from "../error.ts";
import { hashFile } from "../file-hash.ts";
import { openActivations, type ActivationStore } from "./activations.ts";
import type { RenderChat } from "./chat.ts";
import { collect, type CollectOptions } from "./collect.ts";
import { readManifest, type StoreManifest } from "./store/manifest.ts";

vi.mock(import("node:fs/promises"), async (importOriginal) => {
  const { faulty } = await import("../../test/faulty-files.ts");
  return faulty(await importOriginal());
});

let folder: string;
beforeEach(async () => {
  healFaults();
  folder = await mkdtemp(join(tmpdir(), "lens-collect-"));
});
afterEach(async () => {
  healFaults();
  await rm(folder, { recursive: true });
});

const at = (...names: string[]) => join(folder, ...names);
const DOCUMENTS = Array.from({ length: 60 }, (_, i) => `Story ${i}: ${"la ".repeat(i % 17)}end.`);

/** Those of them that are for training: eight of ten. */
const TRAIN = DOCUMENTS.filter((_, i) => i % 10 < 8);

async function writeTexts(texts = DOCUMENTS): Promise<string> {
  await writeFile(at("text.jsonl"), texts.map((text) => JSON.stringify({ text })).join("\n"));
  return at("text.jsonl");
}

const options = (more: Partial<CollectOptions> = {}): CollectOptions => ({
  out: at("store"),
  hookPoint: "*",
  tokens: 700,
  shardRows: 150,
  contextLength: 16,
  batchRows: 4,
  ...more,
});

/** Every file of a store with its hash. */
async function contents(store: string): Promise<Record<string, string>> {
  const entries = await readdir(store, { recursive: true, withFileTypes: true });
  const files = entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
  const hashes = files.map(async (file) => [relative(store, file), await hashFile(file)]);
  return Object.fromEntries((await Promise.all(hashes)) as [string, string][]);
}

async function rowsOf(store: ActivationStore): Promise<number[][]> {
  const rows: number[][] = [];
  for await (const block of store.rowsInOrder(64))
    for (let r = 0; r < block.rows; r++)
      rows.push([...block.data.subarray(r * store.dIn, (r + 1) * store.dIn)]);
  return rows;
}

/** Undoes the packing by hand: rows of 16 over the documents, each after a BOS. */
function expectedTokens(texts: string[], tokens: number) {
  const stream = texts.flatMap((text, document) => [
    { token: BOS, document: -1, start: 0 },
    ...Array.from(text, (c, start) => ({ token: c.charCodeAt(0), document, start })),
  ]);
  return stream
    .map((entry, i) => ({
      ...entry,
      position: i % 16,
      row: stream.slice(i - (i % 16), i + 1).map(({ token }) => token),
    }))
    .filter(({ document }) => document >= 0)
    .slice(0, tokens);
}

describe("a collected store", () => {
  it.each(["f32", "f16", "bf16", "int8"] as const)(
    "holds each token's activations at every hook point (%s)",
    async (dtype) => {
      const store = await collect(stubModel(), await writeTexts(), options({ dtype }));
      const expected = expectedTokens(TRAIN, 700);
      expect([store.rows, store.dIn, store.hookPoint]).toEqual([700, 3, "hook_embed"]);
      const { tokens, positions, documents, starts, ends } = await store.tokens();
      expect([...tokens]).toEqual(expected.map(({ token }) => token));
      expect([...positions]).toEqual(expected.map(({ position }) => position));
      expect([...documents]).toEqual(expected.map(({ document }) => document));
      expect([...starts]).toEqual(expected.map(({ start }) => start));
      expect([...ends]).toEqual(expected.map(({ start }) => start + 1));
      const post = await openActivations(store.path, { hookPoint: "blocks.0.hook_resid_post" });
      for (const opened of [store, post]) {
        const rows = await rowsOf(opened);
        for (const [i, { row, position }] of expected.entries())
          for (const [j, x] of stubActivation(row, position, opened.dIn).entries()) {
            const halfStep = Math.max(...rows[i].map(Math.abs)) / 254;
            const bound = dtype === "bf16" ? x / 256 : dtype === "int8" ? 1.001 * halfStep : 0;
            expect(Math.abs(rows[i][j] - x)).toBeLessThanOrEqual(bound);
          }
      }
    },
  );

  it("has the statistics of its activations in the manifest", async () => {
    const store = await collect(stubModel(), await writeTexts(), options({ dtype: "f32" }));
    const rows = await rowsOf(store);
    const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
    const norms = rows.map((row) => Math.hypot(...row));
    const statistics = store.manifest!.statistics["hook_embed"];
    for (let j = 0; j < 3; j++)
      expect(statistics.mean[j]).toBeCloseTo(mean(rows.map((row) => row[j])), 10);
    expect(statistics.meanNorm).toBeCloseTo(mean(norms), 10);
    expect(statistics.maxNorm).toBeCloseTo(Math.max(...norms), 10);
    // All rows are fewer than a sample: the point from which no small step lowers the mean distance.
    const { geometricMedian, medianRows } = statistics;
    expect(medianRows).toBe(700);
    const distance = (point: number[]) =>
      mean(rows.map((row) => Math.hypot(...row.map((x, j) => x - point[j]))));
    for (let j = 0; j < 3; j++)
      for (const step of [-0.01, 0.01])
        expect(distance(geometricMedian!)).toBeLessThan(
          distance(geometricMedian!.map((x, c) => (c === j ? x + step : x))),
        );
    expect(statistics.rms).toBeCloseTo(Math.sqrt(mean(rows.flat().map((x) => x * x))), 10);
  });

  it("says in its manifest what made it, and verifies", async () => {
    const store = await collect(stubModel(), await writeTexts(), options());
    expect(await readManifest(store.path)).toMatchObject({
      schema: "latent-lens/activations@1",
      model: { name: "stub", weightsHash: "stub weights" },
      tokenizer: { hash: "stub" },
      data: { split: "train", field: "text", hash: await hashFile(at("text.jsonl")) },
      bos: "document",
      tokenMask: ["beginning-of-sequence positions are dropped"],
      rows: 700,
      shards: [{ rows: 150 }, { rows: 150 }, { rows: 150 }, { rows: 150 }, { rows: 100 }],
    });
    await openActivations(store.path, { hookPoint: "hook_embed", verify: true });
    expect((await readdir(store.path)).filter((name) => /^lock|tmp$/.test(name))).toEqual([]);
  });

  it("ends with the text when that ends first", async () => {
    const whole = TRAIN.join("").length;
    for (const shardRows of [150, whole]) {
      const out = at(`store-${shardRows}`);
      const store = await collect(stubModel(), await writeTexts(), options({ tokens: 1e6, out, shardRows })); // prettier-ignore
      expect(store.rows).toBe(whole);
      const before = await contents(out);
      await collect(stubModel(), at("text.jsonl"), options({ tokens: 1e6, out, shardRows }));
      expect(await contents(out)).toEqual(before);
    }
  });

  it("goes on within a mixture in another order, and counts what has no text", async () => {
    const more = Array.from({ length: 40 }, (_, i) => JSON.stringify({ body: `More ${i}.` }));
    await writeFile(at("more.jsonl"), [...more, '{"body": " "}', '{"body": null}'].join("\n"));
    const part = { source: at("more.jsonl"), weight: 2, field: "body" };
    const source = [await writeTexts(), part];
    let empty = 0;
    const own = { shuffleDocuments: 7, seed: 3, tokens: 1e6, onEmpty: () => void empty++ };
    const { path } = await collect(stubModel(), source, options(own));
    expect(empty).toBe(2);
    const whole = await contents(path);
    // From every shard on, the rest is the same again.
    await rm(at("store", "manifest.json"));
    await rm(at("store", "tokens", "00003.safetensors"));
    await collect(stubModel(), source, options(own));
    expect(await contents(path)).toEqual(whole);
    const others = [
      { ...own, shuffleDocuments: 8 },
      { ...own, seed: 4 },
    ];
    for (const other of others)
      await expect(collect(stubModel(), source, options(other))).rejects.toThrow(
        /data\.(shuffle|seed) was/,
      );
    const weights = [source[0], { ...part, weight: 1 }];
    await expect(collect(stubModel(), weights, options(own))).rejects.toThrow(/data\.hash was/);
  });

  it("renders chats through the model, and refuses them without a template", async () => {
    const messages = [{ role: "user", content: "Hi" }];
    await writeFile(at("chat.jsonl"), JSON.stringify({ messages }));
    const { tokenizer, ...rest } = stubModel();
    const renderChat: RenderChat = async ([{ role, content }]) => `<${role}>${content as string}`;
    const model = { ...rest, tokenizer: { ...tokenizer, renderChat } };
    const store = await collect(model, at("chat.jsonl"), options({ field: "messages" }));
    expect(store.rows).toBe("<user>Hi".length);
    const none = options({ field: "messages", out: at("none") });
    await expect(collect(stubModel(), at("chat.jsonl"), none)).rejects.toThrow(
      /no model is at hand/,
    );
  });

  it("does not go on from standard input", async () => {
    await collect(stubModel(), await writeTexts(), options());
    await expect(collect(stubModel(), "-", options())).rejects.toThrow(
      /going on with .*store needs the text again, and standard input/,
    );
  });

  it("tells how far it is", async () => {
    const seen: number[] = [];
    const onProgress = (progress: { done: number; total: number }) => {
      expect(progress.total).toBe(700);
      seen.push(progress.done);
    };
    await collect(stubModel(), await writeTexts(), options({ onProgress }));
    expect([seen[0], seen.at(-1)]).toEqual([0, 700]);
    expect(seen).toEqual(seen.toSorted((a, b) => a - b));
  });

  it("finds and names a flipped byte, a cut file and a missing one", async () => {
    const { path } = await collect(stubModel(), await writeTexts(), options());
    const hookPoint = "hook_embed";
    const file = join(path, hookPoint, "00002.safetensors");
    const bytes = await readFile(file);
    bytes[bytes.length - 5] ^= 1;
    await writeFile(file, bytes);
    await openActivations(path, { hookPoint });
    await expect(openActivations(path, { hookPoint, verify: true })).rejects.toThrow(
      /00002\.safetensors is damaged/,
    );
    await truncate(file, bytes.length - 1);
    await expect(openActivations(path, { hookPoint })).rejects.toThrow(/00002\.safetensors has/);
    await rm(file);
    await expect(openActivations(path, { hookPoint })).rejects.toThrow(/00002.*ENOENT/);
    // Collecting again makes what is missing.
    const again = await collect(stubModel(), at("text.jsonl"), options());
    await openActivations(again.path, { hookPoint, verify: true });
  });

  it("asks which of its hook points is meant", async () => {
    const { path } = await collect(stubModel(), await writeTexts(), options());
    await expect(openActivations(path)).rejects.toThrow(/hook_embed, blocks.0.hook_resid_post/);
    await expect(openActivations(path, { hookPoint: "hook_pos" })).rejects.toThrow(/not among/);
  });
});

describe("tokens that rules leave out", () => {
  /** Rows as `expectedTokens` has them, with why they are left out. */
  const judged = (
    texts: string[],
    keep: (t: ReturnType<typeof expectedTokens>[number]) => boolean,
  ) => expectedTokens(texts, Infinity).filter(keep);
  const TEXTS = Array.from({ length: 30 }, (_, i) => `No ${i}! ${"la ".repeat(i % 7)}!!`);

  it("are in no row, are counted, and a crash changes nothing", async () => {
    const text = await writeTexts(TEXTS);
    const train = TEXTS.filter((_, i) => i % 10 < 8);
    const rules = { skipSpecialTokens: true, skipPositions: 3, maxNorm: 60 };
    const all = { ...rules, tokens: 1e6, shardRows: 20, dtype: "f32" as const };
    const store = await collect(stubModel(), text, options(all));
    const { path, manifest } = store;
    // Of both hook points; the wider one has the larger norm.
    const norm = ({ row, position }: { row: number[]; position: number }) =>
      Math.hypot(...stubActivation(row, position, 4));
    const expected = judged(
      train,
      (t) => t.token !== SPECIAL && t.position >= 3 && norm(t) <= rules.maxNorm,
    );
    const stored = await store.tokens();
    expect([...stored.tokens]).toEqual(expected.map(({ token }) => token));
    expect([...stored.starts]).toEqual(expected.map(({ start }) => start));
    const of = (keep: Parameters<typeof judged>[1]) => judged(train, keep).length;
    const special = of((t) => t.token === SPECIAL);
    const position = of((t) => t.token !== SPECIAL && t.position < 3);
    const tooLong = of((t) => t.token !== SPECIAL && t.position >= 3 && norm(t) > rules.maxNorm);
    expect(tooLong).toBeGreaterThan(5);
    expect(manifest!.dropped).toEqual({ beginning: 24, special, position, norm: tooLong });
    expect(manifest!.tokenMask).toEqual([
      "beginning-of-sequence positions are dropped",
      "special tokens are dropped",
      "the first 3 positions of each row are dropped",
      "tokens with a norm above 60 at one of the hook points are dropped",
    ]);
    const whole = await contents(path);
    for (const shard of [1, 3]) {
      await rm(join(path, "tokens", `0000${shard}.safetensors`));
      await collect(stubModel(), text, options(all));
      expect(await contents(path)).toEqual(whole);
    }
    await expect(collect(stubModel(), text, options({ ...all, skipPositions: 2 }))).rejects.toThrow(
      /tokenRules.skipPositions was 3, now 2/,
    );
  });

  it("are those of text, whatever packing adds to it", async () => {
    const END = 7;
    const plain = stubModel();
    const model = { ...plain, tokenizer: { ...plain.tokenizer, eosId: END } };
    const rules = { eos: true, packing: "separate" } as const;
    const all = { tokens: 1e6, shardRows: 20, dtype: "f32" as const };
    const store = await collect(model, await writeTexts(), options({ ...all, ...rules }));
    const expected = TRAIN.flatMap((text, document) => {
      const stream = [BOS, ...Array.from(text, (c) => c.charCodeAt(0)), END];
      return stream.map((token, i) => ({ token, document, position: i % 16, row: stream.slice(i - (i % 16), i + 1) })).slice(1, -1); // prettier-ignore
    });
    const { tokens, documents, positions } = await store.tokens();
    expect([...tokens]).toEqual(expected.map(({ token }) => token));
    expect([...documents]).toEqual(expected.map(({ document }) => document));
    expect([...positions]).toEqual(expected.map(({ position }) => position));
    const rows = await rowsOf(store);
    for (const [i, { row, position }] of expected.entries())
      expect(rows[i]).toEqual(stubActivation(row, position, store.dIn));
    // Padding that all rows of a pass have is not computed.
    const lengths: number[] = [];
    const forward: typeof model.forward = (input) => {
      lengths.push(input.length);
      return model.forward(input);
    };
    const short = at("short.jsonl");
    await writeFile(short, ["ab", "abcde", "a"].map((text) => JSON.stringify({ text })).join("\n"));
    const out = at("short");
    await collect({ ...model, forward }, short, options({ ...all, ...rules, out }));
    expect(lengths).toEqual([7]);
    // Padding is no token that was left out.
    expect(store.manifest!.dropped).toEqual({ beginning: 48, special: 48, position: 0, norm: 0 });
    expect(store.manifest).toMatchObject({ bos: "document", ...rules });
    expect(store.manifest!.tokenMask).toContain("end-of-sequence positions are dropped");
    await expect(collect(model, at("text.jsonl"), options({ ...all, eos: true }))).rejects.toThrow(
      'packing was "separate", now absent',
    );
  });

  it("cannot be all of a row", async () => {
    await expect(
      collect(stubModel(), await writeTexts(), options({ skipPositions: 16 })),
    ).rejects.toThrow(/skipPositions must be less than contextLength \(16\); got 16/);
  });
});

describe("adding to a store", () => {
  it("goes on in the text where it stopped, and only when asked to", async () => {
    const text = await writeTexts();
    const small = await collect(stubModel(), text, options({ tokens: 333 }));
    const before = await contents(small.path);
    await expect(collect(stubModel(), text, options({ tokens: 500 }))).rejects.toThrow(
      /holds 333 activations, 500 are asked for: add the others with --append/,
    );
    expect(await contents(small.path)).toEqual(before);
    const added = await collect(stubModel(), text, options({ tokens: 500, append: true }));
    const whole = await collect(stubModel(), text, options({ tokens: 500, out: at("whole") }));
    expect(added.rows).toBe(500);
    expect(await added.tokens()).toEqual(await whole.tokens());
    expect(await rowsOf(added)).toEqual(await rowsOf(whole));
    // Shards that were whole are as they were.
    const after = await contents(small.path);
    for (const [file, hash] of Object.entries(before))
      if (/shard|safetensors/.test(file)) expect(after[file], file).toBe(hash);
    await openActivations(added.path, { hookPoint: "hook_embed", verify: true });
    const fewer = collect(stubModel(), text, options({ tokens: 400, append: true }));
    await expect(fewer).rejects.toThrow(/tokens was 500, now 400/);
  });

  it("leaves what there is readable when it is killed, and then ends in the same bytes", async () => {
    const text = await writeTexts();
    const short = { shardRows: 100, hookPoint: "hook_embed" };
    const more = { ...short, tokens: 260, append: true };
    await collect(stubModel(), text, options({ ...short, tokens: 120, out: at("undisturbed") }));
    healFaults();
    await collect(stubModel(), text, options({ ...more, out: at("undisturbed") }));
    const [undisturbed, { changes }] = [await contents(at("undisturbed")), { ...fault }];
    for (let after = 0; after < changes; after += 3) {
      const out = at(`crash-${after}`);
      await collect(stubModel(), text, options({ ...short, tokens: 120, out }));
      Object.assign(fault, { changes: 0, after });
      await expect(collect(stubModel(), text, options({ ...more, out }))).rejects.toThrow();
      healFaults();
      expect((await openActivations(out, { verify: true })).rows).toBeGreaterThanOrEqual(120);
      await collect(stubModel(), text, options({ ...more, out }));
      expect(await contents(out), `crash at change ${after}`).toEqual(undisturbed);
    }
  }, 120_000);

  it("says when its text has ended", async () => {
    const text = await writeTexts();
    await collect(stubModel(), text, options({ tokens: 1e5 }));
    await expect(
      collect(stubModel(), text, options({ tokens: 2e5, append: true })),
    ).rejects.toThrow(/its text ended after \d+ activations/);
  });
});

describe("collecting after a crash", () => {
  it("ends in the same bytes, whichever change of a file was the last", async () => {
    const text = await writeTexts();
    const short = { tokens: 160, shardRows: 100, hookPoint: "hook_embed" };
    await collect(stubModel(), text, options({ out: at("undisturbed"), ...short }));
    const undisturbed = await contents(at("undisturbed"));
    const changes = fault.changes;
    expect(changes).toBeGreaterThan(30);
    for (let after = 0; after < changes; after++) {
      const out = at(`crash-${after}`);
      Object.assign(fault, { changes: 0, after });
      const crashing = collect(stubModel(), text, options({ out, ...short }));
      await expect(crashing, `crash at change ${after}`).rejects.toThrow();
      healFaults();
      await collect(stubModel(), text, options({ out, ...short }));
      expect(await contents(out), `crash at change ${after}`).toEqual(undisturbed);
    }
  }, 120_000);

  it("ends in the same bytes after three kill -9", async () => {
    const text = await writeTexts(Array.from({ length: 5 }, () => DOCUMENTS).flat());
    const [tokens, shardRows] = [1500, 250];
    const file = (path: string) => fileURLToPath(new URL(path, import.meta.url));
    const loader = new URL("../../test/typescript-loader.mjs", import.meta.url).href;
    const script = file("../../test/crash/collect.ts");
    const args = ["--import", loader, script, text, at("killed"), `${tokens}`, `${shardRows}`];
    for (const killAt of [Math.random() * 500, 500 + Math.random() * 500, 1250]) {
      const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
      const exit = once(child, "exit");
      for await (const line of createInterface(child.stdout)) {
        if (Number(line) < killAt) continue;
        child.kill("SIGKILL");
        break;
      }
      expect(await exit).toEqual([null, "SIGKILL"]);
    }
    const whole = { tokens, shardRows };
    await collect(stubModel(), text, options({ out: at("killed"), ...whole }));
    await collect(stubModel(), text, options({ out: at("undisturbed"), ...whole }));
    expect(await contents(at("killed"))).toEqual(await contents(at("undisturbed")));
  }, 240_000);

  it("goes on where it stopped when it is asked to stop", async () => {
    const text = await writeTexts();
    const stop = new AbortController();
    const onProgress = ({ done }: { done: number }) => {
      if (done > 200) stop.abort(new Error("enough"));
    };
    await expect(
      collect(stubModel(), text, options({ signal: stop.signal, onProgress })),
    ).rejects.toThrow("enough");
    await expect(openActivations(at("store"))).rejects.toThrow(/unfinished store: 150 of 700/);
    const seen: number[] = [];
    await collect(stubModel(), text, options({ onProgress: ({ done }) => seen.push(done) }));
    expect(seen[0]).toBe(150);
    await collect(stubModel(), text, options({ out: at("undisturbed") }));
    expect(await contents(at("store"))).toEqual(await contents(at("undisturbed")));
  });

  it("does nothing when everything is there", async () => {
    const text = await writeTexts();
    await collect(stubModel(), text, options());
    fault.changes = 0;
    await collect(stubModel(), text, options());
    expect(fault.changes).toBe(0);
  });
});

describe("bad input", () => {
  it("of other options into the same folder is refused, saying what differs", async () => {
    const text = await writeTexts();
    const before = (await collect(stubModel(), text, options())).manifest as StoreManifest;
    const other = collect(stubModel(), text, options({ dtype: "bf16", contextLength: 32 }));
    await expect(other).rejects.toThrow(
      /contextLength was 16, now 32; dtype was "f16", now "bf16"/,
    );
    await expect(other).rejects.toThrow(UserError);
    await writeTexts(["another text"]);
    await expect(collect(stubModel(), text, options())).rejects.toThrow(/data\.hash was/);
    expect(await readManifest(at("store"))).toEqual(before);
  });

  it("of a model on another device is refused, since a GPU rounds otherwise", async () => {
    const text = await writeTexts();
    const onGpu = stubModel({ device: "webgpu" });
    const { manifest } = await collect(onGpu, text, options());
    expect(manifest!.model).toEqual({
      name: "stub",
      weightsHash: "stub weights",
      device: "webgpu",
    });
    await collect(onGpu, text, options());
    await expect(collect(stubModel(), text, options())).rejects.toThrow(
      /model\.device was "webgpu", now absent/,
    );
    const other = options({ out: at("other") });
    const { model } = (await collect(stubModel(), text, other)).manifest!;
    expect(model).toEqual({ name: "stub", weightsHash: "stub weights" });
    await expect(collect(onGpu, text, other)).rejects.toThrow(/model\.device was absent, now "webgpu"/); // prettier-ignore
  });

  it("of a folder with other things in it is refused", async () => {
    await mkdir(at("store"));
    await writeFile(at("store", "thesis.tex"), "");
    await expect(collect(stubModel(), await writeTexts(), options())).rejects.toThrow(
      /thesis\.tex/,
    );
    expect(await readdir(at("store"))).toEqual(["thesis.tex"]);
  });

  it("of a folder that a live process collects into is refused", async () => {
    const text = await writeTexts();
    let second: Promise<unknown> | undefined;
    const onProgress = () => {
      second ??= collect(stubModel(), text, options()).catch((error: unknown) => error);
    };
    await collect(stubModel(), text, options({ onProgress }));
    expect(String(await second)).toMatch(/UserError: .*in use by process/);
  });

  it("of text without tokens or a hook point that is not there is refused", async () => {
    await expect(collect(stubModel(), await writeTexts([""]), options())).rejects.toThrow(
      /no tokens/,
    );
    // The folder holds nothing yet, so it can be used for something else.
    await collect(stubModel(), await writeTexts(["ab"]), options());
    await expect(
      collect(stubModel(), at("text.jsonl"), options({ hookPoint: "hook_pos" })),
    ).rejects.toThrow(/hook_pos/);
  });

  it.each([NaN, -Infinity])("of activations that are %d stops, naming where", async (value) => {
    const model = stubModel({ odd: { token: "X".charCodeAt(0), value } });
    const text = await writeTexts(["a".repeat(200) + "X"]);
    await expect(collect(model, text, options({ dtype: "f32" }))).rejects.toThrow(
      `row 50 of shard 1 at hook_embed holds ${value}`,
    );
  });

  it("of values too large for f16 stops and says which types would do", async () => {
    const model = (value: number) => stubModel({ odd: { token: "X".charCodeAt(0), value } });
    const text = await writeTexts(["abcX"]);
    await expect(collect(model(-65520), text, options())).rejects.toThrow(
      /row 3 of shard 0 at hook_embed holds -65520, too large for f16.*bf16 or f32/,
    );
    const largest = await collect(model(65519), text, options());
    expect((await rowsOf(largest))[3][0]).toBe(65504);
    const bf16 = await collect(model(1e9), text, options({ dtype: "bf16", out: at("bf16") }));
    expect((await rowsOf(bf16))[3][0] / 1e9).toBeCloseTo(1, 2);
  });

  it("of a full disk stops, keeps what is complete and can go on", async () => {
    const text = await writeTexts();
    await collect(stubModel(), text, options({ out: at("undisturbed") }));
    Object.assign(fault, { changes: 0, after: 70, code: "ENOSPC" });
    const full = collect(stubModel(), text, options());
    await expect(full).rejects.toThrow(
      /no space left on the disk .* of 700 activations are complete .* goes on from there/,
    );
    await expect(full).rejects.toThrow(UserError);
    healFaults();
    await collect(stubModel(), text, options());
    expect(await contents(at("store"))).toEqual(await contents(at("undisturbed")));
  });
});
