import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";

import { loadModel } from "../model/model.ts";
import { Rng } from "../rng.ts";
import { Sae } from "../sae/sae.ts";
import { subjectsOf } from "./controls.ts";
import type { Features } from "./features.ts";

const model = await loadModel(
  fileURLToPath(new URL("../../test/fixtures/gpt2-tiny/f32", import.meta.url)),
);
afterAll(() => model.close());
const hookPoint = model.hookPoints().findLast((name) => name.endsWith("hook_resid_post"))!;
const dIn = model.hookWidth(hookPoint);
const rng = new Rng(5, "controls");
const dSae = 8;
const W_dec = Float32Array.from({ length: dSae * dIn }, () => rng.normal());
const sae = new Sae(
  { dIn, dSae, applyBDecToInput: false, selection: { architecture: "relu" } },
  { W_enc: W_dec, b_enc: new Float32Array(dSae), W_dec, b_dec: new Float32Array(dIn) },
);
const columns = {
  firings: [100, 10, 0, 11, 90, 9, 5000, 80],
  max: Array.from({ length: dSae }, (_, f) => f + 1),
};
const features = { index: { columns } } as unknown as Features;
const place = { hookPoint, promptLength: 0 };
const x = Float32Array.from({ length: dIn }, () => rng.normal());

test("controls of several latents are as many others that fire as often, and move the activation as far", async () => {
  const options = { ...place, latents: 2, directions: 2, unit: 1.5 };
  const subjects = subjectsOf(sae, model, features, [0, 1], options, [3]);
  expect(subjects.map(({ name, kind }) => [name, kind])).toEqual([
    ["latent 0 + 1", "target"],
    ["latent 4 + 5", "latent"],
    // 2 never fires and 3 is left out, so that the frequent one is all that remains for 1.
    ["latent 7 + 6", "latent"],
    ["random direction 1", "random"],
    ["random direction 2", "random"],
  ]);
  const sum = Float64Array.from(x, (_, c) => 1.5 * (W_dec[c] + W_dec[dIn + c]));
  for (const { at } of subjects) {
    const moved = (await at(2).replace(x, 0)).map((v, c) => v - x[c]);
    expect(Math.hypot(...moved)).toBeCloseTo(2 * Math.hypot(...sum), 3);
  }
  const [target] = subjects;
  const moved = await target.at(1).replace(x, 0);
  sum.forEach((v, c) => expect(moved[c] - x[c]).toBeCloseTo(v, 4));
});

test("where too few other latents are left there are fewer controls, never a smaller one", () => {
  const options = { ...place, latents: 5, directions: 0, unit: 1 };
  const names = subjectsOf(sae, model, features, [0, 1, 3], options).map(({ name }) => name);
  expect(names).toEqual(["latent 0 + 1 + 3", "latent 4 + 5 + 7"]);
});
