import { expect, test } from "vitest";

import { control, newControl } from "./schedules.ts";

test("the controller brings latents that follow the coefficient with a lag to the target, without letting them all fall silent", () => {
  // log L0 wanders to log(100 / coefficient), by a 300th of the way in each step.
  for (const [start, target] of [
    [120, 5],
    [1, 5],
  ]) {
    const state = newControl();
    const course: number[] = [];
    let log = Math.log(start);
    for (let step = 0; step < 3000; step++) {
      control(state, Math.exp(log), target);
      log += (Math.log(100 / state.factor) - log) / 300;
      course.push(Math.exp(log));
    }
    expect(Math.min(...course.slice(1000))).toBeGreaterThan(0.7 * target);
    expect(Math.max(...course.slice(1000))).toBeLessThan(1.4 * target);
    expect(Math.min(...course)).toBeGreaterThan(start < target ? 0.9 * start : target / 2);
    expect(course.at(-1)! / target).toBeCloseTo(1, 2);
  }
});

test("the coefficient moves by no more than a tenth a step, and never by more than a factor of 10,000 in all", () => {
  const state = newControl();
  control(state, 1000, 1);
  const first = state.factor;
  control(state, 1e9, 1);
  expect(state.factor / first).toBeCloseTo(Math.exp(0.1), 9);
  for (let step = 0; step < 2000; step++) control(state, 1e9, 1);
  expect(state.factor).toBe(1e4);
  for (let step = 0; step < 3000; step++) control(state, 0, 1);
  expect(state.factor).toBe(1e-4);
});
