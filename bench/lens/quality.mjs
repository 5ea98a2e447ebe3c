/**
 * Lens for bench/quality.mjs. Each line of stdin is a job and is answered by one line of stdout:
 * - {sae, train, seed, out}: trains on the rows of settings.data in their order and saves to `out`;
 * - {evaluate: folder}: what anybody's autoencoder, as a folder in SAELens' layout, makes of held-out text.
 */
import { createInterface } from "node:readline";
import {
  documents,
  evaluate,
  evaluateReconstruction,
  loadModel,
  loadSae,
  memorySource,
  openDevice,
  saveSae,
  Trainer,
} from "../../dist/index.js";
import { answer, readRows, settings } from "./serve.mjs";

const { data, dIn, batch, threads, hookPoint, evaluationTokens, deadAfter } = settings;
const device = await openDevice("cpu", { threads });
const model = await loadModel("builtin:tiny");
const source = memorySource(readRows(data), dIn);
const steps = Math.floor(source.rows / batch);

async function train({ sae, train: options, seed, out }) {
  const trainer = await Trainer.create(device, {
    sae,
    train: {
      ...{ batchSize: batch, steps, logEvery: steps, deadAfterTokens: deadAfter },
      ...{ shuffle: false, bufferRows: source.rows },
      ...options,
    },
    seed,
    source,
  });
  let last;
  for await (const metrics of trainer.fit()) last = metrics;
  await saveSae(out, await trainer.sae());
  trainer.close();
  return { trained: { l0: last.l0, fvu: last.fvu } };
}

const CHECK_ROWS = 4096;

async function measure(folder) {
  const { sae } = await loadSae(folder);
  const encoder = sae.on(device, batch);
  const first = source.slice(0, Math.min(CHECK_ROWS, source.rows));
  const check = await evaluateReconstruction(encoder, first);
  encoder.close();
  const heldOut = () => documents("builtin:stories", { split: "test" });
  const options = { hookPoint, device, tokens: evaluationTokens };
  const { l0, fvu, ceLossRecovered, deadFraction } = await evaluate(sae, model, heldOut, options);
  const firstRows = { l0: check.l0, fvu: check.fvu };
  return { l0, fvu, ceLossRecovered, deadFraction, firstRows };
}

answer({ ready: true });
for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line);
  const start = performance.now();
  try {
    const result = job.evaluate ? await measure(job.evaluate) : await train(job);
    answer({ ...result, seconds: (performance.now() - start) / 1000 });
  } catch (error) {
    answer({ failed: String(error.message).slice(0, 300) });
  }
}
await model.close();
await device.close();
