/**
 * A Hugging Face hub on this machine: the part of its HTTP API that fetching needs, with large files on a
 * second address ("cdn"), and faults on demand.
 */
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeEach, onTestFinished, vi } from "vitest";

export interface Asked {
  at: "hub" | "cdn";
  path: string;
  token: string | undefined;
  range: string | undefined;
}

export interface Fault {
  /** Bytes of the answer after which the connection is cut. */
  cutAfter?: number;
  /** What is sent instead. */
  bytes?: Buffer;
  status?: number;
  headers?: Record<string, string>;
  /** The whole file is sent whatever range is asked for. */
  ignoresRange?: boolean;
  /** A wait after each piece. */
  pauseMs?: number;
  /** Sent in pieces of unknown total. */
  isChunked?: boolean;
}

export interface StoredRepo {
  commit: string;
  files: Record<string, Buffer>;
  /** Further revisions. */
  refs?: Record<string, string>;
  /** The files of commits that have others. */
  trees?: Record<string, Record<string, Buffer>>;
  /** Tokens that may read it; absent: everybody. */
  tokens?: string[];
  isGated?: boolean;
  /** Sizes and hashes that the list tells instead of the right ones. */
  lies?: Record<string, { size?: number; hash?: string }>;
}

/** Files as large as this lie on the cdn. */
const LARGE = 10_000;
const PAGE = 3;
const PIECE = 16_384;

export const commitOf = (text: string) => createHash("sha1").update(text).digest("hex");
const sha256 = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");
const gitHash = (bytes: Buffer) =>
  createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
const isLarge = (bytes: Buffer) => bytes.length >= LARGE;
export const hashOf = (bytes: Buffer) => (isLarge(bytes) ? sha256(bytes) : gitHash(bytes));

export class HubServer {
  /** By `models/owner/name` or `datasets/owner/name`. */
  readonly repos = new Map<string, StoredRepo>();
  /** Repositories that are asked for by another name: what they are called now, or an address elsewhere. */
  readonly moved = new Map<string, string>();
  readonly asked: Asked[] = [];
  /** What goes wrong with a file this time. */
  fault: (file: string, asked: Asked) => Fault | undefined = () => undefined;
  endpoint = "";
  cdn = "";
  readonly #servers = [
    createServer((request, response) => void this.#hub(request, response)),
    createServer((request, response) => void this.#cdn(request, response)),
  ];

  async start(): Promise<this> {
    const addresses: string[] = [];
    for (const server of this.#servers) {
      await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
      addresses.push(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    }
    [this.endpoint, this.cdn] = addresses;
    return this;
  }

  async stop(): Promise<void> {
    for (const server of this.#servers) {
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    }
  }

  /** Requests for the contents of files. */
  fetched(): Asked[] {
    return this.asked.filter(({ at, path }) => at === "cdn" || path.includes("/resolve/"));
  }

  async #hub(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const asked = this.#note("hub", request);
    const url = new URL(request.url!, this.endpoint);
    const path = decodeURIComponent(url.pathname);
    for (const [before, now] of this.moved) {
      const at = ["/api/models/", "/api/datasets/", "/", "/datasets/"]
        .map((place) => `${place}${before}/`)
        .find((p) => path.startsWith(p) && /^\/api\/|\/resolve\//.test(path));
      if (at === undefined) continue;
      const to = /^http/.test(now) ? now + path : path.replace(before, now);
      response.writeHead(307, { location: to + url.search }).end();
      return;
    }
    const search = /^\/api\/(models|datasets)$/.exec(path);
    if (search) {
      const ids = [...this.repos.keys()].filter((key) => key.startsWith(`${search[1]}/`));
      const found = ids.map((key) => ({ id: key.slice(search[1].length + 1) }));
      return json(response, found);
    }
    const api = /^\/api\/((?:models|datasets)\/.+?)\/(revision|tree|refs)(?:\/(.+))?$/.exec(path);
    const file = /^\/(datasets\/)?(.+?)\/resolve\/([^/]+)\/(.+)$/.exec(path);
    const key = api?.[1] ?? (file && `${file[1] ?? "models/"}${file[2]}`) ?? "";
    const repo = this.repos.get(key);
    const token = asked.token?.replace("Bearer ", "");
    if (token === "hf_expired") return refuse(response, 401, undefined, "Invalid credentials");
    if (!repo || (repo.tokens && !repo.isGated && !repo.tokens.includes(token ?? "")))
      return refuse(response, token === undefined ? 401 : 404, "RepoNotFound");
    const isRefused = repo.isGated && !repo.tokens?.includes(token ?? "");
    if (file) {
      if (isRefused) return refuse(response, token === undefined ? 401 : 403, "GatedRepo");
      return this.#file(asked, response, key, repo, file[3], file[4]);
    }
    if (api![2] === "refs")
      return json(response, {
        branches: [{ name: "main" }],
        tags: Object.keys(repo.refs ?? {}).map((name) => ({ name })),
      });
    const revision = api![3];
    const known: Record<string, string> = { main: repo.commit, ...repo.refs };
    const isKnown = Object.values(known).includes(revision);
    const commit = isKnown ? revision : (known[revision] as string | undefined);
    if (commit === undefined) return refuse(response, 404, "RevisionNotFound");
    if (api![2] === "revision") return json(response, { _id: "1", id: key, sha: commit });
    const entries = Object.entries(filesAt(repo, commit)).map(([path, bytes]) => {
      const size = repo.lies?.[path]?.size ?? bytes.length;
      const hash = repo.lies?.[path]?.hash ?? hashOf(bytes);
      return isLarge(bytes)
        ? { type: "file", path, size, oid: gitHash(bytes), lfs: { oid: hash, size }, xetHash: "x" }
        : { type: "file", path, size, oid: hash };
    });
    const from = Number(url.searchParams.get("cursor"));
    const headers: Record<string, string> = {};
    if (from + PAGE < entries.length) {
      url.searchParams.set("cursor", String(from + PAGE));
      headers["link"] = `<${url.href}>; rel="next"`;
    }
    json(response, [{ type: "directory", path: "d" }, ...entries.slice(from, from + PAGE)], headers); // prettier-ignore
  }

  async #file(
    asked: Asked,
    response: ServerResponse,
    key: string,
    repo: StoredRepo,
    commit: string,
    path: string,
  ): Promise<void> {
    const bytes = filesAt(repo, commit)[path] as Buffer | undefined;
    if (!bytes) return refuse(response, 404, "EntryNotFound");
    const etag = `"${hashOf(bytes)}"`;
    if (!isLarge(bytes)) return this.#send(asked, response, path, bytes, { etag });
    response.writeHead(302, {
      ...{ "x-repo-commit": repo.commit, "x-linked-etag": etag, "x-linked-size": bytes.length },
      location: `${this.cdn}/${key}/${path}?commit=${commit}`,
    });
    response.end();
  }

  async #cdn(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const asked = this.#note("cdn", request);
    const { pathname, searchParams } = new URL(asked.path, this.cdn);
    const [, kind, owner, name, ...rest] = decodeURIComponent(pathname).split("/");
    const repo = this.repos.get(`${kind}/${owner}/${name}`);
    const bytes = repo && filesAt(repo, searchParams.get("commit") ?? "")[rest.join("/")];
    if (!bytes) return refuse(response, 404);
    await this.#send(asked, response, rest.join("/"), bytes, { etag: '"of-the-store"' });
  }

