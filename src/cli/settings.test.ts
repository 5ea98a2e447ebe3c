import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";

import { parseConfig, saeSchema, trainSchema, featuresSchema } from "../config.ts";
import { configFields, readSettings } from "./settings.ts";
import { duration, short, table } from "./terminal.ts";

const folder = mkdtempSync(join(tmpdir(), "lens-settings-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

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

test("text that is no number reaches the person as it was typed", () => {
  for (const raw of ["", "1_", "_1", "1__0", "0x", "ten", "1,5"])
    expect(() => readSettings(undefined, { "sae.k": raw })).toThrow(
      `sae.k must be a number; got ${JSON.stringify(raw)}`,
    );
});

test("flags are set on top of the file, field by field", () => {
  const file = join(folder, "a.yaml");
  writeFileSync(file, "sae:\n  k: 8\n  dSae: 64\ntrain: { epochs: 3 }\n");
  const config = readSettings(file, { "sae.k": "16" });
  expect(config.sae).toMatchObject({ k: 16, dSae: 64 });
  expect(config.train.epochs).toBe(3);
  // A budget in another unit takes the place of the file's.
  expect(readSettings(file, { "train.steps": "9" }).train).toMatchObject({ steps: 9 });
  expect(readSettings(file, { "train.steps": "9" }).train.epochs).toBeUndefined();
});

test("a flag that chooses another variant replaces the file's settings of the old one", () => {
  const file = join(folder, "model.yaml");
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
