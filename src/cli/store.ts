/** `lens store`: stored activations, looked into, verified, and made into others. */
import type { Command } from "commander";

import { UserError } from "../error.ts";
import { committedShards } from "../model/store/commit.ts";
import { openSource, type DeriveOptions } from "../model/store/derive.ts";
import { storeHash } from "../model/store/identity.ts";
import type { Made } from "../model/store/made.ts";
import { isFinished, readPlan, type StoreManifest } from "../model/store/manifest.ts";
import { mergeStores } from "../model/store/merge.ts";
import { shuffleStore } from "../model/store/shuffle.ts";
import { subsetStore, type SubsetOptions } from "../model/store/subset.ts";
import { verifyStore, type Verification } from "../model/store/verify.ts";
import { sourceText } from "../model/text.ts";
import { short } from "../readable.ts";
import { interruptible, Interrupted } from "./interrupt.ts";
import { Progress } from "./progress.ts";
import { table, Terminal } from "./terminal.ts";

interface Options {
  quiet?: boolean;
  json?: boolean;
}

interface OutOptions extends Options {
  out: string;
}

const DTYPES = ["f32", "f16", "bf16", "int8"] as const;

export function define(command: Command): void {
  const sub = (usage: string, description: string, summary: string) =>
    command
      .command(usage)
      .description(description)
      .summary(summary)
      .option("--quiet", "print errors and the result only")
      .option("--json", "print the result as JSON");
  const making = (usage: string, description: string, summary: string) =>
    sub(usage, description, summary).requiredOption("--out <folder>", "where the new store goes");

  sub("show <store>", "Show what is in a store of activations.", "what is in it").action(
    (path: string, options: Options) => show(path, options),
  );
  sub(
    "verify <store>",
    "Read every file of a store and compare it with what was recorded; a single changed byte is found. " +
      "The exit code is 1 when something is damaged, or the store is unfinished.",
    "find damaged files",
  ).action((path: string, options: Options) =>
    interruptible((signal) => verify(path, options, signal)),
  );
  making(
    "merge <stores...>",
    "Make one store of several of the same model and settings, one's rows after the other's.",
    "several as one",
  ).action((paths: string[], options: OutOptions) =>
    make("merging", "rows", options, (derive) => mergeStores(paths, derive)),
  );
  making(
    "subset <store>",
    "Make a smaller store: some rows or documents, some hook points, another type.",
    "a part of one",
  )
    .option("--rows <from:to>", "rows, counted from 0, up to but without the last")
    .option("--documents <from:to>", "documents by their numbers, likewise")
    .option("--hook-points <names>", "hook points, with commas between them")
    .option(`--dtype <${DTYPES.join("|")}>`, "type on disk")
    .action((path: string, options: OutOptions & Record<string, string | undefined>) => {
      const { rows, documents, hookPoints, dtype } = options;
      const part: Omit<SubsetOptions, keyof DeriveOptions> = {
        ...(rows !== undefined && { rows: rangeOf("--rows", rows) }),
        ...(documents !== undefined && { documents: rangeOf("--documents", documents) }),
        ...(hookPoints !== undefined && { hookPoints: hookPoints.split(",") }),
        ...(dtype !== undefined && { dtype: dtypeOf(dtype) }),
      };
      return make("cutting", "rows", options, (derive) =>
        subsetStore(path, { ...part, ...derive }),
      );
    });
  making(
    "shuffle <store>",
    "Make a store of the same rows in random order, every order equally likely. Reads and writes " +
      "everything twice. Interrupted, the same command goes on.",
    "its rows in random order",
  )
    .option("--seed <n>", "of the order", "0")
    .option(
      "--memory <bytes>",
      "for rows, at most about; with k, M or G: 1024, 1024² or 1024³",
      "1G",
    )
    .action((path: string, options: OutOptions & { seed: string; memory: string }) => {
      const seed = Number(options.seed);
      const memoryBytes = bytesOf(options.memory);
      return make(
        "shuffling",
        "rows (each is moved twice)",
        options,
        (derive) => shuffleStore(path, { seed, memoryBytes, ...derive }),
        " --train.shuffle false",
      );
    });
}

