import { cp, mkdtemp, open, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { UserError } from "../error.ts";
import { f32ToF16 } from "../float-types.ts";
import { maxDifference } from "../../test/max-difference.ts";
import { Safetensors } from "../safetensors.ts";
import { type TensorToWrite, writeSafetensors } from "../safetensors-write.ts";
import { loadModel, type LoadOptions, type Model } from "./model.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const fixtures = join(root, "test/fixtures/gpt2-tiny");
const folder = await mkdtemp(join(tmpdir(), "lens-model-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

interface Expected {
  tokens: Int32Array;
  batch: number;
  length: number;
  values: Map<string, Float32Array>;
}

async function readExpected(path: string): Promise<Expected> {
  const file = await Safetensors.open(path);
  const values = new Map<string, Float32Array>();
  for (const name of file.tensors.keys()) {
    if (name !== "tokens") values.set(name, await file.floats(name));
  }
  const [batch, length] = file.info("tokens").shape;
  const tokens = await file.ints("tokens");
  await file.close();
  return { tokens, batch, length, values };
}

/** Every value in `expected` against the model's; the largest difference by name. */
async function differences(model: Model, expected: Expected): Promise<Record<string, number>> {
  const { tokens, batch, length, values } = expected;
  const capture = [...values.keys()].filter((name) => name.includes("hook_"));
  const result = await model.forward({ tokens, batch, length, capture, logits: "all", loss: true });
  const found: Record<string, number> = {};
  for (const [name, value] of values) {
    const { logits, loss } = result;
    const ours = name === "logits" ? logits : name === "loss" ? loss : result.activations[name];
    found[name] = maxDifference(ours!, value);
  }
  return found;
}

/** A copy of the f32 fixture with other settings in config.json. */
async function variant(name: string, settings: Record<string, unknown>): Promise<string> {
  const copy = join(folder, name);
  await cp(join(fixtures, "f32"), copy, { recursive: true });
  const config = JSON.parse(await readFile(join(copy, "config.json"), "utf8")) as object;
  await writeFile(join(copy, "config.json"), JSON.stringify({ ...config, ...settings }));
  return copy;
}

describe("against Hugging Face transformers", () => {
  test.each<LoadOptions>([{ attention: "onnx" }, { attention: "plain" }])(
    "the streams, what is added to them, the logits and the losses agree to 1e-4 (%o)",
    async (options) => {
      const model = await loadModel(join(fixtures, "f32"), options);
      const expected = await readExpected(join(fixtures, "f32/expected.safetensors"));
      const found = await differences(model, expected);
      expect(Object.keys(found)).toHaveLength(1 + 7 * model.info.layers + 2);
      for (const [name, difference] of Object.entries(found)) {
        expect.soft(difference, name).toBeLessThan(1e-4);
      }
      await model.close();
    },
  );

  test.each(["bf16", "f16-shards"])(
    "a checkpoint in %s gives what its rounded weights give",
    async (name) => {
      const model = await loadModel(join(fixtures, name));
      const expected = await readExpected(join(fixtures, name, "expected.safetensors"));
      const found = await differences(model, expected);
      expect(found.logits).toBeLessThan(1e-4);
      expect(found.loss).toBeLessThan(1e-4);
      await model.close();
    },
  );

  test("every setting that changes the computation is followed", async () => {
    const settings = JSON.parse(await readFile(join(fixtures, "variants.json"), "utf8")) as Record<
      string,
      Record<string, unknown>
    >;
    const { tokens, batch, length, values } = await readExpected(
      join(fixtures, "variants.safetensors"),
    );
    const plain = (await readExpected(join(fixtures, "f32/expected.safetensors"))).values;
    const base = plain.get("logits")!.subarray(300 * (length - 1), 300 * length);
    for (const [name, changed] of Object.entries(settings)) {
      const model = await loadModel(await variant(name, changed));
      const { logits } = await model.forward({ tokens, batch, length, logits: "last" });
      expect.soft(maxDifference(logits!, values.get(name)!), name).toBeLessThan(1e-4);
      expect.soft(maxDifference(logits!, base), `${name} matters`).toBeGreaterThan(1e-3);
      await model.close();
    }
  });

  const tiny = join(root, "test/fixtures/tiny-parity/expected.safetensors");
  test("the built-in model agrees at the hook points of the stream and what is added to it", async ({
    skip,
  }) => {
    if (!existsSync(tiny)) skip("test/fixtures/tiny-parity is not made yet");
    const model = await loadModel("builtin:tiny");
    const found = await differences(model, await readExpected(tiny));
    expect(Object.keys(found)).toHaveLength(1 + 7 * model.info.layers + 2);
    for (const [name, difference] of Object.entries(found)) {
      expect.soft(difference, name).toBeLessThan(1e-4);
    }
    await model.close();
  });
});

describe("a loaded model", () => {
  let model: Model;
  let expected: Expected;
  beforeAll(async () => {
    model = await loadModel(join(fixtures, "f32"));
    expected = await readExpected(join(fixtures, "f32/expected.safetensors"));
  });
  afterAll(() => model.close());
  const input = () => ({
    tokens: expected.tokens,
    batch: expected.batch,
    length: expected.length,
  });

  test("says what it is", async () => {
    expect(model.info).toMatchObject({
      family: "gpt2",
      layers: 3,
      dModel: 40,
      heads: 4,
      dHead: 10,
      dMlp: 96,
      vocabSize: 300,
      contextLength: 64,
    });
    const layer = 4 * 40 + (40 * 120 + 120) + (40 * 40 + 40) + (40 * 96 + 96) + (96 * 40 + 40);
    expect(model.info.parameters).toBe(300 * 40 + 64 * 40 + 3 * layer + 80);
    expect(await model.weightsHash()).toMatch(/^[0-9a-f]{16}$/);
    const sharded = await loadModel(join(fixtures, "f16-shards"));
    expect(await sharded.weightsHash()).toMatch(/^[0-9a-f]{16}$/);
    expect(await sharded.weightsHash()).not.toBe(await model.weightsHash());
    await sharded.close();
  });

  test("a value replaced by itself changes nothing, at any hook point", async () => {
    const plain = await model.forward({ ...input(), capture: model.hookPoints(), loss: true });
    for (const name of model.hookPoints()) {
      const patch = { [name]: plain.activations[name] };
      const patched = await model.forward({ ...input(), patch, loss: true });
      // A norm in which something is replaced is computed step by step.
      const most = /ln\w+\.hook/.test(name) ? 1e-5 : 1e-6;
      expect.soft(maxDifference(patched.loss!, plain.loss!), name).toBeLessThan(most);
    }
  });

  test("a replaced value is what the hook point and all that follows see", async () => {
    const name = "blocks.1.hook_resid_post";
    const { activations, loss } = await model.forward({ ...input(), capture: [name], loss: true });
    const zeros = new Float32Array(activations[name].length);
    const after = "blocks.2.hook_resid_pre";
    const before = "blocks.1.hook_mlp_out";
    const patched = await model.forward({
      ...input(),
      patch: { [name]: zeros },
      capture: [name, after, before],
      loss: true,
    });
    expect(patched.activations[name]).toEqual(zeros);
    expect(patched.activations[after]).toEqual(zeros);
    expect(maxDifference(patched.activations[before], expected.values.get(before)!)).toBeLessThan(
      1e-4,
    );
    expect(maxDifference(patched.loss!, loss!)).toBeGreaterThan(0.1);
  });

  test("what is not asked for is neither returned nor needed", async () => {
    expect(await model.forward(input())).toEqual({ activations: {} });
    // A patch after the captured point has no effect on it.
    const name = "blocks.0.attn.hook_z";
    const { activations, logits, loss } = await model.forward({
      ...input(),
      capture: [name],
      patch: { "blocks.2.hook_mlp_out": new Float32Array(expected.tokens.length * 40) },
    });
    expect(maxDifference(activations[name], expected.values.get(name)!)).toBeLessThan(1e-4);
    expect([logits, loss]).toEqual([undefined, undefined]);
  });

  test("a row is the same alone, in a batch, and when cut short", async () => {
    const { length } = expected;
    const tokens = expected.tokens.subarray(length, 2 * length - 3); // a view into a larger buffer
    const capture = ["blocks.2.hook_resid_post"];
    const alone = await model.forward({ tokens, batch: 1, length: length - 3, capture });
    const whole = expected.values.get(capture[0])!.subarray(length * 40, (2 * length - 3) * 40);
    expect(maxDifference(alone.activations[capture[0]], whole)).toBeLessThan(1e-4);
  });

  test("the last logits, and losses of one token, have their own shapes", async () => {
    const { length } = expected;
    const { logits } = await model.forward({ ...input(), logits: "last" });
    const all = expected.values.get("logits")!;
    const last = [0, 1].map((row) => all.slice(((row + 1) * length - 1) * 300).subarray(0, 300));
    expect(maxDifference(logits!.subarray(0, 300), last[0])).toBeLessThan(1e-4);
    expect(maxDifference(logits!.subarray(300), last[1])).toBeLessThan(1e-4);
    const one = { tokens: Int32Array.of(7, 8), batch: 2, length: 1, loss: true };
    expect(await model.forward(one)).toEqual({ activations: {}, loss: new Float32Array(0) });
  });

  test("many different questions, also at once, use no more than a few sessions", async () => {
    const names = model.hookPoints().filter((name) => expected.values.has(name));
    const results = await Promise.all(
      names.map((name) => model.forward({ ...input(), capture: [name] })),
    );
    for (const [i, name] of names.entries()) {
      const value = results[i].activations[name];
      expect.soft(maxDifference(value, expected.values.get(name)!), name).toBeLessThan(1e-4);
    }
  });

  test("tokens, lengths, hook points and patches that do not fit are refused", async () => {
    const bad = (options: Partial<Parameters<Model["forward"]>[0]>) =>
      expect(model.forward({ ...input(), ...options, loss: true })).rejects;
    await bad({ tokens: Int32Array.of(1, 2, 300, 4), batch: 2, length: 2 }).toThrow(
      "token 300 at row 1, position 0",
    );
    await bad({ tokens: Int32Array.of(-1), batch: 1, length: 1 }).toThrow("token -1");
    await bad({ tokens: new Int32Array(65), batch: 1, length: 65 }).toThrow("context of 64");
    await bad({ tokens: new Int32Array(5), batch: 2, length: 2 }).toThrow("5 tokens were given");
    await bad({ tokens: new Int32Array(0), batch: 0, length: 0 }).toThrow("at least one token");
    await bad({ capture: ["blocks.3.hook_resid_pre"] }).toThrow("no hook point");
    await bad({ patch: { "blocks.0.hook_queries": new Float32Array(1) } }).toThrow("no hook point");
    await bad({ patch: { hook_embed: new Float32Array(7) } }).toThrow(
      "patch of hook_embed has 7 values; [batch, length, width] = [2, 9, 40]",
    );
    await bad({ patch: { "blocks.0.attn.hook_pattern": new Float32Array(7) } }).toThrow(
      /7 values; \[batch, head, query, key\] = \[2, \d+, 9, 9\]/,
    );
  });

  test("after close it runs no more", async () => {
    const other = await loadModel(join(fixtures, "f32"));
    await other.forward({ ...input(), loss: true });
    await other.close();
    await expect(other.forward({ ...input(), loss: true })).rejects.toThrow("closed");
  });
});

describe("loading", () => {
  const refusal = async (source: string) => {
    try {
      await (await loadModel(source)).close();
    } catch (error) {
      expect(error).toBeInstanceOf(UserError);
      return (error as Error).message;
    }
    throw new Error(`${source} was accepted`);
  };

  test.skipIf(process.platform === "win32")("follows the links of a download cache", async () => {
    const linked = join(folder, "linked");
    await cp(join(fixtures, "f16-shards"), join(folder, "blobs"), { recursive: true });
    await cp(join(fixtures, "f16-shards"), linked, { recursive: true });
    for (const name of ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]) {
      await rm(join(linked, name));
      await symlink(join(folder, "blobs", name), join(linked, name));
    }
    const model = await loadModel(linked);
    const expected = await readExpected(join(linked, "expected.safetensors"));
    expect((await differences(model, expected)).logits).toBeLessThan(1e-4);
    await model.close();
  });

  test("an untied unembedding is used, and one that is missing is the embedding", async () => {
    const untied = await variant("untied", { tie_word_embeddings: false });
    const { tokens, batch, length, values } = await readExpected(
      join(fixtures, "f32/expected.safetensors"),
    );
    const last = async (path: string) => {
      const model = await loadModel(path);
      const { logits } = await model.forward({ tokens, batch, length, logits: "all" });
      await model.close();
      return logits!;
    };
    expect(maxDifference(await last(untied), values.get("logits")!)).toBeLessThan(1e-4);

    const file = await Safetensors.open(join(untied, "model.safetensors"));
    const copies: Record<string, TensorToWrite> = {};
    for (const [name, { shape }] of file.tensors) {
      copies[name] = { dtype: "F32", shape, data: await file.floats(name) };
    }
    const negated = (await file.floats("transformer.wte.weight")).map((x) => -x);
    copies["lm_head.weight"] = { dtype: "F32", shape: [300, 40], data: negated };
    await file.close();
    await writeSafetensors(join(untied, "model.safetensors"), copies);
    const negative = values.get("logits")!.map((x) => -x);
    expect(maxDifference(await last(untied), negative)).toBeLessThan(1e-4);
  });

  test("a source that is no folder of a model is refused with what to give instead", async () => {
    expect(await refusal("openai-community/gpt2")).toMatch(
      /openai-community\/gpt2 is not in the cache .*give a folder/,
    );
    expect(await refusal("gpt2@v1")).toContain("gpt2@v1 is not in the cache");
    expect(await refusal("./no/such/folder")).toContain("does not exist");
    expect(await refusal("builtin:huge")).toContain("builtin:tiny");
    expect(await refusal(join(fixtures, "variants.json"))).toContain("is not a folder");
    expect(await refusal(fixtures)).toMatch(/config\.json does not exist/);
  });

  test("settings that would be computed wrongly are refused by name", async () => {
    const cases: [Record<string, unknown>, RegExp][] = [
      [{ model_type: "gpt3" }, /model_type \("gpt3"\) is not a supported family.*gpt2/],
      [{ model_type: undefined }, /model_type \(absent\)/],
      [{ activation_function: "mish" }, /activation_function \("mish"\).*gelu_new/],
      [{ quantization_config: { bits: 4 } }, /quantization_config \({"bits":4}\)/],
      [{ n_head: 3 }, /n_head \(3\) must divide n_embd \(40\)/],
      [{ n_layer: 0 }, /n_layer \(0\) must be a positive integer/],
      [{ n_embd: "40" }, /n_embd \("40"\)/],
      [{ layer_norm_epsilon: "x" }, /layer_norm_epsilon/],
      [{ add_cross_attention: true }, /add_cross_attention/],
      [{ n_layer: 4 }, /lacks 12 of the tensors.*h\.3\.ln_1\.weight/],
      [{ n_embd: 80 }, /wte\.weight has shape \[300, 40\].*\[300, 80\]/],
      [{ vocab_size: 301 }, /not of one model/],
    ];
    for (const [i, [settings, message]] of cases.entries()) {
      expect.soft(await refusal(await variant(`bad-${i}`, settings))).toMatch(message);
    }
  });

  test("damaged files are refused by name", async () => {
    const copy = await variant("damaged", {});
    const spoil = async (name: string, content: string | Uint8Array | null) => {
      const before = await readFile(join(copy, name));
      if (content === null) await rm(join(copy, name));
      else await writeFile(join(copy, name), content);
      const message = await refusal(copy);
      await writeFile(join(copy, name), before);
      expect(message).toContain(copy);
      return message;
    };
    expect(await spoil("config.json", "{")).toContain("config.json is not JSON");
    expect(await spoil("config.json", "[]")).toContain("not a JSON object");
    expect(await spoil("tokenizer.json", null)).toContain("tokenizer.json does not exist");
    expect(await spoil("model.safetensors", null)).toContain("neither model.safetensors nor");
    const weights = await readFile(join(copy, "model.safetensors"));
    expect(await spoil("model.safetensors", weights.subarray(0, 9000))).toContain("ends at byte");
    expect(await spoil("model.safetensors", weights.subarray(0, 100))).toContain("header claims");
  });
});

test("an unembedding of several pieces gives every token the logit of its row", async () => {
  // 150,000 rows of 512 are 293 MiB as float32: two pieces. The file is sparse, so that it takes no room.
  const [vocab, dModel] = [150_000, 512];
  const copy = join(folder, "pieces");
  await cp(join(fixtures, "f32"), copy, { recursive: true });
  const config = {
    ...{ model_type: "llama", num_hidden_layers: 1, hidden_size: dModel, vocab_size: vocab },
    ...{ num_attention_heads: 4, intermediate_size: 8, tie_word_embeddings: true },
  };
  await writeFile(join(copy, "config.json"), JSON.stringify(config));
  const shapes: Record<string, number[]> = {
    "embed_tokens.weight": [vocab, dModel],
    "norm.weight": [dModel],
    "layers.0.input_layernorm.weight": [dModel],
    "layers.0.post_attention_layernorm.weight": [dModel],
    ...Object.fromEntries(
      ["q", "k", "v", "o"].map((one) => [
        `layers.0.self_attn.${one}_proj.weight`,
        [dModel, dModel],
      ]),
    ),
    "layers.0.mlp.gate_proj.weight": [8, dModel],
    "layers.0.mlp.up_proj.weight": [8, dModel],
    "layers.0.mlp.down_proj.weight": [dModel, 8],
  };
  const header: Record<string, unknown> = {};
  let end = 0;
  for (const [name, shape] of Object.entries(shapes)) {
    const bytes = 2 * shape.reduce((a, b) => a * b, 1);
    header[name] = { dtype: "F16", shape, data_offsets: [end, (end += bytes)] };
  }
  const text = JSON.stringify(header);
  const head = Buffer.from(" ".repeat(8) + text + " ".repeat(-text.length & 7));
  head.writeBigUInt64LE(BigInt(head.length - 8));
  const file = await open(join(copy, "model.safetensors"), "w");
  await file.write(head);
  await file.truncate(head.length + end);
  const halves = (value: number) => f32ToF16(new Float32Array(dModel).fill(value));
  const write = (offset: number, value: number) => file.write(halves(value), 0, 2 * dModel, head.length + offset); // prettier-ignore
  await write(2 * vocab * dModel, 1); // the final norm's gain
  // Rows on both sides of the seam at 131,072, and the last one.
  const rows = [0, 131_071, 131_072, 149_999];
  for (const [i, row] of rows.entries()) await write(2 * row * dModel, i + 1);
  await file.close();

  const model = await loadModel(copy);
  try {
    // Nothing but the embedding is above zero: what the final norm gives is all ones.
    const { logits } = await model.forward({ tokens: Int32Array.of(131_072), batch: 1, length: 1, logits: "last" }); // prettier-ignore
    const expected = new Float32Array(vocab);
    for (const [i, row] of rows.entries()) expected[row] = (i + 1) * dModel;
    expect(maxDifference(logits!, expected)).toBeLessThan(0.01);
  } finally {
    await model.close();
  }
});
