/** The page's line to the server: the one place that knows where data come from. */
import { hc, type ClientResponse } from "hono/client";

import { unpackTable, type PackedTable } from "../src/packed-table.ts";
import type { Api } from "../src/server/app.ts";
import { connection } from "./connection.svelte.ts";
import { siteData, siteFetch, siteListen } from "./site.ts";

/** Whether this is a copy to look at, with no server behind it. */
export const isSite = siteData !== undefined;

const base = new URL("api", document.baseURI).href;
export const api = hc<Api>(base, { fetch: watchedFetch });

/** The server's answer to something that went wrong. */
export class ApiError extends Error {
  readonly status: number;
  /** Of a conflict: what stands. */
  readonly current: unknown;

  constructor(message: string, status: number, current?: unknown) {
    super(message);
    this.status = status;
    this.current = current;
  }
}

/** Where the server cannot be reached it is tried again until it is back; what was asked fails at once. */
async function watchedFetch(input: RequestInfo | URL, init?: RequestInit): Promise<Response> {
  if (siteData !== undefined) return siteFetch(input, init);
  try {
    const response = await fetch(input, init);
    connection.found();
    return response;
  } catch (error) {
    if (init?.signal?.aborted) throw error;
    connection.lose();
    throw new ApiError("the server cannot be reached; is lens serve still running?", 0);
  }
}

type Good<T> =
  T extends ClientResponse<infer Body, infer Status, string>
    ? Status extends 200 | 201
      ? Body
      : never
    : never;

/** The body of a good answer. @throws ApiError with what the server said. */
export async function ask<T extends ClientResponse<unknown, number, string>>(
  question: Promise<T>,
): Promise<Good<T>> {
  const response = await question;
  if (!response.ok) throw await errorOf(response);
  return (await response.json()) as Good<T>;
}

async function errorOf(response: Response): Promise<ApiError> {
  const said = (await response.json().catch(() => ({}))) as { error?: string; current?: unknown };
  return new ApiError(said.error ?? `the server answered ${response.status}`, response.status, said.current); // prettier-ignore
}

/** A table of columns. @throws ApiError */
export async function table(path: string): Promise<PackedTable> {
  const response = await watchedFetch(`${base}/${path}`);
  if (!response.ok) throw await errorOf(response);
  return unpackTable(await response.arrayBuffer());
}

/**
 * Server-sent events with a name each, until the function that comes back is called. The browser
 * reconnects by itself and goes on where it was.
 */
export function listen(
  path: string,
  handlers: Record<string, (data: unknown) => void>,
): () => void {
  if (siteData !== undefined) {
    void siteListen(path, handlers);
    return () => undefined;
  }
  const source = new EventSource(`${base}/${path}`);
  source.onopen = () => connection.found();
  source.onerror = () => connection.lose();
  for (const [event, handle] of Object.entries(handlers))
    source.addEventListener(event, (message) => {
      connection.found();
      const { data } = message as MessageEvent<string>;
      handle(data === "" ? undefined : JSON.parse(data));
    });
  return () => source.close();
}

/** Events of a request that sends something, until it ends. @throws ApiError */
export async function stream(
  path: string,
  body: unknown,
  signal: AbortSignal,
  onEvent: (event: string, data: unknown) => void,
): Promise<void> {
  const response = await watchedFetch(`${base}/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  if (!response.ok) throw await errorOf(response);
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop()!;
    for (const block of blocks) {
      const event = /^event: (.*)$/m.exec(block)?.[1];
      const data = [...block.matchAll(/^data: (.*)$/gm)].map(([, line]) => line).join("\n");
      if (event !== undefined) onEvent(event, JSON.parse(data));
    }
  }
}

export const exportUrl = (run: string, format: "json" | "csv") =>
  `${base}/runs/${encodeURIComponent(run)}/labels/export?format=${format}`;
