/** The feature index against test/oracles/features.py (numpy) on the same codes. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { codesByLatent, type TextChunk } from "./codes.ts";
import { FeatureCounter } from "./feature-counter.ts";
import { writeFeatures } from "./feature-folder.ts";
import { histogramEdge } from "./features.ts";

interface Oracle {
  tokens: number[];
  row: number[];
  documentLengths: number[];
  codes64: number[][];
  placeTotals: number[];
  latents: {
    firings: number;
    density: number;
    documents: number;
    mean: number;
    max: number;
    histogram: number[];
    byPlace: number[];
    rates: number[];
    mass: number[];
    co: number[];
    tokenSelectivity: number;
    tokenTypes: number;
    fifths: [number, number][];
    phi: (number | null)[];
  }[];
}

const oracle = JSON.parse(
  await readFile(new URL("../../test/fixtures/features/expected.json", import.meta.url), "utf8"),
) as Oracle;
const { tokens, row, documentLengths, codes64 } = oracle;
const dSae = oracle.latents.length;
const document = documentLengths.flatMap((length, d) => Array<number>(length).fill(d));
const start = documentLengths.flatMap((length) => Array.from(Array(length).keys()));
const chunk: TextChunk = {
  ...{ first: 0, length: tokens.length, tokens: Int32Array.from(tokens) },
  ...{ row: Int32Array.from(row), document: Int32Array.from(document) },
  documents: documentLengths.map((length, ordinal) => ({
    ...{ ordinal, id: String(ordinal), text: "x".repeat(length), spans: [] },
  })),
  ...{ start: Int32Array.from(start), end: Int32Array.from(start, (s) => s + 1) },
};
const acts = Float32Array.from(codes64.flat(), (n) => n / 64);
const codes = codesByLatent({ kind: "dense", acts }, dSae, Int32Array.from(tokens.keys()));
const options = {
  ...{ topExamples: 3, randomExamples: 3, quantileExamples: 2, nearMissExamples: 2 },
  ...{ silentExamples: 2, contextTokens: 3, seed: 0, vocabulary: 11, pairBytes: 1e6 },
};
const counter = new FeatureCounter(dSae, options);
counter.add(chunk, codes);
const folder = await mkdtemp(join(tmpdir(), "lens-oracle-"));
afterAll(() => rm(folder, { recursive: true, force: true }));
const features = await writeFeatures(join(folder, "features"), counter, () => [{ chunk, codes }], String, { provenance: {} }); // prettier-ignore

/** Relative 1e-5, as five significant digits of the stored numbers allow. */
function close(found: number, expected: number): void {
  expect(Math.abs(found - expected)).toBeLessThanOrEqual(1e-5 * Math.abs(expected) + 1e-12);
}

describe("the feature index and numpy agree on", () => {
  it.each(oracle.latents.map((expected, f) => [f, expected] as const))(
    "latent %i",
    async (f, expected) => {
      const found = counter.numbers(f);
      expect(found.firings).toBe(expected.firings);
      expect(found.documents).toBe(expected.documents);
      for (const name of ["density", "mean", "max", "tokenSelectivity", "tokenTypes"] as const)
        close(found[name], expected[name]);
      const { firstBin, counts } = found.histogram;
      const all = Array<number>(96).fill(0);
      counts.forEach((count, i) => (all[firstBin + i] = count));
      expect(all).toEqual(expected.histogram);
      expect(histogramEdge(0)).toBe(2 ** -12);
      expect(found.byPlace.slice(0, 6)).toEqual(expected.byPlace);
      expect(counter.placeTotals.slice(0, 6)).toEqual(oracle.placeTotals);
      for (const { token, count, sum } of found.tokens) {
        close(count / counter.tokens.occurrences[token], expected.rates[token]);
        close(sum, expected.mass[token]);
      }
      expect(found.tokens.length).toBe(expected.mass.filter((mass) => mass > 0).length);
      for (let g = 0; g < dSae; g++) expect(counter.coActivation.count(f, g)).toBe(expected.co[g]);
      const { quantiles, rankSample } = features.feature(f);
      if (rankSample === expected.firings)
        expect(quantiles.map(({ low, high }) => [low, high]).reverse()).toEqual(
          expected.fifths.map((ends) => ends.map((end) => Number(end.toPrecision(5)))),
        );
      else
        // A sample of 256 ranks: within 12 %, four standard errors of a median.
        for (const [q, { low, high }] of [...quantiles].reverse().entries()) {
          const fired = codes64.map((row) => row[f] / 64).filter((v) => v > 0).sort((a, b) => a - b); // prettier-ignore
          const rank = (v: number) => fired.filter((w) => w <= v).length / fired.length;
          expect(Math.abs(rank(low) - q / 5)).toBeLessThan(0.12);
          expect(Math.abs(rank(high) - (q + 1) / 5)).toBeLessThan(0.12);
        }
      // Eight partners: all of them stand out by their count.
      const partners = features.partners(f);
      partners.latents.forEach((g, i) => expect(partners.counts[i]).toBe(expected.co[g]));
      if (f === 1) expect([...partners.latents]).toContain(5); // never together, though expected
    },
  );
});
