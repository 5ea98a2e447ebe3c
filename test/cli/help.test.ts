/** What the command tells without a run: its help, and the commands that make text or look about. */
import { expect, test } from "vitest";

import { fixtureModel } from "../command.ts";
import { lensIn } from "./lens.ts";

const { succeeded, json } = lensIn("folder of all tests");

test("lens --help lists the commands in the order of the path", async () => {
  const { stdout, stderr } = await succeeded("--help");
  expect(stderr).toBe("");
  const names = [...stdout.matchAll(/^ {2}([a-z]+) {2,}/gm)].map(([, name]) => name);
  expect(names).toEqual([
    ...["run", "collect", "store", "train", "eval", "features", "feature", "layers", "compose"],
    ...["ablate", "attribute", "concepts", "explain", "steer"],
    ...["export", "serve", "runs", "generate", "models", "corpus", "devices", "config"],
  ]);
});

test("lens train --help lists every setting of its sections with default and meaning", async () => {
  const { stdout } = await succeeded("train", "--help");
  const text = stdout.replace(/\s+/g, " ");
  expect(text).toContain(
    "--sae.k <integer> Latents kept per row; of batchTopk on average. (only for sae.architecture topk or batchTopk; default: 32)",
  );
  expect(text).toContain("--train.shuffle [true|false]");
  expect(stdout).not.toContain("--features.gallery");
});

test("lens corpus prints stories with spans that name what they cover", async () => {
  const { stdout } = await succeeded("corpus", "--json", "--count", "2", "--split", "test");
  const stories = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { text: string; spans: { start: number; end: number }[] });
  expect(stories).toHaveLength(2);
  for (const { text, spans } of stories)
    expect(spans.every(({ start, end }) => text.slice(start, end).trim() !== "")).toBe(true);
});

test("lens generate continues a text the same way for the same seed", async () => {
  const flags = ["generate", "Once", "--model", fixtureModel, "--tokens", "5", "--json"];
  const [a, b] = [await succeeded(...flags), await succeeded(...flags)];
  const { prompt, tokens } = JSON.parse(a.stdout) as { prompt: string; tokens: unknown[] };
  expect(prompt).toBe("Once");
  expect(tokens.length).toBeGreaterThan(0);
  expect(b.stdout).toBe(a.stdout);
});

test("lens devices names what it can compute with", async () => {
  const devices = await json<{ name: string; works: boolean }[]>("devices");
  expect(devices.map(({ name }) => name)).toEqual(["cpu", "reference"]);
  expect(devices.find(({ name }) => name === "reference")!.works).toBe(true);
});
