import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Sqlite from "libsql";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { startAnnotating } from "../../test/annotating.ts";
import { describeDatabases, usePostgres } from "../../test/databases.ts";
import { UserError } from "../error.ts";
import { openDatabase, withoutPassword, type Queries } from "./database.ts";

describeDatabases("a database", (databases) => {
  test("made by several at once has its tables once, and a process that comes later uses them", async () => {
    const setting = await databases.fresh();
    const opened = await Promise.all(Array.from({ length: 6 }, () => openDatabase(setting)));
    const task = { database: setting, run: "r", latent: 1, author: "ada", count: 1, tags: [] };
    const child = startAnnotating({ ...task, field: "label" });
    await child.ready;
    child.go();
    expect(await child.ended).toBe(0);
    for (const database of opened) {
      expect(await database.read(labels)).toEqual(["ada 0"]);
      expect(await database.read(schemaVersions)).toEqual([1]);
      await database.close();
    }
  });

  test("of a newer version is refused and not changed", async () => {
    const setting = await databases.fresh();
    const database = await openDatabase(setting);
    await database.write("r", (queries) =>
      queries.updateTable("schema_version").set({ version: 99 }).execute(),
    );
    const refused = await failure(openDatabase(setting));
    expect(refused).toMatch(/newer version of Lens .*version 99.*update latent-lens/);
    expect(await database.read(schemaVersions)).toEqual([99]);
    await database.close();
  });

  test("with another program's tables is refused and left alone", async () => {
    const setting = await databases.fresh();
    const database = await openDatabase(setting);
    await database.write("r", async (queries) => {
      await queries.schema.dropTable("schema_version").execute();
    });
    expect(await failure(openDatabase(setting))).toMatch(/tables of another program/);
    await expect(database.read(schemaVersions)).rejects.toThrow(/schema_version/);
    await database.write("r", async (queries) => {
      await queries.schema.createTable("schema_version").addColumn("v", "text").execute();
    });
    expect(await failure(openDatabase(setting))).toMatch(/tables of another program/);
    await database.close();
  });

  test("takes back a write that fails half way", async () => {
    const database = await openDatabase(await databases.fresh());
    const half = database.write("r", async (queries) => {
      await say(queries, "half", 1);
      throw new Error("stop");
    });
    await expect(half).rejects.toThrow("stop");
    await database.write("r", (queries) => say(queries, "whole", 1));
    const twice = database.write("r", (queries) => say(queries, "twice", 1));
    await expect(twice).rejects.toThrow(/unique/i);
    expect(await database.read(labels)).toEqual(["whole"]);
    await database.close();
  });

  test("shows a reader one state, and the next reader what was written meanwhile", async () => {
    const setting = await databases.fresh();
    const [reader, writer] = [await openDatabase(setting), await openDatabase(setting)];
    await reader.read(async (queries) => {
      expect(await labels(queries)).toEqual([]);
      await writer.write("r", (other) => say(other, "new", 1));
      expect(await labels(queries)).toEqual([]);
    });
    expect(await reader.read(labels)).toEqual(["new"]);
    await Promise.all([reader.close(), writer.close()]);
  });

  test("shows one who had to wait for another what was written since", async () => {
    const setting = await databases.fresh();
    const [one, two] = [await openDatabase(setting), await openDatabase(setting)];
    let waiting: Promise<void> | undefined;
    await one.write("r", async (queries) => {
      await say(queries, "first", 1);
      waiting = two.write("r", async (other) => {
        expect(await labels(other)).toEqual(["first"]);
        await say(other, "second", 2);
      });
      await new Promise((resolve) => setTimeout(resolve, 50));
    });
    await waiting;
    await one.write("r", (queries) => say(queries, "third", 3));
    expect(await two.read(labels)).toEqual(["first", "second", "third"]);
    await two.write("r", (queries) => say(queries, "fourth", 4));
    expect(await one.read(labels)).toHaveLength(4);
    await Promise.all([one.close(), two.close()]);
  });

  test("can be closed twice", async () => {
    const database = await openDatabase(await databases.fresh());
    await Promise.all([database.close(), database.close()]);
    await expect(database.read(labels)).rejects.toThrow();
  });
});

