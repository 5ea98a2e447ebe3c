import { afterAll, expect, test } from "vitest";

import { parseSection, saeSchema } from "../config.ts";
import { openDevice } from "../device/device.ts";
import { Rng } from "../rng.ts";
import { resolveSae } from "./architecture.ts";
import { initialWeights } from "./initialize.ts";
import { identity } from "./transform.ts";
import { TrainingStep } from "./step.ts";
import { nextExponent } from "./schedules.ts";

const device = await openDevice("cpu", { threads: 2 });
afterAll(() => device.close());

const adam = { learningRate: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-2 };

test.each([
  { architecture: "relu", l1: 1 },
  { architecture: "relu", l1: 1, matryoshkaWidths: [7] },
  { architecture: "gated", l1: 1 },
  { architecture: "jumprelu", sparsityLoss: "quadratic", targetL0: 5, preActCoefficient: 0.1 },
  { architecture: "jumprelu", sparsityLoss: "tanh", unitNormDecoder: false },
])("a batch worked on in pieces gives the step that it gives as a whole (%j)", async (settings) => {
  const [dIn, dSae, rows] = [9, 30, 50];
  const sae = parseSection(saeSchema, { dSae, ...settings }, "sae");
  const resolved = resolveSae(sae, { dIn });
  const rng = new Rng(4, "pieces");
  const inputs = Array.from({ length: 4 }, () =>
    Float32Array.from({ length: rows * dIn }, () => rng.normal()),
  );
  const outcomes = [];
  for (const denseBytes of [2 ** 20, 16 * dSae * 30]) {
    const transforms = { input: identity(dIn), output: identity(dIn) };
    const options = {
      ...{ batchSize: rows, deadAfterTokens: 60, clipGradNorm: undefined, emaDecay: 0, transforms },
      denseBytes,
    };
    const weights = initialWeights(resolved, 3);
    // Some latents never fire, so that there are dead ones from the second batch on.
    weights.b_enc.fill(-50, 0, 5);
    const step = new TrainingStep(device, resolved, options, { ...weights });
    const losses = [];
    for (const [i, input] of inputs.entries()) {
      const { terms } = await step.run(input, rows, {
        ...{ adam: { ...adam, step: i + 1 }, sparsityCoefficient: 0.5, p: 1, nextP: null, k: 0 },
        dense: true,
      });
      losses.push(terms.reconstruction, terms.sparsity, terms.aux);
    }
    outcomes.push({ losses, weights: await step.weights(false), dead: step.dead });
    step.close();
  }
  const [whole, pieces] = outcomes;
  expect(pieces.dead).toBe(whole.dead);
  for (const [i, loss] of whole.losses.entries()) expect(pieces.losses[i]).toBeCloseTo(loss, 4);
  for (const [name, data] of Object.entries<Float32Array>({ ...whole.weights }))
    for (const [i, v] of data.entries())
      expect(pieces.weights[name as "W_enc"][i], `${name}[${i}]`).toBeCloseTo(v, 4);
});

test("p-annealing makes every change it announces, whatever the numbers", () => {
  for (let total = 30; total < 120; total += 7)
    for (const pAnnealStart of [0, 5, 11])
      for (let pUpdates = 1; pUpdates <= 24; pUpdates++) {
        const plan = { kind: "lp", pEnd: 0.4, pAnnealStart, pUpdates } as never;
        const steps = [];
        let p = 1;
        for (let step = 1; step <= total; step++) {
          const next = nextExponent(plan, step, total);
          if (!next?.changes) continue;
          steps.push(step);
          p = next.p;
        }
        const announced = new Set(
          Array.from(
            { length: pUpdates },
            (_, i) =>
              pAnnealStart + Math.floor(((i + 1) * (total - pAnnealStart)) / (pUpdates + 1)),
          ).filter((step) => step > 0),
        );
        expect(steps).toEqual([...announced]);
        expect(p).toBeCloseTo(0.4, 12);
      }
});
