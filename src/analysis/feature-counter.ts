/**
 * The one pass over held-out text that gathers the statistics of all latents at once, and the places of
 * their examples. Everything lies in typed arrays whose size is known beforehand (`plannedBytes`); no
 * text is kept. The result does not depend on how the text was cut into chunks, as long as each holds
 * whole rows of tokens.
 */
import { CoActivation } from "./co-activation.ts";
import type { CodesByLatent, TextChunk } from "./codes.ts";
import { HISTOGRAM, histogramBin } from "./features.ts";
import { Sample, Strongest, uniformDraw, type Kept } from "./reservoirs.ts";
import { effectiveTypes, TokenCounts, varianceByToken, type TokenPair } from "./token-counts.ts";

export interface FeatureOptions {
  topExamples: number;
  randomExamples: number;
  /** Per group of firings by rank. */
  quantileExamples: number;
  nearMissExamples: number;
  silentExamples: number;
  /** Tokens shown on each side of an example's peak. */
  contextTokens: number;
  seed: number;
  /** Token ids are below. */
  vocabulary: number;
  /** For the counts of pairs: of latents, and of latents with token types. What does not fit is counted with a stated error. */
  pairBytes: number;
}

/** Firings of a latent that stand for all when they are ranked. */
export const RANK_SAMPLE = 256;
/** Positions of each token type among which near misses are looked for. */
const TOKEN_SAMPLE = 64;
/** Positions in their row: 0, 1, 2–3, 4–7, … */
export const PLACE_BINS = 20;

/** The share of `pairBytes` that counts of latents with token types get. */
const TOKEN_SHARE = 3 / 8;

/** What the latents' numbers are when the pass is over. */
export interface LatentNumbers {
  firings: number;
  density: number;
  documents: number;
  mean: number;
  max: number;
  tokenSelectivity: number;
  tokenTypes: number;
  /** Those with the most activation first. */
  tokens: TokenPair[];
  histogram: { firstBin: number; counts: number[] };
  /** Firings per bin of the place in the row. */
  byPlace: number[];
}

/** Gathers the statistics of all latents from a stream of chunks, in order. */
export class FeatureCounter {
  readonly dSae: number;
  readonly options: FeatureOptions;
  readonly coActivation: CoActivation;
  readonly tokens: TokenCounts;
  readonly #firings: Uint32Array;
  readonly #sums: Float64Array;
  readonly #squares: Float64Array;
  readonly #max: Float32Array;
  readonly #documents: Uint32Array;
  readonly #lastDocument: Int32Array;
  readonly #histogram: Uint32Array; // [dSae, bins]
  readonly #byPlace: Uint32Array; // [dSae, PLACE_BINS]
  readonly #placeTotals = new Uint32Array(PLACE_BINS);
  readonly #strongest: Strongest;
  readonly #sample: Sample;
  readonly #tokenPlaces: Sample;
  #positions = 0;
  #documentsSeen = 0;

  constructor(dSae: number, options: FeatureOptions) {
    const { vocabulary, pairBytes, topExamples } = options;
    this.dSae = dSae;
    this.options = options;
    this.coActivation = new CoActivation(dSae, { maxBytes: pairBytes * (1 - TOKEN_SHARE) });
    this.tokens = new TokenCounts(dSae, vocabulary, pairBytes * TOKEN_SHARE);
    this.#firings = new Uint32Array(dSae);
    this.#sums = new Float64Array(dSae);
    this.#squares = new Float64Array(dSae);
    this.#max = new Float32Array(dSae);
    this.#documents = new Uint32Array(dSae);
    this.#lastDocument = new Int32Array(dSae).fill(-1);
    this.#histogram = new Uint32Array(dSae * HISTOGRAM.bins);
    this.#byPlace = new Uint32Array(dSae * PLACE_BINS);
    this.#strongest = new Strongest(dSae, topExamples);
    this.#sample = new Sample(dSae, RANK_SAMPLE);
    this.#tokenPlaces = new Sample(vocabulary, TOKEN_SAMPLE);
  }

  /** Bytes that the typed arrays of a pass take at most, without the chunk that is being counted. */
  static plannedBytes(
    dSae: number,
    { vocabulary, pairBytes, topExamples }: Pick<FeatureOptions, "vocabulary" | "pairBytes" | "topExamples">, // prettier-ignore
  ): number {
    return (
      CoActivation.plannedBytes(dSae, pairBytes * (1 - TOKEN_SHARE)) +
      TokenCounts.plannedBytes(dSae, vocabulary, pairBytes * TOKEN_SHARE) +
      Strongest.plannedBytes(dSae, topExamples) +
      Sample.plannedBytes(dSae, RANK_SAMPLE) +
      Sample.plannedBytes(vocabulary, TOKEN_SAMPLE) +
      dSae * (32 + 4 * (HISTOGRAM.bins + PLACE_BINS)) +
      4 * PLACE_BINS
    );
  }

