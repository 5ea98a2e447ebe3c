/** `lens eval`: held-out numbers of an autoencoder, or of two beside each other. */
import type { Command } from "commander";

import { latentNumbers, type EvaluationRecord } from "../analysis/evaluation-record.ts";
import { latentFigures, type Figure } from "../analysis/plots.ts";
import { openDevice } from "../device/device.ts";
import { UserError } from "../error.ts";
import { loadModel } from "../model/model.ts";
import { loadingOf } from "../workbench/reading.ts";
import { measure, measureInModel, recordOf } from "./analyse.ts";
import { compare } from "./eval-compare.ts";
import { evaluateSupervised, supervisedRecord, supervisedText } from "./eval-supervised.ts";
import { evaluateStructure, structureRecord, structureText } from "./eval-structure.ts";
import { openSubject, recordFor, writeOut, type EvalOptions } from "./eval-subject.ts";
import { interruptible } from "./interrupt.ts";
import { addSettings } from "./settings.ts";
import { openSources } from "./sources.ts";
import { short } from "../readable.ts";
import { table, Terminal } from "./terminal.ts";

export function define(command: Command): void {
  command
    .argument("[run]", "a run (id, folder or `latest`), or a folder with cfg.json")
    .description(
      "Measure an autoencoder on text it was not trained on: reconstruction, sparsity, what the " +
        "model loses, how the latents fire and lie; means with 95 % intervals over documents. A run is " +
        "measured with its own settings, a folder with those that its cfg.json names; flags come first.",
    )
    .option(
      "--compare <run...>",
      "two of them (or one beside the argument): differences on the same text, with intervals",
    )
    .option(
      "--supervised",
      "instead what needs labels: sparse probing, SCR, TPP and absorption on the concepts of the corpus, interchange of its characters' attributes",
    )
    .option("--only <names>", "of the supervised evaluations those named, with commas between them")
    .option("--supervised-tokens <n>", "tokens of labelled text to read (default 120,000)")
    .option(
      "--structure",
      "instead what needs none: the description length of the codes (MDL), and a meta-SAE of the decoder",
    )
    .option(
      "--out <folder>",
      "write evaluation.json, with every latent's numbers, and figures there",
    )
    .option("--quiet", "print errors and the result only")
    .option("--json", "print the result as JSON");
  addSettings(command, ["", "activations"]).action((id: string | undefined, options: EvalOptions) =>
    interruptible((signal) => run(id, options, signal)),
  );
}

async function run(
  id: string | undefined,
  options: EvalOptions,
  signal: AbortSignal,
): Promise<void> {
  const terminal = new Terminal(options);
  if (options.compare) {
    const ids = [...(id === undefined ? [] : [id]), ...options.compare];
    if (ids.length !== 2)
      throw new UserError(
        `two are compared (lens eval --compare A B); got ${ids.length} (${ids.join(", ")})`,
      );
    return compare(ids as [string, string], options, terminal, signal);
  }
  if (id === undefined)
    throw new UserError("say what to measure: a run, a folder with cfg.json, or --compare A B");
  const subject = await openSubject(id, options);
  const { config, folder, sae, details } = subject;
  const device = await openDevice(config.device, { threads: config.threads });
  try {
    if (config.activations.from !== "model") {
      if (options.supervised || options.structure)
        throw new UserError(
          `${options.supervised ? "supervised" : "this"} evaluation reads text through a model, and these activations come from none (activations.from ${config.activations.from})`,
        );
      const context = { config, terminal, signal };
      const activations = await openSources(context);
      const { scores, rows } = await measure(context, device, activations, { sae, details });
      const lines = Object.entries({ ...scores, rows }).map(([name, v]) => [name, short(v)]);
      const note = `no intervals, cross-entropies or divergences: activations.from ${config.activations.from} knows no documents and no model`;
      terminal.result(
        { folder, scores, rows, notes: [note] },
        `${table(["held-out", ""], lines)}\n${note}`,
      );
      return;
    }
    const model = await loadModel(config.activations.model, {
      ...loadingOf(config.activations),
      threads: config.threads,
      signal,
    });
    try {
      const context = { config, terminal, signal };
      if (options.supervised || options.structure) {
        const supervised = options.supervised && (await evaluateSupervised(context, device, model, sae, options)); // prettier-ignore
        const structure = options.structure && (await evaluateStructure(context, device, model, sae)); // prettier-ignore
        const result = {
          folder,
          ...(supervised && { supervised: supervisedRecord(supervised) }),
          ...(structure && { structure: structureRecord(structure) }),
        };
        const texts = [
          ...(supervised ? [supervisedText(supervised)] : []),
          ...(structure ? [structureText(structure)] : []),
        ];
        if (options.out !== undefined) await writeOut(options.out, result, []);
        terminal.result(result, texts.join("\n\n"));
        terminal.next(`eval ${id}`, "reconstruction, and what the model loses");
        return;
      }
      const [evaluation] = await measureInModel(context, device, model, [sae], true);
      const record = await recordFor(subject, device, model, evaluation);
      const { scores, rows } = recordOf(evaluation, {
        ceLossRecovered: evaluation.ceLossRecovered,
      });
      if (options.out !== undefined)
        await writeOut(options.out, { folder, scores, rows, ...record }, await figuresOf(record));
      const { latents: _, ...printed } = record;
      terminal.result({ folder, scores, rows, ...printed }, textOf(record));
      if (options.out === undefined)
        terminal.next(`eval ${id} --out evaluation`, "every latent's numbers and figures");
      else terminal.note(`written to ${options.out}`);
    } finally {
      await model.close();
    }
  } finally {
    await device.close();
  }
}

async function figuresOf({ latents, coverage }: EvaluationRecord): Promise<Figure[]> {
  const { density, meanActivation } = latents as Record<string, number[]>;
  const figures = await latentFigures({ density, meanActivation }, coverage.positions);
  return figures.filter(({ id }) => id === "frequency-log");
}

function textOf(record: EvaluationRecord): string {
  const { coverage, reconstruction, predictions, density, notes } = record;
  const lines = (found: EvaluationRecord["reconstruction"]) =>
    Object.entries(found).map(([name, { value, low, high }]) => [
      ...[name, Number.isFinite(value) ? short(value) : "none"],
      low === null || high === null ? "" : `${short(low)} … ${short(high)}`,
    ]);
  const { positions, predictions: count, documents } = coverage;
  const parts = [
    table(["held-out", "", "95 % interval"], lines(reconstruction)),
    `over ${short(positions)} positions in ${short(documents)} documents, beginning-of-sequence positions left out`,
  ];
  for (const [hookPoint, found] of Object.entries(predictions))
    parts.push(
      "",
      table([`in the model at ${hookPoint}`, "", "95 % interval"], lines(found)),
      `nats, over ${short(count)} predictions of a token of the text`,
    );
  const { alive, dead } = density;
  parts.push(
    "",
    table(
      ["latents", ""],
      latentNumbers(record).map(([name, value]) => [name, short(value)]),
    ),
    `of ${short(alive + dead)} latents, ${short(alive)} of them alive in this text`,
    ...notes,
  );
  return parts.join("\n");
}
