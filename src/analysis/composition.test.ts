import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";

import { firingsFrom, textOf } from "../../test/held-codes.ts";
import { Rng } from "../rng.ts";
import { Sae } from "../sae/sae.ts";
import { graphFigure, graphOf } from "./composition-figure.ts";
import { composition, judgedLatents, PairMeasurer, searchPairs } from "./composition.ts";
import { inWindows } from "./firing-windows.ts";
import { turnedInDocuments, type Firings } from "./firings.ts";
import { findLinks } from "./links.ts";
import { TripleMeasurer } from "./triple-measure.ts";
import { findTriples } from "./triples.ts";
import { turnable, Turning } from "./turning.ts";
import { linkAgreement, ranks, strongestWeights, virtualWeight } from "./virtual-weights.ts";

interface OraclePair {
  latents: [number, number];
  together: number;
  turned: number;
  more: number;
  fewer: number;
  pmi: number | null;
  phi: number;
  conditional: [number, number];
}
const oracle = JSON.parse(
  readFileSync(
    new URL("../../test/fixtures/composition/composition.json", import.meta.url),
    "utf8",
  ),
) as {
  document: number[];
  fires: number[][];
  pairs: OraclePair[];
  dense: Omit<OraclePair, "latents"> & { at: number[][]; documents: number; positions: number };
  triples: {
    latents: [number, number, number];
    both: number;
    alone: number[];
    neither: number;
    given: number[];
    predicted: number;
  }[];
  weights: { decoder: number[][]; encoder: number[][]; weight: number[][]; cosine: number[][] };
  ranks: { values: number[]; ranks: number[] };
};

describe("two latents", () => {
  const firings = firingsFrom(oracle.fires);
  const text = textOf(oracle.document);

  it("have numpy's exact probabilities over all turns of every document", () => {
    const all = turnable(firings, text);
    const turning = new Turning(all, all);
    for (const { latents, together, turned, more, fewer } of oracle.pairs) {
      const test = turning.test(...latents);
      expect(test.together).toBe(together);
      expect(test.turned).toBeCloseTo(turned, 9);
      if (Math.abs(test.z) < 1.5) expect([test.more, test.fewer]).toEqual([1, 1]);
      else {
        expect(test.more).toBeCloseTo(more, 9);
        expect(test.fewer).toBeCloseTo(fewer, 9);
      }
    }
  });

  it("have nearly the exact probabilities where these are made of moments", () => {
    const { at, documents, positions, ...expected } = oracle.dense;
    const columns = at.map((own) => Array.from({ length: positions }, (_, p) => +own.includes(p)));
    const document = Array.from({ length: positions }, (_, p) =>
      Math.floor((p * documents) / positions),
    );
    const all = turnable(firingsFrom(columns), textOf(document));
    const test = new Turning(all, all).test(0, 1);
    expect(test.together).toBe(expected.together);
    expect(test.turned).toBeCloseTo(expected.turned, 8);
    expect(test.more / expected.more).toBeGreaterThan(0.95);
    expect(test.more / expected.more).toBeLessThan(1.05);
    expect(test.fewer).toBeCloseTo(expected.fewer, 3);
  });

  it("have numpy's PMI, phi and conditional probabilities, inside their intervals", () => {
    const measurer = new PairMeasurer(firings, firings, text);
    for (const { latents, pmi, phi, conditional } of oracle.pairs) {
      const pair = measurer.measure({ latents, q: 0 }, "together");
      expect(pair.phi.value).toBeCloseTo(phi, 10);
      pair.conditional.forEach((share, i) => expect(share.value).toBeCloseTo(conditional[i], 10));
      if (pmi === null) {
        expect(pair.pmi.value).toBe(-Infinity);
        // Nothing seen is no proof that there is nothing.
        expect(pair.pmi.high).toBeCloseTo(Math.log2(3.688879 / pair.expected), 5);
      } else {
        expect(pair.pmi.value).toBeCloseTo(pmi, 10);
        expect(pair.pmi.low).toBeLessThanOrEqual(pmi);
        expect(pair.pmi.high).toBeGreaterThanOrEqual(pmi);
      }
    }
  });

  it("have no interval with one document", () => {
    const alone = textOf(oracle.document.map(() => 0));
    const pair = new PairMeasurer(firings, firings, alone).measure({ latents: [0, 1], q: 0 }, "together"); // prettier-ignore
    expect(pair.phi.low).toBeNaN();
  });
});

const DOCUMENTS = 40;
const LENGTH = 50;
const document = Array.from({ length: DOCUMENTS * LENGTH }, (_, p) => Math.floor(p / LENGTH));

