/**
 * Interchange (RAVEL, Huang et al. 2024; on SAEs Chaudhary and Geiger 2024, SAEBench): does an SAE keep
 * the attributes of an entity apart? Two prompts of one form differ in all attributes. At the last
 * position of the base the latents S of one attribute take their values from the source,
 *
 *   x' = x + Σ_{f ∈ S} (a_f(source) − a_f(base)) W_dec[f],
 *
 * which keeps the SAE's error, and the model's next word is read:
 *
 *   cause         share of pairs in which it tells the source's value of the attribute
 *   isolation     share in which it tells the base's value of another attribute; mean over the others
 *   disentangle   (cause + isolation) / 2
 *
 * Doing nothing and taking over the whole activation both come to ½: the one isolates and causes
 * nothing, the other causes all and isolates nothing. Only prompts count whose most likely next token
 * is right. What the next word tells is the value whose words have the highest total probability.
 *
 * Latents are ranked on selection prompts by how far the attribute moves them less how far the others do:
 * (V_attribute(a_f) − Σ_others V_other(a_f)) ‖W_dec[f]‖², V the variance between the means of an
 * attribute's values. How many are taken is what disentangles best on the selection prompts.
 */
import { UserError } from "../error.ts";
import { Rng } from "../rng.ts";
import { DocumentDraws, intervalOf, type Drawn } from "./document-draws.ts";
import { Choice, type Replace } from "./interchange-choice.ts";
import type { EncodedPrompt, Tell, Told } from "./interchange-prompts.ts";
import type { Interval } from "./interval.ts";
import { mean, meanDrawn, NULL_DRAWS, nullOf } from "./supervised-removal.ts";
import { matchedLatents } from "./supervised-scores.ts";

export interface InterchangeOptions {
  /** Numbers of latents (and of dimensions) tried; default 1, 2, 5, 10, 20, 50, 100. */
  counts?: readonly number[];
  seed?: number;
  onProgress?: (done: number, total: number) => void;
}

export interface Disentangling {
  cause: Interval;
  isolation: Interval;
  disentangle: Interval;
}

/** `means`: the span of the differences between the mean activations of the attribute's values; `whole`: the activation itself; `all latents` without the SAE's error. */
export type Interchanged = "latents" | "all latents" | "dimensions" | "means" | "whole";

export interface AttributeInterchange {
  attribute: string;
  values: string[];
  /** Share of the prompts that ask it whose most likely token is right, and how many there are. */
  accuracy: { selection: number; test: number; prompts: number };
  /** Why there is no score. */
  unmeasured?: string;
  /** Test pairs for cause, and for isolation over all other attributes. */
  pairs: { cause: number; isolation: number };
  /** Those that are interchanged, the first the most the attribute's own. */
  latents: number[];
  dimensions: number[];
  scores: Partial<Record<Interchanged, Disentangling>>;
  /** The latents' score when as many are taken that fire as often: mean and the middle 95 % of 10 draws. */
  null?: Record<keyof Disentangling, Interval>;
  /** On test prompts, of other numbers of latents. */
  byCount: { n: number; cause: number; isolation: number; disentangle: number }[];
}

export interface InterchangeResult {
  /** What doing nothing, or everything, comes to. */
  chance: 0.5;
  attributes: AttributeInterchange[];
  /** Mean over the attributes that have a score. */
  mean: Record<Interchanged, Disentangling> & { null: number };
  drawn: Record<string, Drawn>;
}

const COUNTS = [1, 2, 5, 10, 20, 50, 100];
/** Fewer pairs say nothing. */
const MIN_PAIRS = 20;
/** A model that gets fewer of an attribute's prompts right does not know it. */
const MIN_ACCURACY = 0.5;

interface Pair {
  base: number;
  source: number;
}

/**
 * Prompts of every other unit are for choosing, the rest for measuring.
 * @param W_dec raw units, [dSae, dIn] (`rawDecoder`).
 * @throws UserError when no attribute can be measured.
 */
