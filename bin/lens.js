#!/usr/bin/env node
import { existsSync } from "node:fs";
import module from "node:module";

const main = new URL("../dist/cli/main.js", import.meta.url);
if (existsSync(main)) {
  // Node 22 and later keep compiled code between calls, which halves the start.
  module.enableCompileCache?.();
  const { runCommandLine } = await import(main.href);
  await runCommandLine(process.argv.slice(2));
} else {
  process.stderr.write("lens is not built yet: run `npm run build` in its folder first.\n");
  process.exitCode = 1;
}
