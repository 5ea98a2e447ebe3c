/** `npm run build`: dependencies if they are missing, then dist/. `--force` rebuilds all. */
import { build, install, seconds } from "./setup.mjs";

const started = Date.now();
await install();
await build({ force: process.argv.includes("--force") });
process.stdout.write(`dist/ is up to date (${seconds(started)}).\n`);
