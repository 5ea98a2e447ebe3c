/**
 * From a trained SAE and text it has not seen to a feature folder: one pass through model (or stored
 * activations) and SAE feeds the statistics and the labels of all latents and leaves a log, from which
 * examples are cut, and from which a pass that was killed goes on.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";

import type { FeaturesConfig } from "../config.ts";
import type { Device } from "../device/device.ts";
import { lockFolder, unlockFolder } from "../lock.ts";
import type { Model } from "../model/model.ts";
import { packingRules } from "../model/packing.ts";
import type { Document } from "../model/text.ts";
import { hashBytes } from "../file-hash.ts";
import type { Sae } from "../sae/sae.ts";
import {
  encodeText,
  selectDocuments,
  tokenText,
  type CodesByLatent,
  type HookPoints,
  type TextChunk,
  type TextOptions,
} from "./codes.ts";
import { CodeLog } from "./code-log.ts";
import { bestLabels, LabelledCodes } from "./concepts.ts";
import { FeatureCounter } from "./feature-counter.ts";
import { writeFeatures } from "./feature-folder.ts";
import type { FeatureLabels, Features } from "./features.ts";
import { TokenLabels } from "./labels.ts";
import { encodeStored, type StoredActivations } from "./stored-codes.ts";

/** What is shown of each latent. */
type Shown = Pick<
  FeaturesConfig,
  | "topExamples"
  | "randomExamples"
  | "quantileExamples"
  | "nearMissExamples"
  | "silentExamples"
  | "contextTokens"
>;

export interface IndexOptions extends Omit<TextOptions, "skip">, Partial<Shown> {
  /** The folder to write; an older index there is replaced. */
  out: string;
  device: Device;
  /** What the SAE reads. */
  hookPoint: HookPoints;
  /** Activations to take instead of running the model; context length and BOS rule then are theirs. */
  stored?: StoredActivations;
  /** Of everything drawn at random. */
  seed: number;
  /** Megabytes for the counts of pairs; default 1024. */
  pairMegabytes?: number;
  /**
   * Names the text: a pass over text of the same name that was cut off is gone on with instead of
   * begun anew. Stored activations name themselves.
   */
  resume?: string;
  /** What else is known of where the numbers come from: run, data, SAE. */
  provenance?: Record<string, unknown>;
  /** Called before anything is done. */
  onPlan?: (plan: IndexPlan) => void;
  onProgress?: (progress: { done: number; total: number }) => void;
  /** Stops between chunks. */
  signal?: AbortSignal;
}

/** What a pass takes at most. */
export interface IndexPlan {
  /** Bytes of the counters of all latents. */
  counterBytes: number;
  /** Bytes of the codes that labels are scored on. */
  labelBytes: number;
  /** Bytes of the tokens of stored activations. */
  tokenBytes: number;
  /** Bytes per active latent in the log on disk. */
  logBytesPerFiring: number;
}

const DEFAULTS: Shown = {
  topExamples: 12,
  randomExamples: 6,
  quantileExamples: 3,
  nearMissExamples: 5,
  silentExamples: 3,
  contextTokens: 12,
};
/** Activations that labels are chosen on, and as many that they are measured on. */
const LABEL_ENTRIES = 2 ** 22;

/**
 * Looks every latent up in the first `tokens` positions of `documents` (which the SAE must not have
 * been trained on) and writes the folder `out`. Labels are chosen on the documents with even
 * numbers and measured on those with odd ones, on as much text as 2²² firings of each half take.
 * @param documents undefined: taken from the stored activations' tokens.
 * @throws UserError when SAE and hook point do not fit, the text has no tokens or is not that of the
 * stored activations, or another process is writing the folder.
 */
export async function indexFeatures(
  sae: Sae,
  model: Pick<Model, "tokenizer" | "info" | "weightsHash"> & Partial<Model>,
  documents: AsyncIterable<Document> | Iterable<Document> | undefined,
  options: IndexOptions,
): Promise<Features> {
  const { out, seed, stored, signal } = options;
  const { dSae } = sae.spec;
  const shown = { ...DEFAULTS, ...defined(options) };
  const pairBytes = (options.pairMegabytes ?? 1024) * 2 ** 20;
  const vocabulary = model.tokenizer.vocabSize;
  const counting = { ...shown, seed, vocabulary, pairBytes };
  options.onPlan?.({
    counterBytes: FeatureCounter.plannedBytes(dSae, counting),
    labelBytes: 2 * 8 * LABEL_ENTRIES,
    tokenBytes: stored ? 20 * stored.manifest.rows : 0,
    logBytesPerFiring: 8,
  });
  const about = await identity(sae, model, options);
  const partial = `${out}.partial`;
  await mkdir(partial, { recursive: true });
  lockFolder(partial);
  let log: CodeLog | undefined;
  try {
    const purpose = JSON.stringify({
      ...{ log: 1, about, text: options.resume ?? null, tokens: options.tokens },
      // Text without a name is never gone on with.
      ...(options.resume === undefined && !stored && { began: `${process.pid} ${Date.now()}` }),
    });
    log = await CodeLog.open(join(partial, "codes.log"), purpose);
    const show = tokenText(model);
    const counter = new FeatureCounter(dSae, counting);
    const labels = new LabelScores(show, dSae);
    const total = stored ? Math.min(options.tokens, stored.manifest.rows) : options.tokens;
    const count = (chunk: TextChunk, codes: CodesByLatent) => {
      signal?.throwIfAborted();
      counter.add(chunk, codes);
      labels.add(chunk, codes);
      options.onProgress?.({ done: counter.positions, total });
    };
    for await (const { chunk, codes } of log.chunks()) count(chunk, codes);
    const known = counter.positions;
    const skip = (first: number) => first < known;
    if (known < total)
      for await (const { chunk, codes } of codesOf(sae, model, documents, { ...options, skip })) {
        await log.append({ chunk, codes });
        count(chunk, codes);
      }
    const opened = log;
    return await writeFeatures(out, counter, () => opened.chunks(), show, {
      provenance: {
        ...about,
        seed,
        mask: "beginning-of-sequence positions are not counted",
        ...options.provenance,
      },
      labels: labels.best(),
    });
  } finally {
    await log?.close();
    unlockFolder(partial);
  }
}

