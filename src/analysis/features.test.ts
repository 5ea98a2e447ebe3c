import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { afterAll, describe, expect, it } from "vitest";
import { UserError } from "../error.ts";
import { Rng } from "../rng.ts";
import { codesByLatent, piecesOf, selectDocuments, type TextChunk } from "./codes.ts";
import { contextKey, FeatureCounter } from "./feature-counter.ts";
import { gatherExamples } from "./feature-examples.ts";
import { writeFeatures } from "./feature-folder.ts";
import { HISTOGRAM, histogramBin, histogramEdge, openFeatures } from "./features.ts";
import { chunkOfPieces } from "../../test/token-chunks.ts";
import { rankFeatures } from "./ranking.ts";

const folder = await mkdtemp(join(tmpdir(), "lens-features-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

const OPTIONS = {
  ...{ topExamples: 5, randomExamples: 4, quantileExamples: 2, nearMissExamples: 3 },
  ...{ silentExamples: 2, contextTokens: 3, seed: 1, vocabulary: 8, pairBytes: 1e6 },
};
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
  const replay = () => [{ chunk, codes: turned(codes) }];
  const examples = () => gatherExamples(counter, replay, 0, LATENTS);

  it("counts what plain loops over the dense codes count", () => {
    for (let f = 0; f < LATENTS; f++) {
      const feature = counter.numbers(f);
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
      expect(counter.strongest(f).map(({ value }) => value)).toEqual(expected);
    }
  });

  it("shows an example's exact characters and the activation on each", async () => {
    for (const [f, { windows, top, random }] of (await examples()).entries())
      for (const [window, value] of [...top, ...random]) {
        const { document, text, lengths, at, values, peak } = windows[window];
        expect(chunk.documents.find(({ id }) => id === document)!.text).toContain(text);
        expect(lengths.reduce((a, b) => a + b)).toBe(text.length);
        expect(lengths.length).toBeLessThanOrEqual(2 * OPTIONS.contextTokens + 1);
        expect(values[at.indexOf(peak)]).toBe(value);
        // Every activation of the window is there: find the window by its peak, and compare.
        const peaks = codes.flatMap((row, p) => (row[f] === value ? [p] : []));
        expect(peaks).toHaveLength(1);
        const shown = lengths.map((_, piece) => values[at.indexOf(piece)] ?? 0);
        expect(shown).toEqual(lengths.map((_, i) => codes[peaks[0] - peak + i][f]));
      }
  });

  it("ranks firings and cuts them into fifths", async () => {
    for (const [f, { quantiles, rankSample }] of (await examples()).entries()) {
      // Fewer firings than are sampled: ranks are exact.
      const fired = codes.map((row) => row[f]).filter((v) => v > 0).sort((a, b) => a - b); // prettier-ignore
      expect(rankSample).toBe(fired.length);
      expect(quantiles).toHaveLength(fired.length > 0 ? 5 : 0);
      for (const { from, to, low, high, examples } of quantiles) {
        expect(low).toBe(fired[Math.round(from * fired.length)]);
        expect(high).toBe(fired[Math.round(to * fired.length) - 1]);
        expect(examples).toHaveLength(2);
        for (const [, value] of examples) {
          expect(value).toBeGreaterThanOrEqual(low);
          expect(value).toBeLessThanOrEqual(high);
        }
      }
      if (fired.length > 0) expect(quantiles[0].to).toBe(1);
    }
  });

  it("finds near misses and silent places where the latent is silent", async () => {
    const other = new FeatureCounter(LATENTS, OPTIONS);
    // Latent 0 fires on every second " b" only, latent 1 on all of them.
    const rare = codes.map((row, p) => {
      const isB = tokenText(chunk.tokens[p]) === " b";
      return [isB && p % 2 === 0 ? 1 : 0, isB ? 1 : 0, ...row.slice(2)];
    });
    other.add(chunk, turned(rare));
    const all = await gatherExamples(other, () => [{ chunk, codes: turned(rare) }], 0, LATENTS);
    expect(all[0].nearMiss).toHaveLength(3);
    for (const [window] of all[0].nearMiss) {
      const { text, lengths, peak, at } = all[0].windows[window];
      const start = lengths.slice(0, peak).reduce((a, b) => a + b, 0);
      expect(text.slice(start, start + lengths[peak])).toBe(" b");
      expect(at).not.toContain(peak);
    }
    expect(all[1].nearMiss).toEqual([]);
    for (const { silent, windows } of all) {
      expect(silent).toHaveLength(2);
      for (const [window, value] of silent) {
        expect(value).toBe(0);
        expect(windows[window].at).not.toContain(windows[window].peak);
      }
    }
  });

  it("counts by place in the row and by token, with denominators", () => {
    const places: number[] = [];
    for (let p = 0; p < chunk.length; p++)
      places.push(p > 0 && chunk.row[p] === chunk.row[p - 1] ? places[p - 1] + 1 : 0);
    const binOf = (place: number) => Math.floor(Math.log2(place + 1));
    for (let bin = 0; bin < 6; bin++)
      expect(counter.placeTotals[bin]).toBe(places.filter((place) => binOf(place) === bin).length);
    for (let f = 0; f < LATENTS; f++) {
      const { byPlace, tokens } = counter.numbers(f);
      for (let bin = 0; bin < 6; bin++)
        expect(byPlace[bin]).toBe(codes.filter((row, p) => row[f] > 0 && binOf(places[p]) === bin).length); // prettier-ignore
      for (const { token, count, sum } of tokens) {
        const own = codes.filter((row, p) => chunk.tokens[p] === token && row[f] > 0);
        expect(count).toBe(own.length);
        expect(sum).toBeCloseTo(own.reduce((all, row) => all + row[f], 0), 9); // prettier-ignore
        expect(counter.tokens.occurrences[token]).toBe(chunk.tokens.filter((t) => t === token).length); // prettier-ignore
      }
    }
  });

  it("takes no more memory than it says beforehand", () => {
    expect(counter.bytes).toBe(FeatureCounter.plannedBytes(LATENTS, OPTIONS));
    const small = { ...OPTIONS, vocabulary: 1000, pairBytes: 10 };
    const bounded = new FeatureCounter(LATENTS, small);
    bounded.add(chunk, turned(codes));
    expect(bounded.bytes).toBeLessThanOrEqual(FeatureCounter.plannedBytes(LATENTS, small));
  });

  it("does not depend on how the text was cut into chunks", async () => {
    const all = turned(codes);
    const parts = [[0, 3], [3, 17], [17, 40]].map(([from, to]) => selectDocuments(chunk, all, ({ ordinal }) => ordinal >= from && ordinal < to)); // prettier-ignore
    let first = 0;
    const cut = parts.map(({ chunk, codes }) => {
      const placed = { chunk: { ...chunk, first }, codes };
      first += chunk.length;
      return placed;
    });
    const pieces = new FeatureCounter(LATENTS, OPTIONS);
    for (const part of cut) pieces.add(part.chunk, part.codes);
    const [a, b] = [join(folder, "whole"), join(folder, "cut")];
    await writeFeatures(a, counter, replay, tokenText, { provenance: {} });
    await writeFeatures(b, pieces, () => cut, tokenText, { provenance: {} });
    for (const name of ["index.json", "features.jsonl.gz", "coactivation.bin"])
      expect(Buffer.compare(await readFile(join(a, name)), await readFile(join(b, name)))).toBe(0);
    const other = new FeatureCounter(LATENTS, { ...OPTIONS, seed: 2 });
    other.add(chunk, all);
    expect(other.sample(0).slice(0, 4)).not.toEqual(counter.sample(0).slice(0, 4));
    expect(new Set(counter.sample(0).map(({ position }) => position)).size).toBe(
      counter.numbers(0).firings,
    );
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
      const found = counter.numbers(f).tokenSelectivity;
      expect(found).toBeCloseTo(Math.max(expected, 0), 9);
      expect(found).toBeLessThan(0.05); // the codes know nothing of the tokens
    }
    const decided = codes.map((row, p) => [chunk.tokens[p] === 1 ? 2 : 0, ...row.slice(1)]);
    const other = new FeatureCounter(LATENTS, OPTIONS);
    other.add(chunk, turned(decided));
    expect(other.numbers(0).tokenSelectivity).toBeCloseTo(1, 9);
    expect(other.numbers(LATENTS - 1).tokenSelectivity).toBe(0);
  });

  it("counts the kinds of token by their activation", () => {
    const { chunk } = chunkOfPieces([["a", " b", " c", "a"]]);
    const counter = new FeatureCounter(LATENTS, OPTIONS);
    const one = [0, 0, 0, 0, 0];
    counter.add(chunk, turned([[1, 2, ...one].slice(0, 6), [2, 0, ...one].slice(0, 6), [0, 0, ...one].slice(0, 6), [1, 0, ...one].slice(0, 6)])); // prettier-ignore
    expect(counter.numbers(0).tokenTypes).toBeCloseTo(2, 12); // "a" and " b", 2 each
    expect(counter.numbers(1).tokenTypes).toBeCloseTo(1, 12);
    expect(counter.numbers(2).tokenTypes).toBe(0);
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
    await writeFeatures(out, counter, replay, tokenText, { provenance: { seed: 1 } });
    const features = await openFeatures(out);
    expect(features.index.positions).toBe(chunk.length);
    for (let f = 0; f < LATENTS; f++) {
      const feature = features.feature(f);
      expect(feature.latent).toBe(f);
      expect(feature.firings).toBe(features.index.columns.firings[f]);
      expect(feature.top.length).toBe(counter.strongest(f).length);
      const { latents, counts, error } = features.partners(f);
      expect(error).toBe(0);
      const known = counter.coActivation.partners(f);
      expect(latents).toEqual(known.latents); // so few that all stand out
      expect(counts).toEqual(known.counts);
    }
    expect(() => features.feature(LATENTS)).toThrow("from 0 to 5; got 6");
    expect(() => features.partners(-1)).toThrow("from 0 to 5; got -1");
    const lines = gunzipSync(await readFile(join(out, "features.jsonl.gz"))).toString();
    expect(lines.trim().split("\n")).toHaveLength(LATENTS);
  });

  it("says what to do when the folder is missing or damaged", async () => {
    await expect(openFeatures(join(folder, "nowhere"))).rejects.toThrow("lens features");
    const out = join(folder, "damaged");
    await writeFeatures(out, counter, replay, tokenText, { provenance: {} });
    const path = join(out, "features.jsonl.gz");
    await writeFile(path, (await readFile(path)).subarray(40));
    const features = await openFeatures(out);
    expect(() => features.feature(2)).toThrow(UserError);
    const index = join(out, "index.json");
    await writeFile(index, (await readFile(index, "utf8")).replace('"version":2', '"version":1'));
    await expect(openFeatures(out)).rejects.toThrow("index the features again: lens features");
    await writeFile(index, (await readFile(index, "utf8")).replace('"version":1', '"version":2'));
    const best = Array.from({ length: LATENTS }, () => null);
    await writeFile(join(out, "labels.json"), JSON.stringify({ best }));
    expect((await openFeatures(out)).labels?.best).toEqual(best);
    for (const text of ["{", "null", "{}", JSON.stringify({ best: best.slice(1) })]) {
      await writeFile(join(out, "labels.json"), text);
      await expect(openFeatures(out)).rejects.toThrow(
        /labels.json is damaged .* index the features/,
      );
      const said: string[] = [];
      const opened = await openFeatures(out, ({ message }) => said.push(message));
      expect([opened.labels, said]).toEqual([undefined, [expect.stringContaining("labels.json")]]);
    }
    await rm(join(out, "coactivation.bin"));
    expect(() => features.partners(0)).toThrow(UserError);
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
    const replay = () => [{ chunk, codes: turned(madeUpCodes(chunk, 6)) }];
    const about = { provenance: {} };
    const { index } = await writeFeatures(
      join(folder, "ranked"),
      counter,
      replay,
      tokenText,
      about,
    );
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
