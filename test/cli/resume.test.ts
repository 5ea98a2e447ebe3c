/** A run that was stopped is gone on with to the same end as one that was not. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

import { readMetrics, readRun } from "../../src/runs.ts";
import { lensIn, onModel, small, structures, synthetic, weightsIn, type Made } from "./lens.ts";

const { at, start, succeeded, json, checkpointed } = lensIn("folder of each test");

/** Goes on with a run that was stopped, to the very weights and metrics of one that was not. */
async function isResumed(stopped: string, whole: string): Promise<void> {
  expect(existsSync(join(stopped, "sae"))).toBe(false);
  const { stderr } = await succeeded("train", "--resume", stopped);
  expect(stderr).toContain("going on after step");
  const [resumed, undisturbed] = [stopped, whole].map((folder) => weightsIn(join(folder, "sae")));
  expect(resumed.equals(undisturbed)).toBe(true);
  expect(readMetrics(stopped)).toEqual(readMetrics(whole));
}

test("a run that is interrupted by Ctrl-C or killed is resumed to the very same weights and metrics", async () => {
  const settings = [...synthetic, "--train.steps", "600", "--train.checkpointEvery", "50"];
  const whole = await json<Made>("train", "--name", "whole", ...settings);
  for (const signal of ["SIGINT", "SIGKILL"] as const) {
    const { child, outcome } = start("train", "--name", signal, ...settings);
    const stopped = await checkpointed(signal, child);
    child.kill(signal);
    const { code, stderr } = await outcome;
    expect(readRun(stopped).status).toBe("interrupted");
    if (signal === "SIGINT") {
      expect(code).toBe(130);
      expect(stderr).toContain(`lens.js train --resume ${join("runs", readRun(stopped).id)}`);
    }
    await isResumed(stopped, whole.folder);
  }
}, 180_000);

test.each(Object.entries(structures))(
  "a run of a %s that is killed is resumed to the very same weights and metrics",
  async (_, settings) => {
    const budget = ["--train.steps", "200", "--train.checkpointEvery", "20"];
    const all = [...onModel, ...small, ...settings, ...budget];
    const whole = await json<Made>("train", "--name", "whole", ...all);
    const { child, outcome } = start("train", "--name", "killed", ...all);
    const stopped = await checkpointed("killed", child);
    child.kill("SIGKILL");
    await outcome;
    await isResumed(stopped, whole.folder);
  },
  120_000,
);

test("a run straight from the model stores no activations and is that of a store mixed in windows, also when it is killed", async () => {
  const budget = ["--train.steps", "120", "--train.checkpointEvery", "20"];
  const all = [...onModel, ...small, ...budget, "--train.bufferRows", "500"];
  const fly = [...all, "--activations.onTheFly"];
  const whole = await json<Made>("train", "--name", "whole", ...fly);
  const { child, outcome } = start("train", "--name", "killed", ...fly);
  const stopped = await checkpointed("killed", child);
  child.kill("SIGKILL");
  await outcome;
  await isResumed(stopped, whole.folder);
  expect(existsSync(at("runs", "activations"))).toBe(false);

  const stored = await json<Made>("train", ...all, "--train.mixing", "window");
  expect(weightsIn(join(stored.folder, "sae")).equals(weightsIn(join(whole.folder, "sae")))).toBe(
    true,
  );
  const details = ["cfg.json", "metadata.json"].map((name) =>
    [stored, whole].map(({ folder }) => {
      const text = readFileSync(join(folder, "sae", name), "utf8");
      const { provenance: _, trainingConfig: __, ...rest } = JSON.parse(text) as Record<string, unknown>; // prettier-ignore
      return rest;
    }),
  );
  for (const [of, and] of details) expect(and).toEqual(of);
}, 180_000);
