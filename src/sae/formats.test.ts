import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { unzipSync } from "fflate";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { Rng } from "../rng.ts";
import { Safetensors } from "../safetensors.ts";
import { writeSafetensors } from "../safetensors-write.ts";
import { forSaeLens, loadSae, saveSae, torchCheckpoint, type SaeDetails } from "./formats.ts";
import type { Selection } from "./architecture.ts";
import { Sae } from "./sae.ts";
import { scaling } from "./transform.ts";
import type { SaeSpec } from "./weights.ts";
import { torchFile, TorchTensor, type TorchValue } from "./torch-file.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lens-formats-"));
});
afterAll(() => rm(folder, { recursive: true }));

const [dIn, dSae] = [5, 33];

function randomSae(spec: Partial<SaeSpec> = {}): Sae {
  const rng = new Rng(4, "formats");
  const draw = (count: number) => Float32Array.from({ length: count }, () => rng.normal());
  return new Sae(
    {
      selection: { architecture: "topk", k: 3 },
      ...{ dIn, dSae, applyBDecToInput: true },
      ...spec,
    },
    { W_enc: draw(dSae * dIn), b_enc: draw(dSae), W_dec: draw(dSae * dIn), b_dec: draw(dIn) },
  );
}

const details: SaeDetails = {
  ...{ modelName: "tiny", hookPoint: "blocks.2.hook_resid_post", contextLength: 128 },
  ...{ prependBos: true, dataset: "stories", averageSparsity: 0.1, activeFeatures: 30 },
  ...{ trainingConfig: { k: 3 }, metrics: { fvu: 0.1 }, provenance: { weights: "00ff" } },
};

test("a saved SAE loads back the same, scale folded, with what was known about it", async () => {
  for (const selection of [{ architecture: "relu" }, { architecture: "topk", k: 3 }] as const) {
    const sae = randomSae({
      selection,
      input: scaling([0.25], [5]),
      applyBDecToInput: selection.architecture === "topk",
    });
    const path = join(folder, selection.architecture);
    await saveSae(path, sae, details);
    expect((await readdir(path)).sort()).toEqual([
      "cfg.json",
      "metadata.json",
      "sae_weights.safetensors",
    ]);
    const loaded = await loadSae(path);
    expect(loaded.sae).toEqual(sae.fold());
    expect(loaded.details).toEqual(details);
  }
});

describe("a transcoder", () => {
  const dOut = 4;
  const x = [0.5, -1, 2, 0.25, -0.75];
  const transcoder = (selection: Selection, skip = false): Sae => {
    const rng = new Rng(6, "transcoder");
    const draw = (count: number) => Float32Array.from({ length: count }, () => rng.normal());
    return new Sae(
      { selection, dIn, dOut, dSae, transcoder: true, skip, applyBDecToInput: false },
      {
        ...{
          W_enc: draw(dSae * dIn),
          b_enc: draw(dSae),
          W_dec: draw(dSae * dOut),
          b_dec: draw(dOut),
        },
        ...(skip && { W_skip: draw(dOut * dIn) }),
        ...(selection.architecture === "gated" && { b_mag: draw(dSae), r_mag: draw(dSae) }),
      },
    );
  };
  const places: SaeDetails = {
    ...{ modelName: "tiny", hookPoint: "blocks.0.hook_resid_mid" },
    targetHookPoint: "blocks.0.hook_mlp_out",
  };

  test.each([
    [{ architecture: "relu" }, false, "transcoder"],
    [{ architecture: "relu" }, true, "skip_transcoder"],
    [{ architecture: "batchTopk", k: 3, threshold: 0.5 }, true, "jumprelu_skip_transcoder"],
    // Names of our own: SAELens has none for these.
    [{ architecture: "topk", k: 3 }, false, "topk_transcoder"],
    [{ architecture: "gated" }, true, "gated_skip_transcoder"],
  ] as const)(
    "of %o (skip %s) is saved as %s and loads back the same",
    async (selection, skip, name) => {
      const path = join(folder, name);
      const sae = transcoder(selection, skip);
      await saveSae(path, sae, places);
      const cfg = JSON.parse(await readFile(join(path, "cfg.json"), "utf8")) as Record<
        string,
        never
      >;
      expect(cfg).toMatchObject({
        architecture: name,
        d_in: 5,
        d_out: 4,
        apply_b_dec_to_input: false,
      });
      expect(cfg.metadata).toMatchObject({
        ...{ hook_name: "blocks.0.hook_resid_mid", hook_name_out: "blocks.0.hook_mlp_out" },
      });
      const loaded = await loadSae(path);
      expect(loaded.sae).toEqual(sae);
      expect(loaded.details).toMatchObject(places);
    },
  );

  test("with gates is for SAELens the jumprelu transcoder that computes the same", () => {
    const sae = transcoder({ architecture: "gated" }, true);
    const exported = forSaeLens(sae);
    expect(exported.spec.selection).toEqual({ architecture: "jumprelu" });
    let active = 0;
    for (let n = 0; n < 20; n++) {
      const row = x.map((v, c) => v * Math.sin(n * (c + 1)));
      const [a, b] = [sae.encode(row), exported.encode(row)];
      active += a.filter((v) => v > 0).length;
      a.forEach((v, f) => expect(b[f]).toBeCloseTo(v, 4));
      sae.decode(a, row).forEach((v, c) => expect(exported.decode(b, row)[c]).toBeCloseTo(v, 3));
    }
    expect(active).toBeGreaterThan(100);
    for (const same of [randomSae(), transcoder({ architecture: "relu" })])
      expect(forSaeLens(same)).toBe(same);
  });

  test("of top-k latents is refused for SAELens, with what to do instead", () => {
    expect(() => forSaeLens(transcoder({ architecture: "topk", k: 3 }))).toThrow(
      /has no transcoder with top-k latents. Export it with --format pt, or train with .* batchTopk/,
    );
  });
});

