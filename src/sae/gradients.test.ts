/**
 * The gradients that training applies, against finite differences in float64 of the losses that
 * architecture.ts documents, written here again without any of its code. What a straight-through
 * estimator defines is built from its formula, with the derivatives in it again by differences.
 */
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";

import { memorySource } from "../activation-source.ts";
import { parseSection, saeSchema, trainSchema } from "../config.ts";
import { openDevice, type Device } from "../device/device.ts";
import { Rng } from "../rng.ts";
import { joinedSource, pairedSource } from "../zipped-source.ts";
import { Trainer, type LossTerms, type Metrics, type Settings, type StateTensor } from "./train.ts";

/** Every setting that any architecture has; a case has those of its own. */
interface Config {
  architecture: "relu" | "topk" | "batchTopk" | "jumprelu" | "gated";
  applyBDecToInput: boolean;
  unitNormDecoder: boolean;
  matryoshkaWidths?: number[];
  loss?: "sum" | "mean";
  l1?: number;
  pEnd?: number;
  auxCoefficient?: number;
  k?: number;
  auxK?: number;
  auxKCoefficient?: number;
  auxKVariant?: "summed" | "openai" | "eleuther" | "saelens";
  /** Every so many latents one is dead; default 3. */
  deadEvery?: number;
  sparsityLoss?: "step" | "tanh" | "quadratic";
  l0Coefficient?: number;
  tanhScale?: number;
  targetL0?: number;
  bandwidth?: number;
  preActCoefficient?: number;
  preActOn?: "dead" | "all";
  /** A transcoder, whose targets are y; with a linear map beside its latents. */
  target?: "y";
  skip?: boolean;
  /** A crosscoder of hook points of these widths. */
  heads?: number[];
}

const [dIn, dSae, rows] = [6, 36, 8];
/** Of what is reconstructed. */
const dOutOf = ({ target }: Config) => (target ? 4 : dIn);
const deadAfterTokens = 100;
const sinceFiredOf = ({ deadEvery = 3 }: Config) =>
  Int32Array.from({ length: dSae }, (_, f) => (f % deadEvery === 0 ? 100 : 99));
const free = { applyBDecToInput: true, unitNormDecoder: false } as const;
const unit = { applyBDecToInput: true, unitNormDecoder: true } as const;
const plain = { applyBDecToInput: false } as const;

const relu = { architecture: "relu", loss: "sum", l1: 0.7, ...free } as const;
const gated = { architecture: "gated", l1: 0.7, auxCoefficient: 0.6, ...free } as const;
const topk = { architecture: "topk", k: 3, auxK: 2, auxKCoefficient: 0.5, ...unit } as const;
const batchTopk = { ...topk, architecture: "batchTopk" } as const;
const jump = { architecture: "jumprelu", bandwidth: 0.6, l0Coefficient: 0.3, ...free } as const;
const preAct = { preActCoefficient: 0.2, preActOn: "dead" } as const;
const nested = { matryoshkaWidths: [9, 20] };
const transcoder = { ...plain, target: "y" } as const;
const skip = { ...transcoder, skip: true } as const;
const cross = { heads: [3, 3], ...free };

