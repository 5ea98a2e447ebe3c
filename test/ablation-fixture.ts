/** What test/oracles/ablation.py wrote: SAEs on the small GPT-2, and what removing their latents does. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { loadModel } from "../src/model/model.ts";
import { Safetensors } from "../src/safetensors.ts";
import { Sae } from "../src/sae/sae.ts";
import type { SaeSpecOptions } from "../src/sae/weights.ts";

const folder = (name: string) => fileURLToPath(new URL(`fixtures/${name}`, import.meta.url));

export const fixtureModel = () => loadModel(folder("gpt2-tiny/f32"));

/** Of one latent; sums over the text: Δ loss at firings, Δ loss, KL at firings, KL. */
export interface ExpectedAblation {
  latent: number;
  firings: number;
  firingPredictions: number;
  firingDocuments: number;
  total: number[];
  direct: number[];
}

export interface ExpectedAttribution {
  measure: "logit" | "centred" | "logprob" | "difference";
  position: number;
  token: number;
  against: number;
  probability: number;
  contributions: Record<string, number>[];
  completeness: Record<string, number>;
  together: Record<string, number>;
  withoutLatents: number;
  steps: number;
}

export interface ExpectedCase {
  sae: string;
  reads: string[];
  writes: string;
  ablation: { positions: number; predictions: number; loss: number; latents: ExpectedAblation[] };
  attribution: ExpectedAttribution;
}

export const expected = JSON.parse(readFileSync(`${folder("ablation")}/expected.json`, "utf8")) as {
  texts: string[];
  prompt: string;
  context: number;
  cases: Record<string, ExpectedCase>;
};

const WIDTH = 40;
const scaled = { kind: "scale", factors: [0.25], widths: [WIDTH] } as const;
const rows = { kind: "layerNorm", eps: 1e-5 } as const;
const topk = (k: number) => ({ architecture: "topk", k }) as const;
const SPECS: Record<string, Partial<SaeSpecOptions> & Pick<SaeSpecOptions, "selection">> = {
  scaled: {
    ...{ selection: topk(6), applyBDecToInput: true },
    ...{ input: { ...scaled, factors: [0.25], widths: [WIDTH] } },
    ...{ output: { ...scaled, factors: [0.25], widths: [WIDTH] } },
  },
  layerNorm: {
    ...{ selection: { architecture: "relu" }, applyBDecToInput: true },
    ...{ input: rows, output: rows },
  },
  transcoder: { selection: topk(5), transcoder: true, applyBDecToInput: false },
  crosscoder: {
    ...{ selection: topk(7), heads: [WIDTH, WIDTH], applyBDecToInput: true, dIn: 2 * WIDTH },
  },
};

/** The SAE of a case, and where it reads and writes as options take it. */
export async function saeOf({ sae: name, reads, writes }: ExpectedCase) {
  const file = await Safetensors.open(`${folder("ablation")}/saes.safetensors`);
  try {
    const read = (key: string) => file.floats(`${name}.${key}`);
    const [W_enc, b_enc] = [await read("W_enc"), await read("b_enc")];
    const [W_dec, b_dec] = [await read("W_dec"), await read("b_dec")];
    const spec = { dIn: WIDTH, dSae: b_enc.length, applyBDecToInput: true, ...SPECS[name] };
    return {
      sae: new Sae(spec, { W_enc, b_enc, W_dec, b_dec }),
      places: {
        hookPoint: reads,
        ...(name === "transcoder" && { targetHookPoint: writes }),
        ...(name === "crosscoder" && { at: writes }),
      },
    };
  } finally {
    await file.close();
  }
}

/** As far from `wanted` as one part in 10⁵ of the largest number of its kind. */
export function isNear(value: number, wanted: number, largest: number): boolean {
  return Math.abs(value - wanted) <= 1e-5 * Math.max(Math.abs(wanted), largest);
}
