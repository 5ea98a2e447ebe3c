/** The features of an autoencoder in training, for whoever looks on: see workbench/preview.ts. */
import type { Device } from "../device/device.ts";
import type { RunFolder } from "../runs.ts";
import type { Trainer } from "../sae/train.ts";
import { heldOutDocuments } from "../workbench/model-run.ts";
import { PREVIEW_FILE, previewFeatures } from "../workbench/preview.ts";
import { readingOf } from "../workbench/reading.ts";
import type { Activations, Context } from "./sources.ts";

/** Previews take at most about one part in so many of the time. */
const SHARE = 15;
const TOKENS = 4096;

/** Writes preview.json every now and then; undefined where there is no text to look at. */
export function previewOf(
  { config }: Context,
  run: RunFolder,
  device: Device,
  { model, hookPoints }: Activations,
): { show(trainer: Trainer): Promise<void> } | undefined {
  const { activations } = config;
  if (!model || !hookPoints || activations.from !== "model") return undefined;
  let due = 0;
  return {
    async show(trainer) {
      const began = Date.now();
      const isLast = trainer.step === trainer.totalSteps;
      if (began < due && !isLast) return;
      const preview = await previewFeatures(
        ...([await trainer.sae(), device, model, hookPoints.inputs] as const),
        heldOutDocuments(config, model),
        { tokens: TOKENS, ...readingOf(activations), step: trainer.step, features: 12 },
      );
      run.writeJson(PREVIEW_FILE, preview);
      due = Date.now() + SHARE * (Date.now() - began);
    },
  };
}
