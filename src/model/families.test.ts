/** Every family against what Hugging Face transformers computes; test/oracles/make-family-fixtures.py. */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";

import { families, familyFixture, familyFolder } from "../../test/family-fixture.ts";
import { maxDifference } from "../../test/max-difference.ts";
import { loadOrt } from "../ort.ts";
import { Safetensors } from "../safetensors.ts";
import { collect } from "./collect.ts";
import { generate } from "./generate.ts";
import { packRows, type Packing } from "./packing.ts";
import { loadModel, type LoadOptions, type Model } from "./model.ts";

async function expectedOf(folder: string) {
  const file = await Safetensors.open(join(folder, "expected.safetensors"));
  const [batch, length] = file.info("tokens").shape;
  const tokens = await file.ints("tokens");
  const generated = file.tensors.has("generated") ? await file.ints("generated") : undefined;
  const lengths = file.tensors.has("lengths") ? await file.ints("lengths") : undefined;
  const values = new Map<string, Float32Array>();
  for (const name of file.tensors.keys())
    if (!["tokens", "generated", "lengths"].includes(name))
      values.set(name, await file.floats(name));
  await file.close();
  return { batch, length, tokens, generated: generated!, lengths: lengths!, values };
}

const isEncoder = (family: string) => family.includes("bert");

/** Attention's weights of every layer. */
const patternsOf = (model: Model) =>
  Array.from({ length: model.info.layers }, (_, layer) => `blocks.${layer}.attn.hook_pattern`);

