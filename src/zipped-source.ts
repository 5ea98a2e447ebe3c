/**
 * Sources read row by row together: the activations of several hook points, made from the same text.
 * Every source here serves rows in an order that depends on nothing but the options and the number of
 * rows (activation-source.ts), so that two with as many rows stay in step by themselves. That their
 * rows belong to the same tokens is checked where both know their tokens, as stores do.
 */
import type { Batch, BatchOptions, RowBlock, RowSource, TokenRows } from "./activation-source.ts";
import { UserError } from "./error.ts";

/**
 * What a transcoder trains on: rows of `inputs`, each with the row of `targets` that it predicts.
 * @throws UserError when they have different numbers of rows, or rows of different tokens.
 */
export function pairedSource(inputs: RowSource, targets: RowSource): RowSource {
  const sources = [inputs, targets] as const;
  requireSameRows(sources);
  return {
    dIn: inputs.dIn,
    dOut: targets.dIn,
    rows: inputs.rows,
    mixing: inputs.mixing ?? targets.mixing,
    tokenRows: inputs.tokenRows ?? targets.tokenRows,
    provenance: { from: "pair", inputs: inputs.provenance, targets: targets.provenance },
    async *batches(options) {
      for await (const [batch, target] of zippedBatches(sources, options))
        yield { ...batch, target: target.data };
    },
    async *rowsInOrder(blockRows) {
      for await (const [block, target] of zipped(sources.map((s) => s.rowsInOrder(blockRows))))
        yield { ...block, target: target.data };
    },
    slice: (start, end) => pairedSource(inputs.slice(start, end), targets.slice(start, end)),
  };
}

/**
 * What a crosscoder trains on: the rows of all sources side by side.
 * @throws UserError when they have different numbers of rows, or rows of different tokens, or there is none.
 */
export function joinedSource(sources: readonly RowSource[]): RowSource {
  if (sources.length === 0) throw new UserError("a crosscoder needs at least one hook point");
  requireSameRows(sources);
  const heads = sources.map(({ dIn }) => dIn);
  const dIn = heads.reduce((a, b) => a + b);
  const join = (parts: readonly { data: Float32Array; rows: number }[], out: Float32Array) =>
    sideBySide(
      parts.map(({ data }) => data),
      heads,
      out.subarray(0, parts[0].rows * dIn),
    );
  return {
    ...{ dIn, heads, rows: sources[0].rows },
    mixing: sources.find(({ mixing }) => mixing)?.mixing,
    tokenRows: sources.find(({ tokenRows }) => tokenRows)?.tokenRows,
    provenance: { from: "join", sources: sources.map(({ provenance }) => provenance) },
    async *batches(options) {
      let data: Float32Array | undefined;
      for await (const parts of zippedBatches(sources, options)) {
        data ??= new Float32Array(Math.min(options.batchSize, sources[0].rows) * dIn);
        yield { ...parts[0], data: join(parts, data) };
      }
    },
    async *rowsInOrder(blockRows) {
      let data: Float32Array | undefined;
      for await (const parts of zipped(sources.map((s) => s.rowsInOrder(blockRows)))) {
        data ??= new Float32Array(Math.min(blockRows, sources[0].rows) * dIn);
        yield { ...parts[0], data: join(parts, data) };
      }
    },
    slice: (start, end) => joinedSource(sources.map((source) => source.slice(start, end))),
  };
}

function zippedBatches(
  sources: readonly RowSource[],
  options: BatchOptions,
): AsyncGenerator<Batch[], void> {
  return zipped(sources.map((source) => source.batches(options)));
}

/** The next of each, until one ends. */
async function* zipped<Part extends Batch | RowBlock>(
  streams: AsyncIterable<Part>[],
): AsyncGenerator<Part[], void> {
  const iterators = streams.map((stream) => stream[Symbol.asyncIterator]());
  try {
    for (;;) {
      const parts = await Promise.all(iterators.map((iterator) => iterator.next()));
      const values = parts.flatMap((part) => (part.done ? [] : [part.value]));
      if (values.length < parts.length) return;
      if (values.some(({ rows }) => rows !== values[0].rows))
        throw new Error("sources that are read together came out of step");
      yield values;
    }
  } finally {
    for (const iterator of iterators) await iterator.return?.();
  }
}

/** Matrices [rows, widths[h]] next to each other in `out` [rows, Σ widths], which is returned. */
export function sideBySide(
  parts: readonly Float32Array[],
  widths: readonly number[],
  out: Float32Array,
): Float32Array {
  const total = widths.reduce((a, b) => a + b);
  const rows = out.length / total;
  let column = 0;
  for (const [head, data] of parts.entries()) {
    const width = widths[head];
    for (let n = 0; n < rows; n++)
      out.set(data.subarray(n * width, (n + 1) * width), n * total + column);
    column += width;
  }
  return out;
}

function requireSameRows([first, ...rest]: readonly RowSource[]): void {
  for (const { rows } of rest)
    if (rows !== first.rows)
      throw new UserError(
        `activations of several hook points must come from the same tokens; one has ${first.rows} rows, another ${rows}`,
      );
  const [known, ...others] = [first, ...rest].flatMap(({ tokenRows }) => tokenRows ?? []);
  for (const other of others) {
    const difference = differenceOf(known, other, first.rows);
    if (difference)
      throw new UserError(
        `activations of several hook points must come from the same tokens; ${difference}. ` +
          "Collect all hook points in one pass, or with the same text, packing, tokens and shardRows.",
      );
  }
}

/** Why `rows` rows cannot be known to belong to the same tokens; undefined when they do. */
function differenceOf(a: TokenRows, b: TokenRows, rows: number): string | undefined {
  if (a.first !== b.first)
    return `one begins at row ${a.first} of its store, another at row ${b.first}`;
  let end = 0;
  for (let shard = 0; end < a.first + rows; shard++) {
    const [of, and] = [a.shards[shard], b.shards[shard]];
    if (of.rows !== and.rows)
      return `shard ${shard} of their stores has ${of.rows} rows in one and ${and.rows} in another, so that their tokens cannot be compared`;
    end += of.rows;
    if (end > a.first && of.xxh64 !== and.xxh64)
      return `the tokens of shard ${shard} differ (xxh64 ${of.xxh64} and ${and.xxh64})`;
  }
  return undefined;
}
