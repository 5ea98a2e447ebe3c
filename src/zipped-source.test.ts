/** Sources that are read together: their rows must be those of the same tokens. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { stubModel } from "../test/stub-model.ts";
import { memorySource, type RowSource } from "./activation-source.ts";
import { collect } from "./model/collect.ts";
import { openActivations } from "./model/activations.ts";
import { joinedSource, pairedSource } from "./zipped-source.ts";

const RESID = "blocks.0.hook_resid_post";
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lens-zipped-"));
});
afterAll(() => rm(folder, { recursive: true }));

let nth = 0;
/** Activations of 200 characters at the hook point, in shards of 60 rows. */
async function store(hookPoint: string, { letter = "a", shardRows = 60 } = {}): Promise<RowSource> {
  const name = join(folder, String(nth++));
  const text = Array.from({ length: 40 }, (_, i) => `${letter.repeat(1 + (i % 9))} story ${i}`);
  await writeFile(`${name}.jsonl`, text.map((t) => JSON.stringify({ text: t })).join("\n"));
  return collect(stubModel(), `${name}.jsonl`, {
    ...{ out: name, hookPoint, tokens: 200, contextLength: 16, dtype: "f32", shardRows },
  });
}

async function rowsOf(source: RowSource, shuffle = true): Promise<number[][]> {
  const rows: number[][] = [];
  const options = { batchSize: 7, seed: 3, shuffle, bufferRows: 64 };
  for await (const { data, target, rows: count } of source.batches(options)) {
    for (let n = 0; n < count; n++)
      rows.push([
        ...data.subarray(n * source.dIn, (n + 1) * source.dIn),
        ...(target?.subarray(n * source.dOut!, (n + 1) * source.dOut!) ?? []),
      ]);
    if (rows.length >= source.rows) return rows;
  }
  return rows;
}

describe("two hook points of the same text", () => {
  test("collected one after the other go together row by row, in mixed order and in parts", async () => {
    const [x, y] = [await store("hook_embed"), await store(RESID)];
    for (const source of [pairedSource(x, y), joinedSource([x, y])]) {
      expect(source.tokenRows).toEqual({ shards: expect.any(Array) as never, first: 0 });
      // What the stub gives at the narrower hook point is a prefix of what it gives at the other.
      for (const part of [source, source.slice(50, 130)])
        for (const row of await rowsOf(part)) expect(row.slice(0, 3)).toEqual(row.slice(3, 6));
    }
    const { path } = await collect(stubModel(), "builtin:stories", {
      ...{ out: join(folder, "both"), hookPoint: ["hook_embed", RESID], tokens: 100 },
    });
    const open = (hookPoint: string) => openActivations(path, { hookPoint });
    expect(pairedSource(await open("hook_embed"), await open(RESID)).dOut).toBe(4);
  });

  test("are refused when they are not of the same tokens, with what differs", async () => {
    const [x, other] = [await store("hook_embed"), await store(RESID, { letter: "b" })];
    expect(() => pairedSource(x, other)).toThrow(/the tokens of shard 0 differ \(xxh64/);
    expect(() => joinedSource([x, other])).toThrow(/must come from the same tokens/);
    const cut = await store(RESID, { shardRows: 70 });
    expect(() => pairedSource(x, cut)).toThrow("shard 0 of their stores has 60 rows in one and 70");
    const y = await store(RESID);
    expect(() => pairedSource(x.slice(0, 100), y.slice(60, 160))).toThrow(
      "one begins at row 0 of its store, another at row 60",
    );
    expect(() => pairedSource(x, y.slice(0, 150))).toThrow("one has 200 rows, another 150");
  });

  test("may differ in what is not used of them", async () => {
    const x = await store("hook_embed");
    const other = await store(RESID);
    const { shards } = other.tokenRows!;
    const changed = shards.map((shard, i) => (i === 3 ? { ...shard, xxh64: "changed" } : shard));
    const target = { ...memorySource(new Float32Array(800), 4), tokenRows: { shards: changed, first: 0 } }; // prettier-ignore
    expect(() => pairedSource(x, target)).toThrow("the tokens of shard 3 differ");
    const part = { ...target.slice(0, 180), tokenRows: target.tokenRows };
    expect(pairedSource(x.slice(0, 180), part).rows).toBe(180);
  });
});

test("activations made elsewhere, of which no tokens are known, need as many rows only", () => {
  const [x, y] = [memorySource(new Float32Array(30), 3), memorySource(new Float32Array(50), 5)];
  expect(pairedSource(x, y)).toMatchObject({ dIn: 3, dOut: 5, rows: 10, tokenRows: undefined });
  expect(joinedSource([x, y])).toMatchObject({ dIn: 8, heads: [3, 5], rows: 10 });
});
