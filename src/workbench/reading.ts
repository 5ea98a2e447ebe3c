/** How a run loads its model and reads text, wherever it does: as its activations were collected. */
import type { TextOptions } from "../analysis/codes.ts";
import type { ModelActivationsConfig } from "../config.ts";
import type { LoadOptions } from "../model/model.ts";
import { tokenRules } from "../model/token-filter.ts";

/** What the settings say of how the model is loaded. */
export function loadingOf({
  modelWeights: weights,
  modelDevice: device,
}: ModelActivationsConfig): Pick<LoadOptions, "weights" | "device"> {
  return { weights, device };
}

export function readingOf(
  activations: ModelActivationsConfig,
): Pick<TextOptions, "contextLength" | "bos" | "rules"> {
  const { contextLength, bos } = activations;
  const rules = tokenRules(activations);
  return { contextLength, bos, ...(rules && { rules }) };
}

/** What the settings say of collecting, but for how much and what. */
export function collectingOf(activations: ModelActivationsConfig) {
  const { field, shuffleDocuments, contextLength, bos, dtype, shardRows } = activations;
  const { skipSpecialTokens, skipPositions, maxNorm } = activations;
  return {
    ...{ field, shuffleDocuments, contextLength, bos, dtype, shardRows },
    ...{ skipSpecialTokens, skipPositions, maxNorm },
  };
}
