/**
 * The Hugging Face hub as a source of models and of data sets' files. `openRepo` learns what there is (from the
 * hub, or from the cache when it cannot be asked); `fetch` brings files into the cache and says where they are.
 */
import * as fs from "node:fs/promises";
import { join } from "node:path";

import { messageOf, nearestName, UserError } from "../error.ts";
import { downloadReporter } from "./download-report.ts";
import {
  cacheFolder,
  isCommit,
  parseRepoName,
  placeInSnapshot,
  RepoCache,
  type RepoName,
  requireInside,
  showName,
  sizeOf,
} from "./hub-cache.ts";
import {
  addressOf,
  ask,
  type AskOptions,
  HubRefusal,
  hubSettings,
  Unreachable,
} from "./hub-client.ts";
import { fetchBlob, partialOf } from "./hub-download.ts";

export interface HubOptions {
  signal?: AbortSignal | undefined;
  /** False: use what is in the cache, ask nothing of the network. */
  download?: boolean | undefined;
  /** Bytes of the files asked for that had to be fetched, of all of those. */
  onProgress?: ((progress: { done: number; total: number }) => void) | undefined;
  /** The first wait between attempts, in milliseconds. */
  retryMs?: number | undefined;
}

export interface HubFile {
  path: string;
  size: number;
  /** SHA-256, or of files that lie in git itself the hash git gives them; absent where only the cache was asked. */
  hash?: string;
}

/** A repository at one commit. */
export interface HubRepo {
  readonly name: RepoName;
  readonly commit: string;
  /** Where its files are once fetched, by their paths. */
  readonly folder: string;
  /** All there are; when the hub could not be asked, those in the cache, unless `isListed`. */
  readonly files: readonly HubFile[];
  /** `files` are all there are: the hub has listed them, now or (data sets) when it was last asked. */
  readonly isListed: boolean;
  /** Why the hub was not asked, where it was not. */
  readonly offline: string | undefined;
  /** What fetching these files would take. */
  plan(paths: readonly string[]): Promise<{ bytes: number; missing: HubFile[] }>;
  /** Fetches what is missing of these files and returns where each one is. `signal` stops it, in place of that of the options. */
  fetch(paths: readonly string[], signal?: AbortSignal): Promise<string[]>;
}

/**
 * What there is in a repository. `source`: owner/name, with @revision (branch, tag or commit) where it is
 * not `main`. Without network, or with HF_HUB_OFFLINE=1, what the cache has of it.
 * @throws UserError when there is no such repository or revision, no access, or neither network nor cache.
 */
export async function openRepo(
  type: RepoName["type"],
  source: string,
  options: HubOptions = {},
): Promise<HubRepo> {
  const name = parseRepoName(type, source);
  if (!name)
    throw new UserError(
      `${source} is not the name of a ${type} on the Hugging Face hub: that is owner/name, or owner/name@revision.`,
    );
  const cache = new RepoCache(name);
  const cached = async (why: string) => {
    const commit = await cache.commitOf(name.revision);
    if (commit === undefined) return undefined;
    const files = await cache.files(commit);
    const list = type === "dataset" ? await cache.listOf(commit) : undefined;
    if (files.length === 0 && !list) return undefined;
    return cachedRepo({ name, commit, folder: cache.snapshot(commit), offline: why }, files, list);
  };
  if (options.download === false) {
    const repo = await cached("the cache is to be used as it is");
    if (repo) return repo;
    throw new UserError(
      `${type} ${showName(name)} is not in the cache of the Hugging Face hub (${cacheFolder()}) yet; a run that names it fetches it.`,
    );
  }
  if (hubSettings().isOffline) {
    const repo = await cached("HF_HUB_OFFLINE is set");
    if (repo) return repo;
    throw new UserError(
      `${type} ${showName(name)} is not in the cache (${cacheFolder()}), and HF_HUB_OFFLINE forbids fetching it: unset that, or give a folder here.`,
    );
  }
  // With a copy at hand nobody should wait long for a network that is not there.
  const fallback = await cached("");
  try {
    return await listed(name, cache, { ...options, ...(fallback && { attempts: 1 }) });
  } catch (error) {
    if (!(error instanceof Unreachable)) throw error;
    const repo = fallback && (await cached(error.message));
    if (!repo)
      throw new UserError(
        `${type} ${showName(name)} is neither a folder here nor in the cache (${cacheFolder()}), and it cannot be fetched: ${error.message}. Connect to the network, or set HF_ENDPOINT to a mirror.`,
      );
    downloadReporter().note(
      `${showName(name)}: the copy in the cache is used (commit ${repo.commit.slice(0, 8)}); ${error.message}`,
    );
    return repo;
  }
}