const cases: Record<string, Config> = {
  "relu, decoder norms": { ...relu },
  "relu, plain input": { ...relu, ...plain },
  "relu, unit norms": { ...relu, ...unit },
  "relu, mean loss": { ...relu, loss: "mean", l1: 3 },
  "relu, exponent 0.6": { ...relu, pEnd: 0.6 },
  "relu, exponent 0.6, unit norms": { ...relu, pEnd: 0.6, ...unit },
  gated: { ...gated },
  "gated, unit norms, plain input": { ...gated, ...unit, ...plain },
  "topk without auxiliary loss": { ...topk, auxKCoefficient: 0 },
  "topk, summed": { ...topk, auxKVariant: "summed" },
  "topk, openai": { ...topk, auxKVariant: "openai", ...free },
  "topk, eleuther": { ...topk, auxKVariant: "eleuther", deadEvery: 20, ...plain },
  "topk, saelens": { ...topk, auxKVariant: "saelens", auxK: 36, deadEvery: 20 },
  batchTopk: { ...batchTopk, ...free },
  "batchTopk, openai": { ...batchTopk, auxKVariant: "openai" },
  "jumprelu, step": { ...jump, sparsityLoss: "step" },
  "jumprelu, step, unit norms, plain input": { ...jump, sparsityLoss: "step", ...unit, ...plain },
  "jumprelu, tanh": { ...jump, sparsityLoss: "tanh", tanhScale: 2 },
  "jumprelu, tanh, unit norms": { ...jump, sparsityLoss: "tanh", tanhScale: 2, ...unit },
  "jumprelu, quadratic": { ...jump, sparsityLoss: "quadratic", targetL0: 1.3 },
  "jumprelu, pre-activation loss on dead latents": { ...jump, sparsityLoss: "step", ...preAct },
  "jumprelu, pre-activation loss on all": {
    ...{ ...jump, sparsityLoss: "tanh", tanhScale: 2, ...preAct, preActOn: "all", ...plain },
  },
  "matryoshka over topk": { ...topk, ...nested },
  "matryoshka over batchTopk": { ...batchTopk, ...nested, ...free },
  "matryoshka over relu": { ...relu, ...nested },
  "matryoshka over relu, mean loss": { ...relu, ...nested, loss: "mean" },
  "matryoshka over gated": { ...gated, ...nested },
  "matryoshka over jumprelu": { ...jump, ...nested, sparsityLoss: "step" },
  "transcoder, relu": { ...relu, ...transcoder },
  "transcoder, topk, eleuther": { ...topk, auxKVariant: "eleuther", ...transcoder },
  "transcoder, jumprelu": { ...jump, sparsityLoss: "tanh", tanhScale: 2, ...preAct, ...transcoder },
  "transcoder, gated": { ...gated, ...transcoder },
  "skip transcoder, relu": { ...relu, ...skip },
  "skip transcoder, batchTopk, openai": { ...batchTopk, auxKVariant: "openai", ...skip },
  "skip transcoder, gated, matryoshka": { ...gated, ...nested, ...skip },
  "crosscoder, relu": { ...relu, ...cross },
  "crosscoder, relu, exponent 0.6, plain input": { ...relu, pEnd: 0.6, ...cross, ...plain },
  "crosscoder, topk": { ...topk, ...cross },
  "crosscoder, jumprelu": { ...jump, sparsityLoss: "tanh", tanhScale: 2, ...cross },
  "crosscoder, pre-activation loss": { ...jump, sparsityLoss: "step", ...preAct, ...cross },
  "crosscoder, gated": { ...gated, ...cross },
};

type Name = "W_enc" | "b_enc" | "W_dec" | "b_dec" | "threshold" | "b_mag" | "r_mag" | "W_skip";
type Weights = Partial<Record<Name, Float64Array>>;
type Latents = Float64Array[];

function gaussian(count: number, seed: number, scale: number, mean = 0): Float32Array {
  const rng = new Rng(seed, "gradients");
  return Float32Array.from({ length: count }, () => mean + rng.normal() * scale);
}

const x = gaussian(rows * dIn, 1, 1, 0.2);
const y = gaussian(rows * 4, 9, 1, -0.1);

