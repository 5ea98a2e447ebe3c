/** Text from a model, one token at a time, with a cache of keys and values. */
import { UserError } from "../error.ts";
import { loadOrt, type Ort } from "../ort.ts";
import { Rng } from "../rng.ts";
import type { Model } from "./model.ts";

export interface GenerateOptions {
  maxNewTokens: number;
  /** Logits are divided by this before sampling; 0 always takes the most likely token. */
  temperature: number;
  /** Sample among the k most likely tokens only. */
  topK?: number;
  /** Sample among the fewest most likely tokens whose probabilities reach this sum (nucleus). */
  topP?: number;
  /** Same seed, same text. */
  seed?: number;
  /** Generation ends after one of these, which is still yielded. */
  stopTokens?: readonly number[];
}

export interface GeneratedToken {
  token: number;
  /** log p(token | tokens so far) of the model itself, before temperature, topK and topP. */
  logprob: number;
}

/**
 * Continues `promptTokens`. Ends after `maxNewTokens`, after a stop token, or when prompt and
 * continuation together fill the model's context: a token beyond it would have no position.
 * Throws UserError for an empty prompt, one longer than the context, or settings out of range.
 */
export async function* generate(
  model: Model,
  promptTokens: Int32Array,
  options: GenerateOptions,
): AsyncGenerator<GeneratedToken, void, undefined> {
  checkOptions(options);
  const { maxNewTokens, seed = 0, stopTokens = [] } = options;
  const { layers, heads, dHead, contextLength } = model.info;
  if (promptTokens.length === 0) {
    throw new UserError(
      "the prompt has no tokens: begin with the beginning-of-sequence token, or give some text.",
    );
  }
  model.checkTokens(promptTokens, 1, promptTokens.length);

  const { Tensor } = await loadOrt();
  const rng = new Rng(seed, "generate");
  const parts = Array.from({ length: layers }, (_, layer) => [`${layer}.key`, `${layer}.value`]);
  const cache: Record<string, Ort.Tensor> = {};
  for (const part of parts.flat()) {
    cache[`past.${part}`] = new Tensor("float32", new Float32Array(0), [1, heads, 0, dHead]);
  }

  let input = promptTokens;
  const room = Math.min(maxNewTokens, contextLength - promptTokens.length);
  for (let made = 0; made < room; made++) {
    const tokens = new Tensor("int32", input, [1, input.length]);
    const outputs = await model.run({ cache: true, logits: "last" }, { tokens, ...cache });
    for (const part of parts.flat()) cache[`past.${part}`] = outputs[`present.${part}`];

    const logits = outputs["logits"].data as Float32Array;
    const token = choose(logits, options, rng);
    yield { token, logprob: logits[token] - logSumExp(logits) };
    if (stopTokens.includes(token)) return;
    input = Int32Array.of(token);
  }
}

function checkOptions({ maxNewTokens, temperature, topK, topP }: GenerateOptions): void {
  const check = (holds: boolean, name: string, rule: string, value: unknown) => {
    if (!holds) throw new UserError(`${name} must be ${rule}; got ${String(value)}.`);
  };
  const isCount = (value: number) => Number.isSafeInteger(value) && value >= 0;
  check(isCount(maxNewTokens), "maxNewTokens", "an integer of at least 0", maxNewTokens);
  check(
    Number.isFinite(temperature) && temperature >= 0,
    "temperature",
    "a number of at least 0",
    temperature,
  );
  check(topK === undefined || (isCount(topK) && topK > 0), "topK", "a positive integer", topK);
  check(topP === undefined || (topP > 0 && topP <= 1), "topP", "above 0 and at most 1", topP);
}

/** Exported for its test. A token drawn from the logits; of equal ones, the lower id counts as likelier. */
export function choose(
  logits: Float32Array,
  { temperature, topK, topP = 1 }: Pick<GenerateOptions, "temperature" | "topK" | "topP">,
  rng: Rng,
): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
  if (temperature === 0) return best;

  const top = logits[best];
  const weight = (id: number) => Math.exp((logits[id] - top) / temperature);
  let candidates = Uint32Array.from(logits, (_, id) => id);
  if (topK !== undefined || topP < 1) {
    candidates.sort((a, b) => logits[b] - logits[a] || a - b);
    candidates = candidates.subarray(0, topK);
  }
  let total = 0;
  for (const id of candidates) total += weight(id);
  if (topP < 1) {
    let sum = 0;
    let kept = 0;
    while (kept < candidates.length && sum < topP * total) sum += weight(candidates[kept++]);
    candidates = candidates.subarray(0, kept);
    total = sum;
  }

  let left = rng.uniform() * total;
  for (const id of candidates) {
    left -= weight(id);
    if (left < 0) return id;
  }
  return candidates[candidates.length - 1]; // rounding used up the sum
}

/** log Σ exp(x), without overflow, in float64. */
function logSumExp(values: Float32Array): number {
  let largest = -Infinity;
  for (const value of values) largest = Math.max(largest, value);
  let sum = 0;
  for (const value of values) sum += Math.exp(value - largest);
  return largest + Math.log(sum);
}
