/** What cannot be understood is refused: with one clear message, and before anything is made. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";

import { writeSafetensors } from "../../src/safetensors-write.ts";
import { fixtureModel } from "../command.ts";
import { lensIn, onModel, small, synthetic, type Made } from "./lens.ts";

const { at, json, refused } = lensIn("folder of each test");

describe("what cannot be understood is refused:", () => {
  test("an unknown command or flag, with the nearest one", async () => {
    expect(await refused("trian")).toContain("unknown command 'trian'\n(Did you mean train?)");
    expect(await refused("train", "--sae.kk", "3")).toContain("(Did you mean --sae.k?)");
    for (const [spelling, flag] of [
      ["--batch_size", "--batchSize"],
      ["--train-batch-size", "--train.batchSize"],
      ["--modle", "--model"],
    ])
      expect(await refused("train", spelling, "3")).toContain(`(Did you mean ${flag}?)`);
    expect(await refused("runs", "lst")).toContain("(Did you mean list?)");
  });

  test("a config file that is missing, no YAML, or has wrong settings", async () => {
    expect(await refused("run", "nowhere.yaml")).toBe(
      "error: cannot read the config nowhere.yaml: there is no such file\n",
    );
    writeFileSync(at("broken.yaml"), "sae: {k: 3");
    expect(await refused("run", "broken.yaml")).toContain("broken.yaml is neither YAML nor JSON");
    writeFileSync(
      at("wrong.yaml"),
      "trian: {}\nsae: {archtecture: topk, k: many, l1: 3}\ntrain: {shuffle: perhaps}\n",
    );
    const message = await refused("run", "wrong.yaml");
    expect(message).toContain("wrong.yaml: unknown key trian; did you mean train?");
    expect(message).toContain("unknown key sae.archtecture; did you mean architecture?");
    expect(message).toContain(
      "sae.l1 does not exist here; it belongs to architecture relu or gated, not topk",
    );
    expect(message).toContain('sae.k must be a number; got "many"');
    expect(message).toContain('train.shuffle must be true or false; got "perhaps"');
    expect(readdirSync(at()).sort()).toEqual(["broken.yaml", "wrong.yaml"]);
  });

  test("what needs a store, of activations that are stored nowhere", async () => {
    const fly = ["--activations.onTheFly"];
    expect(await refused("train", ...fly, "--train.mixing", "store")).toContain(
      "train.mixing cannot be store with activations.onTheFly",
    );
    expect(await refused("collect", ...fly, "--out", "store")).toContain(
      "activations.onTheFly keeps activations nowhere",
    );
    expect(readdirSync(at())).toEqual([]);
  });

  test("collecting where nobody finds it", async () => {
    expect(await refused("collect", "--data", "-")).toContain("name their folder with --out");
    expect(await refused("collect", "--append")).toContain("name it with --out");
    expect(readdirSync(at())).toEqual([]);
  });

  test("a flag of the wrong type, and two that exclude each other", async () => {
    expect(await refused("config", "show", "--train.batchSize", "0")).toBe(
      "error: train.batchSize must be more than 0; got 0\n",
    );
    expect(await refused("config", "show", "--train.steps", "1", "--train.epochs", "1")).toContain(
      "train takes only one of epochs, tokens and steps",
    );
    expect(await refused("config", "show", "--sae.loss", "summ")).toContain("sae.loss");
  });

  test("k above dSae, and nothing is left behind", async () => {
    const message = await refused("train", ...synthetic, "--sae.k", "65");
    expect(message).toContain("k must be at most dSae (64); got 65");
    expect(readdirSync(at("runs"))).toEqual(["lens.schema.json"]);
  });

  test("a hook point that does not exist, with those that do", async () => {
    const message = await refused(
      ...["collect", "--out", "acts", "--activations.model", fixtureModel],
      ...["--activations.hookPoint", "blocks.7.hook_resid_post"],
    );
    expect(message).toContain("blocks.7.hook_resid_post");
    expect(message).toContain("hook_resid_mid");
    expect(existsSync(at("acts"))).toBe(false);
  });

  test("a missing model, a missing folder of activations, and a truncated file in one", async () => {
    expect(await refused("generate", "--model", "nowhere/at/all")).toContain("nowhere/at/all");
    const flags = ["--activations.from", "folder", "--activations.path", "acts"];
    expect(await refused("train", ...flags)).toContain("acts does not exist");
    mkdirSync(at("acts"));
    writeFileSync(at("acts", "a.safetensors"), Buffer.from([255, 0, 0, 0, 0, 0, 0, 0, 1]));
    expect(await refused("train", ...flags)).toContain("a.safetensors");
  });

  test("activations with a NaN, naming file and row", async () => {
    const rows = new Float32Array(50 * 4).fill(1);
    rows[31 * 4 + 2] = NaN;
    const header = "{'descr': '<f4', 'fortran_order': False, 'shape': (50, 4), }";
    const padded = header.padEnd(117) + "\n";
    const start = Buffer.from([0x93, ...Buffer.from("NUMPY"), 1, 0, 118, 0]);
    mkdirSync(at("acts"));
    writeFileSync(
      at("acts", "a.npy"),
      Buffer.concat([start, Buffer.from(padded), Buffer.from(rows.buffer)]),
    );
    const flags = ["--activations.from", "folder", "--activations.path", "acts"];
    const message = await refused("train", ...flags, "--sae.k", "2", "--device", "reference");
    expect(message).toContain("a.npy: row 31 holds NaN");
  });

  test("a run folder in use by a live process, which is left alone", async () => {
    const { folder: used } = await json<Made>("train", ...synthetic, "--train.epochs", "1");
    const lock = JSON.stringify({ pid: process.pid, host: hostname(), born: null, since: "noon" });
    writeFileSync(join(used, "lock"), lock);
    const message = await refused("train", "--resume", "latest");
    expect(message).toContain(`in use by process ${process.pid} since noon`);
    expect(readFileSync(join(used, "lock"), "utf8")).toBe(lock);
  });

  test("a run that does not exist", async () => {
    expect(await refused("runs", "show", "nothing")).toContain("no run nothing in runs");
    expect(await refused("export", "latest")).toContain("no run latest in runs");
  });

  test("several hook points whose settings or widths do not go together, before anything is collected", async () => {
    const wrong = async (...flags: string[]) => {
      const message = await refused("train", ...onModel, ...small, ...flags);
      expect(existsSync(at("runs", "activations"))).toBe(false);
      return message;
    };
    const hookPoint = ["--activations.hookPoint", "blocks.0.hook_resid_mid"];
    expect(await wrong(...hookPoint, "--sae.skip")).toContain("sae.skip is for transcoders");
    expect(
      await wrong(...hookPoint, "--activations.targetHookPoint", "blocks.0.hook_mlp_outt"),
    ).toContain("did you mean blocks.0.hook_mlp_out?");
    expect(
      await wrong(...hookPoint, "--activations.targetHookPoint", "blocks.*.hook_mlp_out"),
    ).toContain("activations.targetHookPoint must be one hook point; blocks.*.hook_mlp_out fits 3");
    expect(
      await wrong(...hookPoint, "--activations.targetHookPoint", "blocks.0.hook_resid_mid"),
    ).toContain("must be another hook point than hookPoint");
    expect(
      await wrong("--activations.hookPoints", "blocks.0.hook_resid_mid,blocks.0.mlp.hook_post"),
    ).toContain("the hook points of a crosscoder must have one width; these have");
    expect(
      await wrong(...hookPoint, "--activations.hookPoints", "blocks.0.hook_mlp_out"),
    ).toContain("activations.hookPoint cannot be combined with hookPoints");
  });

  test("autoencoders that lens layers cannot compare, and why", async () => {
    const sae = (name: string, model: string) => {
      const path = at(name);
      mkdirSync(path);
      const config = {
        ...{ architecture: "standard", d_in: 1, d_sae: 1, apply_b_dec_to_input: true },
        ...{ normalize_activations: "none", reshape_activations: "none" },
        metadata: { model_name: model, hook_name: "blocks.0.hook_resid_post" },
      };
      writeFileSync(join(path, "cfg.json"), JSON.stringify(config));
      const data = Float32Array.of(1);
      return writeSafetensors(join(path, "sae_weights.safetensors"), {
        W_enc: { dtype: "F32", shape: [1, 1], data },
        b_enc: { dtype: "F32", shape: [1], data },
        W_dec: { dtype: "F32", shape: [1, 1], data },
        b_dec: { dtype: "F32", shape: [1], data },
      });
    };
    await sae("mine", "builtin:tiny");
    await sae("yours", "another/model");
    expect(await refused("layers", "mine")).toContain("two or more autoencoders are compared");
    expect(await refused("layers", "mine", "yours")).toContain(
      "mine is of builtin:tiny, yours of another/model",
    );
    expect(await refused("layers", "mine", "mine")).toContain(
      "takes activations of width 1, but blocks.0.hook_resid_post of builtin:tiny has width 256",
    );
    expect(await refused("layers", "mine", "mine", "--lost", "0.9")).toContain(
      "lost must be below",
    );
  });
});
