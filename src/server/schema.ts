/** The tables, and how a database of an older version comes to have them. */
import { sql, type Kysely } from "kysely";

export interface Tables {
  /** One row. */
  schema_version: { version: number };
  annotations: AnnotationRow;
  feature_groups: GroupRow;
  group_members: { group_id: string; latent: number };
}

/**
 * One version of what is said of a feature; the newest is what holds. Rows are added and, other than
 * with their whole run, never changed or deleted.
 */
export interface AnnotationRow {
  run: string;
  latent: number;
  /** 1, 2, 3… */
  version: number;
  label: string;
  notes: string;
  /** A JSON array. */
  tags: string;
  rating: number | null;
  confidence: number | null;
  author: string;
  /** ISO time. */
  time: string;
  action: string;
  /** The version whose content this is: for an undo or a redo an earlier one, or 0, else its own. */
  position: number;
  /** The position that an undo leads to. */
  parent: number;
}

export interface GroupRow {
  /** A UUID. */
  id: string;
  run: string;
  name: string;
  /** The name as it is compared. */
  name_key: string;
  description: string;
  author: string;
  created: string;
  updated: string;
}

/** Step n brings the tables from version n to n + 1. What has been released is never changed. */
export const MIGRATIONS: ((queries: Kysely<Tables>) => Promise<void>)[] = [
  async (queries) => {
    await queries.schema
      .createTable("annotations")
      .addColumn("run", "text", (c) => c.notNull())
      .addColumn("latent", "integer", (c) => c.notNull())
      .addColumn("version", "integer", (c) => c.notNull())
      .addColumn("label", "text", (c) => c.notNull())
      .addColumn("notes", "text", (c) => c.notNull())
      .addColumn("tags", "text", (c) => c.notNull())
      .addColumn("rating", "integer")
      .addColumn("confidence", "double precision")
      .addColumn("author", "text", (c) => c.notNull())
      .addColumn("time", "text", (c) => c.notNull())
      .addColumn("action", "text", (c) => c.notNull())
      .addColumn("position", "integer", (c) => c.notNull())
      .addColumn("parent", "integer", (c) => c.notNull())
      .addPrimaryKeyConstraint("annotations_key", ["run", "latent", "version"])
      .addCheckConstraint("annotations_latent", sql`latent >= 0`)
      .execute();
    await queries.schema
      .createTable("feature_groups")
      .addColumn("id", "text", (c) => c.primaryKey())
      .addColumn("run", "text", (c) => c.notNull())
      .addColumn("name", "text", (c) => c.notNull())
      .addColumn("name_key", "text", (c) => c.notNull())
      .addColumn("description", "text", (c) => c.notNull())
      .addColumn("author", "text", (c) => c.notNull())
      .addColumn("created", "text", (c) => c.notNull())
      .addColumn("updated", "text", (c) => c.notNull())
      .addUniqueConstraint("feature_groups_name", ["run", "name_key"])
      .execute();
    await queries.schema
      .createTable("group_members")
      .addColumn("group_id", "text", (c) =>
        c.notNull().references("feature_groups.id").onDelete("cascade"),
      )
      .addColumn("latent", "integer", (c) => c.notNull())
      .addPrimaryKeyConstraint("group_members_key", ["group_id", "latent"])
      .execute();
  },
];
