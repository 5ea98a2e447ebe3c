/**
 * For webgpu-models.test.ts, in a process of its own with a Vulkan driver in its environment: the largest relative
 * difference between WebGPU and the CPU of each model whose folder is an argument, as JSON.
 */
import { loadModel, type Model } from "../src/model/model.ts";

const found: Record<string, number> = {};
// The runtime forgets compiled shaders with its last session: open ones save most of the time.
const onGpu: Model[] = [];
for (const folder of process.argv.slice(2)) {
  const [cpu, gpu] = [await loadModel(folder), await loadModel(folder, { device: "webgpu" })];
  const [batch, length] = [2, 12];
  const tokens = Int32Array.from({ length: batch * length }, (_, i) => (i * 7) % 60);
  const capture = cpu.hookPoints();
  // Encoders have neither, or only one of them.
  const predictions = cpu.info.isEncoder ? {} : ({ logits: "all", loss: true } as const);
  const asked = { tokens, batch, length, capture, ...predictions };
  const [exact, ours] = [await cpu.forward(asked), await gpu.forward(asked)];
  await cpu.close();
  onGpu.push(gpu);
  const pairs = capture.map((name) => [exact.activations[name], ours.activations[name]]);
  if (exact.loss) pairs.push([exact.logits!, ours.logits!], [exact.loss, ours.loss!]);
  found[folder] = Math.max(
    ...pairs.map(([x, y]) => Math.hypot(...x.map((value, i) => value - y[i])) / Math.hypot(...x)),
  );
}
for (const model of onGpu) await model.close();
process.stdout.write(JSON.stringify(found));
