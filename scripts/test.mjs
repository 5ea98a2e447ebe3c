/** `npm test`: sets up what is missing, then runs every test. Arguments go on to Vitest. */
import { run, setUp, tool } from "./setup.mjs";

await setUp();
process.exitCode = await run(process.execPath, [tool("vitest"), "run", ...process.argv.slice(2)]);
