/** `lens features`: what excites each latent of a trained run, and its report. */
import { rm } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import type { Command } from "commander";

import { alignedCount, featureTable, formatFeatureTable } from "../analysis/gallery.ts";
import { parseConfig } from "../config.ts";
import { openDevice } from "../device/device.ts";
import { UserError } from "../error.ts";
import { findRun, RunFolder } from "../runs.ts";
import { loadSae } from "../sae/formats.ts";
import { saeFolder } from "../workbench/model-run.ts";
import { evaluateStage, featuresStage } from "./analyse.ts";
import { interruptible } from "./interrupt.ts";
import { reportStage } from "./report.ts";
import { addSettings, readSettings, withFlags } from "./settings.ts";
import { closeSources, openSources } from "./sources.ts";
import { shortPath, Terminal } from "./terminal.ts";

interface Options extends Record<string, unknown> {
  quiet?: boolean;
  json?: boolean;
}

export function define(command: Command): void {
  command
    .argument("[run]", "a run: id, folder or `latest`", "latest")
    .description(
      "Look the latents of a trained run up in text it has not seen, rank them, and write the " +
        "run's features/ and report.html anew. Prints the first ones with the label that fits each best.",
    )
    .option("--quiet", "print errors and the result only")
    .option("--json", "print the result as JSON");
  addSettings(command, ["", "features"]).action((id: string, options: Options) =>
    interruptible((signal) => run(id, options, signal)),
  );
}

async function run(id: string, options: Options, signal: AbortSignal): Promise<void> {
  const terminal = new Terminal(options);
  const flags = readSettings(undefined, options);
  const { folder, config: stored } = findRun(flags.runs, id);
  const sae = saeFolder(flags.runs, id);
  // The run's own settings, with the flags that were given on top.
  const config = parseConfig(withFlags(stored, options));
  if (config.activations.from !== "model")
    throw new UserError(
      `features are looked up in text, and the activations of ${folder} come from no model (activations.from ${config.activations.from})`,
    );
  const context = { config, terminal, signal };
  const run = RunFolder.open(folder);
  const device = await openDevice(config.device, { threads: config.threads });
  const activations = await openSources(context);
  try {
    const trained = await loadSae(sae);
    const evaluation = await evaluateStage(context, run, device, activations, trained);
    await rm(run.path("features"), { recursive: true, force: true });
    const features = await featuresStage(context, run, device, activations, trained);
    const report = await reportStage(context, run, trained, evaluation, features);
    const rows = featureTable(features!, config.features.gallery);
    terminal.result(
      { folder, report, aligned: alignedCount(rows), features: rows },
      `${formatFeatureTable(rows)}\nreport: ${pathToFileURL(report).href}`,
    );
    terminal.next(`export ${shortPath(run.folder)}`, "write it for PyTorch");
  } finally {
    run.close();
    await closeSources(activations);
    await device.close();
  }
}
