/** The feature that `lens steer --find` turns up, and how much strength 1 is. */
import { readExplanations } from "../analysis/explanations.ts";
import { describeFound, findFeatures, latentsOf, type Found } from "../analysis/find.ts";
import type { Features } from "../analysis/features.ts";
import { findByEffect, tokensOfConcept } from "../analysis/steer-search.ts";
import { conceptNamed } from "../analysis/text-score.ts";
import type { RunConfig } from "../config.ts";
import { UserError } from "../error.ts";
import type { Model } from "../model/model.ts";
import type { Sae } from "../sae/sae.ts";
import { heldOutText } from "../workbench/model-run.ts";
import { Progress } from "./progress.ts";
import type { Terminal } from "./terminal.ts";

export interface Target {
  found: Found;
  /** What strength 1 adds to its activation. */
  unit: number;
  /** Other features that fit, best first. */
  others: number[];
}

export interface Finder {
  sae: Sae;
  model: Model;
  features: Features;
  hookPoint: string;
  config: RunConfig;
  terminal: Terminal;
  /** By effect: up to so many latents together. */
  together: number;
}

/**
 * `by` meaning: the feature whose label or token is `words`, strength 1 being its largest activation.
 * `by` effect: the one that most raises how often a word of the concept `words` comes next, strength 1
 * being how far it may be turned up until perplexity is about 1.3 times as high.
 * @throws UserError when there is none, or no such concept.
 */
export async function findTarget(words: string, by: string, finder: Finder): Promise<Target> {
  const { features, terminal } = finder;
  if (by !== "meaning" && by !== "effect")
    throw new UserError(`by must be meaning or effect; got ${by}`);
  const target =
    by === "meaning" ? await byMeaning(words, features) : await byEffect(words, finder);
  const turned = latentsOf(target.found);
  const more = target.others.filter((latent) => !turned.includes(latent)).slice(0, 3);
  terminal.note(
    `turning up ${describeFound(target.found)}` +
      (more.length > 0 ? `; also found: ${more.join(", ")}` : ""),
  );
  return target;
}

async function byMeaning(words: string, features: Features): Promise<Target> {
  const explanations = await readExplanations(features.dir);
  const [found, ...others] = findFeatures(features, words, explanations?.latents);
  if (!found)
    throw new UserError(
      `no feature of this run stands for ${JSON.stringify(words)}: look at what there is with lens features, give a latent with --add, or search by what features do with --by effect`,
    );
  return {
    found,
    unit: features.index.columns.max[found.latent],
    others: others.map(({ latent }) => latent),
  };
}

async function byEffect(words: string, finder: Finder): Promise<Target> {
  const { sae, model, hookPoint, config, terminal, together } = finder;
  const { activations } = config;
  if (activations.from !== "model") throw new UserError("only a run with a model can be steered");
  const name = conceptNamed(words);
  const concept = tokensOfConcept(model, name);
  if (concept.tokens.length === 0)
    throw new UserError(`no token of this model is a word of ${name} by itself: use --by meaning`);
  let progress: Progress | undefined;
  const text = heldOutText(activations, model);
  const [{ found, baseline }] = await findByEffect(sae, model, [concept], text, {
    ...{ hookPoint, together },
    onProgress: (done, total) => {
      progress ??= new Progress({
        ...{ label: "searching", unit: "latents", total, quiet: terminal.quiet },
      });
      progress.update(done);
    },
  }).finally(() => progress?.stop());
  if (found.length === 0)
    throw new UserError(
      `no latent raises the rate of ${name} at an acceptable cost: choose another concept or run`,
    );
  const [best, ...others] = found;
  const [latent, ...more] = best.latents;
  return {
    found: {
      latent,
      ...(more.length > 0 && { with: more }),
      because: `raises ${name} ${(best.rate / baseline).toFixed(1)} times at real contexts`,
    },
    unit: best.strength,
    others: others.flatMap(({ latents }) => (latents.length === 1 ? latents : [])),
  };
}
