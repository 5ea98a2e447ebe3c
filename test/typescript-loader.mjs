/**
 * `node --import <this file> script.ts` runs TypeScript sources as they are, on every Node we
 * support: for tests that need a second process.
 */
import { register } from "node:module";

const hooks = `
  import { readFile } from "node:fs/promises";
  import ts from "typescript";
  const compilerOptions = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2023, verbatimModuleSyntax: true };
  export async function load(url, context, nextLoad) {
    if (!url.endsWith(".ts")) return nextLoad(url, context);
    const text = await readFile(new URL(url), "utf8");
    const source = ts.transpileModule(text, { compilerOptions }).outputText;
    return { format: "module", source, shortCircuit: true };
  }`;
// Its own URL as the parent, so that the hooks find node_modules.
register(
  "data:text/javascript," +
    encodeURIComponent(
      hooks.replace('"typescript"', JSON.stringify(import.meta.resolve("typescript"))),
    ),
  import.meta.url,
);
