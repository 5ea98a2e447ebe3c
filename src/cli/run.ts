/** `lens run`: the whole path, from settings to a report. */
import { pathToFileURL } from "node:url";
import type { Command } from "commander";

import { parseConfig } from "../config.ts";
import { openDevice } from "../device/device.ts";
import { findRun, RunFolder, type RunSummary } from "../runs.ts";
import { evaluateStage, featuresStage } from "./analyse.ts";
import { interruptible } from "./interrupt.ts";
import { reportStage } from "./report.ts";
import { addSettings, QUICK_START, readSettings, SECTIONS } from "./settings.ts";
import { closeSources, openSources, type Context } from "./sources.ts";
import { afterFailure, createRun, scoresText, trainStage } from "./stages.ts";
import { duration } from "../readable.ts";
import { shortPath, Terminal } from "./terminal.ts";

interface Options extends Record<string, unknown> {
  resume?: string;
  quiet?: boolean;
  json?: boolean;
}

export function define(command: Command): void {
  command
    .argument(
      "[configs...]",
      "YAML or JSON files, run one after another; absent: examples/quick-start.yaml",
    )
    .description(
      "The whole path: collect activations, train an autoencoder, measure it, look its features " +
        "up, write a report. Flags are set on top of every config.",
    )
    .option("--resume <run>", "go on with an interrupted run, at whatever stage it stopped")
    .option("--quiet", "print errors and the result only")
    .option("--json", "print the result as JSON");
  addSettings(command, Object.keys(SECTIONS)).action((files: string[], options: Options) =>
    interruptible((signal) => runAll(files, options, signal)),
  );
}

async function runAll(files: string[], options: Options, signal: AbortSignal): Promise<void> {
  const terminal = new Terminal(options);
  const outcomes = [];
  if (options.resume !== undefined) {
    const { folder, config } = findRun(readSettings(undefined, options).runs, options.resume);
    const run = RunFolder.open(folder);
    outcomes.push(await runWhole({ config: parseConfig(config), terminal, signal }, run));
  } else {
    // All are checked before the first one starts.
    const wanted = files.length > 0 ? files : [QUICK_START];
    const configs = wanted.map((file) => readSettings(file, options));
    for (const config of configs)
      outcomes.push(await runWhole({ config, terminal, signal }, createRun(config)));
  }
  const shown = outcomes.map(({ run, report, scores, summary }) => {
    const { status, duration } = summary;
    return { run: run.id, folder: run.folder, report, status, duration, scores };
  });
  terminal.result(
    shown.length === 1 ? shown[0] : shown,
    outcomes.map(({ text }) => text).join("\n\n"),
  );
  const folders = outcomes.map(({ run }) => shortPath(run.folder));
  if (folders.length > 1)
    terminal.next(`runs compare ${folders.join(" ")}`, "put them side by side");
  else terminal.next(`runs show ${folders[0]}`, "all settings and scores; or open the report");
}

interface Outcome {
  run: RunFolder;
  scores: Record<string, number>;
  report: string;
  summary: RunSummary;
  text: string;
}

/** Every stage in order; those that an earlier attempt finished are only read. */
async function runWhole(context: Context, run: RunFolder): Promise<Outcome> {
  const { config, terminal } = context;
  terminal.note(`run: ${shortPath(run.folder)}`);
  const device = await openDevice(config.device, { threads: config.threads });
  let activations: Awaited<ReturnType<typeof openSources>> | undefined;
  try {
    activations = await openSources(context, [config.sae]);
    const trained = await trainStage(context, run, device, activations);
    const evaluation = await evaluateStage(context, run, device, activations, trained);
    const features = await featuresStage(context, run, device, activations, trained);
    const report = await reportStage(context, run, trained, evaluation, features);
    const summary = run.finish();
    const text = [
      `${run.id}, finished in ${duration(summary.duration)}`,
      scoresText(evaluation.scores),
      `report: ${pathToFileURL(report).href}`,
    ].join("\n");
    return { run, scores: evaluation.scores, report, summary, text };
  } catch (error) {
    throw afterFailure(error, run, "run");
  } finally {
    await closeSources(activations);
    await device.close();
  }
}
