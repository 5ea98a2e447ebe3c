import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";

import { generate, generateMany, type Intervention } from "../model/generate.ts";
import { loadModel } from "../model/model.ts";
import { Rng } from "../rng.ts";
import { Sae } from "../sae/sae.ts";
import type { Transform } from "../sae/transform.ts";
import { directionOf, edited, steering, type Change, type Edit } from "./steer.ts";

const model = await loadModel(
  fileURLToPath(new URL("../../test/fixtures/gpt2-tiny/f32", import.meta.url)),
);
afterAll(() => model.close());
const prompt = model.tokenizer.encode("Once upon a time").ids;
const [dIn, dSae] = [model.info.dModel, 40];

function random(count: number, seed: number, scale = 1): Float32Array {
  const rng = new Rng(seed, "steer");
  return Float32Array.from({ length: count }, () => rng.normal() * scale);
}

function saeOf(transform?: Transform): Sae {
  return new Sae(
    {
      ...{ selection: { architecture: "topk", k: 8 }, dIn, dSae, applyBDecToInput: true },
      ...(transform && { input: transform, output: transform }),
    },
    {
      ...{ W_enc: random(dSae * dIn, 1, 0.3), b_enc: random(dSae, 2, 0.1) },
      ...{ W_dec: random(dSae * dIn, 3, 0.3), b_dec: random(dIn, 4, 0.1) },
    },
  );
}

const sae = saeOf();
const x = random(5 * dIn, 5);
const at = { first: 0, promptLength: 3 };
const row = (values: Float32Array, n: number) => values.subarray(n * dIn, (n + 1) * dIn);
const firing = sae.encode(row(x, 0)).findIndex((a) => a > 0);
const silent = sae.encode(row(x, 0)).findIndex((a) => a === 0);

describe("an edit", () => {
  test.each<[Change, (a: number) => number]>([
    [{ kind: "add", value: 2.5 }, (a) => a + 2.5],
    [{ kind: "add", value: -9 }, (a) => a - 9],
    [{ kind: "set", value: 2.5 }, () => 2.5],
    [{ kind: "scale", value: 3 }, (a) => 3 * a],
    [{ kind: "clamp", value: 2.5 }, (a) => (a > 0 ? 2.5 : 0)],
    [{ kind: "cap", value: 0.01 }, (a) => Math.min(a, 0.01)],
    [{ kind: "ablate" }, () => 0],
  ])("%o changes x by what it changes the latent by, and leaves the error", (change, wanted) => {
    for (const latent of [firing, silent]) {
      const out = edited(sae, [{ latent, ...change }], x, at);
      for (let n = 0; n < 5; n++) {
        const codes = sae.encode(row(x, n));
        const changed = codes.slice();
        changed[latent] = wanted(codes[latent]);
        const [before, after] = [sae.decode(codes), sae.decode(changed)];
        row(out, n).forEach((v, c) => {
          expect(v).toBeCloseTo(row(x, n)[c] + after[c] - before[c], 4);
        });
      }
    }
  });

  test("in an orthogonal one the component along the latent's direction becomes the value", () => {
    const out = edited(sae, [{ latent: 3, kind: "orthogonal", value: 1.5 }], x, at);
    const d = directionOf(sae, [3], row(x, 0));
    const squared = d.reduce((sum, v) => sum + v * v, 0);
    const along = (v: Float32Array) => d.reduce((sum, w, c) => sum + w * v[c], 0) / squared;
    for (let n = 0; n < 5; n++) {
      expect(along(row(out, n))).toBeCloseTo(1.5, 4);
      const [rest, was] = [out, x].map((all) => row(all, n).map((v, c) => v - along(row(all, n)) * d[c])); // prettier-ignore
      rest.forEach((v, c) => expect(v).toBeCloseTo(was[c], 4));
    }
  });

  test.each<[string, Transform]>([
    ["scaled", { kind: "scale", factors: [0.2], widths: [dIn] }],
    ["normalised row by row", { kind: "layerNorm", eps: 1e-5 }],
  ])("means the same where inputs are %s: decode(a') - decode(a)", (_, transform) => {
    const other = saeOf(transform);
    const out = edited(other, [{ latent: 7, kind: "add", value: 2 }], x, at);
    for (let n = 0; n < 5; n++) {
      const codes = other.encode(row(x, n));
      const changed = codes.with(7, codes[7] + 2);
      const [before, after] = [other.decode(codes, row(x, n)), other.decode(changed, row(x, n))];
      row(out, n).forEach((v, c) => {
        expect(v - row(x, n)[c]).toBeCloseTo(after[c] - before[c], 4);
      });
    }
  });

  test("acts on the positions it is for, and where its condition holds before any edit", () => {
    const changedRows = (edit: Edit) => {
      const out = edited(sae, [edit], x, { first: 10, promptLength: 12 });
      return [0, 1, 2, 3, 4].filter((n) => row(out, n).some((v, c) => v !== row(x, n)[c]));
    };
    const add = { latent: silent, kind: "add", value: 1 } as const;
    expect(changedRows(add)).toEqual([0, 1, 2, 3, 4]);
    expect(changedRows({ ...add, positions: "prompt" })).toEqual([0, 1]);
    expect(changedRows({ ...add, positions: "generated" })).toEqual([2, 3, 4]);
    expect(changedRows({ ...add, from: 11, to: 13 })).toEqual([1, 2]);
    const fires = [0, 1, 2, 3, 4].filter((n) => sae.encode(row(x, n))[firing] > 0);
    expect(fires.length).toBeLessThan(5);
    expect(changedRows({ ...add, when: { latent: firing } })).toEqual(fires);
    expect(changedRows({ ...add, when: { latent: firing, above: 1e6 } })).toEqual([]);
  });

  test("of one latent after another acts on what that made", () => {
    const edits: Edit[] = [
      { latent: firing, kind: "set", value: 2 },
      { latent: firing, kind: "scale", value: 3 },
    ];
    const once = edited(sae, [{ latent: firing, kind: "set", value: 6 }], x, at);
    expect(edited(sae, edits, x, at)).toEqual(once);
  });

  test.each<Edit[]>([
    [],
    [{ latent: silent, kind: "ablate" }],
    [{ latent: 1, kind: "add", value: 0 }],
    [{ latent: 1, kind: "scale", value: 1 }],
  ])("that changes nothing gives the very same numbers (%#)", (...edits) => {
    const first = x.subarray(0, dIn);
    expect(edited(sae, edits, first, at)).toBe(first);
  });
});

