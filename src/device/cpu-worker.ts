/**
 * One worker thread of the cpu device: takes lists of operations and runs its share of each, in
 * step with the others. Between lists it sleeps in its event loop.
 */
import { messageOf } from "../error.ts";
import { workerPort } from "../platform.node.ts";
import {
  abandon,
  Abandoned,
  assertTogether,
  barrier,
  deal,
  DONE,
  type CommandList,
  type WorkerData,
  type WorkerReport,
} from "./cpu-control.ts";
import type { Crew } from "./cpu-crew.ts";
import { ops } from "./cpu-ops.ts";
import { OwnMemory } from "./cpu-products.ts";
import { instantiate, type OwnKernels, type SharedKernels } from "./kernels.ts";

const port = workerPort();
const { thread, threads, screening, shared, staging, control, sharedModules, ownModules } =
  port.data as WorkerData;
const report = (message: WorkerReport) => port.post(message);

/** How often work was dealt so far: the same in all workers. */
let turn = 0;
const kernels = instantiate<SharedKernels>(sharedModules, shared);
const own = await OwnMemory.create(shared, staging, kernels, control);
const byteForm = screening === "never" ? undefined : await own.exactByteForm();
const crew: Crew = {
  thread,
  threads,
  // Where no product of bytes is exact nothing can be proved by them.
  screening: byteForm ? screening : "never",
  byteForm: byteForm ?? "s8",
  shared,
  kernels,
  own,
  ownKernels: instantiate<OwnKernels>(ownModules, own.memory),
  barrier: () => barrier(control, threads),
  deal: (count) => deal(control, turn++, count),
};

async function runList({ list, memoryBytes, commands }: CommandList): Promise<void> {
  // This thread's view of a memory that another thread grew is renewed by growing it by nothing.
  if (shared.buffer.byteLength < memoryBytes) shared.grow(0);
  for (const { name, op, scratch } of commands) {
    assertTogether(control);
    await ops[name as keyof typeof ops](op as never, crew, scratch);
    crew.barrier();
  }
  if (thread !== 0) return;
  Atomics.store(control, DONE, list);
  Atomics.notify(control, DONE);
  report({ done: list });
}

port.onMessage(async (message) => {
  try {
    await runList(message as CommandList);
  } catch (error) {
    if (error instanceof Abandoned) return;
    abandon(control);
    report({ error: messageOf(error), stack: error instanceof Error ? error.stack : undefined });
  }
});
report({ ready: true });
