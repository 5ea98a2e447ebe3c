/** What every architecture must do, by whatever selection, loss and structure. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";

import { memorySource } from "../activation-source.ts";
import { parseSection, saeSchema, trainSchema } from "../config.ts";
import { openDevice } from "../device/device.ts";
import { saveSae } from "./formats.ts";
import { joinedSource, pairedSource } from "../zipped-source.ts";
import { syntheticActivations } from "./synthetic.ts";
import { trainTogether } from "./train-together.ts";
import { Trainer, type Metrics, type Settings, type TrainerState } from "./train.ts";

const jumprelu = {
  architecture: "jumprelu",
  bandwidth: 0.5,
  initialThreshold: 0.3,
  l0Coefficient: 0.3,
};
const batchTopk = { architecture: "batchTopk", k: 4 };
const nested = { matryoshkaWidths: [5, 17] };

/** sae settings, and train settings where the case is about them. */
type Structure = "transcoder" | "crosscoder";

const cases: Record<string, [Record<string, unknown>, Record<string, unknown>?, Structure?]> = {
  "relu, free norms": [{ architecture: "relu", l1: 1 }],
  "relu, unit norms": [{ architecture: "relu", l1: 1, unitNormDecoder: true }],
  "relu, mean loss": [{ architecture: "relu", l1: 1, loss: "mean" }],
  "relu, p-annealing": [
    { architecture: "relu", l1: 1, pEnd: 0.3, pAnnealStart: 5, pUpdates: 3, targetL0: 6 },
  ],
  "relu, target L0": [{ architecture: "relu", l1: 1, targetL0: 6, sparsityWarmupSteps: 5 }],
  gated: [{ architecture: "gated", l1: 1 }],
  "gated, free norms": [{ architecture: "gated", l1: 1, unitNormDecoder: false }],
  topk: [{ architecture: "topk", k: 4 }],
  "topk, k falling": [{ architecture: "topk", k: 3, kStart: 12, kAnnealSteps: 10 }],
  "topk, openai": [{ architecture: "topk", k: 4, auxKVariant: "openai" }],
  "topk, eleuther": [{ architecture: "topk", k: 4, auxKVariant: "eleuther" }],
  "topk, saelens": [{ architecture: "topk", k: 4, auxKVariant: "saelens", auxKCoefficient: 1 }],
  batchTopk: [batchTopk],
  "jumprelu, step": [jumprelu],
  "jumprelu, tanh": [{ ...jumprelu, sparsityLoss: "tanh" }],
  "jumprelu, tanh, free norms": [{ ...jumprelu, sparsityLoss: "tanh", unitNormDecoder: false }],
  "jumprelu, quadratic": [{ ...jumprelu, sparsityLoss: "quadratic", targetL0: 6 }],
  "jumprelu, pre-activation loss on dead latents": [{ ...jumprelu, preActCoefficient: 0.01 }],
  "jumprelu, pre-activation loss on all": [
    { ...jumprelu, preActCoefficient: 0.01, preActOn: "all" },
  ],
  "matryoshka over topk": [{ architecture: "topk", k: 4, ...nested }],
  "matryoshka over batchTopk": [{ ...batchTopk, ...nested }],
  "matryoshka over jumprelu": [{ ...jumprelu, ...nested }],
  "matryoshka over gated": [{ architecture: "gated", l1: 1, ...nested }],
  "matryoshka over relu": [{ architecture: "relu", l1: 1, ...nested }],
  "clipped gradients": [{ architecture: "topk", k: 4 }, { clipGradNorm: 0.5 }],
  "clipped gradients of a gated SAE": [{ architecture: "gated", l1: 1 }, { clipGradNorm: 0.5 }],
  "moving average": [batchTopk, { emaDecay: 0.9 }],
  "cosine schedule": [
    { architecture: "topk", k: 4 },
    { schedule: "cosine", warmupSteps: 4, finalLearningRate: 0.1 },
  ],
  resampling: [{ architecture: "relu", l1: 1 }, { resampleEvery: 7 }],
  "resampling jumprelu": [jumprelu, { resampleEvery: 7 }],
  "rows normalised one by one": [{ architecture: "topk", k: 4, normalizeActivations: "layerNorm" }],
  "whitened inputs": [{ architecture: "topk", k: 4, normalizeActivations: "whitening" }],
  "weights from data": [{ architecture: "topk", k: 4, init: "data" }],
  "weights from data, jumprelu": [{ ...jumprelu, init: "data" }],
  "weights from whitened data, gated skip transcoder": [
    { architecture: "gated", l1: 1, skip: true, init: "data", normalizeActivations: "whitening" },
    {},
    "transcoder",
  ],
  transcoder: [{ architecture: "topk", k: 4 }, {}, "transcoder"],
  "relu transcoder, free norms": [{ architecture: "relu", l1: 1 }, {}, "transcoder"],
  "whitened skip transcoder": [
    { architecture: "topk", k: 4, skip: true, normalizeActivations: "whitening" },
    { clipGradNorm: 10 },
    "transcoder",
  ],
  "nested gated skip transcoder": [
    { architecture: "gated", l1: 1, skip: true, ...nested },
    { emaDecay: 0.9 },
    "transcoder",
  ],
  "resampling jumprelu transcoder": [jumprelu, { resampleEvery: 7 }, "transcoder"],
  "crosscoder over topk": [{ architecture: "topk", k: 4 }, {}, "crosscoder"],
  "crosscoder over relu": [{ architecture: "relu", l1: 1 }, {}, "crosscoder"],
  "crosscoder over jumprelu, free norms": [
    { ...jumprelu, sparsityLoss: "tanh", unitNormDecoder: false },
    {},
    "crosscoder",
  ],
};

