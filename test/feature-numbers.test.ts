/** What `lens feature` shows, against the independent implementations of test/oracles/feature.py. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";

import { effectVectors, logitEffects, DIRECT_FORMS } from "../src/analysis/logits.ts";
import { trustworthiness } from "../src/analysis/map.ts";
import { cosine, nearestRows, pairOf, type CoFirings } from "../src/analysis/neighbors.ts";
import { logitChanges } from "../src/analysis/true-logits.ts";
import { openDevice } from "../src/device/device.ts";
import { loadModel } from "../src/model/model.ts";
import { Safetensors } from "../src/safetensors.ts";
import { Sae } from "../src/sae/sae.ts";

const at = (path: string) => fileURLToPath(new URL(`fixtures/${path}`, import.meta.url));
const tensors = await Safetensors.open(at("feature/expected.safetensors"));
const expected = JSON.parse(readFileSync(at("feature/expected.json"), "utf8")) as {
  effects: Record<string, Spread[]>;
  trustworthiness: Record<string, number>;
};
interface Spread {
  mean: number;
  std: number;
  skewness: number;
  excessKurtosis: number;
  counts: number[];
  top: number[];
  bottom: number[];
}
const model = await loadModel(at("gpt2-tiny/f32"));
const device = await openDevice("reference");
afterAll(async () => {
  await model.close();
  await device.close();
  await tensors.close();
});

/** Largest difference in parts of the largest expected value. */
function relativeError(found: ArrayLike<number>, wanted: ArrayLike<number>): number {
  expect(found.length).toBe(wanted.length);
  let [difference, size] = [0, 0];
  for (let i = 0; i < wanted.length; i++) {
    difference = Math.max(difference, Math.abs(found[i] - wanted[i]));
    size = Math.max(size, Math.abs(wanted[i]));
  }
  return difference / size;
}

/** An SAE of which only the decoder matters. */
function decoderOnly(W_dec: Float32Array, dIn: number): Sae {
  const dSae = W_dec.length / dIn;
  return new Sae(
    { selection: { architecture: "relu" }, dIn, dSae, applyBDecToInput: false },
    {
      ...{ W_dec, W_enc: new Float32Array(W_dec.length) },
      ...{ b_enc: new Float32Array(dSae), b_dec: new Float32Array(dIn) },
    },
  );
}

describe.each(["blocks.1.hook_resid_post", "blocks.1.mlp.hook_post", "blocks.2.attn.hook_z"])(
  "logit effects of decoder rows at %s",
  async (hookPoint) => {
    const sae = decoderOnly(await tensors.floats(`W_dec ${hookPoint}`), model.hookWidth(hookPoint));

    test.each(DIRECT_FORMS)("%s are those of TransformerLens' weights", async (form) => {
      const wanted = await tensors.floats(`${form} ${hookPoint}`);
      for (const on of [undefined, device]) {
        const found: number[] = [];
        const options = { hookPoint, form, ...(on && { device: on }) };
        for await (const { effects } of effectVectors(sae, model, options)) found.push(...effects);
        expect(relativeError(found, wanted)).toBeLessThan(1e-5);
      }
    });

    test.each(DIRECT_FORMS)("%s have the moments that SciPy finds", async (form) => {
      for await (const effect of logitEffects(sae, model, { hookPoint, form })) {
        const wanted = expected.effects[`${form} ${hookPoint}`][effect.latent];
        for (const key of ["std", "skewness", "excessKurtosis"] as const)
          expect(Math.abs(effect[key] - wanted[key])).toBeLessThan(1e-5 * wanted.std + 1e-5);
        expect(Math.abs(effect.mean - wanted.mean)).toBeLessThan(1e-6 * wanted.std);
        expect(effect.histogram.counts).toEqual(wanted.counts);
        expect(effect.top.map(({ token }) => token)).toEqual(wanted.top);
        expect(effect.bottom.map(({ token }) => token)).toEqual(wanted.bottom);
      }
    });
  },
);

