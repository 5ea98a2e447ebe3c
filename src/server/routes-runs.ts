/** /api/runs: the experiments. Making one trains it, in a job. */
import { open, stat } from "node:fs/promises";
import { join } from "node:path";
import { createRoute, z } from "@hono/zod-openapi";

import { parseConfig } from "../config.ts";
import { UserError } from "../error.ts";
import { packTable } from "../packed-table.ts";
import { compareRuns, type RunInfo } from "../runs.ts";
import { readPreview } from "../workbench/preview.ts";
import { ABSENT, BAD, body, BUSY, bytes, events, json, router, table, type Services } from "./api.ts"; // prettier-ignore
import { requireConfined } from "./confine.ts";
import { live, whenChanged } from "./live.ts";
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
  responses: { 200: table("One row per log step, one column per number"), ...ABSENT },
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
  summary: "What happens in a run: events `metrics` (lines), `preview`, `status`",
  request: { params: RunId },
  responses: { 200: events("Until the page goes"), ...ABSENT },
});

export function runRoutes({ runs, jobs, annotations, isConfined }: Services, closing: AbortSignal) {
  const rowOf = (run: RunInfo) => runRow(run, metricsOf(run.id));
  const metricsOf = (id: string) => {
    try {
      return runs.metrics(id);
    } catch {
      return []; // a damaged file costs the curve, not the run
    }
  };
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
    .openapi(get, (c) => {
      const run = runs.run(c.req.valid("param").run);
      const row = rowOf(run);
      const { config, summary } = run;
      return c.json({ ...row, config, ...(summary && { summary: { ...summary } }), missing: missingOf(run, row) }, 200); // prettier-ignore
    })
    .openapi(remove, async (c) => {
      const { run } = c.req.valid("param");
      runs.folderOf(run);
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
      return bytes(c, content, `${lines.length}-${lines.at(-1)?.step ?? 0}`);
    })
    .openapi(preview, async (c) => {
      const found = await readPreview(runs.folderOf(c.req.valid("param").run));
      return c.json((found ?? null) as Record<string, unknown> | null, 200);
    })
    .openapi(watch, (c) => {
      const { run } = c.req.valid("param");
      const folder = runs.folderOf(run);
      const [tellStatus, tellPreview] = [whenChanged("status"), whenChanged("preview")];
      const tail = new Tail(join(folder, "metrics.jsonl"), Number(c.req.header("Last-Event-ID")));
      return live(c, closing, async (stream) => {
        const lines = await tail.next();
        if (lines !== undefined)
          await stream.writeSSE({ event: "metrics", data: lines, id: String(tail.at) });
        await tellPreview(stream, (await readPreview(folder)) ?? null);
        let status: RunInfo["status"];
        try {
          ({ status } = runs.run(run));
        } catch {
          await stream.writeSSE({ event: "gone", data: "" });
          return false;
        }
        const job = jobs.list().findLast((one) => one.run === run);
        await tellStatus(stream, { status, job: job ?? null });
        return true;
      });
    });
}

/** What is added to a file of JSON lines, as one JSON array. */
class Tail {
  readonly #path: string;
  /** Bytes that were told. */
  at: number;

  constructor(path: string, at: number) {
    this.#path = path;
    this.at = Number.isSafeInteger(at) && at > 0 ? at : 0;
  }

  async next(): Promise<string | undefined> {
    const found = await stat(this.#path).catch(() => undefined);
    // A run that was resumed may have been cut back: told from the start.
    if (found && found.size < this.at) this.at = 0;
    if (!found || found.size <= this.at) return undefined;
    const room = Buffer.alloc(found.size - this.at);
    const file = await open(this.#path);
    try {
      await file.read(room, 0, room.length, this.at);
    } finally {
      await file.close();
    }
    const end = room.lastIndexOf(10) + 1;
    if (end === 0) return undefined;
    this.at += end;
    const lines = room.toString("utf8", 0, end).trim().split("\n");
    return `[${lines.filter((line) => isJson(line)).join(",")}]`;
  }
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
  if (!runRow(runs.run(run), []).hasSae)
    throw new UserError(`run ${run} has no trained autoencoder yet: lens run --resume ${run}`);
  return folder;
}
