/**
 * The cpu device: one worker thread per core, each with its own one-thread ONNX Runtime session for
 * matrix products and WebAssembly SIMD kernels for the rest, over tensors in one shared memory.
 * This thread only queues operations and moves numbers in and out.
 */
import {
  beforeExit,
  cpuCount,
  compileKernels,
  startWorker,
  type WorkerThread,
} from "../platform.node.ts";
import { sizeOf } from "./check.ts";
import {
  gather,
  layOut,
  MAX_BYTES,
  roundUp,
  scatter,
  SharedMemory,
  type CpuTensor,
} from "./cpu-memory.ts";
import type { OpName, Screening } from "./cpu-crew.ts";
import { scratchOf, type CopyIn } from "./cpu-ops.ts";
import {
  abandon,
  abandonAndWait,
  CONTROL_LENGTH,
  DONE,
  FAILED,
  type CommandList,
  type WorkerData,
  type WorkerReport,
} from "./cpu-control.ts";
import { STAGING_BYTES } from "./cpu-products.ts";
import type { Device, DeviceOptions, Dtype, Tensor, TensorData } from "./device.ts";
import { OWN_MODULES, SHARED_MODULES } from "./kernels.ts";

/** Writes wait in copies for the operations queued before them; this much at most. */
const MAX_STAGED_BYTES = 256 * 2 ** 20;

/** After so long without any progress a wait that blocks this thread is given up. */
const STUCK_MS = 300_000;

interface PendingRead {
  list: number;
  tensor: CpuTensor;
  count: number;
  resolve: (numbers: TensorData) => void;
  reject: (error: Error) => void;
}

/** Starts the workers and resolves when all are ready. */
export async function openCpu({
  threads = cpuCount(),
  screening = "auto",
}: DeviceOptions): Promise<Device> {
  // Workers have copies of the environment; the native library reads the process's own.
  process.env.ORT_DISABLE_TELEMETRY = "1";
  const [sharedModules, ownModules] = await Promise.all([
    Promise.all(SHARED_MODULES.map(compileKernels)),
    Promise.all(OWN_MODULES.map(compileKernels)),
  ]);
  const device = new CpuDevice(threads, { screening, sharedModules, ownModules });
  try {
    await device.ready;
  } catch (error) {
    await device.close();
    throw error;
  }
  return device;
}

class CpuDevice implements Device {
  readonly name = "cpu";
  readonly description: string;
  readonly ready: Promise<void>;
  readonly memoryLimit = MAX_BYTES;

  readonly #threads: number;
  readonly #screening: Screening;
  readonly #memory = new SharedMemory();
  readonly #control = new Int32Array(new SharedArrayBuffer(CONTROL_LENGTH * 4));
  readonly #workers: WorkerThread[] = [];
  readonly #forgetExit = beforeExit(() => abandonAndWait(this.#control, STUCK_MS));
  #failure: Error | undefined;
  #ending: Promise<void> | undefined;

  /** Operations not yet in a list; they become one at the end of this turn of the event loop. */
  #queue: CommandList["commands"] = [];
  #flushPlanned = false;
  /** Lists that wait for a read to take its numbers before they may change them. */
  #lists: CommandList[] = [];
  /** Numbers of the last list made and sent; the control array holds that of the last one done. */
  #made = 0;
  #sent = 0;
  #reads: PendingRead[] = [];
  /** Blocks that lists up to number `list` may still use. */
  #retired: { list: number; address: number; staged: number }[] = [];
  #stagedBytes = 0;
  /** One block serves the intermediate results of all operations, since they run one by one. */
  #scratch = { address: 0, bytes: 0 };

  constructor(
    threads: number,
    settings: Pick<WorkerData, "screening" | "sharedModules" | "ownModules">,
  ) {
    this.#threads = threads;
    this.#screening = settings.screening;
    this.description = `cpu: ${threads} thread${threads === 1 ? "" : "s"}, ONNX Runtime and WebAssembly SIMD`;
    let missing = threads;
    this.ready = new Promise((resolve, reject) => {
      for (let thread = 0; thread < threads; thread++) {
        const data: WorkerData = {
          ...settings,
          thread,
          threads,
          shared: this.#memory.memory,
          staging: this.#allocate(STAGING_BYTES, "a worker"),
          control: this.#control,
        };
        const receive = (message: unknown) => {
          const report = message as WorkerReport;
          if ("ready" in report) {
            if (--missing > 0) return;
            this.#hold(false);
            resolve();
          } else if ("done" in report) this.#settle();
          else fail(Object.assign(new Error(report.error), { stack: report.stack }));
        };
        const fail = (error: Error) => {
          this.#fail(error);
          reject(error);
        };
        this.#workers.push(startWorker("device/cpu-worker", data, receive, fail));
      }
    });
  }

