/**
 * Encoding the k largest latents, by screening and by f32 products alone in turn, of inputs that the bounds
 * suit and of inputs made to defeat them. Settings: threads, d, dSae, batch, k, repeat.
 */
import { openDevice } from "../../dist/index.js";
import { answer, settings } from "./serve.mjs";

const { threads, d, dSae, batch, k, repeat } = settings;
let state = 1;
/** About normal; the sum of four uniform numbers. */
const random = () => {
  let sum = 0;
  for (let i = 0; i < 4; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    sum += state / 2 ** 31;
  }
  return sum * Math.sqrt(3 / 4);
};
const numbers = (count, scale) => new Float32Array(count).map(() => scale * random());
const x0 = numbers(batch * d, 1);
const w0 = numbers(dSae * d, d ** -0.5);

const inputs = {
  "as usual": {},
  "far from zero": { x: (v) => v + 20 },
  "three coordinates of mean 40, sd 4": { x: (v, i) => (i % d < 3 ? 40 + 4 * v : v) },
  "half of the rows 0": { x: (v, i) => (Math.floor(i / d) % 2 ? v : 0) },
  "one row in 16 huge in one coordinate": {
    x: (v, i) => (i % d === 0 && Math.floor(i / d) % 16 === 0 ? 1e4 : v),
  },
  "all rows huge in a coordinate of their own": {
    x: (v, i) => (i % d === (Math.floor(i / d) * 7) % d ? 1e4 : v),
  },
  "every latent 64 times": { w: (_, i) => w0[Math.floor(i / (64 * d)) * d + (i % d)] },
  "all latents equal": { w: (_, i) => w0[i % d] },
};

const devices = [];
for (const screening of ["auto", "never"]) {
  const device = await openDevice("cpu", { threads, screening });
  const tensors = {
    ...{ x: device.tensor([batch, d]), wEnc: device.tensor([dSae, d]) },
    ...{ bEnc: device.tensor([dSae]), bPre: null },
    ...{ indices: device.tensor([batch, k], "i32"), values: device.tensor([batch, k]) },
  };
  devices.push({ device, tensors });
}
const results = [];
for (const [name, { x = (v) => v, w = (v) => v }] of Object.entries(inputs)) {
  const times = devices.map(() => []);
  for (const { device, tensors } of devices) {
    device.write(tensors.x, x0.map(x));
    device.write(tensors.wEnc, w0.map(w));
  }
  for (let turn = 0; turn <= repeat; turn++) {
    for (const [i, { device, tensors }] of devices.entries()) {
      const start = performance.now();
      device.encodeTopK({ rows: batch, ...tensors });
      await device.readF32(tensors.values, 1);
      if (turn > 0) times[i].push(performance.now() - start);
    }
  }
  results.push({ name, screened: times[0], f32: times[1] });
}
answer({ results });
for (const { device } of devices) await device.close();
