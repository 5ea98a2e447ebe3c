/** What occurs together, what excludes each other and what links two SAEs as a graph, laid out by forces (d3-force). */
import {
  forceCollide,
  forceLink,
  forceManyBody,
  forceSimulation,
  forceX,
  forceY,
  type SimulationNodeDatum,
} from "d3-force";

import type { Pair, PairKind } from "./composition.ts";
import { figure, loadPlot, SERIES, type Figure } from "./plots.ts";

/** A latent of the first (0) or second (1) SAE. */
export interface GraphNode {
  sae: 0 | 1;
  latent: number;
  /** Share of the positions at which it fires. */
  density: number;
  /** In a few words; empty where nothing is known. */
  meaning: string;
}

export type EdgeKind = PairKind | "link";

/** A pair between two of the nodes, given by their places. */
export interface GraphEdge<P extends Pair = Pair> {
  kind: EdgeKind;
  from: number;
  to: number;
  pair: P;
}

export interface Graph {
  nodes: GraphNode[];
  edges: GraphEdge[];
}

export interface GraphFacts {
  density(sae: 0 | 1, latent: number): number;
  meaning(sae: 0 | 1, latent: number): string;
}

/** Edges between the latents of one SAE, or with `link` from those of the first to those of the second. */
export function graphOf(
  lists: readonly { kind: EdgeKind; pairs: readonly Pair[] }[],
  facts: GraphFacts,
): Graph {
  const nodes: GraphNode[] = [];
  const places = new Map<string, number>();
  const place = (sae: 0 | 1, latent: number) => {
    const key = `${sae} ${latent}`;
    if (!places.has(key)) {
      places.set(key, nodes.length);
      const [density, meaning] = [facts.density(sae, latent), facts.meaning(sae, latent)];
      nodes.push({ sae, latent, density, meaning });
    }
    return places.get(key)!;
  };
  const edges = lists.flatMap(({ kind, pairs }) =>
    pairs.map((pair): GraphEdge => ({
      ...{ kind, pair, from: place(0, pair.latents[0]) },
      to: place(kind === "link" ? 1 : 0, pair.latents[1]),
    })),
  );
  return { nodes, edges };
}

/** Edges of a picture that a reader still takes in, by kind, and of one latent. */
const MOST_EDGES: Record<EdgeKind, number> = { together: 20, apart: 9, link: 20 };
const MOST_OF_ONE = 3;
const SIZE = { width: 900, height: 640 };
const MARGIN = { side: 96, top: 60, bottom: 34 };
/** From the margin to the latents of one of two SAEs, which have their labels on the outside. */
const COLUMN = 110;
const LABEL_CHARACTERS = 24;

/** The first edges of each kind, of each latent a few; those that exclude each other from among nodes that are there first. */
function shownOf({ nodes, edges }: Graph): GraphEdge[] {
  const degree = new Int32Array(nodes.length);
  const shown: GraphEdge[] = [];
  for (const kind of ["together", "link", "apart"] as const) {
    let left = MOST_EDGES[kind];
    const own = edges.filter((edge) => edge.kind === kind);
    const isThere = ({ from, to }: GraphEdge) => degree[from] > 0 || degree[to] > 0;
    const order = kind === "apart" ? [...own.filter(isThere), ...own.filter((e) => !isThere(e))] : own; // prettier-ignore
    for (const edge of order) {
      if (left === 0) break;
      if (degree[edge.from] >= MOST_OF_ONE || degree[edge.to] >= MOST_OF_ONE) continue;
      degree[edge.from]++;
      degree[edge.to]++;
      shown.push(edge);
      left--;
    }
  }
  return shown;
}

/** Labels are wide: places are worked out in a plane in which x is so much shorter. */
const WIDE = 1.7;

interface Placed extends SimulationNodeDatum, GraphNode {
  x: number;
  y: number;
}

/** Latents of the second SAE stand on the right. The layout is the same every time. */
function layout({ nodes }: Graph, edges: readonly GraphEdge[]): Map<number, Placed> {
  const places = [...new Set(edges.flatMap(({ from, to }) => [from, to]))].sort((a, b) => a - b);
  const isTwo = edges.some(({ kind }) => kind === "link");
  const { height } = SIZE;
  const width = SIZE.width / WIDE;
  const [left, right] = [MARGIN.side / WIDE, width - MARGIN.side / WIDE];
  const [top, bottom] = [isTwo ? MARGIN.top + 26 : MARGIN.top, height - MARGIN.bottom];
  const placed = places.map((n, i): Placed => ({
    ...nodes[n],
    x: isTwo
      ? nodes[n].sae === 0
        ? left + COLUMN / WIDE
        : right - COLUMN / WIDE
      : width / 2 + 40 * Math.cos(i),
    y: isTwo ? top + ((bottom - top) * i) / places.length : height / 2 + 40 * Math.sin(i),
  }));
  const at = new Map(places.map((n, i) => [n, placed[i]]));
  const links = edges.map(({ from, to }) => ({ source: at.get(from)!, target: at.get(to)! }));
  const simulation = forceSimulation<Placed>(placed)
    .force(
      "link",
      forceLink(links)
        .distance(isTwo ? 260 : 72)
        .strength(isTwo ? 0.15 : 0.6),
    ) // prettier-ignore
    .force("apart", forceManyBody().strength(isTwo ? -60 : -95))
    .force("room", forceCollide(isTwo ? 13 : 37).iterations(3))
    .force("x", forceX<Placed>((node) => (isTwo ? node.x : width / 2)).strength(isTwo ? 1 : 0.1))
    .force("y", forceY(height / 2).strength(isTwo ? 0.03 : 0.11))
    .stop();
  for (let tick = 0; tick < 400; tick++) {
    simulation.tick();
    for (const node of placed) {
      node.x = Math.min(right, Math.max(left, node.x));
      node.y = Math.min(bottom, Math.max(top, node.y));
    }
  }
  for (const node of placed) node.x *= WIDE;
  return at;
}

