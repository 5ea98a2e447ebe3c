/**
 * A worker's own memory and the matrix products in it. ONNX Runtime refuses tensors over shared
 * memory, so blocks of the shared matrices are copied here, multiplied in place by a session that
 * runs on this thread alone, and copied back.
 */
import { OnnxGraph } from "../onnx.ts";
import { loadOrt, sessionOptions, type Ort } from "../ort.ts";
import { runNative } from "./cpu-control.ts";
import { roundUp, type CpuTensor } from "./cpu-memory.ts";
import type { SharedKernels } from "./kernels.ts";

/** Bytes of the shared memory that each worker gathers parts of rows in: small enough for the cache. */
export const STAGING_BYTES = 2 ** 19;

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

/** A product of bytes at byte addresses: A [m, k], B [k, n]. */
type ByteProduct = Omit<Product, "transA" | "transB">;

/** What the second factor's bytes are: signed, or unsigned with 128 for zero. The first one's are unsigned. */
export type ByteForm = "s8" | "u8";

/** What turns a signed byte into one of the form, by exclusive or. */
export const FLIP = { s8: 0, u8: 128 };

export class OwnMemory {
  readonly memory = new WebAssembly.Memory({ initial: 1, maximum: 65535 });
  readonly #shared: WebAssembly.Memory;
  readonly #staging: number;
  readonly #copyRows: SharedKernels["copyRows"];
  readonly #control: Int32Array;
  readonly #ort: typeof Ort;
  readonly #sessions = new Map<string, Promise<Ort.InferenceSession>>();
  /** Leads nowhere: what is transferred to it is freed at once. */
  readonly #drain = new MessageChannel();
  /** What lies at an address, so that a block used again is not copied again. */
  readonly #loaded = new Map<number, string>();

  /** `staging` is the address of STAGING_BYTES in the shared memory that no other worker uses. */
  static async create(
    shared: WebAssembly.Memory,
    staging: number,
    kernels: SharedKernels,
    control: Int32Array,
  ): Promise<OwnMemory> {
    return new OwnMemory(shared, staging, kernels, control, await loadOrt());
  }

