/** `lens steer`: a text as the model continues it, and as it does with features turned up or down. */
import type { Command } from "commander";

import { openFeatures } from "../analysis/features.ts";
import { latentsOf } from "../analysis/find.ts";
import { steering, type Change, type Edit, type Scope } from "../analysis/steer.ts";
import { UserError } from "../error.ts";
import { generate, type GeneratedToken, type Intervention } from "../model/generate.ts";
import type { Model } from "../model/model.ts";
import type { Sae } from "../sae/sae.ts";
import { openModelRun } from "../workbench/model-run.ts";
import { dose } from "./dose.ts";
import { findTarget, type Target } from "./find.ts";
import { numberOf, sampling, samplingOptions, type SamplingOptions } from "./generate.ts";
import { lens, Terminal } from "./terminal.ts";

interface Options extends SamplingOptions {
  runs: string;
  run: string;
  find?: string;
  by: string;
  together: string;
  strength: string;
  add?: string[];
  set?: string[];
  scale?: string[];
  clamp?: string[];
  cap?: string[];
  ablate?: string[];
  orthogonal?: string[];
  positions?: string;
  from?: string;
  to?: string;
  when?: string;
  probabilities?: boolean;
  dose?: string;
  concept?: string;
  regex?: string;
  texts: string;
  out?: string;
  json?: boolean;
  quiet?: boolean;
}

const KINDS = {
  add: "a + value",
  set: "value everywhere",
  scale: "value · a",
  clamp: "value where it fires",
  cap: "at most value",
  orthogonal: "the activation's component along its direction becomes value",
} as const;

export function define(command: Command): void {
  command
    .argument("[text...]", "how the text begins; absent: as the model likes")
    .description(
      "Let a model continue a text twice: as it is, and with features of a run changed. What the " +
        "autoencoder does not explain stays as it is, so that a change of nothing changes nothing.",
    )
    .option("--run <id>", "the run whose autoencoder and model are used", "latest")
    .option("--runs <folder>", "the folder that holds the run folders", "runs")
    .option("--find <words>", "turn up the feature that stands for this, by label or token")
    .option(
      "--by <meaning|effect>",
      "of --find: by what the feature stands for, or by how much it raises the rate of a concept of the corpus",
      "meaning",
    )
    .option(
      "--together <n>",
      "of --by effect: up to this many latents at once, if that does more at the same cost",
      "1",
    )
    .option(
      "--strength <number>",
      "of --find: how much; 1 is its largest activation, with --by effect what raises perplexity to about 1.3 times",
      "1",
    );
  for (const [kind, meaning] of Object.entries(KINDS))
    command.option(
      `--${kind} <latent=value,…>`,
      `change the latent's activation a: ${meaning}`,
      collected,
    );
  command
    .option("--ablate <latent,…>", "change the latent's activation to 0", collected)
    .option("--positions <prompt|generated>", "act there only")
    .option("--from <integer>", "act from this token on")
    .option("--to <integer>", "act before this token only")
    .option("--when <latent>above>", "act only where this latent fires, or exceeds a value: 12>0.5")
    .option("--probabilities", "list the tokens with the probability each was given")
    .option(
      "--dose <strengths>",
      "instead of two texts: what --find or --add does to many, at each of these strengths (0.5,1,2), beside controls",
    )
    .option("--concept <name>", "with --dose: count the words that show this concept of the corpus")
    .option("--regex <pattern>", "with --dose: count the matches of this")
    .option("--texts <integer>", "with --dose: texts for each strength", "24")
    .option("--out <folder>", "with --dose: where the figures go; absent: the run's steering/");
  samplingOptions(command)
    .option("--quiet", "print errors and the texts only")
    .option("--json", "print both texts with their tokens as JSON")
    .action(run);
}

/** Values of an option that may be given several times, each with commas; never the words after it. */
function collected(text: string, before: readonly string[] = []): string[] {
  return [...before, ...text.split(",")];
}

