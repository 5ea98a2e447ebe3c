/** What is written down must be what the code does. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

import { cliReference, configReference } from "../src/cli/reference.ts";
import { readSettings } from "../src/cli/settings.ts";
import { configJsonSchema } from "../src/config.ts";

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
    expect(() => readSettings(join(root, "examples", name), {})).not.toThrow();
});

test("links between the pages lead somewhere", () => {
  const pages = ["README.md", ...readdirSync(join(root, "docs")).map((name) => `docs/${name}`)];
  const broken = pages
    .filter((page) => page.endsWith(".md"))
    .flatMap((page) =>
      [...read(page).matchAll(/\]\(([^)#\s]+)(?:#[^)]*)?\)/g)]
        .map(([, target]) => target)
        .filter((target) => !/^[a-z]+:/.test(target))
        .filter((target) => !existsSync(resolve(root, dirname(page), target)))
        .map((target) => `${page}: ${target}`),
    );
  expect(broken).toEqual([]);
});
