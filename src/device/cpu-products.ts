/**
 * A worker's own memory and the matrix products in it. ONNX Runtime refuses tensors over shared
 * memory, so blocks of the shared matrices are copied here, multiplied in place by a session that
 * runs on this thread alone, and copied back.
 */
import { OnnxGraph } from "../onnx.ts";
import { loadOrt, sessionOptions, type Ort } from "../ort.ts";
import { runNative } from "./cpu-control.ts";
import { roundUp, type CpuTensor } from "./cpu-memory.ts";

/** A product A B of blocks at byte addresses, all dense: A [m, k], or [k, m] when transposed; B [k, n] or [n, k]. */
export interface Product {
  transA: boolean;
  transB: boolean;
  m: number;
  n: number;
  k: number;
  a: number;
  b: number;
  out: number;
}

export class OwnMemory {
  readonly memory = new WebAssembly.Memory({ initial: 1, maximum: 65535 });
  readonly #shared: WebAssembly.Memory;
  readonly #control: Int32Array;
  readonly #ort: typeof Ort;
  readonly #sessions = new Map<string, Promise<Ort.InferenceSession>>();
  /** What lies at an address, so that a block used again is not copied again. */
  readonly #loaded = new Map<number, string>();

  static async create(shared: WebAssembly.Memory, control: Int32Array): Promise<OwnMemory> {
    return new OwnMemory(shared, control, await loadOrt());
  }

  private constructor(shared: WebAssembly.Memory, control: Int32Array, ort: typeof Ort) {
    this.#shared = shared;
    this.#control = control;
    this.#ort = ort;
  }

  /** Gives each name an address with room for that many floats. Forgets what was here before. */
  layOut<Name extends string>(floats: Record<Name, number>): Record<Name, number> {
    this.#loaded.clear();
    let end = 64; // 0 is no address
    const addresses = {} as Record<Name, number>;
    for (const name in floats) {
      addresses[name] = end;
      end += roundUp(floats[name] * 4, 64);
    }
    const pages = Math.ceil(end / 65536) - this.memory.buffer.byteLength / 65536;
    if (pages > 0) this.memory.grow(pages);
    return addresses;
  }

  f32(address: number, count: number): Float32Array {
    return new Float32Array(this.memory.buffer, address, count);
  }

  i32(address: number, count: number): Int32Array {
    return new Int32Array(this.memory.buffer, address, count);
  }

  /**
   * Copies rows [r0, r1) and columns [c0, c1) of a shared tensor to `address`, dense. False when
   * they are there already. Columns up to the stride may be asked for: padding is zeros.
   */
  load(
    address: number,
    tensor: Pick<CpuTensor, "address" | "rows" | "stride">,
    r0: number,
    r1: number,
    c0 = 0,
    c1 = tensor.stride,
  ): boolean {
    const key = `${tensor.address}:${r0}:${r1}:${c0}:${c1}`;
    if (this.#loaded.get(address) === key) return false;
    this.#loaded.set(address, key);
    const { stride } = tensor;
    const from = new Float32Array(this.#shared.buffer, tensor.address, tensor.rows * stride);
    const width = c1 - c0;
    const to = this.f32(address, (r1 - r0) * width);
    if (width === stride) to.set(from.subarray(r0 * stride, r1 * stride));
    else {
      for (let r = r0; r < r1; r++) {
        to.set(from.subarray(r * stride + c0, r * stride + c1), (r - r0) * width);
      }
    }
    return true;
  }

  /** Copies the numbered rows of a shared tensor to `address`, one after the other. */
  loadRows(address: number, tensor: CpuTensor, rows: Int32Array): void {
    const { stride } = tensor;
    const from = new Float32Array(this.#shared.buffer, tensor.address, tensor.rows * stride);
    const to = this.f32(address, rows.length * stride);
    for (let start = 0, end: number; start < rows.length; start = end) {
      for (end = start + 1; end < rows.length && rows[end] === rows[end - 1] + 1;) end++;
      to.set(from.subarray(rows[start] * stride, (rows[end - 1] + 1) * stride), start * stride);
    }
  }

  /** Copies a block with rows `width` floats apart into rows [r0, r1) and columns [c0, c1) of a shared tensor. */
  store(
    address: number,
    width: number,
    tensor: Pick<CpuTensor, "address" | "rows" | "stride">,
    r0: number,
    r1: number,
    c0 = 0,
    c1 = tensor.stride,
  ): void {
    const { stride } = tensor;
    const from = this.f32(address, (r1 - r0) * width);
    const to = new Float32Array(this.#shared.buffer, tensor.address, tensor.rows * stride);
    if (width === stride && c1 - c0 === stride) to.set(from, r0 * stride);
    else {
      for (let r = 0; r < r1 - r0; r++) {
        to.set(from.subarray(r * width, r * width + c1 - c0), (r0 + r) * stride + c0);
      }
    }
  }

  async multiply({ transA, transB, m, n, k, a, b, out }: Product): Promise<void> {
    const tensor = (address: number, rows: number, columns: number) =>
      new this.#ort.Tensor("float32", this.f32(address, rows * columns), [rows, columns]);
    const left = transA ? tensor(a, k, m) : tensor(a, m, k);
    const right = transB ? tensor(b, n, k) : tensor(b, k, n);
    await runNative(this.#control, async () => {
      const session = await this.#session(transA, transB);
      await session.run({ a: left, b: right }, { out: tensor(out, m, n) });
    });
  }

  #session(transA: boolean, transB: boolean): Promise<Ort.InferenceSession> {
    const key = `${transA}${transB}`;
    let session = this.#sessions.get(key);
    if (!session) {
      const graph = new OnnxGraph({ opset: 17, ir: 8 });
      graph.input("a", "float32", ["a0", "a1"]);
      graph.input("b", "float32", ["b0", "b1"]);
      graph.op("Gemm", ["a", "b"], { transA: +transA, transB: +transB }, { name: "out" });
      graph.output("out", "float32", ["m", "n"]);
      session = this.#ort.InferenceSession.create(graph.encode(), sessionOptions({ threads: 1 }));
      this.#sessions.set(key, session);
    }
    return session;
  }
}
