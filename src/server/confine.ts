/** What a server that is open to others lets them name: models and texts below the folder it was started in. */
import { existsSync, realpathSync } from "node:fs";
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from "node:path";

import type { RunConfig } from "../config.ts";
import { UserError } from "../error.ts";
import { isDataset } from "../model/data/dataset.ts";
import { isUrl } from "../model/data/download.ts";
import { partsOf } from "../model/text.ts";
import { parseRepoName } from "../model/hub-cache.ts";

/** @throws UserError for a path that leads out of the working folder, by a link too, and for a model or data set of the hub. */
export function requireConfined(config: RunConfig): void {
  for (const path of pathsOf(config)) {
    if (path === undefined || path.startsWith("builtin:")) continue;
    if (isUrl(path))
      throw new UserError(
        `a server that others can reach fetches nothing from the web; got ${path}`,
      );
    const way = relative(realOf(process.cwd()), realOf(resolve(path)));
    if (way === ".." || way.startsWith(`..${sep}`) || isAbsolute(way))
      throw new UserError(
        `a server that others can reach reads files below its own folder only; got ${path}`,
      );
  }
  requireNoHub(config);
}

/** A name that is no folder would be looked for on the hub: who reaches the server must not fill its disk. */
function requireNoHub({ activations }: RunConfig): void {
  if (activations.from !== "model") return;
  const dataset = partsOf(activations.data).find(({ source }) => isDataset(source))?.source;
  if (dataset !== undefined)
    throw new UserError(
      `a server that others can reach fetches no data sets from the Hugging Face hub, and ${dataset} is no folder here`,
    );
  if (parseRepoName("model", activations.model) && !existsSync(activations.model))
    throw new UserError(
      `a server that others can reach fetches no models from the Hugging Face hub, and ${activations.model} is no folder here`,
    );
}

/** Everything in the settings that names a file or folder to be read. */
function pathsOf({ activations, train, features }: RunConfig): (string | undefined)[] {
  const own = [train.from, features.store];
  switch (activations.from) {
    case "synthetic":
      return own;
    case "model":
      return [...own, activations.model, ...partsOf(activations.data).map((part) => part.source)];
    case "folder":
      return [
        ...own,
        ...[activations.path, activations.targetPath, ...activations.joinPaths],
        ...[activations.validationPath, activations.validationTargetPath],
        ...activations.validationJoinPaths,
      ];
    default:
      return activations satisfies never;
  }
}

/** Where a path leads once links are followed; of one that does not exist, as far as it does. */
function realOf(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    const parent = dirname(path);
    return parent === path ? path : join(realOf(parent), basename(path));
  }
}
