/** What needs the model: text analysed, effects on logits, causes of a prediction, steered text. */
import { createRoute, z } from "@hono/zod-openapi";
import { streamSSE } from "hono/streaming";

import { messageOf } from "../error.ts";
import { meaningOf } from "../workbench/model-run.ts";
import { totalsOf } from "../workbench/text-codes.ts";
import { ABSENT, body, events, json, router, type Services } from "./api.ts";
import { requireRunWithSae } from "./routes-runs.ts";
import { Attribution, LogitEffect, Neighbors, SteerRequest, TextCodes } from "./feature-schemas.ts";
import { FeatureId, RunId, whole } from "./schemas.ts";

/** Characters of a text that may be sent: about 50,000 tokens. */
const MOST_TEXT = 200_000;
const text = z.string().min(1).max(MOST_TEXT);
const top = whole({ minimum: 1, maximum: 100, default: 10 });

const analyse = createRoute({
  ...{ method: "post", path: "/runs/{run}/analyse", summary: "Which latents fire on a text" },
  request: { params: RunId, ...body(z.strictObject({ text }).openapi("Text")) },
  responses: { 200: json(TextCodes, "Piece by piece, and over the whole text"), ...ABSENT },
});
const logits = createRoute({
  method: "get",
  path: "/runs/{run}/features/{latent}/logits",
  summary: "The direct effect of a latent on the logits",
  request: {
    params: FeatureId,
    query: z.object({ form: z.enum(["raw", "folded", "centred"]).default("centred"), top }),
  },
  responses: { 200: json(LogitEffect, "The effect"), ...ABSENT },
});
const neighbors = createRoute({
  method: "get",
  path: "/runs/{run}/features/{latent}/neighbors",
  summary: "Latents that point the same way, or fire together with one",
  request: { params: FeatureId, query: z.object({ top }) },
  responses: { 200: json(Neighbors, "The neighbours"), ...ABSENT },
});
const attribute = createRoute({
  ...{ method: "post", path: "/runs/{run}/attribute", summary: "What drove a prediction" },
  request: {
    params: RunId,
    ...body(
      z
        .strictObject({
          text: z.string().min(1).max(20_000),
          position: z.int().default(-1),
          token: z.string().max(200).optional(),
          against: z.string().max(200).optional(),
        })
        .openapi("AttributeRequest"),
    ),
  },
  responses: { 200: json(Attribution, "The latents behind it"), ...ABSENT },
});
const steer = createRoute({
  method: "post",
  path: "/runs/{run}/steer",
  summary: "A text as the model continues it and with latents changed, token by token",
  request: { params: RunId, ...body(SteerRequest) },
  responses: {
    200: events("Events `token` {side, text, logprob, whole}, then `end` or `problem`"),
    ...ABSENT,
  },
});

export function modelRoutes({ runs, models }: Services) {
  /** Names of latents, where the run's features tell them. */
  const names = async (run: string) => {
    const opened = runs.hasFeatures(run) ? await runs.features(run).catch(() => undefined) : undefined; // prettier-ignore
    return { features: opened?.features, name: (latent: number) => meaningOf(opened?.features, latent) }; // prettier-ignore
  };
  return router()
    .openapi(analyse, async (c) => {
      const { run } = c.req.valid("param");
      const folder = requireRunWithSae(runs, run);
      const { pieces, offsets, latents, values, lastToken } = await models.ask(
        "analyse",
        folder,
        [c.req.valid("json").text],
        { signal: c.req.raw.signal },
      );
      const { features, name } = await names(run);
      const found = [...totalsOf({ latents, values })].sort(
        ([a, x], [b, y]) => y.max - x.max || a - b,
      );
      return c.json(
        {
          ...{
            pieces,
            offsets: [...offsets],
            latents: [...latents],
            values: [...values],
            lastToken: [...lastToken],
          },
          labels: Object.fromEntries(found.map(([latent]) => [latent, name(latent)])),
          top: found.map(([latent, total]) => ({
            ...{ latent, ...total, label: name(latent) },
            density: features?.density(latent) ?? null,
            largest: features?.index.columns.max[latent] ?? null,
          })),
        },
        200,
      );
    })
    .openapi(logits, async (c) => {
      const { run, latent } = c.req.valid("param");
      const { form, top } = c.req.valid("query");
      const folder = requireRunWithSae(runs, run);
      const effect = await models.ask("logits", folder, [latent, form, top]);
      return c.json(effect as unknown as z.infer<typeof LogitEffect>, 200);
    })
    .openapi(neighbors, async (c) => {
      const { run, latent } = c.req.valid("param");
      const folder = requireRunWithSae(runs, run);
      await runs.features(run); // absent: said before the model is asked
      const found = await models.ask("neighbors", folder, [latent, c.req.valid("query").top]);
      return c.json(found as unknown as z.infer<typeof Neighbors>, 200);
    })
    .openapi(attribute, async (c) => {
      const { run } = c.req.valid("param");
      const { text, position, token, against } = c.req.valid("json");
      const folder = requireRunWithSae(runs, run);
      const request = {
        ...{ text, position },
        ...(token !== undefined && { token }),
        ...(against !== undefined && { against }),
      };
      const { signal } = c.req.raw;
      const found = await models.ask("attribute", folder, [request], { signal });
      const { name } = await names(run);
      const contributions = found.contributions.slice(0, 200);
      const ids = new Set([...contributions, ...found.latents].map(({ latent }) => latent));
      const labels = Object.fromEntries([...ids].map((latent) => [latent, name(latent)]));
      return c.json({ ...found, contributions, labels } as unknown as z.infer<typeof Attribution>, 200); // prettier-ignore
    })
    .openapi(steer, (c) => {
      const { run } = c.req.valid("param");
      const { prompt, edits, ...settings } = c.req.valid("json");
      const folder = requireRunWithSae(runs, run);
      return streamSSE(c, async (stream) => {
        const controller = new AbortController();
        stream.onAbort(() => controller.abort());
        let previous = Promise.resolve();
        const send = (event: string, data: unknown) =>
          (previous = previous.then(() => stream.writeSSE({ event, data: JSON.stringify(data) })));
        try {
          const end = await models.ask("steer", folder, [{ prompt, edits, settings }], {
            signal: controller.signal,
            onEvent: (token) => void send("token", token),
          });
          await send("end", end);
        } catch (error) {
          await send("problem", { error: messageOf(error) });
        }
      });
    });
}
