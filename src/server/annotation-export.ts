/** What is said of a run's features, outside of the database: as JSON and as CSV. */
import { z } from "zod";

import { UserError } from "../error.ts";
import { checkChange, checkLatent, checkText, LIMITS } from "./annotation-fields.ts";
import type { Annotation, Revision } from "./annotation-versions.ts";
import type { Group } from "./groups.ts";

export interface ExportedRun {
  run: string;
  annotations: Annotation[];
  groups: Group[];
  /** Every version of every feature, the newest first. */
  history?: Revision[];
}

const Importable = z.object({
  annotations: z.array(
    z.object({
      latent: z.number(),
      label: z.string().default(""),
      notes: z.string().default(""),
      tags: z.array(z.string()).default([]),
      rating: z.number().nullable().default(null),
      confidence: z.number().nullable().default(null),
      author: z.string().nullish(),
    }),
  ),
  groups: z
    .array(
      z.object({
        name: z.string(),
        description: z.string().default(""),
        author: z.string().optional(),
        latents: z.array(z.number()),
      }),
    )
    .default([]),
});

export type Importable = z.infer<typeof Importable>;

/**
 * The parts of an export that can be taken over.
 * @param count How many latents there are; absent where that is not known.
 * @throws UserError that names the first thing wrong with it.
 */
export function parseExport(data: unknown, count = Infinity): Importable {
  const parsed = Importable.safeParse(data);
  if (!parsed.success) {
    const [{ path, message }] = parsed.error.issues;
    const where = path.length === 0 ? "" : ` at ${path.join(".")}`;
    throw new UserError(`this is no export of annotations: ${message}${where}`);
  }
  const { annotations, groups } = parsed.data;
  const checked = {
    annotations: annotations.map(({ latent, author, ...content }, i) =>
      at(`annotations.${i}`, () => ({
        ...content,
        ...checkChange(content),
        latent: checkLatent(latent),
        author: checkText("the author's name", author ?? "", LIMITS.author),
      })),
    ),
    groups: groups.map((group, i) =>
      at(`groups.${i}`, () => ({ ...group, latents: group.latents.map(checkLatent) })),
    ),
  };
  refuseBeyond(checked, count);
  return checked;
}

/** An export of a wider run would leave labels that no page shows. */
function refuseBeyond({ annotations, groups }: Importable, count: number): void {
  const beyond = new Map<number, string>();
  const look = (latent: number, where: string) => {
    if (latent >= count && !beyond.has(latent)) beyond.set(latent, where);
  };
  annotations.forEach(({ latent }, i) => look(latent, `annotations.${i}`));
  groups.forEach(({ latents }, i) => latents.forEach((one) => look(one, `groups.${i}`)));
  if (beyond.size === 0) return;
  const [[latent, where]] = beyond;
  throw new UserError(
    `the export cannot be taken over: the run has latents 0 to ${count - 1}, beyond which the export names ${beyond.size}, the first at ${where}: ${latent}; take them out, or import it into a run that has them`,
  );
}

function at<T>(where: string, check: () => T): T {
  try {
    return check();
  } catch (error) {
    if (error instanceof UserError)
      throw new UserError(`the export cannot be taken over: at ${where}, ${error.message}`);
    throw error;
  }
}

/**
 * One line per feature of which something is said or that is in a group, by latent, as CSV (RFC 4180:
 * CRLF, quotes doubled). Tags and the names of groups are joined by "; ", which is for people and
 * spreadsheets; JSON is what can be imported again.
 *
 * A spreadsheet takes a cell that begins with = + - @, a tab or a carriage return for a formula, and
 * runs it. Such a cell gets a single quote in front, here only: what is stored is not changed.
 */
export function toCsv({
  annotations,
  groups,
}: Pick<ExportedRun, "annotations" | "groups">): string {
  const said = new Map(annotations.map((annotation) => [annotation.latent, annotation]));
  const names = new Map<number, string[]>();
  for (const { name, latents } of groups)
    for (const latent of latents) names.set(latent, [...(names.get(latent) ?? []), name]);
  const lines = [...new Set([...said.keys(), ...names.keys()])]
    .sort((a, b) => a - b)
    .map((latent) => {
      const { label, notes, tags, rating, confidence, author, updated } = said.get(latent) ?? {};
      const joined = [tags, names.get(latent)].map((list) => list?.join("; "));
      return [latent, label, notes, joined[0], rating, confidence, author, updated, joined[1]];
    });
  const header = "latent,label,notes,tags,rating,confidence,author,updated,groups".split(",");
  return [header, ...lines].map((line) => line.map(cell).join(",") + "\r\n").join("");
}

function cell(value: string | number | null | undefined): string {
  if (typeof value === "number") return String(value);
  if (value === null || value === undefined) return "";
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
