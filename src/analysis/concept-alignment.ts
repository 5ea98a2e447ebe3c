/**
 * Does the autoencoder have a latent for each concept that people marked in a text? Per concept the best
 * single latent, chosen on half of the documents and measured on the other half, so that choosing among
 * thousands does not flatter it; beside it the same for labels that were moved along the text.
 *
 * A latent's activation is the score of a position; what counts is a high one, never a low one.
 * AUC  Mann–Whitney U / (P·N), silent positions included, ties counting half (`aucOfRanks`).
 * F1   of "activation ≥ threshold", the threshold with the best F1 on the selection documents.
 */
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import type { Model } from "../model/model.ts";
import type { Document } from "../model/text.ts";
import { Rng } from "../rng.ts";
import type { Sae } from "../sae/sae.ts";
import { encodeText, type HookPoints, type TextOptions } from "./codes.ts";
import { conceptAbsorption, type ConceptAbsorption } from "./concept-absorption.ts";
import {
  directionsOf,
  spreadOf,
  uncorrelatedAxes,
  type DirectionKind,
} from "./concept-directions.ts";
import {
  ConceptProber,
  type ConceptAucs,
  type ConceptProbes,
  type ConceptTruth,
} from "./concept-probes.ts";
import { ALIGNED_AUC, MIN_POSITIVES } from "./concepts.ts";
import { DocumentDraws, intervalOf, type Drawn } from "./document-draws.ts";
import type { Interval } from "./interval.ts";
import { LabelledText, labelledHalves } from "./labelled-text.ts";

export interface ConceptOptions extends TextOptions {
  device: Device;
  /** What the SAE reads. */
  hookPoint: HookPoints;
  /** Of shuffles, draws and random directions (default 0). */
  seed?: number;
  onProgress?: (progress: { done: number; total: number }) => void;
}

/** One latent for one concept, on the test documents. */
export interface LatentMatch {
  latent: number;
  auc: Interval;
  threshold: number;
  precision: number;
  recall: number;
  f1: Interval;
  /** On the selection documents, by which it was chosen. */
  selection: { auc: number; f1: number };
}

/** What the same choice finds for labels moved along the text, over several shuffles. */
export interface ShuffledMatch {
  /** Mean over the shuffles of the chosen latent's AUC on the test documents, and the highest. */
  auc: number;
  highestAuc: number;
  f1: number;
  /** Mean AUC of the chosen latent where it was chosen: the luck of the best of all latents. */
  selectionAuc: number;
}

export interface ConceptMatch {
  concept: string;
  /** Positions with the concept. */
  positives: { selection: number; test: number };
  /** The latent with the highest AUC on the selection documents. */
  best: LatentMatch;
  /** The latent with the highest F1 there, which may be another one. */
  bestF1: LatentMatch;
  byChance: ShuffledMatch;
}

/** Share of the scored concepts, on the test documents, with its value for shuffled labels. */
export interface Coverage extends Interval {
  count: number;
  shuffled: number;
}

export interface ConceptCoverage {
  positions: { selection: number; test: number };
  documents: { selection: number; test: number };
  /** By falling AUC. */
  concepts: ConceptMatch[];
  /** Concepts with fewer than 20 positions with or without them in either half: not scored. */
  tooLittleData: { concept: string; positives: { selection: number; test: number } }[];
  /** Concepts whose best latent has an AUC of at least 0.95. */
  auc95: Coverage;
  /** Concepts whose best latent by F1 has an F1 of at least 0.5, and 0.8. */
  f1Half: Coverage;
  f1High: Coverage;
}

const SHUFFLES = 5;

/**
 * The best single latent of every concept that `documents` mark, over their first `tokens` positions.
 * @throws UserError when SAE and hook point do not fit, or the text is too little or has no labels.
 */
