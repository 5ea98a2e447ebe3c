/** Named groups of a run's features. */
import { randomUUID } from "node:crypto";

import { UserError } from "../error.ts";
import { checkAuthor, checkText, keyOf, LIMITS } from "./annotation-fields.ts";
import type { Queries } from "./database.ts";
import type { GroupRow } from "./schema.ts";

export interface Group {
  /** A UUID, never used again after the group is deleted. */
  id: string;
  run: string;
  /** Up to 80 characters, unlike every other in the run whatever the case. */
  name: string;
  /** Up to 10,000 characters. */
  description: string;
  /** Who made it. */
  author: string;
  /** ISO time. */
  created: string;
  /** ISO time of the last change of its name, description or features. */
  updated: string;
  /** Its features, ascending. */
  latents: number[];
}

/** Absent fields stay as they are. */
export interface GroupChange {
  name?: string;
  description?: string;
}

/** What there is to know of a group in another run to make it in this one. */
export interface ImportedGroup {
  name: string;
  description: string;
  author?: string;
  latents: number[];
}

/** Two parameters a row: well below both databases' limits. */
const CHUNK = 5000;

export async function groupsOf(queries: Queries, run: string): Promise<Group[]> {
  const rows = await queries
    .selectFrom("feature_groups")
    .selectAll()
    .where("run", "=", run)
    .execute();
  const members = await queries
    .selectFrom("group_members")
    .innerJoin("feature_groups", "id", "group_id")
    .select(["group_id", "latent"])
    .where("run", "=", run)
    .orderBy("latent")
    .execute();
  const latents = new Map(rows.map(({ id }) => [id, [] as number[]]));
  for (const { group_id, latent } of members) latents.get(group_id)!.push(latent);
  return rows
    .sort((a, b) => compare(a.name_key, b.name_key))
    .map((row) => groupOf(row, latents.get(row.id)!));
}

export async function createGroup(
  queries: Queries,
  run: string,
  { name, description, author }: Omit<ImportedGroup, "latents">,
): Promise<Group> {
  const now = new Date().toISOString();
  const row: GroupRow = {
    id: randomUUID(),
    run,
    ...checkName(name),
    description: checkDescription(description),
    author: checkAuthor(author),
    created: now,
    updated: now,
  };
  await refuseTaken(queries, row);
  await queries.insertInto("feature_groups").values(row).execute();
  return groupOf(row, []);
}

export async function updateGroup(
  queries: Queries,
  run: string,
  id: string,
  { name, description }: GroupChange,
): Promise<Group> {
  const row = {
    ...(await find(queries, run, id)),
    ...(name !== undefined && checkName(name)),
    ...(description !== undefined && { description: checkDescription(description) }),
  };
  await refuseTaken(queries, row);
  const changed = { name: row.name, name_key: row.name_key, description: row.description };
  await queries.updateTable("feature_groups").set(changed).where("id", "=", id).execute();
  return touched(queries, row);
}

export async function deleteGroup(queries: Queries, run: string, id: string): Promise<void> {
  await find(queries, run, id);
  await queries.deleteFrom("feature_groups").where("id", "=", id).execute();
}

export async function deleteGroups(queries: Queries, run: string): Promise<void> {
  await queries.deleteFrom("feature_groups").where("run", "=", run).execute();
}

export async function addMembers(
  queries: Queries,
  run: string,
  id: string,
  latents: number[],
): Promise<Group> {
  const row = await find(queries, run, id);
  await insertMembers(queries, id, latents);
  return touched(queries, row);
}

export async function removeMembers(
  queries: Queries,
  run: string,
  id: string,
  latents: number[],
): Promise<Group> {
  const row = await find(queries, run, id);
  for (const chunk of chunks(latents))
    await queries
      .deleteFrom("group_members")
      .where("group_id", "=", id)
      .where("latent", "in", chunk)
      .execute();
  return touched(queries, row);
}

/**
 * Makes the groups there are none of by that name, and adds to the others; a description is set only
 * where there is none.
 * @returns how many were made, and how many features came into groups.
 */
export async function importGroups(
  queries: Queries,
  run: string,
  imported: ImportedGroup[],
  author: string | undefined,
): Promise<{ groups: number; members: number }> {
  const known = new Map((await groupsOf(queries, run)).map((group) => [keyOf(group.name), group]));
  let members = 0;
  let made = 0;
  for (const { latents, ...other } of imported) {
    const key = checkName(other.name).name_key;
    let group = known.get(key);
    if (group === undefined) {
      group = await createGroup(queries, run, { ...other, author: author ?? other.author });
      made++;
    } else if (group.description === "" && other.description !== "")
      await updateGroup(queries, run, group.id, { description: other.description });
    const added = await insertMembers(queries, group.id, latents);
    if (added > 0) await touch(queries, group.id);
    members += added;
    known.set(key, group);
  }
  return { groups: made, members };
}

/** How many of them were not in the group before. */
async function insertMembers(queries: Queries, id: string, latents: number[]): Promise<number> {
  const there = new Set(await membersOf(queries, id));
  const fresh = [...new Set(latents)].filter((latent) => !there.has(latent));
  for (const chunk of chunks(fresh)) {
    const rows = chunk.map((latent) => ({ group_id: id, latent }));
    await queries.insertInto("group_members").values(rows).execute();
  }
  return fresh.length;
}

async function membersOf(queries: Queries, id: string): Promise<number[]> {
  const rows = await queries
    .selectFrom("group_members")
    .select("latent")
    .where("group_id", "=", id)
    .orderBy("latent")
    .execute();
  return rows.map(({ latent }) => latent);
}

async function find(queries: Queries, run: string, id: string): Promise<GroupRow> {
  const row = await queries
    .selectFrom("feature_groups")
    .selectAll()
    .where("run", "=", run)
    .where("id", "=", checkText("a group's id", id, LIMITS.run))
    .executeTakeFirst();
  if (row === undefined)
    throw new UserError(`run ${run} has no group ${id}; it may have been deleted`);
  return row;
}

async function refuseTaken(queries: Queries, group: GroupRow): Promise<void> {
  const taken = await queries
    .selectFrom("feature_groups")
    .select("name")
    .where("run", "=", group.run)
    .where("name_key", "=", group.name_key)
    .where("id", "!=", group.id)
    .executeTakeFirst();
  if (taken !== undefined)
    throw new UserError(
      `the run already has a group named ${taken.name}; choose another name, or add to that one`,
    );
}

async function touch(queries: Queries, id: string): Promise<string> {
  const updated = new Date().toISOString();
  await queries.updateTable("feature_groups").set({ updated }).where("id", "=", id).execute();
  return updated;
}

async function touched(queries: Queries, row: GroupRow): Promise<Group> {
  const updated = await touch(queries, row.id);
  return groupOf({ ...row, updated }, await membersOf(queries, row.id));
}

function groupOf({ name_key: _, ...row }: GroupRow, latents: number[]): Group {
  return { ...row, latents };
}

function checkName(text: string): { name: string; name_key: string } {
  const name = checkText("the group's name", text, LIMITS.groupName).trim();
  if (name === "") throw new UserError("a group needs a name");
  return { name, name_key: keyOf(name) };
}

function checkDescription(text: string): string {
  return checkText("the group's description", text, LIMITS.groupDescription);
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function chunks(latents: number[]): number[][] {
  const count = Math.ceil(latents.length / CHUNK);
  return Array.from({ length: count }, (_, i) => latents.slice(i * CHUNK, (i + 1) * CHUNK));
}
