/** The versions of what is said of a feature, as they are kept in the database. */
import { UserError } from "../error.ts";
import {
  EMPTY,
  FIELDS,
  isEmpty,
  sameContent,
  sameField,
  type Content,
  type Field,
} from "./annotation-fields.ts";
import type { Queries } from "./database.ts";
import type { AnnotationRow } from "./schema.ts";

/** What stands of a feature. */
export interface Annotation extends Content {
  run: string;
  latent: number;
  /** How often it was changed; 0 when nobody ever said anything of the feature. */
  version: number;
  /** Who made this version, null at version 0. */
  author: string | null;
  /** ISO time of this version, null at version 0. */
  updated: string | null;
}

export type Action = "edit" | "undo" | "redo" | "restore" | "import";

/** One version in a feature's history. */
export interface Revision extends Annotation {
  author: string;
  updated: string;
  action: Action;
  /**
   * The version whose content this is: its own, or for an undo or a redo the one it went to, where
   * 0 is the empty beginning. The newest revision can be undone unless its position is 0, and redone
   * unless that is the newest version that is neither an undo nor a redo.
   */
  position: number;
}

/** Somebody else changed the same fields since `basedOn`; nothing was written. */
export class Conflict extends UserError {
  override name = "Conflict";
  /** What stands now. */
  readonly current: Annotation;
  readonly fields: Field[];

  constructor(current: Annotation, fields: Field[]) {
    const what = fields.length === 0 ? "" : `the ${fields.join(" and ")} of `;
    super(
      `${current.author} changed ${what}feature ${current.latent} in the meantime ` +
        `(version ${current.version}); look at that version and save yours again`,
    );
    this.current = current;
    this.fields = fields;
  }
}

export interface NewVersion {
  run: string;
  latent: number;
  /** The version before it. */
  last: AnnotationRow | undefined;
  content: Content;
  author: string;
  action: Action;
  /** Where it stands, other than on its own. */
  at?: { position: number; parent: number };
}

/** The row of a new version; undefined when it would say what the last one does. */
export function rowOf(version: NewVersion): AnnotationRow | undefined {
  const { run, latent, last, content, author, action, at } = version;
  if (sameContent(content, contentOf(last))) return undefined;
  const number = (last?.version ?? 0) + 1;
  return {
    run,
    latent,
    version: number,
    label: content.label,
    notes: content.notes,
    tags: JSON.stringify(content.tags),
    rating: content.rating,
    confidence: content.confidence,
    author,
    time: new Date().toISOString(),
    action,
    position: at?.position ?? number,
    parent: at?.parent ?? last?.position ?? 0,
  };
}

/** Writes a new version unless it says what the last one does; returns what stands then. */
export async function append(queries: Queries, version: NewVersion): Promise<Annotation> {
  const row = rowOf(version);
  if (row !== undefined) await queries.insertInto("annotations").values(row).execute();
  return annotationOf(version.run, version.latent, row ?? version.last);
}

export async function newest(
  queries: Queries,
  run: string,
  latent: number,
): Promise<AnnotationRow | undefined> {
  return queries
    .selectFrom("annotations")
    .selectAll()
    .where("run", "=", run)
    .where("latent", "=", latent)
    .orderBy("version", "desc")
    .limit(1)
    .executeTakeFirst();
}

/** Every version of a feature, the oldest first: version n at index n - 1. */
export async function versionsOf(
  queries: Queries,
  run: string,
  latent: number,
): Promise<AnnotationRow[]> {
  return queries
    .selectFrom("annotations")
    .selectAll()
    .where("run", "=", run)
    .where("latent", "=", latent)
    .orderBy("version")
    .execute();
}

/** Every version of every feature of a run, by latent, each one's oldest first. */
export async function allVersions(queries: Queries, run: string): Promise<AnnotationRow[]> {
  return queries
    .selectFrom("annotations")
    .selectAll()
    .where("run", "=", run)
    .orderBy("latent")
    .orderBy("version")
    .execute();
}

/** The newest version of every feature of a run, by latent. */
export async function newestVersions(queries: Queries, run: string): Promise<AnnotationRow[]> {
  return queries
    .selectFrom("annotations as a")
    .selectAll("a")
    .where("a.run", "=", run)
    .where("a.version", "=", (nested) =>
      nested
        .selectFrom("annotations as b")
        .select(({ fn }) => fn.max("b.version").as("version"))
        .whereRef("b.run", "=", "a.run")
        .whereRef("b.latent", "=", "a.latent"),
    )
    .orderBy("a.latent")
    .execute();
}

/** What stands of a run's features, those of which nothing is said left out. */
export async function standing(queries: Queries, run: string): Promise<Annotation[]> {
  return (await newestVersions(queries, run))
    .map((row) => annotationOf(run, row.latent, row))
    .filter((annotation) => !isEmpty(annotation));
}

/** The content of the version that an editor saw (absent: the last). @throws UserError when there is none. */
export async function contentSeen(
  queries: Queries,
  last: AnnotationRow | undefined,
  basedOn: number | undefined,
): Promise<Content> {
  return contentOf(await rowSeen(queries, last, basedOn));
}

/** @throws Conflict when the editor has not seen what stands. */
export async function refuseUnseen(
  queries: Queries,
  last: AnnotationRow | undefined,
  basedOn: number | undefined,
): Promise<void> {
  const seen = await rowSeen(queries, last, basedOn);
  if (last === undefined || seen?.position === last.position) return;
  const [theirs, base] = [contentOf(last), contentOf(seen)];
  const fields = FIELDS.filter((field) => !sameField(field, theirs, base));
  throw new Conflict(annotationOf(last.run, last.latent, last), fields);
}

async function rowSeen(
  queries: Queries,
  last: AnnotationRow | undefined,
  basedOn: number | undefined,
): Promise<AnnotationRow | undefined> {
  const version = last?.version ?? 0;
  if (basedOn === undefined || basedOn === version) return last;
  if (!Number.isInteger(basedOn) || basedOn < 0 || basedOn > version)
    throw new UserError(
      `there is no version ${basedOn} to base a change on; the newest is ${version}`,
    );
  if (basedOn === 0) return undefined;
  return queries
    .selectFrom("annotations")
    .selectAll()
    .where("run", "=", last!.run)
    .where("latent", "=", last!.latent)
    .where("version", "=", basedOn)
    .executeTakeFirstOrThrow();
}

export function contentOf(row: AnnotationRow | undefined): Content {
  if (row === undefined) return { ...EMPTY, tags: [] };
  const { label, notes, tags, rating, confidence } = row;
  return { label, notes, tags: JSON.parse(tags) as string[], rating, confidence };
}

export function annotationOf(
  run: string,
  latent: number,
  row: AnnotationRow | undefined,
): Annotation {
  const { version = 0, author = null, time: updated = null } = row ?? {};
  return { run, latent, version, ...contentOf(row), author, updated };
}

export function revisionOf(row: AnnotationRow): Revision {
  const { author, time: updated, position } = row;
  const annotation = annotationOf(row.run, row.latent, row);
  return { ...annotation, author, updated, action: row.action as Action, position };
}
