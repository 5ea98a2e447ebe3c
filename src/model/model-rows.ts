/** Activations of a text, row by row in the order of the text, made when they are asked for. */
import { UserError } from "../error.ts";
import { HELD, heldBlock, heldPart, holdRows, LIMITS, requireHoldable, runsOf, type HeldBlock } from "./held-rows.ts"; // prettier-ignore
import type { Model } from "./model.ts";
import type { StorePlan } from "./store/manifest.ts";
import { partsOf, type DocumentOptions } from "./text.ts";
import { batchTokens, tokenBatches } from "./token-batches.ts";
import { keptPlaces, TokenFilter } from "./token-filter.ts";

/** The rows of one forward pass: of each hook point a block in the type they are kept in. */
export interface ModelRows {
  rows: number;
  blocks: HeldBlock[];
}

/** How the rows are made: a store's plan, as far as it matters here. */
export type RowsPlan = Pick<
  StorePlan,
  "data" | "contextLength" | "bos" | "eos" | "packing" | "batchRows" | "dtype" | "tokenRules"
>;

/** How many rows a text gives, at most those of its plan. */
export interface RowCount {
  rows: number;
  /** Of each forward pass; where tokens alone do not tell, and only there. */
  perPass?: number[];
}

/**
 * Rows start … end-1, numbered as `collect` numbers them, forward pass by forward pass. Text before the
 * first is only packed; the passes are those of collecting, so that the numbers are too, bit for bit.
 * Ends early where the text does, and between two passes once `isWanted` says no.
 * @throws UserError for values that are not finite or too large for the type, naming row and hook point;
 *   and where a pass has not the rows that were counted.
 */
export async function* modelRows(
  model: Pick<Model, "tokenizer" | "forward">,
  plan: RowsPlan,
  hookPoints: readonly string[],
  { start, end, perPass, isWanted }: { start: number; end: number; perPass?: number[] | undefined; isWanted: () => boolean }, // prettier-ignore
): AsyncGenerator<ModelRows, void> {
  const filter = new TokenFilter(plan.tokenRules, model.tokenizer);
  let row = 0;
  let pass = 0;
  for await (const batch of tokenBatches(model, plan.data.source, plan)) {
    if (!isWanted()) return;
    const reasons = filter.reasons(batch.rows);
    const first = row;
    const count = perPass ? (perPass[pass++] ?? 0) : keptPlaces(reasons).length;
    row += count;
    if (row > start && count > 0) {
      const input = batchTokens(batch.rows);
      const { activations } = await model.forward({ ...input, capture: [...hookPoints] });
      filter.addNorms(reasons, activations);
      const all = keptPlaces(reasons);
      if (all.length !== count)
        throw new UserError(
          `forward pass ${pass} gives ${all.length} activations where ${count} were counted: its text was changed while it was read`,
        );
      const from = Math.max(start, first);
      const kept = all.subarray(from - first, end - first);
      const positions = input.tokens.length;
      const blocks = hookPoints.map((name) =>
        keep(activations[name], positions, kept, plan.dtype, (i) => `row ${from + i} at ${name}`),
      );
      yield { rows: kept.length, blocks };
    }
    if (row >= end) return;
  }
}

/** The rows at `kept` of x [positions, width], checked and rounded. */
function keep(
  x: Float32Array,
  positions: number,
  kept: Int32Array,
  dtype: keyof typeof HELD,
  where: (i: number) => string,
): HeldBlock {
  const width = x.length / positions;
  const limit = LIMITS[dtype];
  const block = heldBlock(HELD[dtype], kept.length, width);
  for (const [from, to] of runsOf(kept)) {
    const values = x.subarray(kept[from] * width, (kept[from] + to - from) * width);
    for (let i = from, at = 0; i < to; i++, at += width) {
      let squares = 0;
      for (let j = at; j < at + width; j++) squares += values[j] * values[j];
      // In float64 the squares of float32 cannot overflow: not finite means a value was not.
      if (!(squares < limit * limit))
        requireHoldable(dtype, values.subarray(at, at + width), where(i));
    }
    holdRows(HELD[dtype], values, width, heldPart(block, width, from, to));
  }
  return block;
}

/**
 * How many rows the text gives, at most `plan.tokens`. It is packed, and no model is run but where the norms of
 * activations tell what counts.
 * @throws UserError when it gives none.
 */
export async function countRows(
  model: Pick<Model, "tokenizer" | "forward">,
  plan: RowsPlan & Pick<StorePlan, "tokens">,
  hookPoints: readonly string[],
  options: {
    signal?: AbortSignal | undefined;
    onProgress?: ((done: number) => void) | undefined;
    onEmpty?: DocumentOptions["onEmpty"];
  } = {},
): Promise<RowCount> {
  const { source, split } = plan.data;
  const filter = new TokenFilter(plan.tokenRules, model.tokenizer);
  const parts = partsOf(source).map((part) => part.source);
  const isEndless = parts.some((name) => name.startsWith("builtin:"));
  if (isEndless && !filter.needsNorms) return { rows: plan.tokens };
  const perPass: number[] = [];
  let rows = 0;
  for await (const batch of tokenBatches(model, source, plan, undefined, options)) {
    options.signal?.throwIfAborted();
    const reasons = filter.reasons(batch.rows);
    if (filter.needsNorms) {
      const input = { ...batchTokens(batch.rows), capture: [...hookPoints] };
      filter.addNorms(reasons, (await model.forward(input)).activations);
    }
    const kept = keptPlaces(reasons).length;
    filter.requireSome(reasons.length, kept);
    perPass.push(kept);
    rows += kept;
    options.onProgress?.(Math.min(rows, plan.tokens));
    if (rows >= plan.tokens) break;
  }
  if (rows === 0)
    throw new UserError(
      `${parts.join(", ")} (${split}) yields no tokens to take activations of: is the text empty${filter.needsNorms ? ", or maxNorm too small" : ""}?`,
    );
  return { rows: Math.min(rows, plan.tokens), ...(filter.needsNorms && { perPass }) };
}
