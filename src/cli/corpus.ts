/** `lens corpus`: the built-in stories, for people to read and for scripts to use. */
import { once } from "node:events";
import type { Command } from "commander";

import { stories, type Split, type Story } from "../corpus/index.ts";
import { UserError } from "../error.ts";

interface Options {
  split: string;
  seed: string;
  start: string;
  count: string;
  json?: boolean;
}

const SPLITS: Split[] = ["train", "validation", "test"];

export function define(command: Command): void {
  command
    .description(
      "Print stories of the built-in corpus. With --json one story per line, with its labelled " +
        "spans: {id, text, spans: [{concept, start, end}]}, offsets in UTF-16 units.",
    )
    .option("--split <train|validation|test>", "which part", "train")
    .option("--seed <integer>", "seed of the corpus", "0")
    .option("--start <integer>", "number of the first story", "0")
    .option("--count <integer>", "how many stories", "3")
    .option("--json", "print JSON lines")
    .action(print);
}

async function print(options: Options): Promise<void> {
  const split = SPLITS.find((name) => name === options.split);
  if (!split)
    throw new UserError(`split must be one of ${SPLITS.join(", ")}; got ${options.split}`);
  const [seed, start, count] = (["seed", "start", "count"] as const).map((name) => {
    const value = Number(options[name].replaceAll("_", ""));
    if (!Number.isInteger(value) || value < 0)
      throw new UserError(`${name} must be a whole number; got ${options[name]}`);
    return value;
  });
  let left = count;
  if (left === 0) return;
  for (const story of stories(split, { seed, start })) {
    const text = options.json ? JSON.stringify(record(story)) : `${story.text}\n`;
    if (!process.stdout.write(text + "\n")) await once(process.stdout, "drain");
    if (--left === 0) return;
  }
}

function record({ id, text, spans }: Story) {
  return { id, text, spans };
}
