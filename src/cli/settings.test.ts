import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterAll, describe, expect, test } from "vitest";

import { parseConfig, saeSchema, trainSchema, featuresSchema } from "../config.ts";
import { addSettings, configFields, readSettings, SECTIONS } from "./settings.ts";
import { duration, short } from "../readable.ts";
import { table } from "./terminal.ts";

const scratch = mkdtempSync(join(tmpdir(), "lens-settings-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

test("every setting of every section is a field with a sentence, and its default is the config's", () => {
  const fields = new Map(configFields().map((field) => [field.path, field]));
  const variants = saeSchema.options.flatMap((option) => Object.keys(option.shape));
  for (const name of variants) expect(fields.has(`sae.${name}`), name).toBe(true);
  for (const name of Object.keys(trainSchema.shape)) expect(fields.has(`train.${name}`)).toBe(true);
  for (const name of Object.keys(featuresSchema.shape))
    expect(fields.has(`features.${name}`)).toBe(true);
  for (const { description, path } of fields.values()) expect(description, path).toMatch(/\.$/);

  const defaults = parseConfig({}) as unknown as Record<string, Record<string, unknown>>;
  for (const { path, section, default: value } of fields.values()) {
    const actual = section ? defaults[section][path.slice(section.length + 1)] : defaults[path];
    if (actual !== undefined) expect(value, path).toEqual(actual);
  }
});

test("flags are parsed by their field's type: numbers with exponents and underscores, booleans, text", () => {
  const config = readSettings(undefined, {
    "activations.tokens": "2e6",
    "train.tokens": "1_000_000",
    "train.shuffle": "false",
    "sae.applyBDecToInput": true,
    name: "7",
  });
  expect(config.activations).toMatchObject({ tokens: 2_000_000 });
  expect(config.train).toMatchObject({ tokens: 1_000_000, shuffle: false });
  expect(config.sae.applyBDecToInput).toBe(true);
  expect(config.name).toBe("7");
});

test("a setting's own name is enough where no other of the command's has it", () => {
  const read = (sections: string[], ...args: string[]) => {
    const command = addSettings(new Command().option("--kind <kind>"), sections);
    return readSettings(undefined, command.parse(args, { from: "user" }).opts());
  };
  const { activations } = read(
    ["", "activations"],
    ...["--model", "a/b", "--tokens", "2e6", "--eos", "--kind", "x", "--seed", "3"],
  );
  expect(activations).toMatchObject({ model: "a/b", tokens: 2_000_000, eos: true });
  const all = Object.keys(SECTIONS);
  expect(read(all, "--k", "3", "--steps", "9").sae).toMatchObject({ k: 3 });
  const which = "--activations.tokens or --train.tokens or --features.tokens";
  for (const wrong of [["--tokens", "5"], ["--tokens"]])
    expect(() => read(all, ...wrong)).toThrow(
      `--tokens is the name of several settings: give ${which}`,
    );
});

test("the text's source is a place, or a list of places with weights", () => {
  const read = (data: string) =>
    (readSettings(undefined, { "activations.data": data }).activations as { data: unknown }).data;
  expect(read("a, b.jsonl")).toBe("a, b.jsonl");
  expect(read("[a, {source: b, weight: 3, field: body}]")).toEqual([
    ...["a", { source: "b", weight: 3, field: "body" }],
  ]);
  expect(read("[unfinished")).toBe("[unfinished");
  const problem = "activations.data must be a source, or a list of sources or";
  const cases: [string, string][] = [
    ["[]", "activations.data must be at least 1"],
    ["[{source: a, weight: 0}]", "activations.data.0.weight must be more than 0; got 0"],
    ["[{sauce: a}]", problem],
    ["[3]", problem],
  ];
  for (const [wrong, message] of cases) expect(() => read(wrong)).toThrow(message);
});

test("text that is no number reaches the person as it was typed", () => {
  for (const raw of ["", "1_", "_1", "1__0", "0x", "ten", "1,5"])
    expect(() => readSettings(undefined, { "sae.k": raw })).toThrow(
      `sae.k must be a number; got ${JSON.stringify(raw)}`,
    );
});

test("flags are set on top of the file, field by field", () => {
  const file = join(scratch, "a.yaml");
  writeFileSync(file, "sae:\n  k: 8\n  dSae: 64\ntrain: { epochs: 3 }\n");
  const config = readSettings(file, { "sae.k": "16" });
  expect(config.sae).toMatchObject({ k: 16, dSae: 64 });
  expect(config.train.epochs).toBe(3);
  // A budget in another unit takes the place of the file's.
  expect(readSettings(file, { "train.steps": "9" }).train).toMatchObject({ steps: 9 });
  expect(readSettings(file, { "train.steps": "9" }).train.epochs).toBeUndefined();
});

test("a flag that chooses another variant replaces the file's settings of the old one", () => {
  const file = join(scratch, "model.yaml");
  writeFileSync(
    file,
    "activations: {hookPoint: hook_embed, tokens: 5}\nsae: {k: 3, expansion: 2}\n",
  );
  const { activations, sae } = readSettings(file, {
    "activations.from": "synthetic",
    "sae.architecture": "relu",
  });
  expect(activations).toMatchObject({ from: "synthetic", samples: 10_000 });
  expect(activations).not.toHaveProperty("tokens");
  expect(sae).toMatchObject({ architecture: "relu", expansion: 2 });
  expect(sae).not.toHaveProperty("k");
});

describe("hook points", () => {
  const model = (settings: object) => parseConfig({ activations: settings }).activations;
  const folder = (settings: object) => model({ from: "folder", path: "x", ...settings });

  test("are one, one with a target, or several; any other combination is refused by name", () => {
    const [hookPoint, targetHookPoint, hookPoints] = ["a", "b", ["c", "d"]];
    expect(model({ hookPoint, targetHookPoint })).toMatchObject({ hookPoints: [] });
    expect(model({ hookPoints })).not.toHaveProperty("hookPoint");
    expect(() => model({ hookPoint, hookPoints })).toThrow(
      /activations.hookPoint cannot be combined with hookPoints: .*; got "a"/,
    );
    expect(() => model({ targetHookPoint, hookPoints })).toThrow(
      /activations.targetHookPoint cannot be combined with several hook points.*; got "b"/,
    );
    expect(() => folder({ hookPoints, joinPaths: ["y"] })).toThrow(/activations.joinPaths cannot/);
    expect(() => folder({ targetTensor: "t", joinPaths: ["y"] })).toThrow(
      /activations.targetTensor cannot be combined with several hook points.*; got "t"/,
    );
  });

  test("of folders need validation folders of the same kind", () => {
    const validationPath = "v";
    expect(() => folder({ targetPath: "y", validationPath })).toThrow(
      /activations.validationTargetPath is missing; it goes with validationPath and targetPath/,
    );
    expect(() => folder({ validationTargetPath: "y" })).toThrow(/only then; got "y"/);
    expect(() =>
      folder({ joinPaths: ["y", "z"], validationPath, validationJoinPaths: ["w"] }),
    ).toThrow(
      /activations.validationJoinPaths goes with .*one folder for each of joinPaths.*got \["w"\]/,
    );
    folder({ targetPath: "y", validationPath, validationTargetPath: "w" });
    folder({ joinPaths: ["y"], validationPath, validationJoinPaths: ["w"] });
  });

  test("as flags take the place of the file's, and several have commas between them", () => {
    const file = join(scratch, "places.yaml");
    const read = (activations: string, flags: object) => {
      writeFileSync(file, `activations: ${activations}\n`);
      return readSettings(file, flags as Record<string, unknown>).activations;
    };
    const several = read("{hookPoint: a, targetHookPoint: b}", {
      "activations.hookPoints": "c, d",
    });
    expect(several).toMatchObject({ hookPoints: ["c", "d"] });
    const pair = read("{hookPoints: [a, b]}", { "activations.targetHookPoint": "c" });
    expect(pair).toMatchObject({ targetHookPoint: "c", hookPoints: [] });
    const one = read("{hookPoints: [a, b]}", { "activations.hookPoint": "c" });
    expect(one).toMatchObject({ hookPoint: "c", hookPoints: [] });
  });
});

test("numbers are short, times are readable, columns line up", () => {
  expect([0, 12, 1234567, 0.123456, 12345.6, 0.00001234, NaN].map(short)).toEqual([
    ...["0", "12", "1,234,567", "0.1235", "12,346", "1.23e-5", "NaN"],
  ]);
  expect([0.44, 9.94, 9.96, 59.4, 59.6, 3599.6, 3661].map(duration)).toEqual([
    ...["0.4 s", "9.9 s", "10 s", "59 s", "1:00", "1:00:00", "1:01:01"],
  ]);
  expect(
    table(
      ["name", "n"],
      [
        ["a", "10"],
        ["long", "5"],
      ],
    ),
  ).toBe("name   n\na     10\nlong   5");
});