function clipped(text: string): string {
  const shown = text.replaceAll("\n", "⏎");
  return shown.length > LABEL_CHARACTERS ? `${shown.slice(0, LABEL_CHARACTERS - 1)}…` : shown;
}

/** @param names of the SAEs, over the two columns of linked latents. */
export async function graphFigure(
  graph: Graph,
  { id, title, names }: { id: string; title: string; names?: readonly [string, string] },
): Promise<Figure> {
  const plot = await loadPlot();
  const edges = shownOf(graph);
  const at = layout(graph, edges);
  const nodes = [...at.values()];
  const lines = edges.map(({ kind, from, to, pair }) => {
    const [a, b] = [at.get(from)!, at.get(to)!];
    return {
      ...{ kind, x1: a.x, y1: a.y, x2: b.x, y2: b.y },
      width: kind === "apart" ? 1.8 : 1 + 9 * Math.abs(pair.phi.value),
      words: `${pair.latents.join(", ")}: ${pair.together} positions together, ${pair.expected.toFixed(1)} expected`,
    };
  });
  const isTwo = names !== undefined;
  const radius = ({ density }: GraphNode) => 3 + 18 * Math.sqrt(Math.min(density, 0.2));
  const label = ({ latent, meaning }: GraphNode) =>
    meaning === "" ? String(latent) : isTwo ? `${latent} ${clipped(meaning)}` : `${latent}\n${clipped(meaning)}`; // prettier-ignore
  const text = (of: readonly Placed[], options: object) =>
    plot.api.text(of as Placed[], {
      ...{ x: "x", y: "y", text: label, fontSize: 11, fill: "currentColor" },
      ...{ stroke: "var(--surface, #ffffff)", strokeWidth: 3.5, ...options },
    });
  const key = isTwo
    ? "lines: fire together, wider with phi; circles: larger, more frequent"
    : "lines: fire together, wider with phi; dashed: exclude each other; circles: larger, more frequent";
  return figure(
    plot,
    {
      ...{ id, title },
      caption: `Each line is a pair of latents found at q ≤ 0.05 over all pairs on other documents: ${key}. Of each latent at most ${MOST_OF_ONE} lines; all are in compose.json.`,
    },
    {
      ...{ width: SIZE.width, height: SIZE.height, legend: [] },
      ...{ marginLeft: 0, marginRight: 0, marginTop: 0, marginBottom: 0 },
      x: { type: "identity", axis: null },
      y: { type: "identity", axis: null },
      r: { type: "identity" },
      marks: [
        ...(["together", "link", "apart"] as const).map((kind) =>
          plot.api.link(
            lines.filter((line) => line.kind === kind),
            {
              ...{ x1: "x1", y1: "y1", x2: "x2", y2: "y2", strokeWidth: "width", title: "words" },
              ...{ stroke: SERIES[kind === "apart" ? 1 : 0], strokeOpacity: 0.65 },
              ...(kind === "apart" && { strokeDasharray: "5 4" }),
            },
          ),
        ),
        plot.api.dot(nodes, {
          ...{ x: "x", y: "y", r: radius, fill: (node: Placed) => SERIES[node.sae === 0 ? 2 : 3] },
          ...{ stroke: "var(--surface, #ffffff)", strokeWidth: 1.5 },
        }),
        ...(isTwo
          ? [
              text(nodes.filter(({ sae }) => sae === 0), { textAnchor: "end", dx: -14 }), // prettier-ignore
              text(nodes.filter(({ sae }) => sae === 1), { textAnchor: "start", dx: 14 }), // prettier-ignore
            ]
          : [text(nodes, { lineAnchor: "top", dy: 12 })]),
        ...[title, key].map((line, i) =>
          plot.api.text([line], {
            ...{ x: () => 14, y: () => 16 + 18 * i, textAnchor: "start" as const },
            ...{ fill: "currentColor", fontWeight: i === 0 ? "bold" : "normal" },
          }),
        ),
        ...(names
          ? [plot.api.text([...names], { x: (_: string, i: number) => (i === 0 ? MARGIN.side + COLUMN : SIZE.width - MARGIN.side - COLUMN), y: 54, fontWeight: "bold", fill: "currentColor" })] // prettier-ignore
          : []),
      ],
    },
  );
}
