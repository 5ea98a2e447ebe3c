/** The texts that an explainer and a judge of a latent are shown: places in a text, one a document. */
import { Rng } from "../rng.ts";
import { TEST, TRAIN, type EncodedText, type Half } from "./encoded-text.ts";
import type { Example } from "./features.ts";
import { activePieces } from "./prompts.ts";

const TOKENS_BEFORE = 16;
const TOKENS_AFTER = 8;
const TOP_SHOWN = 10;
const QUANTILES_SHOWN = 10;
/** Test texts of each kind, one a document. */
const TEST_TEXTS = 20;

/** Train examples: the strongest, then some of all strengths; one a document. */
export function shownExamples(
  text: EncodedText,
  latent: number,
): { examples: Example[]; max: number } {
  const { acts, order } = byStrength(text, latent, TRAIN);
  const taken = new Set<number>();
  const top = distinct(text, order, TOP_SHOWN, taken);
  const quantiles = batchesOf(order, Math.ceil(order.length / QUANTILES_SHOWN)).flatMap((part) =>
    distinct(text, part, 1, taken),
  );
  const examples = [...top, ...quantiles].map((p) => exampleAt(text, p, acts));
  return { examples, max: order.length > 0 ? acts.get(order[0])! : 0 };
}

/** Test texts, one a document: firing ones of all strengths, the strongest first, and silent ones at random. */
export function testTexts(
  text: EncodedText,
  latent: number,
  seed: number,
): { firing: Example[]; silent: Example[] } {
  const { acts, order } = byStrength(text, latent, TEST);
  const rng = new Rng(seed, "test texts", latent);
  const taken = new Set<number>();
  const firing = batchesOf(order, Math.ceil(order.length / TEST_TEXTS)).flatMap((part) =>
    distinct(text, rng.shuffle([...part]), 1, taken),
  );
  const silent: number[] = [];
  const isSilent = (p: number) => {
    const [from, to] = windowAt(text, p);
    for (let q = from; q < to; q++) if (acts.has(q)) return false;
    return true;
  };
  for (let tries = 0; tries < 50 * TEST_TEXTS && silent.length < TEST_TEXTS; tries++) {
    const p = rng.int(text.positions);
    if (text.half(p) !== TEST || taken.has(text.document[p]) || !isSilent(p)) continue;
    taken.add(text.document[p]);
    silent.push(p);
  }
  const example = (p: number) => exampleAt(text, p, acts);
  return { firing: firing.map(example), silent: silent.map(example) };
}

/** Positions where a latent fires in one half, the strongest first, and its activations by position. */
function byStrength(
  text: EncodedText,
  latent: number,
  half: Half,
): { acts: Map<number, number>; order: number[] } {
  const { positions, values } = text.firings(latent, half);
  const acts = new Map<number, number>();
  positions.forEach((p, i) => acts.set(p, values[i]));
  return { acts, order: [...positions].sort((a, b) => acts.get(b)! - acts.get(a)! || a - b) };
}

/** The first `count` positions of documents that are not taken, which they then are. */
function distinct(
  text: EncodedText,
  positions: readonly number[],
  count: number,
  taken: Set<number>,
): number[] {
  const found: number[] = [];
  for (const p of positions) {
    if (found.length === count) break;
    if (taken.has(text.document[p])) continue;
    taken.add(text.document[p]);
    found.push(p);
  }
  return found;
}

const windowAt = (text: EncodedText, p: number) => text.window(p, TOKENS_BEFORE, TOKENS_AFTER);

function exampleAt(text: EncodedText, p: number, acts: ReadonlyMap<number, number>): Example {
  return text.example(p, windowAt(text, p), acts);
}

/** Strong pieces, and the one the example is about however weak it is. */
export function marksOf(example: Example, max: number): boolean[] {
  return activePieces(example, max).map((active, i) => active || i === example.peak);
}

export function batchesOf<T>(items: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / size) || 0 }, (_, i) =>
    items.slice(i * size, (i + 1) * size),
  );
}
