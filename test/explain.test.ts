/** `lens explain` as a person uses it: by rules, and with a server that answers, fails and talks nonsense. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import type { Explanations, ExplanationSummary, LatentExplanation } from "../src/analysis/explanations.ts"; // prettier-ignore
import type { ModelExplanation } from "../src/analysis/judge.ts";
import { Rng } from "../src/rng.ts";
import { fixtureModel, startLens } from "./command.ts";
import { knowingJudge, stubEndpoint, type Stub, type StubOptions } from "./stub-endpoint.ts"; // prettier-ignore

const folder = mkdtempSync(join(tmpdir(), "lens-explain-"));
/** Of the one run that all tests explain. */
let made = "";
let stub: Stub | undefined;

/** Short documents, so that there are enough of them for latents of a small vocabulary. */
function sentences(): string {
  const rng = new Rng(3);
  const one = (words: string[]) => words[rng.int(words.length)];
  const who = ["the dog", "a cat", "the sun", "my house", "red rain", "an owl"];
  return Array.from({ length: 800 }, (_, i) =>
    JSON.stringify({ text: `Then ${one(who)} ${one(["saw", "ate", "met"])} ${one(who)}. ${i}` }),
  ).join("\n");
}

const run = (...args: string[]) => startLens(folder, ...args).outcome;

beforeAll(async () => {
  writeFileSync(join(folder, "text.jsonl"), sentences());
  const { stdout, stderr } = await run(
    ...["train", "--activations.data", "text.jsonl", "--activations.model", fixtureModel],
    ...["--activations.hookPoint", "blocks.0.hook_resid_post", "--activations.tokens", "3000"],
    ...["--activations.validationTokens", "300", "--sae.dSae", "32", "--sae.k", "4"],
    ...["--train.batchSize", "256", "--device", "reference", "--json"],
  );
  expect(stderr).toBe("");
  made = (JSON.parse(stdout) as { folder: string }).folder;
  expect((await run("features", "latest", "--features.tokens", "600")).code).toBe(0);
}, 120_000);
beforeEach(() => rmSync(join(made, "answers"), { recursive: true, force: true }));
afterEach(() => stub?.close());
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Of `lens explain` for a few latents, with the stub for a language model. */
const asking = (options: StubOptions) =>
  stubEndpoint(options).then((opened) => {
    stub = opened;
    return ["explain", "--latents", "1,10,20", "--endpoint", stub.url, "--model", "m"];
  });
const stored = () =>
  JSON.parse(readFileSync(join(made, "features", "explanations.json"), "utf8")) as Explanations;
/** What was said of each latent, without the server's address. */
const said = () =>
  stored().latents.map(({ models }) => models?.map(({ endpoint: _, ...rest }) => rest));

interface Asked {
  cost: { requests: number; cached: number };
  failed: Record<string, string>;
  latents: ({ latent: number } & ModelExplanation)[];
}

test("names latents by rules, the best fitting first, and those that are asked for", async () => {
  const { code, stdout, stderr } = await run("explain", "--top", "3", "--json");
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const { latents, summary } = JSON.parse(stdout) as {
    latents: LatentExplanation[];
    summary: ExplanationSummary;
  };
  expect(latents).toHaveLength(3);
  const f1s = latents.map(({ rules }) => rules[0].f1.value);
  expect(f1s).toEqual([...f1s].sort((a, b) => b - a));
  expect(summary.medianF1).toBeGreaterThan(summary.medianShuffled);
  expect(stored().latents).toHaveLength(32);

  const two = await run("explain", "--latents", "5,3");
  expect(two.code, two.stderr).toBe(0);
  expect(two.stdout).toMatch(/^ +5 .*\n +3 /m);
  expect(two.stdout).toContain("of rules for shuffled activations");
  expect(two.stderr).toContain("Next: ");
  const beyond = await run("explain", "--latents", "32");
  expect(beyond).toMatchObject({ code: 1, stdout: "" });
  expect(beyond.stderr).toContain("latent must be a whole number from 0 to 31; got 32");
});

test("explains anew what it found before and cannot read any more", async () => {
  const path = join(made, "features", "explanations.json");
  const whole = stored();
  for (const text of ['{"version": 1, "lat', "null", '{"version": 2}']) {
    writeFileSync(path, text);
    const { code, stderr } = await run("explain", "--top", "1");
    expect([code, stderr]).toEqual([0, expect.stringContaining("cannot be read; all are made anew")]); // prettier-ignore
    expect(stored()).toEqual(whole);
  }
});

