/**
 * The database behind the server: a SQLite file, or PostgreSQL when the setting is a postgres://
 * URL. Both are asked through the same Kysely queries; what differs between them stays in this file
 * and in sqlite.ts.
 *
 * Whatever is read in one go is one snapshot, and whoever writes to a run is alone in it: on SQLite
 * because there is one writer to a file, on PostgreSQL because of a lock per run. A write that has
 * returned is on disk.
 */
import { Kysely, PostgresDialect, sql, type Transaction } from "kysely";

import { messageOf, UserError } from "../error.ts";
import { MIGRATIONS, type Tables } from "./schema.ts";

export type Queries = Transaction<Tables>;

export interface Database {
  readonly kind: "sqlite" | "postgres";
  /** The file, or the URL without its password. */
  readonly name: string;
  /** Every query of `work` sees the same state. */
  read<T>(work: (queries: Queries) => Promise<T>): Promise<T>;
  /** All or nothing, and nobody else, in any process, writes to this run meanwhile. */
  write<T>(run: string, work: (queries: Queries) => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

/** What opening one or the other kind gives. */
export interface Store {
  kysely: Kysely<Tables>;
  /** What an error of the driver means to a person; undefined when it is nothing they can help. */
  explain(error: unknown): string | undefined;
  /** What must happen before the connections go. */
  beforeClose(): Promise<void>;
}

/** Beginnings of PostgreSQL advisory lock keys, so that they meet nobody else's. */
const LOCK_SCHEMA = 0x4c656e73;
const LOCK_RUN = 0x4c656e74;

/**
 * Opens a database, made if it is a file that does not exist, and brings its tables up to date.
 * @param setting A path, or a postgres:// or postgresql:// URL.
 * @throws UserError that says what to do; a password in the URL is never part of it.
 */
export async function openDatabase(setting: string): Promise<Database> {
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(setting)?.[1].toLowerCase();
  const isPostgres = scheme === "postgres" || scheme === "postgresql";
  if (setting.trim() === "" || (scheme !== undefined && !isPostgres))
    throw new UserError(
      `the database ${scheme === undefined ? `"${setting}"` : `${scheme}://…`} is of no kind that is known; ` +
        "give the path of a SQLite file, or a URL postgres://user:password@host:5432/name",
    );
  const kind = isPostgres ? "postgres" : "sqlite";
  const name = isPostgres ? withoutPassword(setting) : setting;
  const store = isPostgres
    ? await openPostgres(setting)
    : await (await import("./sqlite.ts")).openSqlite(setting);

  const inWords = (error: unknown): unknown => {
    if (error instanceof UserError) return error;
    const words = store.explain(error);
    return words === undefined ? error : new UserError(`the database ${name} ${words}`);
  };
  try {
    await migrate(store.kysely, kind, name);
  } catch (error) {
    await store.kysely.destroy().catch(() => undefined);
    const told = inWords(error);
    if (told instanceof UserError) throw told;
    throw new UserError(`cannot open the database ${name}: ${hidePassword(setting, error)}`);
  }

  const told = async <T>(promise: Promise<T>): Promise<T> => {
    try {
      return await promise;
    } catch (error) {
      throw inWords(error);
    }
  };
  let closed: Promise<void> | undefined;
  return {
    kind,
    name,
    read: (work) => {
      const transaction = store.kysely.transaction();
      return told(
        transaction.setAccessMode("read only").setIsolationLevel("repeatable read").execute(work),
      );
    },
    write: (run, work) =>
      told(
        // Not what the server's default may be: with a snapshot older than the lock, what the
        // previous owner wrote would not be seen.
        store.kysely
          .transaction()
          .setIsolationLevel("read committed")
          .execute(async (queries) => {
            if (isPostgres)
              await sql`select pg_advisory_xact_lock(${LOCK_RUN}::int, hashtext(${run}))`.execute(
                queries,
              );
            return work(queries);
          }),
      ),
    close: () => {
      closed ??= store.beforeClose().finally(() => store.kysely.destroy());
      return closed;
    },
  };
}

/** A database URL as it may be shown and logged: without password and options. */
export function withoutPassword(url: string): string {
  try {
    const { protocol, username, host, pathname } = new URL(url);
    return `${protocol}//${username}${username && "@"}${host}${pathname}`;
  } catch {
    // Which part of it is the password cannot be told then.
    return `${url.slice(0, url.indexOf("://"))}://…`;
  }
}

/** Runs the migrations this database has not seen, all or none, one process at a time. */
async function migrate(
  kysely: Kysely<Tables>,
  kind: Database["kind"],
  name: string,
): Promise<void> {
  await kysely
    .transaction()
    .setIsolationLevel("read committed")
    .execute(async (queries) => {
      if (kind === "postgres") {
        await sql`select pg_advisory_xact_lock(${LOCK_SCHEMA}::int, 0)`.execute(queries);
        await refuseOtherEncodings(queries, name);
      }
      const tables = await tableNames(queries, kind);
      let version = 0;
      if (tables.includes("schema_version")) {
        version = await schemaVersion(queries, name);
      } else {
        const ours = ["annotations", "feature_groups", "group_members"];
        if (tables.some((table) => ours.includes(table)) || (kind === "sqlite" && tables.length))
          throw foreign(name);
        await queries.schema
          .createTable("schema_version")
          .addColumn("version", "integer", (column) => column.notNull())
          .execute();
        await queries.insertInto("schema_version").values({ version: 0 }).execute();
      }
      if (version > MIGRATIONS.length)
        throw new UserError(
          `the database ${name} was written by a newer version of Lens (its tables are of version ` +
            `${version}, this one knows them up to ${MIGRATIONS.length}); update latent-lens, or name another database`,
        );
      if (version === MIGRATIONS.length) return;
      for (const step of MIGRATIONS.slice(version)) await step(queries);
      await queries.updateTable("schema_version").set({ version: MIGRATIONS.length }).execute();
    });
}

/** Names of the tables in the file, or in the schema that PostgreSQL puts new ones in. */
async function tableNames(queries: Queries, kind: Database["kind"]): Promise<string[]> {
  const query =
    kind === "sqlite"
      ? sql<{ name: string }>`select name from sqlite_master where type = 'table'`
      : sql<{ name: string }>`select table_name as name from information_schema.tables
                              where table_schema = current_schema()`;
  return (await query.execute(queries)).rows.map(({ name }) => name);
}

async function schemaVersion(queries: Queries, name: string): Promise<number> {
  const { rows } = await sql<{ version?: unknown }>`select * from schema_version`.execute(queries);
  const version = rows[0]?.version;
  if (rows.length !== 1 || !Number.isInteger(version)) throw foreign(name);
  return version as number;
}

function foreign(name: string): UserError {
  return new UserError(
    `the database ${name} holds the tables of another program; give Lens a database of its own`,
  );
}

async function refuseOtherEncodings(queries: Queries, name: string): Promise<void> {
  const { rows } = await sql<{ server_encoding: string }>`show server_encoding`.execute(queries);
  if (rows[0].server_encoding !== "UTF8")
    throw new UserError(
      `the database ${name} keeps text as ${rows[0].server_encoding}, which cannot hold every character; ` +
        "make one with: createdb --encoding UTF8 --template template0 NAME",
    );
}

async function openPostgres(url: string): Promise<Store> {
  const { default: pg } = await import("pg");
  let pool: InstanceType<typeof pg.Pool>;
  try {
    pool = new pg.Pool({
      connectionString: url,
      application_name: "latent-lens",
      connectionTimeoutMillis: 10_000,
      keepAlive: true,
    });
    // The pool reads the URL only when it connects; a URL that cannot be read should be said to be one.
    void new pg.Client({ connectionString: url });
  } catch {
    throw new UserError(
      `the database URL ${withoutPassword(url)} cannot be read; it should look like postgres://user:password@host:5432/name, ` +
        "with characters such as @ : / # ? % in the password written as %40 %3A %2F %23 %3F %25",
    );
  }
  // A connection lost between two queries would end the process. The next query notices by itself.
  pool.on("error", () => undefined);
  pool.on("connect", (client) => client.on("error", () => undefined));
  return {
    kysely: new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) }),
    explain: explainPostgres,
    beforeClose: async () => undefined,
  };
}

