/** `lens models`: what a model is before anything big of it is loaded. */
import { cpSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";

import { describeModel, listCachedModels } from "../../src/model/describe.ts";
import { fixtureModel } from "../command.ts";
import { families, familyFixture } from "../family-fixture.ts";
import { commitOf, filesOf, useHub } from "../hub/hub-server.ts";
import { loadModel } from "../../src/model/model.ts";
import { lensIn, onHookPoint } from "./lens.ts";

const { at, succeeded, json, refused } = lensIn("folder of each test");
const place = useHub();

interface Described {
  family: string;
  parameters: number;
  hookPoints: { name: string; width: number }[];
}

test("lens models says what the built-in model is, and what to do with it", async () => {
  const { stdout, stderr } = await succeeded("models", "builtin:tiny");
  expect(stdout).toContain("gpt2 (model_type of config.json)");
  expect(stdout).toMatch(/parameters +3,749,376\n/);
  expect(stdout).toMatch(/weights +7.5 MB on disk, F16\n/);
  expect(stdout).toMatch(/blocks\.N\.mlp\.hook_post +1024 +2\.05 GB\n/);
  expect(stderr.match(/Next: /g)).toHaveLength(1);
  expect(stderr).toContain("run --activations.model builtin:tiny");
});

test("several models are described as they load", async () => {
  const described = await json<Described[]>("models", fixtureModel, "builtin:tiny");
  expect(described.map(({ family }) => family)).toEqual(["gpt2", "gpt2"]);
  for (const [i, source] of [fixtureModel, "builtin:tiny"].entries()) {
    const model = await loadModel(source);
    const { parameters, hookPoints } = described[i];
    expect(parameters).toBe(model.info.parameters);
    expect(hookPoints.map(({ name }) => name)).toEqual(model.hookPoints());
    expect(hookPoints.every(({ name, width }) => model.hookWidth(name) === width)).toBe(true);
    await model.close();
  }
});

test("with --hook-points every point of every layer is listed", async () => {
  const { stdout } = await succeeded("models", fixtureModel, "--hook-points");
  for (const layer of [0, 1, 2]) expect(stdout).toContain(`blocks.${layer}.hook_resid_mid `);
});

test("what a token costs is counted from the shapes", async () => {
  const { flopsPerToken, length } = await describeModel(fixtureModel);
  expect(length).toBe(64);
  // 3 layers: 4 matrices of attention [40, 40], 2 of the MLP [40, 96]; scores and sums over 64 positions of 40.
  expect(flopsPerToken).toBe(3 * (2 * (4 * 40 * 40 + 2 * 40 * 96) + 4 * 40 * 64));
});

test("an architecture that is not supported is refused with the field and those that are", async () => {
  mkdirSync(at("other"));
  writeFileSync(at("other", "config.json"), JSON.stringify({ model_type: "mamba" }));
  const said = await refused("models", "other");
  expect(said).toMatch(/model_type \("mamba"\) is not a supported family.*gpt2, .*gemma3/);
});

test("a wrapped model is known by the field of its text model", async () => {
  const wrapped = families.includes("gemma3_text") ? familyFixture("gemma3_text") : fixtureModel;
  cpSync(wrapped, at("wrapped"), { recursive: true });
  const { default: config } = (await import(join(wrapped, "config.json"), {
    with: { type: "json" },
  })) as { default: object };
  const outer = { model_type: "gemma3", text_config: config };
  writeFileSync(at("wrapped", "config.json"), JSON.stringify(outer));
  const described = await describeModel(at("wrapped"));
  expect(described).toMatchObject({ family: "gemma3_text", familyField: "text_config.model_type" });
});

test("of a model on the hub only the configuration and the headers are read, and nothing is kept", async () => {
  const files = filesOf(fixtureModel);
  place.hub.repos.set("models/owner/tiny", { commit: commitOf("first"), files });
  const described = await describeModel("owner/tiny");
  const local = await describeModel(fixtureModel);
  expect(described).toEqual({
    ...{ ...local, source: "owner/tiny", folder: null, commit: commitOf("first") },
  });
  const asked = place.hub.fetched();
  expect(new Set(asked.map(({ path }) => path.split("/").at(-1)))).not.toContain("tokenizer.json");
  const weights = asked.filter(({ at, range }) => at === "cdn" || range !== undefined);
  expect(weights.length).toBeGreaterThan(0);
  expect(weights.every(({ range }) => /^bytes=\d+-\d+$/.test(range ?? ""))).toBe(true);
  expect(await listCachedModels()).toEqual([]);
});

test("a hub that sends whole files when a part is asked for is refused", async () => {
  const files = filesOf(fixtureModel);
  place.hub.repos.set("models/owner/tiny", { commit: commitOf("first"), files });
  place.hub.fault = (file) => (file.endsWith(".safetensors") ? { ignoresRange: true } : undefined);
  await expect(describeModel("owner/tiny")).rejects.toThrow("the server sends whole files only");
});

test("the cache's models are listed, with the reason for those that cannot be used", async () => {
  place.hub.repos.set("models/owner/tiny", { commit: commitOf("first"), files: filesOf(fixtureModel) }); // prettier-ignore
  const model = await loadModel("owner/tiny");
  const folder = dirname(dirname(dirname(model.info.folder)));
  await model.close();
  const other = join(folder, "models--owner--mamba", "snapshots", commitOf("other"));
  mkdirSync(other, { recursive: true });
  writeFileSync(join(other, "config.json"), JSON.stringify({ model_type: "mamba" }));
  const listed = await listCachedModels();
  expect(listed).toMatchObject([
    { source: `owner/mamba@${commitOf("other")}`, family: null },
    { source: "owner/tiny", commit: commitOf("first"), family: "gpt2", problem: null },
  ]);
  expect(listed[0].problem).toContain("is not a supported family");
  expect(listed[1].bytes).toBeGreaterThan(100_000);
});

test("with --weights int8 less memory is needed, and what it changes is measured", async () => {
  const settings = ["builtin:tiny", "--weights", "int8"];
  const { stdout, stderr } = await succeeded("models", ...settings);
  expect(stdout).toMatch(
    /accuracy +int8 weights: loss \d+\.\d+ -> \d+\.\d+ nats per token .*blocks\.2\.hook_resid_post differs by \d/,
  );
  expect(stderr).toContain("--activations.modelWeights int8");
  const [full, int8] = [await describeModel("builtin:tiny"), await describeModel("builtin:tiny", { weights: "int8" })]; // prettier-ignore
  expect(full.memory - int8.memory).toBe(3 * 4 * (4 * 256 * 256 + 2 * 256 * 1024));
  expect(await refused("models", "builtin:tiny", "--weights", "int4")).toContain(
    "--weights must be checkpoint or int8; got int4",
  );
});

test("a run with int8 weights says what they change and has a store of its own", async () => {
  const settings = onHookPoint.filter((_, i) => ![onHookPoint.indexOf("--features.tokens"), onHookPoint.indexOf("--features.tokens") + 1].includes(i)); // prettier-ignore
  const args = ["train", ...settings, "--train.steps", "5"];
  const first = await succeeded(...args);
  expect(first.stderr).not.toContain("int8");
  const second = await succeeded(...args, "--activations.modelWeights", "int8");
  expect(second.stderr).toMatch(/int8 weights: loss .*blocks\.0\.hook_resid_post differs by/);
  expect(readdirSync(at("runs", "activations"))).toHaveLength(2);
});
