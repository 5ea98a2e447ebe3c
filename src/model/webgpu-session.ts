/** A model's graph on a GPU through ONNX Runtime's WebGPU, believed only when it agrees with the CPU. */
import { messageOf, UserError } from "../error.ts";
import { loadOrt, type Ort, sessionOptions } from "../ort.ts";
import type { GraphRequest } from "./graph.ts";
import { hookWidth } from "./hook-point.ts";
import type { Spec } from "./spec.ts";

/** Largest ‖GPU − CPU‖ / ‖CPU‖ of an output. */
const TOLERANCE = 1e-3;
const PROBE_TOKENS = 8;

/** Inputs of a graph: shapes, and values by place. */
export type ProbeInputs = Record<
  string,
  { dtype: "int32" | "float32"; shape: number[]; at: (i: number) => number }
>;

/** A few tokens, and values for everything else that the graph of `request` reads. */
export function probeInputs(spec: Spec, { patch = [], cache }: GraphRequest): ProbeInputs {
  const length = Math.min(PROBE_TOKENS, spec.contextLength);
  const inputs: ProbeInputs = {
    tokens: { dtype: "int32", shape: [1, length], at: (i) => (7919 * i + 11) % spec.vocabSize },
  };
  for (const name of patch)
    inputs[`patch.${name}`] = { dtype: "float32", shape: [1, length, hookWidth(name, spec)], at: (i) => Math.sin(i) }; // prettier-ignore
  for (let layer = cache?.from ?? 0; layer < (cache?.to ?? 0); layer++)
    for (const part of ["key", "value"])
      inputs[`past.${layer}.${part}`] = { dtype: "float32", shape: [1, spec.kvHeads, 0, spec.dHead], at: () => 0 }; // prettier-ignore
  return inputs;
}

/**
 * Opens `graph` on a GPU, after a comparison with the CPU.
 * @throws UserError when there is no GPU that WebGPU can use, or its results are wrong.
 */
export async function createOnGpu(
  graph: Uint8Array,
  onCpu: Ort.InferenceSession.SessionOptions,
  probe: ProbeInputs,
): Promise<Ort.InferenceSession> {
  const ort = await loadOrt();
  const { executionProviders } = sessionOptions({ provider: "webgpu" });
  let session: Ort.InferenceSession;
  try {
    session = await ort.InferenceSession.create(graph, { ...onCpu, executionProviders });
  } catch (error) {
    if (!/adapter/i.test(messageOf(error))) throw error;
    throw new UserError(
      "the model cannot run on webgpu: no GPU was found that WebGPU can use. On Linux that takes a Vulkan driver " +
        "and its loader (libvulkan.so.1); or run the model on the CPU (activations.modelDevice cpu).",
    );
  }
  try {
    const reference = await ort.InferenceSession.create(graph, onCpu);
    try {
      const feeds: Record<string, Ort.Tensor> = {};
      for (const [name, { dtype, shape, at }] of Object.entries(probe)) {
        if (!session.inputNames.includes(name)) continue;
        const size = shape.reduce((a, b) => a * b, 1);
        const values = Array.from({ length: size }, (_, i) => at(i));
        feeds[name] =
          dtype === "int32"
            ? new ort.Tensor(dtype, Int32Array.from(values), shape)
            : new ort.Tensor(dtype, Float32Array.from(values), shape);
      }
      requireAgreement(await session.run(feeds), await reference.run(feeds));
    } finally {
      await reference.release();
    }
  } catch (error) {
    await session.release();
    throw error;
  }
  return session;
}

/** @throws UserError naming the output that differs most, where it differs too much. */
export function requireAgreement(
  gpu: Readonly<Record<string, Pick<Ort.Tensor, "data">>>,
  cpu: Readonly<Record<string, Pick<Ort.Tensor, "data">>>,
): void {
  let worst = { name: "", difference: 0 };
  for (const [name, { data }] of Object.entries(cpu)) {
    const [exact, values] = [data as Float32Array, gpu[name].data as Float32Array];
    let [error, size] = [0, 0];
    for (let i = 0; i < exact.length; i++) {
      error += (values[i] - exact[i]) ** 2;
      size += exact[i] ** 2;
    }
    const found = error === 0 ? 0 : Math.sqrt(error / size);
    // What is not a number is as wrong as can be.
    const difference = Number.isNaN(found) ? Infinity : found;
    if (difference > worst.difference) worst = { name, difference };
  }
  if (worst.difference <= TOLERANCE) return;
  throw new UserError(
    `this machine's WebGPU computes the model wrongly: ${worst.name} differs from the CPU's by ` +
      `${worst.difference.toPrecision(2)} (relative; at most ${TOLERANCE} is rounding). Update the GPU's driver, or ` +
      "run the model on the CPU (activations.modelDevice cpu).",
  );
}