  private constructor(
    shared: WebAssembly.Memory,
    staging: number,
    { copyRows }: SharedKernels,
    control: Int32Array,
    ort: typeof Ort,
  ) {
    this.#shared = shared;
    this.#staging = staging;
    this.#copyRows = copyRows;
    this.#control = control;
    this.#ort = ort;
    this.#drain.port2.close();
    // glibc takes blocks as large as outputs from the system, page fault by page fault, which costs
    // more than a product; once it has seen one of this size freed it keeps smaller ones for reuse.
    this.#discard(new ArrayBuffer(31 * 2 ** 20));
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

  bytes(address: number, count: number): Uint8Array {
    return new Uint8Array(this.memory.buffer, address, count);
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
    const width = c1 - c0;
    const to = this.f32(address, (r1 - r0) * width);
    if (width === stride) to.set(this.#sharedF32(tensor.address + r0 * stride * 4, to.length));
    else {
      // Parts of rows by way of the staging room: a kernel is quick with rows, JavaScript is not.
      for (const [r, rows] of this.#pieces(r0, r1, width)) {
        let from = tensor.address + (r * stride + c0) * 4;
        if (rows > 1) {
          this.#copyRows(from, stride * 4, this.#staging, width * 4, width * 4, rows);
          from = this.#staging;
        }
        to.set(this.#sharedF32(from, rows * width), (r - r0) * width);
      }
    }
    return true;
  }

  /** Copies the numbered rows of a shared tensor to `address`, one after the other. */
  loadRows(address: number, tensor: CpuTensor, rows: Int32Array): void {
    const { stride } = tensor;
    const from = new Float32Array(this.#shared.buffer, tensor.address, tensor.rows * stride);
    const to = this.f32(address, rows.length * stride);
    for (const { at, first, last } of runsOf(rows))
      to.set(from.subarray(first * stride, last * stride), at * stride);
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
    if (width === stride && c1 - c0 === stride) {
      this.#sharedF32(tensor.address + r0 * stride * 4, from.length).set(from);
      return;
    }
    for (const [r, rows] of this.#pieces(r0, r1, width)) {
      const to = tensor.address + (r * stride + c0) * 4;
      const used = (rows - 1) * width + c1 - c0;
      const piece = from.subarray((r - r0) * width, (r - r0) * width + used);
      this.#sharedF32(rows > 1 ? this.#staging : to, used).set(piece);
      if (rows > 1) this.#copyRows(this.#staging, width * 4, to, stride * 4, (c1 - c0) * 4, rows);
    }
  }

  /** Copies bytes from the shared memory. */
  copyIn(address: number, from: number, bytes: number): void {
    new Uint8Array(this.memory.buffer, address, bytes).set(
      new Uint8Array(this.#shared.buffer, from, bytes),
    );
  }

  /** Copies bytes to the shared memory. */
  copyOut(address: number, to: number, bytes: number): void {
    new Uint8Array(this.#shared.buffer, to, bytes).set(
      new Uint8Array(this.memory.buffer, address, bytes),
    );
  }

  /** Copies rows `width` floats apart into the numbered rows of a shared tensor. */
  storeRows(address: number, width: number, tensor: CpuTensor, rows: Int32Array): void {
    for (const { at, first, last } of runsOf(rows))
      this.store(address + at * width * 4, width, tensor, first, last, 0, width);
  }

  #sharedF32(address: number, count: number): Float32Array {
    return new Float32Array(this.#shared.buffer, address, count);
  }

  /** Rows [r0, r1) in pieces, first row and number of rows, that fit into the staging room or are one row. */
  *#pieces(r0: number, r1: number, width: number) {
    const most = Math.max(1, Math.floor(STAGING_BYTES / (width * 4)));
    for (let r = r0; r < r1; r += most) yield [r, Math.min(most, r1 - r)] as const;
  }

  async multiply({ transA, transB, m, n, k, a, b, out }: Product): Promise<void> {
    const tensor = (address: number, rows: number, columns: number) =>
      new this.#ort.Tensor("float32", this.f32(address, rows * columns), [rows, columns]);
    const left = transA ? tensor(a, k, m) : tensor(a, m, k);
    const right = transB ? tensor(b, n, k) : tensor(b, k, n);
    await this.#run(this.#session(transA, transB), left, right, tensor(out, m, n));
  }

  /** A product (A - 128) (B - zero) of bytes A [m, k] and B [k, n], i32 [m, n], all dense; `form` says what B's bytes are. */
  async multiplyBytes({ m, n, k, a, b, out }: ByteProduct, form: ByteForm): Promise<void> {
    const { buffer } = this.memory;
    const { Tensor } = this.#ort;
    const left = new Tensor("uint8", new Uint8Array(buffer, a, m * k), [m, k]);
    const right =
      form === "s8"
        ? new Tensor("int8", new Int8Array(buffer, b, k * n), [k, n])
        : new Tensor("uint8", new Uint8Array(buffer, b, k * n), [k, n]);
    const product = new Tensor("int32", this.i32(out, m * n), [m, n]);
    await this.#run(this.#byteSession(form), left, right, product);
  }

  /** Runs a session of a and b into `out`. */
  async #run(
    session: Promise<Ort.InferenceSession>,
    a: Ort.Tensor,
    b: Ort.Tensor,
    out: Ort.Tensor,
  ): Promise<void> {
    await runNative(this.#control, async () => {
      const copy = (await (await session).run({ a, b }, { out })).out.data;
      // The runtime copies an output that it wrote to the place it was given once more, into a buffer
      // of its own. Left to the garbage collector those would pile up outside of the cache.
      if (ArrayBuffer.isView(copy) && copy.buffer !== this.memory.buffer)
        this.#discard(copy.buffer);
    });
  }

  #discard(buffer: ArrayBufferLike): void {
    this.#drain.port1.postMessage(null, [buffer as ArrayBuffer]);
  }

  /**
   * The quickest form in which products of bytes are exact, if there is one. Without VNNI or the like u8
   * times s8 adds pairs of products in 16 bits, with saturation; u8 times u8 does not.
   */
  async exactByteForm(): Promise<ByteForm | undefined> {
    for (const form of ["s8", "u8"] as const)
      if (await this.#multipliesBytesExactly(form)) return form;
    return undefined;
  }

  async #multipliesBytesExactly(form: ByteForm): Promise<boolean> {
    // Enough rows for the kernels of large products.
    const [m, n, k] = [70, 48, 256];
    const { a, b, out } = this.layOut({ a: (m * k) / 4, b: (n * k) / 4, out: m * n });
    const [left, right] = [this.bytes(a, m * k), this.bytes(b, n * k)];
    const flip = FLIP[form];
    // Row r of A and column c of B hold one number each: products at the ends of the range, and others.
    const first = (r: number) => [127, -127, 127, r - 35][r % 4];
    const second = (c: number) => [127, 127, -127, 5 * c - 120][c % 4];
    left.forEach((_, i) => (left[i] = first(Math.floor(i / k)) + 128));
    right.forEach((_, i) => (right[i] = (second(i % n) & 255) ^ flip));
    await this.multiplyBytes({ m, n, k, a, b, out }, form);
    return this.i32(out, m * n).every(
      (sum, i) => sum === k * first(Math.floor(i / n)) * second(i % n),
    );
  }

  #session(transA: boolean, transB: boolean): Promise<Ort.InferenceSession> {
    return this.#sessionOf(`${transA}${transB}`, (graph) => {
      graph.input("a", "float32", ["a0", "a1"]);
      graph.input("b", "float32", ["b0", "b1"]);
      graph.op("Gemm", ["a", "b"], { transA: +transA, transB: +transB }, { name: "out" });
      graph.output("out", "float32", ["m", "n"]);
    });
  }

  #byteSession(form: ByteForm): Promise<Ort.InferenceSession> {
    return this.#sessionOf(form, (graph) => {
      graph.input("a", "uint8", ["m", "k"]);
      graph.input("b", form === "s8" ? "int8" : "uint8", ["k", "n"]);
      graph.initializer("zero", "uint8", [1], Uint8Array.of(128));
      const zeros = form === "s8" ? ["zero"] : ["zero", "zero"];
      graph.op("MatMulInteger", ["a", "b", ...zeros], {}, { name: "out" });
      graph.output("out", "int32", ["m", "n"]);
    });
  }

  #sessionOf(key: string, build: (graph: OnnxGraph) => void): Promise<Ort.InferenceSession> {
    let session = this.#sessions.get(key);
    if (!session) {
      const graph = new OnnxGraph({ opset: 17, ir: 8 });
      build(graph);
      session = this.#ort.InferenceSession.create(graph.encode(), sessionOptions({ threads: 1 }));
      this.#sessions.set(key, session);
    }
    return session;
  }
}

/** The runs of consecutive numbers in a list: where in it they begin, and rows first … last-1. */
function* runsOf(rows: Int32Array) {
  for (let at = 0, end: number; at < rows.length; at = end) {
    for (end = at + 1; end < rows.length && rows[end] === rows[end - 1] + 1;) end++;
    yield { at, first: rows[at], last: rows[end - 1] + 1 };
  }
}
