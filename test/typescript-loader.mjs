/**
 * `node --import <this file> script.ts` runs TypeScript sources as they are, on every Node we
 * support: for tests that need a second process.
 */
import { register } from "node:module";

const hooks = `
  import { readFile } from "node:fs/promises";
  import { fileURLToPath } from "node:url";
  import { transformSync } from "rolldown/utils";
  export async function load(url, context, nextLoad) {
    if (!url.endsWith(".ts")) return nextLoad(url, context);
    const { code, errors } = transformSync(fileURLToPath(url), await readFile(new URL(url), "utf8"));
    if (errors.length > 0) throw new SyntaxError(url + ": " + errors[0].message);
    return { format: "module", source: code, shortCircuit: true };
  }`;
// Its own URL as the parent, so that the hooks find node_modules.
register(
  "data:text/javascript," +
    encodeURIComponent(
      hooks.replace('"rolldown/utils"', JSON.stringify(import.meta.resolve("rolldown/utils"))),
    ),
  import.meta.url,
);
