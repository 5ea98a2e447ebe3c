/** The run folders that a server shows: found by their names alone, and read with what is opened kept. */
import { existsSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { z } from "zod";

import { readExplanations, type Explanations } from "../analysis/explanations.ts";
import { featureColumns } from "../analysis/feature-columns.ts";
import { openFeatures, type Features } from "../analysis/features.ts";
import { messageOf, UserError } from "../error.ts";
import { packTable, type PackedTable } from "../packed-table.ts";
import { isLocked } from "../lock.ts";
import { readMetrics, readRun, type MetricsLine, type RunInfo } from "../runs.ts";
import { widthOf } from "./run-rows.ts";

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
  damage: Damage;
  /** Of latents that were asked for lately, as JSON. */
  answers: Map<number, Uint8Array<ArrayBuffer>>;
}

/** Of the files beside an index: what is left out since it cannot be read, and why. */
export interface Damage {
  labels?: string;
  explanations?: string;
}

/** A run folder that could not be read, and why. */
export interface BrokenRun {
  id: string;
  problem: string;
}

/** No dot in front: names with one are the server's own. */
const ID = /^[\w-][\w.+-]*$/;
/** What tells a folder of a run that lost its config.json from others. */
const PARTS = ["metrics.jsonl", "summary.json", "checkpoints", "sae"];
/** What a run has once it begins, has trained, was looked into, and has ended. */
const STAGES = ["config.json", "sae/cfg.json", "features/index.json", "summary.json"];
/** Indexes that are kept open: one of 131,072 latents takes about 100 MB. */
const KEPT = 3;
/** Bytes of an index with the files beside it that take a second to read: about 20,000 latents. */
const QUICK = 64 * 2 ** 20;
/** What an index is opened from. */
const FILES = ["index.json", "labels.json", "explanations.json"];

