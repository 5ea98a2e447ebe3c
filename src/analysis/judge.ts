/**
 * Explanations in a language model's words, and their test: the explainer sees examples from train
 * documents, the judge texts from test documents, one a document. What has no answer is missing: it
 * counts neither for nor against.
 */
import { Rng } from "../rng.ts";
import type { EncodedText } from "./encoded-text.ts";
import type { Answer, Endpoint } from "./endpoint.ts";
import type { Example } from "./features.ts";
import type { Interval } from "./interval.ts";
import {
  nearness,
  oddOneOut,
  simulation,
  youden,
  type Judged,
  type Simulated,
} from "./judge-scores.ts";
import { batchesOf, marksOf, shownExamples, testTexts } from "./judge-texts.ts";
import {
  detectionPrompt,
  explainPrompt,
  fuzzingPrompt,
  intruderPrompt,
  markedText,
  plainText,
  PROMPTS,
  simulationPrompt,
} from "./prompts.ts";

export const SCORERS = ["detection", "fuzzing", "intruder", "simulation", "embedding"] as const;
export type Scorer = (typeof SCORERS)[number];

const TEXTS_A_QUESTION = 5;
const INTRUDER_AMONG = 5;
/** Fewer texts of a kind say nothing. */
const MIN_TEXTS = 5;

/** An answer that was wrong, kept to be looked at. */
export interface Misjudged {
  scorer: Scorer;
  document: string;
  text: string;
  truth: string;
  answer: string;
}

export interface JudgeScore {
  scorer: Scorer;
  /** 0 is chance, 1 without fault; see judge-scores.ts. */
  score: Interval;
  /** Texts, or rounds, that were answered. */
  answered: number;
  missing: number;
}

export interface ModelExplanation {
  model: string;
  endpoint: string;
  prompts: string;
  explanation: string;
  /** Train documents that the explainer saw. */
  shown: string[];
  scores: JudgeScore[];
  misjudged: Misjudged[];
  /** What could not be had, and why. */
  missing: string[];
}

export interface JudgeOptions {
  scorers: readonly Scorer[];
  seed: number;
  /** The explanation as it comes. */
  onText?: (text: string) => void;
}

/** Asks for an explanation of one latent and scores it. @throws UserError when the endpoint refuses everybody, or there is no such latent. */
export async function explainByModel(
  text: EncodedText,
  latent: number,
  endpoint: Endpoint,
  { scorers, seed, onText }: JudgeOptions,
): Promise<ModelExplanation | { missing: string }> {
  const { examples, max } = shownExamples(text, latent);
  if (examples.length < MIN_TEXTS)
    return { missing: `it fires in too few train documents (${examples.length})` };
  const answer = await endpoint.ask({
    ...explainPrompt(examples, max),
    placeholder: "words of one kind, such as some that are about forty tokens long in an explanation of a feature by a model, which are not known here yet", // prettier-ignore
    ...(onText && { onText }),
  });
  if ("missing" in answer) return answer;
  const explanation = answer.value;
  const texts = testTexts(text, latent, seed);
  const judge = new Judge(endpoint, explanation, texts, max, new Rng(seed, "judge", latent));
  const found: ModelExplanation = {
    ...{ model: endpoint.model, endpoint: endpoint.url, prompts: PROMPTS, explanation },
    shown: examples.map(({ document }) => document),
    ...{ scores: [], misjudged: judge.misjudged, missing: judge.missing },
  };
  const few = [["in which it fires", texts.firing], ["in which it is silent", texts.silent]] as const; // prettier-ignore
  const lacking = few.find(([, { length }]) => length < MIN_TEXTS);
  if (lacking) {
    judge.missing.push(`scores: too few test texts ${lacking[0]} (${lacking[1].length})`);
    return found;
  }
  // Drawn one after the other, so that what a scorer draws does not depend on answers.
  const asked = scorers.map((scorer) => judge.score(scorer));
  for (const score of await Promise.all(asked)) if (score) found.scores.push(score);
  const place = ({ scorer, document, text }: Misjudged) => `${SCORERS.indexOf(scorer)} ${document} ${text}`; // prettier-ignore
  found.misjudged.sort((a, b) => (place(a) < place(b) ? -1 : 1));
  return found;
}