test("a crosscoder remembers its hook points, which SAELens takes for one side by side", async () => {
  const path = join(folder, "crosscoder");
  const sae = randomSae({ heads: [2, 3] });
  const hookPoints = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"];
  await saveSae(path, sae, { hookPoints });
  const { sae: loaded, details: known } = await loadSae(path);
  expect(loaded.spec.heads).toEqual([2, 3]);
  expect(known.hookPoints).toEqual(hookPoints);
  expect(known.hookPoint).toBeUndefined();
});

test("the folder has SAELens' names and shapes", async () => {
  const path = join(folder, "names");
  const sae = randomSae();
  await saveSae(path, sae, details);
  expect(JSON.parse(await readFile(join(path, "cfg.json"), "utf8"))).toEqual({
    ...{ architecture: "topk", k: 3, rescale_acts_by_decoder_norm: false, d_in: 5, d_sae: 33 },
    ...{ dtype: "float32", device: "cpu", apply_b_dec_to_input: true },
    ...{ normalize_activations: "none", reshape_activations: "none" },
    metadata: {
      sae_lens_version: "6.0.0",
      ...{ model_name: "tiny", hook_name: "blocks.2.hook_resid_post", context_size: 128 },
      ...{ prepend_bos: true, dataset_path: "stories" },
    },
  });
  expect(JSON.parse(await readFile(join(path, "metadata.json"), "utf8"))).toEqual({
    ...{
      selection: { architecture: "topk", k: 3 },
      n_features: 33,
      activation_dim: 5,
      avg_sparsity: 0.1,
      active_features: 30,
    },
    ...{ training_config: { k: 3 }, metrics: { fvu: 0.1 }, provenance: { weights: "00ff" } },
  });
  const store = await Safetensors.open(join(path, "sae_weights.safetensors"));
  expect(store.info("W_enc").shape).toEqual([5, 33]);
  const W_enc = await store.floats("W_enc");
  for (let f = 0; f < 33; f++)
    for (let c = 0; c < 5; c++) expect(W_enc[c * 33 + f]).toBe(sae.W_enc[f * 5 + c]);
  await store.close();
});

