/** Weights with the transforms folded in compute what they computed before, on easy data and hard. */
import { afterAll, describe, expect, test } from "vitest";

import { memorySource, type RowSource } from "../activation-source.ts";
import { openDevice } from "../device/device.ts";
import { Rng } from "../rng.ts";
import { joinedSource, pairedSource } from "../zipped-source.ts";
import { Sae } from "./sae.ts";
import { Trainer } from "./train.ts";
import { forwardRow, whitening } from "./transform.ts";
import { weightShapes, type SaeWeights } from "./weights.ts";

const device = await openDevice("reference");
afterAll(() => device.close());

/** Orthonormal directions of a space, from random ones by Gram and Schmidt. */
function rotation(width: number, rng: Rng): Float64Array[] {
  const directions: Float64Array[] = [];
  for (let i = 0; i < width; i++) {
    const row = Float64Array.from({ length: width }, () => rng.normal());
    for (const other of [...directions, ...directions]) {
      const along = row.reduce((sum, v, c) => sum + v * other[c], 0);
      row.forEach((_, c) => (row[c] -= along * other[c]));
    }
    const norm = Math.hypot(...row);
    directions.push(row.map((v) => v / norm));
  }
  return directions;
}

/** Standard deviations along random directions, out of `width`, and how far off the mean is. */
const data: Record<string, { deviation: (i: number, width: number) => number; mean: number }> = {
  "rows as wide in every direction": { deviation: () => 1, mean: 0 },
  "rows far from 0": { deviation: () => 1, mean: 3 },
  "variances that fall to a millionth": {
    deviation: (i, width) => 10 ** ((-3 * i) / (width - 1)),
    mean: 0.3,
  },
  "one direction with a million times the variance of the others": {
    deviation: (i) => (i === 0 ? 1000 : 1),
    mean: 10,
  },
  "rows of half the rank": { deviation: (i, width) => (2 * i < width ? 1 : 0), mean: 0.5 },
  "rows of rank 1": { deviation: (i) => (i === 0 ? 2 : 0), mean: 1 },
};

function rowsOf(kind: (typeof data)[string], count: number, width: number, rng: Rng): Float32Array {
  const directions = rotation(width, rng);
  const mean = Float64Array.from({ length: width }, () => kind.mean * rng.normal());
  const out = new Float32Array(count * width);
  for (let n = 0; n < count; n++) {
    const row = mean.slice();
    for (const [i, direction] of directions.entries()) {
      const along = kind.deviation(i, width) * rng.normal();
      direction.forEach((v, c) => (row[c] += along * v));
    }
    out.set(row, n * width);
  }
  return out;
}

const architectures = {
  relu: { architecture: "relu" },
  topk: { architecture: "topk", k: 7 },
  batchTopk: { architecture: "batchTopk", k: 7 },
  jumprelu: { architecture: "jumprelu" },
  gated: { architecture: "gated" },
};
const normalisations = ["none", "expectedAverageNorm", "rms", "whitening", "layerNorm"] as const;
const structures = ["autoencoder", "transcoder", "skip transcoder", "crosscoder"] as const;
type Structure = (typeof structures)[number];

const [width, dSae, ROWS, TESTED] = [24, 40, 400, 30];

function sourceOf(structure: Structure, kind: (typeof data)[string], rng: Rng): RowSource {
  const inputs = memorySource(rowsOf(kind, ROWS, width, rng), width);
  if (structure === "autoencoder") return inputs;
  const others = memorySource(rowsOf(kind, ROWS, width, rng), width);
  return structure === "crosscoder" ? joinedSource([inputs, others]) : pairedSource(inputs, others);
}

/** An autoencoder with the transforms that the data get, and random weights. */
async function random(sae: Record<string, unknown>, source: RowSource, rng: Rng): Promise<Sae> {
  const trainer = await Trainer.create(device, {
    sae: { dSae, ...sae } as never,
    train: { batchSize: 100 },
    source,
  });
  const { spec, b_dec } = await trainer.sae();
  trainer.close();
  const weights: Partial<SaeWeights> = {};
  for (const [name, shape] of Object.entries(weightShapes(spec))) {
    const scale = name.startsWith("W_") ? 1 / Math.sqrt(shape[1]) : 0.1;
    const mean = name === "threshold" ? 0.2 : 0;
    weights[name as keyof SaeWeights] = Float32Array.from(
      { length: shape.reduce((a, b) => a * b) },
      () => mean + scale * rng.normal(),
    );
  }
  // Where training puts it: near the mean.
  weights.b_dec = weights.b_dec!.map((v, c) => v + b_dec[c]);
  const { selection } = spec;
  return new Sae(
    {
      ...spec,
      selection:
        selection.architecture === "batchTopk" ? { ...selection, threshold: 0.1 } : selection,
    },
    weights as SaeWeights,
  );
}

