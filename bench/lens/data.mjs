/**
 * What the data path costs: the same training from a store on disk, read, converted and shuffled as
 * always, and from a source that hands out one ready batch for nothing. Settings as in train.mjs, and
 * folder (for openActivations), bufferRows, free (true: the source for nothing).
 *
 * A step waits from the moment the trainer turns to it until its batch is there. Work of this thread
 * that a step hides (or that slows the workers down) shows only in the comparison of the two.
 */
import { openActivations, openDevice, Trainer } from "../../dist/index.js";
import { serve, settings } from "./serve.mjs";

const { sae, train, folder, bufferRows, batch, threads, free } = settings;
const device = await openDevice("cpu", { threads, ...settings.device });
const stored = await openActivations(folder);
const arrivals = [];

async function* timed(batches) {
  for await (const one of batches) {
    arrivals.push(performance.now());
    yield one;
  }
}

async function* endless(batches) {
  for await (const { data, rows } of batches) {
    const copy = data.slice();
    for (let row = 0; ; row = (row + rows) % stored.rows)
      yield { data: copy, rows, next: { epoch: 0, row } };
  }
}

const source = {
  ...stored,
  batches: (options) => {
    const batches = stored.batches(free ? { ...options, bufferRows: batch } : options);
    return timed(free ? endless(batches) : batches);
  },
};
const trainer = await Trainer.create(device, {
  sae,
  train: { batchSize: batch, steps: 1_000_000, logEvery: 1, bufferRows, ...train },
  source,
});
const steps = trainer.fit()[Symbol.asyncIterator]();
let step = 0;
const waits = [];
await serve(async () => {
  const start = performance.now();
  await steps.next();
  waits.push(Math.max(0, arrivals[step++] - start));
  return { waits };
});
await steps.return();
await device.close();
