/** Encoding without training, codes read back, a batch at a time. Settings as in train.mjs. */
import { memorySource, openDevice, Trainer } from "../../dist/index.js";
import { readRows, serve, settings } from "./serve.mjs";

const { sae: config, data, dIn, batch, threads } = settings;
const device = await openDevice("cpu", { threads, ...settings.device });
const rows = readRows(data);
const source = memorySource(rows, dIn);
const train = { batchSize: batch, steps: 1 };
const trainer = await Trainer.create(device, { sae: config, train, source });
// A step: batch top-k has no threshold to encode by before its first batch.
await trainer.fit().next();
const sae = await trainer.sae();
trainer.close();
const encoder = sae.on(device, batch);
let at = 0;
await serve(
  async () => {
    if ((at + batch) * dIn > rows.length) at = 0;
    const x = rows.subarray(at * dIn, (at + batch) * dIn);
    at += batch;
    await encoder.encode(x, batch);
  },
  { device: device.description },
);
encoder.close();
await device.close();
