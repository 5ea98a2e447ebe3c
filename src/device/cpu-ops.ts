/** The operations of the cpu device by name. */
import type { Device } from "./device.ts";
import { activationOps, activationScratch } from "./cpu-activations.ts";
import type { CpuOp, OpName, Ops, Run, Scratch, Screening } from "./cpu-crew.ts";
import { decodeOps } from "./cpu-decode.ts";
import { encodeOps, encodeScratch } from "./cpu-encode.ts";
import { scatter, type CpuTensor } from "./cpu-memory.ts";
import { sumOps, sumScratch } from "./cpu-sums.ts";
import { updateOps, updateScratch } from "./cpu-update.ts";

/** Numbers that lie in the shared memory, to be put into a tensor when its turn has come. */
export interface CopyIn {
  tensor: CpuTensor;
  from: number;
  count: number;
  offset: number;
}

export const ops: Ops<OpName> & { copyIn: Run<CopyIn> } = {
  ...encodeOps,
  ...decodeOps,
  ...activationOps,
  ...updateOps,
  ...sumOps,

  copyIn({ tensor, from, count, offset }, { thread, shared }) {
    if (thread !== 0) return;
    const numbers = tensor.dtype === "f32" ? Float32Array : Int32Array;
    scatter(shared.buffer, tensor, new numbers(shared.buffer, from, count), offset);
  },
};

const scratch: Scratch<OpName> = {
  ...encodeScratch,
  ...activationScratch,
  ...updateScratch,
  ...sumScratch,
};

/** Bytes of shared memory an operation needs while it runs, by name. */
export function scratchOf<Name extends OpName>(
  name: Name,
  op: Parameters<Device[Name]>[0],
  threads: number,
  screening: Screening,
): Record<string, number> {
  return scratch[name]?.(op as CpuOp<Name>, threads, screening) ?? {};
}
