/**
 * Columns of numbers and texts as one block of bytes, for tables too large to be JSON: little-endian
 *
 *   u32 length of the header, header (JSON), zeros up to a multiple of 8, then each column's bytes from
 *   a multiple of 8 on
 *
 * A column of texts is one UTF-8 blob with the UTF-16 offsets of its rows after it, so that a reader
 * decodes once and cuts rows when they are looked at.
 */
import { UserError } from "./error.ts";

const KINDS = {
  f32: Float32Array,
  f64: Float64Array,
  i32: Int32Array,
  u32: Uint32Array,
  u8: Uint8Array,
} as const;
type Kind = keyof typeof KINDS;

export type NumberColumn = Float32Array | Float64Array | Int32Array | Uint32Array | Uint8Array;

/** Texts, cut out of one string when asked for. */
export class TextColumn {
  readonly #all: string;
  readonly #offsets: Uint32Array;

  constructor(all: string, offsets: Uint32Array) {
    this.#all = all;
    this.#offsets = offsets;
  }

  static of(rows: readonly string[]): TextColumn {
    const offsets = new Uint32Array(rows.length + 1);
    rows.forEach((row, i) => (offsets[i + 1] = offsets[i] + row.length));
    return new TextColumn(rows.join(""), offsets);
  }

  get length(): number {
    return this.#offsets.length - 1;
  }

  at(row: number): string {
    return this.#all.slice(this.#offsets[row], this.#offsets[row + 1]);
  }

  /** Calls `found` with each row whose text holds `part`, compared in lower case, rising. */
  search(part: string, found: (row: number) => void): void {
    const wanted = part.toLowerCase();
    if (wanted === "") return;
    // Lower case may change a text's length (İ): then rows are compared one by one.
    const all = this.#all.toLowerCase();
    if (all.length !== this.#all.length) {
      for (let row = 0; row < this.length; row++)
        if (this.at(row).toLowerCase().includes(wanted)) found(row);
      return;
    }
    let row = 0;
    for (let at = all.indexOf(wanted); at >= 0; at = all.indexOf(wanted, at)) {
      while (this.#offsets[row + 1] <= at) row++;
      const isWhole = at + wanted.length <= this.#offsets[row + 1];
      if (isWhole) found(row);
      at = isWhole ? this.#offsets[row + 1] : at + 1;
    }
  }

  parts(): { all: string; offsets: Uint32Array } {
    return { all: this.#all, offsets: this.#offsets };
  }
}

export interface PackedTable {
  /** What is not a column. */
  meta: Record<string, unknown>;
  numbers: Record<string, NumberColumn>;
  texts: Record<string, TextColumn>;
}

interface Header {
  meta: Record<string, unknown>;
  columns: { name: string; kind: Kind | "text"; offset: number; length: number; bytes: number }[];
}

const aligned = (bytes: number) => Math.ceil(bytes / 8) * 8;

export function packTable({ meta, numbers, texts }: PackedTable): Uint8Array<ArrayBuffer> {
  const columns: Header["columns"] = [];
  const parts: Uint8Array[] = [];
  let offset = 0;
  const add = (column: Omit<Header["columns"][number], "offset">, ...blocks: Uint8Array[]) => {
    columns.push({ ...column, offset });
    for (const block of blocks) {
      parts.push(block);
      offset += aligned(block.byteLength);
    }
  };
  const bytesOf = (array: NumberColumn) =>
    new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  for (const [name, array] of Object.entries(numbers)) {
    const [kind] = Object.entries(KINDS).find(([, type]) => array instanceof type)!;
    add(
      { name, kind: kind as Kind, length: array.length, bytes: array.byteLength },
      bytesOf(array),
    );
  }
  for (const [name, column] of Object.entries(texts)) {
    const { all, offsets } = column.parts();
    const utf8 = new TextEncoder().encode(all);
    add({ name, kind: "text", length: column.length, bytes: utf8.length }, utf8, bytesOf(offsets));
  }
  const header = new TextEncoder().encode(JSON.stringify({ meta, columns } satisfies Header));
  const start = aligned(4 + header.length);
  const packed = new Uint8Array(start + offset);
  new DataView(packed.buffer).setUint32(0, header.length, true);
  packed.set(header, 4);
  let at = start;
  for (const part of parts) {
    packed.set(part, at);
    at += aligned(part.byteLength);
  }
  return packed;
}

/** Columns are views of `buffer`, not copies. @throws UserError for bytes that are no such table. */
export function unpackTable(buffer: ArrayBuffer): PackedTable {
  const damaged = (why: string) => new UserError(`this is no table of columns: ${why}`);
  if (buffer.byteLength < 4) throw damaged(`it has ${buffer.byteLength} bytes`);
  const length = new DataView(buffer).getUint32(0, true);
  if (4 + length > buffer.byteLength) throw damaged("its header is cut off");
  let header: Header;
  try {
    header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length))) as Header;
  } catch {
    throw damaged("its header is not JSON");
  }
  const start = aligned(4 + length);
  const numbers: Record<string, NumberColumn> = {};
  const texts: Record<string, TextColumn> = {};
  for (const { name, kind, offset, length, bytes } of header.columns) {
    const at = start + offset;
    const end = kind === "text" ? at + aligned(bytes) + 4 * (length + 1) : at + bytes;
    if (end > buffer.byteLength) throw damaged(`column ${name} is cut off`);
    if (kind === "text")
      texts[name] = new TextColumn(
        new TextDecoder().decode(new Uint8Array(buffer, at, bytes)),
        new Uint32Array(buffer, at + aligned(bytes), length + 1),
      );
    else numbers[name] = new KINDS[kind](buffer, at, length);
  }
  return { meta: header.meta, numbers, texts };
}
