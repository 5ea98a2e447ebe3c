/**
 * A run is a folder, and the experiment tracker is what reads and writes such folders. It knows
 * nothing of models or autoencoders and can be used for any experiment.
 *
 *   <name>_<yyyymmdd>_<hhmmss>_<config hash>/
 *     config.json     the settings, plus `provenance`: git commit, versions, machine, start time
 *     metrics.jsonl   one line per log step
 *     results.jsonl   one line per result
 *     summary.json    how it ended, with aggregates over the results
 *     lock            who is working in the folder; gone when nobody is
 *
 * Appended lines are on disk when the call returns, so a crash loses at most the line being
 * written; a torn last line is ignored on reading and cut off before the next append. Other files
 * appear whole (temporary name, then rename).
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { arch, cpus, platform } from "node:os";
import { basename, join, resolve } from "node:path";

import { messageOf, nearestName, UserError } from "./error.ts";
import { isLocked, lockFolder, unlockFolder } from "./lock.ts";

/** What is tried. Any further fields are kept and compared as they are. */
export interface ExperimentConfig {
  experiment_name: string;
  task_type?: string;
  strategy?: string;
  provider?: string;
  model?: string;
  [field: string]: unknown;
}

/** What came of one try. */
export interface ExperimentResult {
  /** Settings of this one result, where they differ from the experiment's. */
  config?: Partial<ExperimentConfig>;
  task_input?: unknown;
  output?: unknown;
  /** Numbers to aggregate, by name. */
  eval_scores?: Record<string, number>;
  eval_metadata?: Record<string, unknown>;
  success: boolean;
  /** Seconds. */
  latency?: number;
  error?: string | null;
  /** ISO time; absent: now. */
  timestamp?: string;
}

/** `std` is the sample standard deviation (n - 1), 0 for a single value. */
export interface ScoreAggregate {
  count: number;
  mean: number;
  std: number;
  min: number;
  max: number;
}

/** Aggregates over results; quantiles interpolate linearly between neighbours, as NumPy's default does. */
export interface Aggregates {
  total: number;
  succeeded: number;
  failed: number;
  /** null when there are no results. */
  success_rate: number | null;
  /** Seconds; null when no result has a latency. */
  latency: { mean: number; median: number; p95: number } | null;
  eval_scores: Record<string, ScoreAggregate>;
}

export interface RunSummary extends Aggregates {
  status: "finished" | "failed";
  error?: string;
  finished: string;
  /** Seconds since the run (or its last resumption) began. */
  duration: number;
  [field: string]: unknown;
}

/** One line of metrics.jsonl. */
export interface MetricsLine {
  step: number;
  [name: string]: unknown;
}

export type RunStatus = "running" | "finished" | "failed" | "interrupted";

export interface RunInfo {
  /** The folder's name. */
  id: string;
  folder: string;
  name: string;
  status: RunStatus;
  /** ISO time. */
  started: string;
  config: Record<string, unknown>;
  summary?: RunSummary;
}

export interface Comparison {
  experiments: { id: string; name: string; status: RunStatus }[];
  /** Score name -> its mean in each experiment, undefined where it has none. */
  metrics: Record<string, (number | undefined)[]>;
  /** Settings that are not the same in all, by dotted name. */
  config: Record<string, unknown[]>;
}

const CONFIG = "config.json";
const METRICS = "metrics.jsonl";
const RESULTS = "results.jsonl";
const SUMMARY = "summary.json";

/** A run folder this process works in; nobody else can until `finish`, `fail` or `close`. */
export class RunFolder {
  readonly folder: string;
  /** Made by this process, not gone on with. */
  readonly isNew: boolean;
  readonly #opened = Date.now();

  private constructor(folder: string, isNew: boolean) {
    this.folder = folder;
    this.isNew = isNew;
  }

  /** The folder's name. */
  get id(): string {
    return basename(this.folder);
  }

