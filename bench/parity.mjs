// How far our values are from Hugging Face transformers', by family and kind of hook point:
//   node bench/parity.mjs
// The expected values are those of test/fixtures/families, which test/oracles/make-family-fixtures.py makes.
import { cp, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { loadModel } from "../dist/model/model.js";
import { Safetensors } from "../dist/safetensors.js";

const fixtures = fileURLToPath(new URL("../test/fixtures/", import.meta.url));
/** Columns, and the hook points that stand in each. */
const KINDS = [
  ["embed", /embed$/],
  ["ln scale", /hook_scale$/],
  ["ln normalized", /hook_normalized$/],
  ["q, k, v", /hook_[qkv]$/],
  ["rot_q, rot_k", /hook_rot_[qk]$/],
  ["pattern", /hook_pattern$/],
  ["z", /hook_z$/],
  ["attn_out, mlp_out", /hook_(attn|mlp)_out$/],
  ["resid", /hook_(normalized_)?resid/],
  ["mlp pre", /mlp\.hook_pre/],
  ["mlp post", /mlp\.hook_post$/],
  ["logits", /^logits$/],
  ["loss", /^loss$/],
];
const row = (cells) => console.log(`| ${cells.join(" | ")} |`);
row(["family", "largest value", ...KINDS.map(([column]) => column)]);
row(["---", "---", ...KINDS.map(() => "---")]);
for (const family of await readdir(join(fixtures, "families"))) {
  const folder = await mkdtemp(join(tmpdir(), "lens-parity-"));
  await cp(join(fixtures, "families", family), folder, { recursive: true });
  const isEncoder = family.includes("bert");
  const tokenizer = isEncoder ? "tokenizers/bert" : "gpt2-tiny/f32";
  for (const name of ["tokenizer.json", "tokenizer_config.json"])
    await cp(join(fixtures, tokenizer, name), join(folder, name));
  const file = await Safetensors.open(join(folder, "expected.safetensors"));
  const [batch, length] = file.info("tokens").shape;
  const tokens = await file.ints("tokens");
  const model = await loadModel(folder);
  const patterns = Array.from({ length: model.info.layers }, (_, i) => `blocks.${i}.attn.hook_pattern`); // prettier-ignore
  const capture = [...model.hookPoints(), ...patterns];
  const outputs = ["logits", "loss"].filter((name) => file.tensors.has(name));
  const wanted = { logits: outputs.includes("logits") ? "all" : undefined, loss: !isEncoder };
  const found = await model.forward({ tokens, batch, length, capture, ...wanted });
  const worst = new Map();
  let largest = 0;
  for (const name of [...capture, ...outputs]) {
    const theirs = await file.floats(name);
    const ours = found.activations[name] ?? found[name];
    const [column] = KINDS.find(([, names]) => names.test(name));
    const difference = theirs.reduce((most, v, i) => Math.max(most, Math.abs(v - ours[i])), 0);
    worst.set(column, Math.max(worst.get(column) ?? 0, difference));
    largest = theirs.reduce((most, v) => Math.max(most, Math.abs(v)), largest);
  }
  row([
    family,
    largest.toFixed(1),
    ...KINDS.map(([column]) => worst.get(column)?.toExponential(1) ?? "none"),
  ]);
  await file.close();
  await model.close();
  await rm(folder, { recursive: true });
}
