/** What every architecture must do, by whatever selection, loss and structure. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";

import {
  activations,
  batchTopk,
  dIn,
  jumprelu,
  trainingCases,
  trainingSettings,
  validation,
} from "../../test/training-cases.ts";
import { memorySource, type RowSource } from "../activation-source.ts";
import { openDevice } from "../device/device.ts";
import { saveSae } from "./formats.ts";
import { trainTogether } from "./train-together.ts";
import { Trainer, type Metrics, type TrainerState } from "./train.ts";

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
  // The bits are the same on two threads (device.test.ts), which here mostly wait for each other.
  cpu: await openDevice("cpu", { threads: 1 }),
};
afterAll(() => Promise.all(Object.values(devices).map((device) => device.close())));

describe.each(Object.entries(trainingCases))("%s", (_, [sae, train, structure]) => {
  test("trains the same on the reference and the cpu device, and reconstructs better", async () => {
    const curves = [];
    for (const device of Object.values(devices)) {
      // A large eps: Adam would make whole steps of gradients that are rounding noise.
      const trainer = await Trainer.create(
        device,
        trainingSettings(sae, { eps: 1e-2, ...train }, structure),
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
    const options = trainingSettings(sae, { ...train, checkpointEvery: 9 }, structure);
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
    const options = trainingSettings(sae, train, structure);
    const source = options.source as RowSource;
    const trainer = await Trainer.create(device, options);
    await fit(trainer);
    const folded = (await trainer.sae()).fold();
    trainer.close();
    const { dIn: width, dOut } = folded.spec;
    const onDevice = folded.on(device, 50);
    for await (const { data } of source.slice(0, 50).rowsInOrder(50)) {
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
      const options = trainingSettings({ ...sae, normalizeActivations: "none", init: "tied" });
      options.source = memorySource(
        activations.inputs.data.map((v) => v * factor),
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
    const options = trainingSettings(
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
  const trainer = await Trainer.create(devices.cpu, trainingSettings(batchTopk, { steps: 400 }));
  const metrics = await fit(trainer);
  const sae = await trainer.sae();
  trainer.close();
  let active = 0;
  for (let n = 0; n < 50; n++)
    active += sae.encode(validation.subarray(n * dIn, (n + 1) * dIn)).filter((v) => v > 0).length;
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
    const trainer = await Trainer.create(device, trainingSettings(sae, { checkpointEvery: 10 }));
    const saveCheckpoint = (state: TrainerState) => {
      if (state.progress.step === 10) begun.push(copied(state));
      return Promise.resolve();
    };
    for await (const _metrics of trainer.fit({ saveCheckpoint }));
    alone.push(await trainer.state());
    trainer.close();
  }
  const trainers = [
    await Trainer.create(device, trainingSettings(kinds[0], { checkpointEvery: 10 })),
    Trainer.resume(device, trainingSettings(kinds[1], { checkpointEvery: 10 }), begun[1]),
    await Trainer.create(device, trainingSettings(kinds[2], { checkpointEvery: 10 })),
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
  const other = trainingSettings(kinds[0], { batchSize: 16 });
  const mixed = [
    await Trainer.create(device, trainingSettings(kinds[0])),
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
      const first = await Trainer.create(device, trainingSettings(sae, { steps: 150 }));
      await fit(first);
      const { fvu } = await first.validate(memorySource(validation, dIn));
      await saveSae(folder, await first.sae());
      first.close();
      for (const normalizeActivations of ["expectedAverageNorm", "none"]) {
        const options = trainingSettings(
          { ...sae, normalizeActivations },
          { from: folder, steps: 40 },
        );
        const second = await Trainer.create(device, options);
        const start = await second.validate(memorySource(validation, dIn));
        expect(start.fvu).toBeCloseTo(fvu, 4);
        second.close();
      }
    }
    const wrong = trainingSettings({ ...jumprelu, dSae: 30 }, { from: folder });
    await expect(Trainer.create(device, wrong)).rejects.toThrow(
      /has dSae 40, but the settings say 30/,
    );
  } finally {
    await rm(folder, { recursive: true });
  }
});