/** Files of a model that Lens reads, of all those in its repository. @throws UserError when its weights are none it can read. */
export function modelFiles(paths: readonly string[], model: string): string[] {
  const others = paths.filter((path) =>
    /^(?:(?:config|generation_config|special_tokens_map|added_tokens|vocab|tokenizer[\w.-]*|chat_template)\.json|merges\.txt|vocab\.txt|chat_template\.jinja)$/.test(
      path,
    ),
  );
  const INDEX = "model.safetensors.index.json";
  if (paths.includes("model.safetensors")) return [...others, "model.safetensors"];
  // `consolidated` is the whole model once more, in another layout.
  const shards = paths.filter((path) => /^(?!consolidated)[^/]+\.safetensors$/.test(path));
  if (paths.includes(INDEX) && shards.length > 0) return [...others, INDEX, ...shards];
  const seen = paths.filter((path) => /\.(?:bin|h5|msgpack|onnx|gguf|pt|pth|safetensors)$/.test(path)); // prettier-ignore
  const instead = seen.length > 0 ? `; it has ${seen.slice(0, 3).join(", ")}` : "";
  throw new UserError(
    `model ${model} has no weights as model.safetensors${instead}. Choose a revision that has them (${model.split("@")[0]}@REVISION), or save the weights as safetensors in a folder and give that.`,
  );
}

/** Brings a model into the cache and returns the folder it is in, as `loadModel` reads it. */
export async function fetchModel(source: string, options: HubOptions = {}): Promise<string> {
  const repo = await openRepo("model", source, options);
  const all = repo.files.map((file) => file.path);
  if (repo.offline !== undefined) {
    // What is in the cache may be a part: a fetch that was cut off, or another program's choice of files.
    const hasWeights = all.some((path) => /^model\.safetensors(?:\.index\.json)?$/.test(path));
    await repo.fetch([
      "config.json",
      ...(hasWeights ? await shardsOf(repo) : ["model.safetensors"]),
    ]);
    return repo.folder;
  }
  await repo.fetch(modelFiles(all, source));
  return repo.folder;
}

/** The shards that the index in the cache names: it may have been fetched without them. */
async function shardsOf({ folder }: HubRepo): Promise<string[]> {
  if ((await sizeOf(join(folder, "model.safetensors"))) !== undefined) return [];
  const text = await fs.readFile(join(folder, "model.safetensors.index.json"), "utf8");
  try {
    const index = JSON.parse(text) as { weight_map?: Record<string, string> };
    return [...new Set(Object.values(index.weight_map ?? {}))];
  } catch {
    return []; // whoever reads it for its weights says what is wrong with it
  }
}

