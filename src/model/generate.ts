/** Text from a model, one token at a time, with a cache of keys and values. */
import { UserError } from "../error.ts";
import { loadOrt, type Ort } from "../ort.ts";
import { Rng } from "../rng.ts";
import type { GraphRequest } from "./graph.ts";
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
  /** Changes the model's values at a hook point, and by them all that follows. */
  intervention?: Intervention;
}

/** New values for those at a hook point. */
export interface Intervention {
  hookPoint: string;
  /**
   * Called once for the prompt and then for each token that was made.
   * @param x [positions, width], to be left as it is. @param first position of its first row, in prompt and continuation.
   */
  replace: (x: Float32Array, first: number) => Float32Array | Promise<Float32Array>;
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
  const { contextLength } = model.info;
  checkPrompt(model, promptTokens);
  const rng = new Rng(seed, "generate");
  const next = await logitsOf(model, 1, options.intervention);
  let input = promptTokens;
  const room = Math.min(maxNewTokens, contextLength - promptTokens.length);
  for (let made = 0; made < room; made++) {
    const logits = await next(input);
    const token = choose(logits, options, rng);
    yield { token, logprob: logits[token] - logSumExp(logits) };
    if (stopTokens.includes(token)) return;
    input = Int32Array.of(token);
  }
}

/**
 * `count` continuations of one prompt, made together, which is far quicker than one after the other.
 * Each has random numbers of its own, whatever `count` is. Throws UserError as `generate` does.
 */
export async function generateMany(
  model: Model,
  promptTokens: Int32Array,
  count: number,
  options: GenerateOptions,
): Promise<GeneratedToken[][]> {
  checkOptions(options);
  checkPrompt(model, promptTokens);
  const { maxNewTokens, seed = 0, stopTokens = [] } = options;
  const { contextLength, vocabSize } = model.info;
  const made = Array.from({ length: count }, (): GeneratedToken[] => []);
  const rngs = made.map((_, n) => new Rng(seed, "generate", n));
  const ended = made.map(() => false);
  const next = await logitsOf(model, count, options.intervention);
  const { length } = promptTokens;
  let input = Int32Array.from({ length: count * length }, (_, i) => promptTokens[i % length]);
  const room = Math.min(maxNewTokens, contextLength - length);
  for (let step = 0; step < room && !ended.every(Boolean); step++) {
    const logits = await next(input);
    // Rows that have ended go on as they are, unheeded.
    input = Int32Array.from(made, (row, n) => {
      if (ended[n]) return row.at(-1)!.token;
      const own = logits.subarray(n * vocabSize, (n + 1) * vocabSize);
      const token = choose(own, options, rngs[n]);
      row.push({ token, logprob: own[token] - logSumExp(own) });
      ended[n] = stopTokens.includes(token);
      return token;
    });
  }
  return made;
}

/**
 * A function that reads on, n tokens of each of `batch` texts, and gives the logits after the last
 * ones, [batch, vocabSize].
 */
async function logitsOf(
  model: Model,
  batch: number,
  intervention: Intervention | undefined,
): Promise<(tokens: Int32Array) => Promise<Float32Array>> {
  const { layers } = model.info;
  if (!intervention) {
    const whole = await cachedRun(model, batch, { from: 0, to: layers });
    return async (tokens) => (await whole(tokens, { logits: "last" })).logits;
  }
  // Up to the hook point, and on from there with what was put into its place. Layer 0 keeps a cache
  // even where the hook point comes before it: positions are counted by it.
  const { hookPoint, replace } = intervention;
  const { firstLayer, isWhole } = model.layersAfter(hookPoint);
  const before = await cachedRun(model, batch, { from: 0, to: Math.max(1, firstLayer) });
  const after = await cachedRun(model, batch, { from: isWhole ? firstLayer : 0, to: layers });
  let first = 0;
  return async (tokens) => {
    const { [hookPoint]: values } = await before(tokens, { capture: [hookPoint] });
    const size = values.length / batch;
    const replaced = new Float32Array(values.length);
    for (let n = 0; n < batch; n++)
      replaced.set(await replace(values.subarray(n * size, (n + 1) * size), first), n * size);
    first += tokens.length / batch;
    return (await after(tokens, { logits: "last" }, { [hookPoint]: replaced })).logits;
  };
}

/** Runs of the model, each of which sees the keys and values of these layers from those before. */
async function cachedRun(model: Model, batch: number, cached: { from: number; to: number }) {
  const { Tensor } = await loadOrt();
  const { kvHeads, dHead } = model.info;
  const layers = Array.from({ length: cached.to - cached.from }, (_, i) => cached.from + i);
  const parts = layers.flatMap((layer) => [`${layer}.key`, `${layer}.value`]);
  const cache: Record<string, Ort.Tensor> = {};
  for (const part of parts)
    cache[`past.${part}`] = new Tensor("float32", new Float32Array(0), [batch, kvHeads, 0, dHead]);
  return async (
    tokens: Int32Array,
    request: Pick<GraphRequest, "capture" | "logits">,
    patch: Readonly<Record<string, Float32Array>> = {},
  ): Promise<Record<string, Float32Array>> => {
    const length = tokens.length / batch;
    const feeds: Record<string, Ort.Tensor> = {
      tokens: new Tensor("int32", tokens, [batch, length]),
      ...cache,
    };
    for (const [name, values] of Object.entries(patch))
      feeds[`patch.${name}`] = new Tensor("float32", values, [
        ...[batch, length, model.hookWidth(name)],
      ]);
    const all = { ...request, patch: Object.keys(patch), cache: cached };
    const outputs = await model.run(all, feeds);
    for (const part of parts) cache[`past.${part}`] = outputs[`present.${part}`];
    const wanted = [...(request.capture ?? []), ...(request.logits ? ["logits"] : [])];
    return Object.fromEntries(wanted.map((name) => [name, outputs[name].data as Float32Array]));
  };
}

function checkPrompt(model: Model, promptTokens: Int32Array): void {
  model.requireNextTokens("continuations of a text");
  if (promptTokens.length === 0)
    throw new UserError(
      "the prompt has no tokens: begin with the beginning-of-sequence token, or give some text.",
    );
  model.checkTokens(promptTokens, 1, promptTokens.length);
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

  let candidates: Uint32Array | undefined; // absent: all, in their order
  if (topK !== undefined || topP < 1) {
    candidates = Uint32Array.from(logits, (_, id) => id);
    candidates.sort((a, b) => logits[b] - logits[a] || a - b);
    candidates = candidates.subarray(0, topK);
  }
  const idOf = (i: number) => (candidates ? candidates[i] : i);
  const top = logits[best];
  const weights = new Float64Array(candidates?.length ?? logits.length);
  let total = 0;
  for (let i = 0; i < weights.length; i++)
    total += weights[i] = Math.exp((logits[idOf(i)] - top) / temperature);
  let kept = weights.length;
  if (topP < 1) {
    let sum = 0;
    for (kept = 0; kept < weights.length && sum < topP * total; kept++) sum += weights[kept];
    total = sum;
  }

  let left = rng.uniform() * total;
  for (let i = 0; i < kept; i++) {
    left -= weights[i];
    if (left < 0) return idOf(i);
  }
  return idOf(kept - 1); // rounding used up the sum
}

/** log Σ exp(x), without overflow, in float64. */
export function logSumExp(values: Float32Array): number {
  let largest = -Infinity;
  // By index: over a vocabulary, for every token, an iterator is several times slower.
  for (let i = 0; i < values.length; i++) if (values[i] > largest) largest = values[i];
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += Math.exp(values[i] - largest);
  return largest + Math.log(sum);
}
