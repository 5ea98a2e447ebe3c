/** A feature folder put in order for a person: the list for a terminal, the gallery for a page. */
import { ALIGNED_AUC, isAligned, isSpecific, MIN_POSITIVES, type BestLabel } from "./concepts.ts";
import type { Features } from "./features.ts";
import { describeRanking, rankFeatures } from "./ranking.ts";
import type { Gallery, LatentRow } from "./report.ts";

/** A feature in one line. */
export interface FeatureRow extends LatentRow {
  rank: number;
}

/** The most interesting features, best first. */
export function featureTable(features: Features, limit: number): FeatureRow[] {
  return rankFeatures(features.index, { limit }).map((latent, i) => ({
    rank: i + 1,
    ...latentRow(features, latent),
  }));
}

/** How many rows line up with a label, that is, have an AUC of at least 0.95 for it. */
export function alignedCount(rows: readonly { label?: BestLabel }[]): number {
  return rows.filter(({ label }) => isAligned(label)).length;
}

/** The table as text for a terminal, with a line that counts. */
export function formatFeatureTable(rows: readonly FeatureRow[]): string {
  const percent = (share: number) => (share * 100).toFixed(share < 0.1 ? 2 : 1);
  const lines = rows.map(({ rank, latent, density, topTokens, label }) => [
    String(rank),
    String(latent),
    percent(density),
    label ? label.auc.toFixed(3) : "–",
    label ? percent(label.precision) : "–",
    label ? percent(label.recall) : "–",
    label ? percent(label.atThreshold.f1) : "–",
    label ? label.kind : "–",
    label ? label.name : "no label fits",
    topTokens.map((text) => JSON.stringify(text)).join(" "),
  ]);
  const head = ["", "latent", "density %", "AUC", "precision %", "recall %", "F1 %", "kind", "label", "most activation on"]; // prettier-ignore
  const widths = head.map((_, c) =>
    Math.max(...[head, ...lines].map((line) => [...line[c]].length)),
  );
  const numeric = (c: number) => c < 7;
  const format = (line: string[]) =>
    line
      .map((cell, c) => {
        const pad = " ".repeat(widths[c] - [...cell].length);
        return numeric(c) ? pad + cell : cell + pad;
      })
      .join("  ")
      .trimEnd();
  return [
    format(head),
    ...lines.map(format),
    "",
    `${alignedCount(rows)} of ${rows.length} line up with a labelled concept or a token class: AUC ≥ ${ALIGNED_AUC} on text that had no part in choosing the label.`,
    `${rows.filter(({ label }) => isSpecific(label)).length} of them fire for little else: F1 ≥ 50 % at the best threshold, which was chosen with the label.`,
    "Precision and recall are of firing at all.",
  ].join("\n");
}

/** Latents past this many are left out of the page's table: it would outgrow the page. */
const TABLE_ROWS = 4096;

/** What a page shows of a feature folder: the gallery and the table of all latents. */
export async function galleryOf(
  features: Features,
  limit: number,
): Promise<{ gallery: Gallery; table: { rows: LatentRow[]; note: string } }> {
  const { index, labels } = features;
  const { positions, documents, dSae, columns } = index;
  const order = rankFeatures(index, { limit });
  const shown = await Promise.all(
    order.map(async (latent, i) => ({
      rank: i + 1,
      feature: features.feature(latent),
      label: labels?.best[latent] ?? undefined,
    })),
  );
  const everyRank = rankFeatures(index, { limit: dSae });
  const ranked = new Set(everyRank);
  const byFirings = Array.from({ length: dSae }, (_, latent) => latent)
    .filter((latent) => !ranked.has(latent))
    .sort((a, b) => columns.firings[b] - columns.firings[a] || a - b);
  const listed = [...everyRank, ...byFirings].slice(0, TABLE_ROWS);
  const number = (value: number) => value.toLocaleString("en");
  return {
    gallery: {
      features: shown,
      ranking: describeRanking(),
      source: `Looked up in ${number(positions)} tokens of ${number(documents)} documents that were not trained on. Density is the share of these tokens on which a latent fires; beginning-of-sequence tokens are not counted. Of the strongest examples, those with the same last eight tokens count as one; the random ones are drawn evenly from all firings.`,
      labelling:
        labels &&
        `Labels are the corpus's concepts where it has them, and classes read off the text. The label of a latent was chosen on ${number(labels.selectionPositions)} tokens, the numbers are from ${number(labels.testPositions)} tokens of other documents: AUC of the activation as a score for the label; precision and recall of “the latent fires”; F1 of “the activation exceeds a threshold” chosen with the label. Labels with fewer than ${MIN_POSITIVES} tokens are not considered.`,
    },
    table: {
      rows: listed.map((latent) => latentRow(features, latent)),
      note: `${listed.length < dSae ? `${number(listed.length)} of ${number(dSae)}` : `All ${number(dSae)}`} latents, the ranked ones first, then by frequency. Click a column's name to sort by it.`,
    },
  };
}

function latentRow({ index, labels }: Features, latent: number): LatentRow {
  const { firings, mean, max, topTokens } = index.columns;
  return {
    latent,
    firings: firings[latent],
    density: firings[latent] / index.positions,
    mean: mean[latent],
    max: max[latent],
    topTokens: topTokens[latent],
    label: labels?.best[latent] ?? undefined,
  };
}
