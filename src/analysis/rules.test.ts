import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

import { chunkOfPieces } from "../../test/token-chunks.ts";
import { Rng } from "../rng.ts";
import { codesByLatent } from "./codes.ts";
import { EncodedText } from "./encoded-text.ts";
import { cosine, ExampleScores, inverseFrequencies, tfIdf } from "./example-scores.ts";
import { CAUSAL, TokenLabels } from "./labels.ts";
import { aucBetween } from "./label-scores.ts";
import { RuleFinder } from "./rules.ts";

interface Fixture {
  documents: number[][];
  acts: number[][];
  rule: Record<"f1" | "precision" | "recall" | "coverage" | "r2" | "always", number>;
  variance: { token: number; ngram: number };
  alike: { windows: number[][]; similar: number[][]; areas: number[] };
  next: { effects: number[]; auc: number };
}
const oracle = JSON.parse(
  readFileSync(new URL("../../test/fixtures/explanations/scores.json", import.meta.url), "utf8"),
) as Fixture;

/** Text with codes [position][latent] that depend on the pieces. */
function encoded(
  documents: string[][],
  latents: number,
  act: (latent: number, p: number, before: (n: number) => string | undefined) => number,
): { text: EncodedText; vocabulary: string[] } {
  const { chunk, tokenText, vocabulary } = chunkOfPieces(documents);
  const text = new EncodedText(new TokenLabels(tokenText, CAUSAL), latents);
  const acts = new Float32Array(chunk.length * latents);
  for (let p = 0; p < chunk.length; p++) {
    const before = (n: number) =>
      p >= n && chunk.row[p - n] === chunk.row[p] ? vocabulary[chunk.tokens[p - n]] : undefined;
    for (let f = 0; f < latents; f++) acts[p * latents + f] = act(f, p, before);
  }
  const keep = Int32Array.from({ length: chunk.length }, (_, p) => p);
  text.add(chunk, codesByLatent({ kind: "dense", acts }, latents, keep));
  return { text, vocabulary };
}

const words = ["a", "b", "c", "d", "e", "f", "g", "h"].map((letter) => ` ${letter}`);

function madeUp(documents: number, seed: number): string[][] {
  const rng = new Rng(seed);
  return Array.from({ length: documents }, () =>
    Array.from({ length: 30 }, () => words[rng.int(words.length)]),
  );
}

describe("numbers that scikit-learn gives too", () => {
  const documents = oracle.documents.map((tokens) => tokens.map((token) => words[token]));
  const acts = oracle.acts.flat();
  const { text, vocabulary } = encoded(documents, 1, (_, p) => acts[p]);
  const explanation = new RuleFinder(text).explain(0);

  test("of the rule: F1, precision, recall, coverage, variance explained, chance", () => {
    const [rule] = explanation.rules;
    expect(rule).toMatchObject({ text: "the token “ d”", threshold: 0, mass: 1 });
    for (const name of ["f1", "precision", "recall", "coverage"] as const)
      expect(rule[name].value).toBeCloseTo(oracle.rule[name], 6);
    expect(rule.f1Any).toBe(rule.f1.value);
    expect(rule.r2).toBeCloseTo(oracle.rule.r2, 6);
    expect(explanation.chance.always).toBeCloseTo(oracle.rule.always, 6);
    expect(rule.f1.low).toBeLessThan(rule.f1.value);
    expect(rule.f1.high).toBeGreaterThan(rule.f1.value);
  });

  test("of the variance that the token and the tokens before it explain", () => {
    expect(explanation.variance.token).toBeCloseTo(oracle.variance.token, 6);
    expect(explanation.variance.ngram).toBeCloseTo(oracle.variance.ngram, 6);
    expect(explanation.variance.ngram).toBeGreaterThan(explanation.variance.token + 0.05);
  });

  test("of the tokens that follow firings", () => {
    const effects = vocabulary.map((word) => oracle.next.effects[words.indexOf(word)]);
    const next = new ExampleScores(text).next(0, effects)!;
    expect(next.value).toBeCloseTo(oracle.next.auc, 6);
    expect(next.low).toBeLessThan(next.value);
  });

  test("of the likeness of windows", () => {
    const idf = inverseFrequencies(oracle.documents.filter((_, d) => d % 2 === 0));
    const vectors = oracle.alike.windows.map((tokens) => tfIdf(tokens, idf));
    vectors.forEach((a, i) =>
      vectors.forEach((b, j) => expect(cosine(a, b)).toBeCloseTo(oracle.alike.similar[i][j], 6)),
    );
    for (let i = 0; i < 7; i++) {
      const to = (j: number) => cosine(vectors[i], vectors[j]);
      const own = [0, 1, 2, 3, 4, 5, 6].filter((j) => j !== i).map(to);
      const others = [7, 8, 9, 10, 11, 12, 13].map(to);
      expect(aucBetween(own, others)).toBeCloseTo(oracle.alike.areas[i], 6);
    }
  });
});

