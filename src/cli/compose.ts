/** `lens compose`: which features occur together, exclude each other, predict a third, and link two hook points. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Command } from "commander";

import { requireLatent } from "../analysis/codes.ts";
import { graphFigure, graphOf, type GraphFacts } from "../analysis/composition-figure.ts";
import { composition, type HalvedText, type Halves } from "../analysis/composition.ts";
import { inWindows } from "../analysis/firing-windows.ts";
import { firingCounts } from "../analysis/firings.ts";
import { shortNames } from "../analysis/layers-figure.ts";
import { findLinks } from "../analysis/links.ts";
import { renderPng, type Figure } from "../analysis/plots.ts";
import { findTriples } from "../analysis/triples.ts";
import { openDevice, type Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import { hookPoints } from "../model/hook-point.ts";
import { meaningOf } from "../workbench/model-run.ts";
import { composeText, type Composed, type Node } from "./compose-text.ts";
import { numberOf } from "./generate.ts";
import { interruptible } from "./interrupt.ts";
import { isOneSpace, openPlacedRuns, type PlacedRun, type PlacedRuns } from "./placed-runs.ts"; // prettier-ignore
import { readHalves } from "./placed-text.ts";
import { Progress } from "./progress.ts";
import { shortPath, Terminal } from "./terminal.ts";

interface Options {
  with?: string;
  runs: string;
  tokens: string;
  window: string;
  latent?: string;
  list: string;
  seed: string;
  out?: string;
  quiet?: boolean;
  json?: boolean;
}

export function define(command: Command): void {
  command
    .argument("[run]", "a run: id, folder or `latest`; or a folder with cfg.json", "latest")
    .description(
      "Find which features occur together, which exclude each other and which pairs predict a third, on text " +
        "that the run has not seen, beside chance. With --with, also which features of one autoencoder lead to " +
        "which of another, by when they fire and by their weights. " +
        "lens train --sweep examples/layers.yaml trains one for each layer of the built-in model.",
    )
    .option("--with <run>", "another run of the same model, to link features with")
    .option("--runs <folder>", "the folder that holds the run folders", "runs")
    .option("--tokens <integer>", "held-out tokens to read", "80000")
    .option("--window <integer>", "tokens within which features count as together", "1")
    .option("--latent <integer>", "only what has to do with this latent")
    .option("--list <integer>", "pairs of each kind that are measured and kept", "200")
    .option("--seed <integer>", "of bootstrap draws and nulls", "0")
    .option("--out <folder>", "where compose.json and the graphs go; absent: compose/ of the run")
    .option("--quiet", "print errors and the result only")
    .option("--json", "print the result as JSON")
    .action((id: string, options: Options) => interruptible((signal) => run(id, options, signal)));
}

function wholeNumber(name: string, text: string, least: number): number {
  const value = numberOf(name, text);
  if (!Number.isInteger(value) || value < least)
    throw new UserError(`${name} must be a whole number of at least ${least}; got ${text}`);
  return value;
}

async function run(id: string, options: Options, signal: AbortSignal): Promise<void> {
  const terminal = new Terminal(options);
  const settings = {
    tokens: wholeNumber("tokens", options.tokens, 1),
    window: wholeNumber("window", options.window, 1),
    list: wholeNumber("list", options.list, 1),
    seed: numberOf("seed", options.seed),
    latents: options.latent === undefined ? undefined : [wholeNumber("latent", options.latent, 0)],
  };
  const device = await openDevice("auto");
  try {
    const ids = options.with === undefined ? [id] : [id, options.with];
    const placed = await openPlacedRuns(options.runs, ids, device, terminal);
    try {
      const [own] = placed.runs;
      for (const latent of settings.latents ?? []) requireLatent(latent, own.sae.spec.dSae);
      const { composed, figures } = await compose(placed, device, terminal, signal, settings);
      const out = options.out ?? join(own.folder ?? ".", "compose");
      await mkdir(out, { recursive: true });
      await writeFile(join(out, "compose.json"), JSON.stringify(composed) + "\n");
      for (const { id, svg } of figures) {
        await writeFile(join(out, `${id}.svg`), svg);
        await writeFile(join(out, `${id}.png`), await renderPng(svg));
      }
      const files = ["compose.json", ...figures.map(({ id }) => `${id}.svg, ${id}.png`)];
      terminal.result(composed, `${composeText(composed)}\n\n${files.join(", ")} in ${shortPath(out)}`); // prettier-ignore
      if (own.folder !== undefined && own.features) {
        const [first] = composed.pairs.together.listed;
        const latent = settings.latents?.[0] ?? first?.latents[0] ?? 0;
        terminal.next(`feature ${latent} ${shortPath(own.folder)}`, "look at the first of them");
      }
    } finally {
      await placed.model.close();
    }
  } finally {
    await device.close();
  }
}

interface Settings {
  tokens: number;
  window: number;
  list: number;
  seed: number;
  latents: number[] | undefined;
}

async function compose(
  placed: PlacedRuns,
  device: Device,
  terminal: Terminal,
  signal: AbortSignal,
  settings: Settings,
): Promise<{ composed: Composed; figures: Figure[] }> {
  const { window, list, seed, latents } = settings;
  const { sides, text } = await read(placed, device, terminal, signal, settings);
  const stage = async <T>(
    label: string,
    make: (onProgress: (done: number, total: number) => void) => Promise<T>,
  ): Promise<T> => {
    const progress = new Progress({ label, unit: "%", total: 100, quiet: terminal.quiet });
    try {
      const made = await make((done, total) => progress.update(Math.round((100 * done) / total)));
      progress.update(100);
      progress.end();
      return made;
    } catch (error) {
      progress.stop();
      throw error;
    }
  };
  const asked = { seed, signal, latents };
  const [own, other] = placed.runs;
  const pairs = await stage("pairs", (onProgress) =>
    composition(sides[0], sides[0], text, { ...asked, list, onProgress }),
  );
  const triples = await stage("triples", (onProgress) =>
    findTriples(sides[0], text, { ...asked, onProgress }),
  );
  // Along the model, whichever was named first; what is asked of a latent is asked of the run's own.
  const order = hookPoints(placed.model.info);
  const depth = ({ hookPoints }: PlacedRun) => order.indexOf([hookPoints].flat()[0]);
  const isForward = other === undefined || depth(own) <= depth(other);
  if (!isForward && latents)
    throw new UserError(
      `links lead from the earlier hook point to the later one, and ${own.name} comes after ${other.name}; with --latent, name ${other.id} first`,
    );
  const [from, to] = isForward ? [0, 1] : [1, 0];
  const side = (i: number) => ({ sae: placed.runs[i].sae, halves: sides[i] });
  const links =
    other &&
    (await stage("links", (onProgress) =>
      findLinks(side(from), side(to), text, {
        ...{ ...asked, list, device, onProgress, weights: isOneSpace(own, other) },
      }),
    ));
  const names = shortNames(placed.runs.map(({ name }) => name));
  const factsOf = (places: readonly number[]): GraphFacts => {
    const counts = places.map((i) => firingCounts(sides[i].test));
    return {
      density: (sae, latent) => counts[sae][latent] / text.test.positions,
      meaning: (sae, latent) => meaningOf(placed.runs[places[sae]].features, latent),
    };
  };
  const graph = graphOf(
    [
      { kind: "together", pairs: pairs.together.listed },
      { kind: "apart", pairs: pairs.apart.listed },
    ],
    factsOf([0]),
  );
  const figures = [
    await graphFigure(graph, { id: "compose", title: `Features together at ${names[0]}` }),
  ];
  const thirds = [...triples.and.listed, ...triples.either.listed].flatMap((one) => one.latents);
  const nodes = new Map<string, Node>();
  const add = (node: Node) => nodes.set(`${node.sae} ${node.latent}`, node);
  for (const node of [...graph.nodes, ...nodesOf(0, thirds, factsOf([0]))]) add(node);
  if (links) {
    const { listed } = links.together;
    const linked = graphOf([{ kind: "link", pairs: listed }], factsOf([from, to]));
    const strongest = links.weights?.strongest ?? [];
    for (const [end, i] of [from, to].entries())
      for (const node of nodesOf(
        end as 0 | 1,
        [...listed, ...strongest].map(({ latents }) => latents[end]),
        factsOf([from, to]),
      ))
        add({ ...node, sae: i });
    figures.push(
      await graphFigure(linked, {
        ...{ id: "links", title: "Features that fire at the same positions" },
        names: [names[from], names[to]],
      }),
    );
  }
  const composed: Composed = {
    ...{ version: 1, model: placed.modelName, tokens: settings.tokens, window, seed },
    autoencoders: placed.runs.map(({ id, name, hookPoints }) => ({ id, name, hookPoints })),
    ...{ nodes: [...nodes.values()], pairs, triples },
    ...(links && { links: { from, to, ...links } }),
  };
  return { composed, figures };
}

function nodesOf(sae: 0 | 1, latents: readonly number[], facts: GraphFacts): Node[] {
  return latents.map((latent) => ({
    ...{ sae, latent, density: facts.density(sae, latent), meaning: facts.meaning(sae, latent) },
  }));
}

/** Both halves of the held-out text, as all autoencoders see it. */
async function read(
  placed: PlacedRuns,
  device: Device,
  terminal: Terminal,
  signal: AbortSignal,
  { tokens, window }: Settings,
): Promise<{ sides: Halves[]; text: HalvedText }> {
  const halves = await readHalves(placed, device, terminal, signal, {
    ...{ tokens, purpose: "pairs are found on half and measured on half" },
  });
  const [selection, test] = halves.map((half) => inWindows(half.held(), window));
  return {
    sides: placed.runs.map((_, i) => ({ selection: selection.firings[i], test: test.firings[i] })),
    text: { selection: selection.text, test: test.text },
  };
}
