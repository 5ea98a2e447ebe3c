import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";

import { openDevice } from "../device/device.ts";
import { UserError } from "../error.ts";
import { loadModel } from "../model/model.ts";
import { Rng } from "../rng.ts";
import { Sae } from "../sae/sae.ts";
import { effectVectors, logitEffects, residualDirections } from "./logits.ts";
import { trueLogitEffect } from "./true-logits.ts";

const model = await loadModel(
  fileURLToPath(new URL("../../test/fixtures/gpt2-tiny/f32", import.meta.url)),
);
const device = await openDevice("reference");
afterAll(async () => {
  await model.close();
  await device.close();
});
const { dModel, layers } = model.info;
const dSae = 24;

function random(count: number, seed: number): Float32Array {
  const rng = new Rng(seed, "true logits");
  return Float32Array.from({ length: count }, () => rng.normal());
}

function saeOf(width: number, extra: Partial<Sae["spec"]> = {}): Sae {
  return new Sae(
    {
      ...{ selection: { architecture: "topk", k: 6 }, dIn: width, dSae, applyBDecToInput: true },
      ...extra,
    },
    {
      ...{ W_enc: random(dSae * width, 1), b_enc: new Float32Array(dSae) },
      ...{ W_dec: random(dSae * width, 2), b_dec: random(width, 3) },
    },
  );
}

const words = ["the", "fox", "river", "bird", "was", "cold", "house", "old", "sun", "stones"];
const documents = (count: number) =>
  Array.from({ length: count }, (_, d) => {
    const rng = new Rng(d, "words");
    return { id: `${d}`, text: Array.from({ length: 12 }, () => words[rng.int(10)]).join(" ") };
  });

describe("the true effect", () => {
  const hookPoint = `blocks.${layers - 1}.hook_resid_post`;
  const sae = saeOf(dModel);
  const options = { hookPoint, latent: 5, amount: 0.01, device, tokens: 5000, top: 4 };

  test("of a little, where no layer follows, is nearly what the centred direct effect says", async () => {
    const effect = await trueLogitEffect(sae, model, documents(60), { ...options, documents: 40 });
    expect(effect.documents).toBe(40);
    // The norm also takes away what lies along the residual stream itself, which differs by position.
    expect(effect.agreement.centred).toBeGreaterThan(0.9);
    expect(effect.agreement.centred).toBeGreaterThan(effect.agreement.raw - 0.01);
    expect(effect.top).toHaveLength(4);
    for (const { low, value, high } of [...effect.top, ...effect.bottom]) {
      expect(low).toBeLessThanOrEqual(value);
      expect(high).toBeGreaterThanOrEqual(value);
    }
    expect(effect.top[0].value).toBeGreaterThan(effect.top[3].value);
    expect(effect.bottom[0].value).toBeLessThan(effect.bottom[3].value);
    expect(effect.randomStd).toBeGreaterThan(0);
  });

  test("is twice as large of twice as little, and the same again", async () => {
    const text = documents(30);
    const one = await trueLogitEffect(sae, model, text, options);
    const two = await trueLogitEffect(sae, model, text, { ...options, amount: 0.02 });
    expect(Math.abs(two.std / one.std - 2)).toBeLessThan(0.02);
    expect(await trueLogitEffect(sae, model, text, options)).toEqual(one);
  });

  test("of earlier layers goes through those above", async () => {
    const early = { ...options, hookPoint: "blocks.1.hook_resid_pre" };
    const effect = await trueLogitEffect(sae, model, documents(30), early);
    expect(effect.std).toBeGreaterThan(0);
    expect(effect.agreement.centred).toBeLessThan(0.999);
  });

  test("needs twenty documents", async () => {
    const few = trueLogitEffect(sae, model, documents(19), options);
    await expect(few).rejects.toThrow(UserError);
    await expect(few).rejects.toThrow("its true effect needs 20");
  });
});

describe("directions in the residual stream", () => {
  test("of a crosscoder are those at its last hook point, or at the one that is named", async () => {
    const hookPoint = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"];
    const sae = saeOf(2 * dModel, { heads: [dModel, dModel] });
    const row = sae.decoderRow(7);
    expect(await residualDirections(sae, model, { hookPoint }, [7])).toEqual(row.slice(dModel));
    const at = hookPoint[0];
    const first = await residualDirections(sae, model, { hookPoint, at }, [7]);
    expect(first).toEqual(row.slice(0, dModel));
  });

  test("are in raw units, whatever the SAE does to its input", async () => {
    const hookPoint = "blocks.1.hook_resid_post";
    const scale = { kind: "scale" as const, factors: [4], widths: [dModel] };
    const scaled = saeOf(dModel, { input: scale, output: scale });
    const plain = await residualDirections(saeOf(dModel), model, { hookPoint }, [3]);
    const found = await residualDirections(scaled, model, { hookPoint }, [3]);
    found.forEach((v, c) => expect(v).toBeCloseTo(plain[c] / 4, 6));
    // Normalised row by row: per standard deviation of the row.
    const norm = { kind: "layerNorm" as const, eps: 1e-5 };
    const each = saeOf(dModel, { input: norm, output: norm });
    expect(await residualDirections(each, model, { hookPoint }, [3])).toEqual(plain);
  });

  test("a latent out of range is refused", async () => {
    const refused = residualDirections(saeOf(dModel), model, { hookPoint: "hook_embed" }, [dSae]);
    await expect(refused).rejects.toThrow("from 0 to 23; got 24");
  });
});

test("all latents at once are each one by itself, in their order", async () => {
  const sae = saeOf(dModel);
  const options = { hookPoint: "blocks.1.hook_resid_post", form: "centred" as const };
  let next = 0;
  for await (const effect of logitEffects(sae, model, { ...options, top: 3, device })) {
    expect(effect.latent).toBe(next++);
    for await (const { effects } of effectVectors(sae, model, {
      ...options,
      latents: [effect.latent],
    })) {
      const order = [...effects.keys()].sort((a, b) => effects[b] - effects[a]);
      expect(effect.top.map(({ token }) => token)).toEqual(order.slice(0, 3));
      expect(effect.histogram.counts.reduce((a, b) => a + b)).toBe(effects.length);
    }
  }
  expect(next).toBe(dSae);
});