function startOf(sae: Config): Partial<Record<Name, Float32Array>> {
  const { architecture, unitNormDecoder } = sae;
  const dOut = dOutOf(sae);
  // A bias of -1.3: few latents are active, so that sparse forms have room for them.
  const isThresholded = architecture !== "topk" && architecture !== "batchTopk";
  const W_dec = gaussian(dSae * dOut, 4, 0.6);
  for (let f = 0; unitNormDecoder && f < dSae; f++) {
    const row = W_dec.subarray(f * dOut, (f + 1) * dOut);
    const norm = Math.hypot(...row);
    row.forEach((v, c) => (row[c] = v / norm));
  }
  return {
    W_enc: gaussian(dSae * dIn, 2, 0.5),
    b_enc: gaussian(dSae, 3, 0.3, isThresholded ? -1.9 : 0),
    W_dec,
    b_dec: gaussian(dOut, 5, 0.3),
    ...(sae.skip && { W_skip: gaussian(dOut * dIn, 10, 0.3) }),
    ...(architecture === "jumprelu" && {
      threshold: gaussian(dSae, 6, 0.1, 0.3).map(Math.abs),
    }),
    ...(architecture === "gated" && {
      b_mag: gaussian(dSae, 7, 0.3, -1.2),
      r_mag: gaussian(dSae, 8, 0.3),
    }),
  };
}

const rowOf = (matrix: Float64Array, width: number, f: number) =>
  matrix.subarray(f * width, (f + 1) * width);
function sumOver(length: number, term: (i: number) => number): number {
  let sum = 0;
  for (let i = 0; i < length; i++) sum += term(i);
  return sum;
}
const norm = (row: ArrayLike<number>) => Math.sqrt(sumOver(row.length, (c) => row[c] ** 2));

/** Σ_n ‖v_n - v̄‖² */
function variance(vectors: Float64Array[]): number {
  const mean = vectors[0].map((_, c) => sumOver(rows, (n) => vectors[n][c]) / rows);
  return sumOver(rows, (n) => norm(vectors[n].map((v, c) => v - mean[c])) ** 2);
}