test("each kind of broken folder gives one message that says what was expected and seen", async () => {
  const path = join(folder, "broken");
  await saveSae(path, randomSae());
  const file = join(path, "cfg.json");
  const good = JSON.parse(await readFile(file, "utf8")) as Record<string, unknown>;
  const load = async (change: Record<string, unknown>) => {
    await writeFile(file, JSON.stringify({ ...good, ...change }));
    return loadSae(path);
  };
  await expect(load({ architecture: "temporal" })).rejects.toThrow(
    'unknown architecture "temporal"; this version reads standard, topk, jumprelu, gated',
  );
  await expect(load({ d_sae: 34 })).rejects.toThrow(
    /W_enc must have shape \[5, 34\] by cfg.json's d_in 5 and d_sae 34; it has \[5, 33\]/,
  );
  await expect(load({ k: 34 })).rejects.toThrow("k must be at most d_sae (33); got 34");
  await expect(load({ d_in: "five" })).rejects.toThrow(
    'd_in must be a positive integer; got "five"',
  );
  await expect(load({ rescale_acts_by_decoder_norm: true })).rejects.toThrow(
    "rescale_acts_by_decoder_norm is true; this version can only read false",
  );
  await expect(load({ normalize_activations: "constant_norm_rescale" })).rejects.toThrow(
    'normalize_activations is "constant_norm_rescale"; this version can only read "none" or "layer_norm"',
  );
  await writeFile(file, "{");
  await expect(loadSae(path)).rejects.toThrow(/cfg.json is not JSON/);
  await writeFile(file, JSON.stringify(good));
  await writeSafetensors(join(path, "sae_weights.safetensors"), {
    W_enc: { dtype: "F32", shape: [5, 33], data: new Float32Array(165) },
  });
  await expect(loadSae(path)).rejects.toThrow("no tensor named b_enc");
  await rm(join(path, "sae_weights.safetensors"));
  await expect(loadSae(path)).rejects.toThrow("does not exist");
  await expect(loadSae(join(folder, "nowhere"))).rejects.toThrow("has no cfg.json");
});

test("the .pt file holds two linear layers that compute what the SAE computes", () => {
  for (const applyBDecToInput of [true, false]) {
    const sae = randomSae({ applyBDecToInput, input: scaling([3], [5]) });
    const file = readTorchFile(torchCheckpoint(sae, details)) as Record<string, never>;
    expect(Object.keys(file)).toEqual(["model_state_dict", "config", "training_config", "metrics"]);
    expect(file.config).toEqual({
      ...{ activation: "topk", k: 3, d_in: 5, d_sae: 33 },
      ...{ model_name: "tiny", hook_name: "blocks.2.hook_resid_post" },
    });
    expect(file.training_config).toEqual({ k: 3 });
    expect(file.metrics).toEqual({ fvu: 0.1 });
    const layers = file.model_state_dict as Map<string, TorchTensor>;
    expect([...layers].map(([name, { shape }]) => [name, shape])).toEqual([
      ["encoder.weight", [33, 5]],
      ["encoder.bias", [33]],
      ["decoder.weight", [5, 33]],
      ["decoder.bias", [5]],
    ]);
    const linear = (name: string, x: ArrayLike<number>) =>
      Float64Array.from(layers.get(`${name}.bias`)!.data, (b, i) => {
        const { data } = layers.get(`${name}.weight`)!;
        for (let c = 0; c < x.length; c++) b += data[i * x.length + c] * x[c];
        return b;
      });
    const x = Float32Array.of(0.1, -0.2, 0.3, 0.05, -0.4);
    sae.preActivations(x).forEach((z, f) => expect(linear("encoder", x)[f]).toBeCloseTo(z, 5));
    const acts = sae.encode(x);
    sae.decode(acts).forEach((y, c) => expect(linear("decoder", acts)[c]).toBeCloseTo(y, 5));
  }
});