async function show(path: string, options: Options): Promise<void> {
  const { finished, ...unfinished } = await stateOf(path);
  const terminal = new Terminal(options);
  if (!finished) {
    terminal.result({ path, finished: false, ...unfinished }, unfinishedText(path, unfinished));
    return;
  }
  const { manifest, hash } = await openSource(path);
  const { shards, hashes: _hashes, ...facts } = manifest;
  const bytes = shards.flatMap(({ files }) => files).reduce((sum, file) => sum + file.bytes, 0);
  const value = { path, finished, hash, bytes, ...facts, shards: shards.length };
  terminal.result(value, describe(path, manifest, hash, bytes));
}

/** How much of a store is there, without reading its shards. */
async function stateOf(path: string) {
  const plan = await readPlan(path);
  if (!plan || isFinished(path)) return { finished: true, rows: 0, shards: 0, planned: 0 };
  const shards = await committedShards(path);
  const rows = shards.reduce((sum, shard) => sum + shard.rows, 0);
  return { finished: false, rows, shards: shards.length, planned: plan.tokens };
}

function unfinishedText(
  path: string,
  { rows, shards, planned }: Pick<Verification, "rows" | "shards" | "planned">,
): string {
  const share = `${short(rows)} of ${short(planned)} rows in ${short(shards)} shards are whole`;
  return `${path} is unfinished: ${share}. The command that began it goes on from there.`;
}

function describe(path: string, manifest: StoreManifest, hash: string, bytes: number): string {
  const {
    rows,
    shards,
    dtype,
    model,
    tokenizer,
    data,
    contextLength,
    bos,
    eos,
    packing,
    tokenMask,
  } = manifest;
  const facts: [string, string][] = [
    ["rows", `${short(rows)} in ${short(shards.length)} shard${shards.length === 1 ? "" : "s"}`],
    ["size", `${short(bytes / 1e6)} MB, ${dtype}`],
    ["hash", hash],
    ["model", `${model.name} (${model.weightsHash})${model.device ? `, on ${model.device}` : ""}`],
    ["tokenizer", tokenizer.hash],
    ["text", `${sourceText(data.source)}, split ${data.split}, seed ${data.seed}`],
    [
      "context",
      `${short(contextLength)} tokens, bos ${bos}${eos ? ", eos" : ""}${packing ? `, ${packing} documents` : ""}`,
    ],
    ["left out", tokenMask.join("; ") || "nothing"],
  ];
  if (manifest.dropped) {
    const counts = Object.entries(manifest.dropped).filter(([, tokens]) => tokens > 0);
    const text = counts.map(([why, tokens]) => `${short(tokens)} (${why})`).join(", ");
    facts.push(["", text || "no token"]);
  }
  if (manifest.made) facts.push(["made by", madeText(manifest.made)]);
  const points = manifest.hookPoints.map(({ name, width }) => {
    const { meanNorm, maxNorm, rms } = manifest.statistics[name];
    return [name, String(width), ...[meanNorm, maxNorm, rms].map(short)];
  });
  return [
    path,
    ...facts.map(([name, text]) => `  ${name.padEnd(10)} ${text}`),
    "",
    table(["hook point", "width", "mean norm", "largest norm", "rms"], points),
  ].join("\n");
}

function madeText(made: Made): string {
  const before = made.by !== "merge" && made.earlier ? `, made by ${madeText(made.earlier)}` : "";
  switch (made.by) {
    case "merge":
      return `merge of ${made.parts.map(({ hash, rows }) => `${hash} (${short(rows)} rows)`).join(", ")}`;
    case "subset": {
      const { rows, documents, dtype } = made;
      const parts = [
        rows && `rows ${rows.join(":")}`,
        documents && `documents ${documents.join(":")}`,
        dtype && `from ${dtype}`,
      ].filter(Boolean);
      return `subset of ${made.of}${parts.length > 0 ? ` (${parts.join(", ")})` : ""}${before}`;
    }
    case "shuffle":
      return `shuffle of ${made.of}, seed ${made.seed}${before}`;
    default:
      return made satisfies never;
  }
}

