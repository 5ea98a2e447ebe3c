import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";

import { firingsFrom, textOf } from "../../test/held-codes.ts";
import { BOS, stubModel } from "../../test/stub-model.ts";
import { openDevice } from "../device/device.ts";
import type { Model } from "../model/model.ts";
import { Rng } from "../rng.ts";
import { matchCandidates } from "../sae/recovery.ts";
import { Sae } from "../sae/sae.ts";
import { encodeText } from "./codes.ts";
import { courseOf } from "./concept-layers.ts";
import { matchDecoders } from "./directions.ts";
import {
  correlationOf,
  CorrelationDraws,
  documentSums,
  FiringsCollector,
  Meetings,
  momentsOf,
  pearsonOfSums,
  rotated,
  seriesOf,
  turnedInDocuments,
  type Firings,
} from "./firings.ts";
import { encodeTogether } from "./joint-codes.ts";
import { matchFeatures, type MatchSide } from "./matching.ts";

const oracle = JSON.parse(
  readFileSync(
    new URL("../../test/fixtures/composition/composition.json", import.meta.url),
    "utf8",
  ),
) as {
  positions: number;
  a: number[][];
  b: number[][];
  document: number[];
  correlation: number[][];
  assignment: { total: number };
};

describe("correlations of sparse activations", () => {
  const [a, b] = [firingsFrom(oracle.a), firingsFrom(oracle.b)];

  it("are scipy's, silent positions included", () => {
    const [of, other] = [momentsOf(a), momentsOf(b)];
    const meetings = new Meetings(b.dSae);
    for (let f = 0; f < a.dSae; f++) {
      meetings.look(a, f, b);
      for (let g = 0; g < b.dSae; g++) {
        const { sums, squares } = other;
        const r = pearsonOfSums(
          ...([oracle.positions, of.sums[f], of.squares[f], sums[g], squares[g]] as const),
          meetings.products[g],
        );
        expect(r).toBeCloseTo(oracle.correlation[f][g], 6);
        const sparse = documentSums(
          seriesOf(a, [f]),
          seriesOf(b, [g]),
          Int32Array.from(oracle.document),
        );
        expect(correlationOf(sparse, oracle.positions)).toBeCloseTo(oracle.correlation[f][g], 6);
      }
    }
  });

  it("have intervals that hold the value, and none with one document", () => {
    const text = textOf(oracle.document);
    const sums = documentSums(seriesOf(a, [2]), seriesOf(b, [3]), text.document);
    const { value, low, high } = new CorrelationDraws(text, 0).interval(
      sums,
      correlationOf(sums, text.positions),
    );
    expect(value).toBeGreaterThan(0.99);
    expect(low).toBeLessThanOrEqual(value);
    expect(high).toBeGreaterThanOrEqual(value);
    const alone = new CorrelationDraws(textOf(oracle.document.map(() => 0)), 0);
    expect(alone.interval(sums, value).low).toBeNaN();
  });

  it("have no value for a latent that never fires", () => {
    expect(pearsonOfSums(10, 0, 0, 3, 5, 0)).toBeNaN();
  });
});

describe("matching candidate pairs", () => {
  it("reaches scipy's total when all pairs are candidates, and matches nothing without any", () => {
    const candidates = oracle.correlation.flatMap((scores, row) =>
      scores.flatMap((score, column) => (score > 0 ? [{ row, column, score }] : [])),
    );
    const { partner, exact } = matchCandidates(candidates, 9, 11);
    const total = partner.reduce(
      (sum, column, row) => sum + (column < 0 ? 0 : oracle.correlation[row][column]),
      0,
    );
    expect(exact).toBe(true);
    expect(total).toBeCloseTo(oracle.assignment.total, 8);
    expect(new Set(partner.filter((g) => g >= 0)).size).toBe(partner.filter((g) => g >= 0).length);
    expect([...matchCandidates([], 2, 3).partner]).toEqual([-1, -1]);
  });

  it("prefers the larger sum to the largest pair", () => {
    const { partner } = matchCandidates(
      [
        { row: 0, column: 0, score: 0.9 },
        { row: 0, column: 1, score: 0.8 },
        { row: 1, column: 0, score: 0.8 },
      ],
      2,
      2,
    );
    expect([...partner]).toEqual([1, 0]);
  });
});

