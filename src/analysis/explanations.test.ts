import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";

import { bestNamed, readExplanations, summaryOf, writeExplanations } from "./explanations.ts";
import type { LatentExplanation } from "./explanations.ts";
import { findFeatures } from "./find.ts";
import { Features, type FeatureIndex } from "./features.ts";
import type { Label } from "./labels.ts";

const folder = await mkdtemp(join(tmpdir(), "lens-explanations-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

const interval = (value: number) => ({ value, low: value - 0.1, high: value + 0.1 });

function explained(latent: number, f1: number, labels: Label[]): LatentExplanation {
  return {
    latent,
    name: "",
    firings: { train: 50, test: 50 },
    rules: [
      {
        ...{ kind: labels[0].kind, text: labels.map(({ name }) => name).join(" or "), labels },
        ...{ threshold: 0, mass: 1, f1: interval(f1), f1Any: f1 - 0.3, train: { f1 } },
        ...{ precision: interval(f1), recall: interval(f1), coverage: interval(f1), r2: f1 / 2 },
      },
    ],
    chance: { always: 0.02, shuffled: 0.05 },
    variance: { token: 0.1 * latent, ngram: 0.5 },
    alike: interval(0.6),
    next: undefined,
  };
}

const word = (name: string): Label => ({ kind: "word", name: `word “${name}”` });
const latents = [
  explained(0, 0.7, [word("dog"), word("cat")]),
  explained(1, 0.9, [word("dog")]),
  explained(2, 0.95, [{ kind: "concept", name: "animal" }]),
  { ...explained(3, 0.1, [word("sun")]), rules: [] },
];

test("a summary counts the latents that a rule names, beside chance", () => {
  expect(summaryOf(latents)).toMatchObject({
    ...{ named: 2, namedByText: 1, judged: 3, namedShuffled: 0, namedAny: 0 },
    ...{ medianF1: 0.9, medianShuffled: 0.05, medianAlike: 0.6, medianNext: NaN },
    medianR2: { token: 0.1, ngram: 0.5 },
  });
  expect(bestNamed(latents).map(({ latent }) => latent)).toEqual([2, 1, 0]);
});

test("a search finds a latent by its rule: first those that it names whole", () => {
  const index = {
    dSae: 4,
    columns: { topTokens: [[], [], [], [" dog"]], tokenSelectivity: [0, 0, 0, 0.5] },
  } as unknown as FeatureIndex;
  const found = findFeatures(new Features("", index, undefined), "dog", latents);
  expect(found.map(({ latent }) => latent)).toEqual([1, 0, 3]);
  expect(found[0].because).toBe("rule: word “dog”, F1 0.90");
  const without = findFeatures(new Features("", index, undefined), "dog");
  expect(without.map(({ latent }) => latent)).toEqual([3]);
});

test("explanations are read back as they were written, and a damaged file is named", async () => {
  expect(await readExplanations(folder)).toBeUndefined();
  const explanations = {
    ...{ version: 1 as const, positions: { train: 10, test: 12 }, complete: true },
    ...{ provenance: { seed: 1 }, latents: latents.slice(0, 2) },
  };
  await writeExplanations(folder, explanations);
  const read = await readExplanations(folder);
  expect(read!.latents[1].rules[0].f1.value).toBeCloseTo(0.9, 6);
  expect(read!.positions).toEqual({ train: 10, test: 12 });
  expect((await readExplanations(folder, 2))!.latents).toHaveLength(2);
  await expect(readExplanations(folder, 3)).rejects.toThrow("explains 2 latents, there are 3");
  for (const text of ['{"version": 1', "null", "[]", '{"version": 1, "latents": [{}]}']) {
    await writeFile(join(folder, "explanations.json"), text);
    await expect(readExplanations(folder)).rejects.toThrow(
      /explanations.json is damaged .* lens explain/,
    );
  }
  await writeFile(join(folder, "explanations.json"), '{"version": 9}');
  await expect(readExplanations(folder)).rejects.toThrow("another version");
});