describe("steered generation", () => {
  const options = { maxNewTokens: 12, temperature: 0.8, seed: 3 };
  const text = async (intervention?: Intervention) => {
    const made = [];
    const all = intervention ? { ...options, intervention } : options;
    for await (const token of generate(model, prompt, all)) made.push(token);
    return made;
  };
  const changing = (hookPoint: string): Intervention => ({
    hookPoint,
    replace: (values) => values.map((v, i) => v + (i % 3) * 0.3),
  });

  test("without an edit is generation without steering, bit for bit, at every hook point", async () => {
    const plain = await text();
    for (const hookPoint of model.hookPoints()) {
      const same = await text({ hookPoint, replace: (values) => values });
      // A norm that is written into is computed in parts, which round otherwise than the whole.
      if (!/hook_(normalized|scale)$/.test(hookPoint)) expect(same, hookPoint).toEqual(plain);
      for (const [i, { token, logprob }] of same.entries()) {
        expect(token, hookPoint).toBe(plain[i].token);
        expect(logprob, hookPoint).toBeCloseTo(plain[i].logprob, 5);
      }
    }
    const points = { hookPoint: "blocks.0.hook_resid_post", promptLength: prompt.length };
    expect(await text(steering(sae, model, [], points))).toEqual(plain);
  });

  test("with a cache gives the tokens that whole passes with the values replaced give", async () => {
    for (const hookPoint of model.hookPoints()) {
      const intervention = changing(hookPoint);
      const greedy = { maxNewTokens: 6, temperature: 0, intervention };
      const cached: number[] = [];
      for await (const { token } of generate(model, prompt, greedy)) cached.push(token);
      const whole = [...prompt];
      for (const token of cached) {
        const input = { tokens: Int32Array.from(whole), batch: 1, length: whole.length };
        const { activations } = await model.forward({ ...input, capture: [hookPoint] });
        // The replacement sees a position at a time, as it did with the cache.
        const width = model.hookWidth(hookPoint);
        const values = activations[hookPoint].map((v, i) => v + (shift(i, width) % 3) * 0.3);
        const { logits } = await model.forward({ ...input, patch: { [hookPoint]: values }, logits: "last" }); // prettier-ignore
        expect(logits!.indexOf(Math.max(...logits!)), hookPoint).toBe(token);
        whole.push(token);
      }
    }
    /** Where in what `replace` was given an element of the whole sequence was. */
    function shift(i: number, width: number): number {
      return i < prompt.length * width ? i : i % width;
    }
  });

  test("many at once are the texts that they are in smaller batches, each its own", async () => {
    const intervention = changing("blocks.0.hook_resid_post");
    const tokens = async (count: number) =>
      (await generateMany(model, prompt, count, { ...options, temperature: 3, intervention })).map(
        (row) => row.map(({ token }) => token).join(),
      );
    const three = await tokens(3);
    expect(new Set(three).size).toBe(3);
    expect(await tokens(2)).toEqual(three.slice(0, 2));
  });

  test("refuses what cannot be: latents that are not there, values that are none, an SAE of another width", () => {
    const points = { hookPoint: "blocks.0.hook_resid_post", promptLength: 1 };
    const bad = (edit: Edit) => () => steering(sae, model, [edit], points);
    expect(bad({ latent: 40, kind: "ablate" })).toThrow("from 0 to 39; got 40");
    expect(bad({ latent: 0, kind: "set", value: NaN })).toThrow("must be a number; got NaN");
    expect(bad({ latent: 0, kind: "ablate", when: { latent: -1 } })).toThrow("got -1");
    const hookPoint = "blocks.0.mlp.hook_post";
    expect(() => steering(sae, model, [], { ...points, hookPoint })).toThrow("width");
  });
});
