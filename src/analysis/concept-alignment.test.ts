import { describe, expect, test } from "vitest";

import { Rng } from "../rng.ts";
import { codesByLatent, type TextChunk } from "./codes.ts";
import { matchConcepts } from "./concept-alignment.ts";
import { DocumentDraws, intervalOf } from "./document-draws.ts";
import { bootstrap } from "./interval.ts";
import { columnOf, LabelledText } from "./labelled-text.ts";
import { auc } from "./label-scores.ts";
import { chunkOfPieces } from "../../test/token-chunks.ts";

const DOCUMENTS = 40;

/** Stories of made-up words; every "dog" and "cat" is marked as an animal, every "dog" as a dog, every tenth "red" as rare. */
function planted(seed: number): { chunk: TextChunk; words: string[] } {
  const rng = new Rng(seed, "planted");
  const vocabulary = ["the", "dog", "cat", "ran", "sat", "sun", "and", "red"];
  const documents = Array.from({ length: DOCUMENTS }, () =>
    Array.from({ length: 30 }, (_, i) => (i > 0 ? " " : "") + vocabulary[rng.int(8)]),
  );
  const spans = documents.map((pieces) => {
    let at = 0;
    return pieces.flatMap((piece, i) => {
      const start = at + (i > 0 ? 1 : 0);
      at += piece.length;
      const word = piece.trim();
      const span = (concept: string) => ({ concept, start, end: at });
      if (word === "dog") return [span("animal"), span("animal.dog")];
      if (word === "cat") return [span("animal")];
      return word === "red" && rng.uniform() < 0.05 ? [span("rare")] : [];
    });
  });
  const { chunk } = chunkOfPieces(documents, spans);
  return { chunk, words: documents.flat().map((piece) => piece.trim()) };
}

/** The text with its latents [positions][latents], as one set of documents. */
function labelled(
  { chunk, words }: ReturnType<typeof planted>,
  latents: (word: string, p: number) => number[],
  sharedWith?: LabelledText,
): LabelledText {
  const acts = words.map(latents);
  const codes = codesByLatent(
    { kind: "dense", acts: Float32Array.from(acts.flat()) },
    acts[0].length,
    Int32Array.from(acts.keys()),
  );
  const text = new LabelledText(acts[0].length, sharedWith);
  text.add(chunk, codes);
  text.finish();
  return text;
}

const noise = new Rng(4, "noise");
const firing = (word: string) => [
  noise.uniform() < 0.3 ? noise.uniform() : 0,
  word === "dog" ? 1 : 0,
  word === "dog" || (word === "cat" && noise.uniform() < 0.5) ? 0.5 : 0,
];

describe("the best latent of a concept", () => {
  const selection = labelled(planted(1), firing);
  const tested = labelled(planted(2), firing, selection);
  const found = matchConcepts(selection, tested);
  const of = (concept: string) => found.concepts.find((match) => match.concept === concept)!;

  test("that fires on it alone has AUC 1 and F1 1, and shuffled labels have about one half", () => {
    const { best, bestF1, byChance } = of("animal.dog");
    expect(best).toMatchObject({ latent: 1, precision: 1, recall: 1 });
    expect(best.auc).toEqual({ value: 1, low: 1, high: 1 });
    expect(best.f1).toEqual({ value: 1, low: 1, high: 1 });
    expect(bestF1.latent).toBe(1);
    expect(Math.abs(byChance.auc - 0.5)).toBeLessThan(0.05);
    // Where it is chosen, the best of several is better than that by luck alone.
    expect(byChance.selectionAuc).toBeGreaterThan(0.5);
    expect(byChance.f1).toBeLessThan(0.3);
  });

  test("that misses half of its second word has the AUC that follows, by hand", () => {
    const { best, positives } = of("animal");
    expect(best.latent).toBe(2);
    // Silent positives tie with all negatives, which are silent too.
    expect(best.auc.value).toBeCloseTo(best.recall + (1 - best.recall) / 2, 12);
    expect(best.recall).toBeGreaterThan(0.65);
    expect(best.recall).toBeLessThan(0.85);
    expect(best.auc.low).toBeLessThan(best.auc.value);
    expect(best.auc.high).toBeGreaterThan(best.auc.value);
    expect(positives.test).toBe(tested.labelsOf(tested.concepts.indexOf("animal")).filter(Boolean).length); // prettier-ignore
  });

  test("is counted in the coverage, and a rare concept is not scored", () => {
    expect(found.concepts.map((match) => match.concept)).toEqual(["animal.dog", "animal"]);
    expect(found.tooLittleData.map(({ concept }) => concept)).toEqual(["rare"]);
    expect(found.auc95).toMatchObject({ count: 1, value: 0.5, shuffled: 0 });
    expect(found.f1Half).toMatchObject({ count: 2, value: 1 });
  });

  test("without labels, or without a second document, there is an error to act on", () => {
    const bare = new LabelledText(1);
    expect(() => matchConcepts(bare, bare)).toThrow(/no token of the text is labelled/);
    expect(() => matchConcepts(selection, new LabelledText(3, selection))).toThrow(/too few/);
  });
});

test("labels moved along the text keep their number and their runs", () => {
  const text = labelled(planted(3), firing);
  const concept = text.concepts.indexOf("animal");
  const labels = text.labelsOf(concept);
  expect([...text.labelsOf(concept, 100)]).toEqual([...labels.slice(100), ...labels.slice(0, 100)]);
});

test("the bootstrapped AUC agrees with sorting anew on every draw of documents", () => {
  const text = labelled(planted(5), firing);
  const labels = text.labelsOf(text.concepts.indexOf("animal"));
  const rng = new Rng(9, "scores");
  const scores = Float32Array.from(labels, (label) => Math.round(4 * (rng.normal() + label)) / 4);
  const fast = intervalOf(new DocumentDraws(DOCUMENTS, 1).auc(text, columnOf(scores), labels));
  const pick = <T extends Uint8Array | Float32Array>(values: T, drawn: Int32Array) =>
    [...drawn].flatMap((d) => [...values.slice(d * 30, d * 30 + 30)]);
  const slow = bootstrap(DOCUMENTS, (drawn) =>
    auc(pick(scores, drawn), Uint8Array.from(pick(labels, drawn))),
  );
  expect(fast.value).toBeCloseTo(slow.value, 12);
  expect(fast.value).toBeCloseTo(auc(scores, labels), 12);
  const width = slow.high - slow.low;
  expect(Math.abs(fast.low - slow.low)).toBeLessThan(0.1 * width);
  expect(Math.abs(fast.high - slow.high)).toBeLessThan(0.1 * width);
});
