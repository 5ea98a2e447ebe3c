import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { openDevice, type Device, type DeviceName } from "../device/device.ts";
import { Rng } from "../rng.ts";
import { Sae } from "./sae.ts";
import { scaling, uniformFactor } from "./transform.ts";
import type { SaeSpec, SaeSpecOptions } from "./weights.ts";

const deviceNames: DeviceName[] = ["reference", "cpu"];

function randomSae(spec: Partial<SaeSpec> = {}): Sae {
  const full: SaeSpecOptions = {
    selection: { architecture: "topk", k: 4 },
    ...{ dIn: 7, dSae: 13, applyBDecToInput: true },
    ...spec,
  };
  const rng = new Rng(1, "sae test");
  const draw = (count: number) => Float32Array.from({ length: count }, () => rng.normal());
  const { dIn, dSae } = full;
  return new Sae(full, {
    W_enc: draw(dSae * dIn),
    b_enc: draw(dSae),
    W_dec: draw(dSae * dIn),
    b_dec: draw(dIn),
  });
}

/** Two latents in the plane, numbers that fit in the head. */
function smallSae(spec: Partial<SaeSpec>): Sae {
  return new Sae(
    {
      selection: { architecture: "relu" },
      ...{ dIn: 2, dSae: 3, applyBDecToInput: false },
      ...spec,
    },
    {
      W_enc: Float32Array.of(1, 0, 0, 2, -1, 1),
      b_enc: Float32Array.of(0, -1, 0.5),
      W_dec: Float32Array.of(1, 2, 3, 4, 5, 6),
      b_dec: Float32Array.of(10, 20),
    },
  );
}

test("encodes and decodes as the formula says, on numbers done by hand", () => {
  // z = [3, 2·4-1, -3+4+0.5]
  const relu = smallSae({});
  expect([...relu.encode([3, 4])]).toEqual([3, 7, 1.5]);
  expect([...relu.encode([-3, 0])]).toEqual([0, 0, 3.5]);
  expect([...relu.decode([1, 0, 2])]).toEqual([21, 34]);

  const topk = smallSae({ selection: { architecture: "topk", k: 1 } });
  expect([...topk.encode([3, 4])]).toEqual([0, 7, 0]);

  // s·x - b_dec = [2·8-10, 2·12-20]; x̂ = ([10, 20] + 1·[1, 2]) / 2
  const scaled = smallSae({ input: scaling([2], [2]), applyBDecToInput: true });
  expect([...scaled.encode([8, 12])]).toEqual([6, 7, 0]);
  expect([...scaled.decode([1, 0, 0])]).toEqual([5.5, 11]);
});

test("gives equal pre-activations to the latents of lower index first", () => {
  const sae = new Sae(
    {
      selection: { architecture: "topk", k: 2 },
      ...{ dIn: 1, dSae: 4, applyBDecToInput: false },
    },
    {
      W_enc: Float32Array.of(1, 2, 2, 2),
      b_enc: new Float32Array(4),
      W_dec: new Float32Array(4),
      b_dec: new Float32Array(1),
    },
  );
  expect([...sae.encode([1])]).toEqual([0, 2, 2, 0]);
  expect([...sae.encodeSome([1], [3, 0, 2])]).toEqual([0, 0, 2]);
});

test.each<SaeSpec["selection"]>([
  { architecture: "relu" },
  { architecture: "topk", k: 1 },
  { architecture: "topk", k: 4 },
  { architecture: "topk", k: 13 },
  { architecture: "batchTopk", k: 4, threshold: 0.8 },
  { architecture: "jumprelu" },
  { architecture: "gated" },
])("encodes some of the latents to the very numbers that they have among all (%o)", (selection) => {
  const { spec, ...weights } = randomSae({ selection: { architecture: "relu" } });
  const rng = new Rng(4, "encode some");
  const draw = () => Float32Array.from({ length: 13 }, () => rng.normal());
  const { architecture } = selection;
  const sae = new Sae(
    { ...spec, selection, input: scaling([0.3], [7]) },
    {
      ...weights,
      ...(architecture === "jumprelu" && { threshold: draw().map(Math.abs) }),
      ...(architecture === "gated" && { b_mag: draw(), r_mag: draw() }),
    },
  );
  let firing = 0;
  for (let n = 0; n < 30; n++) {
    const x = Float32Array.from({ length: 7 }, () => rng.normal() * 5);
    const all = sae.encode(x);
    const latents = [...all.keys()].filter(() => rng.uniform() < 0.5).reverse();
    const some = sae.encodeSome(x, latents);
    expect([...some]).toEqual(latents.map((f) => all[f]));
    firing += some.filter((a) => a > 0).length;
  }
  expect(firing).toBeGreaterThan(0);
  expect(firing).toBeLessThan(30 * 13);
});

