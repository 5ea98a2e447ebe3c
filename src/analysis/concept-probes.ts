/**
 * How well a few latents, a few directions and all dimensions together tell a concept: sparse probes
 * as in SAEBench (Karvonen et al. 2025; Gurnee et al. 2023), on tokens. The k columns with the largest
 * |mean with the concept - mean without| on the selection documents enter a logistic regression
 * (columns standardised, C = 1), fitted to a sample of those documents (case–control: it changes the
 * intercept only); the threshold on its score is the one with the best F1 on all of them; AUC, F1
 * and accuracy are measured on the test documents.
 */
import type { Device, Tensor } from "../device/device.ts";
import { Rng } from "../rng.ts";
import { DocumentDraws, intervalOf, type Drawn } from "./document-draws.ts";
import { activationSum, projections, type Directions, type DirectionKind } from "./concept-directions.ts"; // prettier-ignore
import type { Interval } from "./interval.ts";
import { columnInto, columnsOf, joined } from "./columns.ts";
import type { Firings } from "./encoded-text.ts";
import { sortedInto, type Column, type LabelledText } from "./labelled-text.ts";
import { splittingOf, type Splitting } from "./concept-splitting.ts";
import { fallingOrder, highest } from "./order.ts";
import { agreement, auc, bestThreshold } from "./label-scores.ts";
import { fitProbe, standardised, type Probe } from "./probe.ts";
import { sampleOf, sparseProbe } from "./probe-sample.ts";

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

/** AUCs on every draw, to count concepts by: of the full probe, and of the best direction of each kind. */
export interface ConceptAucs {
  full: Drawn;
  directions: Drawn[];
}

/** Numbers of columns in the probes that are reported. */
export const PROBE_SIZES = [1, 2, 5, 10];
/** Directions by separation whose AUC is computed to find the best. */
const CANDIDATES = 6;
/** The full probe's fit ends here: its scores have settled before its weights. */
const FULL_TOLERANCE = 1e-4;

