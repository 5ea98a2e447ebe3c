/**
 * Ablation: what the model loses when a latent is taken out of it, on held-out text.
 *
 * Wherever latent f fires, the activation at the SAE's write point changes by δ = −a_f P⁻¹ W_dec[f]
 * (write-point.ts; the SAE's error stays), at all of its positions in a row together. Then
 *
 *     Δ loss = loss(changed) − loss(as it is),    loss = −log p(next token), in nats
 *     KL     = Σ_v p(v) log(p(v) / p'(v)),        p as it is, p' changed, in nats
 *
 * total    the layers after the write point are run again, so later positions change too
 * direct   what δ adds to the residual stream is added to the last residual stream instead: only the
 *          final norm and the unembedding see it, so only the predictions at the firing positions change
 * control  the same two for random directions (drawn once per latent and control from a normal
 *          distribution) of δ's length at each position: what moving the activation as far does
 *
 * Predictions are of tokens of the text, as in evaluate.ts; a prediction belongs to the document of
 * the token that is predicted. Documents packed into one row see those before them, as in training.
 */
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import { logSumExp } from "../model/generate.ts";
import type { Model } from "../model/model.ts";
import type { Document } from "../model/text.ts";
import { Rng } from "../rng.ts";
import type { Sae } from "../sae/sae.ts";
import { AblationTally, type LatentAblation } from "./ablation-tally.ts";
import {
  chunkOf,
  codesByLatent,
  joinHeads,
  rowBatches,
  type CodesByLatent,
  type RowBatch,
  type TextChunk,
  type TextOptions,
} from "./codes.ts";
import { klOf } from "./dose.ts";
import { predictionsOf } from "./splice.ts";
import {
  carried,
  checkLatents,
  directionsAt,
  logitsOf,
  rowsAtOnce,
  unembedded,
  writePointOf,
  type CleanRow,
  type Directions,
  type Places,
  type Variant,
  type WritePoint,
} from "./write-point.ts";

export interface AblateOptions extends Omit<TextOptions, "batchRows">, Places {
  latents: readonly number[];
  device: Device;
  /** Random directions per latent. */
  controls?: number;
  seed?: number;
  /** Examples kept of the most hurt and of the most helped predictions of a latent. */
  examples?: number;
  onProgress?: (positions: number) => void;
}

export interface Ablation {
  /** Where the latents were removed. */
  hookPoint: string;
  /** Positions read; beginning-of-sequence tokens are none. */
  positions: number;
  /** Predictions of tokens of the text. */
  predictions: number;
  documents: number;
  /** Mean loss of the model as it is, over the predictions. */
  loss: number;
  /** Random directions behind the controls' numbers. */
  controls: number;
  latents: LatentAblation[];
}

/**
 * Removes each of `latents` by itself from `documents`' first `tokens` positions. Only rows in which a
 * latent fires are run again, many together; memory does not grow with the text but for a few numbers
 * per document and latent.
 * @throws UserError for a latent that the SAE does not have, an SAE and hook points that do not fit, or
 * text without a prediction.
 */
export async function ablate(
  sae: Sae,
  model: Model,
  documents: AsyncIterable<Document> | Iterable<Document>,
  options: AblateOptions,
): Promise<Ablation> {
  const { latents, device, controls = 2, seed = 0, examples = 5, onProgress } = options;
  checkLatents(sae, latents);
  if (!(Number.isInteger(controls) && controls >= 1))
    throw new UserError(`controls must be at least 1; got ${controls}`);
  const point = writePointOf(sae, model, options);
  const writer = await model.writer(point.hookPoint);
  const directions = directionsAt(sae, point);
  const random = latents.map((latent) =>
    Array.from({ length: controls }, (_, i) => unitVector(point.width, seed, latent, i)),
  );
  const tallies = latents.map((latent) => new AblationTally(latent, model, examples));
  const contextLength = options.contextLength ?? Math.min(model.info.contextLength, 256);
  const atOnce = rowsAtOnce(model, contextLength, "all");
  const text = { ...options, contextLength, batchRows: Math.min(16, atOnce) };
  let encoder: ReturnType<Sae["on"]> | undefined;
  let [positions, predictions, lossSum, rows, ordinals] = [0, 0, 0, 0, 0];
  const predictionsOf: number[] = [];
  try {
    for await (const batch of rowBatches(model, documents, text)) {
      const chunk = chunkOf(batch, positions, rows);
      const size = batch.tokens.length;
      // The first batch is never the smaller one.
      encoder ??= sae.on(device, size);
      const clean = await cleanBatch(model, batch, point, sae);
      // Positions of these codes are places in the batch.
      const kept = clean.placeOf.map((position, at) => (position === -1 ? -1 : at));
      const codes = codesByLatent(await encoder.encode(clean.x, size), sae.spec.dSae, kept);
      for (const { document, loss } of clean.predictions.values()) {
        predictionsOf[document] = (predictionsOf[document] ?? 0) + 1;
        lossSum += loss;
      }
      predictions += clean.predictions.size;
      for (const ordinal of batch.documents.keys()) ordinals = Math.max(ordinals, ordinal + 1);
      const pass = new Pass(model, point, { chunk, clean, writer, atOnce });
      for (const [l, latent] of latents.entries())
        await pass.remove(tallies[l], firingsOf(codes, latent), directions, random[l]);
      await pass.run();
      positions += chunk.length;
      rows += batch.rows.length;
      onProgress?.(positions);
    }
  } finally {
    encoder?.close();
  }
  if (predictions === 0)
    throw new UserError("the text has no row of two tokens, so there is no prediction to change");
  const perDocument = Array.from({ length: ordinals }, (_, d) => predictionsOf[d] ?? 0);
  return {
    ...{ hookPoint: point.hookPoint, positions, predictions, documents: ordinals },
    ...{ loss: lossSum / predictions, controls },
    latents: tallies.map((tally) => tally.result(perDocument, controls)),
  };
}

