/** A run on int8 weights: its model is loaded so wherever the run is looked at again. */
import { existsSync, readdirSync, rmSync } from "node:fs";
import { beforeAll, expect, test, vi } from "vitest";

import { fixtureModel } from "../command.ts";
import { lensIn, onHookPoint, type Made } from "./lens.ts";

const { at, json, succeeded, refused } = lensIn("folder of all tests");
let plain = "";
let int8 = "";
beforeAll(async () => {
  vi.stubEnv("XDG_CACHE_HOME", at("cache"));
  ({ folder: plain } = await json<Made>("run", ...onHookPoint, "--name", "plain"));
  const flags = [...onHookPoint, "--activations.modelWeights", "int8", "--name", "int8"];
  ({ folder: int8 } = await json<Made>("run", ...flags));
});

/** Whether the command makes the integers that were taken away. */
async function usesIntegers(...args: string[]): Promise<{ isSo: boolean; stderr: string }> {
  rmSync(at("cache"), { recursive: true, force: true });
  const { stderr } = await succeeded(...args);
  const folder = at("cache", "latent-lens", "int8");
  return { isSo: existsSync(folder) && readdirSync(folder).some((name) => name.endsWith(".bin")), stderr }; // prettier-ignore
}

test("layers of int8 runs are compared in the int8 model; what differs from the first is said", async () => {
  const layers = (...runs: string[]) => usesIntegers("layers", ...runs, "--tokens", "3000");
  const mixed = await layers(plain, int8);
  expect(mixed.isSo).toBe(false);
  expect(mixed.stderr).toMatch(/loaded as .*plain.*\(weights checkpoint, device cpu\); .*int8/);
  const same = await layers(int8, int8);
  expect(same.isSo).toBe(true);
  expect(same.stderr).not.toContain("made otherwise");
});

test("a comparison measures each run in the model as it had it", async () => {
  expect((await usesIntegers("eval", "--compare", plain, int8)).isSo).toBe(true);
  expect((await usesIntegers("eval", "--compare", plain, plain)).isSo).toBe(false);
});

test("text is generated with int8 weights when asked for", async () => {
  const generate = ["generate", "Once", "--tokens", "2", "--model", fixtureModel];
  expect((await usesIntegers(...generate)).isSo).toBe(false);
  expect((await usesIntegers(...generate, "--weights", "int8")).isSo).toBe(true);
  expect(await refused(...generate, "--weights", "int4")).toContain("got int4");
});
