/**
 * Absorption (Chanin et al. 2024; as measured by SAEBench), against ground truth: where a concept is
 * there, its probe says so, and yet its main latents are silent because the latent of one of its kinds
 * (`animal.dog` is a kind of `animal`) has taken over its direction.
 *
 * A test position of the parent that the full probe gets right counts as absorbed when
 * - all main latents of the parent (those that splitting counts) are silent there;
 * - of the latents whose decoder row has a cosine of at least 0.025 with the probe's direction p, the
 *   one with the largest a_f W_dec[f]·p has at least 0.4 of Σ_f a_f W_dec[f]·p;
 * - that latent belongs to one kind: on the selection documents at least half of its firings carry it.
 * The rate is the share of absorbed positions; the null takes a random direction for p.
 */
import { Rng } from "../rng.ts";
import type { Sae } from "../sae/sae.ts";
import type { ConceptTruth } from "./concept-probes.ts";
import { intervalOf, type DocumentDraws } from "./document-draws.ts";
import type { Interval } from "./interval.ts";
import type { LabelledText } from "./labelled-text.ts";

export interface ConceptAbsorption {
  parent: string;
  /** Test positions with the parent that its probe gets right. */
  positions: number;
  /** Of these, the share at which all main latents are silent. */
  silent: Interval;
  rate: Interval;
  /** The rate with a random direction in the probe's place. */
  random: number;
  main: number[];
  /** Who absorbs, most positions first. */
  absorbers: { latent: number; concept: string; positions: number }[];
}

/** SAEBench's thresholds of full absorption. */
export const LEAST_COSINE = 0.025;
export const LEAST_SHARE = 0.4;

/** Of every concept of `truths` that has kinds; none for a transcoder, whose decoder lives elsewhere. */
export function conceptAbsorption(
  sae: Sae,
  { selection, test }: { selection: LabelledText; test: LabelledText },
  truths: readonly ConceptTruth[],
  draws: DocumentDraws,
  seed: number,
): ConceptAbsorption[] {
  if (sae.spec.transcoder) return [];
  const { concepts } = selection;
  return truths.flatMap((truth) => {
    const parent = concepts[truth.concept];
    const kinds = [...concepts.keys()].filter((c) => concepts[c].startsWith(`${parent}.`));
    if (kinds.length === 0) return [];
    const labels = test.labelsOf(truth.concept);
    const right = labels.map((label, p) => label & truth.predicted[p]);
    const targets = right.slice();
    for (const latent of truth.main) for (const p of test.firings(latent).positions) targets[p] = 0;

    const kindOf = new Map<number, number | undefined>();
    const kindLabels = kinds.map((kind) => selection.labelsOf(kind));
    const belongsTo = (latent: number) => {
      if (!kindOf.has(latent))
        kindOf.set(latent, kindOfLatent(selection.firings(latent).positions, kindLabels));
      return kindOf.get(latent);
    };
    const { absorbed, counts } = absorbedAt(sae, test, targets, truth.direction, belongsTo);
    const rng = new Rng(seed, "absorption", parent);
    const random = truth.direction.map(() => rng.normal());
    const length = Math.hypot(...random);
    const chance = absorbedAt(sae, test, targets, random.map((u) => u / length), belongsTo); // prettier-ignore
    const total = count(right);
    const share = (marked: Uint8Array) =>
      intervalOf(draws.ratio(perDocument(test, marked), perDocument(test, right)));
    return {
      ...{ parent, positions: total, main: truth.main },
      ...{ silent: share(targets), rate: share(absorbed) },
      random: count(chance.absorbed) / total,
      absorbers: [...counts]
        .map(([latent, positions]) => ({
          latent,
          concept: concepts[kinds[belongsTo(latent)!]],
          positions,
        }))
        .sort((a, b) => b.positions - a.positions),
    };
  });
}

/** Which of `targets` are absorbed along a direction of length 1, and by whom. */
function absorbedAt(
  sae: Sae,
  text: LabelledText,
  targets: Uint8Array,
  direction: Float64Array,
  belongsTo: (latent: number) => number | undefined,
): { absorbed: Uint8Array; counts: Map<number, number> } {
  const total = new Float64Array(text.positions);
  const most = new Float64Array(text.positions);
  const by = new Int32Array(text.positions).fill(-1);
  for (let f = 0; f < text.dSae; f++) {
    let [along, square] = [0, 0];
    for (const [c, w] of sae.decoderRow(f).entries()) {
      along += w * direction[c];
      square += w * w;
    }
    const isAligned = along >= LEAST_COSINE * Math.sqrt(square) && square > 0;
    const { positions, values } = text.firings(f);
    for (let i = 0; i < values.length; i++) {
      const p = positions[i];
      if (!targets[p]) continue;
      const part = values[i] * along;
      total[p] += part;
      if (isAligned && part > most[p]) [most[p], by[p]] = [part, f];
    }
  }
  const counts = new Map<number, number>();
  const absorbed = targets.map((target, p) => {
    if (!target || by[p] < 0 || most[p] < LEAST_SHARE * total[p]) return 0;
    if (belongsTo(by[p]) === undefined) return 0;
    counts.set(by[p], (counts.get(by[p]) ?? 0) + 1);
    return 1;
  });
  return { absorbed, counts };
}

/** The number of the kind that at least half of a latent's firings carry, by 1 where a position has the kind. */
export function kindOfLatent(
  firings: Int32Array,
  kinds: readonly Uint8Array[],
): number | undefined {
  const kind = kinds.findIndex((labels) => {
    let hits = 0;
    for (const p of firings) hits += labels[p];
    return firings.length > 0 && hits >= firings.length / 2;
  });
  return kind < 0 ? undefined : kind;
}

function perDocument(text: LabelledText, marked: Uint8Array): Float64Array {
  const sums = new Float64Array(text.documentCount);
  for (let p = 0; p < marked.length; p++) sums[text.documents[p]] += marked[p];
  return sums;
}

function count(marked: Uint8Array): number {
  return marked.reduce((sum, mark) => sum + mark, 0);
}
