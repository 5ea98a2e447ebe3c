/** `lens steer`: the model writes on, as it is and with latents changed. */
import { beforeAll, expect, test } from "vitest";

import { lensIn, onHookPoint } from "./lens.ts";

const { json, refused } = lensIn("folder of all tests");

beforeAll(() => json("run", ...onHookPoint));

interface Text {
  text: string;
  tokens: unknown[];
}
interface Steered {
  prompt: string;
  edits: { latent: number; kind: string; value: number }[];
  default: Text;
  steered: Text;
}
const steer = (...flags: string[]) =>
  json<Steered>("steer", "--tokens", "8", ...flags, "One", "day");

test("a change of nothing changes nothing, and a large one the text", async () => {
  const same = await steer("--scale", "3=1");
  expect(same.steered).toEqual(same.default);
  expect(same.default.tokens).toHaveLength(8);
  const other = await steer("--add", "3=500");
  expect(other.default).toEqual(same.default);
  expect(other.steered.text).not.toBe(same.default.text);
});

test("several changes are made at once", async () => {
  const several = await steer("--set", "5=2", "--ablate", "1,2", "--set", "6=1,7=0");
  expect(several.prompt).toBe("One day");
  expect(several.edits).toEqual([
    ...[5, 6, 7].map((latent, i) => ({ latent, kind: "set", value: [2, 1, 0][i] })),
    ...[1, 2].map((latent) => ({ latent, kind: "ablate" })),
  ]);
});

test("latents that are found for a concept are changed together, each by as much", async () => {
  const byEffect = ["steer", "--find", "animal.fox", "--by", "effect", "--tokens", "5"];
  const { edits } = await json<Steered>(...byEffect, "--together", "4");
  expect([1, 2, 4]).toContain(edits.length);
  expect(new Set(edits.map(({ latent }) => latent)).size).toBe(edits.length);
  expect(new Set(edits.map(({ value }) => value)).size).toBe(1);
  expect(await refused(...byEffect, "--together", "0")).toContain(
    "together must be a whole number of latents, at least 1; got 0",
  );
});

test("a latent, a concept or a way to find it that does not exist is refused", async () => {
  expect(await refused("steer", "--ablate", "100000")).toContain(
    "latent must be a whole number from 0 to",
  );
  expect(await refused("steer", "--find", "animal.dgo", "--by", "effect")).toContain(
    "there is no concept animal.dgo; did you mean animal.dog?",
  );
  expect(await refused("steer", "--find", "animal.dog", "--by", "magic")).toContain(
    "by must be meaning or effect; got magic",
  );
});