export async function interchange(
  prompts: readonly EncodedPrompt[],
  tell: Tell,
  W_dec: Float32Array,
  options: InterchangeOptions = {},
): Promise<InterchangeResult> {
  const { seed = 0, counts = COUNTS, onProgress } = options;
  const units = [...new Set(prompts.map(({ prompt }) => prompt.unit))];
  const half = (odd: number) =>
    [...prompts.keys()].filter((p) => units.indexOf(prompts[p].prompt.unit) % 2 === odd);
  const halves = { selection: half(0), test: half(1) };
  const attributes = [...new Set(prompts.flatMap(({ right }) => Object.keys(right)))];
  const sides = {
    selection: new Side(prompts, halves.selection, tell, seed),
    test: new Side(prompts, halves.test, tell, seed),
  };
  const found: AttributeInterchange[] = [];
  const drawn: Partial<Record<Interchanged, Measured[]>> = {};
  for (const [i, attribute] of attributes.entries()) {
    onProgress?.(i, attributes.length);
    const asking = (side: "selection" | "test") =>
      halves[side].filter((p) => attribute in prompts[p].right);
    const accuracy = (side: "selection" | "test") =>
      mean(asking(side).map((p) => Number(prompts[p].right[attribute])));
    const pairs = sides.test.counts(attribute);
    const one: AttributeInterchange = {
      ...{ attribute, pairs, latents: [], dimensions: [], scores: {}, byCount: [] },
      values: [...new Set(asking("test").map((p) => prompts[p].prompt.values[attribute]))],
      accuracy: {
        ...{ selection: accuracy("selection"), test: accuracy("test") },
        prompts: asking("test").length,
      },
    };
    found.push(one);
    const { selection, test } = one.accuracy;
    if (!(Math.min(selection, test) >= MIN_ACCURACY)) {
      one.unmeasured = `the model gets ${(100 * test).toFixed(0)} % of the prompts right that ask it; below ${100 * MIN_ACCURACY} % it does not know the attribute`;
      continue;
    }
    if (
      Math.min(pairs.cause, pairs.isolation, sides.selection.counts(attribute).cause) < MIN_PAIRS
    ) {
      one.unmeasured = `fewer than ${MIN_PAIRS} pairs of prompts that the model gets right and that differ in everything`;
      continue;
    }
    const own = asking("selection").filter((p) => Object.values(prompts[p].right).every(Boolean));
    const choice = new Choice(prompts, own, attribute, W_dec);
    const best = async (ranked: number[], replace: (columns: number[]) => Replace) => {
      let [most, columns] = [-1, ranked.slice(0, 1)];
      for (const n of counts.filter((n) => n <= ranked.length)) {
        const { disentangle } = await sides.selection.measure(attribute, replace(ranked.slice(0, n))); // prettier-ignore
        if (disentangle.value > most) [most, columns] = [disentangle.value, ranked.slice(0, n)];
      }
      return columns;
    };
    one.latents = await best(choice.latents, (columns) => choice.swapLatents(columns));
    one.dimensions = await best(choice.dimensions, (columns) => choice.swapDimensions(columns));
    const ways: Record<Interchanged, Replace> = {
      latents: choice.swapLatents(one.latents),
      "all latents": choice.swapLatents(),
      dimensions: choice.swapDimensions(one.dimensions),
      means: choice.swapMeans(),
      whole: (_, source) => source.x,
    };
    for (const [way, replace] of Object.entries(ways) as [Interchanged, Replace][]) {
      const measured = await sides.test.measure(attribute, replace);
      (drawn[way] ??= []).push(measured);
      one.scores[way] = intervals(measured);
    }
    const rng = new Rng(seed, "interchange", attribute);
    const nulls: Measured[] = [];
    for (let draw = 0; draw < NULL_DRAWS; draw++)
      nulls.push(
        await sides.test.measure(
          attribute,
          choice.swapLatents(matchedLatents(choice.firing(), one.latents, rng)),
        ),
      );
    const byChance = (key: keyof Measured) => nullOf(nulls.map((measured) => measured[key].value));
    one.null = {
      ...{ cause: byChance("cause"), isolation: byChance("isolation") },
      disentangle: byChance("disentangle"),
    };
    for (const n of counts.filter((n) => n <= choice.latents.length)) {
      const { cause, isolation, disentangle } = await sides.test.measure(attribute, choice.swapLatents(choice.latents.slice(0, n))); // prettier-ignore
      one.byCount.push({
        ...{ n, cause: cause.value, isolation: isolation.value, disentangle: disentangle.value },
      });
    }
  }
  const scored = found.filter(({ unmeasured }) => unmeasured === undefined);
  if (scored.length === 0)
    throw new UserError(
      `no attribute of the prompts can be interchanged: ${found.map(({ attribute, unmeasured }) => `${attribute}: ${unmeasured}`).join("; ")}`,
    );
  const means = Object.entries(drawn).map(([way, all]) => [way, meanOf(all)] as const);
  const named = Object.fromEntries(means) as Record<Interchanged, Measured>;
  return {
    chance: 0.5,
    attributes: found,
    mean: {
      ...(Object.fromEntries(means.map(([way, all]) => [way, intervals(all)])) as Record<
        Interchanged,
        Disentangling
      >),
      null: mean(scored.map((one) => one.null!.disentangle.value)),
    },
    drawn: { ...named.latents },
  };
}

