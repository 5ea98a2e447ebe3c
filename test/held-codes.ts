/** Made-up activations, held as comparisons hold them. */
import { firingsOf, type Firings, type HeldText } from "../src/analysis/firings.ts";

/** Activations given latent by latent, [dSae][positions]. */
export function firingsFrom(columns: readonly (readonly number[])[]): Firings {
  const offsets = Int32Array.of(0, ...columns.map(() => 0));
  const at: number[] = [];
  const values: number[] = [];
  for (const [f, column] of columns.entries()) {
    for (const [p, value] of column.entries())
      if (value > 0) {
        at.push(p);
        values.push(value);
      }
    offsets[f + 1] = at.length;
  }
  return firingsOf(columns.length, columns[0].length, {
    ...{ offsets, at: Int32Array.from(at), values: Float32Array.from(values) },
  });
}

/** A text of one kind of token whose positions lie in these documents. */
export function textOf(document: readonly number[], token = document.map(() => 0)): HeldText {
  return {
    positions: document.length,
    documents: Math.max(...document) + 1,
    document: Int32Array.from(document),
    token: Int32Array.from(token),
  };
}
