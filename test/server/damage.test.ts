/** Run folders that are damaged or half-written cost only what they are about. */
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";

import { unpackTable } from "../../src/packed-table.ts";
import type { RunRow } from "../../src/server/schemas.ts";
import { scratch, startServer, type Client } from "./server.ts";
import { copyRun } from "./shared-run.ts";

const folder = scratch();
const WHOLE = "whole_20260102_030405_0";
let client: Client;
let close: () => Promise<void>;
beforeAll(async () => {
  await copyRun(folder, WHOLE);
  ({ client, close } = await startServer({ runs: folder }));
});
afterAll(() => close());

let id = "";
let api = "";
let run = "";
let nth = 0;
beforeEach(async () => {
  id = `damaged_20260102_030405_${++nth}`;
  api = `/api/runs/${id}`;
  run = await copyRun(folder, id);
});

/** The damaged run in the list, or what is said of it instead; the whole one is there in any case. */
async function inList(): Promise<RunRow | string> {
  const { runs, broken } = await client.get<{
    runs: RunRow[];
    broken: { id: string; problem: string }[];
  }>("/api/runs");
  expect(runs.map((one) => one.id)).toContain(WHOLE);
  return runs.find((one) => one.id === id) ?? broken.find((one) => one.id === id)!.problem;
}
const edit = (name: string, change: (value: Record<string, unknown>) => unknown) => {
  const path = join(run, name);
  const value = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  writeFileSync(path, JSON.stringify(change(value)));
};

test("a run without config.json is named, and can be deleted", async () => {
  rmSync(join(run, "config.json"));
  expect(await inList()).toContain("config.json");
  await client.refused("GET", api, 404);
  expect(await client.json("DELETE", api)).toEqual({ deleted: id });
  expect(existsSync(run)).toBe(false);
});

test("folders that are no runs are not spoken of", async () => {
  mkdirSync(join(folder, "activations", "x"), { recursive: true });
  mkdirSync(join(folder, ".deleted-x", "sae"), { recursive: true });
  const { runs, broken } = await client.get<{ runs: RunRow[]; broken: { id: string }[] }>(
    "/api/runs",
  );
  const ids = [...runs, ...broken].map((one) => one.id);
  expect(ids).not.toContain("activations");
  expect(ids).not.toContain(".deleted-x");
});

test.each([
  ["is cut off", (text: string) => text.slice(0, 40)],
  ["is empty", () => ""],
  ["holds a number", () => "5"],
  ["says no time", () => '{"provenance":{"started":5}}'],
])("a config.json that %s is named", async (_, damage) => {
  const path = join(run, "config.json");
  writeFileSync(path, damage(readFileSync(path, "utf8")));
  expect(await inList()).toContain("config.json");
  expect(await client.refused("GET", api, 400)).toContain("config.json");
  expect(await client.refused("GET", `/api/compare?runs=${id},${WHOLE}`, 400)).toContain("config");
  expect(await client.json("DELETE", api)).toEqual({ deleted: id });
});

test.each([
  ["is cut off", "{"],
  ["is a list", "[]"],
  ["holds scores that are none", '{"status":"finished","duration":1,"eval_scores":{"fvu":null}}'],
])("a summary.json that %s is named", async (_, content) => {
  writeFileSync(join(run, "summary.json"), content);
  expect(await inList()).toContain("summary.json");
  expect(await client.refused("GET", api, 400)).toContain("summary.json");
  await client.refused("GET", `/api/compare?runs=${id},${WHOLE}`, 400);
});

test("settings of another kind than a run's are shown as they are", async () => {
  edit("config.json", ({ provenance }) => ({ activations: null, sae: [1], provenance }));
  const row = await inList();
  expect(row).toMatchObject({ id, name: id });
  expect(row).not.toHaveProperty("hookPoint");
  expect(await client.get(api)).toMatchObject({ config: { sae: [1] } });
});

test("a torn last line of the metrics is left out", async () => {
  const path = join(run, "metrics.jsonl");
  truncateSync(path, readFileSync(path).length - 20);
  expect(await inList()).toMatchObject({ step: 55 });
  const { bytes } = await client.send("GET", `${api}/metrics`);
  expect(unpackTable(new Uint8Array(bytes).buffer).numbers.step).toHaveLength(11);
});

