/**
 * Examples of latents: which positions they are is decided when all statistics are known, and the
 * windows around them are cut from the log of the pass.
 *
 * top        the strongest positions, one per left context
 * quantiles  a uniform sample of RANK_SAMPLE firings (all of them, when there are no more) sorted by
 *            value and cut into five groups of equal size; of each the first ones in random order
 * random     the first ones of that sample in random order
 * near miss  positions where the latent is silent though their token is one of the NEAR_TOKENS types with
 *            most of its activation: the first ones, in random order, of a uniform sample of up to 64
 *            positions of each of these types
 * silent     uniformly drawn positions where it is silent
 *
 * Silent means that no token that holds a part of the same characters excites it either.
 */
import type { CodedChunk } from "./code-log.ts";
import { piecesOf, windowAround } from "./codes.ts";
import type { FeatureCounter } from "./feature-counter.ts";
import { uniformDraw, type Kept } from "./reservoirs.ts";

/** The chunks of a pass, from the beginning, as often as it is called. */
export type Replay = () => AsyncIterable<CodedChunk> | Iterable<CodedChunk>;

/** Groups of firings by rank, and firings that a latent must have per group for there to be groups. */
const QUANTILES = 5;
const MIN_PER_QUANTILE = 2;
/** Token types whose other positions are near misses. */
const NEAR_TOKENS = 3;
/** Positions drawn for each silent example that is wanted: a latent may fire at some. */
const SILENT_DRAWS = 4;

/** An example as it is stored: see `Example` in features.ts for what it says. */
export interface StoredExample {
  document: string;
  text: string;
  /** Lengths of the pieces of the text. */
  lengths: number[];
  peak: number;
  /** Pieces with activation > 0, and their activations. */
  at: number[];
  values: number[];
  /** 1: the window begins inside its document, 2: it ends inside it, 3: both. */
  cut: number;
}

export interface StoredQuantile {
  /** Shares of the firings that are weaker than the group, and at most as strong as its strongest. */
  from: number;
  to: number;
  /** Activations of the group's ends. */
  low: number;
  high: number;
  examples: PlacedExample[];
}

/** Place in `windows`, and the activation there. */
export type PlacedExample = [window: number, value: number];

/** All examples of a latent; windows that several share are stored once. */
export interface StoredExamples {
  windows: StoredExample[];
  top: PlacedExample[];
  random: PlacedExample[];
  quantiles: StoredQuantile[];
  nearMiss: PlacedExample[];
  silent: PlacedExample[];
  /** Firings that were ranked for `quantiles`. */
  rankSample: number;
}

/** The examples of the latents from … to-1. Reads the log twice. */
export async function gatherExamples(
  counter: FeatureCounter,
  replay: Replay,
  from: number,
  to: number,
): Promise<StoredExamples[]> {
  const latents = Array.from({ length: to - from }, (_, i) => from + i);
  const near = latents.map((latent) => nearCandidates(counter, latent));
  const quiet = latents.map((latent) => silentCandidates(counter, latent));
  const checked = latents.map((_, i) => Uint32Array.from([...near[i], ...quiet[i]]).sort());
  const fires = checked.map((positions) => new Uint8Array(positions.length));
  await visit(replay, checked, (i, n, coded, position) => {
    fires[i][n] = firesOn(coded, from + i, position) ? 1 : 0;
  });
  const { nearMissExamples, silentExamples } = counter.options;
  const chosen = latents.map((latent, i) => {
    const firing = new Set(checked[i].filter((_, n) => fires[i][n] === 1));
    const silentOnes = (positions: readonly number[], limit: number): Kept[] =>
      positions
        .filter((position) => !firing.has(position))
        .slice(0, limit)
        .map((position) => ({ position, value: 0 }));
    return {
      ...firingExamples(counter, latent),
      nearMiss: silentOnes(near[i], nearMissExamples),
      silent: silentOnes(quiet[i], silentExamples),
    };
  });
  const wanted = chosen.map(({ top, random, quantiles, nearMiss, silent }) => {
    const groups = [top, random, ...quantiles.map(({ examples }) => examples), nearMiss, silent];
    return Uint32Array.from(new Set(groups.flat().map(({ position }) => position))).sort();
  });
  const windows = wanted.map((positions) => new Array<StoredExample>(positions.length));
  const { contextTokens } = counter.options;
  await visit(replay, wanted, (i, n, chunk, position) => {
    windows[i][n] = windowOf(chunk, from + i, position, contextTokens);
  });
  return chosen.map(({ top, random, quantiles, nearMiss, silent, rankSample }, i) => {
    const place = new Map(Array.from(wanted[i], (position, n) => [position, n]));
    const placed = (kept: readonly Kept[]): PlacedExample[] =>
      kept.map(({ position, value }) => [place.get(position)!, value]);
    return {
      windows: windows[i],
      top: placed(top),
      random: placed(random),
      quantiles: quantiles.map((group) => ({ ...group, examples: placed(group.examples) })),
      nearMiss: placed(nearMiss),
      silent: placed(silent),
      rankSample,
    };
  });
}

