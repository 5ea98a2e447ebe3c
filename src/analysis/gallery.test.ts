import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { codesByLatent } from "./codes.ts";
import type { BestLabel } from "./concepts.ts";
import { FeatureCounter } from "./feature-counter.ts";
import { writeFeatures } from "./feature-folder.ts";
import { chunkOfPieces } from "../../test/token-chunks.ts";
import { alignedCount, featureTable, formatFeatureTable, galleryOf } from "./gallery.ts";

const folder = await mkdtemp(join(tmpdir(), "lens-gallery-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

const label = (name: string, auc: number, f1: number): BestLabel => ({
  kind: "token",
  name,
  positives: 100,
  auc,
  precision: 0.5,
  recall: 1,
  threshold: 1,
  atThreshold: { precision: f1, recall: f1, f1 },
  selection: { auc, f1 },
});

/** 30 documents; latent 0 fires on every " a", 1 on half of the " b", 2 on all but " d", 3 never. */
async function madeUpFeatures() {
  const pieces = [" a", " b", " c", " d", " b"];
  const { chunk, tokenText, vocabulary } = chunkOfPieces(
    Array.from({ length: 30 }, () => [...pieces, ...pieces]),
  );
  const acts = Array.from(chunk.tokens, (token, p) => {
    const text = vocabulary[token];
    return [text === " a" ? 2 : 0, text === " b" && p % 2 ? 1 : 0, text === " d" ? 0 : 1, 0];
  });
  const codes = codesByLatent(
    { kind: "dense", acts: Float32Array.from(acts.flat()) },
    4,
    Int32Array.from(acts.keys()),
  );
  const counter = new FeatureCounter(4, {
    ...{ topExamples: 3, randomExamples: 2, quantileExamples: 1, nearMissExamples: 1 },
    ...{ silentExamples: 1, contextTokens: 2, seed: 0, vocabulary: 5, pairBytes: 1e6 },
  });
  counter.add(chunk, codes);
  const best = [label("token “ a”", 1, 0.9), label("token “ b”", 0.96, 0.3), null, null];
  return writeFeatures(join(folder, "features"), counter, () => [{ chunk, codes }], tokenText, {
    provenance: {},
    labels: { selectionPositions: 150, testPositions: 150, best },
  });
}

describe("the list of features", () => {
  it("leaves out latents that fire on too much or on nothing", async () => {
    const features = await madeUpFeatures();
    // Every token is a fifth of the text here: more than the ranking's upper limit of 5 %.
    expect(featureTable(features, 50)).toEqual([]);
    expect(formatFeatureTable([])).toContain("0 of 0");
  });

  it("prints label, AUC, precision and recall, and counts honestly", async () => {
    const features = await madeUpFeatures();
    const rows = [0, 1, 2].map((latent, i) => ({
      rank: i + 1,
      latent,
      firings: 60,
      density: 0.2,
      mean: 2,
      max: 2,
      topTokens: features.index.columns.topTokens[latent],
      label: features.labels!.best[latent] ?? undefined,
    }));
    expect(alignedCount(rows)).toBe(2);
    const text = formatFeatureTable(rows);
    expect(text).toMatch(/1\s+0\s+20\.0\s+1\.000\s+50\.0\s+100\.0\s+90\.0\s+token\s+token “ a”/);
    expect(text).toMatch(/3\s+2\s.*no label fits/);
    expect(text).toContain("2 of 3 line up");
    expect(text).toContain("1 of them fire for little else");
  });

  it("lists all latents in the page's table, also those that are not ranked", async () => {
    const { table, gallery } = await galleryOf(await madeUpFeatures(), 50);
    expect(table.rows.map(({ latent }) => latent)).toEqual([2, 0, 1, 3]); // by frequency
    expect(table.rows[1]).toMatchObject({ firings: 60, density: 0.2, max: 2, topTokens: [" a"] });
    expect(gallery.source).toContain("300 tokens of 30 documents");
    expect(gallery.labelling).toContain("150 tokens");
  });
});