async function run(words: string[], options: Options): Promise<void> {
  const terminal = new Terminal(options);
  const settings = sampling(options);
  const opened = await openModelRun(options.runs, options.run, "steering");
  const { folder, config, sae, model } = opened;
  const { hookPoint } = opened.places;
  try {
    model.requireNextTokens("continuations of a text");
    const target = options.find
      ? await findTarget(options.find, options.by, {
          ...{ sae, model, config, terminal, hookPoint: hookPoint[0] },
          together: numberOf("together", options.together),
          features: await openFeatures(`${folder}/features`),
        })
      : targetOf(options);
    const edits = editsOf(options, options.find ? target : undefined);
    const { bosId, eosId } = model.tokenizer;
    const prompt = words.join(" ");
    const ids = Int32Array.of(
      ...(bosId === null ? [] : [bosId]),
      ...model.tokenizer.encode(prompt).ids,
    );
    if (options.dose !== undefined) {
      const steer = { hookPoint, promptLength: ids.length };
      const generation = { ...settings, stopTokens: eosId === null ? [] : [eosId] };
      await dose(sae, model, { ...options, dose: options.dose }, folder, terminal, {
        ...{ prompt: ids, generation, steer, target },
      });
      return;
    }
    const intervention = steering(sae, model, edits, {
      ...{ hookPoint, promptLength: ids.length },
    });
    const stopTokens = eosId === null ? [] : [eosId];
    const texts = await sideBySide(model, ids, { ...settings, stopTokens }, intervention, {
      prompt,
      terminal,
    });
    const [plain, steered] = texts;
    if (terminal.json) terminal.result({ prompt, edits, default: plain, steered }, "");
    else if (options.probabilities) process.stdout.write(`\n${probabilityTable(model, texts)}\n`);
    terminal.note(`\n${changesText(sae, edits)}; hook point ${intervention.hookPoint}`);
    if (options.find)
      terminal.note(
        `Other strengths: ${lens(`steer --find ${JSON.stringify(options.find)} --by ${options.by}${options.together === "1" ? "" : ` --together ${options.together}`} --strength 2`)}`,
      );
  } finally {
    await model.close();
  }
}

/** With --dose, the latents that --add names, strength 1 being the value that it gives them. */
function targetOf({ dose, add = [] }: Options): Target | undefined {
  if (dose === undefined || add.length === 0) return undefined;
  const edits = add.map((text) => latentAndValue("add", text));
  const [{ latent, value }, ...more] = edits;
  const other = more.find((one) => one.value !== value);
  if (other)
    throw new UserError(
      `--dose turns latents up together: give them one value, strength 1; got ${value} and ${other.value}`,
    );
  const also = more.length > 0 ? { with: more.map((one) => one.latent) } : {};
  return { found: { latent, ...also, because: "given by --add" }, unit: value, others: [] };
}

/** What the flags ask for, in the order of KINDS; a feature that was looked for comes first. */
function editsOf(options: Options, target: Target | undefined): Edit[] {
  const scope = scopeOf(options);
  const edits: Edit[] = [];
  if (target) {
    const value = numberOf("strength", options.strength) * target.unit;
    for (const latent of latentsOf(target.found))
      edits.push({ latent, kind: "add", value, ...scope });
  }
  for (const kind of Object.keys(KINDS) as (keyof typeof KINDS)[])
    for (const text of options[kind] ?? []) {
      const { latent, value } = latentAndValue(kind, text);
      const change: Change = { kind, value };
      edits.push({ latent, ...change, ...scope });
    }
  for (const text of options.ablate ?? [])
    edits.push({ latent: numberOf("ablate", text), kind: "ablate", ...scope });
  return edits;
}

function latentAndValue(kind: string, text: string): { latent: number; value: number } {
  const [, latent, value] = /^(\d+)=(.+)$/.exec(text) ?? [];
  if (latent === undefined)
    throw new UserError(`--${kind} takes latent=value, such as 123=4.5; got ${text}`);
  return { latent: Number(latent), value: numberOf(kind, value) };
}

function scopeOf({ positions, from, to, when }: Options): Scope {
  if (positions !== undefined && positions !== "prompt" && positions !== "generated")
    throw new UserError(`positions must be prompt or generated; got ${positions}`);
  const [, latent, above] = /^(\d+)(?:>(.+))?$/.exec(when ?? "") ?? [];
  if (when !== undefined && latent === undefined)
    throw new UserError(`--when takes a latent, or latent>value; got ${when}`);
  return {
    ...(positions && { positions }),
    ...(from !== undefined && { from: numberOf("from", from) }),
    ...(to !== undefined && { to: numberOf("to", to) }),
    ...(latent !== undefined && {
      when: { latent: Number(latent), ...(above && { above: numberOf("when", above) }) },
    }),
  };
}