class Judge {
  readonly misjudged: Misjudged[] = [];
  readonly missing: string[] = [];
  readonly #endpoint: Endpoint;
  readonly #explanation: string;
  readonly #firing: Example[];
  readonly #silent: Example[];
  readonly #max: number;
  readonly #rng: Rng;

  constructor(
    endpoint: Endpoint,
    explanation: string,
    { firing, silent }: { firing: Example[]; silent: Example[] },
    max: number,
    rng: Rng,
  ) {
    this.#endpoint = endpoint;
    this.#explanation = explanation;
    this.#firing = firing;
    this.#silent = silent;
    this.#max = max;
    this.#rng = rng;
  }

  score(scorer: Scorer): Promise<JudgeScore | undefined> {
    switch (scorer) {
      case "detection":
        return this.#detection();
      case "fuzzing":
        return this.#fuzzing();
      case "intruder":
        return this.#intruder();
      case "simulation":
        return this.#simulation();
      case "embedding":
        return this.#embedding();
      default:
        return scorer satisfies never;
    }
  }

  /** Half of the firing texts, of all strengths, against as many silent ones. */
  #detection() {
    const firing = everySecond(this.#firing, 0);
    const items = [
      ...firing.map((example) => ({ example, text: plainText(example), truth: true })),
      ...this.#silent
        .slice(0, firing.length)
        .map((example) => ({ example, text: plainText(example), truth: false })),
    ];
    return this.#yesOrNo("detection", items, detectionPrompt);
  }

