/** What a server that is open to others lets them name: models and texts below the folder it was started in. */
import { relative, resolve } from "node:path";

import type { RunConfig } from "../config.ts";
import { UserError } from "../error.ts";

/** @throws UserError for a path that leads out of the working folder. */
export function requireConfined({ activations }: RunConfig): void {
  const { from } = activations;
  if (from === "synthetic") return;
  const paths =
    from === "model"
      ? [activations.model, activations.data]
      : [
          ...[activations.path, activations.targetPath, ...activations.joinPaths],
          ...[activations.validationPath, activations.validationTargetPath],
          ...activations.validationJoinPaths,
        ];
  for (const path of paths) {
    if (path === undefined || path.startsWith("builtin:")) continue;
    const way = relative(process.cwd(), resolve(path));
    if (way.startsWith("..") || resolve(path) === way)
      throw new UserError(
        `a server that others can reach reads files below its own folder only; got ${path}`,
      );
  }
}
