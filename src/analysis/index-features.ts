/**
 * From a trained SAE and text it has not seen to a feature folder: one pass through model and SAE
 * feeds the statistics, the examples and the labels of all latents.
 */
import type { FeaturesConfig } from "../config.ts";
import type { Device } from "../device/device.ts";
import type { Model } from "../model/model.ts";
import type { Document } from "../model/text.ts";
import type { Sae } from "../sae/sae.ts";
import {
  encodeText,
  selectDocuments,
  tokenText,
  type HookPoints,
  type TextOptions,
} from "./codes.ts";
import { bestLabels, LabelledCodes } from "./concepts.ts";
import { FeatureCounter } from "./feature-counter.ts";
import type { Features } from "./features.ts";
import { TokenLabels } from "./labels.ts";

export interface IndexOptions
  extends TextOptions, Pick<FeaturesConfig, "topExamples" | "randomExamples" | "contextTokens"> {
  /** The folder to write; an older index there is replaced. */
  out: string;
  device: Device;
  /** What the SAE reads. */
  hookPoint: HookPoints;
  /** Of the random examples. */
  seed: number;
  /** What else is known of where the numbers come from: run, data, SAE. */
  provenance?: Record<string, unknown>;
  onProgress?: (progress: { done: number; total: number }) => void;
}

/**
 * Looks every latent up in the first `tokens` positions of `documents` (which the SAE must not have
 * been trained on) and writes the folder `out`. Labels are chosen on the documents with even
 * numbers and measured on those with odd ones.
 * @throws UserError when SAE and hook point do not fit, or the text has no tokens.
 */
export async function indexFeatures(
  sae: Sae,
  model: Model,
  documents: AsyncIterable<Document> | Iterable<Document>,
  options: IndexOptions,
): Promise<Features> {
  const { out, device, hookPoint, seed, onProgress } = options;
  const { dSae } = sae.spec;
  const show = tokenText(model);
  const counter = new FeatureCounter(dSae, options);
  const labels = new TokenLabels(show);
  const selection = new LabelledCodes(labels, dSae);
  const test = new LabelledCodes(labels, dSae);
  for await (const { chunk, codes } of encodeText(
    sae,
    device,
    model,
    hookPoint,
    documents,
    options,
  )) {
    counter.add(chunk, codes);
    for (const [odd, half] of [selection, test].entries()) {
      const part = selectDocuments(chunk, codes, (document) => document.ordinal % 2 === odd);
      half.add(part.chunk, part.codes);
    }
    onProgress?.({ done: counter.positions, total: options.tokens });
  }
  const best = bestLabels(Array(dSae).keys(), selection, test);
  return counter.write(out, show, {
    provenance: {
      hookPoint,
      model: { name: model.info.source, weightsHash: await model.weightsHash() },
      tokenizer: { hash: model.tokenizer.hash },
      seed,
      mask: "beginning-of-sequence positions are not counted",
      ...options.provenance,
    },
    labels: {
      selectionPositions: selection.positions,
      testPositions: test.positions,
      best: Array.from({ length: dSae }, (_, latent) => best.get(latent) ?? null),
    },
  });
}
