/** Runs from beginning to end, and training on activations that were collected before. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

import { readMetrics } from "../../src/runs.ts";
import { fixtureModel } from "../command.ts";
import { lensIn, onModel, small, structures, synthetic, weightsIn, type Made } from "./lens.ts";

const { at, succeeded, json, refused } = lensIn("folder of each test");

test("lens run goes the whole path, and the commands after it find it", async () => {
  writeFileSync(at("a.yaml"), "name: first\ntrain: { epochs: 2 }\n");
  writeFileSync(at("b.json"), '{ "name": "second", "train": { "epochs": 3 } }');
  const outcomes = await json<Made[]>("run", "a.yaml", "b.json", ...synthetic);
  expect(outcomes.map((o) => o.run.replace(/_.*/, ""))).toEqual(["first", "second"]);
  expect(outcomes[1].scores.l0).toBeLessThanOrEqual(4);
  expect(outcomes[1].scores.fvu).toBeLessThan(1);
  expect(readdirSync(outcomes[0].folder).sort()).toEqual([
    ...["checkpoints", "config.json", "evaluation.json", "metrics.jsonl", "plots"],
    ...["report.html", "results.jsonl", "sae", "summary.json"],
  ]);
  // 20 steps an epoch, metrics every 10
  expect(readMetrics(outcomes[1].folder).map((m) => m.step)).toEqual([10, 20, 30, 40, 50, 60]);

  const list = await succeeded("runs", "list");
  expect(list.stdout.match(/finished/g)).toHaveLength(2);
  const compared = await json<Record<string, object>>("runs", "compare", "first", "second");
  const { config, metrics } = compared;
  expect(config).toEqual({ name: ["first", "second"], "train.epochs": [2, 3] });
  expect(metrics).toMatchObject({ fvu: outcomes.map((o) => o.scores.fvu) });
  const shown = await succeeded("runs", "show", "second");
  expect(shown.stdout).toContain('"dSae": 64');

  // A run's own config.json is a config.
  const again = await json("config", "show", join(outcomes[0].folder, "config.json"));
  expect(again).toMatchObject({ name: "first", sae: { k: 4, dSae: 64 } });

  const { scores } = await json<Pick<Made, "scores">>("eval", "second");
  expect(scores.fvu).toBeCloseTo(outcomes[1].scores.fvu, 5);
  const exported = await succeeded("export", "first", "--out", "sae.pt");
  expect(exported.stdout).toContain('torch.load("sae.pt", weights_only=True)');
  // A PyTorch file is a zip archive.
  expect(readFileSync(at("sae.pt")).subarray(0, 2).toString()).toBe("PK");
}, 120_000);

test("what lens collect puts where it thinks best, lens train finds by the same settings", async () => {
  const flags = ["--model", fixtureModel, "--hookPoint", "blocks.0.hook_resid_mid"];
  const rest = ["--validationTokens", "300", "--contextLength", "32"];
  const { out, rows } = await json<{ out: string; rows: number }>(
    ...["collect", ...flags, ...rest, "--tokens", "2000"],
  );
  expect(rows).toBe(2000);
  const { stderr } = await succeeded(
    ...["train", ...flags, ...rest, "--activations.tokens", "2000", ...small, "--steps", "5"],
  );
  expect(stderr).toContain(`activations (train): 2,000 found in ${out}\n`);
}, 60_000);

test("lens train takes stores that were collected before, and from folders side by side", async () => {
  const collected = (out: string, ...flags: string[]) =>
    succeeded("collect", "--out", out, ...onModel, ...flags);
  const both = await collected("both", ...structures.transcoder);
  expect(both.stderr).toContain(
    "--activations.path both --activations.hookPoint blocks.0.hook_resid_mid --activations.targetHookPoint blocks.0.hook_mlp_out",
  );
  await collected("x", "--activations.hookPoint", "blocks.0.hook_resid_mid");
  await collected("y", "--activations.hookPoint", "blocks.0.hook_mlp_out");
  await collected("z", "--activations.hookPoint", "blocks.0.hook_mlp_out", "--activations.bos", "row"); // prettier-ignore
  const fromFolder = ["--activations.from", "folder", ...small, "--train.steps", "5"];
  const train = async (...flags: string[]) => {
    const made = await json<{ sae: string }>("train", ...fromFolder, ...flags);
    return weightsIn(made.sae);
  };
  const one = await train("--activations.path", "both", ...structures.transcoder);
  const two = await train("--activations.path", "x", "--activations.targetPath", "y");
  expect(two.equals(one)).toBe(true);
  const joined = await train("--activations.path", "x", "--activations.joinPaths", "y");
  const patterns = ["--activations.hookPoints", "*.hook_resid_mid,*.hook_mlp_out"];
  expect((await train("--activations.path", "both", ...patterns)).equals(joined)).toBe(true);
  const message = await refused(
    ...["train", ...fromFolder, "--activations.path", "x", "--activations.targetPath", "z"],
  );
  expect(message).toMatch(/x and z: .* must come from the same tokens/);
}, 120_000);
