/** Files of text from the web, kept in a folder of copies. */
import { createWriteStream } from "node:fs";
import { mkdir, rename, rm, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, join } from "node:path";
import { pipeline } from "node:stream/promises";

import { messageOf, UserError } from "../../error.ts";
import { hashBytes } from "../../safetensors.ts";
import { kindOf, KINDS_TEXT } from "./formats.ts";

export function isUrl(source: string): boolean {
  return /^https?:\/\//i.test(source);
}

/**
 * The path of a URL's copy, fetched once: text is read several times, and Parquet from its end. To
 * fetch it again, remove the copy from the folder text-files in the cache of Lens
 * ($XDG_CACHE_HOME or ~/.cache, then latent-lens).
 * @throws UserError when it cannot be fetched, with the reason.
 */
export async function download(url: string): Promise<string> {
  let name: string;
  try {
    name = basename(decodeURIComponent(new URL(url).pathname));
  } catch (error) {
    throw new UserError(`${url} is no URL: ${messageOf(error)}`);
  }
  if (!kindOf(name))
    throw new UserError(`${url} does not end in the name of a file of text: ${KINDS_TEXT}.`);
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), ".cache");
  const folder = join(cache, "latent-lens", "text-files");
  const hash = await hashBytes(new TextEncoder().encode(url));
  const path = join(folder, `${hash}-${name.slice(-80)}`);
  if (await stat(path).catch(() => undefined)) return path;
  await mkdir(folder, { recursive: true });
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    await fetchTo(url, temporary);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    if (error instanceof UserError) throw error;
    const { cause } = error as Error;
    throw new UserError(
      `${url} cannot be downloaded: ${messageOf(error)}${cause ? ` (${messageOf(cause)})` : ""}.`,
    );
  }
  return path;
}

async function fetchTo(url: string, path: string): Promise<void> {
  const response = await fetch(url);
  if (!response.ok || !response.body)
    throw new UserError(
      `${url} cannot be downloaded: the server answers ${response.status} ${response.statusText}.`,
    );
  const body = response.body as unknown as AsyncIterable<Uint8Array>;
  await pipeline(body, createWriteStream(path));
  // fetch unpacks what is encoded on the way; then the length is that of what was sent.
  const length = response.headers.get("content-length");
  if (length === null || response.headers.get("content-encoding")) return;
  const { size } = await stat(path);
  if (size !== Number(length))
    throw new UserError(`${url} ended after ${size} of ${length} bytes: try again.`);
}
