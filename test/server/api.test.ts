/** What the API answers about runs, features and what the model is asked. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { afterAll, beforeAll, expect, test } from "vitest";

import type { AlignedConcept, ConceptAlignment } from "../../src/analysis/concept-alignment.ts";
import { readExplanations } from "../../src/analysis/explanations.ts";
import { openFeatures } from "../../src/analysis/features.ts";
import { cosine } from "../../src/analysis/neighbors.ts";
import { TOKEN_SEPARATOR } from "../../src/analysis/feature-columns.ts";
import { unpackTable } from "../../src/packed-table.ts";
import { readMetrics, readRun } from "../../src/runs.ts";
import { loadSae } from "../../src/sae/formats.ts";
import type { SiteDetail } from "../../src/server/site.ts";
import type {
  ConceptList,
  FeatureDetail,
  FeatureRow,
  TextCodes,
} from "../../src/server/feature-schemas.ts";
import type { RunDetail } from "../../src/server/schemas.ts";
import { startLens } from "../command.ts";
import { scratch, startServer, type Client } from "./server.ts";
import { copyRun, SMALL } from "./shared-run.ts";

const folder = scratch();
const RUN = "small_20260102_030405_0123abcd";
const api = `/api/runs/${RUN}`;
let run: string;
let client: Client;
let close: () => Promise<void>;
beforeAll(async () => {
  run = await copyRun(folder, RUN);
  await copyRun(folder, "other_20260102_030406_0123abcd");
  ({ client, close } = await startServer({ runs: folder }));
});
afterAll(() => close());

interface Page {
  total: number;
  positions: number;
  rows: FeatureRow[];
}
const features = (query: string) => client.get<Page>(`${api}/features?${query}`);
const tableOf = async (path: string) => {
  const { status, bytes, headers } = await client.send("GET", path);
  expect(status).toBe(200);
  expect(headers["content-type"]).toBe("application/octet-stream");
  return { table: unpackTable(new Uint8Array(bytes).buffer), etag: headers.etag! };
};

test("health tells the version and the folder", async () => {
  const { version } = JSON.parse(
    readFileSync(new URL("../../package.json", import.meta.url), "utf8"),
  ) as { version: string };
  expect(await client.get("/api/health")).toEqual({ status: "ok", version, runs: folder });
});

test("the list and a run say what the run's folder says", async () => {
  const info = readRun(run);
  const list = await client.get<{ runs: RunDetail[]; broken: unknown[] }>("/api/runs");
  expect(list.broken).toEqual([]);
  expect(list.runs.map(({ id }) => id)).toContain(RUN);
  const row = list.runs.find(({ id }) => id === RUN)!;
  const scores = Object.entries(info.summary!.eval_scores).map(([name, { mean }]) => [name, mean]);
  const metrics = readMetrics(run);
  expect(row).toEqual({
    ...{ id: RUN, name: info.name, status: "finished", started: info.started },
    ...{ duration: info.summary!.duration, model: "builtin:tiny", data: "builtin:stories" },
    ...{ hookPoint: "blocks.2.hook_resid_post", architecture: "topk", dSae: 64 },
    ...{ scores: Object.fromEntries(scores) as unknown, isHeldOut: true, step: SMALL.train.steps },
    ...{ spark: metrics.map(({ fvu }) => fvu), hasSae: true, hasFeatures: true },
  });
  const detail = await client.get<RunDetail>(api);
  expect(detail).toMatchObject(row);
  expect(detail.config).toEqual(info.config);
  expect(detail.summary).toEqual(info.summary);
  expect(detail.missing.map(({ what }) => what)).toEqual(["concepts"]);
  expect(await client.refused("GET", "/api/runs/nothing", 404)).toContain('no run "nothing"');
});

test("a comparison shows the scores side by side and what differs", async () => {
  const ids = [RUN, "other_20260102_030406_0123abcd"];
  const compared = await client.get<{
    experiments: { id: string }[];
    metrics: Record<string, number[]>;
    config: object;
  }>(`/api/compare?runs=${ids.join(",")}`);
  expect(compared.experiments.map(({ id }) => id)).toEqual(ids);
  const { mean } = readRun(run).summary!.eval_scores.fvu;
  expect(compared.metrics.fvu).toEqual([mean, mean]);
  expect(compared.config).toEqual({});
  await client.refused("GET", `/api/compare?runs=${RUN},nothing`, 404);
});

test("metrics have a row per log step, and are sent once only", async () => {
  const lines = readMetrics(run);
  const { table, etag } = await tableOf(`${api}/metrics`);
  expect(table.meta).toEqual({ rows: 12 });
  expect([...table.numbers.step]).toEqual(lines.map(({ step }) => step));
  expect([...table.numbers.fvu]).toEqual(lines.map(({ fvu }) => fvu));
  const again = await client.send("GET", `${api}/metrics`, { headers: { "If-None-Match": etag } });
  expect([again.status, again.text]).toEqual([304, ""]);
});

test("the preview is null where there is none", async () => {
  expect(await client.get(`${api}/preview`)).toBeNull();
});

test("features are found, sorted and given page by page", async () => {
  const { index } = await openFeatures(join(run, "features"));
  const { density, latents } = {
    density: (latent: number) => Math.fround(index.columns.firings[latent] / index.positions),
    latents: Array.from({ length: index.dSae }, (_, latent) => latent),
  };
  const all = await features("limit=1000");
  expect([all.total, all.positions]).toEqual([64, index.positions]);
  expect(all.rows.map(({ latent }) => latent)).toEqual(latents);

  const limit = 0.1;
  const wanted = latents.filter((latent) => density(latent) < Math.fround(limit));
  wanted.sort((a, b) => index.columns.max[b] - index.columns.max[a] || a - b);
  expect(wanted.length).toBeGreaterThan(3);
  expect(wanted.length).toBeLessThan(64);
  const query = encodeURIComponent(`density<${limit}`);
  const whole = await features(`query=${query}&sort=-max&limit=1000`);
  expect(whole.rows.map(({ latent }) => latent)).toEqual(wanted);
  const page = await features(`query=${query}&sort=-max&offset=1&limit=2`);
  expect(page).toEqual({ ...whole, rows: whole.rows.slice(1, 3) });
  expect((await features("offset=64")).rows).toEqual([]);

  const wrong = await client.send("GET", `${api}/features?query=nothing%3A3`);
  expect([wrong.status, wrong.text]).toEqual([400, expect.stringContaining("there is no nothing")]);
});

test("a query for what fires on a text asks the model", async () => {
  const text = "the dog";
  const { latents } = await client.post<TextCodes>(`${api}/analyse`, { text });
  const found = await features(`query=${encodeURIComponent(`fires:"${text}"`)}&limit=1000`);
  expect(found.total).toBeGreaterThan(0);
  const firing = [...new Set(latents)].sort((a, b) => a - b);
  expect(found.rows.map(({ latent }) => latent)).toEqual(firing);
});

test("those that stand out are sorted, and none is dead", async () => {
  const top = await client.get<Page>(`${api}/top-features?by=-f1&limit=5`);
  const sorted = await features(`query=${encodeURIComponent("-is:dead")}&sort=-f1&limit=5`);
  expect(top.rows).toHaveLength(5);
  expect(top).toEqual(sorted);
});

test("the columns hold the rows of the list", async () => {
  const { table, etag } = await tableOf(`${api}/columns`);
  const { rows } = await features("limit=1000");
  const { numbers, texts } = table;
  const real = (value: number) => (Number.isFinite(value) ? value : null);
  for (const { latent, label, tokens, ruleText, ...row } of rows) {
    const columns = Object.entries(numbers).map(([name, all]) => [name, real(all[latent])]);
    expect(Object.fromEntries(columns)).toEqual(row);
    expect(texts.label.at(latent)).toBe(label);
    expect(texts.tokens.at(latent)).toBe(tokens.join(TOKEN_SEPARATOR));
    expect(texts.rule.at(latent)).toBe(ruleText);
  }
  expect(rows.some(({ label }) => label !== "")).toBe(true);
  expect(rows.some(({ rule }) => rule !== null)).toBe(true);
  const headers = { "If-None-Match": etag };
  expect((await client.send("GET", `${api}/columns`, { headers })).status).toBe(304);
});

test("one latent comes with all that is known of it", async () => {
  const opened = await openFeatures(join(run, "features"));
  const explanations = await readExplanations(join(run, "features"));
  for (const latent of [0, 63]) {
    const detail = await client.get<FeatureDetail>(`${api}/features/${latent}`);
    const asJson = (value: unknown) => JSON.parse(JSON.stringify(value ?? null)) as unknown;
    expect(detail.feature).toEqual(asJson(opened.feature(latent)));
    expect(detail.label).toEqual(asJson(opened.labels!.best[latent]));
    expect(detail.explanation).toEqual(asJson(explanations!.latents[latent]));
    const partners = opened.partners(latent);
    expect(detail.partners!.latents).toEqual([...partners.latents]);
    expect(detail.partners!.counts).toEqual([...partners.counts]);
    expect(detail).toMatchObject({ run: RUN, hookPoint: "blocks.2.hook_resid_post", dSae: 64 });
  }
  expect(await client.refused("GET", `${api}/features/64`, 404)).toContain("0 to 63; got 64");
  await client.refused("GET", `${api}/features/first`, 400);
});

test("the map holds the places that its file holds", async () => {
  const path = join(run, "features", "map", "map.json");
  const { maps } = JSON.parse(readFileSync(path, "utf8")) as {
    maps: { kind: string; x: (number | null)[] }[];
  };
  const { table } = await tableOf(`${api}/map`);
  expect(maps.length).toBeGreaterThan(0);
  for (const { kind, x } of maps)
    expect([...table.numbers[`${kind}.x`]]).toEqual(x.map((v) => Math.fround(v ?? NaN)));
  expect(await client.json("GET", `${api}/concepts`)).toBe(null);
});

test("concepts come in short: who fits each, how well, and who tells it together", async () => {
  const share = (value: number) => ({ value, low: value - 0.1, high: value + 0.1 });
  const match = (latent: number, auc: number) => ({
    ...{ latent, auc: share(auc), f1: share(0.5), threshold: 1, precision: 0.5, recall: 0.5 },
    selection: { auc, f1: 0.5 },
  });
  const probe = (columns: number[]) => ({
    ...{ k: columns.length, columns, auc: share(0.99), f1: share(0.9), accuracy: 0.9 },
  });
  const found: Partial<ConceptAlignment> = {
    positions: { selection: 400, test: 500 },
    concepts: [
      {
        ...{ concept: "animal.dog", positives: { selection: 20, test: 30 } },
        ...{ best: match(7, 0.97), bestF1: match(9, 0.9) },
        byChance: { auc: 0.5, highestAuc: 0.6, f1: 0, selectionAuc: 0.6 },
        latents: [probe([7]), probe([7, 3, 9])],
      } as AlignedConcept,
    ],
  };
  mkdirSync(join(run, "concepts"));
  writeFileSync(join(run, "concepts", "concepts.json"), JSON.stringify(found));
  const { positions, concepts } = await client.get<ConceptList>(`${api}/concepts`);
  expect(positions).toBe(500);
  expect(concepts).toHaveLength(1);
  expect(concepts[0]).toMatchObject({ concept: "animal.dog", positives: 30, chance: 0.5 });
  expect(concepts[0].best).toEqual({ latent: 7, auc: share(0.97), f1: share(0.5) });
  expect(concepts[0].bestF1.latent).toBe(9);
  expect(concepts[0].probe).toMatchObject({ k: 3, columns: [7, 3, 9] });
  rmSync(join(run, "concepts"), { recursive: true });
});

test("a text is analysed as the command does", async () => {
  const text = "Once upon a time, the dog said: «Où?» 👩‍👧\n\tand  ran.";
  const codes = await client.post<TextCodes>(`${api}/analyse`, { text });
  expect(codes.pieces.join("")).toBe(text);
  const latent = codes.top[0].latent;
  const args = ["feature", String(latent), run, "--text", text, "--json", "--quiet"];
  const { stdout } = await startLens(folder, ...args).outcome;
  const view = JSON.parse(stdout) as { text: { pieces: string[]; values: number[] } };
  const values = codes.pieces.map((_, i) => {
    const at = codes.latents.slice(codes.offsets[i], codes.offsets[i + 1]).indexOf(latent);
    return at < 0 ? 0 : codes.values[codes.offsets[i] + at];
  });
  expect(codes.pieces).toEqual(view.text.pieces);
  expect(values).toEqual(view.text.values);
  const { max, sum, pieces } = codes.top[0];
  expect(max).toBe(Math.max(...values));
  expect(sum).toBeCloseTo(values.reduce((a, b) => a + b));
  expect(pieces).toBe(values.filter((value) => value > 0).length);
});

test("the effect on the logits has three forms, one of them the command's", async () => {
  const effect = (form: string) =>
    client.get<{ form: string; top: { token: number; text: string }[]; mean: number }>(
      `${api}/features/5/logits?form=${form}&top=4`,
    );
  const forms = await Promise.all(["raw", "folded", "centred"].map(effect));
  expect(forms.map(({ form }) => form)).toEqual(["raw", "folded", "centred"]);
  for (const { top } of forms) expect(top).toHaveLength(4);
  expect(new Set(forms.map(({ mean }) => mean)).size).toBe(3);
  const args = ["feature", "5", run, "--logits", "folded", "--top", "4", "--json", "--quiet"];
  const { stdout } = await startLens(folder, ...args).outcome;
  expect(forms[1]).toEqual((JSON.parse(stdout) as { logits: unknown }).logits);
  await client.refused("GET", `${api}/features/64/logits`, 400);
});

test("neighbours are named, nearest first", async () => {
  type Near = { nearest: { latent: number; cosine: number; label: string }[] };
  const found = await client.get<{ decoder: Near; encoder: Near; together: unknown[] }>(
    `${api}/features/5/neighbors?top=6`,
  );
  for (const { nearest } of [found.decoder, found.encoder]) {
    expect(nearest).toHaveLength(6);
    expect(nearest.map(({ latent }) => latent)).not.toContain(5);
    const cosines = nearest.map(({ cosine }) => cosine);
    expect(cosines).toEqual([...cosines].sort((a, b) => b - a));
    expect(nearest.every(({ label }) => label !== "")).toBe(true);
  }
  expect(found.together.length).toBeGreaterThan(0);
  const all = await client.get<typeof found>(`${api}/features/5/neighbors?top=100`);
  expect(all.decoder.nearest).toHaveLength(63);
});

test("latents that are like one are found by the cosine of their decoder directions", async () => {
  const { sae } = await loadSae(join(run, "sae"));
  const row = (latent: number) => sae.decoderRow(latent);
  const { table } = await tableOf(`${api}/features/5/similar`);
  const { cosine: cosines } = table.numbers;
  expect(cosines).toHaveLength(64);
  expect(cosines[5]).toBeCloseTo(1, 6);
  expect(cosines[9]).toBeCloseTo(cosine(row(5), row(9)), 6);
  const least = table.meta.least as number;
  const { rows } = await features(`query=${encodeURIComponent("like:5")}`);
  const wanted = [...cosines.keys()].filter((latent) => cosines[latent] >= least);
  expect(rows.map(({ latent }) => latent)).toEqual(
    wanted.sort((a, b) => cosines[b] - cosines[a] || a - b),
  );
  expect(rows[0].latent).toBe(5);
  expect(rows.length).toBeGreaterThan(20);
  await client.refused("GET", `${api}/features?query=like:64`, 400);
  await client.refused("GET", `${api}/features/64/similar`, 400);
});

test("a static site holds what the server answers", async () => {
  const made = await startLens(folder, "export", RUN, "--site", "--runs", folder, "--json").outcome;
  expect(made.stderr).toBe("");
  const data = join(folder, "site", "data", RUN);
  const details = readFileSync(join(data, "details.bin"));
  const columns = unpackTable(new Uint8Array(readFileSync(join(data, "columns.bin"))).buffer);
  for (const latent of [0, 5, 63]) {
    const [at, size] = [columns.numbers.offset[latent], columns.numbers.bytes[latent]];
    const detail = JSON.parse(gunzipSync(details.subarray(at, at + size)).toString()) as SiteDetail;
    const answers = `${api}/features/${latent}`;
    expect(detail.feature).toEqual(await client.get(answers));
    for (const form of ["raw", "folded", "centred"])
      // Many latents are multiplied on a device, one in a plain loop.
      expectClose(detail.logits![form], await client.get(`${answers}/logits?form=${form}&top=10`));
    expectClose(detail.neighbors, await client.get(`${answers}/neighbors?top=12`));
  }
});

/** Equal, with numbers to five places; where a value is at the edge of a bin, counts may differ. */
function expectClose(found: unknown, wanted: unknown): void {
  const close = (value: unknown, key?: string): unknown => {
    if (key === "counts") return expect.any(Array);
    if (typeof value === "number") return expect.closeTo(value, 5);
    if (Array.isArray(value)) return value.map((one) => close(one));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, close(one, name)]));
  };
  expect(found).toEqual(close(wanted));
}

