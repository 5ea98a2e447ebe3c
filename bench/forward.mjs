// The model's forward pass beside Hugging Face transformers: node bench/forward.mjs --python PYTHON
// GPT-2 small with random weights, up to the end of layer 6 and whole, two batch shapes; needs torch and
// transformers. Prints tokens a second, the ratio to the best of transformers' ways, and the share of the
// fastest f32 matrix product that anything here reaches, counted in the layers' matrix products alone.
import { cp, mkdtemp, rm } from "node:fs/promises";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { lens, peer } from "./common.mjs";
import { median, once, race } from "./contest.mjs";

const { values: flags } = parseArgs({
  options: {
    python: { type: "string", default: "python3" },
    threads: { type: "string", default: "2" },
    rounds: { type: "string", default: "3" },
  },
});
const here = fileURLToPath(new URL(".", import.meta.url));
const context = {
  python: flags.python,
  threads: Number(flags.threads),
  path: (name) => join(here, name),
};
const [D, ROUNDS] = [768, Number(flags.rounds)];
const log = (text) => process.stderr.write(`  ${text}\n`);

const folder = await mkdtemp(join(tmpdir(), "lens-forward-"));
try {
  const made = await once(peer(context, "transformers_forward", { make: folder }));
  if (made.failed) throw new Error(`transformers cannot be used: ${made.failed}`);
  for (const name of ["tokenizer.json", "tokenizer_config.json"])
    await cp(join(here, "../test/fixtures/gpt2-tiny/f32", name), join(folder, name));
  const products = [
    { name: "mlp", m: 1024, k: D, n: 4 * D, transB: true },
    { name: "square", m: 4096, k: 4096, n: 4096 },
  ];
  const gemm = [];
  for (const one of [lens, peer]) gemm.push(await once(one(context, "gemm", { products, repeat: 5 }))); // prettier-ignore
  const rates = gemm.flatMap(({ results = [] }) =>
    results.map(({ flop, ms }) => flop / Math.min(...ms) / 1e6),
  );
  const peak = Math.max(...rates);
  console.log(
    `${cpus()[0].model.trim()}, ${flags.threads} threads; transformers ${made.transformers}, torch ${made.torch}; f32 peak ${Math.round(peak)} GF/s\n`,
  );
  const row = (cells) => console.log(`| ${cells.join(" | ")} |`);
  row(["batch", "layers", "Lens", "eager", "sdpa", "torch.compile", "Lens / best", "of the peak"]);
  row(Array(8).fill("---"));
  for (const layers of [6, 12])
    for (const [batch, length] of [
      [8, 128],
      [4, 512],
    ]) {
      const settings = { folder, layers, batch, length };
      const specs = [
        { name: "Lens", ...lens(context, "forward", settings, { memoryGiB: 1.5 }) },
        ...["eager", "sdpa", "compile"].map((mode) => ({
          name: mode,
          ...peer(context, "transformers_forward", { ...settings, mode }, { memoryGiB: 2 }),
        })),
      ];
      const results = await race(specs, { rounds: ROUNDS, steps: 2, warmup: 2, log });
      const tokens = batch * length;
      const speed = ({ failed, ms }) => (failed ? NaN : (1000 * tokens) / median(ms));
      const [ours, ...theirs] = results.map(speed);
      const best = Math.max(...theirs.filter(Number.isFinite));
      const gflops = (24 * D * D * layers * ours) / 1e9;
      const text = (value) => (Number.isFinite(value) ? Math.round(value).toLocaleString("en-US") : "failed"); // prettier-ignore
      row([`${batch} × ${length}`, layers, ...[ours, ...theirs].map(text), `${(ours / best).toFixed(2)}×`, `${Math.round((100 * gflops) / peak)} %`]); // prettier-ignore
    }
} finally {
  await rm(folder, { recursive: true, force: true });
}
