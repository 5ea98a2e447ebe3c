/** Where activations that belong to no folder of the user's go: runs with the same data share them. */
import { join } from "node:path";

import type { ModelActivationsConfig } from "../config.ts";
import type { Model } from "../model/model.ts";
import { packingRules } from "../model/packing.ts";
import { stampOfSource } from "../model/text.ts";
import { configHash } from "../runs.ts";

/**
 * The folder of the stores of these hook points below a runs folder, one for each split. Its name says what
 * determines the activations: the settings, the model's and the tokenizer's hash, and the text's files.
 */
export async function storeFolder(
  runs: string,
  activations: ModelActivationsConfig,
  model: Model,
  hookPoints: readonly string[],
): Promise<string> {
  // What the weights are is in their hash.
  const {
    hookPoints: _,
    targetHookPoint: __,
    modelWeights: ___,
    onTheFly: ____,
    modelDevice,
    eos,
    packing,
    ...rest
  } = activations;
  // A GPU rounds otherwise; what is collected as it always was keeps the name it always had.
  const collected = {
    ...{ ...rest, ...packingRules({ bos: rest.bos, eos, packing }) },
    ...(modelDevice !== "cpu" && { modelDevice }),
  };
  const hash = configHash({
    ...collected,
    hookPoint: hookPoints.length === 1 ? hookPoints[0] : hookPoints,
    model: await model.weightsHash(),
    tokenizer: model.tokenizer.hash,
    files: await stampOfSource(activations.data),
  });
  const [first] = hookPoints;
  const places =
    hookPoints.length > 2 ? `${first}+${hookPoints.length - 1}-more` : hookPoints.join("+");
  const label = `${activations.model}-${places}`.replace(/[^\w.+-]+/g, "-");
  return join(runs, "activations", `${label.replace(/^-+/, "").slice(-80)}-${hash}`);
}
