/**
 * `npm run check`: exactly what CI runs. Every step runs even when an earlier one failed, so that
 * one round shows all there is to mend.
 */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { build, install, root, run, seconds, tool } from "./setup.mjs";

const node = (...args) => run(process.execPath, args);
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
process.exitCode = outcomes.every(({ code }) => code === 0) ? 0 : 1;
