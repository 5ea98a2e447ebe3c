import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";

import { readSweep } from "./sweep-config.ts";

const folder = mkdtempSync(join(tmpdir(), "lens-sweep-"));
afterAll(() => rmSync(folder, { recursive: true }));

function sweepOf(yaml: string) {
  const file = join(folder, "sweep.yaml");
  writeFileSync(file, yaml);
  return readSweep(file, {});
}

test("a mapping stands for every combination, and keeps what the variants have in common", () => {
  const variants = sweepOf(
    "train: {steps: 7}\nsae: {dSae: 64}\nsweep:\n  sae.architecture: [topk, batchTopk]\n  sae.k: [4, 8]\n",
  );
  expect(variants.map(({ name }) => name)).toEqual([
    "topk k=4",
    "topk k=8",
    "batchTopk k=4",
    "batchTopk k=8",
  ]);
  expect(variants[3].config.sae).toMatchObject({ architecture: "batchTopk", k: 8, dSae: 64 });
  expect(variants[3].config.train.steps).toBe(7);
});

test("a list of mappings is one sweep after the other, so that each architecture has its own fields", () => {
  const variants = sweepOf(
    "sae: {architecture: topk, k: 9}\nsweep:\n  - {sae.k: [4]}\n  - {sae.architecture: relu, sae.l1: [1, 2]}\n",
  );
  expect(variants.map(({ name }) => name)).toEqual(["k=4", "relu l1=1", "relu l1=2"]);
  expect(variants[2].config.sae).toMatchObject({ architecture: "relu", l1: 2 });
});

test("what is no sweep is refused with the variant and the field", () => {
  expect(() => sweepOf("sae: {k: 3}")).toThrow(/has no sweep/);
  expect(() => sweepOf("sweep: {sae.kk: [1]}")).toThrow(/unknown field sae.kk/);
  expect(() => sweepOf("sweep: {sae.k: []}")).toThrow(/gives no values for sae.k/);
  expect(() => sweepOf("sweep: {sae.k: [4, -1]}")).toThrow(/variant k=-1: sae.k must be/);
});
