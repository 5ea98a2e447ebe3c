/**
 * Makes a fresh clone ready: dependencies from the lockfile, TypeScript and kernels into dist/.
 * Each part is skipped when nothing changed, so that every script may begin with it. Only node
 * built-ins are imported here: it runs before anything is installed.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("..", import.meta.url)).replace(/[\\/]$/, "");

/** Runs a program in the project's root with its output shown. Resolves to its exit code. */
export function run(command, args, options = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, stdio: "inherit", ...options });
    // Ctrl-C reaches the child too, which may want to save before it ends: wait for it.
    const wait = () => undefined;
    const forward = () => child.kill("SIGTERM");
    process.on("SIGINT", wait).on("SIGTERM", forward);
    const settle = () => process.off("SIGINT", wait).off("SIGTERM", forward);
    child.on("error", (error) => {
      settle();
      reject(error);
    });
    child.on("exit", (code, signal) => {
      settle();
      resolve(signal === null ? code : 1);
    });
  });
}

/** Runs one of node's own scripts; a non-zero exit ends this process with the same code. */
export async function node(...args) {
  const code = await run(process.execPath, args);
  if (code !== 0) process.exit(code);
}

/** The entry script of an installed tool, called with node itself so that no shell is needed on any system. */
export function tool(name) {
  const scripts = {
    tsc: "typescript/bin/tsc",
    vite: "vite/bin/vite.js",
    "svelte-check": "svelte-check/bin/svelte-check",
    vitest: "vitest/vitest.mjs",
    eslint: "eslint/bin/eslint.js",
    prettier: "prettier/bin/prettier.cjs",
  };
  return join(root, "node_modules", scripts[name]);
}

/** Installs from the lockfile unless node_modules already holds exactly what it names. */
export async function install() {
  const major = Number(process.versions.node.split(".")[0]);
  if (major < 20) fail(`Lens needs Node 20 or newer; this is ${process.version}.`);
  if (isInstalled()) return;
  // `npm ci` empties what a link points to, which others may be using.
  if (lstatSync(join(root, "node_modules"), { throwIfNoEntry: false })?.isSymbolicLink())
    fail(
      "node_modules is a link, and not what package-lock.json names: install where it points to.",
    );
  process.stderr.write("Installing dependencies from the lockfile (once; about a minute) …\n");
  const started = Date.now();
  const args = ["ci", "--no-audit", "--no-fund", "--loglevel=error"];
  const npm = process.env.npm_execpath;
  const code =
    npm !== undefined && /\.[cm]?js$/.test(npm) && !/yarn|pnpm/.test(npm)
      ? await run(process.execPath, [npm, ...args])
      : await run("npm", args, { shell: process.platform === "win32" });
  if (code !== 0) fail("`npm ci` failed; its messages are above.");
  process.stderr.write(`Installed in ${seconds(started)}.\n`);
}

/** True when npm's own record of node_modules matches package-lock.json; platform packages of other systems may be absent. */
export function isInstalled() {
  const lock = readJson(join(root, "package-lock.json"));
  const installed = readJson(join(root, "node_modules", ".package-lock.json"));
  if (lock === undefined || installed === undefined) return false;
  const present = Object.entries(installed.packages);
  return (
    present.every(([path, p]) => lock.packages[path]?.version === p.version) &&
    Object.entries(lock.packages).every(
      ([path, p]) => path === "" || p.optional || p.link || installed.packages[path] !== undefined,
    )
  );
}

/** Compiles src/ to dist/ and the kernels to dist/kernels, when their sources changed since the last time. */
export async function build({ force = false } = {}) {
  const sources = ["package.json", "tsconfig.json", "package-lock.json", ...files("src")].filter(
    (path) => !path.includes("/assembly/") && !path.endsWith(".test.ts"),
  );
  await whenChanged("typescript", sources, force, async () => {
    process.stderr.write("Compiling TypeScript …\n");
    const status = await run(process.execPath, [tool("tsc"), "-p", "tsconfig.json"]);
    removeOrphans();
    return status;
  });
  // It is made of some of the same sources too.
  await whenChanged("dashboard", [...sources, ...files("lens")], force, () => {
    process.stderr.write("Building the dashboard …\n");
    return run(process.execPath, [tool("vite"), "build", "--logLevel", "warn", "lens"]);
  });
  // Imported late: it is the compiler's, which is not installed before `install`.
  const { buildKernels } = await import("./build-kernels.mjs");
  try {
    await buildKernels({ force });
  } catch (error) {
    fail(`Building the kernels failed: ${error.message}`);
  }
}

/** Everything a fresh clone needs before it can run. */
export async function setUp() {
  await install();
  await build();
}

/** Runs `work` unless `paths` have the contents they had at its last success, and none was written since. */
async function whenChanged(name, paths, force, work) {
  const hash = createHash("sha256");
  for (const path of paths.sort())
    if (existsSync(join(root, path)))
      hash.update(path + "\0").update(readFileSync(join(root, path)));
  const digest = hash.digest("hex");
  const stamp = join(root, "dist", ".built", name);
  if (!force && existsSync(stamp) && readFileSync(stamp, "utf8") === digest) {
    const newest = Math.max(...paths.map((path) => modified(join(root, path))));
    if (newest <= modified(stamp)) return;
  }
  const code = await work();
  if (code !== 0) fail(`Building (${name}) failed; the messages are above.`);
  mkdirSync(dirname(stamp), { recursive: true });
  writeFileSync(stamp, digest);
}

/** Output of sources that no longer exist would still be imported, tested and published. */
function removeOrphans() {
  for (const path of files("dist")) {
    if (/^dist\/(kernels|dashboard|\.built)\//.test(path)) continue;
    const source = /^dist\/(.*?)\.(?:js|js\.map|d\.ts)$/.exec(path)?.[1];
    if (source !== undefined && !existsSync(join(root, "src", `${source}.ts`)))
      rmSync(join(root, path));
  }
}

/** Paths of all files below `folder`, relative to the root, with forward slashes. */
function files(folder) {
  if (!existsSync(join(root, folder))) return [];
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath ?? entry.path, entry.name)))
    .map((path) => path.split(sep).join("/"));
}

function modified(path) {
  return existsSync(path) ? statSync(path).mtimeMs : 0;
}

function readJson(path) {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch {
    return undefined;
  }
}

export function seconds(started) {
  return `${((Date.now() - started) / 1000).toFixed(1)} s`;
}

export function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}
