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
  /** What strength 1 adds to each latent; absent: the largest activation of the first. */
  unit?: number;
  seed?: number;
}

/**
 * The latents, each turned up by strength · unit at every position; and controls, each of
 * which moves the activation as far: as many latents that fire about as often, none of them among `exclude`,
 * and directions drawn from a normal distribution.
 * @param targets one latent, or several that are turned up together.
 */
export function subjectsOf(
  sae: Sae,
  model: Model,
  features: Features,
  targets: readonly number[],
  { latents, directions, unit, seed = 0, ...steer }: SubjectOptions,
  exclude: readonly number[] = [],
): Subject[] {
  const { firings, max } = features.index.columns;
  const row = new Float32Array(sae.spec.dIn);
  const perStrength = unit ?? max[targets[0]];
  const lengthOf = (set: readonly number[]) => Math.hypot(...directionOf(sae, set, row));
  const length = perStrength * lengthOf(targets);
  const subject = (set: readonly number[], kind: Subject["kind"], value: number): Subject => ({
    ...{ name: `latent ${set.join(" + ")}`, kind },
    at: (strength) =>
      steering(
        ...[sae, model],
        set.map((latent) => ({ latent, kind: "add", value: strength * value })),
        steer,
      ),
  });
  const target = subject(targets, "target", perStrength);
  const taken = new Set([...targets, ...exclude]);
  const others: Subject[] = [];
  while (others.length < latents) {
    const set: number[] = [];
    for (const latent of targets) {
      const other = alike(firings, latent, taken);
      if (other === undefined) break;
      taken.add(other);
      set.push(other);
    }
    if (set.length < targets.length) break;
    others.push(subject(set, "latent", length / lengthOf(set)));
  }
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

/** Of the latents that fire and are not `taken`, the one whose number of firings is nearest, on a logarithmic scale, to that of `latent`. */
function alike(
  firings: readonly number[],
  latent: number,
  taken: ReadonlySet<number>,
): number | undefined {
  const distance = (f: number) => Math.abs(Math.log(firings[f] / Math.max(1, firings[latent])));
  let best: number | undefined;
  for (const [f, n] of firings.entries())
    if (n > 0 && !taken.has(f) && (best === undefined || distance(f) < distance(best))) best = f;
  return best;
}