function unitVector(width: number, seed: number, latent: number, control: number): Float64Array {
  const rng = new Rng(seed, "ablation control", latent, control);
  const drawn = Float64Array.from({ length: width }, () => rng.normal());
  const norm = Math.hypot(...drawn);
  return drawn.map((v) => v / norm);
}

/** Places where a latent fires, with its activation there. */
function firingsOf(codes: CodesByLatent, latent: number): [at: number, value: number][] {
  const [from, to] = [codes.offsets[latent], codes.offsets[latent + 1]];
  return Array.from(codes.positions.subarray(from, to), (p, i) => [p, codes.values[from + i]]);
}

/** A prediction of a token of the text. */
export interface Prediction {
  /** The token that is predicted, and the ordinal of its document. */
  token: number;
  document: number;
  /** As the model is: log Σ exp of the logits, and the loss. */
  logSum: number;
  loss: number;
}

/** What a batch is without any change. */
interface CleanBatch {
  length: number;
  /** What the SAE reads; [rows · length, dIn]. */
  x: Float32Array;
  rows: CleanRow[];
  logits: Float32Array; // [rows · length, vocabSize]
  last: Float32Array; // [rows · length, dModel], the last residual stream
  /** The position in the chunk of a place in the batch, -1 for beginning-of-sequence tokens; [rows · length]. */
  placeOf: Int32Array;
  /** Places in the batch, rising, at which a token of the text is predicted. */
  predictions: Map<number, Prediction>;
}

async function cleanBatch(
  model: Model,
  batch: RowBatch,
  { inputs, hookPoint, width, residual }: WritePoint,
  sae: Sae,
): Promise<CleanBatch> {
  const { tokens, length, kept } = batch;
  const { vocabSize, dModel } = model.info;
  const last = model.lastResidual();
  const wanted = [...inputs, hookPoint, last, ...(residual === null ? [] : [residual])];
  const { activations, logits } = await model.forward({
    ...{ ...batch.pass, capture: [...new Set(wanted)] },
    logits: "all",
  });
  const rowOf = (name: string, r: number, size: number) =>
    activations[name].subarray(r * length * size, (r + 1) * length * size);
  const placeOf = new Int32Array(tokens.length).fill(-1);
  kept.forEach((at, position) => (placeOf[at] = position));
  const predictions = new Map<number, Prediction>();
  for (const place of predictionsOf(batch).places) {
    // These are places in the loss, whose rows are one shorter.
    const r = Math.floor(place / (length - 1));
    const at = place + r;
    const own = logits!.subarray(at * vocabSize, (at + 1) * vocabSize);
    const logSum = logSumExp(own);
    const token = tokens[at + 1];
    const document = batch.rows[r].documents[at + 1 - r * length];
    predictions.set(at, { token, document, logSum, loss: logSum - own[token] });
  }
  return {
    ...{ length, logits: logits!, last: activations[last], placeOf, predictions },
    x: joinHeads(
      sae.spec,
      inputs.map((name) => activations[name]),
    ),
    rows: batch.rows.map((row, r) => ({
      tokens: row.tokens,
      values: rowOf(hookPoint, r, width),
      residual: residual === null ? undefined : rowOf(residual, r, dModel),
    })),
  };
}

/** A changed row, and what its predictions count for. */
interface Job {
  variant: Variant;
  /** Of the row in the batch. */
  row: number;
  /** The first position that is changed; what is before it stays as it is. */
  first: number;
  tally: AblationTally;
  kind: "total" | "control";
  firing: ReadonlySet<number>;
}

/** Changed rows of one batch, run together as many at a time as memory allows. */
class Pass {
  readonly #model: Model;
  readonly #point: WritePoint;
  readonly #chunk: TextChunk;
  readonly #clean: CleanBatch;
  readonly #writer: Float32Array | null;
  readonly #atOnce: number;
  #jobs: Job[] = [];

  constructor(
    model: Model,
    point: WritePoint,
    rest: { chunk: TextChunk; clean: CleanBatch; writer: Float32Array | null; atOnce: number },
  ) {
    this.#model = model;
    this.#point = point;
    this.#chunk = rest.chunk;
    this.#clean = rest.clean;
    this.#writer = rest.writer;
    this.#atOnce = rest.atOnce;
  }

