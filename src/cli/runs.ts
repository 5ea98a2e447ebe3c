/** `lens runs`: what has been run, how it went, and what differs. */
import type { Command } from "commander";

import { compareRuns, findRun, listRuns, readMetrics, type RunInfo } from "../runs.ts";
import { duration, short } from "../readable.ts";
import { lens, table, Terminal } from "./terminal.ts";

interface Options {
  runs: string;
  json?: boolean;
}

export function define(command: Command): void {
  const sub = (usage: string, description: string) =>
    command
      .command(usage)
      .description(description)
      .option("--runs <folder>", "the folder that holds the run folders", "runs")
      .option("--json", "print JSON");

  sub("list", "List the runs, oldest first.").action((options: Options) => {
    list(options);
  });
  sub("show [run]", "Show one run: settings, metrics, files.")
    .summary("show one run")
    .action((id: string | undefined, options: Options) => {
      show(id ?? "latest", options);
    });
  sub("compare <runs...>", "Show mean scores side by side, and the settings that differ.").action(
    (ids: string[], options: Options) => {
      compare(ids, options);
    },
  );
  command.addHelpText(
    "after",
    "\nA run is named by its folder, its id, an unambiguous beginning of its id, or `latest`.",
  );
}

function list(options: Options): void {
  const runs = listRuns(options.runs);
  const rows = runs.map((run) => {
    const scores = run.summary?.eval_scores ?? {};
    const [fvu, l0] = [scores.fvu?.mean, scores.l0?.mean];
    return [
      run.id,
      run.status,
      run.summary ? duration(run.summary.duration) : "",
      fvu === undefined ? "" : short(fvu),
      l0 === undefined ? "" : short(l0),
    ];
  });
  const text =
    runs.length === 0
      ? `no runs in ${options.runs}; ${lens("run")} makes one`
      : table(["run", "status", "took", "fvu", "l0"], rows);
  new Terminal(options).result(
    runs.map(({ config: _config, ...run }) => run),
    text,
  );
}

function show(id: string, options: Options): void {
  const run = findRun(options.runs, id);
  const last = readMetrics(run.folder).at(-1);
  new Terminal(options).result({ ...run, lastMetrics: last }, describeRun(run, last));
}

function describeRun(run: RunInfo, last: Record<string, unknown> | undefined): string {
  const { provenance: _provenance, $schema: _schema, ...settings } = run.config;
  const lines = [
    `${run.id}`,
    `  status   ${run.status}${run.summary?.error ? `: ${run.summary.error}` : ""}`,
    `  started  ${run.started}`,
    `  folder   ${run.folder}`,
  ];
  if (run.summary) lines.push(`  took     ${duration(run.summary.duration)}`);
  const scores = Object.entries(run.summary?.eval_scores ?? {});
  if (scores.length > 0) {
    lines.push("", "scores");
    lines.push(
      indent(
        table(
          ["", ""],
          scores.map(([name, s]) => [name, short(s.mean)]),
        ).trim(),
      ),
    );
  }
  if (last) {
    const numbers = Object.entries(last).filter(([, value]) => typeof value === "number");
    lines.push("", "last metrics");
    lines.push(
      indent(
        table(
          ["", ""],
          numbers.map(([k, v]) => [k, short(v as number)]),
        ).trim(),
      ),
    );
  }
  lines.push("", "settings", indent(JSON.stringify(settings, null, 2)));
  return lines.join("\n");
}

function compare(ids: string[], options: Options): void {
  const runs = ids.map((id) => findRun(options.runs, id));
  const comparison = compareRuns(runs);
  const cell = (value: unknown) =>
    value === undefined
      ? "-"
      : typeof value === "number"
        ? short(value)
        : typeof value === "string"
          ? value
          : JSON.stringify(value);
  const rows = (values: Record<string, unknown[]>) =>
    Object.entries(values).map(([name, v]) => [name, ...v.map(cell)]);
  const numbers = runs.map((_, i) => `[${i + 1}]`);
  const text = [
    ...comparison.experiments.map((e, i) => `[${i + 1}] ${e.id} (${e.status})`),
    "",
    table(["score", ...numbers], rows(comparison.metrics)),
    "",
    Object.keys(comparison.config).length === 0
      ? "the settings are the same"
      : table(["setting", ...numbers], rows(comparison.config)),
  ].join("\n");
  new Terminal(options).result(comparison, text);
}

function indent(text: string): string {
  return text.replace(/^/gm, "  ");
}
