/** Servers that others can reach: the token, secrets, and what may be read. */
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { usePostgres } from "../databases.ts";
import { scratch, startServer, Client, type Answer, type TestServer } from "./server.ts";
import { copyRun } from "./shared-run.ts";

const root = scratch();
const folder = join(root, "runs");
const page = join(root, "page");
const TOKEN = "a-token-of-the-tests/+=";
const RUN = "small_20260102_030405_0123abcd";
let server: TestServer;
beforeAll(async () => {
  await copyRun(folder, RUN);
  mkdirSync(page);
  writeFileSync(join(page, "index.html"), "<title>Lens</title>");
  writeFileSync(join(page, "page.js"), "export {};");
  server = await startServer({ runs: folder, page, token: TOKEN });
});
afterAll(() => server.close());

const bearer = (token: string) => ({ Authorization: `Bearer ${token}` });

describe("a server with a token", () => {
  test("answers nobody without it: API, files and events", async () => {
    for (const headers of [
      {},
      bearer("wrong"),
      bearer(""),
      { Authorization: TOKEN },
      { Cookie: "lens_token=wrong" },
      { Cookie: "other=1" },
    ] as Record<string, string>[])
      for (const path of [
        "/",
        "/page.js",
        "/nothing",
        "/api/runs",
        "/api/openapi.json",
        "/api/jobs/live",
        "/api/nothing",
      ]) {
        const answer = await server.client.send("GET", path, { headers });
        expect([path, headers, answer.status]).toEqual([path, headers, 401]);
        expect(answer.headers["content-security-policy"]).toContain("script-src 'self'");
      }
    const wrong = await server.client.send("GET", "/?token=wrong");
    expect([wrong.status, wrong.headers["set-cookie"]]).toEqual([401, undefined]);
    const posted = await server.client.send("POST", `/api/jobs?token=${encodeURIComponent(TOKEN)}`);
    expect(posted.status).toBe(401);
    const deleted = await server.client.send("DELETE", `/api/runs/${RUN}`);
    expect(deleted.status).toBe(401);
  });

  test("turns the one in the address into a cookie that scripts cannot read", async () => {
    const token = encodeURIComponent(TOKEN);
    const first = await server.client.send("GET", `/runs?tab=1&token=${token}&x=%26`);
    expect(first.status).toBe(302);
    expect(first.headers.location).toBe("/runs?tab=1&x=%26");
    const [cookie, ...attributes] = first.headers["set-cookie"]![0].split("; ");
    expect(attributes).toEqual(expect.arrayContaining(["HttpOnly", "SameSite=Strict", "Path=/"]));
    for (const path of ["/", "/page.js", "/api/runs"])
      expect((await server.client.send("GET", path, { headers: { Cookie: cookie } })).status).toBe(
        200,
      );
  });

  test("leads nowhere else from an address with the token", async () => {
    for (const path of [
      "//evil.example/",
      "///evil.example",
      "/\\evil.example/",
      "//evil.example/%2e%2e",
    ]) {
      const { headers } = await server.client.send(
        "GET",
        `${path}?token=${encodeURIComponent(TOKEN)}`,
      );
      const { host } = new URL(headers.location ?? "/", "http://here.example/");
      expect([path, host]).toEqual([path, "here.example"]);
    }
  });

  test("takes it as a bearer's", async () => {
    const client = new Client(server.port, bearer(TOKEN));
    expect(await client.get("/api/health")).toMatchObject({ status: "ok" });
    expect((await client.events("/api/jobs/live", (events) => events.length > 1)).at(-1)).toEqual({
      ...{ event: "jobs", data: "[]" },
    });
  });

  test("never says it, nor does a refusal", async () => {
    const client = new Client(server.port, bearer(TOKEN));
    const answers: Answer[] = [];
    for (const path of [
      "/",
      "/api/health",
      "/api/runs",
      `/api/runs/${RUN}`,
      "/api/setup",
      "/api/openapi.json",
      "/api/jobs",
      "/api/nothing",
      `/api/runs/${RUN}/features?query=fires`,
    ])
      answers.push(await client.send("GET", path), await server.client.send("GET", path));
    answers.push(await server.client.send("GET", `/?token=${encodeURIComponent(TOKEN)}`));
    for (const { text } of answers) {
      expect(text).not.toContain(TOKEN);
      expect(text).not.toContain(encodeURIComponent(TOKEN));
    }
  });

  test("asks for the right name before it asks for the token", async () => {
    const headers = { ...bearer(TOKEN), Host: "evil.example" };
    expect((await server.client.send("GET", "/api/runs", { headers })).status).toBe(403);
  });
});

