/** Jobs: what they do, and that neither their end nor the server's loses anything. */
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { afterEach, expect, test, vi } from "vitest";

import { lockFolder, unlockFolder } from "../../src/lock.ts";
import { readMetrics, readRun } from "../../src/runs.ts";
import { Jobs } from "../../src/server/jobs.ts";
import { createJob, jobsFolder, readJob, type Job } from "../../src/workbench/job-folder.ts";
import { serveLens, type Served } from "../command.ts";
import {
  scratch,
  startServer,
  until,
  Client,
  type ServerEvent,
  type TestServer,
} from "./server.ts";

const root = scratch();

/** A run of a second, on numbers alone. */
const config = (steps: number, name = "tiny") => ({
  ...{ name, device: "reference" },
  activations: {
    ...{ from: "synthetic", samples: 2000, validationSamples: 200, dIn: 16, features: 20 },
  },
  sae: { architecture: "topk", dSae: 64, k: 4 },
  train: { batchSize: 100, steps, logEvery: 10, checkpointEvery: 50 },
});

let folder = "";
let nth = 0;
const servers: TestServer[] = [];
const processes: Served[] = [];
const started: string[] = [];
const newFolder = () => (folder = join(root, String(nth++)));
const serveHere = async () => {
  const server = await startServer({ runs: folder });
  servers.push(server);
  return server.client;
};
afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.close()));
  await Promise.all(processes.splice(0).map((server) => server.kill()));
  for (const job of started.splice(0)) killJob(job);
});

/** Ends a job's process with no chance to say anything; nothing when it has ended. */
function killJob(job: string): void {
  try {
    const { pid } = JSON.parse(readFileSync(join(jobsFolder(folder), job, "lock"), "utf8")) as {
      pid: number;
    };
    if (pid !== process.pid) process.kill(pid, "SIGKILL");
  } catch {
    // It has ended, and its lock is gone.
  }
}

const train = async (client: Client, steps: number, name?: string) => {
  const job = await client.post<Job>("/api/runs", { config: config(steps, name) });
  started.push(job.id);
  return job;
};
const jobOf = (client: Client, id: string) =>
  client.get<Job & { log: string; result?: { scores: Record<string, number> } }>(`/api/jobs/${id}`);
const ended = (client: Client, id: string) =>
  until(`the end of job ${id}`, async () => {
    const job = await jobOf(client, id);
    return !["queued", "running"].includes(job.status) && job;
  });
/** The run that a job trains, at a step or later. */
const atStep = (id: string, step: number) =>
  until(`step ${step} of job ${id}`, () => {
    const { run } = readJob(join(jobsFolder(folder), id))!;
    return run && (stepOf(run) >= step ? run : undefined);
  });
const stepOf = (run: string) => readMetrics(join(folder, run)).at(-1)?.step ?? 0;

/** The server as a process of its own. */
async function serveApart(): Promise<{ client: Client; server: Served }> {
  const server = await serveLens(folder);
  processes.push(server);
  return { client: new Client(server.port), server };
}

const STEPS = 250;
/** Metrics that depend on nothing but the settings. */
const numbersOf = (run: string) =>
  readMetrics(join(folder, run)).map(({ step, fvu, loss, l0 }) => ({ step, fvu, loss, l0 }));
let undisturbed: ReturnType<typeof numbersOf>;
let scores: Record<string, number>;

test("a run that is asked for is trained, and its progress told", async () => {
  newFolder();
  const client = await serveHere();
  const job = await train(client, STEPS);
  expect(job).toMatchObject({ kind: "train", title: "train tiny" });
  const jobsIn = (events: ServerEvent[]) =>
    events
      .filter(({ event }) => event === "jobs")
      .map(({ data }) => (JSON.parse(data) as Job[]).find(({ id }) => id === job.id)!);
  const heard = await client.events(
    "/api/jobs/live",
    (events) => jobsIn(events).at(-1)?.status === "finished",
  );
  const told = jobsIn(heard);
  const last = told.at(-1)!;
  expect(last.state!.progress).toMatchObject({ label: "training", done: STEPS, total: STEPS });
  expect(told.map(({ status }) => status)).toContain("running");
  const run = last.run!;
  expect(await client.get(`/api/runs/${run}`)).toMatchObject({ status: "finished", step: STEPS });
  const { result } = await jobOf(client, job.id);
  scores = result!.scores;
  expect(scores.fvu).toBe(readRun(join(folder, run)).summary!.eval_scores.fvu.mean);
  undisturbed = numbersOf(run);
  expect(undisturbed).toHaveLength(STEPS / 10);
  expect(await client.json("DELETE", `/api/jobs/${job.id}`)).toEqual({ deleted: job.id });
  expect(await client.get("/api/jobs")).toEqual([]);
});

