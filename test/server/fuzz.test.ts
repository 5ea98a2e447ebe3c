/**
 * The API against its own description: requests made from the schemas, right and wrong ones, must get
 * the answers that the description says. FUZZ_SEED=<n> makes others; a failure names its seed and request.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { lockFolder, unlockFolder } from "../../src/lock.ts";
import type { Services } from "../../src/server/api.ts";
import { createApp } from "../../src/server/app.ts";
import { createJob, jobsFolder } from "../../src/workbench/job-folder.ts";
import { scratch, startServer, type Answer, type TestServer } from "./server.ts";
import { copyRun, SMALL } from "./shared-run.ts";
import { Values, type Schema } from "./values.ts";

const SEED = Number(process.env.FUZZ_SEED ?? 1);
const RUN = "small_20260102_030405_0123abcd";

interface Parameter {
  name: string;
  in: "path" | "query";
  required?: boolean;
  schema: Schema & { pattern?: string };
}
type Content = Record<string, { schema: Schema }>;
interface Operation {
  summary?: string;
  parameters?: Parameter[];
  requestBody?: { required?: boolean; content: Content };
  responses: Record<string, { description?: string; content?: Content }>;
}
interface Document {
  openapi: string;
  info: { title: string; version: string };
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, Schema> };
}

// The description needs no services, and tests are named by it.
const app = createApp({
  services: {} as Services,
  ...{ guard: { hosts: ["localhost"] }, version: "0", closing: new AbortController().signal },
});
const described = await app.request("/api/openapi.json", { headers: { Host: "localhost" } });
const document = (await described.json()) as Document;
const operations = Object.entries(document.paths).flatMap(([path, all]) =>
  Object.entries(all).map(([method, operation]) => ({
    ...{ name: `${method.toUpperCase()} ${path}`, method, path, operation },
  })),
);

const ajv = new Ajv2020({ strict: false, validateFormats: false, allErrors: false });
ajv.addSchema(document, "api", undefined, false);
const validators = new Map<string, ValidateFunction>();
/** Checks against a schema where it stands in the document, so that its references lead somewhere. */
function validatorAt(...way: string[]): ValidateFunction {
  const pointer = way.map((part) => part.replaceAll("~", "~0").replaceAll("/", "~1")).join("/");
  const $ref = `api#/${pointer.split("/").map(encodeURIComponent).join("/")}`;
  const known = validators.get($ref) ?? ajv.compile({ $ref });
  validators.set($ref, known);
  return known;
}
const resolve = (ref: string): Schema =>
  document.components.schemas[ref.replace("#/components/schemas/", "")];

describe("the description", () => {
  test("is of OpenAPI 3.1, and its references lead somewhere", () => {
    expect(document.openapi).toMatch(/^3\.1\.\d+$/);
    expect(document.info).toMatchObject({ title: "Lens", version: "0" });
    expect(operations.length).toBeGreaterThan(35);
    const refs = [...JSON.stringify(document).matchAll(/"\$ref":"([^"]*)"/g)].map(([, ref]) => ref);
    expect(refs.length).toBeGreaterThan(30);
    for (const ref of refs) expect([ref, resolve(ref)]).not.toEqual([ref, undefined]);
  });

  test.each(operations)("of $name is whole", ({ path, method, operation }) => {
    expect(operation.summary).toMatch(/^[A-Z].{5,}/);
    const named = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
    const parameters = operation.parameters ?? [];
    const inPath = parameters.filter((one) => one.in === "path");
    expect(inPath.map(({ name }) => name).sort()).toEqual([...named].sort());
    for (const { required } of inPath) expect(required).toBe(true);
    for (const { schema } of parameters)
      expect(ajv.validateSchema(schema), JSON.stringify([schema, ajv.errors])).toBe(true);
    const statuses = Object.keys(operation.responses);
    expect(statuses).toEqual(expect.arrayContaining(["401", "403", "500"]));
    expect(statuses.some((status) => /^2\d\d$/.test(status))).toBe(true);
    if (parameters.length > 0) expect(statuses).toContain("400");
    if (operation.requestBody)
      expect(statuses).toEqual(expect.arrayContaining(["400", "413", "415"]));
    expect(operation.requestBody !== undefined).toBe(
      ["post", "patch"].includes(method) && !path.endsWith("/{action}"),
    );
    for (const { description, content } of Object.values(operation.responses)) {
      expect(description).toMatch(/\w/);
      for (const { schema } of Object.values(content ?? {}))
        expect(ajv.validateSchema(schema), JSON.stringify(ajv.errors)).toBe(true);
    }
  });
});