const norm = (v: ArrayLike<number>) => Math.hypot(...Array.from(v));
const distance = (a: Float32Array, b: Float32Array) => norm(a.map((v, i) => v - b[i]));

/** Folding changes latents and reconstructions by less than a millionth of their size. */
async function expectFolds(sae: Sae, source: RowSource, what: string) {
  const folded = sae.fold();
  const [largest, squares] = [new Float64Array(2), new Float64Array(2)];
  for await (const { data: x } of source.slice(0, TESTED).rowsInOrder(TESTED)) {
    for (let n = 0; n < TESTED; n++) {
      const row = x.subarray(n * source.dIn, (n + 1) * source.dIn);
      const [a, b] = [sae.encode(row), folded.encode(row)];
      const [u, v] = [sae.decode(a, row), folded.decode(b, row)];
      for (const [i, [before, after]] of [
        [a, b],
        [u, v],
      ].entries()) {
        largest[i] = Math.max(largest[i], distance(before, after));
        squares[i] += norm(before) ** 2 / TESTED;
      }
    }
  }
  expect(squares[0], what).toBeGreaterThan(1e-6);
  expect(largest[0] / Math.sqrt(squares[0]), `latents, ${what}`).toBeLessThan(1e-6);
  expect(largest[1] / Math.sqrt(squares[1]), `output, ${what}`).toBeLessThan(1e-6);
}

describe.each(Object.entries(data))("on %s", (name, kind) => {
  test.each(normalisations)("folding %s changes nothing beyond a millionth", async (normalise) => {
    const rng = new Rng(1, name, normalise);
    for (const structure of structures)
      for (const [architecture, settings] of Object.entries(architectures)) {
        if (normalise === "layerNorm" && structure !== "autoencoder") continue;
        if (normalise === "whitening" && structure === "crosscoder") continue;
        const source = sourceOf(structure, kind, rng);
        const isTranscoder = structure.endsWith("transcoder");
        for (const applyBDecToInput of isTranscoder ? [false] : [true, false]) {
          const sae = await random(
            {
              ...{ ...settings, applyBDecToInput, normalizeActivations: normalise },
              ...(structure === "skip transcoder" && { skip: true }),
            },
            source,
            rng,
          );
          await expectFolds(sae, source, `${structure}, ${architecture}, ${applyBDecToInput}`);
        }
      }
  });
});

test("rows of low rank are whitened where they vary, and no other direction is blown up", () => {
  const rng = new Rng(2, "rank");
  const kind = data["rows of half the rank"];
  const x = rowsOf(kind, ROWS, width, rng);
  const rows = Array.from({ length: ROWS }, (_, n) => x.subarray(n * width, (n + 1) * width));
  const mean = new Float64Array(width);
  for (const row of rows) row.forEach((v, c) => (mean[c] += v / ROWS));
  const covariance = new Float64Array(width * width);
  for (const row of rows)
    for (let i = 0; i < covariance.length; i++) {
      const [a, b] = [Math.floor(i / width), i % width];
      covariance[i] += ((row[a] - mean[a]) * (row[b] - mean[b])) / ROWS;
    }
  const transform = whitening(mean, covariance);
  const total = rows.reduce((sum, row) => sum + norm(forwardRow(transform, row)) ** 2, 0) / ROWS;
  expect(total).toBeGreaterThan(0.95 * (width / 2));
  expect(total).toBeLessThan(width / 2);
  // A row beside the data: at most some hundred times as long as those of the data.
  const beside = rotation(width, rng).map((v) =>
    norm(
      forwardRow(
        transform,
        v.map((w, c) => w + mean[c]),
      ),
    ),
  );
  expect(Math.max(...beside)).toBeLessThan(100);
});

test("a covariance that rounding has made indefinite is whitened all the same", () => {
  const covariance = Float64Array.of(1, 1.01, 0, 1.01, 1, 0, 0, 0, 1e-9);
  const { matrix, inverse } = whitening(new Float64Array(3), covariance) as {
    matrix: Float32Array;
    inverse: Float32Array;
  };
  expect([...matrix, ...inverse].every(Number.isFinite)).toBe(true);
  for (let i = 0; i < 3; i++)
    for (let c = 0; c < 3; c++) {
      const product = [0, 1, 2].reduce((sum, k) => sum + matrix[3 * i + k] * inverse[3 * k + c], 0);
      expect(product).toBeCloseTo(i === c ? 1 : 0, 4);
    }
});
