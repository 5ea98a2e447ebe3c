import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

import { rowsOf } from "../../test/labelled-rows.ts";
import { Rng } from "../rng.ts";
import { absorbedAlong, absorptionOfKinds } from "./supervised-absorption.ts";
import type { LabelledRows, LabelledSplit } from "./supervised-rows.ts";

const oracle = JSON.parse(
  readFileSync(new URL("../../test/fixtures/supervised/absorption.json", import.meta.url), "utf8"),
) as {
  dIn: number;
  dSae: number;
  main: number[];
  direction: number[];
  W_dec: number[];
  x: number[];
  codes: number[];
  fraction: number[];
  full: number[];
  top: number[];
};

test("fraction and full absorption of every row are numpy's", () => {
  const { x, codes, dIn, dSae, main } = oracle;
  const rows = oracle.fraction.length;
  const sample = rowsOf(x, codes, {}, new Int32Array(rows), { dIn, dSae, documents: 1 });
  const found = absorbedAlong(
    ...([sample, Int32Array.from({ length: rows }, (_, n) => n)] as const),
    ...([Float32Array.from(oracle.W_dec), Float64Array.from(oracle.direction), main] as const),
  );
  for (const [n, expected] of oracle.fraction.entries())
    expect(found.fraction[n], `row ${n}`).toBeCloseTo(expected, 5);
  expect([...found.full]).toEqual(oracle.full);
  expect([...found.top]).toEqual(oracle.top);
});

/**
 * Dimension 0 is `pet`, 1 and 2 what makes a cat and a dog of it. Latent 0 is the parent, latent 1 cats; all
 * pets that are cats have the parent's direction in latent 1 alone when `absorbs`, in latent 0 otherwise.
 */
function pets(seed: number, absorbs: boolean): LabelledRows {
  const rng = new Rng(seed, "pets");
  const rows = 400;
  const [dIn, dSae] = [4, 3];
  const codes = new Float32Array(rows * dSae);
  const x = new Float32Array(rows * dIn);
  const labels = { pet: new Uint8Array(rows), "pet.cat": new Uint8Array(rows) };
  for (let n = 0; n < rows; n++) {
    const kind = rng.int(4);
    const [isPet, isCat] = [kind >= 2, kind === 3];
    labels.pet[n] = Number(isPet);
    labels["pet.cat"][n] = Number(isCat);
    if (isPet && !(isCat && absorbs)) codes[n * dSae] = 2;
    if (isCat) codes[n * dSae + 1] = 2;
    if (!isPet) codes[n * dSae + 2] = 1;
    x[n * dIn] = isPet ? 2 : 0;
    x[n * dIn + 1] = isCat ? 2 : 0;
    x[n * dIn + 3] = 0.1 * rng.normal();
  }
  const document = Array.from({ length: rows }, (_, n) => Math.floor(n / 8));
  return rowsOf(x, codes, labels, document, { dIn, dSae, documents: rows / 8 });
}

const split = (absorbs: boolean): LabelledSplit => ({
  train: pets(1, absorbs),
  test: pets(2, absorbs),
});

test("a kind's latent that has taken over the parent's direction is found out", () => {
  const W_dec = Float32Array.of(1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1);
  const { parents, mean } = absorptionOfKinds(split(true), W_dec, { trainPerClass: 190 });
  const [{ parent, main, silent, full, fraction, byKind, absorbers }] = parents;
  expect(parent).toBe("pet");
  expect(main).not.toContain(1);
  expect(silent.value).toBeGreaterThan(0.3);
  // Wherever the parent is silent the cats' latent carries it.
  expect(full.value).toBe(silent.value);
  expect(fraction.value).toBe(silent.value);
  expect(byKind).toEqual(full);
  expect(absorbers).toEqual([expect.objectContaining({ latent: 1, kind: "pet.cat" })]);
  expect(mean!.full).toEqual(full);
});

test("a parent whose latent always fires is not absorbed", () => {
  const W_dec = Float32Array.of(1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1);
  const [{ full, fraction, absorbers, rows }] = absorptionOfKinds(split(false), W_dec).parents;
  expect(rows).toBeGreaterThan(100);
  expect(full).toEqual({ value: 0, low: 0, high: 0 });
  expect(fraction.value).toBe(0);
  expect(absorbers).toEqual([]);
});

test("concepts without kinds, or with too few rows, are not scored", () => {
  const { train, test } = split(true);
  expect(absorptionOfKinds({ train, test }, new Float32Array(12), { parents: ["fish"] })).toMatchObject({ parents: [], tooRare: ["fish"] }); // prettier-ignore
  const bare = (rows: LabelledRows) => ({ ...rows, labels: new Map([["pet", rows.labels.get("pet")!]]) }); // prettier-ignore
  const none = absorptionOfKinds({ train: bare(train), test: bare(test) }, new Float32Array(12));
  expect(none).toEqual({ parents: [], tooRare: [], drawn: {} });
});
