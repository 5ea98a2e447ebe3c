/** A map of latents as a picture: a dot per latent, coloured by how often it fires, with names where it is dense. */
import type { LatentMap, MapKind } from "./map.ts";
import { figure, loadPlot, type Figure } from "./plots.ts";

/** Latents by density, rare to frequent, in half decades; each colour up to this share of the positions. */
const CLASSES = [
  { upTo: 1e-3, colour: "#3b4cc0", name: "< 0.1 %" },
  { upTo: 3e-3, colour: "#2f8fc4", name: "< 0.3 %" },
  { upTo: 1e-2, colour: "#2a9d6f", name: "< 1 %" },
  { upTo: 3e-2, colour: "#b5a315", name: "< 3 %" },
  { upTo: 1e-1, colour: "#e07b00", name: "< 10 %" },
  { upTo: Infinity, colour: "#c8322b", name: "more" },
];

const SIZE = 720;
const HEIGHT = 560;

const TITLES: Record<MapKind, string> = {
  decoder: "Decoder directions",
  coActivation: "What fires together",
};

export interface MapFacts {
  /** Share of the positions at which each latent fires; [dSae]. */
  density(latent: number): number;
  /** The tokens a latent is most active on. */
  topTokens(latent: number): readonly string[];
}

/** A place on the map whose latents share a token. */
export interface NamedCluster {
  x: number;
  y: number;
  /** The token. */
  name: string;
  /** How many of the 16 latents there have it among their first tokens, and how many anywhere on the map. */
  here: number;
  everywhere: number;
}

/** Latents around the middle of a cluster, it included. */
const AROUND = 16;
const MOST_CLUSTERS = 12;

/**
 * Places where a token stands out among the first tokens of the 16 nearest latents: where as many with
 * it would come together, if latents were strewn at random, with a probability (binomial) of less than
 * 0.05 / (tokens · places), so that a whole map without any order would get a name in one of twenty
 * cases. Each token once, the least probable places first, none near another.
 */
export function namedClusters(map: LatentMap, facts: Pick<MapFacts, "topTokens">): NamedCluster[] {
  const points = pointsOf(map);
  const tokens = points.map(({ latent }) => new Set(facts.topTokens(latent)));
  const everywhere = new Map<string, number>();
  for (const own of tokens)
    for (const token of own) everywhere.set(token, (everywhere.get(token) ?? 0) + 1);
  const limit = Math.log(0.05 / (everywhere.size * points.length));
  const found: (NamedCluster & { surprise: number })[] = [];
  const squared = new Float64Array(points.length);
  for (const { x, y } of points) {
    points.forEach((point, j) => (squared[j] = (point.x - x) ** 2 + (point.y - y) ** 2));
    const reach = squared.toSorted()[Math.min(AROUND, points.length) - 1];
    const counts = new Map<string, number>();
    squared.forEach((distance, j) => {
      if (distance > reach) return;
      for (const token of tokens[j]) counts.set(token, (counts.get(token) ?? 0) + 1);
    });
    for (const [name, here] of counts) {
      const surprise = logTail(AROUND, here, everywhere.get(name)! / points.length);
      if (surprise < limit)
        found.push({ x, y, name, here, everywhere: everywhere.get(name)!, surprise });
    }
  }
  found.sort((a, b) => a.surprise - b.surprise);
  const apart = extentOf(points) / 12;
  const clusters: NamedCluster[] = [];
  for (const { surprise: _, ...place } of found) {
    if (clusters.length === MOST_CLUSTERS) break;
    const isNear = (other: NamedCluster) =>
      other.name === place.name || Math.hypot(other.x - place.x, other.y - place.y) < apart;
    if (!clusters.some(isNear)) clusters.push(place);
  }
  return clusters;
}

/** ln of the probability of k or more among n with probability p each. */
function logTail(n: number, k: number, p: number): number {
  let choose = 1;
  let tail = 0;
  for (let i = n; i >= 0; i--) {
    // n over i, from n over n down.
    if (i < n) choose *= (i + 1) / (n - i);
    if (i >= k) tail += choose * p ** i * (1 - p) ** (n - i);
  }
  return Math.log(tail);
}

function pointsOf({ x, y }: LatentMap): { latent: number; x: number; y: number }[] {
  return x.flatMap((v, latent) => (v === null ? [] : [{ latent, x: v, y: y[latent]! }]));
}

function extentOf(points: readonly { x: number; y: number }[]): number {
  const range = (values: number[]) =>
    values.reduce((a, b) => Math.max(a, b), -Infinity) -
    values.reduce((a, b) => Math.min(a, b), Infinity);
  return Math.max(range(points.map(({ x }) => x)), range(points.map(({ y }) => y)));
}

export async function mapFigure(map: LatentMap, facts: MapFacts): Promise<Figure> {
  const plot = await loadPlot();
  const { neighbors, value, random } = map.trustworthiness;
  // Frequent latents are few; drawn last they are not hidden.
  const points = pointsOf(map)
    .map((point) => ({ ...point, density: facts.density(point.latent) }))
    .sort((a, b) => a.density - b.density)
    .map((point) => ({
      ...point,
      colour: CLASSES.find(({ upTo }) => point.density < upTo)!.colour,
    }));
  const clusters = namedClusters(map, facts);
  const radius = points.length > 1500 ? 2.2 : 3.2;
  const drawn = figure(
    plot,
    {
      id: `map-${map.kind === "decoder" ? "decoder" : "co-activation"}`,
      title: TITLES[map.kind],
      caption: `${points.length.toLocaleString("en")} latents by UMAP, near each other where ${map.kind === "decoder" ? "their decoder directions are" : "they fire at the same positions"}; coloured by the share of positions at which they fire; a name is a token that more of the latents there are most active on than chance explains. Directions and distances across the map mean nothing. Trustworthiness of the ${neighbors} nearest: ${value.toFixed(2)} (random layout: ${random.toFixed(2)}, perfect: 1).`,
    },
    {
      ...{ width: SIZE, height: HEIGHT, legend: [] },
      ...{ marginLeft: 44, marginRight: 44, marginTop: 40, marginBottom: 10 },
      x: { axis: null },
      y: { axis: null },
      marks: [
        plot.api.dot(points, {
          ...{ x: "x", y: "y", r: radius, fill: "colour", fillOpacity: 0.7 },
          title: (point: (typeof points)[number]) => `latent ${point.latent}`,
        }),
        plot.api.text(clusters, {
          ...{
            x: "x",
            y: "y",
            text: ({ name }: NamedCluster) => `“${name.replaceAll("\n", "⏎")}”`,
          },
          ...{
            fill: "currentColor",
            stroke: "var(--surface, #ffffff)",
            strokeWidth: 4,
            fontSize: 13,
          },
          ...{ fontWeight: "bold", dy: -11 },
        }),
      ],
    },
  );
  return { ...drawn, svg: drawn.svg.replace(/<\/svg>\s*$/, `${legend(points)}</svg>`) };
}

/** A key for the colours that occur. */
function legend(points: readonly { colour: string }[]): string {
  const used = new Set(points.map(({ colour }) => colour));
  let x = 12;
  const keys = CLASSES.filter(({ colour }) => used.has(colour)).map(({ colour, name }) => {
    const key = `<circle cx="${x}" cy="14" r="5" fill="${colour}"/><text x="${x + 10}" y="14" dy="0.35em" fill="currentColor">${name.replace("<", "&lt;")}</text>`;
    x += 34 + name.length * 7;
    return key;
  });
  return `<g text-anchor="start">${keys.join("")}<text x="${x}" y="14" dy="0.35em" fill="currentColor">of the positions</text></g>`;
}
