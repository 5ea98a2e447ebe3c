/** A `lens serve` in a process of its own, which can be killed as a real one can. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

const LENS = fileURLToPath(new URL("../../bin/lens.js", import.meta.url));

export interface Served {
  url: string;
  port: number;
  kill(): Promise<void>;
}

export async function serveRuns(runs: string, port = 0): Promise<Served> {
  const child: ChildProcess = spawn(
    process.execPath,
    [LENS, "serve", runs, "--port", String(port), "--json"],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  let said = "";
  child.stderr!.on("data", (text) => (said += String(text)));
  const url = await new Promise<string>((resolve, reject) => {
    let text = "";
    child.stdout!.on("data", (more) => {
      text += String(more);
      try {
        resolve((JSON.parse(text) as { url: string }).url);
      } catch {
        // not whole yet
      }
    });
    child.on("exit", (code) => reject(new Error(`lens serve ended with ${code}: ${said}`)));
  });
  return {
    url,
    port: Number(new URL(url).port),
    async kill() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill("SIGKILL");
      await once(child, "exit");
    },
  };
}
