/**
 * Two scores of a latent that need neither a rule nor a language model's opinion, both areas under a
 * curve with chance 0.5, on test documents:
 *
 * alike  Are the places where it fires more like each other than like places where it is silent?
 *        Likeness is the cosine of TF-IDF vectors of the token and the eight before it (counts times
 *        idf(t) = ln((1 + D) / (1 + D_t)) + 1 over the D train documents, D_t of which hold t). For each
 *        place i of up to 24, one a document: P(sim(i, other firing) > sim(i, silent)); the mean over i.
 * next   Do the tokens that the latent's decoder row promotes, by ℓ = W_U·r as it is, come next where
 *        it fires? P(ℓ[next token after a firing] > ℓ[next token after a silent place]), ties half.
 */
import { Rng } from "../rng.ts";
import { DocumentDraws, intervalOf } from "./document-draws.ts";
import { TEST, TRAIN, type EncodedText } from "./encoded-text.ts";
import type { Interval } from "./interval.ts";
import { fallingOrder } from "./order.ts";

const TOKENS_BEFORE = 8;
const PLACES = 24;
/** Fewer documents with a firing say nothing. */
const MIN_DOCUMENTS = 8;

/** A TF-IDF vector of length 1: weights by token. */
export type Sparse = ReadonlyMap<number, number>;

/** idf by token, of documents given by their tokens. */
export function inverseFrequencies(
  documents: Iterable<Iterable<number>>,
): (token: number) => number {
  const counts = new Map<number, number>();
  let total = 0;
  for (const tokens of documents) {
    total++;
    for (const token of new Set(tokens)) counts.set(token, (counts.get(token) ?? 0) + 1);
  }
  return (token) => Math.log((1 + total) / (1 + (counts.get(token) ?? 0))) + 1;
}

export function tfIdf(tokens: Iterable<number>, idf: (token: number) => number): Sparse {
  const vector = new Map<number, number>();
  for (const token of tokens) vector.set(token, (vector.get(token) ?? 0) + idf(token));
  const norm = Math.sqrt([...vector.values()].reduce((sum, w) => sum + w * w, 0));
  for (const [token, weight] of vector) vector.set(token, weight / norm);
  return vector;
}

export function cosine(a: Sparse, b: Sparse): number {
  let dot = 0;
  for (const [token, weight] of a) dot += weight * (b.get(token) ?? 0);
  return dot;
}

export class ExampleScores {
  readonly #text: EncodedText;
  readonly #seed: number;
  readonly #idf: (token: number) => number;
  /** Positions of the test half by document. */
  readonly #testDocuments: { from: number; to: number }[] = [];
  /** Place of a document in #testDocuments. */
  readonly #unitOf = new Map<number, number>();
  /** Token after each position of the test half in its row and document, or -1. */
  readonly #next: Int32Array;
  /** Tokens that come next in the test half, rising, and how often each does. */
  readonly #nextTokens: Int32Array;
  readonly #nextCounts: Int32Array;
  /** Place of a token in #nextTokens. */
  readonly #nextPlace = new Map<number, number>();
  readonly #draws = new Map<number, DocumentDraws>();

