/**
 * What the API takes and gives, as schemas: the OpenAPI description, the checks and the types of the
 * page's client are all made from them.
 */
import { z } from "@hono/zod-openapi";

import { NUMBER_FIELDS } from "../analysis/feature-query.ts";
import { LIMITS } from "./annotations.ts";

/** JSON has no NaN: a number that does not exist is null. */
export const maybe = z.number().nullable();
export const count = z.int().nonnegative();
export const latents = z.array(count);
const time = z.string().openapi({ description: "ISO 8601", example: "2026-11-27T12:00:00.000Z" });
export const anything = z.record(z.string(), z.unknown());

export const ErrorBody = z
  .object({
    error: z.string(),
    /** Of a conflict: what stands, and the fields that both changed. */
    current: z.unknown().optional(),
    fields: z.array(z.string()).optional(),
  })
  .openapi("Error");

const pathId = (name: string, description: string) =>
  z
    .string()
    .min(1)
    .max(255)
    .openapi({ param: { name, in: "path" }, description });

/**
 * A whole number in an address. It comes as text, so what the description says of it is said here anew:
 * of a schema that converts, the document would know nothing.
 */
export const whole = (limits: { minimum: number; maximum: number; default: number }) =>
  z.coerce
    .number()
    .int()
    .min(limits.minimum)
    .max(limits.maximum)
    .default(limits.default)
    .openapi({ type: "integer", ...limits });

export const RunId = z.object({ run: pathId("run", "The name of the run's folder") });
export const FeatureId = RunId.extend({
  latent: z.coerce
    .number()
    .int()
    .min(0)
    .max(2 ** 31 - 1)
    .openapi({
      param: { name: "latent", in: "path", required: true },
      ...{ type: "integer", minimum: 0, maximum: 2 ** 31 - 1 },
    }),
});
export const JobId = z.object({ job: pathId("job", "The job's id") });
export const GroupId = RunId.extend({ group: pathId("group", "The group's id") });

export const RunStatus = z.enum(["running", "finished", "failed", "interrupted"]);

export const RunRow = z
  .object({
    id: z.string(),
    name: z.string(),
    status: RunStatus,
    started: time,
    /** Seconds; absent while it is not finished. */
    duration: z.number().optional(),
    error: z.string().optional(),
    model: z.string().optional(),
    hookPoint: z.string().optional(),
    data: z.string().optional(),
    architecture: z.string().optional(),
    dSae: count.optional(),
    /** Held-out scores by name; those of the last log step while there are none. */
    scores: z.record(z.string(), maybe),
    isHeldOut: z.boolean(),
    step: count,
    /** FVU over the log steps, at most 60 of them, evenly spread. */
    spark: z.array(maybe),
    hasSae: z.boolean(),
    hasFeatures: z.boolean(),
  })
  .openapi("Run");
export type RunRow = z.infer<typeof RunRow>;

export const RunList = z
  .object({
    runs: z.array(RunRow),
    /** Folders that look like runs and could not be read. */
    broken: z.array(z.object({ id: z.string(), problem: z.string() })),
    folder: z.string(),
  })
  .openapi("RunList");

export const RunDetail = RunRow.extend({
  config: anything,
  summary: anything.optional(),
  /** What cannot be shown, why, and what makes it: a command, and the kind of job that runs it. */
  missing: z.array(
    z.object({
      what: z.string(),
      why: z.string(),
      command: z.string(),
      job: z.string().optional(),
    }),
  ),
}).openapi("RunDetail");
export type RunDetail = z.infer<typeof RunDetail>;

export const Comparison = z
  .object({
    experiments: z.array(z.object({ id: z.string(), name: z.string(), status: RunStatus })),
    metrics: z.record(z.string(), z.array(maybe)),
    config: z.record(z.string(), z.array(z.unknown())),
  })
  .openapi("Comparison");

const progress = z.object({
  label: z.string(),
  unit: z.string(),
  done: z.number(),
  total: z.number(),
  rate: z.number(),
  detail: z.string(),
});

export const Job = z
  .object({
    id: z.string(),
    kind: z.string(),
    title: z.string(),
    args: z.array(z.string()),
    run: z.string().optional(),
    created: time,
    status: z.enum(["queued", "running", "finished", "failed", "stopped", "lost"]),
    state: z
      .object({
        run: z.string().optional(),
        progress: progress.optional(),
        isPaused: z.boolean().optional(),
        note: z.string().optional(),
        updated: time,
      })
      .optional(),
    exit: z.object({ code: z.int(), error: z.string().optional(), finished: time }).optional(),
  })
  .openapi("Job");
export type Job = z.infer<typeof Job>;

export const Annotation = z
  .object({
    run: z.string(),
    latent: count,
    label: z.string(),
    notes: z.string(),
    tags: z.array(z.string()),
    rating: z.int().min(1).max(5).nullable(),
    confidence: z.number().min(0).max(1).nullable(),
    version: count,
    author: z.string().nullable(),
    updated: time.nullable(),
  })
  .openapi("Annotation");

export const Revision = Annotation.extend({
  author: z.string(),
  updated: time,
  action: z.enum(["edit", "undo", "redo", "restore", "import"]),
  position: count,
}).openapi("Revision");

const author = z.string().max(LIMITS.author).optional();

export const AnnotationChange = z
  .strictObject({
    label: z.string().optional(),
    notes: z.string().optional(),
    tags: z.array(z.string()).optional(),
    rating: z.int().min(1).max(5).nullable().optional(),
    confidence: z.number().min(0).max(1).nullable().optional(),
    author,
    /** The version that the person saw; absent: the newest. */
    basedOn: count.optional(),
  })
  .openapi("AnnotationChange");

export const Step = z.strictObject({ author, basedOn: count.optional() }).openapi("Step");
export const Restore = z
  .strictObject({ author, basedOn: count.optional(), version: z.int().positive() })
  .openapi("Restore");

export const Group = z
  .object({
    id: z.string(),
    run: z.string(),
    name: z.string(),
    description: z.string(),
    author: z.string(),
    created: time,
    updated: time,
    latents,
  })
  .openapi("Group");
export const NewGroup = z
  .strictObject({
    name: z.string(),
    description: z.string().optional(),
    latents: latents.optional(),
    author,
  })
  .openapi("NewGroup");
export const GroupChange = z
  .strictObject({
    name: z.string().optional(),
    description: z.string().optional(),
    add: latents.optional(),
    remove: latents.optional(),
  })
  .openapi("GroupChange");

export const TagCounts = z
  .array(z.object({ tag: z.string(), count, used: time }))
  .openapi("TagCounts");

export const sortField = z
  .string()
  .regex(new RegExp(`^-?(${Object.keys(NUMBER_FIELDS).join("|")})$`));
