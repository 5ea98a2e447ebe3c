/**
 * `npm run example examples/01-sae-training.ts`: runs a TypeScript example on any supported Node
 * (20 cannot run .ts files itself). Types are only stripped here; `npm run check` checks them.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { fail, node, root, setUp } from "./setup.mjs";

const [path, ...args] = process.argv.slice(2);
if (path === undefined) fail("Which example? For instance: npm run example examples/NAME.ts");
await setUp();
const { default: ts } = await import("typescript");
const { outputText } = ts.transpileModule(readFileSync(join(root, path), "utf8"), {
  compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2023 },
});
// Inside the package, so that `import … from "latent-lens"` finds it by its own name.
const folder = join(root, "dist", "examples");
mkdirSync(folder, { recursive: true });
const script = join(folder, basename(path).replace(/\.ts$/, ".js"));
writeFileSync(script, outputText);
await node(script, ...args);
