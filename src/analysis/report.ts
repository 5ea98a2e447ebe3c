/**
 * One self-contained page per run: opens from `file://`, loads nothing, runs in both themes, prints,
 * and can be read without its script (which only switches the theme and sorts the table). Every
 * piece of data passes through `escape` before it becomes HTML.
 */
import { rename, writeFile } from "node:fs/promises";
import { ALIGNED_AUC, isAligned, isSpecific, type BestLabel } from "./concepts.ts";
import type { Example, Feature } from "./features.ts";
import { SERIES, type Figure } from "./plots.ts";
import { SCRIPT, STYLE } from "./report-style.ts";

/** A number at the top of the page. */
export interface Tile {
  label: string;
  value: string;
  /** How it is computed, in a sentence. */
  meaning: string;
  /** Smaller, under the value. */
  detail?: string;
}

/** A feature of the gallery. */
export interface GalleryFeature {
  rank: number;
  feature: Feature;
  /** Absent when no labels were scored; undefined in it when none fits. */
  label?: BestLabel;
}

/** A row of the table of all latents. */
export interface LatentRow {
  latent: number;
  firings: number;
  density: number;
  mean: number;
  max: number;
  topTokens: string[];
  label?: BestLabel;
}

export interface Gallery {
  features: GalleryFeature[];
  /** How the order came about, in plain words. */
  ranking: string;
  /** What text, how much of it, and what was left out. */
  source: string;
  /** How labels were found and measured; absent when there are none. */
  labelling?: string;
}

/** A section of a page: text, then whichever of the others it has. */
export interface Section {
  title: string;
  text: string;
  rows?: [name: string, value: string][];
  figures?: Figure[];
  /** Sorted by a click on a column's name. */
  table?: { head: string[]; rows: (string | number)[][] };
}

export interface Report {
  title: string;
  /** What was trained on what, in a sentence or two. */
  summary: string;
  tiles: Tile[];
  training: Figure[];
  latents: Figure[];
  gallery?: Gallery;
  /** All latents, or as many as are worth listing. */
  table?: { rows: LatentRow[]; note: string };
  /** Further sections, such as recovery of a known dictionary. */
  sections?: Section[];
  /** Where it all comes from: hashes, versions, seeds. */
  provenance: [name: string, value: string][];
}

/** Writes the page to `path`, whole or not at all. */
export async function writeReport(path: string, report: Report): Promise<void> {
  const temporary = `${path}.partial`;
  await writeFile(temporary, reportHtml(report));
  await rename(temporary, path);
}

