/**
 * Requests to the Hugging Face hub: its address and token, redirects that never carry the token to another
 * host, retries, and its refusals as messages for people.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { messageOf, UserError } from "../error.ts";
import { hubHome, type RepoName, showName } from "./hub-cache.ts";

export interface HubSettings {
  /** Without a slash at its end. */
  endpoint: string;
  token: string | undefined;
  /** HF_HUB_OFFLINE: nothing is asked of the network. */
  isOffline: boolean;
  /** Silence after which a connection is given up. */
  timeoutMs: number;
}

const TIMEOUT_S = 60;
const MAX_REDIRECTS = 10;
/** Attempts in a row that bring nothing, while a file is fetched. */
export const ATTEMPTS = 5;
/** Of a question: who has no network should hear so soon. */
const QUESTION_ATTEMPTS = 3;
const MAX_WAIT_MS = 30_000;

/** What the environment says, read anew each time. */
export function hubSettings(): HubSettings {
  const { env } = process;
  const endpoint = (env["HF_ENDPOINT"] || "https://huggingface.co").replace(/\/+$/, "");
  if (!URL.canParse(endpoint) || !/^https?:$/.test(new URL(endpoint).protocol))
    throw new UserError(
      `HF_ENDPOINT must be an address such as https://huggingface.co; got ${endpoint}`,
    );
  return {
    endpoint,
    token: hubToken(),
    isOffline: /^(1|on|yes|true)$/i.test(env["HF_HUB_OFFLINE"] ?? ""),
    timeoutMs: 1000 * (Number(env["HF_HUB_DOWNLOAD_TIMEOUT"]) || TIMEOUT_S),
  };
}

function hubToken(): string | undefined {
  const { HF_TOKEN, HUGGING_FACE_HUB_TOKEN, HF_TOKEN_PATH } = process.env;
  const given = (HF_TOKEN ?? HUGGING_FACE_HUB_TOKEN)?.trim();
  if (given !== undefined) return given || undefined;
  try {
    return readFileSync(HF_TOKEN_PATH || join(hubHome(), "token"), "utf8").trim() || undefined;
  } catch {
    return undefined;
  }
}

/** A repository's page. */
function pageOf({ endpoint }: HubSettings, { type, id }: RepoName): string {
  return `${endpoint}/${type === "dataset" ? "datasets/" : ""}${id}`;
}

/** Where a file of a repository is, at a commit. */
export function addressOf(
  settings: HubSettings,
  name: RepoName,
  commit: string,
  path: string,
): string {
  const place = path.split("/").map(encodeURIComponent).join("/");
  return `${pageOf(settings, name)}/resolve/${commit}/${place}`;
}

/** The hub could not be asked: no network, no answer, or an answer that says it is out of order. */
export class Unreachable extends Error {
  override name = "Unreachable";
}

/** The hub's no. */
export class HubRefusal extends UserError {
  /** What there is none of, where it is that. */
  readonly missing: "repo" | "revision" | "file" | undefined;

  constructor(message: string, missing?: "repo" | "revision" | "file") {
    super(message);
    this.missing = missing;
  }
}

export interface AskOptions {
  signal?: AbortSignal | undefined;
  attempts?: number;
  /** The first wait between attempts; each is twice the one before. */
  retryMs?: number;
}

/** A whole answer of status 200 to 299. @throws HubRefusal or Unreachable. */
export async function ask(
  settings: HubSettings,
  repo: RepoName,
  url: string,
  init: RequestInit = {},
  { signal, attempts = QUESTION_ATTEMPTS, retryMs = 500 }: AskOptions = {},
): Promise<Response> {
  for (let attempt = 1; ; attempt++) {
    let wait = retryMs * 2 ** (attempt - 1);
    let trouble: string;
    const patience = new Patience(settings.timeoutMs, signal);
    try {
      const { response } = await follow(settings, url, { ...init, signal: patience.signal });
      if (response.ok) {
        // Read to its end here, where it is watched. Answers are lists, never files.
        const { status, headers } = response;
        return new Response(await response.arrayBuffer(), { status, headers });
      }
      if (!isPassing(response.status)) throw await refusal(settings, repo, response);
      trouble = `${new URL(url).host} answered ${response.status} ${response.statusText}`.trim();
      wait = Math.max(wait, 1000 * (Number(response.headers.get("retry-after")) || 0));
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof UserError) throw error;
      trouble = `${new URL(url).host} cannot be reached (${reasonOf(error)})`;
    } finally {
      patience.end();
    }
    if (attempt >= attempts) throw new Unreachable(trouble);
    await pause(wait, signal);
  }
}

/** Waits, but not for long, and not when aborted. */
export async function pause(ms: number, signal?: AbortSignal): Promise<void> {
  try {
    await sleep(Math.min(ms, MAX_WAIT_MS), undefined, { signal });
  } catch {
    signal?.throwIfAborted();
  }
}

