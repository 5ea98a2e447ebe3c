/** The hook points that a run's settings name, in the model. */
import { DEFAULT_HOOK_POINT, type ModelActivationsConfig } from "../config.ts";
import { UserError } from "../error.ts";
import type { Model } from "../model/model.ts";

/** Hook points by what training makes of them. */
export interface HookPointRoles {
  /** Read: one, or several for a crosscoder. */
  inputs: string[];
  /** Predicted by a transcoder. */
  target?: string;
}

/**
 * The hook points of `model` that the settings name, those read in the model's order.
 * @throws UserError for one that does not exist, and where one is wanted and a pattern fits several.
 */
export function hookPointsOf(
  model: Pick<Model, "expandHookPoints">,
  { hookPoint = DEFAULT_HOOK_POINT, hookPoints, targetHookPoint }: ModelActivationsConfig,
): HookPointRoles {
  if (hookPoints.length > 0) return { inputs: model.expandHookPoints(hookPoints) };
  const one = (setting: string, pattern: string) => {
    const names = model.expandHookPoints([pattern]);
    if (names.length > 1)
      throw new UserError(
        `activations.${setting} must be one hook point; ${pattern} fits ${names.length} (${names.join(", ")}). ` +
          "For a crosscoder over all of them set activations.hookPoints.",
      );
    return names[0];
  };
  const input = one("hookPoint", hookPoint);
  if (targetHookPoint === undefined) return { inputs: [input] };
  const target = one("targetHookPoint", targetHookPoint);
  if (target === input)
    throw new UserError(
      `activations.targetHookPoint must be another hook point than hookPoint (${input}); leave it out for an autoencoder`,
    );
  return { inputs: [input], target };
}

/** All of them, each once. */
export function namesOf({ inputs, target }: HookPointRoles): string[] {
  return target === undefined ? inputs : [...inputs, target];
}
