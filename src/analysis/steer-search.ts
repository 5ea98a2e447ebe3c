/**
 * Which latents to turn up so that a model writes about something: the effect of every latent on what
 * comes next, measured at real contexts before any text is generated.
 *
 * At each position of held-out text the latent's decoder direction is added, strength · d, at this and
 * all other positions, the later layers run again, and the next-token distribution p' is compared with
 * the model's own, p:
 *
 * rate  mean over positions of Σ_{v ∈ words} p'(v): how often a word of the concept is begun
 * kl    mean over positions of Σ_v p'(v) log(p'(v) / p(v)), in nats
 * cost  mean over positions of Σ_v (p'(v) − p(v)) (−log p(v)), in nats: by how much what the changed
 *       model would say surprises the model as it is more than its own words do; e^cost is about how
 *       many times the perplexity of generated text rises
 */
import { labelWords } from "../corpus/labeller.ts";
import { UserError } from "../error.ts";
import { logSumExp } from "../model/generate.ts";
import type { Model } from "../model/model.ts";
import type { Document } from "../model/text.ts";
import type { Sae } from "../sae/sae.ts";
import { requireFit, rowBatches, tokenText } from "./codes.ts";
import { effectVectors } from "./logits.ts";
import { directionOf } from "./steer.ts";

/** Vocabulary items that begin a word of a concept. */
export interface ConceptTokens {
  name: string;
  tokens: readonly number[];
}

/** The vocabulary items that are, with their space, a word of the corpus's lexicon that shows the concept. */
export function tokensOfConcept(
  model: Pick<Model, "tokenizer" | "info">,
  concept: string,
): ConceptTokens {
  const show = tokenText(model);
  const tokens = [...Array(model.info.vocabSize).keys()].filter((token) => {
    const [, word] = /^ (\p{L}+)$/u.exec(show(token)) ?? [];
    return (
      word !== undefined && [...labelWords(word)].some(({ concepts }) => concepts.includes(concept))
    );
  });
  return { name: concept, tokens };
}

/** Latents at a strength, with their effect on every concept. */
export interface LatentEffect {
  /** One, or several that are turned up together. */
  latents: readonly number[];
  /** What is added to the activation of each. */
  strength: number;
  kl: number;
  cost: number;
  /** Per concept, in the order they were given. */
  rates: Float64Array;
}

export interface SearchOptions {
  hookPoint: string;
  /** Positions of held-out text to measure at. */
  tokens: number;
  contextLength?: number;
  /** Lengths of what is added, in root mean squares of ‖x - x̄‖ over these positions. */
  sizes: readonly number[];
  /** Sets that are turned up together; absent: every latent alone. */
  latents?: readonly (readonly number[])[];
  onProgress?: (done: number, total: number) => void;
}

export interface FindByEffectOptions extends Pick<
  SearchOptions,
  "hookPoint" | "contextLength" | "onProgress"
> {
  tokens?: number;
  /** Latents that are measured for each concept: those whose direct effect on its words is largest. */
  candidates?: number;
  /**
   * Up to so many of a concept's best latents are also turned up at once (default 1, none are): 2, 4, 8 and
   * so on. What they say of the concept adds up, what else they do mostly does not.
   */
  together?: number;
  /** Log of how many times the perplexity may rise. */
  maxCost?: number;
}

/** What could be turned up for a concept. */
export interface ConceptSearch {
  name: string;
  /** The rate of the model as it is. */
  baseline: number;
  /** Best first; at the size whose rate is highest within the cost. */
  found: (Pick<LatentEffect, "latents" | "strength" | "kl" | "cost"> & { rate: number })[];
}

/** Lengths that are tried. */
const SIZES = [0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1];

/**
 * For each concept the latents to turn up, and how far: of those whose decoder rows raise the logits of
 * its words most (centred, in standard deviations over the vocabulary), the ones that raise its rate
 * most at real contexts at an allowed cost. A latent that writes a word need not be one that reads it
 * (Arad et al. 2025, "SAEs are good for steering if you select the right features").
 */
