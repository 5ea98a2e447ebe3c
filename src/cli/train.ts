/** `lens train`: an autoencoder from activations, in a run folder of its own. */
import type { Command } from "commander";

import { parseConfig } from "../config.ts";
import { openDevice } from "../device/device.ts";
import { findRun, RunFolder } from "../runs.ts";
import { UserError } from "../error.ts";
import { interruptible } from "./interrupt.ts";
import { addSettings, readSettings } from "./settings.ts";
import { closeSources, openSources, type Activations } from "./sources.ts";
import { afterFailure, createRun, scoresText, trainStage } from "./stages.ts";
import { sweep } from "./sweep.ts";
import { shortPath, Terminal } from "./terminal.ts";

interface Options extends Record<string, unknown> {
  resume?: string;
  sweep?: boolean;
  quiet?: boolean;
  json?: boolean;
}

export function define(command: Command): void {
  command
    .argument("[config]", "YAML or JSON file; absent: the defaults")
    .description("Train an autoencoder on activations; what is missing of them is collected first.")
    .option("--resume <run>", "go on with an interrupted run from its newest checkpoint")
    .option(
      "--sweep",
      "train every variant that the config's sweep section lists, all from one pass over the activations",
    )
    .option("--quiet", "print errors and the result only")
    .option("--json", "print the result as JSON");
  addSettings(command, ["", "activations", "sae", "train"]).action(
    (file: string | undefined, options: Options) =>
      interruptible((signal) => train(file, options, signal)),
  );
}

async function train(
  file: string | undefined,
  options: Options,
  signal: AbortSignal,
): Promise<void> {
  const terminal = new Terminal(options);
  if (options.sweep) {
    if (file === undefined && options.resume === undefined)
      throw new UserError("--sweep needs a config file with a sweep section");
    return sweep(file, options.resume, options, terminal, signal);
  }
  let config = readSettings(file, options);
  let run: RunFolder;
  if (options.resume === undefined) run = createRun(config);
  else {
    const found = findRun(config.runs, options.resume);
    config = parseConfig(found.config);
    run = RunFolder.open(found.folder);
  }
  terminal.note(`run: ${shortPath(run.folder)}`);
  const context = { config, terminal, signal };
  const device = await openDevice(config.device, { threads: config.threads });
  let activations: Activations | undefined;
  try {
    activations = await openSources(context, [config.sae]);
    const { details } = await trainStage(context, run, device, activations);
    const { fvu, l0, deadFraction, mse, cosine } = details.metrics as Record<string, number>;
    const scores = { fvu, l0, deadFraction, mse, cosine };
    run.logResult({ eval_scores: scores, success: true });
    const { status, duration } = run.finish();
    terminal.result(
      { run: run.id, folder: run.folder, sae: run.path("sae"), status, duration, scores },
      `${shortPath(run.path("sae"))}: held-out ${scoresText(scores)}`,
    );
    const folder = shortPath(run.folder);
    if (activations.model)
      terminal.next(`features ${folder}`, "find what excites each latent, and write the report");
    else terminal.next(`export ${folder}`, "write it for PyTorch");
  } catch (error) {
    throw afterFailure(error, run, "train");
  } finally {
    await closeSources(activations);
    await device.close();
  }
}
