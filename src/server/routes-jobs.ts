/** /api/jobs: long work. */
import { join } from "node:path";
import { createRoute, z } from "@hono/zod-openapi";

import { UserError } from "../error.ts";
import { ABSENT, body, BUSY, events, json, router, type Services } from "./api.ts";
import { whenChanged, type Live } from "./live.ts";
import { Job, JobId } from "./schemas.ts";

const count = z.int().nonnegative();
const onRun = <K extends string>(kind: K, description: string) =>
  z.strictObject({ kind: z.literal(kind), run: z.string() }).openapi({ description });

const NewJob = z
  .discriminatedUnion("kind", [
    onRun("resume", "Go on with a run where it stopped"),
    onRun("features", "Make the feature index anew"),
    onRun("explain", "Find a rule for every latent"),
    onRun("map", "Count pairs and lay the latents out"),
    onRun("concepts", "Try the latents on the labelled concepts"),
    onRun("evaluate", "Measure the autoencoder with every metric"),
    z.strictObject({
      kind: z.literal("ablate"),
      run: z.string(),
      latents: z.array(count).min(1).max(32),
      tokens: z.int().positive().max(10_000_000).default(20_000),
    }),
    z
      .strictObject({ kind: z.literal("logits"), run: z.string(), latent: count })
      .openapi({ description: "Measure what a latent does to the logits in real contexts" }),
    z.strictObject({
      kind: z.literal("layers"),
      runs: z.array(z.string()).min(2).max(24),
      tokens: z.int().positive().max(10_000_000).default(80_000),
    }),
    z.strictObject({
      kind: z.literal("compose"),
      run: z.string(),
      with: z.string().optional(),
      /** Absent: as many as were indexed, at most 100,000. */
      tokens: z.int().positive().max(10_000_000).optional(),
    }),
    z.strictObject({
      kind: z.literal("dose"),
      run: z.string(),
      latents: z.array(count).min(1).max(32),
      /** What strength 1 adds to each of them. */
      unit: z.number(),
      strengths: z.array(z.number()).min(1).max(12),
      concept: z.string().max(200).optional(),
      regex: z.string().max(200).optional(),
      texts: z.int().min(2).max(256).default(16),
      prompt: z.string().max(2000).default(""),
    }),
  ])
  .openapi("NewJob");
type NewJob = z.infer<typeof NewJob>;

const list = createRoute({
  ...{ method: "get", path: "/jobs", summary: "All jobs, the oldest first" },
  responses: { 200: json(z.array(Job), "The jobs") },
});
const create = createRoute({
  ...{ method: "post", path: "/jobs", summary: "Queue long work on a run" },
  request: body(NewJob),
  responses: { 201: json(Job, "The job"), ...ABSENT },
});
const watch = createRoute({
  method: "get",
  path: "/jobs/live",
  summary:
    "The jobs whenever one changes: event `jobs`; and event `runs` when a run comes, goes or ends, by whoever's hand",
  responses: { 200: events("Until the page goes") },
});
const get = createRoute({
  ...{ method: "get", path: "/jobs/{job}", summary: "One job with what it printed" },
  request: { params: JobId },
  responses: {
    200: json(
      Job.extend({
        log: z.string().openapi({ description: "The end of what it said on the way" }),
        result: z.unknown().openapi({ description: "Its result, once it is finished" }),
      }).openapi("JobDetail"),
      "The job",
    ),
    ...ABSENT,
  },
});
const act = createRoute({
  ...{ method: "post", path: "/jobs/{job}/{action}", summary: "Stop, pause or go on with a job" },
  request: { params: JobId.extend({ action: z.enum(["stop", "pause", "continue"]) }) },
  responses: { 200: json(Job, "The job"), ...BUSY },
});
const remove = createRoute({
  ...{ method: "delete", path: "/jobs/{job}", summary: "Forget a job that has ended" },
  request: { params: JobId },
  responses: { 200: json(z.object({ deleted: z.string() }), "It is gone"), ...BUSY },
});

