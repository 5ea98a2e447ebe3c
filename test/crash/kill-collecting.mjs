/**
 * Kills `lens collect` again and again and compares the store with one that nobody disturbed:
 *
 *     npm run build && node test/crash/kill-collecting.mjs              # 5 million tokens, ten kills
 *     node test/crash/kill-collecting.mjs --tokens 400000 --kills 3
 *
 * The built-in model, two hook points, f16. Each process is killed by SIGKILL at a random moment, the
 * next one goes on. In the end every file of the store must be, byte for byte, that of a process that
 * was left alone, and `lens store verify` must find it whole.
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createReadStream } from "node:fs";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { pipeline } from "node:stream/promises";
import { clearTimeout, setTimeout } from "node:timers";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    tokens: { type: "string", default: "5000000" },
    kills: { type: "string", default: "10" },
  },
});
const [tokens, kills] = [Number(values.tokens), Number(values.kills)];
const LENS = fileURLToPath(new URL("../../bin/lens.js", import.meta.url));
const POINTS = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"];

const folder = await mkdtemp(join(tmpdir(), "lens-crash-"));
const [alone, killed] = [join(folder, "undisturbed"), join(folder, "killed")];
let failed;
try {
  const began = performance.now();
  await collect(alone);
  const duration = performance.now() - began;
  console.log(`${tokens} tokens at ${POINTS.join(" and ")}, undisturbed: ${(duration / 1000).toFixed(0)} s`); // prettier-ignore

  for (let kill = 1; kill <= kills; kill++) {
    // What is left when all are through is about a third of the whole.
    const after = 500 + Math.random() * ((1.3 * duration) / kills);
    await collect(killed, after);
    const shards = (await readdir(killed)).filter((name) => name.startsWith("shard-")).length;
    console.log(`kill ${kill}: after ${(after / 1000).toFixed(1)} s, ${shards} shards are whole`);
  }
  await collect(killed);

  const [expected, found] = [await hashes(alone), await hashes(killed)];
  const names = [...new Set([...Object.keys(expected), ...Object.keys(found)])];
  const different = names.filter((name) => expected[name] !== found[name]);
  console.log(`${names.length} files, ${different.length === 0 ? "all the same" : `DIFFERENT: ${different.join(", ")}`}`); // prettier-ignore
  const verified = [alone, killed].map((store) => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [LENS, "store", "verify", store, "--json"]); // prettier-ignore
    console.log(`lens store verify: exit code ${status}\n${stdout}${stderr}`);
    return status === 0 ? JSON.parse(stdout).hash : undefined;
  });
  failed = different.length > 0 || verified[0] === undefined || verified[0] !== verified[1];
} finally {
  await rm(folder, { recursive: true, force: true });
}
console.log(failed ? "NOT as if undisturbed" : `${kills} kills: as if undisturbed`);
process.exitCode = failed ? 1 : 0;

/** Collects into `out` until it is done or, after so many milliseconds, killed. */
async function collect(out, after = Infinity) {
  const child = spawn(
    process.execPath,
    [
      ...[LENS, "collect", "--out", out, "--quiet", "--activations.tokens", `${tokens}`],
      ...["--activations.hookPoints", POINTS.join(","), "--activations.dtype", "f16"],
    ],
    { stdio: ["ignore", "ignore", "inherit"] },
  );
  const exit = once(child, "exit");
  const timer = after < Infinity ? setTimeout(() => child.kill("SIGKILL"), after) : undefined;
  const [code, signal] = await exit;
  clearTimeout(timer);
  if (signal !== "SIGKILL" && code !== 0) throw new Error(`lens collect ended with ${code}`);
}

async function hashes(store) {
  const found = {};
  for (const entry of await readdir(store, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const hash = createHash("sha256");
    await pipeline(createReadStream(path), hash);
    found[relative(store, path)] = hash.digest("hex");
  }
  return found;
}
