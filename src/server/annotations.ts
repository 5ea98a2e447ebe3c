/**
 * What people say of a run's features: labels, notes, tags, ratings, and the groups they put
 * features in. Every change is a new version; what was said before stays in the history.
 */
import { UserError } from "../error.ts";
import { parseExport, type ExportedRun } from "./annotation-export.ts";
import {
  checkAuthor,
  checkChange,
  checkLatent,
  checkRun,
  checkTagCount,
  keyOf,
  merge,
  uniteTags,
  type Change,
  type Content,
} from "./annotation-fields.ts";
import {
  allVersions,
  annotationOf,
  append,
  Conflict,
  contentOf,
  contentSeen,
  newest,
  newestVersions,
  refuseUnseen,
  revisionOf,
  rowOf,
  standing,
  versionsOf,
  type Annotation,
  type Revision,
} from "./annotation-versions.ts";
import { openDatabase, type Database, type Queries } from "./database.ts";
import * as groups from "./groups.ts";
import type { Group } from "./groups.ts";
import type { AnnotationRow } from "./schema.ts";

export { toCsv, type ExportedRun } from "./annotation-export.ts";
export { type Change, type Content, type Field, LIMITS } from "./annotation-fields.ts";
export { Conflict, type Action, type Annotation, type Revision } from "./annotation-versions.ts";
export type { Group, GroupChange } from "./groups.ts";

export interface By {
  /** Up to 80 characters; absent or blank: "anonymous". */
  author?: string;
  /** The version that the person saw; absent: whatever is newest. */
  basedOn?: number;
}

export interface TagCount {
  /** As it was spelled last. */
  tag: string;
  /** How many features have it. */
  count: number;
  /** ISO time of the newest version of a feature that has it. */
  used: string;
}

export interface ImportCounts {
  /** Features of which something new is said. */
  annotations: number;
  /** Features of which that was said already. */
  unchanged: number;
  groups: number;
  /** Features put in groups they were not in. */
  members: number;
}

/** Rows per insert: as many as both databases' limits on parameters allow, and then some fewer. */
const CHUNK = 500;

export class Annotations {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** @param setting The path of a SQLite file or the URL of a PostgreSQL database. */
  static async open(setting: string): Promise<Annotations> {
    return new Annotations(await openDatabase(setting));
  }

