/** `lens eval --structure`: how long the codes are, and what the decoder's directions are made of. */
import type { StructureResult } from "../analysis/structure.ts";
import type { Device } from "../device/device.ts";
import type { Model } from "../model/model.ts";
import type { Sae } from "../sae/sae.ts";
import { hookPointsOf } from "../workbench/hook-points.ts";
import { heldOutDocuments } from "../workbench/model-run.ts";
import { readingOf } from "../workbench/reading.ts";
import { interval, intervalsOf, stepProgress } from "./eval-supervised.ts";
import { type Context } from "./sources.ts";
import { short } from "../readable.ts";
import { table } from "./terminal.ts";

export async function evaluateStructure(
  { config, terminal, signal }: Context,
  device: Device,
  model: Model,
  sae: Sae,
): Promise<StructureResult> {
  const { structureOf } = await import("../analysis/structure.ts");
  const { activations } = config;
  if (activations.from !== "model") throw new Error("only a model reads text");
  const { validationTokens: tokens } = activations;
  const { inputs: hookPoint } = hookPointsOf(model, activations);
  return stepProgress(terminal.quiet, (onStep) =>
    structureOf(sae, model, heldOutDocuments(config, model), {
      ...{ device, hookPoint, tokens, ...readingOf(activations) },
      ...{ seed: config.seed, signal, onStep },
    }),
  );
}

/** What is printed as JSON: `metrics` are the numbers that comparisons are made of. */
export function structureRecord({ drawn, ...result }: StructureResult) {
  return { ...result, metrics: intervalsOf(drawn) };
}

export function structureText({ mdl, metaSae, left }: StructureResult): string {
  const parts: string[] = [];
  if (mdl) {
    const { bits, positions, documents, fvu, fvuRounded } = mdl;
    const rows = [
      ["codes", interval(bits.codes, 1)],
      ["  which latents fire", interval(bits.firing, 1)],
      ["  their values", interval(bits.values, 1)],
      ["dimensions", interval(bits.dimensions, 1)],
      ["principal components", bits.components ? interval(bits.components, 1) : "none: too wide"],
    ];
    parts.push(
      `description length over ${short(positions)} positions in ${short(documents)} documents, 95 % intervals over documents`,
      table(["bits per position", ""], rows),
      `all at an FVU of ${short(fvuRounded)}: values rounded so that the SAE's ${short(fvu)} grows by about 1 %`,
    );
  }
  if (metaSae) {
    const { latents, width, k, metaLatents, null: nulls } = metaSae;
    const rows = Object.entries({ "decoder rows": metaSae, "random directions": nulls.random, "shuffled coordinates": nulls.shuffled }).map(([name, found]) => [name, interval(found.heldOut), interval(found.varianceExplained)]); // prettier-ignore
    parts.push(
      `${mdl ? "\n" : ""}meta-SAE of ${short(width)} latents, k ${k}, trained on the decoder rows of ${short(latents.trained)} latents; ${short(latents.heldOut)} held out`,
      table(["variance explained", "held out", "trained on"], rows),
      table(
        ["meta-latent", "rows", "latents, the largest first"],
        metaLatents
          .slice(0, 10)
          .map((one) => [String(one.metaLatent), String(one.rows), one.latents.map(({ latent }) => latent).join(" ")]), // prettier-ignore
      ),
    );
  }
  for (const [name, reason] of Object.entries(left)) parts.push(`${name}: left out, ${reason}`);
  return parts.join("\n");
}
