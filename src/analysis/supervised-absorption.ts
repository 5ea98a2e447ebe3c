/**
 * Absorption as SAEBench scores it (Karvonen et al. 2025; Chanin et al. 2024): a concept is there, its
 * probe says so, and yet others than the concept's main latents carry its direction p (‖p‖ = 1). On a row
 * x let main, absorbing and top be the sums of a_f (W_dec[f] · p) over the main latents; over the three largest of
 * the others whose decoder row has a cosine of at least 0.1 with p; and the largest of all. Then
 *
 *   fraction  0 if main ≥ x·p or absorbing < 0.4 x·p; 1 if main ≤ 0; otherwise
 *             min(absorbing, x·p − main) / (min(absorbing, x·p − main) + main)
 *   full      1 if all main latents are silent, top ≥ 0.4 x·p > 0, and the cosine of top's latent ≥ 0.025
 *
 * means over the test rows with the concept that the probe gets right. Main latents are the first k of the
 * sparse probes' order at which one more adds less than 0.03 to F1, k ≤ 10. SAEBench asks it of
 * the first letters of spelled words; here concepts are planted that have kinds (`animal`, `animal.cat` …),
 * and what a kind's latent absorbs is counted apart. The null takes random directions for p.
 */
import { Rng } from "../rng.ts";
import { kindOfLatent, LEAST_COSINE, LEAST_SHARE } from "./concept-absorption.ts";
import { splittingOf } from "./concept-splitting.ts";
import { DocumentDraws, intervalOf, type Drawn } from "./document-draws.ts";
import type { Interval } from "./interval.ts";
import { agreement } from "./label-scores.ts";
import { fitProbe, probeScores } from "./probe.ts";
import { MIN_PER_CLASS } from "./supervised-probing.ts";
import { mean, meanDrawn, NULL_DRAWS, nullOf } from "./supervised-removal.ts";
import {
  activationsOf,
  balanced,
  largest,
  latentColumns,
  latentDifferences,
  type LabelledRows,
  type LabelledSplit,
} from "./supervised-rows.ts";

export interface AbsorptionOptions {
  /** Absent: all concepts that have kinds. */
  parents?: readonly string[];
  trainPerClass?: number;
  testPerClass?: number;
  seed?: number;
  onProgress?: (done: number, total: number) => void;
}

export interface ParentAbsorption {
  parent: string;
  /** Of the full probe on test rows of which half carry the parent. */
  accuracy: number;
  /** Test rows with the parent that the probe gets right. */
  rows: number;
  main: number[];
  /** Share of the rows at which all main latents are silent. */
  silent: Interval;
  fraction: Interval;
  full: Interval;
  /** The part of `full` in which the absorbing latent belongs to a kind: at least half of its firings on train rows carry it. */
  byKind: Interval;
  /** Along random directions: mean and the middle 95 % of 10 of them. */
  null: { fraction: Interval; full: Interval };
  /** Latents that absorb in full, most rows first. */
  absorbers: { latent: number; kind: string | null; rows: number }[];
}

export interface AbsorptionResult {
  parents: ParentAbsorption[];
  tooRare: string[];
  /** Over the parents, documents drawn once for all of them; absent when there is none. */
  mean?: {
    fraction: Interval;
    full: Interval;
    byKind: Interval;
    null: { fraction: number; full: number };
  };
  drawn: Record<string, Drawn>;
}

const MAX_MAIN = 10;
/** Of latents that count in the fraction. */
const FRACTION_COSINE = 0.1;
const MAX_ABSORBERS = 3;

