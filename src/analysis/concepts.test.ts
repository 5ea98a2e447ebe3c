import { describe, expect, it } from "vitest";
import { Rng } from "../rng.ts";
import { codesByLatent, type TextChunk } from "./codes.ts";
import { LabelledCodes, bestLabels } from "./concepts.ts";
import { TokenLabels } from "./labels.ts";
import { chunkOfWords } from "../../test/token-chunks.ts";

/** Pairs counted one by one, as the definition says. */
function bruteForceAuc(scores: number[], positive: boolean[]): number {
  let wins = 0;
  let pairs = 0;
  for (let i = 0; i < scores.length; i++)
    for (let j = 0; j < scores.length; j++)
      if (positive[i] && !positive[j]) {
        pairs++;
        wins += scores[i] > scores[j] ? 1 : scores[i] === scores[j] ? 0.5 : 0;
      }
  return wins / pairs;
}

/** Codes of `latents` latents over the chunk, many of them tied. */
function randomCodes(chunk: TextChunk, latents: number, seed: number): number[][] {
  const rng = new Rng(seed);
  return Array.from({ length: chunk.length }, () =>
    Array.from({ length: latents }, () => (rng.uniform() < 0.5 ? 0 : 1 + rng.int(4))),
  );
}

function turned(codes: number[][]) {
  const keep = Int32Array.from(codes.keys());
  return codesByLatent(
    { kind: "dense", acts: Float32Array.from(codes.flat()) },
    codes[0].length,
    keep,
  );
}

const WORDS = "the dog ran and the cat sat while the dog slept in the sun".split(" ");

describe("label scores", () => {
  const { chunk, tokenText } = chunkOfWords([...WORDS, ...WORDS, ...WORDS]);

  it("give the AUC that counting all pairs gives, ties and silent positions included", () => {
    const codes = randomCodes(chunk, 5, 7);
    const labelled = new LabelledCodes(new TokenLabels(tokenText), 5);
    labelled.add(chunk, turned(codes));
    const { labels } = labelled.labels;
    let compared = 0;
    for (let latent = 0; latent < 5; latent++)
      for (const score of labelled.scores(latent, () => true)) {
        const { kind, name } = labels[score.label];
        if (kind !== "token") continue;
        const positive = Array.from(chunk.tokens, (t) => name === `token “${tokenText(t)}”`);
        const activations = codes.map((row) => row[latent]);
        expect(score.auc).toBeCloseTo(bruteForceAuc(activations, positive), 12);
        const fires = activations.map((a) => a > 0);
        const hits = fires.filter((f, i) => f && positive[i]).length;
        expect(score.precision).toBeCloseTo(hits / fires.filter(Boolean).length, 12);
        expect(score.recall).toBeCloseTo(hits / positive.filter(Boolean).length, 12);
        const f1At = (threshold: number) => {
          const chosen = activations.map((a) => a >= threshold);
          const right = chosen.filter((c, i) => c && positive[i]).length;
          return (2 * right) / (chosen.filter(Boolean).length + positive.filter(Boolean).length);
        };
        expect(score.f1).toBeCloseTo(Math.max(...[1, 2, 3, 4].map(f1At)), 12);
        expect(f1At(score.threshold)).toBeCloseTo(score.f1, 12);
        const at = labelled.scoreAt(latent, score.label, score.threshold);
        expect(at.f1).toBeCloseTo(score.f1, 12);
        expect(at.auc).toBeCloseTo(score.auc, 12);
        expect(at.precision).toBe(score.precision);
        compared++;
      }
    expect(compared).toBeGreaterThan(30);
  });

  it("do not depend on how the text was cut into chunks", () => {
    const codes = randomCodes(chunk, 3, 8);
    const whole = new LabelledCodes(new TokenLabels(tokenText), 3);
    whole.add(chunk, turned(codes));
    // The same text twice as two chunks, against the same text twice in one go of each latent's codes.
    const parts = new LabelledCodes(whole.labels, 3);
    parts.add(chunk, turned(codes));
    parts.add(chunk, turned(codes));
    for (let latent = 0; latent < 3; latent++) {
      const once = new Map(whole.scores(latent, () => true).map((s) => [s.label, s]));
      const someLackIt = (label: number) => whole.positives()[label] < chunk.length;
      for (const score of parts.scores(latent, someLackIt)) {
        expect(score.auc).toBeCloseTo(once.get(score.label)!.auc, 12);
        expect(score.positives).toBe(2 * once.get(score.label)!.positives);
      }
    }
  });

  it("know the AUC of a label that the latent never meets", () => {
    const labelled = new LabelledCodes(new TokenLabels(tokenText), 1);
    const activations = Array.from(chunk.tokens, (t) => (tokenText(t).includes("dog") ? 2 : 0));
    labelled.add(chunk, turned(activations.map((a) => [a])));
    const label = labelled.labels.labels.findIndex((l) => l.name === "token “ cat”");
    const positive = Array.from(chunk.tokens, (t) => tokenText(t) === " cat");
    expect(labelled.scoreAt(0, label, 1).auc).toBeCloseTo(bruteForceAuc(activations, positive), 12);
    expect(labelled.scoreAt(0, label, 1).auc).toBeLessThan(0.5);
  });
});

describe("the best label", () => {
  const many = Array.from({ length: 40 }, () => WORDS).flat();
  const { chunk, tokenText } = chunkOfWords(many);

  it("is found for a latent that fires on one word, and measured on the other text", () => {
    const labels = new TokenLabels(tokenText);
    const selection = new LabelledCodes(labels, 1);
    const test = new LabelledCodes(labels, 1);
    const onDogs = Array.from(chunk.tokens, (t) => [tokenText(t) === " dog" ? 3 : 0]);
    selection.add(chunk, turned(onDogs));
    // In the test text it also fires on every " cat", more weakly.
    const onPets = Array.from(chunk.tokens, (t, p) => [tokenText(t) === " cat" ? 1 : onDogs[p][0]]);
    test.add(chunk, turned(onPets));
    const best = bestLabels([0], selection, test).get(0)!;
    expect(best).toMatchObject({ name: "token “ dog”", kind: "token", auc: 1, recall: 1 });
    expect(best.precision).toBeCloseTo(80 / 120, 12);
    expect(best.atThreshold).toEqual({ precision: 1, recall: 1, f1: 1 });
  });

  it("is undefined for a latent that never fires", () => {
    const labels = new TokenLabels(tokenText);
    const silent = new LabelledCodes(labels, 1);
    silent.add(chunk, turned(Array.from(chunk.tokens, () => [0])));
    expect(bestLabels([0], silent, silent).get(0)).toBeUndefined();
  });
});
