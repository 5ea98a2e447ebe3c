/**
 * Intervals by the bootstrap over documents: the same 1,000 draws for all statistics of one text, so that
 * they can be counted together, and their differences are paired.
 */
import { Rng } from "../rng.ts";
import { DRAWS, percentileInterval, type Interval } from "./interval.ts";
import type { Column, LabelledText } from "./labelled-text.ts";

/** A statistic on all documents and on every draw. */
export interface Drawn {
  value: number;
  draws: Float64Array;
}

/** The 2.5th and 97.5th percentile of the draws; draws on which it is no number are left out. */
export function intervalOf({ value, draws }: Drawn): Interval {
  return percentileInterval(value, draws);
}

/** The ratio of two sums over the same draws. */
export function ratioOf(top: Drawn, bottom: Drawn): Drawn {
  const draws = top.draws.map((sum, i) => sum / bottom.draws[i]);
  return { value: top.value / bottom.value, draws };
}

/** Positions with and without a label, by document. */
interface LabelCounts {
  text: LabelledText;
  labels: Uint8Array;
  own: Float64Array;
  others: Float64Array;
  positives: number;
  /** Σ own on each draw. */
  weights: Float64Array;
}

/** A result without its statistics on every draw, which nobody reads. */
export type WithoutDraws<T extends { drawn: unknown }> = Omit<T, "drawn">;

/** Moves a result's statistics to `drawn`, their names behind a prefix; @returns the rest. */
export function moveDraws<T extends { drawn: Record<string, Drawn> }>(
  { drawn: own, ...rest }: T,
  prefix: string,
  drawn: Record<string, Drawn>,
): WithoutDraws<T> {
  for (const [name, one] of Object.entries(own)) drawn[`${prefix}.${name}`] = one;
  return rest;
}

export class DocumentDraws {
  readonly documents: number;
  readonly #count: number;
  /** How often draw i has document d: weights[d · count + i], so that sums go along the draws. */
  readonly #weights: Uint16Array;
  /** The same, [draws][documents]; made when first asked for. */
  #byDraw: Uint16Array[] | undefined;
  /** Of the labels that were asked about last: a column after the other is. */
  #last: LabelCounts | undefined;

