/**
 * Figures of a run as SVG, drawn by Observable Plot. A figure follows the theme of the page it stands
 * in: text and axes are `currentColor`, series are CSS variables whose fall-back is the light theme;
 * as PNG (resvg, with the fonts that come with Lens) it is that light theme on white.
 * Series colours are Okabe and Ito's, safe for the colour-blind, and lines differ in dash as well.
 */
import { access } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import type * as PlotModule from "@observablehq/plot";
import { messageOf, UserError } from "../error.ts";

export interface Figure {
  /** File name without ending, and anchor in a page. */
  id: string;
  title: string;
  /** What is shown, with units and whatever a reader could stumble over. */
  caption: string;
  svg: string;
}

/** Series colours by role; a page may redefine the variables for a dark background. */
const COLOURS = {
  "--series-1": "#0072b2",
  "--series-2": "#d55e00",
  "--series-3": "#009e73",
  "--series-4": "#cc79a7",
} as const;

/** The colours as SVG and CSS take them. */
export const SERIES = Object.entries(COLOURS).map(([name, colour]) => `var(${name}, ${colour})`);
const DASHES = ["none", "6 3", "2 3", "8 3 2 3"];

/** One line of a run's metrics.jsonl, as far as figures need it. */
export interface CurvePoint {
  step: number;
  tokens?: number;
  loss?: number;
  terms?: Record<string, number>;
  fvu?: number;
  l0?: number;
  deadFraction?: number;
  epochLoss?: { loss: number };
  validation?: { loss?: number; fvu?: number; l0?: number; deadFraction?: number };
}

interface Series {
  name: string;
  points: { x: number; y: number }[];
}

/** What plotting needs of the latents of an SAE; both [dSae]. */
export interface LatentColumns {
  /** Share of the rows in which a latent fires. */
  density: ArrayLike<number>;
  /** Mean value over all rows, those where it is 0 included. */
  meanActivation: ArrayLike<number>;
}

const WIDTH = 360;
const HEIGHT = 226;

/** Loss, FVU, L0 and dead latents over the course of training; a figure whose numbers are missing is left out. */
export async function trainingFigures(points: readonly CurvePoint[]): Promise<Figure[]> {
  const plot = await loadPlot();
  const byTokens = points.every((point) => point.tokens !== undefined);
  const x = (point: CurvePoint) => (byTokens ? point.tokens! : point.step);
  const xLabel = byTokens ? "activations trained on" : "step";
  const series = (name: string, value: (point: CurvePoint) => number | undefined): Series => ({
    name,
    points: points.flatMap((point) => {
      const y = value(point);
      return y !== undefined && Number.isFinite(y) ? [{ x: x(point), y }] : [];
    }),
  });
  const termNames = [...new Set(points.flatMap((point) => Object.keys(point.terms ?? {})))].filter(
    (name) => points.some((point) => (point.terms?.[name] ?? 0) > 0),
  );
  const terms = termNames.map((name) => series(TERM_NAMES[name] ?? name, (p) => p.terms?.[name]));
  const wanted: Omit<LinePlot, "xLabel">[] = [
    {
      id: "loss",
      title: "Loss",
      caption:
        "What is minimised, as trained and on held-out activations. Logarithmic scale; each point is the mean since the one before.",
      yLabel: "loss",
      log: true,
      series: [series("training", (p) => p.loss), series("validation", (p) => p.validation?.loss)],
    },
    {
      id: "loss-terms",
      title: "Terms of the loss",
      caption:
        "Each with its coefficient; together they are the training loss. AuxK trains dead latents. Logarithmic scale.",
      yLabel: "loss",
      log: true,
      series: terms.length > 1 ? terms : [],
    },
    {
      id: "fvu",
      title: "Variance unexplained (FVU)",
      caption:
        "FVU = Σ‖x − x̂‖² / Σ‖x − x̄‖²: 0 is perfect, 1 is no better than the mean. Logarithmic scale.",
      yLabel: "FVU",
      log: true,
      series: [series("training", (p) => p.fvu), series("validation", (p) => p.validation?.fvu)],
    },
    {
      id: "l0",
      title: "Active latents (L0)",
      caption: "Mean number of latents with a value above 0 per activation.",
      yLabel: "L0",
      series: [series("training", (p) => p.l0), series("validation", (p) => p.validation?.l0)],
    },
    {
      id: "dead",
      title: "Dead latents",
      caption: "Share of the latents that have not fired for the last deadAfterTokens activations.",
      yLabel: "share of latents",
      percent: true,
      series: [series("training", (p) => p.deadFraction)],
    },
  ];
  return wanted
    .map((spec) => ({ ...spec, xLabel, series: spec.series.filter((s) => s.points.length > 1) }))
    .filter((spec) => spec.series.length > 0)
    .map((spec) => linePlot(plot, spec));
}

