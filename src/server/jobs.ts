/**
 * Long work: commands of Lens as processes of their own, one after another. What is known of a job
 * stands in its folder (workbench/job-folder.ts), so a server that was killed finds them again, and they
 * go on without it.
 */
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { closeSync, existsSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import type { RunConfig } from "../config.ts";
import { messageOf, UserError } from "../error.ts";
import {
  createJob,
  JOB_VARIABLE,
  jobsFolder,
  listJobs,
  readJob,
  requestPause,
  requestStop,
  write,
  type Job,
  type JobOrder,
} from "../workbench/job-folder.ts";
import { Busy, NotFound } from "./run-store.ts";

const ID = /^[\w-]+$/;
const LOOK_MS = 400;

export interface JobsOptions {
  /** The script that is the command line. */
  lens?: string;
  /** Jobs that run at the same time. */
  atOnce?: number;
  /** Whether they may fetch models from the hub. */
  mayDownload?: boolean;
}

export class Jobs {
  readonly #runs: string;
  readonly #lens: string;
  readonly #atOnce: number;
  readonly #mayDownload: boolean;
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor(runs: string, { lens = LENS, atOnce = 1, mayDownload = true }: JobsOptions = {}) {
    this.#runs = runs;
    this.#lens = lens;
    this.#atOnce = atOnce;
    this.#mayDownload = mayDownload;
  }

  /** Begins to start what is queued, now and from an earlier life of the server. */
  watch(): void {
    this.#timer = setInterval(() => this.#startNext(), LOOK_MS);
    this.#timer.unref();
    this.#startNext();
  }

  /** Jobs that run go on. */
  close(): void {
    clearInterval(this.#timer);
  }

  list(): Job[] {
    return listJobs(this.#runs);
  }

  /** @throws NotFound */
  get(id: string): Job {
    const job = ID.test(id) ? readJob(this.folderOf(id)) : undefined;
    if (!job) throw new NotFound(`there is no job ${JSON.stringify(id)}`);
    return job;
  }

  folderOf(id: string): string {
    return join(jobsFolder(this.#runs), id);
  }

  /**
   * Queues a command. @param files written into the job's folder first, which `args` is given.
   * @throws UserError for an argument that no process can be given.
   */
  add(
    order: Pick<JobOrder, "kind" | "title" | "run"> & { args: (folder: string) => string[] },
    files: Record<string, unknown> = {},
  ): Job {
    const created = new Date().toISOString();
    const id = `${created.replace(/\D/g, "").slice(0, 14)}-${order.kind}-${randomBytes(3).toString("hex")}`;
    const folder = this.folderOf(id);
    const args = order.args(folder);
    if (args.some((arg) => arg.includes("\0")))
      throw new UserError("a text of this job holds a NUL character; remove it");
    // The order comes last: it is what makes the folder a job.
    createJob(this.#runs, { ...order, args, id, created }, files);
    this.#startNext();
    return this.get(id);
  }

  /** Queues a run with these settings: it trains, measures, looks its features up. */
  addRun(config: RunConfig): Job {
    return this.add(
      {
        ...{ kind: "train", title: `train ${config.name}` },
        args: (folder) => ["run", join(folder, "config.json"), "--json"],
      },
      { "config.json": config },
    );
  }

  /** Asks a job to save what it has and end; one that waits is not started. */
  stop(id: string): Job {
    this.get(id);
    requestPause(this.folderOf(id), false);
    requestStop(this.folderOf(id));
    return this.get(id);
  }

  /** Lets a training job wait between two steps, or go on. */
  pause(id: string, isPaused: boolean): Job {
    const { status } = this.get(id);
    if (status !== "running")
      throw new Busy(`job ${id} is ${status}: only one that runs can pause`);
    requestPause(this.folderOf(id), isPaused);
    return this.get(id);
  }

  /** What the job printed as its result; undefined when that is nothing, or no JSON. */
  result(id: string): unknown {
    this.get(id);
    try {
      return JSON.parse(readFileSync(join(this.folderOf(id), "stdout"), "utf8")) as unknown;
    } catch {
      return undefined;
    }
  }

  /** The end of what it said on the way. */
  log(id: string): string {
    this.get(id);
    try {
      return readFileSync(join(this.folderOf(id), "stderr"), "utf8").slice(-8000);
    } catch {
      return "";
    }
  }

  /** Forgets a job that has ended. @throws Busy for one that has not. */
  remove(id: string): void {
    const { status } = this.get(id);
    if (status === "running") throw new Busy(`job ${id} is running: stop it first`);
    rmSync(this.folderOf(id), { recursive: true, force: true });
  }

  /** Forgets the jobs of a run. @throws Busy while one runs. */
  removeOf(run: string): void {
    const own = this.list().filter((job) => job.run === run);
    const running = own.find((job) => job.status === "running");
    if (running) throw new Busy(`job ${running.id} works in run ${run}: stop it first`);
    for (const { id } of own) this.remove(id);
  }

  /** What goes wrong here goes wrong for one job, or is gone at the next look. */
  #startNext(): void {
    try {
      const jobs = this.list();
      let free = this.#atOnce - jobs.filter((job) => job.status === "running").length;
      for (const job of jobs) if (job.status === "queued" && free-- > 0) this.#start(job);
    } catch (error) {
      process.stderr.write(`cannot look after the jobs: ${messageOf(error)}\n`);
    }
  }

  #start({ id, args }: Job): void {
    const folder = this.folderOf(id);
    try {
      // Whoever makes this file starts the job, should two servers share the folder.
      const started = JSON.stringify({ started: new Date().toISOString() });
      writeFileSync(join(folder, "started.json"), started, { flag: "wx" });
    } catch {
      return;
    }
    const files: number[] = [];
    try {
      const out = openSync(join(folder, "stdout"), "w");
      files.push(out);
      const err = openSync(join(folder, "stderr"), "w");
      files.push(err);
      const child = spawn(process.execPath, [this.#lens, ...args], {
        // A session of its own: neither Ctrl-C at the server's terminal nor its end reaches it.
        ...{ detached: true, stdio: ["ignore", out, err], windowsHide: true },
        env: {
          ...process.env,
          [JOB_VARIABLE]: folder,
          ...(!this.#mayDownload && { HF_HUB_OFFLINE: "1" }),
        },
      });
      child.on("error", (error) => failed(folder, 1, error.message));
      child.on("exit", (code, signal) => {
        // One that had begun says itself how it ended, or leaves its lock.
        if (existsSync(join(folder, "exit.json")) || existsSync(join(folder, "lock"))) return;
        failed(folder, code || 1, `it ended before it began (${signal ?? `exit code ${code}`})`);
      });
      child.unref();
    } catch (error) {
      failed(folder, 1, messageOf(error));
    } finally {
      files.forEach((file) => closeSync(file));
    }
  }
}

/** Writes how a job ended that could not do so itself. */
function failed(folder: string, code: number, error: string): void {
  try {
    write(folder, "exit.json", { code, error, finished: new Date().toISOString() });
  } catch (problem) {
    process.stderr.write(`cannot write to ${folder}: ${messageOf(problem)}\n`);
  }
}

const LENS = fileURLToPath(new URL("../../bin/lens.js", import.meta.url));
