/** The pages of docs/ that are made from the code: every command's help, every setting. */
import type { Command } from "commander";

import { commandLine, commands } from "./main.ts";
import { configFields, SECTIONS, type Field } from "./settings.ts";

const MADE = "<!-- Made by `npm run docs` from the code; a test keeps it up to date. -->";

/** docs/cli.md */
export async function cliReference(): Promise<string> {
  const program = await commandLine(commands.map(({ name }) => name));
  const pages = [`# The command line\n\n${MADE}\n`, helpOf(program, "lens")];
  pages.push(
    "Results go to standard output, everything said on the way to standard error. Exit codes: 0 done, " +
      "1 something was wrong (the message says what), 130 interrupted with everything saved.\n\n" +
      "Every setting of a config file is also a flag, with its dotted name: `--sae.k 64`. Settings are\n" +
      "listed in [config.md](config.md); `lens COMMAND --help` lists those that a command knows.\n",
  );
  for (const command of program.commands) {
    pages.push(`## lens ${command.name()}\n`);
    pages.push(helpOf(command, `lens ${command.name()}`));
    for (const child of command.commands)
      pages.push(helpOf(child, `lens ${command.name()} ${child.name()}`));
  }
  return pages.join("\n");
}

/** docs/config.md */
export function configReference(): string {
  const fields = configFields();
  const pages = [
    `# Settings\n\n${MADE}\n`,
    "A config is one YAML or JSON file. Absent settings have their defaults, unknown ones are errors.\n" +
      'A first line `# yaml-language-server: $schema=…/lens.schema.json` (or `"$schema"` in JSON) gives\n' +
      "completion and checking in editors; `lens config schema` prints the schema, and each folder of\n" +
      "runs holds a copy. `lens config show FILE` prints what a file comes to.\n",
  ];
  for (const [section, heading] of Object.entries(SECTIONS)) {
    pages.push(`## ${heading}${section ? ` (\`${section}\`)` : ""}\n`);
    pages.push("| setting | default | meaning |\n| --- | --- | --- |");
    for (const field of fields.filter((f) => f.section === section)) pages.push(row(field));
    pages.push("");
  }
  return pages.join("\n");
}

function row(field: Field): string {
  const { path, description, only, choices, type } = field;
  const initial =
    field.default === undefined ? "" : `\`${JSON.stringify(field.default).replaceAll('"', "")}\``;
  const notes = [choices ? choices.map((c) => `\`${c}\``).join(", ") : type];
  if (only) notes.push(`only for \`${only}\``);
  const text = `${description} (${notes.join("; ")})`.replaceAll("|", "\\|");
  return `| \`${path}\` | ${initial} | ${text} |`;
}

/** A command's help without its settings, which have a page of their own. */
function helpOf(command: Command, name: string): string {
  const help = command.createHelp();
  help.helpWidth = 96;
  const settings = new Map(configFields().map(({ path, section }) => [`--${path}`, section]));
  const visible = help.visibleOptions.bind(help);
  help.visibleOptions = (of) => visible(of).filter(({ long }) => !settings.has(long ?? ""));
  const used = new Set(command.options.map(({ long }) => settings.get(long ?? "")));
  const sections = Object.keys(SECTIONS)
    .filter((section) => used.has(section))
    .map((section) => (section ? `\`--${section}.…\`` : "`--name`, `--seed`, `--device` …"));
  const text = help.formatHelp(command, help).trimEnd();
  const note = sections.length > 0 ? `\nSettings: ${sections.join(", ")}\n` : "";
  return `\`\`\`\n$ ${name} --help\n\n${text}\n\`\`\`\n${note}`;
}
