/**
 * What a latent does to the logits in real contexts: as much of its decoder direction as its mean
 * activation is added at a position where it fires, all layers above are run again, and the logits
 * there are compared with what they were.
 *
 *     Δ(context) = logits(x + amount · d) − logits(x),    d as in steer.ts, one position changed
 *
 * One position of each document, drawn evenly from those where the latent fires, so that documents
 * are the units: `true` is the mean over documents. Tokens are chosen by half of the documents and
 * their changes measured on the other half; without that, the largest of thousands would flatter.
 */
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import type { Model } from "../model/model.ts";
import type { Document } from "../model/text.ts";
import { Rng } from "../rng.ts";
import { eachActive } from "../sae/sae-on-device.ts";
import type { Sae } from "../sae/sae.ts";
import { joinHeads, requireFit, rowBatches, type HookPoints, type TextOptions } from "./codes.ts";
import { pearson } from "./correlation.ts";
import { bootstrap, type Interval } from "./interval.ts";
import {
  DIRECT_FORMS,
  effectOf,
  effectVectors,
  nearestToLogits,
  type DirectForm,
  type LogitEffect,
  type TokenLogit,
} from "./logits.ts";
import {
  directionsAt,
  logitsOf,
  writePointOf,
  type Places,
  type WritePoint,
} from "./write-point.ts";

/** A position, with all the tokens that its row has up to it. */
export interface Context {
  document: number;
  tokens: Int32Array;
}

/** A token and its change of logit, with the 95 % interval over documents. */
export type MeasuredToken = TokenLogit & Interval;

export interface TrueLogitEffect extends LogitEffect {
  form: "true";
  /** Values from documents that had no part in choosing the tokens. */
  top: MeasuredToken[];
  bottom: MeasuredToken[];
  /** Documents, one position each. */
  documents: number;
  /** Units of the latent that were added. */
  amount: number;
  /** `std` of the mean change that random directions of the same length make at the same positions. */
  randomStd: number;
  /** Pearson correlation, over the vocabulary, of the mean change with each direct form. */
  agreement: Record<DirectForm, number>;
}

export interface TrueLogitOptions extends Places, TextOptions {
  latent: number;
  /** Units of the latent to add: its mean activation where it fires. */
  amount: number;
  device: Device;
  /** Documents wanted; by default 100. */
  documents?: number;
  /** Tokens at each end; by default 10. */
  top?: number;
  seed?: number;
  /** Each document counts twice: when it is found, and when it is measured. */
  onProgress?: (progress: { done: number; total: number }) => void;
}

/** Fewer documents than this say nothing: each half has half of them. */
const MIN_DOCUMENTS = 20;

/**
 * @throws UserError when SAE and hook points do not fit, the model is an encoder, or the latent fires in
 * fewer than 20 documents of the text.
 */
export async function trueLogitEffect(
  sae: Sae,
  model: Model,
  text: AsyncIterable<Document> | Iterable<Document>,
  options: TrueLogitOptions,
): Promise<TrueLogitEffect> {
  const { latent, amount, documents = 100, top = 10, seed = 0, onProgress } = options;
  model.requireNextTokens("logits after a text");
  const point = writePointOf(sae, model, nearestToLogits(options));
  const contexts = await contextsOf(sae, model, text, { ...options, documents });
  if (contexts.length < MIN_DOCUMENTS)
    throw new UserError(
      `latent ${latent} fires in ${contexts.length} documents of the text; its true effect needs ${MIN_DOCUMENTS}: read more tokens, or use another form of the logit effect`,
    );
  const directionAt = directionsAt(sae, point);
  const rng = new Rng(seed, "direction", latent);
  const noise = Float64Array.from({ length: point.width }, () => rng.normal());
  const changes: Float32Array[] = [];
  const random: Float32Array[] = [];
  for (const [i, context] of contexts.entries()) {
    const [own, other] = await logitChanges(model, point, context, (row) => {
      const direction = directionAt(latent, row).map((v) => amount * v);
      const scale = Math.hypot(...direction) / Math.hypot(...noise);
      return [direction, noise.map((v) => scale * v)];
    });
    changes.push(own);
    random.push(other);
    onProgress?.({ done: documents + i + 1, total: 2 * documents });
  }
  const whole = meanOf(changes);
  const halves = [0, 1].map((half) => changes.filter((_, i) => i % 2 === half));
  const chosen = effectOf(meanOf(halves[0]), top);
  const measured = (tokens: TokenLogit[]) =>
    tokens.map(({ token }) => ({
      token,
      ...bootstrap(
        halves[1].length,
        (drawn) => drawn.reduce((sum, n) => sum + halves[1][n][token], 0) / drawn.length,
        seed,
      ),
    }));
  return {
    ...{ latent, form: "true", documents: contexts.length, amount },
    ...effectOf(whole, 0),
    top: measured(chosen.top).sort((a, b) => b.value - a.value),
    bottom: measured(chosen.bottom).sort((a, b) => a.value - b.value),
    randomStd: effectOf(meanOf(random), 0).std,
    agreement: await agreementOf(sae, model, options, whole),
  };
}

