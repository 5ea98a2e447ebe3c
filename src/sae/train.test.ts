import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createHash } from "node:crypto";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { memorySource, type ActivationSource } from "../activation-source.ts";
import { parseSection, saeSchema, trainSchema } from "../config.ts";
import { openDevice, type Device, type DeviceName } from "../device/device.ts";
import { UserError } from "../error.ts";
import { Rng } from "../rng.ts";
import { Safetensors } from "../safetensors.ts";
import { latestCheckpoint, readCheckpoint, writeCheckpoint } from "./checkpoint.ts";
import { recovery } from "./recovery.ts";
import { syntheticActivations } from "./synthetic.ts";
import {
  Trainer,
  type FitOptions,
  type Metrics,
  type Settings,
  type TrainerState,
} from "./train.ts";
import { uniformFactor } from "./transform.ts";

const deviceNames: DeviceName[] = ["reference", "cpu"];

function options(
  sae: Record<string, unknown>,
  train: Record<string, unknown>,
  source: ActivationSource,
): Settings {
  return {
    sae: parseSection(saeSchema, sae, "sae"),
    train: parseSection(trainSchema, train, "train"),
    seed: 7,
    source,
  };
}

async function fit(trainer: Trainer, how?: FitOptions): Promise<Metrics[]> {
  const all: Metrics[] = [];
  for await (const metrics of trainer.fit(how)) all.push(metrics);
  return all;
}

/** A trainer at step 0 with the given tensors in place of its own. */
async function startFrom(
  device: Device,
  opts: Settings,
  tensors: TrainerState["tensors"],
): Promise<Trainer> {
  const trainer = await Trainer.create(device, opts);
  const { progress, tensors: own } = await trainer.state();
  trainer.close();
  return Trainer.resume(device, opts, { progress, tensors: { ...own, ...tensors } });
}

function hashOf(state: TrainerState): string {
  const hash = createHash("sha256").update(JSON.stringify(state.progress));
  for (const [name, data] of Object.entries(state.tensors).sort(([a], [b]) => (a < b ? -1 : 1)))
    hash.update(name).update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  return hash.digest("hex");
}

function gaussian(count: number, seed: number, scale = 1): Float32Array {
  const rng = new Rng(seed, "test");
  return Float32Array.from({ length: count }, () => rng.normal() * scale);
}