/** Cause, isolation and their mean on all units and on every draw of them. */
type Measured = Record<keyof Disentangling, Drawn>;

function intervals({ cause, isolation, disentangle }: Measured): Disentangling {
  return {
    ...{ cause: intervalOf(cause), isolation: intervalOf(isolation) },
    disentangle: intervalOf(disentangle),
  };
}

function meanOf(all: readonly Measured[]): Measured {
  const over = (key: keyof Measured) => meanDrawn(all.map((one) => one[key]));
  return {
    ...{ cause: over("cause"), isolation: over("isolation"), disentangle: over("disentangle") },
  };
}

/** Pairs of prompts of one half: every prompt that is answered right with another one, of the same form and another unit, that differs in every attribute. */
class Side {
  readonly #prompts: readonly EncodedPrompt[];
  readonly #tell: Tell;
  readonly #pairs: Pair[] = [];
  readonly #unit: Map<string, number>;
  readonly #draws: DocumentDraws;

  constructor(
    prompts: readonly EncodedPrompt[],
    half: readonly number[],
    tell: Tell,
    seed: number,
  ) {
    this.#prompts = prompts;
    this.#tell = tell;
    const units = [...new Set(half.map((p) => prompts[p].prompt.unit))];
    this.#unit = new Map(units.map((unit, u) => [unit, u]));
    this.#draws = new DocumentDraws(units.length, seed);
    const rng = new Rng(seed, "pairs");
    const known = half.filter((p) => Object.values(prompts[p].right).every(Boolean));
    for (const base of known) {
      const { form, unit, values } = prompts[base].prompt;
      const sources = known.filter((p) => {
        const other = prompts[p].prompt;
        const isOther = Object.entries(values).every(([name, value]) => other.values[name] !== value); // prettier-ignore
        return other.form === form && other.unit !== unit && isOther;
      });
      if (sources.length > 0) this.#pairs.push({ base, source: sources[rng.int(sources.length)] });
    }
  }

  /** How many pairs tell of the attribute, and of others. */
  counts(attribute: string): { cause: number; isolation: number } {
    const asks = this.#pairs.map(({ base }) => Object.keys(this.#prompts[base].right));
    return {
      cause: asks.filter((asked) => asked.includes(attribute)).length,
      isolation: asks.reduce((sum, asked) => sum + asked.filter((a) => a !== attribute).length, 0),
    };
  }

  async measure(attribute: string, replace: Replace): Promise<Measured> {
    const prompts = this.#prompts;
    const told = await this.#tell(
      this.#pairs.map(({ base }) => base),
      this.#pairs.map(({ base, source }) => replace(prompts[base], prompts[source])),
    );
    const cause = this.#share(told, attribute, "source");
    const others = new Set(told.flatMap((one) => Object.keys(one)));
    others.delete(attribute);
    const isolation = meanDrawn([...others].map((other) => this.#share(told, other, "base")));
    return { cause, isolation, disentangle: meanDrawn([cause, isolation]) };
  }

  /** Of the pairs that tell the attribute, the share that tells the value of base or source. */
  #share(told: readonly Told[], attribute: string, side: keyof Pair): Drawn {
    const [hits, all] = [new Float64Array(this.#unit.size), new Float64Array(this.#unit.size)];
    for (const [i, pair] of this.#pairs.entries()) {
      if (!(attribute in told[i])) continue;
      const unit = this.#unit.get(this.#prompts[pair.base].prompt.unit)!;
      all[unit]++;
      hits[unit] += Number(told[i][attribute] === this.#prompts[pair[side]].prompt.values[attribute]); // prettier-ignore
    }
    return this.#draws.ratio(hits, all);
  }
}
