import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { UserError } from "../error.ts";
import { Rng } from "../rng.ts";
import { codesByLatent, piecesOf, selectDocuments, type TextChunk } from "./codes.ts";
import { contextKey, FeatureCounter } from "./feature-counter.ts";
import { HISTOGRAM, histogramBin, histogramEdge, openFeatures } from "./features.ts";
import { chunkOfPieces } from "../../test/token-chunks.ts";
import { rankFeatures } from "./ranking.ts";

const folder = await mkdtemp(join(tmpdir(), "lens-features-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

const OPTIONS = { topExamples: 5, randomExamples: 4, contextTokens: 3, seed: 1 };
const LATENTS = 6;

/** Documents of made-up words over a small vocabulary, so that contexts repeat. */
function madeUpText(documents: number, seed: number) {
  const rng = new Rng(seed);
  const words = ["a", " b", " c", " d", ".", " e"];
  return chunkOfPieces(
    Array.from({ length: documents }, () =>
      Array.from({ length: 5 + rng.int(20) }, () => words[rng.int(words.length)]),
    ),
  );
}

/** [length][LATENTS]; the last latent never fires. */
function madeUpCodes(chunk: TextChunk, seed: number): number[][] {
  const rng = new Rng(seed);
  return Array.from({ length: chunk.length }, () =>
    Array.from({ length: LATENTS }, (_, f) =>
      f < LATENTS - 1 && rng.uniform() < 0.3 ? Math.fround(0.01 + 3 * rng.uniform()) : 0,
    ),
  );
}

function turned(codes: number[][]) {
  const keep = Int32Array.from(codes.keys());
  return codesByLatent({ kind: "dense", acts: Float32Array.from(codes.flat()) }, LATENTS, keep);
}

describe("one pass over text", () => {
  const { chunk, tokenText } = madeUpText(40, 3);
  const codes = madeUpCodes(chunk, 4);
  const counter = new FeatureCounter(LATENTS, OPTIONS);
  counter.add(chunk, turned(codes));

  it("counts what plain loops over the dense codes count", () => {
    for (let f = 0; f < LATENTS; f++) {
      const feature = counter.feature(f, tokenText);
      const values = codes.map((row) => row[f]);
      const fired = values.filter((v) => v > 0);
      expect(feature.firings).toBe(fired.length);
      expect(feature.density).toBe(fired.length / chunk.length);
      expect(feature.max).toBe(Math.max(...fired, 0));
      const mean = fired.length > 0 ? fired.reduce((a, b) => a + b, 0) / fired.length : 0;
      expect(feature.mean).toBeCloseTo(mean, 10);
      const documents = new Set(values.flatMap((v, p) => (v > 0 ? [chunk.document[p]] : [])));
      expect(feature.documents).toBe(documents.size);
      const { firstBin, counts } = feature.histogram;
      const bins = new Array<number>(HISTOGRAM.bins).fill(0);
      for (const value of fired)
        bins[bins.findIndex((_, b) => value < histogramEdge(b + 1) || b === bins.length - 1)]++;
      expect([...new Array<number>(firstBin).fill(0), ...counts]).toEqual(
        bins.slice(0, firstBin + counts.length),
      );
      expect(counts.reduce((a, b) => a + b, 0)).toBe(fired.length);
    }
  });

  it("keeps the strongest example of each context, in order", () => {
    for (let f = 0; f < LATENTS; f++) {
      const best = new Map<number, number>();
      codes.forEach((row, p) => {
        const key = contextKey(chunk, p);
        if (row[f] > 0) best.set(key, Math.max(best.get(key) ?? 0, row[f]));
      });
      const expected = [...best.values()].sort((a, b) => b - a).slice(0, OPTIONS.topExamples);
      expect(counter.feature(f, tokenText).top.map(({ value }) => value)).toEqual(expected);
    }
  });

  it("shows an example's exact characters and the activation on each", () => {
    const { top, random } = counter.feature(0, tokenText);
    for (const example of [...top, ...random]) {
      const document = chunk.documents.find(({ id }) => id === example.document)!;
      expect(document.text).toContain(example.pieces.join(""));
      expect(example.values[example.peak]).toBe(example.value);
      expect(example.pieces.length).toBeLessThanOrEqual(2 * OPTIONS.contextTokens + 1);
      // Every activation of the window is there: find the window by its peak, and compare.
      const peaks = codes.flatMap((row, p) => (row[0] === example.value ? [p] : []));
      expect(peaks).toHaveLength(1);
      const from = peaks[0] - example.peak;
      expect(example.values).toEqual(example.pieces.map((_, i) => codes[from + i][0]));
    }
  });

  it("draws random examples that do not depend on how the text was cut into chunks", () => {
    const halves = new FeatureCounter(LATENTS, OPTIONS);
    const all = turned(codes);
    const early = selectDocuments(chunk, all, ({ ordinal }) => ordinal < 17);
    const late = selectDocuments(chunk, all, ({ ordinal }) => ordinal >= 17);
    halves.add(early.chunk, early.codes);
    halves.add({ ...late.chunk, first: early.chunk.length }, late.codes);
    for (let f = 0; f < LATENTS; f++)
      expect(halves.feature(f, tokenText)).toEqual(counter.feature(f, tokenText));
    const other = new FeatureCounter(LATENTS, { ...OPTIONS, seed: 2 });
    other.add(chunk, all);
    expect(other.feature(0, tokenText).random).not.toEqual(counter.feature(0, tokenText).random);
    expect(new Set(counter.feature(0, tokenText).random.map((e) => e.value)).size).toBe(4);
  });

  it("measures how much of the activation's variance the token explains", () => {
    const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
    for (let f = 0; f < LATENTS - 1; f++) {
      const values = codes.map((row) => row[f]);
      const types = [...new Set(chunk.tokens)];
      const total = values.reduce((sum, v) => sum + (v - mean(values)) ** 2, 0);
      const within = types.reduce((sum, token) => {
        const own = values.filter((_, p) => chunk.tokens[p] === token);
        return sum + own.reduce((s, v) => s + (v - mean(own)) ** 2, 0);
      }, 0);
      const n = values.length;
      const expected = 1 - within / (n - types.length) / (total / (n - 1));
      const found = counter.feature(f, tokenText).tokenSelectivity;
      expect(found).toBeCloseTo(Math.max(expected, 0), 9);
      expect(found).toBeLessThan(0.05); // the codes know nothing of the tokens
    }
    const decided = codes.map((row, p) => [chunk.tokens[p] === 1 ? 2 : 0, ...row.slice(1)]);
    const other = new FeatureCounter(LATENTS, OPTIONS);
    other.add(chunk, turned(decided));
    expect(other.feature(0, tokenText).tokenSelectivity).toBeCloseTo(1, 9);
    expect(other.feature(LATENTS - 1, tokenText).tokenSelectivity).toBe(0);
  });

  it("counts the kinds of token by their activation", () => {
    const { chunk, tokenText } = chunkOfPieces([["a", " b", " c", "a"]]);
    const counter = new FeatureCounter(LATENTS, OPTIONS);
    const one = [0, 0, 0, 0, 0];
    counter.add(chunk, turned([[1, 2, ...one].slice(0, 6), [2, 0, ...one].slice(0, 6), [0, 0, ...one].slice(0, 6), [1, 0, ...one].slice(0, 6)])); // prettier-ignore
    expect(counter.feature(0, tokenText).tokenTypes).toBeCloseTo(2, 12); // "a" and " b", 2 each
    expect(counter.feature(1, tokenText).tokenTypes).toBeCloseTo(1, 12);
    expect(counter.feature(2, tokenText).tokenTypes).toBe(0);
  });

  it("puts values into bins whose edges hold them", () => {
    for (const value of [0.001, 0.24999, 0.25, 0.25001, 1, 1.19, 7, 4000]) {
      const bin = histogramBin(value);
      expect(histogramEdge(bin)).toBeLessThanOrEqual(value);
      expect(histogramEdge(bin + 1)).toBeGreaterThan(value);
    }
    expect(histogramBin(1e-9)).toBe(0);
    expect(histogramBin(1e9)).toBe(HISTOGRAM.bins - 1);
  });

  it("is written to a folder from which any latent opens", async () => {
    const out = join(folder, "features");
    await counter.write(out, tokenText, { provenance: { seed: 1 } });
    const features = await openFeatures(out);
    expect(features.index.positions).toBe(chunk.length);
    for (let f = 0; f < LATENTS; f++) {
      const feature = await features.feature(f);
      expect(feature.latent).toBe(f);
      expect(feature.firings).toBe(features.index.columns.firings[f]);
      expect(feature.top.length).toBe(counter.feature(f, tokenText).top.length);
    }
    await expect(features.feature(LATENTS)).rejects.toThrow("from 0 to 5; got 6");
  });

  it("says what to do when the folder is missing or damaged", async () => {
    await expect(openFeatures(join(folder, "nowhere"))).rejects.toThrow("lens features");
    const out = join(folder, "damaged");
    await counter.write(out, tokenText, { provenance: {} });
    const path = join(out, "features.jsonl");
    await writeFile(path, (await readFile(path, "utf8")).slice(40));
    const features = await openFeatures(out);
    await expect(features.feature(2)).rejects.toThrow(UserError);
  });
});

describe("pieces of a window", () => {
  it("join tokens that share a character and keep every character of the text", () => {
    // As a byte-level tokenizer splits them: 🐉 over three tokens, 龍 over two.
    const text = "the 🐉 is 龍!";
    const ranges = [
      [0, 3],
      [3, 6],
      [4, 6],
      [4, 6],
      [6, 9],
      [9, 11],
      [10, 11],
      [11, 12],
    ];
    const { chunk } = chunkOfPieces([[...text].slice(0, 8)]);
    chunk.documents[0] = { ...chunk.documents[0], text };
    chunk.start = Int32Array.from(ranges, ([start]) => start);
    chunk.end = Int32Array.from(ranges, ([, end]) => end);
    expect(piecesOf(chunk, 0, 8)).toEqual({
      text: ["the", " 🐉", " is", " 龍", "!"],
      pieceOf: [0, 1, 1, 1, 2, 3, 3, 4],
    });
    // A window that begins in the middle of a character shows it whole.
    expect(piecesOf(chunk, 3, 5)).toEqual({ text: ["🐉", " is"], pieceOf: [0, 1] });
    expect(piecesOf(chunk, 1, 2).text).toEqual([" 🐉"]);
  });
});

describe("sparse and dense codes", () => {
  it("turn into the same lists, without the rows that are left out", () => {
    const dense = Float32Array.from([0, 2, 0, 5, 0, 1, 4, 0, 0]);
    const keep = Int32Array.from([0, -1, 1]);
    const expected = {
      offsets: Int32Array.from([0, 1, 2, 2]),
      positions: Int32Array.from([1, 0]),
      values: Float32Array.from([4, 2]),
    };
    expect(codesByLatent({ kind: "dense", acts: dense }, 3, keep)).toEqual(expected);
    const sparse = {
      kind: "sparse" as const,
      k: 2,
      indices: Int32Array.from([1, -1, 0, 2, 0, 1]),
      values: Float32Array.from([2, 0, 5, 1, 4, 0]),
    };
    expect(codesByLatent(sparse, 3, keep)).toEqual(expected);
  });
});

describe("the ranking", () => {
  it("depends on the statistics alone, and lets no token take all places", async () => {
    const { chunk, tokenText } = madeUpText(400, 5);
    const counter = new FeatureCounter(LATENTS, OPTIONS);
    counter.add(chunk, turned(madeUpCodes(chunk, 6)));
    const { index } = await counter.write(join(folder, "ranked"), tokenText, { provenance: {} });
    const options = { density: [0, 1] as [number, number], perToken: LATENTS };
    const order = rankFeatures(index, options);
    expect(order).toEqual(rankFeatures(structuredClone(index), options));
    expect(order).not.toContain(LATENTS - 1); // it never fires
    const varied = rankFeatures(index, { ...options, perToken: 1 });
    const mainTokens = varied.map((latent) => index.columns.mainToken[latent]);
    expect(new Set(mainTokens).size).toBe(varied.length);
    expect(varied.length).toBeLessThan(order.length);
  });
});
