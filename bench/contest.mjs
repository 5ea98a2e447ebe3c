/**
 * Competitors take turns on one machine. Each is a process of its own that trains a step when asked
 * to: on {"steps": n} on its stdin it answers {"ms": [...], ...} on its stdout.
 */
import { spawn } from "node:child_process";
import { freemem } from "node:os";
import { createInterface } from "node:readline";
import { clearTimeout, setTimeout } from "node:timers";

/** Longer than the slowest step of the slowest peer with its compilation. */
const ANSWER_MS = 900_000;

/** A process that answers lines of JSON with lines of JSON. */
export class Worker {
  #child;
  #lines;
  #errors = "";
  #ended = "";

  constructor({ command, args, env }) {
    this.#child = spawn(command, args, {
      stdio: ["pipe", "pipe", "pipe"],
      env: { ...process.env, PYTHONDONTWRITEBYTECODE: "1", ...env },
    });
    this.#child.stderr.on("data", (data) => {
      this.#errors = (this.#errors + data).slice(-4000);
    });
    this.#child.on("error", (error) => {
      this.#ended = error.message;
    });
    this.#child.on("exit", (code, signal) => {
      this.#ended ||= `it ended with ${signal ?? `code ${code}`}`;
    });
    this.#child.stdin.on("error", () => undefined); // it has ended; the answer's absence says so
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  async answer() {
    let timer;
    const late = new Promise((resolve) => {
      timer = setTimeout(resolve, ANSWER_MS, { late: true });
    });
    const line = await Promise.race([this.#lines.next(), late]);
    clearTimeout(timer);
    if (line.late) throw new Error(`no answer within ${ANSWER_MS / 1000} s`);
    if (line.done) throw new Error(lastLine(this.#errors) || this.#ended || "it ended");
    return JSON.parse(line.value);
  }

  async ask(message) {
    this.#child.stdin.write(JSON.stringify(message) + "\n");
    return this.answer();
  }

  async stop() {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = new Promise((resolve) => this.#child.once("exit", resolve));
    this.#child.stdin.end();
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), 5000);
    await gone;
    clearTimeout(timer);
  }
}

function lastLine(text) {
  const lines = text.trim().split("\n");
  const error = lines.findLast((line) => /error|exception/i.test(line)) ?? lines.at(-1) ?? "";
  return error.trim().slice(0, 160);
}

/** One answer of a process that measures something else than steps. */
export async function once(spec) {
  const contestant = new Worker(spec);
  try {
    return await contestant.answer();
  } catch (error) {
    return { failed: error.message };
  } finally {
    await contestant.stop();
  }
}

/**
 * Lets `specs` ({name, command, args, env, memoryGiB}) take turns: `rounds` turns of `steps` steps
 * each, after `warmup` steps that count separately. As many take part at a time as fit into memory.
 * Returns per spec {name, ready, first, ms, last} or {name, failed}.
 */
export async function race(specs, { rounds, steps, warmup, log }) {
  const results = specs.map((spec) => ({ name: spec.name, ms: [] }));
  for (const group of groupsThatFit(specs)) {
    const running = [];
    for (const index of group) {
      const contestant = new Worker(specs[index]);
      const result = results[index];
      try {
        result.ready = await contestant.answer();
        result.warmup = (await contestant.ask({ steps: warmup })).ms;
        log(`${result.name}: first step ${result.warmup[0].toFixed(0)} ms`);
        running.push({ contestant, result });
      } catch (error) {
        result.failed = error.message;
        log(`${result.name}: ${error.message}`);
        await contestant.stop();
      }
    }
    for (let round = 0; round < rounds; round++)
      for (const { contestant, result } of running) {
        if (result.failed) continue;
        try {
          result.last = await contestant.ask({ steps });
          result.ms.push(...result.last.ms);
        } catch (error) {
          result.failed = error.message;
        }
      }
    for (const { contestant, result } of running) {
      log(`${result.name}: ${result.failed ?? `median ${median(result.ms).toFixed(1)} ms`}`);
      await contestant.stop();
    }
  }
  return results;
}

function groupsThatFit(specs) {
  const room = (freemem() / 2 ** 30) * 0.7;
  const groups = [[]];
  let used = 0;
  for (const [index, { memoryGiB }] of specs.entries()) {
    if (used + memoryGiB > room && groups.at(-1).length > 0) {
      groups.push([]);
      used = 0;
    }
    groups.at(-1).push(index);
    used += memoryGiB;
  }
  return groups;
}

export function median(numbers) {
  const sorted = numbers.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
