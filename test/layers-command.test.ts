/** `lens layers` as a person uses it: checkpoints of a run, a sweep over hook points, and what cannot be compared. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";

import type { ConceptCourse } from "../src/analysis/concept-layers.ts";
import type { CosineMatch } from "../src/analysis/directions.ts";
import type { Matching } from "../src/analysis/matching.ts";
import { Rng } from "../src/rng.ts";
import { fixtureModel, startLens } from "./command.ts";

const folder = mkdtempSync(join(tmpdir(), "lens-layers-"));
const run = (...args: string[]) => startLens(folder, ...args).outcome;
/** One of each hook point, trained by one sweep. */
let runs: string[] = [];

interface Compared {
  autoencoders: { name: string; hookPoints: string | string[] }[];
  steps: (Matching & { from: string; to: string; decoders?: CosineMatch })[];
  concepts: ConceptCourse[];
}

beforeAll(async () => {
  const rng = new Rng(3);
  const one = (words: string[]) => words[rng.int(words.length)];
  const lines = Array.from({ length: 1200 }, () => {
    const start = "Then a ";
    const animal = one(["dog", "cat", "owl"]);
    const span = { concept: "animal", start: start.length, end: start.length + animal.length };
    const text = `${start}${animal} ${one(["saw", "ate", "met"])} ${one(["me", "rain", "snow"])}.`;
    return JSON.stringify({ text, spans: [span] });
  });
  writeFileSync(join(folder, "text.jsonl"), lines.join("\n"));
  const config = {
    activations: { from: "model", model: fixtureModel, data: "text.jsonl", tokens: 2000 },
    sae: { dSae: 32, k: 4 },
    train: { batchSize: 128, steps: 40, checkpointEvery: 20 },
    sweep: {
      "activations.hookPoint": ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"],
    },
  };
  writeFileSync(join(folder, "sweep.json"), JSON.stringify(config));
  const flags = ["--activations.validationTokens", "300", "--device", "reference", "--json"];
  const { code, stdout, stderr } = await run("train", "--sweep", "sweep.json", ...flags);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  ({ runs } = JSON.parse(stdout) as { runs: string[] });
}, 60_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("two checkpoints of a run are mostly the same features, in the same space", async () => {
  const checkpoints = ["20", "40"].map((step) => join(runs[0], "checkpoints", `step-000000${step}`)); // prettier-ignore
  const flags = ["--tokens", "1500", "--out", "compared", "--json"];
  const { code, stdout, stderr } = await run("layers", ...checkpoints, ...flags);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const { steps, autoencoders } = JSON.parse(stdout) as Compared;
  expect(autoencoders.map(({ name }) => name)).toEqual(["step-00000020", "step-00000040"]);
  const [{ from, to, a, oneToOne, decoders }] = steps;
  expect({ from, to, latents: a.length }).toEqual({ from: "step-00000020", to: "step-00000040", latents: 32 }); // prettier-ignore
  const shared = a.filter(({ kind }) => kind === "shared");
  expect(shared.length).toBeGreaterThan(16);
  expect(shared.filter(({ latent, partner }) => latent === partner)).toHaveLength(shared.length);
  expect(oneToOne.mean).toBeGreaterThan(0.7);
  expect(decoders!.mean).toBeGreaterThan(decoders!.null.mean + 0.3);
  expect(JSON.parse(readFileSync(join(folder, "compared", "layers.json"), "utf8"))).toEqual(JSON.parse(stdout)); // prettier-ignore
});

test("the runs of a sweep over hook points are told apart by them, and concepts are followed along", async () => {
  const { code, stdout, stderr } = await run("layers", ...runs, "--tokens", "1500");
  expect(code, stderr).toBe(0);
  expect(stdout).toMatch(/^0 resid_post → 1 resid_post +\d+ \(\d+\) /m);
  expect(stdout).toContain("1 concepts. appear: the first hook point with AUC ≥ 0.95");
  const stored = JSON.parse(readFileSync(join(runs[1], "layers", "layers.json"), "utf8")) as Compared; // prettier-ignore
  expect(stored.autoencoders.map(({ name }) => name)).toEqual([
    ...["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"],
  ]);
  const [{ concept, at }] = stored.concepts;
  expect({ concept, places: at.length }).toEqual({ concept: "animal", places: 2 });
  expect(existsSync(join(runs[1], "layers", "concepts.png"))).toBe(true);
});

test("what cannot be compared is refused with the reason", async () => {
  const refused = async (...args: string[]) => {
    const { code, stdout, stderr } = await run("layers", ...args);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).not.toMatch(/^\s+at /m);
    return stderr;
  };
  const [first, second] = runs;
  const missing = join(first, "checkpoints", "step-00000030");
  const messages = await Promise.all([
    refused(first, missing),
    refused(first, second, "--tokens", "many"),
    refused(first, second, "--shared", "1.5"),
  ]);
  expect(messages[0]).toContain("step-00000030");
  expect(messages[1]).toContain("tokens must be a number; got many");
  expect(messages[2]).toContain("lost must be below shared, which is at most 1; got 0.3 and 1.5");
});
