/** The command as a process of its own, for tests; `lens serve` too, which can be killed as a real one can. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

import { PATIENCE_MS } from "./patience.ts";

const lens = fileURLToPath(new URL("../bin/lens.js", import.meta.url));

/** The small language model of the tests. */
export const fixtureModel = fileURLToPath(new URL("fixtures/gpt2-tiny/f32", import.meta.url));

export interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** `lens` with these arguments in a folder; `outcome` when it has ended. */
export function startLens(
  folder: string,
  ...args: string[]
): { child: ChildProcess; outcome: Promise<Outcome> } {
  const child = spawn(process.execPath, [lens, ...args], { cwd: folder });
  const texts = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const)
    child[name].setEncoding("utf8").on("data", (text: string) => (texts[name] += text));
  const outcome = once(child, "close").then(([code]) => ({ code: code as number, ...texts }));
  return { child, outcome };
}

export interface Served {
  url: string;
  port: number;
  child: ChildProcess;
  /** Ends it with no chance to say anything; nothing when it has ended. */
  kill(): Promise<void>;
}

/** `lens serve` on a runs folder, once it listens; an error where it ends or is silent instead. */
export async function serveLens(runs: string, port = 0): Promise<Served> {
  const flags = ["--port", String(port), "--json", "--quiet"];
  const { child, outcome } = startLens(process.cwd(), "serve", runs, ...flags);
  const patience = setTimeout(() => child.kill("SIGKILL"), PATIENCE_MS);
  const address = await new Promise<{ url: string; port: number }>((resolve, reject) => {
    let said = "";
    child.stdout!.on("data", (text: string) => {
      said += text;
      try {
        resolve(JSON.parse(said) as { url: string; port: number });
      } catch {
        // not whole yet
      }
    });
    void outcome.then(({ code, stderr }) =>
      reject(new Error(`lens serve ended with ${code}: ${stderr}`)),
    );
  });
  clearTimeout(patience);
  return {
    ...address,
    child,
    async kill() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const gone = once(child, "exit");
      child.kill("SIGKILL");
      await gone;
    },
  };
}
