import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, test } from "vitest";

import { dicingJudge, knowingJudge, stubEndpoint, type Stub, type StubOptions } from "../../test/stub-endpoint.ts"; // prettier-ignore
import { chunkOfPieces } from "../../test/token-chunks.ts";
import { Rng } from "../rng.ts";
import { codesByLatent } from "./codes.ts";
import { EncodedText } from "./encoded-text.ts";
import { Endpoint, type EndpointOptions } from "./endpoint.ts";
import { explainByModel, SCORERS, type ModelExplanation } from "./judge.ts";
import { nearness, oddOneOut, simulation, wilson, youden } from "./judge-scores.ts";
import { CAUSAL, TokenLabels } from "./labels.ts";

const folder = await mkdtemp(join(tmpdir(), "lens-judge-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

/** 200 documents of made-up words, " dog" in half of them; latent 0 fires on it, latent 1 everywhere, latent 2 never. */
function madeUp(): EncodedText {
  const rng = new Rng(5);
  const fillers = ["the", "sun", "saw", "a", "red", "house", "and", "then", "went", "home"];
  const documents = Array.from({ length: 200 }, (_, d) =>
    Array.from({ length: 30 }, (_, i) => {
      const dog = d % 4 < 2 && i % 15 === 7;
      return ` ${dog ? "dog" : fillers[rng.int(fillers.length)]}`;
    }),
  );
  const { chunk, tokenText } = chunkOfPieces(documents);
  const acts = Float32Array.from(chunk.tokens, (token) => (tokenText(token) === " dog" ? 3 : 0));
  const all = Float32Array.from({ length: 3 * chunk.length }, (_, i) =>
    i % 3 === 0 ? acts[i / 3] : i % 3 === 1 ? 1 : 0,
  );
  const text = new EncodedText(new TokenLabels(tokenText, CAUSAL), 3);
  const keep = Int32Array.from({ length: chunk.length }, (_, p) => p);
  text.add(chunk, codesByLatent({ kind: "dense", acts: all }, 3, keep));
  return text;
}
const text = madeUp();
const options = { scorers: SCORERS, seed: 0 };

let stub: Stub | undefined;
let caches = 0;
afterEach(() => stub?.close());

async function opened(stubbed: StubOptions, more: Partial<EndpointOptions> = {}) {
  stub = await stubEndpoint(stubbed);
  const cache = join(folder, `cache${caches++}`);
  return Endpoint.open({ url: stub.url, model: "m", cache, backoffMs: 5, retries: 1, ...more });
}
const dogs = { chat: knowingJudge("dog"), embed: (of: string) => [of.includes("dog") ? 1 : 0, 0.5] }; // prettier-ignore

describe("a latent with a meaning", () => {
  test("is explained, and a judge who knows it has every score 1, with nothing misjudged", async () => {
    const endpoint = await opened(dogs);
    const seen: string[] = [];
    const found = (await explainByModel(text, 0, endpoint, { ...options, onText: (so) => seen.push(so) })) as ModelExplanation; // prettier-ignore
    expect(found).toMatchObject({
      ...{ explanation: "the word dog", model: "m", prompts: "lens-1", missing: [], misjudged: [] },
    });
    expect(seen.at(-1)).toBe("EXPLANATION: the word dog");
    expect(found.scores.map(({ scorer }) => scorer)).toEqual(SCORERS);
    for (const { score, answered, missing } of found.scores) {
      expect(score.value).toBeCloseTo(1, 9);
      expect(score.low).toBeGreaterThan(0.4);
      expect(score.high).toBeCloseTo(1, 9);
      expect({ answered: answered > 4, missing }).toEqual({ answered: true, missing: 0 });
    }
  });

  test("is judged on documents that the explainer did not see", async () => {
    const endpoint = await opened(dogs);
    const found = (await explainByModel(text, 0, endpoint, options)) as ModelExplanation;
    const numbers = found.shown.map((id) => Number(id.replace("document ", "")));
    expect(numbers.length).toBeGreaterThan(10);
    expect(new Set(numbers).size).toBe(numbers.length);
    expect(numbers.every((n) => n % 2 === 0)).toBe(true);
    await stub!.close();
    const wrong = await opened({ chat: dicingJudge(), embed: dogs.embed });
    const { misjudged } = (await explainByModel(text, 0, wrong, options)) as ModelExplanation;
    expect(misjudged.length).toBeGreaterThan(5);
    for (const { document } of misjudged) expect(Number(document.replace("document ", "")) % 2).toBe(1); // prettier-ignore
  });

  test("has scores about 0, of which the intervals tell, from a judge who throws dice", async () => {
    const endpoint = await opened({ chat: dicingJudge() });
    const scorers = ["detection", "fuzzing", "intruder", "simulation"] as const;
    const scores = [];
    for (let seed = 0; seed < 12; seed++) {
      const found = await explainByModel(text, 0, endpoint, { scorers, seed });
      scores.push(...(found as ModelExplanation).scores.map(({ score }) => score));
    }
    const mean = scores.reduce((sum, { value }) => sum + value / scores.length, 0);
    expect(Math.abs(mean)).toBeLessThan(0.08);
    const around = scores.filter(({ low, high }) => low <= 0 && high >= 0).length;
    expect(around / scores.length).toBeGreaterThan(0.8);
  });

  test("costs nothing the second time, and gives the same numbers", async () => {
    const endpoint = await opened({ chat: dicingJudge(), embed: dogs.embed, delayMs: 2 });
    const first = await explainByModel(text, 0, endpoint, options);
    const asked = stub!.requests.length;
    expect(asked).toBe(1 + 4 + 4 + 5 + 10 + 1);
    expect(await explainByModel(text, 0, endpoint, options)).toEqual(first);
    expect(stub!.requests).toHaveLength(asked);
  });

  test("of which some answers never come or are nonsense, is scored on the others, and it says what is missing", async () => {
    let detections = 0;
    const endpoint = await opened({
      chat: (messages) => {
        const isDetection = messages[0].content.includes("anywhere in it");
        return isDetection && detections++ === 0 ? "no idea" : messages.length > 2 ? "none" : knowingJudge("dog")(messages); // prettier-ignore
      },
      fault: (_, { messages }) =>
        messages[0].content.includes("<< and >>. Say for each") ? { kind: "status", status: 503, message: "busy" } : undefined, // prettier-ignore
    });
    const scorers = ["detection", "fuzzing"] as const;
    const found = (await explainByModel(text, 0, endpoint, { scorers, seed: 0 })) as ModelExplanation; // prettier-ignore
    expect(found.scores).toHaveLength(1);
    expect(found.scores[0]).toMatchObject({ scorer: "detection", answered: 15, missing: 5 });
    expect(found.scores[0].score.value).toBeCloseTo(1, 9);
    expect(found.misjudged).toEqual([]);
    expect([...found.missing].sort()).toEqual([
      'detection: not readable, twice: "none"',
      "fuzzing: 503 busy",
      "fuzzing: too few answers (0 of 20)",
    ]);
  });

  test("is estimated without a request", async () => {
    const endpoint = await opened(dogs, { dry: true });
    await explainByModel(text, 0, endpoint, { ...options, scorers: ["detection"] });
    expect(stub!.requests).toEqual([]);
    expect(endpoint.counts).toMatchObject({ sent: 5 });
    expect(endpoint.counts.promptTokens).toBeGreaterThan(1000);
  });
});

test("a latent that is never silent has an explanation and no score; one that never fires has neither", async () => {
  const endpoint = await opened(dogs);
  const busy = (await explainByModel(text, 1, endpoint, options)) as ModelExplanation;
  expect(busy.scores).toEqual([]);
  expect(busy.missing).toEqual(["scores: too few test texts in which it is silent (0)"]);
  expect(await explainByModel(text, 2, endpoint, options)).toEqual({
    missing: "it fires in too few train documents (0)",
  });
  await expect(explainByModel(text, 9, endpoint, options)).rejects.toThrow("from 0 to 2; got 9");
});

test("scores are those that scikit-learn and numpy give, corrected for chance", () => {
  const path = new URL("../../test/fixtures/explanations/scores.json", import.meta.url);
  const { judge } = JSON.parse(readFileSync(path, "utf8")) as {
    judge: Record<"truth" | "answer", boolean[]> & Record<"predicted" | "actual", number[]> & Record<"youden" | "pearson" | "auc" | "intruder", number> & { interval: number[]; wilson: Record<"all" | "some", number[]> }; // prettier-ignore
  };
  const { truth, answer, predicted, actual } = judge;
  expect(youden(truth.map((one, i) => ({ truth: one, answer: answer[i] }))).value).toBeCloseTo(judge.youden, 9); // prettier-ignore
  const halves = [0, 100].map((at) => ({
    predicted: predicted.slice(at, at + 100),
    actual: actual.slice(at, at + 100),
  }));
  expect(simulation(halves).value).toBeCloseTo(judge.pearson, 9);
  const near = truth.map((one, i) => ({ truth: one, near: predicted[i] }));
  expect(nearness(near).value).toBeCloseTo(2 * judge.auc - 1, 9);
  const of = youden(truth.map((one, i) => ({ truth: one, answer: answer[i] })));
  expect(of.low).toBeCloseTo(judge.interval[0], 9);
  expect(of.high).toBeCloseTo(judge.interval[1], 9);
  const [all, some] = [wilson(10, 10), wilson(13, 20)];
  expect([all.low, all.high]).toEqual(judge.wilson.all.map((end) => expect.closeTo(end, 9) as number)); // prettier-ignore
  expect([some.low, some.high]).toEqual(judge.wilson.some.map((end) => expect.closeTo(end, 9) as number)); // prettier-ignore
  const found = Array.from({ length: 20 }, (_, i) => i < 13);
  expect(oddOneOut(found, 5).value).toBeCloseTo(judge.intruder, 9);
});
