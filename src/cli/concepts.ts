/** `lens concepts`: which concepts of a labelled text a run's latents stand for. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";

import { conceptAlignment, positionLimit } from "../analysis/concept-alignment.ts";
import { CONCEPT_COLUMNS, conceptFigure, conceptRows, conceptSummary } from "../analysis/concept-report.ts"; // prettier-ignore
import { renderPng } from "../analysis/plots.ts";
import { openDevice } from "../device/device.ts";
import { UserError } from "../error.ts";
import { documents } from "../model/text.ts";
import { heldOutDocuments, openModelRun } from "../workbench/model-run.ts";
import { interruptibly } from "./analyse.ts";
import { interruptible } from "./interrupt.ts";
import { readingOf } from "../workbench/reading.ts";
import { Progress } from "./progress.ts";
import { shortPath, table, Terminal } from "./terminal.ts";

interface Options {
  runs: string;
  labels?: string;
  tokens: string;
  out?: string;
  quiet?: boolean;
  json?: boolean;
}

export function define(command: Command): void {
  command
    .argument("[run]", "a run: id, folder or `latest`", "latest")
    .description(
      "Find the latent that fits each labelled concept best, on half of the documents, and measure it on " +
        "the other half, beside shuffled labels, raw dimensions, random directions, principal components and " +
        "linear probes. Writes concepts.json and a figure into the run's concepts/.",
    )
    .option("--runs <folder>", "the folder that holds the run folders", "runs")
    .option(
      "--labels <file>",
      'documents with spans, one JSON object a line: {"text": "…", "spans": [{"concept": "…", "start": 0, "end": 5}]}; absent: the run\'s held-out text',
    )
    .option("--tokens <integer>", "tokens to read", "200000")
    .option("--out <folder>", "where concepts.json and the figure go; absent: the run's concepts/")
    .option("--quiet", "print errors and the result only")
    .option("--json", "print the result as JSON")
    .action((id: string, options: Options) => interruptible((signal) => run(id, options, signal)));
}

async function run(id: string, options: Options, signal: AbortSignal): Promise<void> {
  const terminal = new Terminal(options);
  const tokens = Number(options.tokens);
  if (!Number.isSafeInteger(tokens) || tokens < 1)
    throw new UserError(`--tokens must be a whole number above 0; got ${options.tokens}`);
  const opened = await openModelRun(options.runs, id, "looking for concepts");
  const { folder, config, activations, sae, model, places } = opened;
  const { data, field } = activations;
  const limit = positionLimit(sae.spec.dIn);
  if (tokens > limit)
    terminal.note(
      `reading ${limit} of ${tokens} tokens: activations of width ${sae.spec.dIn} are held in memory, up to 512 MB`,
    );
  const device = await openDevice(config.device, { threads: config.threads });
  const quiet = terminal.quiet;
  const reading = new Progress({ label: "encoding", unit: "tokens", total: Math.min(tokens, limit), quiet }); // prettier-ignore
  let probing: Progress | undefined;
  try {
    const text =
      options.labels === undefined
        ? heldOutDocuments(config, model)
        : documents(options.labels, { field, renderChat: model.tokenizer.renderChat });
    const found = await conceptAlignment(sae, model, interruptibly(text, signal), {
      ...{ device, hookPoint: places.hookPoint },
      ...{ tokens, seed: config.seed, ...readingOf(activations) },
      onProgress: ({ done }) => reading.update(done),
      onConcept: ({ done, total }) => {
        signal.throwIfAborted();
        if (!probing) reading.end();
        probing ??= new Progress({ label: "comparing", unit: "concepts", total, quiet });
        probing.update(done);
      },
    });
    probing?.end();
    const out = options.out ?? join(folder, "concepts");
    mkdirSync(out, { recursive: true });
    const provenance = { run: id, labels: options.labels ?? data, model: model.info.source };
    writeFileSync(join(out, "concepts.json"), JSON.stringify({ provenance, ...found }, null, 2) + "\n"); // prettier-ignore
    const { svg } = await conceptFigure(found);
    writeFileSync(join(out, "concepts.svg"), svg);
    writeFileSync(join(out, "concepts.png"), await renderPng(svg));
    terminal.result(
      { folder: out, ...found },
      `${table(CONCEPT_COLUMNS, conceptRows(found.concepts))}\n\n${conceptSummary(found)}\n\nwritten to ${shortPath(out)}`,
    );
    const [first] = found.concepts;
    terminal.next(`steer --run ${shortPath(folder)} --add ${first.best.latent}=8`, `turn up the latent of ${first.concept}`); // prettier-ignore
  } catch (error) {
    (probing ?? reading).stop();
    throw error;
  } finally {
    await model.close();
    await device.close();
  }
}
