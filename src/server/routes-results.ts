/** What analyses have left in a run's folder: the map, concepts, layers, pairs. */
import { join } from "node:path";
import { createRoute, z } from "@hono/zod-openapi";

import { readJson } from "../analysis/features.ts";
import { UserError } from "../error.ts";
import { packTable, type NumberColumn } from "../packed-table.ts";
import { ABSENT, bytes, json, router, table, type Services } from "./api.ts";
import { NotFound } from "./run-store.ts";
import { ConceptFile, ConceptList } from "./feature-schemas.ts";
import { RunId } from "./schemas.ts";

const maps = createRoute({
  ...{ method: "get", path: "/runs/{run}/map", summary: "Where the latents lie" },
  request: { params: RunId },
  responses: { ...table("x and y of each map, NaN for a latent that is not on it; the header's meta says what they are"), ...ABSENT }, // prettier-ignore
});

const results = createRoute({
  method: "get",
  path: "/runs/{run}/results/{name}",
  summary: "What lens concepts, lens layers or lens compose found for a run",
  request: { params: RunId.extend({ name: z.enum(["concepts", "layers", "compose"]) }) },
  responses: {
    200: json(
      z.record(z.string(), z.unknown()).nullable(),
      "As --json prints it; null: nothing yet",
    ),
    ...ABSENT,
  },
});

const concepts = createRoute({
  ...{ method: "get", path: "/runs/{run}/concepts", summary: "Which latents fit which concepts" },
  request: { params: RunId },
  responses: {
    200: json(ConceptList.nullable(), "In short what lens concepts found; null: nothing yet"),
    ...ABSENT,
  },
});

export function resultRoutes({ runs }: Services) {
  return router()
    .openapi(maps, async (c) => {
      const { run } = c.req.valid("param");
      const found = await readJson(join(runs.folderOf(run), "features", "map", "map.json"), AGAIN);
      if (found == null) throw new NotFound(`run ${run} has no map yet: lens feature map ${run}`);
      const { maps: layouts, clusters, suspects } = found as unknown as MapFile;
      if (
        !Array.isArray(layouts) ||
        !layouts.every(({ x, y }) => Array.isArray(x) && Array.isArray(y))
      )
        throw new UserError(
          `the map of run ${run} is damaged; make it again: lens feature map ${run}`,
        );
      const numbers: Record<string, NumberColumn> = {};
      for (const { kind, x, y } of layouts) {
        numbers[`${kind}.x`] = Float32Array.from(x, (v) => v ?? NaN);
        numbers[`${kind}.y`] = Float32Array.from(y, (v) => v ?? NaN);
      }
      const about = layouts.map(({ x: _x, y: _y, ...rest }) => rest);
      const content = packTable({ meta: { maps: about, clusters, suspects }, numbers, texts: {} });
      return bytes(c, content);
    })
    .openapi(results, async (c) => {
      const { run, name } = c.req.valid("param");
      const path = join(runs.folderOf(run), name, `${name}.json`);
      const found = (await readJson(path, AGAIN)) as Record<string, unknown> | undefined;
      return c.json(found ?? null, 200);
    })
    .openapi(concepts, async (c) => {
      const folder = runs.folderOf(c.req.valid("param").run);
      const path = join(folder, "concepts", "concepts.json");
      const found = await readJson(path, AGAIN);
      return c.json(found == null ? null : conceptList(found, path), 200);
    });
}

/** What helps where a file is damaged. */
const AGAIN = "make it again";

interface MapFile {
  maps: { kind: string; x: (number | null)[]; y: (number | null)[] }[];
  clusters: unknown;
  suspects: unknown;
}

/** @throws UserError when the file is not what lens concepts writes. */
function conceptList(found: unknown, path: string): z.infer<typeof ConceptList> {
  const { data } = ConceptFile.safeParse(found);
  if (!data) throw new UserError(`${path} is damaged; make it again: lens concepts`);
  return {
    positions: data.positions.test,
    concepts: data.concepts.map(({ concept, positives, best, bestF1, byChance, latents }) => ({
      ...{ concept, best, bestF1, positives: positives.test, chance: byChance.auc },
      probe: latents.at(-1) ?? null,
    })),
  };
}
