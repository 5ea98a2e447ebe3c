/**
 * A shard of an activation store in memory: what a forward pass gave is summed up, checked and
 * rounded to the type on disk as it comes.
 */
import { join } from "node:path";

import { writeSafetensors } from "../../safetensors-write.ts";
import type { TokenBatch } from "../token-batches.ts";
import { nothingDropped } from "../token-filter.ts";
import { heldBlock, HELD, heldPart, holdRows, LIMITS, requireHoldable, type HeldBlock } from "../held-rows.ts"; // prettier-ignore
import {
  ACTIVATIONS,
  SCALES,
  shardPath,
  TOKEN_COLUMNS,
  TOKENS,
  type ShardRecord,
  type StoreFile,
  type StorePlan,
  type TokenColumn,
} from "./manifest.ts";
import { RowSums } from "./row-sums.ts";

/** A shard in memory, filling up. */
export class ShardBuffer {
  readonly shard: number;
  readonly capacity: number;
  rows = 0;
  /** Tokens that were left out since the last row of the shard before. */
  readonly dropped = nothingDropped();
  readonly #plan: StorePlan;
  readonly #columns: Record<TokenColumn, Int32Array>;
  /** By hook point, [capacity, width], in the type on disk. */
  readonly #blocks: Record<string, HeldBlock>;
  readonly #sums: Record<string, RowSums>;

  constructor(plan: StorePlan, shard: number, capacity: number) {
    this.#plan = plan;
    this.shard = shard;
    this.capacity = capacity;
    const column = () => new Int32Array(capacity);
    this.#columns = {
      tokens: column(),
      positions: column(),
      documents: column(),
      starts: column(),
      ends: column(),
    };
    this.#blocks = {};
    this.#sums = {};
    for (const { name, width } of plan.hookPoints) {
      this.#blocks[name] = heldBlock(HELD[plan.dtype], capacity, width);
      this.#sums[name] = new RowSums(width);
    }
  }

  /** Adds the activations [batch · length, width] at `kept` positions, and their tokens. */
  append(batch: TokenBatch, activations: Record<string, Float32Array>, kept: Int32Array): void {
    const length = batch.rows[0].tokens.length;
    const columns = this.#columns;
    for (let i = 0; i < kept.length; i++) {
      const row = batch.rows[Math.floor(kept[i] / length)];
      const position = kept[i] % length;
      columns.positions[this.rows + i] = position;
      for (const name of ["tokens", "documents", "starts", "ends"] as const)
        columns[name][this.rows + i] = row[name][position];
    }
    for (const { name, width } of this.#plan.hookPoints)
      for (let i = 0; i < kept.length;) {
        let run = 1;
        while (i + run < kept.length && kept[i + run] === kept[i] + run) run++;
        const values = activations[name].subarray(kept[i] * width, (kept[i] + run) * width);
        this.#add(name, width, this.rows + i, values);
        i += run;
      }
    this.rows += kept.length;
  }

  /** Sums up, checks and converts `values` [n, width], which become rows from `first` on. */
  #add(name: string, width: number, first: number, values: Float32Array): void {
    const { dtype } = this.#plan;
    const limit = LIMITS[dtype];
    for (let start = 0, row = first; start < values.length; start += width, row++) {
      const squares = this.#sums[name].addRow(values, start);
      // In float64 the squares of float32 cannot overflow: not finite means a value was not.
      if (!(squares < limit * limit)) {
        const where = `row ${row} of shard ${this.shard} at ${name}`;
        requireHoldable(dtype, values.subarray(start, start + width), where);
      }
    }
    const count = values.length / width;
    const block = heldPart(this.#blocks[name], width, first, first + count);
    holdRows(HELD[dtype], values, width, block);
  }

  /** Writes the files, each whole or not at all. */
  async write(out: string): Promise<Pick<ShardRecord, "rows" | "files" | "dropped" | "sums">> {
    const { rows } = this;
    const files: StoreFile[] = [];
    const write = async (folder: string, tensors: Parameters<typeof writeSafetensors>[1]) => {
      const path = shardPath(folder, this.shard);
      files.push({ path, ...(await writeSafetensors(join(out, path), tensors)) });
    };
    const columns = TOKEN_COLUMNS.map((name) => {
      const data = this.#columns[name].subarray(0, rows);
      return [name, { dtype: "I32" as const, shape: [rows], data }] as const;
    });
    await write(TOKENS, Object.fromEntries(columns));
    for (const { name, width } of this.#plan.hookPoints) {
      const { values, scales } = heldPart(this.#blocks[name], width, 0, rows);
      const dtype = HELD[this.#plan.dtype];
      await write(name, {
        [ACTIVATIONS]: { dtype, shape: [rows, width], data: values },
        ...(dtype === "I8" && { [SCALES]: { dtype: "F32", shape: [rows], data: scales } }),
      });
    }
    const sums = Object.entries(this.#sums).map(([name, { sums }]) => [name, sums] as const);
    return { rows, files, dropped: this.dropped, sums: Object.fromEntries(sums) };
  }
}