test("the .pt file keeps every kind of plain value, and is the same for the same value", () => {
  const value: TorchValue = {
    numbers: [
      0,
      -1,
      2 ** 31 - 1,
      -(2 ** 31),
      2 ** 31,
      Number.MAX_SAFE_INTEGER,
      -(2 ** 40),
      0.1,
      -0,
    ],
    special: [NaN, Infinity, 1e300],
    text: "naïve ✓ \n",
    nothing: null,
    truth: [true, false],
    nested: { a: { b: [[], {}] } },
    ordered: new Map<string, TorchValue>([
      ["z", 1],
      ["a", new TorchTensor([], Float32Array.of(7))],
    ]),
  };
  const bytes = torchFile({ ...value, left: undefined });
  expect(readTorchFile(bytes)).toEqual(value);
  expect(torchFile(value)).toEqual(bytes);
  const entries = unzipSync(bytes);
  expect(Object.keys(entries).sort()).toEqual([
    ...["archive/byteorder", "archive/data.pkl", "archive/data/0", "archive/version"],
  ]);
  expect(new TextDecoder().decode(entries["archive/version"])).toBe("3\n");
  // Stored, not deflated: PyTorch maps the bytes as they are.
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  expect(view.getUint16(8, true)).toBe(0);
});

/** Reads back what `torchFile` wrote: the pickle machine of Python's `pickletools`, as far as needed. */
function readTorchFile(bytes: Uint8Array): unknown {
  const entries = unzipSync(bytes);
  const code = entries["archive/data.pkl"];
  const view = new DataView(code.buffer, code.byteOffset, code.byteLength);
  const mark = Symbol("mark");
  const stack: unknown[] = [];
  const pop = () => stack.pop() as never;
  const sinceMark = () => {
    const items = stack.splice(stack.lastIndexOf(mark));
    return items.slice(1);
  };
  let at = 0;
  const line = () => {
    const end = code.indexOf(10, at);
    const text = new TextDecoder().decode(code.subarray(at, end));
    at = end + 1;
    return text;
  };
  for (;;) {
    const op = String.fromCharCode(code[at++]);
    if (op === "\x80") expect(code[at++]).toBe(2);
    else if (op === ".") return pop();
    else if (op === "N") stack.push(null);
    else if (op === "\x88" || op === "\x89") stack.push(op === "\x88");
    else if (op === "G") stack.push(view.getFloat64((at += 8) - 8));
    else if (op === "J") stack.push(view.getInt32((at += 4) - 4, true));
    else if (op === "\x8a") {
      expect(code[at]).toBe(8);
      stack.push(Number(view.getBigInt64((at += 9) - 8, true)));
    } else if (op === "X") {
      const length = view.getUint32(at, true);
      stack.push(new TextDecoder().decode(code.subarray(at + 4, at + 4 + length)));
      at += 4 + length;
    } else if (op === "(") stack.push(mark);
    else if (op === "]") stack.push([]);
    else if (op === "}") stack.push({});
    else if (op === ")") stack.push([]);
    else if (op === "t") stack.push(sinceMark());
    else if (op === "e") {
      const items = sinceMark();
      (stack.at(-1) as unknown[]).push(...items);
    } else if (op === "u") {
      const items = sinceMark();
      const target = stack.at(-1) as Map<unknown, unknown> | Record<string, unknown>;
      for (let i = 0; i < items.length; i += 2)
        if (target instanceof Map) target.set(items[i], items[i + 1]);
        else target[items[i] as string] = items[i + 1];
    } else if (op === "c") stack.push(`${line()}.${line()}`);
    else if (op === "Q") {
      const [kind, type, key, location, count] = pop() as unknown[];
      expect([kind, type, location]).toEqual(["storage", "torch.FloatStorage", "cpu"]);
      const raw = entries[`archive/data/${key as string}`].slice();
      expect(raw.length).toBe((count as number) * 4);
      stack.push(new Float32Array(raw.buffer));
    } else if (op === "R") {
      const args = pop() as unknown[];
      const callee = pop() as string;
      if (callee === "collections.OrderedDict") stack.push(new Map());
      else {
        expect(callee).toBe("torch._utils._rebuild_tensor_v2");
        const [data, offset, shape, strides, requiresGrad, hooks] = args;
        expect([offset, requiresGrad, hooks]).toEqual([0, false, new Map()]);
        const sizes = shape as number[];
        expect(strides).toEqual(sizes.map((_, i) => sizes.slice(i + 1).reduce((a, b) => a * b, 1)));
        stack.push(new TorchTensor(sizes, data as Float32Array));
      }
    } else throw new Error(`opcode ${JSON.stringify(op)}`);
  }
}
