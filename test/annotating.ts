/** Starting processes that annotate (annotating-process.ts), and watching them. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import type { Task } from "./annotating-process.ts";

export interface Annotating {
  /** Resolves when it has opened the database and waits for `go`. */
  ready: Promise<void>;
  go(): void;
  /** Kills it as kill -9 does. */
  kill(): void;
  /** What it was told is saved, as far as it has said so. */
  acknowledged: { version: number; said: string }[];
  /** Its exit code, or the signal that ended it. */
  ended: Promise<number | string>;
}

export function startAnnotating(task: Task): Annotating {
  const [script, loader] = ["annotating-process.ts", "typescript-loader.mjs"].map((name) =>
    fileURLToPath(new URL(name, import.meta.url)),
  );
  const child = spawn(process.execPath, ["--import", loader, script, JSON.stringify(task)], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const ended = once(child, "close").then(([code, signal]) => (code ?? signal) as number | string);
  const acknowledged: Annotating["acknowledged"] = [];
  const ready = new Promise<void>((resolve, reject) => {
    createInterface({ input: child.stdout }).on("line", (line) => {
      if (line === "ready") resolve();
      else acknowledged.push(JSON.parse(line) as Annotating["acknowledged"][number]);
    });
    void ended.then((how) => reject(new Error(`the process ended (${how}) before it was ready`)));
  });
  return {
    ready,
    go: () => child.stdin.write("go\n"),
    kill: () => child.kill("SIGKILL"),
    acknowledged,
    ended,
  };
}
