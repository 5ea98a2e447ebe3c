import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test, vi } from "vitest";

import { families, familyFolder } from "../../test/family-fixture.ts";
import { compareWeights } from "./compare-weights.ts";
import { loadModel } from "./model.ts";
import { quantizeColumns } from "./quantize.ts";
import { documents } from "./text.ts";

const cache = await mkdtemp(join(tmpdir(), "lens-int8-"));
vi.stubEnv("XDG_CACHE_HOME", cache);
afterAll(() => rm(cache, { recursive: true, force: true }));

test("columns are rounded to 255 steps of their own, whichever way a matrix lies", () => {
  // [in 2, out 3]; the last column is zero.
  const values = Float32Array.of(1.27, -50, 0, 0.634, 254, 0);
  const { integers, scales } = quantizeColumns(values, [2, 3], "inOut");
  expect([...integers]).toEqual([255, 103, 128, 191, 255, 128]);
  expect([...scales].map((scale) => Number(scale.toFixed(4)))).toEqual([0.01, 2, 1]);
  const transposed = Float32Array.of(1.27, 0.634, -50, 254, 0, 0);
  expect(quantizeColumns(transposed, [3, 2], "outIn")).toEqual({ integers, scales });
});

for (const family of families)
  test(`int8 weights of ${family} come close to the checkpoint's, at every hook point`, async () => {
    const folder = await familyFolder(family);
    const model = await loadModel(folder, { weights: "int8" });
    try {
      const length = 16;
      const tokens = Int32Array.from({ length }, (_, i) => (i * 7) % 60);
      const capture = model.hookPoints();
      const exact = await loadModel(folder);
      const asked = { tokens, batch: 1, length, capture };
      const [a, b] = [await exact.forward(asked), await model.forward(asked)];
      await exact.close();
      for (const name of capture) {
        const [x, y] = [a.activations[name], b.activations[name]];
        const norm = Math.hypot(...x);
        const error = Math.hypot(...x.map((value, i) => value - y[i])) / norm;
        expect(error, name).toBeLessThan(0.06);
        if (name === "blocks.0.hook_attn_out") expect(error, name).toBeGreaterThan(0);
      }
    } finally {
      await model.close();
    }
  });

test("int8 weights have a hash of their own, and are made once", async () => {
  const hashes: string[] = [];
  for (const weights of ["checkpoint", "int8", "int8"] as const) {
    const model = await loadModel("builtin:tiny", { weights });
    hashes.push(await model.weightsHash());
    await model.forward({ tokens: Int32Array.of(1, 2), batch: 1, length: 2, logits: "last" });
    await model.close();
  }
  expect(hashes[1]).not.toBe(hashes[0]);
  expect(hashes[2]).toBe(hashes[1]);
  const made = await readdir(join(cache, "latent-lens", "int8"));
  expect(made.filter((name) => name.startsWith(hashes[0]))).toHaveLength(1);
  expect(made.filter((name) => name.endsWith(".tmp"))).toEqual([]);
});

test("integers of which a byte has changed are made anew", async () => {
  const folder = join(cache, "latent-lens", "int8");
  const lastLogits = async () => {
    const model = await loadModel("builtin:tiny", { weights: "int8" });
    const input = { tokens: Int32Array.of(1, 2), batch: 1, length: 2, logits: "last" as const };
    const { logits } = await model.forward(input);
    await model.close();
    return logits;
  };
  const before = await lastLogits();
  const model = await loadModel("builtin:tiny");
  const hash = await model.weightsHash();
  const file = join(
    folder,
    (await readdir(folder)).find((name) => name.startsWith(hash))!,
  );
  const whole = await readFile(file);
  const spoilt = Buffer.from(whole);
  spoilt[1000] ^= 0x80;
  for (const found of [spoilt, whole.subarray(0, whole.length - 16)]) {
    await writeFile(file, found);
    expect(await lastLogits()).toEqual(before);
    expect((await readFile(file)).equals(whole)).toBe(true);
  }
});

test("what int8 weights change is measured layer by layer as it is on the whole model", async () => {
  const model = await loadModel("builtin:tiny", { weights: "int8" });
  const exact = await loadModel("builtin:tiny");
  const norm = "ln_final.hook_normalized";
  const names = ["hook_embed", "blocks.2.hook_resid_post", "blocks.3.mlp.hook_post", norm];
  const found = await compareWeights(model, documents("builtin:stories"), names);
  expect(found.tokens).toBe(4 * 127);
  expect(found.differences["hook_embed"]).toBe(0);
  for (const name of names.slice(1)) {
    expect(found.differences[name]).toBeGreaterThan(0.001);
    expect(found.differences[name]).toBeLessThan(0.05);
  }
  expect(Math.abs(found.loss!.int8 - found.loss!.checkpoint)).toBeLessThan(0.02);
  // Of a model compared with itself nothing differs, up to the rounding of graphs that are cut.
  const same = await compareWeights(exact, documents("builtin:stories"), names);
  for (const name of names) expect(same.differences[name]).toBeLessThan(1e-5);
  expect(same.loss!.int8).toBeCloseTo(same.loss!.checkpoint, 5);
  await model.close();
  await exact.close();
});

test("what int8 weights of an encoder change is measured at its hook points, without a loss", async () => {
  const model = await loadModel(await familyFolder("bert"), { weights: "int8" });
  const text = documents("builtin:stories");
  const { loss, differences } = await compareWeights(model, text, model.hookPoints(), {
    bos: "none",
  });
  expect(loss).toBeNull();
  for (const difference of Object.values(differences)) expect(difference).toBeLessThan(0.1);
  expect(differences["blocks.0.hook_resid_post"]).toBeGreaterThan(0);
  await model.close();
});
