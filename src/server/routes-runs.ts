/** /api/runs: the experiments. Making one trains it, in a job. */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { open, stat, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { createRoute, z } from "@hono/zod-openapi";

import { parseConfig } from "../config.ts";
import { UserError } from "../error.ts";
import { packTable } from "../packed-table.ts";
import { compareRuns, type RunInfo } from "../runs.ts";
import { readPreview } from "../workbench/preview.ts";
import { ABSENT, BAD, body, BUSY, bytes, events, json, router, table, type Services } from "./api.ts"; // prettier-ignore
import { requireConfined } from "./confine.ts";
import { whenChanged, type Live } from "./live.ts";
import { metricColumns, missingOf, runRow } from "./run-rows.ts";
import { Comparison, Job, RunDetail, RunId, RunList } from "./schemas.ts";

const list = createRoute({
  ...{ method: "get", path: "/runs", summary: "All runs, the newest first" },
  responses: { 200: json(RunList, "The runs") },
});

const create = createRoute({
  ...{ method: "post", path: "/runs", summary: "Start a run: a job that trains and looks at it" },
  request: body(
    z
      .strictObject({ config: z.record(z.string(), z.unknown()) })
      .openapi("NewRun", { description: "Settings as in a config file; absent ones get defaults" }),
  ),
  responses: { 201: json(Job, "The job; its run is named once it has a folder"), ...BAD },
});

const compare = createRoute({
  ...{ method: "get", path: "/compare", summary: "Runs side by side" },
  request: {
    query: z.object({
      runs: z.string().min(1).openapi({ description: "Names with commas between them" }),
    }),
  },
  responses: { 200: json(Comparison, "Scores, and the settings that differ"), ...ABSENT },
});

const get = createRoute({
  ...{ method: "get", path: "/runs/{run}", summary: "One run with its settings" },
  request: { params: RunId },
  responses: { 200: json(RunDetail, "The run"), ...ABSENT },
});

const remove = createRoute({
  method: "delete",
  path: "/runs/{run}",
  summary: "Delete a run with all that belongs to it: files, jobs, annotations, groups",
  request: { params: RunId },
  responses: { 200: json(z.object({ deleted: z.string() }), "It is gone"), ...BUSY },
});

const metrics = createRoute({
  ...{ method: "get", path: "/runs/{run}/metrics", summary: "Every log step" },
  request: { params: RunId },
  responses: { ...table("One row per log step, one column per number"), ...ABSENT },
});

const preview = createRoute({
  ...{ method: "get", path: "/runs/{run}/preview", summary: "The latents in training" },
  request: { params: RunId },
  responses: {
    200: json(z.record(z.string(), z.unknown()).nullable(), "The newest look at them, or null"),
    ...ABSENT,
  },
});

const watch = createRoute({
  method: "get",
  path: "/runs/{run}/live",
  summary:
    "What happens in a run: events `metrics` (lines), `reset` (those told before are void), `preview`, `status`, `gone`",
  request: { params: RunId },
  responses: { 200: events("Until the page goes"), ...ABSENT },
});

export function runRoutes({ runs, jobs, annotations, isConfined }: Services, live: Live) {
  const rowOf = (run: RunInfo) => runRow(run, metricsOf(run.id));
  const metricsOf = (id: string) => {
    try {
      return runs.metrics(id);
    } catch {
      return []; // a damaged file costs the curve, not the run
    }
  };
  /** Undefined of one that is gone, or damaged. */
  const statusOf = live.shared((id: string) => {
    try {
      return runs.run(id).status;
    } catch {
      return undefined;
    }
  });
  const previewOf = live.shared(async (folder: string) =>
    JSON.stringify((await readPreview(folder)) ?? null),
  );
  return router()
    .openapi(list, (c) => {
      const { runs: found, broken } = runs.list();
      return c.json({ runs: found.map(rowOf), broken, folder: runs.folder }, 200);
    })
    .openapi(create, (c) => {
      const { config } = c.req.valid("json");
      // Checked before anything is queued; the folder is the server's to choose.
      const parsed = parseConfig({ ...config, runs: runs.folder });
      if (isConfined) requireConfined(parsed);
      if (parsed.name.startsWith("."))
        throw new UserError("name: a run whose name begins with a dot would not be shown");
      return c.json(jobs.addRun(parsed), 201);
    })
    .openapi(compare, (c) => {
      const ids = c.req.valid("query").runs.split(",");
      const found = compareRuns(ids.map((id) => runs.run(id)));
      const metrics = Object.fromEntries(
        Object.entries(found.metrics).map(([name, v]) => [name, v.map((one) => one ?? null)]),
      );
      return c.json({ ...found, metrics }, 200);
    })
    .openapi(get, async (c) => {
      const run = runs.run(c.req.valid("param").run);
      const row = rowOf(run);
      const { id, status, config, summary } = run;
      // Of one that is worked in nothing is missing yet, and its features may be half-written.
      const missing = missingOf(run, row, status === "running" ? {} : await runs.damage(id));
      return c.json({ ...row, config, ...(summary && { summary: { ...summary } }), missing }, 200);
    })
    .openapi(remove, async (c) => {
      const { run } = c.req.valid("param");
      runs.requireIdle(run); // before anything of it goes
      jobs.removeOf(run);
      runs.remove(run);
      await annotations.deleteRun(run);
      return c.json({ deleted: run }, 200);
    })
    .openapi(metrics, (c) => {
      const { run } = c.req.valid("param");
      const lines = runs.metrics(run);
      const numbers = metricColumns(lines);
      const content = packTable({ meta: { rows: lines.length }, numbers, texts: {} });
      return bytes(c, content);
    })
    .openapi(preview, async (c) => {
      const found = await readPreview(runs.folderOf(c.req.valid("param").run));
      return c.json((found ?? null) as Record<string, unknown> | null, 200);
    })
    .openapi(watch, (c) => {
      const { run } = c.req.valid("param");
      const folder = runs.folderOf(run);
      const [tellStatus, tellPreview] = [whenChanged("status"), whenChanged("preview")];
      const tail = new Tail(join(folder, "metrics.jsonl"), c.req.header("Last-Event-ID"));
      return live.stream(c, async (stream) => {
        const { isReset, lines } = await tail.next();
        if (isReset) await stream.writeSSE({ event: "reset", data: "" });
        if (lines !== undefined)
          await stream.writeSSE({ event: "metrics", data: lines, id: tail.id });
        await tellPreview(stream, await previewOf(folder));
        const status = statusOf(run);
        if (status === undefined) {
          await stream.writeSSE({ event: "gone", data: "" });
          return false;
        }
        const job = live.jobs().findLast((one) => one.run === run);
        await tellStatus(stream, JSON.stringify({ status, job: job ?? null }));
        return true;
      });
    });
}

/** Bytes before the place reached that are compared, to see whether the file is still the same. */
const MARK = 256;

/** What is added to a file of JSON lines, as one JSON array. */
class Tail {
  readonly #path: string;
  /** Bytes that were told. */
  #at = 0;
  /** What the last of them were. */
  #mark = "";

  /** @param id of the last event that was heard; absent or no id: told from the start. */
  constructor(path: string, id = "") {
    this.#path = path;
    const [, at, mark] = /^(\d{1,15})-([\w-]+)$/.exec(id) ?? [];
    if (at !== undefined) [this.#at, this.#mark] = [Number(at), mark];
  }

  get id(): string {
    return `${this.#at}-${this.#mark}`;
  }

  /** `isReset`: a run that was resumed was cut back, and what was told is told again from the start. */
  async next(): Promise<{ isReset: boolean; lines?: string }> {
    const found = await stat(this.#path).catch(() => undefined);
    if ((found?.size ?? 0) === this.#at) return { isReset: false };
    let isReset = false;
    const file = found && (await open(this.#path).catch(() => undefined));
    try {
      const size = found?.size ?? 0;
      if (this.#at > 0 && (size < this.#at || (await markAt(file, this.#at)) !== this.#mark)) {
        isReset = true;
        this.#at = 0;
      }
      const added = await bytesOf(file, this.#at, size);
      const end = added.lastIndexOf(10) + 1;
      if (end === 0) return { isReset };
      this.#at += end;
      this.#mark = await markAt(file, this.#at);
      const lines = added.toString("utf8", 0, end).trim().split("\n");
      return { isReset, lines: `[${lines.filter((line) => isJson(line)).join(",")}]` };
    } finally {
      await file?.close();
    }
  }
}

async function bytesOf(file: FileHandle | undefined, from: number, to: number): Promise<Buffer> {
  const room = Buffer.alloc(to - from);
  const { bytesRead = 0 } = (await file?.read(room, 0, room.length, from)) ?? {};
  return room.subarray(0, bytesRead);
}

async function markAt(file: FileHandle | undefined, at: number): Promise<string> {
  const bytes = await bytesOf(file, Math.max(0, at - MARK), at);
  return createHash("sha256").update(bytes).digest("base64url").slice(0, 12);
}

function isJson(line: string): boolean {
  try {
    JSON.parse(line);
    return true;
  } catch {
    return false;
  }
}

export function requireRunWithSae(runs: Services["runs"], run: string): string {
  const folder = runs.folderOf(run);
  if (!existsSync(join(folder, "sae", "cfg.json")))
    throw new UserError(`run ${run} has no trained autoencoder yet: lens run --resume ${run}`);
  return folder;
}
