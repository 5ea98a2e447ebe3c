/**
 * Settings from the command line: config files, and one dotted flag for every field of the schema
 * (--sae.k 64). Flags, their help and their types all come from the schema.
 */
import { fileURLToPath } from "node:url";
import { readFileSync } from "node:fs";
import { Option, type Command } from "commander";
import { parse, YAMLParseError } from "yaml";

import { configJsonSchema, parseConfig, type JsonSchema, type RunConfig } from "../config.ts";
import { messageOf, UserError } from "../error.ts";

/** What runs when nothing is asked for: short enough to wait for. */
export const QUICK_START = fileURLToPath(
  new URL("../../examples/quick-start.yaml", import.meta.url),
);

/** One setting: a leaf of the schema. */
export interface Field {
  /** Dotted: "sae.k". */
  path: string;
  /** "" for those at the top. */
  section: string;
  description: string;
  /**
   * integers, strings: several, with commas between them on the command line. text or list: text, or
   * a list in YAML, which on the command line begins with "[".
   */
  type: "integer" | "number" | "boolean" | "string" | "integers" | "strings" | "text or list";
  choices?: string[];
  default?: string | number | boolean | number[] | string[];
  /** Variants of the section that have the field, when not all do: "sae.architecture topk". */
  only?: string;
}

/** Sections in the order of the path, with their headings in help. */
export const SECTIONS: Record<string, string> = {
  "": "Run",
  activations: "Activations",
  sae: "Autoencoder",
  train: "Training",
  features: "Features",
};

/** Every setting, in the schema's order. */
export function configFields(schema: JsonSchema = configJsonSchema()): Field[] {
  return Object.entries(schema.properties ?? {}).flatMap(([name, property]) => {
    if (name === "$schema" || name === "provenance") return [];
    if (property.oneOf) return variantFields(name, property.oneOf);
    if (!property.properties) return [toField("", name, property)];
    return Object.entries(property.properties).map(([key, p]) => toField(name, key, p));
  });
}

/** The fields of all variants of a section, those they share once. */
function variantFields(section: string, variants: JsonSchema[]): Field[] {
  const discriminator = Object.entries(variants[0].properties!).find(([, p]) => p.const)![0];
  const tagOf = (variant: JsonSchema) => variant.properties![discriminator].const!;
  const tags = variants.map(tagOf);
  const fields = new Map<string, { field: Field; tags: string[] }>();
  fields.set(discriminator, {
    field: {
      path: `${section}.${discriminator}`,
      section,
      description: variants
        .map((v) => `${tagOf(v)}: ${v.properties![discriminator].description}`)
        .join(" "),
      type: "string",
      choices: tags,
      default: tags[0],
    },
    tags,
  });
  for (const variant of variants) {
    for (const [key, property] of Object.entries(variant.properties!)) {
      if (key === discriminator) continue;
      const field = toField(section, key, property);
      const known = fields.get(key);
      fields.set(key, {
        field: known ? sameField(known.field, field) : field,
        tags: [...(known?.tags ?? []), tagOf(variant)],
      });
    }
  }
  return [...fields.values()].map(({ field, tags: having }) =>
    having.length === tags.length
      ? field
      : { ...field, only: `${section}.${discriminator} ${having.join(" or ")}` },
  );
}

/** A field of two variants; where they describe it differently, both sentences. */
function sameField(a: Field, b: Field): Field {
  if (a.type !== b.type || a.choices?.join() !== b.choices?.join())
    throw new Error(`${a.path} has different types in different variants`);
  const description =
    a.description === b.description ? a.description : `${a.description} ${b.description}`;
  return { ...a, default: a.default ?? b.default, description };
}

function toField(section: string, key: string, schema: JsonSchema): Field {
  const field: Field = {
    path: section ? `${section}.${key}` : key,
    section,
    description: schema.description ?? "",
    type: schema.anyOf
      ? "text or list"
      : ((schema.type === "array" ? `${schema.items!.type}s` : schema.type) as Field["type"]),
  };
  if (schema.enum) field.choices = schema.enum;
  if (schema.default !== undefined) field.default = schema.default as Field["default"];
  return field;
}

/**
 * Adds a flag for each setting of the named sections ("" for the top), grouped in help. Where no other of the
 * command's flags has a setting's own name, that is enough: --model for --activations.model.
 */
export function addSettings(command: Command, sections: string[]): Command {
  const fields = configFields().filter(({ section }) => sections.includes(section));
  const taken = new Set(command.options.map(({ long }) => long));
  const sharing = new Map(fields.map((field) => [nameIn(field), [] as Field[]]));
  for (const field of fields) sharing.get(nameIn(field))!.push(field);
  for (const field of fields) {
    const name = nameIn(field);
    const isEnough = field.section && sharing.get(name)!.length === 1 && !taken.has(`--${name}`);
    const placeholder =
      field.type === "boolean"
        ? "[true|false]"
        : field.type === "integers" || field.type === "strings"
          ? `<${field.type === "strings" ? "text" : "integer"},…>`
          : `<${field.choices?.join("|") ?? (field.type === "string" ? "text" : field.type.replaceAll(" ", "-"))}>`;
    const flags = `${isEnough ? `--${name}, ` : ""}--${field.path} ${placeholder}`;
    const option = new Option(flags, describe(field));
    const heading = SECTIONS[field.section];
    option.helpGroup(field.section ? `${heading} (${field.section}):` : `${heading}:`);
    command.addOption(option);
  }
  for (const [name, several] of sharing)
    if (several.length > 1 && !taken.has(`--${name}`) && several.every(({ section }) => section))
      command.addOption(ambiguous(name, several));
  return command;
}

/** The setting's name in its section. */
const nameIn = ({ path, section }: Field) => path.slice(section ? section.length + 1 : 0);

