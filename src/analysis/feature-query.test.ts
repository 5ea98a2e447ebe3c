import { expect, test } from "vitest";

import { TextColumn, type PackedTable } from "../packed-table.ts";
import { Rng } from "../rng.ts";
import { TOKEN_SEPARATOR } from "./feature-columns.ts";
import { parseQuery, runQuery, type QueryContext, type Remark } from "./feature-query.ts";

const labels = ["animal.dog", "", 'token " the"', "weather.rain", "animal.cat", ""];
const table: PackedTable = {
  meta: {},
  numbers: {
    firings: Int32Array.of(10, 0, 500, 20, 10, 3),
    documents: Int32Array.of(1, 0, 5, 2, 1, 1),
    density: Float32Array.of(0.01, 0, 0.5, 0.02, 0.01, 0.003),
    mean: Float32Array.of(1, 0, 2, 3, 4, 5),
    max: Float32Array.of(2, 0, 4, -6, 8, 8),
    selectivity: Float32Array.of(0.5, 0, 0.1, 0.9, 0.6, 0.7),
    kinds: Float32Array.of(2, 0, 80, 3, 2, 1),
    auc: Float32Array.of(0.99, NaN, 0.96, 0.95, 0.7, NaN),
    f1: Float32Array.of(0.8, NaN, 0.3, 0.5, 0.2, NaN),
    rule: Float32Array.of(0.8, NaN, NaN, 0.4, NaN, 0.9),
  },
  texts: {
    label: TextColumn.of(labels),
    tokens: TextColumn.of([" dog", "", " the", " rain", " cat", " Zoë"].map((t) => `${t}${TOKEN_SEPARATOR}x`)), // prettier-ignore
    rule: TextColumn.of(["on the word dog", "", "", "on rain or snow", "", "a name"]),
  },
};
const remark = (r: Partial<Remark>): Remark => ({ label: "", notes: "", tags: [], rating: null, ...r }); // prettier-ignore
const context: QueryContext = {
  remarks: new Map([
    [0, remark({ label: "Puppies", tags: ["pets"], rating: 5 })],
    [4, remark({ notes: "fires on whiskers", tags: ["pets", "odd"] })],
    [5, remark({ rating: 2, groups: ["names"] })],
  ]),
  like: new Map([[2, { cosines: Float32Array.of(0.1, 0.5, 1, -0.9, 0.4, 0.8), least: 0.4 }]]),
  fires: new Map([["the dog", new Map([[0, 1.5], [2, 3]])]]), // prettier-ignore
};
const ask = (text: string) => [...runQuery(parseQuery(text), table, context)];

test("clauses compare numbers, with open and closed ends, ranges and percentages", () => {
  expect(ask("density<0.01")).toEqual([1, 5]);
  expect(ask("density<=0.01")).toEqual([0, 1, 4, 5]);
  expect(ask("density:0.01")).toEqual([0, 4]);
  expect(ask("density>1%")).toEqual([2, 3]);
  expect(ask("density:0.5%..2%")).toEqual([0, 3, 4]);
  expect(ask("max:..-1e0")).toEqual([3]);
  expect(ask("latent:4..")).toEqual([4, 5]);
  expect(ask("auc>=0.95")).toEqual([0, 2, 3]);
  expect(ask("rating>2")).toEqual([0]);
  expect(ask("rule>0.5")).toEqual([0, 5]);
});

test("clauses look in texts, and a label that people gave stands in the place of the index's", () => {
  expect(ask("label:animal")).toEqual([4]);
  expect(ask("label:PUPPIES")).toEqual([0]);
  expect(ask("rule:rain")).toEqual([3]);
  expect(ask('token:" the"')).toEqual([2]);
  expect(ask("tag:pets")).toEqual([0, 4]);
  expect(ask("notes:whiskers")).toEqual([4]);
  expect(ask("group:names")).toEqual([5]);
  expect(ask("dog")).toEqual([0]);
  expect(ask("zoë")).toEqual([5]);
  expect(ask("3")).toEqual([3]);
  expect(ask("animal")).toEqual([0, 4]);
});

