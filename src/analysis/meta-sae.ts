/**
 * Are decoder directions made of fewer common ones (meta-SAEs, Leask et al. 2025)? A small SAE is trained
 * on the unit decoder rows of the latents that fire: BatchTopK, k 4, a quarter as many latents as rows. A
 * dictionary that large explains much of any directions that it was trained on, and so it is measured
 * twice, and beside two nulls that are trained alike:
 *
 *   varianceExplained   1 − Σ‖w − ŵ‖² / Σ‖w − w̄‖² over the rows that it was trained on, as in the paper
 *   heldOut             the same over every fifth row, which it was not
 *
 * Nulls: random unit directions; the rows with each coordinate shuffled among them, made unit again.
 */
import { memorySource } from "../activation-source.ts";
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import { Rng } from "../rng.ts";
import { eachActive } from "../sae/sae-on-device.ts";
import { Trainer } from "../sae/train.ts";
import { DocumentDraws, intervalOf, type Drawn } from "./document-draws.ts";
import type { Interval } from "./interval.ts";

export interface MetaOptions {
  k?: number;
  /** Meta-latents, as a share of the rows that are trained on. */
  widthRatio?: number;
  steps?: number;
  seed?: number;
  onProgress?: (done: number, total: number) => void;
}

export interface MetaExplained {
  /** 95 % over the rows. */
  varianceExplained: Interval;
  heldOut: Interval;
}

export interface MetaStructure extends MetaExplained {
  /** Latents whose rows are trained on, and those held out. */
  latents: { trained: number; heldOut: number };
  width: number;
  k: number;
  steps: number;
  null: Record<"random" | "shuffled", MetaExplained>;
  /** By how much of the rows' length they carry, the first 20: the latents in which they are largest. */
  metaLatents: {
    metaLatent: number;
    /** Rows in which it is active. */
    rows: number;
    latents: { latent: number; activation: number }[];
  }[];
  drawn: Record<string, Drawn>;
}

const SHOWN = 20;
const SHOWN_LATENTS = 10;
const HELD_OUT_EVERY = 5;
const BATCH = 256;
/** With fewer rows there are no directions in common to speak of. */
const MIN_ROWS = 50;

/**
 * @param W_dec [dSae, dIn].
 * @param alive latents that fire.
 * @throws UserError for fewer than 50 of them with a row that is not 0.
 */
export async function metaStructure(
  W_dec: Float32Array,
  dIn: number,
  alive: readonly number[],
  device: Device,
  options: MetaOptions = {},
): Promise<MetaStructure> {
  const { k = 4, widthRatio = 0.25, steps = 1000, seed = 0, onProgress } = options;
  const lengthOf = (f: number) => Math.hypot(...W_dec.subarray(f * dIn, (f + 1) * dIn));
  const latents = alive.filter((f) => lengthOf(f) > 0);
  if (latents.length < MIN_ROWS)
    throw new UserError(
      `a meta-SAE needs at least ${MIN_ROWS} latents that fire and write; got ${latents.length}`,
    );
  const isHeld = (n: number) => n % HELD_OUT_EVERY === HELD_OUT_EVERY - 1;
  const order = [...latents.keys()];
  const trained = order.filter((n) => !isHeld(n));
  const heldOut = order.filter(isHeld);
  const width = Math.max(Math.ceil(trained.length * widthRatio), k);
  const own = new Float32Array(latents.length * dIn);
  for (const [n, f] of latents.entries()) own.set(W_dec.subarray(f * dIn, (f + 1) * dIn), n * dIn);
  makeUnit(own, dIn);
  const pick = (rows: Float32Array, places: readonly number[]) => {
    const out = new Float32Array(places.length * dIn);
    for (const [i, n] of places.entries()) out.set(rows.subarray(n * dIn, (n + 1) * dIn), i * dIn);
    return out;
  };
  const fit = async (rows: Float32Array, step: number) => {
    const [own, others] = [pick(rows, trained), pick(rows, heldOut)];
    const trainer = await Trainer.create(device, {
      sae: { architecture: "batchTopk", dSae: width, k },
      train: {
        steps,
        batchSize: Math.min(BATCH, trained.length),
        learningRate: 3e-3,
        logEvery: 100,
      },
      ...{ seed, source: memorySource(own, dIn) },
    });
    try {
      for await (const metrics of trainer.fit())
        onProgress?.(step * steps + metrics.step, 3 * steps);
      const encoder = (await trainer.sae()).on(device, trained.length);
      try {
        const on = async (x: Float32Array, places: readonly number[]) =>
          explained(x, await encoder.reconstruct(x, places.length), dIn, seed);
        const [varianceExplained, held] = [await on(own, trained), await on(others, heldOut)];
        const codes = step === 0 ? await encoder.encode(own, trained.length) : undefined;
        return { varianceExplained, heldOut: held, codes };
      } finally {
        encoder.close();
      }
    } finally {
      trainer.close();
    }
  };
  const intervals = (found: Record<keyof MetaExplained, Drawn>): MetaExplained => ({
    varianceExplained: intervalOf(found.varianceExplained),
    heldOut: intervalOf(found.heldOut),
  });
  const rng = new Rng(seed, "meta-SAE");
  const { codes, ...found } = await fit(own, 0);
  const random = own.map(() => rng.normal());
  makeUnit(random, dIn);
  const shuffled = shuffledColumns(own, dIn, rng);
  makeUnit(shuffled, dIn);
  const nulls = { random: await fit(random, 1), shuffled: await fit(shuffled, 2) };
  return {
    ...intervals(found),
    latents: { trained: trained.length, heldOut: heldOut.length },
    ...{ width, k, steps },
    null: { random: intervals(nulls.random), shuffled: intervals(nulls.shuffled) },
    metaLatents: listed(codes!, trained.map((n) => latents[n]), width), // prettier-ignore
    drawn: found,
  };
}