async function verify(path: string, options: Options, signal: AbortSignal): Promise<void> {
  const terminal = new Terminal(options);
  let progress: Progress | undefined;
  const found = await verifyStore(path, {
    signal,
    onProgress: ({ done, total }) => {
      const quiet = terminal.quiet;
      progress ??= new Progress({ label: "verifying", unit: "MB", total: megabytes(total), quiet });
      progress.update(megabytes(done));
    },
  });
  progress?.end();
  const { finished, damaged, rows, shards, bytes, hash } = found;
  const lines = damaged.map(({ path: name, problem }) => `${name} ${problem}`);
  if (damaged.length > 0)
    lines.push(
      `${damaged.length} of the files of ${path} ${damaged.length > 1 ? "are" : "is"} damaged: copy them again, or make the store again.`,
    );
  else if (!finished) lines.push(unfinishedText(path, found));
  else
    lines.push(
      `${path} is whole: ${short(rows)} rows in ${short(shards)} shards, ${short(bytes / 1e6)} MB, hash ${hash}`,
    );
  terminal.result({ path, ...found }, lines.join("\n"));
  if (damaged.length > 0 || !finished) process.exitCode = 1;
}

/** Makes a store by `work`, and says what came of it. */
async function make(
  label: string,
  unit: string,
  options: OutOptions,
  work: (derive: DeriveOptions) => Promise<StoreManifest>,
  flags = "",
): Promise<void> {
  const terminal = new Terminal(options);
  const { out } = options;
  let progress: Progress | undefined;
  const made = await interruptible((signal) =>
    work({
      ...{ out, signal },
      onPlan: ({ bytesNeeded, bytesFree }) =>
        terminal.note(
          `disk: ${short(megabytes(bytesNeeded))} MB are needed, ${short(megabytes(bytesFree))} MB are free`,
        ),
      onProgress: ({ done, total }) => {
        progress ??= new Progress({ label, unit, total, start: done, quiet: terminal.quiet });
        progress.update(done);
      },
    }).catch((error: unknown) => {
      progress?.stop();
      if (!(error instanceof Interrupted)) throw error;
      throw new Interrupted(
        "stopped; what is whole is kept, and the same command goes on from there",
      );
    }),
  );
  progress?.end();
  const { rows, hookPoints, shards } = made;
  const names = hookPoints.map(({ name }) => name);
  const hash = await storeHash(made);
  terminal.result(
    { out, rows, shards: shards.length, hookPoints: names, hash },
    `${short(rows)} activations of ${names.join(", ")} in ${short(shards.length)} shards in ${out}, hash ${hash}`,
  );
  const point = names.length > 1 ? ` --activations.hookPoint ${names[0]}` : "";
  terminal.next(
    `train --activations.from folder --activations.path ${out}${point}${flags}`,
    "train on them",
  );
}

const megabytes = (bytes: number) => Math.round(bytes / 1e6);

function rangeOf(flag: string, text: string): [number, number] {
  const match = /^(\d+):(\d+)$/.exec(text.replaceAll("_", ""));
  if (!match) throw new UserError(`${flag} must be FROM:TO, such as 0:1000; got ${text}`);
  return [Number(match[1]), Number(match[2])];
}

function dtypeOf(text: string): (typeof DTYPES)[number] {
  const dtype = DTYPES.find((name) => name === text);
  if (!dtype) throw new UserError(`--dtype must be one of ${DTYPES.join(", ")}; got ${text}`);
  return dtype;
}

function bytesOf(text: string): number {
  const match = /^(\d+(?:\.\d+)?)([kMG]?)$/.exec(text.replaceAll("_", ""));
  if (!match)
    throw new UserError(`--memory must be a number of bytes, such as 500M or 2G; got ${text}`);
  const unit = { "": 1, k: 2 ** 10, M: 2 ** 20, G: 2 ** 30 }[match[2]]!;
  return Math.floor(Number(match[1]) * unit);
}
