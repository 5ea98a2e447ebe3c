/**
 * Activations made from a known dictionary, so that what an autoencoder finds can be compared with
 * what is there (recovery.ts).
 *
 * A sample is Σ_j b_j s_j D_j + noise·ε: directions D_j ~ N(0,1)^dIn, strengths
 * s_j = |strengthMean + strengthStd·N(0,1)|, ε ~ N(0,1)^dIn, and b_j, which directions are active.
 * F directions, π the sparsity; F·π are active, in each sample or on average:
 *
 * independent   ⌊F·π⌋ distinct ones, every choice as likely as any other.
 * correlated    groups of groupSize. A group is on with probability π/r; in a group that is on each
 *               member is active with probability r = π + ρ(1 - π), by itself. So each is active at
 *               the rate π, and b_i, b_j of one group have the correlation (π·r - π²)/(π - π²) = ρ;
 *               groups are independent of each other.
 * hierarchical  families of a parent and childrenPerParent children (the last one may have fewer).
 *               A parent is active with probability q, a child, when its parent is, with probability
 *               c = childProbability, else never; q = F·π / (parents + c·children).
 * zipf          the i-th of F, counted from 1, by itself with probability h/i^s, h = F·π / Σ_i i^-s.
 */
import type { z } from "zod";

import { parseSection, syntheticSchema, type SyntheticConfig } from "../config.ts";
import { UserError } from "../error.ts";
import { Rng } from "../rng.ts";

export interface SyntheticActivations {
  /** [samples, dIn] */
  train: Float32Array;
  /** [validationSamples, dIn], from the same directions. */
  validation: Float32Array;
  /** The ground truth, not normalised; [features, dIn]. */
  directions: Float32Array;
  /** Probability that each direction is active in a sample; [features]. */
  rates: Float64Array;
  /** Of kind hierarchical the parent of each direction, -1 of a parent; [features]. */
  parents?: Int32Array;
  /** Strength of each direction in each validation sample, 0 where it is not active; [validationSamples, features]. */
  validationStrengths: Float32Array;
}

/**
 * Training and validation samples from one dictionary; same options and seed, same numbers.
 * @param options absent fields take the defaults that config.ts states.
 * @throws UserError when an option is wrong, when features·sparsity is below 1 and the kind is
 * independent, or when a direction would have to be active with a probability above 1.
 */
export function syntheticActivations(
  options: z.input<typeof syntheticSchema>,
  seed: number,
): SyntheticActivations {
  const config = parseSection(syntheticSchema, options, "activations");
  const { samples, validationSamples, dIn, features, strengthMean, strengthStd } = config;
  if (strengthMean === 0 && strengthStd === 0)
    throw new UserError(
      "strengthMean and strengthStd must not both be 0, or no direction is ever to be seen",
    );
  const plan = firingPlan(config);
  const rng = new Rng(seed, "synthetic", "directions");
  const directions = Float32Array.from({ length: features * dIn }, () => rng.normal());
  const make = (rows: number, split: string, strengths?: Float32Array): Float32Array =>
    sampleRows(config, {
      ...{ rows, directions, strengths, draw: plan.draws() },
      rng: new Rng(seed, "synthetic", split),
    });
  const validationStrengths = new Float32Array(validationSamples * features);
  return {
    train: make(samples, "train"),
    validation: make(validationSamples, "validation", validationStrengths),
    ...{ directions, rates: plan.rates, validationStrengths },
    ...(plan.parents && { parents: plan.parents }),
  };
}

interface FiringPlan {
  rates: Float64Array;
  parents?: Int32Array;
  /** A new sequence of draws. */
  draws: () => Draw;
}

/** Calls `fire` for each active direction of the next sample. Strengths are drawn in between, from the same generator. */
type Draw = (rng: Rng, fire: (feature: number) => void) => void;