function firingExamples(counter: FeatureCounter, latent: number) {
  const { randomExamples, quantileExamples } = counter.options;
  const sample = counter.sample(latent);
  const ranked = sample
    .map((kept, draw) => ({ ...kept, draw }))
    .sort((a, b) => a.value - b.value || a.position - b.position);
  const n = ranked.length;
  const quantiles =
    n < QUANTILES * MIN_PER_QUANTILE || quantileExamples === 0
      ? []
      : Array.from({ length: QUANTILES }, (_, q) => {
          const [start, end] = [(q * n) / QUANTILES, ((q + 1) * n) / QUANTILES].map(Math.round);
          const group = ranked.slice(start, end);
          return {
            from: q / QUANTILES,
            to: (q + 1) / QUANTILES,
            low: group[0].value,
            high: group[group.length - 1].value,
            examples: group.sort((a, b) => a.draw - b.draw).slice(0, quantileExamples),
          };
        }).reverse();
  return {
    top: counter.strongest(latent),
    random: sample.slice(0, randomExamples),
    quantiles,
    rankSample: n,
  };
}

function nearCandidates(counter: FeatureCounter, latent: number): number[] {
  if (counter.options.nearMissExamples === 0) return [];
  const tokens = counter.tokens.of(latent).slice(0, NEAR_TOKENS);
  return counter.placesOf(tokens.map(({ token }) => token));
}

function silentCandidates(counter: FeatureCounter, latent: number): number[] {
  const { silentExamples, seed } = counter.options;
  const wanted = Math.min(silentExamples * SILENT_DRAWS, counter.positions);
  const drawn = new Set<number>();
  for (let n = 0; drawn.size < wanted; n++)
    drawn.add(Math.floor((uniformDraw(seed, -2 - latent, n) / 2 ** 32) * counter.positions));
  return [...drawn];
}

/** Calls `at` for every position of every list [latent][n], lists rising, with the chunk that holds it and the position in it. */
async function visit(
  replay: Replay,
  lists: readonly Uint32Array[],
  at: (i: number, n: number, chunk: CodedChunk, position: number) => void,
): Promise<void> {
  const next = new Uint32Array(lists.length);
  for await (const coded of replay()) {
    const { first, length } = coded.chunk;
    for (let i = 0; i < lists.length; i++) {
      const list = lists[i];
      for (; next[i] < list.length && list[next[i]] < first + length; next[i]++)
        at(i, next[i], coded, list[next[i]] - first);
    }
  }
}

/** Whether a latent fires at `position`, or on another token that holds a part of the same characters. */
function firesOn({ chunk, codes }: CodedChunk, latent: number, position: number): boolean {
  const { document, start, end } = chunk;
  const same = (p: number) => document[p] === document[position];
  let [from, to] = [position, position];
  while (from > 0 && same(from - 1) && end[from - 1] > start[position]) from--;
  while (to + 1 < chunk.length && same(to + 1) && start[to + 1] < end[position]) to++;
  const { offsets, positions } = codes;
  const at = firstFrom(positions, offsets[latent], offsets[latent + 1], from);
  return at < offsets[latent + 1] && positions[at] <= to;
}

/** The first place in start … end-1 whose position is at least `position`; `end` when there is none. */
function firstFrom(positions: Int32Array, start: number, end: number, position: number): number {
  let [low, high] = [start, end];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (positions[middle] < position) low = middle + 1;
    else high = middle;
  }
  return low;
}

function windowOf(
  { chunk, codes }: CodedChunk,
  latent: number,
  position: number,
  contextTokens: number,
): StoredExample {
  const [from, to] = windowAround(chunk, position, contextTokens);
  const { text, pieceOf } = piecesOf(chunk, from, to);
  const { positions, values, offsets } = codes;
  const active: { piece: number; value: number }[] = [];
  const end = offsets[latent + 1];
  for (
    let i = firstFrom(positions, offsets[latent], end, from);
    i < end && positions[i] < to;
    i++
  ) {
    const piece = pieceOf[positions[i] - from];
    const last = active.at(-1);
    if (last?.piece === piece) last.value = Math.max(last.value, values[i]);
    else active.push({ piece, value: values[i] });
  }
  const document = chunk.documents[chunk.document[position]];
  return {
    document: document.id,
    text: text.join(""),
    lengths: text.map((piece) => piece.length),
    peak: pieceOf[position - from],
    at: active.map(({ piece }) => piece),
    values: active.map(({ value }) => value),
    cut: (chunk.start[from] > 0 ? 1 : 0) + (chunk.end[to - 1] < document.text.length ? 2 : 0),
  };
}