test.each(["not JSON", "null", "[1]", '{"step":"x"}'])(
  "metrics with the line %s cost the curve, not the run",
  async (line) => {
    appendFileSync(join(run, "metrics.jsonl"), `${line}\n{"step":61}\n`);
    expect(await inList()).toMatchObject({ id, spark: [], isHeldOut: true });
    expect(await client.get(api)).toMatchObject({ id });
    expect(await client.refused("GET", `${api}/metrics`, 400)).toContain("line 13");
  },
);

test("metrics of any names are columns", async () => {
  appendFileSync(join(run, "metrics.jsonl"), '{"step":65,"__proto__":1,"constructor":2}\n');
  const { bytes } = await client.send("GET", `${api}/metrics`);
  const { numbers } = unpackTable(new Uint8Array(bytes).buffer);
  expect(
    Object.entries(numbers)
      .find(([name]) => name === "constructor")![1]
      .at(-1),
  ).toBe(2);
  expect(Object.hasOwn(Object.prototype, 12)).toBe(false);
});

test.each([
  ["of another version", (index: object) => ({ ...index, version: 1 }), "version 1"],
  ["without columns", ({ version }: { version: number }) => ({ version }), "index the features"],
])("a feature index %s costs the features only", async (_, change, said) => {
  edit("features/index.json", change as (value: object) => unknown);
  expect(await inList()).toMatchObject({ id, hasSae: true });
  for (const path of ["features", "columns", "features/3", "top-features", "features/3/neighbors"])
    expect(await client.refused("GET", `${api}/${path}`, 400)).toContain(said);
  expect(await client.post(`${api}/analyse`, { text: "the dog" })).toHaveProperty("pieces");
});

test("features with an index that is cut off say so", async () => {
  truncateSync(join(run, "features", "index.json"), 100);
  expect(await inList()).toMatchObject({ id });
  expect(await client.refused("GET", `${api}/features`, 400)).toContain("index.json is damaged");
  expect(await client.get(api)).toMatchObject({ missing: [{ what: "concepts" }] });
});

type List = Record<string, unknown[]>;
const without = (list: string) => (value: List) => ({ ...value, [list]: value[list].slice(1) });
const spoiled = (list: string, one: unknown) => (value: List) => ({
  ...value,
  [list]: [...value[list].slice(1), one],
});
const beside: {
  name: string;
  what: string;
  job: string;
  of: string;
  damages: Record<string, (value: List) => unknown>;
}[] = [
  {
    ...{ name: "labels.json", what: "scored labels", job: "features", of: "label" },
    damages: {
      "is of fewer latents": without("best"),
      "holds a label without a name": spoiled("best", { auc: 1, atThreshold: { f1: 1 } }),
      "holds a label without a threshold": spoiled("best", { name: "x", auc: 1, atThreshold: null }), // prettier-ignore
      "holds a number": spoiled("best", 5),
    },
  },
  {
    ...{ name: "explanations.json", what: "explanations", job: "explain", of: "explanation" },
    damages: {
      "is of fewer latents": without("latents"),
      "holds a latent without rules": spoiled("latents", { latent: 63 }),
      "holds a rule without words": spoiled("latents", { latent: 63, rules: [{ f1: {} }] }),
      "holds null": spoiled("latents", null),
      "is of another version": (value: List) => ({ ...value, version: 2 }),
    },
  },
];
describe.each(beside)("$name", ({ name, what, job, of, damages }) => {
  test.each<[string, (path: string) => void]>([
    ["is cut off", (path) => truncateSync(path, 100)],
    ["is empty", (path) => writeFileSync(path, "")],
    ["is null", (path) => writeFileSync(path, "null")],
    ["is a list", (path) => writeFileSync(path, "[]")],
    ["is a folder", (path) => (rmSync(path), mkdirSync(path))],
    ...Object.entries(damages).map(([how, change]): [string, (path: string) => void] => [
      how,
      () => edit(`features/${name}`, (value) => change(value as List)),
    ]),
  ])("that %s costs what it says, not the features", async (_, damage) => {
    const path = join(run, "features", name);
    const whole = readFileSync(path);
    const others = ["label", "explanation"].filter((one) => one !== of);
    expect(await client.get(api)).toMatchObject({ missing: [{ what: "concepts" }] });
    damage(path);
    expect(await client.get(`${api}/features`)).toMatchObject({ total: 64 });
    const detail = await client.get(`${api}/features/3`);
    expect([detail[of], ...others.map((one) => detail[one])]).toEqual([null, expect.any(Object)]);
    expect((await client.get<{ missing: object[] }>(api)).missing).toEqual([
      { what, why: expect.stringContaining(path) as string, command: `lens ${job} ${id}`, job },
      expect.objectContaining({ what: "concepts" }),
    ]);
    rmSync(path, { recursive: true });
    writeFileSync(path, whole);
    expect(await client.get(api)).toMatchObject({ missing: [{ what: "concepts" }] });
    expect((await client.get(`${api}/features/3`))[of]).not.toBeNull();
  });
});

