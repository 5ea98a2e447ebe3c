/** Weights that begin as the data say. */
import { afterAll, describe, expect, test } from "vitest";

import { memorySource, type RowSource } from "../activation-source.ts";
import { openDevice } from "../device/device.ts";
import { Rng } from "../rng.ts";
import { joinedSource, pairedSource } from "../zipped-source.ts";
import type { Sae } from "./sae.ts";
import { Trainer } from "./train.ts";
import { forwardRow } from "./transform.ts";

const device = await openDevice("cpu", { threads: 2 });
afterAll(() => device.close());

const [dIn, dOut, dSae, ROWS] = [7, 5, 30, 60];

function rowsOf(width: number, seed: number): Float32Array {
  const rng = new Rng(seed, "rows");
  const rows = Float32Array.from(
    { length: ROWS * width },
    (_, i) => 3 + (i % width) + rng.normal() * (1 + (i % width)),
  );
  // The second row once more, and twice, as happens to the first tokens of texts.
  for (const n of [4, 5]) rows.copyWithin(n * width, width, 2 * width);
  return rows;
}

const inputs = memorySource(rowsOf(dIn, 1), dIn);
const targets = memorySource(rowsOf(dOut, 2), dOut);
const sources: Record<string, RowSource> = {
  autoencoder: inputs,
  transcoder: pairedSource(inputs, targets),
  crosscoder: joinedSource([targets, memorySource(rowsOf(dOut, 3), dOut)]),
};

async function begin(sae: Record<string, unknown>, source: RowSource, seed = 0) {
  const trainer = await Trainer.create(device, {
    sae: { dSae, init: "data", ...sae } as never,
    train: { batchSize: 20, shuffle: false },
    seed,
    source,
  });
  const begun = await trainer.sae();
  const validation = await trainer.validate(source);
  trainer.close();
  return { sae: begun, error: validation.terms.reconstruction };
}

/** Rows of a source in the units of training, from their mean. */
function directions(data: Float32Array, width: number, transform: Sae["spec"]["input"]) {
  const rows = Array.from({ length: ROWS }, (_, n) =>
    forwardRow(transform, data.subarray(n * width, (n + 1) * width)),
  );
  const mean = rows[0].map((_, c) => rows.reduce((sum, row) => sum + row[c], 0) / ROWS);
  return rows.map((row) => row.map((v, c) => v - mean[c]));
}

const cosine = (a: ArrayLike<number>, b: ArrayLike<number>) => {
  const dot = (u: ArrayLike<number>, v: ArrayLike<number>) =>
    Array.from(u).reduce((sum, w, c) => sum + w * v[c], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
};

const kinds: Record<string, Record<string, unknown>> = {
  topk: { architecture: "topk", k: 4 },
  "topk, whitened": { architecture: "topk", k: 4, normalizeActivations: "whitening" },
  "batchTopk whose k falls": { architecture: "batchTopk", k: 3, kStart: 9, kAnnealSteps: 9 },
  "relu, free norms": { architecture: "relu" },
  "gated, geometric median": { architecture: "gated", decoderBiasInit: "geometricMedian" },
  "jumprelu, raw activations": { architecture: "jumprelu", normalizeActivations: "none" },
};

describe.each(Object.entries(sources))("an %s", (structure, source) => {
  test.each(Object.entries(kinds))(
    "of kind %s begins in the directions of the first rows, no two in the same",
    async (_, settings) => {
      if (structure === "crosscoder" && settings.normalizeActivations === "whitening") return;
      const { sae } = await begin(settings, source);
      const { spec } = sae;
      const isTranscoder = structure === "transcoder";
      const read = async (side: "data" | "target") => {
        for await (const block of source.rowsInOrder(ROWS)) return block[side]!.slice();
        throw new Error("no rows");
      };
      const x = directions(await read("data"), spec.dIn, spec.input);
      const y = isTranscoder ? directions(await read("target"), dOut, spec.output) : x;
      const norm = settings.architecture === "relu" ? 0.1 : 1;
      // Rows 4 and 5 are row 1 again.
      const order = Array.from({ length: ROWS }, (_, n) => n).filter((n) => n !== 4 && n !== 5);
      for (let f = 0; f < dSae; f++) {
        const row = sae.decoderRow(f);
        expect(Math.hypot(...row)).toBeCloseTo(norm, 5);
        expect(cosine(row, y[order[f]])).toBeCloseTo(1, 5);
        const encoder = sae.W_enc.subarray(f * spec.dIn, (f + 1) * spec.dIn);
        expect(cosine(encoder, x[order[f]])).toBeCloseTo(1, 5);
      }
    },
  );

  test.each(Object.entries(kinds))(
    "of kind %s begins at the scale that reconstructs best",
    async (_, settings) => {
      if (structure === "crosscoder" && settings.normalizeActivations === "whitening") return;
      // Validation chooses by threshold, which batchTopk does not have yet.
      if (settings.architecture === "batchTopk") return;
      const { sae, error } = await begin(settings, source);
      const errorAt = async (factor: number) => {
        const { spec } = sae;
        const scaled = { ...sae, W_enc: sae.W_enc.map((v) => v * factor) };
        scaled.b_enc = sae.b_enc.map((v) => v * factor);
        const onDevice = new (sae.constructor as typeof Sae)(spec, scaled).on(device, ROWS);
        for await (const { data, target } of source.rowsInOrder(ROWS)) {
          const { error } = await onDevice.statistics(data, ROWS, target);
          onDevice.close();
          return error / ROWS;
        }
        return NaN;
      };
      expect(await errorAt(1)).toBeCloseTo(error, 4);
      // Where the scale decides which latents are active, it is a fixed point near the best one.
      const least = settings.architecture === "jumprelu" ? 0.99 * error : error;
      for (const factor of [0.5, 0.9, 1.1, 2]) expect(await errorAt(factor)).toBeGreaterThan(least);
      const tied = await begin({ ...settings, init: "tied" }, source);
      expect(error).toBeLessThan(tied.error);
    },
  );
});

test("latents for which there are no rows keep random directions, which follow from the seed", async () => {
  const few = inputs.slice(0, 8);
  const weights = async (seed: number) => (await begin({ k: 4 }, few, seed)).sae.W_dec;
  const [a, again, b] = [await weights(1), await weights(1), await weights(2)];
  expect(a).toEqual(again);
  for (let f = 0; f < dSae; f++) {
    const [u, v] = [a, b].map((w) => w.subarray(f * dIn, (f + 1) * dIn));
    expect(Math.hypot(...u)).toBeCloseTo(1, 5);
    // Six rows are different.
    expect(cosine(u, v) > 0.9999).toBe(f < 6);
  }
});
