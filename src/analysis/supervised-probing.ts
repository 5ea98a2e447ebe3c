/**
 * Sparse probing (SAEBench, Karvonen et al. 2025; after Gurnee et al. 2023): is a concept in a few
 * latents? The k latents whose mean differs most between rows with and without the concept are chosen,
 * and a logistic probe (probe.ts, columns standardised, C = 1) is fitted to them, both on train documents;
 * it is measured on test documents. Rows are drawn so that half carry the concept, in both.
 */
import { Rng } from "../rng.ts";
import { DocumentDraws, intervalOf, type Drawn } from "./document-draws.ts";
import type { Interval } from "./interval.ts";
import { fitProbe, probeScores, type Matrix } from "./probe.ts";
import {
  activationsOf,
  balanced,
  largest,
  latentColumns,
  latentDifferences,
  type LabelledRows,
  type LabelledSplit,
  type Picked,
} from "./supervised-rows.ts";
import { meanOverConcepts, scoresOnDraws, type ProbeScores } from "./supervised-scores.ts";

export interface ProbingOptions {
  /** Numbers of latents; default 1, 2, 5, 10. */
  ks?: readonly number[];
  /** Concepts to probe; absent: all that are frequent enough. */
  concepts?: readonly string[];
  /** Rows of each class, at most; train and test. Default 500 and 250. */
  trainPerClass?: number;
  testPerClass?: number;
  seed?: number;
  onProgress?: (done: number, total: number) => void;
}

/** What a probe reads: chosen latents, the activation's own dimensions chosen the same way, random firing latents, latents chosen and fitted with shuffled labels, or all dimensions of the activation. */
export const PROBED = ["latents", "neurons", "random", "shuffled", "full"] as const;
export type Probed = (typeof PROBED)[number];

export interface ConceptProbing {
  concept: string;
  trainRows: number;
  testRows: number;
  /** Accuracy of always saying the commoner class, on the test rows. */
  chance: number;
  probes: {
    probed: Probed;
    /** Columns read. */
    k: number;
    /** Numbers of the latents or dimensions, the most telling first; absent for all of them. */
    columns?: number[];
    scores: ProbeScores;
  }[];
}

/** Mean over the concepts, documents drawn once for all of them. */
export interface ProbingMean {
  probed: Probed;
  k: number;
  accuracy: Interval;
  /** Without an interval. */
  auc: number;
  f1: number;
}

export interface ProbingResult {
  ks: number[];
  concepts: ConceptProbing[];
  /** Concepts with fewer than MIN_PER_CLASS rows of a class in either set. */
  tooRare: string[];
  chance: number;
  means: ProbingMean[];
  /** Accuracies of the latents' means on every draw, by name. */
  drawn: Record<string, Drawn>;
}

/** Concepts with fewer rows of either class, in train or test, are not probed: their scores would be noise. */
export const MIN_PER_CLASS = 20;

