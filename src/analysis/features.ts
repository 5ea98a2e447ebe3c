/**
 * Features: what each latent of an SAE responds to. One pass over held-out text gathers, for all
 * latents at once, exact firing counts, a histogram and examples; the result is a folder that can
 * be read with `cat` and from which any latent opens without reading the rest.
 *
 *   features/index.json      what was measured, and one column per statistic, [dSae] each
 *   features/features.jsonl  one line per latent: histogram and examples
 *   features/labels.json     the label that fits each latent best, where labels were scored
 */
import { open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { messageOf, UserError } from "../error.ts";
import type { BestLabel } from "./concepts.ts";

/** Activations are counted in bins of a quarter octave: bin b holds 2^(b/4 + FIRST) ≤ a < 2^((b+1)/4 + FIRST). */
export const HISTOGRAM = { first: -12, perOctave: 4, bins: 96 } as const;

/** The bin of an activation; what lies outside the range is counted in the outermost bins. */
export function histogramBin(value: number): number {
  const { first, perOctave, bins } = HISTOGRAM;
  const bin = Math.floor((Math.log2(value) - first) * perOctave);
  return Math.min(Math.max(bin, 0), bins - 1);
}

/** Lower edge of a bin. */
export function histogramEdge(bin: number): number {
  return 2 ** (bin / HISTOGRAM.perOctave + HISTOGRAM.first);
}

/** A place where a latent fires, with the text around it. */
export interface Example {
  /** The activation at the peak. */
  value: number;
  document: string;
  /** Exact characters: joined, they are a slice of the document. */
  pieces: string[];
  /** The latent's activation on each piece. */
  values: number[];
  /** The piece that the example is about. */
  peak: number;
  /** True where the window begins or ends inside its document. */
  cutBefore: boolean;
  cutAfter: boolean;
}

/** A token type and how a latent fires on it. */
export interface TokenShare {
  token: number;
  /** The token as text, bytes of split characters shown as ⟨xx⟩. */
  text: string;
  /** How often the latent fires on it. */
  firings: number;
  /** Its share of the latent's total activation. */
  share: number;
}

/** One latent with everything known about it. */
export interface Feature {
  latent: number;
  /** Positions with activation > 0. */
  firings: number;
  /** firings / positions, beginning-of-sequence tokens in neither. */
  density: number;
  /** Documents with at least one firing. */
  documents: number;
  /** Mean activation over the positions where it fires; 0 for one that never does. */
  mean: number;
  max: number;
  /** Share of the variance of its activation that the current token explains (ε²), 0 … 1. */
  tokenSelectivity: number;
  /** On how many kinds of token it fires: 2^entropy of its activation over token types; 0 when it never fires. */
  tokenTypes: number;
  topTokens: TokenShare[];
  /** Exact counts per bin, see `histogramBin`, from `firstBin` on. */
  histogram: { firstBin: number; counts: number[] };
  top: Example[];
  random: Example[];
}

/** The columns of index.json; every array is [dSae]. */
export interface FeatureColumns {
  firings: number[];
  documents: number[];
  mean: number[];
  max: number[];
  tokenSelectivity: number[];
  tokenTypes: number[];
  /** The token type with the most activation; -1 for a latent that never fires. */
  mainToken: number[];
  /** Up to three token types with the most activation, as text. */
  topTokens: string[][];
  /** Byte range of the latent's line in features.jsonl. */
  offset: number[];
  bytes: number[];
}

export interface FeatureIndex {
  version: 1;
  dSae: number;
  /** Positions counted, beginning-of-sequence tokens excluded: the denominator of every density. */
  positions: number;
  documents: number;
  histogram: typeof HISTOGRAM;
  /** Where the numbers come from: hashes of weights, data and tokenizer, hook point, seed. */
  provenance: Record<string, unknown>;
  columns: FeatureColumns;
}

/** labels.json: which label fits each latent, chosen on some documents and measured on others. */
export interface FeatureLabels {
  /** Positions that labels were chosen on. */
  selectionPositions: number;
  /** Positions that their numbers come from. */
  testPositions: number;
  /** [dSae]; null for a latent that fires on no label that is frequent enough. */
  best: (BestLabel | null)[];
}

/** A feature folder, opened. */
export class Features {
  readonly dir: string;
  readonly index: FeatureIndex;
  readonly labels: FeatureLabels | undefined;

  constructor(dir: string, index: FeatureIndex, labels: FeatureLabels | undefined) {
    this.dir = dir;
    this.index = index;
    this.labels = labels;
  }

  /** One latent, read by its byte range.
   * @throws UserError when the SAE has no such latent, or the files do not belong together. */
  async feature(latent: number): Promise<Feature> {
    const { dSae, columns } = this.index;
    if (!Number.isInteger(latent) || latent < 0 || latent >= dSae)
      throw new UserError(`latent must be a whole number from 0 to ${dSae - 1}; got ${latent}`);
    const bytes = Buffer.alloc(columns.bytes[latent]);
    const path = join(this.dir, "features.jsonl");
    const file = await open(path, "r");
    try {
      await file.read(bytes, 0, bytes.length, columns.offset[latent]);
    } finally {
      await file.close();
    }
    try {
      const feature = JSON.parse(bytes.toString("utf8")) as Feature;
      if (feature.latent === latent) return feature;
    } catch {
      // Not JSON: the same remedy as the wrong latent.
    }
    throw new UserError(
      `${path} does not fit ${join(this.dir, "index.json")} (latent ${latent} is not where the index says); index the features again`,
    );
  }

  density(latent: number): number {
    return this.index.columns.firings[latent] / this.index.positions;
  }
}

/** Opens a folder that `indexFeatures` made. @throws UserError when there is none, or it is damaged. */
export async function openFeatures(dir: string): Promise<Features> {
  const path = join(dir, "index.json");
  const index = (await readJson(path)) as FeatureIndex | undefined;
  if (!index) throw new UserError(`no feature index at ${path}; make one with lens features`);
  if (index.version !== 1)
    throw new UserError(`${path} has version ${String(index.version)}; this Lens reads version 1`);
  const labels = (await readJson(join(dir, "labels.json"))) as FeatureLabels | undefined;
  return new Features(dir, index, labels);
}

/** Undefined when there is no such file. */
async function readJson(path: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UserError(`${path} is damaged (${messageOf(error)}); index the features again`);
  }
}