const dIn = 13;
const made = syntheticActivations(
  {
    ...{ from: "synthetic", samples: 400, validationSamples: 50, dIn, features: 20 },
    ...{ sparsity: 0.15, noise: 0.05 },
  } as never,
  3,
);

/** Activations with targets of width 9, a fixed linear image of theirs, or with two hook points side by side. */
function sourceFor(structure?: Structure) {
  const inputs = memorySource(made.train, dIn);
  const rows = made.train.length / dIn;
  const targets = new Float32Array(rows * 9);
  for (let i = 0; i < targets.length; i++) {
    const [n, c] = [Math.floor(i / 9), i % 9];
    targets[i] = 3 * made.train[n * dIn + c] - made.train[n * dIn + c + 4] + 2;
  }
  if (structure === "transcoder") return pairedSource(inputs, memorySource(targets, 9));
  if (structure !== "crosscoder") return inputs;
  return joinedSource([
    inputs,
    memorySource(
      made.train.map((v) => 10 * v),
      dIn,
    ),
  ]);
}

function settings(
  sae: Record<string, unknown>,
  train: Record<string, unknown> = {},
  structure?: Structure,
): Settings {
  return {
    sae: parseSection(saeSchema, { dSae: 40, ...sae }, "sae"),
    train: parseSection(
      trainSchema,
      {
        ...{ batchSize: 32, steps: 30, learningRate: 0.01, logEvery: 5, deadAfterTokens: 60 },
        ...train,
      },
      "train",
    ),
    seed: 11,
    source: sourceFor(structure),
  };
}

async function fit(trainer: Trainer): Promise<Metrics[]> {
  const all: Metrics[] = [];
  for await (const metrics of trainer.fit()) all.push(metrics);
  return all;
}

/** What a checkpoint makes of a state. */
function copied(state: TrainerState): TrainerState {
  const tensors = Object.fromEntries(
    Object.entries(state.tensors).map(([name, data]) => [name, data.slice()]),
  );
  return { progress: JSON.parse(JSON.stringify(state.progress)) as never, tensors };
}

const devices = {
  reference: await openDevice("reference"),
  cpu: await openDevice("cpu", { threads: 2 }),
};
afterAll(() => Promise.all(Object.values(devices).map((device) => device.close())));

