import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, test } from "vitest";

import { stubEndpoint, type Stub, type StubOptions } from "../../test/stub-endpoint.ts";
import { Endpoint, Unreadable, type EndpointOptions, type Question } from "./endpoint.ts";

const folder = await mkdtemp(join(tmpdir(), "lens-endpoint-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

let stub: Stub;
let caches = 0;
afterEach(() => stub.close());

async function opened(stubbed: StubOptions, options: Partial<EndpointOptions> = {}) {
  stub = await stubEndpoint(stubbed);
  const cache = join(folder, `cache${caches++}`);
  const all = { url: stub.url, model: "m", cache, backoffMs: 5, timeoutMs: 300, ...options };
  return { endpoint: await Endpoint.open(all), options: all };
}

function question(text: string, onText?: (text: string) => void): Question<number> {
  return {
    messages: [{ role: "user", content: text }],
    parse: (answer) => {
      if (!/^\d+$/.test(answer)) throw new Unreadable("no number");
      return Number(answer);
    },
    reminder: "a number, please",
    expectedTokens: 3,
    ...(onText && { onText }),
  };
}

const answer42 = { chat: () => "42" };
const times = (n: number, fault: ReturnType<NonNullable<StubOptions["fault"]>>) => (at: number) =>
  at < n ? fault : undefined;

describe("an endpoint", () => {
  test("answers once: the same question is then answered from disk, also by a later process", async () => {
    const { endpoint, options } = await opened(answer42, { key: "sk-secret" });
    expect(await endpoint.ask(question("a"))).toEqual({ value: 42 });
    expect(await endpoint.ask(question("a"))).toEqual({ value: 42 });
    const later = await Endpoint.open(options);
    expect(await later.ask(question("a"))).toEqual({ value: 42 });
    await later.ask(question("b"));
    expect(stub.requests).toHaveLength(2);
    expect(endpoint.counts).toMatchObject({ sent: 1, cached: 1, missing: 0 });
    expect(stub.requests[0]).toMatchObject({ model: "m", temperature: 0 });
    // Another model's answers are others.
    await (await Endpoint.open({ ...options, model: "n" })).ask(question("a"));
    expect(stub.requests).toHaveLength(3);
  });

  test("gets the key, which is stored nowhere", async () => {
    const { endpoint, options } = await opened(answer42, { key: "sk-secret" });
    await endpoint.ask(question("a"));
    expect(stub.headers.authorization).toBe("Bearer sk-secret");
    for (const file of await readdir(options.cache))
      expect(await readFile(join(options.cache, file), "utf8")).not.toContain("sk-secret");
  });

  test("is asked again where a stored answer was cut short", async () => {
    const { endpoint, options } = await opened(answer42);
    await endpoint.ask(question("a"));
    const [file] = await readdir(options.cache);
    await writeFile(join(options.cache, file), '{"te');
    expect(await endpoint.ask(question("a"))).toEqual({ value: 42 });
    expect(stub.requests).toHaveLength(2);
  });

  test.each([
    ["errors of the server", { kind: "status", status: 500 }],
    ["a rate limit", { kind: "status", status: 429, headers: { "retry-after": "0" } }],
    ["a cut connection", { kind: "cut" }],
    ["silence", { kind: "silent" }],
    ["a page that is no answer", { kind: "html" }],
  ] as const)("is asked again after %s", async (_, fault) => {
    const { endpoint } = await opened({ ...answer42, fault: times(2, fault) });
    expect(await endpoint.ask(question("a"))).toEqual({ value: 42 });
    expect(endpoint.counts).toMatchObject({ sent: 1, retried: 2, missing: 0 });
  });

  test("is waited for as long as it says", async () => {
    const headers = { "retry-after": "1" };
    const { endpoint } = await opened({ ...answer42, fault: times(1, { kind: "status", status: 429, headers }) }); // prettier-ignore
    const began = performance.now();
    expect(await endpoint.ask(question("a"))).toEqual({ value: 42 });
    expect(performance.now() - began).toBeGreaterThan(950);
  });

  test("that fails on, leaves the answer missing, with the reason, and the next question is asked", async () => {
    const { endpoint } = await opened(
      { ...answer42, fault: (_, { messages }) => messages[0].content === "bad" ? { kind: "status", status: 503, message: "loading" } : undefined }, // prettier-ignore
      { retries: 2 },
    );
    const [bad, good] = await Promise.all([endpoint.ask(question("bad")), endpoint.ask(question("good"))]); // prettier-ignore
    expect(bad).toEqual({ missing: "503 loading" });
    expect(good).toEqual({ value: 42 });
    expect(stub.requests).toHaveLength(4);
  });

  test("that is down is not asked for ever", async () => {
    const { endpoint } = await opened(answer42, { retries: 1, concurrency: 1 });
    await stub.close();
    const answers = [];
    for (let i = 0; i < 5; i++) answers.push(await endpoint.ask(question(`${i}`)));
    expect(answers[0]).toMatchObject({
      missing: expect.stringContaining("ECONNREFUSED") as string,
    });
    expect(answers[4]).toEqual({ missing: `${stub.url} is not there` });
    expect(endpoint.counts).toMatchObject({ missing: 5, retried: 2 });
  });

  test("is reminded once of what an answer looks like; then the answer is missing, and is not stored", async () => {
    const nonsense = await opened({ chat: () => "Sure! I think" });
    const answer = await nonsense.endpoint.ask(question("a"));
    expect(answer).toEqual({ missing: 'not readable, twice: "Sure! I think"' });
    expect(stub.requests).toHaveLength(2);
    expect(stub.requests[1].messages.map(({ content }) => content)).toEqual(["a", "Sure! I think", "a number, please"]); // prettier-ignore
    expect(await readdir(nonsense.options.cache)).toEqual([]);
    await stub.close();
    const reminded = await opened({ chat: (messages) => (messages.length > 1 ? "7" : "seven") });
    expect(await reminded.endpoint.ask(question("a"))).toEqual({ value: 7 });
  });

  test("may think aloud", async () => {
    const { endpoint } = await opened({ chat: () => "<think>1 or 2?\nRather</think>\n 2" });
    expect(await endpoint.ask(question("a"))).toEqual({ value: 2 });
  });

  test("streams; a stream that breaks off is asked for again; one that never was is read whole", async () => {
    const seen: string[] = [];
    const words = { chat: () => "1 2 3" };
    const three: Question<string> = {
      ...{ messages: [{ role: "user", content: "a" }], parse: (text) => text, reminder: "", expectedTokens: 3 }, // prettier-ignore
      onText: (text) => seen.push(text),
    };
    const broken = await opened({ ...words, fault: times(1, { kind: "cut" }) });
    expect(await broken.endpoint.ask(three)).toEqual({ value: "1 2 3" });
    expect(broken.endpoint.counts.retried).toBe(1);
    expect(seen).toContain("1 2 ");
    expect(stub.requests.every(({ stream }) => stream)).toBe(true);
    await stub.close();
    const whole = await opened({ ...words, ignoresStream: true });
    expect(await whole.endpoint.ask(three)).toEqual({ value: "1 2 3" });
    expect(stub.requests.map(({ stream }) => stream)).toEqual([true, undefined]);
  });

  test("gets no more than the given number of requests at a time", async () => {
    const { endpoint } = await opened({ ...answer42, delayMs: 20 }, { concurrency: 3 });
    await Promise.all(Array.from({ length: 12 }, (_, i) => endpoint.ask(question(`${i}`))));
    expect(stub.mostAtOnce).toBe(3);
  });

  test("that wants other parameters gets them", async () => {
    const { endpoint } = await opened({
      ...answer42,
      fault: (_, { max_tokens, temperature }) =>
        max_tokens !== undefined
          ? { kind: "status", status: 400, message: "use max_completion_tokens" }
          : temperature !== undefined
            ? { kind: "status", status: 400, message: "temperature is not supported" }
            : undefined,
    });
    expect(await endpoint.ask(question("a"))).toEqual({ value: 42 });
    expect(stub.requests[2].max_completion_tokens).toBeGreaterThan(0);
  });

  test.each([
    [401, "refuses the key"],
    [404, "no such model or path"],
  ])("that answers %i to everybody stops everything", async (status, message) => {
    const fault = { kind: "status", status, message: "bad sk-secret" } as const;
    const { endpoint } = await opened({ fault: () => fault }, { key: "sk-secret" });
    const failing = endpoint.ask(question("a"));
    await expect(failing).rejects.toThrow(message);
    await expect(failing).rejects.not.toThrow("sk-secret");
    expect(stub.requests).toHaveLength(1);
  });

  test("has embeddings, which are stored as well", async () => {
    const { endpoint } = await opened({ embed: (text) => [text.length, 1] });
    expect(await endpoint.embed(["a", "bcd"])).toEqual({ value: [[1, 1], [3, 1]] }); // prettier-ignore
    expect(await endpoint.embed(["a", "bcd"])).toEqual({ value: [[1, 1], [3, 1]] }); // prettier-ignore
    expect(stub.requests).toHaveLength(1);
  });

  test("is not asked at all when dry, and what would be asked is counted", async () => {
    const { endpoint } = await opened(answer42, { dry: true });
    expect(await endpoint.ask({ ...question("12345678"), placeholder: 5 })).toEqual({ value: 5 });
    expect(stub.requests).toEqual([]);
    expect(endpoint.counts).toMatchObject({ sent: 1, promptTokens: 6, answerTokens: 3 });
  });

  test("stops when it is told to", async () => {
    const controller = new AbortController();
    const { endpoint } = await opened({ fault: () => ({ kind: "silent" }) }, { signal: controller.signal, timeoutMs: 60_000 }); // prettier-ignore
    setTimeout(() => controller.abort(new Error("told to")), 50);
    await expect(endpoint.ask(question("a"))).rejects.toThrow("told to");
  });

  test.each([
    ["localhost:8080", "must begin with http:// or https://"],
    ["nowhere", "must be a URL"],
    ["http://me:pass@host/v1", "must not hold a password or key"],
    ["https://host/v1?api_key=abc", "must not hold a password or key"],
  ])("cannot be %s", async (url, message) => {
    stub = await stubEndpoint();
    const opening = Endpoint.open({ url, model: "m", cache: join(folder, "none") });
    await expect(opening).rejects.toThrow(message);
    await expect(opening).rejects.not.toThrow(/pass@|=abc/);
  });
});
