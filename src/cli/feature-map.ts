/** `lens feature map`: where all latents of a run lie, and which look cut in the wrong place. */
import { mkdir, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { CoActivation } from "../analysis/co-activation.ts";
import { encodeText } from "../analysis/codes.ts";
import type { Features } from "../analysis/features.ts";
import { mapFigure, namedClusters } from "../analysis/map-figure.ts";
import { coActivationMap, decoderMap, type LatentMap, type MapOptions } from "../analysis/map.ts";
import { renderPng } from "../analysis/plots.ts";
import { describeRules, suspectsOf, type Suspects } from "../analysis/suspects.ts";
import { openDevice, type Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import { countedCoActivation, countsPath, factsOf } from "../workbench/feature-facts.ts";
import { heldOutDocuments, type ModelRun } from "../workbench/model-run.ts";
import { interruptibly } from "./analyse.ts";
import { readingOf } from "../workbench/reading.ts";
import { Progress } from "./progress.ts";
import { short } from "../readable.ts";
import { shortPath, table, type Terminal } from "./terminal.ts";

/** A run with its features. */
export interface FeaturesRun extends ModelRun {
  features: Features;
  terminal: Terminal;
  signal: AbortSignal;
}

/** Writes features/map/: map.json, and each map as SVG and PNG. */
export async function featureMap(run: FeaturesRun): Promise<void> {
  const { folder, config, sae, features, terminal, signal } = run;
  const device = await openDevice(config.device, { threads: config.threads });
  try {
    const co = (await countedCoActivation(features)) ?? (await countCoActivation(run, device));
    const draw = async (label: string, make: (options: MapOptions) => Promise<LatentMap>) => {
      const progress = new Progress({ label, unit: "epochs", total: 500, quiet: terminal.quiet });
      const onProgress = ({ done }: { done: number }) => progress.update(done);
      try {
        const map = await make({ seed: config.seed, device, signal, onProgress });
        progress.end(`trustworthiness ${map.trustworthiness.value.toFixed(2)}`);
        return [map];
      } catch (error) {
        progress.stop();
        // Too few latents for one map leave the other and the suspects as they are.
        if (!(error instanceof UserError)) throw error;
        terminal.note(`${label}: none; ${error.message}`);
        return [];
      }
    };
    const maps = [
      ...(await draw("map of decoder directions", (options) => decoderMap(sae, options))),
      ...(await draw("map of firing", (options) => coActivationMap(co, options))),
    ];
    const facts = factsOf(features, co);
    const suspects = await suspectsOf(sae, facts, { device, seed: config.seed });
    const out = join(features.dir, "map");
    await mkdir(out, { recursive: true });
    const shown = {
      density: (latent: number) => features.density(latent),
      topTokens: (latent: number) => features.index.columns.topTokens[latent],
    };
    const files: string[] = [];
    for (const map of maps) {
      const { id, svg } = await mapFigure(map, shown);
      for (const [ending, data] of [
        ["svg", svg],
        ["png", await renderPng(svg)],
      ] as const) {
        files.push(join(out, `${id}.${ending}`));
        await writeFile(files[files.length - 1], data);
      }
    }
    const clusters = Object.fromEntries(maps.map((map) => [map.kind, namedClusters(map, shown)]));
    const result = {
      dSae: sae.spec.dSae,
      positions: co.positions,
      maps,
      clusters,
      suspects: { rules: describeRules(), ...suspects },
    };
    const json = join(out, "map.json");
    await writeFile(json, JSON.stringify(result));
    terminal.result({ files: [json, ...files], ...result }, mapText(maps, suspects, files));
    const [first] = suspects.suspects;
    terminal.next(
      `feature ${first ? first.latents[0] : 0} ${shortPath(folder)}`,
      first ? "look at the first suspect" : "look at a latent",
    );
  } finally {
    await device.close();
  }
}

function mapText(maps: readonly LatentMap[], found: Suspects, files: readonly string[]): string {
  const { suspects, pairs, random } = found;
  const rows = maps.map(({ kind, count, trustworthiness: { value, random }, seconds }) => [
    kind === "decoder" ? "decoder directions" : "firing together",
    short(count),
    value.toFixed(3),
    random.toFixed(3),
    `${seconds.toFixed(1)} s`,
  ]);
  const rules = describeRules();
  const kinds = Object.entries(rules).map(([kind, rule]) => {
    const all = suspects.filter((one) => one.kind === kind);
    return `${kind}: ${all.length} of ${short(pairs)} pairs   (${rule}; of as many random pairs ${random[kind as keyof typeof random]} meet all but the decoder cosine)`;
  });
  const listed = suspects
    .slice(0, 20)
    .map(({ kind, latents, evidence }) => [
      kind,
      latents.join(", "),
      evidence.decoderCosine.toFixed(2),
      evidence.jaccard.toFixed(2),
      short(evidence.together),
      short(Math.round(evidence.expected)),
    ]);
  const head = ["suspects", "latents", "decoder cosine", "Jaccard", "together", "expected"];
  return [
    ...(maps.length > 0
      ? [table(["map", "latents", "trustworthiness", "random layout", "time"], rows)]
      : []),
    kinds.join("\n"),
    ...(listed.length > 0 ? [table(head, listed)] : []),
    files.map((path) => shortPath(path)).join("\n"),
  ].join("\n\n");
}

/** Counts in the text that the features were looked up in, and keeps the counts beside them. */
async function countCoActivation(run: FeaturesRun, device: Device): Promise<CoActivation> {
  const { config, activations, sae, model, places, features, terminal, signal } = run;
  const tokens = features.index.positions;
  const co = new CoActivation(sae.spec.dSae);
  const progress = new Progress({
    ...{ label: "co-activation", unit: "tokens", total: tokens, quiet: terminal.quiet },
  });
  try {
    const text = interruptibly(heldOutDocuments(config, model), signal);
    const options = { tokens, ...readingOf(activations) };
    for await (const { chunk, codes } of encodeText(
      sae,
      device,
      model,
      places.hookPoint,
      text,
      options,
    )) {
      co.add(codes, chunk.length);
      progress.update(co.positions);
    }
    progress.end();
  } catch (error) {
    progress.stop();
    throw error;
  }
  const path = countsPath(features);
  await writeFile(`${path}.new`, co.toBytes());
  await rename(`${path}.new`, path);
  return co;
}
