import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

import type { EncodedPrompt, Tell } from "./interchange-prompts.ts";
import { interchange, type Interchanged } from "./supervised-interchange.ts";

interface Plan {
  unit: number;
  form: number;
  values: number[];
}

const oracle = JSON.parse(
  readFileSync(new URL("../../test/fixtures/supervised/interchange.json", import.meta.url), "utf8"),
) as {
  dIn: number;
  dSae: number;
  taken: number;
  attributes: string[];
  prompts: Plan[];
  W_dec: number[];
  x: number[];
  codes: number[];
  readout: number[];
  middle: number[];
  found: Record<
    string,
    {
      latents: number[];
      dimensions: number[];
      scores: Record<Interchanged, Record<"cause" | "isolation" | "disentangle", number>>;
    }
  >;
};

/** Prompts of planned values, with dense codes [prompts, dSae]. */
function encoded(
  plans: readonly Plan[],
  attributes: readonly string[],
  x: ArrayLike<number>,
  codes: ArrayLike<number>,
): EncodedPrompt[] {
  const [dIn, dSae] = [x.length / plans.length, codes.length / plans.length];
  return plans.map(({ unit, form, values }, n) => {
    const named = Object.fromEntries(attributes.map((name, i) => [name, String(values[i])]));
    const own = Array.from({ length: dSae }, (_, f) => codes[n * dSae + f]);
    const latents = Int32Array.from(own.keys()).filter((f) => own[f] > 0);
    return {
      prompt: { text: "", form: String(form), unit: String(unit), values: named, answers: {} },
      x: Float32Array.from({ length: dIn }, (_, c) => x[n * dIn + c]),
      right: Object.fromEntries(attributes.map((name) => [name, true])),
      ...{ latents, values: Float32Array.from(latents, (f) => own[f]) },
    };
  });
}

/** A model that says 1 where x · direction is above a threshold. */
function reader(
  attributes: readonly string[],
  directions: readonly (readonly number[])[],
  thresholds: readonly number[],
): Tell {
  return (_, rows) =>
    Promise.resolve(
      rows.map((x) =>
        Object.fromEntries(
          attributes.map((name, i) => {
            const sum = directions[i].reduce((total, u, c) => total + u * x[c], 0);
            return [name, sum > thresholds[i] ? "1" : "0"];
          }),
        ),
      ),
    );
}

test("latents, dimensions and scores of every kind of interchange are numpy's", async () => {
  const { attributes, dIn, prompts, readout, taken } = oracle;
  const directions = attributes.map((_, i) => readout.slice(i * dIn, (i + 1) * dIn));
  const found = await interchange(
    encoded(prompts, attributes, oracle.x, oracle.codes),
    reader(attributes, directions, oracle.middle),
    Float32Array.from(oracle.W_dec),
    { counts: [taken] },
  );
  for (const one of found.attributes) {
    const { latents, dimensions, scores } = oracle.found[one.attribute];
    expect(one.latents).toEqual(latents);
    expect(one.dimensions).toEqual(dimensions);
    for (const [way, expected] of Object.entries(scores))
      for (const key of ["cause", "isolation", "disentangle"] as const)
        expect(one.scores[way as Interchanged]![key].value, `${one.attribute}, ${way}, ${key}`).toBeCloseTo(expected[key], 6); // prettier-ignore
  }
});

const attributes = ["a", "b"];
const plans = [0, 1, 2, 3].flatMap((unit) =>
  [0, 1, 2, 3, 4, 5].flatMap((form) =>
    [0, 1].flatMap((a) => [0, 1].map((b): Plan => ({ unit, form, values: [a, b] }))),
  ),
);
const identity = (size: number) =>
  Float32Array.from({ length: size * size }, (_, i) => Number(i % (size + 1) === 0));

test("latents that are an attribute each disentangle perfectly; everything and nothing come to one half", async () => {
  // Two latents that are never of use, so that there are random ones to take.
  const x = plans.flatMap(({ values: [a, b] }) => [a, b, 1, 1]);
  const tell = reader(attributes, [[1, 0, 0, 0], [0, 1, 0, 0]], [0.5, 0.5]); // prettier-ignore
  const found = await interchange(encoded(plans, attributes, x, x), tell, identity(4));
  const perfect = { value: 1, low: 1, high: 1 };
  for (const [i, one] of found.attributes.entries()) {
    expect(one.latents).toEqual([i]);
    expect(one.scores.latents).toEqual({ cause: perfect, isolation: perfect, disentangle: perfect }); // prettier-ignore
    expect(one.scores.whole).toMatchObject({ cause: { value: 1 }, isolation: { value: 0 } });
    expect(one.null!.cause.value).toBeLessThan(1);
  }
  expect(found.mean.latents.disentangle).toEqual(perfect);
  expect(found.drawn.disentangle.value).toBe(1);
});

test("one latent for each combination disentangles nothing", async () => {
  // A latent of each combination moves both attributes at once.
  const codes = plans.flatMap(({ values: [a, b] }) => [0, 1, 2, 3].map((f) => Number(f === 2 * a + b))); // prettier-ignore
  const x = plans.flatMap(({ values: [a, b] }) => [a, b]);
  const W_dec = Float32Array.of(0, 0, 0, 1, 1, 0, 1, 1);
  const tell = reader(attributes, [[1, 0], [0, 1]], [0.5, 0.5]); // prettier-ignore
  await expect(
    interchange(encoded(plans, attributes, x, codes), tell, W_dec),
  ).resolves.toMatchObject({ mean: { latents: { disentangle: { value: 0.5 } } } });
});

test("a model that does not know an attribute gets a reason instead of a score", async () => {
  const x = plans.flatMap(({ values: [a, b] }) => [a, b]);
  const known = encoded(plans, attributes, x, x);
  const tell = reader(attributes, [[1, 0], [0, 1]], [0.5, 0.5]); // prettier-ignore
  const unknown = known.map((one, n) => ({ ...one, right: { a: true, b: n % 3 === 0 } }));
  await expect(interchange(unknown, tell, identity(2))).rejects.toThrow(/b: the model gets 33 % of the prompts right/); // prettier-ignore
  const few = known.filter(({ prompt }) => prompt.form === "0");
  await expect(interchange(few, tell, identity(2))).rejects.toThrow(/fewer than 20 pairs/);
});
