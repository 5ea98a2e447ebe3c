/** The command as a person (or a script) uses it: a process with arguments, output and an exit code. */
import type { ChildProcess } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeEach, describe, expect, test } from "vitest";

import type { FeatureView } from "../src/cli/feature-text.ts";
import type { ConceptAlignment } from "../src/analysis/concept-alignment.ts";
import type { Ablation } from "../src/analysis/ablate.ts";
import type { Composed } from "../src/cli/compose-text.ts";
import type { Attribution } from "../src/analysis/attribute.ts";
import { readMetrics, readRun } from "../src/runs.ts";
import { writeSafetensors } from "../src/safetensors.ts";
import { fixtureModel, startLens } from "./command.ts";

const scratch = mkdtempSync(join(tmpdir(), "lens-cli-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

let folder = "";
let nth = 0;
beforeEach(() => {
  folder = join(scratch, String(nth++));
  mkdirSync(folder);
});

const start = (...args: string[]) => startLens(folder, ...args);
const run = (...args: string[]) => start(...args).outcome;

/** Runs what must be refused: one clear message, exit code 1, no stack. */
async function refused(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await run(...args);
  expect(stderr).not.toMatch(/^\s+at /m);
  expect(stdout).toBe("");
  expect(code).toBe(1);
  return stderr;
}

/** Settings of a run that takes a second. */
const tiny = [
  ...["--activations.from", "synthetic", "--activations.samples", "2_000"],
  ...["--activations.validationSamples", "200", "--activations.dIn", "16"],
  ...["--activations.features", "20", "--sae.dSae", "64", "--sae.k", "4"],
  ...["--train.batchSize", "100", "--train.logEvery", "10", "--device", "reference"],
];

/** The folder of the run `name`, once it has a checkpoint. */
async function checkpointed(name: string, child: ChildProcess): Promise<string> {
  const runs = join(folder, "runs");
  for (;;) {
    const id = existsSync(runs) && readdirSync(runs).find((id) => id.startsWith(`${name}_`));
    const checkpoints = id ? join(runs, id, "checkpoints") : "";
    if (id && existsSync(checkpoints) && readdirSync(checkpoints).some((c) => c.startsWith("step")))
      return join(runs, id);
    expect(child.exitCode).toBeNull();
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Settings of a run on the activations of a small model, and of one more hook point of it. */
const onModel = [
  ...["--activations.model", fixtureModel, "--activations.tokens", "2000"],
  ...["--activations.validationTokens", "300", "--activations.contextLength", "32"],
];
const small = ["--sae.dSae", "64", "--sae.k", "4", "--train.batchSize", "128"];
const structures: Record<string, string[]> = {
  transcoder: [
    ...["--activations.hookPoint", "blocks.0.hook_resid_mid"],
    ...["--activations.targetHookPoint", "blocks.0.hook_mlp_out"],
  ],
  "skip transcoder": [
    ...["--activations.hookPoint", "blocks.0.hook_resid_mid", "--sae.skip"],
    ...["--activations.targetHookPoint", "blocks.0.mlp.hook_post"],
    ...["--sae.architecture", "batchTopk", "--sae.normalizeActivations", "whitening"],
  ],
  crosscoder: ["--activations.hookPoints", "blocks.0.hook_resid_*"],
};

describe("help", () => {
  test("lens layers refuses what cannot be compared, and says why", async () => {
    const sae = (name: string, model: string) => {
      const path = join(folder, name);
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

  test("lens --help lists the commands in the order of the path", async () => {
    const { code, stdout, stderr } = await run("--help");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const names = [...stdout.matchAll(/^ {2}([a-z]+) {2,}/gm)].map(([, name]) => name);
    expect(names).toEqual([
      ...[
        "run",
        "collect",
        "train",
        "eval",
        "features",
        "feature",
        "layers",
        "compose",
        "ablate",
        "attribute",
        "concepts",
        "explain",
        "steer",
      ],
      ...["export", "serve", "runs", "generate", "corpus", "devices", "config"],
    ]);
  });

  test("lens train --help lists every setting of its sections with default and meaning", async () => {
    const { stdout } = await run("train", "--help");
    const text = stdout.replace(/\s+/g, " ");
    expect(text).toContain(
      "--sae.k <integer> Latents kept per row; of batchTopk on average. (only for sae.architecture topk or batchTopk; default: 32)",
    );
    expect(text).toContain("--train.shuffle [true|false]");
    expect(stdout).not.toContain("--features.gallery");
  });
});

describe("what cannot be understood is refused", () => {
  test("an unknown command or flag, with the nearest one", async () => {
    expect(await refused("trian")).toContain("unknown command 'trian'\n(Did you mean train?)");
    expect(await refused("train", "--sae.kk", "3")).toContain("(Did you mean --sae.k?)");
    expect(await refused("runs", "lst")).toContain("(Did you mean list?)");
  });

  test("a config file that is missing, no YAML, or has wrong settings", async () => {
    expect(await refused("run", "nowhere.yaml")).toBe(
      "error: cannot read the config nowhere.yaml: there is no such file\n",
    );
    writeFileSync(join(folder, "broken.yaml"), "sae: {k: 3");
    expect(await refused("run", "broken.yaml")).toContain("broken.yaml is neither YAML nor JSON");
    writeFileSync(
      join(folder, "wrong.yaml"),
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
    expect(readdirSync(folder).sort()).toEqual(["broken.yaml", "wrong.yaml"]);
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
    const message = await refused("train", ...tiny, "--sae.k", "65");
    expect(message).toContain("k must be at most dSae (64); got 65");
    expect(readdirSync(join(folder, "runs"))).toEqual(["lens.schema.json"]);
  });

  test("a hook point that does not exist, with those that do", async () => {
    const message = await refused(
      ...["collect", "--out", "acts", "--activations.model", fixtureModel],
      ...["--activations.hookPoint", "blocks.7.hook_resid_post"],
    );
    expect(message).toContain("blocks.7.hook_resid_post");
    expect(message).toContain("hook_resid_mid");
    expect(existsSync(join(folder, "acts"))).toBe(false);
  });

  test("a missing model, a missing folder of activations, and a truncated file in one", async () => {
    expect(await refused("generate", "--model", "nowhere/at/all")).toContain("nowhere/at/all");
    const flags = ["--activations.from", "folder", "--activations.path", "acts"];
    expect(await refused("train", ...flags)).toContain("acts does not exist");
    mkdirSync(join(folder, "acts"));
    writeFileSync(
      join(folder, "acts", "a.safetensors"),
      Buffer.from([255, 0, 0, 0, 0, 0, 0, 0, 1]),
    );
    expect(await refused("train", ...flags)).toContain("a.safetensors");
  });

  test("activations with a NaN, naming file and row", async () => {
    const rows = new Float32Array(50 * 4).fill(1);
    rows[31 * 4 + 2] = NaN;
    const header = "{'descr': '<f4', 'fortran_order': False, 'shape': (50, 4), }";
    const padded = header.padEnd(117) + "\n";
    const start = Buffer.from([0x93, ...Buffer.from("NUMPY"), 1, 0, 118, 0]);
    mkdirSync(join(folder, "acts"));
    writeFileSync(
      join(folder, "acts", "a.npy"),
      Buffer.concat([start, Buffer.from(padded), Buffer.from(rows.buffer)]),
    );
    const flags = ["--activations.from", "folder", "--activations.path", "acts"];
    const message = await refused("train", ...flags, "--sae.k", "2", "--device", "reference");
    expect(message).toContain("a.npy: row 31 holds NaN");
  });

  test("a run folder in use by a live process, which is left alone", async () => {
    const { stdout } = await run("train", ...tiny, "--train.epochs", "1", "--json");
    const { folder: used } = JSON.parse(stdout) as { folder: string };
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
});

describe("a run", () => {
  test("goes the whole path, and the commands after it find it", async () => {
    writeFileSync(join(folder, "a.yaml"), "name: first\ntrain: { epochs: 2 }\n");
    writeFileSync(join(folder, "b.json"), '{ "name": "second", "train": { "epochs": 3 } }');
    const { code, stdout, stderr } = await run("run", "a.yaml", "b.json", ...tiny, "--json");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const outcomes = JSON.parse(stdout) as {
      run: string;
      folder: string;
      scores: Record<string, number>;
    }[];
    expect(outcomes.map((o) => o.run.replace(/_.*/, ""))).toEqual(["first", "second"]);
    expect(outcomes[1].scores.l0).toBeLessThanOrEqual(4);
    expect(outcomes[1].scores.fvu).toBeLessThan(1);
    expect(readdirSync(outcomes[0].folder).sort()).toEqual([
      ...["checkpoints", "config.json", "evaluation.json", "metrics.jsonl", "plots"],
      ...["report.html", "results.jsonl", "sae", "summary.json"],
    ]);
    // 20 steps an epoch, metrics every 10
    expect(readMetrics(outcomes[1].folder).map((m) => m.step)).toEqual([10, 20, 30, 40, 50, 60]);

    const list = await run("runs", "list");
    expect(list.stdout.match(/finished/g)).toHaveLength(2);
    const compared = await run("runs", "compare", "first", "second", "--json");
    const { config, metrics } = JSON.parse(compared.stdout) as Record<string, object>;
    expect(config).toEqual({ name: ["first", "second"], "train.epochs": [2, 3] });
    expect(metrics).toMatchObject({ fvu: outcomes.map((o) => o.scores.fvu) });
    const shown = await run("runs", "show", "second");
    expect(shown.stdout).toContain('"dSae": 64');

    // A run's own config.json is a config.
    const again = await run("config", "show", join(outcomes[0].folder, "config.json"), "--json");
    expect(JSON.parse(again.stdout)).toMatchObject({ name: "first", sae: { k: 4, dSae: 64 } });

    const measured = await run("eval", "second", "--json");
    const { scores } = JSON.parse(measured.stdout) as { scores: Record<string, number> };
    expect(scores.fvu).toBeCloseTo(outcomes[1].scores.fvu, 5);
    const exported = await run("export", "first", "--out", "sae.pt");
    expect(exported.stdout).toContain('torch.load("sae.pt", weights_only=True)');
    // A PyTorch file is a zip archive.
    expect(readFileSync(join(folder, "sae.pt")).subarray(0, 2).toString()).toBe("PK");
  }, 180_000);

  test("interrupted by Ctrl-C or killed, it is resumed to the very same weights and metrics", async () => {
    const settings = [...tiny, "--train.steps", "1500", "--train.checkpointEvery", "50"];
    const undisturbed = await run("train", "--name", "whole", ...settings, "--json");
    const whole = (JSON.parse(undisturbed.stdout) as { folder: string }).folder;
    const weights = (at: string) => readFileSync(join(at, "sae", "sae_weights.safetensors"));
    for (const signal of ["SIGINT", "SIGKILL"] as const) {
      const { child, outcome } = start("train", "--name", signal, ...settings);
      const stopped = await checkpointed(signal, child);
      child.kill(signal);
      const { code, stderr } = await outcome;
      expect(readRun(stopped).status).toBe("interrupted");
      expect(existsSync(join(stopped, "sae"))).toBe(false);
      if (signal === "SIGINT") {
        expect(code).toBe(130);
        expect(stderr).toContain(`lens.js train --resume ${join("runs", readRun(stopped).id)}`);
      }
      const resumed = await run("train", "--resume", stopped);
      expect(resumed.code, resumed.stderr).toBe(0);
      expect(resumed.stderr).toContain("going on after step");
      expect(weights(stopped).equals(weights(whole))).toBe(true);
      expect(readMetrics(stopped)).toEqual(readMetrics(whole));
    }
  }, 300_000);

  test("on a model's activations it shares them with other runs and writes features", async () => {
    const settings = [
      ...[
        "--activations.model",
        fixtureModel,
        "--activations.hookPoint",
        "blocks.0.hook_resid_post",
      ],
      ...["--activations.tokens", "3000", "--activations.validationTokens", "500"],
      ...["--sae.dSae", "64", "--sae.k", "4", "--train.batchSize", "256"],
      ...["--features.tokens", "600", "--device", "reference", "--json"],
    ];
    const [first, second] = [await run("run", ...settings), await run("run", ...settings)];
    expect(first.code, first.stderr).toBe(0);
    const [a, b] = [first, second].map(
      ({ stdout }) => JSON.parse(stdout) as { folder: string; scores: Record<string, number> },
    );
    expect(readdirSync(join(folder, "runs", "activations"))).toHaveLength(1);
    expect(b.scores).toEqual(a.scores);
    expect(a.scores.ceLossRecovered).toBeLessThanOrEqual(1.5);
    expect(readdirSync(join(a.folder, "features")).sort()).toContain("index.json");

    const features = await run("features", "latest", "--features.gallery", "3");
    expect(features.code, features.stderr).toBe(0);
    expect(features.stdout).toContain("report: file://");

    // One of them in full; both forms of output say the same.
    const feature = async (...flags: string[]) => {
      const { code, stdout, stderr } = await run("feature", ...flags);
      expect(code, stderr).toBe(0);
      return { stdout, stderr };
    };
    const asJson = await feature("3", "--logits", "raw", "--text", "Once upon", "--json");
    const view = JSON.parse(asJson.stdout) as FeatureView;
    expect(view).toMatchObject({ dSae: 64, feature: { latent: 3 }, logits: { form: "raw" } });
    expect(view.text!.pieces.join("")).toBe("Once upon");
    const asText = await feature("3", "--logits", "raw", "--top", "2");
    expect(asText.stdout).toContain(JSON.stringify(view.logits.top[0].text));
    const [{ latent: near }] = view.neighbors.decoder.nearest;
    expect(asText.stdout).toMatch(new RegExp(`^ +${near} +0\\.\\d{3} `, "m"));
    expect(asText.stderr).toContain("Next: ");
    expect(asText.stderr).toContain("feature map");
    expect(view.coActivation).toBeUndefined();
    // All of them; afterwards one shows what it fires with.
    const map = await feature("map");
    expect(map.stdout).toMatch(/^decoder directions +\d+ /m);
    expect(map.stdout).toMatch(/^split: \d+ of /m);
    const mapFiles = readdirSync(join(b.folder, "features", "map"));
    expect(mapFiles).toEqual(expect.arrayContaining(["map.json", "map-decoder.png"]));
    const counted = JSON.parse((await feature("3", "--json")).stdout) as FeatureView;
    expect(Object.keys(counted.coActivation!)).toEqual(["pmi", "jaccard", "phi"]);
    const beyond = await run("feature", "64");
    expect(beyond.stderr).toBe("error: latent must be a whole number from 0 to 63; got 64\n");
    const unclear = await run("feature", "3", "--logits", "centered");
    expect(unclear.stderr).toContain("got centered. Did you mean centred?");

    // A run beside another one's folder, which tells of its model and hook point by itself.
    const compared = await run("eval", "--compare", a.folder, join(b.folder, "sae"), "--json");
    expect({ code: compared.code, stderr: compared.stderr }).toEqual({ code: 0, stderr: "" });
    const { metrics, coverage, ...both } = JSON.parse(compared.stdout) as {
      metrics: { metric: string; difference: { value: number }; differs: boolean }[];
      coverage: { documents: number };
      a: { circumstances: object };
      b: { circumstances: object };
    };
    expect(both.b.circumstances).toEqual(both.a.circumstances);
    expect(metrics.map(({ metric }) => metric)).toContain("klRecovered");
    expect(metrics.filter(({ differs }) => differs)).toEqual([]);
    expect(coverage.documents).toBeGreaterThan(0);
    // And by what needs labels and what needs none; this model cannot read whole prompts.
    const labelled = await run("eval", "--compare", a.folder, b.folder, "--structure", "--supervised", "--only", "absorption,interchange", "--supervised-tokens", "4000", "--json"); // prettier-ignore
    expect({ code: labelled.code, stderr: labelled.stderr }).toEqual({ code: 0, stderr: "" });
    const further = JSON.parse(labelled.stdout) as {
      metrics: { metric: string; difference: { value: number }; differs: boolean }[];
      notes: string[];
    };
    const bits = further.metrics.find(({ metric }) => metric === "mdl.bits")!;
    expect(bits).toMatchObject({ difference: { value: 0 }, differs: false });
    expect(further.notes.join("\n")).toContain("interchange: left out, the prompts take up to");
    const alone = await run("eval", "--compare", a.folder);
    expect(alone.stderr).toContain("two are compared");

    // The model writes on, as it is and steered; a change of nothing changes nothing.
    const steer = async (...flags: string[]) => {
      const all = ["steer", "--json", "--tokens", "8", ...flags, "One", "day"];
      const { code, stdout, stderr } = await run(...all);
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      type Text = { text: string; tokens: unknown[] };
      type Steered = { prompt: string; edits: unknown[]; default: Text; steered: Text };
      return JSON.parse(stdout) as Steered;
    };
    const same = await steer("--scale", "3=1");
    expect(same.steered).toEqual(same.default);
    expect(same.default.tokens).toHaveLength(8);
    const other = await steer("--add", "3=500");
    expect(other.default).toEqual(same.default);
    expect(other.steered.text).not.toBe(same.default.text);
    const several = await steer("--set", "5=2", "--ablate", "1,2", "--set", "6=1,7=0");
    expect(several.prompt).toBe("One day");
    expect(several.edits).toEqual([
      ...[5, 6, 7].map((latent, i) => ({ latent, kind: "set", value: [2, 1, 0][i] })),
      ...[1, 2].map((latent) => ({ latent, kind: "ablate" })),
    ]);
    const wrong = await run("steer", "--ablate", "100000");
    expect(wrong).toMatchObject({ code: 1, stdout: "" });
    expect(wrong.stderr).toContain("latent must be a whole number from 0 to");

    // Its latents against the concepts of its own held-out text, and of a file.
    const matched = await run("concepts", "--tokens", "4000", "--json");
    expect({ code: matched.code, stderr: matched.stderr }).toEqual({ code: 0, stderr: "" });
    const alignment = JSON.parse(matched.stdout) as ConceptAlignment & { folder: string };
    expect(alignment.concepts.length).toBeGreaterThan(5);
    for (const file of ["concepts.json", "concepts.svg", "concepts.png"])
      expect(existsSync(join(alignment.folder, file))).toBe(true);
    const span = { concept: "dog", start: 4, end: 9 };
    const lines = [
      { text: "A cat.", spans: [] },
      { text: "A dog.", spans: [span] },
    ];
    writeFileSync(
      join(folder, "labels.jsonl"),
      lines.map((line) => JSON.stringify(line)).join("\n"),
    );
    const outside = await run("concepts", "--labels", "labels.jsonl");
    expect(outside.stderr).toContain(
      `labels.jsonl, line 2: span ${JSON.stringify(span)} is not {concept, start, end} inside a text of 6 characters`,
    );
    const noTokens = await run("concepts", "--tokens", "some");
    expect(noTokens.stderr).toContain("--tokens must be a whole number above 0; got some");

    // Latents are removed on held-out text.
    const [busy] = view.neighbors.decoder.nearest;
    const removed = await run("ablate", `3,${busy.latent}`, "--tokens", "300", "--json");
    expect({ code: removed.code, stderr: removed.stderr }).toEqual({ code: 0, stderr: "" });
    const ablation = JSON.parse(removed.stdout) as Ablation;
    expect(ablation.latents.map(({ latent }) => latent)).toEqual([3, busy.latent]);
    // An index of another version costs the names only, where nothing else is wanted of it.
    const index = join(b.folder, "features", "index.json");
    const current = readFileSync(index, "utf8");
    writeFileSync(index, current.replace('"version":2', '"version":1'));
    const removedText = await run("ablate", "3", "--tokens", "300");
    expect(removedText.stdout).toContain("Δ loss in nats");
    expect(removedText.stderr).toMatch(/latents are shown without names: .* has version 1, .* index the features again/); // prettier-ignore
    expect(removedText.stderr).toContain("Next: ");
    const unread = await run("feature", "3");
    expect(unread).toMatchObject({ code: 1, stdout: "" });
    expect(unread.stderr).toContain("has version 1, this Lens reads version 2");
    writeFileSync(index, current);
    const beyondAll = await run("ablate", "64");
    expect(beyondAll.stderr).toContain("latent must be a whole number from 0 to 63; got 64");

    // What goes together, with the run linked to itself.
    const composing = ["compose", "--tokens", "4000", "--list", "20"];
    const linked = await run(...composing, "--with", "latest", "--json");
    expect({ code: linked.code, stderr: linked.stderr }).toEqual({ code: 0, stderr: "" });
    const composed = JSON.parse(linked.stdout) as Composed;
    const { pairs, links, nodes } = composed;
    expect(pairs.together.tests).toBe((pairs.judged[0] * (pairs.judged[0] - 1)) / 2);
    expect(pairs.together.listed.length).toBeGreaterThan(0);
    for (const { latents } of pairs.together.listed)
      for (const latent of latents)
        expect(nodes.some((node) => node.sae === 0 && node.latent === latent)).toBe(true);
    // Every latent is linked with itself above all.
    expect(links!.together.listed[0].correlation.value).toBeCloseTo(1, 5);
    expect(links!.together.listed[0].virtual!.cosine).toBeGreaterThan(0);
    for (const file of ["compose.json", "compose.svg", "compose.png", "links.svg", "links.png"])
      expect(existsSync(join(b.folder, "compose", file)), file).toBe(true);
    const ofOne = await run(...composing, "--latent", "3", "--window", "8", "--out", "one");
    expect(ofOne.code, ofOne.stderr).toBe(0);
    expect(ofOne.stdout).toContain("fire together within the same 8 tokens: ");
    expect(existsSync(join(folder, "one", "compose.json"))).toBe(true);
    const tooLittle = await run("compose", "--tokens", "20");
    expect(tooLittle.stderr).toContain("are too few: pairs are found on half and measured on half");
    const noWindow = await run("compose", "--window", "0");
    expect(noWindow.stderr).toContain("window must be a whole number of at least 1; got 0");
    const noLatent = await run("compose", "--latent", "64");
    expect(noLatent.stderr).toContain("latent must be a whole number from 0 to 63; got 64");
    const unknown = await run("steer", "--find", "animal.dgo", "--by", "effect");
    expect(unknown.stderr).toContain("there is no concept animal.dgo; did you mean animal.dog?");
    const how = await run("steer", "--find", "animal.dog", "--by", "magic");
    expect(how.stderr).toContain("by must be meaning or effect; got magic");
    // Several latents at once, each by as much.
    const byEffect = ["steer", "--find", "animal.fox", "--by", "effect", "--tokens", "5"];
    const together = await run(...byEffect, "--together", "4", "--json");
    expect({ code: together.code, stderr: together.stderr }).toEqual({ code: 0, stderr: "" });
    const { edits } = JSON.parse(together.stdout) as { edits: { latent: number; value: number }[] };
    expect([1, 2, 4]).toContain(edits.length);
    expect(new Set(edits.map(({ latent }) => latent)).size).toBe(edits.length);
    expect(new Set(edits.map(({ value }) => value)).size).toBe(1);
    const none = await run(...byEffect, "--together", "0");
    expect(none.stderr).toContain("together must be a whole number of latents, at least 1; got 0");
  }, 180_000);
});

describe("a run on several hook points", () => {
  test.each(Object.entries(structures).slice(1))(
    "of a %s goes the whole path, and its parts find what it left",
    async (kind, settings) => {
      const all = [...onModel, ...small, ...settings, "--features.tokens", "300"];
      const { code, stdout, stderr } = await run("run", ...all, "--json");
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      const { folder: made, scores } = JSON.parse(stdout) as {
        folder: string;
        scores: Record<string, number>;
      };
      // All hook points were collected into one store.
      const [store] = readdirSync(join(folder, "runs", "activations"));
      const places = readdirSync(join(folder, "runs", "activations", store, "train"));
      expect(places.filter((name) => name.startsWith("blocks."))).toHaveLength(
        kind === "crosscoder" ? 3 : 2,
      );
      const { metadata } = JSON.parse(readFileSync(join(made, "sae", "cfg.json"), "utf8")) as {
        metadata: Record<string, unknown>;
      };
      expect(metadata).toMatchObject(
        kind === "crosscoder"
          ? { hook_names: ["pre", "mid", "post"].map((place) => `blocks.0.hook_resid_${place}`) }
          : { hook_name: "blocks.0.hook_resid_mid", hook_name_out: "blocks.0.mlp.hook_post" },
      );
      expect(readFileSync(join(made, "report.html"), "utf8")).toContain(` ${kind}: 64 latents`);

      const measured = await run("eval", "latest", "--json");
      expect(measured.code, measured.stderr).toBe(0);
      const again = JSON.parse(measured.stdout) as {
        scores: Record<string, number>;
        spliced: { hookPoint: string; ceLossRecovered: number }[];
      };
      for (const [name, value] of Object.entries(scores))
        expect(again.scores[name], name).toBeCloseTo(value, 4);
      expect(again.spliced).toHaveLength(kind === "crosscoder" ? 3 : 1);
      const mean = again.spliced.reduce((sum, s) => sum + s.ceLossRecovered, 0);
      expect(scores.ceLossRecovered).toBeCloseTo(mean / again.spliced.length, 4);

      const removed = await run("ablate", "0", "--tokens", "200", "--json");
      if (kind === "crosscoder") {
        expect(removed.stderr).toContain(
          "say at which of its hook points (blocks.0.hook_resid_pre",
        );
        const at = ["--at", "blocks.0.hook_resid_mid"];
        const there = await run("ablate", "0", "--tokens", "200", "--json", ...at);
        expect(there.code, there.stderr).toBe(0);
      } else {
        expect(JSON.parse(removed.stdout)).toMatchObject({ hookPoint: "blocks.0.mlp.hook_post" });
        // A prediction is explained.
        const explain = ["attribute", "--text", "The fox was"];
        const why = await run(...explain, "--token", " fox", "--against", " the", "--json");
        expect({ code: why.code, stderr: why.stderr }).toEqual({ code: 0, stderr: "" });
        const attribution = JSON.parse(why.stdout) as Attribution;
        expect(attribution).toMatchObject({ measure: "difference", against: { text: " the" } });
        expect(attribution.completeness.sum).toBeCloseTo(attribution.value, 4);
        const drawn = await run(...explain, "--top", "3", "--out", "plots/why.png");
        expect(drawn.code, drawn.stderr).toBe(0);
        expect(drawn.stdout).toMatch(/^direct path: latents .* = /m);
        expect(
          readFileSync(join(folder, "plots", "why.png"))
            .subarray(1, 4)
            .toString(),
        ).toBe("PNG");
        const pieces = await run(...explain, "--token", "zebra");
        expect(pieces.stderr).toMatch(/^error: "zebra" is \d tokens \("z", .*one is wanted/);
        const outside = await run(...explain, "--position", "17");
        expect(outside.stderr).toContain("position must be a token of the text");
      }

      const exported = await run("export", "latest", "--format", "saelens", "--out", "exported");
      expect(exported.stdout).toContain('SAE.load_from_disk("exported")');
      expect((await run("export", "latest")).stdout).toContain("torch.load");
    },
    120_000,
  );

  test.each(Object.entries(structures))(
    "of a %s that is killed is resumed to the very same weights and metrics",
    async (_, settings) => {
      const budget = ["--train.steps", "200", "--train.checkpointEvery", "20"];
      const all = [...onModel, ...small, ...settings, ...budget];
      const undisturbed = await run("train", "--name", "whole", ...all, "--json");
      const whole = (JSON.parse(undisturbed.stdout) as { folder: string }).folder;
      const { child, outcome } = start("train", "--name", "killed", ...all);
      const stopped = await checkpointed("killed", child);
      child.kill("SIGKILL");
      await outcome;
      expect(existsSync(join(stopped, "sae"))).toBe(false);
      const resumed = await run("train", "--resume", stopped);
      expect(resumed.code, resumed.stderr).toBe(0);
      expect(resumed.stderr).toContain("going on after step");
      const weights = (at: string) => readFileSync(join(at, "sae", "sae_weights.safetensors"));
      expect(weights(stopped).equals(weights(whole))).toBe(true);
      expect(readMetrics(stopped)).toEqual(readMetrics(whole));
    },
    120_000,
  );

  test("is refused before anything is collected when settings or widths do not go together", async () => {
    const wrong = async (...flags: string[]) => {
      const message = await refused("train", ...onModel, ...small, ...flags);
      expect(existsSync(join(folder, "runs", "activations"))).toBe(false);
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

  test("trains from stores that were collected before, and from folders side by side", async () => {
    const collected = (out: string, ...flags: string[]) =>
      run("collect", "--out", out, ...onModel, ...flags);
    const both = await collected("both", ...structures.transcoder);
    expect(both.stderr).toContain(
      "--activations.path both --activations.hookPoint blocks.0.hook_resid_mid --activations.targetHookPoint blocks.0.hook_mlp_out",
    );
    await collected("x", "--activations.hookPoint", "blocks.0.hook_resid_mid");
    await collected("y", "--activations.hookPoint", "blocks.0.hook_mlp_out");
    await collected("z", "--activations.hookPoint", "blocks.0.hook_mlp_out", "--activations.bos", "row"); // prettier-ignore
    const sae = [...small, "--train.steps", "5"];
    const train = async (...flags: string[]) => {
      const { stdout, stderr, code } = await run("train", "--activations.from", "folder", ...sae, ...flags, "--json"); // prettier-ignore
      expect(code, stderr).toBe(0);
      return readFileSync(join((JSON.parse(stdout) as { sae: string }).sae, "sae_weights.safetensors")); // prettier-ignore
    };
    const one = await train("--activations.path", "both", ...structures.transcoder);
    const two = await train("--activations.path", "x", "--activations.targetPath", "y");
    expect(two.equals(one)).toBe(true);
    const joined = await train("--activations.path", "x", "--activations.joinPaths", "y");
    const patterns = ["--activations.hookPoints", "*.hook_resid_mid,*.hook_mlp_out"];
    expect((await train("--activations.path", "both", ...patterns)).equals(joined)).toBe(true);
    const message = await refused("train", "--activations.from", "folder", ...sae, "--activations.path", "x", "--activations.targetPath", "z"); // prettier-ignore
    expect(message).toMatch(/x and z: .* must come from the same tokens/);
  }, 120_000);
});

test("lens corpus prints stories with spans that name what they cover", async () => {
  const { stdout } = await run("corpus", "--json", "--count", "2", "--split", "test");
  const stories = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { text: string; spans: { start: number; end: number }[] });
  expect(stories).toHaveLength(2);
  for (const { text, spans } of stories)
    expect(spans.every(({ start, end }) => text.slice(start, end).trim() !== "")).toBe(true);
});

test("lens generate continues a text the same way for the same seed", async () => {
  const flags = ["--model", fixtureModel, "--tokens", "5", "--json"];
  const [a, b] = [await run("generate", "Once", ...flags), await run("generate", "Once", ...flags)];
  expect(a.code, a.stderr).toBe(0);
  const { prompt, tokens } = JSON.parse(a.stdout) as { prompt: string; tokens: unknown[] };
  expect(prompt).toBe("Once");
  expect(tokens.length).toBeGreaterThan(0);
  expect(b.stdout).toBe(a.stdout);
});

test("lens devices names what it can compute with", async () => {
  const { stdout } = await run("devices", "--json");
  const devices = JSON.parse(stdout) as { name: string; works: boolean }[];
  expect(devices.map(({ name }) => name)).toEqual(["cpu", "reference"]);
  expect(devices.find(({ name }) => name === "reference")!.works).toBe(true);
});
