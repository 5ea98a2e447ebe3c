/** How a run reads text, wherever it does: as its activations were collected. */
import type { TextOptions } from "../analysis/codes.ts";
import type { ModelActivationsConfig } from "../config.ts";
import { tokenRules } from "../model/token-filter.ts";

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
