/** Questions to the thread that holds models, see model-thread.ts. It is started by the first one. */
import { UserError } from "../error.ts";
import { startWorker, type WorkerThread } from "../platform.node.ts";
import type { Answer, OperationName, Operations, Question } from "./model-thread.ts";

type Arguments<N extends OperationName> =
  Parameters<Operations[N]> extends [unknown, ...infer Rest] ? Rest : never;
export type Result<N extends OperationName> = Awaited<ReturnType<Operations[N]>>;

interface Waiting {
  resolve: (result: unknown) => void;
  reject: (error: Error) => void;
  onEvent: ((event: unknown) => void) | undefined;
}

/** Questions that may wait at a time; more are refused rather than left to grow. */
const MOST_WAITING = 64;

export class Models {
  #thread: WorkerThread | undefined;
  #next = 0;
  readonly #waiting = new Map<number, Waiting>();

  /**
   * Asks about the run in `folder`. Questions are answered one after the other.
   * @throws UserError as the operation does, and when too many wait.
   */
  ask<N extends OperationName>(
    name: N,
    folder: string,
    args: Arguments<N>,
    { signal, onEvent }: { signal?: AbortSignal; onEvent?: (event: unknown) => void } = {},
  ): Promise<Result<N>> {
    if (this.#waiting.size >= MOST_WAITING)
      throw new UserError("too many questions to the model wait already; try again in a moment");
    this.#thread ??= startWorker(
      "server/model-worker",
      undefined,
      (message) => this.#hear(message as Answer),
      (error) => this.#end(error),
    );
    const thread = this.#thread;
    // The process lives as long as somebody waits for an answer, and not for the thread alone.
    thread.hold(true);
    const id = this.#next++;
    return new Promise<Result<N>>((resolve, reject) => {
      this.#waiting.set(id, { resolve: resolve as (result: unknown) => void, reject, onEvent });
      thread.post({ id, name, folder, args } satisfies Question);
      signal?.addEventListener("abort", () => thread.post({ id, cancel: true } satisfies Question));
    });
  }

  async close(): Promise<void> {
    await this.#thread?.stop();
    this.#end(new UserError("the server is closing"));
  }

  #hear(answer: Answer): void {
    const waiting = this.#waiting.get(answer.id);
    if (!waiting) return;
    if ("event" in answer) {
      waiting.onEvent?.(answer.event);
      return;
    }
    this.#waiting.delete(answer.id);
    if (this.#waiting.size === 0) this.#thread?.hold(false);
    if ("result" in answer) waiting.resolve(answer.result);
    else waiting.reject(answer.isUsers ? new UserError(answer.error) : new Error(answer.error));
  }

  /** The next question starts a new thread. */
  #end(error: Error): void {
    this.#thread = undefined;
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}
