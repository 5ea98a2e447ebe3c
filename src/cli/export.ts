/** `lens export`: an autoencoder as others read it. */
import type { Command } from "commander";

import { UserError } from "../error.ts";
import { forSaeLens, loadSae, saveSae, saveTorchCheckpoint } from "../sae/formats.ts";
import { saeFolder } from "../workbench/model-run.ts";
import { Terminal } from "./terminal.ts";

interface Options {
  format: string;
  out?: string;
  runs: string;
  json?: boolean;
}

const FORMATS = ["pt", "saelens"];

export function define(command: Command): void {
  command
    .argument("<run>", "a run (id, folder or `latest`), or a folder with cfg.json")
    .description(
      "Write an autoencoder for other tools. pt: a file for torch.load(weights_only=True) with " +
        "model_state_dict, config, training_config and metrics. saelens: the folder SAELens 6 reads.",
    )
    .option("--format <pt|saelens>", "what to write", "pt")
    .option("--out <path>", "where to; absent: beside the autoencoder")
    .option("--runs <folder>", "the folder that holds the run folders", "runs")
    .option("--json", "print the result as JSON")
    .action(run);
}

async function run(id: string, options: Options): Promise<void> {
  const { format } = options;
  if (!FORMATS.includes(format))
    throw new UserError(`format must be one of ${FORMATS.join(", ")}; got ${format}`);
  const folder = saeFolder(options.runs, id);
  const { sae, details } = await loadSae(folder);
  const out = options.out ?? (format === "pt" ? `${folder}.pt` : `${folder}-export`);
  if (format === "pt") await saveTorchCheckpoint(out, sae, details);
  else await saveSae(out, forSaeLens(sae), details);
  const load =
    format === "pt"
      ? `torch.load("${out}", weights_only=True)`
      : `SAE.load_from_disk("${out}")  # from sae_lens import SAE`;
  const { dIn, dOut, dSae, heads, transcoder } = sae.spec;
  const order = (details.hookPoints ?? heads.map((width) => `${width} wide`)).join(", ");
  const note =
    heads.length > 1
      ? `\na crosscoder is one autoencoder of its hook points' activations side by side: ${order}`
      : "";
  new Terminal(options).result(
    { format, out, dIn, dSae, ...(transcoder && { dOut }) },
    `${out}\nin Python: ${load}${note}`,
  );
}
