/**
 * Which tokens of the text have activations that count: those that are left out are in no store, no
 * batch and no denominator. Those that packing adds (beginnings and ends of sequences, padding) always are:
 * they say nothing about the text, and the activations of the first are far larger than all others.
 */
import { UserError } from "../error.ts";
import { NO_TEXT, type PackedRow, type PackingRules } from "./packing.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** What is left out beside the tokens that packing adds. */
export interface TokenRules {
  /** Special tokens that are spelt out in the text. */
  skipSpecialTokens: boolean;
  /** The first so many positions of each row of tokens, its beginning-of-sequence token counted. */
  skipPositions: number;
  /** Tokens whose activation at one of the hook points has a larger Euclidean norm. */
  maxNorm?: number | undefined;
}

/** Why a token is left out; the first that is true counts. The end of a sequence is `special`; padding is no token. */
export const DROPPED = ["beginning", "special", "position", "norm"] as const;
export type Dropped = Record<(typeof DROPPED)[number], number>;

/** In arrays of reasons: 0 for what is kept, else one more than the place in DROPPED. */
const reasonOf = (name: (typeof DROPPED)[number]) => DROPPED.indexOf(name) + 1;
const [BEGINNING, SPECIAL, POSITION, NORM] = DROPPED.map(reasonOf);
const PADDING = DROPPED.length + 1;

/** The rules among settings; undefined when nothing more is left out. */
export function tokenRules({
  skipSpecialTokens = false,
  skipPositions = 0,
  maxNorm,
}: Partial<TokenRules>): TokenRules | undefined {
  if (!skipSpecialTokens && skipPositions === 0 && maxNorm === undefined) return undefined;
  return { skipSpecialTokens, skipPositions, ...(maxNorm !== undefined && { maxNorm }) };
}

/** The rules in words, one sentence each. */
export function tokenMask(
  rules: TokenRules | undefined,
  { eos }: Pick<PackingRules, "eos"> = {},
): string[] {
  const mask = ["beginning-of-sequence positions are dropped"];
  if (eos) mask.push("end-of-sequence positions are dropped");
  if (rules?.skipSpecialTokens) mask.push("special tokens are dropped");
  const first = rules?.skipPositions ?? 0;
  if (first > 0) mask.push(`the first ${first} position${first > 1 ? "s" : ""} of each row are dropped`); // prettier-ignore
  if (rules?.maxNorm !== undefined)
    mask.push(`tokens with a norm above ${rules.maxNorm} at one of the hook points are dropped`);
  return mask;
}

function reasonOfNoText(mark: number): number {
  if (mark === NO_TEXT.padding) return PADDING;
  return mark === NO_TEXT.eos ? SPECIAL : BEGINNING;
}

/** Rules that leave out so many tokens in a row leave out all. */
const NONE_IN_A_ROW = 100_000;

export class TokenFilter {
  readonly #rules: TokenRules | undefined;
  readonly #special: ReadonlySet<number>;
  #leastSquares = Infinity;
  #inARow = 0;

  constructor(rules: TokenRules | undefined, tokenizer: Pick<Tokenizer, "specialIds">) {
    this.#rules = rules;
    this.#special = new Set(rules?.skipSpecialTokens ? tokenizer.specialIds : []);
  }

  /** Why each place of rows of one length is left out, [rows · length], as far as tokens tell; see DROPPED. */
  reasons(rows: readonly PackedRow[]): Uint8Array {
    const { length } = rows[0].tokens;
    const first = this.#rules?.skipPositions ?? 0;
    const reasons = new Uint8Array(rows.length * length);
    for (const [r, { documents, tokens }] of rows.entries())
      for (let i = 0; i < length; i++)
        if (documents[i] < 0) reasons[r * length + i] = reasonOfNoText(documents[i]);
        else if (this.#special.has(tokens[i])) reasons[r * length + i] = SPECIAL;
        else if (i < first) reasons[r * length + i] = POSITION;
    return reasons;
  }

  /** Adds to `reasons` what activations [rows · length, width] at the hook points tell. */
  addNorms(reasons: Uint8Array, activations: Readonly<Record<string, Float32Array>>): void {
    const maxNorm = this.#rules?.maxNorm;
    if (maxNorm === undefined) return;
    for (const values of Object.values(activations)) {
      const width = values.length / reasons.length;
      for (let at = 0; at < reasons.length; at++) {
        if (reasons[at] !== 0) continue;
        let squares = 0;
        for (let i = at * width; i < (at + 1) * width; i++) squares += values[i] * values[i];
        if (squares < this.#leastSquares) this.#leastSquares = squares;
        // A NaN is no large norm: whoever takes the activation says so.
        if (squares > maxNorm * maxNorm) reasons[at] = NORM;
      }
    }
  }

  /**
   * Is told how many of `places` were kept. @throws UserError when not one of many was: a text without end would be
   * read for ever.
   */
  requireSome(places: number, kept: number): void {
    this.#inARow = kept > 0 ? 0 : this.#inARow + places;
    if (this.#inARow < NONE_IN_A_ROW) return;
    const { skipSpecialTokens, skipPositions, maxNorm } = this.#rules ?? {};
    const rules = [
      ...(skipSpecialTokens ? ["skipSpecialTokens"] : []),
      ...(skipPositions ? [`skipPositions ${skipPositions}`] : []),
      ...(maxNorm !== undefined ? [`maxNorm ${maxNorm}`] : []),
    ];
    const least = maxNorm === undefined || this.#leastSquares === Infinity ? "" : ` (the smallest norm is ${Math.sqrt(this.#leastSquares).toPrecision(4)})`; // prettier-ignore
    throw new UserError(
      `not one of ${this.#inARow.toLocaleString("en-US")} tokens in a row is kept${least}: ${rules.join(" and ") || "packing"} leaves out all of them`,
    );
  }

  /** Whether activations are needed to tell. */
  get needsNorms(): boolean {
    return this.#rules?.maxNorm !== undefined;
  }
}

/** The places that are kept, rising. */
export function keptPlaces(reasons: Uint8Array): Int32Array {
  let count = 0;
  const kept = new Int32Array(reasons.length);
  for (let at = 0; at < reasons.length; at++) if (reasons[at] === 0) kept[count++] = at;
  return kept.slice(0, count);
}

export function nothingDropped(): Dropped {
  return { beginning: 0, special: 0, position: 0, norm: 0 };
}

/** Counts what is left out in places from … to-1. */
export function countDropped(
  dropped: Dropped,
  reasons: Uint8Array,
  from: number,
  to: number,
): void {
  for (let at = from; at < to; at++)
    if (reasons[at] > 0 && reasons[at] !== PADDING) dropped[DROPPED[reasons[at] - 1]]++;
}
