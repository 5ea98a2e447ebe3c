/** A sweep: one config with lists of values for some of its fields, as the configs that it stands for. */
import { parseConfig, type RunConfig } from "../config.ts";
import { UserError } from "../error.ts";
import { configFields, readConfigFile, withFlags } from "./settings.ts";

/** One autoencoder of a sweep. */
export interface Variant {
  /** What sets it apart: "topk k=32". */
  name: string;
  config: RunConfig;
}

type Settings = Record<string, unknown>;

/**
 * The variants of a sweep file: every combination of the values under `sweep`, which is a mapping
 * from dotted fields to lists, or a list of such mappings, one after the other.
 * @throws UserError for a file without a sweep, an unknown field, or a variant that is no valid config.
 */
export function readSweep(file: string, options: Settings): Variant[] {
  const { sweep, ...values } = readConfigFile(file);
  if (!isMapping(sweep) && !Array.isArray(sweep))
    throw new UserError(
      `${file} has no sweep: a mapping from fields to lists of values, such as  sweep: { sae.k: [16, 32, 64] }`,
    );
  const known = new Set(configFields().map(({ path }) => path));
  const parts: unknown[] = Array.isArray(sweep) ? sweep : [sweep];
  const combinations = parts.flatMap((part) => {
    if (!isMapping(part))
      throw new UserError(
        `${file}: sweep must hold fields and their values; got ${JSON.stringify(part)}`,
      );
    for (const [path, list] of Object.entries(part)) {
      if (!known.has(path)) throw new UserError(`${file}: unknown field ${path} in sweep`);
      if (Array.isArray(list) && list.length === 0)
        throw new UserError(`${file}: sweep gives no values for ${path}`);
    }
    return combine(Object.entries(part));
  });
  return combinations.map((overrides) => {
    const name = nameOf(overrides);
    try {
      const config = parseConfig(withFlags(withFlags(values, options), overrides));
      return { name, config };
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      throw new UserError(`${file}, variant ${name}: ${error.message}`);
    }
  });
}

/** Every combination of the fields' values, the last field changing fastest. */
function combine([first, ...rest]: [string, unknown][]): Settings[] {
  if (first === undefined) return [{}];
  const [path, list] = first;
  const values: unknown[] = Array.isArray(list) ? list : [list];
  const others = combine(rest);
  return values.flatMap((value) => others.map((other) => ({ [path]: value, ...other })));
}

function nameOf(overrides: Settings): string {
  const parts = Object.entries(overrides).map(([path, value]) =>
    path === "sae.architecture" ? String(value) : `${path.split(".").at(-1)!}=${String(value)}`,
  );
  return parts.join(" ") || "as configured";
}

function isMapping(value: unknown): value is Settings {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