  /** With a count of 0, or fewer than two documents, there are values and no intervals. */
  constructor(documents: number, seed: number, count = DRAWS) {
    this.documents = documents;
    this.#count = documents < 2 ? 0 : count;
    this.#weights = new Uint16Array(this.#count * documents);
    const rng = new Rng(seed, "documents");
    for (let i = 0; i < this.#count; i++)
      for (let n = 0; n < documents; n++) this.#weights[rng.int(documents) * this.#count + i]++;
  }

  /** What `measure` says of all documents, each once, and of each draw. */
  measure<T>(measure: (weights: Uint16Array) => T): { all: T; drawn: T[] } {
    this.#byDraw ??= Array.from({ length: this.#count }, (_, i) =>
      Uint16Array.from({ length: this.documents }, (_, d) => this.#weights[d * this.#count + i]),
    );
    const everyOnce = new Uint16Array(this.documents).fill(1);
    return { all: measure(everyOnce), drawn: this.#byDraw.map(measure) };
  }

  /** @param statistic of documents by how often each is drawn. */
  draw(statistic: (weights: Uint16Array) => number): Drawn {
    const { all, drawn } = this.measure(statistic);
    return { value: all, draws: Float64Array.from(drawn) };
  }

  /** The interval of `draw`. */
  interval(statistic: (weights: Uint16Array) => number): Interval {
    return intervalOf(this.draw(statistic));
  }

  /** Σ of a value of each document, on each draw. */
  sums(values: Float64Array): Float64Array {
    const count = this.#count;
    const weights = this.#weights;
    const sums = new Float64Array(count);
    const places = new Int32Array(values.length + 3);
    let used = 0;
    for (let d = 0; d < values.length; d++) if (values[d] !== 0) places[used++] = d;
    // Four documents at a time, so that a sum is read and written once for them; past the end, none of the first.
    for (let n = 0; n < used; n += 4) {
      const [a, b, c, d] = [places[n], places[n + 1], places[n + 2], places[n + 3]];
      const va = values[a];
      const vb = n + 1 < used ? values[b] : 0;
      const vc = n + 2 < used ? values[c] : 0;
      const vd = n + 3 < used ? values[d] : 0;
      const [wa, wb, wc, wd] = [a * count, b * count, c * count, d * count];
      for (let i = 0; i < count; i++)
        sums[i] +=
          weights[wa + i] * va + weights[wb + i] * vb + weights[wc + i] * vc + weights[wd + i] * vd;
    }
    return sums;
  }

  /** Σ of a value of each document, on all of them and on each draw. */
  total(values: Float64Array): Drawn {
    return { value: values.reduce((sum, value) => sum + value, 0), draws: this.sums(values) };
  }

  /** Σ top / Σ bottom of values of each document. */
  ratio(top: Float64Array, bottom: Float64Array): Drawn {
    return ratioOf(this.total(top), this.total(bottom));
  }

  /**
   * The AUC of a column for labels. On a draw it is AUC's first-order (Hájek) projection with each
   * document's structural components (DeLong 1988; clustered: Obuchowski 1997), which costs a sum
   * instead of a sort: Σw A / Σw P + Σw (B - AUC·N_d) / N, where A sums over a document's positives the share
   * of all negatives below them and B over its negatives the share of all positives above.
   */
  auc(text: LabelledText, column: Column, labels: Uint8Array): Drawn {
    const n = text.positions;
    const above = new Float64Array(this.documents);
    const below = new Float64Array(this.documents);
    const { others, positives, weights } = this.#labelCounts(text, labels);
    const negatives = n - positives;
    let [higherPositives, higherNegatives, total] = [0, 0, 0];
    const group = (members: ArrayLike<number>, from: number, to: number) => {
      let mine = 0;
      for (let i = from; i < to; i++) mine += labels[members[i]];
      const rest = to - from - mine;
      const shareBelow = (negatives - higherNegatives - rest / 2) / negatives;
      const shareAbove = (higherPositives + mine / 2) / positives;
      for (let i = from; i < to; i++) {
        const d = text.documents[members[i]];
        if (labels[members[i]]) above[d] += shareBelow;
        else below[d] += shareAbove;
      }
      total += mine * shareBelow;
      higherPositives += mine;
      higherNegatives += rest;
    };
    const { positions, values } = column;
    for (let begin = 0; begin < positions.length;) {
      let end = begin + 1;
      while (end < values.length && values[end] === values[begin]) end++;
      group(positions, begin, end);
      begin = end;
    }
    if (positions.length < n) {
      const seen = new Uint8Array(n);
      for (const p of positions) seen[p] = 1;
      const left = new Int32Array(n - positions.length);
      for (let p = 0, at = 0; p < n; p++) if (!seen[p]) left[at++] = p;
      group(left, 0, left.length);
    }
    const auc = total / positives;
    const first = this.sums(above);
    const second = this.sums(below.map((sum, d) => (sum - auc * others[d]) / negatives));
    return {
      value: auc,
      draws: first.map((sum, i) => Math.min(1, Math.max(0, sum / weights[i] + second[i]))),
    };
  }

  /** F1 of "value ≥ threshold" for labels, which the positions left out of the column are not. */
  f1(
    text: LabelledText,
    column: Column,
    labels: Uint8Array,
    threshold: number,
  ): Drawn & {
    precision: number;
    recall: number;
  } {
    const both = new Float64Array(this.documents);
    const { own, positives } = this.#labelCounts(text, labels);
    const sizes = own.slice(); // positives + predicted
    let [hits, predicted] = [0, 0];
    for (let i = 0; i < column.values.length && column.values[i] >= threshold; i++, predicted++) {
      const p = column.positions[i];
      sizes[text.documents[p]]++;
      both[text.documents[p]] += labels[p];
      hits += labels[p];
    }
    const tops = this.sums(both);
    const bottoms = this.sums(sizes);
    return {
      value: (2 * hits) / (positives + predicted),
      draws: tops.map((top, i) => (2 * top) / bottoms[i]),
      precision: predicted > 0 ? hits / predicted : 0,
      recall: hits / positives,
    };
  }

  #labelCounts(text: LabelledText, labels: Uint8Array): LabelCounts {
    if (this.#last?.labels === labels && this.#last.text === text) return this.#last;
    const own = new Float64Array(this.documents);
    const others = new Float64Array(this.documents);
    let positives = 0;
    for (let p = 0; p < text.positions; p++) {
      positives += labels[p];
      (labels[p] ? own : others)[text.documents[p]]++;
    }
    this.#last = { text, labels, own, others, positives, weights: this.sums(own) };
    return this.#last;
  }
}
