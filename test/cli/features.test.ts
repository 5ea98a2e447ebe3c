/** What is found out about the latents of one run: each by itself, all together, and by what they do. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, onTestFinished, test } from "vitest";

import type { Ablation } from "../../src/analysis/ablate.ts";
import type { ConceptAlignment } from "../../src/analysis/concept-alignment.ts";
import type { Composed } from "../../src/cli/compose-text.ts";
import type { FeatureView } from "../../src/cli/feature-text.ts";
import { lensIn, onHookPoint, type Made } from "./lens.ts";

const { at, succeeded, json, refused } = lensIn("folder of all tests");

/** The folder of the run that all tests look at. */
let made = "";
beforeAll(async () => {
  ({ folder: made } = await json<Made>("run", ...onHookPoint));
});

test("lens features looks latents up again, with other settings", async () => {
  const { stdout } = await succeeded("features", "latest", "--features.gallery", "3");
  expect(stdout).toContain("report: file://");
});

test("lens feature shows one latent in full, and says the same in both forms of output", async () => {
  const flags = ["feature", "3", "--logits", "raw"];
  const view = await json<FeatureView>(...flags, "--text", "Once upon");
  expect(view).toMatchObject({ dSae: 64, feature: { latent: 3 }, logits: { form: "raw" } });
  expect(view.text!.pieces.join("")).toBe("Once upon");
  const asText = await succeeded(...flags, "--top", "2");
  expect(asText.stdout).toContain(JSON.stringify(view.logits!.top[0].text));
  const [{ latent: near }] = view.neighbors.decoder.nearest;
  expect(asText.stdout).toMatch(new RegExp(`^ +${near} +0\\.\\d{3} `, "m"));
  expect(asText.stderr).toContain("Next: ");
  expect(asText.stderr).toContain("feature map");
});

test("lens feature map shows all of them; afterwards one shows what it fires with", async () => {
  expect((await json<FeatureView>("feature", "3")).coActivation).toBeUndefined();
  const { stdout } = await succeeded("feature", "map");
  expect(stdout).toMatch(/^decoder directions +\d+ /m);
  expect(stdout).toMatch(/^split: \d+ of /m);
  const files = readdirSync(join(made, "features", "map"));
  expect(files).toEqual(expect.arrayContaining(["map.json", "map-decoder.png"]));
  const { coActivation } = await json<FeatureView>("feature", "3");
  expect(Object.keys(coActivation!)).toEqual(["pmi", "jaccard", "phi"]);
});

test("a latent or a form of logits that does not exist is refused", async () => {
  const beyond = "latent must be a whole number from 0 to 63; got 64";
  expect(await refused("feature", "64")).toBe(`error: ${beyond}\n`);
  expect(await refused("ablate", "64")).toContain(beyond);
  expect(await refused("compose", "--latent", "64")).toContain(beyond);
  expect(await refused("feature", "3", "--logits", "centered")).toContain(
    "got centered. Did you mean centred?",
  );
});

test("lens concepts holds latents against the concepts of the run's own held-out text", async () => {
  const alignment = await json<ConceptAlignment & { folder: string }>(
    ...["concepts", "--tokens", "2000"],
  );
  expect(alignment.concepts.length).toBeGreaterThan(5);
  for (const file of ["concepts.json", "concepts.svg", "concepts.png"])
    expect(existsSync(join(alignment.folder, file))).toBe(true);
});

test("lens concepts refuses labels beside their text, and no number of tokens", async () => {
  const span = { concept: "dog", start: 4, end: 9 };
  const lines = [
    { text: "A cat.", spans: [] },
    { text: "A dog.", spans: [span] },
  ];
  writeFileSync(at("labels.jsonl"), lines.map((line) => JSON.stringify(line)).join("\n"));
  expect(await refused("concepts", "--labels", "labels.jsonl")).toContain(
    `labels.jsonl, line 2: span ${JSON.stringify(span)} is not {concept, start, end} inside a text of 6 characters`,
  );
  expect(await refused("concepts", "--tokens", "some")).toContain(
    "--tokens must be a whole number above 0; got some",
  );
});

test("lens ablate removes latents on held-out text", async () => {
  const { latents } = await json<Ablation>("ablate", "3,5", "--tokens", "300");
  expect(latents.map(({ latent }) => latent)).toEqual([3, 5]);
});

test("an index of another version costs the names only, where nothing else is wanted of it", async () => {
  const index = join(made, "features", "index.json");
  const current = readFileSync(index, "utf8");
  onTestFinished(() => writeFileSync(index, current));
  writeFileSync(index, current.replace('"version":2', '"version":1'));
  const removed = await succeeded("ablate", "3", "--tokens", "300");
  expect(removed.stdout).toContain("Δ loss in nats");
  expect(removed.stderr).toMatch(/latents are shown without names: .* has version 1, .* index the features again/); // prettier-ignore
  expect(removed.stderr).toContain("Next: ");
  expect(await refused("feature", "3")).toContain("has version 1, this Lens reads version 2");
});

test("lens compose tells which latents go together, here in a run that is linked to itself", async () => {
  const flags = ["compose", "--tokens", "2000", "--list", "20", "--with", "latest"];
  const { pairs, links, nodes } = await json<Composed>(...flags);
  expect(pairs.together.tests).toBe((pairs.judged[0] * (pairs.judged[0] - 1)) / 2);
  expect(pairs.together.listed.length).toBeGreaterThan(0);
  for (const { latents } of pairs.together.listed)
    for (const latent of latents)
      expect(nodes.some((node) => node.sae === 0 && node.latent === latent)).toBe(true);
  // Every latent is linked with itself above all.
  expect(links!.together.listed[0].correlation.value).toBeCloseTo(1, 5);
  expect(links!.together.listed[0].virtual!.cosine).toBeGreaterThan(0);
  for (const file of ["compose.json", "compose.svg", "compose.png", "links.svg", "links.png"])
    expect(existsSync(join(made, "compose", file)), file).toBe(true);
});

test("lens compose tells what goes with one latent within a window", async () => {
  const { stdout } = await succeeded(
    ...["compose", "--tokens", "2000", "--list", "20"],
    ...["--latent", "3", "--window", "8", "--out", "one"],
  );
  expect(stdout).toContain("fire together within the same 8 tokens: ");
  expect(existsSync(at("one", "compose.json"))).toBe(true);
});

test("lens compose refuses too little text, and no window", async () => {
  expect(await refused("compose", "--tokens", "20")).toContain(
    "are too few: pairs are found on half and measured on half",
  );
  expect(await refused("compose", "--window", "0")).toContain(
    "window must be a whole number of at least 1; got 0",
  );
});
