import { readFileSync } from "node:fs";
import { afterAll, expect, test } from "vitest";

import { rowsOf } from "../../test/labelled-rows.ts";
import { openDevice } from "../device/device.ts";
import { Rng } from "../rng.ts";
import { Sae } from "../sae/sae.ts";
import { descriptionLength } from "./description-length.ts";
import { metaStructure } from "./meta-sae.ts";
import { codedRows } from "./structure.ts";

const device = await openDevice("reference");
afterAll(() => device.close());

const oracle = JSON.parse(
  readFileSync(new URL("../../test/fixtures/supervised/structure.json", import.meta.url), "utf8"),
) as Record<"W_dec" | "b_dec" | "x" | "codes", number[]> &
  Record<"dIn" | "dSae" | "step" | "fvu" | "fvuRounded", number> &
  Record<"firing" | "values" | "dimensions" | "components", number>;

function saeOf(W_dec: ArrayLike<number>, b_dec: ArrayLike<number>): Sae {
  const dIn = b_dec.length;
  const dSae = W_dec.length / dIn;
  return new Sae(
    { dIn, dSae, selection: { architecture: "relu" }, applyBDecToInput: false },
    {
      ...{ W_enc: new Float32Array(dIn * dSae), b_enc: new Float32Array(dSae) },
      ...{ W_dec: Float32Array.from(W_dec), b_dec: Float32Array.from(b_dec) },
    },
  );
}

test("bits of codes, dimensions and principal components are numpy's", async () => {
  const { x, codes, dIn, dSae, W_dec, b_dec } = oracle;
  const document = Array.from({ length: x.length / dIn }, (_, n) => Math.floor(n / 20));
  const rows = rowsOf(x, codes, {}, document, { dIn, dSae, documents: 20 });
  const { bits, step, fvu, fvuRounded, drawn } = await descriptionLength(rows, saeOf(W_dec, b_dec), device); // prettier-ignore
  expect(step).toBeCloseTo(oracle.step, 5);
  expect(fvu).toBeCloseTo(oracle.fvu, 5);
  expect(fvuRounded).toBeCloseTo(oracle.fvuRounded, 5);
  expect(bits.firing.value).toBeCloseTo(oracle.firing, 5);
  expect(bits.values.value).toBeCloseTo(oracle.values, 5);
  expect(bits.codes.value).toBeCloseTo(oracle.firing + oracle.values, 5);
  expect(bits.dimensions.value).toBeCloseTo(oracle.dimensions, 5);
  // Components in 32 bits: a value at the edge of two steps may fall on either side of it.
  expect(Math.abs(bits.components!.value - oracle.components)).toBeLessThan(0.02);
  const { low, value, high } = bits.codes;
  expect(low).toBeLessThan(value);
  expect(high).toBeGreaterThan(value);
  expect(drawn.bitsLessDimensions.value).toBeCloseTo(bits.codes.value - bits.dimensions.value, 10);
});

test("a code that is known has the length that it must have", async () => {
  // Of four latents one fires in each row, each in a quarter of them, always with one of two values.
  const rows = 64;
  const codes = new Float32Array(rows * 4);
  for (let n = 0; n < rows; n++) codes[n * 4 + (n % 4)] = n % 8 < 4 ? 1 : 3;
  const identity = Float32Array.from({ length: 16 }, (_, i) => Number(i % 5 === 0));
  const x = codes.map((v, i) => v + (i % 2 === 0 ? 0.01 : -0.01));
  const document = Array.from({ length: rows }, (_, n) => Math.floor(n / 4));
  const sample = rowsOf(x, codes, {}, document, { dIn: 4, dSae: 4, documents: 16 });
  const { bits } = await descriptionLength(sample, saeOf(identity, new Float32Array(4)), device);
  const h = -(0.25 * Math.log2(0.25) + 0.75 * Math.log2(0.75));
  expect(bits.firing.value).toBeCloseTo(4 * h, 10);
  expect(bits.values.value).toBeCloseTo(1, 10);
  // All documents are alike, so nothing varies between draws.
  expect(bits.codes.high - bits.codes.low).toBeLessThan(1e-9);
});

test("how the text was cut into chunks changes nothing", async () => {
  const chunks = (sizes: number[]) => {
    let first = 0;
    return sizes.map((length) => {
      const offset = first;
      first += length;
      const positions = Int32Array.from({ length }, (_, p) => p);
      const [low, high] = [0, 1].map((f) => positions.filter((p) => (offset + p) % 2 === f));
      return {
        chunk: {
          ...{
            document: positions.map(() => 0),
            documents: [{ ordinal: 5 + Math.floor(offset / 8) }],
          },
          length,
        },
        codes: {
          offsets: Int32Array.of(0, low.length, length),
          positions: Int32Array.of(...low, ...high),
          values: Float32Array.from([...low, ...high], (p) => offset + p + 1),
        },
        activations: () => Float32Array.from({ length: 2 * length }, (_, i) => 2 * offset + i),
      };
    });
  };
  const read = (sizes: number[]) =>
    codedRows(chunks(sizes) as unknown as Parameters<typeof codedRows>[0], { dIn: 2, dSae: 2 });
  expect(await read([4, 4, 8])).toEqual(await read([8, 8]));
});

/** Rows that are each the sum of two of a few directions, or random. */
function directions(count: number, dIn: number, isPlanted: boolean): Float32Array {
  const rng = new Rng(5, "planted");
  const parts = Float32Array.from({ length: 8 * dIn }, () => rng.normal());
  const rows = new Float32Array(count * dIn);
  for (let n = 0; n < count; n++) {
    const [a, b] = [rng.int(8), rng.int(8)];
    for (let c = 0; c < dIn; c++)
      rows[n * dIn + c] = isPlanted ? parts[a * dIn + c] + parts[b * dIn + c] : rng.normal();
  }
  return rows;
}

test("a meta-SAE explains directions that are made of a few, and of random ones what random ones have", async () => {
  const [count, dIn] = [100, 16];
  const alive = Array.from({ length: count }, (_, f) => f);
  const options = { k: 2, steps: 200 };
  const measure = (isPlanted: boolean) =>
    metaStructure(directions(count, dIn, isPlanted), dIn, alive, device, options);
  const [planted, random] = [await measure(true), await measure(false)];
  expect(planted.latents).toEqual({ trained: 80, heldOut: 20 });
  expect(planted.heldOut.low).toBeGreaterThan(0.7);
  expect(planted.null.random.heldOut.high).toBeLessThan(0.4);
  expect(Math.abs(random.heldOut.value - random.null.random.heldOut.value)).toBeLessThan(0.15);
  // What was trained on is explained well whatever it is.
  expect(random.varianceExplained.value).toBeGreaterThan(random.heldOut.value + 0.1);
  expect(planted.metaLatents[0].latents[0].activation).toBeGreaterThan(0);
  expect(planted.drawn.heldOut.value).toBe(planted.heldOut.value);
});

test("a meta-SAE of too few latents is refused", async () => {
  const rows = directions(40, 8, false);
  await expect(metaStructure(rows, 8, [...Array(40).keys()], device)).rejects.toThrow(/at least 50 latents that fire and write; got 40/); // prettier-ignore
});