describe.each(families.filter((family) => !isEncoder(family)))("%s", (family) => {
  test.each<LoadOptions>([{ attention: "onnx" }, { attention: "plain" }])(
    "every hook point, the logits and the losses agree to 1e-4, and what it writes with a cache (%o)",
    async (options) => {
      const folder = await familyFolder(family);
      const model = await loadModel(folder, options);
      const { batch, length, tokens, generated, values } = await expectedOf(folder);
      const capture = [...model.hookPoints(), ...patternsOf(model)];
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

test.each(families.filter((family) => !isEncoder(family)))(
  "%s gives the same with its queries in blocks, even ones and not",
  async (family) => {
    const folder = await familyFolder(family);
    const model = await loadModel(folder);
    const { batch, length, tokens } = await expectedOf(folder);
    const { Tensor } = await loadOrt();
    const capture = [model.lastResidual()];
    const run = async (queryBlocks: number) => {
      const feeds = { tokens: new Tensor("int32", tokens, [batch, length]) };
      return (await model.run({ capture, queryBlocks }, feeds))[capture[0]].data as Float32Array;
    };
    const whole = await run(1);
    for (const blocks of [2, 3, length])
      expect(maxDifference(await run(blocks), whole), `${blocks}`).toBeLessThan(1e-5);
    await model.close();
  },
);

describe.each(families.filter(isEncoder))("%s", (family) => {
  test.each<LoadOptions>([{ attention: "onnx" }, { attention: "plain" }])(
    "every hook point and the logits agree to 1e-4, and what is before padding (%o)",
    async (options) => {
      const model = await loadModel(await familyFolder(family), options);
      const { batch, length, tokens, lengths, values } = await expectedOf(familyFixture(family));
      const input = { tokens, batch, length };
      const capture = [...model.hookPoints(), ...patternsOf(model)];
      const logits = values.has("logits") ? ("all" as const) : undefined;
      const found = await model.forward({ ...input, capture, ...(logits && { logits }) });
      const padded = values.get("padded")!;
      values.delete("padded");
      const names = logits ? [...capture, "logits"] : capture;
      expect([...values.keys()].sort()).toEqual(names.sort());
      for (const [name, value] of values) {
        const ours = name === "logits" ? found.logits : found.activations[name];
        expect.soft(maxDifference(ours!, value), name).toBeLessThan(1e-4);
      }

      const last = model.lastResidual();
      const { activations } = await model.forward({ ...input, capture: [last], lengths });
      const text = activations[last].map((v, i) => {
        const [row, position] = [Math.floor(i / 32 / length), Math.floor(i / 32) % length];
        return position < lengths[row] ? v : 0;
      });
      expect(maxDifference(text, padded)).toBeLessThan(1e-4);
      await model.close();
    },
  );

  test("what takes the next token to be predicted is refused", async () => {
    const model = await loadModel(await familyFolder(family));
    const input = { tokens: Int32Array.of(5, 6, 7), batch: 1, length: 3 };
    const says = "is an encoder";
    await expect(model.forward({ ...input, loss: true })).rejects.toThrow(says);
    await expect(model.forward({ ...input, logits: "last" })).rejects.toThrow(says);
    await expect(model.unembedding()).rejects.toThrow(says);
    await expect(model.writer("blocks.1.hook_mlp_out")).rejects.toThrow(says);
    const text = generate(model, input.tokens, { maxNewTokens: 3, temperature: 0 });
    await expect(text.next()).rejects.toThrow(says);
    await expect(model.forward({ ...input, lengths: Int32Array.of(4) })).rejects.toThrow(
      "one number from 1 to 3 for each of 1 rows; got 4",
    );
    await model.close();
  });
});

test.each(families.filter((family) => !isEncoder(family)))(
  "%s has the same values at a text with padding behind it",
  async (family) => {
    const model = await loadModel(await familyFolder(family));
    const { batch, length, tokens } = await expectedOf(familyFixture(family));
    const capture = model.hookPoints();
    const padded = await model.forward({ tokens, batch, length, capture, lengths: Int32Array.of(length, 9) }); // prettier-ignore
    const alone = await model.forward({ ...{ tokens: tokens.slice(length, length + 9), batch: 1, length: 9 }, capture }); // prettier-ignore
    for (const name of capture) {
      const from = length * model.hookWidth(name);
      const { [name]: own } = alone.activations;
      const same = padded.activations[name].subarray(from, from + own.length);
      expect.soft(maxDifference(same, own), name).toBeLessThan(1e-5);
    }
    await model.close();
  },
);

test.each(families.filter(isEncoder))(
  "%s has the same values at a text with padding behind it only with its length",
  async (family) => {
    const model = await loadModel(await familyFolder(family));
    const { batch, length, tokens, lengths } = await expectedOf(familyFixture(family));
    const input = { tokens, batch, length };
    const capture = model.hookPoints();
    const count = lengths[1];
    const alone = await model.forward({ ...{ tokens: tokens.slice(length, length + count), batch: 1, length: count }, capture }); // prettier-ignore
    for (const [given, isSame] of [
      [{ lengths }, true],
      [{}, false],
    ] as const) {
      // prettier-ignore
      const padded = await model.forward({ ...input, capture, ...given });
      let largest = 0;
      for (const name of capture) {
        const from = length * model.hookWidth(name);
        const { [name]: own } = alone.activations;
        const same = padded.activations[name].subarray(from, from + own.length);
        largest = Math.max(largest, maxDifference(same, own));
      }
      if (isSame) expect(largest).toBeLessThan(1e-5);
      else expect(largest).toBeGreaterThan(1e-3);
    }
    await model.close();
  },
);

test("rows of text for an encoder have [CLS] before every document, and nothing between", async () => {
  const model = await loadModel(await familyFolder("bert"));
  const texts = ["The fox", "once upon a time"].map((text, id) => ({ id: String(id), text }));
  const own = texts.map(({ text }) => [...model.tokenizer.encode(text).ids]);
  const options = { contextLength: 64, bos: "document" as const, partial: true };
  const rows: number[][] = [];
  for await (const row of packRows(texts, model.tokenizer, options)) rows.push([...row.tokens]);
  expect(rows).toEqual([[2, ...own[0], 2, ...own[1]]]);
  await model.close();
});

test.each(["bert", "qwen3"])(
  "documents in rows of their own have in %s the activations that each has alone",
  async (family) => {
    const model = await loadModel(await familyFolder(family));
    const hookPoint = model.lastResidual();
    const texts = ["The fox.", "Once upon a time there was a fox.", "So it was."];
    const text = join(await mkdtemp(join(tmpdir(), "lens-rows-")), "text.jsonl");
    await writeFile(text, texts.map((text) => JSON.stringify({ text })).join("\n"));
    const { bosId, eosId } = model.tokenizer;
    const bos = bosId === null ? "none" : "document";
    const settings = { hookPoint, contextLength: 24, bos, eos: true } as const;
    const rowsOf = async (packing: Packing) => {
      const out = join(dirname(text), packing);
      const all = { ...settings, packing, out, tokens: 1000, dtype: "f32" as const };
      const rows: number[] = [];
      for await (const { data } of (await collect(model, text, all)).rowsInOrder(64))
        rows.push(...data);
      return Float32Array.from(rows);
    };
    const width = model.hookWidth(hookPoint);
    const expected: number[] = [];
    for (const one of texts) {
      const ids = [...(bosId === null ? [] : [bosId]), ...model.tokenizer.encode(one).ids, eosId!];
      const input = { tokens: Int32Array.from(ids), batch: 1, length: ids.length };
      const { activations } = await model.forward({ ...input, capture: [hookPoint] });
      const first = bosId === null ? 0 : 1;
      expected.push(...activations[hookPoint].subarray(first * width, (ids.length - 1) * width));
    }
    expect(maxDifference(await rowsOf("separate"), Float32Array.from(expected))).toBeLessThan(1e-5);
    // In one row documents see each other.
    const together = maxDifference(await rowsOf("continuous"), Float32Array.from(expected));
    expect(together).toBeGreaterThan(1e-3);
    await rm(dirname(text), { recursive: true });
    await model.close();
  },
);

test("an encoder without what predicts masked tokens has no logits", async () => {
  const model = await loadModel(await familyFolder("bert-bare"));
  const input = { tokens: Int32Array.of(5, 6, 7), batch: 1, length: 3 };
  await expect(model.forward({ ...input, logits: "all" })).rejects.toThrow("has no logits");
  await model.close();
});

test.each(["gpt2", "gpt_neox", "qwen3", "gemma2", "bert"])(
  "%s runs on from what is put in the place of any hook point",
  async (family) => {
    const { batch, length, tokens } = await expectedOf(familyFixture(family));
    const input = { tokens, batch, length, logits: "all" as const };
    const model = await loadModel(await familyFolder(family));
    const names = [...model.hookPoints(), ...patternsOf(model)];
    const { activations, logits } = await model.forward({ ...input, capture: names });
    for (const name of names) {
      const run = async (values: Float32Array) => {
        // What is before the stream that it is added to must not matter once that is held.
        const residual = name.endsWith("hook_pattern") ? null : model.residualBefore(name);
        const held = residual !== null && { [residual]: activations[residual] };
        const patch = { [name]: values, ...held, ...(held && { hook_embed: activations.hook_embed.map(() => 0) }) }; // prettier-ignore
        const found = await model.forward({ ...input, patch, capture: [name] });
        expect.soft(found.activations[name], name).toEqual(values);
        return maxDifference(found.logits!, logits!);
      };
      expect.soft(await run(activations[name]), name).toBeLessThan(1e-4);
      // All changed alike would be undone by a norm.
      const changed = activations[name].map((v, i) => v * (1 + (i % 3)));
      expect.soft(await run(changed), name).toBeGreaterThan(1e-3);
    }
    await model.close();
  },
);

test.each(["gpt2", "qwen3", "gemma2"])(
  "%s goes on writing as it does when any hook point is replaced by itself",
  async (family) => {
    const { generated } = await expectedOf(familyFixture(family));
    const model = await loadModel(await familyFolder(family));
    for (const hookPoint of model.hookPoints()) {
      const intervention = { hookPoint, replace: (x: Float32Array) => x };
      const written: number[] = [...generated.subarray(0, 5)];
      const options = { maxNewTokens: 4, temperature: 0, intervention };
      for await (const { token } of generate(model, generated.slice(0, 5), options))
        written.push(token);
      expect.soft(written, hookPoint).toEqual([...generated.subarray(0, 9)]);
    }
    await model.close();
  },
);

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
  const { batch, length, tokens, values } = await expectedOf(familyFixture(family));
  const model = await loadModel(await familyFolder(family, settings));
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
  [
    "bert",
    { position_embedding_type: "relative_key" },
    /position_embedding_type \("relative_key"\)/,
  ],
  ["bert", { is_decoder: true }, /is_decoder \(true\)/],
  ["distilbert", { n_heads: 3 }, /n_heads \(3\) must divide dim/],
])(
  "settings of %s that would be computed wrongly are refused: %o",
  async (family, settings, said) => {
    await expect(loadModel(await familyFolder(family, settings))).rejects.toThrow(said);
  },
);

test("the text model of one that also sees is found below text_config", async () => {
  const folder = await familyFolder("gemma3_text");
  const path = join(folder, "config.json");
  const text = JSON.parse(await readFile(path, "utf8")) as object;
  await writeFile(path, JSON.stringify({ model_type: "gemma3", text_config: text }));
  const model = await loadModel(folder);
  expect(model.info).toMatchObject({ family: "gemma3_text", layers: 3, kvHeads: 2 });
  await model.close();
});
