/**
 * `npm run check`: exactly what CI runs. Every step runs even when an earlier one failed, so that
 * one round shows all there is to mend.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build, install, root, run, seconds, tool } from "./setup.mjs";

const node = (...args) => run(process.execPath, args);
const reports = mkdtempSync(join(tmpdir(), "lens-check-"));
process.env.LENS_TEST_FAILURES = join(reports, "failures.txt");
const examples = existsSync(join(root, "examples"))
  ? readdirSync(join(root, "examples")).filter((name) => name.endsWith(".ts"))
  : [];

await install();
const steps = [
  ["format", () => node(tool("prettier"), "--check", "--log-level", "warn", ".")],
  ["types", () => node(tool("tsc"), "--noEmit", "-p", "tsconfig.json")],
  ["types of tests and examples", () => node(tool("tsc"), "-p", "tsconfig.test.json")],
  [
    "types of the dashboard",
    () => node(tool("svelte-check"), "--tsconfig", "lens/tsconfig.json", "--fail-on-warnings"),
  ],
  ["lint", () => node(tool("eslint"), ".", "--max-warnings", "0")],
  ["build", () => build({ force: true }).then(() => 0)],
  ["tests", () => node(join(root, "scripts", "test.mjs"))],
  ...examples.map((name) => [
    `example ${name}`,
    () => node(join(root, "scripts", "example.mjs"), `examples/${name}`),
  ]),
];

const outcomes = [];
for (const [name, step] of steps) {
  process.stdout.write(`\n=== ${name}\n`);
  const started = Date.now();
  const code = await step();
  outcomes.push({ name, code, took: seconds(started) });
}
process.stdout.write("\n");
for (const { name, code, took } of outcomes)
  process.stdout.write(`${code === 0 ? "ok    " : "FAILED"}  ${name} (${took})\n`);
// Thousands of lines above: what failed is said once more where it is looked for.
if (existsSync(process.env.LENS_TEST_FAILURES))
  process.stdout.write(readFileSync(process.env.LENS_TEST_FAILURES, "utf8"));
rmSync(reports, { recursive: true, force: true });
process.exitCode = outcomes.every(({ code }) => code === 0) ? 0 : 1;
