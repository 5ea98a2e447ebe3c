/** Concepts along the hook points of a model, as a picture. */
import type { ConceptCourse } from "./concept-layers.ts";
import { figure, loadPlot, type Figure } from "./plots.ts";

/** Rows that a reader still takes in. */
const MOST_ROWS = 48;
const ROW = 17;

/**
 * A heat map, concepts by hook points: AUC of the best single latent. Of more than 48 concepts those whose
 * AUC differs most between the hook points are shown.
 */
export async function conceptFigure(
  courses: readonly ConceptCourse[],
  hookPoints: readonly string[],
): Promise<Figure> {
  const plot = await loadPlot();
  const range = ({ at }: ConceptCourse) => {
    const values = at.map(({ auc }) => auc.value);
    return Math.max(...values) - Math.min(...values);
  };
  const shown = new Set(courses.toSorted((a, b) => range(b) - range(a)).slice(0, MOST_ROWS));
  const rows = courses.filter((course) => shown.has(course));
  const short = shortNames(hookPoints);
  const cells = rows.flatMap(({ concept, at }) =>
    at.map(({ auc }, i) => ({ concept, place: short[i], auc: auc.value })),
  );
  const lowest = Math.min(0.9, ...cells.map(({ auc }) => auc));
  const omitted = courses.length - rows.length;
  const longest = Math.max(...rows.map(({ concept }) => concept.length));
  return figure(
    plot,
    {
      id: "concepts",
      title: "Concepts by hook point",
      caption: `AUC of the single latent that tells each concept best, chosen on other documents; chance is 0.5. By the hook point of the highest AUC, then by name.${omitted > 0 ? ` ${omitted} more concepts, which differ less between the hook points, are in layers.json.` : ""}`,
    },
    {
      ...{ width: 620, height: 70 + rows.length * ROW, legend: [] },
      ...{ marginLeft: 20 + longest * 7, marginRight: 14, marginTop: 44, marginBottom: 8 },
      x: { domain: short, axis: "top", label: null, padding: 0.03 },
      y: { domain: rows.map(({ concept }) => concept), label: null, tickSize: 0, padding: 0.06 },
      color: { type: "linear", domain: [lowest, 1], range: ["#f3e9d2", "#0b5394"], clamp: true },
      marks: [
        plot.api.cell(cells, { x: "place", y: "concept", fill: "auc" }),
        plot.api.text(cells, {
          ...{ x: "place", y: "concept", fontSize: 10.5 },
          text: ({ auc }: (typeof cells)[number]) => auc.toFixed(3),
          fill: ({ auc }: (typeof cells)[number]) =>
            auc > lowest + 0.55 * (1 - lowest) ? "#ffffff" : "#1b1f24",
        }),
      ],
    },
  );
}

/** "blocks.2.hook_resid_post" as "2 resid_post", where names stay different. */
export function shortNames(names: readonly string[]): string[] {
  const short = names.map((name) =>
    name.replace(/^blocks\.(\d+)\.(?:(\w+)\.)?hook_(\w+)$/, (_, layer, part, point) =>
      [layer, part, point].filter(Boolean).join(" "),
    ),
  );
  return new Set(short).size === new Set(names).size ? short : [...names];
}
