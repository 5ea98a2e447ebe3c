/**
 * Pairs of latents that look as if the SAE had cut a feature in the wrong place. Signs, not proofs:
 * every suspect comes with its numbers, and with how many pairs drawn at random show the same signs.
 *
 *   duplicate  two latents for one thing: nearly the same direction, and they fire together
 *   split      one thing cut in two: similar directions and tokens, but they take turns
 *   absorbed   a broad latent often stays silent where a narrow one fires whose decoder has a part along
 *              it, since the broad one's encoder has learned to overlook that direction, more than the
 *              narrow one's overlooks its own (Chanin et al. 2024, "A is for Absorption", found with
 *              probes; here without any)
 */
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import { Rng } from "../rng.ts";
import type { Sae } from "../sae/sae.ts";
import {
  cosine,
  nearestRows,
  pairOf,
  randomPair,
  type CoFirings,
  type Together,
  type NearestRows,
} from "./neighbors.ts";

export type SuspectKind = "duplicate" | "split" | "absorbed";

/** What makes a suspect; latents that fire at fewer than `minFirings` positions are never one. */
export const RULES = {
  minFirings: 50,
  duplicate: { decoderCosine: 0.9, jaccard: 0.5 },
  split: { decoderCosine: 0.4, phi: 0.1, profile: 0.5 },
  /**
   * `fires`: at what share of the narrow one's positions the broad one fires at most. `response` and
   * `floor`: of the narrow one's own response to it, or of the decoder cosine, where that is more.
   */
  absorbed: { decoderCosine: 0.4, fires: 0.6, response: 0.5, floor: 0.1 },
} as const;

/** The rules in words. */
export function describeRules(): Record<SuspectKind, string> {
  const { duplicate, split, absorbed, minFirings } = RULES;
  const both = `both fire ${minFirings} times or more`;
  return {
    duplicate: `decoder cosine ≥ ${duplicate.decoderCosine}, Jaccard ≥ ${duplicate.jaccard}; ${both}`,
    split: `decoder cosine ≥ ${split.decoderCosine} and beyond chance, cosine of the activation by token ≥ ${split.profile}, phi ≤ ${split.phi}; ${both}`,
    absorbed: `decoder cosine ≥ ${absorbed.decoderCosine} and beyond chance, the one that fires more often fires at no more than ${absorbed.fires * 100} % of the other's positions, and its encoder's response to the other's direction is at most ${absorbed.response} times the other's to its own (or ${absorbed.floor} times the cosine); ${both}`,
  };
}

/** What the rules look at, of latents f and g. */
export interface PairEvidence extends Together {
  decoderCosine: number;
  encoderCosine: number;
  firings: [f: number, g: number];
  /** Cosine of the two latents' activation by token type, over the tokens that are kept of each. */
  profile: number;
  /**
   * What the other's decoder direction does to a latent's pre-activation, in parts of what its own does:
   * ⟨W_enc[f], d_g⟩ / ⟨W_enc[f], d_f⟩ with unit directions d. About the decoder cosine where nothing is overlooked.
   */
  response: [fToG: number, gToF: number];
}

export interface Suspect {
  kind: SuspectKind;
  /** The one that fires more often first. */
  latents: [number, number];
  evidence: PairEvidence;
}

/** What is known of latents beside their weights. */
export interface LatentFacts {
  co: CoFirings;
  /** A latent's activation by token type, as far as it is kept. */
  profile: (latent: number) => ReadonlyMap<number, number>;
}

/**
 * Where SAE and output are of different spaces (transcoders) an encoder cannot answer to a decoder
 * direction; `response` is then NaN, and nothing is called absorbed.
 */
export function evidenceOf(
  { spec, W_enc, W_dec }: Sae,
  { co, profile }: LatentFacts,
  f: number,
  g: number,
): PairEvidence {
  const { dIn, dOut, transcoder } = spec;
  const [encF, encG] = [f, g].map((l) => W_enc.subarray(l * dIn, (l + 1) * dIn));
  const [decF, decG] = [f, g].map((l) => W_dec.subarray(l * dOut, (l + 1) * dOut));
  const response = (own: Float32Array, ownDec: Float32Array, other: Float32Array) =>
    transcoder ? NaN : cosine(own, other) / cosine(own, ownDec);
  const [ofF, ofG] = [profile(f), profile(g)];
  const tokens = [...new Set([...ofF.keys(), ...ofG.keys()])];
  return {
    ...pairOf(co, f, g),
    decoderCosine: cosine(decF, decG),
    encoderCosine: cosine(encF, encG),
    firings: [co.firings[f], co.firings[g]],
    profile: cosine(
      tokens.map((t) => ofF.get(t) ?? 0),
      tokens.map((t) => ofG.get(t) ?? 0),
    ),
    response: [response(encF, decF, decG), response(encG, decG, decF)],
  };
}

