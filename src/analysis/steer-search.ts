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

/** A latent at a strength, with its effect on every concept. */
export interface LatentEffect {
  latent: number;
  /** What is added to its activation. */
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
  latents?: readonly number[];
  onProgress?: (done: number, total: number) => void;
}

export interface FindByEffectOptions extends Pick<
  SearchOptions,
  "hookPoint" | "contextLength" | "onProgress"
> {
  tokens?: number;
  /** Latents that are measured for each concept: those whose direct effect on its words is largest. */
  candidates?: number;
  /** Log of how many times the perplexity may rise. */
  maxCost?: number;
}

/** What could be turned up for a concept. */
export interface ConceptSearch {
  name: string;
  /** The rate of the model as it is. */
  baseline: number;
  /** Best first; at the size whose rate is highest within the cost. */
  found: (Pick<LatentEffect, "latent" | "strength" | "kl" | "cost"> & { rate: number })[];
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
  const { hookPoint, tokens = 1024, candidates = 12, maxCost = Math.log(1.3) } = options;
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
  const latents = new Set(
    direct.flatMap((list) =>
      list
        .toSorted((a, b) => b.effect - a.effect)
        .slice(0, candidates)
        .map(({ latent }) => latent),
    ),
  );
  const { contextLength = 64, onProgress } = options;
  const { baseline, effects } = await conceptEffects(sae, model, concepts, documents, {
    ...{ hookPoint, tokens, contextLength, sizes: SIZES, latents: [...latents] },
    ...(onProgress && { onProgress }),
  });
  return concepts.map(({ name }, c) => ({
    ...{ name, baseline: baseline[c] },
    found: bestEffects(effects, c, maxCost)
      .filter(({ rates }) => rates[c] > baseline[c])
      .map(({ latent, strength, kl, cost, rates }) => ({
        ...{ latent, strength, kl, cost, rate: rates[c] },
      })),
  }));
}

/** Contexts with the model's own distribution at each. */
interface Contexts {
  tokens: Int32Array;
  batch: number;
  length: number;
  x: Float32Array;
  logits: Float32Array;
  /** log Σ exp of the logits at each place. */
  norms: Float64Array;
  /** Places [batch · length] whose token is text. */
  kept: Int32Array;
}

/**
 * The effects of `latents` (all of them by default) at each size, and the rates without any.
 * @throws UserError when the SAE does not fit the model, or writes elsewhere than it reads.
 */
export async function conceptEffects(
  sae: Sae,
  model: Model,
  concepts: readonly ConceptTokens[],
  documents: AsyncIterable<Document> | Iterable<Document>,
  options: SearchOptions,
): Promise<{ baseline: Float64Array; effects: LatentEffect[] }> {
  const { hookPoint, sizes, onProgress } = options;
  const [name, ...others] = requireFit(sae, model, hookPoint);
  if (sae.spec.transcoder || others.length > 0)
    throw new UserError("latents of an autoencoder of one hook point can be searched, no others");
  const latents = options.latents ?? Array.from({ length: sae.spec.dSae }, (_, f) => f);
  const contexts = await contextsOf(model, name, documents, options);
  const baseline = measured(contexts, contexts.logits, concepts).rates;
  const unit = spread(contexts, sae.spec.dIn);
  const effects: LatentEffect[] = [];
  for (const latent of latents) {
    const direction = directionOf(sae, latent, contexts.x.subarray(0, sae.spec.dIn));
    const norm = Math.hypot(...direction);
    for (const size of norm > 0 ? sizes : []) {
      const strength = (size * unit) / norm;
      const { tokens, batch, length } = contexts;
      const patch = { [name]: moved(contexts, direction, strength) };
      const { logits } = await model.forward({ tokens, batch, length, patch, logits: "all" });
      effects.push({ latent, strength, ...measured(contexts, logits!, concepts) });
    }
    onProgress?.(effects.length, latents.length * sizes.length);
  }
  return { baseline, effects };
}

/**
 * The effects to try for a concept, best first: by rate, of those with a cost of at most `maxCost`, one
 * for each latent.
 */
export function bestEffects(
  effects: readonly LatentEffect[],
  concept: number,
  maxCost: number,
): LatentEffect[] {
  const best = new Map<number, LatentEffect>();
  for (const effect of effects) {
    if (effect.cost > maxCost) continue;
    const before = best.get(effect.latent);
    if (!before || effect.rates[concept] > before.rates[concept]) best.set(effect.latent, effect);
  }
  return [...best.values()].sort(
    (a, b) => b.rates[concept] - a.rates[concept] || a.latent - b.latent,
  );
}

async function contextsOf(
  model: Model,
  hookPoint: string,
  documents: AsyncIterable<Document> | Iterable<Document>,
  { tokens, contextLength = 64 }: SearchOptions,
): Promise<Contexts> {
  const batchRows = Math.max(1, Math.round(tokens / contextLength));
  for await (const batch of rowBatches(model, documents, { tokens, contextLength, batchRows })) {
    const input = { tokens: batch.tokens, batch: batch.rows.length, length: batch.length };
    const { activations, logits } = await model.forward({
      ...{ ...input, capture: [hookPoint], logits: "all" },
    });
    const { vocabSize } = model.info;
    const norms = Float64Array.from({ length: batch.tokens.length }, (_, p) =>
      logSumExp(logits!.subarray(p * vocabSize, (p + 1) * vocabSize)),
    );
    return { ...input, x: activations[hookPoint], logits: logits!, norms, kept: batch.kept };
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

function measured(
  { logits: plain, norms, kept }: Contexts,
  logits: Float32Array,
  concepts: readonly ConceptTokens[],
): Omit<LatentEffect, "latent" | "strength"> {
  const vocabSize = plain.length / norms.length;
  const rates = new Float64Array(concepts.length);
  const p = new Float64Array(vocabSize);
  let [kl, cost] = [0, 0];
  for (const at of kept) {
    const base = at * vocabSize;
    const norm = logits === plain ? norms[at] : logSumExp(logits.subarray(base, base + vocabSize));
    for (let v = 0; v < vocabSize; v++) {
      const log = logits[base + v] - norm;
      const before = plain[base + v] - norms[at];
      p[v] = Math.exp(log);
      kl += p[v] * (log - before);
      cost += (Math.exp(before) - p[v]) * before;
    }
    for (const [c, { tokens }] of concepts.entries()) for (const v of tokens) rates[c] += p[v];
  }
  const n = kept.length;
  return { kl: kl / n, cost: cost / n, rates: rates.map((rate) => rate / n) };
}
