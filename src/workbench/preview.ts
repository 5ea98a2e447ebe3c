/** preview.json of a run: what the latents look like while they are still being trained. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";

import {
  encodeText,
  piecesOf,
  windowAround,
  type CodesByLatent,
  type TextChunk,
  type TextOptions,
} from "../analysis/codes.ts";
import type { Example } from "../analysis/features.ts";
import type { Device } from "../device/device.ts";
import type { Model } from "../model/model.ts";
import type { Document } from "../model/text.ts";
import type { Sae } from "../sae/sae.ts";

export const PREVIEW_FILE = "preview.json";

/** Bins of log10 density, a quarter wide, from 1e-4 (and what is below) to 1. */
export const DENSITY_BINS = { from: -4, width: 0.25, count: 16 } as const;

export interface PreviewFeature {
  latent: number;
  /** Positions where it fires. */
  firings: number;
  /** Share of its activation that lies on its main token type. */
  share: number;
  token: string;
  max: number;
  examples: Omit<Example, "document">[];
}

export interface Preview {
  step: number;
  /** Positions of held-out text that were read. */
  positions: number;
  dSae: number;
  /** Latents by density, see DENSITY_BINS. */
  histogram: number[];
  /** Latents that fire nowhere in this text. */
  silent: number;
  /** Those whose activation lies most on one token type, the clearest first. */
  features: PreviewFeature[];
}

/** A latent with fewer firings in so little text tells nothing yet. */
const MIN_FIRINGS = 8;
const EXAMPLES = 3;
const RADIUS = 7;

/**
 * Looks through a little text. A latent's clearness is its share of activation on its main token type,
 * less what a latent of so few firings might have by luck: share - 1/√firings.
 */
export async function previewFeatures(
  sae: Sae,
  device: Device,
  model: Model,
  hookPoints: readonly string[],
  text: AsyncIterable<Document>,
  options: TextOptions & { step: number; features: number },
): Promise<Preview> {
  const { dSae } = sae.spec;
  const tally = Array.from({ length: dSae }, () => ({ firings: 0, sum: 0, byToken: new Map<number, number>() })); // prettier-ignore
  const chunks: { chunk: TextChunk; codes: CodesByLatent }[] = [];
  let positions = 0;
  for await (const { chunk, codes } of encodeText(sae, device, model, hookPoints, text, options)) {
    chunks.push({ chunk, codes });
    positions += chunk.length;
    for (let latent = 0; latent < dSae; latent++) {
      const own = tally[latent];
      for (let i = codes.offsets[latent]; i < codes.offsets[latent + 1]; i++) {
        const token = chunk.tokens[codes.positions[i]];
        own.firings++;
        own.sum += codes.values[i];
        own.byToken.set(token, (own.byToken.get(token) ?? 0) + codes.values[i]);
      }
    }
  }
  const histogram = new Array<number>(DENSITY_BINS.count).fill(0);
  for (const { firings } of tally) if (firings > 0) histogram[densityBin(firings / positions)]++;
  const clear = tally
    .map(({ firings, sum, byToken }, latent) => {
      const [token, most] = [...byToken].reduce((a, b) => (b[1] > a[1] ? b : a), [-1, 0]);
      const share = sum > 0 ? most / sum : 0;
      return { latent, firings, share, token, clearness: share - 1 / Math.sqrt(firings) };
    })
    .filter(({ firings }) => firings >= MIN_FIRINGS)
    .sort((a, b) => b.clearness - a.clearness || a.latent - b.latent)
    .slice(0, options.features);
  const features = clear.map(({ latent, firings, share, token }): PreviewFeature => {
    const found = chunks
      .flatMap(({ chunk, codes }) =>
        Array.from({ length: codes.offsets[latent + 1] - codes.offsets[latent] }, (_, n) => {
          const i = codes.offsets[latent] + n;
          return { chunk, codes, position: codes.positions[i], value: codes.values[i] };
        }),
      )
      .sort((a, b) => b.value - a.value);
    return {
      ...{ latent, firings, share },
      token: model.tokenizer.decode([token]),
      max: found[0].value,
      examples: found.slice(0, EXAMPLES).map(({ chunk, codes, position, value }) => {
        const [from, to] = windowAround(chunk, position, RADIUS);
        const { text: pieces, pieceOf } = piecesOf(chunk, from, to);
        const values = pieces.map(() => 0);
        for (let i = codes.offsets[latent]; i < codes.offsets[latent + 1]; i++) {
          const p = codes.positions[i];
          if (p >= from && p < to) values[pieceOf[p - from]] = codes.values[i];
        }
        return {
          ...{ value, pieces, values, peak: pieceOf[position - from] },
          ...{ cutBefore: true, cutAfter: true },
        };
      }),
    };
  });
  const silent = tally.filter(({ firings }) => firings === 0).length;
  return { step: options.step, positions, dSae, histogram, silent, features };
}

function densityBin(density: number): number {
  const { from, width, count } = DENSITY_BINS;
  return Math.min(count - 1, Math.max(0, Math.floor((Math.log10(density) - from) / width)));
}

/** The run's preview, if it has one. */
export async function readPreview(folder: string): Promise<Preview | undefined> {
  try {
    return JSON.parse(await readFile(join(folder, PREVIEW_FILE), "utf8")) as Preview;
  } catch {
    return undefined; // none was made, or it is being replaced: the next look finds it
  }
}
