/**
 * The cache of the Hugging Face hub on disk, as its Python library lays it out and shared with it:
 * `models--owner--name/` with `blobs/HASH` (what was fetched), `snapshots/COMMIT/PATH` (links to blobs) and
 * `refs/REVISION` (the commit that a branch or tag stood for). Lens alone writes `.lens-files/COMMIT.json`, what
 * there is at a commit: without it nobody could tell a part from the whole.
 */
import { randomUUID } from "node:crypto";
import * as fs from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join, relative, resolve, sep } from "node:path";

import { UserError } from "../error.ts";

export type RepoType = "model" | "dataset";

export interface RepoName {
  type: RepoType;
  /** `owner/name`, or `name` of the few that have no owner. */
  id: string;
  /** Branch, tag or commit. */
  revision: string;
}

const PART = /^(?!.*(?:--|\.\.))\w(?:[\w.-]{0,94}\w)?$/;
const REVISION = /^(?!.*(?:\.\.|\/\/))\w(?:[\w./+-]{0,198}[\w+-])?$/;
const COMMIT = /^[0-9a-f]{40}$/;

/** What `owner/name`, `name`, `owner/name@revision` or `name@revision` names; undefined for what cannot be a name on the hub. */
export function parseRepoName(type: RepoType, source: string): RepoName | undefined {
  const at = source.indexOf("@");
  const id = at < 0 ? source : source.slice(0, at);
  const revision = at < 0 ? "main" : source.slice(at + 1);
  const parts = id.split("/");
  if (parts.length > 2 || !parts.every((part) => PART.test(part)) || !REVISION.test(revision))
    return undefined;
  return { type, id, revision };
}

/** A repository's name as a person writes it. */
export function showName({ id, revision }: RepoName): string {
  return revision === "main" ? id : `${id}@${revision}`;
}

export function isCommit(revision: string): boolean {
  return COMMIT.test(revision);
}

/** HF_HOME, or where it is by default. */
export function hubHome(): string {
  const { HF_HOME, XDG_CACHE_HOME } = process.env;
  if (HF_HOME) return expanded(HF_HOME);
  return join(XDG_CACHE_HOME ? expanded(XDG_CACHE_HOME) : join(homedir(), ".cache"), "huggingface");
}

/** The folder that holds the repositories: HF_HUB_CACHE, or `hub` in HF_HOME. */
export function cacheFolder(): string {
  const { HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE } = process.env;
  const given = HF_HUB_CACHE || HUGGINGFACE_HUB_CACHE;
  return given ? expanded(given) : join(hubHome(), "hub");
}

function expanded(path: string): string {
  return resolve(path.replace(/^~(?=$|[/\\])/, () => homedir()));
}

/** A file as the hub lists it, with the hash of its content. */
export interface ListedFile {
  path: string;
  size: number;
  hash?: string;
}

/** Where one repository lies in the cache. */
export class RepoCache {
  readonly folder: string;
  /** Beside the repository, so that tools that list it do not meet locks. */
  readonly locks: string;

  constructor({ type, id }: RepoName) {
    const name = [`${type}s`, ...id.split("/")].join("--");
    this.folder = join(cacheFolder(), name);
    this.locks = join(cacheFolder(), ".locks", name);
  }

  blob(hash: string): string {
    return join(this.folder, "blobs", hash);
  }

  snapshot(commit: string): string {
    return join(this.folder, "snapshots", commit);
  }

