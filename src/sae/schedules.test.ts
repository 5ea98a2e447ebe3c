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
      control(state, { l0: Math.exp(log), fvu: 0 }, target);
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
  control(state, { l0: 1000, fvu: 0 }, 1);
  const first = state.factor;
  control(state, { l0: 1e9, fvu: 0 }, 1);
  expect(state.factor / first).toBeCloseTo(Math.exp(0.1), 9);
  for (let step = 0; step < 2000; step++) control(state, { l0: 1e9, fvu: 0 }, 1);
  expect(state.factor).toBe(1e4);
  for (let step = 0; step < 3000; step++) control(state, { l0: 0, fvu: 0 }, 1);
  expect(state.factor).toBe(1e-4);
});

test("the coefficient does not rise while nothing is reconstructed, but falls when too few latents are active", () => {
  const state = newControl();
  for (let step = 0; step < 100; step++) control(state, { l0: 100, fvu: 1.2 }, 5);
  expect(state.factor).toBe(1);
  for (let step = 0; step < 100; step++) control(state, { l0: 100, fvu: 0.3 }, 5);
  expect(state.factor).toBeCloseTo(Math.exp(100 * 0.02 * 0.49), 6);
  const before = state.factor;
  for (let step = 0; step < 300; step++) control(state, { l0: 1, fvu: 1.2 }, 5);
  expect(state.factor).toBeLessThan(before / 100);
});