test("a run that was stopped is gone on with to the same end as one that was not", async () => {
  newFolder();
  const client = await serveHere();
  const job = await train(client, STEPS);
  const run = await atStep(job.id, 30);
  await client.post(`/api/jobs/${job.id}/stop`);
  expect(await ended(client, job.id)).toMatchObject({ status: "stopped", run });
  const stopped = stepOf(run);
  expect(stopped).toBeLessThan(STEPS);
  expect(await client.get(`/api/runs/${run}`)).toMatchObject({
    ...{ status: "interrupted", missing: [{ what: "autoencoder", job: "resume" }] },
  });
  const resume = await client.post<Job>("/api/jobs", { kind: "resume", run });
  const { status, result } = await ended(client, resume.id);
  expect(status).toBe("finished");
  expect(result!.scores).toEqual(scores);
  expect(numbersOf(run)).toEqual(undisturbed);
  expect(await client.get(`/api/runs/${run}`)).toMatchObject({ status: "finished" });
});

test("a pause holds the steps, and they go on after it", async () => {
  newFolder();
  const client = await serveHere();
  const job = await train(client, 100_000);
  const run = await atStep(job.id, 20);
  await client.post(`/api/jobs/${job.id}/pause`);
  await until("the pause", async () => (await jobOf(client, job.id)).state?.isPaused);
  const held = stepOf(run);
  await setTimeout(700);
  expect(stepOf(run)).toBe(held);
  expect(await jobOf(client, job.id)).toMatchObject({ status: "running" });
  await client.post(`/api/jobs/${job.id}/continue`);
  await atStep(job.id, held + 50);
  expect((await jobOf(client, job.id)).state!.isPaused).toBe(false);
  // Stopping ends a pause too.
  await client.post(`/api/jobs/${job.id}/pause`);
  await until("the pause", async () => (await jobOf(client, job.id)).state?.isPaused);
  await client.refused("DELETE", `/api/runs/${run}`, 409);
  await client.refused("DELETE", `/api/jobs/${job.id}`, 409);
  await client.post(`/api/jobs/${job.id}/stop`);
  expect(await ended(client, job.id)).toMatchObject({ status: "stopped" });
  expect(await client.refused("POST", `/api/jobs/${job.id}/pause`, 409)).toContain("is stopped");
});

test("a job outlives its server, whose labels are kept, and the next one finds it", async () => {
  newFolder();
  const { client, server } = await serveApart();
  const job = await train(client, 1200);
  const run = await atStep(job.id, 30);
  await client.json("PATCH", `/api/runs/${run}/features/7/annotation`, { label: "kept" });
  await server.kill();
  const before = stepOf(run);
  expect(before).toBeLessThan(1200);
  const next = await serveApart();
  const there = await jobOf(next.client, job.id);
  expect(there).toMatchObject({ id: job.id, run });
  expect(["running", "finished"]).toContain(there.status);
  expect(await next.client.get(`/api/runs/${run}/features/7/annotation`)).toMatchObject({
    ...{ label: "kept", version: 1 },
  });
  expect(await ended(next.client, job.id)).toMatchObject({ status: "finished" });
  expect(await next.client.get(`/api/runs/${run}`)).toMatchObject({ step: 1200 });
  const gone = once(next.server.child, "exit");
  next.server.child.kill("SIGTERM");
  expect(await gone).toEqual([0, null]);
});

test("a job that was killed is lost at once, and its run can be gone on with", async () => {
  newFolder();
  const client = await serveHere();
  const job = await train(client, STEPS);
  const run = await atStep(job.id, 60);
  killJob(job.id);
  const lost = await ended(client, job.id);
  expect(lost).toMatchObject({ status: "lost", run });
  expect(lost.exit).toBeUndefined();
  expect(await client.get(`/api/runs/${run}`)).toMatchObject({ status: "interrupted" });
  const resume = await client.post<Job>("/api/jobs", { kind: "resume", run });
  expect(await ended(client, resume.id)).toMatchObject({ status: "finished" });
  expect(numbersOf(run)).toEqual(undisturbed);
});

test("a queued job is started once where two servers look on, and one that was stopped never", async () => {
  newFolder();
  mkdirSync(folder);
  const held = join(jobsFolder(folder), "held");
  const created = "2026-01-02T03:04:05.000Z";
  createJob(
    folder,
    { id: "held", kind: "map", title: "", args: [], created },
    { "started.json": {} },
  );
  lockFolder(held);
  const [a, b] = [await serveHere(), await serveHere()];
  const [job, never] = [await train(a, 20, "once"), await train(b, 20, "never")];
  expect([job.status, never.status]).toEqual(["queued", "queued"]);
  expect(await a.post(`/api/jobs/${never.id}/stop`)).toMatchObject({ status: "stopped" });
  unlockFolder(held);
  writeFileSync(join(held, "exit.json"), JSON.stringify({ code: 0, finished: created }));
  expect(await ended(a, job.id)).toMatchObject({ status: "finished" });
  await setTimeout(1000);
  const { runs } = await b.get<{ runs: { name: string }[] }>("/api/runs");
  expect(runs.map(({ name }) => name)).toEqual(["once"]);
  expect(await jobOf(b, never.id)).toMatchObject({ status: "stopped", log: "" });
  expect(existsSync(join(jobsFolder(folder), never.id, "started.json"))).toBe(false);
});

