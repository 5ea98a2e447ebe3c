/**
 * One file of the hub → one blob of the cache. What arrives goes to a partial file, which outlives a cut
 * connection and a killed process and is continued; only what has the right size and hash gets the blob's name.
 */
import { createHash, type Hash } from "node:crypto";
import { constants } from "node:fs";
import * as fs from "node:fs/promises";
import { dirname } from "node:path";

import { messageOf, UserError } from "../error.ts";
import { isLocked, lockFolder, unlockFolder } from "../lock.ts";
import { codeOf, type RepoName, showName, sizeOf } from "./hub-cache.ts";
import {
  ATTEMPTS,
  follow,
  type HubSettings,
  isPassing,
  Patience,
  pause,
  reasonOf,
  refusal,
  Unreachable,
} from "./hub-client.ts";

export interface BlobJob {
  settings: HubSettings;
  repo: RepoName;
  url: string;
  /** What the hub says of the file. */
  file: { path: string; size: number; hash: string };
  /** Where it goes. */
  blob: string;
  /** A folder that stands for the blob while it is fetched. */
  lock: string;
  /** Bytes that are there now, also while another process fetches them. */
  onBytes?: ((done: number) => void) | undefined;
  signal?: AbortSignal | undefined;
  retryMs?: number | undefined;
}

const LOOK_MS = 200;
/** After this time without a byte, whoever has the lock is taken for stuck. */
const STUCK_MS = 5 * 60_000;

/** Where a file is while it is not whole. The name is this program's own: others write their partial files differently. */
export function partialOf(blob: string): string {
  return `${blob}.lens.incomplete`;
}

/** @throws UserError, HubRefusal or Unreachable; what has arrived is kept for the next attempt. */
export async function fetchBlob(job: BlobJob): Promise<void> {
  const { blob, file } = job;
  try {
    await fs.mkdir(dirname(blob), { recursive: true });
    if (!(await takeTurn(job))) return;
    try {
      if ((await sizeOf(blob)) === file.size) return;
      await fetchChecked(job);
    } finally {
      unlockFolder(job.lock);
      await fs.rmdir(job.lock).catch(() => undefined); // somebody else waits in it
    }
  } catch (error) {
    throw explained(error, job);
  }
}

/** True once the blob is ours to fetch, false when somebody else has fetched it. */
async function takeTurn({ lock, blob, file, onBytes, signal }: BlobJob): Promise<boolean> {
  let size = -1;
  let moved = Date.now();
  for (let vain = 0; ;) {
    signal?.throwIfAborted();
    try {
      await fs.mkdir(lock, { recursive: true });
      lockFolder(lock);
      return true;
    } catch (error) {
      // Its owner may have left, folder and all, since it refused.
      if (!isLocked(lock) && ++vain > ATTEMPTS) throw error;
      if (Date.now() - moved > STUCK_MS) throw error;
    }
    if ((await sizeOf(blob)) === file.size) return false;
    const now = (await sizeOf(partialOf(blob))) ?? 0;
    if (now !== size) moved = Date.now();
    size = now;
    onBytes?.(size);
    await pause(LOOK_MS, signal);
  }
}

async function fetchChecked(job: BlobJob): Promise<void> {
  const { blob, file, repo } = job;
  const partial = partialOf(blob);
  for (;;) {
    const handle = await fs.open(partial, constants.O_RDWR | constants.O_CREAT);
    let outcome: { hash: string; wasContinued: boolean };
    try {
      outcome = await fill(job, handle);
      // The name promises the content, after a power cut too.
      await handle.sync();
    } finally {
      await handle.close();
    }
    if (outcome.hash === file.hash) break;
    await fs.rm(partial, { force: true });
    // What an earlier process left may have been damaged; what came in one go was not.
    if (!outcome.wasContinued)
      throw new UserError(
        `${file.path} of ${showName(repo)} arrived damaged: its ${hashName(file.hash)} is ${outcome.hash}, the hub says ${file.hash}. It was thrown away; try again. If it happens again, something between here and ${new URL(job.url).host} changes files.`,
      );
  }
  await fs.rename(partial, blob);
}

/** Brings the partial file to its full size and returns the hash of what is in it. */
async function fill(
  job: BlobJob,
  handle: fs.FileHandle,
): Promise<{ hash: string; wasContinued: boolean }> {
  const { file, signal, onBytes, retryMs = 500 } = job;
  const state = { done: (await handle.stat()).size, hash: hasher(file) };
  const restart = async () => {
    await handle.truncate(0);
    Object.assign(state, { done: 0, hash: hasher(file) });
  };
  if (state.done > file.size) await restart();
  let wasContinued = state.done > 0;
  await hashBeginning(handle, state.done, state.hash);
  onBytes?.(state.done);

  for (let vain = 0; state.done < file.size;) {
    const before = state.done;
    let trouble = `the connection ended after ${before} of ${file.size} bytes`;
    const patience = new Patience(job.settings.timeoutMs, signal);
    try {
      const response = await open(job, before, patience.signal);
      if (response === "anew") {
        await restart();
        wasContinued = false;
      } else {
        if (before > 0 && response.status === 200) {
          await restart(); // the server cannot continue, and sends everything
          wasContinued = false;
        }
        await append(job, handle, state, response, patience);
        trouble = `the connection ended after ${state.done} of ${file.size} bytes`;
      }
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof UserError || isOfDisk(error)) throw error;
      trouble = reasonOf(error);
    } finally {
      patience.end();
    }
    if (state.done >= file.size) break;
    vain = state.done > before ? 0 : vain + 1;
    if (vain >= ATTEMPTS)
      throw new Unreachable(
        `${file.path} of ${showName(job.repo)} could not be fetched from ${new URL(job.url).host} (${trouble}); the ${state.done} of ${file.size} bytes that arrived are kept, and the same command goes on from there`,
      );
    await pause(retryMs * 2 ** vain, signal);
  }
  return { hash: state.hash.digest("hex"), wasContinued };
}

