import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

import { rowsOf } from "../../test/labelled-rows.ts";
import { Rng } from "../rng.ts";
import { DocumentDraws } from "./document-draws.ts";
import { sparseProbing } from "./supervised-probing.ts";
import { spuriousRemoval } from "./supervised-scr.ts";
import { matchedLatents, scoresOnDraws } from "./supervised-scores.ts";
import { sentenceStarts, type LabelledRows, type LabelledSplit } from "./supervised-rows.ts";
import { targetedPerturbation } from "./supervised-tpp.ts";

interface Part {
  x: number[];
  codes: number[];
  a: number[];
  b: number[];
  document: number[];
}

const oracle = JSON.parse(
  readFileSync(new URL("../../test/fixtures/supervised/fixture.json", import.meta.url), "utf8"),
) as {
  dIn: number;
  dSae: number;
  documents: number;
  W_dec: number[];
  train: Part;
  test: Part;
  probing: Record<string, Record<string, Record<string, number> & { columns?: number[] }>>;
  scr: Record<
    string,
    { clean: number; biased: number; order: number[]; scores: number[]; meanScores: number[] }
  >;
  tpp: { n: number; own: number; others: number; score: number }[];
};

function oracleRows({ x, codes, a, b, document }: Part): LabelledRows {
  return rowsOf(x, codes, { a, b }, document, oracle);
}

const split: LabelledSplit = { train: oracleRows(oracle.train), test: oracleRows(oracle.test) };
const W_dec = Float32Array.from(oracle.W_dec);

test("sparse probes choose the columns and have the scores of numpy and scikit-learn", () => {
  const { concepts } = sparseProbing(split, { ks: [1, 2, 5] });
  expect(concepts.map(({ concept }) => concept)).toEqual(["a", "b"]);
  for (const { concept, probes } of concepts) {
    for (const [name, expected] of Object.entries(oracle.probing[concept])) {
      const found = probes.find(({ probed, k }) => `${probed} ${k}` === name)!;
      expect(found.columns).toEqual(expected.columns);
      for (const measure of ["accuracy", "balancedAccuracy", "auc", "f1"] as const) {
        const { value, low, high } = found.scores[measure];
        expect(value, `${concept}, ${name}, ${measure}`).toBeCloseTo(expected[measure], 6);
        expect(low).toBeLessThanOrEqual(value);
        expect(high).toBeGreaterThanOrEqual(value);
      }
    }
  }
});

test("SCR is that of numpy and scikit-learn, latents in the same order", () => {
  const { pairs } = spuriousRemoval(split, W_dec, {
    pairs: [
      ["a", "b"],
      ["b", "a"],
    ],
    removed: [1, 2, 5, 10],
  });
  for (const { target, spurious, accuracy, removed } of pairs) {
    const expected = oracle.scr[`${target} ${spurious}`];
    expect(accuracy.clean.value).toBeCloseTo(expected.clean, 6);
    expect(accuracy.biased.value).toBeCloseTo(expected.biased, 6);
    expect(removed.map(({ n }) => n)).toEqual([1, 2, 5, 10]);
    for (const [i, { n, latents, toZero, toMean }] of removed.entries()) {
      expect(latents).toEqual(expected.order.slice(0, n));
      expect(toZero.score.value).toBeCloseTo(expected.scores[i], 6);
      expect(toMean.score.value).toBeCloseTo(expected.meanScores[i], 6);
    }
  }
});

test("TPP is that of numpy and scikit-learn", () => {
  const { removed } = targetedPerturbation(split, W_dec, {
    concepts: ["a", "b"],
    removed: [1, 2, 5],
  });
  expect(removed).toHaveLength(3);
  for (const [i, { n, own, others, score }] of removed.entries()) {
    expect(n).toBe(oracle.tpp[i].n);
    expect(own.value).toBeCloseTo(oracle.tpp[i].own, 6);
    expect(others.value).toBeCloseTo(oracle.tpp[i].others, 6);
    expect(score.value).toBeCloseTo(oracle.tpp[i].score, 6);
  }
});

/** Latent 0 is concept a, latent 1 is concept b, the rest fire at random; the decoder is the identity. */
function planted(seed: number, perCell: number): LabelledRows {
  const dSae = 8;
  const rng = new Rng(seed, "planted");
  const rows = 4 * perCell;
  const [a, b] = [1, 0].map((bit) => Array.from({ length: rows }, (_, n) => (n >> bit) & 1));
  const codes = new Float32Array(rows * dSae);
  for (let n = 0; n < rows; n++) {
    // a is faint in the activation, so that a classifier leans on b where the two go together.
    codes[n * dSae] = a[n] * 0.5;
    codes[n * dSae + 1] = b[n] * 3;
    for (let f = 2; f < dSae; f++) codes[n * dSae + f] = rng.uniform() < 0.4 ? rng.uniform() : 0;
  }
  const x = codes.map((v, i) => v + (i % dSae === 0 ? 0.2 * rng.normal() : 0));
  const document = Array.from({ length: rows }, (_, n) => Math.floor(n / 8));
  return rowsOf(x, codes, { a, b }, document, { dIn: dSae, dSae, documents: Math.ceil(rows / 8) });
}

