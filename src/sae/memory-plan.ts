/** How much memory training will take, known before it starts. */
import type { Device, Dtype, Tensor } from "../device/device.ts";
import { UserError } from "../error.ts";
import { totalMemory } from "../platform.node.ts";
import { kAt, type ResolvedSae } from "./architecture.ts";
import { Parameters } from "./parameters.ts";
import { denseForm, denseRowsOf, fixedForm, raggedForm } from "./step-codes.ts";
import { TrainingStep, type StepOptions } from "./step.ts";

/** Bytes of device memory, by what they are for. */
export interface MemoryPlan {
  /** The parameters themselves. */
  weights: number;
  /** Adam's moments, moving averages, and gradients where all must be known before a step. */
  optimiser: number;
  /** Latents and their gradients of one batch. */
  latents: number;
  /** Inputs, residuals and statistics of one batch. */
  batch: number;
  total: number;
}

/** What training with these settings allocates, counted by a device that only counts. */
export function planMemory(resolved: ResolvedSae, options: StepOptions): MemoryPlan {
  const { dIn, dOut, dSae, objective } = resolved;
  const { selection } = objective;
  const { batchSize } = options;
  const weights = 4 * (dSae * (dIn + dOut + 1) + dOut + (resolved.skip ? dOut * dIn : 0));
  const parameters = counting((device) => new Parameters(device, resolved, options, {}));
  const all = counting((device) => new TrainingStep(device, resolved, options, {}));
  const isTopK = selection.architecture === "topk" || selection.architecture === "batchTopk";
  let optimiser = parameters - weights;
  let latents: number;
  if (isTopK) {
    const k = kAt(selection, 1);
    latents = counting((device) => fixedForm(device, resolved, batchSize, k));
  } else {
    latents =
      counting((device) => denseForm(device, resolved, batchSize)) +
      counting((device) => raggedForm(device, resolved, batchSize));
    const inPieces = denseRowsOf(selection.architecture, dSae, batchSize) < batchSize;
    if (inPieces && options.clipGradNorm === undefined) optimiser += weights;
  }
  const batch = all - parameters;
  return { weights, optimiser, latents, batch, total: weights + optimiser + latents + batch };
}

/**
 * @throws UserError when training does not fit into the device or the machine, with the numbers and
 * what to change.
 */
export function requireMemory(device: Device, resolved: ResolvedSae, options: StepOptions): void {
  const limit = Math.min(device.memoryLimit, totalMemory());
  // Counting takes a little memory itself; weights alone that are too much need no counting.
  const { dIn, dOut, dSae } = resolved;
  const least = 4 * dSae * (dIn + dOut);
  const plan =
    3 * least > limit
      ? { weights: least, optimiser: 2 * least, latents: 0, batch: 0, total: 3 * least }
      : planMemory(resolved, options);
  const beside = besideTensors(resolved, options.batchSize);
  const needed = plan.total + beside;
  if (needed <= limit) return;
  const { weights, optimiser, latents, batch } = plan;
  const owner = device.memoryLimit <= totalMemory() ? `the ${device.name} device` : "this machine";
  const advice =
    weights + optimiser > limit / 2
      ? `lower sae.dSae (${resolved.dSae})`
      : "lower train.batchSize, or sae.auxK";
  throw new UserError(
    `training would take ${gib(needed)} of memory, but ${owner} has ${gib(limit)}: ` +
      `weights ${gib(weights)}, optimiser ${gib(optimiser)}, latents of a batch ${gib(latents)}, ` +
      `the batch itself ${gib(batch)}, room to work ${gib(beside)}. To make it fit, ${advice}.`,
  );
}

/** What the device needs beside tensors: int8 copies of the encoder and the batch, blocks of products, lists of pairs. */
function besideTensors({ dIn, dSae }: ResolvedSae, batchSize: number): number {
  return 256 * 2 ** 20 + dSae * dIn + 5 * batchSize * dIn;
}

function gib(bytes: number): string {
  const size = bytes / 2 ** 30;
  return `${size < 0.1 ? size.toFixed(3) : size.toFixed(2)} GiB`;
}

/** The bytes of the tensors that `make` asks its device for. */
function counting(make: (device: Device) => unknown): number {
  let bytes = 0;
  const tensor = (shape: readonly number[], dtype: Dtype = "f32"): Tensor => {
    bytes += 4 * shape.reduce((product, size) => product * size, 1);
    return { shape, dtype };
  };
  make({ tensor, write: () => undefined } as unknown as Device);
  return bytes;
}
