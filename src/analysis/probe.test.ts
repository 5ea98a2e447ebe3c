import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

import { Rng } from "../rng.ts";
import { agreement, auc, bestThreshold } from "./label-scores.ts";
import { fitProbe, probeScores } from "./probe.ts";

interface Fixture {
  probes: {
    name: string;
    C: number;
    standardise: boolean;
    x: number[][];
    labels: number[];
    weights: number[];
    bias: number;
    auc: number;
    accuracy: number;
    balancedAccuracy: number;
    precision: number;
    recall: number;
    f1: number;
  }[];
  curves: { scores: number[]; labels: number[]; auc: number }[];
}

/** Written by test/oracles/concepts.py with scikit-learn. */
const fixture = JSON.parse(
  readFileSync(
    fileURLToPath(new URL("../../test/fixtures/concepts/probes.json", import.meta.url)),
    "utf8",
  ),
) as Fixture;

test.each(fixture.probes)("a probe is scikit-learn's: $name", (expected) => {
  const x = Float64Array.from(expected.x.flat());
  const labels = Uint8Array.from(expected.labels);
  const probe = fitProbe(x, labels, expected);
  expect(probe.converged).toBe(true);
  const largest = Math.max(...expected.weights.map(Math.abs));
  probe.weights.forEach((weight, c) =>
    expect(Math.abs(weight - expected.weights[c]) / largest).toBeLessThan(1e-5),
  );
  expect(Math.abs(probe.bias / expected.bias - 1)).toBeLessThan(1e-5);
  const scores = probeScores(probe, x);
  const found = { ...agreement(scores, labels), auc: auc(scores, labels) };
  for (const key of ["accuracy", "balancedAccuracy", "precision", "recall", "f1", "auc"] as const)
    expect(found[key]).toBeCloseTo(expected[key], 10);
});

test("a probe that begins at one of its first columns is the same, in fewer steps", () => {
  const rng = new Rng(8, "columns");
  const labels = Uint8Array.from({ length: 400 }, (_, n) => Number(n % 3 === 0));
  const columns = [0, 1, 2].map(() => Array.from(labels, (label) => rng.normal() + label));
  const rows = (k: number) => Float64Array.from({ length: 400 * k }, (_, i) => columns[i % k][Math.floor(i / k)]); // prettier-ignore
  const start = fitProbe(rows(2), labels, { standardise: true });
  const cold = fitProbe(rows(3), labels, { standardise: true });
  const warm = fitProbe(rows(3), labels, { standardise: true, start });
  warm.weights.forEach((weight, c) => expect(weight).toBeCloseTo(cold.weights[c], 8));
  expect(warm.bias).toBeCloseTo(cold.bias, 8);
  expect(warm.converged).toBe(true);
  expect(warm.iterations).toBeLessThan(cold.iterations);
});

test.each(fixture.curves)("the AUC is scikit-learn's, ties counting half", (expected) => {
  expect(auc(expected.scores, Uint8Array.from(expected.labels))).toBeCloseTo(expected.auc, 12);
});

test("the AUC of four scores by hand: of the four pairs two are won and one is tied", () => {
  expect(auc([3, 1, 1, 2], Uint8Array.of(1, 1, 0, 0))).toBe(2.5 / 4);
  expect(auc([1, 2], Uint8Array.of(1, 1))).toBeNaN();
});

test("without its label's other class a probe is certain", () => {
  const probe = fitProbe(Float32Array.of(1, 2, 3), Uint8Array.of(1, 1, 1));
  expect(probe).toMatchObject({ weights: Float64Array.of(0), bias: Infinity, converged: true });
  expect(fitProbe(Float32Array.of(1, 2), Uint8Array.of(0, 0)).bias).toBe(-Infinity);
});

test("nothing labelled or nothing predicted is no division by zero", () => {
  expect(agreement([-1, -1], Uint8Array.of(1, 0))).toMatchObject({
    ...{ precision: 0, recall: 0, f1: 0, accuracy: 0.5, balancedAccuracy: 0.5 },
  });
  expect(agreement([-1, -1], Uint8Array.of(0, 0))).toMatchObject({ recall: NaN, f1: NaN });
});

test("the best threshold takes tied scores together", () => {
  // ≥ 3: F1 2/4; ≥ 2: 4/6 of three predicted, all tied ones included; ≥ 1: 6/8.
  expect(bestThreshold(Float32Array.of(3, 2, 2, 1, 0), Uint8Array.of(1, 1, 0, 1, 0))).toEqual({
    ...{ threshold: 1, f1: 6 / 7 },
  });
  expect(bestThreshold(new Float32Array(2), Uint8Array.of(0, 0)).threshold).toBe(Infinity);
});

test("with many columns the steps by conjugate gradients end where those by Cholesky do", () => {
  const rng = new Rng(5, "probe");
  const [rows, columns] = [400, 33];
  const x = Float64Array.from({ length: rows * columns }, () => rng.normal());
  const labels = Uint8Array.from({ length: rows }, (_, n) =>
    Number(x[n * columns] + x[n * columns + 1] + rng.normal() > 1),
  );
  const wide = fitProbe(x, labels);
  // The last column on its own side: the same fit without it, and zeros in its place.
  const without = x.filter((_, i) => i % columns !== 32);
  const zeroed = x.map((value, i) => (i % columns === 32 ? 0 : value));
  const narrow = fitProbe(without, labels);
  const padded = fitProbe(zeroed, labels);
  narrow.weights.forEach((weight, c) => expect(padded.weights[c]).toBeCloseTo(weight, 7));
  expect(padded.weights[32]).toBe(0);
  expect(wide.weights[0]).toBeGreaterThan(1);
});