/** Activations on `positions` positions at random, each latent at a share of them. */
function random(latents: number, positions: number, seed: number, share = 0.1): number[][] {
  const rng = new Rng(seed);
  return Array.from({ length: latents }, () =>
    Array.from({ length: positions }, () => (rng.uniform() < share ? 0.5 + rng.uniform() : 0)),
  );
}

describe("classes of features", () => {
  const POSITIONS = 2003;
  const document = Array.from({ length: POSITIONS }, (_, p) => Math.floor(p / 50));
  const side = (columns: number[][], other: number[][]): MatchSide => ({
    ...{ selection: firingsFrom(columns), test: firingsFrom(other) },
    norms: new Float64Array(columns.length).fill(1),
  });
  /** The same planted relation on two texts. */
  const planted = (seed: number) => {
    const [u, v, w, lost, fresh, one, two] = random(7, POSITIONS, seed);
    const add = (x: number[], y: number[]) => x.map((value, p) => Math.max(value, y[p]));
    const silent = u.map(() => 0);
    return {
      // shared, split, lost, merged ×2, rare
      a: [u, add(v, w), lost, one, two, silent],
      b: [fresh, v, u.map((x) => 3 * x), w, add(one, two)],
    };
  };
  const [selection, test] = [planted(1), planted(2)];
  const result = matchFeatures(
    side(selection.a, test.a),
    side(selection.b, test.b),
    textOf(document),
  );

  it("finds what was planted, from both sides", () => {
    const kinds = (matches: typeof result.a) => matches.map(({ kind }) => kind);
    expect(kinds(result.a)).toEqual(["shared", "split", "lost", "merged", "merged", "rare"]);
    expect(kinds(result.b)).toEqual(["new", "split", "shared", "split", "merged"]);
    expect(result.a[0]).toMatchObject({ partner: 2, parts: [] });
    expect(result.a[0].correlation.value).toBeCloseTo(1, 6);
    expect(result.a[1].parts.toSorted()).toEqual([1, 3]);
    expect(result.a[1].sumCorrelation!.value).toBeGreaterThan(0.9);
    expect(result.counts.a).toMatchObject({ shared: { count: 1 }, lost: { count: 1 } });
  });

  it("finds nothing where one has read other text", () => {
    for (const kind of ["shared", "split", "merged"]) expect(result.counts.a[kind].null).toBe(0);
    expect(result.oneToOne.mean).toBeGreaterThan(0.5);
    expect(Math.abs(result.oneToOne.null.mean)).toBeLessThan(0.1);
  });
});

describe("nulls", () => {
  const text = textOf(oracle.document);
  const a = firingsFrom(oracle.a);
  const perDocument = (firings: Firings, f: number) => {
    const counts = new Array<number>(text.documents).fill(0);
    const values: number[] = [];
    for (let i = firings.offsets[f]; i < firings.offsets[f + 1]; i++) {
      counts[text.document[firings.at[i]]]++;
      values.push(firings.values[i]);
    }
    return { counts, values: values.sort() };
  };

  it("turned in documents: each latent keeps what it does in every document, at other positions", () => {
    const turned = turnedInDocuments(a, text, 5);
    for (let f = 0; f < a.dSae; f++) {
      expect(perDocument(turned, f)).toEqual(perDocument(a, f));
      const own = turned.at.subarray(turned.offsets[f], turned.offsets[f + 1]);
      expect([...own]).toEqual([...new Set(own)].sort((x, y) => x - y));
    }
    expect([...turned.at]).not.toEqual([...a.at]);
  });

  it("rotated: every activation that many positions further on, round the end", () => {
    const moved = rotated(a, 100);
    const dense = (firings: Firings) => {
      const column = new Float32Array(firings.positions);
      for (let i = firings.offsets[3]; i < firings.offsets[4]; i++)
        column[firings.at[i]] = firings.values[i];
      return column;
    };
    const [before, after] = [dense(a), dense(moved)];
    before.forEach((value, p) => expect(after[(p + 100) % oracle.positions]).toBe(value));
  });
});