test("a large index is not opened only to say what of it is damaged: that is known once it was opened", async () => {
  writeFileSync(join(run, "features", "explanations.json"), "{".padEnd(65 * 2 ** 20));
  const missing = async () =>
    (await client.get<{ missing: { what: string }[] }>(api)).missing.map(({ what }) => what);
  expect(await missing()).toEqual(["concepts"]);
  await client.get(`${api}/features`);
  expect(await missing()).toEqual(["explanations", "concepts"]);
});

test("the model's questions are answered without the labels that are damaged", async () => {
  truncateSync(join(run, "features", "labels.json"), 100);
  expect(await client.get(`${api}/features/3/neighbors`)).toHaveProperty("decoder");
  expect(await client.post(`${api}/analyse`, { text: "the dog" })).toHaveProperty("labels");
});

test("examples that are cut off cost the latents they are of", async () => {
  const path = join(run, "features", "features.jsonl.gz");
  truncateSync(path, Math.floor(readFileSync(path).length / 2));
  expect(await client.get(`${api}/features/0`)).toMatchObject({ run: id });
  expect(await client.refused("GET", `${api}/features/63`, 400)).toContain("features.jsonl.gz");
  expect(await client.get(`${api}/features`)).toMatchObject({ total: 64 });
});

test("a map or concepts that are damaged say so", async () => {
  truncateSync(join(run, "features", "map", "map.json"), 50);
  expect(await client.refused("GET", `${api}/map`, 400)).toContain("map.json is damaged");
  writeFileSync(join(run, "features", "map", "map.json"), "{}");
  expect(await client.refused("GET", `${api}/map`, 400)).toContain("damaged");
  mkdirSync(join(run, "concepts"));
  writeFileSync(join(run, "concepts", "concepts.json"), "{");
  expect(await client.refused("GET", `${api}/concepts`, 400)).toContain("damaged");
});

test("a run without its autoencoder has features to look at and nothing to try", async () => {
  rmSync(join(run, "sae"), { recursive: true });
  expect(await inList()).toMatchObject({ id, hasSae: false });
  expect(await client.get(api)).toMatchObject({
    missing: [{ what: "autoencoder", job: "resume" }],
  });
  expect(await client.get(`${api}/features/3`)).toMatchObject({ run: id });
  for (const [path, body] of [
    ["analyse", { text: "a" }],
    ["attribute", { text: "a" }],
    ["steer", { prompt: "a", edits: [] }],
  ] as const)
    expect(await client.refused("POST", `${api}/${path}`, 400, body)).toContain("no trained");
});

test("a run whose model is gone has neighbours and likeness all the same", async () => {
  edit("config.json", (config) => ({
    ...config,
    activations: { ...(config.activations as object), model: "/nowhere/model" },
  }));
  expect(await client.get(`${api}/features/3/neighbors`)).toHaveProperty("decoder");
  expect(await client.get(`${api}/features?query=like:3`)).toHaveProperty("rows");
  const said = await client.refused("POST", `${api}/analyse`, 400, { text: "the dog" });
  expect(said).toContain("/nowhere/model");
});

test("weights that are cut off say so", async () => {
  truncateSync(join(run, "sae", "sae_weights.safetensors"), 5000);
  const said = await client.refused("POST", `${api}/analyse`, 400, { text: "a" });
  expect(said).toContain("sae_weights.safetensors");
});

test("features that are looked up later are there for the model's questions too", async () => {
  const features = join(run, "features");
  const index = readFileSync(join(features, "index.json"));
  rmSync(join(features, "index.json"));
  expect(await client.post(`${api}/analyse`, { text: "the dog" })).toHaveProperty("pieces");
  await client.refused("GET", `${api}/features/3/neighbors`, 404);
  writeFileSync(join(features, "index.json"), index);
  expect(await client.get(`${api}/features/3/neighbors`)).toHaveProperty("decoder");
});

test("what is left of an earlier deletion does not hinder the next", async () => {
  mkdirSync(join(folder, `.deleted-${id}`, "rest"), { recursive: true });
  expect(await client.json("DELETE", api)).toEqual({ deleted: id });
  expect(existsSync(join(folder, `.deleted-${id}`))).toBe(false);
});
