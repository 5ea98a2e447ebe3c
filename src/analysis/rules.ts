/**
 * What a latent responds to, as a rule that a person can check without any model: a token, a word, a
 * class of tokens, up to three tokens in a row, or a few of these. A rule is chosen on train documents
 * and every number shown is measured on test documents.
 *
 * A rule R (the positions that carry one of its labels) stands against the positions S where the
 * latent's activation is at least a threshold:
 *   precision = |R ∩ S| / |R|,  recall = |R ∩ S| / |S|,  F1 = 2·|R ∩ S| / (|R| + |S|)  (Dice 1945)
 * The threshold is 0 (wherever it fires) unless the rule only fits where it fires strongly: then the
 * one above which 90, 75 or 50 % of the latent's activation mass lies, never less.
 */
import { Rng } from "../rng.ts";
import { DocumentDraws, intervalOf, ratioOf, type Drawn } from "./document-draws.ts";
import { TEST, TRAIN, type EncodedText, type Firings, type Half } from "./encoded-text.ts";
import type { Interval } from "./interval.ts";
import type { Label, LabelKind } from "./labels.ts";
import { LEVELS, searchRules, sorted, sum, type Candidate, type Sorted } from "./rule-search.ts";

/** Of a latent in each half: below, there is no telling. */
export const MIN_FIRINGS = 20;
/** N-grams seen more rarely predict by their shorter ones. */
const MIN_CELL = 20;
/** Rules of other kinds than the best one that are kept beside it. */
const OTHERS = 2;

/** F1 on test documents from which a rule names its latent. */
export const NAMED_F1 = 0.8;

/** A rule with its numbers, all on test documents but `train`. */
export interface RuleScore {
  kind: LabelKind;
  /** In words. */
  text: string;
  labels: Label[];
  /** What it predicts: activation > 0, or ≥ threshold where that is not 0. */
  threshold: number;
  /** Share of the activation mass (of train) at or above the threshold. */
  mass: number;
  f1: Interval;
  precision: Interval;
  recall: Interval;
  /** F1 against every firing, whatever the threshold. */
  f1Any: number;
  /** Coverage: share of the whole activation mass that lies where the rule holds. */
  coverage: Interval;
  /** Share of the variance of the activation that a mean for inside and one for outside the rule explain. */
  r2: number;
  train: { f1: number };
}

export interface RuleExplanation {
  latent: number;
  /** Positions where it fires, in each half. */
  firings: { train: number; test: number };
  /** The best rule and, after it and without intervals, the best of other kinds; none when the latent fires too rarely. */
  rules: RuleScore[];
  /** What F1 would be without knowing anything. */
  chance: {
    /** Of "fires everywhere": 2π/(1+π), π the share of positions at or above the best rule's threshold. */
    always: number;
    /** Of the rule found in the same way when the activations are moved along the text, off their tokens. */
    shuffled: number;
  };
  /** Out-of-sample share of the variance that the mean of the token, and of up to three tokens, predicts. */
  variance: { token: number; ngram: number };
}

/** Finds the rules of the latents of one text. */
export class RuleFinder {
  readonly #text: EncodedText;
  readonly #labels: readonly Label[];
  readonly #seed: number;
  /** By half and label: positions that carry it, and where they are. */
  readonly #counts: [Int32Array, Int32Array];
  readonly #testOffsets: Int32Array;
  readonly #testPositions: Int32Array;
  /** Positions of each half in reading order, and the place of each position there. */
  readonly #ofHalf: [Int32Array, Int32Array];
  readonly #place: Int32Array;
  /** By label of a token, pair or triple: test positions of which it is the longest frequent one; last: none is. */
  readonly #cells: { token: Int32Array; ngram: Int32Array };
  readonly #cellCounts: { token: Int32Array; ngram: Int32Array };
  readonly #draws: DocumentDraws;
  readonly #unitOf: Int32Array;
  readonly #perUnit: Record<"both" | "rule" | "fired" | "mass" | "all", Float64Array>; // [units], scratch
  // Scratch, all zero between uses.
  readonly #hits: Int32Array; // [labels, levels]
  readonly #massOf: Float64Array; // [labels]
  readonly #acts: Float32Array; // [positions]
  readonly #inRule: Uint8Array; // [positions]
  readonly #named: Uint8Array; // [labels]