/** Latents on 2,000 positions of 40 documents: what `plant` makes of independent ones. */
function planted(latents: number, seed: number, plant: (columns: number[][]) => void): Firings {
  const rng = new Rng(seed);
  const columns = Array.from({ length: latents }, () =>
    document.map(() => (rng.uniform() < 0.08 ? 1 + rng.uniform() : 0)),
  );
  plant(columns);
  return firingsFrom(columns);
}

const text = { selection: textOf(document), test: textOf(document) };
const halves = (latents: number, plant: (columns: number[][]) => void, seed = 1) => ({
  selection: planted(latents, seed, plant),
  test: planted(latents, seed + 1, plant),
});

describe("the composition of features", () => {
  it("finds the pair that was planted together and the one that was kept apart, and nothing else", async () => {
    const side = halves(20, (columns) => {
      document.forEach((_, p) => {
        if (p % 3 > 0 && columns[3][p] > 0) columns[7][p] = 1;
        // Both are frequent, so that never to meet is a surprise.
        columns[11][p] = columns[12][p] > 0 || columns[13][p] > 0 ? 1 : 0;
        columns[14][p] = columns[11][p] > 0 ? 0 : columns[15][p] + columns[16][p];
      });
      columns[12] = columns[13] = columns[15] = columns[16] = document.map(() => 0);
    });
    const { together, apart, judged } = await composition(side, side, text, { seed: 1 });
    expect(judged).toEqual([16, 16]);
    expect(together.tests).toBe((16 * 15) / 2);
    expect(together.listed.map(({ latents }) => latents)).toEqual([[3, 7]]);
    expect(apart.listed.map(({ latents }) => latents)).toEqual([[11, 14]]);
    expect([together.confirmed, apart.confirmed]).toEqual([1, 1]);
    const [pair] = together.listed;
    expect(pair.conditional[0].value).toBeGreaterThan(0.6);
    expect(pair.pmi.low).toBeGreaterThan(2);
    const none = apart.listed[0];
    expect(none.together).toBe(0);
    expect(none.expected).toBeGreaterThan(20);
    expect(none.pmi.high).toBeLessThan(-2);
    expect([together.null, apart.null]).toEqual([0, 0]);
  });

  it("does not take a common topic or runs of firing for meeting", async () => {
    // Latents 0 and 1 fire in the same documents only, in runs, but regardless of each other.
    const topical = (seed: number) => {
      const rng = new Rng(seed, "topic");
      const column = () => {
        const shifts = Array.from({ length: DOCUMENTS }, () => rng.int(LENGTH));
        return document.map((d, p) =>
          d % 4 === 0 && (p + shifts[d]) % LENGTH < 15 && (p + shifts[d]) % 2 < 2 ? 1 : 0,
        );
      };
      return firingsFrom([column(), column()]);
    };
    let found = 0;
    for (let seed = 0; seed < 40; seed++) {
      const firings = topical(seed);
      const judged = judgedLatents([firings], 20);
      const search = await searchPairs(firings, firings, text.test, [judged, judged]);
      found += search.found.together.length + search.found.apart.length;
    }
    // 80 tests at a level of 5 %, and discreteness makes them stricter.
    expect(found).toBeLessThanOrEqual(8);
  });

  it("finds nothing in text whose documents were turned, in nine of ten texts at least", async () => {
    let texts = 0;
    for (let seed = 0; seed < 20; seed++) {
      const turned = turnedInDocuments(planted(14, 5, () => {}), text.test, seed); // prettier-ignore
      const judged = judgedLatents([turned], 20);
      const { found } = await searchPairs(turned, turned, text.test, [judged, judged]);
      texts += Number(found.together.length + found.apart.length > 0);
    }
    expect(texts).toBeLessThanOrEqual(4);
  });

  it("looks at the pairs of one latent alone when asked, in either order", async () => {
    const firings = planted(6, 1, (columns) => (columns[0] = columns[4].slice()));
    const judged = judgedLatents([firings], 20);
    const options = { latents: [4] };
    const { tests, found } = await searchPairs(firings, firings, text.test, [judged, judged], options); // prettier-ignore
    expect(tests.together).toBe(5);
    expect(found.together.map(({ latents }) => latents)).toEqual([[4, 0]]);
  });

  it("has nothing to say where latents hardly fire", async () => {
    const rare = { selection: firingsFrom([[1, 0, 0], [0, 1, 0]]), test: firingsFrom([[1, 0, 0], [0, 1, 0]]) }; // prettier-ignore
    const few = { selection: textOf([0, 0, 1]), test: textOf([0, 0, 1]) };
    const { judged, together, apart } = await composition(rare, rare, few);
    expect(judged).toEqual([0, 0]);
    expect([together.tests, together.found, apart.tests, apart.found]).toEqual([0, 0, 0, 0]);
    const { latents, pairs, and } = await findTriples(rare, few);
    expect([latents, pairs, and.chosen]).toEqual([0, 0, 0]);
  });

  it("stops when it is told to", async () => {
    const firings = planted(150, 1, () => {});
    const judged = judgedLatents([firings], 20);
    const stopped = AbortSignal.abort(new Error("stop"));
    await expect(
      searchPairs(firings, firings, text.test, [judged, judged], { signal: stopped }),
    ).rejects.toThrow("stop");
  });
});

