/** `lens eval --compare A B`: two autoencoders on the same text. */
import { comparisonFigure } from "../analysis/evaluation-figure.ts";
import type { Drawn } from "../analysis/document-draws.ts";
import { compareDrawn, compareEvaluations, type Compared } from "../analysis/evaluation-record.ts";
import { openDevice, type Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import { loadModel, type Model } from "../model/model.ts";
import type { Sae } from "../sae/sae.ts";
import { hookPointsOf } from "../workbench/hook-points.ts";
import { loadingOf } from "../workbench/reading.ts";
import { measureInModel } from "./analyse.ts";
import { evaluateStructure } from "./eval-structure.ts";
import {
  openSubject,
  recordFor,
  writeOut,
  type EvalOptions,
  type Subject,
} from "./eval-subject.ts";
import { evaluateSupervised } from "./eval-supervised.ts";
import { type Context } from "./sources.ts";
import { short } from "../readable.ts";
import { table, type Terminal } from "./terminal.ts";

/**
 * Measures both on the text of the first and prints the differences.
 * @throws UserError when they cannot be measured on the same text: other activations than a model's,
 * or models that cut text into different tokens.
 */
export async function compare(
  ids: readonly [string, string],
  options: EvalOptions,
  terminal: Terminal,
  signal: AbortSignal,
): Promise<void> {
  const first = await openSubject(ids[0], options);
  const second = onTextOf(first, await openSubject(ids[1], options));
  const device = await openDevice(first.config.device, { threads: first.config.threads });
  const models: Model[] = [];
  try {
    const open = async (subject: Subject) => {
      const { threads, activations } = subject.config;
      const loading = activations.from === "model" ? loadingOf(activations) : {};
      const model = await loadModel(modelOf(subject), { ...loading, threads, signal });
      models.push(model);
      return model;
    };
    const [one, other] = [await open(first), await open(second)];
    if (one.tokenizer.hash !== other.tokenizer.hash)
      throw new UserError(
        `${one.info.source} and ${other.info.source} cut text into different tokens, so their autoencoders cannot be measured on the same ones`,
      );
    if (options.supervised || options.structure) {
      const drawn = (subject: Subject, model: Model) =>
        drawnOf({ config: subject.config, terminal, signal }, device, model, subject.sae, options);
      const [a, b] = [await drawn(first, one), await drawn(second, other)];
      const metrics = compareDrawn(a.drawn, b.drawn, (metric) => !metric.startsWith("metaSae."));
      const notes = [a, b].flatMap(({ left }, i) =>
        Object.entries(left).map(([name, reason]) => `${ids[i]}, ${name}: left out, ${reason}`),
      );
      const sides = { a: { folder: first.folder }, b: { folder: second.folder } };
      const result = {
        ...{ format: "lens-evaluation-comparison", version: 1 },
        ...{ ...sides, metrics, notes },
      };
      if (options.out !== undefined) await writeOut(options.out, result, []);
      terminal.result(result, textOf(metrics, ids, notes, DRAWN_FROM));
      return;
    }
    const measured = await measureBoth();
    async function measureBoth() {
      const same = modelText(first) === modelText(second) && placesText(one, first) === placesText(other, second); // prettier-ignore
      const context = { config: first.config, terminal, signal };
      if (same) return measureInModel(context, device, one, [first.sae, second.sae], true);
      const [a] = await measureInModel(context, device, one, [first.sae], true);
      const next = { ...context, config: second.config };
      return [a, ...(await measureInModel(next, device, other, [second.sae], true))];
    }
    const [a, b] = measured;
    if (a.spliced.length !== b.spliced.length)
      throw new UserError(
        `${ids[0]} is put into the model at ${a.spliced.length} hook points and ${ids[1]} at ${b.spliced.length}: there is no counterpart for each`,
      );
    const [recordA, recordB] = [
      await recordFor(first, device, one, a),
      await recordFor(second, device, other, b),
    ];
    const metrics = compareEvaluations(
      { record: recordA, evaluation: a },
      { record: recordB, evaluation: b },
    );
    const { rules, coverage } = recordA;
    const result = {
      ...{ format: "lens-evaluation-comparison", version: 1, rules, coverage },
      a: { folder: first.folder, circumstances: recordA.circumstances },
      b: { folder: second.folder, circumstances: recordB.circumstances },
      ...{ metrics, notes: [...new Set([...recordA.notes, ...recordB.notes])] },
    };
    if (options.out !== undefined)
      await writeOut(options.out, result, [await comparisonFigure(metrics, ids)]);
    terminal.result(
      result,
      textOf(metrics, ids, result.notes, `the same ${short(coverage.documents)} documents`),
    );
    if (options.out !== undefined) terminal.note(`written to ${options.out}`);
    else
      terminal.next(`eval --compare ${ids.join(" ")} --out comparison`, "the same with a figure");
  } finally {
    for (const model of models) await model.close();
    await device.close();
  }
}

const DRAWN_FROM =
  "the same documents (of interchange: heroes; of metaSae: each one's own latents)";

/** What one of them has as statistics on draws. */
async function drawnOf(
  context: Context,
  device: Device,
  model: Model,
  sae: Sae,
  options: EvalOptions,
): Promise<{ drawn: Record<string, Drawn>; left: Partial<Record<string, string>> }> {
  const found = [
    ...(options.supervised ? [await evaluateSupervised(context, device, model, sae, options)] : []),
    ...(options.structure ? [await evaluateStructure(context, device, model, sae)] : []),
  ];
  return {
    drawn: Object.assign({}, ...found.map(({ drawn }) => drawn)) as Record<string, Drawn>,
    left: Object.assign({}, ...found.map(({ left }) => left)) as Record<string, string>,
  };
}

/** The second one, to be measured on the text of the first: only model and hook points stay its own. */
function onTextOf(first: Subject, second: Subject): Subject {
  const [text, own] = [first.config.activations, second.config.activations];
  if (text.from !== "model" || own.from !== "model")
    throw new UserError(
      `a comparison needs text that both are measured on; the activations of ${text.from === "model" ? second.folder : first.folder} come from no model`,
    );
  const { data, field, shuffleDocuments, validationTokens } = text;
  const { contextLength, bos, eos, packing } = text;
  const read = {
    data,
    field,
    shuffleDocuments,
    validationTokens,
    contextLength,
    bos,
    eos,
    packing,
  };
  const activations = { ...own, ...read };
  return { ...second, config: { ...second.config, activations } };
}

function modelOf({ config }: Subject): string {
  return config.activations.from === "model" ? config.activations.model : "";
}

/** The model, and how it is loaded. */
function modelText(subject: Subject): string {
  const { activations } = subject.config;
  return JSON.stringify([
    modelOf(subject),
    activations.from === "model" ? loadingOf(activations) : {},
  ]);
}

function placesText(model: Model, { config }: Subject): string {
  return config.activations.from === "model"
    ? JSON.stringify(hookPointsOf(model, config.activations))
    : "";
}

function textOf(
  metrics: readonly Compared[],
  [a, b]: readonly [string, string],
  notes: readonly string[],
  drawnFrom: string,
): string {
  const number = (value: number) => (Number.isFinite(value) ? short(value) : "none");
  const rows = metrics.map(({ metric, a, b, difference: { value, low, high }, differs }) => [
    ...[metric, number(a), number(b), number(value)],
    low === null || high === null ? "" : `${short(low)} … ${short(high)}`,
    differs ? "*" : "",
  ]);
  return [
    `A: ${a}\nB: ${b}\n`,
    table(["", "A", "B", "B − A", "95 % interval", ""], rows),
    `* the interval of the difference, over draws of ${drawnFrom}, excludes 0`,
    ...notes,
  ].join("\n");
}