test("what drove a prediction is said with the latents' names", async () => {
  const text = "Once upon a time there was a little";
  const found = await client.post<{
    tokens: string[];
    position: number;
    token: { text: string; probability: number };
    contributions: { position: number; latent: number; ablation: number }[];
    latents: { latent: number }[];
    labels: Record<string, string>;
  }>(`${api}/attribute`, { text });
  expect(found.tokens.join("")).toContain("Once");
  expect(found.position).toBe(found.tokens.length - 1);
  expect(found.token.probability).toBeGreaterThan(0);
  expect(found.contributions.length).toBeGreaterThan(0);
  for (const { position, latent } of found.contributions) {
    expect(position).toBeLessThanOrEqual(found.position);
    expect(found.labels).toHaveProperty(String(latent));
  }
  const token = await client.post<{ token: { text: string } }>(`${api}/attribute`, {
    ...{ text, position: 2, token: found.token.text },
  });
  expect(token.token.text).toBe(found.token.text);
  await client.refused("POST", `${api}/attribute`, 400, { text, position: 10_000 });
});

test("a steered text without edits is the text itself, and with them another", async () => {
  type Token = { side: string; text: string; whole: string };
  const steer = async (edits: unknown[]) => {
    const body = JSON.stringify({ prompt: "Once upon", edits, maxNewTokens: 12, seed: 3 });
    const headers = { "Content-Type": "application/json" };
    const heard = await client.events(`${api}/steer`, undefined, { method: "POST", headers, body });
    expect(heard.at(-1)!.event).toBe("end");
    const tokens = heard.slice(0, -1).map(({ data }) => JSON.parse(data) as Token);
    return ["default", "steered"].map((side) => tokens.filter((token) => token.side === side));
  };
  const same = await steer([]);
  const texts = same.map((tokens) => tokens.map(({ text }) => text));
  expect(texts[0].length).toBeGreaterThan(3);
  expect(texts[1]).toEqual(texts[0]);
  const changed = await steer([{ latent: 5, kind: "add", value: 200 }]);
  expect(changed[0]).toEqual(same[0]);
  expect(changed[1].at(-1)!.whole).not.toBe(same[1].at(-1)!.whole);
});

