/** Figures of several autoencoders in the plane of sparsity and fidelity. */
import { paretoFront, type ParetoPoint } from "./pareto-front.ts";
import { figure, loadPlot, SERIES, siNumber, percentage, type Figure } from "./plots.ts";

/** L0 against FVU and, where they were measured, against CE recovered; names beside the points. */
export async function paretoFigures(points: readonly ParetoPoint[]): Promise<Figure[]> {
  const plot = await loadPlot();
  const front = new Set(paretoFront(points).map(({ name }) => name));
  const drawn = (
    id: string,
    title: string,
    caption: string,
    yLabel: string,
    of: (p: ParetoPoint) => number | undefined,
  ): Figure[] => {
    const data = points.flatMap((p) => {
      const y = of(p);
      return y === undefined ? [] : [{ name: p.name, x: p.l0, y, best: front.has(p.name) }];
    });
    if (data.length === 0) return [];
    const best = data.filter((p) => p.best).toSorted((a, b) => a.x - b.x);
    const low = Math.min(...data.map((p) => p.x));
    const high = Math.max(...data.map((p) => p.x));
    const { api } = plot;
    return [
      figure(
        plot,
        { id, title, caption },
        {
          width: 640,
          height: 380,
          marginRight: 120,
          x: {
            label: "L0: active latents per activation",
            type: low > 0 ? "log" : "linear",
            domain: low > 0 ? [low / 1.2, high * 1.2] : [0, high * 1.1],
            ticks: 5,
            tickFormat: siNumber,
          },
          y: { label: yLabel, grid: true, nice: true, ticks: 5, tickFormat: percentage },
          marks: [
            api.line(best, { x: "x", y: "y", stroke: SERIES[0], strokeWidth: 1.5 }),
            api.dot(data, {
              x: "x",
              y: "y",
              r: 4,
              fill: (p: { best: boolean }) => (p.best ? SERIES[0] : "none"),
              stroke: SERIES[0],
            }),
            api.text(data, {
              ...{ x: "x", y: "y", text: "name", dx: 9, textAnchor: "start" },
              fill: "currentColor",
              fontSize: 10,
            }),
          ],
          legend: [],
        },
      ),
    ];
  };
  return [
    ...drawn(
      "pareto-fvu",
      "Sparsity against error",
      "Fraction of variance unexplained on held-out activations; filled: no other is both sparser and better.",
      "FVU",
      (p) => p.fvu,
    ),
    ...drawn(
      "pareto-ce",
      "Sparsity against loss recovered",
      "Share of the model's cross-entropy that the reconstruction keeps, 0 for zeros in its place.",
      "CE loss recovered",
      (p) => p.ceLossRecovered,
    ),
  ];
}
