/**
 * `node bench/device.mjs [threads]`: milliseconds of whole training steps on the cpu device, medians
 * of 5 after 2 warm-up steps. Run `npm run build` first, and leave the machine alone meanwhile; on a
 * busy one only the processor time, added up over all threads, means something.
 */
import { availableParallelism, cpus } from "node:os";

import { openDevice } from "../dist/device/device.js";

const threads = Number(process.argv[2] ?? availableParallelism());
const device = await openDevice("cpu", { threads });
process.stdout.write(
  `${device.description}; Node ${process.version}; ${cpus()[0]?.model ?? "unknown processor"}\n`,
);

const adam = { learningRate: 1e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8 };

function random(shape, scale) {
  const tensor = device.tensor(shape);
  const numbers = new Float32Array(shape.reduce((a, b) => a * b));
  let state = 1;
  for (let i = 0; i < numbers.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    numbers[i] = (state / 2 ** 31) * 1.7 * scale;
  }
  device.write(tensor, numbers);
  return tensor;
}

function model(d, dSae) {
  const moments = (...shape) => ({ m: device.tensor(shape), v: device.tensor(shape) });
  return {
    params: {
      wEnc: random([dSae, d], d ** -0.5),
      bEnc: device.tensor([dSae]),
      wDec: random([dSae, d], d ** -0.5),
    },
    moments: { wEnc: moments(dSae, d), bEnc: moments(dSae), wDec: moments(dSae, d) },
    bDec: device.tensor([d]),
    bDecMoments: moments(d),
    dBDec: device.tensor([d]),
  };
}

/** Encoder, decoder, gradients and Adam of a dense ReLU SAE without a shared bias. */
function denseStep({ d, dSae, rows }) {
  const { params, moments, bDec, bDecMoments, dBDec } = model(d, dSae);
  const x = random([rows, d], 1);
  const [acts, dPre] = [device.tensor([rows, dSae]), device.tensor([rows, dSae])];
  const residual = device.tensor([rows, d]);
  const { wDec } = params;
  const gradScale = 2 / (rows * d);
  const common = { rows, x, acts, residual };
  return (step) => {
    device.encodeDense({ ...common, bPre: null, ...params, activation: "relu", out: acts });
    device.decodeDense({ ...common, wDec, bDec, target: x });
    device.backwardDense({ ...common, gradScale, wDec, l1: 1e-7, weights: null, dPre });
    device.columnSum({ rows, x: residual, scale: -gradScale, out: dBDec, accumulate: false });
    device.updateLatentsDense({
      ...{ ...common, dPre, gradScale, normPenalty: 0, params, moments, bPre: null, dBPre: null },
      levels: [{ latents: { from: 0, to: dSae }, residual }],
      ...{ adam: { ...adam, step }, decoder: { projectGradient: false, unitNorm: false } },
    });
    const update = { param: bDec, grad: dBDec, moments: bDecMoments };
    device.updateVector({ ...update, adam: { ...adam, step } });
    return dBDec;
  };
}

/** The same of a TopK SAE whose decoder bias is subtracted first, with unit-norm decoder rows. */
function topKStep({ d, dSae, rows, k }) {
  const { params, moments, bDec, bDecMoments, dBDec } = model(d, dSae);
  const x = random([rows, d], 1);
  const codes = { indices: device.tensor([rows, k], "i32"), values: device.tensor([rows, k]) };
  const dValues = device.tensor([rows, k]);
  const residual = device.tensor([rows, d]);
  const gradScale = 2 / rows;
  const [shared, gradient] = [
    { rows, x, bPre: bDec },
    { dValues, gradScale },
  ];
  return (step) => {
    device.encodeTopK({ ...shared, ...params, ...codes });
    device.decodeSparse({
      ...{ rows, ...codes, wDec: params.wDec, bDec, target: x, residual, gradient },
    });
    device.updateLatents({
      ...{ ...shared, parts: [{ ...codes, ...gradient, residual }], params, moments, dBPre: dBDec },
      ...{ adam: { ...adam, step }, decoder: { projectGradient: true, unitNorm: true } },
    });
    device.columnSum({ rows, x: residual, scale: -gradScale, out: dBDec, accumulate: true });
    const update = { param: bDec, grad: dBDec, moments: bDecMoments };
    device.updateVector({ ...update, adam: { ...adam, step } });
    return dBDec;
  };
}

async function report(label, rows, run) {
  const [times, processor] = [[], []];
  for (let step = 1; step <= 7; step++) {
    const [start, before] = [performance.now(), process.cpuUsage()];
    await device.readF32(run(step), 1);
    const { user, system } = process.cpuUsage(before);
    if (step <= 2) continue;
    times.push(performance.now() - start);
    processor.push((user + system) / 1000);
  }
  const median = (numbers) => numbers.toSorted((a, b) => a - b)[2];
  const ms = median(times);
  process.stdout.write(
    `${label.padEnd(42)} median ${ms.toFixed(1)} ms, best ${Math.min(...times).toFixed(1)} ms, ` +
      `${Math.round((1000 * rows) / ms)} rows/s, processor ${median(processor).toFixed(1)} ms\n`,
  );
}

const dense = { d: 768, dSae: 2048, rows: 256 };
await report("dense 768 -> 2048, batch 256", dense.rows, denseStep(dense));
for (const size of [
  { d: 256, dSae: 4096, rows: 2048, k: 32 },
  { d: 768, dSae: 24576, rows: 1024, k: 32 },
  { d: 768, dSae: 24576, rows: 4096, k: 32 },
]) {
  const label = `topk ${size.d} -> ${size.dSae}, batch ${size.rows}, k ${size.k}`;
  await report(label, size.rows, topKStep(size));
}
await device.close();
