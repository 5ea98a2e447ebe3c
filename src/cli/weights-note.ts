/** What int8 weights cost, measured on a run's own text and said before it begins. */
import type { ModelActivationsConfig } from "../config.ts";
import { compareWeights, type WeightsComparison } from "../model/compare-weights.ts";
import type { Model } from "../model/model.ts";
import { documents, partsOf } from "../model/text.ts";
import { rounded } from "../readable.ts";
import type { Terminal } from "./terminal.ts";

/** Says what int8 weights change at `hookPoints`; nothing where the weights are the checkpoint's. */
export async function noteWeights(
  terminal: Terminal,
  model: Model,
  { modelWeights, data, field, bos, eos }: ModelActivationsConfig,
  hookPoints: readonly string[],
  threads?: number,
): Promise<void> {
  if (modelWeights !== "int8" || terminal.quiet) return;
  // Standard input can be read once.
  const isReadable = partsOf(data).every(({ source }) => source !== "-");
  const { renderChat } = model.tokenizer;
  const text = isReadable ? documents(data, { field, renderChat }) : documents("builtin:stories");
  terminal.note(weightsText(await compareWeights(model, text, hookPoints, { bos, eos, threads })));
}

export function weightsText({ tokens, loss, differences }: WeightsComparison): string {
  const places = Object.entries(differences).map(([name, difference]) => `${name} differs by ${rounded(100 * difference, 2)} %`); // prettier-ignore
  return `int8 weights: ${loss ? `${lossText(loss)}; ` : ""}${places.join(", ")} (relative L2, ${tokens} tokens)`;
}

function lossText({ checkpoint, int8 }: NonNullable<WeightsComparison["loss"]>): string {
  const change = (100 * (int8 - checkpoint)) / checkpoint;
  const sign = change < 0 ? "−" : "+";
  return `loss ${checkpoint.toFixed(3)} -> ${int8.toFixed(3)} nats per token (${sign}${rounded(Math.abs(change), 2)} %)`;
}
