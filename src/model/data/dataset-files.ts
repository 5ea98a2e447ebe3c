/**
 * Which files of a data set on the hub make up which config and split: what its card says, or else what
 * its folders and files are called, as the Python library `datasets` takes them.
 */
import { parse } from "yaml";

import { messageOf, nearestName, UserError } from "../../error.ts";
import { kindOf, KINDS_TEXT } from "./formats.ts";
import { globMatcher } from "./glob.ts";

/** A part of a data set that is read on its own, such as a language. */
export interface DatasetConfig {
  name: string;
  /** It is meant where none is named. */
  isDefault: boolean;
  /** The files of each split, in the order in which they are read. @throws UserError for a card that names none that can be read. */
  splits(): Map<string, string[]>;
}

/** What is taken of a data set. */
export interface DatasetChoice {
  config: string;
  split: string;
  paths: string[];
}

/** Words in names of folders and files that say which split is in them. */
const SPLIT_WORDS: Record<string, readonly string[]> = {
  train: ["train", "training"],
  validation: ["validation", "valid", "val", "dev"],
  test: ["test", "testing", "eval", "evaluation"],
};

/** The kinds of files, those first that are rather the data than something beside it. */
const PREFERENCE = ["parquet", "jsonl", "json", "csv", "tsv", "txt"];

/** Files of other uses. */
const ASIDE = /^(?:config|dataset_infos?|dataset_dict|state|requirements|license)\.(?:json|txt)$/i;

/**
 * The configs that a card (README.md) lists under `configs` in its front matter; undefined when it lists none.
 * `paths`: all files of the data set.
 * @throws UserError for a front matter that is not YAML, or whose configs are none.
 */
export function configsOfCard(
  card: string,
  paths: readonly string[],
  dataset: string,
): DatasetConfig[] | undefined {
  const front = /^\uFEFF?---[ \t]*\r?\n([^]*?)\r?\n---[ \t]*(?:\r?\n|$)/.exec(card)?.[1];
  if (front === undefined) return undefined;
  const fail = (problem: string) =>
    new UserError(
      `the card (README.md) of dataset ${dataset} ${problem}: choose a revision with a sound one (${dataset.split("@")[0]}@REVISION), or fetch its files and give their folder.`,
    );
  let listed: unknown;
  try {
    listed = (parse(front) as { configs?: unknown } | null)?.configs;
  } catch (error) {
    throw fail(`has a front matter that is not YAML (${messageOf(error).split("\n")[0]})`);
  }
  if (!Array.isArray(listed) || listed.length === 0) return undefined;
  const entries = listed.map((item: unknown) => {
    const entry = (item ?? {}) as Record<string, unknown>;
    const name = entry["config_name"] ?? "default";
    // YAML takes 2024 for a number.
    if (typeof name === "string" || typeof name === "number") return { entry, name: String(name) };
    throw fail(`has a config_name that is no name: ${JSON.stringify(name)}`);
  });
  const marked = entries.find(({ entry }) => entry["default"] === true)?.name ?? "default";
  return entries.map(({ entry, name }) => ({
    name,
    isDefault: name === marked,
    splits: () => splitsOfEntry(entry, paths, (problem) => fail(`${problem} (config ${name})`)),
  }));
}