test.each(["blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"])(
  "what is added at %s changes the logits as in transformers",
  async (hookPoint) => {
    for (const i of [0, 1, 2]) {
      const tokens = await tensors.ints(`tokens ${hookPoint} ${i}`);
      const delta = Float64Array.from(await tensors.floats(`delta ${hookPoint} ${i}`));
      const residual = model.residualBefore(hookPoint);
      const point = { inputs: [hookPoint], hookPoint, width: 40, column: 0, residual };
      const context = { document: 0, tokens };
      const [nothing, change] = await logitChanges(model, point, context, () => [
        new Float64Array(delta.length),
        delta,
      ]);
      expect(nothing.every((v) => v === 0)).toBe(true);
      const wanted = await tensors.floats(`change ${hookPoint} ${i}`);
      expect(relativeError(change, wanted)).toBeLessThan(1e-5);
    }
  },
);

describe("neighbours", async () => {
  const directions = await tensors.floats("directions");
  const n = 40;

  test("the nearest rows are those of NumPy's cosines", async () => {
    const wanted = await tensors.floats("cosines");
    for (const on of [undefined, device]) {
      const options = { count: n - 2, ...(on && { device: on }) };
      const { rows, cosines, count } = await nearestRows(directions, 12, options);
      for (let i = 0; i < n; i++) {
        if (i === 7) continue; // a zero row
        const best = Array.from({ length: n }, (_, j) => j)
          .filter((j) => j !== i && j !== 7)
          .sort((a, b) => wanted[i * n + b] - wanted[i * n + a]);
        expect([...rows.slice(i * count, i * count + n - 2)]).toEqual(best);
        const values = best.map((j) => wanted[i * n + j]);
        expect(relativeError(cosines.subarray(i * count, (i + 1) * count), values)).toBeLessThan(1e-5); // prettier-ignore
      }
    }
  });

  test("PMI, Jaccard and phi are those of NumPy on every position", async () => {
    const [row, column] = [await tensors.ints("row"), await tensors.ints("column")];
    const fires = Array.from({ length: n }, () => new Set<number>());
    row.forEach((position, i) => fires[column[i]].add(position));
    const count = (f: number, g: number) => [...fires[f]].filter((p) => fires[g].has(p)).length;
    const partners = fires.map((_, f) => {
      const latents = Int32Array.from(fires.keys()).filter((g) => g !== f && count(f, g) > 0);
      return { latents, counts: Uint32Array.from(latents, (g) => count(f, g)) };
    });
    const co: CoFirings = {
      positions: 3000,
      firings: fires.map(({ size }) => size),
      partners: (f) => partners[f],
    };
    for (const name of ["together", "pmi", "jaccard", "phi"] as const) {
      const wanted = await (name === "together" ? tensors.ints(name) : tensors.floats(name));
      const [found, expected]: number[][] = [[], []];
      for (let f = 0; f < n; f++)
        for (let g = 0; g < n; g++) {
          // Latent 20 never fires; pairs that never meet have a PMI of −∞.
          if (f === g || f === 20 || g === 20 || Math.abs(wanted[f * n + g]) === 1e9) continue;
          found.push(pairOf(co, f, g)[name]);
          expected.push(wanted[f * n + g]);
        }
      expect(found.length).toBeGreaterThan(1000);
      expect(relativeError(found, expected)).toBeLessThan(1e-5);
    }
  });
});

test("trustworthiness is scikit-learn's, on all points and about so on some", async () => {
  const [directions, places] = [await tensors.floats("directions"), await tensors.floats("places")];
  const there = Array.from({ length: 40 }, (_, i) => i).filter((i) => i !== 7);
  const layout = Float32Array.from(there.flatMap((i) => [places[2 * i], places[2 * i + 1]]));
  const row = (i: number) => directions.subarray(there[i] * 12, (there[i] + 1) * 12);
  const similar = (i: number, out: Float64Array) =>
    out.forEach((_, j) => (out[j] = cosine(row(i), row(j))));
  for (const [k, wanted] of Object.entries(expected.trustworthiness)) {
    const [found] = trustworthiness([layout], similar, Number(k));
    expect(Math.abs(found - wanted)).toBeLessThan(1e-9);
    const [some] = trustworthiness([layout], similar, Number(k), { sample: 30 });
    expect(Math.abs(some - wanted)).toBeLessThan(0.05);
  }
});