export class RunStore {
  readonly folder: string;
  readonly #opened = new Map<string, { stamp: string; opened: Promise<OpenedFeatures> }>();
  /** Kept for longer than what was opened. */
  readonly #damage = new Map<string, { stamp: string; damage: Damage }>();
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
      const folder = join(this.folder, entry.name);
      if (!isRun(folder)) continue;
      try {
        runs.push(readWhole(folder));
      } catch (error) {
        broken.push({ id: entry.name, problem: messageOf(error) });
      }
    }
    runs.sort((a, b) => b.started.localeCompare(a.started) || b.id.localeCompare(a.id));
    return { runs, broken };
  }

  /** Changes when a run comes or goes, ends, or gets its autoencoder or features; cheaper than `list`. */
  stamp(): string {
    if (!existsSync(this.folder)) return "";
    const runs = readdirSync(this.folder).filter((name) => ID.test(name));
    return runs
      .map(
        (name) => name + STAGES.map((file) => +existsSync(join(this.folder, name, file))).join(""),
      )
      .join();
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
    return readWhole(this.folderOf(id));
  }

  /** Metrics logged so far; read anew when the file has changed. */
  metrics(id: string): MetricsLine[] {
    const folder = this.folderOf(id);
    const stamp = stampOf(join(folder, "metrics.jsonl"));
    const known = this.#metrics.get(id);
    if (known?.stamp === stamp) return known.lines;
    const lines = readMetrics(folder);
    const wrong = lines.findIndex((line) => typeof (line as MetricsLine | null)?.step !== "number");
    if (wrong >= 0)
      throw new UserError(`${join(folder, "metrics.jsonl")}, line ${wrong + 1} is no log step`);
    this.#metrics.set(id, { stamp, lines });
    return lines;
  }

  hasFeatures(id: string): boolean {
    return existsSync(join(this.folderOf(id), "features", "index.json"));
  }

  /**
   * How many latents a run has, asked for every label: its autoencoder says so in a small file, and only
   * where that is gone the index is opened. Undefined where neither can be read.
   * @throws NotFound
   */
  async latentCount(id: string): Promise<number | undefined> {
    const width = widthOf(this.folderOf(id));
    if (width !== undefined || !this.hasFeatures(id)) return width;
    try {
      return (await this.features(id)).features.index.dSae;
    } catch (error) {
      if (error instanceof UserError) return undefined;
      throw error;
    }
  }

  /**
   * What of the run's features cannot be read: nothing where there is no index, or where that is what
   * cannot. Of a large one it is known from when its features were first asked for.
   */
  async damage(id: string): Promise<Damage> {
    const dir = join(this.folderOf(id), "features");
    const stamp = featuresStamp(dir);
    if (stamp === undefined) return {};
    const known = this.#damage.get(id);
    if (known?.stamp === stamp) return known.damage;
    if (this.#opened.get(id)?.stamp !== stamp && bytesOf(dir) > QUICK) return {};
    try {
      return (await this.features(id)).damage;
    } catch (error) {
      if (error instanceof UserError) return {};
      throw error;
    }
  }

  /**
   * The run's feature index; without labels or explanations that are damaged.
   * @throws NotFound when it has none, UserError when it cannot be read.
   */
  async features(id: string): Promise<OpenedFeatures> {
    const dir = join(this.folderOf(id), "features");
    const stamp = featuresStamp(dir);
    if (stamp === undefined)
      throw new NotFound(`run ${id} has no feature index yet; make one: lens features ${id}`);
    const known = this.#opened.get(id);
    this.#opened.delete(id);
    const entry = known?.stamp === stamp ? known : { stamp, opened: openAll(dir) };
    this.#opened.set(id, entry); // last in order: used last
    const [oldest] = this.#opened.keys();
    if (this.#opened.size > KEPT) this.#opened.delete(oldest);
    try {
      const opened = await entry.opened;
      this.#damage.set(id, { stamp, damage: opened.damage });
      return opened;
    } catch (error) {
      this.#opened.delete(id);
      throw error;
    }
  }

  /** @throws NotFound when there is no such run, Busy while somebody works in it. It may be damaged. */
  requireIdle(id: string): void {
    const folder = join(this.folder, id);
    if (!ID.test(id) || !isRun(folder)) throw new NotFound(`there is no run ${JSON.stringify(id)}`);
    if (isLocked(folder)) throw new Busy(`run ${id} is being worked in: stop it first`);
  }

  /** Deletes a run's folder. @throws NotFound, Busy */
  remove(id: string): void {
    this.requireIdle(id);
    // Out of the list at once, even where deleting takes long or is cut short.
    const aside = join(this.folder, `.deleted-${id}`);
    rmSync(aside, { recursive: true, force: true });
    renameSync(join(this.folder, id), aside);
    rmSync(aside, { recursive: true, force: true });
    for (const kept of [this.#opened, this.#damage, this.#metrics]) kept.delete(id);
  }
}

async function openAll(dir: string): Promise<OpenedFeatures> {
  const damage: Damage = {};
  const features = await openFeatures(dir, ({ message }) => (damage.labels = message));
  const explanations = await readExplanations(dir, features.index.dSae).catch((error: unknown) => {
    if (!(error instanceof UserError)) throw error;
    damage.explanations = error.message;
    return undefined;
  });
  try {
    const table = featureColumns(features, explanations);
    return { features, explanations, table, bytes: packTable(table), damage, answers: new Map() };
  } catch (error) {
    throw new UserError(`the files in ${dir} do not hold what they should (${messageOf(error)}); index the features again`); // prettier-ignore
  }
}

function isRun(folder: string): boolean {
  return ["config.json", ...PARTS].some((name) => existsSync(join(folder, name)));
}

/** What lists and comparisons rely on. */
const Summary = z.looseObject({
  status: z.enum(["finished", "failed"]),
  duration: z.number(),
  error: z.string().optional(),
  success_rate: z.number().nullable(),
  eval_scores: z.record(z.string(), z.looseObject({ mean: z.number().nullable() })),
});

/** @throws UserError that names what is damaged. */
function readWhole(folder: string): RunInfo {
  const run = readRun(folder);
  if (typeof run.started !== "string")
    throw new UserError(`${join(folder, "config.json")} does not say when the run started`);
  const { error } = Summary.optional().safeParse(run.summary);
  if (error) {
    const [{ path, message }] = error.issues;
    throw new UserError(`${join(folder, "summary.json")} is damaged: ${[...path, message].join(": ")}`); // prettier-ignore
  }
  return run;
}

/** Undefined where there is no index. */
function featuresStamp(dir: string): string | undefined {
  const [index, ...others] = FILES.map((name) => stampOf(join(dir, name)));
  return index === "" ? undefined : [index, ...others].join();
}

function bytesOf(dir: string): number {
  const sizes = FILES.map((name) => statSync(join(dir, name), { throwIfNoEntry: false })?.size);
  return sizes.reduce<number>((sum, size) => sum + (size ?? 0), 0);
}

function stampOf(path: string): string {
  const found = statSync(path, { throwIfNoEntry: false });
  return found ? `${found.mtimeMs}-${found.size}` : "";
}
