/** What the library needs of Node: cores, worker threads, and the files it was built with. */
import { existsSync, statSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parentPort, Worker, workerData } from "node:worker_threads";

import { messageOf, UserError } from "./error.ts";

/** Tests run the sources themselves; workers and kernels are always those of the last build. */
const runsFromSource = import.meta.url.endsWith(".ts");
const dist = new URL(runsFromSource ? "../dist/" : "./", import.meta.url);

/** Cores this process may use. */
export function cpuCount(): number {
  return availableParallelism();
}

/**
 * The compiled worker `name` (a path below src/ without its extension). Throws UserError when it
 * is missing, or older than its source.
 */
export function workerUrl(name: string): URL {
  const built = new URL(`${name}.js`, dist);
  if (!existsSync(built)) throw new UserError(`${fileURLToPath(built)} is missing: ${BUILD}`);
  const source = new URL(`./${name}.ts`, import.meta.url);
  if (runsFromSource && statSync(source).mtimeMs > statSync(built).mtimeMs) {
    throw new UserError(`${fileURLToPath(built)} is older than its source: ${BUILD}`);
  }
  return built;
}

const BUILD = "run npm run build first";

/**
 * The compiled WebAssembly kernels `name`. LENS_KERNELS names another folder to take them from: the
 * check that every kernel is tested runs the tests on kernels broken on purpose.
 */
export async function compileKernels(name: string): Promise<WebAssembly.Module> {
  const folder = process.env.LENS_KERNELS
    ? pathToFileURL(`${process.env.LENS_KERNELS}/`)
    : new URL("kernels/", dist);
  const file = new URL(`${name}.wasm`, folder);
  const bytes = await readFile(file).catch((error: unknown) => {
    throw new UserError(`cannot read ${fileURLToPath(file)} (${messageOf(error)}): ${BUILD}`);
  });
  return WebAssembly.compile(bytes);
}

export interface WorkerThread {
  post(message: unknown): void;
  /** While held, the thread keeps the process alive. */
  hold(held: boolean): void;
  /** Ends the thread, whatever it is doing; resolves when it is gone. */
  terminate(): Promise<void>;
}

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
  worker.on("exit", (code) => end(new Error(`worker thread ${name} ended with code ${code}`)));
  return {
    post: (message) => worker.postMessage(message),
    hold: (held) => (held ? worker.ref() : worker.unref()),
    terminate: async () => {
      ended = true;
      await worker.terminate();
    },
  };
}

/** Inside a worker: the data it was started with, and its line to the thread that started it. */
export function workerPort(): {
  data: unknown;
  post(message: unknown): void;
  onMessage(handler: (message: unknown) => void): void;
} {
  if (!parentPort) throw new Error("workerPort is for worker threads");
  const port = parentPort;
  return {
    data: workerData as unknown,
    post: (message) => port.postMessage(message),
    onMessage: (handler) => void port.on("message", handler),
  };
}
