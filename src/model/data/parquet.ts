/** Rows of Parquet files, one row group in memory at a time, and of it only the columns that are used. */
import type { AsyncBuffer, FileMetaData } from "hyparquet";

import { messageOf, UserError } from "../../error.ts";
import { missingField } from "./records.ts";

/**
 * Records with the field (the column of its name, or the one its first dot ends in), and with `id`
 * and `spans` where there are such columns; rows count from 1.
 * @throws UserError when there is no such column, naming those there are, for a file that is cut short
 * or damaged, and for text that is not UTF-8, with its row.
 */
export async function* parquetRecords(
  file: string,
  field: string,
): AsyncGenerator<{ record: Record<string, unknown>; row: number }, void, undefined> {
  const { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects } =
    await import("hyparquet");
  const { compressors } = await import("hyparquet-compressors");
  let buffer: AsyncBuffer;
  let metadata: FileMetaData;
  try {
    buffer = await asyncBufferFromFile(file);
    metadata = await parquetMetadataAsync(buffer);
  } catch (error) {
    throw damaged(file, error);
  }
  const columns = await columnsOf(metadata);
  const [first] = field.split(".");
  const used = columns.find(({ name }) => name === field) ?? columns.find((c) => c.name === first);
  if (!used) throw new UserError(`${file}: ${missingField(field, columns)}.`);
  const wanted = new Set([used.name, ...OWN.filter((own) => columns.some((c) => c.name === own))]);
  let rowStart = 0;
  for (const group of metadata.row_groups) {
    const rowEnd = rowStart + Number(group.num_rows);
    let rows: Record<string, unknown>[];
    try {
      rows = await parquetReadObjects({
        ...{ file: buffer, metadata, compressors, rowStart, rowEnd, columns: [...wanted] },
        parsers: { stringFromBytes: decode },
      });
    } catch (error) {
      throw damaged(`${file}, rows ${rowStart + 1} to ${rowEnd}`, error);
    }
    for (const [i, record] of rows.entries()) {
      const row = rowStart + i + 1;
      try {
        yield { record: plain(record) as Record<string, unknown>, row };
      } catch (error) {
        if (error !== NOT_UTF8) throw error;
        throw new UserError(
          `${file} has text that is not valid UTF-8 in row ${row}: write it as UTF-8 and try again.`,
        );
      }
    }
    rowStart = rowEnd;
  }
}

/** Columns that are read beside the text. */
const OWN = ["id", "spans"];

/** The columns at the top with their types, as people call them. */
async function columnsOf(metadata: FileMetaData): Promise<{ name: string; type: string }[]> {
  const { parquetSchema } = await import("hyparquet");
  return parquetSchema(metadata).children.map(({ element, children }) => {
    const { name, type, converted_type, logical_type } = element;
    const isList = converted_type === "LIST" || logical_type?.type === "LIST";
    const isText = converted_type === "UTF8" || logical_type?.type === "STRING";
    if (children.length > 0) return { name, type: isList ? "list" : "struct" };
    if (isText || (type === "BYTE_ARRAY" && !converted_type && !logical_type))
      return { name, type: "string" };
    return { name, type: (converted_type ?? type ?? "unknown").toLowerCase() };
  });
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** In place of text that is none: where it is found, its row is known. */
const NOT_UTF8 = new Error("not UTF-8");

function decode(bytes: Uint8Array | undefined): unknown {
  try {
    return bytes && strict.decode(bytes);
  } catch {
    return NOT_UTF8;
  }
}

/** 64-bit integers come as BigInt, which neither labels nor templates take. */
function plain(value: unknown): unknown {
  if (value === NOT_UTF8) throw NOT_UTF8;
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  if (Array.isArray(value)) return value.map(plain);
  if (
    typeof value !== "object" ||
    value === null ||
    Object.getPrototypeOf(value) !== Object.prototype
  )
    // prettier-ignore
    return value;
  return Object.fromEntries(Object.entries(value).map(([name, v]) => [name, plain(v)]));
}

function damaged(where: string, error: unknown): UserError {
  return new UserError(
    `${where} cannot be read as Parquet (${messageOf(error)}): it may be cut short or damaged; copy or download it again.`,
  );
}