/** The rest of the file from `from` on, or all of it (status 200); "anew" when the server knows no such rest. */
async function open(job: BlobJob, from: number, signal: AbortSignal): Promise<Response | "anew"> {
  const { settings, repo, file, url } = job;
  // Compressed, neither sizes nor ranges would be those of the file.
  const headers: Record<string, string> = { "accept-encoding": "identity" };
  if (from > 0) headers["range"] = `bytes=${from}-`;
  const { response, etag } = await follow(settings, url, { headers, signal });
  const { status } = response;
  if (status === 416 && from > 0) {
    await response.body?.cancel();
    return "anew";
  }
  if (isPassing(status)) {
    await response.body?.cancel();
    throw new Error(`${new URL(response.url || url).host} answered ${status}`);
  }
  if (!response.ok) throw await refusal(settings, repo, response, file.path);
  const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.headers.get("content-range") ?? "");
  const isWrongRest = status === 206 && (from === 0 || Number(range?.[1]) !== from);
  const total = status === 206 ? range?.[2] : response.headers.get("content-length");
  const size = total === undefined || total === null || total === "*" ? file.size : Number(total);
  // A hash of another kind says nothing; one of the same kind says that this is another file.
  const isOther = etag !== undefined && etag.length === file.hash.length && etag !== file.hash;
  if (!isWrongRest && size === file.size && !(isOther && /^[0-9a-f]+$/.test(etag))) return response;
  await response.body?.cancel();
  if (isWrongRest) return "anew";
  const difference =
    size === file.size
      ? `is of hash ${etag}, not ${file.hash}`
      : `has ${size} bytes, not ${file.size}`;
  throw new UserError(
    `${file.path} of ${showName(repo)} as it is sent ${difference} as the hub lists it: try again; if it happens again, the repository or a mirror of it is damaged.`,
  );
}

async function append(
  job: BlobJob,
  handle: fs.FileHandle,
  state: { done: number; hash: Hash },
  response: Response,
  patience: Patience,
): Promise<void> {
  const { file, repo, onBytes } = job;
  if (!response.body) return;
  for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
    patience.renew();
    if (state.done + chunk.length > file.size)
      throw new UserError(
        `${file.path} of ${showName(repo)} is longer than the ${file.size} bytes that the hub lists: the repository or a mirror of it is damaged.`,
      );
    for (let at = 0; at < chunk.length;) {
      const { bytesWritten } = await handle.write(
        ...([chunk, at, chunk.length - at, state.done + at] as const),
      );
      at += bytesWritten;
    }
    state.hash.update(chunk);
    state.done += chunk.length;
    onBytes?.(state.done);
  }
}

/** The hub names files in its large storage by their SHA-256, those in git as git does. */
function hasher({ hash, size }: { hash: string; size: number }): Hash {
  if (hash.length === 64) return createHash("sha256");
  return createHash("sha1").update(`blob ${size}\0`);
}

function hashName(hash: string): string {
  return hash.length === 64 ? "SHA-256" : "git hash";
}

async function hashBeginning(handle: fs.FileHandle, length: number, hash: Hash): Promise<void> {
  const buffer = Buffer.allocUnsafe(1 << 20);
  for (let at = 0; at < length;) {
    const wanted = Math.min(buffer.length, length - at);
    const { bytesRead } = await handle.read(buffer, 0, wanted, at);
    if (bytesRead === 0) throw new Error("a partial file became shorter while it was read");
    hash.update(buffer.subarray(0, bytesRead));
    at += bytesRead;
  }
}

const DISK = new Map([
  ["ENOSPC", "the disk is full"],
  ["EDQUOT", "the disk quota is used up"],
  ["EFBIG", "the file is larger than is allowed here"],
  ["EROFS", "it cannot be written to"],
  ["EACCES", "it cannot be written to"],
  ["EPERM", "it cannot be written to"],
  ["EIO", "the disk fails"],
]);

function isOfDisk(error: unknown): boolean {
  return DISK.has(codeOf(error) ?? "");
}

function explained(error: unknown, { blob, file, repo }: BlobJob): unknown {
  if (error instanceof UserError || !isOfDisk(error)) return error;
  return new UserError(
    `${file.path} of ${showName(repo)} (${file.size} bytes) cannot be stored in ${dirname(blob)}: ${DISK.get(codeOf(error)!)} (${messageOf(error)}). What arrived is kept and continued by the same command; make room, or set HF_HUB_CACHE to a folder elsewhere.`,
  );
}
