import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { openDevice, type Device } from "../device/device.ts";
import { Rng } from "../rng.ts";
import { absorption, assign, recovery } from "./recovery.ts";
import { Sae } from "./sae.ts";

test("recovery is 1 for the directions themselves in any order, sign and length", () => {
  const directions = Float32Array.of(1, 0, 0, 0, 2, 0);
  const W_dec = Float32Array.of(0, 0, 7, 0, -3, 0, 0.5, 0, 0);
  expect(recovery(directions, W_dec, 3)).toMatchObject({ mmcs: 1, oneToOne: 1, recovered: 1 });
});

test("a decoder row that is nearest to two directions counts twice in mmcs and once in the matching", () => {
  const directions = Float32Array.of(1, 0, 0.6, 0.8);
  const got = recovery(directions, Float32Array.of(1, 0, 0, 0), 2);
  expect(got.mmcs).toBeCloseTo((1 + 0.6) / 2, 6);
  expect(got.oneToOne).toBeCloseTo(1 / 2, 6);
  expect(recovery(directions, Float32Array.of(2, 0), 2).oneToOne).toBeCloseTo(1 / 2, 6);
});

test("a direction is recovered from a cosine of 0.9 on, and latents that never fire say nothing about the others", () => {
  // Cosines with the decoder rows: 0.96 and 0.28, 0.28 and 0.96, 0.8 and 0.6 in both of the last.
  const directions = Float32Array.of(1, 0, 0, 1);
  const W_dec = Float32Array.of(0.96, 0.28, 0.6, 0.8, 0.8, 0.6);
  const got = recovery(directions, W_dec, 2);
  expect(got.recovered).toBe(1 / 2);
  expect(got.oneToOne).toBeCloseTo((0.96 + 0.8) / 2, 6);
  expect(got.latentMmcs).toBeCloseTo((0.96 + 0.8 + 0.8) / 3, 6);
  const fires = [0.3, 0, 0.001];
  expect(recovery(directions, W_dec, 2, fires).latentMmcs).toBeCloseTo((0.96 + 0.8) / 2, 6);
  expect(recovery(directions, W_dec, 2, [0, 0, 0]).latentMmcs).toBe(0);
});

describe("absorption", () => {
  let device: Device;
  beforeAll(async () => {
    device = await openDevice("reference");
  });
  afterAll(() => device.close());
  const directions = Float32Array.of(1, 0, 0, 1);
  // One number is the parent's strength, the other its child's. The last row has neither.
  const validation = Float32Array.of(1, 0, 1, 1, 0.05, 0, 1, 0.1, 2, 0, 1, 0.6, 0, 0);
  const made = {
    ...{ train: validation, validation, directions, rates: Float64Array.of(0.8, 0.4) },
    ...{ parents: Int32Array.of(-1, 0), validationStrengths: validation },
  };
  /** Latent 1 is the parent's: it fires where x_0 - inhibition·x_1 > 0.1; latent 0 is the child's. */
  const measured = async (
    inhibition: number,
    known: typeof made | Omit<typeof made, "parents">,
  ) => {
    const sae = new Sae(
      { selection: { architecture: "relu" }, dIn: 2, dSae: 2, applyBDecToInput: false },
      {
        W_enc: Float32Array.of(0, 1, 1, -inhibition),
        b_enc: Float32Array.of(0, -0.1),
        W_dec: Float32Array.of(0, 1, 1, 0),
        b_dec: new Float32Array(2),
      },
    );
    const encoder = sae.on(device, 3);
    try {
      return await absorption(encoder, sae.W_dec, known);
    } finally {
      encoder.close();
    }
  };

  test("counts parents whose latent is silent, beside a child and alone", async () => {
    // Alone: 1, 0.05 (missed), 2. With a child: (1, 1) and (1, 0.6) missed, (1, 0.1) not.
    const got = (await measured(2, made))!;
    expect(got.missedAlone).toBeCloseTo(1 / 3, 12);
    expect(got.missedWithChild).toBeCloseTo(2 / 3, 12);
    expect(got.absorption).toBeCloseTo(1 / 3, 12);
    expect((await measured(0, made))!.missedWithChild).toBe(0);
  });

  test("is undefined without parents, and where no parent is alone", async () => {
    const { parents: _parents, ...flat } = made;
    expect(await measured(0, flat)).toBeUndefined();
    const together = Float32Array.of(1, 1, 2, 1);
    const never = { ...made, validation: together, validationStrengths: together };
    expect(await measured(0, never)).toBeUndefined();
  });
});

test("the assignment is the best of all, by brute force", () => {
  const rng = new Rng(9, "assign");
  const best = (
    score: Float64Array,
    n: number,
    m: number,
    i = 0,
    taken = new Set<number>(),
  ): number => {
    if (i === n) return 0;
    let top = n > m ? best(score, n, m, i + 1, taken) : -Infinity;
    for (let j = 0; j < m; j++) {
      if (taken.has(j)) continue;
      const rest = best(score, n, m, i + 1, new Set([...taken, j]));
      top = Math.max(top, score[i * m + j] + rest);
    }
    return top;
  };
  for (let trial = 0; trial < 60; trial++) {
    const [n, m] = [1 + rng.int(5), 1 + rng.int(6)];
    // Small integers make ties common.
    const score = Float64Array.from({ length: n * m }, () =>
      trial % 2 ? rng.int(4) : rng.uniform(),
    );
    const columns = assign(score, n, m);
    const chosen = columns.filter((j) => j >= 0);
    expect(chosen.length).toBe(Math.min(n, m));
    expect(new Set(chosen).size).toBe(chosen.length);
    const total = columns.reduce((sum, j, i) => sum + (j < 0 ? 0 : score[i * m + j]), 0);
    expect(total).toBeCloseTo(best(score, n, m), 10);
  }
});
