/**
 * explanations.json in a feature folder: what each latent responds to, by rules that need no model, and
 * where a language model was asked, in its words.
 */
import { rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import type { Model } from "../model/model.ts";
import type { Document } from "../model/text.ts";
import type { Sae } from "../sae/sae.ts";
import { encodeText, tokenText, type TextOptions } from "./codes.ts";
import { EncodedText } from "./encoded-text.ts";
import { ExampleScores } from "./example-scores.ts";
import { readJson } from "./features.ts";
import type { Interval } from "./interval.ts";
import type { ModelExplanation } from "./judge.ts";
import { CAUSAL, TokenLabels } from "./labels.ts";
import { effectVectors, nearestToLogits } from "./logits.ts";
import { NAMED_F1, RuleFinder, type RuleExplanation, type RuleScore } from "./rules.ts";
import type { Places } from "./write-point.ts";

/** Everything that explains one latent without a model being asked. */
export interface LatentExplanation extends RuleExplanation {
  /** In one line. */
  name: string;
  /** AUC: are the places where it fires alike? See example-scores.ts. */
  alike?: Interval | undefined;
  /** AUC: do the tokens that it promotes come next? */
  next?: Interval | undefined;
  /** What language models made of it. */
  models?: ModelExplanation[];
}

export interface Explanations {
  version: 1;
  /** Positions of the documents that rules were chosen on, and of those that every number comes from. */
  positions: { train: number; test: number };
  /** False when text was left out since it did not fit in memory. */
  complete: boolean;
  provenance: Record<string, unknown>;
  latents: LatentExplanation[];
}

/** Held-out text with the codes of all latents and labels that a rule may use. */
export async function readText(
  sae: Sae,
  model: Model,
  documents: AsyncIterable<Document> | Iterable<Document>,
  options: TextOptions & { device: Device; onProgress?: (done: number) => void } & Places,
): Promise<EncodedText> {
  const text = new EncodedText(new TokenLabels(tokenText(model), CAUSAL), sae.spec.dSae);
  const { device, hookPoint, onProgress } = options;
  for await (const { chunk, codes } of encodeText(
    sae,
    device,
    model,
    hookPoint,
    documents,
    options,
  )) {
    if (!text.add(chunk, codes)) break;
    onProgress?.(text.positions);
  }
  return text;
}

/** Explains all latents by rules, one after the other. */
export async function* explainByRules(
  text: EncodedText,
  sae: Sae,
  model: Model,
  options: Places & { device: Device; seed: number },
): AsyncGenerator<LatentExplanation> {
  const { device, seed } = options;
  const finder = new RuleFinder(text, seed);
  const scores = new ExampleScores(text, seed);
  const places = nearestToLogits(options);
  for await (const { latent, effects } of effectVectors(sae, model, {
    ...places,
    form: "raw",
    device,
  })) {
    const explanation = finder.explain(latent);
    yield {
      ...explanation,
      name: nameOf(explanation),
      alike: scores.alike(latent),
      next: scores.next(latent, effects),
    };
  }
}

/** The best rule as a name, with how far it can be trusted. */
function nameOf({ rules, firings }: RuleExplanation): string {
  if (rules.length === 0) return `fires too rarely to tell (${firings.train + firings.test} times)`;
  const [{ text, f1, mass, threshold }] = rules;
  const score = `F1 ${f1.value.toFixed(2)}`;
  const where = threshold > 0 ? `, of the ${Math.round(100 * mass)} % of its mass above ${threshold.toPrecision(2)}` : ""; // prettier-ignore
  if (f1.value >= NAMED_F1) return `${text} (${score}${where})`;
  if (f1.value >= 0.5) return `mostly ${text} (${score}${where})`;
  return `no rule fits (best: ${text}, ${score})`;
}

/** Whether a rule names the latent. */
export function isNamed({ rules }: Pick<RuleExplanation, "rules">): boolean {
  return rules.length > 0 && rules[0].f1.value >= NAMED_F1;
}

/** Latents with a rule, the best fitting first. */
export function bestNamed(latents: readonly LatentExplanation[]): LatentExplanation[] {
  return latents
    .filter(({ rules }) => rules.length > 0)
    .sort((a, b) => b.rules[0].f1.value - a.rules[0].f1.value || a.latent - b.latent);
}

/** How many are named and how well, beside chance. */
export interface ExplanationSummary {
  /** Latents with a rule of F1 ≥ 0.8 on test documents; of those that fire often enough to tell. */
  named: number;
  /** The same of rules that do not use the corpus's own concepts. */
  namedByText: number;
  judged: number;
  /** Of rules found in the same way for activations that were moved off their tokens. */
  namedShuffled: number;
  /** Named against every firing, however weak. */
  namedAny: number;
  medianF1: number;
  medianShuffled: number;
  medianAlways: number;
  /** Medians of the share of variance explained. */
  medianR2: { rule: number; token: number; ngram: number };
  medianAlike: number;
  medianNext: number;
}

export function summaryOf(latents: readonly LatentExplanation[]): ExplanationSummary {
  const judged = latents.filter(({ rules }) => rules.length > 0);
  const median = (value: (one: LatentExplanation) => number | undefined) => {
    const values = judged
      .map(value)
      .filter((v): v is number => v !== undefined && !Number.isNaN(v))
      .sort((a, b) => a - b);
    return values[values.length >> 1] ?? NaN;
  };
  const count = (passes: (one: LatentExplanation) => boolean) => judged.filter(passes).length;
  return {
    named: count(isNamed),
    namedByText: count((one) => isNamed(one) && one.rules[0].kind !== "concept"),
    judged: judged.length,
    namedShuffled: count(({ chance }) => chance.shuffled >= NAMED_F1),
    namedAny: count(({ rules }) => rules[0].f1Any >= NAMED_F1),
    medianF1: median(({ rules }) => rules[0].f1.value),
    medianShuffled: median(({ chance }) => chance.shuffled),
    medianAlways: median(({ chance }) => chance.always),
    medianR2: {
      rule: median(({ rules }) => rules[0].r2),
      token: median(({ variance }) => variance.token),
      ngram: median(({ variance }) => variance.ngram),
    },
    medianAlike: median(({ alike }) => alike?.value),
    medianNext: median(({ next }) => next?.value),
  };
}

const FILE = "explanations.json";

/**
 * Undefined when the folder has none.
 * @param dSae of how many latents they must be; absent: any number.
 * @throws UserError when they are damaged.
 */
export async function readExplanations(
  dir: string,
  dSae?: number,
): Promise<Explanations | undefined> {
  const path = join(dir, FILE);
  const remedy = "make it again with lens explain";
  const found = (await readJson(path, remedy)) as Partial<Explanations> | null | undefined;
  if (found === undefined) return undefined;
  const { version, positions, latents } = found ?? {};
  if (typeof version === "number" && (version as number) !== 1)
    throw new UserError(`${path} is of another version of Lens; ${remedy}`);
  if (!version || !positions || !Array.isArray(latents) || !latents.every(isExplanation))
    throw new UserError(`${path} is damaged (it does not hold rules of every latent); ${remedy}`);
  if (dSae !== undefined && latents.length !== dSae)
    throw new UserError(
      `${path} is damaged (it explains ${latents.length} latents, there are ${dSae}); ${remedy}`,
    );
  return found as Explanations;
}

/** Whether it has what lists show of it. A number that does not exist is null. */
function isExplanation(one: Partial<LatentExplanation> | null): boolean {
  const isRule = (rule: Partial<RuleScore> | null) =>
    typeof rule?.text === "string" && rule.f1?.value !== undefined;
  return Array.isArray(one?.rules) && one.rules.every(isRule);
}

/** Writes explanations.json whole. Numbers keep six digits. */
export async function writeExplanations(dir: string, explanations: Explanations): Promise<void> {
  const path = join(dir, FILE);
  const short = (_key: string, value: unknown) =>
    typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(6)) : value;
  await writeFile(`${path}.partial`, JSON.stringify(explanations, short));
  await rename(`${path}.partial`, path);
}
