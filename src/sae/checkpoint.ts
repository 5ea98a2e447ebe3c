/**
 * Checkpoints on disk: one folder per step, `step-00000500/`, with `state.safetensors` (weights,
 * Adam's moments, counters) and `state.json` (everything else, and the hash of the former). A folder
 * is written under a temporary name and renamed, so that it is there as a whole or not at all.
 */
import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { messageOf, UserError } from "../error.ts";
import { hashFile } from "../file-hash.ts";
import { Safetensors } from "../safetensors.ts";
import { writeSafetensors, type TensorToWrite } from "../safetensors-write.ts";
import type { Progress, StateTensor, TrainerState } from "./train.ts";

const FORMAT = 2;
const FOLDER = /^step-(\d{8,})$/;

interface StateFile {
  format: number;
  xxh64: string;
  progress: Progress;
}

/**
 * Writes `state` into `folder`/step-NNNNNNNN and then removes all but the `keep` newest checkpoints.
 * @returns the checkpoint's path. @throws UserError when the disk is full; older checkpoints stay.
 */
export async function writeCheckpoint(
  folder: string,
  state: TrainerState,
  keep: number,
): Promise<string> {
  const name = `step-${String(state.progress.step).padStart(8, "0")}`;
  const path = join(folder, name);
  const temporary = join(folder, `.${name}.${process.pid}.tmp`);
  const tensors: Record<string, TensorToWrite> = {};
  for (const [key, data] of Object.entries(state.tensors)) {
    if (!data) continue;
    const dtype = data instanceof Int32Array ? "I32" : "F32";
    const width = rowWidth(key, state.progress);
    const shape = width ? [data.length / width, width] : [data.length];
    tensors[key] = { dtype, shape, data };
  }
  try {
    await mkdir(temporary, { recursive: true });
    const { xxh64 } = await writeSafetensors(join(temporary, "state.safetensors"), tensors);
    const file: StateFile = { format: FORMAT, xxh64, progress: state.progress };
    await writeSynced(join(temporary, "state.json"), JSON.stringify(file));
    await rm(path, { recursive: true, force: true });
    await rename(temporary, path);
    await syncFolder(folder);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    if ((error as NodeJS.ErrnoException).code === "ENOSPC")
      throw new UserError(`no space left on the disk for ${path}: free some, then resume.`);
    throw error;
  }
  for (const { path: old } of (await checkpoints(folder)).slice(keep))
    await rm(old, { recursive: true, force: true });
  await removeLeftovers(folder);
  return path;
}

/** Numbers in a row of a tensor that is a matrix. */
function rowWidth(name: string, { dIn, dOut }: Progress): number | undefined {
  if (/^W_dec|^output\.(matrix|inverse)/.test(name)) return dOut;
  return /^W_|^input\.(matrix|inverse)/.test(name) ? dIn : undefined;
}

/** @throws UserError when the checkpoint is missing, incomplete or damaged. */
export async function readCheckpoint(path: string): Promise<TrainerState> {
  const tensorFile = join(path, "state.safetensors");
  let file: StateFile;
  try {
    file = JSON.parse(await readFile(join(path, "state.json"), "utf8")) as StateFile;
  } catch (error) {
    throw new UserError(`${path} is not a readable checkpoint: ${messageOf(error)}`);
  }
  if (file.format !== FORMAT)
    throw new UserError(
      `${path} has checkpoint format ${file.format}; this version reads format ${FORMAT}.`,
    );
  const hash = await hashFile(tensorFile);
  if (hash !== file.xxh64)
    throw new UserError(
      `${tensorFile} is damaged: its hash is ${hash}, state.json says ${file.xxh64}. Use an older checkpoint.`,
    );
  const store = await Safetensors.open(tensorFile);
  try {
    const tensors: TrainerState["tensors"] = {};
    for (const { name, dtype } of store.tensors.values())
      tensors[name as StateTensor] =
        dtype === "I32" ? await store.ints(name) : await store.floats(name);
    return { progress: file.progress, tensors };
  } finally {
    await store.close();
  }
}

/** The newest checkpoint in `folder` that can be read, or undefined when there is none; `onSkip` hears of damaged ones. */
export async function latestCheckpoint(
  folder: string,
  onSkip: (message: string) => void = () => undefined,
): Promise<{ path: string; state: TrainerState } | undefined> {
  for (const { path } of await checkpoints(folder)) {
    try {
      return { path, state: await readCheckpoint(path) };
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      onSkip(error.message);
    }
  }
  return undefined;
}

/** Newest first. */
async function checkpoints(folder: string): Promise<{ path: string; step: number }[]> {
  return (await names(folder))
    .flatMap((name) => {
      const match = FOLDER.exec(name);
      return match ? [{ path: join(folder, name), step: Number(match[1]) }] : [];
    })
    .sort((a, b) => b.step - a.step);
}

/** What a process that died while writing left behind. A run folder has one writer, so none of it is in use. */
async function removeLeftovers(folder: string): Promise<void> {
  for (const name of await names(folder))
    if (/^\.step-\d+\.\d+\.tmp$/.test(name))
      await rm(join(folder, name), { recursive: true, force: true });
}

async function names(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

async function writeSynced(path: string, text: string): Promise<void> {
  const handle = await open(path, "w");
  try {
    await handle.writeFile(text);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Makes a rename durable; Windows cannot open folders, there the rename is all there is. */
async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, "r").catch(() => undefined);
  await handle?.sync().catch(() => undefined);
  await handle?.close();
}