  tensor(shape: readonly number[], dtype: Dtype = "f32"): Tensor {
    this.#assertUsable();
    const { bytes, ...layout } = layOut(shape, dtype);
    const address = this.#allocate(bytes, `a tensor [${shape.join(", ")}]`);
    return Object.freeze({ ...layout, address } satisfies CpuTensor);
  }

  free(...tensors: Tensor[]): void {
    for (const tensor of tensors) this.#retire((tensor as CpuTensor).address);
    this.#catchUp();
  }

  write(tensor: Tensor, data: TensorData, offset = 0): void {
    this.#assertUsable();
    const to = tensor as CpuTensor;
    if (this.#isIdle()) {
      scatter(this.#memory.memory.buffer, to, data, offset);
      return;
    }
    // Queued operations may use what is in the tensor now: the new numbers wait for their turn.
    if (this.#stagedBytes + data.byteLength > MAX_STAGED_BYTES) this.#finishQueued();
    const from = this.#allocate(data.byteLength, `a write of ${data.length} numbers`);
    const bytes = new Uint8Array(this.#memory.memory.buffer, from, data.byteLength);
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    const command: CopyIn = { tensor: to, from, count: data.length, offset };
    this.#queue.push({ name: "copyIn", op: command, scratch: {} });
    this.#planFlush();
    this.#retire(from, data.byteLength);
  }

  read(tensor: Tensor, count = sizeOf(tensor.shape)): Promise<TensorData> {
    if (this.#failure) return Promise.reject(this.#failure);
    this.#flush();
    return new Promise((resolve, reject) => {
      this.#reads.push({ list: this.#made, tensor: tensor as CpuTensor, count, resolve, reject });
      this.#settle();
    });
  }

  readF32(tensor: Tensor, count?: number): Promise<Float32Array> {
    return this.read(tensor, count) as Promise<Float32Array>;
  }

  readI32(tensor: Tensor, count?: number): Promise<Int32Array> {
    return this.read(tensor, count) as Promise<Int32Array>;
  }

  close(): Promise<void> {
    this.#fail(new Error("the cpu device is closed"));
    return this.#ending!;
  }

  encodeTopK = this.#operation("encodeTopK");
  encodeBatchTopK = this.#operation("encodeBatchTopK");
  encodeThreshold = this.#operation("encodeThreshold");
  encodeDense = this.#operation("encodeDense");
  applyThreshold = this.#operation("applyThreshold");
  decodeSparse = this.#operation("decodeSparse");
  valueGradients = this.#operation("valueGradients");
  decodeDense = this.#operation("decodeDense");
  backwardDense = this.#operation("backwardDense");
  penalize = this.#operation("penalize");
  thresholdGradient = this.#operation("thresholdGradient");
  gate = this.#operation("gate");
  gateGradient = this.#operation("gateGradient");
  preActPenalty = this.#operation("preActPenalty");
  updateLatents = this.#operation("updateLatents");
  updateLatentsDense = this.#operation("updateLatentsDense");
  applyLatents = this.#operation("applyLatents");
  updateVector = this.#operation("updateVector");
  sumOfSquares = this.#operation("sumOfSquares");
  clipFactor = this.#operation("clipFactor");
  movingAverage = this.#operation("movingAverage");
  columnSum = this.#operation("columnSum");
  addScaled = this.#operation("addScaled");
  multiply = this.#operation("multiply");
  inverseVariance = this.#operation("inverseVariance");
  rowNorms = this.#operation("rowNorms");
  rowStats = this.#operation("rowStats");
  recordFiring = this.#operation("recordFiring");
  matmul = this.#operation("matmul");

  #operation<Name extends OpName>(name: Name) {
    return (op: Parameters<Device[Name]>[0]): void => {
      this.#assertUsable();
      const scratch = this.#scratchFor(name, op);
      // A copy: the caller may change and reuse the object before the list is sent.
      this.#queue.push({ name, op: structuredClone(op), scratch });
      this.#planFlush();
    };
  }

  #scratchFor(name: OpName, op: unknown): Record<string, number> {
    const needs = Object.entries(
      scratchOf(name, op as Parameters<Device[typeof name]>[0], this.#threads, this.#screening),
    );
    const total = needs.reduce((sum, [, bytes]) => sum + roundUp(bytes, 64), 0);
    if (total > this.#scratch.bytes) {
      if (this.#scratch.bytes > 0) this.#retire(this.#scratch.address);
      this.#scratch = { address: 0, bytes: 0 };
      this.#scratch = { address: this.#allocate(total, `the operation ${name}`), bytes: total };
    }
    let { address } = this.#scratch;
    return Object.fromEntries(
      needs.map(([key, bytes]) => [key, (address += roundUp(bytes, 64)) - roundUp(bytes, 64)]),
    );
  }

  /** The address of a zero-filled block; waits for queued operations if that may make room. */
  #allocate(bytes: number, what: string): number {
    this.#catchUp();
    let address = this.#memory.allocate(bytes);
    if (address === undefined && this.#retired.length > 0) {
      this.#finishQueued();
      address = this.#memory.allocate(bytes);
    }
    if (address === undefined) throw this.#memory.tooLarge(bytes, what);
    return address;
  }

  /** Gives a block back once everything queued so far is done. */
  #retire(address: number, staged = 0): void {
    const list = this.#queue.length > 0 ? this.#made + 1 : this.#made;
    this.#retired.push({ list, address, staged });
    this.#stagedBytes += staged;
  }

  #done(): number {
    return Atomics.load(this.#control, DONE);
  }

  #isIdle(): boolean {
    const allDone = this.#queue.length === 0 && this.#done() === this.#made;
    return allDone && this.#reads.length === 0;
  }

  #planFlush(): void {
    if (this.#flushPlanned) return;
    this.#flushPlanned = true;
    queueMicrotask(() => {
      this.#flushPlanned = false;
      this.#flush();
    });
  }

  /** Makes a list of what is queued, and sends all lists that no read holds back. */
  #flush(): void {
    if (this.#failure) return;
    if (this.#queue.length > 0) {
      const memoryBytes = this.#memory.memory.buffer.byteLength;
      this.#lists.push({ list: ++this.#made, memoryBytes, commands: this.#queue });
      this.#queue = [];
    }
    while (this.#lists.length > 0 && this.#reads.every(({ list }) => list > this.#sent)) {
      const message = this.#lists.shift()!;
      for (const worker of this.#workers) worker.post(message);
      this.#sent = message.list;
      this.#hold(true);
    }
  }

  /** Serves the reads and releases the blocks of lists that are done. */
  #catchUp(): void {
    const done = this.#done();
    for (const { list, tensor, count, resolve } of this.#reads) {
      if (list <= done) resolve(gather(this.#memory.memory.buffer, tensor, count));
    }
    this.#reads = this.#reads.filter(({ list }) => list > done);
    for (const { list, address, staged } of this.#retired) {
      if (list > done) continue;
      this.#memory.release(address);
      this.#stagedBytes -= staged;
    }
    this.#retired = this.#retired.filter(({ list }) => list > done);
  }

  /** To be called when a list is done: also sends what had to wait for it. */
  #settle(): void {
    if (this.#failure) return;
    this.#catchUp();
    this.#flush();
    if (this.#isIdle()) this.#hold(false);
  }

  /** Blocks this thread until everything queued is done: the last resort when memory is short. */
  #finishQueued(): void {
    for (;;) {
      this.#flush();
      this.#settle();
      const done = this.#done();
      if (this.#isIdle()) return;
      const outcome = Atomics.wait(this.#control, DONE, done, STUCK_MS);
      if (Atomics.load(this.#control, FAILED)) throw new Error("a worker of the cpu device failed");
      if (outcome === "timed-out") {
        this.#fail(new Error("the cpu device made no progress for five minutes"));
        throw this.#failure!;
      }
    }
  }

  #assertUsable(): void {
    if (this.#failure) throw this.#failure;
  }

  #hold(held: boolean): void {
    for (const worker of this.#workers) worker.hold(held);
  }

  /** Ends the device for good: pending reads are rejected and no thread is left. */
  #fail(error: Error): void {
    if (this.#failure) return;
    this.#failure = error;
    abandon(this.#control);
    for (const { reject } of this.#reads) reject(error);
    this.#reads = [];
    this.#queue = [];
    this.#lists = [];
    this.#ending = Promise.all(this.#workers.map((worker) => worker.stop())).then(this.#forgetExit);
  }
}