async function listed(
  name: RepoName,
  cache: RepoCache,
  options: HubOptions & AskOptions,
): Promise<HubRepo> {
  const settings = hubSettings();
  const hub = await import("@huggingface/hub");
  const request: typeof fetch = (url, init) =>
    ask(settings, name, url instanceof Request ? url.url : String(url), init, options);
  const where = { hubUrl: settings.endpoint, fetch: request };
  try {
    const asked = { ...where, name: name.id, revision: name.revision };
    const { sha: commit } =
      name.type === "model"
        ? await hub.modelInfo({ ...asked, additionalFields: ["sha"] })
        : await hub.datasetInfo({ ...asked, additionalFields: ["sha"] });
    // A data set may have tens of thousands of files, a thousand in each answer; a commit's never change.
    const noted = name.type === "dataset" ? await cache.listOf(commit) : undefined;
    if (noted) {
      await cache.noteCommit(name.revision, commit);
      return new ListedRepo(name, commit, cache, noted, options);
    }
    const files: HubFile[] = [];
    const repo = { type: name.type, name: name.id };
    const entries = hub.listFiles({ ...where, repo, revision: commit, recursive: true });
    for await (const { type, path, size, oid, lfs } of entries) {
      if (type !== "file") continue;
      requireInside(path, name);
      files.push({ path, size: lfs?.size ?? size, hash: lfs?.oid ?? oid });
    }
    const isWhole = files.every(
      ({ hash, size }) => /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(hash ?? "") && size >= 0,
    );
    if (!isCommit(commit) || !isWhole) throw new TypeError("a hash or size is missing");
    if (name.type === "dataset") {
      await cache.noteList(commit, files);
      await cache.noteCommit(name.revision, commit);
    }
    return new ListedRepo(name, commit, cache, files, options);
  } catch (error) {
    if (error instanceof HubRefusal && error.missing)
      throw await withHint(error, name, (path) => request(`${settings.endpoint}${path}`));
    if (error instanceof UserError || error instanceof Unreachable) throw error;
    options.signal?.throwIfAborted();
    throw new UserError(
      `${settings.endpoint} does not answer as the Hugging Face hub does when asked for ${name.type} ${showName(name)} (${messageOf(error)}): is HF_ENDPOINT right?`,
    );
  }
}

/** The same refusal with what is named almost alike. */
async function withHint(
  error: HubRefusal,
  { type, id, revision }: RepoName,
  request: (path: string) => Promise<Response>,
): Promise<HubRefusal> {
  let near: string | undefined;
  try {
    if (error.missing === "revision") {
      const refs = (await (await request(`/api/${type}s/${id}/refs`)).json()) as Record<
        string,
        { name: string }[]
      >;
      const names = ["branches", "tags"].flatMap((kind) => (refs[kind] ?? []).map((r) => r.name));
      near = nearestName(revision, names);
      if (near === undefined && names.length > 0)
        return new HubRefusal(`${error.message} It has ${names.slice(0, 8).join(", ")}.`, "revision"); // prettier-ignore
    } else {
      const words = encodeURIComponent(id.split("/").at(-1)!);
      const answer = await request(`/api/${type}s?search=${words}&limit=20`);
      const found = (await answer.json()) as { id: string }[];
      near = nearestName(
        id,
        found.map((one) => one.id),
      );
    }
  } catch {
    // no hint, then
  }
  if (near === undefined) return error;
  return new HubRefusal(`${error.message} Did you mean ${near}?`, error.missing);
}

/** What is there in an instant, such as a card, needs no line of progress. */
const UNTOLD_BYTES = 100_000;

/** As the hub lists it. */
class ListedRepo implements HubRepo {
  readonly name: RepoName;
  readonly commit: string;
  readonly folder: string;
  readonly files: readonly HubFile[];
  readonly isListed = true;
  readonly offline = undefined;
  readonly #cache: RepoCache;
  readonly #options: HubOptions;

  constructor(
    name: RepoName,
    commit: string,
    cache: RepoCache,
    files: readonly HubFile[],
    options: HubOptions,
  ) {
    this.name = name;
    this.commit = commit;
    this.folder = cache.snapshot(commit);
    this.files = files;
    this.#cache = cache;
    this.#options = options;
  }

  async plan(paths: readonly string[]): Promise<{ bytes: number; missing: HubFile[] }> {
    const files = filesNamed(this, paths);
    const missing: HubFile[] = [];
    for (const file of files)
      if ((await sizeOf(join(this.folder, file.path))) !== file.size) missing.push(file);
    return { bytes: missing.reduce((sum, { size }) => sum + size, 0), missing };
  }

  async fetch(paths: readonly string[], signal = this.#options.signal): Promise<string[]> {
    const { bytes, missing } = await this.plan(paths);
    if (missing.length > 0) {
      // What is small says soonest whether the rest is worth its time.
      missing.sort((a, b) => a.size - b.size);
      await this.#fetchMissing(missing, bytes, signal);
    }
    await this.#cache.noteCommit(this.name.revision, this.commit);
    return paths.map((path) => join(this.folder, path));
  }

