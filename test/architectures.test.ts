/**
 * Every architecture against PyTorch: fifty steps from the same weights on the same batches. The
 * cases, all of them files, are made by test/oracles/architectures.py.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { memorySource, type RowSource } from "../src/activation-source.ts";
import { parseSection, saeSchema, trainSchema } from "../src/config.ts";
import { openDevice, type Device } from "../src/device/device.ts";
import { Safetensors } from "../src/safetensors.ts";
import { Trainer, type Metrics, type Settings, type StateTensor } from "../src/sae/train.ts";
import { joinedSource, pairedSource } from "../src/zipped-source.ts";

interface Case {
  sae: Record<string, unknown>;
  train: Record<string, unknown>;
  /** Where each parameter's first values are. */
  start: Record<string, string>;
  input: string;
  /** What a transcoder predicts. */
  target?: string;
  /** Into which columns the input falls, of a crosscoder. */
  heads?: number[];
  /** Few latents are active, so that training leaves the dense form. */
  sparse?: true;
  /** A number for each step. */
  curve: Record<string, number[]>;
}

const folder = join(import.meta.dirname, "fixtures/architectures");
const cases = readdirSync(folder)
  .filter((file) => file.endsWith(".json"))
  .map((file): [string, Case] => [
    file.slice(0, -".json".length),
    JSON.parse(readFileSync(join(folder, file), "utf8")) as Case,
  ]);

let store: Safetensors;
beforeAll(async () => {
  store = await Safetensors.open(join(folder, "weights.safetensors"));
});
afterAll(() => store.close());

/** The rows that the case trains on. */
async function sourceOf({ input, target, heads }: Case): Promise<RowSource> {
  const [data, dIn] = [await store.floats(input), store.info(input).shape[1]];
  const inputs = memorySource(data, dIn);
  if (target)
    return pairedSource(
      inputs,
      memorySource(await store.floats(target), store.info(target).shape[1]),
    );
  if (!heads) return inputs;
  const starts = heads.map((_, head) => heads.slice(0, head).reduce((a, b) => a + b, 0));
  const columns = heads.map((width, head) =>
    data.filter((_, i) => i % dIn >= starts[head] && i % dIn < starts[head] + width),
  );
  return joinedSource(columns.map((column, head) => memorySource(column, heads[head])));
}

/** A trainer at step 0 with the case's weights. */
async function startOf(device: Device, spec: Case): Promise<Trainer> {
  const { sae, train, start } = spec;
  const settings: Settings = {
    sae: parseSection(saeSchema, sae, "sae"),
    train: parseSection(trainSchema, train, "train"),
    seed: 0,
    source: await sourceOf(spec),
  };
  const fresh = await Trainer.create(device, settings);
  const { progress, tensors } = await fresh.state();
  fresh.close();
  for (const [name, from] of Object.entries(start)) {
    const values = await store.floats(from);
    expect(values, name).toHaveLength(tensors[name as StateTensor]!.length);
    tensors[name as StateTensor] = values;
    const average = `${name}.ema` as StateTensor;
    if (tensors[average]) tensors[average] = values;
  }
  return Trainer.resume(device, settings, { progress, tensors });
}

/** What is compared, out of a step's metrics. */
function valueOf(metrics: Metrics, name: string): number | undefined {
  const all: Record<string, unknown> = { ...metrics, ...metrics.terms };
  return all[name] as number | undefined;
}

describe.each(["reference", "cpu"] as const)("on the %s device, as in PyTorch", (name) => {
  let device: Device;
  beforeAll(async () => {
    device = await openDevice(name, { threads: 2 });
  });
  afterAll(() => device.close());

  test.each(cases)("%s", async (caseName, spec) => {
    const trainer = await startOf(device, spec);
    const metrics: Metrics[] = [];
    for await (const m of trainer.fit()) metrics.push(m);
    const { progress } = await trainer.state();
    const final = await trainer.sae();
    trainer.close();

    expect(metrics).toHaveLength(spec.curve.loss.length);
    for (const [i, m] of metrics.entries())
      for (const [quantity, expected] of Object.entries(spec.curve)) {
        const off = Math.abs(valueOf(m, quantity)! - expected[i]);
        // A term that is small beside the loss is computed as a difference of large sums at times.
        const within = 1e-4 * Math.abs(expected[i]) + 1e-7 * spec.curve.loss[i];
        expect(off, `${quantity} ${expected[i]} at step ${m.step}`).toBeLessThanOrEqual(within);
      }
    if (spec.sparse) expect(progress.dense).toBe(false);

    for (const parameter of Object.keys(spec.start)) {
      const expected = await store.floats(`${caseName}/${parameter}`);
      const values = final[parameter as "W_enc"];
      // An element whose gradient is rounding noise may step either way: that far, times fifty, at most.
      const off = expected.filter((v, i) => !(Math.abs(v - values[i]) <= 1e-4)).length;
      expect(off / expected.length, parameter).toBeLessThan(0.01);
    }
  });
});