const TERM_NAMES: Record<string, string> = {
  reconstruction: "reconstruction",
  sparsity: "sparsity",
  aux: "AuxK",
};

/** Histograms over the latents: how often and how strongly they fire, each on a linear and a logarithmic axis. */
export async function latentFigures(columns: LatentColumns, rows: number): Promise<Figure[]> {
  const plot = await loadPlot();
  const density = Array.from(columns.density);
  const mean = Array.from(columns.meanActivation);
  const dead = density.filter((d) => d === 0).length;
  const silent = dead > 0 ? ` ${count(dead, "latent")} never fired and cannot be shown here.` : "";
  const over = `over ${rows.toLocaleString("en")} activations`;
  return [
    histogram(plot, {
      id: "frequency",
      title: "Activation frequency",
      caption: `Share of activations on which each latent fires, ${over}.`,
      xLabel: "share of activations",
      percent: true,
      values: density,
    }),
    histogram(plot, {
      id: "frequency-log",
      title: "Activation frequency (log)",
      caption: `The same on a logarithmic axis.${silent}`,
      xLabel: "share of activations",
      log: true,
      values: density,
    }),
    histogram(plot, {
      id: "mean-activation",
      title: "Mean activation",
      caption: `Mean value of each latent ${over}, zeros included.`,
      xLabel: "mean activation",
      values: mean,
    }),
    histogram(plot, {
      id: "mean-activation-log",
      title: "Mean activation (log)",
      caption: `The same on a logarithmic axis.${silent}`,
      xLabel: "mean activation",
      log: true,
      values: mean,
    }),
  ];
}

interface LinePlot {
  id: string;
  title: string;
  caption: string;
  xLabel: string;
  yLabel: string;
  log?: boolean;
  percent?: boolean;
  series: Series[];
}

export function linePlot(plot: Plot, spec: LinePlot): Figure {
  const { series, log = false, percent = false } = spec;
  const all = series.flatMap((s) => s.points);
  const values = all.map((p) => p.y);
  const positive = values.filter((y) => y > 0);
  const useLog = log && positive.length > 1 && Math.min(...positive) < Math.max(...positive);
  const highest = Math.max(...values);
  const yDomain = useLog
    ? logDomain(Math.min(...positive), highest)
    : [0, percent ? Math.max(highest * 1.1, 0.01) : Math.max(highest * 1.08, 1e-9)];
  const dots = series.filter((s) => s.points.length <= 40);
  return figure(plot, spec, {
    x: { label: spec.xLabel, ticks: 4, tickFormat: siNumber },
    y: {
      label: spec.yLabel,
      type: useLog ? "log" : "linear",
      domain: yDomain,
      grid: true,
      ticks: useLog ? logTicks(yDomain) : 5,
      tickFormat: percent ? percentage : siNumber,
    },
    marks: [
      ...series.map((s, i) =>
        plot.api.line(
          s.points.filter((p) => !useLog || p.y > 0),
          {
            x: "x",
            y: "y",
            stroke: SERIES[i % SERIES.length],
            strokeWidth: 1.75,
            strokeDasharray: DASHES[i % DASHES.length],
          },
        ),
      ),
      ...dots.map((s) =>
        plot.api.dot(
          s.points.filter((p) => !useLog || p.y > 0),
          {
            x: "x",
            y: "y",
            r: 2,
            fill: SERIES[series.indexOf(s) % SERIES.length],
          },
        ),
      ),
    ],
    legend: series.length > 1 ? series.map((s) => s.name) : [],
  });
}

