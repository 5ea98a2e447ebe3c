/** The command as a process of its own, for tests. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

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