export async function findByEffect(
  sae: Sae,
  model: Model,
  concepts: readonly ConceptTokens[],
  documents: AsyncIterable<Document> | Iterable<Document>,
  options: FindByEffectOptions,
): Promise<ConceptSearch[]> {
  const { hookPoint, tokens = 1024, candidates = 12, together = 1 } = options;
  const { maxCost = Math.log(1.3), contextLength = 64, onProgress } = options;
  if (!Number.isInteger(together) || together < 1)
    throw new UserError(`together must be a whole number of latents, at least 1; got ${together}`);
  const direct = concepts.map((): { latent: number; effect: number }[] => []);
  for await (const { latent, effects } of effectVectors(sae, model, {
    hookPoint,
    form: "centred",
  })) {
    const scale = Math.sqrt(effects.reduce((sum, v) => sum + v * v, 0) / effects.length);
    for (const [c, { tokens: words }] of concepts.entries()) {
      const effect = words.reduce((sum, v) => sum + effects[v], 0) / words.length / scale;
      if (effect > 0) direct[c].push({ latent, effect });
    }
  }
  const singles = new Set(
    direct.flatMap((list) =>
      list
        .toSorted((a, b) => b.effect - a.effect)
        .slice(0, candidates)
        .map(({ latent }) => latent),
    ),
  );
  const measure = await effectMeasure(sae, model, concepts, documents, {
    ...{ hookPoint, tokens, contextLength, sizes: SIZES },
  });
  let done = 0;
  const sizesOfSets = Array.from(
    { length: Math.floor(Math.log2(together)) },
    (_, i) => 2 ** (i + 1),
  );
  const total = singles.size + concepts.length * sizesOfSets.length;
  const effects: LatentEffect[] = [];
  const add = async (latents: readonly number[]) => {
    effects.push(...(await measure.of(latents)));
    onProgress?.(++done, total);
  };
  for (const latent of singles) await add([latent]);
  const sets = concepts.flatMap((_, c) => {
    const best = bestEffects(effects, c, maxCost).map(({ latents }) => latents[0]);
    return sizesOfSets.filter((n) => n <= best.length).map((n) => best.slice(0, n));
  });
  for (const set of sets) await add(set);
  const { baseline } = measure;
  return concepts.map(({ name }, c) => ({
    ...{ name, baseline: baseline[c] },
    found: bestEffects(effects, c, maxCost)
      .filter(({ rates }) => rates[c] > baseline[c])
      .map(({ latents, strength, kl, cost, rates }) => ({
        ...{ latents, strength, kl, cost, rate: rates[c] },
      })),
  }));
}

/** Contexts with the model's own distribution at each. */
interface Contexts {
  tokens: Int32Array;
  batch: number;
  length: number;
  x: Float32Array;
  /** log q [kept, vocabSize]. */
  logq: Float32Array;
  /** Σ_v q log q at each kept place. */
  negentropy: Float64Array;
  /** Places [batch · length] whose token is text. */
  kept: Int32Array;
  /** Room for a distribution at each kept place. */
  scratch: Float64Array;
}

/**
 * The effects of sets of latents (each alone by default) at each size, and the rates without any.
 * @throws UserError when the SAE does not fit the model, or writes elsewhere than it reads.
 */
export async function conceptEffects(
  sae: Sae,
  model: Model,
  concepts: readonly ConceptTokens[],
  documents: AsyncIterable<Document> | Iterable<Document>,
  options: SearchOptions,
): Promise<{ baseline: Float64Array; effects: LatentEffect[] }> {
  const measure = await effectMeasure(sae, model, concepts, documents, options);
  const sets = options.latents ?? Array.from({ length: sae.spec.dSae }, (_, f) => [f]);
  const effects: LatentEffect[] = [];
  for (const [i, latents] of sets.entries()) {
    effects.push(...(await measure.of(latents)));
    options.onProgress?.(i + 1, sets.length);
  }
  return { baseline: measure.baseline, effects };
}

/** Reads the contexts; `of` is what turning up a set of latents does there, at each size. */
async function effectMeasure(
  sae: Sae,
  model: Model,
  concepts: readonly ConceptTokens[],
  documents: AsyncIterable<Document> | Iterable<Document>,
  options: SearchOptions,
): Promise<{
  baseline: Float64Array;
  of: (latents: readonly number[]) => Promise<LatentEffect[]>;
}> {
  const [name, ...others] = requireFit(sae, model, options.hookPoint);
  if (sae.spec.transcoder || others.length > 0)
    throw new UserError("latents of an autoencoder of one hook point can be searched, no others");
  const contexts = await contextsOf(model, name, documents, options);
  const { tokens, batch, length } = contexts;
  const unit = spread(contexts, sae.spec.dIn);
  const { vocabSize } = model.info;
  const baseline = ratesOf(contexts, concepts, (i, v) =>
    Math.exp(contexts.logq[i * vocabSize + v]),
  );
  const of = async (latents: readonly number[]) => {
    const direction = directionOf(sae, latents, contexts.x.subarray(0, sae.spec.dIn));
    const norm = Math.hypot(...direction);
    const effects: LatentEffect[] = [];
    for (const size of norm > 0 ? options.sizes : []) {
      const strength = (size * unit) / norm;
      const patch = { [name]: moved(contexts, direction, strength) };
      const { logits } = await model.forward({ tokens, batch, length, patch, logits: "all" });
      effects.push({ latents, strength, ...measured(contexts, logits!, concepts) });
    }
    return effects;
  };
  return { baseline, of };
}

/**
 * The effects to try for a concept, best first: by rate, of those with a cost of at most `maxCost`, one
 * for each set of latents.
 */
