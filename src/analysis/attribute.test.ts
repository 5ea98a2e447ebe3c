import { afterAll, describe, expect, test } from "vitest";

import { expected, fixtureModel, isNear, saeOf } from "../../test/ablation-fixture.ts";
import { familyFolder } from "../../test/family-fixture.ts";
import { loadModel } from "../model/model.ts";
import { Rng } from "../rng.ts";
import { Sae } from "../sae/sae.ts";
import { attribute, singleToken, type AttributeOptions, type Contribution } from "./attribute.ts";
import { attributionFigure } from "./attribution-figure.ts";
import { pearson } from "./correlation.ts";

const model = await fixtureModel();
afterAll(() => model.close());
const { prompt } = expected;
const { residual, "last residual": last } = expected.cases;

describe("attribution", () => {
  test.each(Object.entries(expected.cases))(
    "gives each latent what PyTorch finds by ablation and by autograd: %s",
    async (_, wanted) => {
      const { sae, places } = await saeOf(wanted);
      const { measure, position, token, against, steps, completeness } = wanted.attribution;
      const found = await attribute(sae, model, prompt, {
        ...{ ...places, position, integratedSteps: steps },
        ...(measure === "difference" ? { against } : { measure }),
      });
      expect(found).toMatchObject({ measure, hookPoint: wanted.writes });
      expect(found.token.id).toBe(token); // the most likely one
      expect(found.token.probability).toBeCloseTo(wanted.attribution.probability, 5);
      expect(found.value).toBeCloseTo(completeness.value, 4);
      expect(found.contributions).toHaveLength(wanted.attribution.contributions.length);
      const size = (key: string) =>
        Math.max(...wanted.attribution.contributions.map((c) => Math.abs(c[key] ?? 0)));
      for (const one of wanted.attribution.contributions) {
        const same = found.contributions.find(
          ({ latent, position }) => latent === one.latent && position === one.position,
        )!;
        expect(same.activation).toBeCloseTo(one.activation, 4);
        for (const key of ["ablation", "direct", "directAblation"] as const) {
          const near = isNear(same[key] ?? NaN, one[key], size(key));
          expect(near || (!(key in one) && !(key in same)), `${key} ${same[key]} ${one[key]}`).toBe(true); // prettier-ignore
        }
        // Differences of float32 logits over a step of 1/32; what they miss grows with the curvature.
        for (const key of ["gradient", "integrated"] as const)
          expect(Math.abs(same[key]! - one[key]) / size(key), key).toBeLessThan(3e-3);
      }
      for (const [key, part] of Object.entries(completeness))
        expect(found.completeness[key as "rest"], key).toBeCloseTo(part, 3);
      expect(found.completeness.sum).toBeCloseTo(found.value, 4);
      expect(found.integrated!.withoutLatents).toBeCloseTo(wanted.attribution.withoutLatents, 3);
      for (const [latent, effect] of Object.entries(wanted.attribution.together))
        expect(found.latents.find((one) => one.latent === Number(latent))!.ablation).toBeCloseTo(effect, 3); // prettier-ignore
    },
  );

  test("comes sorted by the size of the effect, and says how linear it is", async () => {
    const { sae, places } = await saeOf(residual);
    const { contributions, correlations, chance } = await attribute(sae, model, prompt, places);
    const sizes = contributions.map(({ ablation }) => Math.abs(ablation));
    expect(sizes).toEqual(sizes.toSorted((a, b) => b - a));
    const of = (key: keyof Contribution) => contributions.map((c) => c[key]!);
    expect(correlations.gradient).toBeCloseTo(pearson(of("gradient"), of("ablation"))!, 9);
    expect(chance.draws).toBe(100);
    expect(chance.size95).toBeGreaterThan(0);
    expect(chance.size95).toBeLessThan(sizes[0]);
  });

  test("at the last residual stream is all direct: other positions have none, and removal is exactly it", async () => {
    const { sae, places } = await saeOf(last);
    const { contributions, position } = await attribute(sae, model, prompt, places);
    for (const one of contributions) {
      if (one.position === position) expect(one.ablation).toBeCloseTo(one.directAblation!, 4);
      else expect(one).toMatchObject({ ablation: 0, gradient: 0 });
    }
  });

  test("of a text on which no latent fires has no contribution, but is complete", async () => {
    const { sae, places } = await saeOf(residual);
    const mute = new Sae(sae.spec, { ...sae, b_enc: sae.b_enc.map(() => -1e6) });
    const found = await attribute(mute, model, prompt, places);
    expect(found.contributions).toEqual([]);
    expect(found.correlations.gradient).toBeNull();
    expect(found.chance.draws).toBe(0);
    expect(found.completeness.latents).toBe(0);
    expect(found.completeness.sum).toBeCloseTo(found.value, 4);
  });

  test("is drawn with a bar for each of the largest contributions", async () => {
    const { sae, places } = await saeOf(residual);
    const result = await attribute(sae, model, prompt, places);
    const { svg } = await attributionFigure(result, 5, (latent) => `“<${latent}>”`);
    for (const { latent } of result.contributions.slice(0, 5))
      expect(svg).toContain(`&lt;${latent}`);
    expect(svg.match(/<rect/g)).toHaveLength(5);
  });
});

