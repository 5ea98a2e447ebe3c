import { afterAll, expect, test } from "vitest";

import { parseSection, saeSchema } from "../config.ts";
import { openDevice } from "../device/device.ts";
import { Rng } from "../rng.ts";
import { resolveSae } from "./architecture.ts";
import { initialWeights } from "./initialize.ts";
import { Parameters } from "./parameters.ts";
import { resample } from "./resample.ts";

const device = await openDevice("reference");
afterAll(() => device.close());

const [dIn, dSae, deadAfterTokens] = [5, 16, 10];
/** The third row is reconstructed perfectly. */
const errors = [1, 4, 0, 2, 1, 8];
const rng = new Rng(1, "rows");
const rows = errors.map(() => Float64Array.from({ length: dIn }, () => rng.normal()));
const rowStats = Float64Array.from(errors.flatMap((error) => [9, 9, 9, error]));

/** Restarts from those rows; latents 0 … 3 live. */
async function restarted(step: number, sinceFired: Int32Array) {
  const sae = parseSection(saeSchema, { architecture: "gated", dSae }, "sae");
  const resolved = resolveSae(sae, { dIn });
  const start = { ...initialWeights(resolved, 2), "W_enc.m": new Float32Array(dSae * dIn).fill(1) };
  start.W_enc = start.W_enc.map((v) => 3 * v);
  start.b_dec = Float32Array.of(1, 2, 0, 0, -1);
  const parameters = new Parameters(
    device,
    resolved,
    { clipGradNorm: undefined, emaDecay: 0.9 },
    start,
  );
  const row = (n: number) => rows[n];
  const batch = { input: row, target: row, rowStats };
  const at = { deadAfterTokens, seed: 7, step };
  const count = await resample(device, parameters, resolved, batch, sinceFired, at);
  const [weights, averages, moments] = [
    await parameters.weights(false),
    await parameters.weights(true),
    await parameters.moments(),
  ];
  parameters.close();
  const directions = rows.map((v) => {
    const centred = v.map((x, c) => x - start.b_dec[c]);
    return centred.map((x) => x / Math.hypot(...centred));
  });
  /** The row whose direction latent f has taken. */
  const rowOf = (f: number) =>
    directions.findIndex((d) => d.every((v, c) => Math.abs(v - weights.W_dec[f * dIn + c]) < 1e-6));
  return { count, start, weights, averages, moments, rowOf };
}

const sinceFired = () => Int32Array.from({ length: dSae }, (_, f) => (f < 4 ? 9 : 10));

test("no two latents begin at one row, and those for which there is none wait", async () => {
  const since = sinceFired();
  const { count, start, weights, averages, moments, rowOf } = await restarted(1, since);
  expect(count).toBe(5);
  expect([...since]).toEqual([9, 9, 9, 9, 0, 0, 0, 0, 0, ...new Array<number>(7).fill(10)]);
  expect([4, 5, 6, 7, 8].map(rowOf).sort()).toEqual([0, 1, 3, 4, 5]);
  for (const f of [0, 3, 9, 15]) expect(rowOf(f)).toBe(-1);
  for (let f = 0; f < dSae; f++) {
    const [from, to] = [f * dIn, (f + 1) * dIn];
    const isNew = f >= 4 && f < 9;
    const row = weights.W_enc.subarray(from, to);
    // Living rows are of norm 3.
    expect(Math.hypot(...row)).toBeCloseTo(isNew ? 0.6 : 3, 5);
    if (isNew) row.forEach((v, c) => expect(v).toBeCloseTo(0.6 * weights.W_dec[from + c], 6));
    else expect(row).toEqual(start.W_enc.subarray(from, to));
    expect(averages.W_enc.subarray(from, to)).toEqual(row);
    expect([...moments["W_enc.m"]!.subarray(from, to)]).toEqual(
      new Array<number>(dIn).fill(isNew ? 0 : 1),
    );
  }
});

test("rows are drawn as often as their squared errors say", async () => {
  const firsts = new Array<number>(errors.length).fill(0);
  const draws = 2000;
  for (let step = 0; step < draws; step++)
    firsts[(await restarted(step, sinceFired())).rowOf(4)] += 1;
  for (const [n, error] of errors.entries()) {
    const share = error / 16;
    const deviation = Math.sqrt((share * (1 - share)) / draws);
    expect(Math.abs(firsts[n] / draws - share)).toBeLessThanOrEqual(4 * deviation);
  }
});
