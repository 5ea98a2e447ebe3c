/** /api/runs/{run}/features: what each latent responds to. */
import { createRoute, z } from "@hono/zod-openapi";

import { TOKEN_SEPARATOR } from "../analysis/feature-columns.ts";
import {
  parseQuery,
  remarksOf,
  runQuery,
  type Likeness,
  type Query,
} from "../analysis/feature-query.ts";
import { HISTOGRAM, type Features } from "../analysis/features.ts";
import type { StoredPartners } from "../analysis/partners.ts";
import { packTable, type PackedTable } from "../packed-table.ts";
import { nameOf } from "../workbench/feature-facts.ts";
import { totalsOf } from "../workbench/text-codes.ts";
import { ABSENT, bytes, json, router, table, type Services } from "./api.ts";
import { requireRunWithSae } from "./routes-runs.ts";
import { NotFound, type OpenedFeatures } from "./run-store.ts";
import { FeatureDetail, FeaturePage, type FeatureRow } from "./feature-schemas.ts";
import { FeatureId, RunId, sortField, whole } from "./schemas.ts";

const list = createRoute({
  method: "get",
  path: "/runs/{run}/features",
  summary: "Latents that meet a query, page by page",
  request: {
    params: RunId,
    query: z.object({
      query: z.string().max(2000).default("").openapi({ description: 'For example density<0.01 label:animal -is:dead fires:"the dog"' }), // prettier-ignore
      sort: sortField.optional().openapi({ description: "A field, after a minus for falling" }),
      offset: whole({ minimum: 0, maximum: 2 ** 31 - 1, default: 0 }),
      limit: whole({ minimum: 1, maximum: 1000, default: 50 }),
    }),
  },
  responses: { 200: json(FeaturePage, "The latents"), ...ABSENT },
});

const top = createRoute({
  ...{ method: "get", path: "/runs/{run}/top-features", summary: "Those that stand out most" },
  request: {
    params: RunId,
    query: z.object({
      by: sortField.default("-f1"),
      limit: whole({ minimum: 1, maximum: 1000, default: 20 }),
    }),
  },
  responses: { 200: json(FeaturePage, "The latents; dead ones are left out"), ...ABSENT },
});

const columns = createRoute({
  ...{ method: "get", path: "/runs/{run}/columns", summary: "All latents at once" },
  request: { params: RunId },
  responses: { ...table("One row per latent, the columns of FeatureRow"), ...ABSENT },
});

const get = createRoute({
  ...{ method: "get", path: "/runs/{run}/features/{latent}", summary: "One latent, all of it" },
  request: { params: FeatureId },
  responses: { 200: json(FeatureDetail, "The latent"), ...ABSENT },
});

const similar = createRoute({
  method: "get",
  path: "/runs/{run}/features/{latent}/similar",
  summary: "How like one latent all are",
  request: { params: FeatureId },
  responses: {
    ...table("cosine of each latent's decoder direction with this one's; the header's meta has least, from which on one is like it"), // prettier-ignore
    ...ABSENT,
  },
});

