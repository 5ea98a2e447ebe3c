/**
 * `npm start`: sets up what is missing, then does the whole path once on the built-in model and
 * corpus. Arguments go on to `lens run`.
 */
import { join } from "node:path";
import { root, run, setUp } from "./setup.mjs";

await setUp();
const lens = join(root, "bin", "lens.js");
process.exitCode = await run(process.execPath, [lens, "run", ...process.argv.slice(2)]);