  /** Marks where the latent is active against as many marks elsewhere in other texts in which it fires too. */
  #fuzzing() {
    const right = everySecond(this.#firing, 0).map((example) => {
      const active = marksOf(example, this.#max);
      return { example, text: markedText(example, (piece) => active[piece]), truth: true };
    });
    const wrong = everySecond(this.#firing, 1).flatMap((example) => {
      const count = marksOf(example, this.#max).filter(Boolean).length;
      const quiet = this.#rng.shuffle([...example.pieces.keys()].filter((i) => example.values[i] === 0)); // prettier-ignore
      if (quiet.length < count) return [];
      const marked = new Set(quiet.slice(0, count));
      return [{ example, text: markedText(example, (piece) => marked.has(piece)), truth: false }];
    });
    return this.#yesOrNo("fuzzing", [...right, ...wrong], fuzzingPrompt);
  }

  async #yesOrNo(
    scorer: Scorer,
    items: { example: Example; text: string; truth: boolean }[],
    prompt: typeof detectionPrompt,
  ): Promise<JudgeScore | undefined> {
    this.#rng.shuffle(items);
    const judged = await eachAnswered(batchesOf(items, TEXTS_A_QUESTION), async (batch) => {
      const question = prompt(
        this.#explanation,
        batch.map(({ text }) => text),
      );
      const answers = this.#known(scorer, await this.#endpoint.ask(question)) ?? [];
      return answers.map((answer, i): Judged => {
        const { truth, example, text } = batch[i];
        if (answer !== truth) this.#keep(scorer, example, text, yes(truth), yes(answer));
        return { truth, answer };
      });
    });
    return this.#scored(scorer, youden(judged), judged.length, items.length);
  }

  /** Four texts in which the latent is about equally active, and one in which it is silent. */
  async #intruder(): Promise<JudgeScore | undefined> {
    const among = INTRUDER_AMONG - 1;
    const rounds = batchesOf(this.#firing, among)
      .filter((group) => group.length === among)
      .slice(0, this.#silent.length)
      .map((group, i) => {
        const odd = this.#rng.int(INTRUDER_AMONG);
        const texts = group.toSpliced(odd, 0, this.#silent[i]);
        return { texts, odd };
      });
    const found = await eachAnswered(rounds, async ({ texts, odd }) => {
      const question = intruderPrompt(texts.map(plainText));
      const answer = this.#known("intruder", await this.#endpoint.ask(question));
      if (answer === undefined) return [];
      if (answer !== odd)
        this.#keep("intruder", texts[odd], plainText(texts[odd]), "odd", `odd: ${plainText(texts[answer])}`); // prettier-ignore
      return [answer === odd];
    });
    return this.#scored("intruder", oddOneOut(found, INTRUDER_AMONG), found.length, rounds.length);
  }

  async #simulation(): Promise<JudgeScore | undefined> {
    const firing = this.#firing.filter((_, i) => i % 4 === 1);
    const examples = [...firing, ...this.#silent.slice(-firing.length)];
    const done = await eachAnswered(examples, async (example) => {
      const question = simulationPrompt(this.#explanation, example);
      const predicted = this.#known("simulation", await this.#endpoint.ask(question));
      if (!predicted) return [];
      // Where the two are furthest apart, in tenths of the largest activation.
      const truth = example.values.map((value) => (10 * value) / this.#max);
      const gap = (i: number) => Math.abs(predicted[i] - truth[i]);
      const worst = predicted.reduce((at, _, i) => (gap(i) > gap(at) ? i : at), 0);
      if (gap(worst) >= 5)
        this.#keep("simulation", example, markedText(example, (i) => i === worst), truth[worst].toFixed(1), String(predicted[worst])); // prettier-ignore
      return [{ predicted, actual: example.values } satisfies Simulated];
    });
    return this.#scored("simulation", simulation(done), done.length, examples.length);
  }

  async #embedding(): Promise<JudgeScore | undefined> {
    const items = [
      ...this.#firing.map((example) => ({ example, truth: true })),
      ...this.#silent.map((example) => ({ example, truth: false })),
    ];
    const answer = await this.#endpoint.embed([
      this.#explanation,
      ...items.map(({ example }) => plainText(example)),
    ]);
    const vectors = this.#known("embedding", answer);
    if (!vectors) return this.#scored("embedding", nearness([]), 0, items.length);
    const [query, ...others] = vectors;
    const near = others.map((vector, i) => ({
      truth: items[i].truth,
      near: cosine(query, vector),
    }));
    return this.#scored("embedding", nearness(near), items.length, items.length);
  }

  #known<T>(scorer: Scorer, answer: Answer<T>): T | undefined {
    if ("value" in answer) return answer.value;
    const why = `${scorer}: ${answer.missing}`;
    if (!this.missing.includes(why)) this.missing.push(why);
    return undefined;
  }

  #scored(
    scorer: Scorer,
    score: Interval,
    answered: number,
    asked: number,
  ): JudgeScore | undefined {
    if (Number.isNaN(score.value)) {
      this.missing.push(`${scorer}: too few answers (${answered} of ${asked})`);
      return undefined;
    }
    return { scorer, score, answered, missing: asked - answered };
  }

  #keep(scorer: Scorer, { document }: Example, text: string, truth: string, answer: string): void {
    this.misjudged.push({ scorer, document, text, truth, answer });
  }
}

/** What each item yields, all at the same time, in the order of the items: the same however fast the answers come. */
async function eachAnswered<T, U>(items: T[], work: (item: T) => Promise<U[]>): Promise<U[]> {
  return (await Promise.all(items.map(work))).flat();
}

function everySecond<T>(items: readonly T[], from: 0 | 1): T[] {
  return items.filter((_, i) => i % 2 === from);
}

const yes = (value: boolean) => (value ? "active" : "not active");

function cosine(a: readonly number[], b: readonly number[]): number {
  let [dot, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    dot += a[i] * b[i];
    aa += a[i] ** 2;
    bb += b[i] ** 2;
  }
  return dot / Math.sqrt(aa * bb);
}
