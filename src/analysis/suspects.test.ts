import { describe, expect, test } from "vitest";

import { UserError } from "../error.ts";
import { Rng } from "../rng.ts";
import { Sae } from "../sae/sae.ts";
import type { CoFirings } from "./neighbors.ts";
import { suspectsOf } from "./suspects.ts";

const WIDTH = 512;
const LATENTS = 12;
const POSITIONS = 4000;

/** Nearly orthogonal directions, one for each thing there is. */
const rng = new Rng(5);
const things = Array.from({ length: LATENTS }, () => {
  const drawn = Float64Array.from({ length: WIDTH }, () => rng.normal());
  const norm = Math.hypot(...drawn);
  return drawn.map((v) => v / norm);
});
const sum = (...parts: [number, Float64Array][]) =>
  things[0].map((_, c) => parts.reduce((total, [factor, part]) => total + factor * part[c], 0));

/** Latent f reads and writes thing f, but for those that are changed. */
function saeWith(changes: Record<number, { reads?: Float64Array; writes?: Float64Array }>): Sae {
  const W_enc = new Float32Array(LATENTS * WIDTH);
  const W_dec = new Float32Array(LATENTS * WIDTH);
  for (let f = 0; f < LATENTS; f++) {
    W_enc.set(changes[f]?.reads ?? changes[f]?.writes ?? things[f], f * WIDTH);
    W_dec.set(changes[f]?.writes ?? things[f], f * WIDTH);
  }
  return new Sae(
    { selection: { architecture: "relu" }, dIn: WIDTH, dSae: LATENTS, applyBDecToInput: false },
    { W_enc, W_dec, b_enc: new Float32Array(LATENTS), b_dec: new Float32Array(WIDTH) },
  );
}

/** Counts from the positions where each latent fires. */
function coFirings(fires: (latent: number, position: number) => boolean): CoFirings {
  const at = Array.from({ length: LATENTS }, (_, f) =>
    Array.from({ length: POSITIONS }, (_, p) => fires(f, p)),
  );
  const count = (f: number, g: number) => at[f].filter((fired, p) => fired && at[g][p]).length;
  return {
    positions: POSITIONS,
    firings: at.map((row) => row.filter(Boolean).length),
    partners: (f) => {
      const latents = [...at.keys()].filter((g) => g !== f && count(f, g) > 0);
      return {
        latents: Int32Array.from(latents),
        counts: Uint32Array.from(latents, (g) => count(f, g)),
      };
    },
  };
}

/** Latents that fire at a tenth of the positions, independently, each on a token of its own. */
const usual = (f: number, p: number) => Math.floor(p / 10 ** (f % 3)) % 10 === f % 7;
const profile = (f: number) => new Map([[f, 1]]);

describe("suspects", () => {
  test("there are none among latents that have nothing to do with each other", async () => {
    const { suspects, pairs } = await suspectsOf(saeWith({}), { co: coFirings(usual), profile });
    expect(suspects).toEqual([]);
    expect(pairs).toBe((LATENTS * (LATENTS - 1)) / 2);
  });

  test("two latents of one direction that fire together are duplicates", async () => {
    const sae = saeWith({ 4: { writes: sum([1, things[3]], [0.2, things[4]]) } });
    const co = coFirings((f, p) => usual(f === 4 ? 3 : f, p));
    const { suspects } = await suspectsOf(sae, { co, profile });
    expect(suspects).toMatchObject([{ kind: "duplicate", latents: [3, 4] }]);
    expect(suspects[0].evidence).toMatchObject({ jaccard: 1, firings: [400, 400] });
    expect(suspects[0].evidence.decoderCosine).toBeCloseTo(1 / Math.hypot(1, 0.2), 1);
  });

  test("two of similar directions and tokens that take turns are one thing split", async () => {
    const sae = saeWith({ 4: { writes: sum([1, things[3]], [1, things[4]]) } });
    const co = coFirings((f, p) => (f === 3 ? p % 10 === 0 : f === 4 ? p % 10 === 5 : usual(f, p)));
    const alike = (f: number) => profile(f === 4 ? 3 : f);
    const { suspects } = await suspectsOf(sae, { co, profile: alike });
    expect(suspects).toMatchObject([{ kind: "split", latents: [3, 4] }]);
    // On other tokens they are two things that are alike.
    expect((await suspectsOf(sae, { co, profile })).suspects).toEqual([]);
  });

  /** A child (latent 4) that took its parent (latent 3) into its decoder, as in Chanin et al., section 3. */
  const child = { writes: sum([1, things[3]], [1, things[4]]), reads: things[4] };
  const silent = { writes: things[3], reads: sum([1, things[3]], [-1, things[4]]) };
  const turns = coFirings((f, p) =>
    f === 3 ? p % 4 === 0 && p % 40 !== 0 : f === 4 ? p % 40 === 0 : usual(f, p),
  );

  test("a broad latent whose encoder overlooks the narrow one that writes its direction was absorbed", async () => {
    const sae = saeWith({ 3: silent, 4: child });
    const { suspects } = await suspectsOf(sae, { co: turns, profile });
    expect(suspects).toMatchObject([{ kind: "absorbed", latents: [3, 4] }]);
    const { response, decoderCosine, together, expected } = suspects[0].evidence;
    expect(response[0]).toBeLessThan(0.1);
    expect(decoderCosine).toBeGreaterThan(0.6);
    expect([together, expected]).toEqual([0, (900 * 100) / POSITIONS]);
  });

  test("nothing is absorbed where the encoder does not overlook it, or both fire", async () => {
    const sighted = saeWith({ 3: { writes: things[3] }, 4: child });
    expect((await suspectsOf(sighted, { co: turns, profile })).suspects).toEqual([]);
    const both = coFirings((f, p) =>
      f === 3 ? p % 4 === 0 : f === 4 ? p % 40 === 0 : usual(f, p),
    );
    const sae = saeWith({ 3: silent, 4: child });
    expect((await suspectsOf(sae, { co: both, profile })).suspects).toEqual([]);
  });

  test("only pairs with the latents that are asked for are looked at", async () => {
    const sae = saeWith({ 3: silent, 4: child });
    const facts = { co: turns, profile };
    expect((await suspectsOf(sae, facts, { latents: [4] })).suspects).toHaveLength(1);
    expect((await suspectsOf(sae, facts, { latents: [5] })).suspects).toEqual([]);
  });

  test("counts of another SAE are refused", async () => {
    const co = { ...turns, firings: [1, 2, 3] };
    const refused = suspectsOf(saeWith({}), { co, profile });
    await expect(refused).rejects.toThrow(UserError);
    await expect(refused).rejects.toThrow("of 3 latents, the SAE has 12");
  });
});