  constructor(text: EncodedText, seed = 0) {
    this.#text = text;
    this.#seed = seed;
    const train: Int32Array[] = [];
    this.#next = new Int32Array(text.positions).fill(-1);
    for (let from = 0, to = 0; from < text.positions; from = to) {
      while (to < text.positions && text.document[to] === text.document[from]) to++;
      if (text.half(from) === TRAIN) train.push(text.tokens.subarray(from, to));
      else this.#unitOf.set(text.document[from], this.#testDocuments.push({ from, to }) - 1);
    }
    this.#idf = inverseFrequencies(train);
    const counts = new Map<number, number>();
    for (const { from, to } of this.#testDocuments)
      for (let p = from; p < to; p++) {
        if (text.window(p, 0, 1)[1] <= p + 1) continue;
        const next = (this.#next[p] = text.tokens[p + 1]);
        counts.set(next, (counts.get(next) ?? 0) + 1);
      }
    this.#nextTokens = Int32Array.from(counts.keys()).sort();
    this.#nextCounts = this.#nextTokens.map((token) => counts.get(token)!);
    this.#nextTokens.forEach((token, i) => this.#nextPlace.set(token, i));
  }

  /** `alike` of a latent, its interval over the places; undefined when it fires in too few documents, or is silent in none. */
  alike(latent: number): Interval | undefined {
    const { positions, values } = this.#text.firings(latent, TEST);
    const rng = new Rng(this.#seed, "alike", latent);
    // The strongest firing of each document; of equal ones any, since the first would stand near its start.
    const strongest = new Map<number, number>();
    for (const i of rng.shuffle(Int32Array.from(positions.keys()))) {
      const document = this.#text.document[positions[i]];
      const known = strongest.get(document);
      if (known === undefined || values[i] > values[known]) strongest.set(document, i);
    }
    if (strongest.size < MIN_DOCUMENTS) return undefined;
    const firing = rng
      .shuffle([...strongest.values()])
      .slice(0, PLACES)
      .map((i) => positions[i]);
    const fires = new Set(positions);
    const taken = new Set(firing.map((p) => this.#text.document[p]));
    const silent: number[] = [];
    // Of other documents, so that no two places share one.
    for (const { from, to } of rng.shuffle([...this.#testDocuments])) {
      if (silent.length === PLACES) break;
      const p = from + rng.int(to - from);
      if (!fires.has(p) && !taken.has(this.#text.document[p])) silent.push(p);
    }
    if (silent.length < MIN_DOCUMENTS) return undefined;
    const vectorAt = (p: number) => {
      const [from, to] = this.#text.window(p, TOKENS_BEFORE, 0);
      return tfIdf(this.#text.tokens.subarray(from, to), this.#idf);
    };
    const own = firing.map(vectorAt);
    const others = silent.map(vectorAt);
    return this.#likeness(
      own.map((a, i) => own.map((b, j) => (i === j ? NaN : cosine(a, b)))),
      own.map((a) => others.map((b) => cosine(a, b))),
    );
  }

  /**
   * The mean area of `own` [F, F] against `others` [F, S], and its interval by the first-order (Hájek)
   * projection of the three-sample U-statistic P(own[i,j] > others[i,s]): each place's part as i, as j
   * and as s, on the same draws of places.
   */
  #likeness(own: number[][], others: number[][]): Interval {
    const [F, S] = [own.length, others[0].length];
    // How often each place wins, as i, as j and as s; a tie is half a win.
    const firing = new Float64Array(F);
    const silent = new Float64Array(S);
    let all = 0;
    for (let i = 0; i < F; i++)
      for (let j = 0; j < F; j++) {
        if (j === i) continue;
        let wins = 0;
        for (let s = 0; s < S; s++) {
          const [a, b] = [own[i][j], others[i][s]];
          const win = a > b ? 1 : a === b ? 0.5 : 0;
          wins += win;
          silent[s] += win;
        }
        firing[i] += wins;
        firing[j] += wins;
        all += wins;
      }
    const value = all / (F * (F - 1) * S);
    for (let i = 0; i < F; i++) firing[i] = firing[i] / ((F - 1) * S) - 2 * value;
    for (let s = 0; s < S; s++) silent[s] = silent[s] / (F * (F - 1)) - value;
    const drawn = this.#drawsOf(F).sums(firing);
    const other = this.#drawsOf(S, 1).sums(silent);
    const draws = drawn.map((sum, i) => Math.min(1, Math.max(0, value + sum / F + other[i] / S)));
    return intervalOf({ value, draws });
  }

  /** `next` of a latent whose decoder row has these effects on the tokens, its interval over documents; undefined when too few firings have a next token. */
  next(latent: number, effects: ArrayLike<number>): Interval | undefined {
    const { positions } = this.#text.firings(latent, TEST);
    const silent = this.#nextCounts.slice();
    const after = positions.filter((p) => this.#next[p] >= 0);
    const placeAfter = (p: number) => this.#nextPlace.get(this.#next[p])!;
    for (const p of after) silent[placeAfter(p)]--;
    // Each token's share of silent places whose next token is promoted less.
    const promoted = new Float32Array(silent.length);
    let total = 0;
    for (let i = 0; i < promoted.length; i++) {
      promoted[i] = effects[this.#nextTokens[i]];
      total += silent[i];
    }
    const order = fallingOrder(promoted);
    const share = new Float64Array(silent.length);
    for (let begin = 0, left = total; begin < order.length;) {
      let [end, here] = [begin, 0];
      for (; end < order.length && promoted[order[end]] === promoted[order[begin]]; end++)
        here += silent[order[end]];
      left -= here;
      for (; begin < end; begin++) share[order[begin]] = (left + here / 2) / total;
    }
    const wins = new Float64Array(this.#testDocuments.length);
    const counts = new Float64Array(this.#testDocuments.length);
    for (const p of after) {
      const unit = this.#unitOf.get(this.#text.document[p])!;
      wins[unit] += share[placeAfter(p)];
      counts[unit]++;
    }
    if (counts.filter((count) => count > 0).length < MIN_DOCUMENTS || total === 0) return undefined;
    return intervalOf(this.#drawsOf(wins.length).ratio(wins, counts));
  }

  #drawsOf(units: number, sample = 0): DocumentDraws {
    const key = 2 * units + sample;
    let draws = this.#draws.get(key);
    if (!draws) this.#draws.set(key, (draws = new DocumentDraws(units, this.#seed + sample)));
    return draws;
  }
}
