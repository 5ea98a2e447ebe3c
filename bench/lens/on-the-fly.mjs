/**
 * The model alone, training alone (from memory), and both at once, by turns.
 * Settings: model (builtin:tiny or a folder), hookPoint, tokens, bufferRows, batch, dSae, k, threads, rounds.
 */
import { memorySource, openDevice, loadModel, Trainer } from "../../dist/index.js";
import { onTheFly } from "../../dist/model/on-the-fly.js";
import { answer, peakRssMiB, settings } from "./serve.mjs";

const { model: name, hookPoint, tokens, bufferRows, batch, dSae, k, threads, rounds } = settings;
const model = await loadModel(name, { threads });
const device = await openDevice("cpu", { threads });
const open = () =>
  onTheFly(model, "builtin:stories", { hookPoints: [hookPoint], tokens, load: { threads } });
const order = { batchSize: 1024, seed: 0, shuffle: false, bufferRows };

/** Every row that the model makes, as float32. */
async function modelAlone() {
  const opened = await open();
  const { dIn } = opened.source;
  const data = new Float32Array(tokens * dIn);
  let at = 0;
  for await (const rows of opened.source.batches({ ...order, limit: Math.ceil(tokens / 1024) })) {
    data.set(rows.data, at);
    at += rows.data.length;
  }
  await opened.close();
  // What the thread says: loading the model is no part of it.
  return { ms: opened.times.workedMs, data, dIn };
}

async function train(source) {
  const began = performance.now();
  const trainer = await Trainer.create(device, {
    sae: { architecture: "topk", k, dSae },
    train: { batchSize: batch, bufferRows, mixing: "window", epochs: 1, logEvery: 1_000_000 },
    source,
  });
  const created = performance.now() - began;
  let waited = 0;
  const steps = trainer.fit({ onWait: (ms) => (waited += ms) });
  while (!(await steps.next()).done);
  trainer.close();
  const ms = performance.now() - began;
  return { ms, waited: waited + created };
}

const all = { model: [], training: [], both: [], modelWaited: [], trainingWaited: [] };
for (let round = -1; round < rounds; round++) {
  const { ms, data, dIn } = await modelAlone();
  const alone = await train(memorySource(data, dIn));
  const opened = await open();
  const both = await train(opened.source);
  await opened.close();
  if (round < 0) continue; // the first warms everything up
  const { workedMs, waitedMs } = opened.times;
  all.model.push(ms);
  all.training.push(alone.ms);
  all.both.push(both.ms);
  all.modelWaited.push(waitedMs / (workedMs + waitedMs));
  all.trainingWaited.push(both.waited / both.ms);
}
await device.close();
await model.close();
answer({ ...all, rssMiB: peakRssMiB() });
