/**
 * Sparse latents found by int8 products under proven bounds are those that f32 arithmetic selects:
 * on data that suits the bounds and on data made to defeat them.
 */
import { afterAll, describe, expect, test } from "vitest";

import { Rng } from "../rng.ts";
import { openDevice, type Device } from "./device.ts";

const reference = await openDevice("reference");
const screened = await Promise.all(
  [1, 2, 3].map((threads) => openDevice("cpu", { threads, screening: "always" })),
);
afterAll(() => Promise.all([reference, ...screened].map((device) => device.close())));

interface Data {
  rows: number;
  d: number;
  F: number;
  k: number;
  x: Float32Array;
  bPre: Float32Array;
  wEnc: Float32Array;
  bEnc: Float32Array;
}

interface Size {
  rows: number;
  d: number;
  F: number;
  k: number;
}

const sizes: Size[] = [
  { rows: 1, d: 1, F: 5, k: 1 },
  { rows: 3, d: 5, F: 37, k: 2 },
  { rows: 17, d: 64, F: 257, k: 3 },
  { rows: 9, d: 200, F: 700, k: 32 },
  { rows: 70, d: 130, F: 1100, k: 8 },
  { rows: 300, d: 33, F: 1000, k: 4 }, // more rows than a block, more latents than a list
];

function gaussian({ rows, d, F, k }: Size, seed: string): Data {
  const rng = new Rng(1, seed);
  const numbers = (count: number, scale: number, shift = 0) =>
    Float32Array.from({ length: count }, () => shift + scale * rng.normal());
  const wEnc = numbers(F * d, d ** -0.5);
  return {
    ...{ rows, d, F, k, x: numbers(rows * d, 1), bPre: numbers(d, 0.3), wEnc },
    bEnc: numbers(F, 0.05),
  };
}

/** Changes of well-behaved data. */
const troubles: Record<string, (data: Data) => void> = {
  "nothing unusual": () => undefined,
  "far from zero": ({ x }) => x.forEach((v, i) => (x[i] = v + 50)),
  "a few coordinates far larger": ({ x, d }) =>
    x.forEach((v, i) => (x[i] = i % d < 3 ? 4 * v + 40 : v)),
  "rows far larger in one coordinate": ({ x, rows, d }) => {
    for (let n = 0; n < rows; n += 5) x[n * d] = 1e4;
  },
  "latents that are alike": ({ wEnc, bEnc, d }) => {
    wEnc.forEach((_, i) => (wEnc[i] = wEnc[i % (4 * d)]));
    bEnc.forEach((_, f) => (bEnc[f] = bEnc[f % 4]));
  },
  "all latents alike": ({ wEnc, bEnc, d }) => {
    wEnc.forEach((_, i) => (wEnc[i] = wEnc[i % d]));
    bEnc.fill(0);
  },
  "rows of zeros": ({ x, bPre, rows, d }) => {
    for (let n = 0; n < rows; n += 2) x.set(bPre, n * d);
  },
  "nothing but zeros": ({ x, bPre, bEnc }) => {
    x.fill(0);
    bPre.fill(0);
    bEnc.fill(0);
  },
  "rows that are alike": ({ x, d }) => x.forEach((_, i) => (x[i] = x[i % d])),
  "latents without weights": ({ wEnc, F, d }) => {
    for (let f = 0; f < F; f += 3) wEnc.fill(0, f * d, (f + 1) * d);
  },
  "latents of all lengths": ({ wEnc, d }) =>
    wEnc.forEach((v, i) => (wEnc[i] = v * 10 ** ((Math.floor(i / d) % 13) - 6))),
  "rows of all lengths": ({ x, bPre, d }) => {
    bPre.fill(0);
    x.forEach((v, i) => (x[i] = v * 10 ** ((Math.floor(i / d) % 13) - 6)));
  },
  "tiny inputs": ({ x, bPre, bEnc }) => {
    for (const a of [x, bPre, bEnc]) a.forEach((v, i) => (a[i] = v * 1e-30));
  },
  "huge inputs": ({ x, bPre, bEnc }) => {
    for (const a of [x, bPre, bEnc]) a.forEach((v, i) => (a[i] = v * 1e30));
  },
  "denormal inputs": ({ x, bPre, bEnc }) => {
    for (const a of [x, bPre, bEnc]) a.forEach((v, i) => (a[i] = v * 1e-40));
  },
  "tiny weights": ({ wEnc, bEnc }) => {
    for (const a of [wEnc, bEnc]) a.forEach((v, i) => (a[i] = v * 1e-30));
  },
  "huge weights": ({ wEnc }) => wEnc.forEach((v, i) => (wEnc[i] = v * 1e30)),
  "nothing active": ({ bEnc }) => bEnc.fill(-100),
  "biases that decide": ({ bEnc }) => bEnc.forEach((v, f) => (bEnc[f] = 200 * v)),
};

