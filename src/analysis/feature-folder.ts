/** Writes a feature folder from what a pass has counted and the log it has left. */
import { mkdir, open, readdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

import { PLACE_BINS, type FeatureCounter } from "./feature-counter.ts";
import { gatherExamples, type Replay, type StoredExamples } from "./feature-examples.ts";
import {
  Features,
  FEATURES_FILE,
  FEATURES_VERSION,
  HISTOGRAM,
  PARTNERS_FILE,
  type FeatureColumns,
  type FeatureIndex,
  type FeatureLabels,
  type PlaceShare,
  type StoredFeature,
} from "./features.ts";
import { writePartners } from "./partners.ts";

/** Latents whose examples are in memory at once: the log is read twice for each such group. */
const GROUP = 8192;
const TOP_TOKENS = 8;

/**
 * Writes the feature folder `out`; an older one there is replaced only when the new one is whole. Until
 * then files are in `<out>.partial`.
 * @param replay the chunks that `counter` was given.
 * @param tokenText shows a token to a person.
 */
export async function writeFeatures(
  out: string,
  counter: FeatureCounter,
  replay: Replay,
  tokenText: (token: number) => string,
  about: { provenance: Record<string, unknown>; labels?: FeatureLabels },
): Promise<Features> {
  const { dSae } = counter;
  const columns: FeatureColumns = {
    ...{ firings: [], documents: [], mean: [], max: [], tokenSelectivity: [], tokenTypes: [] },
    ...{ mainToken: [], topTokens: [], offset: [], bytes: [] },
  };
  const temporary = `${out}.partial`;
  await mkdir(temporary, { recursive: true });
  const file = await open(join(temporary, FEATURES_FILE), "w");
  try {
    let offset = 0;
    for (let from = 0; from < dSae; from += GROUP) {
      const to = Math.min(from + GROUP, dSae);
      const examples = await gatherExamples(counter, replay, from, to);
      for (let latent = from; latent < to; latent++) {
        const feature = storedFeature(counter, latent, tokenText, examples[latent - from]);
        const line = gzipSync(`${JSON.stringify(feature, shortNumbers)}\n`);
        await file.write(line);
        columns.firings.push(feature.firings);
        columns.documents.push(feature.documents);
        columns.mean.push(shortNumber(feature.mean));
        columns.max.push(shortNumber(feature.max));
        columns.tokenSelectivity.push(shortNumber(feature.tokenSelectivity));
        columns.tokenTypes.push(shortNumber(feature.tokenTypes));
        columns.mainToken.push(feature.topTokens[0]?.token ?? -1);
        columns.topTokens.push(feature.topTokens.slice(0, 3).map(({ text }) => text));
        columns.offset.push(offset);
        columns.bytes.push(line.length);
        offset += line.length;
      }
    }
  } finally {
    await file.close();
  }
  await writePartners(join(temporary, PARTNERS_FILE), counter.coActivation);
  const index: FeatureIndex = {
    version: FEATURES_VERSION,
    dSae,
    positions: counter.positions,
    documents: counter.documents,
    histogram: HISTOGRAM,
    errors: { coActivation: counter.coActivation.error, tokens: counter.tokens.error },
    bytesPerLatent: 0,
    provenance: about.provenance,
    columns,
  };
  let bytes = Buffer.byteLength(JSON.stringify(index));
  for (const name of [FEATURES_FILE, PARTNERS_FILE])
    bytes += (await stat(join(temporary, name))).size;
  index.bytesPerLatent = Math.round(bytes / dSae);
  if (about.labels)
    await writeFile(join(temporary, "labels.json"), JSON.stringify(about.labels, shortNumbers));
  await writeFile(join(temporary, "index.json"), JSON.stringify(index));
  const kept = [
    FEATURES_FILE,
    PARTNERS_FILE,
    "index.json",
    ...(about.labels ? ["labels.json"] : []),
  ];
  for (const name of await readdir(temporary))
    if (!kept.includes(name)) await rm(join(temporary, name), { recursive: true });
  await rm(out, { recursive: true, force: true });
  await rename(temporary, out);
  return new Features(out, index, about.labels);
}

/** A line of the folder: everything known about one latent. */
function storedFeature(
  counter: FeatureCounter,
  latent: number,
  tokenText: (token: number) => string,
  examples: StoredExamples,
): StoredFeature {
  const { tokens, byPlace, ...numbers } = counter.numbers(latent);
  const total = tokens.reduce((sum, { sum: mass }) => sum + mass, 0);
  return {
    latent,
    ...numbers,
    topTokens: tokens.slice(0, TOP_TOKENS).map(({ token, count, sum }) => {
      const occurrences = counter.tokens.occurrences[token];
      return {
        ...{ token, text: tokenText(token), firings: count, occurrences },
        ...{ rate: count / occurrences, share: sum / total },
      };
    }),
    byPlace: byPlace.flatMap((firings, bin): PlaceShare[] => {
      const positions = counter.placeTotals[bin];
      const from = 2 ** bin - 1;
      const end = bin === PLACE_BINS - 1 ? {} : { to: 2 * from };
      return positions > 0 ? [{ from, ...end, positions, firings }] : [];
    }),
    ...examples,
  };
}

/** Seven significant digits say all that an f32 holds to a reader. */
function shortNumber(value: number): number {
  return Number(value.toPrecision(7));
}

function shortNumbers(_key: string, value: unknown): unknown {
  return typeof value === "number" && !Number.isInteger(value)
    ? Number(value.toPrecision(5))
    : value;
}
