import { expect, test } from "vitest";

import { memorySource } from "../activation-source.ts";
import { parseSection, saeSchema, trainSchema } from "../config.ts";
import { openDevice, type Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import { resolveSae } from "./architecture.ts";
import { planMemory } from "./memory-plan.ts";
import { Trainer } from "./train.ts";
import { identity } from "./transform.ts";

const GIB = 2 ** 30;

function planOf(sae: Record<string, unknown>, dIn: number, batchSize: number) {
  const resolved = resolveSae(parseSection(saeSchema, sae, "sae"), { dIn });
  const options = {
    batchSize,
    deadAfterTokens: 1e5,
    clipGradNorm: undefined,
    emaDecay: 0,
    transforms: { input: identity(dIn), output: identity(dIn) },
  };
  return planMemory(resolved, options);
}

test("training takes at most four times the weights and 1 GiB, at any width and batch", () => {
  for (const architecture of ["topk", "batchTopk", "relu", "jumprelu", "gated"])
    for (const dSae of [2048, 24_576, 131_072])
      for (const batchSize of [256, 4096, 16_384]) {
        const { weights, total } = planOf({ architecture, dSae }, 768, batchSize);
        expect(total / GIB, `${architecture} ${dSae} ${batchSize}`).toBeLessThan(
          (4 * weights) / GIB + 1,
        );
      }
});

test("the plan of a small TopK SAE by hand", () => {
  const plan = planOf({ architecture: "topk", dSae: 100, k: 5, auxKCoefficient: 0 }, 10, 7);
  expect(plan.weights).toBe(4 * (100 * 21 + 10));
  // indices, values and their gradients
  expect(plan.latents).toBe(4 * 3 * 7 * 5);
  expect(plan.total).toBe(plan.weights + plan.optimiser + plan.latents + plan.batch);
});

test("what does not fit is refused before anything is allocated, with the numbers and what to change", async () => {
  const device = await openDevice("reference");
  const small = { ...device, memoryLimit: GIB, name: "reference" } as Device;
  const source = memorySource(new Float32Array(20 * 768).fill(1), 768);
  const create = (sae: Record<string, unknown>, batchSize: number) =>
    Trainer.create(small, {
      ...{ sae: { architecture: "topk", ...sae } as never, source },
      train: parseSection(trainSchema, { batchSize, steps: 1 }, "train"),
    });
  const wide = create({ dSae: 1_000_000_000 }, 16);
  await expect(wide).rejects.toThrow(UserError);
  await expect(wide).rejects.toThrow(/lower sae.dSae \(1000000000\)/);
  await expect(create({ dSae: 2048 }, 200_000)).rejects.toThrow(
    /training would take \d+\.\d+ GiB of memory, but the reference device has 1\.00 GiB: .*lower train.batchSize/,
  );
});