async function encoded(device: Device, data: Data) {
  const { rows, d, F, k } = data;
  const put = (numbers: Float32Array, ...shape: number[]) => {
    const tensor = device.tensor(shape);
    device.write(tensor, numbers);
    return tensor;
  };
  const op = {
    ...{ rows, x: put(data.x, rows, d), bPre: put(data.bPre, d) },
    ...{ wEnc: put(data.wEnc, F, d), bEnc: put(data.bEnc, F) },
  };
  const P = rows * F;
  const ragged = () => ({
    ...{ indices: device.tensor([P], "i32"), values: device.tensor([P]) },
    ends: device.tensor([rows], "i32"),
  });
  const top = { indices: device.tensor([rows, k], "i32"), values: device.tensor([rows, k]) };
  const [batch, above] = [ragged(), ragged()];
  const [cutoff, total] = [device.tensor([1]), device.tensor([1], "i32")];
  const threshold = put(new Float32Array(F).fill(0.5), F);
  device.encodeTopK({ ...op, ...top });
  device.encodeBatchTopK({ ...op, count: rows * k, ...batch, cutoff });
  device.encodeThreshold({ ...op, threshold, margin: 0.25, ...above, pre: null, total });
  const read = async ({ indices, values, ends }: ReturnType<typeof ragged>) => {
    const found = await device.readI32(ends);
    const slots = found[rows - 1];
    return {
      indices: await device.readI32(indices, slots),
      values: await device.readF32(values, slots),
      ends: found,
    };
  };
  const result = {
    topIndices: await device.readI32(top.indices),
    topValues: await device.readF32(top.values),
    batch: await read(batch),
    cutoff: await device.readF32(cutoff),
    above: await read(above),
    total: await device.readI32(total),
  };
  const { x, bPre, wEnc, bEnc } = op;
  device.free(...[x, bPre, wEnc, bEnc], ...Object.values({ ...top, cutoff, total, threshold }));
  device.free(...Object.values(batch), ...Object.values(above));
  return result;
}

/** All bytes of a result; expect is slow with large arrays. */
const bits = ({ batch, above, ...rest }: Awaited<ReturnType<typeof encoded>>) =>
  Buffer.concat(
    [rest, batch, above].flatMap((arrays) =>
      Object.values(arrays).map(({ buffer }) => Buffer.from(buffer)),
    ),
  );

/** z in float64 from the f32 differences x - bPre, and how far f32 sums may be from it. */
function exact({ rows, d, F, x, bPre, wEnc, bEnc }: Data) {
  const z = new Float64Array(rows * F);
  const error = new Float64Array(rows * F);
  for (let n = 0; n < rows; n++) {
    for (let f = 0; f < F; f++) {
      let [sum, terms] = [bEnc[f], Math.abs(bEnc[f])];
      for (let i = 0; i < d; i++) {
        const term = Math.fround(x[n * d + i] - bPre[i]) * wEnc[f * d + i];
        sum += term;
        terms += Math.abs(term);
      }
      z[n * F + f] = sum;
      error[n * F + f] = terms * (d + 8) * 2 ** -24 + (d + 1) * 2 ** -148;
    }
  }
  return { z, error };
}

/**
 * What is wrong with `pairs` as the largest of `rivals`: places row F + latent, with values.
 * Sums in f32 decide between latents that are closer than their rounding.
 */
function faults(
  pairs: { at: number; value: number }[],
  rivals: number[],
  { z, error }: ReturnType<typeof exact>,
): string[] {
  const chosen = new Set(pairs.map(({ at }) => at));
  const found = chosen.size === pairs.length ? [] : ["a latent twice in a row"];
  let least = Infinity;
  for (const { at, value } of pairs) {
    least = Math.min(least, z[at] + error[at]);
    if (!(Math.abs(value - Math.max(0, z[at])) <= error[at]))
      found.push(`${value} instead of ${z[at]}`);
  }
  for (const at of rivals)
    if (!chosen.has(at) && z[at] - error[at] > least) found.push(`without ${z[at]}`);
  return found;
}