  /** Makes `<baseDir>/<name>_<time>_<hash of config>/` with its config.json and locks it. */
  static create(baseDir: string, name: string, config: Record<string, unknown>): RunFolder {
    const hash = configHash(config);
    const started = new Date();
    makeFolder(baseDir);
    for (const at = new Date(started); ; at.setSeconds(at.getSeconds() + 1)) {
      const folder = join(resolve(baseDir), `${name}_${stamp(at)}_${hash}`);
      try {
        mkdirSync(folder);
      } catch (error) {
        // The same experiment started twice within one second.
        if ((error as NodeJS.ErrnoException).code === "EEXIST") continue;
        throw new UserError(`cannot make the run folder ${folder}: ${messageOf(error)}`);
      }
      lockFolder(folder);
      const run = new RunFolder(folder, true);
      run.writeJson(CONFIG, { ...config, provenance: provenance(started) });
      return run;
    }
  }

  /** Goes on in an existing run folder. @throws UserError when it is no run folder or a live process works in it. */
  static open(folder: string): RunFolder {
    readConfig(folder);
    lockFolder(resolve(folder));
    for (const file of [METRICS, RESULTS]) cutTornLine(join(folder, file));
    // A failure is over once someone goes on; what is finished stays so until it is finished anew.
    if (readRun(folder).summary?.status === "failed") rmSync(join(folder, SUMMARY));
    return new RunFolder(resolve(folder), false);
  }

  path(...parts: string[]): string {
    return join(this.folder, ...parts);
  }

  /** Adds one line to metrics.jsonl. */
  appendMetrics(line: MetricsLine): void {
    appendLine(this.path(METRICS), line, false);
  }

  /** Drops the metrics of later steps, so that a run resumed at `step` logs no step twice. */
  truncateMetrics(step: number): void {
    const kept = readMetrics(this.folder).filter((line) => line.step <= step);
    writeWhole(this.path(METRICS), kept.map((line) => JSON.stringify(line) + "\n").join(""));
  }

  /** Adds one line to results.jsonl; it is on disk when this returns. */
  logResult(result: ExperimentResult): void {
    const line = { timestamp: new Date().toISOString(), ...result };
    appendLine(this.path(RESULTS), line, true);
  }

  writeJson(name: string, value: unknown): void {
    writeWhole(this.path(name), JSON.stringify(value, null, 2) + "\n");
  }

  /** Writes summary.json, with `extra` fields beside the aggregates, and gives the folder up. */
  finish(extra: Record<string, unknown> = {}): RunSummary {
    return this.#end({ status: "finished" }, extra);
  }

  /** The same for a run that ended in an error. */
  fail(error: unknown): RunSummary {
    return this.#end({ status: "failed", error: messageOf(error) }, {});
  }

  /** Gives the folder up without a summary: the run counts as interrupted and can be resumed. */
  close(): void {
    unlockFolder(this.folder);
  }

  /** Gives the folder up and deletes it: for a run that came to nothing. */
  remove(): void {
    this.close();
    rmSync(this.folder, { recursive: true, force: true });
  }

  #end(
    outcome: { status: "finished" | "failed"; error?: string },
    extra: Record<string, unknown>,
  ): RunSummary {
    const summary: RunSummary = {
      ...outcome,
      finished: new Date().toISOString(),
      duration: (Date.now() - this.#opened) / 1000,
      ...aggregate(readResults(this.folder)),
      ...extra,
    };
    this.writeJson(SUMMARY, summary);
    this.close();
    return summary;
  }
}

/** Records experiments in run folders below one folder. */
export class Tracker {
  readonly baseDir: string;
  #open = new Map<string, RunFolder>();
  #latest: string | undefined;

  constructor(baseDir: string) {
    this.baseDir = resolve(baseDir);
  }

  /** Starts an experiment and returns its id, the name of its folder below `baseDir`. */
  startExperiment(config: ExperimentConfig): string {
    const run = RunFolder.create(this.baseDir, folderName(config.experiment_name), config);
    this.#open.set(run.id, run);
    this.#latest = run.id;
    return run.id;
  }

