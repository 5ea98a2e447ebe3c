/** Opening a SQLite file, with transactions that wait for other processes without blocking this one. */
import { closeSync, mkdirSync, openSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import {
  Kysely,
  SqliteDialect,
  SqliteDriver,
  type DatabaseConnection,
  type Driver,
  type TransactionSettings,
} from "kysely";
import type Libsql from "libsql";

import { messageOf, UserError } from "../error.ts";
import type { Store } from "./database.ts";
import type { Tables } from "./schema.ts";

/** How long to wait for other processes to end their transactions, in milliseconds. */
const PATIENCE = 30_000;

/** Opens the file, made together with its folder for its owner alone if it does not exist. */
export async function openSqlite(setting: string): Promise<Store> {
  const path = resolve(setting);
  const Sqlite = await loadLibrary();
  let file: Libsql.Database;
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    // SQLite would make it readable to all; its journals take their rights from it.
    closeSync(openSync(path, "a", 0o600));
    file = new Sqlite(path);
  } catch (error) {
    throw new UserError(`cannot open the database ${setting}: ${messageOf(error)}`);
  }
  try {
    // For what little waits within SQLite: readers while a crashed process's journal is replayed.
    file.exec("pragma busy_timeout = 5000");
    await patiently(() => file.exec("pragma journal_mode = wal"));
    file.exec("pragma synchronous = full");
    file.exec("pragma foreign_keys = on");
  } catch (error) {
    file.close();
    throw new UserError(`the database ${setting} ${explainSqlite(error) ?? messageOf(error)}`);
  }
  return {
    kysely: new Kysely<Tables>({ dialect: new Dialect(file) }),
    explain: explainSqlite,
    beforeClose: async () => {
      try {
        // Leaves everything in the one file, for those who copy it.
        file.exec("pragma wal_checkpoint(truncate)");
      } catch {
        // Someone is reading or writing; the journal keeps what it has.
      }
    },
  };
}

async function loadLibrary(): Promise<typeof Libsql> {
  try {
    return (await import("libsql")).default;
  } catch (error) {
    throw new UserError(
      `the embedded database cannot be loaded on this machine (${messageOf(error)}); ` +
        "install the packages anew, or set database to the URL of a PostgreSQL server",
    );
  }
}

class Dialect extends SqliteDialect {
  readonly #file: Libsql.Database;

  constructor(file: Libsql.Database) {
    super({ database: file });
    this.#file = file;
  }

  override createDriver(): Driver {
    return new PatientDriver(this.#file);
  }
}

/**
 * Takes the write lock at the beginning of a transaction, since one that has read cannot wait for it
 * any more once somebody else has written.
 *
 * Statements that can find the file locked go through `exec`: libsql (0.5) leaves a prepared one that
 * failed with SQLITE_BUSY unfinished, and the connection then sees the state of that moment, and can
 * write nothing, until the garbage collector comes by.
 */
class PatientDriver extends SqliteDriver {
  readonly #file: Libsql.Database;

  constructor(file: Libsql.Database) {
    super({ database: file });
    this.#file = file;
  }

  override async beginTransaction(
    _connection: DatabaseConnection,
    settings?: TransactionSettings,
  ): Promise<void> {
    if (settings?.accessMode === "read only") {
      this.#file.exec("begin");
      return;
    }
    // SQLite's own waiting would stop this whole process, and never end should it be this very
    // process that holds the lock through a second connection.
    this.#file.exec("pragma busy_timeout = 0");
    try {
      await patiently(() => this.#file.exec("begin immediate"));
    } finally {
      this.#file.exec("pragma busy_timeout = 5000");
    }
  }

  override async commitTransaction(): Promise<void> {
    this.#file.exec("commit");
  }

  override async rollbackTransaction(): Promise<void> {
    // A full disk, for one, has SQLite roll back by itself.
    if (this.#file.inTransaction) this.#file.exec("rollback");
  }
}

/** Does it as soon as no other process keeps the file locked. */
async function patiently(action: () => void): Promise<void> {
  const end = Date.now() + PATIENCE;
  for (;;) {
    try {
      return action();
    } catch (error) {
      if (!codeOf(error).startsWith("SQLITE_BUSY") || Date.now() > end) throw error;
    }
    await sleep(1 + Math.random() * 9);
  }
}

function explainSqlite(error: unknown): string | undefined {
  const code = codeOf(error);
  if (code.startsWith("SQLITE_BUSY"))
    return `is locked by another process for more than ${PATIENCE / 1000} seconds; stop that process and try again`;
  if (code.startsWith("SQLITE_NOTADB"))
    return "is no SQLite database; name another file, or move this one away";
  if (code.startsWith("SQLITE_CORRUPT"))
    return 'is damaged; go back to a copy, or save what is left with: sqlite3 FILE ".recover"';
  if (code.startsWith("SQLITE_FULL")) return "has no disk space left; make room and try again";
  if (code.startsWith("SQLITE_READONLY") || code.startsWith("SQLITE_CANTOPEN"))
    return "cannot be written to; check the rights of the file and of its folder";
  if (code.startsWith("SQLITE_IOERR"))
    return `cannot be read or written (${messageOf(error)}); check the disk it is on`;
  return undefined;
}

function codeOf(error: unknown): string {
  const { code } = error as { code?: unknown };
  return typeof code === "string" ? code : "";
}
