/**
 * `npm run mutate [-- function …]`: shows that the tests notice a broken kernel. Every function of
 * the WebAssembly kernels is broken in turn, in the first of the ways below that its source allows, built
 * into a folder of its own, and the kernels' tests are run on that folder. A mutant that passes them
 * fails this script. Leave the sources alone while it runs, or it is you whom the tests catch.
 */
import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { buildKernels } from "./build-kernels.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const source = join(root, "src/device/assembly");

/** Ways to break a function, the most telling first; the first that its body has a place for is used. */
const breaks = [
  // Screening: an error that is left out of a bound.
  [/array, sqrt<f32>\(sumLanes\(rest\)\) \* ROUNDING/, "array, 0"],
  [/sqrt<f32>\(sumLanes\(rest\)\) \* ROUNDING \+/, "<f32>0 +"],
  [/<u32>start \+ k\b/, "<u32>start"],
  [/wanted = k - 1/, "wanted = k / 2"],
  [/listedRows \+ \(taken << 2\), firstRow \+ /, "listedRows + (taken << 2), "],
  [/f32x4\.add\(/, "f32x4.sub("],
  [/f32x4\.sub\(/, "f32x4.add("],
  [/f64x2\.add\(/, "f64x2.sub("],
  [/f64x2\.mul\((?=inverse)/, "f64x2.div("],
  [/ \+= <f64>/, " -= <f64>"],
  [/-dot64\(/, "dot64("],
  [/sqrt<f64>/, "abs<f64>"],
  [/scale \* dot/, "-scale * dot"],
  [/load<i32>\(at\) \+ 1/, "load<i32>(at) + 2"],
  [/next \+ 1/, "next"],
  [/, <i32>n\)/, ", <i32>n + 1)"],
  [/value > worst/, "value < worst"],
  [/last > 0/, "last > 1"],
  [/rows - 1 - last/, "rows - last"],
  [/scale, false\)/, "-scale, false)"],
  [/to, 1, true\)/, "to, -1, true)"],
  // Activations.
  [/<< 52/, "<< 51"],
  [/m - 1\b/, "m - 2"],
  [/ \* sum\b/, " + sum"],
  [/1 - e\b/, "1 + e"],
  [/ \* slope/, " + slope"],
  [/f32x4\.gt\(/, "f32x4.lt("],
  [/ \+= 1\b/, " += 2"],
  [/theta \* dValue/, "theta + dValue"],
  [/ \* u\b/, " + u"],
  [/coefficient \* w\b/, "coefficient + w"],
  [/weight \* /, "weight + "],
  [/exp64\(/, "-exp64("],
  // Rows, and the slots in them.
  [/dot64\(/, "-dot64("],
  [/n \* toRow/, "n * bytes"],
  [/row - used/, "0"],
  [/n - 1\b/, "n"],
  [/min<u32>/, "max<u32>"],
  [/n \* codeRow/, "codeRow"],
  [/indices \? /, "!indices ? "],
  [/\) < </, ") <= <"],
  [/ != 0 \|\| /, " != 0 && "],
  [/== thread/, "!= thread"],
  [/n \* row\b/, "row"],
  [/r \* row\b/, "row"],
  [/\+ 4\) \* to/, "+ 3) * to"],
  [/2 \* from/, "from"],
  [/f32x4\.mul\(/, "f32x4.div("],
  [/memory\.copy\(out, g/, "memory.copy(g, out"],
  // Selection.
  [/v == v/, "v != v"],
  [/ra < rb/, "ra > rb"],
  [/rv, rl, cv, cl/, "cv, cl, rv, rl"],
  [/norm >= LEAST/, "norm <= LEAST"],
  [/above >= least/, "above < least"],
  [/\) >= least/, ") < least"],
  [/value < worst/, "value > worst"],
  [/count < k\b/, "count > k"],
  [/k > 0/, "k < 0"],
  [/place \+ 1/, "place + 2"],
  [/\(b, moved\)/, "(a, moved)"],
  [/at >= 0/, "at > 0"],
  // Vectors.
  [/extract_lane\(v, 3\)/, "extract_lane(v, 2)"],
  [/f64x2\.promote_low_f32x4\(v\)/, "f64x2.splat(0)"],
  [/2, 3, 2, 3/, "2, 2, 2, 3"],
  [/, 0, 2\)/, ", 2, 0)"],
];

/** Files that no module is made of, but parts of several. */
const helpers = ["vector.ts", "slots.ts", "heap.ts"];

/** Functions that decide nothing but speed: which candidates are evaluated first. */
const onlySpeed = ["bringForward"];

/** All functions: name, file, and where the body lies in the file. */
function kernels() {
  return readdirSync(source).flatMap((file) => {
    const text = readFileSync(join(source, file), "utf8");
    return [...text.matchAll(/^(?:export )?function (\w+)/gm)].map(({ 1: name, index }) => {
      const from = index + text.slice(index).search(/\): \w+ \{\n/);
      return { name, file, text, from, to: text.indexOf("\n}\n", from) };
    });
  });
}

const folder = mkdtempSync(join(tmpdir(), "lens-mutants-"));
const wanted = process.argv.slice(2);
const survivors = [];
try {
  await buildKernels();
  for (const { name, file, text, from, to } of kernels()) {
    if (wanted.length > 0 ? !wanted.includes(name) : onlySpeed.includes(name)) continue;
    const body = text.slice(from, to);
    const change = breaks.find(([pattern]) => pattern.test(body));
    const mutated = change && text.slice(0, from) + body.replace(...change) + text.slice(to);
    let verdict = "NOT caught: no way to break it is listed";
    if (mutated) {
      const assembly = join(folder, name, "assembly");
      const output = join(folder, name, "kernels");
      cpSync(source, assembly, { recursive: true });
      cpSync(join(root, "dist/kernels"), output, { recursive: true });
      writeFileSync(join(assembly, file), mutated);
      const only = helpers.includes(file) ? undefined : [file];
      await buildKernels({ source: assembly, output, force: true, only });
      verdict = testsFail(output) ? "caught" : "NOT caught";
      const [[before], after] = [body.match(change[0]), change[1]];
      verdict += ` (${before} became ${after})`;
    }
    process.stdout.write(`${name.padEnd(22)}${verdict}\n`);
    if (verdict.startsWith("NOT")) survivors.push(name);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.stdout.write(
  survivors.length === 0
    ? "Every broken kernel was caught.\n"
    : `Not caught: ${survivors.join(", ")}\n`,
);
process.exitCode = survivors.length === 0 ? 0 : 1;

/** Whether the kernels' tests, run on the kernels in `folder`, find a failure among their results. */
function testsFail(folder) {
  const report = join(folder, "report.json");
  const vitest = join(root, "node_modules/vitest/vitest.mjs");
  const args = [
    "run",
    "src/device/",
    "src/float-types.test.ts",
    "--bail=1",
    "--reporter=json",
    `--outputFile=${report}`,
  ];
  const env = { ...process.env, LENS_KERNELS: folder, DEVICES: "reference,cpu" };
  const options = { cwd: root, env, encoding: "utf8", timeout: 300_000 };
  const { status, stderr } = spawnSync(process.execPath, [vitest, ...args], options);
  if (status === 0) return false;
  // A failed assertion is what counts, not tests that could not be run at all.
  const { numFailedTests } = JSON.parse(readFileSync(report, "utf8"));
  if (numFailedTests === 0) throw new Error(`the tests did not run:\n${stderr}`);
  return true;
}
