/** What the tests of the command share: calling it in folders of their own, and settings of short runs. */
import type { ChildProcess } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { afterAll, beforeEach, expect } from "vitest";

import { fixtureModel, startLens } from "../command.ts";

/** `lens` in a folder that is new to every test, or in one that all tests of the file or suite share. */
export function lensIn(lifetime: "folder of each test" | "folder of all tests") {
  const scratch = mkdtempSync(join(tmpdir(), "lens-cli-"));
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));
  let folder = scratch;
  let nth = 0;
  if (lifetime === "folder of each test")
    beforeEach(() => {
      folder = join(scratch, String(nth++));
      mkdirSync(folder);
    });

  /** A path in the folder. */
  const at = (...parts: string[]) => join(folder, ...parts);
  const start = (...args: string[]) => startLens(folder, ...args);
  const run = (...args: string[]) => start(...args).outcome;

  /** What is printed by a command that must succeed. */
  async function succeeded(...args: string[]): Promise<{ stdout: string; stderr: string }> {
    const { code, stdout, stderr } = await run(...args);
    expect(code, stderr).toBe(0);
    return { stdout, stderr };
  }

  /** What is printed as JSON, without a word beside it. */
  async function json<T>(...args: string[]): Promise<T> {
    const { code, stdout, stderr } = await run(...args, "--json");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    return JSON.parse(stdout) as T;
  }

  /** Runs what must be refused: one clear message, exit code 1, no stack. */
  async function refused(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await run(...args);
    expect(stderr).not.toMatch(/^\s+at /m);
    expect(stdout).toBe("");
    expect(code).toBe(1);
    return stderr;
  }

  /** The folder of the run `name`, once it has a checkpoint. */
  async function checkpointed(name: string, child: ChildProcess): Promise<string> {
    const isCheckpoint = (name: string) => name.startsWith("step");
    for (;;) {
      const ids = existsSync(at("runs")) ? readdirSync(at("runs")) : [];
      const id = ids.find((id) => id.startsWith(`${name}_`));
      const checkpoints = id ? at("runs", id, "checkpoints") : "";
      if (id && existsSync(checkpoints) && readdirSync(checkpoints).some(isCheckpoint))
        return at("runs", id);
      expect(child.exitCode).toBeNull();
      await setTimeout(5);
    }
  }

  return { at, start, run, succeeded, json, refused, checkpointed };
}

/** What a run prints as JSON. */
export interface Made {
  run: string;
  folder: string;
  scores: Record<string, number>;
}

/** The bytes of a trained autoencoder. */
export const weightsIn = (sae: string) => readFileSync(join(sae, "sae_weights.safetensors"));

/** Settings of a run that takes a second. */
export const synthetic = [
  ...["--activations.from", "synthetic", "--activations.samples", "2_000"],
  ...["--activations.validationSamples", "200", "--activations.dIn", "16"],
  ...["--activations.features", "20", "--sae.dSae", "64", "--sae.k", "4"],
  ...["--train.batchSize", "100", "--train.logEvery", "10", "--device", "reference"],
];

/** Settings of a run on the activations of a small model at one hook point. */
export const onHookPoint = [
  ...["--activations.model", fixtureModel, "--activations.hookPoint", "blocks.0.hook_resid_post"],
  ...["--activations.tokens", "3000", "--activations.validationTokens", "500"],
  ...["--sae.dSae", "64", "--sae.k", "4", "--train.batchSize", "256", "--train.steps", "100"],
  ...["--features.tokens", "600", "--device", "reference"],
];

/** Settings of a run on the activations of a small model, and of one more hook point of it. */
export const onModel = [
  ...["--activations.model", fixtureModel, "--activations.tokens", "2000"],
  ...["--activations.validationTokens", "300", "--activations.contextLength", "32"],
];
export const small = ["--sae.dSae", "64", "--sae.k", "4", "--train.batchSize", "128"];
export const structures = {
  transcoder: [
    ...["--activations.hookPoint", "blocks.0.hook_resid_mid"],
    ...["--activations.targetHookPoint", "blocks.0.hook_mlp_out"],
  ],
  "skip transcoder": [
    ...["--activations.hookPoint", "blocks.0.hook_resid_mid", "--sae.skip"],
    ...["--activations.targetHookPoint", "blocks.0.mlp.hook_post"],
    ...["--sae.architecture", "batchTopk", "--sae.normalizeActivations", "whitening"],
  ],
  crosscoder: ["--activations.hookPoints", "blocks.0.hook_resid_*"],
};