const folder = scratch();
const held = join(jobsFolder(folder), "held");
let server: TestServer;
/** What parameters of these names may stand for that is there. */
const known: Record<string, string[]> = {
  run: [RUN],
  runs: [RUN, `${RUN},${RUN}`],
  latent: ["0", "5", "63"],
  job: ["held", "done"],
  group: [],
  model: ["builtin:tiny"],
  sort: ["density", "-max", "x", "-rating"],
  by: ["density", "-f1"],
  query: ["density<0.1", "is:dead", "-label:dog", 'fires:"the dog"'],
};
/** Runs and jobs that may go. */
const SPARE: Record<string, string[]> = {
  "DELETE /api/runs/{run}": ["spare-0", "spare-1", "spare-2"],
  "DELETE /api/jobs/{job}": ["spare-0", "spare-1", "held"],
};
beforeAll(async () => {
  await copyRun(folder, RUN);
  const order = { kind: "map", title: "", args: [], created: "2026-01-02T03:04:05.000Z" };
  const exit = { code: 0, finished: order.created };
  createJob(folder, { ...order, id: "done", run: RUN }, { "exit.json": exit });
  // One job runs for ever: those that are asked for here wait, and none is started.
  createJob(folder, { ...order, id: "held" }, { "started.json": {} });
  lockFolder(held);
  server = await startServer({ runs: folder });
});
afterAll(async () => {
  await server.close();
  unlockFolder(held);
});

/** What takes long is asked less often. */
const COUNTS: Record<string, number> = {
  "GET /api/runs/{run}/features/{latent}/neighbors": 60,
  "POST /api/runs/{run}/analyse": 100,
  "POST /api/runs/{run}/attribute": 60,
  "POST /api/runs/{run}/steer": 60,
  "POST /api/setup/estimate": 30,
  "GET /api/setup/model": 60,
  "GET /api/runs/{run}/live": 40,
  "GET /api/jobs/live": 10,
};
const COUNT = 120;
const SIMPLE = 5;

/** Changes that keep a right request quick, or make it ask about something that is there. */
const TAMED: Record<string, (body: Record<string, unknown>, values: Values) => unknown> = {
  "POST /api/runs": (body, values) => (values.chance(0.3) ? { config: SMALL } : body),
  "POST /api/jobs": (body, values) => (values.chance(0.7) ? { ...body, run: RUN } : body),
  "POST /api/runs/{run}/steer": (body) => ({ ...body, maxNewTokens: 2 }),
  "POST /api/runs/{run}/labels/import": (body, values) =>
    values.chance(0.5) ? { ...body, annotations: [{ latent: 3, label: "x" }], groups: [] } : body,
  "POST /api/runs/{run}/features/{latent}/restore": (body, values) =>
    values.chance(0.7) ? { version: 1 } : body,
  // The settings of none are those of a run that takes minutes.
  "POST /api/setup/estimate": (body, values) => ({
    config: values.chance(0.15) ? SMALL : { ...(body.config as object), nothing: 1 },
  }),
};

interface Asked {
  path: string;
  body?: string;
  type?: string;
  /** The description forbids it. */
  isWrong: boolean;
}

function isWrongText(
  text: string,
  {
    type,
    enum: all,
    pattern,
    minLength = 0,
    minimum = -Infinity,
    maximum = Infinity,
  }: Parameter["schema"],
): boolean {
  if (type === "integer") {
    const value = Number(text);
    return !Number.isInteger(value) || value < minimum || value > maximum;
  }
  return (
    (all !== undefined && !all.includes(text)) ||
    (pattern !== undefined && !new RegExp(pattern).test(text)) ||
    text.length < minLength
  );
}

