/** The run folders that a server shows: found by their names alone, and read with what is opened kept. */
import { existsSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { join, resolve } from "node:path";

import { readExplanations, type Explanations } from "../analysis/explanations.ts";
import { featureColumns } from "../analysis/feature-columns.ts";
import { openFeatures, type Features } from "../analysis/features.ts";
import { messageOf, UserError } from "../error.ts";
import { packTable, type PackedTable } from "../packed-table.ts";
import { readMetrics, readRun, type MetricsLine, type RunInfo } from "../runs.ts";

/** Something that was asked for by name and is not there. */
export class NotFound extends UserError {
  override name = "NotFound";
}

/** Something that cannot be done as things are: the run is being worked in, say. */
export class Busy extends UserError {
  override name = "Busy";
}

/** A run's features with what lists need of them. */
export interface OpenedFeatures {
  features: Features;
  explanations: Explanations | undefined;
  table: PackedTable;
  bytes: Uint8Array<ArrayBuffer>;
}

/** A run folder that could not be read, and why. */
export interface BrokenRun {
  id: string;
  problem: string;
}

const ID = /^\w[\w.+-]*$/;
/** Indexes that are kept open: one of 131,072 latents takes about 100 MB. */
const KEPT = 3;

export class RunStore {
  readonly folder: string;
  readonly #opened = new Map<string, { stamp: string; opened: Promise<OpenedFeatures> }>();
  readonly #metrics = new Map<string, { stamp: string; lines: MetricsLine[] }>();

  constructor(folder: string) {
    this.folder = resolve(folder);
  }

  /** All runs, the newest first; those whose folder is damaged beside them. */
  list(): { runs: RunInfo[]; broken: BrokenRun[] } {
    const runs: RunInfo[] = [];
    const broken: BrokenRun[] = [];
    if (!existsSync(this.folder)) return { runs, broken };
    for (const entry of readdirSync(this.folder, { withFileTypes: true })) {
      if (!entry.isDirectory() || !ID.test(entry.name)) continue;
      if (!existsSync(join(this.folder, entry.name, "config.json"))) continue;
      try {
        runs.push(readRun(join(this.folder, entry.name)));
      } catch (error) {
        broken.push({ id: entry.name, problem: messageOf(error) });
      }
    }
    runs.sort((a, b) => b.started.localeCompare(a.started) || b.id.localeCompare(a.id));
    return { runs, broken };
  }

  /** The folder of a run. A name never leads out of the runs folder. @throws NotFound */
  folderOf(id: string): string {
    const folder = join(this.folder, id);
    if (!ID.test(id) || !existsSync(join(folder, "config.json")))
      throw new NotFound(`there is no run ${JSON.stringify(id)}`);
    return folder;
  }

  /** @throws NotFound, or UserError for a folder that is damaged. */
  run(id: string): RunInfo {
    return readRun(this.folderOf(id));
  }

  /** Metrics logged so far; read anew when the file has changed. */
  metrics(id: string): MetricsLine[] {
    const folder = this.folderOf(id);
    const stamp = stampOf(join(folder, "metrics.jsonl"));
    const known = this.#metrics.get(id);
    if (known?.stamp === stamp) return known.lines;
    const lines = readMetrics(folder);
    this.#metrics.set(id, { stamp, lines });
    return lines;
  }

  hasFeatures(id: string): boolean {
    return existsSync(join(this.folderOf(id), "features", "index.json"));
  }

  /** The run's feature index. @throws NotFound when it has none, UserError when it cannot be read. */
  async features(id: string): Promise<OpenedFeatures> {
    const dir = join(this.folderOf(id), "features");
    if (!this.hasFeatures(id))
      throw new NotFound(`run ${id} has no feature index yet; make one: lens features ${id}`);
    const stamp = ["index.json", "labels.json", "explanations.json"]
      .map((name) => stampOf(join(dir, name)))
      .join();
    const known = this.#opened.get(id);
    this.#opened.delete(id);
    const entry = known?.stamp === stamp ? known : { stamp, opened: openAll(dir) };
    this.#opened.set(id, entry); // last in order: used last
    const [oldest] = this.#opened.keys();
    if (this.#opened.size > KEPT) this.#opened.delete(oldest);
    try {
      return await entry.opened;
    } catch (error) {
      this.#opened.delete(id);
      throw error;
    }
  }

  /** Deletes a run's folder. @throws Busy while somebody works in it. */
  remove(id: string): void {
    const folder = this.folderOf(id);
    if (readRunOrNothing(folder)?.status === "running")
      throw new Busy(`run ${id} is being worked in: stop it first`);
    // Out of the list at once, even where deleting takes long or is cut short.
    const aside = join(this.folder, `.deleted-${id}`);
    renameSync(folder, aside);
    rmSync(aside, { recursive: true, force: true });
    this.#opened.delete(id);
    this.#metrics.delete(id);
  }
}

async function openAll(dir: string): Promise<OpenedFeatures> {
  const [features, explanations] = await Promise.all([openFeatures(dir), readExplanations(dir)]);
  const table = featureColumns(features, explanations);
  return { features, explanations, table, bytes: packTable(table) };
}

function readRunOrNothing(folder: string): RunInfo | undefined {
  try {
    return readRun(folder);
  } catch {
    return undefined; // damaged: it can be deleted all the same
  }
}

function stampOf(path: string): string {
  const found = statSync(path, { throwIfNoEntry: false });
  return found ? `${found.mtimeMs}-${found.size}` : "";
}
