import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";

import { loadModel } from "./model.ts";

const fixtures = fileURLToPath(new URL("../../test/fixtures/gpt2-tiny", import.meta.url));

describe.each(["f32", "bf16", "f16-shards"])("%s", async (name) => {
  const model = await loadModel(join(fixtures, name));
  afterAll(() => model.close());
  const { dModel, dMlp, layers, heads, dHead, vocabSize } = model.info;
  const tokens = Int32Array.from({ length: 6 }, (_, i) => (7 * i + 3) % vocabSize);
  const last = `blocks.${layers - 1}.hook_resid_post`;
  const inner = ["blocks.1.mlp.hook_post", "blocks.1.attn.hook_z"];
  const outer = ["blocks.1.hook_mlp_out", "blocks.1.hook_attn_out"];
  const { activations, logits } = await model.forward({
    ...{ tokens, batch: 1, length: 6, logits: "all", capture: [last, ...inner, ...outer] },
  });

  test("the arrays turn the last residual stream into the model's logits", async () => {
    const { W_U, norm } = await model.unembedding();
    expect(W_U.length).toBe(vocabSize * dModel);
    for (let p = 0; p < 6; p++) {
      const x = activations[last].subarray(p * dModel, (p + 1) * dModel);
      const mean = x.reduce((a, b) => a + b, 0) / dModel;
      const variance = x.reduce((a, b) => a + (b - mean) ** 2, 0) / dModel;
      const scale = 1 / Math.sqrt(variance + norm.epsilon);
      const normed = x.map((v, c) => (v - mean) * scale * norm.gain[c] + norm.bias[c]);
      for (let t = 0; t < vocabSize; t++) {
        let logit = 0;
        for (let c = 0; c < dModel; c++) logit += W_U[t * dModel + c] * normed[c];
        expect(Math.abs(logit - logits![p * vocabSize + t])).toBeLessThan(1e-4);
      }
    }
  });

  test("what a hook point adds to the residual stream is its values times its writer", async () => {
    for (const [i, width] of [dMlp, heads * dHead].entries()) {
      const writer = await model.writer(inner[i]);
      expect(writer!.length).toBe(width * dModel);
      // The difference between two positions, from which biases cancel.
      for (let c = 0; c < dModel; c++) {
        let sum = 0;
        const values = activations[inner[i]];
        for (let j = 0; j < width; j++)
          sum += (values[width + j] - values[j]) * writer![j * dModel + c];
        const out = activations[outer[i]];
        expect(Math.abs(sum - (out[dModel + c] - out[c]))).toBeLessThan(1e-5);
      }
    }
    expect(await model.writer(outer[0])).toBeNull();
    expect(await model.writer(last)).toBeNull();
    await expect(model.writer("blocks.9.hook_resid_post")).rejects.toThrow("no hook point");
    await expect(model.writer("blocks.1.attn.hook_q")).rejects.toThrow("not added to the stream");
  });

  test("the arrays are read once", async () => {
    expect(await model.unembedding()).toBe(await model.unembedding());
  });
});