test("an empty token is none: on loopback nobody needs one, beyond it one is made", async () => {
  const near = await startServer({ runs: folder, token: "" });
  expect(await near.client.get("/api/health")).toMatchObject({ status: "ok" });
  await near.close();
  const far = await startServer({ runs: folder, host: "0.0.0.0", token: "" });
  expect((await far.client.send("GET", "/api/health", { headers: bearer("") })).status).toBe(401);
  await far.close();
});

test("names of loopback that are allowed open nothing: no token, any folder", async () => {
  const allowHosts = ["localhost", "LOCALHOST", "127.0.0.1", "127.8.0.1", "[::1]"];
  const near = await startServer({ runs: folder, allowHosts });
  const headers = { Host: `127.8.0.1:${near.port}` };
  expect((await near.client.send("GET", "/api/health", { headers })).status).toBe(200);
  const said = await near.client.refused("GET", "/api/setup/model?model=/etc/nothing", 400);
  expect(said).not.toContain("below its own folder");
  await near.close();
});

describe.each([
  ["that listens beyond loopback", { host: "0.0.0.0" }],
  ["that answers to a name from beyond loopback", { allowHosts: ["localhost", "lens.example"] }],
])("a server %s", (_, options) => {
  let far: TestServer;
  let client: Client;
  const place = scratch();
  const outside = join(place, "outside");
  const inside = join(place, "inside");
  const before = process.cwd();
  beforeAll(async () => {
    for (const own of [outside, join(inside, "below")]) {
      mkdirSync(own, { recursive: true });
      writeFileSync(join(own, "text.txt"), "Once upon a time.\n");
    }
    symlinkSync(outside, join(inside, "link"));
    symlinkSync(join(outside, "text.txt"), join(inside, "link.txt"));
    mkdirSync(join(inside, "..below"));
    writeFileSync(join(inside, "..below", "text.txt"), "Once upon a time.\n");
    process.chdir(inside);
    far = await startServer({ runs: folder, ...options });
    client = new Client(far.port, bearer(new URL(far.url).searchParams.get("token")!));
  });
  afterAll(async () => {
    await far.close();
    process.chdir(before);
  });

  test("makes a token by itself, a new one each time", async () => {
    const token = new URL(far.url).searchParams.get("token")!;
    expect(token).toMatch(/^[\w-]{32,}$/);
    expect((await far.client.send("GET", "/api/runs")).status).toBe(401);
    expect(await client.get("/api/health")).toMatchObject({ status: "ok" });
    const again = await startServer({ runs: folder, ...options });
    expect(new URL(again.url).searchParams.get("token")).not.toBe(token);
    await again.close();
  });

  test("asks for it whatever name it is asked under", async () => {
    const names = ["localhost", ...("allowHosts" in options ? ["lens.example"] : [])];
    for (const name of names) {
      const status = async (headers: Record<string, string>) =>
        (await far.client.send("GET", "/api/runs", { headers: { Host: name, ...headers } })).status;
      expect([name, await status({}), await status(client.headers)]).toEqual([name, 401, 200]);
    }
  });

  const CONFINED = "below its own folder only";
  const paths = [
    "/etc/passwd",
    "..",
    "../outside",
    "below/../../outside",
    "link",
    "link/text.txt",
    "link/nothing",
    "link.txt",
    join(outside, "text.txt"),
  ];
  test.each(paths)("reads nothing from %s", async (path) => {
    const model = (own: object) => ({ activations: { from: "model", ...own } });
    const read = (own: object) => ({ activations: { from: "folder", path: "below", ...own } });
    for (const config of [
      model({ model: path }),
      model({ data: path }),
      model({ data: ["builtin:stories", { source: path }] }),
      read({ path }),
      read({ targetPath: path }),
      read({ joinPaths: ["below", path] }),
      read({ validationPath: path }),
      { train: { from: path } },
      { features: { store: path } },
    ])
      for (const target of ["/api/runs", "/api/setup/estimate"])
        expect(await client.refused("POST", target, 400, { config })).toContain(CONFINED);
    const named = encodeURIComponent(path);
    expect(await client.refused("GET", `/api/setup/model?model=${named}`, 400)).toContain(CONFINED);
    expect(await client.get("/api/jobs")).toEqual([]);
  });

  test("fetches nothing from the web", async () => {
    const config = { activations: { from: "model", data: "https://example.org/x.jsonl" } };
    expect(await client.refused("POST", "/api/runs", 400, { config })).toContain(
      "fetches nothing from the web; got https://example.org/x.jsonl",
    );
  });

  test("fetches no model of the hub, in whatever way it is asked to", async () => {
    for (const model of ["owner/name", "gpt2", "owner/name@main"]) {
      const config = { activations: { from: "model", model } };
      const said = [
        await client.refused("POST", "/api/runs", 400, { config }),
        await client.refused("POST", "/api/setup/estimate", 400, { config }),
        await client.refused("GET", `/api/setup/model?model=${encodeURIComponent(model)}`, 400),
      ];
      for (const one of said) expect(one).toContain("fetches no models from the Hugging Face hub");
    }
    expect(await client.get("/api/jobs")).toEqual([]);
  });

  test("fetches no data set of the hub, alone or in a mixture", async () => {
    for (const data of [
      "owner/name",
      "owner/name@v1:en/train",
      ["builtin:stories", "owner/name"],
    ]) {
      const config = { activations: { from: "model", model: "builtin:tiny", data } };
      for (const target of ["/api/runs", "/api/setup/estimate"])
        expect(await client.refused("POST", target, 400, { config })).toContain(
          "fetches no data sets from the Hugging Face hub",
        );
    }
    expect(await client.get("/api/jobs")).toEqual([]);
  });

  test.each(["below", "below/text.txt", "./below", "..below", "nothing"])(
    "looks at %s, which is its own",
    async (path) => {
      const said = await client.refused("GET", `/api/setup/model?model=${path}`, 400);
      expect(said).not.toContain(CONFINED);
    },
  );
});

describe("the password of a database", () => {
  const postgres = usePostgres();

  test("is in no answer, whether the database is there or not", async () => {
    const { password } = postgres();
    const database = await postgres().createDatabase();
    const secrets = [password, encodeURIComponent(password)];
    const own = await startServer({ runs: folder, database });
    const ask = async () => {
      for (const path of [
        "/api/health",
        "/api/setup",
        `/api/runs/${RUN}/annotations`,
        `/api/runs/${RUN}/features?query=is:labelled`,
      ]) {
        const { text } = await own.client.send("GET", path);
        for (const secret of secrets) expect(text).not.toContain(secret);
      }
    };
    await ask();
    await postgres().stop();
    await ask();
    expect((await own.client.send("GET", `/api/runs/${RUN}/annotations`)).status).toBe(400);
    await own.close();
    for (const url of [database, database.replace(/:\d+\//, ":1/"), `${database}?sslmode=%`]) {
      const refused = await startServer({ runs: folder, database: url }).then(
        () => "",
        (error: unknown) => String(error),
      );
      expect(refused).not.toBe("");
      for (const secret of secrets) expect(refused).not.toContain(secret);
    }
  });
});
