import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it, vi } from "vitest";
import { openDevice } from "../device/device.ts";
import { loadModel } from "../model/model.ts";
import { Sae } from "../sae/sae.ts";
import { rowBatches } from "./codes.ts";
import { evaluate, evaluateAll } from "./evaluate.ts";
import { predictionsOf } from "./splice.ts";

const model = await loadModel(
  fileURLToPath(new URL("../../test/fixtures/gpt2-tiny/f32", import.meta.url)),
);
const device = await openDevice("reference");
afterAll(async () => {
  await model.close();
  await device.close();
});

const hookPoint = model.hookPoints().find((name) => name.endsWith("hook_resid_post"))!;
const dIn = model.hookWidth(hookPoint);
const texts = [
  "One day a small dog ran into the forest.",
  "The cat sat down, and the dog said: 🐉 龍?",
  "It was late. They went home together, and all was well.",
];
const documents = () => texts.map((text, i) => ({ id: String(i), text }));
const options = { hookPoint, device, tokens: 1000, contextLength: 24, batchRows: 2 };

/** relu(x) and relu(-x), put together again (`gain` 1), or nothing at all (`gain` 0). */
function signedPairs(gain: number): Sae {
  const W = new Float32Array(2 * dIn * dIn);
  for (let c = 0; c < dIn; c++) {
    W[c * dIn + c] = 1;
    W[(dIn + c) * dIn + c] = -1;
  }
  return new Sae(
    {
      selection: { architecture: "relu" },
      dIn,
      dSae: 2 * dIn,
      applyBDecToInput: false,
    },
    {
      W_enc: W,
      b_enc: new Float32Array(2 * dIn),
      W_dec: W.map((w) => w * gain),
      b_dec: new Float32Array(dIn),
    },
  );
}

/** Of two hook points: the first comes back as it is, the second as 0. */
function halfCrosscoder(): Sae {
  const dSae = 2 * dIn;
  const { W_enc: W, b_enc } = signedPairs(1);
  const wide = new Float32Array(dSae * 2 * dIn);
  for (let f = 0; f < dSae; f++) wide.set(W.subarray(f * dIn, (f + 1) * dIn), f * 2 * dIn);
  const selection = { architecture: "relu" } as const;
  return new Sae(
    { selection, dIn: 2 * dIn, dSae, heads: [dIn, dIn], applyBDecToInput: false },
    { W_enc: wide, b_enc, W_dec: wide, b_dec: new Float32Array(2 * dIn) },
  );
}