test("asks a language model, says beforehand what it takes, and asks nothing twice", async () => {
  const flags = await asking({ chat: knowingJudge("the") });
  const dry = await run(...flags, "--dry-run", "--price-in", "2", "--json");
  const planned = JSON.parse(dry.stdout) as Asked & { cost: { price: number } };
  expect(planned.latents).toEqual([]);
  expect(planned.cost.price).toBeGreaterThan(0);
  expect(stub!.requests).toEqual([]);
  const many = await run(...flags, "--max-requests", "1");
  expect(many).toMatchObject({ code: 1, stdout: "" });
  expect(many.stderr).toContain("requests are needed and --max-requests allows 1");

  process.env.KEY_OF_TEST = "sk-secret";
  const { code, stdout } = await run(...flags, "--key-from", "KEY_OF_TEST", "--json");
  delete process.env.KEY_OF_TEST;
  expect(code).toBe(0);
  const { cost, failed, latents } = JSON.parse(stdout) as Asked;
  expect(failed).toEqual({});
  expect(latents.map(({ latent }) => latent).sort((a, b) => a - b)).toEqual([1, 10, 20]);
  expect(latents[0]).toMatchObject({ explanation: "the word the", model: "m", missing: [] });
  expect(latents[0].scores.map(({ scorer }) => scorer)).toEqual(["detection", "fuzzing"]);
  expect(cost.requests).toBe(planned.cost.requests);
  expect(stub!.requests).toHaveLength(cost.requests);
  expect(stub!.headers.authorization).toBe("Bearer sk-secret");
  const files = ["answers", "features"].flatMap((dir) =>
    readdirSync(join(made, dir)).map((name) => readFileSync(join(made, dir, name), "latin1")),
  );
  expect(files.filter((text) => text.includes("sk-secret"))).toEqual([]);

  // Rules that are made anew keep what the model said.
  expect((await run("explain", "--quiet")).code).toBe(0);
  expect(stored().latents[10].models).toMatchObject([{ explanation: "the word the" }]);
  const again = await run(...flags);
  expect(again.stderr).toContain(`; ${cost.requests} more are answered already`);
  expect(again.stdout).toContain("0 is chance, 1 without fault");
  expect(stub!.requests).toHaveLength(cost.requests);
});

test("goes on past nonsense, and says what is missing; a server that is not there is an error", async () => {
  const flags = await asking({
    chat: (messages) => {
      const isFuzzing = messages[0].content.includes("<< and >>. Say for each");
      return isFuzzing ? "I would rather not." : knowingJudge("the")(messages);
    },
    // Who explains the first of them is never told.
    fault: (n) => (n === 0 ? { kind: "status", status: 400, message: "too long" } : undefined),
  });
  const { code, stdout, stderr } = await run(...flags, "--concurrency", "1", "--retries", "0");
  expect(code, stderr).toBe(0);
  expect(stdout).toContain("Missing (the same command asks for these again):");
  expect(stdout).toMatch(/10: fuzzing: not readable, twice: "I would rather not\."/);
  expect(stdout).toMatch(/1: no explanation: 400 .*too long/);
  expect(stdout).toMatch(/^ +20 +-?\d\.\d\d \(.*\) +– +the word the$/m);

  await stub!.close();
  const down = await run(...flags, "--model", "another", "--retries", "0");
  expect(down).toMatchObject({ code: 1, stdout: "" });
  expect(down.stderr).toMatch(/error: no latent could be explained: .*ECONNREFUSED/);
  expect(down.stderr).toContain("run the same command again: what was answered is kept");
  expect(down.stderr).not.toMatch(/^\s+at /m);
});

test("killed by SIGKILL while it asks, it loses nothing and asks nothing again that was answered", async () => {
  // The server gives so many answers, and is silent from then on.
  let left = Infinity;
  let answered: string[] = [];
  const flags = await asking({
    chat: knowingJudge("the"),
    fault: (_, { messages }) => {
      if (left-- <= 0) return { kind: "silent" };
      answered.push(JSON.stringify(messages));
      return undefined;
    },
  });
  expect((await run(...flags)).code).toBe(0);
  const whole = { said: said(), answered: answered.sort() };
  rmSync(join(made, "answers"), { recursive: true });
  rmSync(join(made, "features", "explanations.json"));

  answered = [];
  for (const answers of [6, 11]) {
    left = answers - answered.length;
    const { child, outcome } = startLens(folder, ...flags, "--concurrency", "2");
    while (answersOnDisk() < answers) {
      expect(child.exitCode).toBeNull();
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    child.kill("SIGKILL");
    await outcome;
    expect(answered).toHaveLength(answers);
    expect(stored().latents).toHaveLength(32);
  }
  left = Infinity;
  const resumed = await run(...flags);
  expect(resumed.code, resumed.stderr).toBe(0);
  expect(resumed.stderr).toContain("; 11 more are answered already");
  expect(answered.sort()).toEqual(whole.answered);
  expect(said()).toEqual(whole.said);
});

function answersOnDisk(): number {
  const dir = join(made, "answers");
  return existsSync(dir) ? readdirSync(dir).filter((name) => name.endsWith(".json")).length : 0;
}