interface HistogramPlot {
  id: string;
  title: string;
  caption: string;
  xLabel: string;
  values: number[];
  log?: boolean;
  percent?: boolean;
}

const BINS = 40;

function histogram(plot: Plot, spec: HistogramPlot): Figure {
  const { log = false, percent = false } = spec;
  const values = log ? spec.values.filter((v) => v > 0) : spec.values;
  const low = log ? Math.min(...values, 1) : 0;
  const high = Math.max(...values, log ? low : 0) || 1;
  const decades: [number, number] = [
    Math.floor(Math.log10(low)),
    Math.ceil(Math.log10(high) + 1e-9),
  ];
  const [from, to] = log ? [decades[0], Math.max(decades[1], decades[0] + 1)] : [0, high * 1.0001];
  const counts = new Array<number>(BINS).fill(0);
  for (const value of values) {
    const place = ((log ? Math.log10(value) : value) - from) / (to - from);
    counts[Math.min(Math.floor(place * BINS), BINS - 1)]++;
  }
  const edge = (i: number) => {
    const at = from + ((to - from) * i) / BINS;
    return log ? 10 ** at : at;
  };
  const bars = counts.flatMap((n, i) => (n > 0 ? [{ x1: edge(i), x2: edge(i + 1), y: n }] : []));
  const domain = [edge(0), edge(BINS)];
  return figure(plot, spec, {
    x: {
      label: spec.xLabel,
      type: log ? "log" : "linear",
      domain,
      ticks: log ? logTicks(domain) : 5,
      tickFormat: percent ? percentage : log ? power : siNumber,
    },
    y: { label: "latents", grid: true, ticks: 4, tickFormat: siNumber, zero: true },
    marks: [
      plot.api.rectY(bars, { x1: "x1", x2: "x2", y: "y", fill: SERIES[0], inset: 0.5 }),
      plot.api.ruleY([0], { stroke: "currentColor", strokeOpacity: 0.5 }),
    ],
    legend: [],
  });
}

/** The range with some air at both ends. */
function logDomain(low: number, high: number): [number, number] {
  const air = 1.15;
  return [low / air, high * air];
}

/** 1, 2, 5 within each decade, thinned to decades when the range is wide. */
function logTicks([low, high]: number[]): number[] {
  const decades = Math.log10(high / low);
  const steps = decades > 3 ? [1] : decades > 1.3 ? [1, 3] : [1, 1.5, 2, 3, 4, 5, 6, 8];
  const ticks: number[] = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
    for (const step of steps) {
      const tick = step * 10 ** e;
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  const every = Math.ceil(ticks.length / 6);
  return ticks.filter((_, i) => i % every === 0);
}

export function figure(
  plot: Plot,
  { id, title, caption }: { id: string; title: string; caption: string },
  options: PlotModule.PlotOptions & { legend: string[] },
): Figure {
  const { legend, ...rest } = options;
  const element = plot.api.plot({
    document: plot.document as NonNullable<PlotModule.PlotOptions["document"]>,
    width: WIDTH,
    height: HEIGHT,
    marginLeft: 52,
    marginRight: 14,
    marginTop: 30,
    marginBottom: 40,
    style: { fontSize: "12px", color: "currentColor", background: "none" },
    ...rest,
  }) as unknown as { outerHTML: string };
  // Right-aligned on the line of the y axis' name; widths are estimated, text cannot be measured here.
  const widths = legend.map((name) => 40 + name.length * 6.6);
  let x = WIDTH - 14 - widths.reduce((sum, width) => sum + width, -14);
  const keys = legend.map((name, i) => {
    const key =
      `<g transform="translate(${round(x)},10)"><line x2="20" stroke="${SERIES[i]}" stroke-width="2.5" stroke-dasharray="${DASHES[i]}"/>` +
      `<text x="25" dy="0.35em" fill="currentColor">${escaped(name)}</text></g>`;
    x += widths[i];
    return key;
  });
  const svg = element.outerHTML
    .replace(/<style>[\s\S]*?<\/style>/, "")
    .replace(
      /^<svg /,
      `<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="${escaped(title)}" `,
    )
    .replace(/<\/svg>\s*$/, `<g text-anchor="start">${keys.join("")}</g></svg>`);
  return { id, title, caption, svg };
}

/** Text as it stands in an attribute or between tags. */
export function escaped(text: string): string {
  return text.replace(/[&<"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", '"': "&quot;" })[c]!);
}