function splitsOfEntry(
  entry: Record<string, unknown>,
  paths: readonly string[],
  fail: (problem: string) => UserError,
): Map<string, string[]> {
  const { data_files: files, data_dir: folder } = entry;
  const base = typeof folder === "string" ? folder.replace(/^\.?\/|\/$/g, "") : "";
  const prefix = base === "" ? "" : `${base}/`;
  if (files === undefined || files === null)
    return splitsByName(
      readable(paths.filter((path) => path.startsWith(prefix))),
      prefix.split("/").length - 1,
    );
  const found = new Map<string, string[]>();
  for (const { split, patterns } of patternsOf(files, fail)) {
    const matched = new Set(found.get(split));
    for (const pattern of patterns) {
      if (/^\w+:\/\//.test(pattern))
        throw fail(`names ${pattern}, which lies elsewhere and is not read`);
      const matches = globMatcher(prefix + pattern.replace(/^\.?\//, ""));
      for (const path of paths.filter(matches).sort()) matched.add(path);
    }
    if (matched.size === 0) throw fail(`names ${patterns.join(", ")}, which is no file of it`);
    found.set(split, [...matched]);
  }
  // One kind for all splits: what lies beside the data in another is the same once more, or no data.
  const wanted = new Set(readable([...found.values()].flat()));
  if (wanted.size === 0) {
    const [path] = [...found.values()].flat();
    throw fail(`names ${path}, which is not ${KINDS_TEXT}`);
  }
  for (const [split, all] of found) {
    const kept = all.filter((path) => wanted.has(path));
    if (kept.length > 0) found.set(split, kept);
    else found.delete(split);
  }
  return found;
}

/** `data_files`: a pattern, a list of patterns, a list of {split, path}, or an object from splits to patterns. */
function patternsOf(
  files: unknown,
  fail: (problem: string) => UserError,
): { split: string; patterns: string[] }[] {
  const texts = (value: unknown): string[] => {
    const list: unknown[] = Array.isArray(value) ? value : [value];
    if (list.length > 0 && list.every((item) => typeof item === "string")) return list;
    throw fail(`has data_files that are no patterns: ${JSON.stringify(value)}`);
  };
  if (Array.isArray(files) && files.some((item) => typeof item === "object"))
    return files.map((item: unknown) => {
      const { split, path } = (item ?? {}) as Record<string, unknown>;
      if (typeof split !== "string") throw fail("has data_files without a split");
      return { split, patterns: texts(path) };
    });
  if (typeof files === "object" && files !== null && !Array.isArray(files))
    return Object.entries(files).map(([split, path]) => ({ split, patterns: texts(path) }));
  return [{ split: "train", patterns: texts(files) }];
}

/** The configs of a data set whose card lists none: its folders; and `default`, all of them together. Empty when no file can be read. */
export function configsByName(paths: readonly string[]): DatasetConfig[] {
  const files = readable(paths);
  if (files.length === 0) return [];
  const folders = files.map((path) => path.split("/").slice(0, -1));
  let depth = 0;
  while (folders.every((parts) => parts.length > depth && parts[depth] === folders[0][depth]))
    depth++;
  const all = { name: "default", splits: () => splitsByName(files, 0) };
  const names = new Set(folders.map((parts) => parts[depth] as string | undefined));
  const areConfigs =
    names.size > 1 && [...names].every((name) => name !== undefined && !splitWordIn(name));
  if (!areConfigs) {
    const whole: DatasetConfig[] = [{ ...all, isDefault: true }];
    // One folder around everything is called as the config is by whoever knows it from elsewhere.
    const around = depth > 0 ? folders[0][depth - 1] : "default";
    if (!["data", "default"].includes(around) && !splitWordIn(around))
      whole.push({ ...all, name: around, isDefault: false });
    return whole;
  }
  const parts = [...names].map((name) => {
    const own = files.filter((_, i) => folders[i][depth] === name);
    return { name: name!, isDefault: false, splits: () => splitsByName(own, depth + 1) };
  });
  return [...parts, { ...all, isDefault: false }];
}

/** The configs of what the hub has made Parquet of by itself: `config/split/0000.parquet`. */
export function configsOfConverted(paths: readonly string[]): DatasetConfig[] {
  const configs = new Map<string, Map<string, string[]>>();
  for (const path of readable(paths)) {
    const [config, split, file] = path.split("/");
    if (file === undefined) continue;
    const splits = configs.get(config) ?? new Map<string, string[]>();
    splits.set(split, [...(splits.get(split) ?? []), path]);
    configs.set(config, splits);
  }
  return [...configs].map(([name, splits]) => ({
    ...{ name, isDefault: name === "default", splits: () => splits },
  }));
}

/**
 * One split of one config. A `config` that is not among the configs may be a split of the default one.
 * @throws UserError when it is not said which one, or there is none such, with those there are.
 */
export function chooseSplit(
  configs: readonly DatasetConfig[],
  wanted: { config?: string | undefined; split?: string | undefined },
  dataset: string,
): DatasetChoice {
  const names = configs.map(({ name }) => name);
  const usual = configs.find(({ isDefault }) => isDefault) ?? (configs.length === 1 ? configs[0] : undefined); // prettier-ignore
  let { split } = wanted;
  let config = configs.find(({ name }) => name === wanted.config);
  if (wanted.config === undefined) config = usual;
  else if (!config && split === undefined && usual && splitNamed(usual.splits(), wanted.config)) {
    config = usual;
    split = wanted.config;
  }
  if (!config && wanted.config === undefined)
    throw new UserError(
      `dataset ${dataset} has several configs: ${listText(names)}. Choose one, such as ${dataset}:${names[0]}.`,
    );
  if (!config) {
    const splits = usual ? [...usual.splits().keys()] : [];
    throw new UserError(
      `dataset ${dataset} has no config${splits.length > 0 ? " or split" : ""} ${wanted.config}; configs: ${listText(names)}` +
        (splits.length > 0 ? `; splits of ${usual!.name}: ${listText(splits)}` : "") +
        `.${hint(wanted.config!, [...names, ...splits])}`,
    );
  }
  const splits = config.splits();
  const known = [...splits.keys()];
  const chosen = split ?? (splitNamed(splits, "train") || known.length > 1 ? "train" : known[0]);
  const name = splitNamed(splits, chosen);
  if (name !== undefined) return { config: config.name, split: name, paths: splits.get(name)! };
  throw new UserError(
    `dataset ${dataset} (config ${config.name}) has no split ${chosen}; there are: ${listText(known)}.` +
      (split === undefined
        ? ` Choose one, such as ${dataset}:${config.name}/${known[0]}.`
        : hint(split, known)),
  );
}

/** The split that is called so, or by another word for it (`dev` for `validation`). */
function splitNamed(splits: Map<string, string[]>, name: string): string | undefined {
  if (splits.has(name)) return name;
  const word = splitWordIn(name);
  return word !== undefined && SPLIT_WORDS[word].includes(name) && splits.has(word)
    ? word
    : undefined;
}

function hint(seen: string, names: readonly string[]): string {
  const near = nearestName(seen, names);
  return near === undefined ? "" : ` Did you mean ${near}?`;
}

const LISTED = 12;

function listText(names: readonly string[]): string {
  const more = names.length - LISTED;
  return names.slice(0, LISTED).join(", ") + (more > 0 ? ` and ${more} more` : "");
}

/** The files that can be read, of the one kind that is most likely the data, by their paths. */
function readable(paths: readonly string[]): string[] {
  const files = paths.filter((path) => {
    const parts = path.split("/");
    return kindOf(path) && !ASIDE.test(parts.at(-1)!) && !parts.some((p) => /^(?:\.|__)/.test(p));
  });
  const kind = PREFERENCE.find((one) => files.some((path) => kindOf(path) === one));
  return files.filter((path) => kindOf(path) === kind).sort();
}

/** Files by the splits that folders, or else names, tell of; where neither does, all are for training. `depth`: leading folders that tell nothing. */
function splitsByName(files: readonly string[], depth: number): Map<string, string[]> {
  const foldersOf = (path: string) => path.split("/").slice(depth, -1);
  const ways: ((path: string) => string | undefined)[] = [
    (path) => /(?:^|\/)data\/(\w+(?:\.\w+)*)-\d{5}-of-\d{5}[^/]*$/.exec(path)?.[1],
    (path) => foldersOf(path).map(splitWordIn).find(Boolean),
    (path) => splitWordIn(path.split("/").at(-1)!),
  ];
  for (const way of ways) {
    const splits = new Map<string, string[]>();
    for (const path of files) {
      const split = way(path);
      if (split !== undefined) splits.set(split, [...(splits.get(split) ?? []), path]);
    }
    if (splits.size > 0) return splits;
  }
  return new Map(files.length > 0 ? [["train", [...files]]] : []);
}

/** The split that a word in a name stands for; words end at digits and at - . _ and spaces. */
function splitWordIn(name: string): string | undefined {
  for (const word of name.toLowerCase().split(/[-._ 0-9]+/)) {
    const split = Object.keys(SPLIT_WORDS).find((key) => SPLIT_WORDS[key].includes(word));
    if (split !== undefined) return split;
  }
  return undefined;
}