  /** The commit that a revision stood for when it was last fetched, if it was. */
  async commitOf(revision: string): Promise<string | undefined> {
    if (isCommit(revision)) return revision;
    const text = await fs.readFile(this.#ref(revision), "utf8").catch(() => "");
    return isCommit(text.trim()) ? text.trim() : undefined;
  }

  /** Notes what a revision stands for. A cache that cannot be written to, and has everything, is no failure. */
  async noteCommit(revision: string, commit: string): Promise<void> {
    if (isCommit(revision) || (await this.commitOf(revision)) === commit) return;
    await note(this.#ref(revision), commit);
  }

  /** The list of all files at a commit, where it was noted. */
  async listOf(commit: string): Promise<ListedFile[] | undefined> {
    try {
      return JSON.parse(await fs.readFile(this.#list(commit), "utf8")) as ListedFile[];
    } catch {
      return undefined; // not there, or damaged, which is mended by the next one
    }
  }

  /** Notes all files at a commit. A cache that cannot be written to is no failure. */
  async noteList(commit: string, files: readonly ListedFile[]): Promise<void> {
    // Other programs call a cache damaged that knows of a commit and has no folder of it.
    await fs.mkdir(this.snapshot(commit), { recursive: true }).catch(() => undefined);
    await note(this.#list(commit), JSON.stringify(files));
  }

  /** The files of a snapshot, with their sizes; those whose blob is gone are left out. */
  async files(commit: string): Promise<{ path: string; size: number }[]> {
    const root = this.snapshot(commit);
    const found: { path: string; size: number }[] = [];
    const walk = async (folder: string) => {
      const entries = await fs.readdir(folder, { withFileTypes: true }).catch(() => []);
      for (const entry of entries) {
        const path = join(folder, entry.name);
        if (entry.isDirectory()) await walk(path);
        else {
          const size = await sizeOf(path);
          if (size !== undefined)
            found.push({ path: relative(root, path).split(sep).join("/"), size });
        }
      }
    };
    await walk(root);
    return found.sort((a, b) => (a.path < b.path ? -1 : 1));
  }

  #list(commit: string): string {
    return join(this.folder, ".lens-files", `${commit}.json`);
  }

  #ref(revision: string): string {
    return join(this.folder, "refs", ...revision.split("/"));
  }
}

/** The models that have snapshots in the cache, by name, and the names of these. */
export async function cachedModels(): Promise<{ id: string; commits: string[] }[]> {
  const names = async (folder: string) =>
    (await fs.readdir(folder).catch(() => [] as string[])).sort();
  const found: { id: string; commits: string[] }[] = [];
  for (const name of await names(cacheFolder())) {
    if (!name.startsWith("models--")) continue;
    const id = name.split("--").slice(1).join("/");
    if (!parseRepoName("model", id)) continue;
    const commits = await names(join(cacheFolder(), name, "snapshots"));
    if (commits.length > 0) found.push({ id, commits });
  }
  return found;
}

/** Writes a small file that appears whole, where this is allowed. */
async function note(path: string, text: string): Promise<void> {
  const prepared = `${path}.${randomUUID()}.tmp`;
  try {
    await fs.mkdir(dirname(path), { recursive: true });
    await fs.writeFile(prepared, text);
    await fs.rename(prepared, path);
  } catch (error) {
    await fs.rm(prepared, { force: true }).catch(() => undefined);
    if (!["EACCES", "EROFS", "EPERM"].includes(codeOf(error) ?? "")) throw error;
  }
}

/**
 * Lets a snapshot's `path` show what is in `blob`: a relative link, so that a cache can be moved; where links
 * are refused (Windows without that right, some mounts) a second name of the same file, or a copy.
 * @param makeLink for tests of the refusal.
 */
export async function placeInSnapshot(
  blob: string,
  path: string,
  makeLink: (target: string, path: string) => Promise<void> = fs.symlink,
): Promise<void> {
  await fs.mkdir(dirname(path), { recursive: true });
  // Made beside it and renamed: a reader sees what was there before or the whole of it.
  const prepared = `${path}.${randomUUID()}.tmp`;
  try {
    await makeLink(relative(dirname(path), blob), prepared)
      .catch(() => fs.link(blob, prepared))
      .catch(() => fs.copyFile(blob, prepared));
    await fs.rename(prepared, path);
  } finally {
    await fs.rm(prepared, { force: true });
  }
}

/** The size of the file a path leads to; undefined when there is none. */
export async function sizeOf(path: string): Promise<number | undefined> {
  const status = await fs.stat(path).catch(() => undefined);
  return status?.isFile() ? status.size : undefined;
}

/** @throws UserError for a path that would leave the folder it is put in, here or on another system. */
export function requireInside(path: string, repo: RepoName): void {
  const parts = path.split("/");
  const isBad =
    parts.some((part) => ["", ".", ".."].includes(part)) ||
    // eslint-disable-next-line no-control-regex
    /[\\\x00-\x1f]/.test(path) ||
    /^[a-z]:/i.test(path);
  if (isBad)
    throw new UserError(
      `${repo.type} ${showName(repo)} lists a file named ${JSON.stringify(path)}, which could be written outside the cache; nothing of it was fetched. Do not trust this repository.`,
    );
}

export function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | undefined)?.code;
}