const plantedSplit = { train: planted(1, 60), test: planted(2, 60) };
const identity = Float32Array.from({ length: 64 }, (_, i) => Number(i % 9 === 0));

test("one latent that is the concept probes it perfectly", () => {
  const { concepts } = sparseProbing(plantedSplit, { ks: [1] });
  for (const { probes } of concepts) {
    const at = (name: string) => probes.find(({ probed }) => probed === name)!.scores.accuracy;
    expect(at("latents")).toEqual({ value: 1, low: 1, high: 1 });
    expect(at("full").value).toBeGreaterThan(0.8);
  }
  expect(concepts.map(({ probes }) => probes[0].columns)).toEqual([[0], [1]]);
});

test("removing the one latent that is the spurious concept removes the whole bias; random ones nothing", () => {
  const { pairs, means } = spuriousRemoval(plantedSplit, identity, {
    pairs: [["a", "b"]],
    removed: [1],
  });
  const [{ unmeasured, removed }] = pairs;
  expect(unmeasured).toBeUndefined();
  expect(removed[0].latents).toEqual([1]);
  const { toZero, toMean } = removed[0];
  expect(toMean.score.value).toBeGreaterThan(0.7);
  expect(Math.abs(toMean.null.value)).toBeLessThan(0.15);
  // Without the latent all rows look as if they had neither: the threshold is in the wrong place.
  expect(toZero.accuracy.value).toBeLessThan(0.6);
  expect(means).toHaveLength(1);
});

test("a classifier that is not biased has no SCR but a reason", () => {
  // b is not in the activation at all, so nothing can lean on it.
  const blind = (rows: LabelledRows): LabelledRows => ({
    ...rows,
    x: rows.x.map((v, i) => (i % 8 === 1 ? 0 : v)),
  });
  const { pairs, means } = spuriousRemoval(
    { train: blind(plantedSplit.train), test: blind(plantedSplit.test) },
    identity,
    { pairs: [["a", "b"]], removed: [1] },
  );
  expect(pairs[0].unmeasured).toMatch(/no bias to remove/);
  expect(pairs[0].removed).toEqual([]);
  expect(means).toEqual([]);
});

test("removing a concept's own latent costs its own probe half of what it can lose and the others nothing", () => {
  const { removed } = targetedPerturbation(plantedSplit, identity, {
    ...{ concepts: ["a", "b"], removed: [1] },
  });
  expect(removed[0].own.value).toBeGreaterThan(0.3);
  expect(Math.abs(removed[0].others.value)).toBeLessThan(0.05);
  expect(Math.abs(removed[0].null.value)).toBeLessThan(0.1);
});

test("concepts with too few rows are named instead of scored", () => {
  const few = { train: planted(1, 9), test: planted(2, 9) };
  expect(sparseProbing(few).tooRare).toEqual(["a", "b"]);
  expect(targetedPerturbation(few, identity, { concepts: ["a", "b"] })).toMatchObject({
    tooRare: ["a", "b"],
    removed: [],
  });
  const [pair] = spuriousRemoval(few, identity, { pairs: [["a", "b"]] }).pairs;
  expect(pair.unmeasured).toMatch(/fewer than 15 rows/);
});

test("scores of tied rows count half, and documents drawn twice count twice", () => {
  const scores = Float64Array.of(-1, 0.5, 0.5, 2);
  const { auc, accuracy, f1 } = scoresOnDraws(
    new DocumentDraws(3, 0),
    Int32Array.of(0, 1, 1, 2),
    scores,
    Uint8Array.of(0, 0, 1, 1),
  );
  expect(auc.value).toBe(3.5 / 4);
  expect(accuracy.value).toBe(3 / 4);
  expect(f1.value).toBeCloseTo(0.8, 12);
});

test("matched latents are others, and fire about as often", () => {
  const counts = [5, 5, 5, 900, 901, 902, 903];
  const offsets = Int32Array.from([0, ...counts]).map((_, i) =>
    counts.slice(0, i).reduce((a, b) => a + b, 0),
  );
  const none = { positions: new Int32Array(), values: new Float32Array() };
  const found = matchedLatents({ codes: { offsets, ...none }, dSae: 7 }, [0, 3], new Rng(0));
  expect(new Set([...found, 0, 3]).size).toBe(4);
});

test("sentences end with their quotation marks, and at line ends", () => {
  const text = 'He ran. "Stop!" said Tom.\n\nThe end.';
  const starts = sentenceStarts(text);
  expect(starts.map((start, i) => text.slice(start, starts[i + 1]))).toEqual([
    "He ran. ",
    '"Stop!" ',
    "said Tom.\n\n",
    "The end.",
  ]);
});
