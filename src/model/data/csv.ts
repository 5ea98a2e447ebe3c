/** Rows of comma- or tab-separated files, by the names in their first row. */
import { pipeline, Readable } from "node:stream";
import type { CsvError } from "csv-parse";

import { messageOf, UserError } from "../../error.ts";
import { blocksOf, MAX_DOCUMENT_BYTES, nameOf, tooLong } from "./lines.ts";

/** @throws UserError for rows that are longer or shorter than the first, or quoted wrongly, with the line. */
export async function* csvRecords(
  file: string,
  delimiter: string,
): AsyncGenerator<{ record: Record<string, string>; line: number }, void, undefined> {
  const { parse, CsvError } = await import("csv-parse");
  const text = async function* () {
    for await (const block of blocksOf(file)) yield block.text;
  };
  const parser = parse({
    ...{ delimiter, columns: true, info: true, skip_empty_lines: true },
    max_record_size: MAX_DOCUMENT_BYTES,
  });
  pipeline(Readable.from(text()), parser, () => undefined);
  try {
    for await (const { record, info } of parser as AsyncIterable<Row>)
      yield { record, line: info.lines };
  } catch (error) {
    throw error instanceof CsvError ? csvError(error, nameOf(file)) : error;
  }
}

interface Row {
  record: Record<string, string>;
  info: { lines: number };
}

function csvError(error: CsvError, name: string): UserError {
  const { code, lines, record, columns } = error as CsvError & {
    lines?: number;
    record?: unknown[];
    columns?: unknown[];
  };
  const where = `${name}, line ${lines ?? "unknown"}`;
  if (code === "CSV_MAX_RECORD_SIZE") return tooLong(`${where}: the row`);
  if (code === "CSV_RECORD_INCONSISTENT_COLUMNS")
    return new UserError(
      `${where}: the row has ${record?.length} fields, the first row names ${columns?.length}. ` +
        "Text with separators or line ends in it must stand in double quotes.",
    );
  return new UserError(
    `${where}: ${messageOf(error)}. A field in double quotes must have them at both ends, and those inside doubled.`,
  );
}
