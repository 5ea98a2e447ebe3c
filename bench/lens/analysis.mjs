/**
 * The feature index of one SAE from stored activations, once, in a process of its own, so that its
 * peak of memory is its own. Settings as JSON: { store, latents, tokens, k, threads, out }.
 * Prints one line of JSON.
 */
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { performance } from "node:perf_hooks";
import {
  documents,
  indexFeatures,
  loadModel,
  loadSae,
  openDevice,
  openFeatures,
  openStored,
} from "../../dist/index.js";

const { store, sae: folder, tokens, threads, out } = JSON.parse(process.argv[2]);
const device = await openDevice("cpu", { threads });
const model = await loadModel("builtin:tiny", { threads });
const { sae } = await loadSae(folder);
const stored = await openStored(sae, store);
const { data } = stored.manifest;
let plan;
let passed = 0;
const began = performance.now();
const features = await indexFeatures(sae, model, documents(data.source, data), {
  ...{ out, device, hookPoint: stored.manifest.hookPoints[0].name, stored, tokens, seed: 0 },
  onPlan: (planned) => (plan = planned),
  onProgress: () => (passed = performance.now()),
});
const ended = performance.now();
// Of the main thread, in ticks of 10 ms: what the pass takes at least when nothing else runs.
const ticks = readFileSync(`/proc/self/task/${process.pid}/stat`, "utf8").split(") ")[1].split(" ");
const { user, system } = process.cpuUsage();
const reader = await openFeatures(out);
const times = [];
for (let i = 0; i < 200; i++) {
  const latent = (i * 7919) % sae.spec.dSae;
  const at = performance.now();
  reader.feature(latent);
  reader.partners(latent);
  times.push(performance.now() - at);
}
times.sort((a, b) => a - b);
const status = readFileSync("/proc/self/status", "utf8");
const bytes = ["index.json", "features.jsonl.gz", "coactivation.bin"].map(
  (name) => statSync(join(out, name)).size,
);
process.stdout.write(
  JSON.stringify({
    positions: features.index.positions,
    seconds: (ended - began) / 1000,
    passSeconds: (passed - began) / 1000,
    mainCpuSeconds: (Number(ticks[11]) + Number(ticks[12])) / 100,
    cpuSeconds: (user + system) / 1e6,
    peakBytes: Number(/VmHWM:\s+(\d+)/.exec(status)[1]) * 1024,
    plannedBytes: plan.counterBytes,
    bytesPerLatent: bytes.reduce((a, b) => a + b) / sae.spec.dSae,
    errors: features.index.errors,
    openMs: { median: times[100], worst: times[199] },
  }) + "\n",
);
await model.close();
await device.close();
