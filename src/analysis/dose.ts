/**
 * Dose and response: what an edit of some strength does to the text that a model makes, beside what
 * it costs, and beside the same for other latents and for random directions of the same length.
 *
 * Per strength, over `texts` continuations of one prompt that differ in their random numbers alone:
 *
 * rate        Σ hits / Σ words of what `score` finds in the new text
 * perplexity  exp(Σ −log p / Σ tokens) of the new tokens under the model as it is, unsteered
 * kl          mean over the new tokens of the unsteered texts of Σ_v p'(v) log(p'(v) / p(v)), p' steered, p not, in nats
 * repetition  1 − distinct word trigrams / word trigrams, trigrams within one text
 *
 * with 95 % bootstrap intervals over texts.
 */
import { UserError } from "../error.ts";
import {
  generateMany,
  logSumExp,
  type GenerateOptions,
  type Intervention,
} from "../model/generate.ts";
import type { Model } from "../model/model.ts";
import { ratioInterval, type Interval } from "./interval.ts";

/** What a text is searched for. */
export type Score = (text: string) => { hits: number; words: number };

export interface DoseOptions {
  prompt: Int32Array;
  /** Continuations for each strength. */
  texts: number;
  generation: Omit<GenerateOptions, "intervention">;
  score: Score;
  onProgress?: (done: number, total: number) => void;
}

/** What is turned up: the intervention at a strength. */
export interface Subject {
  /** In words: `latent 123`, `random direction 2`. */
  name: string;
  kind: "target" | "latent" | "random";
  at: (strength: number) => Intervention;
}

export interface Response {
  strength: number;
  rate: Interval;
  perplexity: Interval;
  kl: Interval;
  repetition: Interval;
  /** The first texts, to look at. */
  samples: string[];
}

export interface DoseResponse {
  /** Nothing steered. */
  baseline: Omit<Response, "strength" | "kl">;
  subjects: { name: string; kind: Subject["kind"]; responses: Response[] }[];
}

/** Texts kept of each strength. */
const SAMPLES = 3;

interface Made {
  tokens: Int32Array[];
  texts: string[];
}

/**
 * Measures every subject at every strength.
 * @throws UserError for fewer than 2 texts, of which there would be no interval, or no strength.
 */
export async function doseResponse(
  model: Model,
  subjects: readonly Subject[],
  strengths: readonly number[],
  options: DoseOptions,
): Promise<DoseResponse> {
  const { texts, prompt, onProgress } = options;
  if (!(texts >= 2)) throw new UserError(`texts must be at least 2; got ${texts}`);
  if (strengths.length === 0) throw new UserError("give at least one strength");
  const total = 1 + texts + subjects.length * strengths.length;
  let done = 0;
  const plain = await make(model, options);
  const baseline = await measured(model, plain, options);
  onProgress?.(++done, total);
  const doses = subjects.map(({ at }) => strengths.map((strength) => at(strength)));
  const divergences = await divergencesOf(model, plain.tokens, prompt.length, doses.flat(), () =>
    onProgress?.(++done, total),
  );
  const results: DoseResponse["subjects"] = [];
  for (const [s, { name, kind }] of subjects.entries()) {
    const responses: Response[] = [];
    for (const [i, strength] of strengths.entries()) {
      const made = await make(model, options, doses[s][i]);
      const response = await measured(model, made, options);
      responses.push({ strength, ...response, kl: divergences[s * strengths.length + i] });
      onProgress?.(++done, total);
    }
    results.push({ name, kind, responses });
  }
  return { baseline, subjects: results };
}

/** Prompt and continuation of each text, a stop token at its end left out. */
async function make(
  model: Model,
  { prompt, texts, generation }: DoseOptions,
  intervention?: Intervention,
): Promise<Made> {
  const settings = intervention ? { ...generation, intervention } : generation;
  const made = await generateMany(model, prompt, texts, settings);
  const stops = new Set(generation.stopTokens);
  const fresh = made.map((row) =>
    row.map(({ token }) => token).filter((token) => !stops.has(token)),
  );
  return {
    tokens: fresh.map((row) => Int32Array.of(...prompt, ...row)),
    texts: fresh.map((row) => model.tokenizer.decode(row)),
  };
}

