/**
 * The query language over features, the same in a page, in the server and in a static site:
 *
 *   density<0.01 label:animal -is:dead fires:"the dog" sort:-max
 *
 * Clauses are joined by "and"; a minus before one turns it round. `field<x`, `<=`, `>`, `>=`, `field:x`
 * and `field:low..high` compare numbers, `field:words` looks in texts, `is:state` asks for a state,
 * `fires:text` for latents that fire on a text, `like:123` for those whose decoder direction is like that
 * of latent 123, words alone look in every text. `sort:field` sorts up, `sort:-field` down; a latent
 * without a value comes last either way, equal ones by their number. Without it what is most like the
 * latent of `like:` comes first, or else what has the lowest number.
 */
import { nearestName, UserError } from "../error.ts";
import type { PackedTable } from "../packed-table.ts";

/** Numbers of a latent that a query can name, with what each is. */
export const NUMBER_FIELDS = {
  latent: "number of the latent, from 0",
  density: "firings / positions of held-out text, beginning-of-sequence tokens in neither",
  firings: "positions where its activation is above 0",
  documents: "documents with at least one firing",
  mean: "mean activation over the positions where it fires",
  max: "largest activation",
  selectivity: "share of the variance of its activation that the current token explains (ε²)",
  kinds: "kinds of token it fires on: 2^entropy of its activation over token types",
  auc: "area under the ROC curve of its activation as a score for the label that fits it best, on test documents",
  f1: "F1 of that label at the threshold chosen on other documents",
  rule: "F1 of its best rule on held-out text",
  rating: "stars that people gave, 1 to 5",
  x: "strength on the text that was analysed",
  like: "cosine of its decoder direction with that of the latent that like: names",
} as const;
export type NumberField = keyof typeof NUMBER_FIELDS;

/** Texts that a query can look in. */
export const TEXT_FIELDS = {
  label: "what people call it, or else the label that fits best",
  token: "the tokens it is most active on",
  rule: "its best rule in words",
  notes: "notes of people",
  tag: "tags of people",
  group: "groups it is in",
} as const;
export type TextField = keyof typeof TEXT_FIELDS;

/** States that a query can ask for. */
export const STATES = {
  dead: "never fires in the indexed text",
  dense: "fires at more than a tenth of all positions",
  labelled: "people have given it a label",
  unlabelled: "people have given it no label",
  rated: "people have rated it",
  tagged: "people have tagged it",
  aligned: "the label that fits best has an AUC of at least 0.95",
  specific: "aligned, and its F1 is at least 0.5",
} as const;
export type State = keyof typeof STATES;

/** From this density on a latent is dense. */
export const DENSE = 0.1;

export type Clause = { not: boolean } & (
  | { kind: "number"; field: NumberField; low: number; high: number; open: boolean }
  | { kind: "text"; field: TextField | "any"; text: string }
  | { kind: "state"; state: State }
  | { kind: "fires"; text: string }
  | { kind: "like"; latent: number }
);

export interface Query {
  clauses: Clause[];
  sort: { field: NumberField; down: boolean } | undefined;
}

/** What people said of a latent. */
export interface Remark {
  label: string;
  notes: string;
  tags: readonly string[];
  rating: number | null;
  groups?: readonly string[];
}

/** What is said of each latent, from what is said of single ones and the groups that they are in. */
export function remarksOf(
  said: readonly ({ latent: number } & Omit<Remark, "groups">)[],
  groups: readonly { name: string; latents: readonly number[] }[],
): Map<number, Remark & { groups: string[] }> {
  const nothing = { label: "", notes: "", tags: [], rating: null };
  const remarks = new Map<number, Remark & { groups: string[] }>();
  for (const { latent, label, notes, tags, rating } of said)
    remarks.set(latent, { label, notes, tags, rating, groups: [] });
  for (const { name, latents } of groups)
    for (const latent of latents) {
      const own = remarks.get(latent) ?? { ...nothing, groups: [] };
      own.groups.push(name);
      remarks.set(latent, own);
    }
  return remarks;
}

