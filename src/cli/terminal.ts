/**
 * What the command line says, and where: results go to stdout, everything said on the way to
 * stderr, so that a script can read the one without the other.
 */
import { basename, relative } from "node:path";

import { short } from "../readable.ts";
import { currentJob } from "../workbench/job-folder.ts";

export interface TerminalOptions {
  /** One JSON value on stdout instead of text, and nothing on stderr but errors. */
  json?: boolean;
  /** Results and errors only. */
  quiet?: boolean;
}

export class Terminal {
  readonly json: boolean;
  readonly quiet: boolean;

  constructor({ json = false, quiet = false }: TerminalOptions) {
    this.json = json;
    this.quiet = quiet || json;
  }

  /** Something worth knowing on the way. */
  note(text: string): void {
    const job = currentJob();
    job?.tell({ note: text.trim() });
    // A job's stderr is its log.
    if (!this.quiet || job) process.stderr.write(text + "\n");
  }

  /** What was asked for: `text` for people, `value` with --json. */
  result(value: unknown, text: string): void {
    process.stdout.write((this.json ? JSON.stringify(value, null, 2) : text) + "\n");
  }

  /** The one obvious thing to do after this: arguments of `lens`, and what for. */
  next(args: string, purpose: string): void {
    this.note(`\nNext: ${lens(args)}   ${purpose}`);
  }
}

/** A command line of Lens as it was called this time: by its name, or by the path of its script. */
export function lens(args: string): string {
  const [, script = "lens"] = process.argv;
  const called = /\.[jt]s$/.test(script) ? `node ${shortPath(script)}` : basename(script);
  return `${called} ${args}`;
}

/** A path as one would type it here. */
export function shortPath(path: string): string {
  const local = relative(process.cwd(), path);
  return local.startsWith("..") ? path : local;
}

/** Columns as wide as their widest cell; numbers to the right. */
export function table(header: string[], rows: string[][]): string {
  const widths = header.map((_, c) => Math.max(...[header, ...rows].map((row) => row[c].length)));
  const isNumeric = header.map((_, c) =>
    rows.every((row) => /^(?:-?[\d.,]+(?:e[+-]?\d+)?%?|-|)$/.test(row[c])),
  );
  const line = (row: string[]) =>
    row
      .map((cell, c) => (isNumeric[c] ? cell.padStart(widths[c]) : cell.padEnd(widths[c])))
      .join("  ")
      .trimEnd();
  return [header, ...rows].map(line).join("\n");
}

/** Says how many documents had no text, when there were any. */
export function noteEmpty(terminal: Terminal, count: number): void {
  if (count === 0) return;
  terminal.note(`${short(count)} ${count === 1 ? "document" : "documents"} without text left out`);
}