async function measured(
  model: Model,
  { tokens, texts }: Made,
  { prompt, score }: DoseOptions,
): Promise<Omit<Response, "strength" | "kl">> {
  const scores = texts.map(score);
  const losses: number[] = [];
  const counts: number[] = [];
  for (const row of tokens) {
    const { loss } = await model.forward({
      ...{ tokens: row, batch: 1, length: row.length, loss: true },
    });
    // loss[i] is that of token i + 1.
    const own = loss!.subarray(prompt.length - 1);
    losses.push(own.reduce((sum, v) => sum + v, 0));
    counts.push(own.length);
  }
  const trigrams = texts.map(trigramsOf);
  const perToken = ratioInterval(losses, counts);
  return {
    rate: ratioInterval(
      scores.map(({ hits }) => hits),
      scores.map(({ words }) => words),
    ),
    perplexity: mapInterval(perToken, Math.exp),
    repetition: mapInterval(
      ratioInterval(
        trigrams.map(({ distinct }) => distinct),
        trigrams.map(({ all }) => all),
      ),
      (share) => 1 - share,
    ),
    samples: texts.slice(0, SAMPLES),
  };
}

/** An interval of f of the value, f monotone. */
function mapInterval({ value, low, high }: Interval, f: (v: number) => number): Interval {
  const [a, b] = [f(low), f(high)];
  return { value: f(value), low: Math.min(a, b), high: Math.max(a, b) };
}

function trigramsOf(text: string): { distinct: number; all: number } {
  const words = text.toLowerCase().match(/\p{L}+/gu) ?? [];
  const seen = new Set<string>();
  for (let i = 2; i < words.length; i++) seen.add(words.slice(i - 2, i + 1).join(" "));
  return { distinct: seen.size, all: Math.max(0, words.length - 2) };
}

/**
 * For each intervention the mean KL(steered ‖ unsteered) over what followed the prompt, with texts as
 * units. Text by text, so that each goes through the model unsteered once, whatever is compared with it.
 */
async function divergencesOf(
  model: Model,
  texts: readonly Int32Array[],
  promptLength: number,
  interventions: readonly Intervention[],
  onText: () => void,
): Promise<Interval[]> {
  const { vocabSize } = model.info;
  const capture = [...new Set(interventions.map(({ hookPoint }) => hookPoint))];
  const sums = interventions.map((): number[] => []);
  const counts: number[] = [];
  // The logits at position p are those of token p + 1; the last ones are of a token not made.
  const from = promptLength - 1;
  for (const tokens of texts) {
    const to = tokens.length - 1;
    const input = { tokens, batch: 1, length: tokens.length, logits: "all" } as const;
    const plain = await model.forward({ ...input, capture });
    const rowsOf = (logits: Float32Array) =>
      Array.from({ length: Math.max(0, to - from) }, (_, i) =>
        logits.subarray((from + i) * vocabSize, (from + i + 1) * vocabSize),
      );
    const unsteered = rowsOf(plain.logits!);
    const logSums = unsteered.map(logSumExp);
    for (const [n, { hookPoint, replace }] of interventions.entries()) {
      const patch = { [hookPoint]: await replace(plain.activations[hookPoint], 0) };
      const steered = rowsOf((await model.forward({ ...input, patch })).logits!);
      sums[n].push(
        steered.reduce(
          (sum, row, i) => sum + klOf(row, unsteered[i], logSumExp(row), logSums[i]),
          0,
        ),
      );
    }
    counts.push(unsteered.length);
    onText();
  }
  return sums.map((sum) => ratioInterval(sum, counts));
}

/** KL(softmax(a) ‖ softmax(b)) in nats, in float64; `la` and `lb` are their log Σ exp, where they are known. */
export function klOf(
  a: Float32Array,
  b: Float32Array,
  la = logSumExp(a),
  lb = logSumExp(b),
): number {
  let sum = 0;
  for (let v = 0; v < a.length; v++) {
    const log = a[v] - la;
    sum += Math.exp(log) * (log - (b[v] - lb));
  }
  return Math.max(0, sum);
}

/**
 * The strength to use: of those whose perplexity is at most `cost` times the baseline's, the one with
 * the highest rate; undefined when there is none that raises it.
 */
export function recommended(
  { baseline }: Pick<DoseResponse, "baseline">,
  responses: readonly Response[],
  cost = 1.3,
): Response | undefined {
  return responses
    .filter(({ perplexity }) => perplexity.value <= cost * baseline.perplexity.value)
    .filter(({ rate }) => rate.value > baseline.rate.value)
    .toSorted((a, b) => b.rate.value - a.rate.value)[0];
}
