import { describe, expect, test } from "vitest";

import { openDevice } from "../device/device.ts";
import { Rng } from "../rng.ts";
import {
  coNeighbors,
  cosineNull,
  nearestRows,
  pairOf,
  togetherOf,
  type CoFirings,
} from "./neighbors.ts";

describe("nearest rows", () => {
  // Rows: east, north-east, north, west, nothing.
  const matrix = Float32Array.of(2, 0, 1, 1, 0, 3, -5, 0, 0, 0);

  test("are those with the largest cosine, whatever their length", async () => {
    const { rows, cosines } = await nearestRows(matrix, 2, { count: 2 });
    expect([...rows]).toEqual([1, 2, 0, 2, 1, 0, 2, 1, -1, -1]);
    expect(cosines[0]).toBeCloseTo(Math.SQRT1_2, 6);
    expect(cosines[6]).toBeCloseTo(0, 6);
    expect(cosines[8]).toBeNaN();
  });

  test("of some rows are those rows of the whole, on a device too", async () => {
    const rng = new Rng(3);
    const many = Float32Array.from({ length: 50 * 8 }, () => rng.normal());
    const all = await nearestRows(many, 8, { count: 3 });
    const device = await openDevice("reference");
    const some = await nearestRows(many, 8, { count: 3, of: [41, 7], device });
    await device.close();
    expect([...some.rows]).toEqual([...all.rows.slice(123, 126), ...all.rows.slice(21, 24)]);
  });

  test("there are no more of than there are rows", async () => {
    const { rows } = await nearestRows(matrix, 2, { count: 6, of: [0] });
    expect([...rows]).toEqual([1, 2, 3, -1, -1, -1]);
  });
});

test("cosines of random directions are as small as their number of dimensions makes them", async () => {
  const rng = new Rng(1);
  const matrix = Float32Array.from({ length: 400 * 64 }, () => rng.normal());
  const { median, oneInThousand, nearestToRandom } = await cosineNull(matrix, 64);
  // Standard deviation 1/8; the 99.9th percentile of a normal distribution lies at 3.09.
  expect(Math.abs(median)).toBeLessThan(0.01);
  expect(oneInThousand).toBeGreaterThan(3.09 / 8 - 0.05);
  expect(oneInThousand).toBeLessThan(3.09 / 8 + 0.03);
  // The largest of 400 normal numbers is about 2.97 on average.
  expect(Math.abs(nearestToRandom - 2.97 / 8)).toBeLessThan(0.03);
});

describe("firing together", () => {
  test("is measured from counts by the formulas", () => {
    // n 100, f 20, g 10, together 8; 2 expected.
    const { expected, pmi, jaccard, phi } = togetherOf(100, 20, 10, 8);
    expect(expected).toBe(2);
    expect(pmi).toBe(2);
    expect(jaccard).toBe(8 / 22);
    expect(phi).toBeCloseTo((800 - 200) / Math.sqrt(20 * 10 * 80 * 90), 12);
    expect(togetherOf(100, 20, 10, 0).pmi).toBe(-Infinity);
    expect(togetherOf(100, 20, 0, 0).jaccard).toBeNaN();
  });

  const partners = [
    { latents: [1, 2, 3], counts: [12, 30, 9] },
    { latents: [0], counts: [12] },
    { latents: [0], counts: [30] },
    { latents: [0], counts: [9] },
  ];
  const co: CoFirings = {
    ...{ positions: 1000, firings: [60, 12, 400, 9] },
    partners: (f) => ({
      latents: Int32Array.from(partners[f].latents),
      counts: Uint32Array.from(partners[f].counts),
    }),
  };

  test("ranks by what is asked, and leaves pairs out that hardly ever meet", () => {
    const latents = (by: "pmi" | "jaccard" | "phi") =>
      coNeighbors(co, 0, { by, count: 5 }).map(({ latent }) => latent);
    expect(latents("pmi")).toEqual([1, 2]); // 3 never fires without 0, but only nine times
    expect(latents("jaccard")).toEqual([1, 2]);
    expect(coNeighbors(co, 0, { by: "phi", count: 1 })).toHaveLength(1);
  });

  test("is the same from either side, and nothing where a pair never meets", () => {
    expect(pairOf(co, 0, 2)).toEqual(pairOf(co, 2, 0));
    expect(pairOf(co, 1, 2)).toMatchObject({ together: 0, jaccard: 0, pmi: -Infinity });
  });
});
