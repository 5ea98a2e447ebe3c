/**
 * `npm start`: sets up what is missing, then serves the dashboard; the first time, a run of the built-in
 * model and corpus begins with it. Arguments go on to `lens serve`.
 */
import { join } from "node:path";
import { root, run, setUp } from "./setup.mjs";

await setUp();
const lens = join(root, "bin", "lens.js");
const open = process.stdout.isTTY && !process.env.CI ? ["--open"] : [];
const args = ["serve", "--start", "quick-start", ...open, ...process.argv.slice(2)];
process.exitCode = await run(process.execPath, [lens, ...args]);
