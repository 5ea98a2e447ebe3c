import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";

import { loadModel } from "../model/model.ts";
import { Rng } from "../rng.ts";
import { Sae } from "../sae/sae.ts";
import { bestEffects, conceptEffects, findByEffect, tokensOfConcept } from "./steer-search.ts";

const model = await loadModel(
  fileURLToPath(new URL("../../test/fixtures/gpt2-tiny/f32", import.meta.url)),
);
afterAll(() => model.close());
const hookPoint = model.hookPoints().findLast((name) => name.endsWith("hook_resid_post"))!;
const dIn = model.hookWidth(hookPoint);
const { vocabSize } = model.info;
const documents = [{ id: "a", text: "the cat sat on the mat and the dog sat on the cat" }];

/** An autoencoder whose decoder rows are these. */
function saeOf(rows: readonly Float32Array[]): Sae {
  const dSae = rows.length;
  const W_dec = Float32Array.from(rows.flatMap((row) => [...row]));
  return new Sae(
    { dIn, dSae, applyBDecToInput: false, selection: { architecture: "relu" } },
    { W_enc: W_dec, b_enc: new Float32Array(dSae), W_dec, b_dec: new Float32Array(dIn) },
  );
}

const rng = new Rng(3, "rows");
const randomRow = () => Float32Array.from({ length: dIn }, () => rng.normal());

test("rates, divergence and cost of a latent are those of the model's own distributions, position by position", async () => {
  const concepts = [{ name: "some", tokens: [3, 5, 8] }];
  const row = randomRow();
  const { baseline, effects } = await conceptEffects(saeOf([row]), model, concepts, documents, {
    ...{ hookPoint, tokens: 8, contextLength: 8, sizes: [0.5] },
  });
  const [{ strength, rates, kl, cost }] = effects;
  const { bosId } = model.tokenizer;
  const ids = model.tokenizer.encode(documents[0].text).ids;
  const tokens = Int32Array.from([...(bosId === null ? [] : [bosId]), ...ids].slice(0, 8));
  const input = { tokens, batch: 1, length: 8 };
  const plain = await model.forward({ ...input, capture: [hookPoint], logits: "all" });
  const kept = [...tokens.keys()].filter((p) => tokens[p] !== bosId || p > 0);
  const x = plain.activations[hookPoint].slice();
  for (const p of kept) row.forEach((v, c) => (x[p * dIn + c] += strength * v));
  const changed = await model.forward({ ...input, patch: { [hookPoint]: x }, logits: "all" });
  const shares = (logits: Float32Array, p: number) => {
    const own = [...logits.subarray(p * vocabSize, (p + 1) * vocabSize)].map(Math.exp);
    const sum = own.reduce((a, b) => a + b, 0);
    return own.map((v) => v / sum);
  };
  const mean = (f: (p: number[], q: number[]) => number) =>
    kept.reduce((sum, at) => sum + f(shares(changed.logits!, at), shares(plain.logits!, at)), 0) /
    kept.length;
  const words = (p: number[]) => p[3] + p[5] + p[8];
  const total = (p: number[], f: (share: number, v: number) => number) =>
    p.reduce((sum, share, v) => sum + f(share, v), 0);
  expect(rates[0]).toBeCloseTo(mean((p) => words(p)), 6); // prettier-ignore
  expect(baseline[0]).toBeCloseTo(mean((_, q) => words(q)), 6); // prettier-ignore
  expect(kl).toBeCloseTo(mean((p, q) => total(p, (share, v) => share * Math.log(share / q[v]))), 5); // prettier-ignore
  expect(cost).toBeCloseTo(mean((p, q) => total(p, (share, v) => (q[v] - share) * Math.log(q[v]))), 5); // prettier-ignore
});

test("a latent that writes a word is found for it, whatever it reads, and within what it may cost", async () => {
  const { W_U, norm } = await model.unembedding();
  const word = 7;
  const writes = Float32Array.from({ length: dIn }, (_, c) => W_U[word * dIn + c] * norm.gain[c]);
  const sae = saeOf([randomRow(), randomRow(), writes, randomRow()]);
  const options = { hookPoint, tokens: 12, contextLength: 12, maxCost: 0.3 };
  const concepts = [{ name: "word", tokens: [word] }];
  const [{ found, baseline }] = await findByEffect(sae, model, concepts, documents, options);
  expect(found[0].latents).toEqual([2]);
  expect(found[0].rate).toBeGreaterThan(1.5 * baseline);
  for (const { cost } of found) expect(cost).toBeLessThanOrEqual(0.3);
});

test("two latents that each write half of a word do more together than one alone at the same cost", async () => {
  const { W_U, norm } = await model.unembedding();
  const word = 7;
  const writes = Float64Array.from({ length: dIn }, (_, c) => W_U[word * dIn + c] * norm.gain[c]);
  const noise = randomRow();
  const scale = Math.hypot(...writes) / Math.hypot(...noise);
  // Each is half the word, and as much of something else that the other takes back.
  const [one, other] = [1, -1].map((sign) => writes.map((v, c) => v + sign * scale * noise[c]));
  const sae = saeOf([randomRow(), Float32Array.from(one), Float32Array.from(other)]);
  const options = { hookPoint, tokens: 12, contextLength: 12, maxCost: 0.3, together: 3 };
  const concepts = [{ name: "word", tokens: [word] }];
  const [{ found }] = await findByEffect(sae, model, concepts, documents, options);
  const best = (latents: string) => found.find((one) => one.latents.toSorted().join() === latents)!;
  expect(found[0].latents.toSorted()).toEqual([1, 2]);
  expect(best("1,2").rate).toBeGreaterThan(1.2 * Math.max(best("1").rate, best("2").rate));
  const wrong = findByEffect(sae, model, concepts, documents, { ...options, together: 0 });
  await expect(wrong).rejects.toThrow("together must be a whole number of latents, at least 1; got 0"); // prettier-ignore
});

test("of a latent's strengths the one with the highest rate within the cost is taken", () => {
  const effect = (latent: number, strength: number, cost: number, rate: number) => ({
    ...{ latents: [latent], strength, kl: 0, cost, rates: Float64Array.of(rate) },
  });
  const effects = [effect(0, 1, 0.1, 0.2), effect(0, 2, 0.3, 0.9), effect(1, 1, 0.2, 0.3)];
  expect(
    bestEffects(effects, 0, 0.25).map(({ latents, strength }) => [...latents, strength]),
  ).toEqual([
    [1, 1],
    [0, 1],
  ]);
});

test("the words of a concept are the built-in model's tokens that are such a word", async () => {
  const tiny = await loadModel("builtin:tiny");
  const { tokens } = tokensOfConcept(tiny, "animal.dog");
  const texts = tokens.map((token) => tiny.tokenizer.decode([token]));
  expect(texts).toContain(" dog");
  for (const text of texts) expect(text).toMatch(/^ (?:dogs?|pupp(?:y|ies))$/i);
  await tiny.close();
});
