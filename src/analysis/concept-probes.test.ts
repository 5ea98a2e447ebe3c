import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

import { openDevice } from "../device/device.ts";
import { Rng } from "../rng.ts";
import { Sae } from "../sae/sae.ts";
import { codesByLatent, type TextChunk } from "./codes.ts";
import { conceptAbsorption } from "./concept-absorption.ts";
import {
  directionsOf,
  principalComponents,
  spread,
  spreadOf,
  uncorrelatedAxes,
} from "./concept-directions.ts";
import { ConceptProber } from "./concept-probes.ts";
import { splittingOf } from "./concept-splitting.ts";
import { DocumentDraws } from "./document-draws.ts";
import { LabelledText } from "./labelled-text.ts";
import { chunkOfPieces } from "../../test/token-chunks.ts";

/** Written by test/oracles/concepts.py with scikit-learn and numpy. */
const oracle = JSON.parse(
  readFileSync(
    fileURLToPath(new URL("../../test/fixtures/concepts/components.json", import.meta.url)),
    "utf8",
  ),
) as Record<"x" | "components" | "covariance", number[][]> & { mean: number[] };

const DOCUMENTS = 30;
const LENGTH = 20;
const D_IN = 4;

/** Words of which "dog" and "cat" are animals, and dog a kind of its own. */
function words(seed: number): { chunk: TextChunk; list: string[] } {
  const rng = new Rng(seed, "words");
  const vocabulary = ["the", "dog", "cat", "ran", "sun"];
  const list = Array.from({ length: DOCUMENTS * LENGTH }, () => vocabulary[rng.int(5)]);
  const documents = Array.from({ length: DOCUMENTS }, (_, d) =>
    list.slice(d * LENGTH, (d + 1) * LENGTH).map((word) => ` ${word}`),
  );
  const spans = documents.map((pieces) =>
    pieces.flatMap((piece, i) => {
      const start = 4 * i + 1; // every word has three letters
      const span = (concept: string) => ({ concept, start, end: start + 3 });
      if (piece === " dog") return [span("animal"), span("animal.dog")];
      return piece === " cat" ? [span("animal")] : [];
    }),
  );
  return { chunk: chunkOfPieces(documents, spans).chunk, list };
}

function labelled(
  { chunk, list }: ReturnType<typeof words>,
  latents: (word: string) => number[],
  x: (word: string) => number[],
  sharedWith?: LabelledText,
): LabelledText {
  const acts = list.map(latents);
  const dense = { kind: "dense" as const, acts: Float32Array.from(acts.flat()) };
  const dSae = acts[0].length;
  const text = new LabelledText(dSae, sharedWith);
  text.add(
    chunk,
    codesByLatent(dense, dSae, Int32Array.from(acts.keys())),
    Float32Array.from(list.flatMap(x)),
  );
  text.finish();
  return text;
}

const rng = new Rng(6, "activations");
/** Dimension 2 falls where a dog is, 1 rises where an animal is; the others say nothing. */
const activation = (word: string) => [
  rng.normal(),
  rng.normal() * 0.1 + (word === "dog" || word === "cat" ? 3 : 0),
  rng.normal() * 0.1 - (word === "dog" ? 3 : 0),
  rng.normal(),
];
/** Latent 0 is for animals but leaves dogs to latent 1; 2 fires anywhere. */
const latents = (word: string) => [
  word === "cat" ? 1 : 0,
  word === "dog" ? 2 : 0,
  rng.uniform() < 0.3 ? 0.1 : 0,
];

test("covariance and principal components are numpy's and scikit-learn's, up to their sign", async () => {
  const found = spread(oracle.x, 6);
  oracle.mean.forEach((value, c) => expect(found.mean[c]).toBeCloseTo(value, 10));
  oracle.covariance.flat().forEach((value, i) => expect(found.covariance[i]).toBeCloseTo(value, 9));
  const rows = await principalComponents(found);
  oracle.components.forEach((component, r) => {
    const along = component.reduce((sum, value, c) => sum + value * rows[r * 6 + c], 0);
    expect(Math.abs(along)).toBeCloseTo(1, 8);
  });
});

