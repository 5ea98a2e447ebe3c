/** Transforms of inputs and outputs, and SAEs that are more than one reconstruction of their own input. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { openDevice, type Device, type DeviceName } from "../device/device.ts";
import { Rng } from "../rng.ts";
import { Sae } from "./sae.ts";
import {
  forwardRow,
  inverseRow,
  scaling,
  whitening,
  WHITENING_SHRINKAGE,
  type Transform,
} from "./transform.ts";
import type { SaeSpecOptions, SaeWeights } from "./weights.ts";

const [dIn, dOut, dSae, ROWS] = [6, 4, 11, 9];

/** Correlated rows around a mean far from 0. */
function rowsOf(width: number, count: number, seed: number): Float32Array {
  const rng = new Rng(seed, "rows");
  const out = new Float32Array(count * width);
  for (let n = 0; n < count; n++) {
    const common = rng.normal();
    for (let c = 0; c < width; c++)
      out[n * width + c] = 3 * c + 5 * common + (c + 1) * rng.normal();
  }
  return out;
}

function whiteningOf(x: Float32Array, width: number): Transform {
  const rows = x.length / width;
  const mean = new Float64Array(width);
  x.forEach((v, i) => (mean[i % width] += v / rows));
  const covariance = new Float64Array(width * width);
  for (let n = 0; n < rows; n++)
    for (let i = 0; i < width * width; i++) {
      const [a, b] = [Math.floor(i / width), i % width];
      covariance[i] += ((x[n * width + a] - mean[a]) * (x[n * width + b] - mean[b])) / rows;
    }
  return whitening(mean, covariance);
}

const whitenX = whiteningOf(rowsOf(dIn, 500, 1), dIn);
const whitenY = whiteningOf(rowsOf(dOut, 500, 2), dOut);
const heads = scaling([0.2, 3], [3, 3]);
const plain = { dIn, dSae, selection: { architecture: "relu" } as const };
const transcoder = { ...plain, dOut, transcoder: true, applyBDecToInput: false };

const kinds: Record<string, SaeSpecOptions> = {
  "scaled as a whole": { ...plain, applyBDecToInput: true, input: scaling([0.3], [dIn]) },
  "a crosscoder, scaled head by head": {
    ...plain,
    ...{ applyBDecToInput: true, heads: [3, 3], input: heads },
  },
  "a crosscoder that does not subtract its bias": {
    ...plain,
    ...{ applyBDecToInput: false, heads: [3, 3], input: heads },
  },
  whitened: { ...plain, applyBDecToInput: true, input: whitenX },
  "whitened, not subtracting its bias": { ...plain, applyBDecToInput: false, input: whitenX },
  "normalised row by row": {
    ...plain,
    applyBDecToInput: true,
    input: { kind: "layerNorm", eps: 1e-5 },
  },
  "a transcoder": {
    ...transcoder,
    ...{ input: scaling([0.2], [dIn]), output: scaling([0.5], [dOut]) },
  },
  "a whitened skip transcoder": { ...transcoder, skip: true, input: whitenX, output: whitenY },
  "a topk skip transcoder": {
    ...transcoder,
    skip: true,
    selection: { architecture: "topk", k: 3 },
  },
  "a gated transcoder": { ...transcoder, selection: { architecture: "gated" } },
};

function saeOf(options: SaeSpecOptions): Sae {
  const rng = new Rng(3, "weights");
  const draw = (count: number) => Float32Array.from({ length: count }, () => 0.5 * rng.normal());
  const width = options.dOut ?? dIn;
  const weights: SaeWeights = {
    ...{ W_enc: draw(dSae * dIn), b_enc: draw(dSae) },
    ...{ W_dec: draw(dSae * width), b_dec: draw(width) },
    ...(options.skip && { W_skip: draw(width * dIn) }),
    ...(options.selection.architecture === "gated" && { b_mag: draw(dSae), r_mag: draw(dSae) }),
  };
  return new Sae(options, weights);
}

