/** Who is answered, what an answer carries, and what a request cannot reach. */
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { serve } from "../../src/server/serve.ts";
import { scratch, startServer, type Client, type Request, type TestServer } from "./server.ts";
import { copyRun } from "./shared-run.ts";

const root = scratch();
const folder = join(root, "runs");
const page = join(root, "page");
const RUN = "small_20260102_030405_0123abcd";
const SECRET = "what lies outside";
let server: TestServer;
let client: Client;
beforeAll(async () => {
  await copyRun(folder, RUN);
  mkdirSync(join(page, "assets"), { recursive: true });
  writeFileSync(join(page, "index.html"), "<!doctype html><title>Lens</title>");
  writeFileSync(join(page, "assets", "page-0123.js"), "export {};");
  mkdirSync(join(root, "outside", "sae"), { recursive: true });
  for (const name of ["outside/config.json", "outside/job.json", "secret"])
    writeFileSync(join(root, name), JSON.stringify({ id: "outside", secret: SECRET }));
  server = await startServer({ runs: folder, page });
  ({ client } = server);
});
afterAll(() => server.close());

const LIVE = "/api/jobs/live";
const JSON_BODY = { headers: { "Content-Type": "application/json" }, body: "{}" };
const withHeaders = (headers: Record<string, string>, request: Request = {}): Request => ({
  ...request,
  headers: { ...request.headers, ...headers },
});

/** What every answer must carry, whatever it is. */
function isGuarded({ headers }: { headers: Record<string, unknown> }): void {
  const policy = String(headers["content-security-policy"]);
  expect(policy).toContain("default-src 'none'");
  expect(policy).toContain("frame-ancestors 'none'");
  const scripts = /script-src ([^;]*)/.exec(policy)![1];
  expect(scripts).toBe("'self'");
  expect(headers["x-content-type-options"]).toBe("nosniff");
  expect(headers["referrer-policy"]).toBe("no-referrer");
  expect(Object.keys(headers).filter((name) => name.startsWith("access-control"))).toEqual([]);
}

describe("who is answered", () => {
  test.each(["GET", "POST", "SSE"])("another host or origin is refused on %s", async (kind) => {
    const [method, path] = kind === "POST" ? ["POST", "/api/jobs"] : ["GET", kind === "SSE" ? LIVE : "/api/runs"]; // prettier-ignore
    const body = kind === "POST" ? JSON_BODY : {};
    const own = `127.0.0.1:${server.port}`;
    for (const headers of [
      { Host: "evil.example" },
      { Host: `evil.example:${server.port}` },
      { Host: `127.0.0.1.evil.example:${server.port}` },
      { Host: own, Origin: "http://evil.example" },
      { Host: own, Origin: `http://localhost:${server.port}` },
      { Host: own, Origin: `http://127.0.0.1:${server.port + 1}` },
      { Host: own, Origin: "null" },
      { Host: own, "Sec-Fetch-Site": "cross-site" },
      { Host: own, "Sec-Fetch-Site": "same-site" },
    ] as Record<string, string>[]) {
      const answer = await client.send(method, path, withHeaders(headers, body));
      expect([headers, answer.status]).toEqual([headers, 403]);
      isGuarded(answer);
    }
  });

  test("a request of this server's own pages is answered, and one of a program", async () => {
    const status = async (headers: Record<string, string>) =>
      (await client.send("GET", "/api/runs", { headers })).status;
    for (const host of ["127.0.0.1", "localhost", "[::1]", "LOCALHOST"]) {
      const own = `${host}:${server.port}`;
      expect(await status({ Host: own })).toBe(200);
      expect(await status({ Host: own, Origin: `http://${own}` })).toBe(200);
      expect(await status({ Host: own, "Sec-Fetch-Site": "same-origin" })).toBe(200);
    }
    expect(await status({ "Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate" })).toBe(200);
  });

  test("another site may link here, but neither frame a page nor send a form", async () => {
    const navigation = { "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate" };
    const status = async (method: string, dest: string, request: Request = {}) => {
      const headers = { ...navigation, "Sec-Fetch-Dest": dest };
      return (await client.send(method, "/", withHeaders(headers, request))).status;
    };
    expect(await status("GET", "document")).toBe(200);
    expect(await status("GET", "iframe")).toBe(403);
    expect(await status("GET", "object")).toBe(403);
    expect(await status("POST", "document", JSON_BODY)).toBe(403);
  });

  test("a name that was allowed is answered to as well", async () => {
    const other = await startServer({ runs: folder, allowHosts: ["Lens.example"] });
    const token = new URL(other.url).searchParams.get("token")!;
    const ask = async (host: string) => {
      const headers = { Host: host, Authorization: `Bearer ${token}` };
      return (await other.client.send("GET", "/api/health", { headers })).status;
    };
    expect(await ask("lens.example")).toBe(200);
    expect(await ask("127.0.0.1")).toBe(200);
    expect(await ask("more.lens.example")).toBe(403);
    await other.close();
  });
});

