// How fast Lens reads stored activations, beside the disk itself: node bench/store-read.mjs [--folder DIR]
// Each type in turn: files of --gib GiB, 768 wide, read from the start by plain FileHandle.read (8 MiB, four
// at a time), by Lens in order (rowsInOrder) and as training does (batches, shuffled), decoded to float32.
// Before every pass the files are dropped from the system's cache. Medians of --rounds rounds; prints a
// table in Markdown. Needs `npm run build`, and GNU dd to drop files from the cache.
import { execFileSync } from "node:child_process";
import { mkdtemp, open, readdir, rm } from "node:fs/promises";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { f32ToBf16, f32ToF16 } from "../dist/float-types.js";
import { openActivations } from "../dist/model/activations.js";
import { writeTensorPieces } from "../dist/safetensors-write.js";
import { median } from "./contest.mjs";

const { values: flags } = parseArgs({
  options: {
    folder: { type: "string", default: tmpdir() },
    gib: { type: "string", default: "2" },
    rounds: { type: "string", default: "3" },
    types: { type: "string", default: "f32,f16,bf16,int8" },
  },
});
const WIDTH = 768;
const READ_BYTES = 8 << 20;
const READS_AT_ONCE = 4;
const [GIB, ROUNDS] = [Number(flags.gib), Number(flags.rounds)];

/** Writes files of at most 1 GiB; values repeat every few MiB, which no disk here makes use of. */
async function writeRows(folder, type) {
  const rows = 4096;
  const x = Float32Array.from({ length: rows * WIDTH }, () => Math.random() * 4 - 2);
  const bits = {
    f32: () => x,
    f16: () => f32ToF16(x),
    bf16: () => f32ToBf16(x),
    int8: () => Int8Array.from(x, (value) => value * 60),
  }[type]();
  const piece = new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength);
  const pieces = Math.round((GIB * 2 ** 30) / piece.length);
  const perFile = Math.floor(2 ** 30 / piece.length);
  for (let at = 0; at < pieces; at += perFile) {
    const count = Math.min(perFile, pieces - at);
    await writeTensorPieces(join(folder, `${String(at).padStart(6, "0")}.safetensors`), {
      activations: {
        ...{ dtype: type === "int8" ? "I8" : type.toUpperCase(), shape: [rows * count, WIDTH] },
        pieces: Array(count).fill(piece),
      },
      ...(type === "int8" && { scales: scales(rows * count) }),
    });
  }
  return { rows: rows * pieces, bytes: pieces * piece.length };
}

/** What int8 rows have beside them: here all the same. */
const scales = (rows) => ({
  ...{ dtype: "F32", shape: [rows] },
  pieces: [new Uint8Array(new Float32Array(rows).fill(1 / 60).buffer)],
});

function dropFromCache(paths) {
  try {
    for (const path of paths)
      execFileSync("dd", [`if=${path}`, "iflag=nocache", "count=0"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

async function readPlainly(paths) {
  for (const path of paths) {
    const handle = await open(path, "r");
    const { size } = await handle.stat();
    let next = 0;
    await Promise.all(
      Array.from({ length: READS_AT_ONCE }, async () => {
        const buffer = new Uint8Array(READ_BYTES);
        for (let at = next; at < size; at = next) {
          next += READ_BYTES;
          await handle.read(buffer, 0, Math.min(READ_BYTES, size - at), at);
        }
      }),
    );
    await handle.close();
  }
}

async function readInOrder(folder) {
  const store = await openActivations(folder);
  let seen = 0;
  for await (const { rows } of store.rowsInOrder(4096)) seen += rows;
  return seen;
}

async function readShuffled(folder) {
  const store = await openActivations(folder);
  let seen = 0;
  const options = { batchSize: 4096, seed: 0, shuffle: true, bufferRows: 131_072 };
  for await (const { rows } of store.batches(options)) {
    seen += rows;
    if (seen >= store.rows) return seen;
  }
}

async function rate(bytes, work) {
  const start = performance.now();
  await work();
  return bytes / 2 ** 30 / ((performance.now() - start) / 1000);
}

let isCold = true;
const lines = [];
for (const type of flags.types.split(",")) {
  const folder = await mkdtemp(join(flags.folder, "lens-store-read-"));
  try {
    const { bytes } = await writeRows(folder, type);
    const paths = (await readdir(folder)).map((name) => join(folder, name));
    const ways = {
      disk: () => readPlainly(paths),
      order: () => readInOrder(folder),
      shuffled: () => readShuffled(folder),
    };
    const rates = { disk: [], order: [], shuffled: [] };
    // One after the other in every round, so that a slower minute strikes all of them.
    for (let round = 0; round < ROUNDS; round++)
      for (const [name, work] of Object.entries(ways)) {
        isCold = dropFromCache(paths) && isCold;
        rates[name].push(await rate(bytes, work));
      }
    const warm = await rate(bytes, () => readPlainly(paths));
    const [disk, order, shuffled] = Object.values(rates).map(median);
    const share = (x) => `${Math.round((100 * x) / disk)} %`;
    lines.push([type, disk, order, share(order), shuffled, share(shuffled), warm]);
    process.stderr.write(`${type} ${JSON.stringify(rates)}\n`);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
const row = (cells) =>
  console.log(`| ${cells.map((x) => (typeof x === "number" ? x.toFixed(2) : x)).join(" | ")} |`);
console.log(
  `${cpus()[0].model.trim()}, ${cpus().length} cores, Node ${process.version}; ${GIB} GiB, ${WIDTH} wide, GiB/s, medians of ${ROUNDS}\n`,
);
row(["type", "disk", "Lens, in order", "of the disk", "Lens, shuffled", "of the disk", "from the cache"]); // prettier-ignore
row(Array(7).fill("---"));
for (const cells of lines) row(cells);
if (!isCold)
  console.log("\nThe system's cache could not be emptied: these are not the disk's speeds.");
