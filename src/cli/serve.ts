/** `lens serve`: the dashboard in a browser. */
import { spawn } from "node:child_process";
import { resolve } from "node:path";
import { setTimeout } from "node:timers/promises";
import type { Command } from "commander";

import { UserError } from "../error.ts";
import type { Server } from "../server/serve.ts";
import { numberOf } from "./generate.ts";
import { interruptible } from "./interrupt.ts";
import { Progress } from "./progress.ts";
import { QUICK_START, readSettings } from "./settings.ts";
import { Terminal } from "./terminal.ts";

interface Options {
  host: string;
  port: string;
  allowHost: string[];
  database?: string;
  jobs: string;
  start?: string;
  open?: boolean;
  quiet?: boolean;
  json?: boolean;
}

export function define(command: Command): void {
  command
    .argument("[runs]", "the folder that holds the run folders", "runs")
    .description(
      "Show runs, training and features in a web browser, start and stop runs there, label features " +
        "and steer. Listens on this machine only, unless --host says otherwise. Where --host or --allow-host " +
        "opens it to others, a token is needed, which is part of the address printed (LENS_TOKEN sets it), " +
        "and models and texts may be named below the working folder only.",
    )
    .option("--host <address>", "address to listen on", "127.0.0.1")
    .option("--port <integer>", "port; 0: any that is free", "7171")
    .option(
      "--allow-host <name>",
      "a further host name to answer to, that a proxy or tunnel publishes it under; may be repeated",
      (name: string, before: string[]) => [...before, name],
      [],
    )
    .option(
      "--database <setting>",
      "where labels are kept: a SQLite file or postgres://…; absent: LENS_DATABASE, or a file in the runs folder",
    )
    .option("--jobs <integer>", "jobs that run at the same time", "1")
    .option(
      "--start <config>",
      "start this run when the folder has none yet, and show how far it is; quick-start: the one that lens run does without a config",
    )
    .option("--open", "open the page in the default browser")
    .option("--quiet", "print the address only")
    .option("--json", "print the address as JSON")
    .action(run);
}

async function run(runs: string, options: Options): Promise<void> {
  const terminal = new Terminal(options);
  const { serve } = await import("../server/serve.ts");
  const database = options.database ?? process.env.LENS_DATABASE;
  const jobsAtOnce = numberOf("jobs", options.jobs);
  if (!Number.isInteger(jobsAtOnce) || jobsAtOnce < 1)
    throw new UserError(`jobs must be a whole number of at least 1; got ${options.jobs}`);
  const server = await serve({
    ...{ runs, host: options.host, port: numberOf("port", options.port), jobsAtOnce },
    allowHosts: options.allowHost,
    ...(process.env.LENS_TOKEN && { token: process.env.LENS_TOKEN }),
    ...(database && { database }),
  });
  if (!server.hasPage)
    terminal.note("the page is not built, so only the API is here: npm run build makes it");
  await interruptible(async (signal) => {
    const job = options.start === undefined ? undefined : firstRun(server, runs, options.start);
    const run = job && (await runOf(server, job, signal));
    const page = run === undefined ? "" : `#/run/${encodeURIComponent(run)}/training`;
    const url = server.url + page;
    terminal.result({ url, port: server.port, ...(run !== undefined && { run }) }, url);
    terminal.note("Open it in a browser; Ctrl-C ends it (jobs go on).");
    if (options.open) openInBrowser(url);
    if (job) await follow(server, job, terminal, signal);
    if (!signal.aborted)
      await new Promise<void>((done) => signal.addEventListener("abort", () => done()));
  });
  await server.close();
}

/** The job of a first run; undefined where there are runs, or jobs that make some. */
function firstRun({ jobs, runs: store }: Server, runs: string, config: string): string | undefined {
  const { runs: known } = store.list();
  const busy = jobs
    .list()
    .find(({ kind, status }) => kind === "train" && /running|queued/.test(status));
  if (busy) return busy.id;
  if (known.length > 0) return undefined;
  const file = config === "quick-start" ? QUICK_START : config;
  return jobs.addRun(readSettings(file, { runs: resolve(runs) })).id;
}

/** The run that a job works in, once it has one. */
async function runOf(
  { jobs }: Server,
  id: string,
  signal: AbortSignal,
): Promise<string | undefined> {
  for (;;) {
    const { run, status } = jobs.get(id);
    if (run !== undefined || !/running|queued/.test(status) || signal.aborted) return run;
    await setTimeout(LOOK_MS);
  }
}

/** Shows how far a job is until it ends. */
async function follow({ jobs }: Server, id: string, terminal: Terminal, signal: AbortSignal) {
  let shown: { label: string; progress: Progress } | undefined;
  for (; !signal.aborted; await setTimeout(LOOK_MS)) {
    const { state, status, exit } = jobs.get(id);
    const now = state?.progress;
    if (now && now.label !== shown?.label) {
      shown?.progress.end();
      const { label, unit, total, done } = now;
      shown = {
        label,
        progress: new Progress({ label, unit, total, start: done, quiet: terminal.quiet }),
      };
    }
    if (now) shown!.progress.update(now.done, now.detail);
    if (/running|queued/.test(status)) continue;
    shown?.progress.end();
    terminal.note(
      status === "finished"
        ? "The run is finished: its features are on the page."
        : `The run ${status === "stopped" ? "was stopped" : "did not finish"}${exit?.error ? `: ${exit.error}` : ""}; it can be gone on with on the page.`,
    );
    return;
  }
}

const LOOK_MS = 250;

function openInBrowser(url: string): void {
  const [program, ...args] =
    process.platform === "darwin"
      ? ["open", url]
      : process.platform === "win32"
        ? ["cmd", "/c", "start", "", url]
        : ["xdg-open", url];
  // No browser, or none that can be found: the address was printed.
  spawn(program, args, { stdio: "ignore", detached: true })
    .on("error", () => undefined)
    .unref();
}
