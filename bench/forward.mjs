// The model's forward pass beside Hugging Face transformers: node bench/forward.mjs --python PYTHON
// GPT-2 small with random weights, up to the end of layer 6 and whole, two batch shapes; needs torch and
// transformers. Prints tokens a second by the median step, the ratio to the best of transformers' ways, and the
// share of the f32 peak: the fastest matrix product that anything here does just before or after, against the
// fastest step, counted in the matrix products that the model needs: linear layers, and attention of each
// position to those before it.
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
  /** GF/s; it changes where others use the machine too. */
  const measurePeak = async () => {
    const rates = [];
    for (const one of [lens, peer]) {
      const { results = [] } = await once(one(context, "gemm", { products, repeat: 5 }));
      rates.push(...results.map(({ flop, ms }) => flop / Math.min(...ms) / 1e6));
    }
    return Math.max(...rates);
  };
  console.log(
    `${cpus()[0].model.trim()}, ${flags.threads} threads; transformers ${made.transformers}, torch ${made.torch}\n`,
  );
  const row = (cells) => console.log(`| ${cells.join(" | ")} |`);
  row(["batch", "layers", "Lens", "eager", "sdpa", "torch.compile", "Lens / best", "peak, GF/s", "of the peak"]); // prettier-ignore
  row(Array(9).fill("---"));
  let before = await measurePeak();
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
      const after = await measurePeak();
      const peak = Math.max(before, after);
      before = after;
      const flop = tokens * layers * (24 * D * D + 2 * D * (length + 1));
      const gflops = results[0].failed ? NaN : flop / Math.min(...results[0].ms) / 1e6;
      const text = (value) => (Number.isFinite(value) ? Math.round(value).toLocaleString("en-US") : "failed"); // prettier-ignore
      row([`${batch} × ${length}`, layers, ...[ours, ...theirs].map(text), `${(ours / best).toFixed(2)}×`, Math.round(peak), `${Math.round((100 * gflops) / peak)} %`]); // prettier-ignore
    }
} finally {
  await rm(folder, { recursive: true, force: true });
}
