/**
 * What meetings of two latents are worth: the exact test of "they fire at the same positions" against chance
 * that leaves every document its firings. Under the null each document's firings of the one are turned round
 * by a distance of their own (as `turnedInDocuments` does it once): how often each latent fires in a document
 * and in what runs stays, so that neither a common topic nor the dependence of neighbouring tokens counts as
 * meeting. Over all n_d turns of document d, with C_d(s) the meetings when turned by s,
 *
 *     E = Σ_d a_d b_d / n_d          p(together) = P(Σ_d C_d ≥ n)      p(apart) = P(Σ_d C_d ≤ n)
 *
 * The distribution of the sum is the convolution of the documents'. Where that would be long work it is taken
 * as Pearson's type III with the same mean, variance and third moment.
 */
import type { Firings, HeldText } from "./firings.ts";
import { pearson3Tail } from "./significance.ts";

/** Firings with the documents that they lie in. */
export interface TurnableFirings {
  firings: Firings;
  /** By latent: its documents are document[offsets[f] … offsets[f+1]-1], rising; there `from` is its first firing, and `from[k + 1]` the first of the next document. */
  offsets: Int32Array; // [dSae + 1]
  document: Int32Array;
  from: Int32Array;
  /** Positions of each document, and where it begins; [documents]. */
  lengths: Int32Array;
  begins: Int32Array;
}

/** @param text what the firings are of; a document's positions lie together. */
export function turnable(firings: Firings, text: HeldText): TurnableFirings {
  const { dSae, offsets: ends, at } = firings;
  const lengths = new Int32Array(text.documents);
  const begins = new Int32Array(text.documents);
  for (let p = text.positions - 1; p >= 0; p--) {
    lengths[text.document[p]]++;
    begins[text.document[p]] = p;
  }
  const offsets = new Int32Array(dSae + 1);
  const document: number[] = [];
  const from: number[] = [];
  for (let f = 0; f < dSae; f++) {
    for (let i = ends[f], last = -1; i < ends[f + 1]; i++) {
      const d = text.document[at[i]];
      if (d === last) continue;
      document.push(d);
      from.push(i);
      last = d;
    }
    offsets[f + 1] = document.length;
  }
  from.push(at.length);
  return {
    ...{ firings, offsets, lengths, begins },
    document: Int32Array.from(document),
    from: Int32Array.from(from),
  };
}

/** Meetings of two latents beside those of all turns. */
export interface TurnTest {
  /** Positions where both fire, n. */
  together: number;
  /** E. */
  turned: number;
  /** (n − E) / the standard deviation over all turns; 0 where turning changes nothing. */
  z: number;
  /** The probability of so many meetings or more; of so few or fewer. */
  more: number;
  fewer: number;
}

/** Below so many standard deviations from E both probabilities are given as 1: they are large, and not worth their time. */
const SCREEN = 1.5;
/** Additions beyond which the sum's distribution is taken from its moments. */
const EXACT_WORK = 5000;
/** Probabilities are not told apart below that. */
const NEGLIGIBLE = 1e-30;

export class Turning {
  readonly #a: TurnableFirings;
  readonly #b: TurnableFirings;
  /** Meetings at each turn of a document; all 0 in between. */
  readonly #meetings: Int32Array;
  /** How many of a document's turns, then which share, have each number of meetings; and the share of all documents' turns together. */
  readonly #spread: Float64Array;
  readonly #shares = new Float64Array(EXACT_WORK + 1);

  /** Latents of `a` with latents of `b`, which may be the same; both of the same text. */
  constructor(a: TurnableFirings, b: TurnableFirings) {
    this.#a = a;
    this.#b = b;
    const longest = a.lengths.reduce((most, n) => Math.max(most, n), 0);
    this.#meetings = new Int32Array(longest);
    this.#spread = new Float64Array(longest + 1);
  }