function count(n: number, noun: string): string {
  return `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
}

/** 1200 as 1.2k, 0.05 as 0.05, 2e-5 as 2e-5. */
export function siNumber(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e6) return `${trimmed(value / 1e6)}M`;
  if (size >= 1e3) return `${trimmed(value / 1e3)}k`;
  return trimmed(value);
}

function trimmed(value: number): string {
  return value !== 0 && Math.abs(value) < 1e-3
    ? value.toExponential(0).replace("e-", "e−")
    : String(Number(value.toPrecision(3)));
}

export function percentage(value: number): string {
  return `${Number((value * 100).toPrecision(3))}%`;
}

const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** Powers of ten as 10⁻³; what is not one, as a number. */
function power(value: number): string {
  const exponent = Math.log10(value);
  if (Math.abs(exponent - Math.round(exponent)) > 1e-6) return siNumber(value);
  const digits = String(Math.abs(Math.round(exponent)));
  const sign = exponent < -0.5 ? "⁻" : "";
  return `10${sign}${Array.from(digits, (d) => SUPERSCRIPTS[Number(d)]).join("")}`;
}

export interface Plot extends Page {
  api: typeof PlotModule;
}

interface Page {
  document: unknown;
}

/** Loaded when first needed: together they take half a second to load. */
export async function loadPlot(): Promise<Plot> {
  const [api, linkedom] = await Promise.all([import("@observablehq/plot"), import("linkedom")]);
  // Its types need the DOM's, which this project does without.
  const { parseHTML } = linkedom as unknown as { parseHTML: (html: string) => Page };
  return { api, document: parseHTML("<!doctype html><html><body></body></html>").document };
}

/**
 * A figure as PNG in the light theme on white; `scale` 2 gives twice the pixels of the SVG.
 * @throws UserError when the fonts that come with Lens are missing.
 */
export async function renderPng(svg: string, scale = 2): Promise<Uint8Array> {
  const { Resvg } = await import("@resvg/resvg-js");
  const flat = svg
    .replace(/var\(--[\w-]+,\s*([^)]+)\)/g, "$1")
    .replaceAll("currentColor", "#1b1f24");
  const image = new Resvg(flat, {
    background: "white",
    fitTo: { mode: "zoom", value: scale },
    font: { ...(await fonts()), loadSystemFonts: false, defaultFontFamily: "DejaVu Sans" },
  });
  return image.render().asPng();
}

async function fonts(): Promise<{ fontFiles: string[] }> {
  try {
    const root = dirname(createRequire(import.meta.url).resolve("dejavu-fonts-ttf/package.json"));
    const fontFiles = ["DejaVuSans.ttf", "DejaVuSans-Bold.ttf"].map((name) =>
      join(root, "ttf", name),
    );
    await Promise.all(fontFiles.map((path) => access(path)));
    return { fontFiles };
  } catch (error) {
    throw new UserError(
      `the package dejavu-fonts-ttf, whose fonts PNG plots are drawn with, is not installed (${messageOf(error)}); run npm install, or use the SVG plots`,
    );
  }
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
