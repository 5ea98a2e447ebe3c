/**
 * `node bench/analysis.mjs`: the feature index from stored activations, time and peak memory against
 * latents and tokens. Trains nothing: its SAEs are made up (see `madeUpSae`). See --help.
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { betweenMarkers, markdownTable, textTable } from "./table.mjs";

const HELP = `node bench/analysis.mjs [options]

  --folder PATH      where the store, the SAEs and the indexes go; default: a temporary folder
  --latents LIST     default: 1024,4096,16384
  --tokens LIST      default: 250000,1000000
  --rounds N         runs of each case, of which the median is shown; default: 1
  --threads N        default: 2
  --dashboard PATH   the Python that has sae-dashboard (bench/README.md): times it too
  --markdown PAGE    also write the tables between the markers of this page
`;
const { values } = parseArgs({
  options: {
    folder: { type: "string", default: join(tmpdir(), "lens-bench-analysis") },
    latents: { type: "string", default: "1024,4096,16384" },
    tokens: { type: "string", default: "250000,1000000" },
    rounds: { type: "string", default: "1" },
    threads: { type: "string", default: "2" },
    dashboard: { type: "string" },
    markdown: { type: "string" },
    help: { type: "boolean", default: false },
  },
});
if (values.help) {
  process.stdout.write(HELP);
  process.exit(0);
}
const here = fileURLToPath(new URL(".", import.meta.url));
if (!existsSync(join(here, "../dist/index.js"))) {
  process.stderr.write("Lens is not built yet: run `npm run build` first.\n");
  process.exit(1);
}
const lens = await import("../dist/index.js");
const numbers = (list) => list.split(",").map(Number);
const threads = Number(values.threads);
const HOOK = "blocks.2.hook_resid_post";
const K = 32;
const log = (text) => process.stderr.write(`${text}\n`);
mkdirSync(values.folder, { recursive: true });

/**
 * An SAE that nobody trained: directions are differences of two activations of the store, of unit
 * length, encoder and decoder the same, the 32 strongest fire. Its latents fire on real differences in
 * the text, unevenly, as those of trained ones do.
 */
async function madeUpSae(store, latents) {
  const folder = join(values.folder, `sae-${latents}`);
  if (existsSync(folder)) return folder;
  const { dIn, manifest } = store;
  const mean = Float32Array.from(manifest.statistics[HOOK].mean);
  const W = new Float32Array(latents * dIn);
  let row = 0;
  const source = store.batches({ batchSize: 1024, seed: 1, shuffle: true, bufferRows: 65_536 });
  for await (const { data, rows } of source) {
    for (let n = 0; n + 1 < rows && row < latents; n += 2, row++) {
      let norm = 0;
      for (let i = 0; i < dIn; i++) {
        const x = data[n * dIn + i] - data[(n + 1) * dIn + i];
        W[row * dIn + i] = x;
        norm += x * x;
      }
      for (let i = 0; i < dIn; i++) W[row * dIn + i] /= Math.sqrt(norm);
    }
    if (row === latents) break;
  }
  const spec = { selection: { architecture: "topk", k: K }, dIn, dSae: latents };
  const weights = { W_enc: W, b_enc: new Float32Array(latents), W_dec: W, b_dec: mean };
  const sae = new lens.Sae({ ...spec, applyBDecToInput: true }, weights);
  await lens.saveSae(folder, sae, { hook_name: HOOK });
  return folder;
}

const allTokens = numbers(values.tokens);
const storePath = join(values.folder, "store");
log(`activations: ${Math.max(...allTokens)} of ${HOOK} in ${storePath}`);
const model = await lens.loadModel("builtin:tiny", { threads });
let said = 0;
const store = await lens.collect(model, "builtin:stories", {
  ...{ out: storePath, hookPoint: HOOK, tokens: Math.max(...allTokens), split: "test" },
  onProgress: ({ done, total }) => {
    if (done - said < total / 5) return;
    said = done;
    log(`  ${done} of ${total}`);
  },
});
await model.close();

