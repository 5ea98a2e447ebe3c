/**
 * `node scripts/build-kernels.mjs [--force] [source folder] [output folder]`: compiles the
 * AssemblyScript kernels, of the cpu device and of float-types.ts, to dist/kernels/*.wasm, one module per theme. Modules
 * newer than every source are left alone.
 */
import { existsSync, mkdirSync, readdirSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** Modules over the memory all workers share; the rest run over a thread's own memory. */
const shared = ["sparse", "update", "rows", "activations", "quantize", "candidates"];
const own = ["tile", "select", "collect", "screen", "floats"];

/**
 * Compiles the modules of the files in `only` (default: all). Throws with the compiler's messages
 * when one does not compile.
 */
export async function buildKernels({
  source = join(root, "src/device/assembly"),
  output = join(root, "dist/kernels"),
  force = false,
  only = [...shared, ...own].map((name) => `${name}.ts`),
} = {}) {
  const newest = Math.max(
    statSync(fileURLToPath(import.meta.url)).mtimeMs,
    ...readdirSync(source).map((name) => statSync(join(source, name)).mtimeMs),
  );
  mkdirSync(output, { recursive: true });
  const stale = [...shared, ...own].filter((name) => {
    if (!only.includes(`${name}.ts`)) return false;
    const file = join(output, `${name}.wasm`);
    return force || !existsSync(file) || statSync(file).mtimeMs < newest;
  });
  if (stale.length === 0) return;
  const { default: asc } = await import("assemblyscript/asc");
  for (const name of stale) {
    const { error, stderr } = await asc.main([
      ...[join(source, `${name}.ts`), "--outFile", join(output, `${name}.wasm`)],
      ...["-O3", "--runtime", "stub", "--noAssert", "--use", "abort=", "--importMemory"],
      ...["--enable", "simd", "--initialMemory", "1", "--maximumMemory", "65536"],
      ...(shared.includes(name) ? ["--enable", "threads", "--sharedMemory"] : []),
    ]);
    if (error) throw new Error(`${name}.ts does not compile:\n${stderr.toString()}`);
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [source, output] = process.argv.slice(2).filter((argument) => !argument.startsWith("--"));
  await buildKernels({ source, output, force: process.argv.includes("--force") });
}
