import { describe, expect, it } from "vitest";
import { UserError } from "../error.ts";
import { Rng } from "../rng.ts";
import { CoActivation } from "./co-activation.ts";
import { codesByLatent, type CodesByLatent } from "./codes.ts";

/** Rows of 0 … dSae active latents, the low ones far more often than the high ones. */
function madeUpRows(rows: number, dSae: number, seed: number): number[][] {
  const rng = new Rng(seed);
  return Array.from({ length: rows }, () =>
    Array.from({ length: dSae }, (_, f) => (rng.uniform() < 0.6 / (1 + f / 4) ? 1 : 0)),
  );
}

function turned(rows: number[][], dSae: number): CodesByLatent {
  const acts = Float32Array.from(rows.flat());
  return codesByLatent({ kind: "dense", acts }, dSae, Int32Array.from(rows.keys()));
}

function together(rows: number[][], f: number, g: number): number {
  return rows.filter((row) => row[f] > 0 && row[g] > 0).length;
}

/** Blocks of about 5,000 entries, so that there are many. */
function counted(rows: number[][], dSae: number, cuts: number[], maxBytes?: number): CoActivation {
  const co = new CoActivation(dSae, { blockEntries: 5000, ...(maxBytes !== undefined && { maxBytes }) }); // prettier-ignore
  let from = 0;
  for (const to of [...cuts, rows.length]) {
    co.add(turned(rows.slice(from, to), dSae), to - from);
    from = to;
  }
  return co;
}

describe("co-activation", () => {
  it("counts by hand: three positions, three latents", () => {
    const co = counted([[1, 1, 0], [1, 0, 1], [1, 1, 0]], 3, []); // prettier-ignore
    expect([co.count(0, 1), co.count(1, 0), co.count(0, 2), co.count(1, 2)]).toEqual([2, 2, 1, 0]);
    expect(co.count(0, 0)).toBe(3);
    expect([...co.firings]).toEqual([3, 2, 1]);
    expect(co.positions).toBe(3);
    expect(co.partners(1)).toEqual({
      latents: Int32Array.from([0]),
      counts: Uint32Array.from([2]),
    });
  });

  it.each([
    [1, 5],
    [2, 100],
    [37, 701],
    [64, 33],
  ])("counts what plain loops over %i latents count", (dSae, length) => {
    // prettier-ignore
    const rows = madeUpRows(length, dSae, dSae);
    const co = counted(rows, dSae, [3]);
    expect(co.error).toBe(0);
    for (let f = 0; f < dSae; f++) {
      const { latents, counts } = co.partners(f);
      const expected = Array.from({ length: dSae }, (_, g) => (g === f ? 0 : together(rows, f, g)));
      expect([...latents]).toEqual([...expected.keys()].filter((g) => expected[g] > 0));
      expect([...counts]).toEqual(expected.filter((count) => count > 0));
    }
  });

  it("does not depend on how the positions are cut, across blocks too", () => {
    const rows = madeUpRows(9000, 6, 1);
    const whole = counted(rows, 6, []);
    const cut = counted(rows, 6, [1, 2, 5000, 5001]);
    for (let f = 0; f < 6; f++) expect(cut.partners(f)).toEqual(whole.partners(f));
    expect(Buffer.compare(cut.toBytes(), whole.toBytes())).toBe(0);
  });

  it("takes rows with more active latents than a block has room for", () => {
    const dSae = 300;
    const length = 7100; // 2,130,000 entries, a block holds 2,097,152
    const acts = new Float32Array(dSae * length).fill(1);
    const codes = codesByLatent({ kind: "dense", acts }, dSae, Int32Array.from(Array(length).keys())); // prettier-ignore
    const co = new CoActivation(dSae);
    co.add(codes, length);
    expect(co.count(0, 299)).toBe(length);
    expect(co.partners(150).counts.every((count) => count === length)).toBe(true);
    expect(co.bytes).toBe(CoActivation.plannedBytes(dSae));
  });

  it("stays exact in a small table until that is full", () => {
    const rows = madeUpRows(500, 80, 2); // 3,160 pairs; 12,640 bytes as a triangle
    const exact = counted(rows, 80, []);
    const small = counted(rows, 80, [], 12_000); // room for 4,096 pairs, the smallest table
    for (let f = 0; f < 80; f++) expect(small.count(f, 7)).toBe(exact.count(f, 7));
  });

  it("drops the rarest pairs of a full table and says how far a count may be off", () => {
    const dSae = 200; // 19,900 pairs in a table of 4,096
    const rows = madeUpRows(3000, dSae, 3);
    const exact = counted(rows, dSae, []);
    const lossy = counted(rows, dSae, [], 60_000);
    const cut = counted(rows, dSae, [17, 2000], 60_000);
    expect(Buffer.compare(cut.toBytes(), lossy.toBytes())).toBe(0);
    expect(lossy.error).toBeGreaterThan(0);
    const planned = CoActivation.plannedBytes(dSae, 60_000);
    expect(new CoActivation(dSae, { maxBytes: 60_000 }).bytes).toBeLessThanOrEqual(planned);
    let kept = 0;
    for (let f = 0; f < dSae; f++)
      for (let g = f + 1; g < dSae; g++) {
        const [found, truth] = [lossy.count(f, g), exact.count(f, g)];
        if (found > truth || truth > found + lossy.error)
          expect.fail(`${f}, ${g}: ${found}, truly ${truth}, error ${lossy.error}`);
        if (found > 0) kept++;
      }
    expect(kept).toBeGreaterThan(1000);
    const { latents, counts } = lossy.partners(3);
    expect([...latents].map((g) => lossy.count(3, g))).toEqual([...counts]);
    expect([...latents]).toEqual([...latents].sort((a, b) => a - b));
    // What is frequent is never lost.
    expect(exact.count(0, 1)).toBeGreaterThan(lossy.error);
    expect(lossy.count(0, 1)).toBeGreaterThan(0);
  });

  it.each([undefined, 60_000])(
    "goes on from its bytes as if nothing had happened (%s bytes)",
    (maxBytes) => {
      // prettier-ignore
      const dSae = 200;
      const rows = madeUpRows(20_000, dSae, 4);
      const whole = counted(rows, dSae, [], maxBytes);
      const part = counted(rows.slice(0, 1700), dSae, [], maxBytes);
      const resumed = CoActivation.from(part.toBytes());
      resumed.add(turned(rows.slice(1700), dSae), rows.length - 1700);
      expect(resumed.positions).toBe(whole.positions);
      expect(Buffer.compare(resumed.toBytes(), whole.toBytes())).toBe(0);
      expect(() => CoActivation.from(part.toBytes().subarray(0, 1000))).toThrow(UserError);
    },
  );
});
