import { expect, test } from "vitest";

import { memorySource } from "../activation-source.ts";
import { openDevice } from "../device/device.ts";
import { Rng } from "../rng.ts";
import { evaluateReconstruction, latentSummary, ReconstructionSums } from "./metrics.ts";
import { Sae } from "./sae.ts";

/** One latent per axis of the plane; encoder and decoder are the identity, biases 0. */
const identity = new Sae(
  {
    selection: { architecture: "relu" },
    ...{ dIn: 2, dSae: 3, applyBDecToInput: false },
  },
  {
    W_enc: Float32Array.of(1, 0, 0, 1, -1, -1),
    b_enc: Float32Array.of(0, 0, -100),
    W_dec: Float32Array.of(1, 0, 0, 1, 0, 0),
    b_dec: new Float32Array(2),
  },
);

test("the metrics of four rows are those worked out by hand", async () => {
  const device = await openDevice("reference");
  // x̂ clips negative numbers to 0: residuals (0,0), (0,-1), (-2,0), (0,0).
  const source = memorySource(Float32Array.of(3, 4, 2, -1, -2, 5, 1, 0), 2);
  const sae = identity.on(device, 3);
  const got = await evaluateReconstruction(sae, source);
  expect(got.rows).toBe(4);
  expect(got.mse).toBeCloseTo(5 / 8, 12);
  // mean (1, 2); Σ‖x - x̄‖² = (4+4) + (1+9) + (9+9) + (0+4) = 40
  expect(got.fvu).toBeCloseTo(5 / 40, 12);
  expect(got.l0).toBeCloseTo((2 + 1 + 1 + 1) / 4, 12);
  expect(got.l1).toBeCloseTo((7 + 2 + 5 + 1) / 4, 12);
  expect(got.cosine).toBeCloseTo((1 + 2 / Math.sqrt(5) + 5 / Math.sqrt(29) + 1) / 4, 6);
  expect(got.deadFraction).toBeCloseTo(1 / 3, 12);
  expect(got.denseFraction).toBeCloseTo(2 / 3, 12);
  expect([...got.density]).toEqual([3 / 4, 2 / 4, 0]);
  expect([...got.meanActivation]).toEqual([6 / 4, 9 / 4, 0]);
  sae.close();
  await device.close();
});

test("the metrics do not depend on how the rows are cut into batches", async () => {
  const device = await openDevice("reference");
  const rng = new Rng(5, "metrics");
  // A mean far from 0, where a sum of squares in float32 would lose the variance.
  const data = Float32Array.from({ length: 500 * 2 }, () => 1000 + rng.normal());
  const run = async (maxRows: number) => {
    const sae = identity.on(device, maxRows);
    const got = await evaluateReconstruction(sae, memorySource(data, 2));
    sae.close();
    return got;
  };
  const [a, b] = [await run(500), await run(7)];
  for (const key of ["mse", "fvu", "l0", "cosine", "deadFraction", "denseFraction"] as const)
    expect(Math.abs(a[key] - b[key]), key).toBeLessThanOrEqual(1e-12 * Math.abs(a[key]));
  expect(b.density).toEqual(a.density);
  await device.close();
});

test("the variance is exact when the mean is far larger than the spread", () => {
  const sums = new ReconstructionSums(1, 1);
  sums.addTargets(Float32Array.of(4000, 4001, 4002), 3);
  sums.addOutputs({
    rowStats: Float64Array.of(0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0),
    error: 1,
    counts: Int32Array.of(0),
    sums: Float32Array.of(0),
  });
  expect(sums.metrics().fvu).toBeCloseTo(1 / 2, 9);
});

test("a row whose reconstruction is 0 has cosine 0, not NaN", () => {
  const sums = new ReconstructionSums(1, 1);
  sums.addTargets(Float32Array.of(1, 2), 2);
  const rowStats = Float64Array.of(1, 0, 0, 1, 4, 4, 4, 0);
  sums.addOutputs({ rowStats, error: 1, counts: Int32Array.of(1), sums: Float32Array.of(2) });
  expect(sums.metrics().cosine).toBe(0.5);
});

test("the summary of latents is that of their means and densities", () => {
  const got = latentSummary({
    density: Float64Array.of(0.5, 0.01, 0.02, 0),
    meanActivation: Float64Array.of(1, 2, 3, 6),
  });
  expect(got.meanActivation.mean).toBe(3);
  expect(got.meanActivation.std).toBeCloseTo(Math.sqrt(14 / 3), 12);
  expect(got.meanDensity).toBeCloseTo(0.1325, 12);
  expect(got.activeFeatures).toBe(2);
});