function explainPostgres(error: unknown): string | undefined {
  const { code = "", message = "" } = error as { code?: string; message?: string };
  switch (code) {
    case "ENOTFOUND":
    case "EAI_AGAIN":
      return "names a host that cannot be found; check the host in the URL";
    case "ECONNREFUSED":
    case "ENOENT":
    case "EHOSTUNREACH":
    case "ENETUNREACH":
    case "ETIMEDOUT":
      return "cannot be reached; check that PostgreSQL runs there, and the host and port in the URL";
    case "28P01":
    case "28000":
      return "refuses this user or password; check both in the URL";
    case "3D000":
      return "does not exist on its server; make it with: createdb NAME";
    case "42501":
      return "does not let this user make or change tables; grant it that (GRANT CREATE, USAGE ON SCHEMA public)";
    case "53300":
      return "has no connection left; close some, or raise max_connections";
    case "53100":
      return "has no disk space left; make room and try again";
    case "25006":
      return "is read-only; name the primary server in the URL";
    case "57P03":
      return "is just starting or stopping; try again in a moment";
  }
  if (/^timeout (exceeded|expired)|Connection terminated due to connection timeout/.test(message))
    return "does not answer; check the host and port in the URL";
  const lost = ["ECONNRESET", "EPIPE", "57P01", "57P02"].includes(code);
  if (lost || /Connection terminated|Client has encountered a connection error/.test(message))
    return "broke the connection off; look whether the change was saved, and try again";
  return undefined;
}

/** What an unforeseen error says, with the URL's password blotted out should it be in there. */
function hidePassword(setting: string, error: unknown): string {
  let message = messageOf(error);
  const secrets = [
    /:\/\/[^@]*?:(.*)@/.exec(setting)?.[1],
    /[?&]password=([^&]*)/.exec(setting)?.[1],
  ];
  for (const secret of secrets) {
    if (!secret) continue;
    message = message.replaceAll(secret, "…");
    try {
      message = message.replaceAll(decodeURIComponent(secret), "…");
    } catch {
      // Not percent-encoded: there is one form of it only.
    }
  }
  return message;
}
