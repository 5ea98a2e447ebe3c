import { expect, test } from "vitest";

import type { SyntheticConfig } from "../config.ts";
import { Rng } from "../rng.ts";
import { assign, recovery, syntheticActivations } from "./synthetic.ts";

const config: SyntheticConfig = {
  from: "synthetic",
  ...{ samples: 400, validationSamples: 300, dIn: 96, features: 20, sparsity: 0.29, noise: 0.1 },
};

/** The strengths that explain x best: least squares over all directions, by normal equations. */
function strengths(x: Float32Array, directions: Float32Array, dIn: number): number[] {
  const n = directions.length / dIn;
  const dot = (a: ArrayLike<number>, i: number, b: ArrayLike<number>, j: number) => {
    let sum = 0;
    for (let c = 0; c < dIn; c++) sum += a[i * dIn + c] * b[j * dIn + c];
    return sum;
  };
  const rows = Array.from({ length: n }, (_, i) => [
    ...Array.from({ length: n }, (_, j) => dot(directions, i, directions, j)),
    dot(directions, i, x, 0),
  ]);
  for (let i = 0; i < n; i++)
    for (let k = 0; k < n; k++) {
      if (k === i) continue;
      const factor = rows[k][i] / rows[i][i];
      for (let j = i; j <= n; j++) rows[k][j] -= factor * rows[i][j];
    }
  return rows.map((row, i) => row[n] / row[i]);
}

test("each sample is the stated number of known directions with strengths |N(0,1)|, plus noise", () => {
  const { train, validation, directions } = syntheticActivations(config, 3);
  expect(train).toHaveLength(400 * 96);
  expect(directions).toHaveLength(20 * 96);
  const used = new Array<number>(20).fill(0);
  const all: number[] = [];
  let noise = 0;
  // The validation split is explained by the same directions: one dictionary.
  for (const [data, rows] of [
    [train, 400],
    [validation, 300],
  ] as const)
    for (let n = 0; n < rows; n++) {
      const x = data.subarray(n * 96, (n + 1) * 96);
      const s = strengths(x, directions, 96);
      const residual = Float64Array.from(x);
      s.forEach((v, j) => {
        for (let c = 0; c < 96; c++) residual[c] -= v * directions[j * 96 + c];
      });
      noise += residual.reduce((sum, v) => sum + v * v, 0) / (96 - 20);
      // 20 × 0.29 = 5.8 → 5; strengths under the noise floor (≈ 0.01 here) cannot be told from 0.
      const active = s.filter((v) => v > 0.05).length;
      expect(active).toBeLessThanOrEqual(5);
      expect(Math.min(...s)).toBeGreaterThan(-0.06);
      s.forEach((v, j) => {
        if (v <= 0.05) return;
        used[j]++;
        all.push(v);
      });
    }
  const count = 700 * 5;
  expect(Math.sqrt(noise / 700)).toBeCloseTo(0.1, 2);
  // E|N| = √(2/π), E N² = 1; the share of |N| under 0.05 is 4 %.
  expect(all.length / count).toBeCloseTo(0.96, 1);
  expect(all.reduce((sum, v) => sum + v, 0) / count).toBeCloseTo(Math.sqrt(2 / Math.PI), 1);
  expect(Math.abs(all.reduce((sum, v) => sum + v * v, 0) / count - 1)).toBeLessThan(0.1);
  for (const n of used) expect(Math.abs(n - 168)).toBeLessThan(5 * Math.sqrt(168));
  const mean = directions.reduce((sum, v) => sum + v, 0) / directions.length;
  const square = directions.reduce((sum, v) => sum + v * v, 0) / directions.length;
  expect(Math.abs(mean)).toBeLessThan(0.1);
  expect(Math.abs(square - 1)).toBeLessThan(0.15);
});

test("the same seed gives the same activations, another seed others, and no feature at all is refused", () => {
  const one = syntheticActivations(config, 1);
  expect(syntheticActivations(config, 1)).toEqual(one);
  expect(syntheticActivations(config, 2).directions).not.toEqual(one.directions);
  expect(() => syntheticActivations({ ...config, sparsity: 0.04 }, 1)).toThrow(
    "features × sparsity must be at least 1",
  );
});

test("recovery is 1 for the directions themselves in any order, sign and length", () => {
  const directions = Float32Array.of(1, 0, 0, 0, 2, 0);
  const W_dec = Float32Array.of(0, 0, 7, 0, -3, 0, 0.5, 0, 0);
  expect(recovery(directions, W_dec, 3)).toEqual({ mmcs: 1, oneToOne: 1 });
});

test("a decoder row that is nearest to two directions counts twice in mmcs and once in the matching", () => {
  const directions = Float32Array.of(1, 0, 0.6, 0.8);
  const got = recovery(directions, Float32Array.of(1, 0, 0, 0), 2);
  expect(got.mmcs).toBeCloseTo((1 + 0.6) / 2, 6);
  expect(got.oneToOne).toBeCloseTo(1 / 2, 6);
  expect(recovery(directions, Float32Array.of(2, 0), 2).oneToOne).toBeCloseTo(1 / 2, 6);
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
