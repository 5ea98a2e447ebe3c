/**
 * A job: one call of the command line that somebody else watches. It has a folder of its own, and all
 * that the two know of each other stands there, so either may end, be killed and come back:
 *
 *   <runs>/.jobs/<id>/
 *     job.json      what is to be done; written by who asks
 *     started.json  the process that was started for it
 *     lock          held by the command while it runs, see lock.ts
 *     state.json    how far it is; written by the command
 *     stop          its presence asks the command to save and end
 *     pause         its presence asks a training command to wait between two steps
 *     stdout  stderr
 *     exit.json     how it ended; written by the command
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import { setTimeout } from "node:timers/promises";

import { isLocked, lockFolder, unlockFolder } from "../lock.ts";

/** The variable that names its folder to a command that is a job. */
export const JOB_VARIABLE = "LENS_JOB";

export interface JobProgress {
  label: string;
  unit: string;
  done: number;
  total: number;
  /** Units per second; 0 where it is not known yet. */
  rate: number;
  detail: string;
}

/** state.json */
export interface JobState {
  /** The run it works in, once there is one. */
  run?: string;
  progress?: JobProgress;
  isPaused?: boolean;
  /** The last thing it said. */
  note?: string;
  /** ISO time. */
  updated: string;
}

/** job.json */
export interface JobOrder {
  id: string;
  kind: string;
  title: string;
  /** Of the command line, without `lens`. */
  args: string[];
  /** The run it was asked for. */
  run?: string;
  /** ISO time. */
  created: string;
}

export interface JobExit {
  code: number;
  error?: string;
  /** ISO time. */
  finished: string;
}

/** `lost`: it ended without a word, killed perhaps; what it saved can be gone on with. */
export type JobStatus = "queued" | "running" | "finished" | "failed" | "stopped" | "lost";

export interface Job extends JobOrder {
  status: JobStatus;
  state?: JobState;
  exit?: JobExit;
}

/** A process that was started is given so long until it holds its lock. */
const START_MS = 30_000;

/** The exit code of a command that was asked to stop. */
export const STOPPED_CODE = 130;

export const jobsFolder = (runs: string): string => join(runs, ".jobs");

/** Writes the order, after the files that it speaks of: from then on it is a job. Nothing is started. */
export function createJob(runs: string, order: JobOrder, files: Record<string, unknown>): void {
  const folder = join(jobsFolder(runs), order.id);
  mkdirSync(folder, { recursive: true });
  for (const [name, value] of Object.entries(files)) write(folder, name, value);
  write(folder, "job.json", order);
}

/** Every job, the oldest first. A folder whose order cannot be read is no job. */
export function listJobs(runs: string): Job[] {
  const folder = jobsFolder(runs);
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => readJob(join(folder, entry.name)))
    .filter((job) => job !== undefined)
    .sort((a, b) => a.created.localeCompare(b.created) || a.id.localeCompare(b.id));
}

/** A job as its folder tells it; undefined when there is none. */
export function readJob(folder: string): Job | undefined {
  const order = read(folder, "job.json", isOrder);
  if (order === undefined || order.id !== basename(folder)) return undefined;
  const state = read(folder, "state.json", isState);
  // After the state, so that a job that has ended never shows an earlier one.
  const exit = read(folder, "exit.json", isExit);
  return {
    ...order,
    ...(state?.run !== undefined && { run: state.run }),
    status: exit ? statusAfter(exit) : statusOf(folder),
    ...(state && { state }),
    ...(exit && { exit }),
  };
}

function statusAfter({ code }: JobExit): JobStatus {
  return code === 0 ? "finished" : code === STOPPED_CODE ? "stopped" : "failed";
}

/** Of a job that has not said how it ended. */
function statusOf(folder: string): JobStatus {
  // That the file is there is what counts: a machine that went down may have left it empty.
  const started = statSync(join(folder, "started.json"), { throwIfNoEntry: false });
  if (started === undefined) return existsSync(join(folder, "stop")) ? "stopped" : "queued";
  if (isLocked(folder)) return "running";
  // Between the two looks it may have ended in good order.
  const exit = read(folder, "exit.json", isExit);
  if (exit) return statusAfter(exit);
  // A lock without its owner: it was at work and was killed.
  const wasAtWork = existsSync(join(folder, "lock"));
  return !wasAtWork && Date.now() - started.mtimeMs < START_MS ? "running" : "lost";
}