/** The loss of a case: its parts as functions of weights and latents. */
function lossOf(sae: Config) {
  const input = Array.from({ length: rows }, (_, n) =>
    Float64Array.from(x.subarray(n * dIn, (n + 1) * dIn)),
  );
  const dOut = dOutOf(sae);
  const aim = sae.target
    ? input.map((_, n) => Float64Array.from(y.subarray(n * dOut, (n + 1) * dOut)))
    : input;
  const sinceFired = sinceFiredOf(sae);
  const isDead = (f: number) => sinceFired[f] >= deadAfterTokens;
  const allLatents = Array.from({ length: dSae }, (_, f) => f);
  /** Of a crosscoder the sum of the norms of the parts. */
  const decoderNorms = (w: Weights) =>
    Float64Array.from(allLatents, (f) => {
      const row = rowOf(w.W_dec!, dOut, f);
      let end = 0;
      return (sae.heads ?? [dOut]).reduce((sum, n) => sum + norm(row.subarray(end, (end += n))), 0);
    });
  const weightsOfNorms = (w: Weights) =>
    sae.unitNormDecoder ? new Float64Array(dSae).fill(1) : decoderNorms(w);
  const largest = (z: Float64Array, among: number[], k: number) =>
    new Set([...among].sort((f, g) => z[g] - z[f]).slice(0, k));

  /** W_enc (x - b_dec), before any bias. */
  const projections = (w: Weights): Latents =>
    input.map((row) =>
      Float64Array.from(allLatents, (f) =>
        sumOver(
          dIn,
          (c) => w.W_enc![f * dIn + c] * (row[c] - (sae.applyBDecToInput ? w.b_dec![c] : 0)),
        ),
      ),
    );
  const preActivations = (w: Weights): Latents =>
    projections(w).map((row) => row.map((v, f) => v + w.b_enc![f]));

  const select = (w: Weights): Latents => {
    const z = preActivations(w);
    switch (sae.architecture) {
      case "relu":
        return z.map((row) => row.map((v) => Math.max(v, 0)));
      case "topk":
        return z.map((row) => {
          const kept = largest(row, allLatents, sae.k!);
          return row.map((v, f) => (kept.has(f) ? Math.max(v, 0) : 0));
        });
      case "batchTopk": {
        const sorted = z.flatMap((row) => [...row]).sort((a, b) => b - a);
        const last = sorted[sae.k! * rows - 1];
        return z.map((row) => row.map((v) => (v >= last ? Math.max(v, 0) : 0)));
      }
      case "jumprelu":
        return z.map((row) => row.map((v, f) => (v > w.threshold![f] && v > 0 ? v : 0)));
      case "gated":
        return projections(w).map((row, n) =>
          row.map((u, f) =>
            z[n][f] > 0 ? Math.max(Math.exp(w.r_mag![f]) * u + w.b_mag![f], 0) : 0,
          ),
        );
    }
  };

  /** Of the first `count` latents. */
  const decode = (W_dec: Float64Array, b_dec: Float64Array, a: Latents, count: number) =>
    a.map((row) => {
      const decoded = b_dec.slice();
      for (let f = 0; f < count; f++)
        for (let c = 0; row[f] !== 0 && c < dOut; c++) decoded[c] += row[f] * W_dec[f * dOut + c];
      return decoded;
    });
  /** What latents are to explain: of a skip transcoder what its linear map leaves. */
  const aims = ({ W_skip }: Weights) =>
    aim.map((row, n) =>
      row.map((v, c) => (W_skip ? v - sumOver(dIn, (i) => W_skip[c * dIn + i] * input[n][i]) : v)),
    );
  const residuals = (w: Weights, a: Latents, count: number) => {
    const wanted = aims(w);
    return decode(w.W_dec!, w.b_dec!, a, count).map((row, n) =>
      row.map((v, c) => wanted[n][c] - v),
    );
  };
  const squares = (vectors: Float64Array[]) => sumOver(rows, (n) => norm(vectors[n]) ** 2);

  const reconstruction = (w: Weights, a: Latents): number => {
    const widths = [...(sae.matryoshkaWidths ?? []), dSae];
    const elements = sae.loss === "mean" ? rows * dOut : rows;
    return (
      sumOver(widths.length, (l) => squares(residuals(w, a, widths[l]))) / widths.length / elements
    );
  };

  /** `l0` is the number of active latents in the whole batch. */
  const sparsity = (w: Weights, a: Latents, l0: number): number => {
    const norms = weightsOfNorms(w);
    const perLatent = (s: (a: number, norm: number) => number, latents = a) =>
      sumOver(rows, (n) => sumOver(dSae, (f) => s(latents[n][f], norms[f]))) / rows;
    switch (sae.architecture) {
      case "relu":
        if (sae.loss === "mean") return (sae.l1! / dSae) * perLatent((v) => v);
        if (sae.pEnd === undefined) return sae.l1! * perLatent((v, m) => v * m);
        return sae.l1! * perLatent((v, m) => (v * m + 1e-3) ** sae.pEnd! - 1e-3 ** sae.pEnd!);
      case "gated":
        return sae.l1! * perLatent((pi, m) => Math.max(pi, 0) * m, preActivations(w));
      case "jumprelu":
        if (sae.sparsityLoss === "tanh")
          return sae.l0Coefficient! * perLatent((v, m) => Math.tanh(sae.tanhScale! * v * m));
        if (sae.sparsityLoss === "step") return sae.l0Coefficient! * (l0 / rows);
        return sae.l0Coefficient! * (l0 / rows / sae.targetL0! - 1) ** 2;
      default:
        return 0;
    }
  };

  /** What counts as a constant in the auxiliary loss is made of `at`. */
  const auxiliary = (w: Weights, at: Weights): number => {
    const z = preActivations(w);
    if (sae.architecture === "gated") {
      const gates = z.map((row) => row.map((v) => Math.max(v, 0)));
      const wanted = aims(at);
      const decoded = decode(at.W_dec!, at.b_dec!, gates, dSae);
      return (
        (sae.auxCoefficient! *
          squares(decoded.map((row, n) => row.map((v, c) => wanted[n][c] - v)))) /
        rows
      );
    }
    if (sae.preActCoefficient !== undefined) {
      const norms = decoderNorms(at);
      const on = allLatents.filter((f) => sae.preActOn === "all" || isDead(f));
      const short = (n: number) =>
        on.reduce((sum, f) => sum + norms[f] * Math.max(w.threshold![f] - z[n][f], 0), 0);
      return (sae.preActCoefficient * sumOver(rows, short)) / rows;
    }
    if (!sae.auxKCoefficient) return 0;
    const dead = allLatents.filter(isDead);
    const residual = residuals(at, select(at), dSae);
    const acts = z.map((row) => {
      const kept = largest(row, dead, sae.auxK!);
      return row.map((v, f) => (kept.has(f) ? Math.max(v, 0) : 0));
    });
    const decoded = decode(w.W_dec!, new Float64Array(dOut), acts, dSae);
    const left = squares(decoded.map((row, n) => row.map((v, c) => residual[n][c] - v)));
    const share = Math.min(1, dead.length / (dIn / 2));
    const scale = {
      summed: 1 / rows,
      openai: 1 / variance(residual),
      eleuther: share / variance(aim),
      saelens: share / rows,
    }[sae.auxKVariant ?? "summed"];
    return sae.auxKCoefficient * scale * left;
  };

  const active = (a: Latents) => sumOver(rows, (n) => a[n].filter((v) => v > 0).length);
  const terms = (w: Weights, at: Weights): LossTerms => {
    const a = select(w);
    return {
      reconstruction: reconstruction(w, a),
      sparsity: sparsity(w, a, active(a)),
      aux: auxiliary(w, at),
    };
  };

  /** Σ_n K((z-θ)/ε) · (-1/ε) · (θ ∂L/∂a + ∂L/∂L0), and what θ's own place in the auxiliary loss adds. */
  const thresholdGradient = (w: Weights): Float64Array => {
    const [z, a] = [preActivations(w), select(w)];
    const l0 = active(a);
    const main = (acts: Latents, count: number) =>
      reconstruction(w, acts) + sparsity(w, acts, count);
    const byL0 = difference(l0, (count) => main(a, count));
    return Float64Array.from(allLatents, (f) => {
      const theta = w.threshold![f];
      let sum = difference(theta, (v) =>
        auxiliary({ ...w, threshold: w.threshold!.with(f, v) }, w),
      );
      for (let n = 0; n < rows; n++) {
        if (Math.abs(z[n][f] - theta) >= sae.bandwidth! / 2) continue;
        // One-sided differences would see the slope of tanh at 0; for a below 0 its formula goes on.
        const byA = difference(a[n][f], (v) => main(a.with(n, a[n].with(f, v)), l0));
        sum -= (theta * byA + byL0) / sae.bandwidth!;
      }
      return sum;
    });
  };
  return { terms, thresholdGradient };
}