  /** Bytes of the typed arrays as they are. */
  get bytes(): number {
    const arrays = [
      ...[this.#firings, this.#sums, this.#squares, this.#max, this.#documents],
      ...[this.#lastDocument, this.#histogram, this.#byPlace, this.#placeTotals],
    ];
    const parts = [
      ...[this.coActivation, this.tokens, this.#strongest, this.#sample, this.#tokenPlaces],
    ];
    return (
      arrays.reduce((sum, { byteLength }) => sum + byteLength, 0) +
      parts.reduce((sum, { bytes }) => sum + bytes, 0)
    );
  }

  /** Positions seen so far. */
  get positions(): number {
    return this.#positions;
  }

  /** Documents seen so far. */
  get documents(): number {
    return this.#documentsSeen;
  }

  /** Positions per bin of the place in the row: the denominators of `byPlace`. */
  get placeTotals(): readonly number[] {
    return [...this.#placeTotals];
  }

  add(chunk: TextChunk, codes: CodesByLatent): void {
    const { length, first, tokens, documents } = chunk;
    const { seed } = this.options;
    const placeBin = new Uint8Array(length);
    for (let p = 0, start = 0; p < length; p++) {
      if (p > 0 && chunk.row[p] !== chunk.row[p - 1]) start = p;
      placeBin[p] = Math.min(31 - Math.clz32(p - start + 1), PLACE_BINS - 1);
      this.#placeTotals[placeBin[p]]++;
      this.tokens.occurrences[tokens[p]]++;
      const draw = uniformDraw(seed, -1, first + p);
      this.#tokenPlaces.offer(tokens[p], draw, first + p, 0);
    }
    const keys = new Float64Array(length).fill(-1);
    const ordinals = Int32Array.from(chunk.document, (d) => documents[d].ordinal);
    for (let f = 0; f < this.dSae; f++) this.#addLatent(f, chunk, codes, { placeBin, keys, ordinals }); // prettier-ignore
    this.coActivation.add(codes, length);
    this.#positions += length;
    for (const { ordinal } of documents)
      this.#documentsSeen = Math.max(this.#documentsSeen, ordinal + 1);
  }

  #addLatent(
    latent: number,
    chunk: TextChunk,
    codes: CodesByLatent,
    known: { placeBin: Uint8Array; keys: Float64Array; ordinals: Int32Array },
  ): void {
    const { positions, values } = codes;
    const begin = codes.offsets[latent];
    const end = codes.offsets[latent + 1];
    if (begin === end) return;
    const { seed } = this.options;
    const { placeBin, keys, ordinals } = known;
    const bins = latent * HISTOGRAM.bins;
    const places = latent * PLACE_BINS;
    let [sum, squares, max] = [this.#sums[latent], this.#squares[latent], this.#max[latent]];
    for (let i = begin; i < end; i++) {
      const position = positions[i];
      const value = values[i];
      sum += value;
      squares += value * value;
      if (value > max) max = value;
      this.#histogram[bins + histogramBin(value)]++;
      this.#byPlace[places + placeBin[position]]++;
      if (ordinals[position] !== this.#lastDocument[latent]) {
        this.#lastDocument[latent] = ordinals[position];
        this.#documents[latent]++;
      }
      const at = chunk.first + position;
      if (this.#strongest.admits(latent, value)) {
        if (keys[position] < 0) keys[position] = contextKey(chunk, position);
        this.#strongest.offer(latent, value, keys[position], at);
      }
      this.#sample.offer(latent, uniformDraw(seed, latent, at), at, value);
    }
    this.#firings[latent] += end - begin;
    this.#sums[latent] = sum;
    this.#squares[latent] = squares;
    this.#max[latent] = max;
    this.tokens.add(latent, chunk.tokens, codes, begin, end);
  }

  /** Everything counted about one latent. */
  numbers(latent: number): LatentNumbers {
    const firings = this.#firings[latent];
    const { bins } = HISTOGRAM;
    const counts = [...this.#histogram.subarray(latent * bins, (latent + 1) * bins)];
    const firstBin = Math.max(
      counts.findIndex((count) => count > 0),
      0,
    );
    const lastBin = counts.findLastIndex((count) => count > 0);
    const sum = this.#sums[latent];
    const tokens = this.tokens.of(latent);
    return {
      firings,
      density: firings / Math.max(this.#positions, 1),
      documents: this.#documents[latent],
      mean: firings > 0 ? sum / firings : 0,
      max: this.#max[latent],
      tokenSelectivity: varianceByToken(tokens, this.tokens.occurrences, {
        ...{ sum, squares: this.#squares[latent], positions: this.#positions },
        types: this.tokens.types,
      }),
      tokenTypes: effectiveTypes(tokens),
      tokens,
      histogram: { firstBin, counts: counts.slice(firstBin, lastBin + 1) },
      byPlace: [...this.#byPlace.subarray(latent * PLACE_BINS, (latent + 1) * PLACE_BINS)],
    };
  }

  /** A latent's strongest positions, one per left context, strongest first. */
  strongest(latent: number): Kept[] {
    return this.#strongest.of(latent);
  }

  /** A uniform sample of a latent's firings, all of them when they are at most RANK_SAMPLE, in random order. */
  sample(latent: number): Kept[] {
    return this.#sample.of(latent);
  }

  /** A uniform sample of the positions of some token types, in random order. */
  placesOf(tokens: readonly number[]): number[] {
    const { seed } = this.options;
    return tokens
      .flatMap((token) => this.#tokenPlaces.of(token))
      .map(({ position }) => ({ position, draw: uniformDraw(seed, -1, position) }))
      .sort((a, b) => a.draw - b.draw || a.position - b.position)
      .map(({ position }) => position);
  }
}

const CONTEXT_TOKENS_OF_KEY = 8;

/** What a causal model saw last: a hash of the token and up to seven before it, within its row and document. Examples that share it are the same example to a reader. */
export function contextKey(chunk: TextChunk, position: number): number {
  let from = position;
  while (
    from > 0 &&
    position - from < CONTEXT_TOKENS_OF_KEY - 1 &&
    chunk.row[from - 1] === chunk.row[position] &&
    chunk.document[from - 1] === chunk.document[position]
  )
    from--;
  let low = 0x811c9dc5;
  let high = 0x9e3779b9;
  for (let p = from; p <= position; p++) {
    low = Math.imul(low ^ chunk.tokens[p], 0x01000193);
    high = Math.imul(high + chunk.tokens[p], 0x85ebca6b) ^ (high >>> 13);
  }
  return (low >>> 0) * 0x200000 + (high >>> 11);
}
