/** What people say of features: labels, notes, tags, ratings, groups, and what they said before. */
import { createRoute, z } from "@hono/zod-openapi";

import { toCsv } from "./annotations.ts";
import { ABSENT, BAD, body, BUSY, json, router, type Services } from "./api.ts";
import { NotFound } from "./run-store.ts";
import {
  Annotation,
  AnnotationChange,
  FeatureId,
  Group,
  GroupChange,
  GroupId,
  NewGroup,
  Restore,
  Revision,
  RunId,
  Step,
  TagCounts,
} from "./schemas.ts";

const FEATURE = "/runs/{run}/features/{latent}";

const all = createRoute({
  ...{ method: "get", path: "/runs/{run}/annotations", summary: "All that is said of a run" },
  request: { params: RunId },
  responses: {
    200: json(z.object({ annotations: z.array(Annotation), groups: z.array(Group) }), "All of it"),
    ...ABSENT,
  },
});
const get = createRoute({
  ...{ method: "get", path: `${FEATURE}/annotation`, summary: "What is said of a feature" },
  request: { params: FeatureId },
  responses: { 200: json(Annotation, "Version 0 and empty when nothing is"), ...ABSENT },
});
const edit = createRoute({
  method: "patch",
  path: `${FEATURE}/annotation`,
  summary: "Change some of what is said; what others changed since `basedOn` is merged by field",
  request: { params: FeatureId, ...body(AnnotationChange) },
  responses: { 200: json(Annotation, "What stands now"), ...BUSY },
});
const history = createRoute({
  ...{ method: "get", path: `${FEATURE}/history`, summary: "Every version, the newest first" },
  request: { params: FeatureId },
  responses: { 200: json(z.array(Revision), "The versions"), ...ABSENT },
});
const step = createRoute({
  ...{ method: "post", path: `${FEATURE}/{step}`, summary: "Undo the newest change, or redo it" },
  request: { params: FeatureId.extend({ step: z.enum(["undo", "redo"]) }), ...body(Step) },
  responses: { 200: json(Annotation, "What stands now"), ...BUSY },
});
const restore = createRoute({
  ...{ method: "post", path: `${FEATURE}/restore`, summary: "Say again what a version said" },
  request: { params: FeatureId, ...body(Restore) },
  responses: { 200: json(Annotation, "What stands now"), ...BUSY },
});
const tags = createRoute({
  ...{ method: "get", path: "/runs/{run}/tags", summary: "Tags in use, the one used last first" },
  request: { params: RunId },
  responses: { 200: json(TagCounts, "The tags"), ...ABSENT },
});
const groups = createRoute({
  ...{ method: "get", path: "/runs/{run}/groups", summary: "The groups, by name" },
  request: { params: RunId },
  responses: { 200: json(z.array(Group), "The groups"), ...ABSENT },
});
const createGroup = createRoute({
  ...{ method: "post", path: "/runs/{run}/groups", summary: "Make a group" },
  request: { params: RunId, ...body(NewGroup) },
  responses: { 201: json(Group, "The group"), ...ABSENT },
});
const changeGroup = createRoute({
  ...{ method: "patch", path: "/runs/{run}/groups/{group}", summary: "Change a group" },
  request: { params: GroupId, ...body(GroupChange) },
  responses: { 200: json(Group, "The group"), ...ABSENT },
});
const deleteGroup = createRoute({
  ...{ method: "delete", path: "/runs/{run}/groups/{group}", summary: "Delete a group" },
  request: { params: GroupId },
  responses: { 200: json(z.object({ deleted: z.string() }), "It is gone"), ...ABSENT },
});
const exported = createRoute({
  method: "get",
  path: "/runs/{run}/labels/export",
  summary: "All that is said, as a file",
  request: {
    params: RunId,
    query: z.object({
      format: z.enum(["json", "csv"]).default("json"),
      history: z.enum(["true", "false"]).default("false"),
    }),
  },
  responses: {
    200: {
      description: "The file",
      content: {
        "application/json": {
          schema: z.object({
            run: z.string(),
            annotations: z.array(Annotation),
            groups: z.array(Group),
            history: z.array(Revision).optional(),
          }),
        },
        "text/csv": { schema: z.string() },
      },
    },
    ...ABSENT,
  },
});
const imported = createRoute({
  method: "post",
  path: "/runs/{run}/labels/import",
  summary: "Take over what an export (JSON) says, of this run or another",
  request: { params: RunId, ...body(z.record(z.string(), z.unknown())) },
  responses: {
    200: json(
      z.object({
        annotations: z.int(),
        unchanged: z.int(),
        groups: z.int(),
        members: z.int(),
      }),
      "How much was new",
    ),
    ...BAD,
    ...ABSENT,
  },
});

