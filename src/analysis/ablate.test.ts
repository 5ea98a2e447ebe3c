import { afterAll, describe, expect, test, vi } from "vitest";

import { expected, fixtureModel, isNear, saeOf } from "../../test/ablation-fixture.ts";
import { openDevice } from "../device/device.ts";
import { Sae } from "../sae/sae.ts";
import { ablate, type AblateOptions } from "./ablate.ts";
import type { Effect } from "./ablation-tally.ts";

const model = await fixtureModel();
const device = await openDevice("reference");
afterAll(async () => {
  await model.close();
  await device.close();
});
const documents = expected.texts.map((text, i) => ({ id: `story ${i}`, text }));
const settings = { device, tokens: 10_000, contextLength: expected.context, controls: 1 };
const { residual, "last residual": last } = expected.cases;

/** The means as sums over the text, in the oracle's order. */
function sumsOf(effect: Effect, firings: number, predictions: number): number[] {
  return [
    effect.lossPerFiring.value * firings,
    effect.lossPerPrediction.value * predictions,
    effect.klPerFiring.value * firings,
    effect.klPerPrediction.value * predictions,
  ];
}

describe("removing latents", () => {
  test.each(Object.entries(expected.cases))(
    "changes losses as PyTorch finds it to: %s",
    async (_, wanted) => {
      const { sae, places } = await saeOf(wanted);
      const firing = wanted.ablation.latents.filter(({ firings }) => firings > 0);
      const latents = firing.map(({ latent }) => latent);
      const found = await ablate(sae, model, documents, { ...settings, ...places, latents });
      const { positions, predictions, loss } = wanted.ablation;
      expect(found).toMatchObject({ positions, predictions, hookPoint: wanted.writes });
      expect(found.documents).toBe(documents.length);
      expect(found.loss).toBeCloseTo(loss, 5);
      for (const [i, one] of firing.entries()) {
        const { firings, firingPredictions, firingDocuments } = one;
        expect(found.latents[i]).toMatchObject({ firings, firingPredictions, firingDocuments });
        for (const kind of ["total", "direct"] as const) {
          const effect = found.latents[i][kind];
          const sums = sumsOf(effect, firingPredictions, predictions);
          const largest = Math.max(...one[kind].map(Math.abs));
          for (const [s, sum] of sums.entries())
            expect(isNear(sum, one[kind][s], largest), `${kind} ${s}: ${sum} ${one[kind][s]}`).toBe(
              true,
            );
          expect(effect.lossPerDocument.value * documents.length).toBeCloseTo(sums[1], 6);
          const { low, high, value } = effect.lossPerPrediction;
          expect(low).toBeLessThanOrEqual(value);
          expect(high).toBeGreaterThanOrEqual(value);
        }
      }
    },
  );

  test("that never fire changes nothing at all, and nothing is run for it", async () => {
    const { sae, places } = await saeOf(residual);
    const mute = new Sae(sae.spec, { ...sae, b_enc: sae.b_enc.with(3, -1e6) });
    const forward = vi.spyOn(model, "forward");
    const found = await ablate(mute, model, documents, { ...settings, ...places, latents: [3] });
    const patched = forward.mock.calls.filter(([{ patch }]) => patch !== undefined);
    forward.mockRestore();
    expect(patched).toEqual([]);
    const [{ firings, total, direct, hurt, helped }] = found.latents;
    expect({ firings, hurt, helped }).toEqual({ firings: 0, hurt: [], helped: [] });
    for (const { lossPerDocument, lossPerPrediction, klPerPrediction, lossPerFiring } of [
      total,
      direct,
    ]) {
      for (const one of [lossPerDocument, lossPerPrediction, klPerPrediction])
        expect(one).toEqual({ value: 0, low: 0, high: 0 });
      expect(lossPerFiring.value).toBeNaN();
    }
  });

  test("whose decoder row is 0 changes nothing at all, bit for bit, though all is run again", async () => {
    for (const name of ["residual", "mlp out", "heads"]) {
      const { sae, places } = await saeOf(expected.cases[name]);
      const [{ latent }] = expected.cases[name].ablation.latents;
      const W_dec = sae.W_dec.slice();
      W_dec.fill(0, latent * sae.spec.dOut, (latent + 1) * sae.spec.dOut);
      const empty = new Sae(sae.spec, { ...sae, W_dec });
      const found = await ablate(empty, model, documents, {
        ...{ ...settings, ...places, latents: [latent] },
      });
      expect(found.latents[0].firings).toBeGreaterThan(0);
      for (const effect of [found.latents[0].total, found.latents[0].direct])
        for (const one of Object.values(effect))
          expect(one, name).toEqual({ value: 0, low: 0, high: 0 });
    }
  });

  test("at the last residual stream has its direct effect and no other, and so have random directions", async () => {
    const { sae, places } = await saeOf(last);
    const latents = last.ablation.latents.slice(0, 2).map(({ latent }) => latent);
    const found = await ablate(sae, model, documents, { ...settings, ...places, latents });
    for (const { total, direct, control } of found.latents) {
      expect(total).toEqual(direct);
      expect(control.total).toEqual(control.direct);
      expect(control.total.klPerFiring.value).toBeGreaterThan(0);
      expect(control.total).not.toEqual(total);
    }
  });

  test("gives each latent the numbers that it has alone, whatever fits into a pass, and the same again", async () => {
    const { sae, places } = await saeOf(residual);
    const latents = residual.ablation.latents.map(({ latent }) => latent);
    const run = (options: Partial<AblateOptions>) =>
      ablate(sae, model, documents, { ...settings, ...places, latents, ...options });
    const together = await run({});
    expect(await run({})).toEqual(together);
    for (const [i, latent] of latents.entries()) {
      const alone = await run({ latents: [latent] });
      expect(alone.latents[0].control).toEqual(together.latents[i].control);
      expect(alone.latents[0].total).toEqual(together.latents[i].total);
    }
  });

  test("shows the predictions that change most, in the text's own characters", async () => {
    const { sae, places } = await saeOf(residual);
    const [{ latent }] = residual.ablation.latents;
    const found = await ablate(sae, model, documents, {
      ...{ ...settings, ...places, latents: [latent], examples: 4 },
    });
    const [{ hurt, helped, hurtTokens, total }] = found.latents;
    expect(hurt).toHaveLength(4);
    const losses = hurt.map(({ loss }) => loss);
    expect(losses).toEqual(losses.toSorted((a, b) => b - a));
    expect(Math.max(...losses)).toBeGreaterThan(total.lossPerFiring.value);
    for (const { document, pieces, predicted } of [...hurt, ...helped]) {
      const { text } = documents.find(({ id }) => id === document)!;
      expect(text).toContain(pieces.join(""));
      expect(predicted).toBe(pieces.length - 1);
    }
    for (const { loss } of helped) expect(loss).toBeLessThan(0);
    expect(hurtTokens[0].loss).toBeGreaterThan(0);
  });
});

