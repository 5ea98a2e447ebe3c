import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { openDevice } from "../device/device.ts";
import { loadModel } from "../model/model.ts";
import { Sae } from "../sae/sae.ts";
import { evaluate } from "./evaluate.ts";

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

describe("evaluate", () => {
  it("finds that an SAE which returns its input loses nothing", async () => {
    const found = await evaluate(signedPairs(1), model, documents, options);
    expect(found.ceLossRecovered).toBeCloseTo(1, 5);
    expect(found.ceLossRecoveredFromMean).toBeCloseTo(1, 4);
    expect(found.crossEntropy.sae).toBeCloseTo(found.crossEntropy.clean, 6);
    expect(found.fvu).toBeLessThan(1e-10);
    expect(found.cosine).toBeCloseTo(1, 6);
    expect(found.l0).toBeCloseTo(dIn, 0);
  });

  it("finds that an SAE which returns 0 recovers nothing", async () => {
    const found = await evaluate(signedPairs(0), model, documents, options);
    expect(found.ceLossRecovered).toBeCloseTo(0, 12);
    expect(found.crossEntropy.sae).toBe(found.crossEntropy.zero);
    expect(found.crossEntropy.zero).not.toBeCloseTo(found.crossEntropy.clean, 3);
  });

  it("counts every prediction of a token of the text once, whatever the batch", async () => {
    const one = await evaluate(signedPairs(0.5), model, documents, { ...options, batchRows: 1 });
    const many = await evaluate(signedPairs(0.5), model, documents, { ...options, batchRows: 8 });
    for (const key of ["clean", "sae", "zero", "mean"] as const)
      expect(one.crossEntropy[key]).toBeCloseTo(many.crossEntropy[key], 5);
    expect(one.crossEntropy.predictions).toBe(many.crossEntropy.predictions);
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
    expect(found.crossEntropy.predictions).toBe(tokens.length - 1);
    expect(found.crossEntropy.clean).toBeCloseTo(expected, 5);
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