export async function conceptCoverage(
  sae: Sae,
  model: Model,
  documents: AsyncIterable<Document> | Iterable<Document>,
  options: ConceptOptions,
): Promise<ConceptCoverage> {
  const { device, hookPoint, seed = 0, onProgress } = options;
  const { selection, test } = await labelledHalves(
    encodeText(sae, device, model, hookPoint, documents, options),
    sae.spec.dSae,
    false,
    (done) => onProgress?.({ done, total: options.tokens }),
  );
  return matchConcepts(selection, test, seed);
}

/** @throws UserError when nothing is labelled or there is no document to test on. */
export function matchConcepts(
  selection: LabelledText,
  test: LabelledText,
  seed = 0,
  draws = new DocumentDraws(test.documentCount, seed),
): ConceptCoverage {
  const { concepts } = selection;
  if (concepts.length === 0)
    throw new UserError(
      'no token of the text is labelled: give documents with "spans" (a .jsonl file of {"text": "…", "spans": [{"concept": "…", "start": 0, "end": 5}]}), or use builtin:stories',
    );
  if (test.documentCount < 2)
    throw new UserError(
      `${selection.documentCount + test.documentCount} documents are too few: half are chosen on and half tested on, and an interval needs two to test on`,
    );
  const numbers = [...concepts.keys()].filter((c) => isEnough(selection, c) && isEnough(test, c));
  const shifts = shiftsOf(Math.min(selection.positions, test.positions), seed);
  const chosen = [0, ...shifts].map(() => choices(concepts.length));
  for (let f = 0; f < selection.dSae; f++) {
    const column = selection.latent(f);
    if (column.positions.length === 0) continue;
    for (const [s, shift] of [0, ...shifts].entries()) choose(chosen[s], f, selection.scores(column, shift)); // prettier-ignore
  }

  const aucs = new Map<number, Drawn>();
  const f1s = new Map<number, Drawn>();
  const measure = (c: number, by: "byAuc" | "byF1"): LatentMatch => {
    const { latent, auc, f1, threshold } = chosen[0][by][c];
    const labels = test.labelsOf(c);
    const column = test.latent(latent);
    const tested = draws.auc(test, column, labels);
    const { precision, recall, ...drawn } = draws.f1(test, column, labels, threshold);
    (by === "byAuc" ? aucs : f1s).set(c, by === "byAuc" ? tested : drawn);
    return {
      ...{ latent, threshold, precision, recall, selection: { auc, f1 } },
      ...{ auc: intervalOf(tested), f1: intervalOf(drawn) },
    };
  };
  // Shuffled labels: [shuffle][scored concept] on the test documents.
  const shuffledAuc = shifts.map(() => new Float64Array(numbers.length));
  const shuffledF1 = shifts.map(() => new Float64Array(numbers.length));
  for (const [s, shift] of shifts.entries())
    for (const [i, c] of numbers.entries()) {
      const { byAuc, byF1 } = chosen[s + 1];
      shuffledAuc[s][i] = test.scores(test.latent(byAuc[c].latent), shift).auc[c];
      shuffledF1[s][i] = f1At(test, byF1[c], c, shift);
    }
  const matches = numbers.map((c, i): ConceptMatch => ({
    concept: concepts[c],
    positives: { selection: selection.positives[c], test: test.positives[c] },
    best: measure(c, "byAuc"),
    bestF1: measure(c, "byF1"),
    byChance: {
      auc: mean(shuffledAuc.map((aucs) => aucs[i])),
      highestAuc: Math.max(...shuffledAuc.map((aucs) => aucs[i])),
      f1: mean(shuffledF1.map((f1s) => f1s[i])),
      selectionAuc: mean(shifts.map((_, s) => chosen[s + 1].byAuc[c].auc)),
    },
  }));
  return {
    positions: { selection: selection.positions, test: test.positions },
    documents: { selection: selection.documentCount, test: test.documentCount },
    concepts: matches.sort((a, b) => b.best.auc.value - a.best.auc.value),
    tooLittleData: [...concepts.entries()]
      .filter(([c]) => !numbers.includes(c))
      .map(([c, concept]) => ({
        concept,
        positives: { selection: selection.positives[c], test: test.positives[c] },
      })),
    auc95: coverage([...aucs.values()], shuffledAuc, ALIGNED_AUC),
    f1Half: coverage([...f1s.values()], shuffledF1, 0.5),
    f1High: coverage([...f1s.values()], shuffledF1, 0.8),
  };
}

