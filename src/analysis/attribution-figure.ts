/** An attribution as a picture: the largest contributions as bars, with the linear estimate on each. */
import type { Attribution } from "./attribute.ts";
import { figure, loadPlot, SERIES, siNumber, type Figure } from "./plots.ts";

const ROW_HEIGHT = 20;
const WIDTH = 640;
const LABELS = 300;
const LABEL_CHARACTERS = 42;

/** @param meaning of a latent, in a few words. */
export async function attributionFigure(
  { contributions, chance, token, against, tokens, position }: Attribution,
  top: number,
  meaning: (latent: number) => string,
): Promise<Figure> {
  const plot = await loadPlot();
  const bars = contributions.slice(0, top).map(({ latent, position, ablation, gradient }) => ({
    label: clipped(`${latent} @ ${position} ${JSON.stringify(tokens[position])}`, meaning(latent)),
    ablation,
    gradient,
  }));
  const wanted = `${JSON.stringify(token.text)}${against ? ` rather than ${JSON.stringify(against.text)}` : ""}`;
  const before = tokens.slice(Math.max(0, position - 6), position + 1).join("");
  const id = { id: "attribution", title: `Why ${wanted} after “${before}”` };
  const headings = [
    id.title,
    "bars: taken away at this position; dots: linear estimate; dashed: 95 % of random directions",
  ];
  const size95 = Number.isFinite(chance.size95) ? chance.size95 : 0;
  return figure(
    plot,
    {
      ...id,
      caption:
        "What each latent at a position contributes: the effect of taking it away (bars) and its linear estimate (dots). " +
        "Between the dashed lines lie 95 % of random directions of the same length.",
    },
    {
      width: WIDTH,
      height: 100 + ROW_HEIGHT * bars.length,
      marginLeft: LABELS,
      marginTop: 60,
      x: { label: "contribution, in nats", grid: true, ticks: 5, tickFormat: siNumber },
      y: { label: null, domain: bars.map(({ label }) => label), tickSize: 0 },
      marks: [
        plot.api.barX(bars, {
          ...{ x: "ablation", y: "label", insetTop: 2, insetBottom: 2 },
          fill: (bar: { ablation: number }) => SERIES[bar.ablation > 0 ? 0 : 1],
        }),
        plot.api.dot(bars, { x: "gradient", y: "label", r: 3, fill: "currentColor" }),
        plot.api.ruleX([-size95, size95], { stroke: "currentColor", strokeDasharray: "2 3" }),
        plot.api.ruleX([0], { stroke: "currentColor", strokeOpacity: 0.5 }),
        ...headings.map((text, i) =>
          plot.api.text([text], {
            ...{ frameAnchor: "top-left" as const, dx: 10 - LABELS, dy: 18 * i - 50 },
            ...{ textAnchor: "start" as const, fontWeight: i === 0 ? "bold" : "normal" },
          }),
        ),
      ],
      legend: [],
    },
  );
}

function clipped(where: string, meaning: string): string {
  const text = meaning === "" ? where : `${where} · ${meaning}`;
  const short = text.length > LABEL_CHARACTERS;
  return short ? `${text.slice(0, LABEL_CHARACTERS - 1)}…` : text;
}
