/** `lens serve`: the dashboard in a browser. */
import { spawn } from "node:child_process";
import type { Command } from "commander";

import { UserError } from "../error.ts";
import { numberOf } from "./generate.ts";
import { interruptible } from "./interrupt.ts";
import { Terminal } from "./terminal.ts";

interface Options {
  host: string;
  port: string;
  allowHost?: string[];
  database?: string;
  jobs: string;
  open?: boolean;
  quiet?: boolean;
  json?: boolean;
}

export function define(command: Command): void {
  command
    .argument("[runs]", "the folder that holds the run folders", "runs")
    .description(
      "Show runs, training and features in a web browser, start and stop runs there, label features " +
        "and steer. Listens on this machine only, unless --host says otherwise; then a token is needed, " +
        "which is part of the address printed (LENS_TOKEN sets it).",
    )
    .option("--host <address>", "address to listen on", "127.0.0.1")
    .option("--port <integer>", "port; 0: any that is free", "7171")
    .option(
      "--allow-host <name...>",
      "further host names to answer to, behind a proxy for instance",
    )
    .option(
      "--database <setting>",
      "where labels are kept: a SQLite file or postgres://…; absent: LENS_DATABASE, or a file in the runs folder",
    )
    .option("--jobs <integer>", "jobs that run at the same time", "1")
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
    ...(options.allowHost && { allowHosts: options.allowHost }),
    ...(process.env.LENS_TOKEN && { token: process.env.LENS_TOKEN }),
    ...(database && { database }),
  });
  terminal.result({ url: server.url, port: server.port }, server.url);
  if (!server.hasPage)
    terminal.note("the page is not built, so only the API is here: npm run build makes it");
  terminal.note("Open it in a browser; Ctrl-C ends it (jobs go on).");
  if (options.open) openInBrowser(server.url);
  await interruptible(
    (signal) => new Promise<void>((done) => signal.addEventListener("abort", () => done())),
  );
  await server.close();
}

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
