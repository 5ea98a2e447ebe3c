/** Dose and response for a reader: a table, figures, and which strength to use. */
import { recommended, type DoseResponse, type Response } from "./dose.ts";
import type { Interval } from "./interval.ts";
import { linePlot, loadPlot, type Figure } from "./plots.ts";

/** One line per subject and strength, the baseline first. */
export function doseTable({ baseline, subjects }: DoseResponse): string[][] {
  const cells = (
    name: string,
    strength: string,
    r: Omit<Response, "strength" | "kl">,
    kl: string,
  ) => [
    ...[name, strength, ranged(r.rate, percent), ranged(r.perplexity, fixed), kl],
    ranged(r.repetition, percent),
  ];
  return [
    cells("nothing", "", baseline, ""),
    ...subjects.flatMap(({ name, responses }) =>
      responses.map((r) => cells(name, String(r.strength), r, r.kl.value.toFixed(3))),
    ),
  ];
}

export const DOSE_COLUMNS = ["steered", "strength", "rate", "perplexity", "KL, nats", "repetition"];

const percent = (v: number) => (100 * v).toFixed(2);
const fixed = (v: number) => v.toFixed(2);

function ranged({ value, low, high }: Interval, show: (v: number) => string): string {
  return `${show(value)} (${show(low)}–${show(high)})`;
}

/** The strength to use, or that there is none, in a sentence. */
export function recommendation(result: DoseResponse, cost = 1.3): string {
  const [target, ...controls] = result.subjects;
  const best = recommended(result, target.responses, cost);
  const limit = `perplexity at most ${cost} times that of unsteered text`;
  if (!best) return `No strength raises the rate with ${limit}.`;
  const times = (rate: number) =>
    result.baseline.rate.value > 0
      ? `${(rate / result.baseline.rate.value).toFixed(1)} times`
      : `from none to ${percent(rate)} % of`;
  const same = controls.flatMap(({ responses }) =>
    responses.filter(({ strength }) => strength === best.strength),
  );
  const most = Math.max(...same.map(({ rate }) => rate.value));
  const beside =
    same.length > 0 ? `; of the controls at that strength the most is ${times(most)}` : "";
  return (
    `Strength ${best.strength}: the rate is ${times(best.rate.value)} that of unsteered text, ` +
    `perplexity ${(best.perplexity.value / result.baseline.perplexity.value).toFixed(2)} times (${limit})${beside}.`
  );
}

/** Rate, perplexity and divergence against strength. */
export async function doseFigures(result: DoseResponse, of: string): Promise<Figure[]> {
  const plot = await loadPlot();
  const { baseline, subjects } = result;
  const groups = (["target", "latent", "random"] as const).flatMap((kind) => {
    const members = subjects.filter((subject) => subject.kind === kind);
    return members.length > 0 ? [{ name: NAMES[kind], members }] : [];
  });
  const series = (value: (r: Response) => number, at0: number | undefined) =>
    groups.map(({ name, members }) => ({
      name,
      points: [
        ...(at0 === undefined ? [] : [{ x: 0, y: at0 }]),
        ...members[0].responses.map(({ strength }, i) => ({
          x: strength,
          y: members.reduce((sum, m) => sum + value(m.responses[i]), 0) / members.length,
        })),
      ],
    }));
  const xLabel = "strength";
  return [
    linePlot(plot, {
      ...{ id: "rate", title: `Rate of ${of}`, xLabel, yLabel: "rate", percent: true },
      caption: `Share of the words in generated text that are ${of}: steered by the feature, by others that fire about as often, in random directions; the controls as means.`,
      series: series((r) => r.rate.value, baseline.rate.value),
    }),
    linePlot(plot, {
      ...{ id: "perplexity", title: "Perplexity", xLabel, yLabel: "perplexity", log: true },
      caption: "Of the generated text under the model as it is, unsteered. Logarithmic scale.",
      series: series((r) => r.perplexity.value, baseline.perplexity.value),
    }),
    linePlot(plot, {
      ...{ id: "kl", title: "Divergence", xLabel, yLabel: "KL, nats" },
      caption:
        "KL of the steered model's predictions from the unsteered one's, per token of unsteered text.",
      series: series((r) => r.kl.value, 0),
    }),
  ];
}

const NAMES = { target: "feature", latent: "others", random: "random" };