/** f'(at), by central differences. */
function difference(at: number, f: (v: number) => number): number {
  return (f(at + 1e-5) - f(at - 1e-5)) / 2e-5;
}

function expectedGradients(sae: Config) {
  const start = Object.fromEntries(
    Object.entries(startOf(sae)).map(([name, data]) => [name, Float64Array.from(data)]),
  ) as Weights;
  const { terms, thresholdGradient } = lossOf(sae);
  const loss = (w: Weights) => {
    const { reconstruction, sparsity, aux } = terms(w, start);
    return reconstruction + sparsity + aux;
  };
  const gradients: Weights = {};
  for (const [key, data] of Object.entries(start)) {
    const name = key as Name;
    gradients[name] =
      name === "threshold"
        ? thresholdGradient(start)
        : data.map((v, i) =>
            difference(v, (moved) => loss({ ...start, [name]: data.with(i, moved) })),
          );
  }
  if (sae.unitNormDecoder)
    for (let f = 0; f < dSae; f++) {
      const dOut = dOutOf(sae);
      const [g, w] = [gradients.W_dec!, start.W_dec!].map((matrix) => rowOf(matrix, dOut, f));
      const along = sumOver(dOut, (c) => g[c] * w[c]) / norm(w) ** 2;
      g.forEach((v, c) => (g[c] = v - along * w[c]));
    }
  return { terms: terms(start, start), gradients };
}