/** The page as a string. */
export function reportHtml(report: Report): string {
  const { gallery, table } = report;
  const sections = [
    section("training", "Training", "", figures(report.training)),
    ...(report.sections ?? []).map(({ title, text, rows, figures: drawn, table: numbers }, i) =>
      section(
        `section-${i}`,
        title,
        text,
        definitions(rows ?? []) + figures(drawn ?? []) + (numbers ? plainTable(numbers) : ""),
      ),
    ),
    section("latents", "Latents", "", figures(report.latents)),
    gallery ? gallerySection(gallery) : "",
    table ? tableSection(table) : "",
    section("provenance", "Where this comes from", "", definitions(report.provenance)),
  ];
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<title>${escape(report.title)} · Lens</title>
<style>${STYLE}</style>
</head>
<body>
<header>
<div class="bar"><span class="brand">Lens</span><nav>${navigation(report)}</nav><button id="theme" type="button" title="Light or dark">◐</button></div>
<h1>${escape(report.title)}</h1>
<p class="summary">${escape(report.summary)}</p>
<div class="tiles">${report.tiles.map(tile).join("")}</div>
</header>
<main>
${sections.join("\n")}
</main>
<script>${SCRIPT}</script>
</body>
</html>
`;
}

function navigation({ training, sections = [], latents, gallery, table }: Report): string {
  const links: [string, string, boolean][] = [
    ["training", "Training", training.length > 0],
    ...sections.map(({ title }, i): [string, string, boolean] => [`section-${i}`, title, true]),
    ["latents", "Latents", latents.length > 0],
    ["features", "Features", gallery !== undefined],
    ["table", "All latents", table !== undefined],
    ["provenance", "Provenance", true],
  ];
  return links
    .filter(([, , there]) => there)
    .map(([id, name]) => `<a href="#${id}">${escape(name)}</a>`)
    .join("");
}

function section(id: string, title: string, text: string, body: string): string {
  if (body === "") return "";
  const lead = text ? `<p class="lead">${escape(text)}</p>` : "";
  return `<section id="${id}"><h2>${escape(title)}</h2>${lead}${body}</section>`;
}

function tile({ label, value, meaning, detail }: Tile): string {
  return (
    `<div class="tile" title="${escape(meaning)}"><span class="label">${escape(label)}</span>` +
    `<span class="value">${escape(value)}</span>` +
    `<span class="meaning">${escape(detail ?? meaning)}</span></div>`
  );
}

function figures(all: readonly Figure[]): string {
  if (all.length === 0) return "";
  const items = all.map(
    ({ title, caption, svg }) =>
      `<figure${widthOf(svg) > COLUMN ? ' class="wide"' : ""}><h3>${escape(title)}</h3>${svg}<figcaption>${escape(caption)}</figcaption></figure>`,
  );
  return `<div class="figures">${items.join("")}</div>`;
}

/** Figures drawn wider than this have the whole page's width. */
const COLUMN = 440;

function widthOf(svg: string): number {
  return Number(/viewBox="[-\d.]+ [-\d.]+ ([\d.]+)/.exec(svg)?.[1] ?? 0);
}

function definitions(rows: readonly [string, string][]): string {
  if (rows.length === 0) return "";
  const items = rows.map(([name, value]) => `<dt>${escape(name)}</dt><dd>${escape(value)}</dd>`);
  return `<dl>${items.join("")}</dl>`;
}

/** Numbers to the right, text as it is. */
function plainTable({ head, rows }: NonNullable<Section["table"]>): string {
  const cell = (value: string | number) =>
    typeof value === "number"
      ? `<td class="n" data-v="${value}">${number(value)}</td>`
      : `<td data-v="${escape(value)}">${escape(value)}</td>`;
  return (
    `<div class="scroll"><table><thead><tr>` +
    head.map((name) => `<th scope="col">${escape(name)}</th>`).join("") +
    `</tr></thead><tbody>` +
    rows.map((row) => `<tr>${row.map(cell).join("")}</tr>`).join("\n") +
    `</tbody></table></div>`
  );
}

function gallerySection({ features, ranking, source, labelling }: Gallery): string {
  const aligned = features.filter(({ label }) => isAligned(label)).length;
  const specific = features.filter(({ label }) => isSpecific(label)).length;
  const count = labelling
    ? `<p class="lead"><strong>${aligned} of these ${features.length}</strong> line up with a labelled concept or a token class (AUC ≥ ${ALIGNED_AUC} on held-out text), and ${specific} of them fire for little else (F1 ≥ 50 %).</p>`
    : "";
  const method = [labelling, source].map((text) => (text ? `<p>${escape(text)}</p>` : "")).join("");
  return (
    `<section id="features"><h2>Most interesting features</h2>` +
    `<p class="lead">${escape(ranking)}</p>${count}` +
    `<details class="lead"><summary>How this was measured</summary>${method}</details>` +
    `<div class="gallery">${features.map(card).join("\n")}</div></section>`
  );
}

const SHOWN_TOP = 6;
const SHOWN_RANDOM = 3;
const SHOWN_NEAR = 2;

function card({ rank, feature, label }: GalleryFeature): string {
  const { latent, density, firings, documents, mean, max, histogram, topTokens } = feature;
  const title = label
    ? `<h3 title="best label">${escape(label.name)}</h3>`
    : `<h3 class="none">no label fits</h3>`;
  const tokens = topTokens
    .slice(0, 6)
    .map(
      ({ text, share: part }) =>
        `<span class="token" title="${percent(part)} of the activation">${spaced(text)}</span>`,
    )
    .join("");
  return (
    `<article id="latent-${latent}"><div class="head"><span class="rank">${rank}</span>${title}` +
    `<a class="id" href="#latent-${latent}">latent ${latent}</a></div>` +
    (label ? labelLine(label) : "") +
    `<div class="facts">` +
    fact(
      "density",
      percent(density),
      `${firings.toLocaleString("en")} positions in ${documents.toLocaleString("en")} documents; beginning-of-sequence tokens are not counted`,
    ) +
    fact("mean", number(mean), "mean activation where it fires") +
    fact("max", number(max), "largest activation") +
    `<span class="fact histogram" title="Activations where it fires, logarithmic axis, four bins per doubling">${miniHistogram(histogram.counts, "histogram of activations")}</span>` +
    `</div><div class="tokens"><span class="label">most activation on</span>${tokens}</div>` +
    examples("Strongest", feature.top, SHOWN_TOP, max) +
    examples("Random", feature.random, SHOWN_RANDOM, max) +
    fifths(feature) +
    examples("Near misses: silent on its own tokens", feature.nearMiss, SHOWN_NEAR, max) +
    `</article>`
  );
}

/** A small histogram of one latent's activations on a logarithmic axis, drawn by hand: a page holds many of them. */
function miniHistogram(counts: readonly number[], label: string): string {
  const width = Math.max(counts.length, 12);
  const highest = Math.max(...counts, 1);
  const bars = counts
    .map((n, i) => {
      const height = n > 0 ? Math.ceil((n / highest) * 24) : 0;
      return height > 0 ? `M${i * 4},24v-${height}h3v${height}z` : "";
    })
    .join("");
  return (
    `<svg class="mini" role="img" aria-label="${label}" viewBox="0 0 ${width * 4} 25" width="${width * 4}" height="25" preserveAspectRatio="none">` +
    `<path d="${bars}" fill="${SERIES[0]}"/><path d="M0,24.5h${width * 4}" stroke="currentColor" stroke-opacity=".35"/></svg>`
  );
}

function labelLine(label: BestLabel): string {
  const { auc, precision, recall, positives, atThreshold } = label;
  const good = isAligned(label) ? "good" : "weak";
  return (
    `<div class="scores" title="${positives.toLocaleString("en")} test positions carry the label; at the best threshold: precision ${percent(atThreshold.precision)}, recall ${percent(atThreshold.recall)}, F1 ${percent(atThreshold.f1)}">` +
    `<span class="kind">${escape(label.kind)}</span>` +
    `<span class="${good}">AUC ${auc.toFixed(3)}</span>` +
    `<span>precision ${percent(precision)}</span><span>recall ${percent(recall)}</span>` +
    `<span>F1 ${percent(atThreshold.f1)}</span></div>`
  );
}

function fact(name: string, value: string, meaning: string): string {
  return `<span class="fact" title="${escape(meaning)}"><span class="label">${name}</span> ${value}</span>`;
}

function examples(title: string, all: readonly Example[], shown: number, max: number): string {
  if (all.length === 0) return "";
  const lines = all.map((example) => `<li>${exampleHtml(example, max)}</li>`);
  const rest = lines.slice(shown);
  const more =
    rest.length > 0
      ? `<details><summary>${rest.length} more</summary><ol>${rest.join("")}</ol></details>`
      : "";
  return `<h4>${title}</h4><ol>${lines.slice(0, shown).join("")}</ol>${more}`;
}

/** The fifths of a feature's firings by rank, with examples, folded. */
function fifths({ quantiles, max }: Feature): string {
  if (quantiles.length === 0) return "";
  const groups = quantiles.map(({ from, to, low, high, examples: all }) => {
    const title = `${Math.round(from * 100)}–${Math.round(to * 100)} %: ${number(low)} – ${number(high)}`;
    return examples(title, all, all.length, max);
  });
  return `<details><summary>Fifths of its firings by rank</summary>${groups.join("")}</details>`;
}

/** The example's exact characters; what the latent fires on is marked as strongly as it fires. */
export function exampleHtml(example: Example, max: number): string {
  const { pieces, values, peak, value, document, cutBefore, cutAfter } = example;
  const text = pieces
    .map((piece, i) => {
      if (!(values[i] > 0)) return i === peak ? `<u>${visible(piece)}</u>` : visible(piece);
      const strength = Math.min(values[i] / max, 1).toFixed(2);
      const peaked = i === peak ? ' class="peak"' : "";
      return `<mark${peaked} style="--a:${strength}" title="${number(values[i])}">${visible(piece)}</mark>`;
    })
    .join("");
  const gap = '<span class="sign">…</span>';
  return (
    `<span class="value" title="${escape(document)}">${number(value)}</span>` +
    `<span class="text">${cutBefore ? gap : ""}${text}${cutAfter ? gap : ""}</span>`
  );
}

function tableSection({ rows, note }: { rows: LatentRow[]; note: string }): string {
  const labelled = rows.some(({ label }) => label);
  const head = ["latent", "density", "mean", "max", "most activation on"];
  if (labelled) head.push("label", "kind", "AUC", "precision", "recall");
  const cell = (sortBy: number | string, html: string, numeric = true) =>
    `<td data-v="${typeof sortBy === "number" ? sortBy : escape(sortBy)}"${numeric ? ' class="n"' : ""}>${html}</td>`;
  const body = rows.map(({ latent, density, mean, max, topTokens, label }) => {
    const tokens = topTokens.map((t) => `<span class="token">${spaced(t)}</span>`).join("");
    const cells = [
      cell(latent, String(latent)),
      cell(density, percent(density)),
      cell(mean, number(mean)),
      cell(max, number(max)),
      cell(topTokens[0] ?? "", tokens, false),
    ];
    if (labelled && label)
      cells.push(
        cell(label.name, escape(label.name), false),
        cell(label.kind, escape(label.kind), false),
        cell(label.auc, label.auc.toFixed(3)),
        cell(label.precision, percent(label.precision)),
        cell(label.recall, percent(label.recall)),
      );
    else if (labelled) cells.push('<td colspan="5" data-v="">–</td>');
    return `<tr>${cells.join("")}</tr>`;
  });
  return (
    `<section id="table"><h2>All latents</h2><p class="lead">${escape(note)}</p>` +
    `<details><summary>Show the table</summary><div class="scroll"><table><thead><tr>` +
    head.map((name) => `<th scope="col">${name}</th>`).join("") +
    `</tr></thead><tbody>${body.join("\n")}</tbody></table></div></details></section>`
  );
}

/** Text as HTML with its newlines and tabs to be seen. */
function visible(text: string): string {
  return escape(text)
    .replaceAll("\n", '<span class="sign">⏎</span>')
    .replaceAll("\t", '<span class="sign">⇥</span>');
}

/** A token by itself: its space is part of it and must be seen. */
function spaced(text: string): string {
  return visible(text).replace(/^ /, '<span class="sign">␣</span>');
}

/** Makes any string safe as HTML text and inside quoted attributes. */
export function escape(text: string): string {
  return text
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;")
    .replaceAll("'", "&#39;");
}

function number(value: number): string {
  return value === 0 ? "0" : String(Number(value.toPrecision(3)));
}

/** Shares as percentages with three significant digits. */
function percent(share: number): string {
  return `${Number((share * 100).toPrecision(3))} %`;
}
