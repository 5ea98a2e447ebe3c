/**
 * The one pass over held-out text that gathers the statistics and examples of all latents at once.
 *
 * Memory: per latent 96 counts, its examples (about 30 numbers each) and the token types it fired
 * on (20 bytes each); text is kept only where an example needs it.
 */
import { mkdir, open, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { piecesOf, windowAround, type CodesByLatent, type TextChunk } from "./codes.ts";
import {
  Features,
  HISTOGRAM,
  histogramBin,
  type Example,
  type Feature,
  type FeatureColumns,
  type FeatureIndex,
  type FeatureLabels,
} from "./features.ts";

export interface FeatureOptions {
  topExamples: number;
  randomExamples: number;
  /** Tokens shown on each side of an example's peak. */
  contextTokens: number;
  seed: number;
}

interface Held {
  value: number;
  /** Top examples: hash of the left context. Random examples: the draw that let it in. */
  key: number;
  chunk: TextChunk;
  position: number;
  from: number;
  to: number;
  /** The latent's activations in [from, to). */
  values: Float32Array;
}

/** Gathers the statistics of all latents from a stream of chunks, in order. */
export class FeatureCounter {
  readonly dSae: number;
  readonly #options: FeatureOptions;
  readonly #firings: Uint32Array;
  readonly #sums: Float64Array;
  readonly #squares: Float64Array;
  readonly #max: Float32Array;
  readonly #documents: Uint32Array;
  readonly #lastDocument: Int32Array;
  readonly #histogram: Uint32Array; // [dSae, bins]
  readonly #top: Held[][];
  readonly #random: Held[][];
  readonly #tokens = new Map<number, number>();
  readonly #pairs = new PairCounts();
  #positions = 0;
  #documentsSeen = 0;

  constructor(dSae: number, options: FeatureOptions) {
    this.dSae = dSae;
    this.#options = options;
    this.#firings = new Uint32Array(dSae);
    this.#sums = new Float64Array(dSae);
    this.#squares = new Float64Array(dSae);
    this.#max = new Float32Array(dSae);
    this.#documents = new Uint32Array(dSae);
    this.#lastDocument = new Int32Array(dSae).fill(-1);
    this.#histogram = new Uint32Array(dSae * HISTOGRAM.bins);
    this.#top = Array.from({ length: dSae }, () => []);
    this.#random = Array.from({ length: dSae }, () => []);
  }

  /** Positions seen so far. */
  get positions(): number {
    return this.#positions;
  }

  add(chunk: TextChunk, codes: CodesByLatent): void {
    for (let p = 0; p < chunk.length; p++) {
      const token = chunk.tokens[p];
      this.#tokens.set(token, (this.#tokens.get(token) ?? 0) + 1);
    }
    for (let f = 0; f < this.dSae; f++) this.#addLatent(f, chunk, codes);
    this.#positions += chunk.length;
    for (const document of chunk.documents)
      this.#documentsSeen = Math.max(this.#documentsSeen, document.ordinal + 1);
  }

  #addLatent(latent: number, chunk: TextChunk, codes: CodesByLatent): void {
    const { topExamples, randomExamples, seed } = this.#options;
    const begin = codes.offsets[latent];
    const end = codes.offsets[latent + 1];
    const top = this.#top[latent];
    const random = this.#random[latent];
    for (let i = begin; i < end; i++) {
      const position = codes.positions[i];
      const value = codes.values[i];
      this.#firings[latent]++;
      this.#sums[latent] += value;
      this.#squares[latent] += value * value;
      if (value > this.#max[latent]) this.#max[latent] = value;
      this.#histogram[latent * HISTOGRAM.bins + histogramBin(value)]++;
      const ordinal = chunk.documents[chunk.document[position]].ordinal;
      if (ordinal !== this.#lastDocument[latent]) {
        this.#lastDocument[latent] = ordinal;
        this.#documents[latent]++;
      }
      this.#pairs.add(latent, chunk.tokens[position], value);
      if (top.length < topExamples || value > top[top.length - 1].value)
        offerDistinct(top, topExamples, value, contextKey(chunk, position), (key) =>
          this.#hold(value, key, chunk, codes, i, begin, end),
        );
      const draw = uniformHash(seed, latent, chunk.first + position);
      if (random.length < randomExamples || draw < random[random.length - 1].key)
        offerDraw(random, randomExamples, draw, (key) =>
          this.#hold(value, key, chunk, codes, i, begin, end),
        );
    }
  }

  #hold(
    value: number,
    key: number,
    chunk: TextChunk,
    codes: CodesByLatent,
    at: number,
    begin: number,
    end: number,
  ): Held {
    const position = codes.positions[at];
    const [from, to] = windowAround(chunk, position, this.#options.contextTokens);
    const values = new Float32Array(to - from);
    for (let i = at; i >= begin && codes.positions[i] >= from; i--)
      values[codes.positions[i] - from] = codes.values[i];
    for (let i = at + 1; i < end && codes.positions[i] < to; i++)
      values[codes.positions[i] - from] = codes.values[i];
    return { value, key, chunk, position, from, to, values };
  }

  /** Everything about one latent so far. `tokenText` shows a token to a person. */
  feature(latent: number, tokenText: (token: number) => string): Feature {
    const firings = this.#firings[latent];
    const { bins } = HISTOGRAM;
    const counts = [...this.#histogram.subarray(latent * bins, (latent + 1) * bins)];
    const firstBin = Math.max(
      counts.findIndex((count) => count > 0),
      0,
    );
    const lastBin = counts.findLastIndex((count) => count > 0);
    const pairs = this.#pairs.of(latent);
    const sum = this.#sums[latent];
    return {
      latent,
      firings,
      density: firings / Math.max(this.#positions, 1),
      documents: this.#documents[latent],
      mean: firings > 0 ? sum / firings : 0,
      max: this.#max[latent],
      tokenSelectivity: varianceByToken(pairs, this.#tokens, {
        sum,
        squares: this.#squares[latent],
        positions: this.#positions,
      }),
      tokenTypes: firings > 0 ? 2 ** entropyOf(pairs.map((pair) => pair.sum)) : 0,
      topTokens: pairs
        .sort((a, b) => b.sum - a.sum || a.token - b.token)
        .slice(0, 8)
        .map(({ token, count, sum: mass }) => ({
          token,
          text: tokenText(token),
          firings: count,
          share: mass / sum,
        })),
      histogram: { firstBin, counts: counts.slice(firstBin, lastBin + 1) },
      top: this.#top[latent].map(exampleOf),
      random: this.#random[latent].map(exampleOf),
    };
  }

  /** Writes the feature folder `out`; an older one there is replaced only when the new one is whole. */
  async write(
    out: string,
    tokenText: (token: number) => string,
    about: { provenance: Record<string, unknown>; labels?: FeatureLabels },
  ): Promise<Features> {
    const columns: FeatureColumns = {
      firings: [],
      documents: [],
      mean: [],
      max: [],
      tokenSelectivity: [],
      tokenTypes: [],
      mainToken: [],
      topTokens: [],
      offset: [],
      bytes: [],
    };
    const temporary = `${out}.partial`;
    await rm(temporary, { recursive: true, force: true });
    await mkdir(temporary, { recursive: true });
    const file = await open(join(temporary, "features.jsonl"), "w");
    try {
      let offset = 0;
      for (let latent = 0; latent < this.dSae; latent++) {
        const feature = this.feature(latent, tokenText);
        const line = Buffer.from(`${JSON.stringify(feature, shortNumbers)}\n`);
        await file.write(line);
        columns.firings.push(feature.firings);
        columns.documents.push(feature.documents);
        columns.mean.push(shortNumber(feature.mean));
        columns.max.push(shortNumber(feature.max));
        columns.tokenSelectivity.push(shortNumber(feature.tokenSelectivity));
        columns.tokenTypes.push(shortNumber(feature.tokenTypes));
        columns.mainToken.push(feature.topTokens[0]?.token ?? -1);
        columns.topTokens.push(feature.topTokens.slice(0, 3).map(({ text }) => text));
        columns.offset.push(offset);
        columns.bytes.push(line.length);
        offset += line.length;
      }
    } finally {
      await file.close();
    }
    const index: FeatureIndex = {
      version: 1,
      dSae: this.dSae,
      positions: this.#positions,
      documents: this.#documentsSeen,
      histogram: HISTOGRAM,
      provenance: about.provenance,
      columns,
    };
    if (about.labels)
      await writeFile(join(temporary, "labels.json"), JSON.stringify(about.labels, shortNumbers));
    await writeFile(join(temporary, "index.json"), JSON.stringify(index));
    await rm(out, { recursive: true, force: true });
    await rename(temporary, out);
    return new Features(out, index, about.labels);
  }
}

/** Keeps in `held`, by falling value, the strongest example of each key, at most `limit` of them. Exact: a key that was pushed out can only come back stronger. */
function offerDistinct(
  held: Held[],
  limit: number,
  value: number,
  key: number,
  hold: (key: number) => Held,
): void {
  const twin = held.findIndex((example) => example.key === key);
  if (twin >= 0) {
    if (held[twin].value >= value) return;
    held.splice(twin, 1);
  }
  const at = held.findIndex((example) => example.value < value);
  held.splice(at < 0 ? held.length : at, 0, hold(key));
  if (held.length > limit) held.pop();
}

/** Keeps the `limit` smallest draws: a uniform sample without replacement. */
function offerDraw(held: Held[], limit: number, draw: number, hold: (key: number) => Held): void {
  const at = held.findIndex((example) => example.key > draw);
  held.splice(at < 0 ? held.length : at, 0, hold(draw));
  if (held.length > limit) held.pop();
}

const CONTEXT_TOKENS_OF_KEY = 8;

/** What a causal model saw last: a hash of the token and up to seven before it, within its row and document. Examples that share it are the same example to a reader. */
export function contextKey(chunk: TextChunk, position: number): number {
  const [from] = windowAround(chunk, position, CONTEXT_TOKENS_OF_KEY - 1);
  let low = 0x811c9dc5;
  let high = 0x9e3779b9;
  for (let p = from; p <= position; p++) {
    low = Math.imul(low ^ chunk.tokens[p], 0x01000193);
    high = Math.imul(high + chunk.tokens[p], 0x85ebca6b) ^ (high >>> 13);
  }
  return (low >>> 0) * 0x200000 + (high >>> 11);
}

/** A number in [0, 1) that depends on its arguments alone, so that the sample does not depend on how the text was cut into chunks. */
function uniformHash(seed: number, latent: number, position: number): number {
  let h = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b);
  for (const word of [latent, position]) {
    h = Math.imul(h ^ word ^ (h >>> 15), 0xc2b2ae35);
    h = Math.imul(h ^ (h >>> 13), 0x27d4eb2f);
  }
  return ((h ^ (h >>> 16)) >>> 0) / 4294967296;
}

function exampleOf(held: Held): Example {
  const { chunk, position, from, to } = held;
  const { text, pieceOf } = piecesOf(chunk, from, to);
  const values = new Array<number>(text.length).fill(0);
  held.values.forEach((value, i) => {
    values[pieceOf[i]] = Math.max(values[pieceOf[i]], value);
  });
  const document = chunk.documents[chunk.document[position]];
  return {
    value: held.value,
    document: document.id,
    pieces: text,
    values,
    peak: pieceOf[position - from],
    cutBefore: chunk.start[from] > 0,
    cutAfter: chunk.end[to - 1] < document.text.length,
  };
}

interface Pair {
  token: number;
  count: number;
  sum: number;
}

/**
 * ε², the share of a latent's variance over all positions, silent ones included, that the token type
 * explains: η² = between-type / total sum of squares, less what chance alone gives that many types
 * (Kelley 1935): 1 − (within / (N − T)) / (total / (N − 1)). 0 for a latent that ignores the token.
 */
export function varianceByToken(
  pairs: readonly { token: number; sum: number }[],
  tokens: ReadonlyMap<number, number>,
  sums: { sum: number; squares: number; positions: number },
): number {
  const { sum, squares, positions } = sums;
  const total = squares - (sum * sum) / positions;
  if (total <= 0 || positions <= tokens.size) return 0;
  let within = squares;
  for (const pair of pairs) within -= (pair.sum * pair.sum) / tokens.get(pair.token)!;
  const ratio = within / (positions - tokens.size) / (total / (positions - 1));
  return Math.max(1 - ratio, 0);
}

/** Entropy in bits of the distribution that is proportional to `weights`. */
function entropyOf(weights: readonly number[]): number {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.reduce((sum, weight) => sum - (weight / total) * Math.log2(weight / total), 0);
}

const TOKEN_LIMIT = 2 ** 22;

/** Counts and sums for (latent, token) pairs: an open-addressing table, since there are millions. */
class PairCounts {
  #keys = new Float64Array(1 << 16).fill(-1);
  #counts = new Uint32Array(1 << 16);
  #sums = new Float64Array(1 << 16);
  #size = 0;
  #byLatent: Map<number, number[]> | undefined;

  add(latent: number, token: number, value: number): void {
    this.#byLatent = undefined;
    if (this.#size * 2 > this.#keys.length) this.#grow();
    const slot = this.#slot(latent * TOKEN_LIMIT + token);
    this.#counts[slot]++;
    this.#sums[slot] += value;
  }

  of(latent: number): Pair[] {
    if (!this.#byLatent) {
      this.#byLatent = new Map();
      for (let slot = 0; slot < this.#keys.length; slot++) {
        if (this.#keys[slot] < 0) continue;
        const owner = Math.floor(this.#keys[slot] / TOKEN_LIMIT);
        const slots = this.#byLatent.get(owner);
        if (slots) slots.push(slot);
        else this.#byLatent.set(owner, [slot]);
      }
    }
    return (this.#byLatent.get(latent) ?? []).map((slot) => ({
      token: this.#keys[slot] % TOKEN_LIMIT,
      count: this.#counts[slot],
      sum: this.#sums[slot],
    }));
  }

  #slot(key: number): number {
    const mask = this.#keys.length - 1;
    let slot = (Math.imul(key % 4294967291, 0x9e3779b1) >>> 7) & mask;
    while (this.#keys[slot] !== key) {
      if (this.#keys[slot] < 0) {
        this.#keys[slot] = key;
        this.#size++;
        break;
      }
      slot = (slot + 1) & mask;
    }
    return slot;
  }

  #grow(): void {
    const [keys, counts, sums] = [this.#keys, this.#counts, this.#sums];
    this.#keys = new Float64Array(keys.length * 2).fill(-1);
    this.#counts = new Uint32Array(keys.length * 2);
    this.#sums = new Float64Array(keys.length * 2);
    this.#size = 0;
    for (let old = 0; old < keys.length; old++) {
      if (keys[old] < 0) continue;
      const slot = this.#slot(keys[old]);
      this.#counts[slot] = counts[old];
      this.#sums[slot] = sums[old];
    }
  }
}

/** Seven significant digits say all that an f32 holds to a reader. */
function shortNumber(value: number): number {
  return Number(value.toPrecision(7));
}

function shortNumbers(_key: string, value: unknown): unknown {
  return typeof value === "number" && !Number.isInteger(value)
    ? Number(value.toPrecision(5))
    : value;
}
