/**
 * Server-sent events: what changes in files, to whoever looks on. All streams look in step, in rounds;
 * what several of them look at is read once a round, so many pages cost what one does. While nobody
 * listens there are no rounds, and nothing is read.
 */
import { setTimeout } from "node:timers/promises";
import type { Context } from "hono";
import { streamSSE, type SSEStreamingApi } from "hono/streaming";

import type { Job } from "../workbench/job-folder.ts";
import type { Jobs } from "./jobs.ts";

const ROUND_MS = 400;
/** A comment now and then tells a page, and what stands between, that the server is there. */
const ALIVE_MS = 15_000;

export class Live {
  readonly #closing: AbortSignal;
  #round = 0;
  #ending: Promise<void> | undefined;
  /** All jobs, as they were in this round: streams of jobs and of runs both tell of them. */
  readonly jobs: () => Job[];

  /** @param closing is aborted when the server closes: streams end then. */
  constructor(jobs: Pick<Jobs, "list">, closing: AbortSignal) {
    this.#closing = closing;
    this.jobs = this.shared(() => jobs.list());
  }

  /**
   * Calls `look` in every round; it sends what is new. Ends when the page goes, the server closes, or
   * `look` returns false.
   */
  stream(c: Context, look: (stream: SSEStreamingApi) => Promise<boolean | void>): Response {
    c.header("X-Accel-Buffering", "no");
    return streamSSE(c, async (stream) => {
      let isOver = false;
      stream.onAbort(() => void (isOver = true));
      let spoke = Date.now();
      await stream.writeSSE({ event: "hello", data: "" });
      while (!isOver && !this.#closing.aborted) {
        if ((await look(stream)) === false) return;
        if (Date.now() - spoke > ALIVE_MS) {
          spoke = Date.now();
          await stream.write(": alive\n\n");
        }
        await this.#roundEnd();
      }
    });
  }

  /** `read` for all streams: called once a round for each key, the first time that one of them asks. */
  shared<T, K = void>(read: (key: K) => T): (key: K) => T {
    let round = this.#round;
    const found = new Map<K, T>();
    return (key) => {
      if (round !== this.#round) found.clear();
      round = this.#round;
      void this.#roundEnd(); // what was read is old then, even if nobody waits for the end
      if (!found.has(key)) found.set(key, read(key));
      return found.get(key)!;
    };
  }

  #roundEnd(): Promise<void> {
    return (this.#ending ??= setTimeout(ROUND_MS, undefined, { ref: false }).then(() => {
      this.#ending = undefined;
      this.#round++;
    }));
  }
}

/** Sends `data` as `event` when it differs from the last time. */
export function whenChanged(event: string) {
  let last: string | undefined;
  return async (stream: SSEStreamingApi, data: string): Promise<void> => {
    if (data === last) return;
    last = data;
    await stream.writeSSE({ event, data });
  };
}
