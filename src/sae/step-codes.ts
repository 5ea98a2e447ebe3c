/**
 * The forms that a training step's latents take: k per row, ragged, or dense. Each has room for the
 * latents, their gradients and whatever the architecture computes per latent, and the operations
 * that differ between sparse and dense.
 */
import type {
  Device,
  EncodeDense,
  LatentRange,
  Slots,
  SparseGradient,
  Tensor,
  UpdateLatents,
} from "../device/device.ts";
import type { ResolvedSae, Selection } from "./architecture.ts";

type Encoding = Omit<EncodeDense, "activation" | "out"> & { threshold: Tensor | null };

interface Decoding {
  rows: number;
  codes: Slots;
  wDec: Tensor;
  bDec: Tensor | null;
  target: Tensor;
  residual: Tensor;
  latents?: LatentRange;
  /** Of sparse latents: the gradients of their values too, as by valueGradients. */
  gradient?: { dValues: Tensor; gradScale: number; inactiveToo: boolean };
}

interface ValueGradient {
  rows: number;
  codes: Slots;
  wDec: Tensor;
  residual: Tensor;
  gradScale: number;
  dValues: Tensor;
  latents?: LatentRange;
  /** Also where a value is 0 (of dense latents: everywhere). */
  inactiveToo: boolean;
  /** Added for active latents, times weights; dense latents only. */
  l1: number;
  weights: Tensor | null;
}

type Update = Omit<UpdateLatents, "parts"> & {
  codes: Slots;
  dPre: Tensor;
  gradScale: number;
  levels: { latents: LatentRange; residual: Tensor }[];
  extraParts: SparseGradient[];
  /** Of dense latents. */
  normPenalty: number;
  dWeights: Tensor | null;
};

export interface CodeForm {
  readonly isDense: boolean;
  /** Rows that fit at once. */
  readonly rows: number;
  /** What room was made for, for the k largest; else null. */
  readonly k: number | null;
  /** What was encoded; of a gated SAE relu(π). */
  readonly codes: Slots;
  /** z of each slot, of a jumprelu SAE. */
  readonly pre: Tensor | null;
  readonly dValues: Tensor;
  readonly dWeights: Tensor | null;
  /** Takes gradients that nobody wants. */
  readonly spare: Tensor | null;
  readonly magnitudes: Tensor | null;
  readonly dMagnitudes: Tensor | null;
  /** The smallest value that batch top-k kept. */
  readonly cutoff: Tensor | null;
  encode(op: Encoding, rows: number, k: number): void;
  /** Whether the pairs that were encoded found room; waits for them. */
  fits(): Promise<boolean>;
  /** Pairs that were encoded for the last `rows` rows. */
  listed(rows: number): Promise<number>;
  decode(op: Decoding): void;
  valueGradients(op: ValueGradient): void;
  update(op: Update): void;
  close(): void;
}

/** Bytes that the arrays of dense latents may take. */
const DENSE_BYTES = 256 * 2 ** 20;
/** Pairs that ragged codes have room for, at most. */
const MAX_PAIRS = 2 ** 24;
/** Dense latents become sparse below dSae / 32 active ones per row, and dense again when there is no room for them. */
const SPARSE_BELOW = 32;
const ROOM = 12;

/** Whether so many pairs per row are few enough for sparse codes. */
export function isSparse(pairsPerRow: number, dSae: number): boolean {
  return pairsPerRow < dSae / SPARSE_BELOW;
}

/** Pairs that a batch by threshold may have in sparse form. */
export function sparseCapacity(rows: number, dSae: number): number {
  return Math.max(rows, Math.min(MAX_PAIRS, Math.ceil((rows * dSae) / ROOM)));
}

/** Rows of dense latents that fit at once, out of a batch of so many. */
export function denseRowsOf(
  architecture: Selection["architecture"],
  dSae: number,
  rows: number,
  bytes = DENSE_BYTES,
): number {
  const arrays = architecture === "gated" ? 6 : architecture === "jumprelu" ? 4 : 3;
  const fitting = Math.floor(bytes / (arrays * 4 * dSae));
  if (fitting >= rows) return rows;
  return Math.max(1, fitting > 64 ? Math.floor(fitting / 64) * 64 : fitting);
}

/** The k largest of each row, or of the batch. */
export function fixedForm(
  device: Device,
  resolved: ResolvedSae,
  rows: number,
  k: number,
): CodeForm {
  const isBatch = resolved.objective.selection.architecture === "batchTopk";
  const shape = isBatch ? [Math.max(1, Math.round(k * rows))] : [rows, k];
  const codes = {
    indices: device.tensor(shape, "i32"),
    values: device.tensor(shape),
    ...(isBatch && { ends: device.tensor([rows], "i32") }),
  };
  const cutoff = isBatch ? device.tensor([1]) : null;
  const dValues = device.tensor(shape);
  return {
    ...sparseOps(device),
    ...absent,
    ...{ isDense: false, rows, k, codes, dValues, cutoff },
    encode({ threshold: _threshold, ...op }, count, kept) {
      const { indices, values, ends } = codes;
      if (!ends) device.encodeTopK({ ...op, indices, values });
      else
        device.encodeBatchTopK({
          ...{ ...op, indices, values, ends },
          ...{ count: Math.round(kept * count), cutoff: cutoff! },
        });
    },
    fits: () => Promise.resolve(true),
    listed: (count) => Promise.resolve(Math.round(k * count)),
    close: () => freeAll(device, [...Object.values(codes), dValues, cutoff]),
  };
}