describe("evaluate", () => {
  it("finds that an SAE which returns its input loses nothing", async () => {
    const found = await evaluate(signedPairs(1), model, documents, options);
    expect(found.ceLossRecovered).toBeCloseTo(1, 5);
    expect(found.ceLossRecoveredFromMean).toBeCloseTo(1, 4);
    expect(found.spliced[0].crossEntropy.sae).toBeCloseTo(found.spliced[0].crossEntropy.clean, 6);
    expect(found.fvu).toBeLessThan(1e-10);
    expect(found.cosine).toBeCloseTo(1, 6);
    expect(found.l0).toBeCloseTo(dIn, 0);
  });

  it("finds that an SAE which returns 0 recovers nothing", async () => {
    const found = await evaluate(signedPairs(0), model, documents, options);
    expect(found.ceLossRecovered).toBeCloseTo(0, 12);
    expect(found.spliced[0].crossEntropy.sae).toBe(found.spliced[0].crossEntropy.zero);
    expect(found.spliced[0].crossEntropy.zero).not.toBeCloseTo(
      found.spliced[0].crossEntropy.clean,
      3,
    );
  });

  it("gives several SAEs the numbers that each has alone, with one clean and two ablated passes for all", async () => {
    const saes = [signedPairs(1), signedPairs(0), signedPairs(0.5)];
    const forward = vi.spyOn(model, "forward");
    const together = await evaluateAll(saes, model, documents, options);
    const patched = forward.mock.calls.filter(([{ patch }]) => patch !== undefined).length;
    const unpatched = forward.mock.calls.length - patched;
    forward.mockRestore();
    const batches = unpatched / 2; // once for the mean, once as it is
    expect(patched).toBe((2 + saes.length) * batches);
    for (const [i, sae] of saes.entries())
      expect(together[i]).toEqual(await evaluate(sae, model, documents, options));
  });

  it("neither counts nor replaces what rules leave out", async () => {
    const all = await evaluate(signedPairs(0), model, documents, options);
    const rules = { skipSpecialTokens: false, skipPositions: 4 };
    const some = await evaluate(signedPairs(0), model, documents, { ...options, rules });
    // Four of each row, one of them its beginning or another document's.
    expect(some.rows).toBeLessThan(all.rows);
    const [before, after] = [all.spliced[0].crossEntropy, some.spliced[0].crossEntropy];
    expect(after.predictions).toBe(before.predictions);
    expect(after.clean).toBe(before.clean);
    // By hand: rows of 24, zeros from their fifth place on but for beginnings.
    let [rows, sum] = [0, 0];
    for await (const batch of rowBatches(model, documents(), options)) {
      const { tokens, length } = batch;
      const input = { tokens, batch: batch.rows.length, length };
      const { activations } = await model.forward({ ...input, capture: [hookPoint] });
      const x = activations[hookPoint].slice();
      for (const at of batch.kept)
        if (at % length >= 4) {
          x.fill(0, at * dIn, (at + 1) * dIn);
          rows++;
        }
      const { loss } = await model.forward({ ...input, patch: { [hookPoint]: x }, loss: true });
      for (const place of predictionsOf(batch).places) sum += loss![place];
    }
    expect(some.rows).toBe(rows);
    expect(after.zero).toBeCloseTo(sum / after.predictions, 6);
    const none = { skipSpecialTokens: false, skipPositions: 0, maxNorm: 1e9 };
    expect(await evaluate(signedPairs(0), model, documents, { ...options, rules: none })).toEqual(all); // prettier-ignore
  });

  it("counts every prediction of a token of the text once, whatever the batch", async () => {
    const one = await evaluate(signedPairs(0.5), model, documents, { ...options, batchRows: 1 });
    const many = await evaluate(signedPairs(0.5), model, documents, { ...options, batchRows: 8 });
    for (const key of ["clean", "sae", "zero", "mean"] as const)
      expect(one.spliced[0].crossEntropy[key]).toBeCloseTo(many.spliced[0].crossEntropy[key], 5);
    expect(one.spliced[0].crossEntropy.predictions).toBe(many.spliced[0].crossEntropy.predictions);
    expect(one.fvu).toBeCloseTo(many.fvu, 6);
    expect(one.rows).toBe(texts.reduce((n, t) => n + model.tokenizer.encode(t).ids.length, 0));
  });

  it("computes the cross-entropy that the model's own loss gives", async () => {
    const { ids } = model.tokenizer.encode(texts[0]);
    const bos = model.tokenizer.bosId!;
    const tokens = Int32Array.from([bos, ...ids]).slice(0, 24);
    const { loss } = await model.forward({ tokens, batch: 1, length: tokens.length, loss: true });
    const expected = loss!.reduce((a, b) => a + b, 0) / loss!.length;
    const text = [{ id: "0", text: texts[0] }];
    const found = await evaluate(signedPairs(1), model, () => text, {
      ...options,
      contextLength: tokens.length,
      tokens: 1,
      batchRows: 1,
    });
    expect(found.spliced[0].crossEntropy.predictions).toBe(tokens.length - 1);
    expect(found.spliced[0].crossEntropy.clean).toBeCloseTo(expected, 5);
  });

  it("puts a transcoder's output in at its target, and a crosscoder's at one hook point at a time", async () => {
    // Two names for the same values: what the first block gives is what the second one gets.
    const places = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"] as const;
    const [input, target] = places;
    const transcoder = (gain: number) =>
      new Sae({ ...signedPairs(1).spec, transcoder: true }, signedPairs(gain));
    const at = { ...options, hookPoint: input, targetHookPoint: target };
    const perfect = await evaluate(transcoder(1), model, documents, at);
    expect(perfect.spliced.map(({ hookPoint }) => hookPoint)).toEqual([target]);
    expect(perfect.ceLossRecovered).toBeCloseTo(1, 5);
    expect(perfect.fvu).toBeLessThan(1e-10);
    expect(perfect.spliced[0].fvu).toBeLessThan(1e-10);
    const elsewhere = { ...at, targetHookPoint: "blocks.1.hook_mlp_out" };
    const wrong = await evaluate(transcoder(1), model, documents, elsewhere);
    expect(wrong.fvu).toBeGreaterThan(1);
    const other = await evaluate(signedPairs(0), model, documents, {
      ...{ ...options, hookPoint: "blocks.1.hook_mlp_out" },
    });
    expect(wrong.spliced[0].crossEntropy.zero).toBeCloseTo(other.spliced[0].crossEntropy.zero, 6);

    // Reconstructs the first of its hook points and gives 0 at the second.
    const half = halfCrosscoder();
    const both = await evaluate(half, model, documents, { ...options, hookPoint: places });
    const [first, second] = both.spliced;
    expect(first.ceLossRecovered).toBeCloseTo(1, 5);
    expect(first.fvu).toBeLessThan(1e-10);
    expect(second.ceLossRecovered).toBeCloseTo(0, 12);
    expect(second.fvu).toBeGreaterThanOrEqual(1);
    expect(both.ceLossRecovered).toBeCloseTo(0.5, 5);
    // All in all Σ‖x‖²/2 of Σ‖x‖² is missing at hook points with the same values.
    expect(both.fvu).toBeCloseTo(second.fvu / 2, 6);
  });

  it("says which hook points an SAE needs when it is given others", async () => {
    const one = evaluate(halfCrosscoder(), model, documents, options);
    await expect(one).rejects.toThrow("a crosscoder of 2 hook points; got 1 (");
    const two = evaluate(signedPairs(1), model, documents, { ...options, hookPoint: ["a", "b"] });
    await expect(two).rejects.toThrow("of one hook point; got 2 (a, b)");
    const target = { ...options, targetHookPoint: "blocks.1.hook_mlp_out" };
    const none = evaluate(signedPairs(1), model, documents, target);
    await expect(none).rejects.toThrow("no transcoder, so it has no target hook point");
    const transcoder = new Sae({ ...signedPairs(1).spec, transcoder: true }, signedPairs(1));
    const missing = evaluate(transcoder, model, documents, options);
    await expect(missing).rejects.toThrow("name the hook point that it predicts");
    const wide = { ...options, targetHookPoint: "blocks.1.mlp.hook_post" };
    await expect(evaluate(transcoder, model, documents, wide)).rejects.toThrow(
      `predicts activations of width ${dIn}, but blocks.1.mlp.hook_post`,
    );
  });

  it("names width and hook point when they do not fit", async () => {
    const narrow = new Sae(
      { selection: { architecture: "relu" }, dIn: 3, dSae: 1, applyBDecToInput: false },
      {
        W_enc: new Float32Array(3),
        b_enc: new Float32Array(1),
        W_dec: new Float32Array(3),
        b_dec: new Float32Array(3),
      },
    );
    await expect(evaluate(narrow, model, documents, options)).rejects.toThrow(
      `width 3, but ${hookPoint}`,
    );
  });
});
