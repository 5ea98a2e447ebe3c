/**
 * One small real run, made once for all the server's tests and kept below .cache/ until what makes it is
 * built anew. Tests work on copies of it.
 */
import { createHash } from "node:crypto";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { UserError } from "../../src/error.ts";
import { lockFolder, unlockFolder } from "../../src/lock.ts";
import { startLens } from "../command.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));

/** Settings of a run on the built-in model that takes some seconds. */
export const SMALL = {
  activations: {
    ...{ from: "model", model: "builtin:tiny", data: "builtin:stories" },
    ...{ hookPoint: "blocks.2.hook_resid_post", tokens: 20_000, validationTokens: 2000 },
  },
  sae: { architecture: "topk", k: 8, dSae: 64 },
  train: { batchSize: 512, steps: 60, logEvery: 5, learningRate: 0.004 },
  features: { tokens: 10_000 },
};

/** As flags of the command line. */
export function flagsOf(settings: Record<string, Record<string, unknown>>): string[] {
  return Object.entries(settings).flatMap(([section, values]) =>
    Object.entries(values).flatMap(([name, value]) => [`--${section}.${name}`, String(value)]),
  );
}

/** The folder of the run. Test files that ask at the same time wait for the one that makes it. */
async function smallRun(): Promise<string> {
  const settings = JSON.stringify(SMALL);
  const built = readFileSync(join(root, "dist", ".built", "typescript"));
  const key = createHash("sha256").update(built).update(settings).digest("hex").slice(0, 16);
  const kept = join(root, ".cache", "server-tests");
  const folder = join(kept, key);
  mkdirSync(kept, { recursive: true });
  while (!existsSync(folder))
    try {
      lockFolder(kept);
      if (!existsSync(folder)) await make(kept, folder);
      unlockFolder(kept);
    } catch (error) {
      unlockFolder(kept);
      if (!(error instanceof UserError)) throw error;
      await setTimeout(200);
    }
  return join(folder, "run");
}

async function make(kept: string, folder: string): Promise<void> {
  for (const name of readdirSync(kept))
    if (!name.startsWith("lock")) rmSync(join(kept, name), { recursive: true, force: true });
  const draft = join(kept, "draft");
  mkdirSync(draft);
  const lens = async (...args: string[]) => {
    const { code, stdout, stderr } = await startLens(draft, ...args, "--json", "--quiet").outcome;
    if (code !== 0) throw new Error(`the tests' run could not be made:\n${stderr}`);
    return stdout;
  };
  const run = JSON.parse(await lens("run", "--name", "small", ...flagsOf(SMALL))) as {
    folder: string;
  };
  await lens("feature", "map", run.folder);
  await lens("explain", run.folder);
  renameSync(run.folder, join(draft, "run"));
  rmSync(join(draft, "runs"), { recursive: true });
  renameSync(draft, folder);
}

/** Puts a copy of the run into a runs folder. */
export async function copyRun(runs: string, id: string): Promise<string> {
  const folder = join(runs, id);
  cpSync(await smallRun(), folder, { recursive: true });
  return folder;
}
