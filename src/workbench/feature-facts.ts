/** What is known of a latent beside its line in the feature index: names, neighbours, who fires with it. */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { CoActivation } from "../analysis/co-activation.ts";
import { tokenText } from "../analysis/codes.ts";
import type { Features } from "../analysis/features.ts";
import type { LogitEffect } from "../analysis/logits.ts";
import { cosineNull, nearestRows, type CosineNull } from "../analysis/neighbors.ts";
import type { LatentFacts } from "../analysis/suspects.ts";
import type { Model } from "../model/model.ts";

export interface NearRows {
  nearest: { latent: number; cosine: number; label: string }[];
  chance: CosineNull;
}

/** Where the counts of pairs lie. */
export const countsPath = (features: Features) => join(features.dir, "co-activation.bin");

/** How latents fire together, if it was counted. */
export async function countedCoActivation(features: Features): Promise<CoActivation | undefined> {
  const path = countsPath(features);
  return existsSync(path) ? CoActivation.from(await readFile(path)) : undefined;
}

/** What suspects are judged by, beside the weights. */
export function factsOf(features: Features, co: CoActivation): LatentFacts {
  const known = new Map<number, ReadonlyMap<number, number>>();
  const read = (latent: number) => {
    const { topTokens } = features.feature(latent);
    return new Map(topTokens.map(({ token, share }) => [token, share]));
  };
  return {
    co,
    profile(latent) {
      const profile = known.get(latent) ?? read(latent);
      known.set(latent, profile);
      return profile;
    },
  };
}

/** The tokens of an effect with their characters. */
export function withTexts<T extends LogitEffect>(model: Model, effect: T) {
  const show = tokenText(model);
  const named = (tokens: T["top"]) => tokens.map((one) => ({ text: show(one.token), ...one }));
  return { ...effect, top: named(effect.top), bottom: named(effect.bottom) };
}

/** The latents whose rows of `matrix` [dSae, width] point most nearly the same way, beside what chance gives. */
export async function near(
  matrix: Float32Array,
  width: number,
  features: Features,
  { latent, top, chance }: { latent: number; top: number; chance?: CosineNull },
): Promise<NearRows> {
  const { rows, cosines } = await nearestRows(matrix, width, { count: top, of: [latent] });
  return {
    // -1 where there are fewer others than were asked for.
    nearest: Array.from(rows).flatMap((row, i) =>
      row < 0 ? [] : [{ latent: row, cosine: cosines[i], label: nameOf(features, row) }],
    ),
    // The same for all latents: whoever asks for several may bring it along.
    chance: chance ?? (await cosineNull(matrix, width)),
  };
}

/** A latent in a word or two: its label, or else the tokens it is most active on. */
export function nameOf({ index, labels }: Features, latent: number): string {
  const tokens = index.columns.topTokens[latent].map((text) => JSON.stringify(text)).join(" ");
  const label = latent < 0 ? undefined : labels?.best[latent];
  if (label) return `${label.name} (AUC ${label.auc.toFixed(2)})`;
  return tokens === "" ? "never fires" : `most active on ${tokens}`;
}