describe("triples", () => {
  it("have numpy's shares and prediction", () => {
    const measurer = new TripleMeasurer(firingsFrom(oracle.fires), textOf(oracle.document));
    for (const { latents, ...expected } of oracle.triples) {
      const { shares, interaction, p } = measurer.measure(latents, "and");
      for (const key of ["both", "neither", "predicted"] as const)
        expect(shares[key]).toBeCloseTo(expected[key], 10);
      for (const key of ["alone", "given"] as const)
        shares[key].forEach((share, i) => expect(share).toBeCloseTo(expected[key][i], 10));
      expect(interaction.value).toBeCloseTo(expected.both - expected.predicted, 10);
      // Under 20 meetings, or without 20 positions with either alone, nothing is said.
      expect(p).toBeNaN();
    }
  });

  /** a and b meet often; c is what `third` makes of them. */
  const withThird = (third: (a: boolean, b: boolean) => boolean) =>
    halves(8, (columns) => {
      document.forEach((_, p) => {
        if (p % 25 === 0) columns[1][p] = columns[2][p] = 1;
        columns[5][p] = third(columns[1][p] > 0, columns[2][p] > 0) ? 1 : 0;
      });
    });
  // The third of "either" is frequent in these short texts; the default leaves frequent latents out.
  const found = async (third: (a: boolean, b: boolean) => boolean) => {
    const { and, either } = await findTriples(withThird(third), text, { maxDensity: 0.3 });
    return {
      and: and.listed.map(({ latents }) => latents),
      either: either.listed.map(({ latents }) => latents),
      chance: and.null + either.null,
      one: and.listed[0] ?? either.listed[0],
    };
  };

  it("finds a third that fires where both do, and what it would be by itself", async () => {
    const { and, either, chance, one } = await found((a, b) => a && b);
    expect(and).toContainEqual([1, 2, 5]);
    expect(either).toEqual([]);
    expect(chance).toBe(0);
    expect(one.both.value).toBe(1);
    expect(one.shares.predicted).toBe(0);
    // Never less than a sign test over documents could say.
    expect(one.p).toBeGreaterThanOrEqual(2 ** -one.documents);
  });

  it("finds a third that fires with one or the other, not with both", async () => {
    const { and, either, chance } = await found((a, b) => a !== b);
    expect(either).toContainEqual([1, 2, 5]);
    // Each of the three then is the exclusive or of the others.
    for (const latents of either) expect(latents.toSorted()).toEqual([1, 2, 5]);
    expect(and).toEqual([]);
    expect(chance).toBe(0);
  });

  it("finds nothing in a third that fires with either: that is no interaction", async () => {
    const { and, either } = await found((a, b) => a || b);
    expect([and, either]).toEqual([[], []]);
  });
});

