import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseHTML } from "linkedom";
import { afterAll, describe, expect, it } from "vitest";
import type { Feature } from "./features.ts";
import { latentFigures, renderPng, trainingFigures } from "./plots.ts";
import { exampleHtml, reportHtml, writeReport, type Report } from "./report.ts";

const folder = await mkdtemp(join(tmpdir(), "lens-report-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

interface Element {
  textContent: string;
  getAttribute(name: string): string | null;
  querySelector(selector: string): Element | null;
  querySelectorAll(selector: string): Iterable<Element>;
}

function parse(html: string): Element {
  return (parseHTML(html) as unknown as { document: Element }).document;
}

const EVIL = `<script>alert("1")</script>&'`;

const feature: Feature = {
  latent: 7,
  firings: 20,
  density: 0.01,
  documents: 12,
  mean: 1.5,
  max: 4,
  tokenSelectivity: 0.9,
  tokenTypes: 1,
  topTokens: [{ token: 3, text: EVIL, firings: 20, occurrences: 40, rate: 0.5, share: 1 }],
  histogram: { firstBin: 48, counts: [1, 3, 9, 7] },
  top: [
    {
      value: 4,
      document: `doc ${EVIL}`,
      pieces: ["He said\n", EVIL, " twice"],
      values: [0, 4, 1],
      peak: 1,
      cutBefore: true,
      cutAfter: false,
    },
  ],
  random: [],
  byPlace: [{ from: 0, to: 0, positions: 100, firings: 20 }],
  quantiles: [],
  rankSample: 20,
  nearMiss: [],
  silent: [],
};

const label = {
  kind: "concept" as const,
  name: EVIL,
  positives: 30,
  auc: 0.97,
  precision: 0.8,
  recall: 0.9,
  threshold: 1,
  atThreshold: { precision: 0.9, recall: 0.8, f1: 0.85 },
  selection: { auc: 0.98, f1: 0.9 },
};

const report: Report = {
  title: EVIL,
  summary: EVIL,
  tiles: [{ label: EVIL, value: EVIL, meaning: EVIL }],
  training: [],
  latents: [],
  gallery: {
    features: [{ rank: 1, feature, label }],
    ranking: EVIL,
    source: EVIL,
    labelling: EVIL,
  },
  table: {
    rows: [
      { ...feature, topTokens: [EVIL], label },
      { ...feature, latent: 8, topTokens: [] },
    ],
    note: EVIL,
  },
  sections: [
    { title: EVIL, text: EVIL, rows: [[EVIL, EVIL]] },
    { title: "Numbers", text: "", table: { head: [EVIL, "n"], rows: [[EVIL, 0.123456]] } },
  ],
  provenance: [[EVIL, EVIL]],
};

describe("report.html", () => {
  const html = reportHtml(report);
  const document = parse(html);

  it("shows data that looks like markup as text, wherever it stands", () => {
    expect(html).not.toContain("<script>alert");
    expect([...document.querySelectorAll("script")]).toHaveLength(1); // its own
    expect(document.querySelector("h1")!.textContent).toBe(EVIL);
    expect(document.querySelector("mark.peak")!.textContent).toBe(EVIL);
    expect(document.querySelector(".tile")!.getAttribute("title")).toBe(EVIL);
    expect(document.querySelector(".token")!.textContent).toBe(EVIL);
    expect(document.querySelector("article h3")!.textContent).toBe(EVIL);
  });

  it("has a link to every section, and tables whose numbers stand to the right", () => {
    const links = [...document.querySelectorAll("nav a")].map((a) => a.textContent);
    expect(links).toEqual([EVIL, "Numbers", "Features", "All latents", "Provenance"]);
    const cells = [...document.querySelector("#section-1")!.querySelectorAll("td")];
    expect(cells.map((td) => td.textContent)).toEqual([EVIL, "0.123"]);
    expect(cells[1].getAttribute("class")).toBe("n");
  });

  it("loads nothing from anywhere", () => {
    expect(html).not.toMatch(/<link|@import|\bsrc=|url\(|https?:(?!\/\/www\.w3\.org\/)/);
    expect(html).toContain("default-src 'none'");
  });

  it("keeps an example's characters and shows its newlines", () => {
    const part = parse(exampleHtml(feature.top[0], feature.max));
    const text = part.querySelector(".text")!.textContent;
    expect(text).toBe(`…He said⏎${EVIL} twice`);
    const marks = [...part.querySelectorAll("mark")].map((m) => m.getAttribute("style"));
    expect(marks).toEqual(["--a:1.00", "--a:0.25"]);
  });

  it("counts the features that line up with a label", () => {
    expect(document.querySelector("#features strong")!.textContent).toBe("1 of these 1");
  });

  it("is written whole", async () => {
    await writeReport(join(folder, "report.html"), report);
    expect(await readdir(folder)).toEqual(["report.html"]);
    expect(await readFile(join(folder, "report.html"), "utf8")).toBe(html);
  });
});

describe("figures", () => {
  const points = Array.from({ length: 30 }, (_, i) => ({
    step: 10 * i,
    tokens: 1000 * i,
    loss: 5 / (i + 1),
    terms: { reconstruction: 4 / (i + 1), sparsity: 0, aux: 1 / (i + 1) },
    fvu: 1 / (i + 1),
    l0: 30,
    deadFraction: 0,
    ...(i % 10 === 9 ? { validation: { loss: 6 / (i + 1), fvu: 1.1 / (i + 1), l0: 30 } } : {}),
  }));

  it("are drawn for what was logged, and left out for what was not", async () => {
    const ids = (await trainingFigures(points)).map(({ id }) => id);
    expect(ids).toEqual(["loss", "loss-terms", "fvu", "l0", "dead"]);
    const bare = await trainingFigures(points.map(({ step, loss }) => ({ step, loss })));
    expect(bare.map(({ id }) => id)).toEqual(["loss"]);
    expect(bare[0].svg).toContain("step");
    expect(await trainingFigures([])).toEqual([]);
  });

  it("follow the page's theme as SVG and are pixels as PNG", async () => {
    const [figure] = await trainingFigures(points);
    expect(figure.svg).toContain("currentColor");
    expect(figure.svg).toContain("var(--series-1, #0072b2)");
    expect(figure.svg).not.toContain("NaN");
    const png = await renderPng(figure.svg);
    expect([...png.subarray(0, 4)]).toEqual([0x89, 0x50, 0x4e, 0x47]);
    const width = new DataView(png.buffer, png.byteOffset).getUint32(16);
    expect(width).toBe(720);
  });

  it("show every latent in the linear histograms and all but the silent in the others", async () => {
    const density = [0, 0.001, 0.01, 0.01, 0.5];
    const figures = await latentFigures({ density, meanActivation: density }, 1000);
    expect(figures.map(({ id }) => id)).toEqual([
      "frequency",
      "frequency-log",
      "mean-activation",
      "mean-activation-log",
    ]);
    expect(figures[1].caption).toContain("1 latent never fired");
    for (const { svg } of figures) expect(svg).not.toContain("NaN");
  });

  it("survive an SAE of which no latent fires", async () => {
    const figures = await latentFigures({ density: [0, 0], meanActivation: [0, 0] }, 10);
    for (const { svg } of figures) expect(svg).not.toMatch(/NaN|Infinity/);
  });
});