export function jobRoutes({ runs, jobs }: Services, live: Live) {
  const allJobs = live.shared(() => JSON.stringify(live.jobs()));
  const runsStamp = live.shared(() => runs.stamp());
  return router()
    .openapi(list, (c) => c.json(jobs.list(), 200))
    .openapi(create, (c) => {
      const order = c.req.valid("json");
      return c.json(jobs.add(commandOf(order, runs)), 201);
    })
    .openapi(watch, (c) => {
      const tell = whenChanged("jobs");
      let before = runsStamp();
      return live.stream(c, async (stream) => {
        await tell(stream, allJobs());
        const now = runsStamp();
        if (now !== before) await stream.writeSSE({ event: "runs", data: "" });
        before = now;
      });
    })
    .openapi(get, (c) => {
      const { job } = c.req.valid("param");
      return c.json({ ...jobs.get(job), log: jobs.log(job), result: jobs.result(job) }, 200);
    })
    .openapi(act, (c) => {
      const { job, action } = c.req.valid("param");
      return c.json(action === "stop" ? jobs.stop(job) : jobs.pause(job, action === "pause"), 200);
    })
    .openapi(remove, (c) => {
      const { job } = c.req.valid("param");
      jobs.remove(job);
      return c.json({ deleted: job }, 200);
    });
}

/** The command line that does it. Runs are given by the paths of their folders, which are checked here. */
function commandOf(order: NewJob, runs: Services["runs"]) {
  const { kind } = order;
  const path = (run: string) => runs.folderOf(run);
  const job = (title: string, args: string[], run?: string) => ({
    ...{ kind, title, args: () => [...args, "--json"] },
    ...(run !== undefined && { run }),
  });
  /** One that makes files beside its result. */
  const jobWithFiles = (title: string, args: string[], run: string, last: string[] = []) => ({
    ...{ kind, title, run },
    args: (folder: string) => [...args, "--out", join(folder, "out"), "--json", ...last],
  });
  switch (kind) {
    case "resume":
      return job("go on with the run", ["run", "--resume", path(order.run)], order.run);
    case "features":
      return job("index features", ["features", path(order.run)], order.run);
    case "explain":
      return job("explain by rules", ["explain", path(order.run)], order.run);
    case "map":
      return job("lay out a map", ["feature", "map", path(order.run)], order.run);
    case "concepts":
      return job("try concepts", ["concepts", path(order.run)], order.run);
    case "evaluate":
      return job("evaluate", ["eval", path(order.run)], order.run);
    case "ablate": {
      const { latents, tokens, run } = order;
      const args = ["ablate", latents.join(","), path(run), "--tokens", String(tokens)];
      return job(`ablate ${latents.join(", ")}`, args, run);
    }
    case "logits": {
      const { run, latent } = order;
      const args = ["feature", String(latent), path(run), "--logits", "true", "--top", "10"];
      return job(`true effect of ${latent}`, args, run);
    }
    case "layers": {
      // What it finds is kept with the last one.
      const args = ["layers", ...order.runs.map(path), "--tokens", String(order.tokens)];
      return job(`match ${order.runs.length} runs`, args, order.runs.at(-1));
    }
    case "compose": {
      const { run, with: other } = order;
      const indexed = (runs.run(run).config.features as { tokens?: number } | undefined)?.tokens;
      const { tokens = Math.min(100_000, indexed ?? Infinity) } = order;
      const args = ["compose", path(run), ...(other ? ["--with", path(other)] : [])];
      return job("find what goes together", [...args, "--tokens", String(tokens)], run);
    }
    case "dose": {
      const { run, latents, unit, strengths, concept, regex, texts, prompt } = order;
      if ((concept === undefined) === (regex === undefined))
        throw new UserError("dose counts one thing: give a concept or a regex");
      const args = [
        ...["steer", "--run", path(run), `--dose=${strengths.join(",")}`, "--texts", String(texts)],
        ...latents.map((latent) => `--add=${latent}=${unit}`),
        ...(concept !== undefined ? [`--concept=${concept}`] : [`--regex=${regex}`]),
      ];
      // After --, so that a prompt that begins with a dash is no flag.
      const last = prompt === "" ? [] : ["--", prompt];
      return jobWithFiles(`dose of ${latents.join(" + ")}`, args, run, last);
    }
    default:
      return order satisfies never;
  }
}
