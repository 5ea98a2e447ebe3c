/** `lens models`: what a model is before anything big of it is loaded, and which models there are. */
import type { Command } from "commander";

import {
  type CachedModel,
  describeModel,
  estimateSpeed,
  listCachedModels,
  type ModelDescription,
} from "../model/describe.ts";
import { compareWeights, type WeightsComparison } from "../model/compare-weights.ts";
import { loadModel } from "../model/model.ts";
import { documents } from "../model/text.ts";
import { weightsText } from "./weights-note.ts";
import { UserError } from "../error.ts";
import { supportedFamilies } from "../model/read-spec.ts";
import { short } from "../readable.ts";
import { table, Terminal } from "./terminal.ts";

interface Options {
  hookPoints?: boolean;
  weights: string;
  json?: boolean;
}

type Described = ModelDescription & { tokensPerSecond: number; int8?: WeightsComparison };

export function define(command: Command): void {
  command
    .argument(
      "[models...]",
      "builtin:tiny, folders, or models of the Hugging Face hub; absent: what there is",
    )
    .description(
      "Say what a model is and what running it takes, from its configuration and the headers of its weights: " +
        "nothing big is loaded or fetched.",
    )
    .option("--hook-points", "list every hook point")
    .option(
      "--weights <checkpoint|int8>",
      "as they are, or 8-bit integers: also measures what these change, which loads the model",
      "checkpoint",
    )
    .option("--json", "print JSON")
    .action((models: string[], options: Options) =>
      models.length === 0 ? list(options) : show(models, options),
    );
}

async function show(models: string[], options: Options): Promise<void> {
  const terminal = new Terminal(options);
  const weights = (["checkpoint", "int8"] as const).find((name) => name === options.weights);
  if (!weights) throw new UserError(`--weights must be checkpoint or int8; got ${options.weights}`);
  const described: Described[] = [];
  for (const source of models) {
    const model = await describeModel(source, { weights });
    const { tokensPerSecond } = await estimateSpeed(model);
    const one: Described = { ...model, tokensPerSecond };
    // Of a model on the hub nothing big is fetched.
    if (weights === "int8" && model.folder !== null) one.int8 = await compared(model);
    described.push(one);
  }
  const text = described.map((model) => describe(model, options.hookPoints === true));
  terminal.result(described, text.join("\n\n"));
  const { source, layers } = described[0];
  const hookPoint = `blocks.${Math.floor(layers / 2)}.hook_resid_post`;
  terminal.next(
    `run --activations.model ${source} --activations.hookPoint ${hookPoint}${weights === "int8" ? " --activations.modelWeights int8" : ""}`,
    "train an autoencoder on its middle",
  );
}

/** On the built-in stories, at the end of each layer. */
async function compared({ folder, hookPoints }: ModelDescription): Promise<WeightsComparison> {
  const model = await loadModel(folder!, { weights: "int8" });
  const ends = hookPoints.map(({ name }) => name).filter((name) => name.endsWith("resid_post"));
  const bos = model.tokenizer.bosId === null ? "none" : "document";
  try {
    return await compareWeights(model, documents("builtin:stories"), ends, { bos });
  } finally {
    await model.close();
  }
}

function describe(model: Described, isWhole: boolean): string {
  const count = (value: number) => value.toLocaleString("en-US");
  const { types, bytes } = model.weights;
  const shared = model.kvHeads === model.heads ? "" : `, ${model.kvHeads} of keys and values`;
  const place = model.folder ?? "on the hub, not in the cache";
  const rows: [string, string][] = [
    ["family", `${model.family} (${model.familyField} of config.json)`],
    ["where", place + (model.commit === null ? "" : ` (commit ${model.commit.slice(0, 8)})`)],
    ["parameters", count(model.parameters)],
    ["weights", `${size(bytes)} on disk, ${Object.keys(types).sort().join(" and ")}`],
    ["layers", String(model.layers)],
    ["widths", `dModel ${count(model.dModel)}, dMlp ${count(model.dMlp)}, ${model.heads} heads of ${model.dHead}${shared}`], // prettier-ignore
    ["vocabulary", `${count(model.vocabSize)} tokens`],
    ["context", `${count(model.contextLength)} tokens`],
    [
      "memory",
      `about ${size(model.memory)} to run it, ${model.runAs === "int8" ? "linear layers as int8" : "in float32"}`,
    ],
    ["speed", `about ${short(roundedSpeed(model.tokensPerSecond))} tokens/s up to the last layer, in rows of ${model.length} in float32 (an estimate from one timed matrix product)`], // prettier-ignore
    ...(model.int8 ? [["accuracy", weightsText(model.int8)] satisfies [string, string]] : []),
  ];
  return [
    model.source,
    ...rows.map(([name, value]) => `  ${name.padEnd(12)}${value}`),
    "",
    isWhole ? allPoints(model) : pointKinds(model),
  ].join("\n");
}

const STORE_HEADER = ["hook point", "width", "f16 store of a million tokens"];

/** Values of two bytes, as stores have by default. */
const stored = (width: number) => size(2e6 * width);

function allPoints({ hookPoints }: ModelDescription): string {
  return indent(table(STORE_HEADER, hookPoints.map(({ name, width }) => [name, String(width), stored(width)]))); // prettier-ignore
}

/** One row for the points of all layers that have the same name. */
function pointKinds({ hookPoints, layers }: ModelDescription): string {
  const kinds = new Map<string, number>();
  for (const { name, width } of hookPoints)
    kinds.set(name.replace(/^blocks\.\d+\./, "blocks.N."), width);
  const rows = [...kinds].map(([name, width]) => [name, String(width), stored(width)]);
  return `${indent(table(STORE_HEADER, rows))}\n  N from 0 to ${layers - 1}`;
}

async function list(options: Options): Promise<void> {
  const terminal = new Terminal(options);
  const [families, cached] = [supportedFamilies(), await listCachedModels()];
  const builtin = ["builtin:tiny"];
  const text = [
    `built in: ${builtin.join(", ")}`,
    `families (model_type of config.json): ${families.join(", ")}`,
    "",
    cached.length === 0 ? "no models in the cache of the Hugging Face hub" : cachedTable(cached),
  ];
  terminal.result({ builtin, families, cached }, text.join("\n"));
  terminal.next(
    `models ${cached.find(({ problem }) => problem === null)?.source ?? builtin[0]}`,
    "what it is, and what running it takes",
  );
}

function cachedTable(cached: readonly CachedModel[]): string {
  const rows = cached.map(({ source, commit, bytes, family, problem }) => [
    ...[source.split("@")[0], commit.slice(0, 8), size(bytes)],
    family ?? `not usable: ${problem ?? ""}`,
  ]);
  return table(["in the hub's cache", "commit", "size", "family"], rows);
}

/** Two digits: it is no measurement. */
function roundedSpeed(value: number): number {
  return Number(value.toPrecision(2));
}

function size(bytes: number): string {
  const [unit, name] = bytes >= 1e9 ? [1e9, "GB"] : bytes >= 1e6 ? [1e6, "MB"] : [1e3, "kB"];
  return `${Number((bytes / unit).toPrecision(3))} ${name}`;
}

function indent(text: string): string {
  return text.replace(/^(?=.)/gm, "  ");
}
