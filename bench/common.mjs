/** What the sections share: processes to start, how long contests last, and numbers as text. */

export const D = 768;
export const LATENTS = 24_576;
export const BATCH = 4096;

export const ms = (value) => (value < 100 ? value.toFixed(1) : Math.round(value).toString());
export const count = (value) => Math.round(value).toLocaleString("en-US");
export const times = (value) => `${value.toFixed(value < 10 ? 2 : 1)}×`;
export const met = (value, target) => (value >= target ? "reached" : "missed");

/** How long contests last. */
export const lengths = ({ rounds }) => ({ rounds, steps: 3, warmup: 2 });

export function peer(context, script, settings, more) {
  const { python, threads } = context;
  return {
    command: python,
    args: [context.path(`peers/${script}.py`), JSON.stringify({ threads, ...settings })],
    memoryGiB: 5,
    ...more,
  };
}

export function lens(context, script, settings, more) {
  const { threads } = context;
  return {
    command: process.execPath,
    args: [context.path(`lens/${script}.mjs`), JSON.stringify({ threads, ...settings })],
    memoryGiB: 2,
    ...more,
  };
}

/** Why competitors are missing from a table. */
export function failures(results) {
  return results
    .filter((r) => r.failed)
    .map(({ name, failed }) => `${name} did not run: ${failed}.`);
}
