/** Files of text from the web, kept in a folder of copies. */
import { type FileHandle, mkdir, open, rename, rm, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, join } from "node:path";

import { messageOf, UserError } from "../../error.ts";
import { hashBytes } from "../../file-hash.ts";
import { ATTEMPTS, isPassing, Patience, pause } from "../hub-client.ts";
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

/** Silence after which a connection is given up. */
const TIMEOUT_MS = 60_000;
const RETRY_MS = 500;

/**
 * The whole of a URL → a file. A connection that is cut is continued where it ended while the server says,
 * by an ETag or a date, that the file is still the same; otherwise the cut is thrown.
 */
async function fetchTo(url: string, path: string): Promise<void> {
  const handle = await open(path, "w");
  const state: Part = { done: 0, validator: undefined };
  try {
    for (let vain = 0; ;) {
      const before = state.done;
      const patience = new Patience(TIMEOUT_MS);
      try {
        await fetchRest(url, handle, state, patience);
        return;
      } catch (error) {
        vain = state.done > before ? 0 : vain + 1;
        if (error instanceof UserError || state.validator === undefined || vain >= ATTEMPTS)
          throw error;
      } finally {
        patience.end();
      }
      await pause(RETRY_MS * 2 ** vain);
    }
  } finally {
    await handle.close();
  }
}

/** What there is of a file. */
interface Part {
  done: number;
  /** By what the server knows this state of the file again. */
  validator: string | undefined;
}

async function fetchRest(
  url: string,
  handle: FileHandle,
  part: Part,
  patience: Patience,
): Promise<void> {
  // Packed on the way, ranges would not be those of the file.
  const headers: Record<string, string> = { "accept-encoding": "identity" };
  if (part.validator !== undefined && part.done > 0)
    Object.assign(headers, { range: `bytes=${part.done}-`, "if-range": part.validator });
  const response = await fetch(url, { headers, signal: patience.signal });
  if (isPassing(response.status) && part.validator !== undefined)
    throw new Error(`the server answers ${response.status}`);
  if (!response.ok || !response.body)
    throw new UserError(
      `${url} cannot be downloaded: the server answers ${response.status} ${response.statusText}.`,
    );
  const range = /^bytes (\d+)-/.exec(response.headers.get("content-range") ?? "");
  if (response.status === 206 && Number(range?.[1]) !== part.done)
    throw new UserError(
      `${url} cannot be downloaded: the server sends another part than asked for.`,
    );
  if (response.status !== 206) {
    await handle.truncate(0);
    part.done = 0;
  }
  const packed = response.headers.get("content-encoding") !== null;
  part.validator = packed ? undefined : validatorOf(response);
  const length = response.headers.get("content-length");
  const total = packed || length === null ? undefined : part.done + Number(length);
  for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
    patience.renew();
    for (let at = 0; at < chunk.length;) {
      const rest = chunk.length - at;
      const { bytesWritten } = await handle.write(chunk, at, rest, part.done);
      at += bytesWritten;
      part.done += bytesWritten;
    }
  }
  if (total !== undefined && part.done !== total)
    throw new UserError(`${url} ended after ${part.done} of ${total} bytes: try again.`);
}

/** A weak ETag does not promise the same bytes. */
function validatorOf({ headers }: Response): string | undefined {
  const etag = headers.get("etag");
  return etag !== null && !etag.startsWith("W/")
    ? etag
    : (headers.get("last-modified") ?? undefined);
}