export function bestEffects(
  effects: readonly LatentEffect[],
  concept: number,
  maxCost: number,
): LatentEffect[] {
  const best = new Map<string, LatentEffect>();
  for (const effect of effects) {
    if (effect.cost > maxCost) continue;
    const key = effect.latents.join();
    const before = best.get(key);
    if (!before || effect.rates[concept] > before.rates[concept]) best.set(key, effect);
  }
  return [...best.values()].sort(
    (a, b) => b.rates[concept] - a.rates[concept] || a.latents[0] - b.latents[0],
  );
}

async function contextsOf(
  model: Model,
  hookPoint: string,
  documents: AsyncIterable<Document> | Iterable<Document>,
  { tokens, contextLength = 64 }: SearchOptions,
): Promise<Contexts> {
  model.requireNextTokens("effects on what is written");
  const batchRows = Math.max(1, Math.round(tokens / contextLength));
  for await (const batch of rowBatches(model, documents, { tokens, contextLength, batchRows })) {
    const input = { tokens: batch.tokens, batch: batch.rows.length, length: batch.length };
    const { activations, logits } = await model.forward({
      ...{ ...input, capture: [hookPoint], logits: "all" },
    });
    const x = activations[hookPoint];
    return { ...input, x, kept: batch.kept, ...distributionsOf(logits!, batch.kept, model) };
  }
  throw new UserError("the text has no tokens to measure effects at");
}

/** Root mean square of ‖x - x̄‖ over the kept places. */
function spread({ x, kept }: Contexts, width: number): number {
  const sum = new Float64Array(width);
  let squares = 0;
  for (const at of kept)
    for (let c = 0; c < width; c++) {
      const v = x[at * width + c];
      sum[c] += v;
      squares += v * v;
    }
  const n = kept.length;
  return Math.sqrt((squares - sum.reduce((all, v) => all + v * v, 0) / n) / n);
}

function moved({ x, kept }: Contexts, direction: Float64Array, strength: number): Float32Array {
  const width = direction.length;
  const out = x.slice();
  for (const at of kept)
    for (let c = 0; c < width; c++) out[at * width + c] += strength * direction[c];
  return out;
}

/** log q and Σ q log q at the kept places. */
function distributionsOf(
  logits: Float32Array,
  kept: Int32Array,
  { info: { vocabSize } }: Model,
): Pick<Contexts, "logq" | "negentropy" | "scratch"> {
  const logq = new Float32Array(kept.length * vocabSize);
  const negentropy = new Float64Array(kept.length);
  for (const [i, at] of kept.entries()) {
    const own = logits.subarray(at * vocabSize, (at + 1) * vocabSize);
    const norm = logSumExp(own);
    for (let v = 0; v < vocabSize; v++) {
      const log = own[v] - norm;
      logq[i * vocabSize + v] = log;
      negentropy[i] += Math.exp(log) * log;
    }
  }
  return { logq, negentropy, scratch: new Float64Array(logq.length) };
}

/** Means over places of Σ p(v) over each concept's words; `share` is p(v) at a place. */
function ratesOf(
  { negentropy }: Contexts,
  concepts: readonly ConceptTokens[],
  share: (place: number, v: number) => number,
): Float64Array {
  const n = negentropy.length;
  const rates = new Float64Array(concepts.length);
  for (let i = 0; i < n; i++)
    for (const [c, { tokens }] of concepts.entries())
      for (const v of tokens) rates[c] += share(i, v) / n;
  return rates;
}

function measured(
  contexts: Contexts,
  logits: Float32Array,
  concepts: readonly ConceptTokens[],
): Omit<LatentEffect, "latents" | "strength"> {
  const { logq, negentropy, kept, scratch } = contexts;
  const n = kept.length;
  const vocabSize = logq.length / n;
  const sums = new Float64Array(n);
  let [kl, cost] = [0, 0];
  for (let i = 0; i < n; i++) {
    const own = logits.subarray(kept[i] * vocabSize, (kept[i] + 1) * vocabSize);
    let top = -Infinity;
    for (let v = 0; v < vocabSize; v++) if (own[v] > top) top = own[v];
    // Of e = exp(logit − top): Σ e, Σ e · (logit − top), Σ e · log q. Most of the time goes into exp: once is enough.
    let [sum, ownLog, modelLog] = [0, 0, 0];
    for (let v = 0, j = i * vocabSize; v < vocabSize; v++, j++) {
      const e = Math.exp(own[v] - top);
      scratch[j] = e;
      sum += e;
      ownLog += e * (own[v] - top);
      modelLog += e * logq[j];
    }
    sums[i] = sum;
    kl += ownLog / sum - Math.log(sum) - modelLog / sum;
    cost += negentropy[i] - modelLog / sum;
  }
  const share = (i: number, v: number) => scratch[i * vocabSize + v] / sums[i];
  return { kl: kl / n, cost: cost / n, rates: ratesOf(contexts, concepts, share) };
}