describe.each(Object.entries(kinds))("an SAE %s", (_, options) => {
  const sae = saeOf(options);
  const width = sae.spec.dOut;
  const x = rowsOf(dIn, ROWS, 1);
  const y = sae.spec.transcoder ? rowsOf(width, ROWS, 2) : undefined;
  const row = (n: number) => x.subarray(n * dIn, (n + 1) * dIn);

  test("computes the same with its transforms folded into the weights", () => {
    const folded = sae.fold();
    for (let n = 0; n < ROWS; n++) {
      const [a, b] = [sae.encode(row(n)), folded.encode(row(n))];
      const [u, v] = [sae.decode(a, row(n)), folded.decode(b, row(n))];
      // Numbers as large as the weights' products, which cancel.
      const size = Math.hypot(...x, ...folded.b_dec) + Math.hypot(...a);
      for (const f of a.keys()) expect(Math.abs(a[f] - b[f])).toBeLessThan(1e-6 * size);
      for (const c of u.keys()) expect(Math.abs(u[c] - v[c])).toBeLessThan(1e-6 * size);
    }
  });

  describe.each(["reference", "cpu"] as DeviceName[])("on the %s device", (name) => {
    let device: Device;
    beforeAll(async () => {
      device = await openDevice(name, { threads: 2 });
    });
    afterAll(() => device.close());

    test("reconstructs and is measured in raw units as the host computes it", async () => {
      const onDevice = sae.on(device, ROWS);
      const { statistics, reconstruction } = await onDevice.measure(x, ROWS, y);
      expect(reconstruction).toHaveLength(ROWS * width);
      const alone = await onDevice.reconstruct(x, ROWS);
      for (let n = 0; n < ROWS; n++) {
        const expected = sae.decode(sae.encode(row(n)), row(n));
        const target = y ? y.subarray(n * width, (n + 1) * width) : row(n);
        const sums = [0, 0, 0, 0];
        expected.forEach((v, c) => {
          expect(reconstruction[n * width + c]).toBeCloseTo(v, 3);
          expect(alone[n * width + c]).toBeCloseTo(v, 3);
          sums[0] += target[c] ** 2;
          sums[1] += v ** 2;
          sums[2] += target[c] * v;
          sums[3] += (target[c] - v) ** 2;
        });
        for (const [i, sum] of sums.entries())
          expect(Math.abs(statistics.rowStats[n * 4 + i] - sum)).toBeLessThan(
            1e-4 * (sums[0] + sums[1]),
          );
      }
      onDevice.close();
    });

    test("says what it needs when it is measured without its target", async () => {
      const onDevice = sae.on(device, ROWS);
      const wrong = onDevice.statistics(x, ROWS, y ? undefined : x);
      await expect(wrong).rejects.toThrow(y ? "against a target" : "only a transcoder");
      onDevice.close();
    });
  });
});

test("whitened rows have mean 0 and covariance 1, and go back to what they were", () => {
  const x = rowsOf(dIn, 500, 1);
  const rows = Array.from({ length: 500 }, (_, n) => x.subarray(n * dIn, (n + 1) * dIn));
  const white = rows.map((row) => forwardRow(whitenX, row));
  for (let a = 0; a < dIn; a++) {
    expect(white.reduce((sum, t) => sum + t[a], 0) / 500).toBeCloseTo(0, 4);
    for (let b = 0; b < dIn; b++) {
      const covariance = white.reduce((sum, t) => sum + t[a] * t[b], 0) / 500;
      // Less what the shrinkage adds to the variance.
      expect(Math.abs(covariance - (a === b ? 1 : 0))).toBeLessThan(100 * WHITENING_SHRINKAGE);
    }
  }
  for (const [n, row] of rows.entries())
    inverseRow(whitenX, white[n]).forEach((v, c) => expect(v).toBeCloseTo(row[c], 3));
});

test("a row without variation, and data without any, do not divide by 0", () => {
  const normalised = forwardRow({ kind: "layerNorm", eps: 1e-5 }, [2, 2, 2]);
  expect([...normalised]).toEqual([0, 0, 0]);
  expect(() => whitening(new Float64Array(2), new Float64Array(4))).toThrow(
    "variance is 0, so they cannot be whitened",
  );
});

test("decoding without the row says that it needs it", () => {
  const normalised = saeOf(kinds["normalised row by row"]);
  expect(() => normalised.decode(new Float32Array(dSae))).toThrow("needs the row");
  const skip = saeOf(kinds["a topk skip transcoder"]);
  expect(() => skip.decode(new Float32Array(dSae))).toThrow("skip transcoder decodes with the row");
});