describe.each(["llama", "gemma2", "gpt_neox"])("in a model of another family, %s", (family) => {
  test.each(["centred", "logprob"] as const)("the parts sum up to the %s", async (measure) => {
    const other = await loadModel(await familyFolder(family));
    const { dModel } = other.info;
    const rng = new Rng(3, "sae");
    const normal = (length: number) => Float32Array.from({ length }, () => rng.normal());
    const sae = new Sae(
      { selection: { architecture: "relu" }, dIn: dModel, dSae: 24, applyBDecToInput: false },
      {
        ...{ W_enc: normal(24 * dModel), b_enc: normal(24) },
        ...{ W_dec: normal(24 * dModel).map((v) => v / 8), b_dec: normal(dModel) },
      },
    );
    const hookPoint = [other.lastResidual()];
    const found = await attribute(sae, other, "The fox laughed", { hookPoint, measure });
    expect(found.contributions.length).toBeGreaterThan(10);
    const { completeness, contributions, position } = found;
    expect(completeness.sum).toBeCloseTo(completeness.value, 4);
    // Behind it is nothing but the norm and the unembedding.
    for (const one of contributions)
      if (one.position === position) expect(one.ablation).toBeCloseTo(one.directAblation!, 4);
    await other.close();
  });
});

test("what cannot be is refused, with what to do", async () => {
  const { sae, places } = await saeOf(residual);
  const run = (options: Partial<AttributeOptions>, text = prompt) =>
    attribute(sae, model, text, { ...places, ...options });
  const { ids } = model.tokenizer.encode(prompt);
  await expect(run({ position: ids.length })).rejects.toThrow(
    `0 to ${ids.length - 1} or -1 to -${ids.length} from its end; got ${ids.length}`,
  );
  await expect(run({ position: -ids.length - 1 })).rejects.toThrow("position must be a token");
  await expect(run({ position: 0.5 })).rejects.toThrow("got 0.5");
  await expect(run({}, "")).rejects.toThrow("no tokens");
  await expect(run({}, "The fox. ".repeat(40))).rejects.toThrow("context");
  await expect(run({ token: 300 })).rejects.toThrow("from 0 to 299; got 300");
  await expect(run({ integratedSteps: -1 })).rejects.toThrow("integratedSteps");
  expect(singleToken(model, " fox")).toBe(model.tokenizer.encode("The fox").ids[1]);
  expect(() => singleToken(model, "zebra")).toThrow(/"zebra" is \d tokens \("z", .*one is wanted/);
  expect(() => singleToken(model, "")).toThrow("is no token");
});

test("a correlation is that of the textbook, and none of what does not vary or of two pairs", () => {
  expect(pearson([1, 2, 3], [2, 4, 6])).toBeCloseTo(1, 12);
  expect(pearson([1, 2, 3, 4], [1, 3, 2, 1])).toBeCloseTo(-0.5 / Math.sqrt(5 * 2.75), 12);
  expect(pearson([1, 2], [2, 4])).toBeNull();
  expect(pearson([1, 1, 1], [1, 2, 3])).toBeNull();
});
