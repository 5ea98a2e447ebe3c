/**
 * A shard of an activation store in memory: what a forward pass gave is summed up, checked and
 * rounded to the type on disk as it comes.
 */
import { join } from "node:path";

import { UserError } from "../../error.ts";
import { writeSafetensors } from "../../safetensors.ts";
import type { TokenBatch } from "../token-batches.ts";
import { nothingDropped } from "../token-filter.ts";
import { heldBlock, HELD, heldPart, holdRows, type HeldBlock } from "../held-rows.ts";
import {
  ACTIVATIONS,
  SCALES,
  shardPath,
  TOKEN_COLUMNS,
  TOKENS,
  type ShardRecord,
  type ShardSums,
  type StoreFile,
  type StorePlan,
  type TokenColumn,
} from "./manifest.ts";

/** Largest size that each type rounds to a finite value. */
const LIMITS = { f32: Infinity, bf16: 2 ** 128 * (1 - 2 ** -9), f16: 65520, int8: Infinity };

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
  readonly #sums: Record<string, ShardSums>;

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
      this.#sums[name] = {
        sum: new Array<number>(width).fill(0),
        sumSquares: 0,
        sumNorm: 0,
        maxNorm: 0,
      };
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
    const sums = this.#sums[name];
    const { sum } = sums;
    const limit = LIMITS[dtype];
    for (let start = 0, row = first; start < values.length; start += width, row++) {
      let squares = 0;
      for (let j = 0; j < width; j++) {
        const x = values[start + j];
        sum[j] += x;
        squares += x * x;
      }
      // In float64 the squares of float32 cannot overflow: not finite means a value was not.
      if (!(squares < limit * limit))
        this.#checkRow(name, row, values.subarray(start, start + width));
      const norm = Math.sqrt(squares);
      sums.sumSquares += squares;
      sums.sumNorm += norm;
      if (norm > sums.maxNorm) sums.maxNorm = norm;
    }
    const count = values.length / width;
    const block = heldPart(this.#blocks[name], width, first, first + count);
    holdRows(HELD[dtype], values, width, block);
  }

  #checkRow(name: string, row: number, values: Float32Array): void {
    const where = `row ${row} of shard ${this.shard} at ${name}`;
    const bad = values.find((x) => !Number.isFinite(x));
    if (bad !== undefined)
      throw new UserError(
        `the model's activation in ${where} holds ${bad}: its weights are damaged, or it overflows on this text`,
      );
    const { dtype } = this.#plan;
    const large = values.find((x) => Math.abs(x) >= LIMITS[dtype]);
    if (large !== undefined)
      throw new UserError(
        `the activation in ${where} holds ${large}, too large for ${dtype}` +
          `${dtype === "f16" ? " (at most 65504): use dtype bf16 or f32" : ": use dtype f32"}`,
      );
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
    return { rows, files, dropped: this.dropped, sums: this.#sums };
  }
}
