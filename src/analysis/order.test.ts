import { expect, test } from "vitest";

import { Rng } from "../rng.ts";
import { fallingOrder } from "./order.ts";

test("values are ordered from the largest down, ties and the two zeros in their order", () => {
  const values = Float32Array.of(0, -1, 3, -0, 3, -Infinity, 1e-40, Infinity, -2.5);
  expect([...fallingOrder(values)]).toEqual([7, 2, 4, 6, 0, 3, 1, 8, 5]);
  const rng = new Rng(1);
  const many = Float32Array.from({ length: 5000 }, () => Math.round(rng.normal() * 300) / 7);
  const sorted = Array.from(many.keys()).sort((a, b) => many[b] - many[a] || a - b);
  expect([...fallingOrder(many)]).toEqual(sorted);
  expect(fallingOrder(new Float32Array(0))).toHaveLength(0);
});
