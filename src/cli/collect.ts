/** `lens collect`: text → tokens → activations on disk. */
import { join } from "node:path";

import type { Command } from "commander";

import { UserError } from "../error.ts";
import { collect } from "../model/collect.ts";
import { loadModel } from "../model/model.ts";
import { isFinished } from "../model/store/manifest.ts";
import { isReadOnce } from "../model/text.ts";
import { type HookPointRoles, hookPointsOf, namesOf } from "../workbench/hook-points.ts";
import { collectingOf, loadingOf } from "../workbench/reading.ts";
import { interruptible, Interrupted } from "./interrupt.ts";
import { Progress } from "./progress.ts";
import { addSettings, readSettings } from "./settings.ts";
import { storeFolder } from "./store-folder.ts";
import { noteEmpty, Terminal } from "./terminal.ts";
import { noteWeights } from "./weights-note.ts";

interface Options extends Record<string, unknown> {
  out?: string;
  split: string;
  append?: boolean;
  quiet?: boolean;
  json?: boolean;
}

const SPLITS = ["train", "validation", "test"] as const;

export function define(command: Command): void {
  command
    .argument("[config]", "YAML or JSON file; absent: the defaults")
    .description(
      "Run a model over text and store its activations. Interrupted, the same command goes on.",
    )
    .option(
      "--out <folder>",
      "where the activations go; absent: where lens train and lens run look for those of the same settings",
    )
    .option(
      "--split <train|validation|test>",
      "which documents; of files, eight in ten are for training",
      "train",
    )
    .option("--append", "add to a finished store of fewer tokens, from where its text stopped")
    .option("--quiet", "print errors and the result only")
    .option("--json", "print the result as JSON");
  addSettings(command, ["", "activations"]).action((file: string | undefined, options: Options) =>
    interruptible((signal) => run(file, options, signal)),
  );
}

async function run(file: string | undefined, options: Options, signal: AbortSignal): Promise<void> {
  const { activations, threads, runs } = readSettings(file, options);
  if (activations.from !== "model")
    throw new UserError(`only activations.from model can be collected; got ${activations.from}`);
  if (activations.onTheFly)
    throw new UserError(
      "activations.onTheFly keeps activations nowhere, and collecting is keeping them: leave it out here",
    );
  const split = SPLITS.find((name) => name === options.split);
  if (!split)
    throw new UserError(`split must be one of ${SPLITS.join(", ")}; got ${options.split}`);
  const terminal = new Terminal(options);
  if (options.out === undefined) {
    if (options.append)
      throw new UserError("--append adds to a store that is there: name it with --out");
    if (isReadOnce(activations.data))
      throw new UserError(
        "standard input (-) has no name that its activations could be found by later: name their folder with --out",
      );
  }
  const tokens = split === "train" ? activations.tokens : activations.validationTokens;
  const model = await loadModel(activations.model, { ...loadingOf(activations), threads, signal });
  let progress: Progress | undefined;
  let empty = 0;
  try {
    const hookPoints = hookPointsOf(model, activations);
    const names = model.expandHookPoints(namesOf(hookPoints));
    const out = options.out ?? join(await storeFolder(runs, activations, model, names), split);
    const isCollected = isFinished(out) && !options.append;
    if (!isCollected) await noteWeights(terminal, model, activations, names, threads);
    progress = new Progress({
      ...{ label: "collecting", unit: "tokens", total: tokens, quiet: terminal.quiet },
    });
    const store = await collect(model, activations.data, {
      ...{ ...collectingOf(activations), out, tokens, split, signal },
      ...{
        append: options.append ?? false,
        hookPoint: names,
        onEmpty: () => void empty++,
      },
      onProgress: ({ done }) => progress!.update(done),
    });
    progress.end();
    noteEmpty(terminal, empty);
    const points = store.manifest!.hookPoints.map((point) => point.name);
    terminal.result(
      { out, rows: store.rows, dIn: store.dIn, hookPoints: points },
      `${store.rows.toLocaleString("en-US")} activations of ${points.join(", ")} in ${out}`,
    );
    terminal.next(
      `train --activations.from folder --activations.path ${out}${choiceOf(hookPoints)}`,
      "train on them",
    );
  } catch (error) {
    progress?.stop();
    if (!(error instanceof Interrupted)) throw error;
    throw new Interrupted(
      "stopped; whole shards are kept, and the same command goes on from there",
    );
  } finally {
    await model.close();
  }
}

/** The flags that train on a store of these hook points what it was collected for. */
function choiceOf({ inputs, target }: HookPointRoles): string {
  if (inputs.length > 1) return ` --activations.hookPoints ${inputs.join(",")}`;
  if (target === undefined) return "";
  return ` --activations.hookPoint ${inputs[0]} --activations.targetHookPoint ${target}`;
}
