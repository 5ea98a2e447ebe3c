/**
 * Features: what each latent of an SAE responds to. One pass over held-out text gathers, for all
 * latents at once, exact firing counts, histograms, profiles, examples and who fires together; the
 * result is a folder from which any latent opens without reading the rest.
 *
 *   features/index.json         what was measured, and one column per statistic, [dSae] each
 *   features/features.jsonl.gz  one line per latent: its numbers and examples; each line is a gzip
 *                               member of its own, so zcat prints all and a byte range gives one
 *   features/coactivation.bin   who fires with whom (partners.ts)
 *   features/labels.json        the label that fits each latent best, where labels were scored
 */
import { closeSync, openSync, readSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { messageOf, UserError } from "../error.ts";
import { requireLatent } from "./codes.ts";
import type { BestLabel } from "./concepts.ts";
import type { PlacedExample, StoredExample, StoredExamples } from "./feature-examples.ts";
import { readPartners, type StoredPartners } from "./partners.ts";

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

/** A position with the text around it: one where a latent fires, or, of silent ones, one where it does not. */
export interface Example {
  /** The activation at the position; 0 where it is silent. */
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
  /** How often it occurs. */
  occurrences: number;
  /** firings / occurrences. */
  rate: number;
  /** Its share of the latent's total activation. */
  share: number;
}

/** Firings of one fifth by rank. */
export interface QuantileGroup {
  /** Shares of the firings: those from the `from`-th to the `to`-th part by rising activation. */
  from: number;
  to: number;
  /** The least and the largest activation among the ranked firings of the group. */
  low: number;
  high: number;
  examples: Example[];
}

/** How a latent fires at places from … to of their row of tokens; `to` absent: to its end. */
export interface PlaceShare {
  /** Tokens of the row before it, beginning-of-sequence tokens not counted. */
  from: number;
  to?: number;
  /** Positions at such places: the denominator of the rate. */
  positions: number;
  firings: number;
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
  /** By place in the row of tokens, in bins that double. */
  byPlace: PlaceShare[];
  /** The strongest, one per left context. */
  top: Example[];
  /** A uniform sample of its firings. */
  random: Example[];
  /** Fifths of its firings by rank, the strongest first; none when it has fewer than ten firings. */
  quantiles: QuantileGroup[];
  /** Firings that were ranked for `quantiles`: all, or a uniform sample of 256. */
  rankSample: number;
  /** Where it is silent though the token is one of the three with most of its activation. */
  nearMiss: Example[];
  /** Random positions where it is silent. */
  silent: Example[];
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
  /** Byte range of the latent's line in features.jsonl.gz. */
  offset: number[];
  bytes: number[];
}

/** The format that this Lens writes and reads. */
export const FEATURES_VERSION = 2;

export interface FeatureIndex {
  version: typeof FEATURES_VERSION;
  dSae: number;
  /** Positions counted, beginning-of-sequence tokens excluded: the denominator of every density. */
  positions: number;
  documents: number;
  histogram: typeof HISTOGRAM;
  /** By how much counts of pairs may be too small: of two latents, of a latent on a token type; 0: all are exact. */
  errors: { coActivation: number; tokens: number };
  /** Bytes of the folder without labels.json, per latent. */
  bytesPerLatent: number;
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

export const FEATURES_FILE = "features.jsonl.gz";
export const PARTNERS_FILE = "coactivation.bin";

/** Characters; a line has about 12,000. */
const LONGEST_LINE = 2 ** 26;

/** A line of features.jsonl.gz. */
export type StoredFeature = Omit<Feature, keyof StoredExamples> & StoredExamples;

function opened(stored: StoredFeature): Feature {
  const { windows, top, random, quantiles, nearMiss, silent, ...rest } = stored;
  const examples = (placed: readonly PlacedExample[]) =>
    placed.map(([window, value]) => exampleOf(windows[window], value));
  return {
    ...rest,
    top: examples(top),
    random: examples(random),
    quantiles: quantiles.map((group) => ({ ...group, examples: examples(group.examples) })),
    nearMiss: examples(nearMiss),
    silent: examples(silent),
  };
}

function exampleOf(stored: StoredExample, value: number): Example {
  const pieces: string[] = [];
  let start = 0;
  for (const length of stored.lengths) pieces.push(stored.text.slice(start, (start += length)));
  const values = new Array<number>(pieces.length).fill(0);
  stored.at.forEach((piece, i) => (values[piece] = stored.values[i]));
  return {
    ...{ value, document: stored.document, pieces, values, peak: stored.peak },
    ...{ cutBefore: (stored.cut & 1) > 0, cutAfter: (stored.cut & 2) > 0 },
  };
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

  /**
   * One latent, read by its byte range: about 4 kB, which are there before a promise would be.
   * @throws UserError when the SAE has no such latent, or the files do not belong together.
   */
  feature(latent: number): Feature {
    requireLatent(latent, this.index.dSae);
    const { columns } = this.index;
    const path = join(this.dir, FEATURES_FILE);
    const file = openSync(path, "r");
    try {
      const bytes = Buffer.alloc(columns.bytes[latent]);
      readSync(file, bytes, 0, bytes.length, columns.offset[latent]);
      const line = gunzipSync(bytes, { maxOutputLength: LONGEST_LINE }).toString("utf8");
      const stored = JSON.parse(line) as StoredFeature;
      if (stored.latent === latent) return opened(stored);
    } catch {
      // Not gzip or not JSON: the same remedy as the wrong latent.
    } finally {
      closeSync(file);
    }
    throw new UserError(
      `${path} does not fit ${join(this.dir, "index.json")} (latent ${latent} is not where the index says); index the features again`,
    );
  }

  /**
   * Those latents that stand out by how often they fire together with this one, or do not: see partners.ts.
   * @throws UserError when the SAE has no such latent.
   */
  partners(latent: number): StoredPartners {
    requireLatent(latent, this.index.dSae);
    return readPartners(join(this.dir, PARTNERS_FILE), latent);
  }

  density(latent: number): number {
    return this.index.columns.firings[latent] / this.index.positions;
  }
}

/**
 * Opens a folder that `indexFeatures` made.
 * @param onDamagedLabels is told of labels that cannot be read, which are left out then; absent: an error.
 * @throws UserError when there is none, or it is damaged.
 */
export async function openFeatures(
  dir: string,
  onDamagedLabels?: (error: UserError) => void,
): Promise<Features> {
  const path = join(dir, "index.json");
  const index = (await readJson(path)) as
    (Omit<FeatureIndex, "version"> & { version: number }) | undefined;
  if (!index) throw new UserError(`no feature index at ${path}; make one with lens features`);
  if (index.version !== FEATURES_VERSION)
    throw new UserError(
      `${path} has version ${index.version}, this Lens reads version ${FEATURES_VERSION}; index the features again: lens features <run>`,
    );
  const labels = await readLabels(dir, index.dSae).catch((error: unknown) => {
    if (!(error instanceof UserError) || !onDamagedLabels) throw error;
    onDamagedLabels(error);
    return undefined;
  });
  return new Features(dir, { ...index, version: FEATURES_VERSION }, labels);
}

/** Undefined where no labels were scored. @throws UserError when they are damaged. */
async function readLabels(dir: string, dSae: number): Promise<FeatureLabels | undefined> {
  const path = join(dir, "labels.json");
  const labels = (await readJson(path)) as Partial<FeatureLabels> | null | undefined;
  if (labels === undefined) return undefined;
  // What lists show of a label. A number that does not exist is null.
  const isLabel = (one: Partial<BestLabel> | null) =>
    one === null || (typeof one.name === "string" && one.atThreshold?.f1 !== undefined);
  const best = labels?.best;
  if (Array.isArray(best) && best.length === dSae && best.every(isLabel))
    return labels as FeatureLabels;
  throw new UserError(
    `${path} is damaged (it does not hold a label or null for each of ${dSae} latents); index the features again`,
  );
}

/** The value in a file; undefined when there is no such file. @throws UserError for one that cannot be read, with the `remedy` for no JSON. */
export async function readJson(
  path: string,
  remedy = "index the features again",
): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new UserError(`cannot read ${path}: ${messageOf(error)}`);
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UserError(`${path} is damaged (${messageOf(error)}); ${remedy}`);
  }
}
