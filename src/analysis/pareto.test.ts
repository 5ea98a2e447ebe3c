import { expect, test } from "vitest";

import { paretoFront } from "./pareto-front.ts";
import { paretoFigures } from "./pareto.ts";

const points = [
  { name: "sparse", l0: 8, fvu: 0.4, ceLossRecovered: 0.9 },
  { name: "worse and denser", l0: 16, fvu: 0.5, ceLossRecovered: 0.8 },
  { name: "good", l0: 32, fvu: 0.2, ceLossRecovered: 0.97 },
  { name: "as good, denser", l0: 40, fvu: 0.2, ceLossRecovered: 0.97 },
];

test("the front holds what no other beats in both, in order of sparsity", () => {
  expect(paretoFront(points.toReversed()).map(({ name }) => name)).toEqual(["sparse", "good"]);
});

test("equal points are both on the front", () => {
  const twins = [points[0], { ...points[0], name: "twin" }];
  expect(paretoFront(twins)).toHaveLength(2);
});

test("the figures name every point; the second appears only where the loss was measured", async () => {
  const figures = await paretoFigures(points);
  expect(figures.map(({ id }) => id)).toEqual(["pareto-fvu", "pareto-ce"]);
  for (const { svg } of figures)
    for (const { name } of points) expect(svg).toContain(`>${name}</text>`);
  const unmeasured = await paretoFigures(points.map(({ name, l0, fvu }) => ({ name, l0, fvu })));
  expect(unmeasured.map(({ id }) => id)).toEqual(["pareto-fvu"]);
});