describe.each(deviceNames)("on the %s device", (name) => {
  let device: Device;
  beforeAll(async () => {
    device = await openDevice(name, { threads: 2 });
  });
  afterAll(() => device.close());

  describe("the gradients, read from Adam's first moment after one step, agree with finite differences in float64", () => {
    const [dIn, dSae, rows] = [5, 9, 6];
    const base = { dSae, init: "tied", decoderBiasInit: "zero", unitNormDecoder: false };
    const cases = {
      "relu, mean loss, plain input": {
        ...{
          architecture: "relu",
          coefficientUnits: "raw",
          loss: "mean",
          l1: 3,
          applyBDecToInput: false,
        },
      },
      "relu, mean loss, centred input": {
        ...{
          architecture: "relu",
          coefficientUnits: "raw",
          loss: "mean",
          l1: 3,
          applyBDecToInput: true,
        },
      },
      "relu, sum loss with decoder norms": {
        ...{
          architecture: "relu",
          coefficientUnits: "raw",
          loss: "sum",
          l1: 0.7,
          applyBDecToInput: true,
        },
      },
      "topk with AuxK, centred input": {
        ...{ architecture: "topk", k: 3, auxK: 2, auxKCoefficient: 0.5, applyBDecToInput: true },
      },
      "topk with AuxK, plain input": {
        ...{ architecture: "topk", k: 2, auxK: 9, auxKCoefficient: 2, applyBDecToInput: false },
      },
    };
    test.each(Object.entries(cases))("%s", async (_, sae) => {
      const x = gaussian(rows * dIn, 1);
      const opts = options(
        { ...base, normalizeActivations: "none", ...sae },
        { batchSize: rows, steps: 1, shuffle: false, deadAfterTokens: 100 },
        memorySource(x, dIn),
      );
      const start = {
        W_enc: gaussian(dSae * dIn, 2, 0.7),
        b_enc: gaussian(dSae, 3, 0.3),
        W_dec: gaussian(dSae * dIn, 4, 0.7),
        b_dec: gaussian(dIn, 5, 0.3),
      };
      // Every other latent counts as dead.
      const sinceFired = Int32Array.from({ length: dSae }, (_, f) => (f % 2 ? 100 : 99));
      const trainer = await startFrom(device, opts, { ...start, sinceFired });
      const [metrics] = await fit(trainer);
      const { tensors } = await trainer.state();
      trainer.close();

      const model = lossModel(opts, x, rows, sinceFired);
      const frozen = model.residual(start);
      expect(metrics.loss).toBeCloseTo(model.loss(start, frozen), 5);
      if (sae.architecture === "topk") expect(metrics.terms.aux).toBeGreaterThan(0);
      else expect(metrics.terms.sparsity).toBeGreaterThan(0);
      for (const key of ["W_enc", "b_enc", "W_dec", "b_dec"] as const) {
        const got = Float64Array.from(tensors[`${key}.m`]!, (m) => m / 0.1);
        const expected = Float64Array.from(start[key], (_, i) => {
          const at = (h: number) => {
            const moved = Float64Array.from(start[key]);
            moved[i] += h;
            return model.loss({ ...start, [key]: moved }, frozen);
          };
          return (at(1e-5) - at(-1e-5)) / 2e-5;
        });
        const largest = Math.max(...expected.map(Math.abs));
        expect(largest).toBeGreaterThan(1e-3);
        for (const [i, g] of got.entries())
          expect(Math.abs(g - expected[i]) / largest, `${key}[${i}]`).toBeLessThan(2e-5);
      }
    });
  });

  describe("twenty steps agree with PyTorch (test/oracles/training.py)", () => {
    const dead = { deadAfterTokens: 20 };
    const raw = { coefficientUnits: "raw" };
    const cases: Record<string, [Record<string, unknown>, Record<string, unknown>]> = {
      "relu-mean": [
        { ...raw, architecture: "relu", loss: "mean", l1: 0.05, applyBDecToInput: false },
        {},
      ],
      "relu-sum": [{ ...raw, architecture: "relu", loss: "sum", l1: 0.5 }, {}],
      topk: [{ architecture: "topk", k: 2, auxK: 6 }, dead],
      "topk-free": [
        {
          ...{ architecture: "topk", k: 3, auxK: 24, auxKCoefficient: 1 / 4 },
          ...{ applyBDecToInput: false, unitNormDecoder: false },
        },
        dead,
      ],
    };
    test.each(Object.entries(cases))("%s", async (fixture, [sae, train]) => {
      const store = await Safetensors.open(
        join(import.meta.dirname, "../../test/oracles/training.safetensors"),
      );
      const names = ["W_enc", "b_enc", "W_dec", "b_dec"] as const;
      const source = memorySource(await store.floats("x"), 12);
      const opts = options(
        { dSae: 24, normalizeActivations: "none", ...sae },
        {
          ...{ batchSize: 16, epochs: 2, learningRate: 3e-3, shuffle: false, logEvery: 1 },
          ...train,
        },
        source,
      );
      const start: TrainerState["tensors"] = {};
      for (const key of names) start[key] = await store.floats(`${fixture}.${key}`);
      const trainer = await startFrom(device, opts, start);
      const metrics = await fit(trainer);
      const loss = await store.floats(`${fixture}.loss`);
      const aux = await store.floats(`${fixture}.aux`);
      expect(metrics.length).toBe(20);
      for (const [i, m] of metrics.entries()) {
        expect(Math.abs(m.loss / loss[i] - 1), `loss at step ${m.step}`).toBeLessThan(1e-5);
        expect(Math.abs(m.terms.aux - aux[i]), `aux at step ${m.step}`).toBeLessThan(1e-4);
      }
      const { tensors } = await trainer.state();
      for (const key of names) {
        const final = await store.floats(`${fixture}.${key}.final`);
        // An element whose gradient is rounding noise may step either way: 20 steps of 3e-3 at most.
        const off = final.filter((v, i) => Math.abs(v - tensors[key]![i]) > 1e-4).length;
        expect(off / final.length, key).toBeLessThan(0.01);
      }
      trainer.close();
      await store.close();
    });
  });

  test("a run that is stopped at any step and resumed from disk ends in the same state, bit for bit", async () => {
    const folder = await mkdtemp(join(tmpdir(), "lens-train-"));
    try {
      for (const sae of [
        { architecture: "topk", dSae: 20, k: 2 },
        { architecture: "relu", dSae: 20, l1: 0.3, sparsityWarmupSteps: 5 },
      ]) {
        const source = memorySource(gaussian(100 * 6, 1), 6);
        const train = {
          ...{ batchSize: 16, epochs: 2, learningRate: 0.01, warmupSteps: 3, decaySteps: 4 },
          ...{ deadAfterTokens: 40, logEvery: 3 },
        };
        const opts = options(sae, { ...train, checkpointEvery: 1, keepCheckpoints: 100 }, source);
        const whole = await Trainer.create(device, opts);
        const metrics = await fit(whole, {
          validation: source,
          saveCheckpoint: async (state) => void (await writeCheckpoint(folder, state, 100)),
        });
        const expected = hashOf(await whole.state());
        whole.close();
        expect(await readdir(folder)).toHaveLength(14);
        for (const step of [1, 4, 7, 13, 14]) {
          const name = `step-${String(step).padStart(8, "0")}`;
          const resumed = Trainer.resume(device, opts, await readCheckpoint(join(folder, name)));
          expect(resumed.step).toBe(step);
          const rest = await fit(resumed, { validation: source });
          expect(rest).toEqual(metrics.filter((m) => m.step > step));
          expect(hashOf(await resumed.state())).toBe(expected);
          resumed.close();
        }
      }
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test("the same seed gives the same weights, another seed others", async () => {
    const source = memorySource(gaussian(64 * 6, 1), 6);
    const run = async (seed: number) => {
      const opts = { ...options({ dSae: 16, k: 2 }, { batchSize: 16, epochs: 2 }, source), seed };
      const trainer = await Trainer.create(device, opts);
      await fit(trainer);
      const { W_enc } = await trainer.sae();
      trainer.close();
      return W_enc;
    };
    expect(await run(1)).toEqual(await run(1));
    expect(await run(1)).not.toEqual(await run(2));
  });

  test("topk finds the directions that synthetic activations were made from", async () => {
    const config = { samples: 1500, validationSamples: 200, dIn: 24, features: 30 };
    const synthetic = syntheticActivations(
      { from: "synthetic", ...config, sparsity: 0.1, noise: 0.1 },
      0,
    );
    const opts = options(
      { dSae: 48, k: 3 },
      { batchSize: 64, epochs: 15, learningRate: 0.01, deadAfterTokens: 1500 },
      memorySource(synthetic.train, 24),
    );
    const trainer = await Trainer.create(device, opts);
    const metrics = await fit(trainer, { validation: memorySource(synthetic.validation, 24) });
    const { mmcs, oneToOne } = recovery(synthetic.directions, (await trainer.sae()).W_dec, 24);
    trainer.close();
    expect(mmcs).toBeGreaterThan(0.98);
    expect(oneToOne).toBeGreaterThan(0.98);
    const last = metrics.at(-1)!;
    expect(last.validation!.fvu).toBeLessThan(0.1);
    expect(last.validation!.l0).toBeLessThanOrEqual(3);
    expect(last.validation!.rows).toBe(200);
  });
});

describe("the trainer", () => {
  let device: Device;
  beforeAll(async () => {
    device = await openDevice("reference");
  });
  afterAll(() => device.close());
  const source = memorySource(gaussian(50 * 4, 1), 4);

  const create = (sae: object, train: object = {}, from: ActivationSource = source) =>
    Trainer.create(
      device,
      options(
        { dSae: 8, ...("architecture" in sae ? {} : { k: 2 }), ...sae },
        { batchSize: 16, ...train },
        from,
      ),
    );

  test("counts steps in every budget, short last batches included", async () => {
    const steps = async (train: object) => (await create({}, train)).totalSteps;
    expect(await steps({})).toBe(4);
    expect(await steps({ epochs: 3 })).toBe(12);
    expect(await steps({ epochs: 0.5 })).toBe(2);
    expect(await steps({ tokens: 50 })).toBe(4);
    expect(await steps({ tokens: 70 })).toBe(6);
    expect(await steps({ steps: 7 })).toBe(7);
  });

  test("reports each epoch's end with the batch sizes seen and the right learning rates", async () => {
    const trainer = await create(
      {},
      { epochs: 2, logEvery: 3, learningRate: 1, warmupSteps: 4, decaySteps: 2 },
    );
    const metrics = await fit(trainer, { validation: source });
    expect(metrics.map((m) => [m.step, m.tokens, m.epoch])).toEqual([
      [3, 48, 0.96],
      [4, 50, 1],
      [6, 82, 1.64],
      [8, 100, 2],
    ]);
    expect(metrics.map((m) => m.learningRate)).toEqual([0.75, 1, 1, 0.5]);
    expect(metrics.map((m) => m.epochLoss !== undefined)).toEqual([false, true, false, true]);
    expect(metrics.map((m) => m.validation !== undefined)).toEqual([false, true, false, true]);
    const { loss } = metrics[1].epochLoss!;
    expect(loss).toBeCloseTo((metrics[0].loss * 48 + metrics[1].loss * 2) / 50, 6);
  });

  test("derives the learning rate from the number of latents", async () => {
    expect((await create({ dSae: 16 })).learningRate).toBeCloseTo(2e-4 * Math.sqrt(1024), 12);
    expect((await create({}, { learningRate: 0.5 })).learningRate).toBe(0.5);
  });

  test("scales inputs to a mean norm of √dIn and starts the decoder bias at their mean", async () => {
    const data = gaussian(200, 3, 50).map((v) => v + 20);
    const from = memorySource(data, 4);
    const trainer = await create({}, { batchSize: 50 }, from);
    let norms = 0;
    const mean = new Float64Array(4);
    for (let n = 0; n < 50; n++) {
      norms += Math.hypot(...data.subarray(n * 4, n * 4 + 4)) / 50;
      for (let c = 0; c < 4; c++) mean[c] += data[n * 4 + c] / 50;
    }
    expect(uniformFactor(trainer.transforms.input)).toBeCloseTo(2 / norms, 10);
    const { b_dec } = (await trainer.sae()).fold();
    for (let c = 0; c < 4; c++) expect(b_dec[c]).toBeCloseTo(mean[c], 3);
  });

  test("reports mse in raw units, whatever the scale", async () => {
    const trainer = await create({}, { steps: 1, batchSize: 50, shuffle: false });
    const sae = await trainer.sae();
    const [{ mse }] = await fit(trainer);
    let sse = 0;
    const data = gaussian(50 * 4, 1);
    for (let n = 0; n < 50; n++) {
      const x = data.subarray(n * 4, n * 4 + 4);
      sae.decode(sae.encode(x)).forEach((v, c) => (sse += (v - x[c]) ** 2));
    }
    expect(mse).toBeCloseTo(sse / 200, 5);
    expect(uniformFactor(trainer.transforms.input)).not.toBeCloseTo(1, 2);
  });

  test("refuses what does not fit, saying what and why", async () => {
    await expect(create({ k: 128 })).rejects.toThrow("k must be at most dSae (8); got 128");
    await expect(create({ auxK: 9 })).rejects.toThrow("auxK must be at most dSae (8); got 9");
    const zeros = memorySource(new Float32Array(40), 4);
    await expect(create({}, {}, zeros)).rejects.toThrow("mean norm is 0");
  });

  test("refuses to resume with other settings, but lets logging change", async () => {
    const opts = options({ dSae: 8, k: 2 }, { batchSize: 16 }, source);
    const state = await (await Trainer.create(device, opts)).state();
    const resume = (train: object, from: ActivationSource = source) =>
      Trainer.resume(device, { ...opts, train: { ...opts.train, ...train }, source: from }, state);
    expect(() => resume({ batchSize: 8 })).toThrow("made with train.batchSize 16; now it is 8");
    expect(() => resume({}, memorySource(new Float32Array(16), 4))).toThrow("rows 50; now it is 4");
    expect(resume({ logEvery: 1 }).step).toBe(0);
  });

  test("stops at the step whose loss is not finite and makes no checkpoint of it", async () => {
    const data = gaussian(50 * 4, 1);
    data[34 * 4] = 1e30; // in the third batch; its square is beyond float32
    const trainer = await create(
      { normalizeActivations: "none", decoderBiasInit: "zero" },
      { shuffle: false, checkpointEvery: 1 },
      memorySource(data, 4),
    );
    const saved: number[] = [];
    const run = fit(trainer, {
      saveCheckpoint: (state) => Promise.resolve(void saved.push(state.progress.step)),
    });
    await expect(run).rejects.toThrow(UserError);
    await expect(run).rejects.toThrow(/the loss became (Infinity|NaN) at step 3;/);
    expect(saved).toEqual([1, 2]);
  });

  test("makes no checkpoint of weights that are not finite, even if the loss was", async () => {
    const trainer = await create({}, { steps: 1, learningRate: 1e39, checkpointEvery: 1 });
    let saved = 0;
    const run = fit(trainer, { saveCheckpoint: () => Promise.resolve(void saved++) });
    await expect(run).rejects.toThrow(/W_enc is no longer finite after step 1/);
    expect(saved).toBe(0);
  });

  test("can be left early and gone on with", async () => {
    const [a, b] = [await create({}, { epochs: 3, logEvery: 1 }), await create({}, { epochs: 3 })];
    for await (const { step } of a.fit()) if (step === 5) break;
    expect(a.step).toBe(5);
    await fit(a);
    await fit(b);
    expect((await a.sae()).W_enc).toEqual((await b.sae()).W_enc);
  });

  test("starts xavier weights within their bound and tied ones as copies with rows of the given norm", async () => {
    const xavier = await (await create({ architecture: "relu", init: "xavier", dSae: 50 })).sae();
    const bound = Math.sqrt(6 / 54);
    for (const W of [xavier.W_enc, xavier.W_dec]) {
      expect(Math.max(...W.map(Math.abs))).toBeLessThanOrEqual(Math.fround(bound));
      expect(W.reduce((sum, v) => sum + v * v, 0) / W.length).toBeCloseTo(bound ** 2 / 3, 2);
    }
    expect(xavier.W_enc).not.toEqual(xavier.W_dec);
    const tied = await (await create({})).sae();
    expect(tied.W_enc).toEqual(tied.W_dec);
    for (let f = 0; f < 8; f++) expect(Math.hypot(...tied.decoderRow(f))).toBeCloseTo(1, 6);
    const free = await (await create({ architecture: "relu" })).sae();
    expect(Math.hypot(...free.decoderRow(0))).toBeCloseTo(0.1, 6);
  });

  describe("checkpoints on disk", () => {
    let folder: string;
    beforeAll(async () => {
      folder = await mkdtemp(join(tmpdir(), "lens-checkpoint-"));
      const trainer = await create({}, { epochs: 1 });
      await fit(trainer);
      const state = await trainer.state();
      for (const step of [2, 10, 3]) {
        state.progress.step = step;
        await writeCheckpoint(folder, state, 2);
      }
    });
    afterAll(() => rm(folder, { recursive: true }));

    test("only the newest are kept, and nothing temporary", async () => {
      expect((await readdir(folder)).sort()).toEqual(["step-00000003", "step-00000010"]);
    });

    test("the newest sound one is found, damaged ones are skipped with a word", async () => {
      expect((await latestCheckpoint(folder))!.state.progress.step).toBe(10);
      const file = join(folder, "step-00000010", "state.safetensors");
      const bytes = await readFile(file);
      bytes[bytes.length - 1] ^= 1;
      await writeFile(file, bytes);
      const skipped: string[] = [];
      const found = await latestCheckpoint(folder, (message) => skipped.push(message));
      expect(found!.state.progress.step).toBe(3);
      expect(skipped).toHaveLength(1);
      expect(skipped[0]).toContain("is damaged");
      await writeFile(join(folder, "step-00000003", "state.json"), '{"format": 1, "xx');
      expect(await latestCheckpoint(folder)).toBeUndefined();
    });

    test("a folder without any gives none", async () => {
      expect(await latestCheckpoint(join(folder, "nowhere"))).toBeUndefined();
    });
  });
});

type Weights = Record<"W_enc" | "b_enc" | "W_dec" | "b_dec", ArrayLike<number>>;

/** The losses of architecture.ts again, in float64 and without any of its code. */
function lossModel(opts: Settings, x: Float32Array, rows: number, sinceFired: Int32Array) {
  const { sae, source, train } = opts;
  if (sae.architecture !== "relu" && sae.architecture !== "topk")
    throw new Error(`no model of ${sae.architecture}`);
  const { dIn } = source;
  const dSae = sae.dSae!;
  const forward = (w: Weights, n: number) => {
    const z = Array.from({ length: dSae }, (_, f) => {
      let sum = w.b_enc[f];
      for (let c = 0; c < dIn; c++)
        sum += w.W_enc[f * dIn + c] * (x[n * dIn + c] - (sae.applyBDecToInput ? w.b_dec[c] : 0));
      return sum;
    });
    const best = (latents: number[], k: number) =>
      new Set(latents.sort((f, g) => z[g] - z[f]).slice(0, k));
    const all = Array.from(z.keys());
    const kept = sae.architecture === "topk" ? best(all, sae.k) : new Set(all);
    const acts = z.map((v, f) => (kept.has(f) ? Math.max(v, 0) : 0));
    const dead = all.filter((f) => sinceFired[f] >= train.deadAfterTokens);
    const auxKept = sae.architecture === "topk" ? best(dead, sae.auxK!) : new Set();
    const aux = z.map((v, f) => (auxKept.has(f) ? Math.max(v, 0) : 0));
    return { acts, aux };
  };
  const decode = (w: Weights, acts: number[]) =>
    Array.from({ length: dIn }, (_, c) =>
      acts.reduce((sum, a, f) => sum + a * w.W_dec[f * dIn + c], 0),
    );
  const residual = (w: Weights) =>
    Array.from({ length: rows }, (_, n) =>
      decode(w, forward(w, n).acts).map((v, c) => x[n * dIn + c] - v - w.b_dec[c]),
    );
  const squares = (values: number[]) => values.reduce((sum, v) => sum + v * v, 0);
  const loss = (w: Weights, frozen: number[][]) => {
    const sse = residual(w).reduce((sum, r) => sum + squares(r), 0);
    let penalty = 0;
    let aux = 0;
    for (let n = 0; n < rows; n++) {
      const codes = forward(w, n);
      codes.acts.forEach((a, f) => {
        const row = Array.from({ length: dIn }, (_, c) => w.W_dec[f * dIn + c]);
        penalty += a * (sae.architecture === "relu" && sae.loss === "sum" ? Math.hypot(...row) : 1);
      });
      aux += squares(decode(w, codes.aux).map((v, c) => frozen[n][c] - v));
    }
    if (sae.architecture === "topk") return sse / rows + (sae.auxKCoefficient * aux) / rows;
    return sae.loss === "mean"
      ? sse / (rows * dIn) + (sae.l1 * penalty) / (rows * dSae)
      : (sse + sae.l1 * penalty) / rows;
  };
  return { loss, residual };
}
