/**
 * How latents fire on types of token: counts and sums of activation for every pair of latent and token
 * type, exact where a counter for every pair fits into the memory given (12 bytes each), otherwise in
 * a bounded table that drops the rarest pairs and says by how much a count may be too small.
 */
import { PairTable } from "./pair-table.ts";

/** A latent's firings on one token type. */
export interface TokenPair {
  token: number;
  count: number;
  /** Sum of the activations. */
  sum: number;
}

export class TokenCounts {
  /** How often each token type occurs; [vocabulary]. */
  readonly occurrences: Uint32Array;
  readonly #dense: { counts: Uint32Array; sums: Float64Array } | undefined; // [dSae, vocabulary]
  readonly #table: PairTable | undefined;
  #byLatent: Map<number, TokenPair[]> | undefined;

  constructor(dSae: number, vocabulary: number, maxBytes: number) {
    this.occurrences = new Uint32Array(vocabulary);
    const pairs = dSae * vocabulary;
    if (12 * pairs <= maxBytes)
      this.#dense = { counts: new Uint32Array(pairs), sums: new Float64Array(pairs) };
    else this.#table = new PairTable(maxBytes, { sums: true });
  }

  static plannedBytes(dSae: number, vocabulary: number, maxBytes: number): number {
    const dense = 12 * dSae * vocabulary;
    const pairs = dense <= maxBytes ? dense : new PairTable(maxBytes, { sums: true }).plannedBytes;
    return pairs + 4 * vocabulary;
  }

  get bytes(): number {
    const { counts } = this.#dense ?? {};
    return (counts ? 12 * counts.length : this.#table!.bytes) + this.occurrences.byteLength;
  }

  /** Token types that occur. */
  get types(): number {
    let types = 0;
    for (const count of this.occurrences) if (count > 0) types++;
    return types;
  }

  /** By how much a count of a pair may be too small; 0 when all are exact. */
  get error(): number {
    return this.#table?.error ?? 0;
  }

  /** Counts a latent's firings at positions[from … to-1] of a chunk. */
  add(
    latent: number,
    tokens: Int32Array,
    { positions, values }: { positions: Int32Array; values: Float32Array },
    from: number,
    to: number,
  ): void {
    this.#byLatent = undefined;
    if (this.#table) {
      for (let i = from; i < to; i++) this.#table.add(latent, tokens[positions[i]], 1, values[i]);
      return;
    }
    const { counts, sums } = this.#dense!;
    const base = latent * this.occurrences.length;
    for (let i = from; i < to; i++) {
      const at = base + tokens[positions[i]];
      counts[at]++;
      sums[at] += values[i];
    }
  }

  /** The token types that a latent fired on, those with the most activation first. */
  of(latent: number): TokenPair[] {
    let pairs: TokenPair[] = [];
    if (this.#dense) {
      const { counts, sums } = this.#dense;
      const vocabulary = this.occurrences.length;
      for (let token = 0; token < vocabulary; token++) {
        const at = latent * vocabulary + token;
        if (counts[at] > 0) pairs.push({ token, count: counts[at], sum: sums[at] });
      }
    } else {
      if (!this.#byLatent) {
        const byLatent = (this.#byLatent = new Map<number, TokenPair[]>());
        this.#table!.each((owner, token, count, sum) => {
          const list = byLatent.get(owner);
          if (list) list.push({ token, count, sum });
          else byLatent.set(owner, [{ token, count, sum }]);
        });
      }
      pairs = this.#byLatent.get(latent) ?? [];
    }
    return pairs.sort((a, b) => b.sum - a.sum || a.token - b.token);
  }
}

/**
 * ε², the share of a latent's variance over all positions, silent ones included, that the token type
 * explains: η² = between-type / total sum of squares, less what chance alone gives that many types
 * (Kelley 1935): 1 − (within / (N − T)) / (total / (N − 1)). 0 for a latent that ignores the token.
 * @param occurrences how often each token type occurs; T is how many do at all.
 */
export function varianceByToken(
  pairs: readonly { token: number; sum: number }[],
  occurrences: Uint32Array,
  sums: { sum: number; squares: number; positions: number; types: number },
): number {
  const { sum, squares, positions, types } = sums;
  const total = squares - (sum * sum) / positions;
  if (total <= 0 || positions <= types) return 0;
  let within = squares;
  for (const pair of pairs) within -= (pair.sum * pair.sum) / occurrences[pair.token];
  const ratio = within / (positions - types) / (total / (positions - 1));
  return Math.max(1 - ratio, 0);
}

/** On how many kinds of token a latent fires: 2^H, H the entropy in bits of its activation over token types; 0 when it never does. */
export function effectiveTypes(pairs: readonly { sum: number }[]): number {
  const total = pairs.reduce((all, { sum }) => all + sum, 0);
  if (total <= 0) return 0;
  return 2 ** pairs.reduce((h, { sum }) => h - (sum / total) * Math.log2(sum / total), 0);
}
