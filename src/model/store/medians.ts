/** The geometric medians that a store's manifest tells. */
import { join } from "node:path";

import { geometricMedian } from "../../geometric-median.ts";
import { fileReader, openSafetensors } from "../row-files.ts";
import { ACTIVATIONS, shardPath, type ShardRecord, type StorePlan } from "./manifest.ts";

/** Rows that stand for all: more would not move the median by what rounding does not. */
const SAMPLE = 2048;

/**
 * For each hook point the geometric median of rows spread evenly over the store at `path`, as they are
 * on disk: all rows up to 2,048, else that many.
 */
export async function geometricMedians(
  path: string,
  { hookPoints }: StorePlan,
  shards: readonly Pick<ShardRecord, "rows">[],
): Promise<Record<string, { geometricMedian: number[]; medianRows: number }>> {
  const total = shards.reduce((sum, { rows }) => sum + rows, 0);
  const medianRows = Math.min(SAMPLE, total);
  const ranges = Array.from({ length: medianRows }, (_, i) => {
    const start = Math.floor((i * total) / medianRows);
    return { start, end: start + 1 };
  });
  const slots = Uint32Array.from(ranges, (_, i) => i);
  const medians: [string, { geometricMedian: number[]; medianRows: number }][] = [];
  for (const { name, width } of hookPoints) {
    const files = [];
    for (const shard of shards.keys())
      files.push(await openSafetensors(join(path, shardPath(name, shard)), ACTIVATIONS));
    const buffer = fileReader(files).hold(medianRows);
    await buffer.load(ranges, slots);
    const rows = new Float32Array(medianRows * width);
    buffer.gather(slots, rows);
    medians.push([name, { geometricMedian: [...geometricMedian(rows, width)], medianRows }]);
  }
  return Object.fromEntries(medians);
}