export interface QueryContext {
  remarks?: ReadonlyMap<number, Remark>;
  /** For each text of a `fires:` clause, the latents that fire on it with their largest activation. */
  fires?: ReadonlyMap<string, ReadonlyMap<number, number>>;
  /** For the latent of each `like:` clause, how like it the others are. */
  like?: ReadonlyMap<number, Likeness>;
}

/** How like one latent all are. */
export interface Likeness {
  /** [dSae] of the decoder directions; NaN where it is not known. */
  cosines: Float32Array;
  /** From this cosine on one is like it. */
  least: number;
}

const names = (of: object) => Object.keys(of).join(", ");
const isIn = <T extends object>(of: T, name: string): name is keyof T & string =>
  Object.hasOwn(of, name);

/** @throws UserError that names the clause, what is wrong and what there is. */
export function parseQuery(text: string): Query {
  const query: Query = { clauses: [], sort: undefined };
  for (const { raw, not, field, operator, value } of terms(text)) {
    if (field === undefined) {
      query.clauses.push({ not, kind: "text", field: "any", text: value });
    } else if (field === "sort") {
      const down = value.startsWith("-");
      const by = value.replace(/^-/, "");
      if (!isIn(NUMBER_FIELDS, by)) throw unknown(raw, by, NUMBER_FIELDS, "sort by one of");
      query.sort = { field: by, down };
    } else if (field === "is") {
      if (!isIn(STATES, value)) throw unknown(raw, value, STATES, "is: takes one of");
      query.clauses.push({ not, kind: "state", state: value });
    } else if (field === "fires") {
      query.clauses.push({ not, kind: "fires", text: value });
    } else if (field === "like" && operator === ":" && /^\d+$/.test(value)) {
      query.clauses.push({ not, kind: "like", latent: Number(value) });
    } else if (
      isIn(NUMBER_FIELDS, field) &&
      !(isIn(TEXT_FIELDS, field) && isWord(operator, value))
    ) {
      query.clauses.push({ not, kind: "number", field, ...range(raw, field, operator, value) });
    } else if (isIn(TEXT_FIELDS, field)) {
      if (operator !== ":") throw new UserError(`${raw}: ${field} is a text; write ${field}:words`);
      query.clauses.push({ not, kind: "text", field, text: value });
    } else {
      const all = { ...NUMBER_FIELDS, ...TEXT_FIELDS, is: "", fires: "", sort: "" };
      throw unknown(raw, field, all, "fields are");
    }
  }
  if (query.clauses.some(({ kind }) => kind === "like"))
    query.sort ??= { field: "like", down: true };
  return query;
}

/** `rule` is a number and a text: what reads as a number is one. */
const isWord = (operator: string, value: string) => operator === ":" && !/^[\d.+-]/.test(value);

function unknown(raw: string, seen: string, known: object, what: string): UserError {
  const near = nearestName(seen, Object.keys(known));
  return new UserError(
    `${raw}: there is no ${seen}; ${near ? `did you mean ${near}? ` : ""}${what} ${names(known)}`,
  );
}

interface Term {
  raw: string;
  not: boolean;
  field: string | undefined;
  operator: string;
  value: string;
}