test("probes and directions find a planted dimension of either sign, and moved labels do not", async () => {
  const selection = labelled(words(1), latents, activation);
  const tested = labelled(words(2), latents, activation, selection);
  const device = await openDevice("reference");
  const draws = new DocumentDraws(tested.documentCount, 0);
  const spreading = spreadOf(selection, D_IN);
  const directions = await directionsOf(spreading, 16, 0);
  expect(directions.map(({ kind, count }) => [kind, count])).toEqual([
    ...[["raw", D_IN], ["random", 16], ["pca", D_IN]], // prettier-ignore
  ]);
  const prober = new ConceptProber({ selection, test: tested }, D_IN, directions, {
    ...{ draws, device, seed: 0, axes: await uncorrelatedAxes(spreading) },
  });
  try {
    const dog = selection.concepts.indexOf("animal.dog");
    const own = selection.meanDifferences().subarray(dog * 3, dog * 3 + 3);
    const moved = selection.meanDifferences(150).subarray(dog * 3, dog * 3 + 3);
    const { probes, truth } = await prober.measure(dog, { own, moved }, 150);
    const [raw] = probes.directions;
    expect(raw.best).toMatchObject({ direction: 2, auc: { value: 1 }, f1: { value: 1 } });
    expect(raw.probes.map(({ k }) => k)).toEqual([1, 2, 5, 10]);
    expect(probes.full.auc.value).toBe(1);
    // The threshold comes from other documents.
    expect(probes.full.accuracy).toBeGreaterThan(0.98);
    expect(probes.latents[0]).toMatchObject({ k: 1, columns: [1], auc: { value: 1 }, f1: { value: 1 } }); // prettier-ignore
    expect(probes.splitting.latents.value).toBe(1);
    expect(probes.shuffled.best.raw).toBeLessThan(0.65);
    expect(probes.shuffled.best.raw).toBeGreaterThan(0.35);
    const labels = tested.labelsOf(dog);
    const agreeing = truth.predicted.filter((value, p) => value === labels[p]).length;
    expect(agreeing / labels.length).toBe(probes.full.accuracy);
    expect(truth.direction[2]).toBeLessThan(-0.9);

    // An animal takes both latents: the first misses the dogs.
    const animal = selection.concepts.indexOf("animal");
    const of = (all: Float64Array) => all.subarray(animal * 3, animal * 3 + 3);
    const both = await prober.measure(
      ...([animal, { own: of(selection.meanDifferences()), moved: of(selection.meanDifferences(150)) }, 150] as const), // prettier-ignore
    );
    expect(both.probes.splitting).toMatchObject({ latents: { value: 2 }, within: 2 });
  } finally {
    prober.close();
    await device.close();
  }
});

test("mean differences are those of the definition", () => {
  const text = labelled(words(3), latents, activation);
  const dog = text.concepts.indexOf("animal.dog");
  expect(text.meanDifferences()[dog * 3 + 1]).toBe(2);
  const cats = text.labelsOf(text.concepts.indexOf("animal")).filter(Boolean).length - text.positives[dog]; // prettier-ignore
  expect(text.meanDifferences()[dog * 3]).toBeCloseTo(-cats / (text.positions - text.positives[dog]), 12); // prettier-ignore
});

test("a concept is spread over as many latents as still add 0.03 to F1", () => {
  const drawn = (value: number) => ({ value, draws: Float64Array.of(value, value) });
  const splitting = splittingOf([0.5, 0.6, 0.64, 0.65, 0.66].map(drawn));
  expect(splitting.latents).toEqual({ value: 3, low: 3, high: 3 });
  expect(splitting.within).toBe(3);
  expect(splittingOf([0.9, 0.9].map(drawn))).toMatchObject({ latents: { value: 1 }, within: 1 });
});

test("a parent's latent that is silent on one kind, whose own latent points its way, is absorption", () => {
  const text = labelled(words(4), latents, activation);
  const sae = (W_dec: number[]) =>
    new Sae(
      { dIn: 2, dSae: 3, applyBDecToInput: false, selection: { architecture: "relu" } },
      {
        W_enc: new Float32Array(6),
        b_enc: new Float32Array(3),
        W_dec: Float32Array.from(W_dec),
        b_dec: new Float32Array(2),
      },
    );
  const animal = text.concepts.indexOf("animal");
  const dog = text.concepts.indexOf("animal.dog");
  const truth = {
    ...{ concept: animal, main: [0], direction: Float64Array.of(1, 0) },
    predicted: text.labelsOf(animal),
  };
  const draws = new DocumentDraws(text.documentCount, 0);
  const halves = { selection: text, test: text };
  const [found] = conceptAbsorption(sae([1, 0, 0.6, 0.8, 0, 1]), halves, [truth], draws, 0);
  const share = text.positives[dog] / text.positives[animal];
  expect(found).toMatchObject({ parent: "animal", positions: text.positives[animal], main: [0] });
  expect(found.silent.value).toBeCloseTo(share, 12);
  expect(found.rate.value).toBeCloseTo(share, 12);
  expect(found.rate.low).toBeLessThan(share);
  expect(found.absorbers).toEqual([
    { latent: 1, concept: "animal.dog", positions: text.positives[dog] },
  ]);
  // The same firings are a plain miss where the dog's latent does not point along the animal's probe.
  const [missed] = conceptAbsorption(sae([1, 0, 0, 1, 0, 1]), halves, [truth], draws, 0);
  expect(missed.rate.value).toBe(0);
  expect(missed.silent.value).toBeCloseTo(share, 12);
  // A concept without kinds cannot be absorbed.
  expect(conceptAbsorption(sae([1, 0, 1, 0, 0, 1]), halves, [{ ...truth, concept: dog }], draws, 0)).toEqual([]); // prettier-ignore
});
