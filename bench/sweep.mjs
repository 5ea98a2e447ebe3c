/**
 * One `lens train --sweep` against a `lens train` for each of its autoencoders, every one a process
 * of its own, with the same settings:
 *
 *   node bench/sweep.mjs [--sweep examples/sweep.yaml] [--quick]
 *
 * Separate runs are timed twice: each in a folder of its own, so that it collects its activations
 * itself, and all in one folder, where the first collects and the others find them. The sweep also
 * measures the recovered cross-entropy of every autoencoder, which `lens train` does not. --quick
 * runs only the first and the last autoencoder and takes the rest to be like them.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { readSweep } from "../dist/cli/sweep-config.js";
import { textTable } from "./table.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));
const { values } = parseArgs({
  options: {
    sweep: { type: "string", default: join(root, "examples/sweep.yaml") },
    quick: { type: "boolean", default: false },
  },
});
const folder = mkdtempSync(join(tmpdir(), "lens-sweep-"));

/** Seconds that `lens train ARGUMENTS` takes, with its runs in a folder of the name given. */
function train(runs, ...options) {
  const began = performance.now();
  const command = [join(root, "bin/lens.js"), "train", ...options];
  execFileSync(process.execPath, [...command, "--runs", join(folder, runs), "--quiet"], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  const seconds = (performance.now() - began) / 1000;
  process.stderr.write(`  ${runs}: ${seconds.toFixed(1)} s\n`);
  return seconds;
}

const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);

try {
  const variants = readSweep(values.sweep, {});
  const files = variants.map(({ config }, i) => {
    const file = join(folder, `variant-${i}.json`);
    writeFileSync(file, JSON.stringify(config));
    return file;
  });
  const chosen = values.quick ? [files[0], files.at(-1)] : files;
  const all = (times) => (sum(times) / times.length) * files.length;

  const together = train("sweep", values.sweep, "--sweep");
  const own = chosen.map((file, i) => train(`own-${i}`, file));
  const collects = readdirSync(join(folder, "own-0")).includes("activations");
  const shared = collects
    ? (() => {
        const first = train("shared", chosen[0]);
        return [first, ...chosen.slice(1).map((file) => train("shared", file))];
      })()
    : undefined;

  const row = (name, seconds) => [
    name,
    seconds.toFixed(1),
    `${((100 * together) / seconds).toFixed(0)} %`,
  ];
  const n = files.length;
  const rows = [
    [`one sweep of ${n}`, together.toFixed(1), ""],
    row(`${n} runs${collects ? ", each collecting its activations" : ""}`, all(own)),
  ];
  if (shared) {
    // Only the first of them collects, however many are run.
    const rest = shared.slice(1);
    const seconds = shared[0] + (sum(rest) / rest.length) * (n - 1);
    rows.push(row(`${n} runs on the activations of the first`, seconds));
  }
  const columns = ["", "seconds", "the sweep takes"];
  process.stdout.write(`${textTable(columns, rows)}\n`);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
