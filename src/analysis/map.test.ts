import { describe, expect, test } from "vitest";

import { UserError } from "../error.ts";
import { Rng } from "../rng.ts";
import { Sae } from "../sae/sae.ts";
import { mapFigure, namedClusters } from "./map-figure.ts";
import { coActivationMap, decoderMap, trustworthiness, type LatentMap } from "./map.ts";

const GROUPS = 4;
const LATENTS = 120;
const WIDTH = 24;
const groupOf = (latent: number) => latent % GROUPS;

/** Decoder rows around one direction per group; the last two are empty. */
function saeOfGroups(): Sae {
  const rng = new Rng(2);
  const centres = Array.from({ length: GROUPS * WIDTH }, () => rng.normal());
  const W_dec = Float32Array.from({ length: LATENTS * WIDTH }, (_, i) => {
    const [latent, c] = [Math.floor(i / WIDTH), i % WIDTH];
    return latent >= LATENTS - 2 ? 0 : centres[groupOf(latent) * WIDTH + c] + 0.4 * rng.normal();
  });
  return new Sae(
    { selection: { architecture: "relu" }, dIn: WIDTH, dSae: LATENTS, applyBDecToInput: false },
    {
      ...{ W_dec, W_enc: W_dec.slice() },
      ...{ b_enc: new Float32Array(LATENTS), b_dec: new Float32Array(WIDTH) },
    },
  );
}

/** Share of the latents whose nearest one in the plane is of their group. */
function grouped({ x, y }: LatentMap): number {
  const there = x.flatMap((v, latent) => (v === null ? [] : [latent]));
  const alike = there.filter((f) => {
    const distance = (g: number) => Math.hypot(x[f]! - x[g]!, y[f]! - y[g]!);
    const nearest = there.filter((g) => g !== f).reduce((a, b) => (distance(b) < distance(a) ? b : a)); // prettier-ignore
    return groupOf(nearest) === groupOf(f);
  });
  return alike.length / there.length;
}

describe("a map", () => {
  test("of decoder directions keeps groups together, and leaves empty rows out", async () => {
    const map = await decoderMap(saeOfGroups(), { seed: 1 });
    expect(map.count).toBe(LATENTS - 2);
    expect([map.x.at(-1), map.y.at(-1)]).toEqual([null, null]);
    expect(grouped(map)).toBeGreaterThan(0.95);
    const { value, random } = map.trustworthiness;
    expect(value).toBeGreaterThan(0.85);
    expect(Math.abs(random - 0.5)).toBeLessThan(0.06);
  });

  test("of firing keeps together what fires together, also where there are few partners", async () => {
    const firings = Uint32Array.from({ length: LATENTS }, (_, f) => (f < 4 ? 10 : 100));
    const partners = (f: number) => {
      // Those of the group that are at most twelve numbers away.
      const latents = [...firings.keys()].filter(
        (g) => g !== f && groupOf(g) === groupOf(f) && Math.abs(g - f) <= 12,
      );
      return {
        latents: Int32Array.from(latents),
        counts: Uint32Array.from(latents, () => 30),
      };
    };
    const map = await coActivationMap({ positions: 5000, firings, partners }, { seed: 1 });
    expect(map.count).toBe(LATENTS - 4);
    expect(map.x.slice(0, 4)).toEqual([null, null, null, null]);
    expect(grouped(map)).toBeGreaterThan(0.9);
  });

  test("is the same again with the same seed, and tells how far it is", async () => {
    const seen: number[] = [];
    const options = { seed: 3, onProgress: ({ done }: { done: number }) => void seen.push(done) };
    const [a, b] = [await decoderMap(saeOfGroups(), options), await decoderMap(saeOfGroups(), { seed: 3 })]; // prettier-ignore
    expect([a.x, a.y]).toEqual([b.x, b.y]);
    expect(seen.length).toBeGreaterThan(5);
    expect((await decoderMap(saeOfGroups(), { seed: 4 })).x).not.toEqual(a.x);
  });

  test("stops when it is told to, and needs latents", async () => {
    const signal = AbortSignal.abort(new Error("stop it"));
    await expect(decoderMap(saeOfGroups(), { seed: 1, signal })).rejects.toThrow("stop it");
    const co = {
      ...{ positions: 10, firings: [1, 2, 3] },
      partners: () => ({ latents: new Int32Array(), counts: new Uint32Array() }),
    };
    await expect(coActivationMap(co, { seed: 1 })).rejects.toThrow(UserError);
  });
});

describe("names on a map", () => {
  const rng = new Rng(6);
  /** Eight clumps in a row. */
  const map: LatentMap = {
    ...{ kind: "decoder", count: 400, seconds: 0 },
    x: Array.from({ length: 400 }, (_, f) => 10 * (f % 8) + rng.normal()),
    y: Array.from({ length: 400 }, () => rng.normal()),
    trustworthiness: { neighbors: 15, value: 0.9, random: 0.5, rows: 400 },
  };
  const words = Array.from({ length: 400 }, (_, f) => [f % 8 === 5 ? " fox" : ` word ${f % 80}`, " the"]); // prettier-ignore

  test("are tokens that more of the latents there share than chance explains", () => {
    const clusters = namedClusters(map, { topTokens: (latent) => words[latent] });
    const fox = clusters.find(({ name }) => name === " fox")!;
    expect(Math.abs(fox.x - 50)).toBeLessThan(3);
    expect(fox).toMatchObject({ here: 16, everywhere: 50 });
    expect(clusters.some(({ name }) => name === " the")).toBe(false);
  });

  test("are not given where tokens are strewn at random", () => {
    const order = rng.shuffle([...words.keys()]);
    expect(namedClusters(map, { topTokens: (latent) => words[order[latent]] })).toEqual([]);
  });

  test("are in the picture, with a key to the colours and what the map is worth", async () => {
    const facts = {
      topTokens: (latent: number) => words[latent],
      density: (latent: number) => (latent % 2 === 0 ? 0.002 : 0.02),
    };
    const { svg, caption } = await mapFigure(map, facts);
    expect(svg).toContain("“ fox”");
    expect(svg).toContain("&lt; 0.3 %");
    expect(svg).not.toContain("&lt; 10 %");
    expect(svg.match(/<circle /g)!.length).toBe(400 + 2);
    expect(caption).toContain("0.90 (random layout: 0.50");
  });
});

describe("trustworthiness", () => {
  const line = (i: number, out: Float64Array) => out.forEach((_, j) => (out[j] = -Math.abs(i - j)));

  test("is 1 for a layout that keeps all neighbours, less for one with two points swapped", () => {
    const layout = Float32Array.from({ length: 20 }, (_, i) => (i % 2 === 0 ? i / 2 : 0));
    // Ties (one step left, one step right) share a rank, so k = 2 is exact inside the line.
    const [right] = trustworthiness([layout], line, 2);
    expect(right).toBe(1);
    const swapped = layout.slice();
    [swapped[0], swapped[18]] = [layout[18], layout[0]];
    const [wrong] = trustworthiness([swapped], line, 2);
    expect(wrong).toBeLessThan(0.9);
  });

  test("needs more than twice as many points as neighbours", () => {
    expect(() => trustworthiness([new Float32Array(8)], line, 2)).toThrow(UserError);
  });
});