describe("screened selections are those of f32", () => {
  for (const [trouble, change] of Object.entries(troubles)) {
    test.each(sizes.map((size) => [`${size.rows} × ${size.d} → ${size.F}`, size] as const))(
      `${trouble}: %s`,
      async (name, size) => {
        const data = gaussian(size, trouble + name);
        change(data);
        const { rows, F, k } = data;
        const truth = exact(data);
        const [one, two, three] = await Promise.all(screened.map((on) => encoded(on, data)));
        for (const other of [two, three]) expect(bits(other).equals(bits(one))).toBe(true);

        const wrong: string[] = [];
        const allOfRow = (n: number) => Array.from({ length: F }, (_, f) => n * F + f);
        for (let n = 0; n < rows; n++) {
          const pairs = Array.from({ length: k }, (_, j) => ({
            at: n * F + one.topIndices[n * k + j],
            value: one.topValues[n * k + j],
          }));
          wrong.push(...faults(pairs, allOfRow(n), truth));
          for (let j = 1; j < k; j++) {
            if (pairs[j].value > pairs[j - 1].value) wrong.push("values out of order");
            // Equal latents have equal sums: of them the lowest are taken, in order.
            if (trouble === "all latents alike" && pairs[j].at !== n * F + j)
              wrong.push("ties out of order");
          }
        }
        expect(wrong).toEqual([]);

        const { batch, above } = one;
        const pairsOf = ({ indices, values, ends }: typeof batch) =>
          Array.from(ends).flatMap((end, n) => {
            const start = n === 0 ? 0 : ends[n - 1];
            return Array.from({ length: end - start }, (_, i) => ({
              at: n * F + indices[start + i],
              value: values[start + i],
            }));
          });
        const positive = truth.z.reduce((sum, z, at) => sum + +(z > truth.error[at]), 0);
        const kept = pairsOf(batch);
        expect(kept.length).toBeLessThanOrEqual(rows * k);
        expect(kept.length).toBeGreaterThanOrEqual(Math.min(rows * k, positive));
        const everything = Array.from({ length: rows * F }, (_, at) => at);
        if (kept.length === rows * k) expect(faults(kept, everything, truth)).toEqual([]);
        const smallest = kept.reduce((least, { value }) => Math.min(least, value), Infinity);
        expect(one.cutoff[0]).toBe(kept.length > 0 ? smallest : 0);

        const listed = new Map(pairsOf(above).map(({ at, value }) => [at, value]));
        expect(listed.size).toBe(one.total[0]);
        for (const at of everything) {
          const [z, error, value] = [truth.z[at], truth.error[at], listed.get(at)];
          if (z > 0.25 + error && value === undefined) wrong.push(`${z} not listed`);
          if (z < 0.25 - error && value !== undefined) wrong.push(`${z} listed`);
          if (z < 0.5 - error && value) wrong.push(`${z} has the value ${value}`);
          if (z > 0.5 + error && !(Math.abs(value! - z) <= error)) wrong.push(`${value} for ${z}`);
        }
        expect(wrong).toEqual([]);
      },
    );
  }

  test("a number that is none goes no further than its row or latent", async () => {
    const size = sizes[4];
    const data = gaussian(size, "none");
    const { d, F, k, rows } = data;
    const before = await encoded(screened[1], data);
    data.x[3 * d + 5] = NaN;
    data.x[11 * d] = Infinity;
    const [one, two] = await Promise.all(screened.map((on) => encoded(on, data)));
    expect(bits(two).equals(bits(one))).toBe(true);
    for (let n = 0; n < rows; n++) {
      if (n === 3 || n === 11) continue;
      const row = [n * k, (n + 1) * k] as const;
      expect(one.topIndices.slice(...row)).toEqual(before.topIndices.slice(...row));
    }
    const [latent] = before.topIndices;
    for (const odd of [NaN, Infinity, -Infinity]) {
      const other = { ...gaussian(size, "none") };
      other.bEnc[latent] = odd;
      const { topIndices } = await encoded(screened[1], other);
      const holders = Array.from({ length: rows }, (_, n) =>
        topIndices.slice(n * k, (n + 1) * k).includes(latent),
      );
      expect(holders.every((has) => has === (odd === Infinity))).toBe(true);
    }
    const poisoned = gaussian(size, "none");
    poisoned.wEnc[latent * d] = NaN;
    const { topIndices } = await encoded(screened[1], poisoned);
    expect(topIndices.includes(latent)).toBe(false);
    expect(topIndices.every((f) => f >= 0 && f < F)).toBe(true);
  });

  /**
   * Numbers whose int8 copies err by 0.4 in every coordinate but the first, in the signs of `signs`: a product
   * with those signs errs by as much as Cauchy and Schwarz allow.
   */
  function erring(d: number) {
    const rng = new Rng(1, "erring");
    const signs = Float32Array.from({ length: d }, (_, i) =>
      i === 0 ? 0 : rng.uniform() < 0.5 ? -1 : 1,
    );
    const numbers = signs.map((sign, i) =>
      i === 0 ? 127 : (i % 2 ? 1 : -1) * sign * (70 + rng.int(20)) + 0.4 * sign,
    );
    const product = numbers.reduce((sum, v, i) => sum + v * signs[i], 0);
    return { signs, numbers, product };
  }

  test("an input whose copy errs as much as it can still finds the latent that this hides", async () => {
    const d = 65;
    const { signs, numbers, product } = erring(d);
    const rival = new Float32Array(d);
    rival[0] = (product - 1) / 127; // exact in int8, and next to the largest
    const wEnc = new Float32Array(8 * d);
    wEnc.set(rival, 2 * d);
    wEnc.set(signs, 5 * d);
    // With its opposite the mean is 0, so that copies are of the numbers as they stand.
    const x = Float32Array.from([...numbers, ...numbers.map((v) => -v)]);
    const data = { rows: 2, d, F: 8, k: 1, x, bPre: new Float32Array(d), wEnc };
    const { topIndices } = await encoded(screened[0], { ...data, bEnc: new Float32Array(8) });
    expect(topIndices[0]).toBe(5);
  });

  test("a latent whose copy errs as much as it can is still found", async () => {
    const d = 65;
    const { signs, numbers, product } = erring(d);
    const x = signs.map((sign, i) => (i === 0 ? 1 : sign)); // all of one size: exact in int8
    const wEnc = new Float32Array(8 * d);
    const rival = new Float32Array(d);
    rival[1] = (product + 127 - 1) * x[1]; // exact in int8, and next to the largest
    wEnc.set(rival, 2 * d);
    wEnc.set(numbers, 5 * d);
    const both = Float32Array.from([...x, ...x.map((v) => -v)]);
    const data = { rows: 2, d, F: 8, k: 1, x: both, bPre: new Float32Array(d), wEnc };
    const { topIndices } = await encoded(screened[0], { ...data, bEnc: new Float32Array(8) });
    expect(topIndices[0]).toBe(5);
  });

  test("most values are the sums of candidates alone, not of products of whole matrices", async () => {
    const data = gaussian(sizes[4], "candidates");
    const { d, k, rows, x, bPre, wEnc, bEnc } = data;
    const { topIndices, topValues } = await encoded(screened[1], data);
    // The very order of additions that `dot` of assembly/vector.ts has.
    const sums = (n: number, f: number) => {
      const lanes = new Float32Array(16);
      const whole = (Math.ceil(d / 4) * 4) & ~15;
      for (let i = 0; i < d; i++) {
        const lane = i < whole ? i % 16 : i % 4;
        const v = Math.fround(x[n * d + i] - bPre[i]);
        lanes[lane] = Math.fround(lanes[lane] + Math.fround(v * wEnc[f * d + i]));
      }
      const four = new Float32Array(4).map((_, l) =>
        Math.fround(
          Math.fround(lanes[l] + lanes[4 + l]) + Math.fround(lanes[8 + l] + lanes[12 + l]),
        ),
      );
      const pairs = Math.fround(four[2] + four[3]);
      return Math.fround(
        Math.fround(Math.fround(Math.fround(four[0] + four[1]) + pairs)) + bEnc[f],
      );
    };
    let same = 0;
    for (let n = 0; n < rows; n++)
      for (let j = 0; j < k; j++) {
        const slot = n * k + j;
        same += +(Math.fround(Math.max(0, sums(n, topIndices[slot]))) === topValues[slot]);
      }
    expect(same / (rows * k)).toBeGreaterThan(0.95);
  });
});