  /** Goes on with an experiment that was interrupted. */
  resumeExperiment(id: string): void {
    const { folder, id: full } = findRun(this.baseDir, id);
    this.#open.set(full, RunFolder.open(folder));
    this.#latest = full;
  }

  /** Adds a result to an experiment of this tracker (absent: the one started last). */
  logResult(result: ExperimentResult, id?: string): void {
    this.#run(id).logResult(result);
  }

  /** Writes the summary of an experiment of this tracker (absent: the one started last). */
  finishExperiment(id?: string): RunSummary {
    const run = this.#run(id);
    this.#open.delete(run.id);
    return run.finish();
  }

  /** Every run below `baseDir`, oldest first. */
  listExperiments(): RunInfo[] {
    return listRuns(this.baseDir);
  }

  /** Mean scores side by side, and the settings that differ. */
  compareExperiments(ids: string[]): Comparison {
    return compareRuns(ids.map((id) => findRun(this.baseDir, id)));
  }

  #run(id = this.#latest): RunFolder {
    const run = id === undefined ? undefined : this.#open.get(id);
    if (run === undefined)
      throw new UserError(
        id === undefined
          ? "no experiment has been started; call startExperiment first"
          : `experiment ${id} is not open in this tracker; it was finished, or started elsewhere (resumeExperiment goes on with it)`,
      );
    return run;
  }
}

const trackers = new Map<string, Tracker>();

/** The tracker of a folder: one per folder and process. */
export function getTracker(baseDir = "runs"): Tracker {
  const key = resolve(baseDir);
  const tracker = trackers.get(key) ?? new Tracker(key);
  trackers.set(key, tracker);
  return tracker;
}

/** Every run below `baseDir`, oldest first. A missing folder holds no runs. */
export function listRuns(baseDir: string): RunInfo[] {
  if (!existsSync(baseDir)) return [];
  return readdirSync(baseDir, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && existsSync(join(baseDir, entry.name, CONFIG)))
    .map((entry) => readRun(join(baseDir, entry.name)))
    .sort((a, b) => a.started.localeCompare(b.started) || a.id.localeCompare(b.id));
}

/** What a run folder says of itself. @throws UserError when it is not a run folder. */
export function readRun(folder: string): RunInfo {
  const config = readConfig(folder);
  const summary = readJson(join(folder, SUMMARY)) as RunSummary | undefined;
  const name = config.experiment_name ?? config.name ?? basename(folder);
  const { started } = (config.provenance ?? {}) as { started?: string };
  return {
    id: basename(resolve(folder)),
    folder: resolve(folder),
    name: typeof name === "string" ? name : JSON.stringify(name),
    status: isLocked(folder) ? "running" : (summary?.status ?? "interrupted"),
    started: started ?? statSync(join(folder, CONFIG)).mtime.toISOString(),
    config,
    ...(summary && { summary }),
  };
}

/** A run by the path of its folder, its id, an unambiguous beginning of the id, or "latest". */
export function findRun(baseDir: string, id: string): RunInfo {
  if (existsSync(join(id, CONFIG))) return readRun(id);
  const runs = listRuns(baseDir);
  if (id === "latest" && runs.length > 0) return runs.at(-1)!;
  const exact = runs.find((run) => run.id === id);
  if (exact) return exact;
  const matches = runs.filter((run) => run.id.startsWith(id));
  if (matches.length === 1) return matches[0];
  if (matches.length > 1)
    throw new UserError(
      `${id} is the beginning of ${matches.length} runs: ${matches.map((run) => run.id).join(", ")}`,
    );
  const near = nearestName(
    id,
    runs.map((run) => run.id),
  );
  const hint = near
    ? `did you mean ${near}?`
    : runs.length === 0
      ? "there are no runs there"
      : "lens runs list shows them";
  throw new UserError(`no run ${id} in ${baseDir}; ${hint}`);
}

