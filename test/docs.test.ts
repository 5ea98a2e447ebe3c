/** What is written down must be what the code does. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { runInNewContext } from "node:vm";
import { expect, test } from "vitest";

import { cliReference, configReference } from "../src/cli/reference.ts";
import { readSettings } from "../src/cli/settings.ts";
import { readSweep } from "../src/cli/sweep-config.ts";
import { configJsonSchema } from "../src/config.ts";
import { getTracker } from "../src/runs.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const read = (path: string) => readFileSync(join(root, path), "utf8").replaceAll("\r\n", "\n");

test("docs/cli.md, docs/config.md and the JSON Schema are those that npm run docs writes", async () => {
  expect(read("docs/cli.md")).toBe(await cliReference());
  expect(read("docs/config.md")).toBe(configReference());
  expect(read("schema/lens.schema.json")).toBe(JSON.stringify(configJsonSchema(), null, 2) + "\n");
});

test("every example config is a valid config", () => {
  const configs = readdirSync(join(root, "examples")).filter((name) => name.endsWith(".yaml"));
  expect(configs.length).toBeGreaterThan(0);
  for (const name of configs)
    expect(() => {
      const path = join(root, "examples", name);
      if (/^sweep:/m.test(read(`examples/${name}`))) readSweep(path, {});
      else readSettings(path, {});
    }).not.toThrow();
});

test("the README's example is the one that is run", () => {
  const [, block] = /```ts\n([^]*?)```/.exec(read("README.md"))!;
  const [imports, ...rest] = block.trim().split("\n\nconst hookPoint");
  const example = read("examples/00-model-to-features.ts");
  expect(example).toContain(imports);
  expect(example).toContain(`const hookPoint${rest.join("")}`);
});

test("the example in docs/tracking.md does what it says", () => {
  const [, block] = /```ts\n([^]*?)```/.exec(read("docs/tracking.md"))!;
  const code = block.replace(/import (\{.*\}) from "latent-lens";/, "const $1 = lens;");
  const folder = mkdtempSync(join(tmpdir(), "lens-docs-"));
  const before = process.cwd();
  const printed: unknown[][] = [];
  try {
    process.chdir(folder);
    const console = { log: (...values: unknown[]) => printed.push(values) };
    runInNewContext(code, { lens: { getTracker }, console });
  } finally {
    process.chdir(before);
    rmSync(folder, { recursive: true, force: true });
  }
  expect(printed[0]).toEqual([0.5, 1]);
  expect(printed[1][0]).toMatchObject({ config: {}, metrics: { polite: [1, 1] } });
});

test("links between the pages lead somewhere", () => {
  const pages = ["README.md", ...readdirSync(join(root, "docs")).map((name) => `docs/${name}`)];
  const broken = pages
    .filter((page) => page.endsWith(".md"))
    .flatMap((page) =>
      [...read(page).matchAll(/(?<!!)\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)/g)]
        .map(([, target]) => target)
        .filter((target) => !/^[a-z]+:/.test(target))
        .filter((target) => !existsSync(resolve(root, dirname(page), target)))
        .map((target) => `${page}: ${target}`),
    );
  expect(broken).toEqual([]);
});
