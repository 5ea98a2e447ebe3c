/**
 * The search behind a rule: from how often each label meets a latent's firings to the set of labels of
 * one kind that fits them best.
 */
import type { Firings } from "./encoded-text.ts";
import { columnOf } from "./labelled-text.ts";
import type { Label, LabelKind } from "./labels.ts";

/** Shares of the activation mass that a rule may be about. */
export const LEVELS = [1, 0.9, 0.75, 0.5] as const;
/** A plainer rule is preferred when its F1 is at most this much lower. */
const PLAINER = 0.02;
const MAX_LABELS = 8;
/** Firings that must carry a label before a rule may name it. */
const MIN_HITS = 3;
/** From the plainest on. No position has two labels of the same kind, but for classes and concepts. */
const KINDS = ["token", "word", "class", "concept", "pair", "after", "triple"] as const;
const OVERLAPPING: ReadonlySet<LabelKind> = new Set<LabelKind>(["class", "concept"]);

export interface Candidate {
  kind: LabelKind;
  ids: number[];
  /** Place in LEVELS. */
  level: number;
  /** On the documents that it was found on. */
  f1: number;
}

/** Firings by falling value. */
export interface Sorted extends Firings {
  mass: number;
  /** How many of the strongest each level takes. */
  counts: number[];
  /** Their share of the mass. */
  shares: number[];
}

export function sorted({ positions, values }: Firings): Sorted {
  const { positions: places, values: falling } = columnOf(values, positions);
  const mass = sum(falling);
  const counts = LEVELS.map((share) => {
    if (share === 1) return falling.length;
    let [count, reached] = [0, 0];
    while (count < falling.length && reached < share * mass) reached += falling[count++];
    // All firings of one value lie on the same side.
    while (count < falling.length && falling[count] === falling[count - 1]) count++;
    return count;
  });
  return {
    ...{ positions: places, values: falling, mass, counts },
    shares: counts.map((count) => sum(falling.subarray(0, count)) / mass),
  };
}

/** Of every label: where it stands (`counts`), and how often on a firing that each level takes (`hits`, [labels, LEVELS]). */
export interface Tally {
  labels: readonly Label[];
  /** Those that meet any firing. */
  seen: readonly number[];
  hits: Int32Array;
  counts: Int32Array;
  /** Firings that each level takes. */
  fired: readonly number[];
}

/** Best first: the best rule, then the best of each other kind. */
export function searchRules(tally: Tally): Candidate[] {
  const byKind = new Map<LabelKind, number[]>();
  for (const id of tally.seen) {
    if (tally.hits[id * LEVELS.length] < MIN_HITS) continue;
    const { kind } = tally.labels[id];
    const list = byKind.get(kind);
    if (list) list.push(id);
    else byKind.set(kind, [id]);
  }
  const best: Candidate[] = [];
  for (const kind of KINDS) {
    const ids = byKind.get(kind);
    if (!ids) continue;
    const sizes = OVERLAPPING.has(kind) ? 1 : Math.min(MAX_LABELS, ids.length);
    // Levels outside, sizes inside: from the plainest on.
    best.push(plainest(LEVELS.flatMap((_, level) => bestSets(tally, kind, ids, level, sizes))));
  }
  if (best.length === 0) return [];
  const first = plainest(best);
  return [first, ...best.filter((one) => one !== first).sort((a, b) => b.f1 - a.f1)];
}

/**
 * For every size up to `sizes` the set of labels with the highest F1. Exact, for labels that no position
 * carries two of: F1 ≥ λ is the same as Σ (2·hits − λ·count) ≥ λ·|S|, so for a given λ the best set
 * are the labels with the largest terms, and λ rises to the optimum (Dinkelbach 1967).
 */
function bestSets(
  { hits, counts, fired }: Tally,
  kind: LabelKind,
  ids: readonly number[],
  level: number,
  sizes: number,
): Candidate[] {
  const L = LEVELS.length;
  const found: Candidate[] = [];
  // λ only rises, so what is worth nothing for one is worth nothing for all that follow.
  const left = Int32Array.from(ids);
  let count = left.length;
  for (let size = 1; size <= sizes; size++) {
    let lambda = found.at(-1)?.f1 ?? 0;
    let chosen: number[] = [];
    for (;;) {
      const top = new Largest(size);
      let kept = 0;
      for (let i = 0; i < count; i++) {
        const id = left[i];
        const worth = 2 * hits[id * L + level] - lambda * counts[id];
        if (worth <= 0) continue;
        left[kept++] = id;
        top.add(id, worth);
      }
      count = kept;
      if (kept === 0) break;
      let [h, n] = [0, 0];
      for (const id of top.ids) {
        h += hits[id * L + level];
        n += counts[id];
      }
      const f1 = (2 * h) / (n + fired[level]);
      if (f1 <= lambda + 1e-12) break;
      lambda = f1;
      chosen = top.ids;
    }
    // Nothing larger is better.
    if (chosen.length < size) break;
    found.push({ kind, ids: chosen, level, f1: lambda });
  }
  return found;
}

/** The first whose F1 is within PLAINER of the best: candidates come from the plainest on. */
function plainest(candidates: readonly Candidate[]): Candidate {
  const best = Math.max(...candidates.map(({ f1 }) => f1));
  return candidates.find(({ f1 }) => f1 >= best - PLAINER)!;
}

/** The `size` ids with the largest worth, the largest first, of equals the first one first. */
class Largest {
  readonly ids: number[] = [];
  readonly #worth: number[] = [];
  readonly #size: number;

  constructor(size: number) {
    this.#size = size;
  }

  add(id: number, worth: number): void {
    const { ids } = this;
    if (ids.length === this.#size) {
      if (worth <= this.#worth[ids.length - 1]) return;
      ids.pop();
    }
    let at = ids.length;
    for (; at > 0 && this.#worth[at - 1] < worth; at--) {
      ids[at] = ids[at - 1];
      this.#worth[at] = this.#worth[at - 1];
    }
    ids[at] = id;
    this.#worth[at] = worth;
  }
}

export function sum(values: ArrayLike<number>): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i];
  return total;
}
