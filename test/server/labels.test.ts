/** What the API does with what people say of features, and how a run goes with all that belongs to it. */
import { existsSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";

import { lockFolder, unlockFolder } from "../../src/lock.ts";
import { createJob, listJobs } from "../../src/workbench/job-folder.ts";
import { scratch, startServer, type Client } from "./server.ts";
import { copyRun } from "./shared-run.ts";

const folder = scratch();
let client: Client;
let close: () => Promise<void>;
beforeAll(async () => {
  ({ client, close } = await startServer({ runs: folder }));
});
afterAll(() => close());

let runs = 0;
const newRun = async () => {
  const id = `labels_20260102_030405_${++runs}`;
  await copyRun(folder, id);
  return id;
};
interface Said {
  label: string;
  tags: string[];
  version: number;
  author: string;
}
const say = (run: string, latent: number, change: object, status = 200) =>
  client.json<Said & { error: string; fields: string[]; current: Said }>(
    "PATCH",
    `/api/runs/${run}/features/${latent}/annotation`,
    change,
    [status],
  );

test("what is said of a feature can be undone, done again and restored", async () => {
  const run = await newRun();
  const feature = `/api/runs/${run}/features/7`;
  expect(await client.get(`${feature}/annotation`)).toMatchObject({ version: 0, label: "" });
  const first = await say(run, 7, { label: "dogs", tags: ["animal"], author: "ada" });
  expect(first).toMatchObject({ run, latent: 7, label: "dogs", version: 1, author: "ada" });
  await say(run, 7, { label: "cats", rating: 5 });
  expect(await client.get(`${feature}/annotation`)).toMatchObject({ label: "cats", version: 2 });
  expect(await client.post(`${feature}/undo`)).toMatchObject({ label: "dogs", version: 3 });
  expect(await client.post(`${feature}/redo`)).toMatchObject({ label: "cats", version: 4 });
  const restored = await client.post(`${feature}/restore`, { version: 1, author: "bob" });
  expect(restored).toMatchObject({ label: "dogs", rating: null, version: 5, author: "bob" });
  const history = await client.get<{ version: number; action: string }[]>(`${feature}/history`);
  expect(history.map(({ version, action }) => [version, action])).toEqual([
    ...[[5, "restore"], [4, "redo"], [3, "undo"]], // prettier-ignore
    ...[[2, "edit"], [1, "edit"]], // prettier-ignore
  ]);
  expect(await client.refused("POST", `${feature}/redo`, 400, {})).toContain("nothing to redo");
});

test("changes of others are merged by field, and a clash is told with what stands", async () => {
  const run = await newRun();
  await say(run, 3, { label: "a", notes: "n" });
  await say(run, 3, { label: "b", basedOn: 1 });
  expect(await say(run, 3, { notes: "m", basedOn: 1 })).toMatchObject({ label: "b", notes: "m" });
  const clash = await say(run, 3, { label: "c", basedOn: 1 }, 409);
  expect(clash.fields).toEqual(["label"]);
  expect(clash.current).toMatchObject({ label: "b", version: 3 });
});

test("a feature that the run does not have is refused", async () => {
  const run = await newRun();
  expect((await say(run, 64, { label: "x" }, 404)).error).toContain("0 to 63");
  const group = { name: "g", latents: [1, 64] };
  await client.refused("POST", `/api/runs/${run}/groups`, 404, group);
  expect(await client.get(`/api/runs/${run}/groups`)).toEqual([]);
});

test("a run's autoencoder tells which features there are, whether they are indexed or the index can be read", async () => {
  for (const damage of [
    (features: string) => rmSync(features, { recursive: true }),
    (features: string) => writeFileSync(join(features, "index.json"), "{"),
  ]) {
    const run = await newRun();
    damage(join(folder, run, "features"));
    expect((await say(run, 64, { label: "x" }, 404)).error).toContain("0 to 63; got 64");
    expect(await say(run, 63, { label: "x" })).toMatchObject({ latent: 63, version: 1 });
  }
});

test("an index tells which features there are when the autoencoder is gone", async () => {
  const run = await newRun();
  rmSync(join(folder, run, "sae"), { recursive: true });
  expect((await say(run, 64, { label: "x" }, 404)).error).toContain("0 to 63; got 64");
  expect(await say(run, 63, { label: "x" })).toMatchObject({ latent: 63 });
});

test("features of a run that nothing tells the width of are labelled as they are named", async () => {
  const run = await newRun();
  for (const part of ["sae", "features"]) rmSync(join(folder, run, part), { recursive: true });
  expect(await say(run, 99, { label: "x" })).toMatchObject({ latent: 99, version: 1 });
  const path = `/api/runs/${run}/labels/import`;
  const file = { annotations: [{ latent: 1000, label: "y" }] };
  expect(await client.post(path, file)).toMatchObject({ annotations: 1 });
});

test("an export with features that the run does not have is refused whole", async () => {
  const run = await newRun();
  const path = `/api/runs/${run}/labels/import`;
  const said = (latent: number) => ({ latent, label: "x" });
  const group = (...latents: number[]) => ({ name: `g ${latents.join()}`, latents });
  const refusal = (annotations: object[], groups: object[] = []) =>
    client.refused("POST", path, 400, { annotations, groups });
  expect(await refusal([said(1), said(70), said(64)], [group(2), group(3, 64, 65)])).toContain(
    "latents 0 to 63, beyond which the export names 3, the first at annotations.1: 70",
  );
  expect(await refusal([said(1)], [group(2), group(3, 64)])).toContain(
    "beyond which the export names 1, the first at groups.1: 64",
  );
  expect(await client.get(`/api/runs/${run}/annotations`)).toEqual({ annotations: [], groups: [] });
  expect(await client.post(path, { annotations: [said(63)], groups: [group(0, 63)] })).toEqual({
    ...{ annotations: 1, unchanged: 0, groups: 1, members: 2 },
  });
});

test("labels, tags and groups can be searched for and listed", async () => {
  const run = await newRun();
  await say(run, 7, { label: "Dogs", tags: ["animal", "pet"] });
  await say(run, 9, { label: "cats", tags: ["animal"] });
  await client.post(`/api/runs/${run}/groups`, { name: "barking", latents: [2, 7] });
  const found = async (query: string) => {
    const path = `/api/runs/${run}/features?query=${encodeURIComponent(query)}`;
    const { rows } = await client.get<{ rows: { latent: number }[] }>(path);
    return rows.map(({ latent }) => latent);
  };
  expect(await found("is:labelled")).toEqual([7, 9]);
  expect(await found("label:dogs is:labelled")).toEqual([7]);
  expect(await found("tag:animal")).toEqual([7, 9]);
  expect(await found("group:barking")).toEqual([2, 7]);
  const tags = await client.get<{ tag: string; count: number }[]>(`/api/runs/${run}/tags`);
  expect(tags.map(({ tag, count }) => [tag, count])).toEqual([
    ["animal", 2],
    ["pet", 1],
  ]);
  const all = await client.get<{ annotations: Said[]; groups: { name: string }[] }>(
    `/api/runs/${run}/annotations`,
  );
  expect(all.annotations.map(({ label }) => label)).toEqual(["Dogs", "cats"]);
  expect(all.groups.map(({ name }) => name)).toEqual(["barking"]);
});

test("groups are made, changed and deleted, each in its own run only", async () => {
  const [run, other] = [await newRun(), await newRun()];
  const groups = `/api/runs/${run}/groups`;
  const made = await client.post<{ id: string }>(groups, {
    name: "a",
    latents: [3, 1],
    author: "x",
  });
  expect(made).toMatchObject({ run, name: "a", author: "x", latents: [1, 3] });
  const change = { name: "b", description: "d", add: [5], remove: [1] };
  const changed = await client.json("PATCH", `${groups}/${made.id}`, change);
  expect(changed).toMatchObject({ id: made.id, name: "b", description: "d", latents: [3, 5] });
  expect(await client.get(groups)).toEqual([changed]);
  expect(await client.refused("POST", groups, 400, { name: "B" })).toContain("already has a group");
  const elsewhere = `/api/runs/${other}/groups/${made.id}`;
  await client.refused("DELETE", elsewhere, 404);
  await client.refused("PATCH", elsewhere, 404, { name: "c" });
  expect(await client.json("DELETE", `${groups}/${made.id}`)).toEqual({ deleted: made.id });
  expect(await client.get(groups)).toEqual([]);
});

test("an export is taken over by another run, and is a table as well", async () => {
  const [run, other] = [await newRun(), await newRun()];
  await say(run, 7, { label: 'do"gs', tags: ["a", "b"], confidence: 0.5 });
  await say(run, 7, { rating: 2 });
  await client.post(`/api/runs/${run}/groups`, { name: "g", latents: [7, 8] });
  const path = `/api/runs/${run}/labels/export`;
  const file = await client.get<Record<string, unknown[]>>(path);
  expect(Object.keys(file)).toEqual(["run", "annotations", "groups"]);
  expect((await client.get<{ history: unknown[] }>(`${path}?history=true`)).history).toHaveLength(
    2,
  );
  const csv = await client.send("GET", `${path}?format=csv`);
  expect(csv.headers["content-type"]).toBe("text/csv; charset=utf-8");
  expect(csv.headers["content-disposition"]).toBe(`attachment; filename="${run}-labels.csv"`);
  const [header, row, ...rest] = csv.text.trim().split(/\r?\n/);
  expect(header.split(",")).toContain("label");
  expect(row).toContain('"do""gs"');
  expect(rest).toHaveLength(1); // latent 8, which is in a group only
  const taken = await client.post(`/api/runs/${other}/labels/import`, file);
  expect(taken).toEqual({ annotations: 1, unchanged: 0, groups: 1, members: 2 });
  const there = await client.get<typeof file>(`/api/runs/${other}/labels/export`);
  expect(there.annotations).toMatchObject([{ latent: 7, label: 'do"gs', rating: 2 }]);
  expect(await client.post(`/api/runs/${other}/labels/import`, file)).toMatchObject({
    ...{ annotations: 0, unchanged: 1 },
  });
  expect(await client.refused("POST", `/api/runs/${other}/labels/import`, 400, {})).toContain(
    "no export",
  );
});

test("a deleted run takes its jobs, labels and groups along, and nobody else's", async () => {
  const [run, other] = [await newRun(), await newRun()];
  const order = (id: string, of: string) =>
    createJob(
      folder,
      {
        ...{ id, kind: "features", title: id, args: [], run: of },
        created: new Date().toISOString(),
      },
      { "exit.json": { code: 0, finished: new Date().toISOString() } },
    );
  order("mine", run);
  order("theirs", other);
  for (const id of [run, other]) {
    await say(id, 1, { label: "x" });
    await client.post(`/api/runs/${id}/groups`, { name: "g", latents: [1] });
  }
  expect(await client.json("DELETE", `/api/runs/${run}`)).toEqual({ deleted: run });
  expect(existsSync(join(folder, run))).toBe(false);
  expect(readdirSync(folder).filter((name) => name.startsWith(".deleted"))).toEqual([]);
  await client.refused("GET", `/api/runs/${run}`, 404);
  await client.refused("GET", `/api/runs/${run}/annotations`, 404);
  expect(listJobs(folder).map(({ id }) => id)).toEqual(["theirs"]);
  await copyRun(folder, run);
  const empty = { annotations: [], groups: [] };
  expect(await client.get(`/api/runs/${run}/annotations`)).toEqual(empty);
  const all = await client.get<{ annotations: unknown[] }>(`/api/runs/${other}/annotations`);
  expect(all.annotations).toHaveLength(1);
});

test("a run that somebody works in is not deleted, nor anything of it", async () => {
  const run = await newRun();
  const path = join(folder, run);
  const created = new Date().toISOString();
  createJob(
    folder,
    { id: "done", kind: "map", title: "", args: [], run, created },
    { "exit.json": { code: 0, finished: created } },
  );
  lockFolder(path);
  const refusal = await client.refused("DELETE", `/api/runs/${run}`, 409);
  unlockFolder(path);
  expect(refusal).toContain("being worked in");
  expect(existsSync(join(path, "sae", "cfg.json"))).toBe(true);
  expect(listJobs(folder).map(({ id }) => id)).toContain("done");

  createJob(folder, { id: "busy", kind: "map", title: "", args: [], run, created }, {});
  writeFileSync(join(folder, ".jobs", "busy", "started.json"), "{}");
  lockFolder(join(folder, ".jobs", "busy"));
  expect(await client.refused("DELETE", `/api/runs/${run}`, 409)).toContain("job busy works in");
  expect(listJobs(folder).map(({ id }) => id)).toContain("done");
  unlockFolder(join(folder, ".jobs", "busy"));
  writeFileSync(join(folder, ".jobs", "busy", "exit.json"), `{"code":0,"finished":"${created}"}`);
  expect(await client.json("DELETE", `/api/runs/${run}`)).toEqual({ deleted: run });
  expect(listJobs(folder).filter((job) => job.run === run)).toEqual([]);
});
