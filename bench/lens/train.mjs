/**
 * Lens' own Trainer over activations in memory, a step at a time, metrics after each.
 * Settings: sae and train (sections of a config), data (a float32 file), dIn, batch, threads, device
 * (more options of openDevice).
 */
import { memorySource, openDevice, Trainer } from "../../dist/index.js";
import { readRows, serve, settings } from "./serve.mjs";

const { sae, train, data, dIn, batch, threads } = settings;
const device = await openDevice("cpu", { threads, ...settings.device });
const trainer = await Trainer.create(device, {
  sae,
  train: {
    batchSize: batch,
    steps: 1_000_000,
    deadAfterTokens: 10_000_000,
    learningRate: 1e-4,
    logEvery: 1,
    ...train,
  },
  source: memorySource(readRows(data), dIn),
});
const steps = trainer.fit()[Symbol.asyncIterator]();
await serve(
  async () => {
    const { loss, fvu, l0, deadFraction } = (await steps.next()).value;
    return { loss, fvu, l0, deadFraction };
  },
  { device: device.description },
);
await steps.return();
await device.close();
