/** What is known of a latent beside its line in the feature index: names, neighbours, who fires with it. */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { CoActivation } from "../analysis/co-activation.ts";
import { tokenText } from "../analysis/codes.ts";
import type { Features } from "../analysis/features.ts";
import type { LogitEffect } from "../analysis/logits.ts";
import { logitEffects, nearestToLogits, type DirectForm } from "../analysis/logits.ts";
import {
  coNeighbors,
  cosineNull,
  nearestRows,
  type CoNeighbor,
  type CosineNull,
  type NearestRows,
} from "../analysis/neighbors.ts";
import { NEAREST, suspectsAmong, type LatentFacts, type Suspect } from "../analysis/suspects.ts";
import { writePointOf } from "../analysis/write-point.ts";
import type { Device } from "../device/device.ts";
import type { Model } from "../model/model.ts";
import type { Sae } from "../sae/sae.ts";
import type { ModelRun } from "./model-run.ts";

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

/** The direct effects of `latents` on the logits, in their order. */
export async function* effectsOf(
  { sae, model, places }: Pick<ModelRun, "sae" | "model" | "places">,
  latents: readonly number[],
  options: { form: DirectForm; top: number; device?: Device },
) {
  const { hookPoint: writesTo } = writePointOf(sae, model, nearestToLogits(places));
  for await (const effect of logitEffects(sae, model, { ...places, ...options, latents }))
    yield { writesTo, ...withTexts(model, effect) };
}

/** What is the same for all latents of a run, worked out once. */
export interface NeighborFacts {
  chance: { decoder: CosineNull; encoder: CosineNull };
  /** Where pairs were counted; null where not. */
  pairs: LatentFacts | null;
}

export async function neighborFacts(
  { W_dec, W_enc, spec }: Sae,
  features: Features | undefined,
): Promise<NeighborFacts> {
  const co = features && (await countedCoActivation(features));
  return {
    chance: {
      decoder: await cosineNull(W_dec, spec.dOut),
      encoder: await cosineNull(W_enc, spec.dIn),
    },
    pairs: features && co ? factsOf(features, co) : null,
  };
}

export interface NeighborsOfLatent {
  decoder: NearRows;
  encoder: NearRows;
  /** By phi. */
  together: (CoNeighbor & { label: string })[] | null;
  suspects: Suspect[] | null;
}

/** Those that `latents` point the same way as, or fire together with, in their order. */
export async function* neighborsOf(
  sae: Sae,
  features: Features,
  { chance, pairs }: NeighborFacts,
  latents: readonly number[],
  { top, device }: { top: number; device?: Device },
): AsyncGenerator<NeighborsOfLatent> {
  const { dIn, dOut, dSae } = sae.spec;
  const nearest = (matrix: Float32Array, width: number, count: number) =>
    nearestRows(matrix, width, { count, of: latents, ...(device && { device }) });
  const others = dSae - 1;
  const written = await nearest(sae.W_dec, dOut, Math.min(Math.max(top, NEAREST), others));
  const read = await nearest(sae.W_enc, dIn, Math.min(top, others));
  for (const [i, latent] of latents.entries()) {
    const near = rowOf(written, i, NEAREST);
    yield {
      decoder: { nearest: named(features, rowOf(written, i, top)), chance: chance.decoder },
      encoder: { nearest: named(features, rowOf(read, i, top)), chance: chance.encoder },
      together:
        pairs &&
        coNeighbors(pairs.co, latent, { by: "phi", count: top }).map((one) => ({
          ...one,
          label: nameOf(features, one.latent),
        })),
      suspects: pairs && suspectsAmong(sae, pairs, near, [latent]).suspects,
    };
  }
}

/** The first `most` of one row. */
function rowOf({ rows, cosines, count }: NearestRows, row: number, most: number): NearestRows {
  const [from, to] = [row * count, row * count + Math.min(most, count)];
  return { count: to - from, rows: rows.subarray(from, to), cosines: cosines.subarray(from, to) };
}

function named(features: Features, { rows, cosines }: NearestRows): NearRows["nearest"] {
  // -1 where there are fewer others than were asked for.
  return Array.from(rows).flatMap((latent, i) =>
    latent < 0 ? [] : [{ latent, cosine: cosines[i], label: nameOf(features, latent) }],
  );
}

/** The latents whose rows of `matrix` [dSae, width] point most nearly the same way, beside what chance gives. */
export async function near(
  matrix: Float32Array,
  width: number,
  features: Features,
  { latent, top }: { latent: number; top: number },
): Promise<NearRows> {
  const found = await nearestRows(matrix, width, { count: top, of: [latent] });
  return { nearest: named(features, found), chance: await cosineNull(matrix, width) };
}

/** A latent in a word or two: its label, or else the tokens it is most active on. */
export function nameOf({ index, labels }: Features, latent: number): string {
  const tokens = index.columns.topTokens[latent].map((text) => JSON.stringify(text)).join(" ");
  const label = latent < 0 ? undefined : labels?.best[latent];
  if (label) return `${label.name} (AUC ${label.auc.toFixed(2)})`;
  return tokens === "" ? "never fires" : `most active on ${tokens}`;
}
