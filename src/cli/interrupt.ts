/** Ctrl-C and its like: finish what must not be cut, save, and say how to go on. */
import { currentJob } from "../workbench/job-folder.ts";

/** Thrown where a command stops because it was asked to, with everything saved. */
export class Interrupted extends Error {
  override name = "Interrupted";
}

/**
 * Runs `work` with a signal that is aborted on the first SIGINT or SIGTERM. A second one ends the
 * process at once; what was saved until then is whole all the same. A job is also stopped by a file in
 * its folder: signals do not reach processes of other sessions everywhere.
 */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const stop = () => {
    if (controller.signal.aborted) process.exit(130);
    process.stderr.write("\nstopping after this step (again: at once) …\n");
    controller.abort(new Interrupted("stopped"));
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  const job = currentJob();
  const look = () => {
    if (job?.isStopRequested() && !controller.signal.aborted) stop();
  };
  const timer = job && setInterval(look, LOOK_MS);
  timer?.unref();
  try {
    return await work(controller.signal);
  } finally {
    clearInterval(timer);
    process.off("SIGINT", stop);
    process.off("SIGTERM", stop);
  }
}

const LOOK_MS = 300;