function codesOf(
  sae: Sae,
  model: Pick<Model, "tokenizer"> & Partial<Model>,
  documents: AsyncIterable<Document> | Iterable<Document> | undefined,
  options: IndexOptions & Pick<TextOptions, "skip">,
) {
  const { device, hookPoint, stored } = options;
  if (stored) {
    const { tokens, skip } = options;
    return encodeStored(sae, device, stored, model.tokenizer, documents, { tokens, skip: skip! });
  }
  return encodeText(sae, device, model as Model, hookPoint, documents!, options);
}

/** What determines the codes, but for the text. */
async function identity(
  sae: Sae,
  model: Pick<Model, "tokenizer" | "info" | "weightsHash"> & Partial<Pick<Model, "device">>,
  { hookPoint, stored, contextLength, bos, eos, packing, rules }: IndexOptions,
): Promise<Record<string, unknown>> {
  const hashes = [await hashBytes(Buffer.from(JSON.stringify(sae.spec)))];
  for (const [name, array] of Object.entries(sae))
    if (array instanceof Float32Array)
      hashes.push(name, await hashBytes(new Uint8Array(array.buffer, array.byteOffset, array.byteLength))); // prettier-ignore
  const { selection, dIn, dSae } = sae.spec;
  return {
    hookPoint,
    model: {
      ...{ name: model.info.source, weightsHash: await model.weightsHash() },
      // A GPU rounds otherwise; what the CPU began is gone on with whatever version wrote it.
      ...(model.device === "webgpu" && { device: model.device }),
    },
    tokenizer: { hash: model.tokenizer.hash },
    sae: {
      ...{ selection, dIn, dSae },
      weightsHash: await hashBytes(Buffer.from(hashes.join())),
    },
    packing: stored
      ? packingOf({ ...stored.manifest, rules: stored.manifest.tokenRules })
      : packingOf({ contextLength, bos, eos, packing, rules }),
    ...(stored && {
      activations: {
        manifest: await hashBytes(Buffer.from(JSON.stringify(stored.manifest))),
        data: stored.manifest.data,
        hookPoints: stored.stores.map(({ hookPoint: name }) => name),
      },
    }),
  };
}

function packingOf({ contextLength, bos, eos, packing, rules }: Omit<TextOptions, "tokens">) {
  return { contextLength, ...packingRules({ bos, eos, packing }), ...(rules && { rules }) };
}

/** Labels of all latents: chosen on half of the documents, measured on the others. */
class LabelScores {
  readonly #dSae: number;
  readonly #halves: [LabelledCodes, LabelledCodes];
  #full = false;

  constructor(show: (token: number) => string, dSae: number) {
    const labels = new TokenLabels(show);
    this.#dSae = dSae;
    this.#halves = [
      new LabelledCodes(labels, dSae, LABEL_ENTRIES),
      new LabelledCodes(labels, dSae, LABEL_ENTRIES),
    ];
  }

  add(chunk: TextChunk, codes: CodesByLatent): void {
    if (this.#full) return;
    for (const [odd, half] of this.#halves.entries()) {
      const part = selectDocuments(chunk, codes, (document) => document.ordinal % 2 === odd);
      // Both halves end together, so that they are of the same text.
      if (!half.add(part.chunk, part.codes)) this.#full = true;
    }
  }

  best(): FeatureLabels {
    const [selection, test] = this.#halves;
    const best = bestLabels(Array(this.#dSae).keys(), selection, test);
    return {
      selectionPositions: selection.positions,
      testPositions: test.positions,
      best: Array.from({ length: this.#dSae }, (_, latent) => best.get(latent) ?? null),
    };
  }
}

function defined<T extends object>(values: T): T {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as T;
}
