/** Is a store what it was when it was finished? */
import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";

import { messageOf, UserError } from "../../error.ts";
import { hashBytes, hashFile } from "../../file-hash.ts";
import { jsonText } from "./commit.ts";
import { storeHash } from "./identity.ts";
import {
  manifestOf,
  planOf,
  readManifest,
  readPlan,
  readRecord,
  recordPath,
  type ShardRecord,
  type StoreManifest,
  type StorePlan,
} from "./manifest.ts";

export interface VerifyOptions {
  /** Bytes compared, of all. */
  onProgress?: (progress: { done: number; total: number }) => void;
  /** Stops between files. */
  signal?: AbortSignal;
}

export interface Verification {
  /** Whether collecting, adding, or the operation that makes it has ended. */
  finished: boolean;
  /** Rows and shards that are recorded. */
  rows: number;
  shards: number;
  /** Rows that were asked for. */
  planned: number;
  /** Bytes of the shards' files. */
  bytes: number;
  /** Files that are not what they were, each once, by path in the store, and what is wrong with them. */
  damaged: { path: string; problem: string }[];
  /** Of a finished store without damage: equal for stores of the same bytes from the same plan. */
  hash: string | undefined;
}

/**
 * Reads every file of the store at `path` and compares it with the records and the manifest, and these
 * with each other: a single changed byte in any of them is found. Damage is reported, not thrown.
 * @throws UserError when there is no store.
 */
export async function verifyStore(
  path: string,
  { onProgress, signal }: VerifyOptions = {},
): Promise<Verification> {
  const info = await stat(path).catch(() => undefined);
  const names = info?.isDirectory() ? await readdir(path) : [];
  if (!names.some((name) => /^(plan|manifest|shard-\d+)\.json$/.test(name)))
    throw new UserError(
      `${path} is no store of activations: give a folder that lens collect made.`,
    );
  const damage = new Map<string, string>();
  const report = (file: string, problem: string) => {
    if (!damage.has(file)) damage.set(file, problem);
  };
  /** What `read` gives; a file that it cannot read is damaged. */
  const tried = <T>(file: string, read: Promise<T | undefined>) =>
    read.catch((error: unknown) => {
      report(file, messageOf(error));
      return undefined;
    });

  const plan = await tried("plan.json", readPlan(path));
  const manifest = await tried("manifest.json", readManifest(path));
  if (!names.includes("plan.json")) report("plan.json", "is missing");
  const recorded = names.filter((name) => /^shard-\d+\.json$/.test(name)).length;
  // A store that is added to keeps its manifest until the new one is written.
  const isGrowing =
    manifest !== undefined &&
    plan !== undefined &&
    plan.tokens > manifest.tokens &&
    sorted({ ...plan, tokens: manifest.tokens }) === sorted(planOf(manifest));
  const finished = names.includes("manifest.json") && !isGrowing;
  const shards = manifest?.shards.length ?? recorded;
  const records: (ShardRecord | undefined)[] = [];
  for (let shard = 0; shard < shards; shard++) {
    const name = recordPath(shard);
    records.push(await tried(name, readRecord(path, shard)));
    if (!names.includes(name)) report(name, "is missing");
  }

  if (manifest) await compareJson(path, manifest, isGrowing ? undefined : plan, records, report);
  // Where the manifest cannot be relied on, the records say what is to be there.
  const trusted = damage.has("manifest.json") ? undefined : manifest;
  const listed = [...records.keys()].map((n) => trusted?.shards[n] ?? records[n]);
  const expected = listed.flatMap((shard) => shard?.files ?? []);
  const bytes = expected.reduce((sum, file) => sum + file.bytes, 0);
  let done = 0;
  for (const file of expected) {
    signal?.throwIfAborted();
    onProgress?.({ done, total: bytes });
    const found = await stat(join(path, file.path)).catch(() => undefined);
    if (!found) report(file.path, "is missing");
    else if (found.size !== file.bytes)
      report(file.path, `has ${found.size} bytes; ${file.bytes} are recorded`);
    else {
      const hash = await tried(file.path, hashFile(join(path, file.path)));
      if (hash !== undefined && hash !== file.xxh64)
        report(file.path, `has xxh64 ${hash}; ${file.xxh64} is recorded`);
    }
    done += file.bytes;
  }
  onProgress?.({ done, total: bytes });
  if (finished) await findExtra(path, new Set(expected.map((file) => file.path)), shards, report);

  const damaged = [...damage].map(([path, problem]) => ({ path, problem }));
  const rows = listed.reduce((sum, shard) => sum + (shard?.rows ?? 0), 0);
  return {
    ...{ finished, rows, shards, planned: (plan ?? manifest)?.tokens ?? rows, bytes, damaged },
    hash: finished && manifest && damaged.length === 0 ? await storeHash(manifest) : undefined,
  };
}

/**
 * Compares plan and records with the manifest, to the byte. The manifest has a hash of itself, so that
 * it can be told which of two files that disagree is the damaged one; old ones have none.
 */
async function compareJson(
  path: string,
  manifest: StoreManifest,
  plan: StorePlan | undefined,
  records: readonly (ShardRecord | undefined)[],
  report: (file: string, problem: string) => void,
): Promise<void> {
  const text = await readFile(join(path, "manifest.json"), "utf8");
  const raw = JSON.parse(text) as { hashes?: { self?: string } };
  if (jsonText(raw) !== text) report("manifest.json", "is not written as Lens writes it");
  const { hashes, ...content } = manifest;
  if (hashes) {
    delete raw.hashes?.self;
    const self = await hashBytes(Buffer.from(jsonText(raw)));
    if (self !== hashes.self) {
      report("manifest.json", `has xxh64 ${self}; it says ${hashes.self} itself`);
      return;
    }
    const named = ["plan.json", ...records.map((_, shard) => recordPath(shard))];
    for (const [n, name] of named.entries()) {
      if (![plan, ...records][n]) continue;
      const expected = [hashes.plan, ...hashes.records][n];
      const found = await hashFile(join(path, name));
      if (found !== expected) report(name, `has xxh64 ${found}; ${expected} is in the manifest`);
    }
  } else if (plan && records.every((record) => record !== undefined)) {
    if (sorted(content) !== sorted(manifestOf(plan, records, manifest.statistics)))
      report("manifest.json", "does not agree with plan.json and the shards' records");
  }
}

/** JSON with keys in alphabetical order. */
function sorted(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === "object" && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}

/** Shard files and records that belong to no shard of the manifest. */
async function findExtra(
  path: string,
  expected: ReadonlySet<string>,
  shards: number,
  report: (file: string, problem: string) => void,
): Promise<void> {
  for (const entry of await readdir(path, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const name = join(entry.parentPath, entry.name)
      .slice(join(path, "x").length - 1)
      .replaceAll("\\", "/");
    const isRecord = /^shard-\d+\.json$/.test(name);
    const isKnown = isRecord ? name < recordPath(shards) : expected.has(name);
    if (isKnown || !(isRecord || name.endsWith(".safetensors"))) continue;
    report(name, "is extra: the manifest does not know it");
  }
}