describe("planted latents are named", () => {
  const rng = new Rng(2);
  const noise = Array.from({ length: 800 * 30 }, () => rng.uniform());
  const planted = encoded(madeUp(800, 1), 7, (latent, p, before) => {
    const [word, last, first] = [before(0), before(1), before(2)];
    switch (latent) {
      case 0: // a token
        return word === " b" ? 1 + noise[p] : 0;
      case 1: // a pair
        return word === " c" && last === " b" ? 1 : 0;
      case 2: // three tokens in a row
        return word === " e" && last === " d" && (first === " a" || first === " b") ? 1 : 0;
      case 3: // any of a few
        return word === " a" || word === " f" || word === " h" ? 2 : 0;
      case 4: // a token, and weak noise
        return word === " g" ? 5 + noise[p] : noise[p] < 0.15 ? 0.1 + noise[p] : 0;
      case 5: // nothing at all
        return noise[p] < 0.1 ? 1 : 0;
      default: // too rarely
        return p % 2400 === 0 ? 1 : 0;
    }
  });
  const finder = new RuleFinder(planted.text);
  const explained = [0, 1, 2, 3, 4, 5, 6].map((latent) => finder.explain(latent));

  test("by a token, a run of two and of three, and a choice of tokens", () => {
    expect(explained.slice(0, 3).map(({ rules: [{ text, f1 }] }) => [text, f1.value])).toEqual([
      ["the token “ b”", 1],
      ["“ c” after “ b”", 1],
      [expect.stringMatching(/^“ e” after “ [ab] d” or “ e” after “ [ab] d”$/), 1],
    ]);
    const [choice] = explained[3].rules;
    expect(choice.labels.map(({ name }) => name).sort()).toEqual([
      "token “ a”",
      "token “ f”",
      "token “ h”",
    ]);
    expect(choice.f1).toEqual({ value: 1, low: 1, high: 1 });
  });

  test("where they fire strongly, when weak firings follow no rule", () => {
    const [rule] = explained[4].rules;
    expect(rule.text).toBe("the token “ g”");
    expect(rule.threshold).toBeGreaterThan(1);
    expect(rule.mass).toBeGreaterThan(0.85);
    expect(rule.f1.value).toBeGreaterThan(0.95);
    expect(rule.f1Any).toBeLessThan(0.8);
  });

  test("by no rule when they follow none, which shows on the test documents and beside chance", () => {
    const [rule] = explained[5].rules;
    expect(rule.f1.value).toBeLessThan(0.3);
    expect(explained[5].chance.shuffled).toBeLessThan(0.3);
    expect(explained[0].chance.shuffled).toBeLessThan(0.3);
    expect(explained[5].variance.token).toBeLessThan(0.02);
    expect(explained[0].variance.token).toBeGreaterThan(0.9);
  });

  test("not at all when they fire too rarely to tell", () => {
    expect(explained[6].rules).toEqual([]);
    expect(() => finder.explain(7)).toThrow("latent must be a whole number from 0 to 6; got 7");
  });

  test("and their places are alike, where a latent without a rule has about one half", () => {
    const scores = new ExampleScores(planted.text);
    expect(scores.alike(2)!.low).toBeGreaterThan(0.5);
    // Of 95 % intervals on different draws of places, 19 in 20 hold the truth.
    const around = Array.from({ length: 60 }, (_, seed) =>
      new ExampleScores(planted.text, seed).alike(5),
    ).filter((one) => one!.low <= 0.5 && one!.high >= 0.5).length;
    expect(around).toBeGreaterThan(52);
    expect(scores.alike(6)).toBeUndefined();
  });
});