function request(
  name: string,
  path: string,
  method: string,
  operation: Operation,
  values: Values,
): Asked {
  let isWrong = false;
  const pairs: string[] = [];
  let filled = path;
  for (const parameter of operation.parameters ?? []) {
    const { name: key, schema, required } = parameter;
    const there = key === "run" || key === "job" ? (SPARE[name] ?? known[key]) : known[key];
    let text =
      there?.length && values.chance(0.8)
        ? values.pick(there)
        : values.chance(0.7)
          ? String(values.valid(schema))
          : values.text();
    text = text.replace(/\p{Surrogate}/gu, "");
    if (parameter.in === "path") {
      if (/^\.{0,2}$/.test(text)) text = "nothing"; // another path
      isWrong ||= isWrongText(text, schema);
      filled = filled.replace(`{${key}}`, () => encodeURIComponent(text));
    } else if (required ? values.chance(0.9) : values.chance(0.5)) {
      isWrong ||= isWrongText(text, schema);
      pairs.push(`${key}=${encodeURIComponent(text)}`);
    } else isWrong ||= required === true;
  }
  if (values.chance(0.1)) pairs.push("more=1");
  const asked: Asked = {
    path: pairs.length > 0 ? `${filled}?${pairs.join("&")}` : filled,
    isWrong,
  };
  const schema = operation.requestBody?.content["application/json"].schema;
  if (!schema) return asked;
  const right = values.valid(schema) as Record<string, unknown>;
  const tamed = TAMED[name]?.(right, values) ?? right;
  const kind = values.next();
  if (kind < 0.04) return { ...asked, body: '{"a":', type: "application/json", isWrong: true };
  if (kind < 0.08)
    return { ...asked, body: JSON.stringify(tamed), type: "text/plain", isWrong: true };
  const validate = validatorAt(
    "paths",
    path,
    method,
    "requestBody",
    "content",
    "application/json",
    "schema",
  );
  const body = kind < 0.5 ? JSON.stringify(tamed) : JSON.stringify(values.spoiled(tamed));
  const isRight = validate(JSON.parse(body));
  return { ...asked, body, type: "application/json", isWrong: isWrong || !isRight };
}

async function ask(method: string, { path, body, type }: Asked): Promise<Answer> {
  if (!path.includes("/live"))
    return server.client.send(method, path, {
      ...(type !== undefined && { headers: { "Content-Type": type } }),
      ...(body !== undefined && { body }),
    });
  // These never end: what they begin with is enough.
  const response = await fetch(`${server.url.slice(0, -1)}${path}`);
  const headers = Object.fromEntries(response.headers) as Answer["headers"];
  const isStream = headers["content-type"] === "text/event-stream";
  const text = isStream ? "" : await response.text();
  await response.body?.cancel().catch(() => undefined);
  return { status: response.status, headers, text, bytes: Buffer.alloc(0) };
}

describe(`requests of seed ${SEED}`, () => {
  test.each(operations)("$name", async ({ name, method, path, operation }) => {
    const nth = operations.findIndex((one) => one.name === name);
    const values = new Values(SEED * 1000 + nth, resolve);
    const isPlain = !operation.parameters && !operation.requestBody;
    const count = COUNTS[name] ?? (isPlain ? SIMPLE : COUNT);
    const seen: Record<string, number> = {};
    for (let i = 0; i < count; i++) {
      if (method === "delete" || path.endsWith("/groups/{group}")) await renew(values);
      const asked = request(name, path, method, operation, values);
      const answer = await ask(method.toUpperCase(), asked);
      const { status, headers, text } = answer;
      seen[status] = (seen[status] ?? 0) + 1;
      const about = `seed ${SEED}, request ${i}: ${JSON.stringify(asked).slice(0, 2000)}\n${status} ${text.slice(0, 500)}`;
      expect(status, about).toBeLessThan(500);
      if (asked.isWrong) expect(status, about).toBeGreaterThanOrEqual(400);
      expect(Object.keys(operation.responses), about).toContain(String(status));
      const [type] = headers["content-type"]!.split(";");
      const content = operation.responses[status].content!;
      expect(Object.keys(content), about).toContain(type);
      if (type !== "application/json") continue;
      const validate = validatorAt(
        "paths",
        path,
        method,
        "responses",
        String(status),
        "content",
        type,
        "schema",
      );
      validate(JSON.parse(text));
      expect(validate.errors ?? [], about).toEqual([]);
    }
    // Not all were refused, nor all taken where there is something to get wrong.
    const taken = Object.keys(seen).filter((status) => status < "300");
    expect(taken, JSON.stringify(seen)).toHaveLength(1);
    if (!isPlain) expect(Object.keys(seen).length, JSON.stringify(seen)).toBeGreaterThan(1);
  });
});

/** Something to delete or change. */
async function renew(values: Values): Promise<void> {
  const id = `spare-${values.below(3)}`;
  mkdirSync(join(folder, id), { recursive: true });
  writeFileSync(join(folder, id, "config.json"), "{}");
  const order = { kind: "map", title: "", args: [], created: "2026-01-02T03:04:05.000Z" };
  const exit = { code: 0, finished: order.created };
  createJob(folder, { ...order, id }, { "exit.json": exit });
  if (known.group.length > 0 && values.chance(0.7)) return;
  const name = `g ${values.next()}`;
  const groups = `/api/runs/${RUN}/groups`;
  const { id: group } = await server.client.post<{ id: string }>(groups, { name });
  known.group = [...known.group.slice(-3), group];
}
