// Peak memory of running a big checkpoint: node bench/checkpoint-memory.mjs [--only bf16]
// Writes checkpoints of the Llama shape with random weights (more than 2 GiB, in shards with an index), captures
// the last layer and computes logits in a process of its own, and prints that process's peak against the weights
// in float32, the type they are computed in. At most 2.6 GB are on disk at a time; all of it is removed.
// Exits with 1 when a peak is beyond the weights + 1.5 GiB.
import { spawn } from "node:child_process";
import { cp, mkdtemp, open, rm, writeFile } from "node:fs/promises";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { f32ToBf16, f32ToF16 } from "../dist/float-types.js";

const GIB = 2 ** 30;
const LIMIT_GIB = 1.5;
const SHARD_BYTES = 600e6;
/** Llama 3.2 1B, or its first layers with an unembedding of its own: what fits the disk as float32. */
const CASES = [
  { name: "f32", layers: 5, vocab: 64_128, tied: false },
  { name: "f32, tied", layers: 5, vocab: 128_256, tied: true, dtype: "f32" },
  { name: "f16", layers: 16, vocab: 128_256, tied: true },
  { name: "bf16", layers: 16, vocab: 128_256, tied: true },
  { name: "bf16, untied", layers: 12, vocab: 128_256, tied: false, dtype: "bf16" },
];
const TYPES = {
  f32: { name: "F32", bytes: 4, encode: (values) => values },
  f16: { name: "F16", bytes: 2, encode: f32ToF16 },
  bf16: { name: "BF16", bytes: 2, encode: f32ToBf16 },
};
const [D, MLP, KV] = [2048, 8192, 512];

/** The tensors of the checkpoint: [name, shape]. */
function tensorsOf({ layers, vocab, tied }) {
  const tensors = [["model.embed_tokens.weight", [vocab, D]]];
  for (let i = 0; i < layers; i++) {
    const at = `model.layers.${i}`;
    tensors.push(
      [`${at}.input_layernorm.weight`, [D]],
      [`${at}.post_attention_layernorm.weight`, [D]],
      [`${at}.self_attn.q_proj.weight`, [D, D]],
      [`${at}.self_attn.k_proj.weight`, [KV, D]],
      [`${at}.self_attn.v_proj.weight`, [KV, D]],
      [`${at}.self_attn.o_proj.weight`, [D, D]],
      [`${at}.mlp.gate_proj.weight`, [MLP, D]],
      [`${at}.mlp.up_proj.weight`, [MLP, D]],
      [`${at}.mlp.down_proj.weight`, [D, MLP]],
    );
  }
  tensors.push(["model.norm.weight", [D]]);
  if (!tied) tensors.push(["lm_head.weight", [vocab, D]]);
  return tensors;
}

const elements = (shape) => shape.reduce((a, b) => a * b, 1);

/** Writes the checkpoint and returns { parameters, bytes }. */
async function writeCheckpoint(folder, one) {
  const type = TYPES[one.dtype ?? one.name];
  const values = Float32Array.from({ length: 1_000_003 }, () => (Math.random() - 0.5) * 0.04);
  const pool = new Uint8Array(type.encode(values).buffer);
  const shards = [[]];
  let filled = 0;
  const tensors = tensorsOf(one);
  for (const [name, shape] of tensors) {
    const bytes = elements(shape) * type.bytes;
    if (filled > 0 && filled + bytes > SHARD_BYTES) {
      shards.push([]);
      filled = 0;
    }
    shards.at(-1).push({ name, shape, bytes });
    filled += bytes;
  }
  const weight_map = {};
  for (const [i, shard] of shards.entries()) {
    const number = (n) => String(n).padStart(5, "0");
    const file = `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
    const header = {};
    let end = 0;
    for (const { name, shape, bytes } of shard) {
      header[name] = { dtype: type.name, shape, data_offsets: [end, (end += bytes)] };
      weight_map[name] = file;
    }
    const text = JSON.stringify(header);
    const json = Buffer.from(text + " ".repeat(-text.length & 7));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(json.length));
    const handle = await open(join(folder, file), "w");
    await handle.writeFile(Buffer.concat([length, json]));
    for (let at = 0; at < end; at += pool.length)
      await handle.writeFile(pool.subarray(0, Math.min(pool.length, end - at)));
    await handle.close();
  }
  const parameters = tensors.reduce((sum, [, shape]) => sum + elements(shape), 0);
  const bytes = parameters * type.bytes;
  await writeFile(
    join(folder, "model.safetensors.index.json"),
    JSON.stringify({ metadata: { total_size: bytes }, weight_map }),
  );
  const config = {
    ...{ model_type: "llama", num_hidden_layers: one.layers, hidden_size: D },
    ...{ num_attention_heads: 32, num_key_value_heads: 8, head_dim: 64, intermediate_size: MLP },
    ...{ vocab_size: one.vocab, max_position_embeddings: 8192, rms_norm_eps: 1e-5 },
    ...{ rope_theta: 5e5, tie_word_embeddings: one.tied },
  };
  await writeFile(join(folder, "config.json"), JSON.stringify(config));
  const fixture = fileURLToPath(new URL("../test/fixtures/gpt2-tiny/f32/", import.meta.url));
  for (const name of ["tokenizer.json", "tokenizer_config.json"])
    await cp(join(fixture, name), join(folder, name));
  return { parameters, bytes };
}

/** What lens/memory.mjs says. */
async function measured(settings) {
  const script = fileURLToPath(new URL("lens/memory.mjs", import.meta.url));
  const child = spawn(process.execPath, [script, JSON.stringify(settings)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let text = "";
  for await (const chunk of child.stdout.setEncoding("utf8")) text += chunk;
  if (text === "") throw new Error("the model's process ended without an answer");
  return JSON.parse(text);
}

const { values: flags } = parseArgs({
  options: { only: { type: "string" }, threads: { type: "string", default: "2" } },
});
console.log(`${cpus()[0].model.trim()}, ${flags.threads} threads\n`);
const row = (cells) => console.log(`| ${cells.join(" | ")} |`);
row(["weights", "layers", "parameters", "on disk", "float32", "peak, last layer", "peak, with logits", "beyond float32", "first run", "tokens/s"]); // prettier-ignore
row(Array(10).fill("---"));
for (const one of CASES) {
  if (flags.only !== undefined && !one.name.startsWith(flags.only)) continue;
  const folder = await mkdtemp(join(tmpdir(), "lens-checkpoint-"));
  try {
    const { parameters, bytes } = await writeCheckpoint(folder, one);
    const settings = { folder, layers: one.layers, threads: Number(flags.threads) };
    const capture = await measured({ ...settings, logits: false });
    const both = await measured({ ...settings, logits: true });
    const beyond = Math.max(capture.peak, both.peak) - 4 * parameters;
    if (beyond > LIMIT_GIB * GIB) process.exitCode = 1;
    const gib = (value) => `${(value / GIB).toFixed(2)} GiB`;
    row([
      ...[one.name, one.layers, `${Math.round(parameters / 1e6)}M`, gib(bytes)],
      ...[gib(4 * parameters), gib(capture.peak), gib(both.peak), gib(beyond)],
      ...[`${(capture.firstMs / 1000).toFixed(1)} s`, Math.round(capture.tokensPerSecond)],
    ]);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