  /**
   * Removes the tally's latent, and moves as far in each of the directions `random`, wherever it fires.
   * @param firings places in the batch, rising, with the activations there.
   */
  async remove(
    tally: AblationTally,
    firings: readonly (readonly [at: number, value: number])[],
    directions: Directions,
    random: readonly Float64Array[],
  ): Promise<void> {
    const { x, predictions, placeOf } = this.#clean;
    const dIn = x.length / placeOf.length;
    const removed = new Map<number, Float64Array>();
    for (const [at, value] of firings) {
      tally.fires(this.#chunk.documents[this.#chunk.document[placeOf[at]]].ordinal);
      if (predictions.has(at)) tally.predicts(predictions.get(at)!.document);
      const direction = directions(tally.latent, x.subarray(at * dIn, (at + 1) * dIn));
      const delta = direction.map((d) => -value * d);
      removed.set(at, delta);
    }
    await this.#change(tally, "total", "direct", removed);
    for (const unit of random) {
      const moved = new Map<number, Float64Array>();
      for (const [at, delta] of removed) {
        const norm = Math.hypot(...delta);
        const move = unit.map((v) => v * norm);
        moved.set(at, move);
      }
      await this.#change(tally, "control", "controlDirect", moved);
    }
  }

  /** Counts what `changes` do directly, and puts the rows that they are in with those to be run. */
  async #change(
    tally: AblationTally,
    kind: "total" | "control",
    directKind: "direct" | "controlDirect",
    changes: ReadonlyMap<number, Float64Array>,
  ): Promise<void> {
    const { length, predictions, rows } = this.#clean;
    await this.#direct(tally, directKind, changes);
    const firing = new Set(changes.keys());
    for (const [row, added] of byRow(changes, length)) {
      const first = Math.min(...added.keys());
      if (!anyFrom(predictions, row * length + first, (row + 1) * length)) continue;
      this.#jobs.push({ variant: { row: rows[row], added }, row, first, tally, kind, firing });
      if (this.#jobs.length === this.#atOnce) await this.run();
    }
  }

  /** Runs the rows that have gathered. */
  async run(): Promise<void> {
    const jobs = this.#jobs;
    this.#jobs = [];
    if (jobs.length === 0) return;
    const variants = jobs.map(({ variant }) => variant);
    const logits = await logitsOf(this.#model, this.#point, variants, "all");
    const { length } = this.#clean;
    for (const [n, { row, first, tally, kind, firing }] of jobs.entries())
      for (let p = first; p < length; p++) {
        const at = row * length + p;
        this.#compare(tally, kind, at, logits, n * length + p, firing.has(at));
      }
  }

  /** What comes of adding `changes` to the last residual stream. */
  async #direct(
    tally: AblationTally,
    kind: "direct" | "controlDirect",
    changes: ReadonlyMap<number, Float64Array>,
  ): Promise<void> {
    const { predictions, last } = this.#clean;
    const { dModel } = this.#model.info;
    const places = [...changes.keys()].filter((at) => predictions.has(at));
    for (let from = 0; from < places.length; from += this.#clean.length) {
      const some = places.slice(from, from + this.#clean.length);
      const rows = new Float32Array(some.length * dModel);
      for (const [n, at] of some.entries()) {
        const delta = carried(this.#writer, changes.get(at)!);
        for (let c = 0; c < dModel; c++) rows[n * dModel + c] = last[at * dModel + c] + delta[c];
      }
      const logits = await unembedded(this.#model, rows);
      for (const [n, at] of some.entries()) this.#compare(tally, kind, at, logits, n, true);
    }
  }

  /** Counts how a prediction at place `at` changes, whose logits are row n of `changed`. */
  #compare(
    tally: AblationTally,
    kind: "total" | "direct" | "control" | "controlDirect",
    at: number,
    changed: Float32Array,
    n: number,
    fires: boolean,
  ): void {
    const prediction = this.#clean.predictions.get(at);
    if (!prediction) return;
    const { vocabSize } = this.#model.info;
    const was = this.#clean.logits.subarray(at * vocabSize, (at + 1) * vocabSize);
    const is = changed.subarray(n * vocabSize, (n + 1) * vocabSize);
    const logSum = logSumExp(is);
    const loss = logSum - is[prediction.token] - prediction.loss;
    const kl = klOf(was, is, prediction.logSum, logSum);
    tally.add(kind, prediction.document, { loss, kl, fires });
    if (kind === "total")
      tally.show(this.#chunk, this.#clean.placeOf[at + 1], prediction.token, loss);
  }
}

/** Changes by row, and in it by position. */
function byRow(
  changes: ReadonlyMap<number, Float64Array>,
  length: number,
): Map<number, Map<number, Float64Array>> {
  const rows = new Map<number, Map<number, Float64Array>>();
  for (const [at, delta] of changes) {
    const row = Math.floor(at / length);
    if (!rows.has(row)) rows.set(row, new Map());
    rows.get(row)!.set(at % length, delta);
  }
  return rows;
}

function anyFrom(predictions: ReadonlyMap<number, unknown>, from: number, to: number): boolean {
  for (let at = from; at < to; at++) if (predictions.has(at)) return true;
  return false;
}