describe("matching decoders", () => {
  const rng = new Rng(3);
  const width = 16;
  const rows = Array.from({ length: 7 }, () => Array.from({ length: width }, () => rng.normal()));
  const order = [4, 0, 6, 2, 1, 5, 3];
  const sae = (decoder: number[][]) => ({
    W_dec: Float32Array.from(decoder.flat()),
    spec: { dOut: width, dSae: decoder.length } as Sae["spec"],
  });
  const all = new Set(rows.keys());

  it("finds the same directions in another order, and none of them in a turned decoder", async () => {
    const other = sae(order.map((f) => rows[f].map((x) => 2 * x)));
    const found = (await matchDecoders(sae(rows), other, all, all, { threshold: 0.7 }))!;
    expect(found.partner).toEqual(rows.map((_, f) => order.indexOf(f)));
    expect(found.mean).toBeCloseTo(1, 6);
    expect(found.atLeastShared).toBe(7);
    expect(found.null.mean).toBeLessThan(0.7);
  });

  it("is not done between spaces of different widths", async () => {
    const narrow = { ...sae(rows), spec: { dOut: 8, dSae: 14 } as Sae["spec"] };
    expect(await matchDecoders(sae(rows), narrow, all, all, { threshold: 0.7 })).toBeUndefined();
  });
});

describe("one text as several SAEs see it", () => {
  it("is what each of them sees alone", async () => {
    const model = stubModel() as unknown as Model;
    const device = await openDevice("reference");
    const made = (dIn: number, dSae: number, seed: number) => {
      const rng = new Rng(seed);
      const normal = (n: number) => Float32Array.from({ length: n }, () => rng.normal());
      return new Sae(
        { selection: { architecture: "topk", k: 2 }, dIn, dSae, applyBDecToInput: true },
        {
          ...{ W_enc: normal(dSae * dIn), b_enc: normal(dSae) },
          ...{ W_dec: normal(dSae * dIn), b_dec: normal(dIn) },
        },
      );
    };
    const placed = [
      { sae: made(3, 5, 1), hookPoints: "hook_embed" },
      { sae: made(4, 7, 2), hookPoints: "blocks.0.hook_resid_post" },
      { sae: made(4, 3, 3), hookPoints: "blocks.0.hook_resid_post" },
    ];
    const documents = ["some text", "more", `and ${"long ".repeat(30)}`].map((text, i) => ({
      ...{ id: String(i), text },
    }));
    const options = { tokens: 1000, contextLength: 13, batchRows: 3 };
    const collector = new FiringsCollector([5, 7, 3]);
    const together = encodeTogether(placed, device, model, documents, options);
    for await (const { chunk, codes } of together) collector.add(chunk, codes);
    const { text, firings } = collector.held();
    expect(text.documents).toBe(3);
    expect(text.token.includes(BOS)).toBe(false);
    for (const [i, { sae, hookPoints }] of placed.entries()) {
      const alone = new FiringsCollector([sae.spec.dSae]);
      for await (const { chunk, codes } of encodeText(
        sae,
        device,
        model,
        hookPoints,
        documents,
        options,
      ))
        // prettier-ignore
        alone.add(chunk, [codes]);
      expect(firings[i]).toEqual(alone.held().firings[0]);
    }
    await device.close();
  });
});

describe("the course of a concept", () => {
  const at = (...values: number[]) =>
    values.map((value) => ({ value, low: value - 0.01, high: value + 0.01 }));

  it("appears at the first AUC of 0.95, peaks at the first highest, fades where the interval lies below the peak's", () => {
    expect(courseOf(at(0.7, 0.96, 0.97, 0.965, 0.9))).toEqual({ appears: 1, peak: 2, fades: 4 });
    expect(courseOf(at(0.7, 0.8, 0.8))).toEqual({ appears: -1, peak: 1, fades: -1 });
  });
});
