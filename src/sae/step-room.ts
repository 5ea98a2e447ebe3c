/** Room on a device for what a training step makes of one batch, whatever form its latents take. */
import type { Device, Tensor } from "../device/device.ts";
import type { ResolvedSae } from "./architecture.ts";

export type StepRoom = ReturnType<typeof stepRoom>;

/** For batches of up to `rows` rows. */
export function stepRoom(device: Device, resolved: ResolvedSae, rows: number) {
  const { dIn, dOut, dSae, levels, skip, objective } = resolved;
  const { auxiliary } = objective;
  const L = levels.length;
  const perLevel = (count: number, width: number) =>
    Array.from({ length: count }, () => device.tensor([rows, width]));
  const levelResiduals = perLevel(L, dOut);
  const isPreAct = auxiliary?.kind === "preAct";
  const isGated = auxiliary?.kind === "gated";
  return {
    /** The target less the skip connection's part of the reconstruction. */
    rest: skip ? device.tensor([rows, dOut]) : null,
    levelResiduals,
    /** R of each level; with one level the residual itself. */
    levelGradients: L > 1 ? perLevel(L, dOut) : levelResiduals,
    levelStats: L > 1 ? perLevel(L, 4) : [],
    rowStats: device.tensor([rows, 4]),
    norms: device.tensor([dSae]),
    rowPenalty: device.tensor([rows]),
    nextPenalty: device.tensor([rows]),
    auxResidual: isGated ? device.tensor([rows, dOut]) : null,
    auxStats: isGated ? device.tensor([rows, 4]) : null,
    inputSum: isPreAct ? device.tensor([dIn]) : null,
    preActCoefficients: isPreAct ? device.tensor([dSae]) : null,
    preActPenalty: isPreAct ? device.tensor([1]) : null,
    /** Gradients of a later piece of the batch, by parameter, until they are added. */
    pieces: {} as Partial<Record<string, Tensor>>,
  };
}

export function freeRoom(device: Device, room: StepRoom): void {
  const { levelResiduals, levelGradients, levelStats, pieces, ...single } = room;
  const tensors: (Tensor | null | undefined)[] = [
    ...levelResiduals,
    ...levelGradients,
    ...levelStats,
    ...Object.values(pieces),
    ...Object.values(single),
  ];
  device.free(...new Set(tensors.filter((tensor) => !!tensor)));
}
