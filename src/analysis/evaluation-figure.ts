/** Two evaluations beside each other as a picture. */
import type { Compared } from "./evaluation-record.ts";
import { figure, loadPlot, percentage, SERIES, type Figure } from "./plots.ts";

/** Metrics with an interval, each as a change in per cent of A's value. */
export async function comparisonFigure(
  metrics: readonly Compared[],
  [a, b]: readonly [string, string],
): Promise<Figure> {
  const plot = await loadPlot();
  const rows = metrics.flatMap(({ metric, a: before, difference, differs }) => {
    const { value, low, high } = difference;
    if (low === null || high === null || before === 0 || (low === 0 && high === 0)) return [];
    const scale = 1 / Math.abs(before);
    const [from, to] = [low * scale, high * scale];
    return [{ metric, value: value * scale, from, to, series: differs ? 1 : 0 }];
  });
  return figure(
    plot,
    {
      id: "comparison",
      title: "Difference by metric",
      caption: `${b} less ${a}, in per cent of the latter, with 95 % intervals over the same documents. Orange: the interval excludes 0.`,
    },
    {
      ...{ width: 560, height: 70 + rows.length * 18, marginLeft: 180 },
      x: { label: "B − A, % of A", tickFormat: percentage, grid: true, nice: true },
      y: { label: null, domain: rows.map(({ metric }) => metric), type: "point", padding: 0.6 },
      marks: [
        plot.api.ruleX([0], { stroke: "currentColor", strokeOpacity: 0.6 }),
        plot.api.ruleY(rows, {
          ...{ y: "metric", x1: "from", x2: "to", strokeWidth: 2 },
          stroke: (row: { series: number }) => SERIES[row.series],
        }),
        plot.api.dot(rows, {
          ...{ x: "value", y: "metric", r: 3 },
          fill: (row: { series: number }) => SERIES[row.series],
        }),
      ],
      legend: [],
    },
  );
}