/** Metrics logged so far. */
export function readMetrics(folder: string): MetricsLine[] {
  return readLines(join(folder, METRICS)) as MetricsLine[];
}

/** Results logged so far, in order. */
export function readResults(folder: string): ExperimentResult[] {
  return readLines(join(folder, RESULTS)) as ExperimentResult[];
}

/** Mean scores side by side, and the settings that differ. */
export function compareRuns(runs: RunInfo[]): Comparison {
  const metrics: Comparison["metrics"] = {};
  const scores = runs.map((run) => {
    const { eval_scores, success_rate } = run.summary ?? aggregate(readResults(run.folder));
    const means = Object.entries(eval_scores).map(([name, s]) => [name, s.mean] as const);
    return new Map<string, number | null>([...means, ["success_rate", success_rate]]);
  });
  for (const name of new Set(scores.flatMap((s) => [...s.keys()])))
    metrics[name] = scores.map((s) => s.get(name) ?? undefined);

  const settings = runs.map(({ config }) => {
    const { provenance: _provenance, $schema: _schema, ...rest } = config;
    return flatten(rest);
  });
  const config: Comparison["config"] = {};
  for (const field of new Set(settings.flatMap((s) => [...s.keys()]))) {
    const values = settings.map((s) => s.get(field));
    if (new Set(values.map((v) => JSON.stringify(v))).size > 1) config[field] = values;
  }
  return {
    experiments: runs.map(({ id, name, status }) => ({ id, name, status })),
    metrics,
    config,
  };
}

/** Counts, success rate, latency and score statistics of some results; numbers that are not finite are left out. */
export function aggregate(results: ExperimentResult[]): Aggregates {
  const succeeded = results.filter((result) => result.success).length;
  const latencies = finite(results.map((result) => result.latency));
  const names = new Set(results.flatMap((result) => Object.keys(result.eval_scores ?? {})));
  const scores: Record<string, ScoreAggregate> = {};
  for (const name of names) {
    const values = finite(results.map((result) => result.eval_scores?.[name]));
    if (values.length === 0) continue;
    const mean = average(values);
    const squares = values.reduce((sum, v) => sum + (v - mean) ** 2, 0);
    scores[name] = {
      count: values.length,
      mean,
      std: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : 0,
      min: values.reduce((a, b) => Math.min(a, b)),
      max: values.reduce((a, b) => Math.max(a, b)),
    };
  }
  return {
    total: results.length,
    succeeded,
    failed: results.length - succeeded,
    success_rate: results.length === 0 ? null : succeeded / results.length,
    latency:
      latencies.length === 0
        ? null
        : {
            mean: average(latencies),
            median: quantile(latencies, 0.5),
            p95: quantile(latencies, 0.95),
          },
    eval_scores: scores,
  };
}

/** Eight hex digits that are the same for the same settings, whatever the order of their keys. */
export function configHash(config: Record<string, unknown>): string {
  return createHash("sha256").update(canonical(config)).digest("hex").slice(0, 8);
}

/** Writes a file so that nobody ever sees half of it. @throws UserError when the disk refuses, leaving what was there. */
export function writeWhole(path: string, content: string | Uint8Array): void {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    writeFileSync(temporary, content, { flush: true });
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw new UserError(`cannot write ${path}: ${messageOf(error)}`);
  }
}

function finite(values: (number | null | undefined)[]): number[] {
  return values.filter((v): v is number => Number.isFinite(v));
}

function average(values: number[]): number {
  return values.reduce((sum, v) => sum + v, 0) / values.length;
}

function quantile(values: number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = q * (sorted.length - 1);
  const below = sorted[Math.floor(at)];
  return below + (at - Math.floor(at)) * (sorted[Math.ceil(at)] - below);
}

