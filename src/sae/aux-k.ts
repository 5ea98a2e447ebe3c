/**
 * The auxiliary loss that revives dead latents (AuxK: Gao et al. 2024, appendix A.2; the variants are
 * stated in architecture.ts). The residual counts as a constant, and the bias, which it has already
 * taken out, is not added again.
 */
import type { Device, EncodeTopK, SparseGradient, Tensor } from "../device/device.ts";
import type { Auxiliary, ResolvedSae } from "./architecture.ts";

export interface AuxKTensors {
  indices: Tensor;
  values: Tensor;
  dValues: Tensor;
  residual: Tensor;
  /** Of r and what the dead latents leave of it, before the variant's scale. */
  rowStats: Tensor;
  /** [1], the variant's scale. */
  scale: Tensor;
}

export function auxKTensors(
  device: Device,
  auxK: number,
  { dOut }: ResolvedSae,
  rows: number,
): AuxKTensors {
  return {
    indices: device.tensor([rows, auxK], "i32"),
    values: device.tensor([rows, auxK]),
    dValues: device.tensor([rows, auxK]),
    residual: device.tensor([rows, dOut]),
    rowStats: device.tensor([rows, 4]),
    scale: device.tensor([1]),
  };
}

/** Queues the loss; returns its part of the latents' gradients. */
export function auxKLoss(
  device: Device,
  aux: AuxKTensors,
  { coefficient, variant }: Extract<Auxiliary, { kind: "auxK" }>,
  op: {
    rows: number;
    /** What all latents leave of the target. */
    residual: Tensor;
    target: Tensor;
    wDec: Tensor;
    dIn: number;
    dead: number;
    encoding: Omit<EncodeTopK, "indices" | "values" | "eligible"> & { threshold: Tensor | null };
    eligible: NonNullable<EncodeTopK["eligible"]>;
  },
): SparseGradient[] {
  const { rows, residual, target, wDec, dIn, dead, eligible } = op;
  const { threshold: _threshold, ...encoding } = op.encoding;
  const { indices, values, dValues, scale } = aux;
  const gradScale = (2 * coefficient) / rows;
  device.encodeTopK({ ...encoding, indices, values, eligible });
  device.decodeSparse({
    ...{ rows, indices, values, wDec, bDec: null, target: residual, residual: aux.residual },
    gradient: { dValues, gradScale },
  });
  device.rowStats({ rows, target: residual, residual: aux.residual, out: aux.rowStats });
  const share = Math.min(1, dead / Math.max(1, dIn / 2));
  switch (variant) {
    case "summed":
      device.write(scale, new Float32Array([1]));
      break;
    case "openai":
      device.inverseVariance({ rows, x: residual, factor: rows, out: scale });
      break;
    case "eleuther":
      device.inverseVariance({ rows, x: target, factor: rows * share, out: scale });
      break;
    case "saelens":
      device.write(scale, new Float32Array([share]));
      break;
    default:
      variant satisfies never;
  }
  if (variant !== "summed") {
    // Everything that depends on the loss is linear in the residual.
    device.multiply({ rows, x: aux.residual, by: scale });
    device.multiply({ rows, x: dValues, by: scale });
  }
  return [{ indices, values, dValues, residual: aux.residual, gradScale }];
}
