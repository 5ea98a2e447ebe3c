/** What the cpu device and its workers say to each other: messages, and a few shared integers. */

import type { Screening } from "./cpu-crew.ts";

export interface WorkerData {
  thread: number;
  threads: number;
  screening: Screening;
  shared: WebAssembly.Memory;
  /** Address of a room in the shared memory that is this worker's alone. */
  staging: number;
  sharedModules: WebAssembly.Module[];
  ownModules: WebAssembly.Module[];
  control: Int32Array<SharedArrayBuffer>;
}

/** A list of operations to run; lists are numbered from 1. */
export interface CommandList {
  list: number;
  /** Size of the shared memory, which may have grown since the last list. */
  memoryBytes: number;
  commands: { name: string; op: unknown; scratch: Record<string, number> }[];
}

export type WorkerReport = { ready: true } | { done: number } | { error: string; stack?: string };

/** Places in the control array: how many wait at the barrier, and how often it has opened. */
const ARRIVED = 0;
const GENERATION = 1;
/** 1 once any worker has failed or the device was closed. */
export const FAILED = 2;
/** Number of the last list that all workers have run. */
export const DONE = 3;
/** How many workers are in native code, where they must not be killed: it would abort the process. */
const NATIVE = 4;
/** The next unit of work to be dealt; two places, for turns of even and odd number. */
const NEXT = 5;
export const CONTROL_LENGTH = 7;

/** Thrown where a worker would wait for a crew that has failed or was closed. */
export class Abandoned extends Error {}

/** Waits until all workers are here. */
export function barrier(control: Int32Array, threads: number): void {
  const generation = Atomics.load(control, GENERATION);
  // After the load: a crew abandoned before it opens no barrier any more, one abandoned later
  // changes the generation, so that nobody waits for what will not come.
  assertTogether(control);
  if (Atomics.add(control, ARRIVED, 1) + 1 === threads) {
    Atomics.store(control, ARRIVED, 0);
    Atomics.add(control, GENERATION, 1);
    Atomics.notify(control, GENERATION);
  } else {
    while (Atomics.load(control, GENERATION) === generation) {
      Atomics.wait(control, GENERATION, generation);
    }
  }
  assertTogether(control);
}

/**
 * Deals out the numbers from 0 up to `count`: every worker of the crew goes through them in the same
 * turn, and each number comes to one of them, whoever is free. Turns are numbered from 0 and need a
 * barrier between one and the next.
 */
export function* deal(control: Int32Array, turn: number, count: number): Generator<number> {
  // Nobody looks at the next turn's place before the barrier that ends this one.
  Atomics.store(control, NEXT + ((turn + 1) % 2), 0);
  for (;;) {
    const unit = Atomics.add(control, NEXT + (turn % 2), 1);
    if (unit >= count) return;
    yield unit;
  }
}

/** Throws Abandoned once the crew has failed or was closed. */
export function assertTogether(control: Int32Array): void {
  if (Atomics.load(control, FAILED)) throw new Abandoned();
}

/** Wakes everyone who waits for the crew; they will find that it failed. */
export function abandon(control: Int32Array): void {
  Atomics.store(control, FAILED, 1);
  Atomics.add(control, GENERATION, 1);
  Atomics.notify(control, GENERATION);
  Atomics.notify(control, DONE);
}

/** Runs native code, unless the crew has failed or was closed. */
export async function runNative<T>(control: Int32Array, native: () => Promise<T>): Promise<T> {
  Atomics.add(control, NATIVE, 1);
  try {
    assertTogether(control);
    return await native();
  } finally {
    Atomics.sub(control, NATIVE, 1);
    Atomics.notify(control, NATIVE);
  }
}

/** Ends the crew and blocks until no worker is in native code, at most `timeoutMs` per worker. */
export function abandonAndWait(control: Int32Array, timeoutMs: number): void {
  abandon(control);
  for (;;) {
    const inside = Atomics.load(control, NATIVE);
    if (inside === 0 || Atomics.wait(control, NATIVE, inside, timeoutMs) === "timed-out") return;
  }
}