/** Statuses that another attempt may not meet. */
export function isPassing(status: number): boolean {
  return status === 408 || status === 429 || status >= 500;
}

/**
 * One request with its redirects. The token goes to the hub alone: a redirect to where the files are stored,
 * or to anywhere else, loses it. `etag`: what the hub itself calls the file's content.
 */
export async function follow(
  settings: HubSettings,
  url: string,
  init: RequestInit,
): Promise<{ response: Response; etag: string | undefined }> {
  const home = new URL(settings.endpoint).origin;
  let at = new URL(url, settings.endpoint);
  let etag: string | undefined;
  for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
    const headers = new Headers(init.headers);
    headers.delete("authorization");
    headers.set("user-agent", "latent-lens");
    if (at.origin === home && settings.token)
      headers.set("authorization", `Bearer ${settings.token}`);
    const response = await fetch(at, { ...init, headers, redirect: "manual" });
    if (at.origin === home)
      etag = response.headers.get("x-linked-etag") ?? response.headers.get("etag") ?? undefined;
    const next = response.headers.get("location");
    if (response.status < 300 || response.status >= 400 || next === null)
      return { response, etag: etag?.replace(/^W\//, "").replaceAll('"', "") };
    await response.body?.cancel();
    const to = new URL(next, at);
    if (to.protocol !== at.protocol && to.protocol !== "https:")
      throw new UserError(
        `${at.host} redirects to ${to.protocol}//${to.host}, which is not encrypted; nothing was fetched.`,
      );
    at = to;
  }
  throw new UserError(`${url} redirects more than ${MAX_REDIRECTS} times.`);
}

/** The hub's refusal as a message that says what to do. */
export async function refusal(
  settings: HubSettings,
  repo: RepoName,
  response: Response,
  path?: string,
): Promise<HubRefusal> {
  await response.body?.cancel();
  const { endpoint, token } = settings;
  const { type, id, revision } = repo;
  const page = pageOf(settings, repo);
  const code = response.headers.get("x-error-code");
  const said = response.headers.get("x-error-message");
  const { status } = response;
  const tokens = `${endpoint}/settings/tokens`;
  if (code === "GatedRepo" || (status === 403 && code === null))
    return new HubRefusal(
      `${type} ${id} is only for those who were given access. Ask for it on ${page}, ` +
        (token === undefined
          ? `then set HF_TOKEN to a token of that account, made on ${tokens}.`
          : `with the account that the token in use (HF_TOKEN, or the file token in HF_HOME) belongs to; the token must be allowed to read gated repositories.`),
    );
  if (code === "RevisionNotFound")
    return new HubRefusal(`${type} ${id} has no revision ${revision} (${page}).`, "revision");
  if (code === "EntryNotFound" || (status === 404 && path !== undefined))
    return new HubRefusal(`${type} ${showName(repo)} has no file ${path ?? ""}.`, "file");
  // The hub tells strangers nothing about what is private: absent and hidden look the same.
  if (code === "RepoNotFound" || status === 404 || (status === 401 && token === undefined))
    return new HubRefusal(
      `there is no ${type} ${id} on ${new URL(endpoint).host}, or it is private${token === undefined ? `: for a private one set HF_TOKEN to a token, made on ${tokens}` : " and the token in use has no access to it"}.`,
      "repo",
    );
  if (status === 401)
    return new HubRefusal(
      `${new URL(endpoint).host} does not accept the token in use (HF_TOKEN, or the file token in HF_HOME): make a new one on ${tokens}, or unset it.`,
    );
  return new HubRefusal(
    `${new URL(response.url || endpoint).host} refused ${path ?? `${type} ${id}`} with ${status}${said ? `: ${said}` : ""}.`,
  );
}

/** Aborts what has been silent for too long, or was aborted from outside. */
export class Patience {
  readonly #controller = new AbortController();
  readonly #timer: NodeJS.Timeout;
  readonly #outer: AbortSignal | undefined;
  readonly #stop = () => this.#controller.abort(this.#outer?.reason);

  constructor(ms: number, outer?: AbortSignal) {
    this.#outer = outer;
    this.#timer = setTimeout(() => {
      this.#controller.abort(new Error(`no answer for ${ms / 1000} s`));
    }, ms);
    if (outer?.aborted) this.#stop();
    outer?.addEventListener("abort", this.#stop);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** There was a sign of life. */
  renew(): void {
    this.#timer.refresh();
  }

  end(): void {
    clearTimeout(this.#timer);
    this.#outer?.removeEventListener("abort", this.#stop);
  }
}

/** Why a request failed: fetch hides it in the cause. */
export function reasonOf(error: unknown): string {
  const cause = error instanceof Error ? error.cause : undefined;
  const code = (cause as NodeJS.ErrnoException | undefined)?.code;
  return code ?? (cause === undefined ? messageOf(error) : messageOf(cause) || messageOf(error));
}