describe("links of two autoencoders", () => {
  const matrix = (rows: readonly (readonly number[])[]) => Float32Array.from(rows.flat());
  const saeOf = (encoder: Float32Array, decoder: Float32Array, dIn: number) => {
    const dSae = encoder.length / dIn;
    return new Sae(
      { selection: { architecture: "relu" }, dIn, dSae, applyBDecToInput: true },
      {
        W_enc: encoder,
        b_enc: new Float32Array(dSae),
        W_dec: decoder,
        b_dec: new Float32Array(dIn),
      },
    );
  };

  it("have numpy's virtual weights, and the strongest come first", async () => {
    const { decoder, encoder, weight, cosine } = oracle.weights;
    const from = saeOf(matrix(decoder), matrix(decoder), 8);
    const to = saeOf(matrix(encoder), matrix(encoder), 8);
    const all: { pair: [number, number]; cosine: number }[] = [];
    for (let f = 0; f < 5; f++)
      for (let g = 0; g < 5; g++) {
        const found = virtualWeight(from, f, to, g);
        expect(found.weight).toBeCloseTo(weight[f][g], 5);
        expect(found.cosine).toBeCloseTo(cosine[f][g], 6);
        all.push({ pair: [f, g], cosine: cosine[f][g] });
      }
    const isJudged = [true, false, true, true, true];
    const strongest = await strongestWeights(from, to, [isJudged, isJudged.map(() => true)], { count: 3 }); // prettier-ignore
    const expected = all.filter(({ pair }) => pair[0] !== 1).sort((x, y) => y.cosine - x.cosine);
    expect(strongest).toEqual(expected.slice(0, 3).map(({ pair }) => pair));
  });

  it("have scipy's ranks, equal values included", () => {
    const { values, ranks: expected } = oracle.ranks;
    expect([...ranks(Float32Array.from(values))]).toEqual(expected);
  });

  /** Latent f of the one writes what f of the other reads, and drives it. */
  const pairOfSaes = (latents: number, width: number) => {
    const rng = new Rng(3);
    const directions = Float32Array.from({ length: latents * width }, () => rng.normal());
    const sae = saeOf(directions, directions, width);
    const from = halves(latents, () => {}, 7);
    const drive = (firings: Firings, seed: number) => {
      const columns = planted(latents, seed, () => {});
      const made = Array.from({ length: latents }, () => document.map(() => 0));
      for (const { offsets, at } of [firings, columns])
        for (let f = 0; f < latents; f++)
          for (let i = offsets[f]; i < offsets[f + 1]; i++) made[f][at[i]] = 1;
      return firingsFrom(made);
    };
    const to = { selection: drive(from.selection, 70), test: drive(from.test, 71) };
    return { from: { sae, halves: from }, to: { sae, halves: to } };
  };

  it("are found by firing and by weights, which then agree beyond chance", async () => {
    const { from, to } = pairOfSaes(40, 32);
    const { together, weights } = await findLinks(from, to, text, { weights: true });
    const own = together.listed.filter(({ latents: [f, g] }) => f === g);
    expect(own).toHaveLength(40);
    expect(together.found).toBeLessThanOrEqual(43);
    expect(own[0].virtual!.cosine).toBeCloseTo(1, 5);
    expect(own[0].lift).toBeGreaterThan(3);
    expect(own[0].correlation.low).toBeGreaterThan(0.4);
    expect(weights!.chance).toBeCloseTo(3.09 / Math.sqrt(32), 6);
    expect(weights!.strongest.slice(0, 40).every(({ latents: [f, g] }) => f === g)).toBe(true);
    const agreement = weights!.agreement!;
    expect(agreement.rank).toBeGreaterThan(agreement.null.high);
    expect(agreement.strongest.lift).toBeGreaterThan(agreement.strongest.all);
    expect(Math.abs(agreement.null.mean)).toBeLessThan(0.02);
  });

  it("say nothing of agreement where pairs are few, and nothing of weights across spaces", async () => {
    const { from, to } = pairOfSaes(10, 8);
    const judged = Array.from({ length: 10 }, () => true);
    const [a, b] = [from.halves.test, to.halves.test];
    const options = { judged: [judged, judged] as const, minExpected: 5 };
    expect(await linkAgreement(from.sae, to.sae, a, b, options)).toBeUndefined();
    const { weights, together } = await findLinks(from, to, text, { weights: false });
    expect(weights).toBeUndefined();
    expect(together.listed[0].virtual).toBeUndefined();
  });
});

describe("windows", () => {
  it("join tokens of one document, keep the highest activation, and with width 1 change nothing", () => {
    const own = firingsFrom([
      [0, 2, 3, 0, 1],
      [4, 0, 0, 0, 0],
    ]);
    const held = { text: textOf([0, 0, 0, 1, 1]), firings: [own] };
    const { text, firings } = inWindows(held, 2);
    expect([...text.document]).toEqual([0, 0, 1]);
    expect([...firings[0].at]).toEqual([0, 1, 2, 0]);
    expect([...firings[0].values]).toEqual([2, 3, 1, 4]);
    expect(inWindows(held, 1).firings[0].at).toEqual(own.at);
  });
});

describe("the graph", () => {
  it("has each latent once, its label, and a dashed line for what excludes each other", async () => {
    const side = halves(6, (columns) => {
      columns[1] = columns[0].slice();
      columns[3] = columns[0].map((v, p) => (v > 0 || p % 4 > 0 ? 0 : 1));
    });
    const { together } = await composition(side, side, text);
    const facts = { density: () => 0.1, meaning: (_: number, latent: number) => `on <${latent}>` };
    const lists = [
      { kind: "together" as const, pairs: together.listed },
      { kind: "apart" as const, pairs: together.listed.slice(0, 1).map((pair) => ({ ...pair, latents: [1, 3] as [number, number] })) }, // prettier-ignore
    ];
    const graph = graphOf(lists, facts);
    expect(graph.nodes.map(({ latent }) => latent)).toEqual([0, 1, 3]);
    const { svg } = await graphFigure(graph, { id: "compose", title: "Together" });
    expect(svg).toContain("on &lt;3&gt;");
    expect(svg.match(/stroke-dasharray="5 4"/g)).toHaveLength(1);
    expect((await graphFigure(graph, { id: "compose", title: "Together" })).svg).toBe(svg);
    const empty = await graphFigure({ nodes: [], edges: [] }, { id: "compose", title: "Together" });
    expect(empty.svg).toContain("<svg");
  });
});