/** 1 − Σ‖w − ŵ‖² / Σ‖w − w̄‖² over rows, and on draws of them; w̄ stays that of all. */
function explained(
  rows: Float32Array,
  reconstruction: Float32Array,
  dIn: number,
  seed: number,
): Drawn {
  const count = rows.length / dIn;
  const mean = new Float64Array(dIn);
  for (let i = 0; i < rows.length; i++) mean[i % dIn] += rows[i] / count;
  const [errors, spread] = [new Float64Array(count), new Float64Array(count)];
  for (let i = 0; i < rows.length; i++) {
    const n = Math.floor(i / dIn);
    errors[n] += (rows[i] - reconstruction[i]) ** 2;
    spread[n] += (rows[i] - mean[i % dIn]) ** 2;
  }
  const { value, draws } = new DocumentDraws(count, seed).ratio(errors, spread);
  return { value: 1 - value, draws: draws.map((draw) => 1 - draw) };
}

function makeUnit(rows: Float32Array, dIn: number): void {
  for (let at = 0; at < rows.length; at += dIn) {
    const length = Math.hypot(...rows.subarray(at, at + dIn));
    for (let c = at; c < at + dIn; c++) rows[c] /= length;
  }
}

/** Each column in an order of its own: what stays is how the values of each coordinate are spread. */
function shuffledColumns(rows: Float32Array, dIn: number, rng: Rng): Float32Array {
  const count = rows.length / dIn;
  const out = new Float32Array(rows.length);
  for (let c = 0; c < dIn; c++) {
    const order = rng.shuffle(Int32Array.from({ length: count }, (_, n) => n));
    for (let n = 0; n < count; n++) out[n * dIn + c] = rows[order[n] * dIn + c];
  }
  return out;
}

function listed(
  codes: Parameters<typeof eachActive>[0],
  latents: readonly number[],
  width: number,
): MetaStructure["metaLatents"] {
  const members = Array.from({ length: width }, () => [] as { latent: number; activation: number }[]); // prettier-ignore
  eachActive(codes, latents.length, width, (row, meta, activation) => {
    members[meta].push({ latent: latents[row], activation });
  });
  const weight = members.map((own) =>
    own.reduce((sum, { activation }) => sum + activation ** 2, 0),
  );
  return [...members.keys()]
    .filter((m) => members[m].length > 0)
    .sort((a, b) => weight[b] - weight[a] || a - b)
    .slice(0, SHOWN)
    .map((metaLatent) => ({
      ...{ metaLatent, rows: members[metaLatent].length },
      latents: members[metaLatent]
        .sort((a, b) => b.activation - a.activation || a.latent - b.latent)
        .slice(0, SHOWN_LATENTS),
    }));
}