function firingPlan(config: SyntheticConfig): FiringPlan {
  const { features, sparsity, kind } = config;
  const active = features * sparsity;
  switch (kind) {
    case "independent":
      return drawnWithoutReplacement(features, sparsity);
    case "correlated": {
      const { groupSize, correlation } = config;
      const member = sparsity + correlation * (1 - sparsity);
      const group = sparsity / member;
      const draw: Draw = (rng, fire) => {
        for (let start = 0; start < features; start += groupSize) {
          if (rng.uniform() >= group) continue;
          const end = Math.min(start + groupSize, features);
          for (let j = start; j < end; j++) if (rng.uniform() < member) fire(j);
        }
      };
      return { rates: new Float64Array(features).fill(sparsity), draws: () => draw };
    }
    case "hierarchical": {
      const { childrenPerParent, childProbability } = config;
      const size = 1 + childrenPerParent;
      const families = Math.ceil(features / size);
      const parent = active / (families + childProbability * (features - families));
      requireProbability(parent, "a parent", "sparsity or raise activations.childProbability");
      const parents = Int32Array.from({ length: features }, (_, j) =>
        j % size === 0 ? -1 : j - (j % size),
      );
      const draw: Draw = (rng, fire) => {
        for (let start = 0; start < features; start += size) {
          if (rng.uniform() >= parent) continue;
          fire(start);
          const end = Math.min(start + size, features);
          for (let j = start + 1; j < end; j++) if (rng.uniform() < childProbability) fire(j);
        }
      };
      const rates = Float64Array.from(parents, (j) => (j < 0 ? parent : parent * childProbability));
      return { rates, parents, draws: () => draw };
    }
    case "zipf": {
      const weights = Float64Array.from(
        { length: features },
        (_, i) => (i + 1) ** -config.zipfExponent,
      );
      const scale = active / weights.reduce((sum, w) => sum + w, 0);
      requireProbability(scale, "the commonest direction", "sparsity or activations.zipfExponent");
      const rates = weights.map((w) => scale * w);
      const draw: Draw = (rng, fire) => {
        for (let j = 0; j < features; j++) if (rng.uniform() < rates[j]) fire(j);
      };
      return { rates, draws: () => draw };
    }
    default:
      return kind satisfies never;
  }
}

function drawnWithoutReplacement(features: number, sparsity: number): FiringPlan {
  // The small slack keeps 100 × 0.29 at 29, which floating point makes 28.999….
  const active = Math.floor(features * sparsity + 1e-9);
  if (active < 1)
    throw new UserError(
      `features × sparsity must be at least 1, or no sample has a feature; got ${features} × ${sparsity}`,
    );
  const draws = (): Draw => {
    const order = Array.from({ length: features }, (_, j) => j);
    return (rng, fire) => {
      // The first `active` places of a Fisher–Yates shuffle: distinct and uniform.
      for (let i = 0; i < active; i++) {
        const j = i + rng.int(features - i);
        [order[i], order[j]] = [order[j], order[i]];
        fire(order[i]);
      }
    };
  };
  return { rates: new Float64Array(features).fill(active / features), draws };
}

function requireProbability(value: number, who: string, what: string): void {
  // A rate of exactly 1 may come out of floating point a little above it.
  if (value > 1 + 1e-9)
    throw new UserError(
      `${who} would have to be active with probability ${value.toPrecision(3)}, which must be at most 1: lower activations.${what}`,
    );
}

interface Making {
  rows: number;
  directions: Float32Array;
  /** Where the strengths are noted, [rows, features]. */
  strengths: Float32Array | undefined;
  draw: Draw;
  rng: Rng;
}

function sampleRows(
  { dIn, features, noise, strengthMean, strengthStd }: SyntheticConfig,
  { rows, directions, strengths, draw, rng }: Making,
): Float32Array {
  const out = new Float32Array(rows * dIn);
  const row = new Float64Array(dIn);
  for (let n = 0; n < rows; n++) {
    row.fill(0);
    draw(rng, (j) => {
      const strength = Math.abs(strengthMean + strengthStd * rng.normal());
      if (strengths) strengths[n * features + j] = strength;
      const direction = j * dIn;
      for (let c = 0; c < dIn; c++) row[c] += strength * directions[direction + c];
    });
    for (let c = 0; c < dIn; c++) out[n * dIn + c] = row[c] + noise * rng.normal();
  }
  return out;
}
