/** Two runs on the activations of a model: what they share, and what `lens eval --compare` says of them. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";

import { lensIn, onHookPoint, type Made } from "./lens.ts";

const { at, json, refused } = lensIn("folder of all tests");

interface Compared {
  metrics: { metric: string; difference: { value: number }; differs: boolean }[];
  coverage: { documents: number };
  a: { circumstances: object };
  b: { circumstances: object };
  notes: string[];
}

let a: Made, b: Made;
beforeAll(async () => {
  a = await json<Made>("run", ...onHookPoint);
  b = await json<Made>("run", ...onHookPoint);
});

test("runs with the same settings share their activations and come to the same scores", () => {
  expect(readdirSync(at("runs", "activations"))).toHaveLength(1);
  expect(b.scores).toEqual(a.scores);
  expect(a.scores.ceLossRecovered).toBeLessThanOrEqual(1.5);
  expect(readdirSync(join(a.folder, "features")).sort()).toContain("index.json");
});

test("a run is compared with another one's folder, which tells of its model and hook point by itself", async () => {
  const compare = ["eval", "--compare", a.folder, join(b.folder, "sae")];
  const { metrics, coverage, ...both } = await json<Compared>(...compare);
  expect(both.b.circumstances).toEqual(both.a.circumstances);
  expect(metrics.map(({ metric }) => metric)).toContain("klRecovered");
  expect(metrics.filter(({ differs }) => differs)).toEqual([]);
  expect(coverage.documents).toBeGreaterThan(0);
});

test("runs are compared by what needs labels and by what needs none", async () => {
  const { metrics, notes } = await json<Compared>(
    ...["eval", "--compare", a.folder, b.folder, "--structure", "--supervised"],
    ...["--only", "absorption,interchange", "--supervised-tokens", "4000"],
  );
  const bits = metrics.find(({ metric }) => metric === "mdl.bits")!;
  expect(bits).toMatchObject({ difference: { value: 0 }, differs: false });
  // This model cannot read whole prompts.
  expect(notes.join("\n")).toContain("interchange: left out, the prompts take up to");
}, 120_000);

test("one alone is not compared", async () => {
  expect(await refused("eval", "--compare", a.folder)).toContain("two are compared");
});