type Scores = Record<"selection" | "test", Float32Array<ArrayBuffer>>;
type Labels = Record<"selection" | "test", Uint8Array>;

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
  readonly #x: Record<"selection" | "test", Tensor>;
  /** Σ of the activations of the selection documents [dIn]. */
  readonly #sum: Float64Array;
  readonly #axes: Float64Array | undefined;
  // Scratch, as long as the halves: every score would take new memory otherwise.
  readonly #scores: Scores;
  readonly #order: Int32Array<ArrayBuffer>;
  readonly #column: Column;

  constructor(
    texts: { selection: LabelledText; test: LabelledText },
    dIn: number,
    directions: readonly Directions[],
    options: {
      draws: DocumentDraws;
      device: Device;
      seed: number;
      /** Of the selection documents' activations; see uncorrelatedAxes. The full probe is fitted much faster along them. */
      axes?: Float64Array | undefined;
    },
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
    this.#sum = activationSum(texts.selection, dIn);
    this.#axes = options.axes;
    const [own, other] = [texts.selection.positions, texts.test.positions];
    this.#scores = { selection: new Float32Array(own), test: new Float32Array(other) };
    this.#order = new Int32Array(own);
    this.#column = { positions: new Int32Array(other), values: new Float32Array(other) };
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
  ): Promise<{ probes: ConceptProbes; truth: ConceptTruth; aucs: ConceptAucs }> {
    const { truth, aucs, ...own } = await this.#measure(concept, differences.own, 0);
    const moved = await this.#measure(concept, differences.moved, shift);
    const probes = {
      ...own,
      splitting: { ...own.splitting, shuffled: moved.splitting.latents.value },
      shuffled: {
        latents10: moved.latents.at(-1)!.auc.value,
        best: Object.fromEntries(moved.directions.map(({ kind, best }) => [kind, best.auc.value])),
      },
    };
    return { probes, truth, aucs };
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
    const firings = {
      selection: top.map((latent) => selection.firings(latent)),
      test: top.map((latent) => test.firings(latent)),
    };
    const sampled = firings.selection.map((own) => this.#valuesAt(own, sample));
    let probe: Probe | undefined;
    for (let k = 1; k <= top.length; k++) {
      const { weights } = (probe = sparseProbe(sampled.slice(0, k), sampleLabels, probe));
      const sum = (half: "selection" | "test") => {
        const scores = this.#scores[half].fill(0);
        for (let j = 0; j < k; j++) {
          const { positions, values } = firings[half][j];
          for (let i = 0; i < values.length; i++) scores[positions[i]] += weights[j] * values[i];
        }
        return scores;
      };
      const scores = { selection: sum("selection"), test: sum("test") };
      if (PROBE_SIZES.includes(k)) {
        const { f1, score } = this.#score(scores, labels, draws);
        f1s.push(f1);
        latents.push({ k, columns: top.slice(0, k), ...score });
      } else f1s.push(this.#f1(scores, labels, draws));
    }
    const splitting = splittingOf(f1s);

    const x = this.#rows(sample);
    const difference = this.#meanDifference(labels.selection);
    const vectors: Float64Array[] = [];
    if (!moved) vectors.push(await this.#fullProbe(x, sampleLabels));
    const chosen = this.#directions.map((kind) => {
      const differences = projections(kind, difference);
      const separation = differences.map((d, r) => d / Math.max(kind.deviations[r], 1e-300));
      const candidates = largest(separation, CANDIDATES);
      return { kind, differences, candidates, top: largest(differences, PROBE_SIZES.at(-1)!) };
    });
    const direction = ({ rows }: Directions, r: number) =>
      rows.subarray(r * this.#dIn, (r + 1) * this.#dIn);
    const wanted = chosen.flatMap(({ kind, candidates, top }) =>
      [...candidates, ...(moved ? [] : top)].map((r) => direction(kind, r)),
    );
    const onSample = columnsOf(await this.#onSample(x, joined(wanted)), wanted.length);
    const plans = chosen.map(({ kind, differences, candidates, top }) => {
      const scored = candidates.map((r) => {
        const sign = Math.sign(differences[r]);
        const scores = onSample.shift()!.map((score) => sign * score);
        return { r, sign, auc: auc(scores, sampleLabels) };
      });
      const best = scored.reduce((a, b) => (b.auc > a.auc ? b : a));
      vectors.push(direction(kind, best.r).map((u) => best.sign * u));
      const columns = moved ? [] : top.map(() => onSample.shift()!);
      let probe: Probe | undefined;
      for (const k of sizes) {
        const used = columns.slice(0, k);
        probe = sparseProbe(used, sampleLabels, probe);
        const vector = new Float64Array(this.#dIn);
        for (let j = 0; j < used.length; j++) {
          const u = direction(kind, top[j]);
          for (let c = 0; c < u.length; c++) vector[c] += probe.weights[j] * u[c];
        }
        vectors.push(vector);
      }
      return { kind: kind.kind, direction: best.r, top };
    });
    const all = joined(vectors);
    const projected = {
      selection: await this.#products(this.#x.selection, all),
      test: await this.#products(this.#x.test, all),
    };
    const column = (half: "selection" | "test", i: number) =>
      columnInto(this.#scores[half], projected[half], i, vectors.length);
    const scored = vectors.map((_, i) =>
      this.#score(
        { selection: column("selection", i), test: column("test", i) },
        ...([labels, draws] as const),
      ),
    );
    const before = moved ? 0 : 1;
    const width = 1 + sizes.length;
    const length = Math.hypot(...vectors[0]) || 1;
    const truth: ConceptTruth = {
      ...{ concept, main: top.slice(0, splitting.latents.value) },
      direction: vectors[0].map((w) => w / length),
      predicted: Uint8Array.from(column("test", 0), (z) => Number(z >= scored[0].threshold)),
    };
    const aucs: ConceptAucs = {
      full: scored[0].auc,
      directions: plans.map((_, i) => scored[before + i * width].auc),
    };
    return {
      ...{ latents, f1ByK: f1s.map(({ value }) => value), splitting, full: scored[0].score },
      ...{ truth, aucs },
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

  /** F1 on the test documents at the threshold with the best one on the selection documents. */
  #f1(
    scores: Scores,
    labels: Labels,
    draws: DocumentDraws,
  ): ReturnType<DocumentDraws["f1"]> & { threshold: number } {
    // prettier-ignore
    const order = fallingOrder(scores.selection, this.#order);
    const { threshold } = bestThreshold(scores.selection, labels.selection, order);
    const { positions, values } = this.#column;
    let count = 0;
    for (let p = 0; p < scores.test.length; p++)
      if (scores.test[p] >= threshold) {
        positions[count] = p;
        values[count++] = scores.test[p];
      }
    const above = { positions: positions.subarray(0, count), values: values.subarray(0, count) };
    return { threshold, ...draws.f1(this.#texts.test, above, labels.test, threshold) };
  }

  /** With everything else on the test documents. */
  #score(
    scores: Scores,
    labels: Labels,
    draws: DocumentDraws,
  ): { score: ProbeScore; auc: Drawn; f1: Drawn; threshold: number } {
    const f1 = this.#f1(scores, labels, draws);
    const { threshold } = f1;
    const { accuracy } = agreement(scores.test, labels.test, threshold);
    sortedInto(scores.test, this.#column);
    const auc = draws.auc(this.#texts.test, this.#column, labels.test);
    const score = { auc: intervalOf(auc), f1: intervalOf(f1), accuracy };
    return { score, auc, f1, threshold };
  }

  /** Activations of selection positions [positions.length, dIn]. */
  #rows(positions: Int32Array): Float32Array<ArrayBuffer> {
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

  /** Mean over the selection positions with the label less that over those without: [dIn]. */
  #meanDifference(labels: Uint8Array): Float64Array {
    const own = activationSum(this.#texts.selection, this.#dIn, labels);
    const positives = labels.reduce((sum, label) => sum + label, 0);
    const others = labels.length - positives;
    return own.map((sum, c) => sum / positives - (this.#sum[c] - sum) / others);
  }

  /** Weights of the probe on all dimensions [dIn]. */
  async #fullProbe(x: Float32Array, labels: Uint8Array): Promise<Float64Array> {
    const options = { tolerance: FULL_TOLERANCE };
    const axes = this.#axes;
    if (!axes) return fitProbe(x, labels, { ...options, standardise: true }).weights;
    // The penalty is the same along any axes, and so is the minimum.
    const dIn = this.#dIn;
    const { t, scale } = standardised(x, labels.length);
    const { weights } = fitProbe(await this.#onSample(new Float32Array(t), axes), labels, options);
    const back = new Float64Array(dIn);
    for (let i = 0; i < axes.length; i++) back[i % dIn] += weights[Math.floor(i / dIn)] * axes[i];
    return back.map((w, c) => w / scale[c]);
  }

  /** The values of a latent at some of the selection positions. */
  #valuesAt({ positions, values }: Firings, places: Int32Array): Float32Array {
    const all = this.#scores.selection.fill(0);
    for (let i = 0; i < values.length; i++) all[positions[i]] = values[i];
    const some = new Float32Array(places.length);
    for (let i = 0; i < places.length; i++) some[i] = all[places[i]];
    return some;
  }

  /** x · v of every row of x for each of the vectors [count, dIn]: [rows, count]. */
  async #onSample(x: Float32Array<ArrayBuffer>, vectors: Float64Array): Promise<Float32Array> {
    const tensor = this.#device.tensor([x.length / this.#dIn, this.#dIn]);
    try {
      this.#device.write(tensor, x);
      return await this.#products(tensor, vectors);
    } finally {
      this.#device.free(tensor);
    }
  }

  /** The same of a tensor [rows, dIn]. */
  async #products(x: Tensor, vectors: Float64Array): Promise<Float32Array> {
    const device = this.#device;
    const [rows] = x.shape;
    const count = vectors.length / this.#dIn;
    const b = device.tensor([count, this.#dIn]);
    const out = device.tensor([rows, count]);
    try {
      device.write(b, new Float32Array(vectors));
      device.matmul({ a: x, b, transA: false, transB: true, out });
      return await device.readF32(out, rows * count);
    } finally {
      device.free(b);
      device.free(out);
    }
  }
}

/** Places of the values that are largest in size. */
function largest(values: Float64Array, count: number): number[] {
  return highest(values.map(Math.abs), count);
}