/** A flag that several settings have the name of: which is meant is asked. */
function ambiguous(name: string, fields: Field[]): Option {
  const which = fields.map(({ path }) => `--${path}`).join(" or ");
  return new Option(`--${name} [value]`)
    .preset("")
    .hideHelp()
    .argParser(() => {
      throw new UserError(`--${name} is the name of several settings: give ${which}`);
    });
}

/** The sentence of a field with its default and where it applies. */
export function describe(field: Field): string {
  const notes = [];
  if (field.only) notes.push(`only for ${field.only}`);
  const isEmpty = Array.isArray(field.default) && field.default.length === 0;
  if (field.default !== undefined)
    notes.push(`default: ${isEmpty ? "none" : String(field.default)}`);
  return notes.length > 0 ? `${field.description} (${notes.join("; ")})` : field.description;
}

/**
 * The config in `file` (absent: all defaults) with the flags in `options` on top.
 * @throws UserError for a file that cannot be read or parsed, and for each wrong setting.
 */
export function readSettings(
  file: string | undefined,
  options: Record<string, unknown>,
): RunConfig {
  const values = withFlags(file === undefined ? {} : readConfigFile(file), options);
  try {
    return parseConfig(values);
  } catch (error) {
    if (file === undefined || !(error instanceof UserError)) throw error;
    throw new UserError(`${file}: ${error.message.split("\n").join(`\n${file}: `)}`);
  }
}

/** `values` with the settings among a command's `options` on top. */
export function withFlags(
  values: Record<string, unknown>,
  options: Record<string, unknown>,
): Record<string, unknown> {
  const result = { ...values };
  const given = (path: string) => options[path] !== undefined;
  for (const { section, chosen, replaces } of ALTERNATIVES) {
    const settings = result[section];
    if (!chosen.some((name) => given(`${section}.${name}`)) || !isSection(settings)) continue;
    const kept = Object.entries(settings).filter(([name]) => !replaces.includes(name));
    result[section] = Object.fromEntries(kept);
  }
  const fields = configFields();
  // A flag that chooses another variant takes the file's settings of the old one with it.
  for (const field of fields) {
    const { section, only } = field;
    const [discriminator, ...tags] = only?.split(/ (?:or )?/) ?? [];
    const settings = result[section];
    if (!discriminator || !given(discriminator) || !isSection(settings)) continue;
    if (tags.includes(String(options[discriminator]))) continue;
    const { [nameIn(field)]: _dropped, ...kept } = settings;
    result[section] = kept;
  }
  for (const field of fields)
    if (given(field.path)) setAt(result, field, fromFlag(options[field.path], field));
  return result;
}

function isSection(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

const BUDGETS = ["epochs", "tokens", "steps"];
const TARGETS = ["targetHookPoint", "targetPath", "targetTensor"];

/** Settings that exclude each other: a flag for one of `chosen` takes the place of what the file has of `replaces`. */
const ALTERNATIVES: { section: string; chosen: string[]; replaces: string[] }[] = [
  { section: "train", chosen: BUDGETS, replaces: BUDGETS },
  { section: "activations", chosen: ["hookPoint"], replaces: ["hookPoints"] },
  { section: "activations", chosen: TARGETS, replaces: ["hookPoints", "joinPaths"] },
  {
    section: "activations",
    chosen: ["hookPoints"],
    replaces: ["hookPoint", "joinPaths", ...TARGETS],
  },
  { section: "activations", chosen: ["joinPaths"], replaces: ["hookPoints", ...TARGETS] },
];

export function readConfigFile(file: string): Record<string, unknown> {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const why = code === "ENOENT" ? "there is no such file" : messageOf(error);
    throw new UserError(`cannot read the config ${file}: ${why}`);
  }
  let values: unknown;
  try {
    // JSON is YAML too, and this parser says where an error is.
    values = parse(text) ?? {};
  } catch (error) {
    if (!(error instanceof YAMLParseError)) throw error;
    throw new UserError(`${file} is neither YAML nor JSON: ${error.message.trimEnd()}`);
  }
  if (typeof values !== "object" || values === null || Array.isArray(values))
    throw new UserError(`${file} must hold settings by name; got ${JSON.stringify(values)}`);
  return values as Record<string, unknown>;
}

/** A flag's text as the type its field wants; text that is no such thing stays, for the schema to refuse. */
function fromFlag(raw: unknown, { type }: Pick<Field, "type">): unknown {
  if (typeof raw !== "string") return raw;
  if (type === "boolean") return raw === "true" ? true : raw === "false" ? false : raw;
  if (type === "string") return raw;
  if (type === "text or list") return raw.startsWith("[") ? listFrom(raw) : raw;
  if (type === "integers" || type === "strings") {
    const parts = raw.split(",").map((part) => part.trim());
    if (parts.join("") === "") return [];
    return type === "strings" ? parts : parts.map((part) => fromFlag(part, { type: "integer" }));
  }
  const digits = raw.replace(/(?<=\d)_(?=\d)/g, "");
  const number = Number(digits);
  return digits.trim() === "" || Number.isNaN(number) ? raw : number;
}

/** What is no YAML stays, for the schema to refuse. */
function listFrom(raw: string): unknown {
  try {
    return parse(raw);
  } catch {
    return raw;
  }
}

function setAt(values: Record<string, unknown>, field: Field, value: unknown): void {
  const { section } = field;
  if (!section) {
    values[nameIn(field)] = value;
    return;
  }
  const current = values[section] ?? {};
  if (typeof current !== "object")
    throw new UserError(`${section} must be a section of settings; got ${JSON.stringify(current)}`);
  values[section] = { ...current, [nameIn(field)]: value };
}