describe.each(Object.entries(cases))("%s", (_, [sae, train, structure]) => {
  test("trains the same on the reference and the cpu device, and reconstructs better", async () => {
    const curves = [];
    for (const device of Object.values(devices)) {
      // A large eps: Adam would make whole steps of gradients that are rounding noise.
      const trainer = await Trainer.create(
        device,
        settings(sae, { eps: 1e-2, ...train }, structure),
      );
      curves.push(await fit(trainer));
      trainer.close();
    }
    const [reference, cpu] = curves;
    for (const [i, metrics] of reference.entries()) {
      expect(Math.abs(cpu[i].loss / metrics.loss - 1), `step ${metrics.step}`).toBeLessThan(1e-3);
      expect(cpu[i].l0).toBeCloseTo(metrics.l0, 0);
    }
    expect(cpu.at(-1)!.fvu).toBeLessThan(0.8 * cpu[0].fvu);
  });

  test("goes on from a checkpoint as if it had never stopped, bit for bit", async () => {
    const device = devices.cpu;
    const options = settings(sae, { ...train, checkpointEvery: 9 }, structure);
    const whole = await Trainer.create(device, options);
    const states: TrainerState[] = [];
    const saveCheckpoint = (state: TrainerState) => {
      states.push(copied(state));
      return Promise.resolve();
    };
    for await (const _metrics of whole.fit({ saveCheckpoint }));
    const expected = await whole.state();
    whole.close();
    expect(states.map(({ progress }) => progress.step)).toEqual([9, 18, 27, 30]);
    for (const state of states.slice(0, 3)) {
      const resumed = Trainer.resume(device, options, state);
      for await (const _metrics of resumed.fit());
      expect(await resumed.state()).toEqual(expected);
      resumed.close();
    }
  });

  test("the finished SAE computes on the host what the device evaluates", async () => {
    const device = devices.cpu;
    const options = settings(sae, train, structure);
    const trainer = await Trainer.create(device, options);
    await fit(trainer);
    const folded = (await trainer.sae()).fold();
    trainer.close();
    const { dIn: width, dOut } = folded.spec;
    const onDevice = folded.on(device, 50);
    for await (const { data } of sourceFor(structure).slice(0, 50).rowsInOrder(50)) {
      const reconstruction = await onDevice.reconstruct(data, 50);
      for (let n = 0; n < 50; n++) {
        const row = data.subarray(n * width, (n + 1) * width);
        const expected = folded.decode(folded.encode(row), row);
        for (let c = 0; c < dOut; c++)
          expect(reconstruction[n * dOut + c]).toBeCloseTo(expected[c], 3);
      }
    }
    onDevice.close();
  });
});

test("coefficients carry over: activations ten times as large train the same", async () => {
  const device = devices.cpu;
  for (const sae of [
    { architecture: "relu", l1: 1 },
    { architecture: "gated", l1: 1 },
    jumprelu,
    { ...jumprelu, sparsityLoss: "tanh", preActCoefficient: 0.01 },
  ]) {
    const curves = [];
    for (const factor of [1, 10]) {
      const options = settings({ ...sae, normalizeActivations: "none", init: "tied" });
      options.source = memorySource(
        made.train.map((v) => v * factor),
        dIn,
      );
      const trainer = await Trainer.create(device, options);
      curves.push((await trainer.state()).progress.rho);
      trainer.close();
    }
    expect(curves[1] / curves[0]).toBeCloseTo(10, 4);
  }
});

test("the controller brings L0 to where it is wanted", async () => {
  const device = devices.cpu;
  for (const sae of [
    { architecture: "relu", l1: 1 },
    { architecture: "gated", l1: 1 },
    jumprelu,
    { ...jumprelu, sparsityLoss: "tanh" },
  ]) {
    const options = settings(
      { ...sae, targetL0: 5 },
      { steps: 600, learningRate: 0.003, logEvery: 100 },
    );
    const trainer = await Trainer.create(device, options);
    const metrics = await fit(trainer);
    trainer.close();
    const { l0 } = metrics.at(-1)!;
    expect(l0, JSON.stringify(sae)).toBeGreaterThan(4);
    expect(l0, JSON.stringify(sae)).toBeLessThan(6);
  }
});

