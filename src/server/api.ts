/** What the routes have in common: how an answer is described, and how an error becomes one. */
import { createHash } from "node:crypto";
import { OpenAPIHono, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import { HTTPException } from "hono/http-exception";

import { messageOf, UserError } from "../error.ts";
import { Conflict, type Annotations } from "./annotations.ts";
import type { Jobs } from "./jobs.ts";
import type { Models } from "./models.ts";
import { Busy, NotFound, type RunStore } from "./run-store.ts";
import { ErrorBody } from "./schemas.ts";

/** What routes work with. */
export interface Services {
  runs: RunStore;
  jobs: Jobs;
  models: Models;
  annotations: Annotations;
  /** Whether only built-in models and texts, and those below the working folder, may be named: beyond loopback. */
  isConfined: boolean;
}

/** A router whose refusals of wrong input read like all others. */
export function router(): OpenAPIHono {
  return new OpenAPIHono({
    defaultHook: (result, c) => {
      if (result.success) return undefined;
      return c.json({ error: inWords(result.error) }, 400);
    },
  });
}

function inWords(error: z.core.$ZodError): string {
  return error.issues
    .map(({ path, message }) => `${path.length > 0 ? `${path.join(".")}: ` : ""}${message}`)
    .join("; ");
}

export const json = <S extends z.ZodType>(schema: S, description: string) => ({
  content: { "application/json": { schema } },
  description,
});

export const body = <S extends z.ZodType>(schema: S) => ({
  body: { content: { "application/json": { schema } }, required: true },
});

/** A table of columns, see packed-table.ts. */
export const table = (description: string) => ({
  200: {
    content: {
      "application/octet-stream": { schema: z.string().openapi({ format: "binary" }) },
    },
    description: `${description}; a table of columns: u32 length of a JSON header, the header, zeros up to a multiple of 8, the columns`,
  },
  304: { description: "As it was when If-None-Match was got" },
});

export const events = (description: string) => ({
  content: { "text/event-stream": { schema: z.string() } },
  description,
});

const error = (description: string) => json(ErrorBody, description);
export const BAD = { 400: error("What was sent is wrong, and why") };
export const ABSENT = { ...BAD, 404: error("There is no such thing") };
export const BUSY = { ...ABSENT, 409: error("Not as things are") };

export function answerError(thrown: Error, c: Context): Response {
  if (thrown instanceof Conflict)
    return c.json({ error: thrown.message, current: thrown.current, fields: thrown.fields }, 409);
  if (thrown instanceof NotFound) return c.json({ error: thrown.message }, 404);
  if (thrown instanceof Busy) return c.json({ error: thrown.message }, 409);
  if (thrown instanceof UserError) return c.json({ error: thrown.message }, 400);
  if (thrown instanceof HTTPException) return c.json({ error: thrown.message }, thrown.status);
  process.stderr.write(`${thrown.stack ?? messageOf(thrown)}\n`);
  return c.json({ error: "this is a mistake in Lens; the server's terminal says more" }, 500);
}

/** Bytes as an answer, with a tag by which a browser that has them already is told so. */
export function bytes(c: Context, content: Uint8Array<ArrayBuffer>): Response {
  const etag = `"${createHash("sha256").update(content).digest("base64url").slice(0, 22)}"`;
  const headers = {
    "Content-Type": "application/octet-stream",
    ETag: etag,
    "Cache-Control": "no-cache",
  };
  if (c.req.header("If-None-Match") === etag) return c.body(null, 304, headers);
  return c.body(content, 200, headers);
}
