/** `lens eval`: held-out numbers of an autoencoder. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";

import { parseConfig } from "../config.ts";
import { openDevice } from "../device/device.ts";
import { findRun } from "../runs.ts";
import { loadSae } from "../sae/formats.ts";
import { measure } from "./analyse.ts";
import { saeFolder } from "./export.ts";
import { interruptible } from "./interrupt.ts";
import { addSettings, readSettings } from "./settings.ts";
import { openSources } from "./sources.ts";
import { short, table, Terminal } from "./terminal.ts";
import type { SplicedEvaluation } from "../analysis/evaluate.ts";

interface Options extends Record<string, unknown> {
  quiet?: boolean;
  json?: boolean;
}

export function define(command: Command): void {
  command
    .argument("<run>", "a run (id, folder or `latest`), or a folder with cfg.json")
    .description(
      "Measure an autoencoder on data it was not trained on. A run is measured with its own " +
        "settings; for a folder made elsewhere the flags say what with.",
    )
    .option("--quiet", "print errors and the result only")
    .option("--json", "print the result as JSON");
  addSettings(command, ["", "activations"]).action((id: string, options: Options) =>
    interruptible((signal) => run(id, options, signal)),
  );
}

async function run(id: string, options: Options, signal: AbortSignal): Promise<void> {
  const terminal = new Terminal(options);
  const flags = readSettings(undefined, options);
  const folder = saeFolder(flags.runs, id);
  const isRun = !existsSync(join(id, "cfg.json"));
  const config = isRun ? parseConfig(findRun(flags.runs, id).config) : flags;
  const context = { config, terminal, signal };
  const device = await openDevice(config.device, { threads: config.threads });
  const activations = await openSources(context);
  try {
    const trained = await loadSae(folder);
    const { scores, spliced, rows } = await measure(context, device, activations, trained);
    const lines = Object.entries({ ...scores, rows }).map(([name, v]) => [name, short(v)]);
    const text = [table(["held-out", ""], lines)];
    if (spliced) text.push("", splicedTable(spliced));
    terminal.result({ folder, scores, spliced, rows }, text.join("\n"));
  } finally {
    await activations.model?.close();
    await device.close();
  }
}

/** Cross-entropies in nats per token, by hook point. */
function splicedTable(spliced: readonly SplicedEvaluation[]): string {
  const head = ["spliced in at", "FVU", "CE recovered", "clean", "sae", "zero", "mean"];
  const rows = spliced.map(({ hookPoint, fvu, ceLossRecovered, crossEntropy }) => {
    const { clean, sae, zero, mean } = crossEntropy;
    return [hookPoint, ...[fvu, ceLossRecovered, clean, sae, zero, mean].map(short)];
  });
  return `${table(head, rows)}\nover ${short(spliced[0].crossEntropy.predictions)} predictions`;
}