export function annotationRoutes({ runs, annotations }: Services) {
  /** Of a run that exists, and a latent that it has, where it is known how many there are. */
  const feature = async ({ run, latent }: { run: string; latent: number }) => {
    const count = (await runs.latentCount(run)) ?? Infinity;
    if (latent >= count)
      throw new NotFound(`run ${run} has latents 0 to ${count - 1}; got ${latent}`);
  };
  const features = async (run: string, latents: number[] = []) => {
    const largest = latents.reduce((a, b) => Math.max(a, b), -1);
    if (largest >= 0) await feature({ run, latent: largest });
  };
  const own = async (run: string, group: string) => {
    runs.folderOf(run);
    if (!(await annotations.groups(run)).some(({ id }) => id === group))
      throw new NotFound(`run ${run} has no group ${group}`);
  };
  return router()
    .openapi(all, async (c) => {
      const { run } = c.req.valid("param");
      runs.folderOf(run);
      const [said, inGroups] = [await annotations.all(run), await annotations.groups(run)];
      return c.json({ annotations: said, groups: inGroups }, 200);
    })
    .openapi(get, async (c) => {
      const id = c.req.valid("param");
      await feature(id);
      return c.json(await annotations.get(id.run, id.latent), 200);
    })
    .openapi(edit, async (c) => {
      const id = c.req.valid("param");
      await feature(id);
      const { author, basedOn, ...change } = c.req.valid("json");
      return c.json(await annotations.edit(id.run, id.latent, change, by(author, basedOn)), 200);
    })
    .openapi(history, async (c) => {
      const id = c.req.valid("param");
      await feature(id);
      return c.json(await annotations.history(id.run, id.latent), 200);
    })
    .openapi(restore, async (c) => {
      const id = c.req.valid("param");
      await feature(id);
      const { version, author, basedOn } = c.req.valid("json");
      return c.json(
        await annotations.restore(id.run, id.latent, version, by(author, basedOn)),
        200,
      );
    })
    .openapi(step, async (c) => {
      const id = c.req.valid("param");
      await feature(id);
      const { author, basedOn } = c.req.valid("json");
      return c.json(await annotations[id.step](id.run, id.latent, by(author, basedOn)), 200);
    })
    .openapi(tags, async (c) => {
      const { run } = c.req.valid("param");
      runs.folderOf(run);
      return c.json(await annotations.tags(run), 200);
    })
    .openapi(groups, async (c) => {
      const { run } = c.req.valid("param");
      runs.folderOf(run);
      return c.json(await annotations.groups(run), 200);
    })
    .openapi(createGroup, async (c) => {
      const { run } = c.req.valid("param");
      runs.folderOf(run);
      const { name, description, latents, author } = c.req.valid("json");
      await features(run, latents);
      const made = await annotations.createGroup(run, name, description, author);
      return c.json(latents ? await annotations.addToGroup(run, made.id, latents) : made, 201);
    })
    .openapi(changeGroup, async (c) => {
      const { run, group } = c.req.valid("param");
      await own(run, group);
      const { add, remove, ...change } = c.req.valid("json");
      await features(run, add);
      let changed = await annotations.updateGroup(run, group, change);
      if (add) changed = await annotations.addToGroup(run, group, add);
      if (remove) changed = await annotations.removeFromGroup(run, group, remove);
      return c.json(changed, 200);
    })
    .openapi(deleteGroup, async (c) => {
      const { run, group } = c.req.valid("param");
      await own(run, group);
      await annotations.deleteGroup(run, group);
      return c.json({ deleted: group }, 200);
    })
    .openapi(exported, async (c) => {
      const { run } = c.req.valid("param");
      runs.folderOf(run);
      const { format, history: withHistory } = c.req.valid("query");
      const file = await annotations.exportRun(run, { history: withHistory === "true" });
      c.header("Content-Disposition", `attachment; filename="${run}-labels.${format}"`);
      if (format === "json") return c.json(file, 200);
      return c.text(toCsv(file), 200, { "Content-Type": "text/csv; charset=utf-8" });
    })
    .openapi(imported, async (c) => {
      const { run } = c.req.valid("param");
      const latents = await runs.latentCount(run);
      return c.json(await annotations.importRun(run, c.req.valid("json"), { latents }), 200);
    });
}

function by(author: string | undefined, basedOn: number | undefined) {
  return { ...(author !== undefined && { author }), ...(basedOn !== undefined && { basedOn }) };
}
