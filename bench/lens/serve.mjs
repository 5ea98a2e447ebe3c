/** The protocol of bench/contest.mjs for processes in JavaScript. */
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

export const settings = JSON.parse(process.argv[2] ?? "{}");

export function answer(message) {
  process.stdout.write(JSON.stringify(message) + "\n");
}

export function peakRssMiB() {
  return process.resourceUsage().maxRSS / 1024;
}

/** All rows of the float32 file at `path`. */
export function readRows(path) {
  const { buffer, byteOffset, byteLength } = readFileSync(path);
  return byteOffset % 4 === 0
    ? new Float32Array(buffer, byteOffset, byteLength / 4)
    : new Float32Array(buffer.slice(byteOffset, byteOffset + byteLength));
}

/** Runs `step()` as often as asked, until stdin ends; what it returns is reported once per request. */
export async function serve(step, about = {}) {
  answer({ ready: true, ...about });
  for await (const line of createInterface({ input: process.stdin })) {
    const { steps } = JSON.parse(line);
    const ms = [];
    let metrics;
    for (let i = 0; i < steps; i++) {
      const start = performance.now();
      metrics = await step();
      ms.push(performance.now() - start);
    }
    answer({ ms, rssMiB: peakRssMiB(), ...metrics });
  }
}
