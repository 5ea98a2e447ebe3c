import { expect, test } from "vitest";

import { Progress } from "./progress.ts";

/** A stream that remembers, and a clock that is set by hand. */
function harness(isTTY: boolean, columns = 200) {
  const written: string[] = [];
  const time = { now: 0 };
  const stream = { isTTY, columns, write: (text: string) => written.push(text) };
  const options = {
    ...{ label: "training", unit: "steps", total: 1000, clock: () => time.now },
    stream: stream as unknown as NodeJS.WriteStream,
  };
  return { written, time, options };
}

test("on a terminal one line is rewritten, with share, rate and time left", () => {
  const { written, time, options } = harness(true);
  const progress = new Progress(options);
  time.now = 2000;
  progress.update(250, "fvu 0.5");
  expect(written).toEqual([
    "\r\x1b[2Ktraining █████░░░░░░░░░░░░░░░  25%  250/1,000 steps  125/s  6.0 s left  fvu 0.5",
  ]);
  time.now = 2050;
  progress.update(260);
  expect(written).toHaveLength(1);
  time.now = 8000;
  progress.update(1000);
  progress.end();
  expect(written.at(-2)).toBe("\r\x1b[2Ktraining: 1,000 steps in 8.0 s, 125 steps/s; fvu 0.5");
  expect(written.at(-1)).toBe("\n");
});

test("a line is cut where the terminal ends, since a wrapped one cannot be rewritten", () => {
  const { written, time, options } = harness(true, 20);
  const progress = new Progress(options);
  time.now = 1000;
  progress.update(1);
  expect(written[0].replace("\r\x1b[2K", "")).toHaveLength(19);
});

test("in a log there is a plain line every five seconds", () => {
  const { written, time, options } = harness(false);
  const progress = new Progress(options);
  for (time.now = 0; time.now <= 12_000; time.now += 1000) progress.update(time.now / 100);
  progress.end();
  expect(written).toEqual([
    "training:   5%, 50/1,000 steps, 10/s, 1:35 left\n",
    "training:  10%, 100/1,000 steps, 10/s, 1:30 left\n",
    "training: 120 steps in 13 s, 9.2 steps/s\n",
  ]);
});

test("time left follows the speed of the last twenty seconds, and counts only what is new", () => {
  const { written, time, options } = harness(true);
  const progress = new Progress({ ...options, start: 500 });
  // 1 a second for a minute, then 10 a second
  let done = 500;
  for (time.now = 1000; time.now <= 60_000; time.now += 1000) progress.update(++done);
  expect(written.at(-1)).toContain("1/s  7:20 left");
  for (; time.now <= 82_000; time.now += 1000) progress.update((done += 10));
  expect(written.at(-1)).toContain("10/s  22 s left");
  progress.end();
  expect(written.at(-2)).toContain("780 steps in 1:23, 3.4 steps/s");
});

test("quiet says nothing", () => {
  const { written, time, options } = harness(true);
  const progress = new Progress({ ...options, quiet: true });
  time.now = 10_000;
  progress.update(500);
  progress.end();
  progress.stop();
  expect(written).toEqual([]);
});