function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value).filter(([, v]) => v !== undefined);
    entries.sort(([a], [b]) => (a < b ? -1 : 1));
    return `{${entries.map(([k, v]) => `${JSON.stringify(k)}:${canonical(v)}`).join(",")}}`;
  }
  return JSON.stringify(value) ?? "null";
}

/** Nested settings by dotted name; arrays stay whole. */
function flatten(value: unknown, prefix = "", into = new Map<string, unknown>()) {
  for (const [key, v] of Object.entries(value as Record<string, unknown>)) {
    if (typeof v === "object" && v !== null && !Array.isArray(v))
      flatten(v, `${prefix}${key}.`, into);
    else into.set(prefix + key, v);
  }
  return into;
}

function folderName(experimentName: string): string {
  return experimentName.replace(/[^\w.-]+/g, "-") || "experiment";
}

/** yyyymmdd_hhmmss in local time. */
function stamp(date: Date): string {
  const two = (n: number) => String(n).padStart(2, "0");
  const day = `${date.getFullYear()}${two(date.getMonth() + 1)}${two(date.getDate())}`;
  return `${day}_${two(date.getHours())}${two(date.getMinutes())}${two(date.getSeconds())}`;
}

function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true });
  } catch (error) {
    throw new UserError(`cannot make the folder ${folder}: ${messageOf(error)}`);
  }
}

/** Where and with what the run happens. */
function provenance(started: Date): Record<string, unknown> {
  return {
    started: started.toISOString(),
    git: gitState(),
    versions: { "latent-lens": ownVersion(), node: process.versions.node },
    platform: `${platform()} ${arch()}`,
    cpu: `${cpus().length} × ${cpus()[0]?.model.trim() ?? "unknown"}`,
    command: process.argv.slice(2).join(" "),
  };
}

/** Commit of the repository we stand in and whether files differ from it; null outside of one. */
function gitState(): { commit: string; dirty: boolean } | null {
  const git = (...args: string[]) =>
    execFileSync("git", args, {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
      timeout: 10_000,
      windowsHide: true,
    }).trim();
  try {
    return { commit: git("rev-parse", "HEAD"), dirty: git("status", "--porcelain") !== "" };
  } catch {
    return null;
  }
}

/** The version of this package. */
export function ownVersion(): string {
  const { version } = JSON.parse(
    readFileSync(new URL("../package.json", import.meta.url), "utf8"),
  ) as { version: string };
  return version;
}

function readConfig(folder: string): Record<string, unknown> {
  const config = readJson(join(folder, CONFIG));
  if (typeof config !== "object" || config === null)
    throw new UserError(`${folder} is not a run folder: it has no ${CONFIG}`);
  return config as Record<string, unknown>;
}

/** The file's JSON, undefined when there is no such file. */
function readJson(path: string): unknown {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UserError(`${path} is not JSON: ${messageOf(error)}`);
  }
}

function readLines(path: string): unknown[] {
  if (!existsSync(path)) return [];
  const text = readFileSync(path, "utf8");
  const complete = text.slice(0, text.lastIndexOf("\n") + 1);
  return complete
    .split("\n")
    .slice(0, -1)
    .map((line, i) => {
      try {
        return JSON.parse(line) as unknown;
      } catch {
        throw new UserError(`${path}, line ${i + 1} is not JSON: ${line.slice(0, 80)}`);
      }
    });
}

function appendLine(path: string, value: unknown, flush: boolean): void {
  try {
    const file = openSync(path, "a");
    try {
      // One write per line: lines of several writers never mix.
      writeSync(file, JSON.stringify(value) + "\n");
      if (flush) fsyncSync(file);
    } finally {
      closeSync(file);
    }
  } catch (error) {
    throw new UserError(`cannot write ${path}: ${messageOf(error)}`);
  }
}

function cutTornLine(path: string): void {
  if (!existsSync(path)) return;
  const bytes = readFileSync(path);
  const end = bytes.lastIndexOf(10) + 1;
  if (end < bytes.length) truncateSync(path, end);
}
