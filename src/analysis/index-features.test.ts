import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { openDevice } from "../device/device.ts";
import { loadModel } from "../model/model.ts";
import { Rng } from "../rng.ts";
import { Sae } from "../sae/sae.ts";
import { indexFeatures } from "./index-features.ts";

const model = await loadModel(
  fileURLToPath(new URL("../../test/fixtures/gpt2-tiny/f32", import.meta.url)),
);
const device = await openDevice("reference");
const folder = await mkdtemp(join(tmpdir(), "lens-index-"));
afterAll(async () => {
  await model.close();
  await device.close();
  await rm(folder, { recursive: true, force: true });
});

const hookPoint = model.hookPoints().find((name) => name.endsWith("hook_resid_post"))!;
const dIn = model.hookWidth(hookPoint);
const dSae = 24;

function randomTopK(k: number): Sae {
  const rng = new Rng(1);
  const W = Float32Array.from({ length: dSae * dIn }, () => rng.normal());
  return new Sae(
    { selection: { architecture: "topk", k }, dIn, dSae, applyBDecToInput: true },
    { W_enc: W, b_enc: new Float32Array(dSae), W_dec: W, b_dec: new Float32Array(dIn) },
  );
}

const words = ["dog", "cat", "🐉", "龍", "naïve", "\n\nThen", "ran", "the", "a 👩‍🚒"];
const rng = new Rng(2);
const documents = Array.from({ length: 60 }, (_, i) => ({
  id: `doc ${i}`,
  text: Array.from({ length: 12 }, () => words[rng.int(words.length)]).join(" "),
}));

const options = {
  device,
  hookPoint,
  tokens: 100_000,
  contextLength: 32,
  batchRows: 4,
  topExamples: 6,
  randomExamples: 3,
  contextTokens: 5,
  seed: 0,
};

describe("indexFeatures", () => {
  it("counts every token of the text once and shows exact slices of it, whatever the tokens split", async () => {
    const out = join(folder, "one");
    const features = await indexFeatures(randomTopK(3), model, documents, { ...options, out });
    const tokens = documents.reduce((n, d) => n + model.tokenizer.encode(d.text).ids.length, 0);
    expect(features.index.positions).toBe(tokens);
    expect(features.index.documents).toBe(documents.length);
    const fired = features.index.columns.firings.reduce((a, b) => a + b, 0);
    expect(fired).toBeGreaterThan(tokens);
    expect(fired).toBeLessThanOrEqual(3 * tokens);
    let examples = 0;
    let whole = 0;
    for (let latent = 0; latent < dSae; latent++) {
      const { top, random } = await features.feature(latent);
      for (const { document, pieces, values, peak } of [...top, ...random]) {
        const { text } = documents.find(({ id }) => id === document)!;
        expect(text).toContain(pieces.join(""));
        expect(pieces.join("")).not.toMatch(/\p{Cs}/u); // no half of a surrogate pair
        expect(values[peak]).toBeGreaterThan(0);
        examples++;
        if (pieces.some((piece) => piece.includes("🐉"))) whole++;
      }
    }
    expect(examples).toBeGreaterThan(50);
    expect(whole).toBeGreaterThan(5); // four bytes, no token of its own
  });

  it("writes the same bytes again", async () => {
    const [a, b] = [join(folder, "a"), join(folder, "b")];
    await indexFeatures(randomTopK(3), model, documents, { ...options, out: a });
    await indexFeatures(randomTopK(3), model, documents, { ...options, out: b });
    for (const name of ["index.json", "features.jsonl", "labels.json"])
      expect(await readFile(join(a, name), "utf8")).toBe(await readFile(join(b, name), "utf8"));
  });

  it("stops at the number of tokens asked for", async () => {
    const out = join(folder, "short");
    const short = await indexFeatures(randomTopK(2), model, documents, {
      ...options,
      out,
      tokens: 200,
    });
    expect(short.index.positions).toBeGreaterThanOrEqual(200);
    expect(short.index.positions).toBeLessThan(200 + 4 * 32);
  });
});
