/**
 * Kills training again and again and compares what comes out in the end with an undisturbed run:
 *
 *     npm run crash                        # every case
 *     npm run crash -- --only gated        # those whose names contain "gated"
 *     npm run crash -- --kills 10
 *
 * For each case a process trains (train.mjs) until it is killed by SIGKILL at a random moment, another
 * goes on, and so forth. The autoencoder, the last checkpoint and all metrics must be, bit for bit,
 * those of a process that nobody killed.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { hashBytes } from "../../src/file-hash.ts";
import { writeSafetensors } from "../../src/safetensors-write.ts";
import { activations, trainingCases, trainingSettings } from "../training-cases.ts";

export interface Outcome {
  /** Steps after which processes were killed, and those at which the next ones went on. */
  killedAt: number[];
  resumedAt: number[];
  /** Files that are not what they are without the kills; empty when all is well. */
  different: string[];
  files: number;
}

const STEPS = 90;

/** Writes the activations of all cases into a folder. */
export async function writeStore(folder: string): Promise<void> {
  for (const [name, { data, width }] of Object.entries(activations)) {
    await mkdir(join(folder, name), { recursive: true });
    const x = { dtype: "F32", shape: [data.length / width, width], data } as const;
    await writeSafetensors(join(folder, name, "rows.safetensors"), { x });
  }
}

/** Trains a case in `kills` processes that are killed and one that is not, and once undisturbed. */
export async function survives(
  name: string,
  { store, folder, kills }: { store: string; folder: string; kills: number },
): Promise<Outcome> {
  const [alone, killed] = [join(folder, "undisturbed"), join(folder, "killed")];
  await trainUntil(name, store, alone, Infinity);
  const killedAt: number[] = [];
  const resumedAt: number[] = [];
  for (let process = 0; process <= kills; process++) {
    // Somewhere in the next stretch of the run; a random pause lets it be in the midst of anything.
    const from = Math.floor((process * STEPS * 0.9) / kills);
    const until = Math.floor(((process + 1) * STEPS * 0.9) / kills);
    const after = process < kills ? from + Math.floor(Math.random() * (until - from)) : Infinity;
    const { begun, reached } = await trainUntil(name, store, killed, after);
    if (process > 0) resumedAt.push(begun);
    if (process < kills) killedAt.push(reached);
  }
  const [expected, found] = [await hashes(alone), await hashes(killed)];
  const names = [...new Set([...expected.keys(), ...found.keys()])];
  const different = names.filter((file) => expected.get(file) !== found.get(file));
  return { killedAt, resumedAt, different, files: names.length };
}

/**
 * A process that trains until it is through or, soon after it has reached step `after`, killed.
 * @throws Error when it ends in any other way.
 */
async function trainUntil(
  name: string,
  store: string,
  run: string,
  after: number,
): Promise<{ begun: number; reached: number }> {
  const script = fileURLToPath(new URL("./train.mjs", import.meta.url));
  const [saeSettings, ownTrain, structure] = trainingCases[name];
  const { sae, train, seed } = trainingSettings(saeSettings, {
    ...{ ...ownTrain, steps: STEPS, logEvery: 1, checkpointEvery: 7 },
  });
  const settings = JSON.stringify({ sae, train, seed, structure, store, run });
  const child = spawn(process.execPath, [script, settings], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exit = once(child, "exit") as Promise<[number | null, string | null]>;
  const steps: number[] = [];
  let killing = false;
  for await (const line of createInterface(child.stdout)) {
    steps.push(Number(line));
    if (killing || Number(line) < after) continue;
    killing = true;
    void sleep(8 * Math.random()).then(() => child.kill("SIGKILL"));
  }
  const [code, signal] = await exit;
  const asWanted = after === Infinity ? code === 0 : signal === "SIGKILL";
  if (!asWanted) throw new Error(`the process that trained ${name} ended with ${signal ?? code}`);
  return { begun: steps[0], reached: steps.at(-1)! };
}

/** Of all files in a run's folder, by their paths. */
async function hashes(folder: string): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    found.set(path.slice(folder.length + 1), await hashBytes(await readFile(path)));
  }
  return found;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      only: { type: "string", default: "" },
      kills: { type: "string", default: "2" },
    },
  });
  const kills = Number(values.kills);
  const folder = await mkdtemp(join(tmpdir(), "lens-crash-"));
  const store = join(folder, "store");
  await writeStore(store);
  const names = Object.keys(trainingCases).filter((name) => name.includes(values.only));
  const waiting = names.entries();
  let wrong = 0;
  // Two at a time: mostly they wait for processes to begin.
  const work = async () => {
    for (const [i, name] of waiting) {
      const { killedAt, resumedAt, different, files } = await survives(name, {
        ...{ store, kills },
        folder: join(folder, `${i}`),
      });
      const sentence = `killed after step ${killedAt.join(", ")}, went on after ${resumedAt.join(", ")}`;
      const verdict =
        different.length === 0 ? `${files} files the same` : `DIFFERENT: ${different.join(", ")}`;
      console.log(`${name.padEnd(52)} ${sentence.padEnd(50)} ${verdict}`);
      if (different.length > 0) wrong += 1;
    }
  };
  await Promise.all([work(), work()]);
  await rm(folder, { recursive: true });
  console.log(
    `${names.length} cases, ${kills} kills each: ${wrong === 0 ? "all as if undisturbed" : `${wrong} DIFFERENT`}`,
  );
  if (wrong > 0 || names.length === 0) process.exitCode = 1;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