/** One position where the latent fires from each of the first `documents` documents in which it does. */
async function contextsOf(
  sae: Sae,
  model: Model,
  text: AsyncIterable<Document> | Iterable<Document>,
  options: TrueLogitOptions & { documents: number; hookPoint: HookPoints },
): Promise<Context[]> {
  const { device, latent, documents, seed = 0, onProgress } = options;
  const capture = requireFit(sae, model, options.hookPoint);
  const rng = new Rng(seed, "contexts", latent);
  /** By document: how many firings were seen, and one of them. */
  const found = new Map<number, { seen: number; context: Context }>();
  let encoder: ReturnType<Sae["on"]> | undefined;
  try {
    for await (const batch of rowBatches(model, text, options)) {
      const { tokens, length, rows } = batch;
      const { activations } = await model.forward({ tokens, batch: rows.length, length, capture });
      const x = joinHeads(
        sae.spec,
        capture.map((name) => activations[name]),
      );
      // The first batch is never the smaller one.
      encoder ??= sae.on(device, tokens.length);
      const codes = await encoder.encode(x, tokens.length);
      eachActive(codes, tokens.length, sae.spec.dSae, (at, f) => {
        const [r, i] = [Math.floor(at / length), at % length];
        const document = rows[r].documents[i];
        if (f !== latent || document < 0) return;
        const seen = (found.get(document)?.seen ?? 0) + 1;
        if (seen > 1 && rng.int(seen) > 0) {
          found.get(document)!.seen = seen;
          return;
        }
        const context = { document, tokens: rows[r].tokens.slice(0, i + 1) };
        found.set(document, { seen, context });
      });
      onProgress?.({ done: Math.min(found.size, documents), total: 2 * documents });
      if (found.size >= documents) break;
    }
  } finally {
    encoder?.close();
  }
  return [...found.values()].map(({ context }) => context).slice(0, documents);
}

/**
 * How the logits at a context's last position change when something is added there at the write
 * point; [vocabulary] for each addition.
 * @param additions what to add, [width] each, to a row that the SAE writes to.
 */
export async function logitChanges(
  model: Model,
  point: WritePoint,
  { tokens }: Context,
  additions: (row: Float32Array) => readonly Float64Array[],
): Promise<Float32Array[]> {
  const { hookPoint, residual, width } = point;
  const length = tokens.length;
  const capture = [hookPoint, ...(residual === null ? [] : [residual])];
  const { activations } = await model.forward({ tokens, batch: 1, length, capture });
  const values = activations[hookPoint];
  const row = { tokens, values, residual: residual === null ? undefined : activations[residual] };
  const added = additions(values.slice((length - 1) * width));
  const variants = [
    // What is unchanged goes through the same graph, so that its rounding is the same.
    { row, added: new Map<number, Float64Array>() },
    ...added.map((addition) => ({ row, added: new Map([[length - 1, addition]]) })),
  ];
  const logits = await logitsOf(model, point, variants, "last");
  const { vocabSize } = model.info;
  return added.map((_, b) =>
    logits.slice((b + 1) * vocabSize, (b + 2) * vocabSize).map((logit, t) => logit - logits[t]),
  );
}

async function agreementOf(
  sae: Sae,
  model: Model,
  { hookPoint, targetHookPoint, at, latent }: TrueLogitOptions,
  change: Float64Array,
): Promise<Record<DirectForm, number>> {
  const found = {} as Record<DirectForm, number>;
  for (const form of DIRECT_FORMS) {
    const options = { hookPoint, targetHookPoint, at, form, latents: [latent] };
    for await (const { effects } of effectVectors(sae, model, options))
      found[form] = pearson(change, effects) ?? NaN;
  }
  return found;
}

function meanOf(rows: readonly Float32Array[]): Float64Array {
  const mean = new Float64Array(rows[0].length);
  for (const row of rows) for (let t = 0; t < mean.length; t++) mean[t] += row[t] / rows.length;
  return mean;
}
