import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";

import { labelWords } from "../corpus/labeller.ts";
import { storyAt } from "../corpus/index.ts";
import { loadModel } from "../model/model.ts";
import { Features, type FeatureIndex } from "./features.ts";
import { findFeatures } from "./find.ts";
import { wordOf } from "./labels.ts";
import { doseResponse, klOf, recommended, type Subject } from "./dose.ts";
import { bootstrap, ratioInterval } from "./interval.ts";

const model = await loadModel(
  fileURLToPath(new URL("../../test/fixtures/gpt2-tiny/f32", import.meta.url)),
);
afterAll(() => model.close());

test("the divergence of two distributions is Σ p log(p/q), whatever is added to the logits", () => {
  const [p, q] = [
    [0.5, 0.25, 0.25],
    [0.8, 0.1, 0.1],
  ];
  const logits = (shares: number[], shift: number) =>
    Float32Array.from(shares, (share) => Math.log(share) + shift);
  const wanted = p.reduce((sum, share, i) => sum + share * Math.log(share / q[i]), 0);
  expect(klOf(logits(p, 3), logits(q, -40))).toBeCloseTo(wanted, 5);
  expect(klOf(logits(p, 3), logits(p, 3))).toBe(0);
});

test("a bootstrap interval of a mean is about 1.96 standard errors to each side, and says nothing about one unit", () => {
  const values = Array.from({ length: 400 }, (_, n) => n % 20);
  const { value, low, high } = ratioInterval(values, values.map(() => 1)); // prettier-ignore
  expect(value).toBe(9.5);
  const error = Math.sqrt((20 ** 2 - 1) / 12 / 400);
  expect((high - low) / 2 / error).toBeGreaterThan(1.8);
  expect((high - low) / 2 / error).toBeLessThan(2.1);
  expect(bootstrap(1, () => 3)).toEqual({ value: 3, low: NaN, high: NaN });
});

test("the labeller finds the concepts that the corpus marked on its own stories", () => {
  let [found, marked] = [0, 0];
  for (let index = 0; index < 30; index++) {
    const { text, spans } = storyAt("test", index);
    for (const { word, concepts, start } of labelWords(text)) {
      expect(text.startsWith(word, start)).toBe(true);
      const wanted = spans.filter((s) => s.start <= start && start < s.end && s.concept.startsWith("animal.")); // prettier-ignore
      for (const { concept } of wanted) {
        marked++;
        if (concepts.includes(concept)) found++;
      }
    }
  }
  expect(marked).toBeGreaterThan(30);
  expect(found / marked).toBeGreaterThan(0.9);
});

test("a dose that changes nothing has the baseline's numbers and no divergence; one that changes much has", async () => {
  const hookPoint = "blocks.0.hook_resid_post";
  const subject: Subject = {
    ...{ name: "all of it", kind: "target" },
    at: (strength) => ({
      hookPoint,
      replace: (x) => (strength === 0 ? x : x.map((v, i) => v + (i % 2) * strength)),
    }),
  };
  const { baseline, subjects } = await doseResponse(model, [subject], [0, 3], {
    prompt: model.tokenizer.encode("Once").ids,
    texts: 4,
    generation: { maxNewTokens: 20, temperature: 1, seed: 1 },
    score: (text) => ({ hits: text.length, words: 1 }),
  });
  const [none, much] = subjects[0].responses;
  expect(none.kl.value).toBe(0);
  expect({ ...none, strength: undefined, kl: undefined }).toEqual(baseline);
  expect(much.kl.value).toBeGreaterThan(0.01);
  expect(much.samples).not.toEqual(none.samples);
  expect(baseline.perplexity.low).toBeLessThan(baseline.perplexity.value);
});

test("a word finds the feature whose label is that word before one whose label only holds it", () => {
  const label = (name: string, f1: number) => ({
    ...{ kind: "token" as const, name, positives: 50, auc: 0.99, precision: 1, recall: 1 },
    ...{ threshold: 1, atThreshold: { precision: 1, recall: 1, f1 }, selection: { auc: 1, f1 } },
  });
  const best = [label("token “ rainy”", 0.9), label("token “ rain”", 0.6), null];
  const columns = { topTokens: [[" rainy"], [" rain"], [" Rain"]], tokenSelectivity: [1, 1, 1] };
  const index = { dSae: 3, columns } as unknown as FeatureIndex;
  const labels = { selectionPositions: 1, testPositions: 1, best };
  const found = findFeatures(new Features("", index, labels), "rain");
  expect(found.map(({ latent }) => latent)).toEqual([1, 0, 2]);
  expect(wordOf(best[1]!)).toBe("rain");
});

test("what is recommended raises the rate most among what costs no more than allowed", () => {
  const interval = (value: number) => ({ value, low: value, high: value });
  const response = (strength: number, rate: number, perplexity: number) => ({
    ...{ strength, rate: interval(rate), perplexity: interval(perplexity), samples: [] },
    ...{ kl: interval(0), repetition: interval(0) },
  });
  const { strength: _, kl: __, ...baseline } = response(0, 0.1, 10);
  const responses = [response(1, 0.3, 11), response(2, 0.6, 12.9), response(3, 0.9, 13.1)];
  expect(recommended({ baseline }, responses)?.strength).toBe(2);
  expect(recommended({ baseline }, [response(1, 0.05, 9)])).toBeUndefined();
});
