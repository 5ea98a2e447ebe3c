import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

import { benjaminiHochberg, gammaTails, normalTail, pearson3Tail, wilson } from "./significance.ts";

const oracle = JSON.parse(
  readFileSync(
    new URL("../../test/fixtures/composition/composition.json", import.meta.url),
    "utf8",
  ),
) as {
  pairs: { more: number }[];
  q: number[];
  tails: {
    normal: [number, number][];
    pearson3: [number, number, number][];
    gamma: [number, number, number, number][];
    wilson: [number, number, number, number][];
  };
};

test("has scipy's tails, far out too", () => {
  const close = (value: number, expected: number) =>
    expect(Math.abs(value - expected)).toBeLessThan(1e-9 + 1e-5 * expected);
  const near = (value: number, expected: number) =>
    expect(Math.abs(value / expected - 1)).toBeLessThan(1e-5);
  for (const [z, tail] of oracle.tails.normal) near(normalTail(z), tail);
  for (const [x, skew, tail] of oracle.tails.pearson3)
    close(pearson3Tail(x, { mean: 0, variance: 1, third: skew }), tail);
  for (const [a, x, lower, upper] of oracle.tails.gamma) {
    near(gammaTails(a, x).lower, lower);
    near(gammaTails(a, x).upper, upper);
  }
  for (const [count, n, low, high] of oracle.tails.wilson) {
    close(wilson(count, n)[0], low);
    close(wilson(count, n)[1], high);
  }
});

test("has scipy's q-values, and counts tests that are not named as p = 1", () => {
  const p = oracle.pairs.map(({ more }) => more);
  benjaminiHochberg(p).forEach((q, i) => expect(q).toBeCloseTo(oracle.q[i], 10));
  expect([...benjaminiHochberg([0.01, 0.02], 10)]).toEqual([0.1, 0.1]);
  expect([...benjaminiHochberg([])]).toEqual([]);
});