/** The latents above a threshold, of a batch in which few are. */
export function raggedForm(device: Device, resolved: ResolvedSae, rows: number): CodeForm {
  const { objective, dSae } = resolved;
  const { selection } = objective;
  const capacity = sparseCapacity(rows, dSae);
  const codes = {
    indices: device.tensor([capacity], "i32"),
    values: device.tensor([capacity]),
    ends: device.tensor([rows], "i32"),
  };
  const total = device.tensor([1], "i32");
  const room = roomPerSlot(device, resolved, [capacity]);
  return {
    ...sparseOps(device),
    ...{ ...room, isDense: false, rows, k: null, codes, cutoff: null },
    encode(op) {
      const margin = selection.architecture === "jumprelu" ? selection.bandwidth / 2 : 0;
      device.encodeThreshold({ ...op, ...codes, margin, pre: room.pre, total });
    },
    fits: async () => (await device.readI32(total))[0] <= capacity,
    listed: async () => (await device.readI32(total))[0],
    close: () => freeAll(device, [...Object.values(codes), total, ...Object.values(room)]),
  };
}

/** All latents, of as many rows as there is room for. */
export function denseForm(
  device: Device,
  resolved: ResolvedSae,
  batchRows: number,
  bytes?: number,
): CodeForm {
  const { architecture } = resolved.objective.selection;
  const rows = denseRowsOf(architecture, resolved.dSae, batchRows, bytes);
  const codes = { values: device.tensor([rows, resolved.dSae]) };
  const room = roomPerSlot(device, resolved, [rows, resolved.dSae]);
  return {
    ...{ ...room, isDense: true, rows, k: null, codes, cutoff: null },
    encode({ threshold, ...op }) {
      const { pre } = room;
      if (!pre) device.encodeDense({ ...op, activation: "relu", out: codes.values });
      else {
        device.encodeDense({ ...op, activation: "none", out: pre });
        device.applyThreshold({
          ...{ rows: op.rows, pre, threshold: threshold!, values: codes.values },
        });
      }
    },
    fits: () => Promise.resolve(true),
    listed: () => Promise.reject(new Error("dense latents are not listed")),
    decode: ({ codes: { values }, ...op }) => device.decodeDense({ ...op, acts: values }),
    valueGradients: ({ codes: { values }, inactiveToo, dValues, ...op }) =>
      device.backwardDense({ ...op, acts: inactiveToo ? null : values, dPre: dValues }),
    update({ codes: { values }, dWeights, extraParts: _none, ...op }) {
      device.updateLatentsDense({ ...op, acts: values, ...(dWeights && { dWeights }) });
    },
    close: () => freeAll(device, [codes.values, ...Object.values(room)]),
  };
}

const absent = { pre: null, dWeights: null, spare: null, magnitudes: null, dMagnitudes: null };

/** What the architecture computes for each slot. */
function roomPerSlot(device: Device, resolved: ResolvedSae, shape: number[]) {
  const { objective, unitNormDecoder } = resolved;
  const { selection, sparsity } = objective;
  const make = (wanted: boolean) => (wanted ? device.tensor(shape) : null);
  const isGated = selection.architecture === "gated";
  return {
    pre: make(selection.architecture === "jumprelu"),
    dValues: device.tensor(shape),
    dWeights: make(!unitNormDecoder && sparsity !== null && sparsity.kind !== "step"),
    spare: make(sparsity?.kind === "lp"),
    magnitudes: make(isGated),
    dMagnitudes: make(isGated),
  };
}

function sparseOps(device: Device): Pick<CodeForm, "decode" | "valueGradients" | "update"> {
  return {
    decode({ codes, ...op }) {
      device.decodeSparse({ ...op, ...sparse(codes) });
    },
    valueGradients({ codes, l1: _l1, weights: _weights, ...op }) {
      device.valueGradients({ ...op, ...sparse(codes) });
    },
    update({ codes, dPre, gradScale, levels, extraParts, normPenalty: _none, dWeights, ...op }) {
      const parts = levels.map(({ latents, residual }) => ({
        ...sparse(codes),
        ...{ dValues: dPre, residual, gradScale },
        ...(levels.length > 1 && { latents }),
        ...(dWeights && { dWeights }),
      }));
      device.updateLatents({ ...op, parts: [...parts, ...extraParts] });
    },
  };
}

function sparse({ indices, ends, values }: Slots) {
  return { indices: indices!, values, ...(ends && { ends }) };
}

function freeAll(device: Device, tensors: (Tensor | null)[]): void {
  device.free(...tensors.filter((tensor) => tensor !== null));
}
