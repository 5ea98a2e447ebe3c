/** Files that a person named: what is wrong with one is said in words. And folders, synced. */
import { open, type FileHandle, readFile, stat } from "node:fs/promises";

import { UserError } from "./error.ts";

/** @throws UserError for what is not there, is no file, or cannot be read. */
export async function openForReading(path: string): Promise<FileHandle> {
  try {
    const handle = await open(path, "r");
    if ((await stat(path)).isFile()) return handle;
    await handle.close();
    throw new UserError(`${path} is not a file: give the path of a .safetensors file.`);
  } catch (error) {
    throw readingError(path, error);
  }
}

/** Its text. @throws UserError as `openForReading` does. */
export async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    throw readingError(path, error);
  }
}

function readingError(path: string, error: unknown): unknown {
  const { code } = error as NodeJS.ErrnoException;
  if (code === "ENOENT") return new UserError(`${path} does not exist: check the path.`);
  if (code === "EACCES" || code === "EPERM" || code === "EISDIR") {
    return new UserError(`${path} cannot be read (${code}): check that it is a readable file.`);
  }
  return error;
}

/** Makes a rename durable. Windows cannot open folders; there the rename is all there is. */
export async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, "r").catch(() => undefined);
  await handle?.sync().catch(() => undefined);
  await handle?.close();
}
