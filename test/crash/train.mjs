/**
 * Trains as `lens train --resume` would: from activations on disk, with checkpoints and metrics.jsonl,
 * going on where an earlier process ended. Says where it begins and after every step how far it is.
 * Argument: JSON of { sae, train, seed, structure, store, run }; `store` is a folder of folders.
 * Plain JavaScript over what is built, so that a process begins at once.
 */
import { appendFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

import {
  joinedSource,
  latestCheckpoint,
  openActivations,
  openDevice,
  pairedSource,
  saveSae,
  Trainer,
  writeCheckpoint,
} from "../../dist/index.js";

const { sae, train, seed, structure, store, run } = JSON.parse(process.argv[2]);
const [inputs, targets, others] = await Promise.all(
  ["inputs", "targets", "others"].map((name) => openActivations(join(store, name))),
);
const source =
  structure === "transcoder"
    ? pairedSource(inputs, targets)
    : structure === "crosscoder"
      ? joinedSource([inputs, others])
      : inputs;
const settings = { sae, train, seed, source };
const [checkpoints, log] = [join(run, "checkpoints"), join(run, "metrics.jsonl")];
await mkdir(run, { recursive: true });
const device = await openDevice("cpu", { threads: 2 });
const last = await latestCheckpoint(checkpoints);
const trainer = last
  ? Trainer.resume(device, settings, last.state)
  : await Trainer.create(device, settings);
// What was logged after the checkpoint will be logged again; the last line may be torn.
const lines = (await readFile(log, "utf8").catch(() => "")).split("\n");
await writeFile(
  log,
  lines
    .slice(0, trainer.step)
    .map((line) => `${line}\n`)
    .join(""),
);
const say = (step) => process.stdout.write(`${step}\n`);
say(trainer.step);
const saveCheckpoint = async (state) => void (await writeCheckpoint(checkpoints, state, 2));
for await (const metrics of trainer.fit({ saveCheckpoint })) {
  await appendFile(log, `${JSON.stringify(metrics)}\n`);
  say(metrics.step);
}
await saveSae(join(run, "sae"), await trainer.sae());
trainer.close();
await device.close();
