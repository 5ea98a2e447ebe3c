/** Sums kept apart by document, so that intervals can be drawn over documents, in bounded memory. */
import { bootstrapAll, type Interval } from "./interval.ts";

/** Sums over the documents of a unit, or over any draw of units. */
export type Sums<Column extends string> = Record<Column, number>;

/** Fewer documents than these say nothing about how a statistic varies between documents. */
export const MIN_UNITS = 10;

/** Room for per-document sums, in bytes. */
const ROOM = 64 * 2 ** 20;
const MAX_UNITS = 4096;

/**
 * Columns of numbers, summed up by document. Beyond the units that there is room for (4,096, fewer
 * where `vector` is wide) neighbouring documents are put together, two by two, then four by four:
 * which documents share a unit depends on how many there are, never on how they were batched.
 */
export class DocumentSums<Column extends string> {
  /** Consecutive documents in one unit. */
  documentsPerUnit = 1;
  /** Documents seen, counted where they begin: they come in order. */
  documents = 0;
  #last = -1;
  readonly #capacity: number;
  readonly #columns: Record<Column, Float64Array>;
  readonly #width: number;
  /** [units, width], made as units appear. */
  readonly #vectors: (Float64Array | undefined)[] = [];

  /** @param width of one more sum, a vector. */
  constructor(columns: readonly Column[], width = 0, capacity?: number) {
    const fitting = Math.floor(ROOM / 8 / Math.max(1, columns.length + width));
    this.#capacity = capacity ?? Math.max(64, Math.min(MAX_UNITS, fitting));
    this.#width = width;
    this.#columns = Object.fromEntries(
      columns.map((name) => [name, new Float64Array(this.#capacity)]),
    ) as Record<Column, Float64Array>;
  }

  add(document: number, values: Partial<Sums<Column>>): void {
    const unit = this.#unitOf(document);
    for (const name in values) this.#columns[name][unit] += values[name]!;
  }

  /** The vector of the document's unit, to be added to. */
  vector(document: number): Float64Array {
    return (this.#vectors[this.#unitOf(document)] ??= new Float64Array(this.#width));
  }

  /** Σ over all documents. */
  totals(): Sums<Column> {
    return this.#sum(Int32Array.from({ length: this.#capacity }, (_, u) => u));
  }

  /** Σ of all documents' vectors. */
  vectorTotal(): Float64Array {
    const total = new Float64Array(this.#width);
    for (const vector of this.#vectors) vector?.forEach((v, c) => (total[c] += v));
    return total;
  }

  /** Sets `column` of each unit to `value` of its vector and sums. */
  setFromVector(column: Column, value: (vector: Float64Array, sums: Sums<Column>) => number): void {
    for (const [unit, vector] of this.#vectors.entries())
      if (vector) this.#columns[column][unit] = value(vector, this.#sum(Int32Array.of(unit)));
  }

  /** Units in which `count`, a column of counts, is not 0, rising. */
  units(count: Column): Int32Array {
    return Int32Array.from({ length: this.#capacity }, (_, u) => u).filter(
      (u) => this.#columns[count][u] > 0,
    );
  }

  /** The sums of units, each as often as it is named. */
  of(units: Int32Array): Sums<Column> {
    return this.#sum(units);
  }

  #sum(units: Int32Array): Sums<Column> {
    const sums = {} as Sums<Column>;
    for (const name in this.#columns) {
      const values = this.#columns[name];
      let sum = 0;
      for (const unit of units) sum += values[unit];
      sums[name] = sum;
    }
    return sums;
  }

  #unitOf(document: number): number {
    if (document !== this.#last) this.documents++;
    this.#last = document;
    while (Math.floor(document / this.documentsPerUnit) >= this.#capacity) this.#merge();
    return Math.floor(document / this.documentsPerUnit);
  }

  #merge(): void {
    this.documentsPerUnit *= 2;
    const half = Math.ceil(this.#capacity / 2);
    for (const name in this.#columns) {
      const values = this.#columns[name];
      for (let u = 0; u < half; u++) values[u] = values[2 * u] + (values[2 * u + 1] ?? 0);
      values.fill(0, half);
    }
    const vectors = this.#vectors;
    for (let u = 0; 2 * u < vectors.length; u++) {
      const [into, from] = [vectors[2 * u], vectors[2 * u + 1]];
      from?.forEach((v, c) => into && (into[c] += v));
      vectors[u] = into ?? from;
    }
    vectors.length = Math.ceil(vectors.length / 2);
  }
}

export type Formulas<Column extends string> = Record<string, (sums: Sums<Column>) => number>;

/** A metric with its 95 % interval over documents; where there is none, `low` and `high` are null. */
export interface Estimate {
  value: number;
  low: number | null;
  high: number | null;
}

/**
 * Each formula of the sums over all documents, with its interval by the bootstrap over units; all of
 * them on the same draws. No interval with fewer than `MIN_UNITS` units.
 */
export function estimates<Column extends string>(
  sums: DocumentSums<Column>,
  formulas: Formulas<Column>,
  count: NoInfer<Column>,
): Record<string, Estimate> {
  return estimatesOf(Object.keys(formulas), sums.units(count), (drawn) => {
    const total = sums.of(drawn);
    return Object.values(formulas).map((formula) => formula(total));
  });
}

/**
 * `b` − `a` of each formula, on draws of the same documents of both: they must be sums over the same
 * text. The formulas have the same names and differ at most in what is no sum, as a width.
 */
export function differences<Column extends string>(
  [a, b]: readonly [DocumentSums<Column>, DocumentSums<Column>],
  [ofA, ofB]: readonly [Formulas<Column>, Formulas<Column>],
  count: NoInfer<Column>,
): Record<string, Estimate> {
  const names = Object.keys(ofA);
  return estimatesOf(names, a.units(count), (drawn) => {
    const [before, after] = [a.of(drawn), b.of(drawn)];
    return names.map((name) => ofB[name](after) - ofA[name](before));
  });
}

function estimatesOf(
  names: string[],
  units: Int32Array,
  statistics: (units: Int32Array) => number[],
): Record<string, Estimate> {
  const few = units.length < MIN_UNITS;
  const found: Interval[] = few
    ? statistics(units).map((value) => ({ value, low: NaN, high: NaN }))
    : bootstrapAll(units.length, (drawn) => statistics(drawn.map((n) => units[n])));
  const orNull = (v: number) => (Number.isNaN(v) ? null : v);
  return Object.fromEntries(
    names.map((name, i) => {
      const { value, low, high } = found[i];
      return [name, { value, low: orNull(low), high: orNull(high) }];
    }),
  );
}