/** Probes for concepts on rows that are tokens, or texts. Concepts that are too rare are named in the result. */
export function sparseProbing(split: LabelledSplit, options: ProbingOptions = {}): ProbingResult {
  const { trainPerClass = 500, testPerClass = 250, seed = 0 } = options;
  const { train, test } = split;
  const ks = [...(options.ks ?? [1, 2, 5, 10])].filter((k) => k <= train.dSae);
  const draws = new DocumentDraws(test.documents, seed);
  const names = options.concepts ?? [...train.labels.keys()];
  const concepts: ConceptProbing[] = [];
  const tooRare: string[] = [];
  const rights = new Map<string, { document: Int32Array; right: Uint8Array }[]>();
  for (const [i, concept] of names.entries()) {
    options.onProgress?.(i, names.length);
    const trainLabel = train.labels.get(concept);
    const testLabel = test.labels.get(concept);
    if (!trainLabel || !testLabel) {
      tooRare.push(concept);
      continue;
    }
    const rng = new Rng(seed, "sparse probing", concept);
    const fit = balanced(trainLabel, trainPerClass, rng);
    const measure = balanced(testLabel, testPerClass, rng);
    if (Math.min(fit.rows.length, measure.rows.length) < 2 * MIN_PER_CLASS) {
      tooRare.push(concept);
      continue;
    }
    const document = measure.rows.map((n) => test.document[n]);
    const probes: ConceptProbing["probes"] = [];
    const probe = (
      probed: Probed,
      k: number,
      read: Reader,
      labels: Uint8Array,
      columns?: number[],
    ) => {
      const fitted = fitProbe(read(train, fit.rows), labels, { standardise: true });
      const scores = probeScores(fitted, read(test, measure.rows));
      const right = measure.labels.map((label, n) => Number(Number(scores[n] >= 0) === label));
      const key = `${probed} ${k}`;
      rights.set(key, [...(rights.get(key) ?? []), { document, right }]);
      const found = scoresOnDraws(draws, document, scores, measure.labels);
      probes.push({ probed, k, ...(columns && { columns }), scores: found });
    };
    const shuffled = { rows: fit.rows, labels: rng.shuffle(fit.labels.slice()) };
    const most = ks.at(-1) ?? 0;
    const latents = largest(latentDifferences(train, fit).map(Math.abs), most);
    const ofShuffled = largest(latentDifferences(train, shuffled).map(Math.abs), most);
    const neurons = largest(neuronDifferences(train, fit).map(Math.abs), most);
    const { offsets } = train.codes;
    const firing = Array.from({ length: train.dSae }, (_, f) => f).filter((f) => offsets[f + 1] > offsets[f]); // prettier-ignore
    const random = rng.shuffle(firing).slice(0, most);
    for (const k of ks) {
      probe("latents", k, readLatents(latents.slice(0, k)), fit.labels, latents.slice(0, k));
      probe("neurons", k, readNeurons(neurons.slice(0, k)), fit.labels, neurons.slice(0, k));
      probe("random", k, readLatents(random.slice(0, k)), fit.labels, random.slice(0, k));
      probe("shuffled", k, readLatents(ofShuffled.slice(0, k)), shuffled.labels, ofShuffled.slice(0, k)); // prettier-ignore
    }
    probe("full", train.dIn, activationsOf, fit.labels);
    concepts.push({
      ...{
        concept,
        trainRows: fit.rows.length,
        testRows: measure.rows.length,
        chance: 0.5,
        probes,
      },
    });
  }
  const drawn: Record<string, Drawn> = {};
  const means = PROBED.flatMap((probed) =>
    (probed === "full" ? [train.dIn] : ks).flatMap((k): ProbingMean[] => {
      const own = concepts.map(({ probes }) =>
        probes.find((p) => p.probed === probed && p.k === k)!,
      );
      const right = rights.get(`${probed} ${k}`);
      if (!right) return [];
      const mean = (value: (scores: ProbeScores) => number) =>
        own.reduce((sum, { scores }) => sum + value(scores), 0) / own.length;
      const accuracy = meanOverConcepts(right, test.documents, draws);
      if (probed === "latents") drawn[`accuracy.${k}`] = accuracy;
      return [
        {
          ...{ probed, k, accuracy: intervalOf(accuracy) },
          auc: mean(({ auc }) => auc.value),
          f1: mean(({ f1 }) => f1.value),
        },
      ];
    }),
  );
  return { ks, concepts, tooRare, chance: 0.5, means, drawn };
}

type Reader = (rows: LabelledRows, picked: Int32Array) => Matrix;

function readLatents(latents: readonly number[]): Reader {
  return (sample, rows) => latentColumns(sample, rows, latents);
}

function readNeurons(columns: readonly number[]): Reader {
  return ({ x, dIn }, rows) => {
    const out = new Float64Array(rows.length * columns.length);
    rows.forEach((n, i) => {
      columns.forEach((c, j) => (out[i * columns.length + j] = x[n * dIn + c]));
    });
    return out;
  };
}

/** Mean of each dimension of the activation over the rows with the label, less that over those without; [dIn]. */
export function neuronDifferences(
  { x, dIn }: LabelledRows,
  { rows, labels }: Picked,
): Float64Array {
  const positives = labels.reduce((sum, label) => sum + label, 0);
  const weights = [-1 / (rows.length - positives), 1 / positives];
  const out = new Float64Array(dIn);
  rows.forEach((n, i) => {
    for (let c = 0; c < dIn; c++) out[c] += weights[labels[i]] * x[n * dIn + c];
  });
  return out;
}
