/** Server-sent events: what changes in files, to whoever looks on. */
import type { Context } from "hono";
import { streamSSE, type SSEStreamingApi } from "hono/streaming";

const LOOK_MS = 400;
/** A comment now and then tells a page, and what stands between, that the server is there. */
const ALIVE_MS = 15_000;

/**
 * Calls `look` again and again; it sends what is new. Ends when the page goes, the server closes, or
 * `look` returns false.
 */
export function live(
  c: Context,
  closing: AbortSignal,
  look: (stream: SSEStreamingApi) => Promise<boolean | void>,
): Response {
  c.header("X-Accel-Buffering", "no");
  return streamSSE(c, async (stream) => {
    let isOver = false;
    stream.onAbort(() => void (isOver = true));
    let spoke = Date.now();
    await stream.writeSSE({ event: "hello", data: "" });
    while (!isOver && !closing.aborted) {
      if ((await look(stream)) === false) return;
      if (Date.now() - spoke > ALIVE_MS) {
        spoke = Date.now();
        await stream.write(": alive\n\n");
      }
      await stream.sleep(LOOK_MS);
    }
  });
}

/** Sends `value` as `event` when it differs from the last time. */
export function whenChanged(event: string) {
  let last: string | undefined;
  return async (stream: SSEStreamingApi, value: unknown, id?: string): Promise<void> => {
    const data = JSON.stringify(value);
    if (data === last) return;
    last = data;
    await stream.writeSSE({ event, data, ...(id !== undefined && { id }) });
  };
}
