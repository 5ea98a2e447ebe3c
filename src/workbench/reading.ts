/** How a run loads its model and reads text, wherever it does: as its activations were collected. */
import type { TextOptions } from "../analysis/codes.ts";
import type { ModelActivationsConfig } from "../config.ts";
import type { LoadOptions } from "../model/model.ts";
import { packingRules, type PackingRules } from "../model/packing.ts";
import { tokenRules } from "../model/token-filter.ts";

/** What the settings say of how the model is loaded. */
export function loadingOf({
  modelWeights: weights,
  modelDevice: device,
}: ModelActivationsConfig): Pick<LoadOptions, "weights" | "device"> {
  return { weights, device };
}

/** How documents become rows of tokens. */
export function packedAs(settings: PackingRules & Pick<TextOptions, "contextLength">) {
  return { contextLength: settings.contextLength, ...packingRules(settings) };
}

export function readingOf(
  activations: ModelActivationsConfig,
): ReturnType<typeof packedAs> & Pick<TextOptions, "rules"> {
  const rules = tokenRules(activations);
  return { ...packedAs(activations), ...(rules && { rules }) };
}

/** What the settings say of collecting, but for how much and what. */
export function collectingOf(activations: ModelActivationsConfig) {
  const { field, shuffleDocuments, dtype, shardRows } = activations;
  const { skipSpecialTokens, skipPositions, maxNorm } = activations;
  return {
    ...{ field, shuffleDocuments, ...packedAs(activations), dtype, shardRows },
    ...{ skipSpecialTokens, skipPositions, maxNorm },
  };
}
