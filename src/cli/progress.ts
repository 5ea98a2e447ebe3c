/**
 * Progress of something long: on a terminal one line that is rewritten, elsewhere (a log, a pipe)
 * a plain line every few seconds. Both tell how far, how fast and how long it will still take, and a
 * job's state.json does too.
 */
import { currentJob } from "../workbench/job-folder.ts";
import { duration, short } from "../readable.ts";

export interface ProgressOptions {
  label: string;
  /** What is counted: "steps", "tokens". */
  unit: string;
  total: number;
  /** What was done before, by an earlier process. */
  start?: number;
  quiet?: boolean;
  stream?: NodeJS.WriteStream;
  /** Milliseconds; for tests. */
  clock?: () => number;
}

/** Old samples are forgotten, so that the time left follows a change of speed. */
const RATE_WINDOW_MS = 20_000;
const REDRAW_MS = 100;
const LINE_EVERY_MS = 5_000;
const BAR = 20;

export class Progress {
  readonly #options: Required<ProgressOptions>;
  readonly #began: number;
  #samples: { at: number; done: number }[];
  #lastShown = -Infinity;
  #done: number;
  #detail = "";

  constructor(options: ProgressOptions) {
    const {
      start = 0,
      quiet = false,
      stream = process.stderr,
      clock = () => performance.now(),
    } = options;
    this.#options = { ...options, start, quiet, stream, clock };
    this.#began = clock();
    this.#done = start;
    this.#samples = [{ at: this.#began, done: start }];
    // A log shows its first line once there is a rate to tell.
    if (!stream.isTTY) this.#lastShown = this.#began;
  }

  /** `done` in all, earlier work included; `detail` is appended. */
  update(done: number, detail = this.#detail): void {
    const { clock, quiet, stream } = this.#options;
    const now = clock();
    this.#done = done;
    this.#detail = detail;
    this.#samples.push({ at: now, done });
    while (this.#samples.length > 2 && this.#samples[1].at < now - RATE_WINDOW_MS)
      this.#samples.shift();
    this.#tellJob();
    if (quiet || now - this.#lastShown < (stream.isTTY ? REDRAW_MS : LINE_EVERY_MS)) return;
    this.#lastShown = now;
    this.#show(this.#line());
  }

  /** Replaces the moving line by a last one: what was done, in which time. */
  end(detail = this.#detail): void {
    const { label, unit, start, clock, quiet } = this.#options;
    this.#detail = detail;
    this.#tellJob();
    if (quiet) return;
    const seconds = (clock() - this.#began) / 1000;
    const count = this.#done - start;
    const rate = seconds > 0 ? `, ${short(round(count / seconds))} ${unit}/s` : "";
    const counted = `${short(this.#done)} ${unit} in ${duration(seconds)}${rate}`;
    this.#show(`${label}: ${[counted, detail].filter(Boolean).join("; ")}`);
    if (this.#options.stream.isTTY) this.#options.stream.write("\n");
  }

  /** Leaves the line as it is, for an error message to follow. */
  stop(): void {
    if (!this.#options.quiet && this.#options.stream.isTTY && this.#lastShown !== -Infinity)
      this.#options.stream.write("\n");
  }

  #tellJob(): void {
    const { label, unit, total } = this.#options;
    const progress = { label, unit, total, done: this.#done, detail: this.#detail };
    currentJob()?.tell({ progress: { ...progress, rate: this.#rate() } });
  }

  #line(): string {
    const { label, unit, total, stream } = this.#options;
    const share = total > 0 ? Math.min(1, this.#done / total) : 1;
    const parts = [`${short(this.#done)}/${short(total)} ${unit}`];
    const rate = this.#rate();
    if (rate > 0) {
      parts.push(`${short(round(rate))}/s`);
      parts.push(`${duration(Math.max(0, total - this.#done) / rate)} left`);
    }
    if (this.#detail) parts.push(this.#detail);
    const percent = `${Math.floor(share * 100)}%`.padStart(5);
    if (!stream.isTTY) return `${label}:${percent}, ${parts.join(", ")}`;
    const filled = Math.round(share * BAR);
    const bar = "█".repeat(filled) + "░".repeat(BAR - filled);
    return `${label} ${bar}${percent}  ${parts.join("  ")}`;
  }

  /** Units per second over the last samples. */
  #rate(): number {
    const [first] = this.#samples;
    const last = this.#samples.at(-1)!;
    return last.at > first.at ? (1000 * (last.done - first.done)) / (last.at - first.at) : 0;
  }

  #show(line: string): void {
    const { stream } = this.#options;
    // A line that wraps cannot be rewritten.
    if (stream.isTTY) stream.write(`\r\x1b[2K${line.slice(0, (stream.columns || 80) - 1)}`);
    else stream.write(line + "\n");
  }
}

function round(rate: number): number {
  return rate >= 10 ? Math.round(rate) : Number(rate.toPrecision(2));
}