  /** Latent f of `a` with latent g of `b`. */
  test(f: number, g: number): TurnTest {
    const shared = this.#sharedDocuments(f, g);
    const { lengths, document } = this.#a;
    const meetings = this.#meetings;
    let [together, mean, variance, third, most, work] = [0, 0, 0, 0, 0, 0];
    for (let k = 0; k < shared.length; k += 2) {
      const { sum, squares, cubes, highest } = this.#turn(shared[k], shared[k + 1]);
      const n = lengths[document[shared[k]]];
      together += meetings[0];
      // Whichever is less to do.
      if (n <= 64 * sum) meetings.fill(0, 0, n);
      else this.#takeSpread(shared[k], shared[k + 1], highest);
      const average = sum / n;
      mean += average;
      variance += squares / n - average ** 2;
      third += cubes / n - (3 * average * squares) / n + 2 * average ** 3;
      most += highest;
      work += (highest + 1) * (most + 1);
    }
    if (!(variance > 1e-12)) return { together, turned: mean, z: 0, more: 1, fewer: 1 };
    const z = (together - mean) / Math.sqrt(variance);
    const test = { together, turned: mean, z, more: 1, fewer: 1 };
    if (Math.abs(z) < SCREEN) return test;
    if (work > EXACT_WORK) {
      // Whole numbers stand for the half steps around them.
      test.more = pearson3Tail(together - 0.5, { mean, variance, third });
      test.fewer = pearson3Tail(-together - 0.5, { mean: -mean, variance, third: -third });
    } else {
      const shares = this.#distribution(shared, most);
      let [more, fewer] = [0, 0];
      for (let k = 0; k < shares.length; k++) {
        if (k >= together) more += shares[k];
        if (k <= together) fewer += shares[k];
      }
      [test.more, test.fewer] = [more, fewer];
    }
    test.more = Math.min(1, Math.max(test.more, NEGLIGIBLE));
    test.fewer = Math.min(1, Math.max(test.fewer, NEGLIGIBLE));
    return test;
  }

  /** Places, in `a` and in `b`, of the documents in which both fire. */
  #sharedDocuments(f: number, g: number): number[] {
    const [a, b] = [this.#a, this.#b];
    const shared: number[] = [];
    let [i, j] = [a.offsets[f], b.offsets[g]];
    while (i < a.offsets[f + 1] && j < b.offsets[g + 1]) {
      if (a.document[i] < b.document[j]) i++;
      else if (a.document[i] > b.document[j]) j++;
      else shared.push(i++, j++);
    }
    return shared;
  }

  /** Counts the meetings m at each turn of a document; returns the sums over all turns of m, m² and m³, and the highest m. */
  #turn(i: number, j: number) {
    const [a, b] = [this.#a, this.#b];
    const n = a.lengths[a.document[i]];
    const [ofA, ofB, meetings] = [a.firings.at, b.firings.at, this.#meetings];
    const [from, to] = [b.from[j], b.from[j + 1]];
    const sum = (a.from[i + 1] - a.from[i]) * (to - from);
    let [before, beforeSquared, highest] = [0, 0, 0];
    for (let x = a.from[i]; x < a.from[i + 1]; x++) {
      const at = ofA[x];
      for (let y = from; y < to; y++) {
        const by = ofB[y] - at;
        const turn = by + (n & (by >> 31)); // by + n where by < 0
        const m = meetings[turn];
        meetings[turn] = m + 1;
        before += m;
        beforeSquared += m * m;
        if (m >= highest) highest = m + 1;
      }
    }
    // Where m becomes m + 1, m² grows by 2m + 1 and m³ by 3m² + 3m + 1.
    const squares = 2 * before + sum;
    return { sum, squares, cubes: 3 * beforeSquared + 3 * before + sum, highest };
  }

  /** Clears what `#turn` has counted, and counts in `#spread` the turns with each number of meetings from 1 on; returns how many these are. */
  #takeSpread(i: number, j: number, highest: number): number {
    const [a, b] = [this.#a, this.#b];
    const n = a.lengths[a.document[i]];
    const [meetings, spread] = [this.#meetings, this.#spread];
    spread.fill(0, 0, highest + 1);
    let turns = 0;
    for (let x = a.from[i]; x < a.from[i + 1]; x++)
      for (let y = b.from[j]; y < b.from[j + 1]; y++) {
        const by = b.firings.at[y] - a.firings.at[x];
        const turn = by < 0 ? by + n : by;
        const m = meetings[turn];
        if (m === 0) continue;
        spread[m]++;
        turns++;
        meetings[turn] = 0;
      }
    return turns;
  }

  /** The probability of each number of meetings in all, 0 first, up to `most`. */
  #distribution(shared: readonly number[], most: number): Float64Array {
    const shares = this.#shares.subarray(0, most + 1).fill(0);
    const spread = this.#spread;
    shares[0] = 1;
    let reached = 0;
    for (let k = 0; k < shared.length; k += 2) {
      const { highest } = this.#turn(shared[k], shared[k + 1]);
      const n = this.#a.lengths[this.#a.document[shared[k]]];
      const turns = this.#takeSpread(shared[k], shared[k + 1], highest);
      for (let m = 1; m <= highest; m++) spread[m] /= n;
      const none = (n - turns) / n;
      // In place: what is added to higher numbers comes from those not yet multiplied.
      for (let i = reached; i >= 0; i--) {
        const share = shares[i];
        shares[i] = share * none;
        for (let m = 1; m <= highest; m++) shares[i + m] += share * spread[m];
      }
      reached += highest;
    }
    return shares;
  }
}
