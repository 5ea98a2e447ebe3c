/** The server: one process, one port. */
import { randomBytes } from "node:crypto";
import { mkdirSync } from "node:fs";
import type { Server as HttpServer } from "node:http";
import type { AddressInfo } from "node:net";
import { resolve } from "node:path";
import { createAdaptorServer } from "@hono/node-server";

import { messageOf, UserError } from "../error.ts";
import { ownVersion } from "../runs.ts";
import { createApp } from "./app.ts";
import { HEADERS } from "./guard.ts";
import type { Jobs } from "./jobs.ts";
import { pageFiles } from "./page.ts";
import type { RunStore } from "./run-store.ts";
import { openServices, type ServiceOptions } from "./services.ts";

export interface ServeOptions extends ServiceOptions {
  /** Default 127.0.0.1. */
  host?: string;
  /** 0: any that is free. Default 7171. */
  port?: number;
  /** Further host names that the server answers to; others than loopback's are taken for beyond loopback. */
  allowHosts?: readonly string[];
  /** Beyond loopback one is needed, absent: a random one. */
  token?: string;
  /** The folder of the dashboard's files; absent: what the build made. */
  page?: string;
}

export interface Server {
  /** To be opened in a browser; with the token where one is needed. */
  url: string;
  port: number;
  /** Whether the dashboard was built. */
  hasPage: boolean;
  /** Jobs and runs, for whoever started the server. */
  jobs: Jobs;
  runs: RunStore;
  close(): Promise<void>;
}

export const DEFAULT_PORT = 7171;
const LOOPBACK = ["127.0.0.1", "localhost", "[::1]"];

/** @throws UserError when the port is taken, the folder or the database cannot be used. */
export async function serve(options: ServeOptions): Promise<Server> {
  const { host = "127.0.0.1", port = DEFAULT_PORT, allowHosts = [] } = options;
  const folder = resolve(options.runs);
  try {
    mkdirSync(folder, { recursive: true });
  } catch (error) {
    throw new UserError(`cannot use the runs folder ${folder}: ${messageOf(error)}`);
  }
  // What answers to another name is published under it, by a proxy or a tunnel, wherever it listens.
  const isBeyond = ![host, ...allowHosts].every(isLoopback);
  // An empty one is none: everybody would have it.
  const token = options.token || (isBeyond ? randomBytes(24).toString("base64url") : undefined);
  const closing = new AbortController();
  const services = await openServices(options, isBeyond);
  const { runs, jobs, models, annotations } = services;
  const app = createApp({
    services,
    guard: {
      hosts: [...LOOPBACK, host.includes(":") ? `[${host}]` : host, ...allowHosts].map((name) => name.toLowerCase()), // prettier-ignore
      ...(token !== undefined && { token }),
    },
    version: ownVersion(),
    closing: closing.signal,
  });
  const page = pageFiles(options.page);
  if (page) app.use(page);
  app.notFound((c) => c.json({ error: `there is no ${c.req.path}` }, 404));

  const server = createAdaptorServer({ fetch: app.fetch }) as HttpServer;
  // What is no request at all is refused before the app, and the guard in it, sees it.
  server.prependListener("request", (_, response) => {
    for (const [name, value] of Object.entries(HEADERS)) response.setHeader(name, value);
  });
  const address = await new Promise<AddressInfo>((done, fail) => {
    server.once("error", (error: NodeJS.ErrnoException) => fail(inWords(error, host, port)));
    server.listen(port, host, () => done(server.address() as AddressInfo));
  }).catch(async (error: unknown) => {
    await annotations.close();
    throw error;
  });
  jobs.watch();
  const shown = host === "0.0.0.0" || host === "::" ? "localhost" : host;
  const name = shown.includes(":") ? `[${shown}]` : shown;
  return {
    url: `http://${name}:${address.port}/${token === undefined ? "" : `?token=${token}`}`,
    port: address.port,
    ...{ hasPage: page !== undefined, jobs, runs },
    async close() {
      closing.abort();
      jobs.close();
      await new Promise<void>((done) => {
        server.close(() => done());
        server.closeAllConnections();
      });
      await models.close();
      await annotations.close();
    },
  };
}

/** Whether an address or a name leads to the machine that asks, and nowhere else. */
function isLoopback(name: string): boolean {
  return [...LOOPBACK, "::1"].includes(name.toLowerCase()) || /^127(\.\d+){3}$/.test(name);
}

function inWords(error: NodeJS.ErrnoException, host: string, port: number): UserError {
  if (error.code === "EADDRINUSE")
    return new UserError(`port ${port} is taken: another lens serve, perhaps; choose one with --port, or --port 0 for any`); // prettier-ignore
  return new UserError(`cannot listen on ${host}:${port}: ${error.message}`);
}
