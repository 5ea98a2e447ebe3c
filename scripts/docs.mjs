/** `npm run docs`: writes the files that are made from the code: docs/cli.md, docs/config.md, schema/. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root, setUp } from "./setup.mjs";

await setUp();
const { cliReference, configReference } = await import("../dist/cli/reference.js");
const { configJsonSchema } = await import("../dist/config.js");
for (const folder of ["docs", "schema"]) mkdirSync(join(root, folder), { recursive: true });
writeFileSync(join(root, "docs", "cli.md"), await cliReference());
writeFileSync(join(root, "docs", "config.md"), configReference());
const schema = JSON.stringify(configJsonSchema(), null, 2) + "\n";
writeFileSync(join(root, "schema", "lens.schema.json"), schema);
