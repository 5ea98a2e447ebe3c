/**
 * Sources read row by row together: the activations of several hook points, made from the same text.
 * Every source here serves rows in an order that depends on nothing but the options and the number of
 * rows (activation-source.ts), so that two with as many rows stay in step by themselves.
 */
import type { Batch, BatchOptions, RowBlock, RowSource } from "./activation-source.ts";
import { UserError } from "./error.ts";

/**
 * What a transcoder trains on: rows of `inputs`, each with the row of `targets` that it predicts.
 * @throws UserError when they have different numbers of rows.
 */
export function pairedSource(inputs: RowSource, targets: RowSource): RowSource {
  const sources = [inputs, targets] as const;
  requireEqualRows(sources);
  return {
    dIn: inputs.dIn,
    dOut: targets.dIn,
    rows: inputs.rows,
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
 * @throws UserError when they have different numbers of rows, or there is none.
 */
export function joinedSource(sources: readonly RowSource[]): RowSource {
  if (sources.length === 0) throw new UserError("a crosscoder needs at least one hook point");
  requireEqualRows(sources);
  const heads = sources.map(({ dIn }) => dIn);
  const dIn = heads.reduce((a, b) => a + b);
  const join = (parts: { data: Float32Array; rows: number }[], out: Float32Array) => {
    const { rows } = parts[0];
    let column = 0;
    for (const [head, { data }] of parts.entries()) {
      const width = heads[head];
      for (let n = 0; n < rows; n++)
        out.set(data.subarray(n * width, (n + 1) * width), n * dIn + column);
      column += width;
    }
    return out.subarray(0, rows * dIn);
  };
  return {
    ...{ dIn, heads, rows: sources[0].rows },
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

function requireEqualRows(sources: readonly RowSource[]): void {
  const [first, ...rest] = sources.map(({ rows }) => rows);
  for (const rows of rest)
    if (rows !== first)
      throw new UserError(
        `activations of several hook points must come from the same tokens; one has ${first} rows, another ${rows}`,
      );
}
