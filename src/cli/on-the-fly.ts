/** Activations that are stored nowhere: the model runs while training does. */
import type { ModelActivationsConfig } from "../config.ts";
import type { Model } from "../model/model.ts";
import { onTheFly } from "../model/on-the-fly.ts";
import { short } from "../readable.ts";
import type { HookPointRoles } from "../workbench/hook-points.ts";
import { collectingOf, loadingOf } from "../workbench/reading.ts";
import { Progress } from "./progress.ts";
import type { Activations, Context } from "./sources.ts";
import { noteEmpty } from "./terminal.ts";

/** What training straight from the model needs beside the activations themselves. */
export interface Flight {
  /** Opens what trains, showing meanwhile how far its first activations are; the held-out ones come before. */
  takeOff<T>(open: () => Promise<T>): Promise<T>;
  /** Who waited for whom. `trainingMs`: how long training took, `waitedMs`: of these for activations. */
  waits(trainingMs: number, waitedMs: number): string;
  close(): Promise<void>;
}

/** Both splits as the model makes them: those to train on window by window, the held-out ones kept in memory. */
export async function onTheFlySources(
  { config, terminal, signal }: Context,
  activations: ModelActivationsConfig,
  model: Model,
  hookPoints: HookPointRoles,
): Promise<Activations> {
  const { train, threads } = config;
  const { quiet } = terminal;
  const { shardRows: _, ...collecting } = collectingOf(activations);
  const counter = (label: string, total: number) =>
    new Progress({ label, unit: "tokens", total, quiet });
  let onRows = (_: number) => {};
  const open = async (split: "train" | "validation", tokens: number) => {
    const counting = counter(`counting (${split})`, tokens);
    let counted = 0;
    let empty = 0;
    const opened = await onTheFly(model, activations.data, {
      ...{ hookPoints: hookPoints.inputs, targetHookPoint: hookPoints.target },
      ...{ ...collecting, split, tokens, signal },
      ...{ keep: split === "validation", aheadRows: Math.max(8192, 2 * train.batchSize) },
      load: { ...loadingOf(activations), ...(threads !== undefined && { threads }) },
      onCount: (rows) => counting.update((counted = rows)),
      onEmpty: () => void empty++,
      onRows: (made) => onRows(made),
    });
    if (counted > 0) counting.end();
    noteEmpty(terminal, empty);
    return opened;
  };
  const rows = await open("train", activations.tokens);
  const heldOut = await open("validation", activations.validationTokens);
  const { bufferRows } = train;
  const total = Math.min(rows.source.rows, bufferRows);
  const windows =
    rows.source.rows > bufferRows
      ? `, mixed in windows of ${short(bufferRows)} that follow each other`
      : ", which all fit into train.bufferRows";
  terminal.note(
    `activations: ${short(rows.source.rows)} straight from the model${windows}; nothing is stored`,
  );

  /** Shows the rows that `work` has the model make. */
  async function shown<T>(label: string, total: number, work: () => Promise<T>): Promise<T> {
    const progress = counter(label, total);
    let isDone = false;
    onRows = (made) => {
      if (isDone) return;
      progress.update(Math.min(total, made));
      if ((isDone = made >= total)) progress.end();
    };
    try {
      return await work();
    } catch (error) {
      progress.stop();
      throw error;
    } finally {
      onRows = () => {};
    }
  }

  return {
    ...{ train: rows.source, validation: heldOut.source, model, hookPoints, manifest: rows.plan },
    onTheFly: {
      async takeOff(open) {
        await shown("held-out activations", heldOut.source.rows, () => heldOut.load());
        return shown("first activations", total, open);
      },
      waits(trainingMs, waitedMs) {
        const { workedMs, waitedMs: idleMs } = rows.times;
        const percent = (part: number, of: number) => Math.round((100 * part) / Math.max(of, 1));
        return (
          `the model waited ${percent(idleMs, workedMs + idleMs)} % of the time for training, ` +
          `training ${percent(waitedMs, trainingMs)} % for the model`
        );
      },
      async close() {
        await rows.close();
        await heldOut.close();
      },
    },
  };
}
