/**
 * `npm run bench`: Lens and its peers on this machine, in one run. See bench/README.md.
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, loadavg, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { readOptions } from "./options.mjs";
import * as alone from "./lens-sections.mjs";
import * as sections from "./sections.mjs";
import { betweenMarkers, markdownTable, textTable } from "./table.mjs";

const here = fileURLToPath(new URL(".", import.meta.url));
const options = readOptions();
if (!existsSync(join(here, "../dist/index.js"))) {
  process.stderr.write("Lens is not built yet: run `npm run build` first.\n");
  process.exit(1);
}
const { syntheticActivations } = await import("../dist/index.js");
const { writeSafetensors } = await import("../dist/safetensors-write.js");

const folder = mkdtempSync(join(tmpdir(), "lens-bench-"));
const log = (text) => process.stderr.write(`  ${text}\n`);

/** Rows of mean norm √dIn: 20 of 8,192 random directions with noise; or the reference experiment's. */
function makeRows({ dIn, rows, reference = false }) {
  const features = reference ? 100 : 8192;
  const { train } = syntheticActivations(
    {
      ...{ from: "synthetic", samples: rows, validationSamples: 1, dIn, features, noise: 0.1 },
      sparsity: reference ? 0.1 : 20 / features,
    },
    0,
  );
  if (reference) return train;
  let norms = 0;
  for (let n = 0; n < rows; n++)
    norms += Math.hypot(...train.subarray(n * dIn, (n + 1) * dIn)) / rows;
  return train.map((v) => (v * Math.sqrt(dIn)) / norms);
}

const files = new Map();
const context = {
  ...options,
  log,
  path: (name) => join(here, name),
  modes: [
    { label: "", device: {} },
    { label: ", f32 products only", device: { screening: "never" } },
  ],
  peers: undefined,
  /** A file of float32 rows; made once. */
  data(what) {
    const key = JSON.stringify(what);
    let path = files.get(key);
    if (!path) {
      path = join(folder, `${files.size}.f32`);
      const { buffer } = makeRows(what);
      writeFileSync(path, new Uint8Array(buffer));
      files.set(key, path);
    }
    return path;
  },
  /** A folder of f16 shards. */
  async store({ dIn, rows }) {
    const path = join(folder, "store");
    const data = makeRows({ dIn, rows });
    const shard = Math.ceil(rows / 8);
    for (let start = 0; start < rows; start += shard) {
      const end = Math.min(rows, start + shard);
      await writeSafetensors(join(path, `shard-${String(start).padStart(8, "0")}.safetensors`), {
        activations: {
          dtype: "F16",
          shape: [end - start, dIn],
          data: data.subarray(start * dIn, end * dIn),
        },
      });
    }
    return path;
  },
};

function findPeers() {
  const script =
    "import sys, importlib.metadata as m\n" +
    "names = ['torch', 'sae-lens', 'dictionary-learning', 'eai-sparsify']\n" +
    "has = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n" +
    "print(sys.version.split()[0], *[f'{n} {has[n]}' for n in names if n in has], sep=', ')";
  try {
    const found = execFileSync(options.python, ["-c", script], { encoding: "utf8" }).trim();
    return found.includes("torch ") ? `Python ${found}` : undefined;
  } catch {
    return undefined;
  }
}
context.peers = findPeers();

const machine =
  `${cpus()[0]?.model.trim() ?? "unknown processor"}, ${availableParallelism()} cores, ` +
  `${Math.round(totalmem() / 2 ** 30)} GiB; Node ${process.version}; ${context.peers ?? "no PyTorch"}; ` +
  `${options.threads} threads each`;
process.stdout.write(`${machine}\n`);
if (!context.peers)
  process.stdout.write(
    `${options.python} has no torch, so the peers are left out: see bench/README.md, then --python PATH.\n`,
  );
const [load] = loadavg();
if (load > 0.5)
  process.stdout.write(
    `Something else is running (load ${load.toFixed(1)}): these numbers will be too slow.\n`,
  );

const measure = {
  peak: sections.peak,
  reference: sections.reference,
  scaling: alone.scaling,
  encode: alone.encode,
  strain: alone.strain,
  data: alone.dataPath,
  mixing: alone.mixing,
};
const pieces = [];
try {
  for (const name of options.only) {
    const section = measure[name] ?? ((c) => sections.architecture(c, name));
    const { title, notes, columns, rows } = await section(context);
    process.stdout.write(
      `\n${title}\n\n${textTable(columns, rows)}\n\n${notes.join("\n")}`.trimEnd() + "\n",
    );
    const lines = notes.map((note) => `- ${note}`).join("\n");
    pieces.push(`## ${title}\n\n${markdownTable(columns, rows)}\n\n${lines}`.trimEnd());
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
if (options.markdown) {
  const page = readFileSync(options.markdown, "utf8");
  const content = [`Measured on: ${machine}.`, ...pieces].join("\n\n");
  writeFileSync(options.markdown, betweenMarkers(page, "bench", content));
}
