import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";

import { Rng } from "../rng.ts";
import { choose, generate, type GenerateOptions, type GeneratedToken } from "./generate.ts";
import { loadModel, type Model } from "./model.ts";

const fixture = fileURLToPath(new URL("../../test/fixtures/gpt2-tiny", import.meta.url));
const model = await loadModel(join(fixture, "f32"));
const plain = await loadModel(join(fixture, "f32"), { attention: "plain" });
afterAll(() => Promise.all([model.close(), plain.close()]));
const prompt = model.tokenizer.encode("Once upon a time").ids;

async function run(
  options: Partial<GenerateOptions>,
  tokens = prompt,
  on = model,
): Promise<GeneratedToken[]> {
  const made: GeneratedToken[] = [];
  const all = { maxNewTokens: 20, temperature: 0, ...options };
  for await (const token of generate(on, tokens, all)) made.push(token);
  return made;
}

/** The same without a cache: the whole sequence again for every token. */
async function greedyWithoutCache(on: Model, count: number): Promise<GeneratedToken[]> {
  const sequence = [...prompt];
  const made: GeneratedToken[] = [];
  for (let i = 0; i < count; i++) {
    const input = { tokens: Int32Array.from(sequence), batch: 1, length: sequence.length };
    const logits = (await on.forward({ ...input, logits: "last" })).logits!;
    const token = logits.indexOf(Math.max(...logits));
    const total = Math.log([...logits].reduce((sum, x) => sum + Math.exp(x), 0));
    made.push({ token, logprob: logits[token] - total });
    sequence.push(token);
  }
  return made;
}

describe("generation", () => {
  test.each([
    ["onnx", model],
    ["plain", plain],
  ] as const)("with and without cache agrees token for token (%s attention)", async (_, on) => {
    const cached = await run({}, prompt, on);
    const whole = await greedyWithoutCache(on, 20);
    expect(cached.map((t) => t.token)).toEqual(whole.map((t) => t.token));
    expect(new Set(cached.map((t) => t.token)).size).toBeGreaterThan(2);
    for (const [i, { logprob }] of cached.entries()) {
      expect(logprob).toBeCloseTo(whole[i].logprob, 4);
    }
  });

  test("repeats itself for a seed and differs between seeds", async () => {
    const sample = async (seed: number) =>
      (await run({ temperature: 1, seed })).map((t) => t.token).join();
    expect(await sample(1)).toBe(await sample(1));
    expect(await sample(1)).not.toBe(await sample(2));
  });

  test("with one candidate left is greedy, whatever the temperature", async () => {
    const greedy = await run({});
    expect(await run({ temperature: 3, topK: 1 })).toEqual(greedy);
    expect(await run({ temperature: 1, topP: 1e-9 })).toEqual(greedy);
  });

  test("ends at the limit, after a stop token, and where the context is full", async () => {
    const greedy = (await run({})).map((t) => t.token);
    expect(greedy).toHaveLength(20);
    const stop = greedy[5];
    const stopped = (await run({ stopTokens: [stop] })).map((t) => t.token);
    expect(stopped).toEqual(greedy.slice(0, greedy.indexOf(stop) + 1));
    expect(await run({ maxNewTokens: 0 })).toEqual([]);
    // 64 is the fixture's context: prompt and continuation together never exceed it.
    expect(await run({ maxNewTokens: 1000 })).toHaveLength(64 - prompt.length);
    expect(await run({}, new Int32Array(64))).toEqual([]);
  });

  test("refuses prompts and settings that cannot be", async () => {
    await expect(run({}, new Int32Array(0))).rejects.toThrow("the prompt has no tokens");
    await expect(run({}, new Int32Array(65))).rejects.toThrow("context of 64");
    await expect(run({}, Int32Array.of(300))).rejects.toThrow("token 300");
    await expect(run({ temperature: -1 })).rejects.toThrow("temperature must be");
    await expect(run({ temperature: NaN })).rejects.toThrow("got NaN");
    await expect(run({ topK: 0 })).rejects.toThrow("topK must be a positive integer; got 0");
    await expect(run({ topP: 0 })).rejects.toThrow("topP must be above 0 and at most 1; got 0");
    await expect(run({ maxNewTokens: 1.5 })).rejects.toThrow("maxNewTokens");
  });
});

describe("choosing a token", () => {
  // Probabilities 0.5, 0.25, 0.125, 0.125 at temperature 1.
  const logits = Float32Array.from([0.125, 0.5, 0.25, 0.125], Math.log);
  const rates = (settings: Parameters<typeof choose>[1]) => {
    const rng = new Rng(5);
    const counts = [0, 0, 0, 0];
    for (let i = 0; i < 20_000; i++) counts[choose(logits, settings, rng)]++;
    return counts.map((count) => count / 20_000);
  };
  // Four standard deviations of a rate of 0.5 over 20,000 draws.
  const near = (expected: number[], found: number[]) =>
    expected.forEach((rate, i) => expect(Math.abs(found[i] - rate)).toBeLessThan(0.015));

  test("follows the probabilities, sharpened by the temperature", () => {
    near([0.125, 0.5, 0.25, 0.125], rates({ temperature: 1 }));
    // Squared and normalised: 1/64, 1/4, 1/16, 1/64 over 22/64.
    near([1 / 22, 16 / 22, 4 / 22, 1 / 22], rates({ temperature: 0.5 }));
  });

  test("keeps the k most likely, and the fewest that reach the sum", () => {
    const exactly = (expected: number[], found: number[]) => {
      near(expected, found);
      expected.forEach((rate, i) => rate === 0 && expect(found[i]).toBe(0));
    };
    exactly([0, 2 / 3, 1 / 3, 0], rates({ temperature: 1, topK: 2 }));
    exactly([1 / 7, 4 / 7, 2 / 7, 0], rates({ temperature: 1, topK: 3 })); // of equal ones the first
    exactly([0, 2 / 3, 1 / 3, 0], rates({ temperature: 1, topP: 0.6 }));
    exactly([0, 1, 0, 0], rates({ temperature: 1, topP: 0.4 }));
    exactly([0, 1, 0, 0], rates({ temperature: 1, topK: 2, topP: 0.6 })); // of what topK left
    near([0.125, 0.5, 0.25, 0.125], rates({ temperature: 1, topK: 100, topP: 1 }));
  });
});