/** @param W_dec raw units, [dSae, dIn] (`rawDecoder`). */
export function absorptionOfKinds(
  { train, test }: LabelledSplit,
  W_dec: Float32Array,
  options: AbsorptionOptions = {},
): AbsorptionResult {
  const { trainPerClass = 500, testPerClass = 250, seed = 0 } = options;
  const draws = new DocumentDraws(test.documents, seed);
  const names = [...train.labels.keys()];
  const kindsOf = (parent: string) => names.filter((name) => name.startsWith(`${parent}.`));
  const parents = options.parents ?? names.filter((name) => kindsOf(name).length > 0);
  const result: AbsorptionResult = { parents: [], tooRare: [], drawn: {} };
  const shares: Record<"fraction" | "full" | "byKind", Drawn[]> = { fraction: [], full: [], byKind: [] }; // prettier-ignore
  for (const [i, parent] of parents.entries()) {
    options.onProgress?.(i, parents.length);
    const rng = new Rng(seed, "absorption", parent);
    const [trainLabel, testLabel] = [train.labels.get(parent), test.labels.get(parent)];
    const fit = trainLabel && balanced(trainLabel, trainPerClass, rng);
    const measure = testLabel && balanced(testLabel, testPerClass, rng);
    if (!fit || !measure || Math.min(fit.rows.length, measure.rows.length) < 2 * MIN_PER_CLASS) {
      result.tooRare.push(parent);
      continue;
    }
    const probe = fitProbe(activationsOf(train, fit.rows), fit.labels, { standardise: true });
    const scores = probeScores(probe, activationsOf(test, measure.rows));
    const right = measure.rows.filter((_, n) => measure.labels[n] === 1 && scores[n] >= 0);
    if (right.length < MIN_PER_CLASS) {
      result.tooRare.push(parent);
      continue;
    }
    const order = largest(latentDifferences(train, fit).map(Math.abs), MAX_MAIN);
    const f1s = order.map((_, k): Drawn => {
      const columns = order.slice(0, k + 1);
      const own = fitProbe(latentColumns(train, fit.rows, columns), fit.labels, { standardise: true }); // prettier-ignore
      const said = probeScores(own, latentColumns(test, measure.rows, columns));
      return { value: agreement(said, measure.labels).f1, draws: new Float64Array() };
    });
    const main = order.slice(0, splittingOf(f1s).latents.value);
    const kinds = kindsOf(parent);
    const kindLabels = kinds.map((kind) => train.labels.get(kind)!);
    const { offsets, positions } = train.codes;
    const kindOf = (latent: number) =>
      kindOfLatent(positions.subarray(offsets[latent], offsets[latent + 1]), kindLabels);
    const found = absorbedAlong(test, right, W_dec, probe.weights, main);
    const byLatent = new Map<number, number>();
    for (const [n, isFull] of found.full.entries())
      if (isFull) byLatent.set(found.top[n], (byLatent.get(found.top[n]) ?? 0) + 1);
    const absorbers = [...byLatent]
      .map(([latent, rows]) => {
        const kind = kindOf(latent);
        return { latent, kind: kind === undefined ? null : kinds[kind], rows };
      })
      .sort((a, b) => b.rows - a.rows || a.latent - b.latent);
    const ofKind = new Set(absorbers.flatMap(({ latent, kind }) => (kind ? [latent] : [])));
    const share = (values: ArrayLike<number>): Drawn => {
      const [tops, all] = [new Float64Array(test.documents), new Float64Array(test.documents)];
      for (const [n, row] of right.entries()) {
        tops[test.document[row]] += values[n];
        all[test.document[row]]++;
      }
      return draws.ratio(tops, all);
    };
    const drawn = {
      ...{ fraction: share(found.fraction), full: share(found.full) },
      byKind: share(found.full.map((isFull, n) => isFull * Number(ofKind.has(found.top[n])))),
    };
    for (const [name, one] of Object.entries(drawn)) shares[name as keyof typeof drawn].push(one);
    const nulls = Array.from({ length: NULL_DRAWS }, () => {
      const random = probe.weights.map(() => rng.normal());
      return absorbedAlong(test, right, W_dec, random, main);
    });
    result.parents.push({
      ...{ parent, accuracy: agreement(scores, measure.labels).accuracy, rows: right.length, main },
      ...{ silent: intervalOf(share(found.silent)), fraction: intervalOf(drawn.fraction) },
      ...{ full: intervalOf(drawn.full), byKind: intervalOf(drawn.byKind) },
      null: {
        fraction: nullOf(nulls.map(({ fraction }) => mean([...fraction]))),
        full: nullOf(nulls.map(({ full }) => mean([...full]))),
      },
      absorbers: absorbers.slice(0, 20),
    });
  }
  if (result.parents.length > 0) {
    const { fraction, full, byKind } = shares;
    result.drawn = { fraction: meanDrawn(fraction), full: meanDrawn(full) };
    result.mean = {
      fraction: intervalOf(result.drawn.fraction),
      full: intervalOf(result.drawn.full),
      byKind: intervalOf(meanDrawn(byKind)),
      null: {
        fraction: mean(result.parents.map((one) => one.null.fraction.value)),
        full: mean(result.parents.map((one) => one.null.full.value)),
      },
    };
  }
  return result;
}

