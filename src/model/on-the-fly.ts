/**
 * Activations as a model makes them, kept nowhere: it runs in a thread of its own, a bounded number
 * of forward passes ahead of whoever takes the rows. Rows, their numbers and their values are those
 * of a store that is collected with the same options.
 */
import {
  keptSource,
  rowSource,
  type Batch,
  type RowBlock,
  type RowReader,
  type RowSource,
} from "../activation-source.ts";
import { UserError } from "../error.ts";
import { startWorker, type WorkerThread } from "../platform.node.ts";
import type { RowBuffer } from "../row-stream.ts";
import { sideBySide } from "../zipped-source.ts";
import { collectionPlan, type CollectOptions } from "./collect.ts";
import { gatherHeld, HELD, heldBlock, heldPart, placeHeld, runsOf } from "./held-rows.ts";
import type { LoadOptions, Model } from "./model.ts";
import { countRows, type ModelRows, type RowCount, type RowsPlan } from "./model-rows.ts";
import { packingRules } from "./packing.ts";
import type { StorePlan } from "./store/manifest.ts";
import { requireRereadable, type Source } from "./text.ts";

export interface OnTheFlyOptions extends Omit<
  CollectOptions,
  "out" | "hookPoint" | "shardRows" | "onProgress"
> {
  /** Hook points to train on: one, or those of a crosscoder. */
  hookPoints: readonly string[];
  /** The hook point that a transcoder predicts. */
  targetHookPoint?: string | undefined;
  /** Bring all rows into memory when the first is asked for, and keep them. */
  keep?: boolean;
  /** Rows that the model may be ahead, at least two forward passes. Default 8192. */
  aheadRows?: number;
  /** How the model's thread loads it. */
  load?: Pick<LoadOptions, "threads" | "attention" | "weights" | "device">;
  /** Is told how many rows a text of unknown length, or with maxNorm, has so far, before training. */
  onCount?: (rows: number) => void;
  /** Is told how many rows the model has made, all passes together. */
  onRows?: (made: number) => void;
}

/** What the model's thread has done, all passes together. */
export interface ModelTimes {
  /** Milliseconds of making rows. */
  workedMs: number;
  /** Milliseconds in which there was no room for more rows. */
  waitedMs: number;
}

export interface OnTheFly {
  /** Rows of the hook points, side by side if there are several, with the target's. */
  readonly source: RowSource;
  /** What the rows are, as the manifest of a store says it. */
  readonly plan: StorePlan;
  readonly times: Readonly<ModelTimes>;
  /** Of rows that are kept: brings them into memory now. */
  load(): Promise<void>;
  /** Ends the model's thread, if one runs. */
  close(): Promise<void>;
}

/** What the thread is started with. */
export interface RowsSettings {
  folder: string;
  load: LoadOptions;
  plan: RowsPlan;
  hookPoints: string[];
  perPass: RowCount["perPass"];
  /** [1], shared: the stream that is wanted. */
  current: Int32Array;
}

/** Asks for the next rows of a stream, which are rows start … end-1. */
export type RowsRequest = { stream: number; start: number; end: number } | { close: true };

/** `made` is absent when the stream has no more rows. */
export type RowsAnswer =
  ({ stream: number; made: ModelRows | void } & ModelTimes) | { error: string; isUsers: boolean };

const AHEAD_ROWS = 8192;

/**
 * A source of the activations of `model` on `data`. It can mix its rows in windows only; rows that
 * all fit into a caller's buffer are made once, others again in every epoch. With `maxNorm` the model runs
 * once more, here, to count them.
 *
 * Memory: the caller's buffer, the rows ahead, and the model a second time, in its thread.
 *
 * @throws UserError as `collect` does, for values while reading; and for text that can be read only once.
 */
