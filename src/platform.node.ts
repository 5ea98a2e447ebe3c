/** What the library needs of Node: cores, worker threads, and the files it was built with. */
import { existsSync, readFileSync } from "node:fs";
import { availableParallelism, totalmem } from "node:os";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parentPort, Worker, workerData } from "node:worker_threads";

import { messageOf, UserError } from "./error.ts";

/** Tests run the sources themselves; workers and kernels are always those of the last build. */
const dist = new URL(import.meta.url.endsWith(".ts") ? "../dist/" : "./", import.meta.url);

/** Cores this process may use. */
export function cpuCount(): number {
  return availableParallelism();
}

/** Bytes of memory that this machine has. */
export function totalMemory(): number {
  return totalmem();
}

const BUILD = "run npm run build first";

/** The compiled worker `name` (a path below src/ without its extension). Throws UserError when it is missing. */
export function workerUrl(name: string): URL {
  const built = new URL(`${name}.js`, dist);
  if (!existsSync(built)) throw new UserError(`${fileURLToPath(built)} is missing: ${BUILD}`);
  return built;
}

/** The compiled WebAssembly kernels `name`. Throws UserError when they are missing. */
export async function compileKernels(name: string): Promise<WebAssembly.Module> {
  return WebAssembly.compile(kernelBytes(name));
}

/** The exports of the kernels `name` over `memory`, at once: for small modules. Throws as `compileKernels`. */
export function loadKernels(name: string, memory: WebAssembly.Memory): Record<string, unknown> {
  const module = new WebAssembly.Module(kernelBytes(name));
  return new WebAssembly.Instance(module, { env: { memory } }).exports;
}

/**
 * LENS_KERNELS names another folder to take kernels from: the check that every kernel is tested
 * runs the tests on kernels broken on purpose.
 */
function kernelBytes(name: string): Uint8Array<ArrayBuffer> {
  const folder = process.env.LENS_KERNELS
    ? pathToFileURL(`${process.env.LENS_KERNELS}/`)
    : new URL("kernels/", dist);
  const file = new URL(`${name}.wasm`, folder);
  try {
    return new Uint8Array(readFileSync(file));
  } catch (error) {
    throw new UserError(`cannot read ${fileURLToPath(file)} (${messageOf(error)}): ${BUILD}`);
  }
}

/** Has `handler` called when the process is about to end; returns what takes that back. */
export function beforeExit(handler: () => void): () => void {
  process.once("exit", handler);
  return () => void process.off("exit", handler);
}

export interface WorkerThread {
  post(message: unknown): void;
  /** While held, the thread keeps the process alive. */
  hold(held: boolean): void;
  /**
   * Asks the thread to end when it has dealt with its messages, and resolves when it is gone.
   * It is not killed while it may be in native code (which would abort the whole process) unless it
   * takes longer than STOP_MS.
   */
  stop(): Promise<void>;
}

const STOP = "stop";
const STOP_MS = 60_000;

/** Starts the worker `name` with `data`. `onEnd` is called once if the thread ends by itself. */
export function startWorker(
  name: string,
  data: unknown,
  onMessage: (message: unknown) => void,
  onEnd: (error: Error) => void,
): WorkerThread {
  const worker = new Worker(workerUrl(name), { workerData: data, execArgv: [] });
  let ended = false;
  const end = (error: Error) => {
    if (!ended) onEnd(error);
    ended = true;
  };
  worker.on("message", onMessage);
  worker.on("error", end);
  worker.on("messageerror", end);
  const gone = new Promise<void>((resolve) => {
    worker.on("exit", (code) => {
      end(new Error(`worker thread ${name} ended with code ${code}`));
      resolve();
    });
  });
  return {
    post: (message) => worker.postMessage(message),
    hold: (held) => (held ? worker.ref() : worker.unref()),
    stop: async () => {
      ended = true;
      worker.ref(); // or the process could end, and kill it, before it has stopped
      worker.postMessage(STOP);
      const timer = setTimeout(() => void worker.terminate(), STOP_MS);
      await gone;
      clearTimeout(timer);
    },
  };
}

/**
 * Inside a worker: the data it was started with, and its line to the thread that started it.
 * Messages are handled one after the other; when asked to, the worker ends between two.
 */
export function workerPort(): {
  data: unknown;
  /** What is in `transfer` is moved, not copied. */
  post(message: unknown, transfer?: readonly ArrayBuffer[]): void;
  onMessage(handler: (message: unknown) => Promise<void>): void;
} {
  if (!parentPort) throw new Error("workerPort is for worker threads");
  const port = parentPort;
  let previous = Promise.resolve();
  return {
    data: workerData as unknown,
    post: (message, transfer = []) => port.postMessage(message, transfer),
    onMessage: (handler) => {
      port.on("message", (message) => {
        previous = previous.then(() => (message === STOP ? port.close() : handler(message)));
      });
    },
  };
}