  /** What stands of a feature; version 0 and empty when nobody ever said anything. */
  async get(run: string, latent: number): Promise<Annotation> {
    checkFeature(run, latent);
    return annotationOf(run, latent, await this.#read((queries) => newest(queries, run, latent)));
  }

  /** Everything that stands of a run's features, by latent; those with nothing to say are left out. */
  async all(run: string): Promise<Annotation[]> {
    checkRun(run);
    return this.#read((queries) => standing(queries, run));
  }

  /** Every version of a feature, the newest first. */
  async history(run: string, latent: number): Promise<Revision[]> {
    checkFeature(run, latent);
    const rows = await this.#read((queries) => versionsOf(queries, run, latent));
    return rows.map(revisionOf).reverse();
  }

  /**
   * Changes the fields that are given. When others have changed the feature since `basedOn`, the
   * fields that only one side changed are merged, and tags as sets. What changes nothing writes nothing.
   * @throws Conflict when both sides changed a field to different values.
   */
  async edit(run: string, latent: number, change: Change, by: By = {}): Promise<Annotation> {
    checkFeature(run, latent);
    const author = checkAuthor(by.author);
    const wanted = checkChange(change);
    return this.#write(run, async (queries) => {
      const last = await newest(queries, run, latent);
      const base = await contentSeen(queries, last, by.basedOn);
      const { merged, conflicts } = merge(base, contentOf(last), wanted);
      if (conflicts.length > 0) throw new Conflict(annotationOf(run, latent, last), conflicts);
      checkTagCount(merged.tags);
      return append(queries, { run, latent, last, content: merged, author, action: "edit" });
    });
  }

  /**
   * Goes back to what stood before the newest change, as a new version; again, to what stood before
   * that. An edit after it goes on from there.
   * @throws Conflict when `basedOn` is given and a later version says something else.
   */
  async undo(run: string, latent: number, by: By = {}): Promise<Annotation> {
    return this.#step(run, latent, by, "undo", (last) => {
      if (last === undefined || last.position === 0)
        throw new UserError(`there is nothing to undo on feature ${latent}`);
      return last.parent;
    });
  }

  /** Takes the newest undo back; again, the one before it, as long as there was no other change since. */
  async redo(run: string, latent: number, by: By = {}): Promise<Annotation> {
    return this.#step(run, latent, by, "redo", (last, all) => {
      // From the change that the undos began at, back to the one just after where they arrived.
      let next = all.findLast(({ action }) => action !== "undo" && action !== "redo");
      if (next === undefined || next.version === last?.position)
        throw new UserError(`there is nothing to redo on feature ${latent}`);
      while (next.parent !== last?.position) next = all[next.parent - 1];
      return next.version;
    });
  }

  /** Makes the content of an earlier version the newest one. */
  async restore(run: string, latent: number, version: number, by: By = {}): Promise<Annotation> {
    checkFeature(run, latent);
    const author = checkAuthor(by.author);
    return this.#write(run, async (queries) => {
      const all = await versionsOf(queries, run, latent);
      const last = all.at(-1);
      await refuseUnseen(queries, last, by.basedOn);
      if (!Number.isInteger(version) || all[version - 1] === undefined)
        throw new UserError(
          `feature ${latent} has no version ${version}; it has ${all.length === 0 ? "none" : `1 to ${all.length}`}`,
        );
      const content = contentOf(all[version - 1]);
      return append(queries, { run, latent, last, content, author, action: "restore" });
    });
  }

  /** The tags in use on a run's features, the one used last first. */
  async tags(run: string): Promise<TagCount[]> {
    const counts = new Map<string, TagCount>();
    const newestFirst = (await this.all(run)).sort((a, b) => b.updated!.localeCompare(a.updated!));
    for (const { tags, updated } of newestFirst) {
      for (const tag of tags) {
        const known = counts.get(keyOf(tag));
        if (known === undefined) counts.set(keyOf(tag), { tag, count: 1, used: updated! });
        else known.count++;
      }
    }
    return [...counts.values()];
  }

  /** Makes a group; its id is a UUID. @throws UserError when the run has one of that name, whatever its case. */
  async createGroup(run: string, name: string, description = "", author?: string): Promise<Group> {
    checkRun(run);
    return this.#write(run, (queries) =>
      groups.createGroup(queries, run, { name, description, author }),
    );
  }

  /** A run's groups by name, each with its features. */
  async groups(run: string): Promise<Group[]> {
    checkRun(run);
    return this.#read((queries) => groups.groupsOf(queries, run));
  }

  /** Changes a group's name or description; the last to do so wins. */
  async updateGroup(run: string, id: string, change: groups.GroupChange): Promise<Group> {
    checkRun(run);
    return this.#write(run, (queries) => groups.updateGroup(queries, run, id, change));
  }

  /** The features in it stay as they are. */
  async deleteGroup(run: string, id: string): Promise<void> {
    checkRun(run);
    await this.#write(run, (queries) => groups.deleteGroup(queries, run, id));
  }

  /** Those that are in it already stay. */
  async addToGroup(run: string, id: string, latents: number[]): Promise<Group> {
    latents.forEach(checkLatent);
    checkRun(run);
    return this.#write(run, (queries) => groups.addMembers(queries, run, id, latents));
  }

  /** Those that are not in it are none the less out of it. */
  async removeFromGroup(run: string, id: string, latents: number[]): Promise<Group> {
    latents.forEach(checkLatent);
    checkRun(run);
    return this.#write(run, (queries) => groups.removeMembers(queries, run, id, latents));
  }

  /** Deletes everything said of a run, its history too. */
  async deleteRun(run: string): Promise<void> {
    checkRun(run);
    await this.#write(run, async (queries) => {
      await queries.deleteFrom("annotations").where("run", "=", run).execute();
      await groups.deleteGroups(queries, run);
    });
  }

  /** Everything said of a run as it stands at one moment, for JSON, `importRun` and `toCsv`. */
  async exportRun(run: string, { history = false } = {}): Promise<ExportedRun> {
    checkRun(run);
    return this.#read(async (queries) => ({
      run,
      annotations: await standing(queries, run),
      groups: await groups.groupsOf(queries, run),
      ...(history && { history: (await allVersions(queries, run)).map(revisionOf).reverse() }),
    }));
  }

  /**
   * Takes over what `exportRun` gave, of this run or another: all or nothing. What it says of a
   * feature replaces what stands, as an edit would; what it leaves empty is left, and tags and groups
   * of the same name are united. A history in it is not taken over.
   * @param options.author Absent: each annotation keeps its own.
   * @param options.latents How many latents the run has; absent where that is not known.
   * @throws UserError that names what is wrong with it, a latent that the run does not have for one.
   */
  async importRun(
    run: string,
    data: unknown,
    options: { author?: string; latents?: number | undefined } = {},
  ): Promise<ImportCounts> {
    checkRun(run);
    const imported = parseExport(data, options.latents);
    const author = options.author === undefined ? undefined : checkAuthor(options.author);
    return this.#write(run, async (queries) => {
      const last = new Map((await newestVersions(queries, run)).map((row) => [row.latent, row]));
      const rows: AnnotationRow[] = [];
      let unchanged = 0;
      for (const { latent, author: theirs, ...said } of imported.annotations) {
        const content = takeOver(latent, contentOf(last.get(latent)), said);
        const row = rowOf({
          run,
          latent,
          last: last.get(latent),
          content,
          author: author ?? checkAuthor(theirs ?? undefined),
          action: "import",
        });
        if (row === undefined) unchanged++;
        else {
          rows.push(row);
          last.set(latent, row);
        }
      }
      for (let i = 0; i < rows.length; i += CHUNK)
        await queries
          .insertInto("annotations")
          .values(rows.slice(i, i + CHUNK))
          .execute();
      const grouped = await groups.importGroups(queries, run, imported.groups, author);
      return { annotations: rows.length, unchanged, ...grouped };
    });
  }

  async close(): Promise<void> {
    await this.#database.close();
  }

  /** Appends the content at the position that `choose` finds, given the newest version and all, oldest first. */
  async #step(
    run: string,
    latent: number,
    by: By,
    action: "undo" | "redo",
    choose: (last: AnnotationRow | undefined, all: AnnotationRow[]) => number,
  ): Promise<Annotation> {
    checkFeature(run, latent);
    const author = checkAuthor(by.author);
    return this.#write(run, async (queries) => {
      const all = await versionsOf(queries, run, latent);
      const last = all.at(-1);
      await refuseUnseen(queries, last, by.basedOn);
      const position = choose(last, all);
      const there: AnnotationRow | undefined = all[position - 1];
      const content = contentOf(there);
      const at = { position, parent: there?.parent ?? 0 };
      return append(queries, { run, latent, last, content, author, action, at });
    });
  }

  #read<T>(work: (queries: Queries) => Promise<T>): Promise<T> {
    return this.#database.read(work);
  }

  #write<T>(run: string, work: (queries: Queries) => Promise<T>): Promise<T> {
    return this.#database.write(run, work);
  }
}

/** What stands once what another run says of the feature is added to it. */
function takeOver(latent: number, current: Content, said: Content): Content {
  const tags = uniteTags(current.tags, said.tags);
  if (tags.length > current.tags.length)
    checkTagCount(tags, `feature ${latent} with the imported ones`);
  return {
    label: said.label || current.label,
    notes: said.notes || current.notes,
    tags,
    rating: said.rating ?? current.rating,
    confidence: said.confidence ?? current.confidence,
  };
}

function checkFeature(run: string, latent: number): void {
  checkRun(run);
  checkLatent(latent);
}
