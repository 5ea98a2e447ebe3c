/** `lens export`: an autoencoder as others read it. */
import type { Command } from "commander";

import { UserError } from "../error.ts";
import { forSaeLens, loadSae, saveSae, saveTorchCheckpoint } from "../sae/formats.ts";
import { findRun, ownVersion } from "../runs.ts";
import { saeFolder } from "../workbench/model-run.ts";
import { interruptible } from "./interrupt.ts";
import { Progress } from "./progress.ts";
import { short } from "../readable.ts";
import { Terminal } from "./terminal.ts";

interface Options {
  site?: boolean;
  database?: string;
  format: string;
  out?: string;
  runs: string;
  json?: boolean;
}

const FORMATS = ["pt", "saelens"];

export function define(command: Command): void {
  command
    .argument(
      "<runs...>",
      "a run (id, folder or `latest`), or a folder with cfg.json; with --site one run or several",
    )
    .description(
      "Write an autoencoder for other tools. pt: a file for torch.load(weights_only=True) with " +
        "model_state_dict, config, training_config and metrics. saelens: the folder SAELens 6 reads. " +
        "With --site instead: the dashboard with these runs, read-only, as a folder for any web host.",
    )
    .option("--site", "write a static site")
    .option("--database <setting>", "of --site: where labels are kept; absent: as lens serve")
    .option("--format <pt|saelens>", "what to write", "pt")
    .option("--out <path>", "where to; absent: beside the autoencoder")
    .option("--runs <folder>", "the folder that holds the run folders", "runs")
    .option("--json", "print the result as JSON")
    .action((ids: string[], options: Options) =>
      options.site ? interruptible((signal) => site(ids, options, signal)) : run(ids, options),
    );
}

/** Runs must lie in the runs folder, since links of the site name them by their ids. */
async function site(ids: string[], options: Options, signal: AbortSignal): Promise<void> {
  const terminal = new Terminal(options);
  const { exportSite } = await import("../server/site.ts");
  const found = ids.map((id) => findRun(options.runs, id));
  const out = options.out ?? "site";
  const database = options.database ?? process.env.LENS_DATABASE;
  let progress: Progress | undefined;
  const { bytesPerLatent } = await exportSite({
    ...{ runs: options.runs, ids: found.map(({ id }) => id), out, version: ownVersion(), signal },
    ...(database && { database }),
    onProgress: (done, total) => {
      progress ??= new Progress({
        ...{ label: "exporting", unit: "latents", total, quiet: terminal.quiet },
      });
      progress.update(done);
    },
  }).finally(() => progress?.stop());
  progress?.end(`${short(Math.round(bytesPerLatent))} bytes each`);
  terminal.result(
    { out, runs: found.map(({ id }) => id), bytesPerLatent },
    `${out}: copy it to any web host, or look at it here with a static server such as npx serve ${out}`,
  );
}

async function run([id, ...more]: string[], options: Options): Promise<void> {
  const { format } = options;
  if (more.length > 0)
    throw new UserError(`one autoencoder is written at a time; got ${[id, ...more].join(", ")}`);
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