test("states, texts that latents fire on, negation, and all of them together", () => {
  expect(ask("is:dead")).toEqual([1]);
  expect(ask("is:dense")).toEqual([2]);
  expect(ask("is:aligned")).toEqual([0, 2, 3]);
  expect(ask("is:specific")).toEqual([0, 3]);
  expect(ask("is:labelled")).toEqual([0]);
  expect(ask("is:unlabelled is:rated")).toEqual([5]);
  expect(ask("is:tagged -is:labelled")).toEqual([4]);
  expect(ask("fires:'the dog'")).toEqual([0, 2]);
  expect(ask("-fires:'the dog' -is:dead density<0.1")).toEqual([3, 4, 5]);
  expect(ask("fires:'unheard of'")).toEqual([]);
  expect(ask("")).toEqual([0, 1, 2, 3, 4, 5]);
});

test("sorting goes up or down, by number where equal, and what has no value comes last", () => {
  expect(ask("sort:max")).toEqual([3, 1, 0, 2, 4, 5]);
  expect(ask("sort:-max")).toEqual([4, 5, 2, 0, 1, 3]);
  expect(ask("sort:auc")).toEqual([4, 3, 2, 0, 1, 5]);
  expect(ask("sort:-auc")).toEqual([0, 2, 3, 4, 1, 5]);
  expect(ask("fires:'the dog' sort:-x")).toEqual([2, 0]);
});

test("a sort of many is what a comparison gives, negative zeros and infinities included", () => {
  const rng = new Rng(1);
  const special = [0, -0, Infinity, -Infinity, NaN, 1e-40, -1e-40];
  const values = Float32Array.from({ length: 5000 }, (_, i) =>
    i % 9 === 0 ? special[i % special.length] : Math.fround((rng.uniform() - 0.5) * 10 ** (i % 30)),
  );
  const many = { ...table, numbers: { ...table.numbers, firings: new Int32Array(5000), max: values } }; // prettier-ignore
  for (const down of [false, true]) {
    const got = [...runQuery(parseQuery(`sort:${down ? "-" : ""}max`), many)];
    const order = (f: number) => (Object.is(values[f], -0) ? -1e-50 : values[f]);
    const want = Array.from({ length: 5000 }, (_, f) => f).sort((a, b) => {
      const [x, y] = [order(a), order(b)];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number(Number.isNaN(x)) - Number(Number.isNaN(y)) || a - b; // prettier-ignore
      return (x === y ? 0 : x < y === down ? 1 : -1) || a - b;
    });
    expect(got).toEqual(want);
  }
});

test("what cannot be read is refused with what there is", () => {
  for (const [text, message] of [
    ["densty<1", /no densty; did you mean density\?/],
    ["is:ded", /did you mean dead\?.*dense/],
    ["sort:loudness", /no loudness; sort by one of latent, density/],
    ["density<small", /density is a number; got small/],
    ["label<3", /label is a text; write label:words/],
    ['label:"open', /quotation mark may be left open/],
    ["'open", /must end with it/],
    ["density<", /a value is missing/],
    ["-", /cannot read -/],
  ] as const)
    expect(() => parseQuery(text), text).toThrow(message);
});

test("quoted values may hold spaces, quotes and colons", () => {
  expect(parseQuery(`fires:"say \\"no: now\\"" 'it: is'`).clauses).toEqual([
    { kind: "fires", not: false, text: 'say "no: now"' },
    { kind: "text", field: "any", not: false, text: "it: is" },
  ]);
});

test("like: asks for latents that are like one, the most like first, whatever else is asked", () => {
  expect(ask("like:2")).toEqual([2, 5, 1, 4]);
  expect(ask("like:2 -is:dead")).toEqual([2, 5, 4]);
  expect(ask("like:2 sort:max")).toEqual([1, 2, 4, 5]);
  expect(ask("like:2 like>0.5")).toEqual([2, 5]);
  expect(ask("-like:2 sort:-like")).toEqual([0, 3]);
  // Asked about one of which nothing is known.
  expect(ask("like:3")).toEqual([]);
  expect(ask("sort:-like max>4")).toEqual([5, 4]);
});
