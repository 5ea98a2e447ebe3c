/**
 * Matrix products alone, as the device does them. Settings: threads, repeat, products:
 * [{name, m, k, n, transA, transB}], out [m, n] = op(a) op(b) with the inner dimension k.
 */
import { openDevice } from "../../dist/index.js";
import { answer, settings } from "./serve.mjs";

const device = await openDevice("cpu", { threads: settings.threads });
const results = [];
for (const { name, m, k, n, transA = false, transB = false } of settings.products) {
  const a = device.tensor(transA ? [k, m] : [m, k]);
  const b = device.tensor(transB ? [n, k] : [k, n]);
  const out = device.tensor([m, n]);
  for (const tensor of [a, b]) {
    const size = tensor.shape[0] * tensor.shape[1];
    device.write(
      tensor,
      Float32Array.from({ length: size }, (_, i) => ((i * 7919) % 1009) / 504 - 1),
    );
  }
  const ms = [];
  for (let i = 0; i < settings.repeat + 2; i++) {
    const start = performance.now();
    device.matmul({ a, b, transA, transB, out });
    await device.readF32(out, 1);
    if (i >= 2) ms.push(performance.now() - start);
  }
  results.push({ name, ms, flop: 2 * m * k * n });
  device.free(a, b, out);
}
answer({ results });
await device.close();
