/**
 * What every operation of the cpu device is written with: the crew of workers that run it together,
 * each on its share, and how its arguments look to them. The caller puts a barrier after each operation.
 *
 * Shares and units are cut at fixed places that depend on sizes alone, every number is computed by one worker
 * from whole rows or columns, and sums over shares are added in the order of the shares: so the
 * number of threads never changes a bit of the result.
 */
import type { Device, Tensor } from "./device.ts";
import type { CpuTensor } from "./cpu-memory.ts";
import type { ByteForm, OwnMemory } from "./cpu-products.ts";
import type { OwnKernels, SharedKernels } from "./kernels.ts";

/** When sparse latents are found by screening: where it pays, wherever it is possible, or never. */
export type Screening = "auto" | "always" | "never";

/** What a worker runs operations with. */
export interface Crew {
  readonly screening: Screening;
  /** The form in which products of bytes are exact here. */
  readonly byteForm: ByteForm;
  readonly thread: number;
  readonly threads: number;
  readonly shared: WebAssembly.Memory;
  readonly kernels: SharedKernels;
  readonly own: OwnMemory;
  readonly ownKernels: OwnKernels;
  /** Returns when all workers have come here. */
  barrier(): void;
  /**
   * Numbers below `count`, each of which comes to one worker, whoever is free: for units of work that
   * take unequal time and need nothing of each other. All workers must deal alike, and pass a barrier
   * before they deal again.
   */
  deal(count: number): Iterable<number>;
}

export type OpName = {
  [Key in keyof Device]: Device[Key] extends (op: never) => void
    ? Key extends "free" | "close" | "tensor" | "write" | "read" | "readF32" | "readI32"
      ? never
      : Key
    : never;
}[keyof Device];

/** An operation's arguments as workers see them. */
export type OnCpu<T> = T extends Tensor
  ? CpuTensor
  : T extends object
    ? { [Key in keyof T]: OnCpu<T[Key]> }
    : T;
export type CpuOp<Name extends OpName> = OnCpu<Parameters<Device[Name]>[0]>;

export type Run<Op> = (op: Op, crew: Crew, scratch: Record<string, number>) => void | Promise<void>;

/** Some operations of one family. */
export type Ops<Name extends OpName> = { [Key in Name]: Run<CpuOp<Key>> };

/** Bytes of shared memory that operations need while they run, by name; what is in them is what the operation before left. */
export type Scratch<Name extends OpName> = {
  [Key in Name]?: (op: CpuOp<Key>, threads: number, screening: Screening) => Record<string, number>;
};

/** This worker's part [first, last) of `total`, cut at multiples of `unit`. */
export function share(crew: Pick<Crew, "thread" | "threads">, total: number, unit: number) {
  const units = Math.ceil(total / unit);
  const cut = (thread: number) =>
    Math.min(total, Math.floor((units * thread) / crew.threads) * unit);
  return [cut(crew.thread), cut(crew.thread + 1)] as const;
}

/** The addresses and sizes that kernels know a layout of codes by (assembly/slots.ts). */
export function layoutOf({
  indices,
  ends,
  values,
}: OnCpu<{ indices?: Tensor; ends?: Tensor; values: Tensor }>): number[] {
  if (!indices) return [0, 0, values.stride * 4, values.columns];
  if (ends) return [indices.address, ends.address, 0, indices.columns];
  return [indices.address, 0, indices.stride * 4, indices.columns];
}
