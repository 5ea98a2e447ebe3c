// Training straight from the model beside the model alone and training alone: node bench/on-the-fly.mjs
// The built-in model, and GPT-2 small's shape with random weights up to the end of layer 6; TopK on
// windows of a quarter of the tokens. Prints medians: seconds, and who waited for whom.
import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { writeSafetensors } from "../dist/safetensors-write.js";
import { count, lens } from "./common.mjs";
import { median, once } from "./contest.mjs";

const { values: flags } = parseArgs({
  options: {
    threads: { type: "string", default: "2" },
    rounds: { type: "string", default: "3" },
    scale: { type: "string", default: "1" },
  },
});
const here = fileURLToPath(new URL(".", import.meta.url));
const context = { threads: Number(flags.threads), path: (name) => join(here, name) };
const rounds = Number(flags.rounds);
const scaled = (tokens) => 1024 * Math.max(4, Math.round((Number(flags.scale) * tokens) / 1024));

/** A checkpoint of GPT-2 small's shape but for its vocabulary, cut after `layers` layers. */
async function writeGpt2(folder, layers) {
  const [d, vocab, positions] = [768, 300, 1024];
  let state = 1;
  const random = () => (state = (state * 48271) % 2147483647) / 2147483647 - 0.5;
  const matrix = (...shape) => {
    const size = shape.reduce((a, b) => a * b);
    return {
      dtype: "F32",
      shape,
      data: Float32Array.from({ length: size }, () => 0.07 * random()),
    };
  };
  const vector = (n, value) => ({
    dtype: "F32",
    shape: [n],
    data: new Float32Array(n).fill(value),
  });
  const tensors = { "wte.weight": matrix(vocab, d), "wpe.weight": matrix(positions, d) };
  for (let layer = 0; layer < layers; layer++) {
    const linear = (name, from, to) => {
      tensors[`h.${layer}.${name}.weight`] = matrix(from, to);
      tensors[`h.${layer}.${name}.bias`] = vector(to, 0);
    };
    for (const name of ["ln_1", "ln_2"]) {
      tensors[`h.${layer}.${name}.weight`] = vector(d, 1);
      tensors[`h.${layer}.${name}.bias`] = vector(d, 0);
    }
    linear("attn.c_attn", d, 3 * d);
    linear("attn.c_proj", d, d);
    linear("mlp.c_fc", d, 4 * d);
    linear("mlp.c_proj", 4 * d, d);
  }
  tensors["ln_f.weight"] = vector(d, 1);
  tensors["ln_f.bias"] = vector(d, 0);
  await writeSafetensors(join(folder, "model.safetensors"), tensors);
  const config = {
    ...{ model_type: "gpt2", architectures: ["GPT2LMHeadModel"], activation_function: "gelu_new" },
    ...{ n_embd: d, n_head: 12, n_layer: layers, n_positions: positions, vocab_size: vocab },
    ...{ layer_norm_epsilon: 1e-5, bos_token_id: 0, eos_token_id: 0, tie_word_embeddings: true },
  };
  await writeFile(join(folder, "config.json"), JSON.stringify(config));
  for (const name of ["tokenizer.json", "tokenizer_config.json"])
    await cp(join(here, "../test/fixtures/gpt2-tiny/f32", name), join(folder, name));
}

const folder = await mkdtemp(join(tmpdir(), "lens-on-the-fly-"));
try {
  await writeGpt2(folder, 6);
  const cases = [
    {
      ...{ name: "builtin:tiny, 256 → 4,096", model: "builtin:tiny", tokens: scaled(65_536) },
      ...{ hookPoint: "blocks.2.hook_resid_post", batch: 2048, dSae: 4096, k: 16 },
    },
    {
      ...{ name: "GPT-2 small, layer 6, 768 → 6,144", model: folder, tokens: scaled(16_384) },
      ...{ hookPoint: "blocks.5.hook_resid_post", batch: 2048, dSae: 6144, k: 32 },
    },
    // The model and training take about as long as each other.
    {
      ...{ name: "builtin:tiny, 256 → 12,288", model: "builtin:tiny", tokens: scaled(65_536) },
      ...{ hookPoint: "blocks.2.hook_resid_post", batch: 2048, dSae: 12_288, k: 16 },
    },
    {
      ...{ name: "builtin:tiny, 256 → 32,768", model: "builtin:tiny", tokens: scaled(32_768) },
      ...{ hookPoint: "blocks.2.hook_resid_post", batch: 2048, dSae: 32_768, k: 32 },
    },
  ];
  const row = (cells) => console.log(`| ${cells.join(" | ")} |`);
  console.log(`${cpus()[0].model.trim()}, ${flags.threads} threads\n`);
  row(["", "tokens", "model alone", "training alone", "sum", "both at once", "of the sum", "the model waited", "training waited"]); // prettier-ignore
  row(["---", ...Array(8).fill("---:")]);
  for (const { name, ...one } of cases) {
    const bufferRows = one.tokens / 4;
    const result = await once(lens(context, "on-the-fly", { ...one, bufferRows, rounds }, { memoryGiB: 2 })); // prettier-ignore
    if (result.failed) throw new Error(`${name}: ${result.failed}`);
    const [model, training, both] = [result.model, result.training, result.both].map(median);
    const sum = model + training;
    const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;
    const percent = (share) => `${Math.round(100 * share)} %`;
    row([name, count(one.tokens), ...[model, training, sum, both].map(seconds), (both / sum).toFixed(2), percent(median(result.modelWaited)), percent(median(result.trainingWaited))]); // prettier-ignore
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}
