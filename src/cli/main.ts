/**
 * The command `lens`. Only the command that is called is loaded, so that help is instant.
 */
import { Command, CommanderError } from "commander";

import { messageOf, nearestName, UserError } from "../error.ts";
import { ownVersion } from "../runs.ts";
import { currentJob, STOPPED_CODE } from "../workbench/job-folder.ts";
import { showDownloads } from "./downloads.ts";
import { Interrupted } from "./interrupt.ts";
import { Terminal } from "./terminal.ts";

interface Entry {
  name: string;
  summary: string;
  load: () => Promise<{ define: (command: Command) => void }>;
}

/** In the order of the path of the data. */
export const commands: Entry[] = [
  {
    name: "run",
    summary: "the whole path: activations, autoencoder, features, report",
    load: () => import("./run.ts"),
  },
  {
    name: "collect",
    summary: "run a model over text and store its activations",
    load: () => import("./collect.ts"),
  },
  {
    name: "store",
    summary: "look into stored activations; verify, merge, cut and shuffle them",
    load: () => import("./store.ts"),
  },
  {
    name: "train",
    summary: "train an autoencoder on activations",
    load: () => import("./train.ts"),
  },
  {
    name: "eval",
    summary: "measure an autoencoder on held-out data",
    load: () => import("./eval.ts"),
  },
  {
    name: "features",
    summary: "find what excites each latent, and write the report",
    load: () => import("./features.ts"),
  },
  {
    name: "feature",
    summary: "show one latent: what excites it, what it does, what is near it",
    load: () => import("./feature.ts"),
  },
  {
    name: "layers",
    summary: "match features across layers, checkpoints or autoencoders",
    load: () => import("./layers.ts"),
  },
  {
    name: "compose",
    summary: "find features that go together, exclude each other, predict a third",
    load: () => import("./compose.ts"),
  },
  {
    name: "ablate",
    summary: "measure what the model loses without a latent",
    load: () => import("./ablate.ts"),
  },
  {
    name: "attribute",
    summary: "find the latents behind the model's next token",
    load: () => import("./attribute.ts"),
  },
  {
    name: "concepts",
    summary: "find which concepts of a labelled text the latents stand for",
    load: () => import("./concepts.ts"),
  },
  {
    name: "explain",
    summary: "name what the latents respond to, and put the names to the test",
    load: () => import("./explain.ts"),
  },
  {
    name: "steer",
    summary: "let a model continue a text with features turned up or down",
    load: () => import("./steer.ts"),
  },
  {
    name: "export",
    summary: "write a run's autoencoder for other tools",
    load: () => import("./export.ts"),
  },
  {
    name: "serve",
    summary: "look at runs and features in a browser, and start, label, steer there",
    load: () => import("./serve.ts"),
  },
  {
    name: "runs",
    summary: "list, show and compare runs",
    load: () => import("./runs.ts"),
  },
  {
    name: "generate",
    summary: "let a model continue a text",
    load: () => import("./generate.ts"),
  },
  {
    name: "models",
    summary: "say what a model is and takes, or which there are",
    load: () => import("./models.ts"),
  },
  {
    name: "corpus",
    summary: "print the built-in stories with their labelled spans",
    load: () => import("./corpus.ts"),
  },
  {
    name: "devices",
    summary: "show what this machine can compute with",
    load: () => import("./devices.ts"),
  },
  {
    name: "config",
    summary: "show the resolved settings, or their JSON Schema",
    load: () => import("./config.ts"),
  },
];

const HELP_WIDTH = 100;

/** The command line with all commands, those in `defined` complete with their flags. */
export async function commandLine(defined: string[]): Promise<Command> {
  const program = new Command("lens")
    .description(
      "Sparse autoencoders for language models: collect activations, train, look at the features.",
    )
    .version(ownVersion(), "-V, --version", "print the version")
    .helpOption("-h, --help", "print this help; `lens COMMAND --help` lists a command's settings")
    .helpCommand(false)
    .addHelpText(
      "after",
      "\n`lens run` alone does everything once, with the built-in model and text.",
    )
    .configureHelp({ helpWidth: HELP_WIDTH });
  for (const { name, summary, load } of commands) {
    const command = program.command(name).description(capitalized(summary)).summary(summary);
    command.helpOption("-h, --help", "print this help");
    if (defined.includes(name)) (await load()).define(command);
  }
  for (const command of [program, ...descendants(program)])
    command
      .configureHelp({ helpWidth: HELP_WIDTH })
      .configureOutput({ outputError: (text, write) => write(text + nearestFlag(command, text)) })
      .showSuggestionAfterError()
      .exitOverride();
  return program;
}

/** The flag that an unknown one may have meant, however it is spelt: the parser itself compares long names only. */
function nearestFlag(command: Command, error: string): string {
  const unknown = /unknown option '(--[^'=]+)/.exec(error)?.[1];
  if (unknown === undefined || error.includes("Did you mean")) return "";
  const plain = (flag: string) => flag.replace(/[-_.]/g, "").toLowerCase();
  const flags = command.options.flatMap(({ short, long }) => [short, long]);
  const known = new Map(flags.flatMap((flag) => (flag ? [[plain(flag), flag]] : [])));
  const nearest = nearestName(plain(unknown), known.keys());
  return nearest === undefined ? "" : `(Did you mean ${known.get(nearest)}?)\n`;
}

/** Runs one command line and sets the exit code: 0, 1 when something was wrong, 130 when interrupted. */
export async function runCommandLine(args: string[]): Promise<void> {
  // A reader that has seen enough (`lens corpus | head`) is no error.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(0);
    throw error;
  });
  const program = await commandLine(args.slice(0, 1));
  if (args.length === 0) {
    program.outputHelp();
    return;
  }
  try {
    const job = currentJob();
    program.hook("preAction", (_, command) => showDownloads(new Terminal(command.opts())));
    await program.parseAsync(args, { from: "user" });
    job?.exit(0);
  } catch (error) {
    process.exitCode = exitCodeFor(error);
    currentJob()?.exit(process.exitCode, messageOf(error));
  }
}

function exitCodeFor(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode;
  if (error instanceof Interrupted) {
    process.stderr.write(`${error.message}\n`);
    return STOPPED_CODE;
  }
  if (error instanceof UserError) {
    process.stderr.write(`error: ${error.message}\n`);
    return 1;
  }
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  process.stderr.write(
    `${text}\n\nThis is a mistake in Lens, not in what you did. Please report it with the command and the lines above.\n`,
  );
  return 1;
}

function descendants(command: Command): Command[] {
  return command.commands.flatMap((child) => [child, ...descendants(child)]);
}

function capitalized(summary: string): string {
  return `${summary[0].toUpperCase()}${summary.slice(1)}.`;
}