test("steering that cannot be done says why in the stream", async () => {
  const body = JSON.stringify({ prompt: "a", edits: [{ latent: 64, kind: "ablate" }] });
  const headers = { "Content-Type": "application/json" };
  const heard = await client.events(`${api}/steer`, undefined, { method: "POST", headers, body });
  expect(heard).toEqual([{ event: "problem", data: expect.stringContaining("64") as string }]);
});

test("the page that sets up a run gets the settings, a model's layers and an estimate", async () => {
  const setup = await client.get<{ schema: { properties: object }; start: object }>("/api/setup");
  expect(Object.keys(setup.schema.properties)).toContain("activations");
  expect(setup.start).toMatchObject({ name: "quick-start" });
  const model = await client.get<{ layers: number; hookPoints: { name: string; width: number }[] }>(
    "/api/setup/model?model=builtin:tiny",
  );
  expect(model.hookPoints).toContainEqual({ name: "blocks.2.hook_resid_post", width: 256 });
  expect(await client.refused("GET", "/api/setup/model?model=nowhere", 400)).toContain("nowhere");
  const estimate = await client.post<{ dIn: number; dSae: number; steps: number }>(
    "/api/setup/estimate",
    { config: SMALL },
  );
  expect(estimate).toMatchObject({ dIn: 256, dSae: 64, steps: 60 });
  const wrong = { config: { ...SMALL, sae: { architecture: "none" } } };
  expect(await client.refused("POST", "/api/setup/estimate", 400, wrong)).toContain("sae");
});
