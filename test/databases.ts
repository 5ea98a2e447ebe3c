/** Both kinds of database, for tests that are to pass on either. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe } from "vitest";

import { startPostgres, type PostgresServer } from "./postgres.ts";

export interface TestDatabases {
  kind: "sqlite" | "postgres";
  /** A new, empty database: what the setting `database` would be. */
  fresh(): Promise<string>;
}

/** Declares the tests once for SQLite and once for PostgreSQL, the latter skipped where there is none. */
export function describeDatabases(title: string, tests: (databases: TestDatabases) => void): void {
  describe(`${title} in SQLite`, () => {
    let folder: string;
    let files = 0;
    beforeAll(async () => {
      folder = await mkdtemp(join(tmpdir(), "lens-sqlite-"));
    });
    afterAll(() => rm(folder, { recursive: true }));
    tests({ kind: "sqlite", fresh: async () => join(folder, `${++files}.sqlite`) });
  });
  describe(`${title} in PostgreSQL`, () => {
    const postgres = usePostgres();
    tests({ kind: "postgres", fresh: () => postgres().createDatabase() });
  });
}

/** A server for the tests of this block, which are skipped, with the reason, where there is none. */
export function usePostgres(): () => PostgresServer {
  let server: PostgresServer | string;
  beforeAll(async () => {
    server = await startPostgres();
  });
  afterAll(async () => {
    if (typeof server === "object") await server.stop();
  });
  beforeEach(({ skip }) => {
    if (typeof server === "string") skip(server);
  });
  return () => server as PostgresServer;
}
