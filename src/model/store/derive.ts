/**
 * Stores made of others, by the rules that collecting keeps: a plan first, shards that count once they
 * are recorded, the manifest last. Whatever stops it, the same call goes on and ends in the same bytes.
 */
import { statfs } from "node:fs/promises";
import { join, resolve } from "node:path";

import { UserError } from "../../error.ts";
import { lockFolder, unlockFolder } from "../../lock.ts";
import { openActivations } from "../activations.ts";
import { committedShards, finishStore, makeFolder, removeUncommitted, requireEmpty, writeJson } from "./commit.ts"; // prettier-ignore
import { differencesOf, essence, storeHash } from "./identity.ts";
import {
  readManifest,
  readPlan,
  readRecord,
  recordPath,
  type ShardRecord,
  type StoreManifest,
  type StorePlan,
} from "./manifest.ts";

/** What all operations take. */
export interface DeriveOptions {
  /** The folder to fill. */
  out: string;
  /** Before anything is written: bytes still to be written, and bytes free on the disk. */
  onPlan?: (plan: { bytesNeeded: number; bytesFree: number }) => void;
  onProgress?: (progress: { done: number; total: number }) => void;
  /** Stops between pieces of work; what is whole stays, and the same call goes on from there. */
  signal?: AbortSignal;
}

/** A finished store that another is made of. */
export interface SourceStore {
  path: string;
  manifest: StoreManifest;
  /** Commit records of its shards, which have their sums. */
  records: ShardRecord[];
  hash: string;
}

/** @throws UserError when it is no finished store of Lens, or a file of it is missing or cut. */
export async function openSource(path: string): Promise<SourceStore> {
  const whole = await readManifest(path).catch(() => undefined);
  const { manifest } = await openActivations(
    path,
    whole && { hookPoint: whole.hookPoints[0].name },
  );
  if (!manifest)
    throw new UserError(`${path} was made elsewhere: only stores that Lens made can be used here.`);
  const records: ShardRecord[] = [];
  for (const shard of manifest.shards.keys()) {
    const record = await readRecord(path, shard);
    if (!record)
      throw new UserError(`${join(path, recordPath(shard))} is missing: copy the store again.`);
    records.push(record);
  }
  return { path, manifest, records, hash: await storeHash(manifest) };
}

/** A store being made. */
export class Derivation {
  readonly out: string;
  readonly plan: StorePlan;
  /** Records of the shards that are whole. */
  readonly shards: ShardRecord[];

  constructor(out: string, plan: StorePlan, shards: ShardRecord[]) {
    this.out = out;
    this.plan = plan;
    this.shards = shards;
  }

  /** Bytes in the shards that are whole. */
  get bytes(): number {
    return this.shards.flatMap(({ files }) => files).reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** Records the next shard, whose files are whole. */
  async commit(shard: Omit<ShardRecord, "next">): Promise<void> {
    const record: ShardRecord = { ...shard, next: null };
    await writeJson(join(this.out, recordPath(this.shards.length)), record);
    this.shards.push(record);
  }
}

/**
 * Makes the store of `plan` in `options.out`; `work` commits the shards that are missing.
 * @param bytes of a derivation, how many are still to be written.
 * @throws UserError when the folder holds anything else (saying what differs), a live process has it,
 * or the disk has not enough room.
 */
export async function deriveStore(
  plan: StorePlan,
  { out, onPlan }: DeriveOptions,
  bytes: (store: Derivation) => number | Promise<number>,
  work: (store: Derivation) => Promise<void>,
): Promise<StoreManifest> {
  await makeFolder(out);
  lockFolder(out);
  try {
    await settlePlan(out, plan);
    const store = new Derivation(out, plan, await committedShards(out));
    const manifest = await readManifest(out);
    if (manifest && manifest.shards.length === store.shards.length) return manifest;
    await removeUncommitted(out, plan, store.shards.length);
    await requireSpace(out, await bytes(store), onPlan);
    await work(store);
    await finishStore(out, plan, store.shards);
    return (await readManifest(out))!;
  } catch (error) {
    if (!["ENOSPC", "EDQUOT"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
    throw new UserError(
      `no space left on the disk for ${out}: what is whole is kept; with space, the same command goes on from there.`,
    );
  } finally {
    unlockFolder(out);
  }
}

/** @throws UserError when `out` holds, or lies in, one of the stores that are read. */
export function requireOther(out: string, sources: readonly string[]): void {
  const same = sources.find((path) => resolve(path) === resolve(out));
  if (same !== undefined)
    throw new UserError(`${same} is to be read and cannot be written: use another folder.`);
}

async function settlePlan(out: string, plan: StorePlan): Promise<void> {
  const begun = await readPlan(out);
  if (begun) {
    const differences = differencesOf(essence(begun), essence(plan));
    if (differences.length === 0) return;
    // Until a shard is whole there is nothing to lose.
    if (await readRecord(out, 0))
      throw new UserError(
        `${out} holds another store: ${differences.join("; ")}. Use the same options to go on, or another folder.`,
      );
  } else await requireEmpty(out);
  await writeJson(join(out, "plan.json"), plan);
}

async function requireSpace(
  out: string,
  bytesNeeded: number,
  onPlan: DeriveOptions["onPlan"],
): Promise<void> {
  const { bavail, bsize } = await statfs(out);
  const bytesFree = bavail * bsize;
  onPlan?.({ bytesNeeded, bytesFree });
  if (bytesNeeded > bytesFree)
    throw new UserError(
      `${out} needs ${gigabytes(bytesNeeded)}, but its disk has ${gigabytes(bytesFree)} free: free some, or use another disk.`,
    );
}

const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(3)} GB`;