  constructor(text: EncodedText, seed = 0) {
    this.#text = text;
    this.#labels = text.labels.labels;
    this.#seed = seed;
    const { positions, labelOffsets, labelIds } = text;
    const labels = this.#labels.length;
    this.#counts = [new Int32Array(labels), new Int32Array(labels)];
    const halves: [number[], number[]] = [[], []];
    this.#place = new Int32Array(positions);
    for (let p = 0; p < positions; p++) {
      const half = text.half(p);
      this.#place[p] = halves[half].push(p) - 1;
      for (let j = labelOffsets[p]; j < labelOffsets[p + 1]; j++) this.#counts[half][labelIds[j]]++;
    }
    this.#ofHalf = [Int32Array.from(halves[0]), Int32Array.from(halves[1])];
    const test = this.#counts[TEST];
    this.#testOffsets = new Int32Array(labels + 1);
    for (let id = 0; id < labels; id++)
      this.#testOffsets[id + 1] = this.#testOffsets[id] + test[id];
    this.#testPositions = new Int32Array(this.#testOffsets[labels]);
    const next = this.#testOffsets.slice(0, labels);
    for (const p of this.#ofHalf[TEST])
      for (let j = labelOffsets[p]; j < labelOffsets[p + 1]; j++)
        this.#testPositions[next[labelIds[j]]++] = p;
    this.#cells = { token: new Int32Array(positions), ngram: new Int32Array(positions) };
    this.#cellCounts = { token: new Int32Array(labels + 1), ngram: new Int32Array(labels + 1) };
    for (const p of this.#ofHalf[TEST]) this.#findCells(p);
    this.#unitOf = new Int32Array(text.documents).fill(-1);
    let units = 0;
    for (const p of this.#ofHalf[TEST])
      if (this.#unitOf[text.document[p]] < 0) this.#unitOf[text.document[p]] = units++;
    this.#draws = new DocumentDraws(units, seed);
    const zeros = () => new Float64Array(units);
    this.#perUnit = { both: zeros(), rule: zeros(), fired: zeros(), mass: zeros(), all: zeros() };
    this.#hits = new Int32Array(labels * LEVELS.length);
    this.#massOf = new Float64Array(labels);
    this.#acts = new Float32Array(positions);
    this.#inRule = new Uint8Array(positions);
    this.#named = new Uint8Array(labels);
  }

  /** Positions in each half. */
  get positions(): { train: number; test: number } {
    return { train: this.#ofHalf[TRAIN].length, test: this.#ofHalf[TEST].length };
  }

  /** The rules of one latent. @throws UserError when there is no such latent. */
  explain(latent: number): RuleExplanation {
    const train = sorted(this.#text.firings(latent, TRAIN));
    const test = this.#text.firings(latent, TEST);
    const firings = { train: train.values.length, test: test.values.length };
    if (firings.train < MIN_FIRINGS || firings.test < MIN_FIRINGS)
      return {
        ...{ latent, firings, rules: [], chance: { always: NaN, shuffled: NaN } },
        variance: { token: NaN, ngram: NaN },
      };
    const variance = { token: NaN, ngram: NaN };
    const candidates = this.#candidates(train, () => {
      variance.token = this.#cellR2("token", train, test);
      variance.ngram = this.#cellR2("ngram", train, test);
    });
    const rules = candidates
      .slice(0, 1 + OTHERS)
      .map((one, i) => this.#score(one, train, test, i === 0));
    return {
      ...{ latent, firings, rules, variance },
      chance: {
        always: rules.length > 0 ? this.#always(rules[0].threshold, test) : NaN,
        shuffled: this.#shuffled(latent, train, test),
      },
    };
  }

  /** Best first: the best rule, then the best of each other kind. `whileCounted` runs while #massOf holds the latent's mass per label. */
  #candidates(train: Sorted, whileCounted?: () => void): Candidate[] {
    const { labelOffsets, labelIds } = this.#text;
    const hits = this.#hits;
    const L = LEVELS.length;
    const seen: number[] = [];
    for (let i = 0; i < train.values.length; i++) {
      let level = L - 1;
      while (i >= train.counts[level]) level--;
      const p = train.positions[i];
      for (let j = labelOffsets[p]; j < labelOffsets[p + 1]; j++) {
        const id = labelIds[j];
        if (this.#massOf[id] === 0) seen.push(id);
        this.#massOf[id] += train.values[i];
        hits[id * L + level]++;
      }
    }
    // So far those between two thresholds: from the strongest down they become those above.
    for (const id of seen)
      for (let level = L - 2; level >= 0; level--) hits[id * L + level] += hits[id * L + level + 1];
    whileCounted?.();
    const found = searchRules({
      ...{ labels: this.#labels, seen, hits, counts: this.#counts[TRAIN], fired: train.counts },
    });
    for (const id of seen) {
      this.#massOf[id] = 0;
      hits.fill(0, id * L, (id + 1) * L);
    }
    return found;
  }

  #score(rule: Candidate, train: Sorted, test: Firings, withIntervals: boolean): RuleScore {
    const text = this.#text;
    const acts = this.#acts;
    const threshold = rule.level === 0 ? 0 : train.values[train.counts[rule.level] - 1];
    const strong = (value: number) => value > 0 && value >= threshold;
    const { both, rule: inRule, fired, mass, all } = this.#perUnit;
    for (const counts of Object.values(this.#perUnit)) counts.fill(0);
    const unit = (p: number) => this.#unitOf[text.document[p]];
    for (let i = 0; i < test.values.length; i++) {
      const u = unit(test.positions[i]);
      acts[test.positions[i]] = test.values[i];
      all[u] += test.values[i];
      if (strong(test.values[i])) fired[u]++;
    }
    let anyHits = 0;
    for (const id of rule.ids)
      for (let i = this.#testOffsets[id]; i < this.#testOffsets[id + 1]; i++) {
        const p = this.#testPositions[i];
        const u = unit(p);
        inRule[u]++;
        mass[u] += acts[p];
        if (acts[p] > 0) anyHits++;
        if (strong(acts[p])) both[u]++;
      }
    for (const p of test.positions) acts[p] = 0;
    const size = sum(inRule);
    const total = (values: Float64Array): Drawn =>
      withIntervals ? this.#draws.total(values) : { value: sum(values), draws: new Float64Array() };
    const [hits, predicted, actual] = [total(both), total(inRule), total(fired)];
    return {
      kind: rule.kind,
      text: ruleText(rule.ids.map((id) => this.#labels[id])),
      labels: rule.ids.map((id) => this.#labels[id]),
      threshold,
      mass: train.shares[rule.level],
      f1: intervalOf({
        value: (2 * hits.value) / (predicted.value + actual.value),
        draws: hits.draws.map((n, i) => (2 * n) / (predicted.draws[i] + actual.draws[i])),
      }),
      precision: intervalOf(ratioOf(hits, predicted)),
      recall: intervalOf(ratioOf(hits, actual)),
      coverage: intervalOf(ratioOf(total(mass), total(all))),
      f1Any: (2 * anyHits) / (size + test.values.length),
      r2: this.#ruleR2(rule, train, test, { size, mass: sum(mass) }),
      train: { f1: rule.f1 },
    };
  }

  /** R² on test of the train mean inside the rule and the one outside. */
  #ruleR2(
    rule: Candidate,
    train: Sorted,
    test: Firings,
    inTest: { size: number; mass: number },
  ): number {
    const { labelOffsets, labelIds } = this.#text;
    const named = this.#named;
    for (const id of rule.ids) named[id] = 1;
    let mass = 0;
    for (let i = 0; i < train.values.length; i++) {
      const p = train.positions[i];
      for (let j = labelOffsets[p]; j < labelOffsets[p + 1]; j++)
        if (named[labelIds[j]] === 1) {
          mass += train.values[i];
          break;
        }
    }
    for (const id of rule.ids) named[id] = 0;
    const { train: trainSize, test: testSize } = this.positions;
    const size = rule.ids.reduce((n, id) => n + this.#counts[TRAIN][id], 0);
    const inside = mass / size;
    const outside = size < trainSize ? (train.mass - mass) / (trainSize - size) : 0;
    const all = sum(test.values);
    return rSquared(test.values, testSize, {
      product: inside * inTest.mass + outside * (all - inTest.mass),
      squares: inside ** 2 * inTest.size + outside ** 2 * (testSize - inTest.size),
    });
  }

  /** R² on test of the train mean of a position's token, or of the longest run of up to three tokens seen MIN_CELL times. #massOf holds the train mass. */
  #cellR2(which: "token" | "ngram", train: Sorted, test: Firings): number {
    const { train: trainSize, test: testSize } = this.positions;
    const none = this.#labels.length;
    const mean = (cell: number) =>
      cell === none ? train.mass / trainSize : this.#massOf[cell] / this.#counts[TRAIN][cell];
    const cells = this.#cells[which];
    const counts = this.#cellCounts[which];
    let [product, squares] = [0, 0];
    for (let i = 0; i < test.values.length; i++)
      product += test.values[i] * mean(cells[test.positions[i]]);
    for (let cell = 0; cell <= none; cell++)
      if (counts[cell] > 0) squares += counts[cell] * mean(cell) ** 2;
    return rSquared(test.values, testSize, { product, squares });
  }

  #findCells(p: number): void {
    const { labelOffsets, labelIds } = this.#text;
    const none = this.#labels.length;
    const longest = { token: 1, pair: 2, triple: 3 } as Partial<Record<LabelKind, number>>;
    let [token, ngram, length] = [none, none, 0];
    for (let j = labelOffsets[p]; j < labelOffsets[p + 1]; j++) {
      const id = labelIds[j];
      const own = longest[this.#labels[id].kind];
      if (own === undefined || this.#counts[TRAIN][id] < MIN_CELL) continue;
      if (own === 1) token = id;
      if (own > length) [ngram, length] = [id, own];
    }
    this.#cells.token[p] = token;
    this.#cells.ngram[p] = ngram;
    this.#cellCounts.token[token]++;
    this.#cellCounts.ngram[ngram]++;
  }

  #always(threshold: number, test: Firings): number {
    const strong = test.values.filter((value) => value >= threshold).length;
    const share = strong / this.positions.test;
    return (2 * share) / (1 + share);
  }

  /** F1 on test of the rule that is found when the activations stand elsewhere: moved round within their half, so that they still come in runs. */
  #shuffled(latent: number, train: Sorted, test: Firings): number {
    const rng = new Rng(this.#seed, "shuffled", latent);
    const moved = (positions: Int32Array, half: Half) => {
      const all = this.#ofHalf[half];
      const by = Math.floor(all.length * (0.1 + 0.8 * rng.uniform()));
      const places = new Int32Array(positions.length);
      for (let i = 0; i < places.length; i++)
        places[i] = all[(this.#place[positions[i]] + by) % all.length];
      return places;
    };
    const found = this.#candidates({ ...train, positions: moved(train.positions, TRAIN) });
    if (found.length === 0) return 0;
    const [{ ids, level }] = found;
    const threshold = level === 0 ? 0 : train.values[train.counts[level] - 1];
    let size = 0;
    for (const id of ids)
      for (let i = this.#testOffsets[id]; i < this.#testOffsets[id + 1]; i++, size++)
        this.#inRule[this.#testPositions[i]] = 1;
    const places = moved(test.positions, TEST);
    let [both, fired] = [0, 0];
    for (let i = 0; i < places.length; i++)
      if (test.values[i] >= threshold) {
        fired++;
        both += this.#inRule[places[i]];
      }
    for (const id of ids)
      for (let i = this.#testOffsets[id]; i < this.#testOffsets[id + 1]; i++)
        this.#inRule[this.#testPositions[i]] = 0;
    return (2 * both) / (size + fired);
  }
}

/** 1 − Σ(a − â)² / Σ(a − ā)² over N positions, from the activations that are not 0, Σ a·â and Σ â². */
function rSquared(
  values: Float32Array,
  N: number,
  { product, squares }: { product: number; squares: number },
): number {
  let [total, own] = [0, 0];
  for (const value of values) {
    total += value;
    own += value * value;
  }
  return 1 - (own - 2 * product + squares) / (own - (total * total) / N);
}

/** `the word “dog” or “cat”`: a rule in words. */
function ruleText(labels: readonly Label[]): string {
  const { kind } = labels[0];
  const [prefix, cut] =
    kind === "token" || kind === "word" || kind === "after"
      ? [kind === "after" ? "after " : `the ${kind} `, kind.length + 1]
      : ["", 0];
  const names = labels.map(({ name }) => name.slice(cut));
  const last = names.pop()!;
  return prefix + (names.length > 0 ? `${names.join(", ")} or ${last}` : last);
}