test("batch top-k is replaced by a threshold that keeps about as many latents", async () => {
  const trainer = await Trainer.create(devices.cpu, settings(batchTopk, { steps: 400 }));
  const metrics = await fit(trainer);
  const sae = await trainer.sae();
  trainer.close();
  let active = 0;
  for (let n = 0; n < 50; n++)
    active += sae
      .encode(made.validation.subarray(n * dIn, (n + 1) * dIn))
      .filter((v) => v > 0).length;
  expect(metrics.at(-1)!.l0).toBeCloseTo(4, 5);
  expect(metrics.at(-1)!.threshold).toBeGreaterThan(0);
  expect(active / 50).toBeGreaterThan(3);
  expect(active / 50).toBeLessThan(5);
});

test("trainers that share a stream become what each would alone, also when one joins later", async () => {
  const device = devices.cpu;
  const kinds = [{ architecture: "topk", k: 3 }, batchTopk, { architecture: "relu", l1: 1 }];
  const alone: TrainerState[] = [];
  const begun: TrainerState[] = [];
  for (const sae of kinds) {
    const trainer = await Trainer.create(device, settings(sae, { checkpointEvery: 10 }));
    const saveCheckpoint = (state: TrainerState) => {
      if (state.progress.step === 10) begun.push(copied(state));
      return Promise.resolve();
    };
    for await (const _metrics of trainer.fit({ saveCheckpoint }));
    alone.push(await trainer.state());
    trainer.close();
  }
  const trainers = [
    await Trainer.create(device, settings(kinds[0], { checkpointEvery: 10 })),
    Trainer.resume(device, settings(kinds[1], { checkpointEvery: 10 }), begun[1]),
    await Trainer.create(device, settings(kinds[2], { checkpointEvery: 10 })),
  ];
  const seen = new Map<number, number[]>();
  for await (const { trainer, metrics } of trainTogether(trainers))
    seen.set(trainer, [...(seen.get(trainer) ?? []), metrics.step]);
  expect(seen.get(0)).toEqual([5, 10, 13, 15, 20, 25, 26, 30]);
  expect(seen.get(1)).toEqual([13, 15, 20, 25, 26, 30]);
  for (const [i, trainer] of trainers.entries()) {
    expect(await trainer.state()).toEqual(alone[i]);
    trainer.close();
  }
  const other = settings(kinds[0], { batchSize: 16 });
  const mixed = [
    await Trainer.create(device, settings(kinds[0])),
    await Trainer.create(device, other),
  ];
  await expect(trainTogether(mixed).next()).rejects.toThrow(/same train.batchSize; got 32 and 16/);
  for (const trainer of mixed) trainer.close();
});

test("fine-tuning goes on where a saved autoencoder stands, whatever scale the new inputs get", async () => {
  const device = devices.cpu;
  const folder = await mkdtemp(join(tmpdir(), "lens-finetune-"));
  try {
    for (const sae of [batchTopk, { architecture: "gated", l1: 1 }, jumprelu]) {
      const first = await Trainer.create(device, settings(sae, { steps: 150 }));
      await fit(first);
      const { fvu } = await first.validate(memorySource(made.validation, dIn));
      await saveSae(folder, await first.sae());
      first.close();
      for (const normalizeActivations of ["expectedAverageNorm", "none"]) {
        const options = settings({ ...sae, normalizeActivations }, { from: folder, steps: 40 });
        const second = await Trainer.create(device, options);
        const start = await second.validate(memorySource(made.validation, dIn));
        expect(start.fvu).toBeCloseTo(fvu, 4);
        second.close();
      }
    }
    const wrong = settings({ ...jumprelu, dSae: 30 }, { from: folder });
    await expect(Trainer.create(device, wrong)).rejects.toThrow(
      /has dSae 40, but the settings say 30/,
    );
  } finally {
    await rm(folder, { recursive: true });
  }
});