export async function onTheFly(
  model: Model,
  data: Source,
  options: OnTheFlyOptions,
): Promise<OnTheFly> {
  requireRereadable(data, "training straight from the model");
  const { hookPoints: inputs, targetHookPoint: target, onCount, onEmpty, onRows, signal } = options;
  const names = target === undefined ? [...inputs] : [...inputs, target];
  const plan = await collectionPlan(model, data, { ...options, hookPoint: names });
  const counting = { signal, onProgress: onCount, onEmpty };
  const { rows, perPass } = await countRows(model, plan, names, counting);
  const widths = names.map((name) => model.hookWidth(name));
  const dIn = widths.reduce((a, b) => a + b);
  const times: ModelTimes = { workedMs: 0, waitedMs: 0 };
  const open = new Set<RowThread>();
  let made = 0;
  const { folder } = model.info;
  const settings = { folder, load: options.load ?? {}, hookPoints: names, plan, perPass };
  const tokensPerPass = plan.batchRows * plan.contextLength;
  const ahead = Math.max(2, Math.ceil((options.aheadRows ?? AHEAD_ROWS) / tokensPerPass));

  function hold(count: number): RowBuffer {
    const type = HELD[plan.dtype];
    const blocks = widths.map((width) => heldBlock(type, count, width));
    let thread: RowThread | undefined;
    const onMade = (answer: ModelTimes, rows: number) => {
      times.workedMs += answer.workedMs;
      times.waitedMs += answer.waitedMs;
      onRows?.((made += rows));
    };
    return {
      async load(ranges, slots) {
        thread ??= new RowThread(settings, { rows, ahead, signal, onMade });
        open.add(thread);
        let at = 0;
        for (const { start, end } of ranges)
          for (let row = start; row < end;) {
            const { part, from, count } = await thread.take(row, end - row);
            for (const [first, last] of runsOf(slots.subarray(at, at + count)))
              for (const [h, width] of widths.entries()) {
                const piece = heldPart(part.blocks[h], width, from + first, from + last);
                placeHeld(blocks[h], piece, width, slots[at + first]);
              }
            at += count;
            row += count;
          }
      },
      gather(slots, out) {
        if (widths.length === 1) return gatherHeld(type, blocks[0], dIn, slots, out);
        const parts = widths.map((width, h) => {
          const part = new Float32Array(slots.length * width);
          gatherHeld(type, blocks[h], width, slots, part);
          return part;
        });
        sideBySide(parts, widths, out);
      },
      async close() {
        if (!thread) return;
        open.delete(thread);
        await thread.close();
        thread = undefined;
      },
    };
  }

  const { model: from, tokenizer, data: text, contextLength, dtype } = plan;
  const provenance = {
    ...{ from: "model", hookPoints: names, model: from, tokenizer, data: text },
    ...{ contextLength, ...packingRules(plan), dtype, rows },
  };
  const reader: RowReader = { dIn, rows, mixing: "window", hold };
  const kept = options.keep ? keptSource(reader, provenance) : undefined;
  const plain = kept?.source ?? rowSource(reader, provenance);
  const source =
    target !== undefined
      ? splitSource(plain, dIn - widths[widths.length - 1])
      : inputs.length > 1
        ? withHeads(plain, widths)
        : plain;
  return {
    ...{ source, plan, times },
    load: async () => kept?.load(),
    close: async () => {
      await Promise.all([...open].map((thread) => thread.close()));
      open.clear();
    },
  };
}

/** The thread that makes rows, and those that it is ahead. */
class RowThread {
  readonly #current = new Int32Array(new SharedArrayBuffer(4));
  readonly #thread: WorkerThread;
  readonly #rows: number;
  readonly #ahead: number;
  readonly #signal: AbortSignal | undefined;
  readonly #onAbort = () => this.#fail(this.#signal!.reason as Error);
  /** Rows made and not taken yet, and the first one's number. */
  #made: ModelRows[] = [];
  #next = -1;
  /** Rows of the first of `#made` that are taken. */
  #taken = 0;
  /** Forward passes asked for and not made yet. */
  #asked = 0;
  #isAtEnd = false;
  #failure: Error | undefined;
  #wake = () => {};

