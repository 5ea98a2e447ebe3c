/** What can be said of a feature: its limits, and how two people's changes to it come together. */
import { UserError } from "../error.ts";

/** What is said of a feature, without who says so and when. */
export interface Content {
  /** Up to 200 characters; "" when it has none. */
  label: string;
  /** Up to 10,000 characters. */
  notes: string;
  /** Up to 20 of up to 40 characters, none twice whatever its case, in the order given. */
  tags: string[];
  /** 1 to 5. */
  rating: number | null;
  /** 0 to 1: how sure the author is. */
  confidence: number | null;
}

export type Field = keyof Content;

/** The fields to change; absent ones stay as they are. */
export type Change = Partial<Content>;

export const FIELDS: readonly Field[] = ["label", "notes", "tags", "rating", "confidence"];

/** Lengths count characters (code points), not bytes. */
export const LIMITS = {
  label: 200,
  notes: 10_000,
  tags: 20,
  tag: 40,
  author: 80,
  run: 255,
  groupName: 80,
  groupDescription: 10_000,
  /** The largest integer that both databases hold. */
  latent: 2 ** 31 - 1,
} as const;

export const EMPTY: Content = { label: "", notes: "", tags: [], rating: null, confidence: null };

/** What two spellings of a tag or name share: case does not count, nor does how accents are encoded. */
export function keyOf(text: string): string {
  return text.normalize("NFC").toLowerCase();
}

export function isEmpty(content: Content): boolean {
  return sameContent(content, EMPTY);
}

export function sameContent(a: Content, b: Content): boolean {
  return FIELDS.every((field) => sameField(field, a, b));
}

export function sameField(field: Field, a: Content, b: Content): boolean {
  if (field !== "tags") return a[field] === b[field];
  return a.tags.length === b.tags.length && a.tags.every((tag, i) => tag === b.tags[i]);
}

/**
 * What comes of a change by someone who saw `base` while `current` is what stands now.
 * @returns the merged content, and the fields that both sides changed to different values (tags
 * never are: what either side added is there, what either removed is not).
 */
export function merge(
  base: Content,
  current: Content,
  change: Change,
): { merged: Content; conflicts: Field[] } {
  const mine = { ...base, ...change };
  const merged = { ...current };
  const conflicts: Field[] = [];
  const take = <F extends Field>(field: F) => (merged[field] = mine[field]);
  for (const field of FIELDS) {
    if (sameField(field, mine, base)) continue;
    if (sameField(field, current, base)) take(field);
    else if (field === "tags") merged.tags = mergeTags(base.tags, current.tags, mine.tags);
    else if (!sameField(field, mine, current)) conflicts.push(field);
  }
  return { merged, conflicts };
}

function mergeTags(base: string[], current: string[], mine: string[]): string[] {
  const [before, there, wanted] = [base, current, mine].map(
    (tags) => new Map(tags.map((tag) => [keyOf(tag), tag])),
  );
  const kept = current
    .filter((tag) => wanted.has(keyOf(tag)) || !before.has(keyOf(tag)))
    .map((tag) => {
      const spelling = wanted.get(keyOf(tag));
      // Only this side's new spelling counts as a change.
      return spelling !== undefined && spelling !== before.get(keyOf(tag)) ? spelling : tag;
    });
  const added = mine.filter((tag) => !before.has(keyOf(tag)) && !there.has(keyOf(tag)));
  return [...kept, ...added];
}

/** Tags of both, the first ones' spelling and order first. */
export function uniteTags(first: string[], second: string[]): string[] {
  const united = new Map<string, string>();
  for (const tag of [...first, ...second]) if (!united.has(keyOf(tag))) united.set(keyOf(tag), tag);
  return [...united.values()];
}

/** The change with its tags trimmed and without doubles. @throws UserError naming what is over a limit. */
export function checkChange(change: Change): Change {
  const checked: Change = {};
  if (change.label !== undefined)
    checked.label = checkText("the label", change.label, LIMITS.label);
  if (change.notes !== undefined)
    checked.notes = checkText("the notes", change.notes, LIMITS.notes);
  if (change.tags !== undefined) checked.tags = checkTags(change.tags);
  if (change.rating !== undefined) {
    const { rating } = change;
    if (rating !== null && !(Number.isInteger(rating) && rating >= 1 && rating <= 5))
      throw new UserError(`the rating must be 1, 2, 3, 4, 5 or none, not ${String(rating)}`);
    checked.rating = rating;
  }
  if (change.confidence !== undefined) {
    const { confidence } = change;
    if (confidence !== null && !(confidence >= 0 && confidence <= 1))
      throw new UserError(`the confidence must be from 0 to 1 or none, not ${String(confidence)}`);
    // JSON and PostgreSQL do not agree with SQLite on what -0 is.
    checked.confidence = confidence === 0 ? 0 : confidence;
  }
  return checked;
}

/** @throws UserError when the text is too long or holds what a database cannot. */
export function checkText(what: string, text: string, limit: number): string {
  if (typeof text !== "string") throw new UserError(`${what} must be text, not ${typeof text}`);
  if (text.includes("\0"))
    throw new UserError(`${what} holds a NUL character, which cannot be stored; remove it`);
  if (/\p{Surrogate}/u.test(text))
    throw new UserError(`${what} holds half of a character (a lone surrogate); remove it`);
  // A code point is one or two units: what is short in units need not be counted.
  const length = text.length <= limit ? text.length : [...text].length;
  if (length > limit)
    throw new UserError(`${what} may have ${limit} characters, this has ${length}; shorten it`);
  return text;
}

/** @throws UserError when the latent is no index of a feature. */
export function checkLatent(latent: number): number {
  if (!Number.isInteger(latent) || latent < 0 || latent > LIMITS.latent)
    throw new UserError(`a feature is named by an integer from 0, not ${String(latent)}`);
  return latent;
}

export function checkRun(run: string): string {
  if (checkText("the name of the run", run, LIMITS.run) === "")
    throw new UserError("the name of the run is empty; give that of its folder");
  return run;
}

/** Who does it; "anonymous" when nothing is given. */
export function checkAuthor(author: string | undefined): string {
  return checkText("the author's name", author ?? "", LIMITS.author).trim() || "anonymous";
}

export function checkTagCount(tags: string[], whose = "this one"): void {
  if (tags.length > LIMITS.tags)
    throw new UserError(
      `a feature may have ${LIMITS.tags} tags, ${whose} would have ${tags.length}; leave some out`,
    );
}

function checkTags(tags: string[]): string[] {
  const trimmed = tags.map((tag) => checkText("a tag", tag.trim(), LIMITS.tag));
  if (trimmed.includes("")) throw new UserError("a tag is empty; leave it out");
  const unique = uniteTags([], trimmed);
  checkTagCount(unique);
  return unique;
}
