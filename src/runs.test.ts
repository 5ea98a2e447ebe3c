import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeEach, expect, test } from "vitest";

import { UserError } from "./error.ts";
import {
  aggregate,
  configHash,
  findRun,
  getTracker,
  listRuns,
  readMetrics,
  readResults,
  readRun,
  RunFolder,
  Tracker,
} from "./runs.ts";

const scratch = mkdtempSync(join(tmpdir(), "lens-runs-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

let base = "";
let nth = 0;
beforeEach(() => {
  base = join(scratch, String(nth++));
});

test("an experiment is a folder named by name, time and config hash, with config, results and summary", () => {
  const tracker = new Tracker(base);
  const config = { experiment_name: "say hello", task_type: "greeting", model: "echo", t: 0.5 };
  const id = tracker.startExperiment(config);
  expect(id).toMatch(/^say-hello_\d{8}_\d{6}_[0-9a-f]{8}$/);
  expect(id.endsWith(configHash(config))).toBe(true);

  tracker.logResult({ task_input: "hi", output: "hi", success: true, eval_scores: { f1: 1 } });
  tracker.logResult({ success: false, error: "timeout", eval_scores: { f1: 0.5 }, latency: 3 });
  const summary = tracker.finishExperiment();

  const stored = JSON.parse(readFileSync(join(base, id, "config.json"), "utf8")) as {
    provenance: { started: string; versions: Record<string, string> };
  };
  expect(stored).toMatchObject(config);
  expect(Date.parse(stored.provenance.started)).toBeGreaterThan(Date.parse("2020-01-01"));
  expect(stored.provenance.versions.node).toBe(process.versions.node);
  const results = readResults(join(base, id));
  expect(results.map((r) => r.success)).toEqual([true, false]);
  expect(results[1].error).toBe("timeout");
  expect(summary).toMatchObject({ status: "finished", total: 2, failed: 1, success_rate: 0.5 });
  expect(JSON.parse(readFileSync(join(base, id, "summary.json"), "utf8"))).toEqual(summary);
  expect(readdirSync(join(base, id)).sort()).toEqual([
    "config.json",
    "results.jsonl",
    "summary.json",
  ]);
});

test("config.json names the git commit and whether files differ from it", () => {
  const repository = join(scratch, "repository");
  mkdirSync(repository);
  const git = (...args: string[]) =>
    execFileSync("git", ["-c", "user.name=t", "-c", "user.email=t@t", ...args], {
      cwd: repository,
      encoding: "utf8",
    }).trim();
  git("init", "-q");
  writeFileSync(join(repository, "a"), "1");
  git("add", "a");
  git("commit", "-q", "-m", "first");
  const before = process.cwd();
  const stateOf = () => {
    const run = RunFolder.create(base, "g", {});
    run.close();
    return (readRun(run.folder).config.provenance as { git: unknown }).git;
  };
  try {
    process.chdir(repository);
    expect(stateOf()).toEqual({ commit: git("rev-parse", "HEAD"), dirty: false });
    writeFileSync(join(repository, "a"), "2");
    expect(stateOf()).toEqual({ commit: git("rev-parse", "HEAD"), dirty: true });
    process.chdir(tmpdir());
    expect(stateOf()).toBeNull();
  } finally {
    process.chdir(before);
  }
});

test("aggregates are what they are by hand", () => {
  const result = (latency: number | undefined, score?: number) => ({
    success: true,
    latency,
    eval_scores: score === undefined ? undefined : { score },
  });
  const { latency, eval_scores, total } = aggregate([
    result(1, 2),
    result(2, 4),
    result(3, 9),
    result(10, NaN),
    result(undefined),
  ]);
  expect(total).toBe(5);
  expect(latency!.mean).toBe(4);
  expect(latency!.median).toBe(2.5);
  // position 0.95 · 3 = 2.85 between 3 and 10
  expect(latency!.p95).toBeCloseTo(3 + 0.85 * 7, 12);
  // mean 5, squared deviations 9 + 1 + 16 over n - 1 = 2
  expect(eval_scores.score).toEqual({ count: 3, mean: 5, std: Math.sqrt(13), min: 2, max: 9 });
  expect(aggregate([])).toEqual({
    total: 0,
    succeeded: 0,
    failed: 0,
    success_rate: null,
    latency: null,
    eval_scores: {},
  });
});

test("the config hash depends on values, not on the order of keys or on absent ones", () => {
  const hash = configHash({ a: 1, b: { c: [1, 2], d: null } });
  expect(configHash({ b: { d: null, c: [1, 2] }, a: 1, e: undefined })).toBe(hash);
  expect(configHash({ a: 1, b: { c: [2, 1], d: null } })).not.toBe(hash);
});

test("two experiments with the same config in one second get two folders", () => {
  const tracker = new Tracker(base);
  const [a, b] = [1, 2].map(() => tracker.startExperiment({ experiment_name: "same" }));
  expect(a).not.toBe(b);
  expect(listRuns(base).map((run) => run.id)).toEqual([a, b]);
  tracker.logResult({ success: true }, a);
  expect(tracker.finishExperiment(a).total).toBe(1);
  expect(tracker.finishExperiment(b).total).toBe(0);
  expect(() => tracker.logResult({ success: true }, a)).toThrow(/not open in this tracker/);
});

test("a torn last line is ignored on reading and cut before the next append", () => {
  const run = RunFolder.create(base, "torn", {});
  run.logResult({ success: true, output: 1 });
  run.appendMetrics({ step: 1, loss: 2 });
  run.close();
  appendFileSync(run.path("results.jsonl"), '{"success":tr');
  appendFileSync(run.path("metrics.jsonl"), '{"step":2,"lo');
  expect(readResults(run.folder)).toHaveLength(1);
  expect(readMetrics(run.folder)).toEqual([{ step: 1, loss: 2 }]);
  const again = RunFolder.open(run.folder);
  again.logResult({ success: true, output: 2 });
  expect(readResults(run.folder).map((r) => r.output)).toEqual([1, 2]);
  again.close();
  appendFileSync(run.path("results.jsonl"), 'nonsense\n{"success":true}\n');
  expect(() => readResults(run.folder)).toThrow(/results\.jsonl, line 3 is not JSON/);
});

test("a resumed run logs no step twice", () => {
  const run = RunFolder.create(base, "metrics", {});
  for (let step = 10; step <= 50; step += 10) run.appendMetrics({ step, loss: 1 / step });
  run.truncateMetrics(30);
  run.appendMetrics({ step: 40, loss: 7 });
  expect(readMetrics(run.folder).map((m) => [m.step, m.loss])).toEqual([
    [10, 1 / 10],
    [20, 1 / 20],
    [30, 1 / 30],
    [40, 7],
  ]);
  run.close();
});

test("a folder in use by a live process is refused, whose and since when is said", async () => {
  const run = RunFolder.create(base, "locked", {});
  expect(() => RunFolder.open(run.folder)).toThrow(UserError);
  run.close();

  const child = spawn(process.execPath, ["-e", "setTimeout(() => {}, 60000)"]);
  await once(child, "spawn");
  const owner = { pid: child.pid, host: hostname(), born: null, since: "noon" };
  writeFileSync(run.path("lock"), JSON.stringify(owner));
  expect(readRun(run.folder).status).toBe("running");
  expect(() => RunFolder.open(run.folder)).toThrow(`in use by process ${child.pid} since noon`);

  child.kill("SIGKILL");
  await once(child, "exit");
  expect(readRun(run.folder).status).toBe("interrupted");
  const taken = RunFolder.open(run.folder);
  expect(readRun(run.folder).status).toBe("running");
  taken.close();
  expect(existsSync(run.path("lock"))).toBe(false);
});

test("a lock left by an earlier process with our own id is taken over, one from another machine is not", () => {
  const run = RunFolder.create(base, "reused", {});
  run.close();
  const owner = { pid: process.pid, host: hostname(), born: null, since: "noon" };
  writeFileSync(run.path("lock"), JSON.stringify(owner));
  RunFolder.open(run.folder).close();
  writeFileSync(run.path("lock"), JSON.stringify({ ...owner, host: "elsewhere" }));
  expect(() => RunFolder.open(run.folder)).toThrow(/on elsewhere.*delete .*lock/);
});

test.runIf(process.platform === "linux")(
  "a lock whose process id now belongs to another process is taken over",
  () => {
    const run = RunFolder.create(base, "born", {});
    run.close();
    const owner = { pid: process.ppid, host: hostname(), born: "another boot 1", since: "noon" };
    writeFileSync(run.path("lock"), JSON.stringify(owner));
    RunFolder.open(run.folder).close();
  },
);

test("a failed run that is gone on with is no longer failed, a finished one stays finished", () => {
  const run = RunFolder.create(base, "again", {});
  run.fail(new Error("no"));
  RunFolder.open(run.folder).close();
  expect(readRun(run.folder).status).toBe("interrupted");
  RunFolder.open(run.folder).finish();
  RunFolder.open(run.folder).close();
  expect(readRun(run.folder).status).toBe("finished");
});

test("runs are listed with their status and found by path, id, beginning or latest", () => {
  const [a, b, c, d] = ["one", "two", "two", "three"].map((name) =>
    RunFolder.create(base, name, { name }),
  );
  a.finish({ note: "fine" });
  b.fail(new Error("out of luck"));
  c.close();
  mkdirSync(join(base, "activations"));
  const status = Object.fromEntries(listRuns(base).map((run) => [run.id, run.status]));
  expect(status).toEqual({
    [a.id]: "finished",
    [b.id]: "failed",
    [c.id]: "interrupted",
    [d.id]: "running",
  });
  expect(readRun(a.folder).summary).toMatchObject({ note: "fine" });
  expect(readRun(b.folder).summary).toMatchObject({ error: "out of luck" });
  expect(findRun(base, d.folder).id).toBe(d.id);
  expect(findRun(base, "one").id).toBe(a.id);
  expect(findRun(base, "latest").id).toBe(listRuns(base)[3].id);
  expect(findRun(base, b.id).name).toBe("two");
  expect(() => findRun(base, "two")).toThrow(/beginning of 2 runs/);
  expect(() => findRun(base, a.id.replace("one", "on"))).toThrow(`did you mean ${a.id}?`);
  expect(() => findRun(join(base, "nowhere"), "x")).toThrow(/no runs there/);
  expect(() => RunFolder.open(join(base, "activations"))).toThrow(/not a run folder/);
  d.close();
});

test("experiments are compared by their mean scores and the settings that differ", () => {
  const tracker = getTracker(base);
  expect(getTracker(base)).toBe(tracker);
  const ids = [16, 32].map((k) => {
    const id = tracker.startExperiment({ experiment_name: "k", sae: { k, dSae: 8 }, tags: ["a"] });
    for (const x of [1, 2]) tracker.logResult({ success: true, eval_scores: { fvu: x / k } });
    if (k === 32) tracker.logResult({ success: false, eval_scores: { extra: 4 } });
    tracker.finishExperiment();
    return id;
  });
  const { experiments, metrics, config } = tracker.compareExperiments(ids);
  expect(experiments.map((e) => e.id)).toEqual(ids);
  expect(config).toEqual({ "sae.k": [16, 32] });
  expect(metrics).toEqual({
    fvu: [1.5 / 16, 1.5 / 32],
    extra: [undefined, 4],
    success_rate: [1, 2 / 3],
  });
});