describe("a SQLite file", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "lens-database-"));
  });
  afterAll(() => rm(folder, { recursive: true }));

  test.skipIf(process.platform === "win32")("and its folder are its owner's alone", async () => {
    const path = join(folder, "deep", "er", "lens.sqlite");
    const database = await openDatabase(path);
    await database.write("r", (queries) => say(queries, "a", 1));
    const mode = async (name: string) => ((await stat(name)).mode & 0o777).toString(8);
    expect(await mode(join(folder, "deep"))).toBe("700");
    expect(await mode(join(folder, "deep", "er"))).toBe("700");
    for (const ending of ["", "-wal", "-shm"]) expect(await mode(path + ending)).toBe("600");
    await database.close();
  });

  test("holds everything once closed, without its journal", async () => {
    const path = join(folder, "closed.sqlite");
    const database = await openDatabase(path);
    await database.write("r", (queries) => say(queries, "kept", 1));
    await database.close();
    const copy = join(folder, "copy.sqlite");
    await writeFile(copy, await readFile(path));
    const again = await openDatabase(copy);
    expect(await again.read(labels)).toEqual(["kept"]);
    await again.close();
  });

  test("that is text is refused and left as it was", async () => {
    const path = join(folder, "notes.txt");
    await writeFile(path, "these are my notes\n".repeat(100));
    expect(await failure(openDatabase(path))).toMatch(/notes\.txt is no SQLite database; name/);
    expect(await readFile(path, "utf8")).toBe("these are my notes\n".repeat(100));
  });

  test("of another program is refused", async () => {
    const path = join(folder, "other.sqlite");
    const other = new Sqlite(path);
    other.exec("create table bookmarks (url text)");
    other.close();
    expect(await failure(openDatabase(path))).toMatch(/tables of another program/);
  });

  test("that cannot be made is refused", async () => {
    expect(await failure(openDatabase(folder))).toMatch(/cannot open the database .*EISDIR/);
    const path = join(folder, "file");
    await writeFile(path, "");
    expect(await failure(openDatabase(join(path, "lens.sqlite")))).toMatch(/cannot open/);
  });

  test("that is locked for long is said to be, and works once it is free", async () => {
    const path = join(folder, "locked.sqlite");
    const [one, two] = [await openDatabase(path), await openDatabase(path)];
    let refused: string | undefined;
    let ticks = 0;
    const timer = setInterval(() => ticks++, 10);
    await one.write("r", async () => {
      const clock = Date.now;
      const started = clock();
      // Thirty seconds pass as one.
      Date.now = () => started + 30 * (clock() - started);
      refused = await failure(two.write("r", (queries) => say(queries, "late", 1)));
      Date.now = clock;
    });
    clearInterval(timer);
    expect(refused).toMatch(/locked by another process for more than 30 seconds/);
    // The process could do other things meanwhile.
    expect(ticks).toBeGreaterThan(20);
    await one.write("r", (queries) => say(queries, "a", 1));
    await two.write("r", (queries) => say(queries, "b", 2));
    expect(await two.read(labels)).toEqual(["a", "b"]);
    await Promise.all([one.close(), two.close()]);
  });

  test.each(["", " ", "mysql://u:secret@h/db", "file:///tmp/x"])("is not %j", async (setting) => {
    const message = await failure(openDatabase(setting));
    expect(message).toMatch(/of no kind that is known; give the path/);
    expect(message).not.toContain("secret");
  });
});

