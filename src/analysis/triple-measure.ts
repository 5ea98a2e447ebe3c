/** A pair of latents and a third: what their meetings say, and how sure that is. The formulas stand in triples.ts. */
import { DocumentDraws, intervalOf } from "./document-draws.ts";
import { MIN_UNITS } from "./document-sums.ts";
import type { Firings, HeldText } from "./firings.ts";
import type { Interval } from "./interval.ts";
import { gammaTails, normalTail, wilson } from "./significance.ts";

export const TRIPLE_RULES = {
  /** Positions with both, with the first alone and with the second alone that there must be, on either half. */
  minSupport: 20,
  /** By how much p_ab must differ on the selection documents. */
  minGain: 0.1,
  /** Triples of each kind that are tested, at most, and of those with the same third; of the same pair one. */
  chosen: 200,
  perThird: 3,
} as const;

export const TRIPLE_KINDS = ["and", "either"] as const;
export type TripleKind = (typeof TRIPLE_KINDS)[number];

/** Positions: all, with a, b, c, and so on. */
export interface TripleCounts {
  n: number;
  a: number;
  b: number;
  c: number;
  ab: number;
  ac: number;
  bc: number;
  abc: number;
}

/** The shares of positions with c, and what no interaction of a and b predicts. */
export interface TripleShares {
  both: number;
  /** p_a and p_b: one without the other. */
  alone: [number, number];
  neither: number;
  /** P(c | a) and P(c | b), with or without the other. */
  given: [number, number];
  predicted: number;
}

/** NaN where there is no such position. */
export function tripleShares({ n, a, b, c, ab, ac, bc, abc }: TripleCounts): TripleShares {
  const alone: [number, number] = [(ac - abc) / (a - ab), (bc - abc) / (b - ab)];
  const neither = (c - ac - bc + abc) / (n - a - b + ab);
  const silent = neither < 1 ? ((1 - alone[0]) * (1 - alone[1])) / (1 - neither) : 0;
  return {
    ...{ both: abc / ab, alone, neither, given: [ac / a, bc / b] },
    predicted: Math.min(1, Math.max(0, 1 - silent)),
  };
}

/** By how much p_ab, or an end of its interval, lies on the right side of each thing it is compared with. */
export function margins(kind: TripleKind, both: number, shares: TripleShares): number[] {
  const { alone, given, predicted } = shares;
  return kind === "and"
    ? [both - predicted, both - given[0], both - given[1]]
    : [predicted - both, alone[0] - both, alone[1] - both];
}

export interface Triple {
  /** The pair a, b and the third c. */
  latents: [a: number, b: number, c: number];
  /** On the test documents, as all that follows. */
  counts: TripleCounts;
  /** Documents in which a and b meet. */
  documents: number;
  shares: TripleShares;
  both: Interval;
  /** p_ab − predicted. */
  interaction: Interval;
  /** p_ab / max(P(c | a), P(c | b)). */
  lift: number;
  p: number;
  q: number;
}

const COUNTS = ["n", "a", "b", "c", "ab", "ac", "bc", "abc"] as const;

/** Measures triples on the test documents; intervals by the bootstrap over documents, all from the same draws. */
export class TripleMeasurer {
  readonly #firings: Firings;
  readonly #text: HeldText;
  readonly #draws: DocumentDraws;
  /** Bit k is set where latent k of the triple fires; all 0 in between. */
  readonly #marks: Uint8Array;
  readonly #lengths: Float64Array;

  constructor(firings: Firings, text: HeldText, seed = 0) {
    this.#firings = firings;
    this.#text = text;
    this.#draws = new DocumentDraws(text.documents, seed);
    this.#marks = new Uint8Array(text.positions);
    this.#lengths = new Float64Array(text.documents);
    for (const d of text.document) this.#lengths[d]++;
  }

  /** `p` is NaN where there are too few positions, or a and b meet in too few documents. */
  measure(latents: Triple["latents"], kind: TripleKind): Omit<Triple, "q"> {
    const columns = this.#columns(latents);
    const total = Object.fromEntries(
      COUNTS.map((name) => [name, columns[name].reduce((sum, v) => sum + v, 0)]),
    ) as unknown as TripleCounts;
    const documents = columns.ab.filter((v) => v > 0).length;
    const shares = tripleShares(total);
    const drawn = COUNTS.map((name) => this.#draws.sums(columns[name]));
    const draws = Array.from(drawn[0], (_, i) =>
      tripleShares(
        Object.fromEntries(COUNTS.map((name, k) => [name, drawn[k][i]])) as unknown as TripleCounts,
      ),
    );
    const interval = (of: (shares: TripleShares) => number) =>
      intervalOf({ value: of(shares), draws: Float64Array.from(draws, of) });
    const { a, b, ab, abc } = total;
    const both = interval(({ both }) => both);
    // All or nothing is so on every draw; the documents are as many independent cases at least.
    if (abc === 0) both.high = wilson(0, documents)[1];
    if (abc === ab) both.low = wilson(documents, documents)[0];
    const isEnough = Math.min(ab, a - ab, b - ab) >= TRIPLE_RULES.minSupport && documents >= MIN_UNITS; // prettier-ignore
    const values = margins(kind, shares.both, shares);
    const each = draws.map((one) => margins(kind, one.both, one));
    const tails = values.map((value, k) =>
      normalTail(value / deviation(each.map((one) => one[k]))),
    );
    // Of n_abc, if p_ab were the nearest of what it is compared with.
    const nearest = shares.both - Math.min(...values) * (kind === "and" ? 1 : -1);
    const count =
      kind === "and"
        ? abc > 0
          ? gammaTails(abc, nearest * ab).lower
          : 1
        : gammaTails(abc + 1, nearest * ab).upper;
    return {
      ...{ latents, counts: total, documents, shares, both },
      interaction: interval(({ both, predicted }) => both - predicted),
      lift: shares.both / Math.max(...shares.given),
      p: isEnough ? Math.max(...tails, count, 2 ** -documents) : NaN,
    };
  }

  #columns(latents: readonly number[]): Record<keyof TripleCounts, Float64Array> {
    const { documents, document } = this.#text;
    const { offsets, at } = this.#firings;
    const columns = Object.fromEntries(
      COUNTS.map((name) => [name, new Float64Array(documents)]),
    ) as Record<keyof TripleCounts, Float64Array>;
    columns.n = this.#lengths;
    const each = (visit: (p: number, bit: number) => void) =>
      latents.forEach((f, k) => {
        for (let i = offsets[f]; i < offsets[f + 1]; i++) visit(at[i], 1 << k);
      });
    each((p, bit) => (this.#marks[p] |= bit));
    each((p) => {
      const bits = this.#marks[p];
      const d = document[p];
      if (bits & 1) columns.a[d]++;
      if (bits & 2) columns.b[d]++;
      if (bits & 4) columns.c[d]++;
      if ((bits & 3) === 3) columns.ab[d]++;
      if ((bits & 5) === 5) columns.ac[d]++;
      if ((bits & 6) === 6) columns.bc[d]++;
      if (bits === 7) columns.abc[d]++;
      this.#marks[p] = 0;
    });
    return columns;
  }
}

/** Standard deviation of those that are numbers. */
function deviation(values: readonly number[]): number {
  const numbers = values.filter((v) => !Number.isNaN(v));
  const mean = numbers.reduce((sum, v) => sum + v, 0) / numbers.length;
  return Math.sqrt(numbers.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (numbers.length - 1));
}