const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];
const mib = (bytes) => Math.round(bytes / 2 ** 20).toLocaleString("en-US");
const rows = [];
const secondsOf = new Map();
for (const latents of numbers(values.latents)) {
  const sae = await madeUpSae(store, latents);
  for (const tokens of allTokens) {
    const found = [];
    for (let round = 0; round < Number(values.rounds); round++) {
      const out = join(values.folder, "features");
      for (const path of [out, `${out}.partial`]) rmSync(path, { recursive: true, force: true });
      const settings = { store: storePath, sae, tokens, threads, out };
      const printed = execFileSync(
        process.execPath,
        [join(here, "lens/analysis.mjs"), JSON.stringify(settings)],
        { stdio: ["ignore", "pipe", "inherit"], maxBuffer: 2 ** 20 },
      );
      found.push(JSON.parse(printed.toString()));
      log(`${latents} latents, ${tokens} tokens: ${printed.toString().trim()}`);
    }
    const of = (value) => median(found.map(value));
    const { errors } = found[0];
    secondsOf.set(
      `${latents} ${tokens}`,
      of((f) => f.seconds),
    );
    rows.push([
      latents.toLocaleString("en-US"),
      tokens.toLocaleString("en-US"),
      of((f) => f.seconds).toFixed(1),
      of((f) => f.passSeconds).toFixed(1),
      `${of((f) => f.mainCpuSeconds).toFixed(0)} / ${of((f) => f.cpuSeconds).toFixed(0)}`,
      mib(of((f) => f.peakBytes)),
      mib(of((f) => f.plannedBytes)),
      (of((f) => f.bytesPerLatent) / 1000).toFixed(1),
      of((f) => f.openMs.median).toFixed(1),
      of((f) => f.openMs.worst).toFixed(1),
      errors.coActivation === 0 && errors.tokens === 0 ? "exact" : `≤ ${errors.coActivation} / ${errors.tokens}`, // prettier-ignore
    ]);
  }
}
const HEAD = ["latents", "tokens", "seconds", "of these the pass", "CPU seconds, main thread / all", "peak MiB", "counters, planned MiB", "kB per latent", "ms to open a latent", "slowest of 200", "pair counts"]; // prettier-ignore

let dashboard;
if (values.dashboard) {
  const settings = { store: storePath, saes: values.folder, latents: 4096, tokens: Math.min(...allTokens), hook: HOOK, threads, model: join(here, "../models/tiny"), out: join(values.folder, "dashboard") }; // prettier-ignore
  const printed = execFileSync(
    values.dashboard,
    [join(here, "peers/sae_dashboard_index.py"), JSON.stringify(settings)],
    { stdio: ["ignore", "pipe", "inherit"], maxBuffer: 2 ** 20 },
  );
  dashboard = JSON.parse(printed.toString().trim().split("\n").at(-1));
  log(JSON.stringify(dashboard));
}
const machine =
  `${cpus()[0].model}, ${availableParallelism()} cores, ${threads} threads of the encoder, Node ${process.version}; ` +
  `load average when done ${loadavg()[0].toFixed(1)}. Built-in model, ${HOOK} (256 wide), TopK ${K}, f16 store.`;
const texts = (table) => [machine, table(HEAD, rows), ...(dashboard ? [compared(dashboard)] : [])];
function compared({ version, features, tokens, seconds, peakBytes }) {
  const each = seconds / features;
  const ours = secondsOf.get(`4096 ${Math.min(...allTokens)}`);
  return (
    `SAEDashboard ${version} on the same SAE (4,096 latents) and ${tokens.toLocaleString("en-US")} tokens, ` +
    `${features} latents, the model's run included: ${seconds.toFixed(0)} s, ${(1000 * each).toFixed(0)} ms per latent, peak ${mib(peakBytes)} MiB.` +
    (ours ? ` Lens: ${((1000 * ours) / 4096).toFixed(1)} ms per latent.` : "")
  );
}
process.stdout.write(texts(textTable).join("\n\n") + "\n");
if (values.markdown) {
  const page = readFileSync(values.markdown, "utf8");
  writeFileSync(values.markdown, betweenMarkers(page, "analysis", texts(markdownTable).join("\n\n"))); // prettier-ignore
}