export function featureRoutes({ runs, models, annotations }: Services) {
  const page = async (run: string, query: Query, offset: number, limit: number) => {
    const { table: all, features } = await runs.features(run);
    const [said, groups] = await Promise.all([annotations.all(run), annotations.groups(run)]);
    const [fires, like] = [await firesOf(run, query), await likeOf(run, query)];
    const context = { remarks: remarksOf(said, groups), fires, like };
    const found = runQuery(query, all, context);
    const rows = [...found.subarray(offset, offset + limit)].map((latent) => rowOf(all, latent));
    return { total: found.length, positions: features.index.positions, rows };
  };
  const firesOf = async (run: string, { clauses }: Query) => {
    const fires = new Map<string, Map<number, number>>();
    for (const clause of clauses) {
      if (clause.kind !== "fires") continue;
      const codes = await models.ask("analyse", runs.folderOf(run), [clause.text]);
      const totals = [...totalsOf(codes)];
      fires.set(clause.text, new Map(totals.map(([latent, { max }]) => [latent, max])));
    }
    return fires;
  };
  const likeOf = async (run: string, { clauses }: Query) => {
    const like = new Map<number, Likeness>();
    for (const clause of clauses)
      if (clause.kind === "like") like.set(clause.latent, await likeness(run, clause.latent));
    return like;
  };
  const likeness = async (run: string, latent: number) =>
    models.ask("likeness", requireRunWithSae(runs, run), [latent]);
  return router()
    .openapi(list, async (c) => {
      const { run } = c.req.valid("param");
      const { query: text, sort, offset, limit } = c.req.valid("query");
      const query = parseQuery(sort ? `${text} sort:${sort}` : text);
      return c.json(await page(run, query, offset, limit), 200);
    })
    .openapi(top, async (c) => {
      const { by, limit } = c.req.valid("query");
      const query = parseQuery(`-is:dead sort:${by}`);
      return c.json(await page(c.req.valid("param").run, query, 0, limit), 200);
    })
    .openapi(columns, async (c) => {
      const { run } = c.req.valid("param");
      return bytes(c, (await runs.features(run)).bytes);
    })
    .openapi(get, async (c) => {
      const { run, latent } = c.req.valid("param");
      const opened = await runs.features(run);
      const { dSae } = opened.features.index;
      if (latent >= dSae)
        throw new NotFound(`run ${run} has latents 0 to ${dSae - 1}; got ${latent}`);
      const answer = kept(opened.answers, latent, () => detailOf(run, opened, latent));
      // Of bytes the types do not know that they are this JSON.
      return c.body(answer, 200, { "Content-Type": "application/json" }) as never;
    })
    .openapi(similar, async (c) => {
      const { run, latent } = c.req.valid("param");
      const { cosines: cosine, least } = await likeness(run, latent);
      return bytes(c, packTable({ meta: { least }, numbers: { cosine }, texts: {} }));
    });
}

/** Answers that are kept: one has about 16 kB. */
const KEPT = 2048;

/** What `make` makes, as JSON in UTF-8, or made lately. */
function kept(
  answers: OpenedFeatures["answers"],
  latent: number,
  make: () => unknown,
): Uint8Array<ArrayBuffer> {
  const answer = answers.get(latent) ?? new TextEncoder().encode(JSON.stringify(make()));
  answers.delete(latent);
  answers.set(latent, answer); // last in order: used last
  const [oldest] = answers.keys();
  if (answers.size > KEPT) answers.delete(oldest);
  return answer;
}

function detailOf(
  run: string,
  { features, explanations }: OpenedFeatures,
  latent: number,
): z.input<typeof FeatureDetail> {
  const { index, labels } = features;
  const partners = partnersOf(features, latent);
  const { provenance } = index;
  const text = (value: unknown) =>
    typeof value === "string" ? value : JSON.stringify(value ?? "unknown");
  return {
    run,
    model: text((provenance.model as { name?: unknown } | undefined)?.name ?? provenance.model),
    hookPoint: [provenance.hookPoint ?? "unknown"].flat().map(text).join(" + "),
    ...{ dSae: index.dSae, positions: index.positions, textDocuments: index.documents },
    histogramScale: HISTOGRAM,
    feature: features.feature(latent),
    label: labels?.best[latent] ?? null,
    explanation: (explanations?.latents[latent] ?? null) as Record<string, unknown> | null,
    partners: partners && {
      latents: [...partners.latents],
      counts: [...partners.counts],
      firings: [...partners.latents].map((one) => index.columns.firings[one]),
      labels: [...partners.latents].map((one) => nameOf(features, one)),
      error: partners.error,
    },
  };
}

/** An index without them is whole all the same. */
function partnersOf(features: Features, latent: number): StoredPartners | null {
  try {
    return features.partners(latent);
  } catch {
    return null;
  }
}

/** A row of a list; the same as the page makes of the columns. */
export function rowOf({ numbers, texts }: PackedTable, latent: number): FeatureRow {
  const real = (value: number) => (Number.isFinite(value) ? value : null);
  const tokens = texts.tokens.at(latent);
  return {
    latent,
    firings: numbers.firings[latent],
    documents: numbers.documents[latent],
    density: numbers.density[latent],
    mean: numbers.mean[latent],
    max: numbers.max[latent],
    selectivity: real(numbers.selectivity[latent]),
    kinds: real(numbers.kinds[latent]),
    auc: real(numbers.auc[latent]),
    f1: real(numbers.f1[latent]),
    rule: real(numbers.rule[latent]),
    label: texts.label.at(latent),
    tokens: tokens === "" ? [] : tokens.split(TOKEN_SEPARATOR),
    ruleText: texts.rule.at(latent),
  };
}
