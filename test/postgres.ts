/** A PostgreSQL server of its own for tests, where PostgreSQL is installed. */
import { execFile, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync } from "node:fs";
import { chown, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { delimiter, join } from "node:path";
import { tmpdir } from "node:os";
import { promisify } from "node:util";
import pg from "pg";

export interface PostgresServer {
  port: number;
  user: string;
  /** As it is, not as it is written in a URL. */
  password: string;
  /** The URL of a database on this server. */
  url(database: string): string;
  /** Makes an empty database and returns its URL. */
  createDatabase(options?: string): Promise<string>;
  /** Runs SQL in the server's own database. */
  query(sql: string): Promise<unknown[]>;
  /** Stops the server and deletes all it has. */
  stop(): Promise<void>;
}

const USER = "lens";
/** With everything in it that must be escaped in a URL. */
const PASSWORD = "s3cr:t/p@ss#w?rd%";

/**
 * Starts a server in a temporary folder, on a free port of 127.0.0.1.
 * @returns why not, where there is none to start.
 * @throws when there is none although the environment says POSTGRES=required.
 */
export async function startPostgres(): Promise<PostgresServer | string> {
  const bin = findPrograms();
  const account = bin === undefined ? undefined : unprivileged();
  const missing =
    bin === undefined
      ? "PostgreSQL is not installed (apt-get install postgresql)"
      : typeof account === "string"
        ? account
        : undefined;
  if (missing !== undefined) {
    if (process.env.POSTGRES === "required")
      throw new Error(`the environment says POSTGRES=required, but ${missing}`);
    return missing;
  }
  return start(bin!, account as Account);
}

type Account = { uid?: number; gid?: number };

async function start(bin: string, account: Account): Promise<PostgresServer> {
  const folder = await mkdtemp(join(tmpdir(), "lens-postgres-"));
  const passwordFile = join(folder, "password");
  await writeFile(passwordFile, PASSWORD);
  if (account.uid !== undefined)
    for (const path of [folder, passwordFile]) await chown(path, account.uid, account.gid!);
  const data = join(folder, "data");
  const options = { ...account, cwd: folder, env: { ...process.env, LC_ALL: "C" } };
  const init = ["-D", data, "-U", USER, "-E", "UTF8", "--locale=C", "--no-sync"];
  await promisify(execFile)(
    join(bin, "initdb"),
    [...init, "--auth=scram-sha-256", `--pwfile=${passwordFile}`],
    options,
  );
  const port = await freePort();
  const settings = ["fsync=off", "max_connections=40", "shared_buffers=16MB"];
  const server = spawn(
    join(bin, "postgres"),
    ["-D", data, "-h", "127.0.0.1", "-p", String(port), "-k", folder].concat(
      settings.flatMap((setting) => ["-c", setting]),
    ),
    { ...options, stdio: ["ignore", "ignore", "pipe"] },
  );
  const gone = once(server, "exit");
  const killed = () => server.kill("SIGQUIT");
  process.once("exit", killed);
  let log = "";
  await new Promise<void>((ready, failed) => {
    server.stderr.setEncoding("utf8").on("data", (text: string) => {
      log += text;
      if (log.includes("ready to accept connections")) ready();
    });
    void gone.then(() => failed(new Error(`PostgreSQL did not start:\n${log}`)));
  });

  const url = (database: string) =>
    `postgres://${USER}:${encodeURIComponent(PASSWORD)}@127.0.0.1:${port}/${database}`;
  const query = async (sql: string): Promise<unknown[]> => {
    const client = new pg.Client({ connectionString: url("postgres") });
    await client.connect();
    try {
      return (await client.query(sql)).rows as unknown[];
    } finally {
      await client.end();
    }
  };
  let databases = 0;
  return {
    port,
    user: USER,
    password: PASSWORD,
    url,
    query,
    createDatabase: async (clauses = "") => {
      const name = `lens_${++databases}`;
      await query(`create database ${name} ${clauses}`);
      return url(name);
    },
    stop: async () => {
      // Not waiting for connections that a failed test left open.
      server.kill("SIGINT");
      await gone;
      process.off("exit", killed);
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** The folder with initdb and postgres; Debian does not put them on the PATH. */
function findPrograms(): string | undefined {
  const debian = "/usr/lib/postgresql";
  const versions = existsSync(debian) ? readdirSync(debian) : [];
  const newestFirst = versions.sort((a, b) => Number(b) - Number(a));
  const folders = [
    ...(process.env.PATH ?? "").split(delimiter),
    ...newestFirst.map((version) => join(debian, version, "bin")),
  ];
  return folders.find((folder) =>
    ["initdb", "postgres"].every((program) => existsSync(join(folder, program))),
  );
}

/** Whom to run it as, since it refuses to be root; a reason when there is nobody. */
function unprivileged(): Account | string {
  if (process.getuid?.() !== 0) return {};
  try {
    const [uid, gid] = ["-u", "-g"].map((flag) =>
      Number(execFileSync("id", [flag, "postgres"], { stdio: "pipe" })),
    );
    return { uid, gid };
  } catch {
    return "PostgreSQL does not run as root, and there is no user postgres to run it as";
  }
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address() as AddressInfo;
  probe.close();
  await once(probe, "close");
  return port;
}