  async #fetchMissing(
    missing: HubFile[],
    total: number,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const cache = this.#cache;
    const { onProgress, retryMs } = this.#options;
    const settings = hubSettings();
    // What an earlier attempt has left, or another snapshot shares.
    const have = new Map<string, number>();
    for (const { path, size, hash } of missing) {
      const isThere = (await sizeOf(cache.blob(hash!))) === size;
      have.set(path, isThere ? size : ((await sizeOf(partialOf(cache.blob(hash!)))) ?? 0));
    }
    const counted = () => [...have.values()].reduce((a, b) => a + b, 0);
    await requireRoom(total - counted(), showName(this.name));
    // The files of a data set come one by one.
    const what = this.name.type === "dataset" && missing.length === 1 ? ` ${missing[0].path}` : "";
    const shown =
      total < UNTOLD_BYTES
        ? undefined
        : downloadReporter().begin(showName(this.name) + what, total, counted());
    try {
      for (const { path, size, hash } of missing) {
        const blob = cache.blob(hash!);
        await fetchBlob({
          ...{ settings, repo: this.name, blob, signal, retryMs },
          url: addressOf(settings, this.name, this.commit, path),
          file: { path, size, hash: hash! },
          lock: join(cache.locks, `${hash}.lens`),
          onBytes: (done) => {
            have.set(path, done);
            onProgress?.({ done: counted(), total });
            shown?.update(counted());
          },
        });
        await placeInSnapshot(blob, join(this.folder, path));
      }
    } catch (error) {
      shown?.stop();
      throw error instanceof Unreachable ? new UserError(`${error.message}.`) : error;
    }
    shown?.end();
  }
}

/** As the cache has it: `cached` are the files in it, `list` all there are, where that is known. */
function cachedRepo(
  place: Pick<HubRepo, "name" | "commit" | "folder"> & { offline: string },
  cached: readonly HubFile[],
  list?: readonly HubFile[],
): HubRepo {
  const sizes = new Map(cached.map(({ path, size }) => [path, size]));
  const repo: HubRepo = {
    ...{ ...place, files: list ?? cached, isListed: list !== undefined },
    plan: async (paths) => {
      const missing = filesNamed(repo, paths).filter(({ path, size }) => sizes.get(path) !== size);
      return { bytes: missing.reduce((sum, { size }) => sum + size, 0), missing };
    },
    fetch: async (paths) => {
      for (const { path, size } of filesNamed(repo, paths))
        if (sizes.get(path) !== size) throw notCached(repo, path);
      return paths.map((path) => join(place.folder, path));
    },
  };
  return repo;
}

function notCached({ name, commit, folder, offline }: HubRepo, path: string): UserError {
  const { type, id } = name;
  const flag = type === "dataset" ? " --repo-type dataset" : "";
  return new UserError(
    `${path} of ${type} ${showName(name)} is not in the cache (${folder}), and it cannot be fetched: ${offline}. With network the same command fetches it, and so does: hf download ${id} ${path}${flag} --revision ${commit}`,
  );
}

function filesNamed(repo: HubRepo, paths: readonly string[]): HubFile[] {
  const known = new Map(repo.files.map((file) => [file.path, file]));
  return [...new Set(paths)].map((path) => {
    const file = known.get(path);
    if (file) return file;
    const { type } = repo.name;
    if (repo.offline !== undefined && !repo.isListed) throw notCached(repo, path);
    const near = nearestName(path, known.keys());
    throw new UserError(
      `${type} ${showName(repo.name)} has no file ${path}${near === undefined ? "" : `. Did you mean ${near}?`}`,
    );
  });
}

/** @throws UserError when the cache's disk has less room than this. */
async function requireRoom(bytes: number, name: string): Promise<void> {
  await fs.mkdir(cacheFolder(), { recursive: true }).catch(() => undefined); // the write itself says why
  const disk = await fs.statfs(cacheFolder()).catch(() => undefined);
  const free = disk ? disk.bavail * disk.bsize : Infinity;
  if (free < bytes)
    throw new UserError(
      `${name} needs ${megabytes(bytes)} more, and the disk of ${cacheFolder()} has ${megabytes(free)} left: make room, or set HF_HUB_CACHE to a folder elsewhere.`,
    );
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toLocaleString("en-US", { maximumFractionDigits: 1 })} MB`;
}