test("what cannot be is refused, with what to do", async () => {
  const { sae, places } = await saeOf(residual);
  const run = (options: Partial<AblateOptions>, of = sae) =>
    ablate(of, model, documents, { ...settings, ...places, latents: [0], ...options });
  await expect(run({ latents: [48] })).rejects.toThrow("from 0 to 47; got 48");
  await expect(run({ at: "blocks.0.hook_resid_post" })).rejects.toThrow("no crosscoder");
  await expect(run({ controls: 0 })).rejects.toThrow("controls must be at least 1; got 0");
  await expect(run({ hookPoint: "blocks.1.mlp.hook_post" })).rejects.toThrow("width");
  const one = ablate(sae, model, [{ id: "0", text: "a" }], {
    ...{ ...settings, ...places, bos: "none", latents: [0] },
  });
  await expect(one).rejects.toThrow("no prediction to change");
  const { sae: crosscoder, places: several } = await saeOf(expected.cases["crosscoder"]);
  await expect(run({ ...several, at: undefined }, crosscoder)).rejects.toThrow(
    "say at which of its hook points (blocks.0.hook_resid_post, blocks.1.hook_resid_post)",
  );
  const { sae: transcoder } = await saeOf(expected.cases["transcoder"]);
  await expect(run({}, transcoder)).rejects.toThrow("targetHookPoint");
});
