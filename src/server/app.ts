/** The server's routes as one app, with its OpenAPI description; what the dashboard's client is typed by. */
import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import { bodyLimit } from "hono/body-limit";
import { except } from "hono/combine";

import { answerError, json, router, type Services } from "./api.ts";
import { guard, type GuardOptions } from "./guard.ts";
import { Live } from "./live.ts";
import { annotationRoutes } from "./routes-annotations.ts";
import { featureRoutes } from "./routes-features.ts";
import { jobRoutes } from "./routes-jobs.ts";
import { modelRoutes } from "./routes-model.ts";
import { resultRoutes } from "./routes-results.ts";
import { runRoutes } from "./routes-runs.ts";
import { setupRoutes } from "./routes-setup.ts";

/** Bodies are texts and settings; an export of labels that is taken over may be larger. */
const MOST_BYTES = 1024 * 1024;
const MOST_IMPORTED_BYTES = 32 * 1024 * 1024;

export interface AppOptions {
  services: Services;
  guard: GuardOptions;
  version: string;
  /** Aborted when the server closes: streams end then. */
  closing: AbortSignal;
}

const health = createRoute({
  ...{ method: "get", path: "/health", summary: "Whether the server is there" },
  responses: {
    200: json(
      z.object({ status: z.literal("ok"), version: z.string(), runs: z.string() }),
      "It is",
    ),
  },
});

function apiRoutes({ services, version, closing }: AppOptions) {
  const live = new Live(services.jobs, closing);
  return router()
    .openapi(health, (c) =>
      c.json({ status: "ok" as const, version, runs: services.runs.folder }, 200),
    ) // prettier-ignore
    .route("/", runRoutes(services, live))
    .route("/", featureRoutes(services))
    .route("/", resultRoutes(services))
    .route("/", annotationRoutes(services))
    .route("/", modelRoutes(services))
    .route("/", jobRoutes(services, live))
    .route("/", setupRoutes(services));
}

/** What `hc` of Hono makes a client of. */
export type Api = ReturnType<typeof apiRoutes>;

export function createApp(options: AppOptions): OpenAPIHono {
  const app = new OpenAPIHono();
  app.onError(answerError);
  app.use(guard(options.guard));
  const tooLarge = (most: number) =>
    bodyLimit({
      maxSize: most,
      onError: (c) => c.json({ error: `a request may have ${most} bytes at most` }, 413),
    });
  // The larger limit first: the smaller one leaves those requests to it.
  app.use("/api/runs/:run/labels/import", tooLarge(MOST_IMPORTED_BYTES));
  app.use("/api/*", except("/api/runs/:run/labels/import", tooLarge(MOST_BYTES)));
  app.route("/api", apiRoutes(options));
  app.get("/api/openapi.json", (c) => c.json(describe(app, options.version)));
  app.all("/api/*", (c) => c.json({ error: `there is no ${c.req.method} ${c.req.path}` }, 404));
  return app;
}

/** The OpenAPI document, with the refusals that any operation may answer with. */
function describe(app: OpenAPIHono, version: string) {
  const document = app.getOpenAPI31Document({
    openapi: "3.1.0",
    info: {
      title: "Lens",
      version,
      description: "Runs, features and labels of the sparse-autoencoder workbench.",
    },
  });
  const refusal = (description: string) => ({
    content: { "application/json": { schema: { $ref: "#/components/schemas/Error" } } },
    description,
  });
  const any = {
    401: refusal("A token is needed"),
    403: refusal("Asked under a name that is not this server's, or by another site"),
    500: refusal("A mistake in Lens"),
  };
  const withBody = {
    413: refusal("The body is too large"),
    415: refusal("The body is not JSON"),
  };
  for (const path of Object.values(document.paths ?? {}))
    for (const method of ["get", "post", "patch", "delete"] as const) {
      const operation = path[method];
      if (operation)
        operation.responses = { ...any, ...(operation.requestBody && withBody), ...operation.responses }; // prettier-ignore
    }
  return document;
}