  async #send(
    asked: Asked,
    response: ServerResponse,
    path: string,
    whole: Buffer,
    headers: Record<string, string>,
  ): Promise<void> {
    const fault = this.fault(path, asked) ?? {};
    if (fault.status) {
      response.writeHead(fault.status, fault.headers).end();
      return;
    }
    const bytes = fault.bytes ?? whole;
    const range = fault.ignoresRange ? null : /^bytes=(\d+)-(\d*)$/.exec(asked.range ?? "");
    const from = Number(range?.[1] ?? 0);
    const last = Math.min(bytes.length - 1, Number(range?.[2] || Infinity));
    const isPart = from > 0 || last < bytes.length - 1;
    if (from >= bytes.length && from > 0) {
      response.writeHead(416).end();
      return;
    }
    const rest = bytes.subarray(from, last + 1);
    response.writeHead(isPart ? 206 : 200, {
      ...{ ...headers, ...fault.headers },
      ...(!fault.isChunked && { "content-length": rest.length }),
      ...(isPart && {
        "content-range": `bytes ${from}-${last}/${bytes.length}`,
      }),
    });
    const end = Math.min(rest.length, fault.cutAfter ?? Infinity);
    for (let at = 0; at < end && !response.destroyed; at += PIECE) {
      response.write(rest.subarray(at, Math.min(at + PIECE, end)));
      if (fault.pauseMs) await sleep(fault.pauseMs);
    }
    if (end === rest.length) response.end();
    else {
      // What was written gets out before the line is cut.
      await sleep(5);
      response.destroy();
    }
  }

  #note(at: Asked["at"], request: IncomingMessage): Asked {
    const { authorization, range } = request.headers;
    const asked = { at, path: request.url!, token: authorization, range };
    this.asked.push(asked);
    return asked;
  }
}

function filesAt({ files, trees }: StoredRepo, commit: string): Record<string, Buffer> {
  return trees?.[commit] ?? files;
}

function json(response: ServerResponse, value: unknown, headers: Record<string, string> = {}) {
  response.writeHead(200, { "content-type": "application/json", ...headers });
  response.end(JSON.stringify(value));
}

function refuse(response: ServerResponse, status: number, code?: string, message = "no"): void {
  response.writeHead(status, {
    ...(code && { "x-error-code": code }),
    ...{ "x-error-message": message, "content-type": "application/json" },
  });
  response.end(JSON.stringify({ error: message }));
}

/** The files of a folder, by name. */
export function filesOf(folder: string): Record<string, Buffer> {
  return Object.fromEntries(
    readdirSync(folder).map((name) => [name, readFileSync(join(folder, name))]),
  );
}

/** A hub for each test, and a cache of its own; the environment names both. */
export function useHub(): { hub: HubServer; cache: string; newCache: () => void } {
  const root = mkdtempSync(join(tmpdir(), "lens-hub-"));
  afterAll(() => rmSync(root, { recursive: true, force: true }));
  const place = { hub: new HubServer(), cache: "", newCache };
  let nth = 0;
  function newCache() {
    place.cache = join(root, String(nth++));
    vi.stubEnv("HF_HOME", place.cache);
  }
  beforeEach(async () => {
    const hub = await new HubServer().start();
    onTestFinished(() => hub.stop());
    place.hub = hub;
    newCache();
    vi.stubEnv("HF_ENDPOINT", hub.endpoint);
    for (const name of [
      "HF_TOKEN",
      "HUGGING_FACE_HUB_TOKEN",
      "HF_TOKEN_PATH",
      "HF_HUB_OFFLINE",
      "HF_HUB_CACHE",
      "HUGGINGFACE_HUB_CACHE",
      "HF_HUB_DOWNLOAD_TIMEOUT",
    ])
      // prettier-ignore
      vi.stubEnv(name, undefined);
  });
  return place;
}
