/** Tensors from numbers that are written out, for tests of what devices must compute. */
import type { Adam, Device, Moments, Tensor } from "../src/device/device.ts";

/** A matrix from its rows, or a vector. */
export function f32(device: Device, numbers: number[][] | number[]): Tensor {
  const shape = Array.isArray(numbers[0]) ? [numbers.length, numbers[0].length] : [numbers.length];
  const tensor = device.tensor(shape);
  device.write(tensor, Float32Array.from(numbers.flat()));
  return tensor;
}

export function i32(device: Device, numbers: number[][] | number[]): Tensor {
  const shape = Array.isArray(numbers[0]) ? [numbers.length, numbers[0].length] : [numbers.length];
  const tensor = device.tensor(shape, "i32");
  device.write(tensor, Int32Array.from(numbers.flat()));
  return tensor;
}

export async function numbers(device: Device, tensor: Tensor): Promise<number[]> {
  return Array.from(await device.read(tensor), (v) => Math.round(v * 1e6) / 1e6 + 0);
}

/** With β = 0 the first moment is the gradient itself, and with a rate of 0 nothing moves. */
export const readGradients: Adam = { learningRate: 0, beta1: 0, beta2: 0, eps: 1, step: 1 };
export const free = { projectGradient: false, unitNorm: false };

export function training(device: Device, dSae: number, dIn: number, dOut = dIn) {
  const zeros = (...shape: number[]): Moments => ({
    m: device.tensor(shape),
    v: device.tensor(shape),
  });
  return { wEnc: zeros(dSae, dIn), bEnc: zeros(dSae), wDec: zeros(dSae, dOut) };
}
