/**
 * How well a few latents, a few directions and all dimensions together tell a concept: sparse probes
 * as in SAEBench (Karvonen et al. 2025; Gurnee et al. 2023), on tokens. The k columns with the largest
 * |mean with the concept - mean without| on the selection documents enter a logistic regression
 * (columns standardised, C = 1), fitted to a sample of those documents (case–control: it changes the
 * intercept only); the threshold on its score is the one with the best F1 on all of them; AUC, F1
 * and accuracy are measured on the test documents.
 */
import type { Device } from "../device/device.ts";
import { Rng } from "../rng.ts";
import { DocumentDraws, intervalOf, type Drawn } from "./document-draws.ts";
import { meanDifference, projections, type Directions, type DirectionKind } from "./concept-directions.ts"; // prettier-ignore
import type { Interval } from "./interval.ts";
import { columnOf, type LabelledText } from "./labelled-text.ts";
import { highest } from "./order.ts";
import { agreement, auc, bestThreshold, fitProbe, type Matrix } from "./probe.ts";

export interface ProbeScore {
  auc: Interval;
  f1: Interval;
  accuracy: number;
}

export interface SparseProbe extends ProbeScore {
  k: number;
  /** Latents, or directions by number. */
  columns: number[];
}

export interface ConceptProbes {
  latents: SparseProbe[];
  /** F1 on the test documents of the latents' probes with k = 1 … 10. */
  f1ByK: number[];
  splitting: Splitting;
  directions: {
    kind: DirectionKind;
    /** The single direction, of either sign, with the highest AUC on the selection documents. */
    best: ProbeScore & { direction: number };
    probes: SparseProbe[];
  }[];
  /** All dimensions of the activation: what a linear direction can tell at most. */
  full: ProbeScore;
  /** The same for labels moved along the text: AUCs on the test documents. */
  shuffled: { latents10: number; best: Partial<Record<DirectionKind, number>> };
}

/** Over how many latents a concept is spread. */
export interface Splitting {
  /** The first k at which one more latent adds less than 0.03 to F1 (SAEBench's rule). */
  latents: Interval;
  /** The least k whose F1 is within 0.03 of that with ten. */
  within: number;
  /** `latents` for labels moved along the text. */
  shuffled: number;
}

/** What the search for absorption needs of a concept and no result holds. */
export interface ConceptTruth {
  concept: number;
  /** The latents that splitting counts. */
  main: number[];
  /** The full probe's direction [dIn], of length 1. */
  direction: Float64Array;
  /** 1 where the full probe says on the test documents that the concept is there. */
  predicted: Uint8Array;
}

/** Numbers of columns in the probes that are reported. */
export const PROBE_SIZES = [1, 2, 5, 10];
const MAX_POSITIVES = 1000;
const MAX_NEGATIVES = 2000;
/** Directions by separation whose AUC is computed to find the best. */
const CANDIDATES = 6;
/** The full probe's fit ends here: its AUC has settled long before its weights. */
const FULL_TOLERANCE = 1e-2;

/** Everything that the probes of all concepts share. Free it by `close`. */
export class ConceptProber {
  readonly #texts: { selection: LabelledText; test: LabelledText };
  readonly #dIn: number;
  readonly #directions: readonly Directions[];
  readonly #draws: DocumentDraws;
  /** Moved labels are measured without intervals. */
  readonly #noDraws: DocumentDraws;
  readonly #seed: number;
  readonly #device: Device;
  readonly #x: Record<"selection" | "test", ReturnType<Device["tensor"]>>;

  constructor(
    texts: { selection: LabelledText; test: LabelledText },
    dIn: number,
    directions: readonly Directions[],
    options: { draws: DocumentDraws; device: Device; seed: number },
  ) {
    this.#texts = texts;
    this.#dIn = dIn;
    this.#directions = directions;
    this.#draws = options.draws;
    this.#noDraws = new DocumentDraws(options.draws.documents, 0, 0);
    this.#seed = options.seed;
    this.#device = options.device;
    const upload = (text: LabelledText) => {
      const all = new Float32Array(text.positions * dIn);
      for (const { base, x } of text.activations) all.set(x, base * dIn);
      const tensor = options.device.tensor([text.positions, dIn]);
      options.device.write(tensor, all);
      return tensor;
    };
    this.#x = { selection: upload(texts.selection), test: upload(texts.test) };
  }