/**
 * What a pair, the more frequent latent first, is suspected of by the rules.
 * @param least the decoder cosine that lies beyond chance; −∞: whatever the decoder cosine is.
 */
export function suspicionsOf(evidence: PairEvidence, least: number): SuspectKind[] {
  const { decoderCosine, firings, jaccard, phi, profile, together, response } = evidence;
  if (firings[1] < RULES.minFirings) return [];
  const isAlong = (rule: { decoderCosine: number }) =>
    least === -Infinity || decoderCosine >= Math.max(rule.decoderCosine, least);
  const { duplicate, split, absorbed } = RULES;
  const kinds: SuspectKind[] = [];
  if (isAlong(duplicate) && jaccard >= duplicate.jaccard) kinds.push("duplicate");
  if (isAlong(split) && profile >= split.profile && phi <= split.phi) kinds.push("split");
  if (
    isAlong(absorbed) &&
    together <= absorbed.fires * firings[1] &&
    response[0] <= Math.max(absorbed.response * response[1], absorbed.floor * decoderCosine)
  )
    kinds.push("absorbed");
  return kinds;
}

export interface Suspects {
  suspects: Suspect[];
  /** Pairs looked at: each latent with the `NEAREST` nearest by decoder cosine, each pair once. */
  pairs: number;
  /** Beyond chance is a decoder cosine above 3.09/√dOut, which one pair of random directions in a thousand exceeds. */
  chance: number;
  /** How many of as many random pairs meet all conditions but that on the decoder cosine. */
  random: Record<SuspectKind, number>;
}

/** Neighbours of a latent that are looked at. */
export const NEAREST = 20;
/** What one standard normal number in a thousand exceeds. */
const NORMAL_999 = 3.09;

export interface SuspectOptions {
  /** Pairs with one of these; absent: all. */
  latents?: readonly number[];
  device?: Device;
  seed?: number;
}

/** @throws UserError when the counts are not of this SAE. */
export async function suspectsOf(
  sae: Sae,
  facts: LatentFacts,
  { latents, device, seed = 0 }: SuspectOptions = {},
): Promise<Suspects> {
  const { dSae, dOut } = sae.spec;
  const near = await nearestRows(sae.W_dec, dOut, {
    ...{ count: Math.min(NEAREST, dSae - 1), ...(latents && { of: latents }) },
    ...(device && { device }),
  });
  const found = suspectsAmong(sae, facts, near, latents);
  const random = { duplicate: 0, split: 0, absorbed: 0 };
  const rng = new Rng(seed, "pairs");
  for (let i = 0; i < found.pairs; i++) {
    const pair = byFirings(facts, ...randomPair(rng, dSae));
    for (const kind of suspicionsOf(evidenceOf(sae, facts, ...pair), -Infinity)) random[kind]++;
  }
  return { ...found, random };
}

/**
 * The suspects among latents and those that are `near` to each by decoder cosine.
 * @param latents whose rows `near` has; absent: all.
 * @throws UserError when the counts are not of this SAE.
 */
export function suspectsAmong(
  sae: Sae,
  facts: LatentFacts,
  near: NearestRows,
  latents?: readonly number[],
): Omit<Suspects, "random"> {
  const { dSae, dOut } = sae.spec;
  if (facts.co.firings.length !== dSae)
    throw new UserError(
      `the co-activation counts are of ${facts.co.firings.length} latents, the SAE has ${dSae}; index the features again`,
    );
  const chance = NORMAL_999 / Math.sqrt(dOut);
  const seen = new Set<number>();
  const suspects: Suspect[] = [];
  for (let i = 0; i < near.rows.length; i++) {
    const [row, other] = [Math.floor(i / near.count), near.rows[i]];
    if (other < 0) continue;
    const pair = byFirings(facts, latents?.[row] ?? row, other);
    const key = pair[0] * dSae + pair[1];
    if (seen.has(key)) continue;
    seen.add(key);
    // The cheap condition first: what lies below it is no suspect of any kind.
    if (near.cosines[i] < Math.max(chance, RULES.split.decoderCosine)) continue;
    const evidence = evidenceOf(sae, facts, ...pair);
    for (const kind of suspicionsOf(evidence, chance))
      suspects.push({ kind, latents: pair, evidence });
  }
  suspects.sort((a, b) => b.evidence.decoderCosine - a.evidence.decoderCosine);
  return { suspects, pairs: seen.size, chance };
}

/** The more frequent latent first, of equals the lower one. */
function byFirings({ co: { firings } }: LatentFacts, f: number, g: number): [number, number] {
  return firings[f] > firings[g] || (firings[f] === firings[g] && f < g) ? [f, g] : [g, f];
}