  constructor(
    settings: Omit<RowsSettings, "current">,
    { rows, ahead, signal, onMade }: { rows: number; ahead: number; signal: AbortSignal | undefined; onMade: (answer: ModelTimes, rows: number) => void }, // prettier-ignore
  ) {
    this.#rows = rows;
    this.#ahead = ahead;
    this.#signal = signal;
    // Workers have copies of the environment; the native library reads the process's own.
    process.env.ORT_DISABLE_TELEMETRY = "1";
    const hear = (message: unknown) => {
      const answer = message as RowsAnswer;
      if ("error" in answer)
        return this.#fail(answer.isUsers ? new UserError(answer.error) : new Error(answer.error));
      onMade(answer, answer.made?.rows ?? 0);
      if (answer.stream !== this.#current[0]) return;
      this.#asked--;
      if (answer.made) this.#made.push(answer.made);
      else this.#isAtEnd = true;
      this.#wake();
    };
    const data: RowsSettings = { ...settings, current: this.#current };
    this.#thread = startWorker("model/on-the-fly-worker", data, hear, (error) => this.#fail(error));
    this.#thread.hold(false);
    signal?.addEventListener("abort", this.#onAbort);
    if (signal?.aborted) this.#onAbort();
  }

  /**
   * Rows from `row` on, `most` at most: `count` rows of `part` from its row `from` on, valid until
   * the next call. Rows are asked for one after the other, or again from any other one.
   */
  async take(row: number, most: number): Promise<{ part: ModelRows; from: number; count: number }> {
    if (row !== this.#next) this.#begin(row);
    while (this.#made.length > 0 && this.#taken === this.#made[0].rows) {
      this.#made.shift();
      this.#taken = 0;
    }
    this.#ask();
    this.#thread.hold(true); // the process lives as long as somebody waits
    while (this.#made.length === 0 && !this.#failure && !this.#isAtEnd)
      await new Promise<void>((resolve) => (this.#wake = resolve));
    if (this.#failure) throw this.#failure;
    this.#thread.hold(false);
    if (this.#made.length === 0)
      throw new UserError(
        `the text ended after ${row} of ${this.#rows} activations: it was changed while it was read`,
      );
    const [part] = this.#made;
    const from = this.#taken;
    const count = Math.min(most, part.rows - from);
    this.#taken += count;
    this.#next += count;
    return { part, from, count };
  }

  async close(): Promise<void> {
    this.#signal?.removeEventListener("abort", this.#onAbort);
    this.#fail(new Error("the model's thread is closed"));
    this.#thread.post({ close: true } satisfies RowsRequest);
    await this.#thread.stop();
  }

  #begin(row: number): void {
    Atomics.add(this.#current, 0, 1);
    [this.#made, this.#taken, this.#asked] = [[], 0, 0];
    [this.#next, this.#isAtEnd] = [row, false];
  }

  /** Keeps the thread busy as far as it may be ahead. */
  #ask(): void {
    const request = { stream: this.#current[0], start: this.#next, end: this.#rows };
    for (; this.#asked + this.#made.length < this.#ahead && !this.#isAtEnd; this.#asked++)
      this.#thread.post(request satisfies RowsRequest);
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    Atomics.store(this.#current, 0, -1); // what was asked for is not made any more
    this.#wake();
  }
}

/** Rows of hook points side by side, as what a crosscoder trains on. */
function withHeads(source: RowSource, heads: readonly number[]): RowSource {
  return { ...source, heads, slice: (start, end) => withHeads(source.slice(start, end), heads) };
}

/** Rows of two hook points side by side, as what a transcoder trains on: `dIn` columns, then the target's. */
function splitSource(source: RowSource, dIn: number): RowSource {
  const dOut = source.dIn - dIn;
  async function* split<Part extends Batch | RowBlock>(parts: AsyncIterable<Part>) {
    let data = new Float32Array(0);
    let target = new Float32Array(0);
    for await (const part of parts) {
      const { rows } = part;
      if (data.length < rows * dIn)
        [data, target] = [new Float32Array(rows * dIn), new Float32Array(rows * dOut)];
      for (let n = 0, at = 0; n < rows; n++, at += source.dIn) {
        data.set(part.data.subarray(at, at + dIn), n * dIn);
        target.set(part.data.subarray(at + dIn, at + source.dIn), n * dOut);
      }
      yield {
        ...part,
        data: data.subarray(0, rows * dIn),
        target: target.subarray(0, rows * dOut),
      };
    }
  }
  return {
    ...{ dIn, dOut, rows: source.rows, mixing: source.mixing, provenance: source.provenance },
    batches: (options) => split(source.batches(options)),
    rowsInOrder: (blockRows) => split(source.rowsInOrder(blockRows)),
    slice: (start, end) => splitSource(source.slice(start, end), dIn),
  };
}