/** What is absorbed along `direction` (of any length) at some rows; all [rows.length]. */
export function absorbedAlong(
  { codes, x, dIn, rows: total }: LabelledRows,
  rows: Int32Array,
  W_dec: Float32Array,
  direction: Float64Array,
  main: readonly number[],
): {
  fraction: Float64Array;
  full: Uint8Array;
  /** 1 where all main latents are silent. */
  silent: Uint8Array;
  /** The latent with the largest part; -1 where none has one above 0. */
  top: Int32Array;
} {
  const place = new Int32Array(total).fill(-1);
  for (const [n, row] of rows.entries()) place[row] = n;
  const length = Math.hypot(...direction);
  const isMain = new Set(main);
  const mainPart = new Float64Array(rows.length);
  const silent = new Uint8Array(rows.length).fill(1);
  const topPart = new Float64Array(rows.length);
  const topCosine = new Float64Array(rows.length);
  const top = new Int32Array(rows.length).fill(-1);
  // The largest parts of each row, falling.
  const absorbing = new Float64Array(rows.length * MAX_ABSORBERS);
  for (let f = 0; f + 1 < codes.offsets.length; f++) {
    let [along, square] = [0, 0];
    for (let c = 0, w = f * dIn; c < dIn; c++, w++) {
      along += W_dec[w] * (direction[c] / length);
      square += W_dec[w] ** 2;
    }
    const cosine = square > 0 ? along / Math.sqrt(square) : 0;
    for (let i = codes.offsets[f]; i < codes.offsets[f + 1]; i++) {
      const n = place[codes.positions[i]];
      if (n < 0) continue;
      const part = codes.values[i] * along;
      if (part > topPart[n]) [topPart[n], topCosine[n], top[n]] = [part, cosine, f];
      if (isMain.has(f)) {
        mainPart[n] += part;
        silent[n] = 0;
      } else if (cosine >= FRACTION_COSINE && part > 0) {
        let rest = part;
        for (let a = n * MAX_ABSORBERS; a < (n + 1) * MAX_ABSORBERS; a++)
          if (rest > absorbing[a]) [absorbing[a], rest] = [rest, absorbing[a]];
      }
    }
  }
  const fraction = new Float64Array(rows.length);
  const full = new Uint8Array(rows.length);
  for (const [n, row] of rows.entries()) {
    let there = 0;
    for (let c = 0; c < dIn; c++) there += x[row * dIn + c] * (direction[c] / length);
    const others = absorbing
      .subarray(n * MAX_ABSORBERS, (n + 1) * MAX_ABSORBERS)
      .reduce((sum, part) => sum + part, 0);
    fraction[n] = fractionOf(mainPart[n], others, there);
    const isTop = topPart[n] >= LEAST_SHARE * there && topCosine[n] >= LEAST_COSINE;
    full[n] = Number(silent[n] === 1 && there > 0 && isTop);
  }
  return { fraction, full, silent, top };
}

function fractionOf(main: number, absorbing: number, there: number): number {
  if (there <= 0 || main >= there || absorbing < LEAST_SHARE * there) return 0;
  if (main <= 0) return 1;
  const absorbed = Math.min(absorbing, there - main);
  return absorbed / (absorbed + main);
}
