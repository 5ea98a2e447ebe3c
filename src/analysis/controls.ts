/** What steering by a latent is compared with: other latents and random directions, of the same length. */
import type { Intervention } from "../model/generate.ts";
import type { Model } from "../model/model.ts";
import { Rng } from "../rng.ts";
import type { Sae } from "../sae/sae.ts";
import type { Features } from "./features.ts";
import { directionOf, steering, type SteerOptions } from "./steer.ts";
import type { Subject } from "./dose.ts";

export interface SubjectOptions extends SteerOptions {
  /** Other latents, and random directions. */
  latents: number;
  directions: number;
  /** What strength 1 adds to the latent; absent: its largest activation. */
  unit?: number;
  seed?: number;
}

/**
 * The latent, turned up by strength · unit at every position; and controls, each of
 * which moves the activation as far: latents that fire about as often, none of them among `exclude`,
 * and directions drawn from a normal distribution.
 */
export function subjectsOf(
  sae: Sae,
  model: Model,
  features: Features,
  latent: number,
  { latents, directions, unit, seed = 0, ...steer }: SubjectOptions,
  exclude: readonly number[] = [],
): Subject[] {
  const { columns } = features.index;
  const row = new Float32Array(sae.spec.dIn);
  const perStrength = unit ?? columns.max[latent];
  const length = perStrength * Math.hypot(...directionOf(sae, latent, row));
  const up = (f: number, value: number) => (strength: number) =>
    steering(sae, model, [{ latent: f, kind: "add", value: strength * value }], steer);
  const target: Subject = {
    ...{ name: `latent ${latent}`, kind: "target", at: up(latent, perStrength) },
  };
  const others = alike(columns.firings, latent, exclude)
    .slice(0, latents)
    .map((f): Subject => {
      const value = length / Math.hypot(...directionOf(sae, f, row));
      return { name: `latent ${f}`, kind: "latent", at: up(f, value) };
    });
  const { hookPoint } = steering(sae, model, [], steer);
  const random = Array.from({ length: directions }, (_, i): Subject => {
    const rng = new Rng(seed, "direction", i);
    const drawn = Float64Array.from(row, () => rng.normal());
    const scale = length / Math.hypot(...drawn);
    const at = (strength: number): Intervention => ({
      hookPoint,
      replace: (x) => x.map((v, j) => v + strength * scale * drawn[j % drawn.length]),
    });
    return { name: `random direction ${i + 1}`, kind: "random", at };
  });
  return [target, ...others, ...random];
}

/** Latents by how near their number of firings is, on a logarithmic scale, to that of `latent`; silent ones left out. */
function alike(firings: readonly number[], latent: number, exclude: readonly number[]): number[] {
  const left = new Set([latent, ...exclude]);
  const distance = (f: number) => Math.abs(Math.log(firings[f] / firings[latent]));
  return firings
    .flatMap((n, f) => (n > 0 && !left.has(f) ? [f] : []))
    .toSorted((a, b) => distance(a) - distance(b) || a - b);
}
