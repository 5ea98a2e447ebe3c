/**
 * Lens for bench/recovery.mjs. Each line of stdin is a job {data, sae, train, seed}, answered by one
 * line of stdout: what an autoencoder that trained on those synthetic activations recovers of them.
 */
import { createInterface } from "node:readline";
import {
  absorption,
  evaluateReconstruction,
  memorySource,
  openDevice,
  recovery,
  syntheticActivations,
  Trainer,
} from "../../dist/index.js";
import { answer, settings } from "./serve.mjs";

const device = await openDevice("cpu", { threads: settings.threads });
let kept = { key: "" };

/** Jobs on the same activations follow one another. */
function activations(data, seed) {
  const key = JSON.stringify({ data, seed });
  if (kept.key !== key) kept = { key, made: syntheticActivations(data, seed) };
  return kept.made;
}

async function train({ data, sae: options, train: schedule, seed }) {
  const made = activations(data, seed);
  const { dIn } = data;
  const source = memorySource(made.train, dIn);
  const trainer = await Trainer.create(device, { sae: options, train: schedule, seed, source });
  for await (const { step } of trainer.fit()) void step;
  const sae = (await trainer.sae()).fold();
  trainer.close();
  const encoder = sae.on(device, 1000);
  const validation = memorySource(made.validation, dIn);
  const { fvu, l0, deadFraction, density } = await evaluateReconstruction(encoder, validation);
  const { directions } = made;
  const result = {
    ...recovery(directions, sae.W_dec, dIn, density),
    ...{ fvu, l0, deadFraction },
    ...(await absorption(encoder, sae.W_dec, made)),
  };
  // Directions stand in the order of their rates.
  const rare = directions.subarray(Math.round((data.features * 3) / 4) * dIn);
  if (data.kind === "zipf") result.rareRecovered = recovery(rare, sae.W_dec, dIn).recovered;
  encoder.close();
  return result;
}

answer({ ready: true });
for await (const line of createInterface({ input: process.stdin })) {
  const start = performance.now();
  try {
    const result = await train(JSON.parse(line));
    answer({ ...result, seconds: (performance.now() - start) / 1000 });
  } catch (error) {
    answer({ failed: String(error.message).slice(0, 300) });
  }
}
await device.close();