const TERM =
  /(-?)(?:([a-z]\w*)(<=|>=|<|>|:|=))?(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^\s"']\S*)|)/iy;

function* terms(text: string): Generator<Term> {
  let at = 0;
  for (;;) {
    while (/\s/.test(text[at] ?? "")) at++;
    if (at >= text.length) return;
    TERM.lastIndex = at;
    const found = TERM.exec(text);
    if (found === null || found[0] === "" || found[0] === "-") {
      if (text[at] === '"' || text[at] === "'")
        throw new UserError(
          `a text that begins with ${text[at]} must end with it: ${text.slice(at)}`,
        );
      throw new UserError(`cannot read ${text.slice(at)}`);
    }
    const [raw, minus, field, operator = "", double, single, bare] = found;
    const quoted = double ?? single;
    const value = quoted === undefined ? (bare ?? "") : quoted.replace(/\\(.)/g, "$1");
    if (value === "")
      throw new UserError(
        `${raw}: a value is missing${/["']/.test(text.slice(at)) ? "; a quotation mark may be left open" : ""}`,
      );
    yield { raw, not: minus === "-", field: field?.toLowerCase(), operator, value };
    at = TERM.lastIndex;
  }
}

function range(raw: string, field: string, operator: string, value: string) {
  const number = (text: string) => {
    const parsed = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?%?$/i.test(text) ? parseFloat(text) : NaN;
    if (Number.isNaN(parsed)) throw new UserError(`${raw}: ${field} is a number; got ${text}`);
    return text.endsWith("%") ? parsed / 100 : parsed;
  };
  if (operator === "<" || operator === "<=")
    return { low: -Infinity, high: number(value), open: operator === "<" };
  if (operator === ">" || operator === ">=")
    return { low: number(value), high: Infinity, open: operator === ">" };
  const [, low, high] = /^(.*?)\.\.(.*)$/.exec(value) ?? [];
  if (low === undefined) return { low: number(value), high: number(value), open: false };
  return {
    low: low === "" ? -Infinity : number(low),
    high: high === "" ? Infinity : number(high),
    open: false,
  };
}

/** The latents that meet a query, in its order. */
export function runQuery(query: Query, table: PackedTable, context: QueryContext = {}): Int32Array {
  const dSae = table.numbers.firings.length;
  const keep = new Uint8Array(dSae).fill(1);
  for (const clause of query.clauses) {
    const meets = new Uint8Array(dSae);
    mark(clause, table, context, meets);
    const wanted = clause.not ? 0 : 1;
    for (let f = 0; f < dSae; f++) if (meets[f] !== wanted) keep[f] = 0;
  }
  let count = 0;
  for (let f = 0; f < dSae; f++) count += keep[f];
  const rows = new Int32Array(count);
  for (let f = 0, at = 0; f < dSae; f++) if (keep[f]) rows[at++] = f;
  return query.sort ? sorted(rows, valuesOf(query.sort.field, table, context), query.sort.down) : rows; // prettier-ignore
}

function mark(clause: Clause, table: PackedTable, context: QueryContext, meets: Uint8Array): void {
  const { remarks = new Map<number, Remark>(), fires, like } = context;
  const { numbers, texts } = table;
  const among = (holds: (remark: Remark) => boolean) =>
    [...remarks].filter(([, remark]) => holds(remark)).map(([latent]) => latent);
  switch (clause.kind) {
    case "number": {
      const { low, high, open } = clause;
      const values = valuesOf(clause.field, table, context);
      // Columns are 32-bit: 0.1 in a query is to equal 0.1 in a column.
      const [from, to] = values instanceof Float32Array ? [Math.fround(low), Math.fround(high)] : [low, high]; // prettier-ignore
      for (let f = 0; f < meets.length; f++)
        meets[f] = Number(open ? values[f] > from && values[f] < to : values[f] >= from && values[f] <= to); // prettier-ignore
      return;
    }
    case "state": {
      const { firings, density, auc, f1 } = numbers;
      const test: Record<State, (f: number) => boolean> = {
        dead: (f) => firings[f] === 0,
        dense: (f) => density[f] > DENSE,
        aligned: (f) => auc[f] >= Math.fround(0.95),
        specific: (f) => auc[f] >= Math.fround(0.95) && f1[f] >= 0.5,
        labelled: (f) => (remarks.get(f)?.label ?? "") !== "",
        unlabelled: (f) => (remarks.get(f)?.label ?? "") === "",
        rated: (f) => (remarks.get(f)?.rating ?? null) !== null,
        tagged: (f) => (remarks.get(f)?.tags.length ?? 0) > 0,
      };
      const holds = test[clause.state];
      for (let f = 0; f < meets.length; f++) meets[f] = Number(holds(f));
      return;
    }
    case "fires":
      for (const latent of fires?.get(clause.text)?.keys() ?? []) meets[latent] = 1;
      return;
    case "like": {
      const { cosines, least } = like?.get(clause.latent) ?? { cosines: [], least: 1 };
      for (let f = 0; f < meets.length; f++) meets[f] = Number(cosines[f] >= least);
      return;
    }
    case "text": {
      const wanted = clause.text.toLowerCase();
      const has = (text: string) => text.toLowerCase().includes(wanted);
      const found = (row: number) => (meets[row] = 1);
      const field = clause.field;
      const any = field === "any";
      if (any || field === "label") texts.label.search(wanted, found);
      // What people call it stands in the place of what the index does.
      if (field === "label") among(({ label }) => label !== "" && !has(label)).forEach((latent) => (meets[latent] = 0)); // prettier-ignore
      if (any || field === "label") among(({ label }) => has(label)).forEach(found);
      if (any || field === "token") texts.tokens.search(wanted, found);
      if (any || field === "rule") texts.rule.search(wanted, found);
      if (any || field === "notes") among(({ notes }) => has(notes)).forEach(found);
      if (any || field === "tag") among(({ tags }) => tags.some(has)).forEach(found);
      if (any || field === "group") among(({ groups = [] }) => groups.some(has)).forEach(found);
      if (any && /^\d+$/.test(wanted) && Number(wanted) < meets.length) meets[Number(wanted)] = 1;
      return;
    }
    default:
      clause satisfies never;
  }
}

/** What latents have for a field, [dSae]; NaN for none. */
export function valuesOf(
  field: NumberField,
  { numbers }: PackedTable,
  { remarks, fires, like }: QueryContext,
): ArrayLike<number> {
  const dSae = numbers.firings.length;
  switch (field) {
    case "latent":
      return Int32Array.from({ length: dSae }, (_, f) => f);
    case "rating": {
      const ratings = new Float32Array(dSae).fill(NaN);
      for (const [latent, { rating }] of remarks ?? [])
        if (rating !== null) ratings[latent] = rating;
      return ratings;
    }
    case "x": {
      const values = new Float32Array(dSae);
      for (const found of fires?.values() ?? [])
        for (const [latent, value] of found) values[latent] = Math.max(values[latent], value);
      return values;
    }
    case "like": {
      const values = new Float32Array(dSae).fill(NaN);
      for (const { cosines } of like?.values() ?? [])
        for (let f = 0; f < dSae; f++) if (!(values[f] >= cosines[f])) values[f] = cosines[f];
      return values;
    }
    default:
      return numbers[field];
  }
}

/** Bits below the value in a sort key: 2^20 latents. */
const ROW_BITS = 2 ** 20;

/**
 * Rows by value. A 32-bit float, its bits turned so that they rise with it, and the row's number make
 * one exact 52-bit integer: a native sort of numbers, several times as fast as one with a comparison.
 */
function sorted(rows: Int32Array, values: ArrayLike<number>, down: boolean): Int32Array {
  const float = new Float32Array(1);
  const bits = new Uint32Array(float.buffer);
  const keys = new Float64Array(rows.length);
  for (let i = 0; i < rows.length; i++) {
    float[0] = values[rows[i]];
    let key: number;
    if (Number.isNaN(float[0])) key = 2 ** 32 - 1;
    else {
      key = bits[0] >= 2 ** 31 ? 2 ** 32 - 1 - bits[0] : bits[0] + 2 ** 31;
      if (down) key = 2 ** 32 - 2 - key;
    }
    keys[i] = key * ROW_BITS + rows[i];
  }
  keys.sort();
  // By index: `from` with a function is many times slower.
  const ordered = new Int32Array(rows.length);
  for (let i = 0; i < keys.length; i++) ordered[i] = keys[i] % ROW_BITS;
  return ordered;
}
