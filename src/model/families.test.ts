/** Every family against what Hugging Face transformers computes; test/oracles/make-family-fixtures.py. */
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";

import { Safetensors } from "../safetensors.ts";
import { generate } from "./generate.ts";
import { loadModel, type LoadOptions } from "./model.ts";

const root = fileURLToPath(new URL("../../test/fixtures/", import.meta.url));
const families = (await readdir(join(root, "families"))).sort();
const scratch = await mkdtemp(join(tmpdir(), "lens-families-"));
afterAll(() => rm(scratch, { recursive: true, force: true }));

/** The fixture with a tokenizer, and other settings in its config.json. */
async function folderOf(family: string, settings?: Record<string, unknown>): Promise<string> {
  const folder = await mkdtemp(join(scratch, `${family}-`));
  await cp(join(root, "families", family), folder, { recursive: true });
  for (const name of ["tokenizer.json", "tokenizer_config.json"])
    await cp(join(root, "gpt2-tiny", "f32", name), join(folder, name));
  if (settings) {
    const path = join(folder, "config.json");
    const config = JSON.parse(await readFile(path, "utf8")) as object;
    await writeFile(path, JSON.stringify({ ...config, ...settings }));
  }
  return folder;
}

async function expectedOf(folder: string) {
  const file = await Safetensors.open(join(folder, "expected.safetensors"));
  const [batch, length] = file.info("tokens").shape;
  const tokens = await file.ints("tokens");
  const generated = await file.ints("generated");
  const values = new Map<string, Float32Array>();
  for (const name of file.tensors.keys())
    if (name !== "tokens" && name !== "generated") values.set(name, await file.floats(name));
  await file.close();
  return { batch, length, tokens, generated, values };
}

/** Infinite for NaN or another length. */
function maxDifference(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) return Infinity;
  let largest = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i] - b[i]);
    if (!(difference <= largest)) largest = Number.isNaN(difference) ? Infinity : difference;
  }
  return largest;
}

describe.each(families)("%s", (family) => {
  test.each<LoadOptions>([{ attention: "onnx" }, { attention: "plain" }])(
    "every hook point, the logits and the losses agree to 1e-4, and what it writes with a cache (%o)",
    async (options) => {
      const folder = await folderOf(family);
      const model = await loadModel(folder, options);
      const { batch, length, tokens, generated, values } = await expectedOf(folder);
      const capture = model.hookPoints();
      const found = await model.forward({
        tokens,
        batch,
        length,
        capture,
        logits: "all",
        loss: true,
      });
      expect([...values.keys()].sort()).toEqual([...capture, "logits", "loss"].sort());
      for (const [name, value] of values) {
        const ours = name === "logits" ? found.logits : name === "loss" ? found.loss : found.activations[name]; // prettier-ignore
        expect.soft(maxDifference(ours!, value), name).toBeLessThan(1e-4);
      }
      const written: number[] = [...generated.subarray(0, 5)];
      const stream = generate(model, generated.slice(0, 5), { maxNewTokens: 16, temperature: 0 });
      for await (const { token } of stream) written.push(token);
      expect(written).toEqual([...generated]);
      await model.close();
    },
  );
});

/** Each of these must change the result, or the test above says nothing of it. */
test.each<[string, Record<string, unknown>]>([
  ["gpt_neo", { window_size: 64 }],
  ["gpt_neox", { use_parallel_residual: false }],
  ["llama3", { rope_parameters: { rope_type: "default", rope_theta: 50 } }],
  ["llama-biased", { rope_parameters: { rope_type: "default", rope_theta: 10000 } }],
  ["mistral", { sliding_window: null }],
  ["smollm3", { no_rope_layers: [1, 1, 1, 1] }],
  ["qwen2", { layer_types: ["full_attention", "full_attention"] }],
  ["gemma2", { attn_logit_softcapping: null }],
  ["gemma2", { final_logit_softcapping: null }],
  ["gemma2", { query_pre_attn_scalar: 12 }],
  ["gemma3_text", { layer_types: ["full_attention", "full_attention", "full_attention"] }],
])("a setting of %s is followed: %o", async (family, settings) => {
  const { batch, length, tokens, values } = await expectedOf(join(root, "families", family));
  const model = await loadModel(await folderOf(family, settings));
  const { logits } = await model.forward({ tokens, batch, length, logits: "all" });
  expect(maxDifference(logits!, values.get("logits")!)).toBeGreaterThan(1e-3);
  await model.close();
});

test.each<[string, Record<string, unknown>, RegExp]>([
  ["llama", { rope_parameters: { rope_type: "yarn", rope_theta: 1e4, factor: 2 } }, /rope_parameters .*"yarn".*default, linear, llama3/], // prettier-ignore
  [
    "llama",
    { num_key_value_heads: 3 },
    /num_key_value_heads \(3\) must divide num_attention_heads/,
  ],
  ["opt", { do_layer_norm_before: false }, /do_layer_norm_before \(false\)/],
  ["gpt_neo", { attention_layers: ["global"], attention_types: null }, /for each of 2 layers/],
  ["gemma2", { layer_types: ["sliding_attention"] }, /layer_types .* must have 2 entries/],
  ["qwen3", { head_dim: 16 }, /not of one model/],
])(
  "settings of %s that would be computed wrongly are refused: %o",
  async (family, settings, said) => {
    await expect(loadModel(await folderOf(family, settings))).rejects.toThrow(said);
  },
);

test("the text model of one that also sees is found below text_config", async () => {
  const folder = await folderOf("gemma3_text");
  const path = join(folder, "config.json");
  const text = JSON.parse(await readFile(path, "utf8")) as object;
  await writeFile(path, JSON.stringify({ model_type: "gemma3", text_config: text }));
  const model = await loadModel(folder);
  expect(model.info).toMatchObject({ family: "gemma3_text", layers: 3, kvHeads: 2 });
  await model.close();
});
