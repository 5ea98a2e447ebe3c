/** Features matched by where their decoders point: a one-to-one matching by cosine. */
import type { Device } from "../device/device.ts";
import { Rng } from "../rng.ts";
import { matchCandidates, type Candidate } from "../sae/recovery.ts";
import type { Sae } from "../sae/sae.ts";
import { CANDIDATES, summary, type OneToOne } from "./matching.ts";
import { unitRows } from "./neighbors.ts";
import { highest } from "./order.ts";
import { rowProducts } from "./products.ts";

/** A matching by decoder cosine, with each latent's nearest decoder row of the other SAE. */
export interface CosineMatch extends OneToOne {
  /** B's row nearest to each of A's, -1 for none, and its cosine; [dSae of A]. */
  nearest: number[];
  cosine: number[];
}

/**
 * One-to-one matching by the cosine of decoder rows, of `latents` of A with `others` of B; candidates are the
 * 10 nearest of each. The null is the same against B turned by a random signed permutation of the axes,
 * an orthogonal map, which keeps all of B's own geometry.
 * @returns undefined where the decoders write into spaces of different widths.
 */
export async function matchDecoders(
  a: Pick<Sae, "W_dec" | "spec">,
  b: Pick<Sae, "W_dec" | "spec">,
  latents: ReadonlySet<number>,
  others: ReadonlySet<number>,
  { threshold, device, seed = 0 }: { threshold: number; device?: Device; seed?: number },
): Promise<CosineMatch | undefined> {
  const width = a.spec.dOut;
  if (width !== b.spec.dOut) return undefined;
  const rows = unitRows(a.W_dec, width);
  const columns = unitRows(b.W_dec, width);
  const rng = new Rng(seed, "turned decoder");
  const axes = rng.shuffle(Int32Array.from({ length: width }, (_, c) => c));
  const signs = Array.from(axes, () => (rng.uniform() < 0.5 ? -1 : 1));
  const turned = columns.map((_, i) => {
    const c = i % width;
    return signs[c] * columns[i - c + axes[c]];
  });
  const match = async (right: Float32Array): Promise<Omit<CosineMatch, "null">> => {
    const [n, m] = [a.spec.dSae, b.spec.dSae];
    const candidates: Candidate[] = [];
    const nearest = new Array<number>(n).fill(-1);
    const cosine = new Array<number>(n).fill(NaN);
    for await (const block of rowProducts(rows, right, width, device))
      for (let i = 0; i < block.rows; i++) {
        const f = block.from + i;
        if (!latents.has(f)) continue;
        const scores = block.products.slice(i * m, (i + 1) * m);
        for (let g = 0; g < m; g++) if (!others.has(g)) scores[g] = -1;
        const best = highest(scores, CANDIDATES).filter((g) => scores[g] > 0);
        if (best.length === 0) continue;
        [nearest[f], cosine[f]] = [best[0], scores[best[0]]];
        for (const g of best) candidates.push({ row: f, column: g, score: scores[g] });
      }
    const { partner, exact } = matchCandidates(candidates, n, m);
    const worth = new Map(candidates.map(({ row, column, score }) => [row * m + column, score]));
    const scores = Array.from(partner, (g, f) => (g < 0 ? NaN : worth.get(f * m + g)!));
    return { ...summary(scores, threshold), exact, partner: [...partner], nearest, cosine };
  };
  const { pairs, mean, atLeastShared } = await match(turned);
  return { ...(await match(columns)), null: { pairs, mean, atLeastShared } };
}
