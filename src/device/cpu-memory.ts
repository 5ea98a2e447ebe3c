/**
 * The memory all workers share: one growing WebAssembly memory, blocks of it, and how tensors lie in
 * them. Rows begin at multiples of 16 bytes; what follows a row's last number is padding and always
 * holds zeros, so that kernels work in whole vectors.
 */
import { UserError } from "../error.ts";
import type { Dtype, Tensor, TensorData } from "./device.ts";

/** A tensor as plain data, which can be sent to workers as it is. */
export interface CpuTensor extends Tensor {
  /** Byte address in the shared memory. */
  readonly address: number;
  /** Rows and columns; a vector is one row. */
  readonly rows: number;
  readonly columns: number;
  /** Elements from one row to the next: columns rounded up to a multiple of 4. */
  readonly stride: number;
}

const PAGE = 65536;
/** One page less than 4 GiB, so that the end of a block is still a 32-bit address. */
const MAX_PAGES = 65535;
/** What all blocks together may take. */
export const MAX_BYTES = MAX_PAGES * PAGE;
const ALIGNMENT = 64;

export const roundUp = (value: number, multiple: number) => Math.ceil(value / multiple) * multiple;

export function layOut(shape: readonly number[], dtype: Dtype) {
  const columns = shape[shape.length - 1];
  const rows = shape.length === 1 ? 1 : shape[0];
  const stride = roundUp(columns, 4);
  return { shape, dtype, rows, columns, stride, bytes: rows * stride * 4 };
}

/** Blocks of the shared memory: first fit, neighbours joined when freed. */
export class SharedMemory {
  readonly memory: WebAssembly.Memory;
  /** Free blocks by rising address, no two adjacent. */
  readonly #free: { address: number; bytes: number }[] = [];
  readonly #used = new Map<number, number>();
  /** Nothing at or beyond this address was ever handed out. Address 0 means "absent" to kernels. */
  #end = ALIGNMENT;

  constructor() {
    try {
      this.memory = new WebAssembly.Memory({ initial: 1, maximum: MAX_PAGES, shared: true });
    } catch {
      throw new UserError(
        "cannot reserve 4 GiB of address space for the cpu device; raise the limit on virtual memory (ulimit -v)",
      );
    }
  }

  /** Address of a zero-filled block, or undefined when there is no room. */
  allocate(bytes: number): number | undefined {
    const size = Math.max(ALIGNMENT, roundUp(bytes, ALIGNMENT));
    const hole = this.#free.findIndex((block) => block.bytes >= size);
    if (hole >= 0) {
      const block = this.#free[hole];
      const { address } = block;
      block.address += size;
      block.bytes -= size;
      if (block.bytes === 0) this.#free.splice(hole, 1);
      new Uint8Array(this.memory.buffer, address, size).fill(0);
      this.#used.set(address, size);
      return address;
    }
    const pages = Math.ceil((this.#end + size) / PAGE) - this.memory.buffer.byteLength / PAGE;
    try {
      if (pages > 0) this.memory.grow(pages);
    } catch {
      return undefined;
    }
    const address = this.#end;
    this.#end += size;
    this.#used.set(address, size);
    return address;
  }

  release(address: number): void {
    const bytes = this.#used.get(address);
    if (bytes === undefined) throw new Error(`no block at ${address}`);
    this.#used.delete(address);
    let at = this.#free.findIndex((block) => block.address > address);
    if (at < 0) at = this.#free.length;
    this.#free.splice(at, 0, { address, bytes });
    this.#joinWithNext(at);
    if (at > 0) this.#joinWithNext(at - 1);
  }

  /** The error for a request that found no room. */
  tooLarge(bytes: number, what: string): UserError {
    let used = 0;
    for (const size of this.#used.values()) used += size;
    return new UserError(
      `${what} needs ${mib(bytes)} of memory, but the cpu device can hold ${mib(MAX_BYTES)} ` +
        `in all (less if the machine has less) and ${mib(used)} are in use; make dSae or the batch smaller`,
    );
  }

  #joinWithNext(at: number): void {
    const block = this.#free[at];
    const next = this.#free[at + 1];
    if (next === undefined || block.address + block.bytes !== next.address) return;
    block.bytes += next.bytes;
    this.#free.splice(at + 1, 1);
  }
}

function mib(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20).toLocaleString("en-US")} MiB`;
}

/** Copies dense numbers into a tensor from element `offset` on, and clears the padding they pass. */
export function scatter(
  buffer: ArrayBufferLike,
  tensor: CpuTensor,
  numbers: TensorData,
  offset: number,
): void {
  const { columns, stride } = tensor;
  const at = viewOf(buffer, tensor);
  if (columns === stride || numbers.length === 0) {
    at.set(numbers, offset);
    return;
  }
  for (let done = 0; done < numbers.length;) {
    const row = Math.floor((offset + done) / columns);
    const column = offset + done - row * columns;
    const count = Math.min(columns - column, numbers.length - done);
    at.set(numbers.subarray(done, done + count), row * stride + column);
    at.fill(0, row * stride + columns, (row + 1) * stride);
    done += count;
  }
}

/** The tensor's first `count` numbers, dense. */
export function gather(buffer: ArrayBufferLike, tensor: CpuTensor, count: number): TensorData {
  const { columns, stride } = tensor;
  const from = viewOf(buffer, tensor);
  if (columns === stride || count <= columns) return from.slice(0, count);
  const numbers = tensor.dtype === "f32" ? new Float32Array(count) : new Int32Array(count);
  for (let done = 0, row = 0; done < count; done += columns, row++) {
    numbers.set(from.subarray(row * stride, row * stride + Math.min(columns, count - done)), done);
  }
  return numbers;
}

function viewOf(buffer: ArrayBufferLike, { dtype, address, rows, stride }: CpuTensor): TensorData {
  return dtype === "f32"
    ? new Float32Array(buffer, address, rows * stride)
    : new Int32Array(buffer, address, rows * stride);
}
