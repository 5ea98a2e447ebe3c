/** How the reference device's tensors and latents are read, for its files alone. */
import type { Dtype, LatentRange, Slots, SparseLayout, Tensor, TensorData } from "./device.ts";

interface HostTensor extends Tensor {
  data: TensorData;
}

export function hostTensor(shape: readonly number[], dtype: Dtype, data: TensorData): Tensor {
  return { shape, dtype, data } as HostTensor;
}

export const data = (tensor: Tensor) => (tensor as HostTensor).data;
export const dataOrNull = (tensor: Tensor | null) => (tensor === null ? null : data(tensor));

/** One slot of a row: its place in values and its latent. */
export interface Slot {
  at: number;
  latent: number;
}

/** The used slots of row n, in order: those with a latent in [0, dSae), and in `latents` when given. */
export function* slotsOf(
  codes: Slots | SparseLayout,
  n: number,
  dSae: number,
  latents: LatentRange = { from: 0, to: dSae },
): Generator<Slot> {
  const { indices } = codes;
  const [start, end] = slotRange(codes, n, dSae);
  for (let at = start; at < end; at++) {
    const latent = indices ? data(indices)[at] : at - start;
    if (latent >= 0 && latent < dSae && latent >= latents.from && latent < latents.to)
      yield { at, latent };
  }
}

/** Where row n's slots, used or not, begin and end in values. */
export function slotRange(
  { indices, ends }: Slots | SparseLayout,
  n: number,
  dSae: number,
): [number, number] {
  if (ends) return [n === 0 ? 0 : data(ends)[n - 1], data(ends)[n]];
  const width = indices ? indices.shape[1] : dSae;
  return [n * width, (n + 1) * width];
}

/** The norm of columns [from, to) of a row; the whole row when left out. */
export function rowNorm(
  w: ArrayLike<number>,
  row: number,
  columns: number,
  from = 0,
  to = columns,
): number {
  let sum = 0;
  for (let i = row * columns + from; i < row * columns + to; i++) sum += w[i] * w[i];
  return Math.sqrt(sum);
}
