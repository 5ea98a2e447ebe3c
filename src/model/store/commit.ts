/** How the files of a store come to count: written whole, recorded, and at last sealed by the manifest. */
import { mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";

import { messageOf, UserError } from "../../error.ts";
import { hashBytes, hashFile } from "../../file-hash.ts";
import { syncFolder } from "../../open-file.ts";
import {
  manifestOf,
  readRecord,
  recordPath,
  TOKENS,
  type ShardRecord,
  type StorePlan,
} from "./manifest.ts";
import { geometricMedians } from "./medians.ts";

/** Makes the folder of a store. @throws UserError where that cannot be. */
export async function makeFolder(out: string): Promise<void> {
  await mkdir(out, { recursive: true }).catch((error: unknown) => {
    throw new UserError(`${out} cannot be made: ${messageOf(error)}`);
  });
}

/** @throws UserError when a folder in which no store was begun holds anything. */
export async function requireEmpty(out: string): Promise<void> {
  const strangers = (await readdir(out)).filter((name) => !/^lock$|\.tmp$/.test(name));
  if (strangers.length > 0)
    throw new UserError(
      `${out} is not empty and holds no store of activations (${strangers.slice(0, 3).join(", ")}): use another folder.`,
    );
}

/** Records of the shards that are whole, up to the first that is not. */
export async function committedShards(out: string): Promise<ShardRecord[]> {
  const shards: ShardRecord[] = [];
  for (;;) {
    const record = await readRecord(out, shards.length);
    if (!record || !(await isWhole(out, record))) return shards;
    shards.push(record);
  }
}

async function isWhole(out: string, record: ShardRecord): Promise<boolean> {
  for (const { path, bytes } of record.files) {
    const info = await stat(join(out, path)).catch(() => undefined);
    if (info?.size !== bytes) return false;
  }
  return true;
}

/** Removes what interrupted attempts left, and records of shards that come after a missing one. */
export async function removeUncommitted(
  out: string,
  plan: StorePlan,
  shards: number,
): Promise<void> {
  for (const folder of ["", TOKENS, ...plan.hookPoints.map(({ name }) => name)]) {
    const path = join(out, folder);
    for (const name of await readdir(path).catch(() => [])) {
      const isTemporary = name.endsWith(".tmp") && !name.startsWith("lock");
      const isLater = /^shard-\d+\.json$/.test(name) && name >= recordPath(shards);
      if (isTemporary || isLater) await rm(join(path, name));
    }
  }
}

/** Writes the manifest, with the hashes of the plan and of the records: then the store is finished. */
export async function finishStore(
  out: string,
  plan: StorePlan,
  shards: readonly ShardRecord[],
): Promise<void> {
  const records: string[] = [];
  for (const shard of shards.keys()) records.push(await hashFile(join(out, recordPath(shard))));
  const hashes = { plan: await hashFile(join(out, "plan.json")), records };
  const medians = await geometricMedians(out, plan, shards);
  const manifest = { ...manifestOf(plan, shards, medians), hashes };
  const self = await hashBytes(Buffer.from(jsonText(manifest)));
  await writeJson(join(out, "manifest.json"), { ...manifest, hashes: { ...hashes, self } });
}

/** What `writeJson` writes. */
export const jsonText = (value: unknown) => JSON.stringify(value, null, 1) + "\n";

/** The file appears whole or not at all, and stays after a power cut. */
export async function writeJson(path: string, value: unknown): Promise<void> {
  const temporary = `${path}.${process.pid}.tmp`;
  const handle = await open(temporary, "w");
  try {
    await handle.writeFile(jsonText(value));
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, path);
  await syncFolder(dirname(path));
}
