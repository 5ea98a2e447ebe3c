/**
 * Which latents to turn up so that a model writes about something: the effect of every latent on what
 * comes next, measured at real contexts before any text is generated.
 *
 * At each position of held-out text the latent's decoder direction is added, strength · d, at this and
 * all other positions, the later layers run again, and the next-token distribution p' is compared with
 * the model's own, p:
 *
 * rate  mean over positions of Σ_{v ∈ words} p'(v): how often a word of the concept is begun
 * kl    mean over positions of Σ_v p'(v) log(p'(v) / p(v)), in nats: what it costs
 */
import { UserError } from "../error.ts";
import { logSumExp } from "../model/generate.ts";
import type { Model } from "../model/model.ts";
import type { Document } from "../model/text.ts";
import type { Sae } from "../sae/sae.ts";
import { requireFit, rowBatches } from "./codes.ts";
import { directionOf } from "./steer.ts";

/** Vocabulary items that begin a word of a concept. */
export interface ConceptTokens {
  name: string;
  tokens: readonly number[];
}

/** A latent at a strength, with its effect on every concept. */
export interface LatentEffect {
  latent: number;
  /** What is added to its activation. */
  strength: number;
  kl: number;
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
 * Per concept the effects to try, best first: by rate, of those with a KL of at most `maxKl`, one for
 * each latent.
 */
export function bestEffects(
  effects: readonly LatentEffect[],
  concept: number,
  maxKl: number,
): LatentEffect[] {
  const best = new Map<number, LatentEffect>();
  for (const effect of effects) {
    if (effect.kl > maxKl) continue;
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
): { kl: number; rates: Float64Array } {
  const vocabSize = plain.length / norms.length;
  const rates = new Float64Array(concepts.length);
  const p = new Float64Array(vocabSize);
  let kl = 0;
  for (const at of kept) {
    const base = at * vocabSize;
    const norm = logits === plain ? norms[at] : logSumExp(logits.subarray(base, base + vocabSize));
    for (let v = 0; v < vocabSize; v++) {
      const log = logits[base + v] - norm;
      p[v] = Math.exp(log);
      kl += p[v] * (log - (plain[base + v] - norms[at]));
    }
    for (const [c, { tokens }] of concepts.entries()) for (const v of tokens) rates[c] += p[v];
  }
  return { kl: kl / kept.length, rates: rates.map((rate) => rate / kept.length) };
}
