/** What a page hears of a run while it goes on. */
import { appendFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";

import { lockFolder, unlockFolder } from "../../src/lock.ts";
import type { Services } from "../../src/server/api.ts";
import { createApp } from "../../src/server/app.ts";
import { Jobs } from "../../src/server/jobs.ts";
import { Live } from "../../src/server/live.ts";
import { RunStore } from "../../src/server/run-store.ts";
import { createJob } from "../../src/workbench/job-folder.ts";
import { scratch, startServer, type Client, type ServerEvent } from "./server.ts";
import { copyRun } from "./shared-run.ts";

const folder = scratch();
let client: Client;
let close: () => Promise<void>;
beforeAll(async () => {
  ({ client, close } = await startServer({ runs: folder }));
});
afterAll(() => close());

let runs = 0;
async function newRun() {
  const id = `live_20260102_030405_${++runs}`;
  const run = await copyRun(folder, id);
  const path = join(run, "metrics.jsonl");
  writeFileSync(path, "");
  const write = (...steps: number[]) =>
    steps.forEach((step) => appendFileSync(path, `{"step":${step},"fvu":${1 / step}}\n`));
  return { id, run, path, write, live: `/api/runs/${id}/live` };
}
const stepsOf = (events: ServerEvent[]) =>
  events
    .filter(({ event }) => event === "metrics")
    .flatMap(({ data }) => (JSON.parse(data) as { step: number }[]).map(({ step }) => step));
const idOf = (events: ServerEvent[]) => events.findLast(({ id }) => id !== undefined)!.id!;
const hear = (path: string, steps: number, from?: string) =>
  client.events(path, (events) => stepsOf(events).length >= steps, {
    ...(from !== undefined && { headers: { "Last-Event-ID": from } }),
  });

test("log steps are told as they are written, each once, and a half-written one not yet", async () => {
  const { path, write, live } = await newRun();
  write(1, 2);
  let isTorn = false;
  const heard = client.events(live, (events) => {
    const steps = stepsOf(events);
    if (steps.length === 2 && !isTorn) {
      isTorn = true; // what else is told meanwhile asks here again
      appendFileSync(path, '{"step":3,');
      setTimeout(() => appendFileSync(path, '"fvu":0}\n{"step":4}\n'), 900);
    }
    return steps.length >= 4;
  });
  expect(stepsOf(await heard)).toEqual([1, 2, 3, 4]);
});

test("a page that comes back hears what it missed, without gap or repetition", async () => {
  const { write, live } = await newRun();
  write(1, 2, 3);
  const first = await hear(live, 3);
  write(4, 5);
  const second = await hear(live, 2, idOf(first));
  expect(stepsOf(second)).toEqual([4, 5]);
  write(6);
  expect(stepsOf(await hear(live, 1, idOf(second)))).toEqual([6]);
});

test("a file that was cut back and grew again is told anew, after a word", async () => {
  const { path, write, live } = await newRun();
  write(1, 2, 3);
  const { length } = readFileSync(path);
  const first = await hear(live, 3);
  writeFileSync(path, "");
  write(1, 2);
  appendFileSync(path, `{"step":30,"fvu":"longer than what was there"}\n`);
  expect(readFileSync(path).length).toBeGreaterThan(length);
  const again = await hear(live, 3, idOf(first));
  expect(stepsOf(again)).toEqual([1, 2, 30]);
  const names = again.map(({ event }) => event).filter((name) => /reset|metrics/.test(name));
  expect(names).toEqual(["reset", "metrics"]);
});

test.each(["", "x", "-5", "999999999", "3-abc", "1e9-x"])(
  "an id that was never given (%s) is told from the start",
  async (id) => {
    const { write, live } = await newRun();
    write(1, 2);
    expect(stepsOf(await hear(live, 2, id))).toEqual([1, 2]);
  },
);

test("runs that commands begin, end and delete are told", async () => {
  const heard = new Set<number>();
  const path = (name = "") => join(folder, "elsewhere_20260102_030405_0123abcd", name);
  const acts = [
    () => mkdirSync(path()),
    () => writeFileSync(path("config.json"), "{}"),
    () => writeFileSync(path("summary.json"), "{}"),
    () => rmSync(path(), { recursive: true }),
  ];
  await client.events("/api/jobs/live", (events) => {
    const told = events.filter(({ event }) => event === "runs").length;
    const isNew = events.some(({ event }) => event === "jobs") && !heard.has(told);
    heard.add(told);
    if (isNew && told < acts.length) acts[told]();
    return told === acts.length;
  });
  expect([...heard].at(-1)).toBe(acts.length);
});

test("the preview and the status are told when they change, and the end of the run", async () => {
  const { run, live } = await newRun();
  let at = 0;
  const changes = [
    () => writeFileSync(join(run, "preview.json"), '{"step":7}'),
    () => lockFolder(run),
    () => unlockFolder(run),
    () => rmSync(run, { recursive: true }),
  ];
  const heard = await client.events(live, (events) => {
    const told = events.filter(({ event }) => event === "preview" || event === "status").length;
    // Both are told at first.
    if (told === at + 2 && at < changes.length) changes[at++]();
    return false;
  });
  const told = heard.map(({ event, data }) => [
    event,
    data === "" ? "" : (JSON.parse(data) as unknown),
  ]);
  expect(told).toEqual([
    ["hello", ""],
    ["preview", null],
    ["status", { status: "finished", job: null }],
    ["preview", { step: 7 }],
    ["status", { status: "running", job: null }],
    ["status", { status: "finished", job: null }],
    ["preview", null],
    ["gone", ""],
  ]);
});

const wait = (milliseconds: number) => new Promise((done) => setTimeout(done, milliseconds));
/** Counts how often the folders of jobs are read. */
class CountedJobs extends Jobs {
  reads = 0;
  override list() {
    this.reads++;
    return super.list();
  }
}
/** The same of a run's. */
class CountedRuns extends RunStore {
  reads = 0;
  override run(id: string) {
    this.reads++;
    return super.run(id);
  }
}

test("fifty pages that listen read jobs and runs as often as one does, and nobody does not at all", async () => {
  const { id, live } = await newRun();
  const [jobs, runs] = [new CountedJobs(folder), new CountedRuns(folder)];
  const app = createApp({
    services: { jobs, runs } as unknown as Services,
    ...{ guard: { hosts: ["localhost"] }, version: "0", closing: new AbortController().signal },
  });
  const stops: (() => void)[] = [];
  const hear = async (path: string) => {
    const stop = new AbortController();
    stops.push(() => stop.abort());
    const { body } = await app.request(path, { headers: { Host: "localhost" } });
    let text = "";
    const write = (part: Uint8Array) => void (text += new TextDecoder().decode(part));
    const heard = body!.pipeTo(new WritableStream({ write }), { signal: stop.signal });
    await heard.catch(() => undefined);
    return text;
  };
  const reads = () => [jobs.reads, runs.reads];
  const order = { kind: "map", title: "", args: [], created: "2026-01-02T03:04:05.000Z" };
  for (const pages of [1, 50]) {
    const [before, began] = [reads(), performance.now()];
    const all = Array.from({ length: pages }, () => ["/api/jobs/live", live]).flat().map(hear); // prettier-ignore
    await wait(900);
    createJob(folder, { ...order, id: `made-${pages}`, run: id }, { "started.json": {} });
    await wait(900);
    const rounds = (performance.now() - began) / 400;
    for (const [i, count] of reads().entries()) {
      expect(count - before[i]).toBeGreaterThanOrEqual(2);
      expect(count - before[i]).toBeLessThanOrEqual(rounds + 2);
    }
    stops.splice(0).forEach((stop) => stop());
    for (const text of await Promise.all(all)) expect(text).toContain(`"id":"made-${pages}"`);
  }
  await wait(500); // until the streams see that nobody listens
  const before = reads();
  await wait(900);
  expect(reads()).toEqual(before);
});

test("what was read for pages that are gone is not told to those that come", async () => {
  const jobs = new CountedJobs(join(folder, "nothing"));
  const live = new Live(jobs, new AbortController().signal);
  live.jobs();
  live.jobs();
  expect(jobs.reads).toBe(1);
  await wait(600);
  expect(jobs.reads).toBe(1);
  live.jobs();
  expect(jobs.reads).toBe(2);
});

test("a run that is not there has nothing to tell", async () => {
  await client.refused("GET", "/api/runs/nothing/live", 404);
});

test("streams end when the server closes", async () => {
  const other = await startServer({ runs: folder });
  const { live } = await newRun();
  let closed: Promise<void> | undefined;
  const began = Date.now();
  const heard = other.client.events(live, (events) => {
    if (events.length === 3) closed ??= other.close();
    return false;
  });
  const end = await heard.then(
    () => "in good order",
    () => "cut off",
  );
  await closed;
  expect(closed, `the stream ended ${end}`).toBeDefined();
  expect(Date.now() - began).toBeLessThan(10_000);
});
