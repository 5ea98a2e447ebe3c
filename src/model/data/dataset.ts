/** Data sets of the Hugging Face hub as text: `owner/name[@revision][:config[/split]]`, file by file. */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";

import { UserError } from "../../error.ts";
import { hashBytes } from "../../file-hash.ts";
import { downloadReporter } from "../download-report.ts";
import { cacheFolder, parseRepoName } from "../hub-cache.ts";
import { HubRefusal, hubSettings } from "../hub-client.ts";
import { type HubRepo, openRepo } from "../hub.ts";
import {
  chooseSplit,
  configsByName,
  configsOfCard,
  configsOfConverted,
  type DatasetConfig,
} from "./dataset-files.ts";
import { kindOf, KINDS_TEXT } from "./formats.ts";

/** One split of a data set at one commit. */
export interface Dataset {
  /** With config and split, for messages. */
  name: string;
  commit: string;
  /** Its files in the repository, in the order in which they are read. */
  paths: readonly string[];
  /** Says exactly what data this is: the commit, and a hash of the paths. */
  hash: string;
  /** Where its files are in the cache: each is fetched when it is asked for, so nothing is that is not read. */
  files(signal?: AbortSignal): AsyncGenerator<string, void, undefined>;
}

/**
 * Whether a source means a data set of the hub: it is called like one, with its owner, does not end like a
 * file of text, and is no file or folder here, which would win.
 */
export function isDataset(source: string): boolean {
  return parseDataset(source) !== undefined && !existsSync(source);
}

interface DatasetName {
  /** owner/name, with @revision where one is given. */
  repo: string;
  config: string | undefined;
  split: string | undefined;
}

/** The parts of `owner/name[@revision][:config[/split]]`; undefined for what is none. */
export function parseDataset(source: string): DatasetName | undefined {
  const [, repo, config, split] = /^([^:]+)(?::([^:/]+)(?:\/([^:/]+))?)?$/.exec(source) ?? [];
  if (repo === undefined) return undefined;
  const id = parseRepoName("dataset", repo)?.id;
  if (!id?.includes("/") || kindOf(id)) return undefined;
  return { repo, config, split };
}

/** Where a branch leads is asked once in a process, so that all its parts read the same data. */
const opened = new Map<string, Promise<Dataset>>();

/**
 * What a data set has, and which of its files are read; none but its card is fetched. Without network, what
 * the cache knows of it.
 * @throws UserError when there is no such data set, revision, config or split, naming those there are; when it
 * is not said which of several is meant; for no access; and for files of kinds that are not read.
 */
export function openDataset(source: string): Promise<Dataset> {
  const { endpoint, isOffline } = hubSettings();
  const key = JSON.stringify([source, endpoint, cacheFolder(), isOffline]);
  let dataset = opened.get(key);
  if (!dataset) {
    dataset = open(source);
    opened.set(key, dataset);
    dataset.catch(() => opened.delete(key));
  }
  return dataset;
}

async function open(source: string): Promise<Dataset> {
  const wanted = parseDataset(source);
  if (!wanted)
    throw new UserError(
      `${source} is no data set of the Hugging Face hub: that is owner/name, owner/name@revision, or either with :config or :config/split behind it.`,
    );
  const { repo, configs } = await configsOf(wanted.repo);
  const { config, split, paths } = chooseSplit(configs, wanted, wanted.repo);
  if (!repo.isListed) requireAllShards(repo, paths);
  const { commit } = repo;
  const name = `${wanted.repo}:${config}/${split}`;
  const sizes = new Map(repo.files.map((file) => [file.path, file.size]));
  const bytes = paths.reduce((sum, path) => sum + sizes.get(path)!, 0);
  downloadReporter().note(
    `text: ${name} at commit ${commit.slice(0, 8)}, ${paths.length} ${paths.length === 1 ? "file" : "files"}, ${(bytes / 1e6).toFixed(1)} MB`,
  );
  const hash = await hashBytes(new TextEncoder().encode(JSON.stringify(paths)));
  return {
    ...{ name, commit, paths, hash: `${commit}:${hash}` },
    async *files(signal) {
      for (const path of paths) yield* await repo.fetch([path], signal);
    },
  };
}

/** What Parquet the hub makes of data sets by itself lies there. */
const CONVERTED = "refs/convert/parquet";

/** The repository that holds the files, and its configs. */
async function configsOf(name: string): Promise<{ repo: HubRepo; configs: DatasetConfig[] }> {
  const repo = await openRepo("dataset", name);
  const paths = repo.files.map(({ path }) => path);
  const { id, revision } = repo.name;
  if (revision === CONVERTED) return { repo, configs: configsOfConverted(paths) };
  const [card] = paths.includes("README.md") ? await repo.fetch(["README.md"]) : [];
  const listed = card && configsOfCard(await readFile(card, "utf8"), paths, name);
  if (listed) return { repo, configs: listed };
  const configs = configsByName(paths);
  const script = `${id.split("/")[1]}.py`;
  const hasScript = paths.includes(script);
  if (configs.length > 0 && !hasScript) return { repo, configs };
  // What a script would make of the files is known from the hub's own copy only; scripts are never run.
  const mayLack = repo.offline !== undefined && configs.length > 0;
  const converted = revision === "main" ? await convertedOf(id, mayLack) : undefined;
  if (converted) return converted;
  if (configs.length > 0) return { repo, configs };
  const some = paths.filter((path) => !/^(?:\.|README\.md$)/.test(path)).slice(0, 3);
  throw new UserError(
    hasScript
      ? `dataset ${name} is made by a script (${script}), which is not run here, and the hub has no Parquet copy of it (${CONVERTED}). Fetch its files and give their folder.`
      : `dataset ${name} has no file of ${KINDS_TEXT}, and the hub has no Parquet copy of it (${CONVERTED}); it has ${some.join(", ") || "no files"}.`,
  );
}

/** The hub's Parquet copy; undefined when it has none, or when it may be lacking and cannot be had. */
async function convertedOf(
  id: string,
  mayLack: boolean,
): Promise<{ repo: HubRepo; configs: DatasetConfig[] } | undefined> {
  try {
    const repo = await openRepo("dataset", `${id}@${CONVERTED}`);
    const configs = configsOfConverted(repo.files.map(({ path }) => path));
    return configs.length > 0 ? { repo, configs } : undefined;
  } catch (error) {
    if (error instanceof HubRefusal && error.missing === "revision") return undefined;
    if (mayLack && error instanceof UserError) return undefined;
    throw error;
  }
}

/** @throws UserError when numbers in names (`-00000-of-00004`) tell that the cache lacks a file: where another program has filled it, no list says so. */
function requireAllShards({ name, folder, offline }: HubRepo, paths: readonly string[]): void {
  for (const path of paths) {
    const [, start, total, end] = /^(.*-)\d{5}-of-(\d{5})(.*)$/.exec(path) ?? [];
    if (start === undefined) continue;
    for (let i = 0; i < Number(total); i++) {
      const shard = `${start}${String(i).padStart(5, "0")}-of-${total}`;
      if (paths.some((other) => other.startsWith(shard))) continue;
      throw new UserError(
        `${shard}${end} of dataset ${name.id} is not in the cache (${folder}), and it cannot be fetched: ${offline}. With network the same command fetches it.`,
      );
    }
  }
  downloadReporter().note(
    `${name.id}: the cache does not say which files there are; those in it are taken for all`,
  );
}
