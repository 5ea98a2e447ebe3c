/** `lens generate`: text from a model, as it comes. */
import type { Command } from "commander";

import { UserError } from "../error.ts";
import { generate } from "../model/generate.ts";
import { loadModel } from "../model/model.ts";
import { Terminal } from "./terminal.ts";

/** Flags of how tokens are drawn. */
export interface SamplingOptions {
  tokens: string;
  temperature: string;
  topK?: string;
  topP?: string;
  seed: string;
}

interface Options extends SamplingOptions {
  model: string;
  weights: string;
  json?: boolean;
}

export function samplingOptions(command: Command): Command {
  return command
    .option("--tokens <integer>", "new tokens at most", "120")
    .option("--temperature <number>", "0 always takes the most likely token", "0.8")
    .option("--top-k <integer>", "sample among the k most likely tokens only")
    .option("--top-p <number>", "sample among the fewest tokens with this probability together")
    .option("--seed <integer>", "same seed, same text", "0");
}

/** What `generate` takes. @throws UserError for what is no number. */
export function sampling(options: SamplingOptions) {
  const { tokens, temperature, topK, topP, seed } = options;
  return {
    maxNewTokens: numberOf("tokens", tokens),
    temperature: numberOf("temperature", temperature),
    topK: topK === undefined ? undefined : numberOf("topK", topK),
    topP: topP === undefined ? undefined : numberOf("topP", topP),
    seed: numberOf("seed", seed),
  };
}

/** @throws UserError for what is no number. */
export function numberOf(name: string, text: string): number {
  const value = Number(text);
  if (text.trim() === "" || Number.isNaN(value))
    throw new UserError(`${name} must be a number; got ${text}`);
  return value;
}

export function define(command: Command): void {
  command
    .argument("[text...]", "how the text begins; absent: as the model likes")
    .description("Let a model continue a text, until it ends it or the tokens are used up.")
    .option(
      "--model <text>",
      "builtin:tiny, a folder in Hugging Face layout, or a model of its hub: owner/name[@revision]",
      "builtin:tiny",
    )
    .option(
      "--weights <checkpoint|int8>",
      "of its linear layers: the checkpoint's, or 8-bit integers (activations.modelWeights)",
      "checkpoint",
    );
  samplingOptions(command).option("--json", "print {prompt, text, tokens} as JSON").action(run);
}

async function run(words: string[], options: Options): Promise<void> {
  const terminal = new Terminal(options);
  const settings = sampling(options);
  const { weights } = options;
  if (weights !== "checkpoint" && weights !== "int8")
    throw new UserError(`weights must be checkpoint or int8; got ${weights}`);
  const model = await loadModel(options.model, { weights });
  try {
    model.requireNextTokens("continuations of a text");
    const { tokenizer } = model;
    const { bosId, eosId } = tokenizer;
    const prompt = words.join(" ");
    const ids = [...(bosId === null ? [] : [bosId]), ...tokenizer.encode(prompt).ids];
    if (!terminal.json) process.stdout.write(prompt);
    const made: { token: number; logprob: number }[] = [];
    const stopTokens = eosId === null ? [] : [eosId];
    let shown = 0;
    const text = () => tokenizer.decode(made.map(({ token }) => token));
    for await (const token of generate(model, Int32Array.from(ids), { ...settings, stopTokens })) {
      if (token.token === eosId) break;
      made.push(token);
      if (terminal.json) continue;
      // A character may be spread over tokens: it is shown when it is whole.
      const sofar = text();
      if (sofar.endsWith("\uFFFD")) continue;
      process.stdout.write(sofar.slice(shown));
      shown = sofar.length;
    }
    if (terminal.json) terminal.result({ prompt, text: text(), tokens: made }, "");
    else process.stdout.write(`${text().slice(shown)}\n`);
  } finally {
    await model.close();
  }
}