test("every answer carries the policy, errors and files too, and allows no other origin", async () => {
  const ask = (method: string, path: string, request?: Request) =>
    client.send(method, path, request);
  const answers = await Promise.all([
    ask("GET", "/"),
    ask("GET", "/assets/page-0123.js"),
    ask("GET", "/nothing"),
    ask("GET", "/api/nothing"),
    ask("GET", "/api/runs"),
    ask("GET", "/api/openapi.json"),
    ask("GET", `/api/runs/${RUN}/columns`),
    ask("GET", `/api/runs/${RUN}/labels/export?format=csv`),
    ask("GET", "/api/runs/nothing"),
    ask("GET", `/api/runs/${RUN}/features?limit=x`),
    ask("POST", "/api/jobs", JSON_BODY),
    ask("POST", "/api/jobs", { ...JSON_BODY, body: "{" }),
    ask("POST", "/api/jobs", { headers: { "Content-Type": "text/plain" }, body: "{}" }),
    ask("POST", "/api/jobs", { ...JSON_BODY, body: " ".repeat(2 ** 20 + 1) }),
    ask("PUT", "/api/runs"),
    ask("OPTIONS", "/api/runs", { headers: { "Access-Control-Request-Method": "PUT" } }),
    ask("HEAD", "/"),
  ]);
  const statuses = answers.map(({ status }) => status);
  expect(statuses).toEqual([
    ...[200, 200, 404, 404, 200, 200, 200, 200, 404, 400],
    ...[400, 400, 415, 413, 404, 404, 200],
  ]);
  answers.forEach(isGuarded);
  const heard = await fetch(`${server.url}api/jobs/live`);
  isGuarded({ headers: Object.fromEntries(heard.headers) });
  await heard.body!.cancel();
});

test("what cannot be read as a request is refused without ending the server", async () => {
  const raw = (text: string) =>
    new Promise<string>((done) => {
      let answer = "";
      const socket = connect(server.port, "127.0.0.1", () => socket.write(text));
      socket.setEncoding("utf8").on("data", (part) => {
        answer += String(part);
        socket.end();
      });
      socket.on("close", () => done(answer)).on("error", () => done(answer));
    });
  for (const text of [
    "GET / HTTP/1.1\r\n\r\n",
    "GET /api/runs HTTP/1.1\r\nHost: a b\r\n\r\n",
    "GET /api/runs HTTP/1.1\r\nHost: user@127.0.0.1\r\n\r\n",
    "GET /api/runs HTTP/1.1\r\nHost: 127.0.0.1/x\r\n\r\n",
    "GET http://evil.example/api/runs HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "nonsense\r\n\r\n",
  ])
    expect([text, await raw(text)]).toEqual([text, expect.stringMatching(/^HTTP\/1\.1 40[03] /)]);
  const odd = await client.send("GET", "/..\\outside");
  expect(odd.status).toBe(400);
  isGuarded(odd);
  expect(await client.get("/api/health")).toMatchObject({ status: "ok" });
});

describe("what a request cannot reach", () => {
  const ways = [
    "..",
    "%2e%2e",
    "..%2foutside",
    "..%2Foutside",
    "%2e%2e%2foutside",
    "%252e%252e%252foutside",
    "..%5coutside",
    "..\\outside",
    "%2Foutside",
    ".jobs",
    ".annotations",
    `${RUN}%2f..%2f..%2foutside`,
    `${RUN}/../../outside`,
    `${RUN}%00`,
    `${RUN}%0a`,
    "%00",
    "%ff",
    "%",
    ".",
    "%20",
    "C:%5coutside",
    "a".repeat(300),
  ];

  test.each([...ways, encodeURIComponent(join(root, "outside"))])("the run %s", async (way) => {
    for (const rest of [
      "",
      "/metrics",
      "/live",
      "/features",
      "/labels/export",
      "/map",
      "/results/concepts",
    ]) {
      const { status, text } = await client.send("GET", `/api/runs/${way}${rest}`);
      expect([400, 404]).toContain(status);
      expect(text).not.toContain(SECRET);
    }
    for (const [method, path] of [
      ["DELETE", ""],
      ["POST", "/groups"],
      ["POST", "/analyse"],
    ]) {
      const body = JSON.stringify(path === "/groups" ? { name: "g" } : { text: "a" });
      const request = method === "POST" ? { ...JSON_BODY, body } : {};
      const { status } = await client.send(method, `/api/runs/${way}${path}`, request);
      expect([400, 404]).toContain(status);
    }
    expect(existsSync(join(root, "outside", "config.json"))).toBe(true);
    expect(existsSync(join(folder, RUN, "config.json"))).toBe(true);
  });

  test.each([...ways, "..%2f..%2foutside"])("the job %s", async (way) => {
    for (const [method, rest] of [
      ["GET", ""],
      ["DELETE", ""],
      ["POST", "/stop"],
      ["POST", "/pause"],
    ]) {
      const { status, text } = await client.send(method, `/api/jobs/${way}${rest}`);
      expect([400, 404]).toContain(status);
      expect(text).not.toContain(SECRET);
    }
    expect(existsSync(join(root, "outside", "job.json"))).toBe(true);
    expect(existsSync(join(root, "outside", "stop"))).toBe(false);
  });

  test.each([
    ...ways,
    "../secret",
    "assets/../../secret",
    "..%2fsecret",
    "%2e%2e/secret",
    "/secret",
  ])("the file /%s", async (way) => {
    const { status, text } = await client.send("GET", `/${way}`);
    if (way === "." || way === ".." || way === "%2e%2e") expect(text).toContain("<title>Lens");
    else expect(status).toBe(way.includes("\\") ? 400 : 404);
    expect(text).not.toContain(SECRET);
  });

  test("runs that a job or a comparison names", async () => {
    for (const run of [
      "../outside",
      "..",
      join(root, "outside"),
      "",
      "\0",
      `${RUN}/../../outside`,
    ]) {
      await client.refused("POST", "/api/jobs", 404, { kind: "features", run });
      await client.refused("POST", "/api/jobs", 404, {
        kind: "compose",
        run: RUN,
        with: run || "..",
      });
      const runs = encodeURIComponent(`${RUN},${run}`);
      await client.refused("GET", `/api/compare?runs=${runs}`, 404);
    }
    expect(await client.get("/api/jobs")).toEqual([]);
  });

  test("a job's texts cannot become flags, paths or characters no process takes", async () => {
    const dose = {
      ...{ kind: "dose", run: RUN, latents: [1], unit: 2, strengths: [-1, 1] },
      ...{ regex: "{folder}" },
    };
    const refusal = await client.refused("POST", "/api/jobs", 400, { ...dose, prompt: "a\0b" });
    expect(refusal).toContain("NUL");
    const { args, id } = await client.post<{ args: string[]; id: string }>("/api/jobs", {
      ...dose,
      prompt: "--out=/{folder}",
    });
    expect(args.slice(-2)).toEqual(["--", "--out=/{folder}"]);
    expect(args).toContain("--regex={folder}");
    await client.post(`/api/jobs/${id}/stop`);
  });
});