describe("a PostgreSQL URL", () => {
  const postgres = usePostgres();

  test.each<[string, (url: string) => string, RegExp]>([
    [
      "a wrong password",
      (url) => url.replace(/:[^:]*@/, ":wr%40ng-s3cret@"),
      /refuses this user or pass/,
    ],
    [
      "an unknown user",
      (url) => url.replace("//lens:", "//wr0ng:"),
      /refuses this user or password/,
    ],
    [
      "no such database",
      (url) => url.replace(/[^/]*$/, "nowhere"),
      /nowhere does not exist on its/,
    ],
    ["no such host", (url) => url.replace("127.0.0.1", "no-such-host.invalid"), /cannot be found/],
    ["nobody at the port", (url) => url.replace(/:\d+\//, ":1/"), /:1\/\w+ cannot be reached/],
    [
      "a password not escaped",
      (url) => url.replace(/:[^:]*@/, ":s3cr:t/p@ss#w?rd%@"),
      /written as %40/,
    ],
    [
      "options",
      (url) => `${url.replace("127.0.0.1", "no-such-host.invalid")}?password=s3cret`,
      /cannot be f/,
    ],
  ])("with %s is refused in words without the password", async (_, change, message) => {
    const error = await openDatabase(change(postgres().url("postgres"))).catch((e: Error) => e);
    expect(error).toBeInstanceOf(UserError);
    const { message: said, stack, cause } = error as UserError;
    expect(said).toMatch(message);
    expect(cause).toBeUndefined();
    for (const secret of ["s3cr", postgres().password, encodeURIComponent(postgres().password)])
      expect(said + stack).not.toContain(secret);
  });

  test("of a database that cannot hold every character is refused", async () => {
    const clauses = "encoding 'LATIN1' template template0 lc_collate 'C' lc_ctype 'C'";
    const url = await postgres().createDatabase(clauses);
    expect(await failure(openDatabase(url))).toMatch(/keeps text as LATIN1.*createdb --encoding/);
  });

  test("of a user who may make no tables is refused in words", async () => {
    const url = new URL(await postgres().createDatabase());
    await postgres().query("create role reader login password 'pw'");
    [url.username, url.password] = ["reader", "pw"];
    expect(await failure(openDatabase(url.href))).toMatch(/does not let this user make or change/);
  });

  test("names its database without the password", async () => {
    const database = await openDatabase(await postgres().createDatabase());
    expect(database.kind).toBe("postgres");
    expect(database.name).toMatch(/^postgres:\/\/lens@127\.0\.0\.1:\d+\/lens_\d+$/);
    await database.close();
  });

  test("goes on working after the server broke all connections off", async () => {
    const database = await openDatabase(await postgres().createDatabase());
    await database.write("r", (queries) => say(queries, "before", 1));
    const others =
      "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and backend_type = 'client backend'";
    await postgres().query(others);
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(await database.read(labels)).toEqual(["before"]);
    const broken = database.write("r", async (queries) => {
      await say(queries, "half", 2);
      await postgres().query(others);
      await say(queries, "other half", 3);
    });
    expect(await failure(broken)).toMatch(/broke the connection off; look whether/);
    expect(await database.read(labels)).toEqual(["before"]);
    await database.close();
  });
});

test("a URL is shown without its password and options", () => {
  expect(withoutPassword("postgres://u:p%40@h:5/d?password=q#r")).toBe("postgres://u@h:5/d");
  expect(withoutPassword("postgresql://h/d")).toBe("postgresql://h/d");
  expect(withoutPassword("postgres://u:p/q@h:x/d")).toBe("postgres://…");
});

async function say(queries: Queries, label: string, version: number): Promise<void> {
  const content = { label, notes: "", tags: "[]", rating: null, confidence: null };
  const by = { author: "ada", time: "", action: "edit", position: version, parent: 0 };
  const row = { run: "r", latent: 1, version, ...content, ...by };
  await queries.insertInto("annotations").values(row).execute();
}

async function labels(queries: Queries): Promise<string[]> {
  const rows = await queries.selectFrom("annotations").select("label").orderBy("version").execute();
  return rows.map(({ label }) => label);
}

async function schemaVersions(queries: Queries): Promise<number[]> {
  const rows = await queries.selectFrom("schema_version").select("version").execute();
  return rows.map(({ version }) => version);
}

/** The message of the UserError that this must come to. */
async function failure(promise: Promise<unknown>): Promise<string> {
  const error: unknown = await promise.then(
    () => undefined,
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(UserError);
  return (error as UserError).message;
}