/** Asks a job to save what it has and end. */
export function requestStop(folder: string): void {
  writeFileSync(join(folder, "stop"), "");
}

/** Asks a job that trains to wait, or to go on. */
export function requestPause(folder: string, isPaused: boolean): void {
  if (isPaused) writeFileSync(join(folder, "pause"), "");
  else rmSync(join(folder, "pause"), { force: true });
}

/** The side of the command: what it tells whoever watches. */
export class JobReport {
  readonly folder: string;
  #state: JobState = { updated: new Date().toISOString() };
  #written = 0;
  #pending: ReturnType<typeof globalThis.setTimeout> | undefined;

  /** @throws UserError when another process works on the same job. */
  constructor(folder: string) {
    this.folder = folder;
    lockFolder(folder);
  }

  /** Written at once, or within a quarter of a second when told often. */
  tell(state: Partial<JobState>): void {
    Object.assign(this.#state, state, { updated: new Date().toISOString() });
    if (Date.now() - this.#written >= TELL_MS) this.#write();
    else this.#pending ??= globalThis.setTimeout(() => this.#write(), TELL_MS).unref();
  }

  isStopRequested(): boolean {
    return existsSync(join(this.folder, "stop"));
  }

  /** Resolves when nobody asks for a pause (any more). */
  async whilePaused(): Promise<void> {
    const path = join(this.folder, "pause");
    if (!existsSync(path)) return;
    this.tell({ isPaused: true });
    while (existsSync(path) && !this.isStopRequested()) await setTimeout(TELL_MS);
    this.tell({ isPaused: false });
  }

  exit(code: number, error?: string): void {
    this.#write();
    const exit: JobExit = { code, ...(error && { error }), finished: new Date().toISOString() };
    write(this.folder, "exit.json", exit);
    unlockFolder(this.folder);
  }

  #write(): void {
    clearTimeout(this.#pending);
    this.#pending = undefined;
    this.#written = Date.now();
    write(this.folder, "state.json", this.#state);
  }
}

const TELL_MS = 250;

let current: JobReport | undefined;

/** The job that this process is, if it is one. Entered on the first call. */
export function currentJob(): JobReport | undefined {
  const folder = process.env[JOB_VARIABLE];
  if (folder === undefined || folder === "") return undefined;
  return (current ??= new JobReport(folder));
}

/** Absent, or of a job that died while it was made, or something else altogether: undefined. */
function read<T>(folder: string, name: string, is: (fields: Fields<T>) => boolean): T | undefined {
  try {
    const value = JSON.parse(readFileSync(join(folder, name), "utf8")) as Fields<T> | null;
    return typeof value === "object" && value !== null && is(value) ? (value as T) : undefined;
  } catch {
    return undefined;
  }
}

type Fields<T> = { [K in keyof T]?: unknown };

const isText = (value: unknown) => typeof value === "string";
const maybe = (value: unknown, type: string) => value === undefined || typeof value === type;

const isOrder = ({ id, kind, title, args, run, created }: Fields<JobOrder>) =>
  [id, kind, title, created].every(isText) &&
  Array.isArray(args) &&
  args.every(isText) &&
  maybe(run, "string");

const isState = ({ run, progress, isPaused, note, updated }: Fields<JobState>) =>
  isText(updated) &&
  maybe(run, "string") &&
  maybe(note, "string") &&
  maybe(isPaused, "boolean") &&
  (progress === undefined || isProgress(progress));

const isProgress = (value: unknown) => {
  const { label, unit, done, total, rate, detail } = (value ?? {}) as Fields<JobProgress>;
  return [label, unit, detail].every(isText) && [done, total, rate].every(Number.isFinite);
};

const isExit = ({ code, error, finished }: Fields<JobExit>) =>
  Number.isInteger(code) && maybe(error, "string") && isText(finished);

/** Whole or not at all, but not forced onto the disk: a job of a machine that went down is over anyway. */
export function write(folder: string, name: string, value: unknown): void {
  const path = join(folder, name);
  writeFileSync(`${path}.${process.pid}.tmp`, JSON.stringify(value) + "\n");
  renameSync(`${path}.${process.pid}.tmp`, path);
}
