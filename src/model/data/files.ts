/** From a source to the files that hold its text, in the order in which they are read. */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";

import { UserError } from "../../error.ts";
import { download, isUrl } from "./download.ts";
import { kindOf, KINDS_TEXT } from "./formats.ts";
import { STDIN } from "./lines.ts";

/**
 * The files of a source that is not built in: a file, those below a folder (by their paths, those
 * whose names begin with a dot left out), the copy of a URL, or standard input.
 * @throws UserError when there are none.
 */
export async function filesOf(source: string): Promise<string[]> {
  if (source === STDIN) return [source];
  if (isUrl(source)) return [await download(source)];
  const status = await stat(source).catch(() => undefined);
  if (!status) {
    throw new UserError(
      `${source} does not exist: give a file (${KINDS_TEXT}), a folder of them, a URL, a data set of the Hugging Face hub with its owner (owner/name), - or builtin:stories.`,
    );
  }
  if (!status.isDirectory()) {
    if (kindOf(source)) return [source];
    throw new UserError(`${source} is not ${KINDS_TEXT}: other kinds of file cannot be read.`);
  }
  const entries = await readdir(source, { recursive: true });
  const names = entries
    .map((name) => name.replaceAll("\\", "/"))
    .filter((name) => kindOf(name) && !name.split("/").some((part) => part.startsWith(".")))
    .sort();
  const files: string[] = [];
  for (const name of names) {
    const path = join(source, name);
    if (!(await stat(path)).isDirectory()) files.push(path);
  }
  if (files.length === 0) throw new UserError(`the folder ${source} holds no file of ${KINDS_TEXT}.`); // prettier-ignore
  return files;
}