/** Columns from … to-1 of x. */
function columns(from: number, to: number): Float32Array {
  return x.filter((_, i) => i % dIn >= from && i % dIn < to);
}

function sourceOf({ target, heads }: Config) {
  if (target) return pairedSource(memorySource(x, dIn), memorySource(y, 4));
  if (!heads) return memorySource(x, dIn);
  const [first, second] = heads;
  return joinedSource([
    memorySource(columns(0, first), first),
    memorySource(columns(first, dIn), second),
  ]);
}

function settings(config: Config): Settings {
  const { pEnd, deadEvery: _deadEvery, target: _target, heads: _heads, ...sae } = config;
  return {
    sae: parseSection(
      saeSchema,
      {
        ...{ dSae, decoderBiasInit: "zero", normalizeActivations: "none", ...sae },
        ...(sae.architecture.endsWith("opk") ? {} : { coefficientUnits: "raw" }),
        ...(pEnd !== undefined && { pEnd }),
      },
      "sae",
    ),
    train: parseSection(
      trainSchema,
      { batchSize: rows, steps: 1, shuffle: false, deadAfterTokens },
      "train",
    ),
    seed: 0,
    source: sourceOf(config),
  };
}

describe.each(Object.entries(cases))("%s: gradients agree with finite differences", (_, sae) => {
  let expected: ReturnType<typeof expectedGradients>;
  beforeAll(() => {
    expected = expectedGradients(sae);
  });
  const isThresholded = !["topk", "batchTopk"].includes(sae.architecture);
  const runs = (["reference", "cpu"] as const).flatMap((name) =>
    (isThresholded ? [true, false] : [false]).map((dense) => ({ name, dense })),
  );

  test.each(runs)("on $name, dense: $dense", async ({ name, dense }) => {
    const device = devices[name];
    const options = settings(sae);
    const fresh = await Trainer.create(device, options);
    const { progress, tensors } = await fresh.state();
    fresh.close();
    progress.anneal.p = sae.pEnd ?? 1;
    const trainer = Trainer.resume(device, options, {
      progress: { ...progress, dense },
      tensors: { ...tensors, ...startOf(sae), sinceFired: sinceFiredOf(sae) },
    });
    const forms = [vi.spyOn(device, "updateLatentsDense"), vi.spyOn(device, "updateLatents")];
    const steps: Metrics[] = [];
    for await (const metrics of trainer.fit()) steps.push(metrics);
    const after = await trainer.state();
    trainer.close();
    expect(forms.map((form) => form.mock.calls.length)).toEqual(dense ? [1, 0] : [0, 1]);
    forms.forEach((form) => form.mockRestore());

    for (const [term, value] of Object.entries<number>({ ...expected.terms })) {
      const seen = steps[0].terms[term as keyof LossTerms];
      expect(Math.abs(seen - value), `${term} ${value}`).toBeLessThan(1e-6 * (1 + Math.abs(value)));
    }
    for (const [parameter, gradient] of Object.entries(expected.gradients)) {
      // Adam's first moment after one step is a tenth of the gradient.
      const moment = after.tensors[`${parameter}.m` as StateTensor]!;
      const largest = Math.max(...gradient.map(Math.abs));
      expect(largest).toBeGreaterThan(1e-3);
      const off = gradient.map((g, i) => Math.abs(moment[i] / 0.1 - g) / largest);
      expect(Math.max(...off), parameter).toBeLessThan(2e-5);
    }
  });
});

let devices: Record<"reference" | "cpu", Device>;
beforeAll(async () => {
  devices = {
    reference: await openDevice("reference"),
    cpu: await openDevice("cpu", { threads: 2 }),
  };
});
afterAll(() => Promise.all(Object.values(devices).map((device) => device.close())));
