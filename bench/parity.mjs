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
const KINDS = ["hook_embed", "hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "mlp.hook_post", "hook_mlp_out", "hook_resid_post", "logits", "loss"]; // prettier-ignore
const row = (cells) => console.log(`| ${cells.join(" | ")} |`);
row(["family", "largest value", ...KINDS]);
row(["---", "---", ...KINDS.map(() => "---")]);
const folders = [
  ["gpt2", join(fixtures, "gpt2-tiny", "f32")],
  ...(await readdir(join(fixtures, "families"))).map((name) => [name, join(fixtures, "families", name)]), // prettier-ignore
];
for (const [family, source] of folders) {
  const folder = await mkdtemp(join(tmpdir(), "lens-parity-"));
  await cp(source, folder, { recursive: true });
  for (const name of ["tokenizer.json", "tokenizer_config.json"])
    await cp(join(fixtures, "gpt2-tiny", "f32", name), join(folder, name));
  const file = await Safetensors.open(join(folder, "expected.safetensors"));
  const [batch, length] = file.info("tokens").shape;
  const tokens = await file.ints("tokens");
  const model = await loadModel(folder);
  const capture = model.hookPoints();
  const found = await model.forward({ tokens, batch, length, capture, logits: "all", loss: true });
  const worst = new Map();
  let largest = 0;
  for (const name of [...capture, "logits", "loss"]) {
    const theirs = await file.floats(name);
    const ours = found.activations[name] ?? found[name];
    const kind = name.replace(/^blocks\.\d+\./, "");
    const difference = theirs.reduce((most, v, i) => Math.max(most, Math.abs(v - ours[i])), 0);
    worst.set(kind, Math.max(worst.get(kind) ?? 0, difference));
    largest = theirs.reduce((most, v) => Math.max(most, Math.abs(v)), largest);
  }
  row([
    family,
    largest.toFixed(1),
    ...KINDS.map((kind) => worst.get(kind)?.toExponential(1) ?? "none"),
  ]);
  await file.close();
  await model.close();
  await rm(folder, { recursive: true });
}
