/** The real server, and asking it, for tests. */
import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import { request as httpRequest, type IncomingHttpHeaders } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { afterAll, expect } from "vitest";

import { serve, type ServeOptions } from "../../src/server/serve.ts";
import { PATIENCE_MS } from "../patience.ts";

/** A folder that is gone after the tests of the file. */
export function scratch(): string {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), "lens-server-")));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export interface TestServer {
  url: string;
  port: number;
  client: Client;
  close: () => Promise<void>;
}

/** A server on a free port; to be closed. */
export async function startServer(options: ServeOptions): Promise<TestServer> {
  const server = await serve({ port: 0, ...options });
  const { url, port } = server;
  return { url, port, client: new Client(port), close: () => server.close() };
}

export interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  text: string;
  bytes: Buffer;
}

export interface Request {
  headers?: Record<string, string>;
  /** Written as it is when it is text or bytes; pieces are sent without Content-Length. */
  body?: string | Buffer | Buffer[];
}

/** Asks as a program would: `fetch` of Node neither sets a Host nor leaves a path as it is. */
export class Client {
  readonly port: number;
  /** Sent with every request. */
  readonly headers: Record<string, string>;

  constructor(port: number, headers: Record<string, string> = {}) {
    this.port = port;
    this.headers = headers;
  }

  send(method: string, path: string, { headers = {}, body }: Request = {}): Promise<Answer> {
    return new Promise((done, failed) => {
      const request = httpRequest({
        ...{ host: "127.0.0.1", port: this.port, method, path, agent: false },
        headers: { ...this.headers, ...headers },
      });
      request.on("response", (response) => {
        const parts: Buffer[] = [];
        response.on("data", (part: Buffer) => parts.push(part));
        response.on("end", () => {
          const bytes = Buffer.concat(parts);
          const { statusCode = 0, headers } = response;
          done({ status: statusCode, headers, text: bytes.toString("utf8"), bytes });
        });
        response.on("error", failed);
      });
      request.on("error", failed);
      if (Array.isArray(body)) for (const piece of body) request.write(piece);
      else if (body !== undefined)
        request.setHeader("Content-Length", Buffer.byteLength(body)).write(body);
      request.end();
    });
  }

  /** What a request with a JSON body gets, which must be of this status. */
  async json<T = Record<string, unknown>>(
    method: string,
    path: string,
    body?: unknown,
    status = method === "POST" ? [200, 201] : [200],
  ): Promise<T> {
    const answer = await this.send(method, path, {
      ...(body !== undefined && {
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      }),
    });
    expect(status, `${method} ${path}: ${answer.text}`).toContain(answer.status);
    return JSON.parse(answer.text) as T;
  }

  get<T = Record<string, unknown>>(path: string): Promise<T> {
    return this.json<T>("GET", path);
  }

  post<T = Record<string, unknown>>(path: string, body: unknown = {}): Promise<T> {
    return this.json<T>("POST", path, body);
  }

  /** The message of a refusal of this status. */
  async refused(method: string, path: string, status: number, body?: unknown): Promise<string> {
    const { error } = await this.json<{ error: string }>(method, path, body, [status]);
    return error;
  }

  /** Hears events until `enough` says so, or the server ends the stream. */
  async events(
    path: string,
    enough: (events: ServerEvent[]) => boolean = () => false,
    { method = "GET", headers = {}, body }: { method?: string } & Request = {},
  ): Promise<ServerEvent[]> {
    const stop = new AbortController();
    const timer = globalThis.setTimeout(() => stop.abort(), PATIENCE_MS);
    const response = await fetch(`http://127.0.0.1:${this.port}${path}`, {
      ...{ method, signal: stop.signal, headers: { ...this.headers, ...headers } },
      ...(body !== undefined && { body: body as string }),
    });
    expect(response.status).toBe(200);
    expect(response.headers.get("content-type")).toContain("text/event-stream");
    const events: ServerEvent[] = [];
    let text = "";
    for await (const part of response.body!.pipeThrough(new TextDecoderStream())) {
      text += part;
      const blocks = text.split("\n\n");
      text = blocks.pop()!;
      events.push(...blocks.map(eventOf).filter(({ event }) => event !== ""));
      if (enough(events)) break;
    }
    clearTimeout(timer);
    return events;
  }
}

export interface ServerEvent {
  event: string;
  data: string;
  id?: string;
}

function eventOf(block: string): ServerEvent {
  const found: ServerEvent = { event: "", data: "" };
  for (const line of block.split("\n")) {
    const [, name, value] = /^(event|data|id): ?(.*)$/.exec(line) ?? [];
    if (name !== undefined) found[name as keyof ServerEvent] = value;
  }
  return found;
}

/** Waits until `look` finds something. */
export async function until<T>(
  what: string,
  look: () => T | undefined | false | Promise<T | undefined | false>,
): Promise<T> {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (Date.now() > end) throw new Error(`waited ${PATIENCE_MS / 1000} s for ${what}`);
    await setTimeout(50);
  }
}
