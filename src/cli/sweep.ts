/** `lens train --sweep`: many autoencoders from one pass over the activations, and how they compare. */
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join, relative, resolve } from "node:path";

import { paretoFront, type ParetoPoint } from "../analysis/pareto-front.ts";
import { paretoFigures } from "../analysis/pareto.ts";
import { renderPng } from "../analysis/plots.ts";
import { parseConfig, type RunConfig } from "../config.ts";
import { openDevice, type Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import { configHash, RunFolder, writeWhole } from "../runs.ts";
import { writeCheckpoint } from "../sae/checkpoint.ts";
import type { Trainer } from "../sae/train.ts";
import { trainTogether } from "../sae/train-together.ts";
import { evaluateStage, isEvaluated, measureAll, type RunEvaluation } from "./analyse.ts";
import { Interrupted } from "./interrupt.ts";
import { Progress } from "./progress.ts";
import { closeSources, openSources, type Activations, type Context } from "./sources.ts";
import {
  createRun,
  openTrainer,
  saveTrained,
  trainedBefore,
  watch,
  type Trained,
} from "./stages.ts";
import { readSweep, type Variant } from "./sweep-config.ts";
import { duration, short } from "../readable.ts";
import { lens, shortPath, table, Terminal } from "./terminal.ts";

/** sweep.json: the autoencoders of a sweep and the run folders they are in. */
interface SweepFile {
  variants: { name: string; run: string; config: RunConfig }[];
}

interface Member extends Variant {
  run: RunFolder;
}

/** @param resume the folder of an interrupted sweep. */
export async function sweep(
  file: string | undefined,
  resume: string | undefined,
  options: Record<string, unknown>,
  terminal: Terminal,
  signal: AbortSignal,
): Promise<void> {
  const began = performance.now();
  const { folder, members } =
    resume === undefined ? createSweep(readSweep(file!, options)) : openSweep(resume);
  const [{ config }] = members;
  terminal.note(`sweep of ${members.length} autoencoders: ${shortPath(folder)}`);
  const device = await openDevice(config.device, { threads: config.threads });
  try {
    const groups: ParetoPoint[][] = [];
    for (const group of byActivations(members))
      groups.push(await sweepGroup({ config: group[0].config, terminal, signal }, group, device));
    const points = groups.flat();
    const plots = await writeComparison(folder, members, groups);
    const front = frontOf(groups);
    const rows = points.map(({ name, l0, fvu, ceLossRecovered }) => [
      ...[front.has(name) ? "*" : "", name, short(l0), short(fvu)],
      ceLossRecovered === undefined ? "-" : short(ceLossRecovered),
    ]);
    const among = groups.length > 1 ? " on its activations" : "";
    terminal.result(
      { folder, points, front: [...front], runs: members.map(({ run }) => run.folder) },
      [
        table(["", "autoencoder", "L0", "FVU", "CE recovered"], rows),
        `* no other${among} is both sparser and better. ${members.length} autoencoders in ${duration((performance.now() - began) / 1000)}`,
        ...plots.map((plot) => `plot: ${shortPath(plot)}`),
      ].join("\n"),
    );
    if (groups.length > 1) {
      const runs = members.map(({ run }) => shortPath(run.folder));
      terminal.next(`layers ${runs.join(" ")}`, "see how their features differ");
    } else {
      const best = members.find(({ name }) => front.has(name)) ?? members[0];
      terminal.next(
        `features ${shortPath(best.run.folder)}`,
        "find what excites the latents of one of them",
      );
    }
  } catch (error) {
    const isInterrupted = error instanceof Interrupted;
    for (const { run } of members) {
      if (!isInterrupted) run.fail(error);
      run.close();
    }
    if (!isInterrupted) throw error;
    throw new Interrupted(
      `stopped; everything is saved. Go on with: ${lens(`train --sweep --resume ${shortPath(folder)}`)}`,
    );
  } finally {
    await device.close();
  }
}

/** Members that train on the same activations, in the order of the first of each. */
function byActivations(members: readonly Member[]): Member[][] {
  const groups = new Map<string, Member[]>();
  for (const member of members) {
    const key = JSON.stringify(member.config.activations);
    groups.set(key, [...(groups.get(key) ?? []), member]);
  }
  return [...groups.values()];
}

/** Trains and measures the members, all on one stream of activations. */
async function sweepGroup(
  context: Context,
  members: Member[],
  device: Device,
): Promise<ParetoPoint[]> {
  const { terminal, signal } = context;
  const saes = members.map((member) => member.config.sae);
  const activations = await openSources(context, saes);
  try {
    await trainAll(context, members, device, activations);
    const quiet = { ...context, terminal: new Terminal({ quiet: true }) };
    const trained: Trained[] = [];
    for (const { run } of members) trained.push((await trainedBefore(quiet, run))!);
    const unmeasured = trained.filter((_, i) => !isEvaluated(members[i].run));
    const measured = await measureAll(context, device, activations, unmeasured);
    const points: ParetoPoint[] = [];
    for (const [i, { name, config, run }] of members.entries()) {
      terminal.note(`\n${name}`);
      const own = { config, terminal, signal };
      const evaluation = measured[unmeasured.indexOf(trained[i])] as RunEvaluation | undefined;
      const { scores } = await evaluateStage(own, run, device, activations, trained[i], evaluation);
      run.finish();
      const { fvu, l0, ceLossRecovered } = scores;
      points.push({ name, fvu, l0, ...(ceLossRecovered !== undefined && { ceLossRecovered }) });
    }
    return points;
  } finally {
    await closeSources(activations);
  }
}

/** Names of those that no other on the same activations beats. */
function frontOf(groups: readonly ParetoPoint[][]): Set<string> {
  return new Set(groups.flatMap((points) => paretoFront(points)).map(({ name }) => name));
}

/** Run folders for all variants, and one that says which belong together. */
function createSweep(variants: Variant[]): { folder: string; members: Member[] } {
  const [{ config }, ...rest] = variants;
  const sameFields = ["device", "threads", "runs", "seed"] as const;
  for (const other of rest) {
    const differs =
      sameFields.find((key) => other.config[key] !== config[key]) ??
      (withoutHookPoint(other.config) === withoutHookPoint(config) ? undefined : "activations");
    if (differs)
      throw new UserError(
        `of the activations a sweep may vary activations.hookPoint only, so ${differs} cannot be swept; run such variants one by one`,
      );
  }
  const members = variants.map((variant) => ({ ...variant, run: createRun(variant.config) }));
  const name = `${config.name}-${configHash({ runs: members.map(({ run }) => run.id) })}`;
  const folder = join(resolve(config.runs), "sweeps", name);
  mkdirSync(folder, { recursive: true });
  const file: SweepFile = {
    variants: members.map(({ name, config, run }) => ({
      ...{ name, config },
      run: relative(folder, run.folder),
    })),
  };
  writeWhole(join(folder, "sweep.json"), JSON.stringify(file, null, 2) + "\n");
  return { folder, members };
}

function withoutHookPoint({ activations }: RunConfig): string {
  return JSON.stringify({ ...activations, hookPoint: undefined });
}

function openSweep(path: string): { folder: string; members: Member[] } {
  const folder = resolve(path);
  const file = join(folder, "sweep.json");
  if (!existsSync(file))
    throw new UserError(`${path} is not the folder of a sweep: it has no sweep.json`);
  const { variants } = JSON.parse(readFileSync(file, "utf8")) as SweepFile;
  return {
    folder,
    members: variants.map(({ name, config, run }) => ({
      ...{ name, config: parseConfig(config) },
      run: RunFolder.open(join(folder, run)),
    })),
  };
}

/** Trains those that are not finished yet, all on one stream. */
async function trainAll(
  context: Context,
  members: Member[],
  device: Device,
  activations: Activations,
): Promise<void> {
  const { terminal, signal } = context;
  const { train, validation, onTheFly } = activations;
  const open = members.filter(({ run }) => !existsSync(run.path("sae", "cfg.json")));
  if (open.length === 0) return;
  const trainers: Trainer[] = [];
  let progress: Progress | undefined;
  try {
    const began = performance.now();
    let waitedMs = 0;
    let training = false;
    const onWait = (ms: number) => void (waitedMs += ms);
    const watched = watch(
      train,
      signal,
      () => undefined,
      (ms) => {
        if (!training) onWait(ms);
      },
    );
    const openAll = async () => {
      for (const { config, run } of open)
        trainers.push(await openTrainer({ ...context, config }, run, device, watched));
    };
    await (onTheFly?.takeOff(openAll) ?? openAll());
    training = true;
    const total = trainers.reduce((sum, { totalSteps }) => sum + totalSteps, 0);
    const done = () => trainers.reduce((sum, { step }) => sum + step, 0);
    progress = new Progress({
      ...{ label: "training", unit: "steps", total, start: done(), quiet: terminal.quiet },
    });
    const save = async (i: number, state: Awaited<ReturnType<Trainer["state"]>>) => {
      const { config, run } = open[i];
      await writeCheckpoint(run.path("checkpoints"), state, config.train.keepCheckpoints);
    };
    for await (const { trainer, metrics } of trainTogether(trainers, {
      validation,
      saveCheckpoint: save,
      onWait,
    })) {
      open[trainer].run.appendMetrics({ ...metrics });
      progress.update(done());
    }
    progress.end();
    if (onTheFly) terminal.note(onTheFly.waits(performance.now() - began, waitedMs));
    for (const [i, trainer] of trainers.entries()) {
      const { config, run } = open[i];
      await saveTrained({ ...context, config }, run, device, activations, trainer);
    }
  } catch (error) {
    progress?.stop();
    // The iterator of activations throws this, between two steps: the trainers are whole.
    if (signal.aborted)
      for (const [i, trainer] of trainers.entries()) {
        const { config, run } = open[i];
        if (trainer.step > 0)
          await writeCheckpoint(
            run.path("checkpoints"),
            await trainer.state(),
            config.train.keepCheckpoints,
          );
      }
    throw error;
  } finally {
    for (const trainer of trainers) trainer.close();
  }
}

/** Writes pareto.json and, of several on the same activations, their figures. @returns the paths of the figures' SVG files. */
async function writeComparison(
  folder: string,
  members: Member[],
  groups: readonly ParetoPoint[][],
): Promise<string[]> {
  const front = frontOf(groups);
  const rows = groups.flat().map((point) => ({
    ...point,
    isOnFront: front.has(point.name),
    run: members.find(({ name }) => name === point.name)!.run.id,
  }));
  writeWhole(join(folder, "pareto.json"), JSON.stringify(rows, null, 2) + "\n");
  const plots: string[] = [];
  for (const [g, points] of groups.entries()) {
    if (groups.length > 1 && points.length === 1) continue;
    for (const { id, svg } of await paretoFigures(points)) {
      const name = groups.length > 1 ? `${id}-${g + 1}` : id;
      writeWhole(join(folder, `${name}.svg`), svg);
      writeWhole(join(folder, `${name}.png`), await renderPng(svg));
      plots.push(join(folder, `${name}.svg`));
    }
  }
  return plots;
}