/** A concept with everything that its best latent is compared with. */
export interface AlignedConcept extends ConceptMatch, ConceptProbes {}

export interface ConceptAlignment extends Omit<ConceptCoverage, "concepts"> {
  /** By falling AUC of the best latent. */
  concepts: AlignedConcept[];
  /** Share of concepts that the best single direction of a kind, of either sign, tells with AUC ≥ 0.95. */
  directions: ({ kind: DirectionKind } & Coverage)[];
  /** And all dimensions together, by a linear probe. */
  full: Omit<Coverage, "shuffled">;
  /** Per latent with a concept whose F1, where chosen, is at least 0.1: its best concept. */
  latents: { latent: number; concept: string; auc: number; f1: number }[];
  absorption: ConceptAbsorption[];
}

/** Activations are held in memory twice, up to this each: as read, and on the device. */
const ACTIVATION_BYTES = 2 ** 29;

/** How many positions of these activations are held at once. */
export function positionLimit(dIn: number): number {
  return Math.floor(ACTIVATION_BYTES / (4 * dIn));
}

/**
 * `conceptCoverage` with what it has to be compared with: sparse probes, single dimensions, random
 * directions, principal components, the full linear probe; and splitting and absorption.
 * At most `positionLimit(dIn)` positions are read.
 * @throws UserError as conceptCoverage.
 */
export async function conceptAlignment(
  sae: Sae,
  model: Model,
  documents: AsyncIterable<Document> | Iterable<Document>,
  options: ConceptOptions & { onConcept?: (progress: { done: number; total: number }) => void },
): Promise<ConceptAlignment> {
  const { device, hookPoint, seed = 0, onProgress, onConcept } = options;
  const { dSae, dIn } = sae.spec;
  const tokens = Math.min(options.tokens, positionLimit(dIn));
  const halves = await labelledHalves(
    encodeText(sae, device, model, hookPoint, documents, { ...options, tokens }),
    ...([dSae, true] as const),
    (done) => onProgress?.({ done, total: tokens }),
  );
  const { selection, test } = halves;
  const draws = new DocumentDraws(test.documentCount, seed);
  const matched = matchConcepts(selection, test, seed, draws);
  const spread = spreadOf(selection, dIn);
  const directions = await directionsOf(spread, dSae, seed);
  const axes = await uncorrelatedAxes(spread);
  const [shift] = shiftsOf(Math.min(selection.positions, test.positions), seed);
  const differences = { own: selection.meanDifferences(), moved: selection.meanDifferences(shift) };
  const prober = new ConceptProber(halves, dIn, directions, { draws, device, seed, axes });
  const concepts: AlignedConcept[] = [];
  const truths: ConceptTruth[] = [];
  const aucs: ConceptAucs[] = [];
  try {
    for (const match of matched.concepts) {
      const c = selection.concepts.indexOf(match.concept);
      const of = (all: Float64Array) => all.subarray(c * dSae, (c + 1) * dSae);
      const {
        probes,
        truth,
        aucs: own,
      } = await prober.measure(
        ...([c, { own: of(differences.own), moved: of(differences.moved) }, shift] as const),
      );
      concepts.push({ ...match, ...probes });
      truths.push(truth);
      aucs.push(own);
      onConcept?.({ done: concepts.length, total: matched.concepts.length });
    }
  } finally {
    prober.close();
  }
  const { shuffled: _, ...full } = coverage(
    aucs.map(({ full }) => full),
    [],
    ALIGNED_AUC,
  );
  return {
    ...matched,
    concepts,
    directions: directions.map(({ kind }, i) => ({
      kind,
      ...coverage(
        aucs.map(({ directions }) => directions[i]),
        [Float64Array.from(concepts, ({ shuffled }) => shuffled.best[kind]!)],
        ALIGNED_AUC,
      ),
    })),
    full,
    latents: bestConcepts(selection, test, matched),
    absorption: conceptAbsorption(sae, halves, truths, draws, seed),
  };
}

