/** What a page needs to set up a run: the settings with a sentence for each, a model's layers, an estimate. */
import { readFileSync } from "node:fs";
import { createRoute, z } from "@hono/zod-openapi";
import { parse } from "yaml";

import { configJsonSchema, parseConfig } from "../config.ts";
import { ABSENT, BAD, body, json, router, type Services } from "./api.ts";
import { requireConfined } from "./confine.ts";

const setup = createRoute({
  ...{ method: "get", path: "/setup", summary: "Settings: their JSON Schema, and a good start" },
  responses: {
    200: json(
      z.object({
        schema: z.record(z.string(), z.unknown()),
        /** The quick start's settings. */
        start: z.record(z.string(), z.unknown()),
      }),
      "The settings",
    ),
  },
});

const describe = createRoute({
  ...{ method: "get", path: "/setup/model", summary: "A model's layers and hook points" },
  request: { query: z.object({ model: z.string().min(1).max(4096) }) },
  responses: {
    200: json(
      z
        .object({
          source: z.string(),
          family: z.string(),
          layers: z.int(),
          dModel: z.int(),
          heads: z.int(),
          dHead: z.int(),
          dMlp: z.int(),
          vocabSize: z.int(),
          contextLength: z.int(),
          parameters: z.int(),
          hookPoints: z.array(z.object({ name: z.string(), width: z.int() })),
        })
        .openapi("Model"),
      "The model",
    ),
    ...BAD,
  },
});

const bytes = z.number().openapi({ description: "Bytes" });
const estimate = createRoute({
  method: "post",
  path: "/setup/estimate",
  summary: "Time and memory of a run, by doing a little of it",
  request: body(z.strictObject({ config: z.record(z.string(), z.unknown()) }).openapi("Estimated")),
  responses: {
    200: json(
      z
        .object({
          dIn: z.int(),
          dSae: z.int(),
          steps: z.int(),
          parameters: z.int(),
          seconds: z.record(z.enum(["collect", "train", "evaluate", "features", "total"]), z.number()), // prettier-ignore
          memory: z.object({ weights: bytes, optimiser: bytes, latents: bytes, batch: bytes, total: bytes }), // prettier-ignore
          modelBytes: bytes,
          diskBytes: bytes,
          measured: z.object({ tokensPerSecond: z.number().nullable(), secondsPerStep: z.number() }), // prettier-ignore
        })
        .openapi("Estimate")
        .nullable(),
      "The estimate; null where only reading the files would tell",
    ),
    ...ABSENT,
  },
});

const QUICK_START = new URL("../../examples/quick-start.yaml", import.meta.url);

export function setupRoutes({ models, runs, isConfined }: Services) {
  const checked = (config: Record<string, unknown>) => {
    const parsed = parseConfig({ ...config, runs: runs.folder });
    if (isConfined) requireConfined(parsed);
    return parsed;
  };
  return router()
    .openapi(setup, (c) => {
      const start = parse(readFileSync(QUICK_START, "utf8")) as Record<string, unknown>;
      return c.json({ schema: configJsonSchema(), start }, 200);
    })
    .openapi(describe, async (c) => {
      const { model } = c.req.valid("query");
      checked({ activations: { model } });
      return c.json(await models.ask("describe", "", [model]), 200);
    })
    .openapi(estimate, async (c) => {
      const config = checked(c.req.valid("json").config);
      const { signal } = c.req.raw;
      return c.json((await models.ask("estimate", "", [config], { signal })) ?? null, 200);
    });
}