  close(): void {
    for (const tensor of Object.values(this.#x)) this.#device.free(tensor);
  }

  /**
   * @param differences of the latents' means for this concept, and for labels moved by `shift`; [dSae].
   */
  async measure(
    concept: number,
    differences: { own: Float64Array; moved: Float64Array },
    shift: number,
  ): Promise<{ probes: ConceptProbes; truth: ConceptTruth }> {
    const { truth, ...own } = await this.#measure(concept, differences.own, 0);
    const moved = await this.#measure(concept, differences.moved, shift);
    const probes = {
      ...own,
      splitting: { ...own.splitting, shuffled: moved.splitting.latents.value },
      shuffled: {
        latents10: moved.latents.at(-1)!.auc.value,
        best: Object.fromEntries(moved.directions.map(({ kind, best }) => [kind, best.auc.value])),
      },
    };
    return { probes, truth };
  }

  async #measure(concept: number, differences: Float64Array, shift: number) {
    const { selection, test } = this.#texts;
    const labels = {
      selection: selection.labelsOf(concept, shift),
      test: test.labelsOf(concept, shift),
    };
    const moved = shift > 0;
    // For moved labels only what is shown of them.
    const sizes = moved ? [] : PROBE_SIZES;
    const draws = moved ? this.#noDraws : this.#draws;
    const sample = sampleOf(labels.selection, new Rng(this.#seed, "sample", concept));
    const sampleLabels = new Uint8Array(sample.length);
    for (let i = 0; i < sample.length; i++) sampleLabels[i] = labels.selection[sample[i]];

    const f1s: Drawn[] = [];
    const latents: SparseProbe[] = [];
    const top = largest(differences, PROBE_SIZES.at(-1)!);
    const columns = { selection: denseColumns(selection, top), test: denseColumns(test, top) };
    for (let k = 1; k <= top.length; k++) {
      const rows = new Float64Array(sample.length * k);
      for (let j = 0; j < k; j++)
        for (let i = 0; i < sample.length; i++) rows[i * k + j] = columns.selection[j][sample[i]];
      const { weights } = fitProbe(rows, sampleLabels, { standardise: true });
      const sum = (half: "selection" | "test") => {
        const scores = new Float32Array(this.#texts[half].positions);
        for (let j = 0; j < k; j++)
          for (let p = 0; p < scores.length; p++) scores[p] += weights[j] * columns[half][j][p];
        return scores;
      };
      const { f1, score } = this.#score(sum("selection"), sum("test"), labels, draws);
      f1s.push(f1);
      if (PROBE_SIZES.includes(k)) latents.push({ k, columns: top.slice(0, k), ...score });
    }
    const splitting = splittingOf(f1s);

    const x = this.#rows(sample);
    const difference = meanDifference(selection, labels.selection, this.#dIn);
    const vectors: Float64Array[] = [];
    if (!moved)
      vectors.push(
        fitProbe(x, sampleLabels, { standardise: true, tolerance: FULL_TOLERANCE }).weights,
      );
    const plans = this.#directions.map((kind) => {
      const differences = projections(kind, difference);
      const separation = differences.map((d, r) => d / Math.max(kind.deviations[r], 1e-300));
      const direction = (r: number) => kind.rows.subarray(r * this.#dIn, (r + 1) * this.#dIn);
      const candidates = largest(separation, CANDIDATES).map((r) => {
        const vector = direction(r).map((u) => u * Math.sign(differences[r]));
        return { r, vector, auc: auc(product(x, vector), sampleLabels) };
      });
      const best = candidates.reduce((a, b) => (b.auc > a.auc ? b : a));
      vectors.push(best.vector);
      const top = largest(differences, PROBE_SIZES.at(-1)!);
      const scores = moved ? [] : top.map((r) => product(x, direction(r)));
      for (const k of sizes) {
        const used = Math.min(k, top.length);
        const rows = new Float64Array(sample.length * used);
        for (let i = 0; i < rows.length; i++) rows[i] = scores[i % used][Math.floor(i / used)];
        const { weights } = fitProbe(rows, sampleLabels, { standardise: true });
        const vector = new Float64Array(this.#dIn);
        for (let j = 0; j < used; j++)
          for (const [c, u] of direction(top[j]).entries()) vector[c] += weights[j] * u;
        vectors.push(vector);
      }
      return { kind: kind.kind, direction: best.r, top };
    });
    const scores = {
      selection: await this.#project("selection", vectors),
      test: await this.#project("test", vectors),
    };
    const scored = vectors.map((_, i) =>
      this.#score(scores.selection[i], scores.test[i], labels, draws),
    );
    const before = moved ? 0 : 1;
    const width = 1 + sizes.length;
    const length = Math.hypot(...vectors[0]) || 1;
    const truth: ConceptTruth = {
      ...{ concept, main: top.slice(0, splitting.latents.value) },
      direction: vectors[0].map((w) => w / length),
      predicted: Uint8Array.from(scores.test[0], (z) => Number(z >= scored[0].threshold)),
    };
    return {
      ...{ latents, f1ByK: f1s.map(({ value }) => value), splitting, full: scored[0].score, truth },
      directions: plans.map(({ kind, direction, top }, i) => ({
        kind,
        best: { direction, ...scored[before + i * width].score },
        probes: sizes.map((k, j) => ({
          ...{ k, columns: top.slice(0, k) },
          ...scored[before + 1 + i * width + j].score,
        })),
      })),
    };
  }

  /** Threshold by F1 on the selection documents, everything else on the test documents. */
  #score(
    selection: Float32Array,
    test: Float32Array,
    labels: Record<"selection" | "test", Uint8Array>,
    draws: DocumentDraws,
  ): { score: ProbeScore; f1: Drawn; threshold: number } {
    const text = this.#texts.test;
    const { threshold } = bestThreshold(selection, labels.selection);
    const column = columnOf(test);
    const f1 = draws.f1(text, column, labels.test, threshold);
    const { accuracy } = agreement(test, labels.test, threshold);
    const auc = intervalOf(draws.auc(text, column, labels.test));
    return { score: { auc, f1: intervalOf(f1), accuracy }, f1, threshold };
  }

  /** Activations of selection positions [positions.length, dIn]. */
  #rows(positions: Int32Array): Float32Array {
    const dIn = this.#dIn;
    const rows = new Float32Array(positions.length * dIn);
    const { activations } = this.#texts.selection;
    let chunk = 0;
    for (const [i, p] of positions.entries()) {
      while (chunk + 1 < activations.length && activations[chunk + 1].base <= p) chunk++;
      const at = (p - activations[chunk].base) * dIn;
      rows.set(activations[chunk].x.subarray(at, at + dIn), i * dIn);
    }
    return rows;
  }

  /** x · v of every position, for each vector. */
  async #project(half: "selection" | "test", vectors: Float64Array[]): Promise<Float32Array[]> {
    const device = this.#device;
    const { positions } = this.#texts[half];
    const b = device.tensor([vectors.length, this.#dIn]);
    const out = device.tensor([positions, vectors.length]);
    try {
      const flat = new Float32Array(vectors.length * this.#dIn);
      for (const [i, vector] of vectors.entries()) flat.set(vector, i * this.#dIn);
      device.write(b, flat);
      device.matmul({ a: this.#x[half], b, transA: false, transB: true, out });
      const all = await device.readF32(out, positions * vectors.length);
      return vectors.map((_, i) => {
        const scores = new Float32Array(positions);
        for (let p = 0, at = i; p < positions; p++, at += vectors.length) scores[p] = all[at];
        return scores;
      });
    } finally {
      device.free(b);
      device.free(out);
    }
  }
}

const GAIN = 0.03;

/** From the F1 of the probes with k = 1, 2, …, on the test documents and on every draw of them. */
export function splittingOf(f1s: readonly Drawn[]): Splitting {
  const first = (of: (k: number) => number) => {
    let k = 1;
    while (k < f1s.length && of(k) - of(k - 1) >= GAIN) k++;
    return k;
  };
  const last = f1s.at(-1)!.value;
  return {
    latents: intervalOf({
      value: first((k) => f1s[k].value),
      draws: f1s[0].draws.map((_, i) => first((k) => f1s[k].draws[i])),
    }),
    within: 1 + f1s.findIndex(({ value }) => value >= last - GAIN),
    shuffled: NaN,
  };
}

/** Places of the values that are largest in size. */
function largest(values: Float64Array, count: number): number[] {
  return highest(values.map(Math.abs), count);
}

function product(x: Matrix, vector: Float64Array): Float64Array {
  const width = vector.length;
  const used = Int32Array.from(vector.keys()).filter((c) => vector[c] !== 0);
  const out = new Float64Array(x.length / width);
  for (let n = 0, at = 0; n < out.length; n++, at += width) {
    let sum = 0;
    for (let i = 0; i < used.length; i++) sum += x[at + used[i]] * vector[used[i]];
    out[n] = sum;
  }
  return out;
}

/** The latents' values at every position, latent by latent. */
function denseColumns(text: LabelledText, latents: number[]): Float32Array[] {
  return latents.map((latent) => {
    const column = new Float32Array(text.positions);
    const { positions, values } = text.firings(latent);
    for (let i = 0; i < values.length; i++) column[positions[i]] = values[i];
    return column;
  });
}

/** At most 1,000 positions with and 2,000 without the label, in the order of the text. */
function sampleOf(labels: Uint8Array, rng: Rng): Int32Array {
  const own: number[] = [];
  const others: number[] = [];
  for (let p = 0; p < labels.length; p++) (labels[p] ? own : others).push(p);
  const some = (places: number[], count: number) =>
    places.length > count ? rng.shuffle(places).slice(0, count) : places;
  return Int32Array.from([...some(own, MAX_POSITIVES), ...some(others, MAX_NEGATIVES)]).sort();
}