/** The best concept of each latent: by F1 on the selection documents, measured on the test documents. */
function bestConcepts(
  selection: LabelledText,
  test: LabelledText,
  { concepts }: ConceptCoverage,
): ConceptAlignment["latents"] {
  const numbers = concepts.map(({ concept }) => selection.concepts.indexOf(concept));
  const found: ConceptAlignment["latents"] = [];
  for (let latent = 0; latent < selection.dSae && numbers.length > 0; latent++) {
    const { f1, threshold } = selection.scores(selection.latent(latent));
    const c = numbers.reduce((a, b) => (f1[b] > f1[a] ? b : a));
    if (f1[c] < 0.1) continue;
    const choice = { latent, auc: 0, f1: f1[c], threshold: threshold[c] };
    found.push({
      ...{ latent, concept: selection.concepts[c] },
      auc: test.scores(test.latent(latent)).auc[c],
      f1: f1At(test, choice, c, 0),
    });
  }
  return found.sort((a, b) => b.f1 - a.f1);
}

function isEnough(text: LabelledText, concept: number): boolean {
  const positives = text.positives[concept];
  return positives >= MIN_POSITIVES && text.positions - positives >= MIN_POSITIVES;
}

/** By how many positions the labels are moved: at least a tenth of the text from where they were. */
function shiftsOf(positions: number, seed: number): number[] {
  const rng = new Rng(seed, "shuffled labels");
  return Array.from({ length: SHUFFLES }, () =>
    Math.round(positions * (0.1 + 0.8 * rng.uniform())),
  );
}

interface Choice {
  latent: number;
  auc: number;
  f1: number;
  threshold: number;
}

interface Choices {
  byAuc: Choice[];
  byF1: Choice[];
}

/** Of latents that all are silent, latent 0, whose AUC is one half. */
function choices(concepts: number): Choices {
  const none = () => ({ latent: 0, auc: 0.5, f1: 0, threshold: Infinity });
  return {
    byAuc: Array.from({ length: concepts }, none),
    byF1: Array.from({ length: concepts }, none),
  };
}

function choose(
  { byAuc, byF1 }: Choices,
  latent: number,
  { auc, f1, threshold }: ReturnType<LabelledText["scores"]>,
): void {
  for (let c = 0; c < byAuc.length; c++) {
    const choice = { latent, auc: auc[c], f1: f1[c], threshold: threshold[c] };
    if (auc[c] > byAuc[c].auc) byAuc[c] = choice;
    if (f1[c] > byF1[c].f1) byF1[c] = choice;
  }
}

function f1At(text: LabelledText, { latent, threshold }: Choice, c: number, shift: number): number {
  const labels = text.labelsOf(c, shift);
  const { positions, values } = text.latent(latent);
  let [hits, predicted] = [0, 0];
  for (; predicted < values.length && values[predicted] >= threshold; predicted++)
    hits += labels[positions[predicted]];
  return (2 * hits) / (text.positives[c] + predicted);
}

/** The share of concepts whose statistic is at least `least`; on every draw it is counted anew. */
export function coverage(
  drawn: readonly Drawn[],
  shuffled: readonly Float64Array[],
  least: number,
): Coverage {
  const count = drawn.filter(({ value }) => value >= least).length;
  const draws = Float64Array.from(drawn[0]?.draws ?? [], (_, i) =>
    mean(drawn.map(({ draws }) => Number(draws[i] >= least))),
  );
  return {
    count,
    ...intervalOf({ value: count / drawn.length, draws }),
    shuffled: mean(shuffled.map((values) => mean(Array.from(values, (v) => Number(v >= least))))),
  };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
