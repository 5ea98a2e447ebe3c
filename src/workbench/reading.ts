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