test.each([true, false])(
  "folds the scale into the weights to 1e-6 (decoder bias subtracted: %s)",
  (applyBDecToInput) => {
    for (const scale of [0.013, 37.5]) {
      for (const selection of [{ architecture: "relu" }, { architecture: "topk", k: 4 }] as const) {
        const input = scaling([scale], [7]);
        const sae = randomSae({ input, applyBDecToInput, selection });
        const folded = sae.fold();
        expect(uniformFactor(folded.spec.input)).toBe(1);
        const rng = new Rng(2, "rows");
        for (let n = 0; n < 20; n++) {
          const x = Float32Array.from({ length: 7 }, () => rng.normal() / scale);
          const [a, b] = [sae.encode(x), folded.encode(x)];
          const largest = Math.max(...a);
          for (const f of a.keys()) expect(Math.abs(a[f] - b[f])).toBeLessThan(1e-6 * largest);
          const [y, z] = [sae.decode(a), folded.decode(b)];
          const norm = Math.hypot(...y);
          for (const c of y.keys()) expect(Math.abs(y[c] - z[c])).toBeLessThan(1e-6 * norm);
        }
      }
    }
  },
);

test("refuses weights whose sizes do not fit together", () => {
  const { W_enc, b_enc, W_dec, b_dec, spec } = randomSae();
  expect(() => new Sae({ ...spec, dSae: 14 }, { W_enc, b_enc, W_dec, b_dec })).toThrow(
    "W_enc must hold 98 numbers for dIn 7 and dSae 14; got 91",
  );
  expect(() => randomSae({ selection: { architecture: "topk", k: 128 } })).toThrow(
    "k must be at most dSae (13); got 128",
  );
});

describe.each(deviceNames)("on the %s device", (name) => {
  let device: Device;
  beforeAll(async () => {
    device = await openDevice(name, { threads: 2 });
  });
  afterAll(() => device.close());

  test.each([
    { architecture: "relu" } as const,
    { architecture: "topk", k: 4 } as const,
    { architecture: "topk", k: 13 } as const,
  ])("encodes and reconstructs batches as the host does row by row (%o)", async (selection) => {
    for (const applyBDecToInput of [true, false]) {
      const sae = randomSae({ selection, applyBDecToInput, input: scaling([0.3], [7]) });
      const onDevice = sae.on(device, 6);
      const rng = new Rng(3, "rows");
      const x = Float32Array.from({ length: 6 * 7 }, () => rng.normal());
      for (const rows of [6, 1, 5]) {
        const codes = await onDevice.encode(x, rows);
        const reconstruction = await onDevice.reconstruct(x, rows);
        const { counts, sums, rowStats } = await onDevice.statistics(x, rows);
        expect(reconstruction).toHaveLength(rows * 7);
        const fired = new Array<number>(13).fill(0);
        const added = new Array<number>(13).fill(0);
        for (let n = 0; n < rows; n++) {
          const row = x.subarray(n * 7, n * 7 + 7);
          const acts = sae.encode(row);
          const dense = new Float32Array(13);
          if (codes.kind === "dense") dense.set(codes.acts.subarray(n * 13, n * 13 + 13));
          else {
            const isRagged = codes.kind === "ragged";
            const start = isRagged ? (n === 0 ? 0 : codes.ends[n - 1]) : n * codes.k;
            const end = isRagged ? codes.ends[n] : start + codes.k;
            for (let i = start; i < end; i++)
              if (codes.indices[i] >= 0) dense[codes.indices[i]] = codes.values[i];
          }
          let error = 0;
          sae.decode(acts).forEach((v, c) => {
            expect(reconstruction[n * 7 + c]).toBeCloseTo(v, 4);
            error += (row[c] - v) ** 2;
          });
          for (const f of acts.keys()) {
            expect(dense[f]).toBeCloseTo(acts[f], 5);
            fired[f] += acts[f] > 0 ? 1 : 0;
            added[f] += acts[f];
          }
          expect(rowStats[n * 4 + 3]).toBeCloseTo(error, 2);
        }
        expect([...counts]).toEqual(fired);
        for (const f of added.keys()) expect(sums[f]).toBeCloseTo(added[f], 4);
      }
      await expect(onDevice.encode(x, 7)).rejects.toThrow(RangeError);
      onDevice.close();
    }
  });
});
