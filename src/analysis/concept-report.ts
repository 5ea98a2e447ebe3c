/** A concept alignment for people: a table, a summary and a figure. */
import type { AlignedConcept, ConceptAlignment } from "./concept-alignment.ts";
import type { DirectionKind } from "./concept-directions.ts";
import type { Interval } from "./interval.ts";
import { figure, loadPlot, SERIES, type Figure } from "./plots.ts";

const NAMES: Record<DirectionKind, string> = {
  raw: "raw dimension",
  random: "random direction",
  pca: "PCA component",
};

export const CONCEPT_COLUMNS = [
  "concept", "tokens", "latent", "AUC", "95 % interval", "shuffled", "best F1", "k=10", "raw", "random", "PCA", "all dims", "spread over",
]; // prettier-ignore

/** One row per concept; k=10 and everything after it are AUCs, "spread over" is the number of latents. */
export function conceptRows(concepts: readonly AlignedConcept[]): string[][] {
  return concepts.map((concept) => {
    const direction = (kind: DirectionKind) =>
      digits(concept.directions.find((found) => found.kind === kind)?.best.auc.value);
    const { best, bestF1, byChance, latents, full, splitting } = concept;
    return [
      ...[concept.concept, String(concept.positives.test), String(best.latent)],
      ...[digits(best.auc.value), range(best.auc), digits(byChance.auc)],
      ...[digits(bestF1.f1.value), digits(latents.at(-1)?.auc.value)],
      ...[direction("raw"), direction("random"), direction("pca"), digits(full.auc.value)],
      String(splitting.latents.value),
    ];
  });
}

/** The counts that answer whether the autoencoder has a latent for each concept. */
export function conceptSummary(found: ConceptAlignment): string {
  const { concepts, auc95, f1Half, f1High, directions, full, tooLittleData, absorption } = found;
  const of = concepts.length;
  const others = directions.map((one) => `${NAMES[one.kind]}: ${one.count} (${percents(one)}, shuffled ${percent(one.shuffled)})`); // prettier-ignore
  const spread = concepts.filter(({ splitting }) => splitting.latents.value > 1).length;
  const lines = [
    `${auc95.count} of ${of} concepts (${percents(auc95)}) have a single latent with AUC ≥ 0.95, shuffled ${percent(auc95.shuffled)}; ` +
      `${others.join("; ")}; all dimensions together: ${full.count} (${percents(full)})`,
    `F1 ≥ 0.5: ${f1Half.count} (${percents(f1Half)}), shuffled ${percent(f1Half.shuffled)}; ` +
      `F1 ≥ 0.8: ${f1High.count} (${percents(f1High)}), shuffled ${percent(f1High.shuffled)}`,
    `${spread} of ${of} are spread over more than one latent (another one adds 0.03 or more to F1)`,
    ...absorption.map(
      ({ parent, positions, rate, random, absorbers }) =>
        `absorption of ${parent}: ${percents(rate)} of ${positions} tokens, along a random direction ${percent(random)}` +
        (absorbers.length > 0
          ? `; by ${absorbers.slice(0, 3).map((a) => `${a.latent} (${a.concept})`).join(", ")}` // prettier-ignore
          : ""),
    ),
  ];
  if (tooLittleData.length > 0)
    lines.push(
      `too little data (fewer than 20 tokens in a half): ${tooLittleData.map(({ concept }) => concept).join(", ")}`,
    );
  return lines.join("\n");
}

/** AUC of each concept's best latent beside that of its best raw dimension. */
export async function conceptFigure({ concepts, auc95 }: ConceptAlignment): Promise<Figure> {
  const plot = await loadPlot();
  const points = concepts.map(({ concept, best, directions }) => ({
    concept,
    latent: best.auc.value,
    raw: directions.find(({ kind }) => kind === "raw")!.best.auc.value,
    ...{ low: best.auc.low, high: best.auc.high },
  }));
  const chance = concepts.map(({ byChance }) => byChance.highestAuc);
  const highest = chance.reduce((a, b) => Math.max(a, b), 0.5);
  const least = points.flatMap(({ latent, raw, low }) => [latent, raw, low]);
  const from = Math.max(0, Math.min(0.5, ...least.filter(Number.isFinite)) - 0.02);
  const spec = {
    id: "concepts",
    title: "Concepts: latents and dimensions",
    caption:
      `AUC on held-out documents of each concept's best latent against that of its best raw dimension (either sign); lines are 95 % intervals. ` +
      `${auc95.count} of ${concepts.length} latents reach 0.95 (dashed). Below the dotted line, at ${highest.toFixed(2)}, lies whatever shuffled labels reached.`,
  };
  return figure(plot, spec, {
    height: 340,
    x: { label: "AUC of the best dimension", domain: [from, 1], ticks: 5 },
    y: { label: "AUC of the best latent", domain: [from, 1], grid: true, ticks: 5 },
    marks: [
      plot.api.line(
        [
          [from, from],
          [1, 1],
        ],
        { stroke: "currentColor", strokeOpacity: 0.35 },
      ),
      plot.api.ruleY([0.95], { stroke: SERIES[1], strokeDasharray: "6 3" }),
      plot.api.ruleY([highest], { stroke: "currentColor", strokeOpacity: 0.6, strokeDasharray: "2 3" }), // prettier-ignore
      plot.api.ruleX(points, { x: "raw", y1: "low", y2: "high", stroke: SERIES[0], strokeOpacity: 0.3 }), // prettier-ignore
      plot.api.dot(points, { x: "raw", y: "latent", r: 2.5, fill: SERIES[0], title: "concept" }),
    ],
    legend: [],
  });
}

function digits(value: number | undefined): string {
  return value === undefined ? "-" : value.toFixed(3);
}

function range({ low, high }: Interval): string {
  return `${low.toFixed(3)}–${high.toFixed(3)}`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

function percents({ value, low, high }: Interval): string {
  return `${percent(value)}, 95 % interval ${(100 * low).toFixed(1)}–${percent(high)}`;
}