interface Text {
  text: string;
  tokens: GeneratedToken[];
}

/** Both texts at once, line beside line as each becomes whole; with --json nothing is shown. */
async function sideBySide(
  model: Model,
  ids: Int32Array,
  settings: Parameters<typeof generate>[2],
  intervention: Intervention,
  { prompt, terminal }: { prompt: string; terminal: Terminal },
): Promise<[Text, Text]> {
  const { eosId } = model.tokenizer;
  const columns = new Columns(["default", "steered"], process.stdout.columns ?? 100);
  const streams = [undefined, intervention].map((one) =>
    generate(model, ids, one ? { ...settings, intervention: one } : settings),
  );
  const texts = streams.map((): Text => ({ text: "", tokens: [] }));
  const open = new Set(streams.keys());
  const show = (isLast: boolean) => {
    if (terminal.json) return;
    const lines = columns.lines(
      texts.map(({ text }) => prompt + text),
      isLast,
    );
    for (const line of lines) process.stdout.write(`${line}\n`);
  };
  while (open.size > 0) {
    for (const i of open) {
      const { value, done } = await streams[i].next();
      if (done || value.token === eosId) {
        open.delete(i);
        continue;
      }
      texts[i].tokens.push(value);
      texts[i].text = model.tokenizer.decode(texts[i].tokens.map(({ token }) => token));
    }
    show(false);
  }
  show(true);
  return texts as [Text, Text];
}

/** Texts in columns, handed out line by line. */
export class Columns {
  readonly #heads: readonly string[];
  readonly #width: number;
  #shown = 0;

  constructor(heads: readonly string[], terminalWidth: number) {
    this.#heads = heads;
    this.#width = Math.max(20, Math.floor((terminalWidth - 3) / heads.length));
  }

  /** The lines that will not change any more and were not given yet: with `isLast` all that are left. */
  lines(texts: readonly string[], isLast: boolean): string[] {
    const wrapped = texts.map((text) => wrap(text, this.#width));
    const ready = isLast
      ? Math.max(...wrapped.map((lines) => lines.length))
      : Math.min(...wrapped.map((lines) => lines.length - 1));
    const lines: string[] = [];
    const line = (cells: string[]) =>
      cells.map((cell, i) => (i < cells.length - 1 ? cell.padEnd(this.#width) : cell)).join(" │ ");
    if (this.#shown === 0 && ready > 0)
      lines.push(line([...this.#heads]), line(this.#heads.map(() => "─".repeat(this.#width))));
    for (; this.#shown < ready; this.#shown++)
      lines.push(line(wrapped.map((column) => column[this.#shown] ?? "")));
    return lines;
  }
}

/** Lines of at most `width` characters, broken at spaces where there are any. */
function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const paragraph of text.split("\n")) {
    let line = "";
    for (const word of paragraph.split(" ")) {
      const longer = line === "" ? word : `${line} ${word}`;
      if (longer.length <= width) {
        line = longer;
        continue;
      }
      if (line !== "") lines.push(line);
      let rest = word;
      for (; rest.length > width; rest = rest.slice(width)) lines.push(rest.slice(0, width));
      line = rest;
    }
    lines.push(line);
  }
  return lines;
}

/** Token by token, with the probability that the model gave it before it was drawn. */
function probabilityTable(model: Model, texts: readonly Text[]): string {
  const cell = (token: GeneratedToken | undefined) =>
    token
      ? `${`${(100 * Math.exp(token.logprob)).toFixed(1)} %`.padStart(8)}  ${JSON.stringify(model.tokenizer.decode([token.token]))}`
      : "";
  const rows = Math.max(...texts.map(({ tokens }) => tokens.length));
  const width = 30;
  return Array.from({ length: rows }, (_, i) =>
    texts
      .map(({ tokens }) => cell(tokens[i]).padEnd(width))
      .join(" │ ")
      .trimEnd(),
  ).join("\n");
}

function changesText({ spec }: Sae, edits: readonly Edit[]): string {
  if (edits.length === 0)
    return `no change was asked for, so both texts are one: --find "rain", or --add 123=4 (latents 0 to ${spec.dSae - 1})`;
  return edits
    .map(
      (edit) =>
        `latent ${edit.latent}: ${edit.kind}${edit.kind === "ablate" ? "" : ` ${Number(edit.value.toPrecision(4))}`}`,
    )
    .join(", ");
}