test("a job that fails says why", async () => {
  newFolder();
  const client = await serveHere();
  const wrong = { ...config(10), activations: { from: "folder", path: join(root, "nothing") } };
  const job = await client.post<Job>("/api/runs", { config: wrong });
  const { status, exit, log } = await ended(client, job.id);
  expect(status).toBe("failed");
  expect(exit).toMatchObject({ code: 1, error: expect.stringContaining("nothing") as string });
  expect(log).toContain("nothing");
  expect(await client.refused("POST", "/api/runs", 400, { config: { sae: 3 } })).toContain("sae");
  expect(await client.refused("POST", "/api/runs", 400, { config: { name: ".x" } })).toContain(
    "dot",
  );
});

test("a job that ends before it begins is told as failed, not waited for", async () => {
  newFolder();
  const client = await serveHere();
  const order = {
    id: "early",
    kind: "map",
    title: "",
    args: [],
    created: "2026-01-02T03:04:05.000Z",
  };
  // A folder where its output should be: it cannot be started at all.
  mkdirSync(join(jobsFolder(folder), "early", "stdout"), { recursive: true });
  createJob(folder, order, {});
  const { status, exit } = await ended(client, "early");
  expect([status, exit!.error]).toEqual(["failed", expect.stringContaining("EISDIR")]);
});

test("a process that ends before it takes its job up is told as failed with its exit code", async () => {
  newFolder();
  mkdirSync(folder);
  const script = join(folder, "early.mjs");
  writeFileSync(script, "process.exit(3);");
  const jobs = new Jobs(folder, { lens: script });
  const { id } = jobs.add({ kind: "map", title: "", args: () => [] });
  const job = await until("its end", () => jobs.list().find(({ status }) => status !== "running"));
  expect(job).toMatchObject({ id, status: "failed", exit: { code: 3 } });
});

test.each([true, false])(
  "a job may fetch from the hub where its server may (%s)",
  async (mayDownload) => {
    newFolder();
    mkdirSync(folder);
    const script = join(folder, "environment.mjs");
    writeFileSync(script, 'process.exit(process.env.HF_HUB_OFFLINE === "1" ? 4 : 5);');
    vi.stubEnv("HF_HUB_OFFLINE", undefined);
    const jobs = new Jobs(folder, { lens: script, mayDownload });
    jobs.add({ kind: "map", title: "", args: () => [] });
    const job = await until("its end", () =>
      jobs.list().find(({ status }) => status !== "running"),
    );
    vi.unstubAllEnvs();
    expect(job).toMatchObject({ exit: { code: mayDownload ? 5 : 4 } });
  },
);

const parts: [string, string][] = [
  ["job.json", "null"],
  ["job.json", "[]"],
  ["job.json", "{"],
  ["job.json", '{"id":"damaged"}'],
  ["job.json", '{"id":"damaged","kind":"x","title":"","args":[5],"created":"2026"}'],
  ["job.json", '{"id":"another","kind":"x","title":"","args":[],"created":"2026"}'],
  ["state.json", "null"],
  ["state.json", '{"run":5,"progress":null}'],
  ["exit.json", "null"],
  ["exit.json", "{"],
  ["exit.json", '{"code":"0"}'],
  ["started.json", ""],
  ["started.json", "null"],
];

test("files of jobs that are damaged cost that job only", async () => {
  newFolder();
  const created = "2026-01-02T03:04:05.000Z";
  const order = { kind: "map", title: "", args: ["nothing"], created };
  parts.forEach(([name, content], i) => {
    const id = `damaged-${i}`;
    const fields = content.replaceAll('"damaged"', `"${id}"`);
    createJob(folder, { ...order, id }, { "started.json": {} });
    writeFileSync(join(jobsFolder(folder), id, name), fields);
  });
  createJob(folder, { ...order, id: "whole" }, { "exit.json": { code: 0, finished: created } });
  const client = await serveHere();
  const jobs = await client.get<Job[]>("/api/jobs");
  const seen = parts.flatMap(([name], i) => (name === "job.json" ? [] : [`damaged-${i}`]));
  expect(jobs.map(({ id }) => id).sort()).toEqual([...seen, "whole"].sort());
  for (const { id, status } of jobs)
    expect([id, status]).toEqual([id, id === "whole" ? "finished" : "running"]);
  for (const { id } of jobs) await jobOf(client, id);
  // What is started is not started again, however it reads.
  await setTimeout(1000);
  for (const id of seen) expect(existsSync(join(jobsFolder(folder), id, "stdout"))).toBe(false);
});