describe("large bodies", () => {
  const LIMIT = 2 ** 20;
  const labels = `/api/runs/${RUN}/labels/import`;
  const pieces = (bytes: number) =>
    Array.from({ length: Math.ceil(bytes / 65536) }, () => Buffer.alloc(65536, 32));

  test.each(["/api/jobs", "/api/runs", `/api/runs/${RUN}/analyse`, "/api/setup/estimate"])(
    "are refused by %s, with a length and without",
    async (path) => {
      for (const body of [" ".repeat(LIMIT + 1), pieces(LIMIT + 1)]) {
        const answer = await client.send("POST", path, { ...JSON_BODY, body });
        expect(answer.status).toBe(413);
        expect(answer.text).toMatch(/"error":"a request may have \d+ bytes at most"/);
      }
      const fits = await client.send("POST", path, {
        ...JSON_BODY,
        body: `{}${" ".repeat(LIMIT - 2)}`,
      });
      expect(fits.status).toBe(400);
    },
  );

  test("are taken by an import of labels, up to its own limit", async () => {
    const body = `{"annotations":[]}${" ".repeat(4 * LIMIT)}`;
    expect((await client.send("POST", labels, { ...JSON_BODY, body })).status).toBe(200);
    const larger = await client.send("POST", labels, { ...JSON_BODY, body: pieces(33 * LIMIT) });
    expect(larger.status).toBe(413);
  });
});

test("text of people and settings comes back as it is, as JSON", async () => {
  const html = "<script>alert(1)</script>";
  await client.json("PATCH", `/api/runs/${RUN}/features/3/annotation`, { label: html });
  const config = join(folder, RUN, "config.json");
  const settings = JSON.parse(readFileSync(config, "utf8")) as Record<string, unknown>;
  writeFileSync(config, JSON.stringify({ ...settings, name: html }));
  for (const path of ["/api/runs", `/api/runs/${RUN}`, `/api/runs/${RUN}/features/3/annotation`]) {
    const answer = await client.send("GET", path);
    expect(answer.text).toContain(html);
    expect(answer.headers["content-type"]).toMatch(/^application\/json/);
    isGuarded(answer);
  }
  const missing = await client.send("GET", `/api/runs/${encodeURIComponent(html)}`);
  expect(missing.status).toBe(404);
  expect(missing.headers["content-type"]).toMatch(/^application\/json/);
});

test("a port that is taken is a matter of words", async () => {
  await expect(serve({ runs: folder, port: server.port })).rejects.toThrow(/port \d+ is taken/);
});

test("a link to another run folder is followed for reading, and deleting it leaves what it leads to", async () => {
  await copyRun(root, "linked_1");
  symlinkSync(join(root, "linked_1"), join(folder, "link_1"));
  expect(await client.get("/api/runs/link_1")).toMatchObject({ id: "link_1" });
  expect(await client.json("DELETE", "/api/runs/link_1")).toEqual({ deleted: "link_1" });
  expect(existsSync(join(root, "linked_1", "config.json"))).toBe(true);
});
